//! The box at a signalling server: one task and one socket for each channel. It enters, reports
//! its level, passes signals in both directions, and enters again whenever the server was lost,
//! with whatever id it is given then. Data channels that exist are not its business and go on.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::messages::{ClientMessage, ServerMessage, dc_id};
use super::{DataForm, Dialer, SignalData};
use crate::ids::{ChannelId, PeerId, tame};
use crate::metrics::ChannelMetrics;

/// How often the level is reported, as pages do (protocol.md section 3).
const LEVEL_EVERY: Duration = Duration::from_secs(30);

/// How often the server is pinged: often enough for the idle timeouts of proxies, commonly 60 s.
const PING_EVERY: Duration = Duration::from_secs(15);

/// A socket silent for this long is dead: two pings went unanswered (field.md item 5).
const DEAD_AFTER: Duration = Duration::from_secs(40);

/// From `enter` to `accept`.
const ACCEPT_WITHIN: Duration = Duration::from_secs(10);

/// One write.
const SEND_WITHIN: Duration = Duration::from_secs(10);

/// For `leave` and the closing frame, when the daemon is about to stop.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);

/// Which channel, where.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The way to the server, shared by all channels.
    pub dialer: Arc<Dialer>,
    /// What viewers enter.
    pub channel: ChannelId,
    /// What the server wants to see from who enters.
    pub token: Option<String>,
    /// What is reported.
    pub load: watch::Receiver<Load>,
}

/// How much the box has to give in a channel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// The mean of what it holds; finite, not negative.
    pub level: f64,
    /// How many more viewers it takes.
    pub room: u32,
}

/// What the server tells the box.
#[derive(Debug, PartialEq)]
pub enum Event {
    /// The box is in the channel, under this id: a fresh one after each loss.
    Accepted {
        /// Its own id.
        peer_id: PeerId,
    },
    /// A pair is to be formed.
    Connect {
        /// With whom.
        to: PeerId,
        /// Whether the box should make the offer, as a child does. It is normally a parent.
        initiator: bool,
    },
    /// A peer says something.
    Signal {
        /// Which peer; not every server announces it with [`Event::Connect`] first.
        from: PeerId,
        /// What it says.
        data: SignalData,
        /// How it was written: answer in the same form.
        form: DataForm,
    },
    /// These peers are to be dropped.
    Drop {
        /// Which ones.
        peers: Vec<PeerId>,
    },
    /// The server refused the channel; the client tries again later.
    Rejected {
        /// In the server's words, or empty.
        reason: String,
    },
    /// The server is lost after it had accepted; the client tries again.
    Lost,
}

/// What the box tells the server. While the channel is not accepted, commands are dropped: they
/// belong to a time before.
#[derive(Debug)]
pub enum Command {
    /// To be passed on to a peer.
    Signal {
        /// To whom.
        to: PeerId,
        /// What.
        data: SignalData,
        /// In the form in which the peer spoke.
        form: DataForm,
    },
    /// `dc_opened`: only a child says so.
    Opened {
        /// The other end.
        peer: PeerId,
    },
    /// `dc_failed`: the data channel did not come about, or was refused.
    Failed {
        /// The other end.
        peer: PeerId,
    },
    /// `dc_closed`: the data channel was open and is no longer.
    Closed {
        /// The other end.
        peer: PeerId,
    },
}

/// Keeps the box in its channel until `stop` (or until one of the queues loses its other end);
/// then leaves and closes. Reads from the server only while `events` has room.
pub async fn run(
    config: ClientConfig,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Event>,
    metrics: Arc<ChannelMetrics>,
    stop: CancellationToken,
) {
    let dialer = Arc::clone(&config.dialer);
    let client = Client {
        config,
        commands,
        events,
        metrics,
        stop,
        accepted: None,
    };
    // Connecting takes much more state than being connected: it is kept for that time only.
    client.run(|| Box::pin(dialer.dial())).await;
}

struct Client {
    config: ClientConfig,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Event>,
    metrics: Arc<ChannelMetrics>,
    stop: CancellationToken,
    /// Who the box is, and since when.
    accepted: Option<(PeerId, Instant)>,
}

/// How a session ended.
enum End {
    Stopped,
    Lost(String),
}

