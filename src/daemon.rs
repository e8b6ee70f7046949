//! The composition root: builds every part in order, says READY, waits for the stop, and takes
//! everything down in the reverse order. Nothing else knows all parts.

mod load;
mod meeting;

use std::collections::HashMap;
use std::fmt;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use crate::budget::Budget;
use crate::config::{Config, SignalConfig, SignalServerConfig};
use crate::fetch::{self, ChannelStatus, LanPlaylists, OriginClient, OriginError};
use crate::http::{self, HttpError, SignalAddress};
use crate::ids::without_password;
use crate::metrics::Metrics;
use crate::peer::{self, PeerError, Peers};
use crate::sibling::Siblings;
use crate::signal::server::Server as SignalServer;
use crate::signal::server::SignalError;
use crate::signal::{Dialer, client};
use crate::store::{Store, StoreError};
use crate::{exit, systemd};

/// How often systemd's status line is renewed and, where the unit asks for none, the work loops
/// are asked whether they still turn.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// How long the parts may take to end once no viewer is being served any more: a `leave`, a few
/// open HTTP answers.
const GOODBYE: Duration = Duration::from_secs(2);

/// Messages between signalling and peers that may be under way, for each channel.
const QUEUE: usize = 256;

/// Why the daemon could not start, or had to end.
#[derive(Debug)]
pub enum DaemonError {
    /// The store cannot be used.
    Store(StoreError),
    /// The UDP port cannot be had.
    Peer(PeerError),
    /// The signalling server's address cannot be had, or its TLS cannot be set up.
    Signal(SignalError),
    /// The pages' address cannot be had.
    Http(HttpError),
    /// The client towards the origin cannot be set up.
    Fetch(OriginError),
    /// Something that cannot happen.
    Bug(&'static str),
}

impl fmt::Display for DaemonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => error.fmt(f),
            Self::Peer(error) => error.fmt(f),
            Self::Signal(error) => error.fmt(f),
            Self::Http(error) => error.fmt(f),
            Self::Fetch(error) => error.fmt(f),
            Self::Bug(what) => {
                write!(f, "{what}, which is a bug: please report it with the log")
            }
        }
    }
}

impl std::error::Error for DaemonError {}

impl DaemonError {
    /// The exit code for this error ([`crate::exit`]).
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Store(StoreError::InUse(_)) => exit::UNAVAILABLE,
            // A store that cannot be written, whatever the system's word for it.
            Self::Store(_)
            | Self::Peer(PeerError::Permission(_))
            | Self::Http(HttpError::Permission(_))
            | Self::Signal(SignalError::Permission { .. }) => exit::PERMISSION,
            Self::Signal(SignalError::Unreadable { source, .. })
                if source.kind() == ErrorKind::PermissionDenied =>
            {
                exit::PERMISSION
            }
            Self::Signal(SignalError::Unreadable { .. } | SignalError::Certificate { .. }) => {
                exit::CONFIG
            }
            Self::Peer(_) | Self::Signal(_) | Self::Http(_) => exit::UNAVAILABLE,
            Self::Fetch(_) | Self::Bug(_) => exit::SOFTWARE,
        }
    }
}

/// Every part built and listening, nothing running yet.
pub struct Daemon {
    config: Config,
    metrics: Arc<Metrics>,
    budget: Budget,
    store: Store,
    origin: OriginClient,
    siblings: Siblings,
    peers: Peers,
    signal_server: Option<SignalServer>,
    http: http::Server,
    signal_url: Url,
    started: Instant,
}

impl Daemon {
    /// Builds every part and takes every address.
    ///
    /// # Errors
    /// [`DaemonError`], for the first part that cannot be built.
    pub async fn build(config: Config) -> Result<Self, DaemonError> {
        let started = Instant::now();
        let names = || config.channels.iter().map(|channel| &channel.name);
        let metrics = Arc::new(Metrics::new(names()));
        let budget = Budget::new(config.memory.max_buffers);
        let channels = config.channels.iter();
        let channels = channels.map(|channel| (channel.name.clone(), channel.matching));
        let numbers = Arc::clone(&metrics);
        let store = Store::open(config.store.clone(), channels, numbers, budget.clone())
            .map_err(DaemonError::Store)?;
        let origin = OriginClient::new().map_err(DaemonError::Fetch)?;
        let (siblings, asks) = Siblings::new();
        let ids = config.channels.iter();
        let peers = Peers::bind(peer::Parts {
            config: config.peer.clone(),
            store: store.clone(),
            budget: budget.clone(),
            metrics: Arc::clone(&metrics),
            channel_ids: ids.map(|c| (c.name.clone(), c.id.clone())).collect(),
            siblings: siblings.clone(),
            asks,
        })
        .map_err(DaemonError::Peer)?;
        let signal_server = match &config.signal_server {
            Some(server) => Some(
                SignalServer::bind(server.clone(), Arc::clone(&metrics.signal_server))
                    .await
                    .map_err(DaemonError::Signal)?,
            ),
            None => None,
        };
        let signal_url = match (&config.signal, &signal_server) {
            (SignalConfig::Server { url, .. }, _) => url.clone(),
            (SignalConfig::Own, Some(server)) => own_url(server.local_addr())?,
            (SignalConfig::Own, None) => {
                return Err(DaemonError::Bug("there is no signalling server to use"));
            }
        };
        let http = http::Server::bind(config.http.listen)
            .await
            .map_err(DaemonError::Http)?;
        Ok(Self {
            config,
            metrics,
            budget,
            store,
            origin,
            siblings,
            peers,
            signal_server,
            http,
            signal_url,
            started,
        })
    }

