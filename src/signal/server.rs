//! The embedded signalling server: sockets around [`Swarms`]. One task for each socket; what a
//! peer says goes into the state machine under one lock, what comes out goes into the bounded
//! outboxes of other sockets under the same lock. So a parent's `connect` is in its outbox before
//! its child can have heard of it, and nobody ever waits for a slow socket: it is dropped.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message};
use tokio_tungstenite::{WebSocketStream, accept_async_with_config};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::messages::{ClientMessage, MAX_MESSAGE, ServerMessage};
use super::rate::TokenBucket;
use super::swarm::{Outbound, SocketId, Swarms};
use super::websocket_config;
use crate::ids::PeerId;

/// Sockets at once, those in their handshake included: the ten thousand viewers of a big venue,
/// and some that are just reconnecting.
const MAX_SOCKETS: usize = 12_000;

/// An honest handshake is one round trip; this allows for a bad radio link.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// Pages enter as soon as the socket is open.
const ENTER_WITHIN: Duration = Duration::from_secs(10);

/// A socket silent for this long is pinged. Pages report every 30 s, so that pings are rare.
const PING_AFTER: Duration = Duration::from_secs(40);

/// A socket silent for this long is dead: it missed a report and a ping.
const DEAD_AFTER: Duration = Duration::from_secs(75);

/// A write that takes longer is to a socket that is gone or does not read.
const SEND_WITHIN: Duration = Duration::from_secs(10);

/// For the closing frame: a courtesy that is not waited for.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// Bytes that may wait for one socket: a box of 64 viewers whose offers all come at once, four
/// times over.
const MAX_OUTBOX: usize = 256 * 1024;

/// The pause after `accept` failed, as when file descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the server cannot start.
#[derive(Debug)]
pub enum SignalError {
    /// Somebody else listens there.
    AddressInUse {
        /// The address.
        addr: SocketAddr,
    },
    /// The address is none of this machine's.
    AddressNotAvailable {
        /// The address.
        addr: SocketAddr,
    },
    /// The port is privileged.
    Permission {
        /// The address.
        addr: SocketAddr,
    },
    /// Anything else.
    Listen {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
}

impl fmt::Display for SignalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddressInUse { addr } => write!(
                f,
                "the signalling server cannot listen on {addr}: another program does; stop that \
                 one, or choose another port in [signal-server] listen"
            ),
            Self::AddressNotAvailable { addr } => write!(
                f,
                "the signalling server cannot listen on {addr}: this machine has no such address; \
                 use 0.0.0.0:{port} for all of its addresses in [signal-server] listen",
                port = addr.port()
            ),
            Self::Permission { addr } => write!(
                f,
                "the signalling server may not listen on {addr}: choose a port from 1024 on in \
                 [signal-server] listen, or grant CAP_NET_BIND_SERVICE"
            ),
            Self::Listen { addr, source } => {
                write!(f, "the signalling server cannot listen on {addr}: {source}")
            }
        }
    }
}

impl std::error::Error for SignalError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Listen { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// A signalling server that listens.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    addr: SocketAddr,
}

impl Server {
    /// Starts to listen; port 0 takes any free one.
    pub async fn bind(listen: SocketAddr) -> Result<Self, SignalError> {
        let addr = listen;
        let explain = |source: std::io::Error| match source.kind() {
            ErrorKind::AddrInUse => SignalError::AddressInUse { addr },
            ErrorKind::AddrNotAvailable => SignalError::AddressNotAvailable { addr },
            ErrorKind::PermissionDenied => SignalError::Permission { addr },
            _ => SignalError::Listen { addr, source },
        };
        let listener = TcpListener::bind(listen).await.map_err(explain)?;
        let addr = listener.local_addr().map_err(explain)?;
        Ok(Self { listener, addr })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves until `stop`, whatever the path of the WebSocket; then closes every socket.
    pub async fn run(self, stop: CancellationToken) {
        log::info!("signalling server: listening on {}", self.addr);
        let hub = Arc::new(Hub::default());
        let places = Arc::new(Semaphore::new(MAX_SOCKETS));
        let tasks = TaskTracker::new();
        let mut trouble = false;
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            let place = Arc::clone(&places).try_acquire_owned();
            let refused = match (&accepted, &place) {
                (Err(error), _) => Some(format!("{error}")),
                (_, Err(_)) => Some(format!("all {MAX_SOCKETS} places are taken")),
                _ => None,
            };
            match (&refused, trouble) {
                (Some(why), false) => log::warn!("signalling server: turns peers away: {why}"),
                (None, true) => log::info!("signalling server: takes peers again"),
                _ => {}
            }
            trouble = refused.is_some();
            match (accepted, place) {
                (Ok((stream, from)), Ok(place)) => {
                    let (hub, stop) = (Arc::clone(&hub), stop.clone());
                    tasks.spawn(async move {
                        let why = serve(stream, hub, stop).await;
                        log::debug!("signalling server: {from} ended: {why}");
                        drop(place);
                    });
                }
                (Ok(_), Err(_)) => {}
                (Err(_), _) => sleep(ACCEPT_PAUSE).await,
            }
        }
        tasks.close();
        tasks.wait().await;
        log::info!("signalling server: stopped");
    }
}