impl Client {
    async fn run<S, D, F>(mut self, mut dial: D)
    where
        S: AsyncRead + AsyncWrite + Unpin,
        D: FnMut() -> F,
        F: Future<Output = Result<WebSocketStream<S>, String>>,
    {
        let mut backoff = Backoff::default();
        // What the log last said is wrong; each trouble is a warning once.
        let mut trouble = None;
        loop {
            let end = match self.meanwhile(dial()).await {
                None => return,
                Some(Ok(socket)) => self.session(socket).await,
                Some(Err(reason)) => End::Lost(reason),
            };
            self.metrics
                .signal_connected
                .store(false, Ordering::Relaxed);
            let accepted = self.accepted.take();
            let End::Lost(reason) = end else { return };
            if let Some((_, since)) = &accepted {
                trouble = None;
                backoff.went_well_for(since.elapsed());
            }
            self.metrics.set_signal_trouble(Some(reason.clone()));
            let text = format!("{}: {reason}", self.whereabouts());
            if trouble.as_ref() == Some(&reason) {
                log::debug!("{text}");
            } else {
                log::warn!("{text}; viewers cannot find this box, trying again until they can");
                trouble = Some(reason);
            }
            if accepted.is_some() {
                let events = self.events.clone();
                if !matches!(self.meanwhile(events.send(Event::Lost)).await, Some(Ok(()))) {
                    return;
                }
            }
            let wait = backoff.wait(rand::random());
            if self.meanwhile(sleep(wait)).await.is_none() {
                return;
            }
        }
    }

