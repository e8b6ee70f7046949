//! What `edgeseed demo` starts: the sample origin, and a box that follows it and is its own
//! signalling server. All on this machine, nothing outside it is asked for.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use super::origin::{DEFAULT_WINDOW, Origin};
use crate::config::{
    ChannelConfig, Config, HttpConfig, Matching, MemoryConfig, PeerConfig, SignalConfig,
    SignalServerConfig, StoreConfig, Variants,
};
use crate::daemon::{Daemon, DaemonError};
use crate::exit;
use crate::http::assets::WATCH_BUILT;

/// A few minutes of the sample; the rest is evicted as on any box.
const STORE_SIZE: u64 = 64 << 20;

/// Why the demo could not start, or had to end.
#[derive(Debug)]
pub enum DemoError {
    /// The sample origin cannot listen next to the pages.
    Origin(SocketAddr, std::io::Error),
    /// There is no place for the store.
    Store(std::io::Error),
    /// The box could not start, or had to end.
    Daemon(DaemonError),
}

impl fmt::Display for DemoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Origin(address, error) => {
                write!(f, "the sample origin cannot listen at {address}: {error}")
            }
            Self::Store(error) => write!(
                f,
                "no temporary folder for the segments: {error}; set TMPDIR to one that can be written"
            ),
            Self::Daemon(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for DemoError {}

impl DemoError {
    /// The exit code for this error ([`crate::exit`]).
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Origin(..) => exit::UNAVAILABLE,
            Self::Store(_) => exit::PERMISSION,
            Self::Daemon(error) => error.exit_code(),
        }
    }
}

/// Runs the demo with its page at `listen`, until `stop`.
///
/// # Errors
/// [`DemoError`] when a part cannot start.
#[allow(clippy::print_stdout)] // its output is for the person who started it
pub async fn run(listen: SocketAddr, stop: impl Future<Output = ()>) -> Result<(), DemoError> {
    let folder = tempfile::Builder::new()
        .prefix("edgeseed-demo-")
        .tempdir()
        .map_err(DemoError::Store)?;
    let beside = SocketAddr::new(reachable(listen), 0);
    let origin = Origin::bind(beside, DEFAULT_WINDOW)
        .await
        .map_err(|error| DemoError::Origin(beside, error))?;
    let playlist = origin.playlist_url().clone();
    let daemon = Daemon::build(config(listen, &playlist, folder.path().to_owned()))
        .await
        .map_err(DemoError::Daemon)?;

    println!("The sample channel:  {playlist}");
    println!("The box:             http://{}/", shown(daemon.http_addr()));
    println!(
        "Watch:               http://{}/watch",
        shown(daemon.http_addr())
    );
    if !WATCH_BUILT {
        println!("(this program was built without the watch page; the page says how to mend it)");
    }
    println!("Ctrl-C ends it.");

    let origin_stop = CancellationToken::new();
    let origin = tokio::spawn(origin.run(origin_stop.clone()));
    let ended = daemon.run(stop).await.map_err(DemoError::Daemon);
    origin_stop.cancel();
    match origin.await {
        Ok(Err(error)) => Err(DemoError::Origin(beside, error)),
        _ => ended,
    }
}

fn config(listen: SocketAddr, playlist: &url::Url, dir: PathBuf) -> Config {
    Config {
        channels: vec![ChannelConfig {
            url: playlist.clone(),
            name: "sample".into(),
            id: playlist.as_str().into(),
            variants: Variants::Highest,
            window: std::time::Duration::from_secs(60),
            max_bandwidth: None,
            matching: Matching::Exact,
        }],
        signal: SignalConfig::Own,
        signal_server: Some(SignalServerConfig::new(SocketAddr::new(listen.ip(), 0))),
        peer: PeerConfig {
            udp_port: 0,
            ..PeerConfig::default()
        },
        store: StoreConfig {
            dir,
            max_size: STORE_SIZE,
            min_free: 0,
        },
        memory: MemoryConfig::default(),
        http: HttpConfig { listen },
    }
}

/// The address under which a page that was loaded from `listen` reaches what runs beside it.
fn reachable(listen: SocketAddr) -> std::net::IpAddr {
    if listen.ip().is_unspecified() {
        crate::peer::host_addresses(0)
            .first()
            .map_or(Ipv4Addr::LOCALHOST.into(), SocketAddr::ip)
    } else {
        listen.ip()
    }
}

fn shown(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(reachable(address), address.port())
}