/// The state machine and the way back to the sockets.
#[derive(Default)]
struct Hub(Mutex<State>);

#[derive(Default)]
struct State {
    swarms: Swarms,
    outboxes: HashMap<SocketId, Outbox>,
    sockets: u64,
}

/// What waits for one socket. Empty it owns no memory.
struct Outbox {
    waiting: VecDeque<String>,
    bytes: usize,
    filled: Arc<Notify>,
}

/// A socket's place in the hub; dropping it means that the socket has gone.
struct Seat {
    hub: Arc<Hub>,
    id: SocketId,
    filled: Arc<Notify>,
}

impl Hub {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(self: Arc<Self>) -> Seat {
        let filled = Arc::new(Notify::new());
        let mut state = self.state();
        let id = SocketId(state.sockets);
        state.sockets += 1;
        let outbox = Outbox {
            waiting: VecDeque::new(),
            bytes: 0,
            filled: Arc::clone(&filled),
        };
        state.outboxes.insert(id, outbox);
        drop(state);
        Seat {
            hub: self,
            id,
            filled,
        }
    }
}

impl State {
    /// Puts messages into outboxes, in their order. A socket whose outbox is full is gone.
    fn post(&mut self, out: Outbound, now: Instant) {
        let mut out = VecDeque::from(out);
        while let Some((socket, message)) = out.pop_front() {
            let Some(outbox) = self.outboxes.get_mut(&socket) else {
                continue;
            };
            let text = message.to_json();
            if text.len() > MAX_MESSAGE {
                // A relayed signal is two bytes longer than it came (`from` for `to`). The box
                // would hang up on it, and any page could cut it off from its viewers.
                log::debug!("signalling server: dropped a signal that is too long to relay");
                continue;
            }
            if outbox.bytes + text.len() <= MAX_OUTBOX {
                outbox.bytes += text.len();
                outbox.waiting.push_back(text);
                outbox.filled.notify_one();
            } else if let Some(outbox) = self.outboxes.remove(&socket) {
                outbox.filled.notify_one();
                out.extend(self.swarms.gone(socket, now.into_std()));
            }
        }
    }
}

impl Seat {
    fn receive(&self, message: ClientMessage, now: Instant) {
        // 128 random bits in 32 characters: nobody guesses the id of another peer.
        let fresh = PeerId::from(format!("{:032x}", rand::random::<u128>()));
        let mut state = self.hub.state();
        let out = state
            .swarms
            .receive(self.id, message, fresh, now.into_std());
        state.post(out, now);
    }

    fn send(&self, message: ServerMessage, now: Instant) {
        self.hub.state().post(vec![(self.id, message)], now);
    }

    /// What is to be sent now; `None`: it was too much.
    fn collect(&self) -> Option<VecDeque<String>> {
        let mut state = self.hub.state();
        let outbox = state.outboxes.get_mut(&self.id)?;
        outbox.bytes = 0;
        Some(std::mem::take(&mut outbox.waiting))
    }