    /// Does something while there is no session: commands are stale then. `None`: stop.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return None,
                done = &mut work => return Some(done),
                stale = self.commands.recv() => match stale {
                    Some(stale) => log::debug!("signalling: dropped, not connected: {stale:?}"),
                    None => return None,
                },
            }
        }
    }

    async fn session<S>(&mut self, mut socket: WebSocketStream<S>) -> End
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let channel = self.config.channel.clone();
        let token = self.config.token.clone();
        if let Err(end) = say(&mut socket, ClientMessage::Enter { channel, token }).await {
            return end;
        }
        let events = self.events.clone();
        // Room for the event that the next message may be: none, and the server waits, while
        // commands still go out.
        let mut room = None;
        let mut heard = Instant::now();
        let mut ping_at = heard + PING_EVERY;
        // Until accepted, when that must have happened; then, when the level is due.
        let mut due = heard + ACCEPT_WITHIN;
        // Whether the server has last been told that there is no room.
        let mut full = false;
        loop {
            let dead_at = heard + DEAD_AFTER;
            let done = tokio::select! {
                () = self.stop.cancelled() => {
                    let peer_id = self.accepted.as_ref().map(|(own, _)| own.clone());
                    let farewell = async {
                        let _ = say(&mut socket, ClientMessage::Leave { peer_id }).await;
                        let _ = socket.close(None).await;
                    };
                    let _ = timeout(LEAVE_WITHIN, farewell).await;
                    return End::Stopped;
                }
                reserved = events.reserve(), if room.is_none() => match reserved {
                    Ok(permit) => {
                        room = Some(permit);
                        heard = Instant::now();
                        Ok(())
                    }
                    Err(_) => Err(End::Stopped),
                },
                message = socket.next(), if room.is_some() => {
                    heard = Instant::now();
                    match self.hear(message) {
                        Ok(Some(event)) => {
                            if matches!(event, Event::Accepted { .. }) {
                                due = heard;
                            }
                            let rejected = match &event {
                                Event::Rejected { reason } => Err(refused(reason)),
                                _ => Ok(()),
                            };
                            if let Some(room) = room.take() {
                                room.send(event);
                            }
                            rejected
                        }
                        Ok(None) => Ok(()),
                        Err(end) => Err(end),
                    }
                }
                command = self.commands.recv() => match command {
                    None => Err(End::Stopped),
                    Some(command) => match self.command(command) {
                        Some(message) => say(&mut socket, message).await,
                        None => Ok(()),
                    },
                },
                // A scheduler should not send anybody to a full box, nor pass over one that is not.
                Ok(()) = self.config.load.changed(), if self.accepted.is_some() => {
                    if (self.config.load.borrow_and_update().room == 0) != full {
                        due = Instant::now();
                    }
                    Ok(())
                }
                () = sleep_until(due) => {
                    if self.accepted.is_some() {
                        due = Instant::now() + LEVEL_EVERY;
                        let channel = Some(self.config.channel.clone());
                        let Load { level, room } = *self.config.load.borrow();
                        full = room == 0;
                        let room = Some(room);
                        say(&mut socket, ClientMessage::Level { channel, level, room }).await
                    } else {
                        Err(End::Lost("it does not answer to enter".to_owned()))
                    }
                }
                () = sleep_until(ping_at) => {
                    ping_at = Instant::now() + PING_EVERY;
                    send(&mut socket, Message::Ping(Default::default())).await
                }
                () = sleep_until(dead_at), if room.is_some() => {
                    Err(End::Lost(format!("silent for {} s", DEAD_AFTER.as_secs())))
                }
            };
            if let Err(end) = done {
                return end;
            }
        }
    }

    /// What a WebSocket message means; whatever is not of the protocol means nothing.
    fn hear(
        &mut self,
        message: Option<Result<Message, tokio_tungstenite::tungstenite::Error>>,
    ) -> Result<Option<Event>, End> {
        let text = match message {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Close(Some(frame)))) => {
                let why = tame(&frame.reason);
                return Err(End::Lost(format!("it closed: {} {why}", frame.code)));
            }
            Some(Ok(Message::Close(None))) | None => {
                return Err(End::Lost("it closed the connection".to_owned()));
            }
            Some(Ok(Message::Binary(_))) => return Ok(self.ignore("a binary message")),
            // Pings are answered further down, and any sign of life will do for a pong.
            Some(Ok(_)) => return Ok(None),
            Some(Err(error)) => return Err(End::Lost(error.to_string())),
        };
        let message = match ServerMessage::parse(&text) {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(self.ignore("an unknown action")),
            Err(refusal) => return Ok(self.ignore(&refusal.to_string())),
        };
        Ok(match message {
            ServerMessage::Accept { peer_id, .. } => {
                let id = tame(&peer_id.to_string());
                log::info!("{}: accepted as {id}", self.whereabouts());
                self.metrics.set_signal_trouble(None);
                self.metrics.signal_connected.store(true, Ordering::Relaxed);
                self.accepted = Some((peer_id.clone(), Instant::now()));
                Some(Event::Accepted { peer_id })
            }
            ServerMessage::Signal { from_peer_id, data } => match SignalData::parse(&data) {
                Some((data, form)) => Some(Event::Signal {
                    from: from_peer_id,
                    data,
                    form,
                }),
                None => self.ignore(&format!("what {from_peer_id} signals")),
            },
            ServerMessage::Connect {
                to_peer_id,
                initiator,
            } => Some(Event::Connect {
                to: to_peer_id,
                initiator,
            }),
            ServerMessage::Reject { reason } => Some(Event::Rejected {
                reason: reason.unwrap_or_default(),
            }),
            ServerMessage::Disconnect { peers } => Some(Event::Drop { peers }),
            // We never asked.
            ServerMessage::Parents { .. } => None,
        })
    }

    /// Counts what could not be understood.
    fn ignore(&self, what: &str) -> Option<Event> {
        self.metrics.signal_ignored.add(1);
        log::debug!("{}: ignored: {}", self.whereabouts(), tame(what));
        None
    }

    fn whereabouts(&self) -> String {
        let ClientConfig {
            dialer, channel, ..
        } = &self.config;
        format!("channel {channel}: signalling server {}", dialer.shown())
    }

    fn command(&self, command: Command) -> Option<ClientMessage> {
        let Some((own, _)) = &self.accepted else {
            log::debug!("signalling: dropped, not accepted yet: {command:?}");
            return None;
        };
        let channel = Some(self.config.channel.clone());
        Some(match command {
            Command::Signal { to, data, form } => ClientMessage::Signal {
                channel,
                to_peer_id: to,
                data: data.render(form),
            },
            Command::Opened { peer } => ClientMessage::DcOpened {
                channel,
                dc_id: dc_id(own, &peer),
            },
            Command::Failed { peer } => ClientMessage::DcFailed {
                channel,
                dc_id: dc_id(own, &peer),
            },
            Command::Closed { peer } => ClientMessage::DcClosed {
                channel,
                dc_id: dc_id(own, &peer),
            },
        })
    }
}

/// The end by a `reject`, with its reason if it has one.
fn refused(reason: &str) -> End {
    End::Lost(match reason {
        "" => "it refuses the channel".to_owned(),
        reason => format!("it refuses the channel: {}", tame(reason)),
    })
}

async fn say<S>(socket: &mut WebSocketStream<S>, message: ClientMessage) -> Result<(), End>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    send(socket, Message::text(message.to_json())).await
}

async fn send<S>(socket: &mut WebSocketStream<S>, message: Message) -> Result<(), End>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match timeout(SEND_WITHIN, socket.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(End::Lost(error.to_string())),
        Err(_) => Err(End::Lost("it does not read".to_owned())),
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
