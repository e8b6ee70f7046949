//! The embedded signalling server: sockets around [`Swarms`](super::swarm::Swarms). One task for
//! each socket; what a peer says goes into the state machine under one lock, what comes out goes
//! into the bounded outboxes of other sockets under the same lock. So a parent's `connect` is in
//! its outbox before its child can have heard of it, and nobody ever waits for a slow socket: what
//! peers send it is dropped, and in the end the socket.

mod error;
mod hub;

use std::fmt;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message};
use tokio_tungstenite::{WebSocketStream, accept_async_with_config};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::error::SignalError;
use self::hub::{Hub, Seat};
use super::messages::{ClientMessage, ServerMessage};
use super::rate::TokenBucket;
use super::{tls, websocket_config};
use crate::config::SignalServerConfig;
use crate::door::{Door, NoPlace};
use crate::metrics::{Refused, SignalServerMetrics};

/// Sockets at once that are told why they are turned away; further ones are just closed, so that
/// refusing costs little however many come.
const MAX_TURNED_AWAY: usize = 64;

/// An honest handshake is two or three round trips; this allows for a bad radio link.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// Pages enter as soon as the socket is open.
const ENTER_WITHIN: Duration = Duration::from_secs(10);

/// A socket silent for this long is pinged. Pages report every 30 s, so that pings are rare.
const PING_AFTER: Duration = Duration::from_secs(40);

/// A socket silent for this long is dead: it missed a report and a ping.
const DEAD_AFTER: Duration = Duration::from_secs(75);

/// All that waits for a socket is written within this time, or the socket is gone or does not
/// read.
const SEND_WITHIN: Duration = Duration::from_secs(10);

/// For the closing frame: a courtesy that is not waited for.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// For all closing frames when the server stops; the daemon waits no longer than 2 s.
const STOP_WITHIN: Duration = Duration::from_millis(1500);

/// How often it is looked whether a pair has not come about in time.
const TICK: Duration = Duration::from_secs(1);

/// The pause after `accept` failed, as when file descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Sockets at once, those in their handshake included: the ten thousand viewers of a big venue,
/// and some that are just reconnecting.
const MAX_SOCKETS: usize = 12_000;

/// A signalling server that listens.
pub struct Server {
    listener: TcpListener,
    addr: SocketAddr,
    tls: Option<TlsAcceptor>,
    door: Arc<Door>,
    hub: Arc<Hub>,
}

impl Server {
    /// Starts to listen; port 0 takes any free one.
    ///
    /// # Errors
    /// [`SignalError`] when the address cannot be had or the certificate cannot be used.
    pub async fn bind(
        config: SignalServerConfig,
        metrics: Arc<SignalServerMetrics>,
    ) -> Result<Self, SignalError> {
        let tls = acceptor(&config)?;
        let addr = config.listen;
        let explain = |source: std::io::Error| match source.kind() {
            ErrorKind::AddrInUse => SignalError::AddressInUse { addr },
            ErrorKind::AddrNotAvailable => SignalError::AddressNotAvailable { addr },
            ErrorKind::PermissionDenied => SignalError::Permission { addr },
            _ => SignalError::Listen { addr, source },
        };
        let listener = TcpListener::bind(addr).await.map_err(explain)?;
        let addr = listener.local_addr().map_err(explain)?;
        Ok(Self {
            listener,
            addr,
            tls,
            door: Door::new(MAX_SOCKETS, config.max_sockets_per_address),
            hub: Hub::new(config.token, metrics),
        })
    }