    fn has_entered(&self) -> bool {
        self.hub.state().swarms.has_entered(self.id)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.hub.state();
        state.outboxes.remove(&self.id);
        let now = Instant::now();
        let out = state.swarms.gone(self.id, now.into_std());
        state.post(out, now);
    }
}

/// Serves one socket until it ends; says why it did.
async fn serve(stream: TcpStream, hub: Arc<Hub>, stop: CancellationToken) -> String {
    // Messages are small and somebody waits for each; without it is slower, not wrong.
    let _ = stream.set_nodelay(true);
    // Apart, so that its state does not stay with the socket.
    let handshake = Box::pin(accept_async_with_config(stream, Some(websocket_config())));
    let mut socket = tokio::select! {
        () = stop.cancelled() => return "the server stops".to_owned(),
        done = timeout(HANDSHAKE_WITHIN, handshake) => match done {
            Ok(Ok(socket)) => socket,
            Ok(Err(error)) => return format!("handshake: {error}"),
            Err(_) => return "handshake: too slow".to_owned(),
        },
    };
    let (code, why) = talk(&mut socket, &hub.join(), &stop).await;
    if let Some(code) = code {
        let reason = why.clone().into();
        let _ = timeout(
            CLOSE_WITHIN,
            socket.close(Some(CloseFrame { code, reason })),
        )
        .await;
    }
    why
}

/// Passes messages in both directions; says why that ended, with a code if the peer is to be told.
async fn talk(
    socket: &mut WebSocketStream<TcpStream>,
    seat: &Seat,
    stop: &CancellationToken,
) -> (Option<CloseCode>, String) {
    let end = |code: CloseCode, why: &str| (Some(code), why.to_owned());
    let mut heard = Instant::now();
    let mut bucket = TokenBucket::new(heard.into_std());
    let mut pinged = false;
    let mut outside_since = Some(heard);
    loop {
        let silence = heard + if pinged { DEAD_AFTER } else { PING_AFTER };
        let deadline = match outside_since {
            Some(since) => silence.min(since + ENTER_WITHIN),
            None => silence,
        };
        tokio::select! {
            () = stop.cancelled() => return end(CloseCode::Away, "the server stops"),
            () = seat.filled.notified() => {
                let Some(waiting) = seat.collect() else {
                    return end(CloseCode::Policy, "it reads too slowly");
                };
                for text in waiting {
                    match timeout(SEND_WITHIN, socket.send(Message::text(text))).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => return (None, error.to_string()),
                        Err(_) => return (None, "it does not read".to_owned()),
                    }
                }
            }
            message = socket.next() => {
                let message = match message {
                    Some(Ok(message)) => message,
                    Some(Err(error)) => return (Some(CloseCode::Policy), error.to_string()),
                    None => return (None, "it closed".to_owned()),
                };
                heard = Instant::now();
                pinged = false;
                if let Message::Text(text) = &message {
                    hear(seat, text, heard);
                    outside_since = match seat.has_entered() {
                        true => None,
                        false => outside_since.or(Some(heard)),
                    };
                } else if message.is_binary() {
                    log::debug!("signalling server: ignored a binary message");
                }
                // Whoever speaks too fast waits, and nobody else does.
                sleep(bucket.take(heard.into_std())).await;
            }
            () = sleep_until(deadline) => {
                let now = Instant::now();
                if outside_since.is_some_and(|since| now >= since + ENTER_WITHIN) {
                    return end(CloseCode::Policy, "it entered no channel");
                }
                if pinged {
                    return (None, "it is silent".to_owned());
                }
                pinged = true;
                let ping = socket.send(Message::Ping(Default::default()));
                if !matches!(timeout(SEND_WITHIN, ping).await, Ok(Ok(()))) {
                    return (None, "it does not read".to_owned());
                }
            }
        }
    }
}

fn hear(seat: &Seat, text: &str, now: Instant) {
    match ClientMessage::parse(text) {
        Ok(Some(message)) => seat.receive(message, now),
        Ok(None) => {}
        Err(refusal) => {
            log::debug!("signalling server: refused a message: {refusal}");
            // A page that cannot enter is told why; one that is in goes on.
            if !seat.has_entered() {
                let reason = Some(refusal.to_string());
                seat.send(ServerMessage::Reject { reason }, now);
            }
        }
    }
}
