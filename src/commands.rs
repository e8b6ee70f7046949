//! What each command does.

use std::fmt;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::cli::Command;
use crate::config::{Config, ConfigError, SignalConfig, SignalServerConfig};
use crate::daemon::{Daemon, DaemonError};
use crate::demo::{self, DemoError};
use crate::fetch::OriginError;
use crate::http;
use crate::signal::server::Server as SignalServer;
use crate::{exit, systemd};

mod probe;
mod status;

/// How long what is being written to the disk may take once all else has ended. What is cut short
/// is found by the next start.
const LAST_WRITES: Duration = Duration::from_secs(1);

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// The configuration is wrong, or not there.
    Config(ConfigError),
    /// The daemon could not start, or had to end.
    Daemon(DaemonError),
    /// The sample channel's address cannot be had.
    Demo(DemoError),
    /// `signal` was told neither a file nor an address.
    NoListen,
    /// The configuration has no `[signal-server]` to run alone.
    NoSignalServer(PathBuf),
    /// Something asked over HTTP did not answer as hoped.
    Fetch(OriginError),
    /// These playlists of a channel cannot be used, for these reasons.
    Probe(Vec<(Url, String)>),
    /// A daemon answered, but not like one.
    NotADaemon(String),
    /// The system does not give us what every program needs.
    System(std::io::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Daemon(error) => error.fmt(f),
            Self::Demo(error) => error.fmt(f),
            Self::NoListen => f.write_str("where to listen? Give --listen ADDR, or --config FILE"),
            Self::NoSignalServer(path) => write!(
                f,
                "{} has no [signal-server] section: add one, or give --listen ADDR",
                path.display()
            ),
            Self::Fetch(error) => error.fmt(f),
            Self::Probe(failures) => {
                let failures = failures
                    .iter()
                    .map(|(url, error)| format!("{url}: {error}"));
                f.write_str(&failures.collect::<Vec<_>>().join("; "))
            }
            Self::NotADaemon(what) => write!(f, "that is no edgeseed daemon: {what}"),
            Self::System(error) => write!(f, "the system refuses: {error}"),
        }
    }
}

impl std::error::Error for Failure {}

impl From<DaemonError> for Failure {
    fn from(error: DaemonError) -> Self {
        Self::Daemon(error)
    }
}

impl Failure {
    /// The exit code for this failure ([`crate::exit`]).
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::NoSignalServer(_) => exit::CONFIG,
            Self::Daemon(error) => error.exit_code(),
            Self::Demo(error) => error.exit_code(),
            Self::Fetch(_) | Self::Probe(_) | Self::NotADaemon(_) => exit::UNAVAILABLE,
            Self::NoListen => exit::USAGE,
            Self::System(_) => exit::SOFTWARE,
        }
    }
}

/// Does what was asked.
///
/// # Errors
/// [`Failure`], with the exit code that belongs to it.
pub fn execute(command: Command) -> Result<(), Failure> {
    match command {
        Command::Run { config } => {
            let runtime = runtime()?;
            let ended = runtime.block_on(run(&config));
            // A disk that does not answer does not hold up the stop.
            runtime.shutdown_timeout(LAST_WRITES);
            ended
        }
        Command::Check { config, listen } => check(&config, listen),
        Command::Demo { listen } => runtime()?.block_on(async {
            let mut stop = Stop::new()?;
            demo::run(listen, stop.requested())
                .await
                .map_err(Failure::Demo)
        }),
        Command::Signal { config, listen } => {
            runtime()?.block_on(signal_alone(config.as_deref(), listen))
        }
        Command::Status { url, json } => runtime()?.block_on(status::print(&url, json)),
        Command::Probe { url } => runtime()?.block_on(probe::print(&url)),
    }
}

fn runtime() -> Result<Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failure::System)
}

/// Prints a line for a person or a script to read. What an origin wrote into it does nothing to the
/// terminal.
fn say(line: &str) {
    let turns = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut plain = String::with_capacity(line.len());
    for c in line.chars() {
        match (c.is_control() && c != '\n') || turns(c) {
            true => plain.extend(c.escape_unicode()),
            false => plain.push(c),
        }
    }
    // Whoever reads may have seen enough and gone (`| head -1`).
    let _ = writeln!(std::io::stdout(), "{plain}");
}

/// Of the addresses in the sample; nobody has it (RFC 2606).
const SAMPLE_DOMAIN: &str = "example.com";

/// Reads a configuration, and looks into the files that it names.
fn load(path: &Path) -> Result<Config, Failure> {
    let config = Config::load(path).map_err(Failure::Config)?;
    if let Some(server) = &config.signal_server {
        SignalServer::check(server).map_err(DaemonError::Signal)?;
    }
    let channels = config.channels.iter().map(|channel| &channel.url);
    let signal = match &config.signal {
        SignalConfig::Server { url, .. } => Some(url),
        SignalConfig::Own => None,
    };
    for host in channels.chain(signal).filter_map(Url::host_str) {
        if host == SAMPLE_DOMAIN || host.ends_with(&format!(".{SAMPLE_DOMAIN}")) {
            log::warn!(
                "{}: {host} is of the sample: put your own there",
                path.display()
            );
        }
    }
    Ok(config)
}

fn check(path: &Path, listen: Option<SocketAddr>) -> Result<(), Failure> {
    let config = match (load(path), listen) {
        (Err(mistakes), Some(listen)) => {
            log::error!("{mistakes}");
            runtime()?.block_on(show(listen, &mistakes))?;
            return Err(mistakes);
        }
        (loaded, _) => loaded?,
    };
    say(&format!(
        "{} is right: {} channel{}",
        path.display(),
        config.channels.len(),
        if config.channels.len() == 1 { "" } else { "s" },
    ));
    Ok(())
}