    /// Looks whether the certificate can be used, without listening.
    ///
    /// # Errors
    /// [`SignalError::Unreadable`] and [`SignalError::Certificate`].
    pub fn check(config: &SignalServerConfig) -> Result<(), SignalError> {
        acceptor(config).map(|_| ())
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves until `stop`, whatever the path of the WebSocket; then closes every socket.
    pub async fn run(self, stop: CancellationToken) {
        log::info!("signalling server: listening on {}", self.addr);
        let turning_away = Arc::new(Semaphore::new(MAX_TURNED_AWAY));
        let tasks = TaskTracker::new();
        let mut trouble = None;
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                _ = ticks.tick() => {
                    self.hub.tick(Instant::now());
                    continue;
                }
                accepted = self.listener.accept() => accepted,
            };
            let (stream, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    turns_away(&mut trouble, Some(error.to_string()));
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let visit = Visit {
                hub: Arc::clone(&self.hub),
                tls: self.tls.clone(),
                stop: stop.clone(),
            };
            match self.door.enter(from.ip()) {
                Ok(place) => {
                    turns_away(&mut trouble, None);
                    tasks.spawn(async move {
                        let (Ok(why) | Err(why)) = visit.serve(stream, from.ip(), None).await;
                        log::debug!("signalling server: {from} ended: {why}");
                        drop(place);
                    });
                }
                Err(no_place) => {
                    let refused = match no_place {
                        NoPlace::Full => Refused::Sockets,
                        NoPlace::OfAddress => Refused::Address,
                    };
                    self.hub.metrics.refused(refused).add(1);
                    if refused == Refused::Sockets {
                        turns_away(&mut trouble, Some(told(refused).to_owned()));
                    }
                    log::debug!(
                        "signalling server: {from} is turned away: {}",
                        told(refused)
                    );
                    if let Ok(permit) = Arc::clone(&turning_away).try_acquire_owned() {
                        tasks.spawn(async move {
                            let _ = visit.serve(stream, from.ip(), Some(refused)).await;
                            drop(permit);
                        });
                    }
                }
            }
        }
        tasks.close();
        if timeout(STOP_WITHIN, tasks.wait()).await.is_err() {
            log::debug!("signalling server: {} sockets are cut", tasks.len());
        }
        log::info!("signalling server: stopped");
    }
}

fn acceptor(config: &SignalServerConfig) -> Result<Option<TlsAcceptor>, SignalError> {
    config.tls.as_ref().map(tls::acceptor).transpose()
}

/// Says once that nobody is taken any more, and once that all is well again.
fn turns_away(trouble: &mut Option<String>, now: Option<String>) {
    match (&trouble, &now) {
        (None, Some(why)) => log::warn!("signalling server: turns everybody away: {why}"),
        (Some(_), None) => log::info!("signalling server: takes peers again"),
        _ => {}
    }
    *trouble = now;
}

/// What a peer is told that is refused.
fn told(refused: Refused) -> &'static str {
    match refused {
        Refused::Sockets => "the server has no place left",
        Refused::Address => "the server has too many sockets of this address",
        Refused::Handshake => "no WebSocket came about",
        Refused::Idle => "it entered no channel",
        Refused::Slow => "it reads too slowly",
        Refused::Token => "the server asks for a token, and this is not the one",
        Refused::Entries => "this socket is in too many channels",
        Refused::Channels => "the server has too many channels",
        Refused::Peers => "the channel has too many peers",
        Refused::Message => "the message is too long, or not of the protocol",
        Refused::Rate => "it speaks too fast",
        Refused::Unroutable => "nobody of that id is in the channel",
        Refused::Flood => "too much waits for that peer",
    }
}

/// Why a socket ends when the server does.
const STOPS: &str = "the server stops";

/// How a conversation ended: in words, with a code if the peer is to be told.
type End = (Option<CloseCode>, String);

/// What a socket's task needs of the server.
struct Visit {
    hub: Arc<Hub>,
    tls: Option<TlsAcceptor>,
    stop: CancellationToken,
}

impl Visit {
    /// Serves one socket until it ends, or only tells it why it is `refused`; says why it ended.
    async fn serve(
        &self,
        stream: TcpStream,
        from: IpAddr,
        refused: Option<Refused>,
    ) -> Result<String, String> {
        let deadline = Instant::now() + HANDSHAKE_WITHIN;
        // Messages are small and somebody waits for each; without it is slower, not wrong.
        let _ = stream.set_nodelay(true);
        match &self.tls {
            Some(tls) if !self.step(deadline, speaks_plainly(&stream, from)).await? => {
                let stream = self.step(deadline, Box::pin(tls.accept(stream))).await?;
                // Apart, so that a plain socket's task is no larger than it needs to be.
                Box::pin(self.meet(stream, deadline, refused)).await
            }
            _ => self.meet(stream, deadline, refused).await,
        }
    }

    async fn meet<S>(
        &self,
        stream: S,
        deadline: Instant,
        refused: Option<Refused>,
    ) -> Result<String, String>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        // Apart, so that its state does not stay with the socket.
        let handshake = Box::pin(accept_async_with_config(stream, Some(websocket_config())));
        let mut socket = self.step(deadline, handshake).await?;
        let (code, why) = match refused {
            Some(refused) => (Some(CloseCode::Again), told(refused).to_owned()),
            None => talk(&mut socket, &self.hub.join(), &self.stop).await,
        };
        if let Some(code) = code {
            let reason = why.clone().into();
            let frame = CloseFrame { code, reason };
            let _ = timeout(CLOSE_WITHIN, socket.close(Some(frame))).await;
        }
        Ok(why)
    }

    /// One step of a handshake.
    async fn step<T, E: fmt::Display>(
        &self,
        deadline: Instant,
        step: impl Future<Output = Result<T, E>>,
    ) -> Result<T, String> {
        let why = tokio::select! {
            () = self.stop.cancelled() => return Err(STOPS.to_owned()),
            done = timeout_at(deadline, step) => match done {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(error)) => format!("handshake: {error}"),
                Err(_) => "handshake: too slow".to_owned(),
            },
        };
        self.hub.metrics.refused(Refused::Handshake).add(1);
        Err(why)
    }
}