    /// Where the pages are.
    pub fn http_addr(&self) -> SocketAddr {
        self.http.local_addr()
    }

    /// Runs until `stop`: then finishes what is being sent, leaves the channels and ends.
    ///
    /// # Errors
    /// [`DaemonError::Bug`] when a part ended by itself.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), DaemonError> {
        let serving = CancellationToken::new();
        let meeting = CancellationToken::new();
        let mut servers = JoinSet::new();
        let mut rest = JoinSet::new();

        let port = self.signal_url.port_or_known_default().unwrap_or(0);
        let own_token = || self.config.signal_server.as_ref()?.token.clone();
        let (ca, token) = match &self.config.signal {
            SignalConfig::Server { ca, token, .. } => (ca.clone(), token.clone()),
            SignalConfig::Own => (Vec::new(), own_token()),
        };
        let dialer = Arc::new(Dialer::new(self.signal_url, ca));
        let (signal_address, page_token) =
            for_pages(self.config.signal, self.config.signal_server, port);
        let commands = self.peers.commands();
        let (peer_events, peers) = self.peers.start(serving.clone());
        servers.spawn(named("serving viewers", peers));

        if let Some(server) = self.signal_server {
            rest.spawn(named("the signalling server", server.run(meeting.clone())));
        }
        let request_hold = self.config.peer.request_hold;
        let mut channels = Vec::new();
        let mut loads = Vec::new();
        let mut answers = HashMap::new();
        let spellers = Arc::new(meeting::Spellers::default());
        for channel in &self.config.channels {
            let numbers = self.metrics.channel(&channel.name);
            let (status_in, status) = watch::channel(ChannelStatus::default());
            let (lan_in, lan) = watch::channel(LanPlaylists::default());
            rest.spawn(named(
                "prefetching",
                fetch::run(
                    channel.clone(),
                    fetch::Parts {
                        client: self.origin.clone(),
                        store: self.store.clone(),
                        budget: self.budget.clone(),
                        siblings: self.siblings.clone(),
                        metrics: Arc::clone(&numbers),
                        status: status_in,
                        lan: lan_in,
                    },
                    // What is being sent may still be arriving.
                    meeting.clone(),
                ),
            ));
            let (weighed, load) =
                load::channel(&self.config.peer, Arc::clone(&numbers), status.clone());
            loads.push(weighed);
            let (to_server, from_peers) = mpsc::channel(QUEUE);
            let (from_server, to_peers) = mpsc::channel(QUEUE);
            rest.spawn(named(
                "signalling",
                client::run(
                    client::ClientConfig {
                        dialer: Arc::clone(&dialer),
                        channel: channel.id.clone(),
                        token: token.clone(),
                        load,
                    },
                    from_peers,
                    from_server,
                    numbers,
                    meeting.clone(),
                ),
            ));
            answers.insert(channel.name.clone(), to_server);
            let (name, commands, known) = (
                channel.name.clone(),
                commands.clone(),
                Arc::clone(&spellers),
            );
            rest.spawn(named("viewers' offers", async move {
                meeting::offers(name, to_peers, commands, &known).await;
            }));
            channels.push(http::Channel {
                config: channel.clone(),
                status,
                lan,
            });
        }
        rest.spawn(named(
            "the load reports",
            load::report(
                loads,
                self.config.peer,
                Arc::clone(&self.metrics),
                meeting.clone(),
            ),
        ));
        rest.spawn(named("answers to viewers", async move {
            meeting::answers(peer_events, answers, &spellers).await;
        }));
        rest.spawn(named(
            "the pages",
            self.http.run(
                http::Sources {
                    channels,
                    signal: signal_address,
                    signal_token: page_token,
                    metrics: Arc::clone(&self.metrics),
                    budget: self.budget.clone(),
                    store: self.store.clone(),
                    store_max: self.config.store.max_size,
                    request_hold,
                    peers: commands.clone(),
                    started: self.started,
                },
                meeting.clone(),
            ),
        ));
        rest.spawn(named(
            "the heartbeat",
            heartbeat(self.metrics, self.budget, commands, meeting.clone()),
        ));