/// Shows what is wrong where the box would have its pages: a box has no keyboard, and often no screen.
async fn show(listen: SocketAddr, mistakes: &Failure) -> Result<(), Failure> {
    let mut stop = Stop::new()?;
    let unavailable = |error| Failure::Daemon(DaemonError::Http(error));
    let server = http::Server::bind(listen).await.map_err(unavailable)?;
    let token = CancellationToken::new();
    let text =
        format!("This box does not serve:\n\n{mistakes}\n\nMend that, and start it again.\n");
    let pages = server.run_with_one_answer(text, token.clone());
    let stopped = async {
        stop.requested().await;
        token.cancel();
    };
    tokio::join!(pages, stopped);
    Ok(())
}

/// The daemon. A SIGHUP reads the file again: a good one is taken by ending what is being sent and
/// building every part anew, a bad one leaves the old in force.
async fn run(path: &Path) -> Result<(), Failure> {
    raise_file_limit();
    // A file that is larger than this process may write (`ulimit -f`) is then an error like others.
    let too_large = SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());
    let _heard = signal(too_large).map_err(Failure::System)?;
    let mut stop = Stop::new()?;
    let mut hangup = signal(SignalKind::hangup()).map_err(Failure::System)?;
    let mut config = load(path)?;
    let mut daemon = Daemon::build(config.clone())
        .await
        .map_err(Failure::Daemon)?;
    loop {
        log::info!(
            "edgeseed {}: {} channels, pages at http://{}/",
            env!("CARGO_PKG_VERSION"),
            config.channels.len(),
            daemon.http_addr(),
        );
        let mut reloaded = None;
        let stopped = async {
            tokio::select! {
                () = stop.requested() => {
                    systemd::stopping();
                    log::info!("asked to stop");
                }
                new = changed(&mut hangup, || load(path), &config) => reloaded = Some(new),
            }
        };
        daemon.run(stopped).await.map_err(Failure::Daemon)?;
        let Some(new) = reloaded else {
            return Ok(());
        };
        daemon = match Daemon::build(new.clone()).await {
            Ok(daemon) => {
                config = new;
                daemon
            }
            Err(error) => {
                log::error!("the new configuration cannot be used, the old one stays: {error}");
                Daemon::build(config.clone())
                    .await
                    .map_err(Failure::Daemon)?
            }
        };
    }
}

/// Each viewer's signalling socket and each file that is being sent costs a descriptor, and the usual
/// soft limit is 1024. systemd's and the kernel's hard limit is what the operator means.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        log::warn!(
            "the limit of open files stays at {:?}: {error}",
            limit.current
        );
    }
}

/// Waits until a hang-up finds a configuration that is good and different.
async fn changed<C: PartialEq>(
    hangup: &mut Signal,
    read: impl Fn() -> Result<C, Failure>,
    current: &C,
) -> C {
    loop {
        if hangup.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
        systemd::reloading();
        match read() {
            Ok(new) if new == *current => log::info!("the configuration has not changed"),
            Ok(new) => {
                log::info!("the configuration is read again");
                return new;
            }
            Err(error) => log::error!("the old configuration stays in force:\n{error}"),
        }
        systemd::ready();
    }
}

/// The signalling server. A SIGHUP means what it means to the daemon.
async fn signal_alone(path: Option<&Path>, listen: Option<SocketAddr>) -> Result<(), Failure> {
    raise_file_limit();
    let mut stop = Stop::new()?;
    let mut hangup = signal(SignalKind::hangup()).map_err(Failure::System)?;
    let mut config = signal_config(path, listen)?;
    let mut server = bind(&config).await?;
    loop {
        let scheme = if config.tls.is_some() { "wss" } else { "ws" };
        log::info!("signalling at {scheme}://{}/", server.local_addr());
        systemd::ready();
        let token = CancellationToken::new();
        let served = server.run(token.clone());
        tokio::pin!(served);
        let reloaded = tokio::select! {
            () = stop.requested() => {
                systemd::stopping();
                None
            }
            new = changed(&mut hangup, || signal_config(path, listen), &config) => Some(new),
            () = &mut served => return Ok(()),
        };
        token.cancel();
        served.await;
        let Some(new) = reloaded else {
            return Ok(());
        };
        server = match bind(&new).await {
            Ok(server) => {
                config = new;
                server
            }
            Err(error) => {
                log::error!("the new configuration cannot be used, the old one stays: {error}");
                bind(&config).await?
            }
        };
    }
}

fn signal_config(
    path: Option<&Path>,
    listen: Option<SocketAddr>,
) -> Result<SignalServerConfig, Failure> {
    let config = match path {
        Some(path) => load(path)?
            .signal_server
            .ok_or_else(|| Failure::NoSignalServer(path.to_owned()))?,
        None => SignalServerConfig::new(listen.ok_or(Failure::NoListen)?),
    };
    Ok(SignalServerConfig {
        listen: listen.unwrap_or(config.listen),
        ..config
    })
}

async fn bind(config: &SignalServerConfig) -> Result<SignalServer, Failure> {
    let server = SignalServer::bind(config.clone(), Arc::default()).await;
    Ok(server.map_err(DaemonError::Signal)?)
}

/// SIGTERM from systemd, SIGINT from a shell.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn new() -> Result<Self, Failure> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(Failure::System)?,
            interrupt: signal(SignalKind::interrupt()).map_err(Failure::System)?,
        })
    }

    async fn requested(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