/// Whether this is a socket of this machine without TLS: the box itself, for which there is no
/// certificate. A TLS client begins with a handshake record (RFC 8446 section 5.1), type 22.
async fn speaks_plainly(stream: &TcpStream, from: IpAddr) -> std::io::Result<bool> {
    if stream.local_addr()?.ip() != from {
        return Ok(false);
    }
    let mut first = [0];
    stream.peek(&mut first).await?;
    Ok(first != [22])
}

/// Passes messages in both directions until that ends.
async fn talk<S>(socket: &mut WebSocketStream<S>, seat: &Seat, stop: &CancellationToken) -> End
where
    S: AsyncRead + AsyncWrite + Unpin,
{
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
            () = stop.cancelled() => return (Some(CloseCode::Away), STOPS.to_owned()),
            () = seat.filled() => {
                let Some(waiting) = seat.collect() else {
                    return refuse(seat, CloseCode::Policy, Refused::Slow);
                };
                let messages = waiting.into_iter().map(Message::text);
                if let Err(end) = send(socket, seat, messages, stop).await {
                    return end;
                }
            }
            message = socket.next() => {
                let message = match message {
                    Some(Ok(message)) => message,
                    Some(Err(Error::Capacity(_))) => {
                        return refuse(seat, CloseCode::Size, Refused::Message);
                    }
                    Some(Err(error)) => return (Some(CloseCode::Protocol), error.to_string()),
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
                    seat.refused(Refused::Message);
                }
                // Whoever speaks too fast waits, and nobody else does.
                let wait = bucket.take(heard.into_std(), seat.children());
                if !wait.is_zero() {
                    seat.refused(Refused::Rate);
                    sleep(wait).await;
                }
            }
            () = sleep_until(deadline) => {
                let now = Instant::now();
                if outside_since.is_some_and(|since| now >= since + ENTER_WITHIN) {
                    return refuse(seat, CloseCode::Policy, Refused::Idle);
                }
                if pinged {
                    return (None, "it is silent".to_owned());
                }
                pinged = true;
                let ping = [Message::Ping(Default::default())];
                if let Err(end) = send(socket, seat, ping, stop).await {
                    return end;
                }
            }
        }
    }
}

fn refuse(seat: &Seat, code: CloseCode, what: Refused) -> End {
    seat.refused(what);
    (Some(code), told(what).to_owned())
}

/// Writes the messages; all of them together have [`SEND_WITHIN`].
async fn send<S>(
    socket: &mut WebSocketStream<S>,
    seat: &Seat,
    messages: impl IntoIterator<Item = Message>,
    stop: &CancellationToken,
) -> Result<(), End>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let all = async {
        for message in messages {
            socket.send(message).await?;
        }
        Ok::<_, Error>(())
    };
    tokio::select! {
        () = stop.cancelled() => Err((Some(CloseCode::Away), STOPS.to_owned())),
        sent = timeout(SEND_WITHIN, all) => match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err((None, error.to_string())),
            Err(_) => {
                let (_, why) = refuse(seat, CloseCode::Policy, Refused::Slow);
                Err((None, why))
            }
        },
    }
}

fn hear(seat: &Seat, text: &str, now: Instant) {
    let (refused, reason) = match ClientMessage::parse(text) {
        Ok(None) => return,
        Ok(Some(message)) => {
            let enters = matches!(message, ClientMessage::Enter { .. });
            match seat.receive(message, now) {
                Ok(()) => return,
                Err(refused) => (refused, enters.then(|| told(refused).to_owned())),
            }
        }
        // A page that cannot enter is told why; one that is in goes on.
        Err(refusal) => {
            let outside = !seat.has_entered();
            (Refused::Message, outside.then(|| refusal.to_string()))
        }
    };
    seat.refused(refused);
    if reason.is_some() {
        seat.send(ServerMessage::Reject { reason }, now);
    }
}