        // While the playlists are being loaded.
        let store = self.store.clone();
        let recovering = AbortOnDropHandle::new(tokio::spawn(async move { store.recover().await }));

        systemd::ready();
        let ended = tokio::select! {
            () = stop => None,
            ended = servers.join_next() => ended,
            ended = rest.join_next() => ended,
        };
        drop(recovering);
        serving.cancel();
        // Viewers first: what is being sent is sent whole, for `stop-timeout` at most.
        while servers.join_next().await.is_some() {}
        meeting.cancel();
        let goodbye = async { while rest.join_next().await.is_some() {} };
        if tokio::time::timeout(GOODBYE, goodbye).await.is_err() {
            log::warn!("some connections did not close in time; they are cut");
        }
        // Whatever still holds on to it, such as a page that is being loaded for ever.
        self.store.close();
        match ended {
            None => Ok(()),
            Some(Ok(part)) => {
                log::error!("{part} ended by itself");
                Err(DaemonError::Bug("a part of the daemon ended by itself"))
            }
            Some(Err(_)) => Err(DaemonError::Bug("a part of the daemon panicked")),
        }
    }
}

async fn named(part: &'static str, task: impl Future<Output = ()>) -> &'static str {
    task.await;
    part
}

/// Where pages meet the box, and the token that they have to show there. Our own server they reach
/// by the host name of the page, at this `port`. The token of another's is not ours to give away.
fn for_pages(
    signal: SignalConfig,
    own: Option<SignalServerConfig>,
    port: u16,
) -> (SignalAddress, Option<String>) {
    match (signal, own) {
        (SignalConfig::Server { url, .. }, _) => {
            (SignalAddress::Signal(without_password(&url)), None)
        }
        (SignalConfig::Own, Some(own)) if own.tls.is_some() => {
            (SignalAddress::SignalTlsPort(port), own.token)
        }
        (SignalConfig::Own, own) => (
            SignalAddress::SignalPort(port),
            own.and_then(|own| own.token),
        ),
    }
}

/// The box reaches its own server over the loopback interface, as any other peer would; without
/// TLS, for which it could have no certificate: the server takes that from this machine.
fn own_url(mut address: SocketAddr) -> Result<Url, DaemonError> {
    if address.ip().is_unspecified() {
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    Url::parse(&format!("ws://{address}/"))
        .map_err(|_| DaemonError::Bug("an address of ours makes no URL"))
}

/// Tells systemd how the box does. The watchdog is fed only when the loop that serves viewers has
/// answered: a box that hangs is restarted.
async fn heartbeat(
    metrics: Arc<Metrics>,
    budget: Budget,
    peers: mpsc::Sender<peer::Command>,
    stop: CancellationToken,
) {
    let interval = systemd::watchdog_interval().map_or(HEARTBEAT, |limit| limit.min(HEARTBEAT));
    let mut ticks = tokio::time::interval(interval);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let (reply, alive) = oneshot::channel();
        let asked = peers.send(peer::Command::List(reply)).await;
        if asked.is_err() || alive.await.is_err() {
            // The viewers' loop has ended, which the daemon notices by itself.
            stop.cancelled().await;
            return;
        }
        systemd::watchdog();
        systemd::status(&status_line(&metrics, &budget));
    }
}

/// For example "3 channels, 12 peers, 1 of 32 MiB in flight, 0.4 s behind".
fn status_line(metrics: &Metrics, budget: &Budget) -> String {
    let lag_ms = metrics
        .channels
        .values()
        .map(|channel| channel.live_edge_lag_ms.get())
        .max()
        .unwrap_or(0);
    let apart = metrics
        .channels
        .values()
        .filter(|channel| !channel.signal_connected.load(Ordering::Relaxed))
        .count();
    let mut line = format!(
        "{} channels, {} peers, {} of {} MiB in flight, {:.1} s behind",
        metrics.channels.len(),
        metrics.peers.get(),
        budget.used() >> 20,
        budget.total() >> 20,
        lag_ms as f64 / 1000.0,
    );
    if apart > 0 {
        line.push_str(&format!(", {apart} without signalling"));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_get_no_password_nor_token_of_a_server_that_is_not_ours() {
        let signal = SignalConfig::Server {
            url: "wss://box:pass@tracker.example/ws?room=1".parse().unwrap(),
            ca: Vec::new(),
            token: Some("theirs".to_owned()),
        };
        let mut own = SignalServerConfig::new(([127, 0, 0, 1], 1).into());
        own.token = Some("ours".to_owned());
        let (address, token) = for_pages(signal, Some(own.clone()), 443);
        assert_eq!(token, None);
        let text = "wss://tracker.example/ws?room=1";
        assert!(matches!(address, SignalAddress::Signal(url) if url.as_str() == text));
        let (_, token) = for_pages(SignalConfig::Own, Some(own), 1);
        assert_eq!(token.as_deref(), Some("ours"));
    }
}
