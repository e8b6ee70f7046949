//! Viewers and sibling boxes: one UDP port for all of them, one WebRTC peer connection and one
//! [`Session`] each, on threads of their own.
//!
//! ```text
//!               a task for each core
//!   Command ──►┌──────┐           ┌──────────┐ Input ┌─────────┐
//!   (to one)   │      │  whose    │          │ ────► │ session │ what to say and to send
//!   Event  ◄── │ task │ turn it is│connection│ ◄──── │ (pure)  │
//!   UDP   ◄──► │      │ ────────► │          │ Output└─────────┘
//!   socket     │      │           │          │ ────► ┌─────────┐
//!   others ◄──►└──────┘           │          │ ◄──── │transport│ the WebRTC stack (pure)
//!               link: is it full? └────▲─────┘ Heard └─────────┘
//!               registry: whose        │ bytes
//!               datagram is it?      store
//! ```
//!
//! The WebRTC stack is `rtc`, which does no I/O: a [`task`] owns a socket, feeds datagrams and
//! time in, and sends what comes out. A datagram belongs to the connection whose ICE username
//! fragment a STUN check names, and from then on to the one that owns its remote address. What there is
//! to say is said at once; segments are sent packet by packet, the most urgent first, as long as the
//! [`link`] takes them. A viewer is with the task whose socket hears it
//! ([`directory`], [`others`]); the first task answers offers, and has the siblings.
//!
//! Signalling is not known here: offers come in as [`Command`]s, answers go out as [`Event`]s. A
//! box is called ([`Command::Call`]) by the same way; whether the other end is a sibling is for its
//! [`Proof`] to show. What `fetch` asks of a sibling comes in over [`Siblings`].
//!
//! [`Session`]: crate::session::Session

mod addresses;
mod asks;
#[cfg(test)]
mod bad_link_tests;
mod calls;
mod clock;
mod connection;
mod directory;
mod link;
mod offers;
mod others;
#[cfg(test)]
mod others_tests;
mod registry;
mod sdp;
mod setup;
mod socket;
mod stun;
mod task;
mod thread;
mod told;
mod transport;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

pub use addresses::host_addresses;
use calls::Calls;
use futures_util::future::join_all;
use others::Others;
use serde::Serialize;
use task::{Shared, Task};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::budget::Budget;
use crate::config::PeerConfig;
use crate::ids::{ChannelId, ChannelName, PeerId, tame};
use crate::metrics::Metrics;
use crate::sibling::proof::Proof;
use crate::sibling::{Ask, Siblings};
use crate::store::Store;

/// Commands and events that may be under way. A viewer costs an offer and a few candidates, so
/// this is some hundred viewers arriving in the same instant.
const QUEUE: usize = 1024;

/// A viewer: its id is unique within the channel through which it was met.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerKey {
    /// The channel.
    pub channel: ChannelName,
    /// Its name at the signalling server.
    pub peer: PeerId,
}

/// For the log: the id is what somebody else chose.
impl fmt::Display for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.channel, tame(&self.peer.to_string()))
    }
}

/// What the peers are told.
#[derive(Debug)]
pub enum Command {
    /// A viewer offers a connection (SDP). A second offer under one key replaces the first.
    Offer {
        /// Who.
        key: PeerKey,
        /// The offer, as the browser made it.
        sdp: String,
        /// That it comes from a box of this operator.
        proof: Option<Proof>,
    },
    /// The signalling server has this box call another peer. A viewer has nothing to give; another
    /// box may.
    Call {
        /// Whom.
        key: PeerKey,
    },
    /// The answer to an [`Event::Offer`].
    Answer {
        /// From whom.
        key: PeerKey,
        /// The answer (SDP).
        sdp: String,
        /// That it comes from a box of this operator.
        proof: Option<Proof>,
    },
    /// A viewer trickles an ICE candidate.
    Candidate {
        /// Who.
        key: PeerKey,
        /// The candidate line (RFC 8839 section 5.1), with or without `candidate:` or `a=`.
        candidate: String,
    },
    /// The signalling server wants this viewer dropped.
    Drop {
        /// Who.
        key: PeerKey,
    },
    /// Asks for the state of every peer.
    List(oneshot::Sender<Vec<PeerStatus>>),
}

/// What the peers report.
#[derive(Debug)]
pub enum Event {
    /// The answer to an offer, complete with candidates; nothing is trickled.
    Answer {
        /// To whom.
        key: PeerKey,
        /// The answer (SDP).
        sdp: String,
        /// For a sibling box.
        proof: Option<Proof>,
    },
    /// This box calls another peer.
    Offer {
        /// Whom.
        key: PeerKey,
        /// The offer (SDP), complete with candidates.
        sdp: String,
        /// That it comes from a box of this operator.
        proof: Proof,
    },
    /// The data channel of a call of ours is open.
    Opened {
        /// To whom.
        key: PeerKey,
    },
    /// It was open, and is no longer.
    Closed {
        /// To whom.
        key: PeerKey,
    },
    /// The peer cannot be served: it should be told to look elsewhere.
    Failed {
        /// Who.
        key: PeerKey,
    },
}

impl Event {
    /// Whom it is about.
    fn key(&self) -> &PeerKey {
        match self {
            Self::Answer { key, .. }
            | Self::Offer { key, .. }
            | Self::Opened { key }
            | Self::Closed { key }
            | Self::Failed { key } => key,
        }
    }
}

/// One peer, for the status page.
#[derive(Clone, Debug, Serialize)]
pub struct PeerStatus {
    /// The channel through which it came.
    pub channel: ChannelName,
    /// Its name at the signalling server.
    pub id: PeerId,
    /// Whether its data channel is open.
    pub open: bool,
    /// From where it is heard, once it is.
    pub address: Option<String>,
    /// Seconds since its offer.
    pub age_seconds: u64,
    /// Segments announced to it.
    pub segments: u64,
    /// Bytes of segments handed over to it.
    pub bytes: u64,
    /// REQUESTs answered with LACK.
    pub lacks: u64,
    /// Whether it is another box of this operator.
    pub sibling: bool,
}

/// Why viewers cannot be served at all.
#[derive(Debug)]
pub enum PeerError {
    /// Another program has the UDP port.
    PortInUse(u16),
    /// The system does not let us have the port.
    Permission(u16),
    /// Anything else that the system said about the socket.
    Socket(std::io::Error),
}

impl fmt::Display for PeerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PortInUse(port) => write!(
                f,
                "UDP port {port} is taken by another program: stop it, or choose another [peer] udp-port"
            ),
            Self::Permission(port) => write!(
                f,
                "no permission to use UDP port {port}: choose a [peer] udp-port above 1023"
            ),
            Self::Socket(error) => write!(f, "cannot set up the UDP socket for viewers: {error}"),
        }
    }
}

impl std::error::Error for PeerError {}

/// What the peers need from the rest of the box.
pub struct Parts {
    /// `[peer]`
    pub config: PeerConfig,
    /// Where segments are.
    pub store: Store,
    /// What media in flight is taken from.
    pub budget: Budget,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What viewers call the channels; a proof names a channel by it.
    pub channel_ids: HashMap<ChannelName, ChannelId>,
    /// The other boxes of this operator.
    pub siblings: Siblings,
    /// What they are asked.
    pub asks: mpsc::Receiver<Ask>,
}

/// The peers, ready to run.
pub struct Peers {
    parts: Parts,
    port: socket::Port,
    commands: (mpsc::Sender<Command>, mpsc::Receiver<Command>),
}

/// Tasks at most: one for each core of a Raspberry Pi; so many serve 10 Gbit/s.
const MAX_TASKS: usize = 4;

/// How many tasks serve: one for each core. With `[peer] max-upload` it is one, which looks after all that is sent at that rate: a link that
/// has to be spared keeps no second core busy.
fn tasks(config: &PeerConfig) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    match config.max_upload {
        Some(_) => 1,
        None => cores.min(MAX_TASKS),
    }
}

impl Peers {
    /// Takes the UDP port.
    ///
    /// # Errors
    /// [`PeerError`] when the port cannot be had.
    pub fn bind(parts: Parts) -> Result<Self, PeerError> {
        Ok(Self {
            port: socket::Port::bind(parts.config.udp_port, tasks(&parts.config))?,
            parts,
            commands: mpsc::channel(QUEUE),
        })
    }

    /// The UDP port of all peers.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Where commands go.
    pub fn commands(&self) -> mpsc::Sender<Command> {
        self.commands.0.clone()
    }

    /// Serves until `stop`, then finishes what is being sent within `stop-timeout`. The receiver
    /// of events is handed out first.
    pub fn start(
        self,
        stop: CancellationToken,
    ) -> (mpsc::Receiver<Event>, impl Future<Output = ()> + Send) {
        let (events_out, events) = mpsc::channel(QUEUE);
        let (_, commands) = self.commands;
        let (parts, sockets) = (self.parts, self.port.sockets());
        let shared = Shared::new(&parts);
        let own = parts.siblings.own().clone();
        let no_siblings = std::iter::repeat_n(own.clone(), sockets.len()).map(Calls::none);
        let siblings = Calls::new(&parts.config, own, parts.channel_ids, parts.asks);
        let calls = std::iter::once(siblings).chain(no_siblings);
        // The first task is told what there is to do, the others by it.
        let untold = std::iter::repeat_with(|| mpsc::channel(1).1);
        let commands = std::iter::once(commands).chain(untold);
        // If one of them ends, however that comes, all do.
        let stop = stop.child_token();
        let mut threads = Vec::new();
        let each = Others::all(sockets.len()).zip(sockets).zip(calls);
        for (((others, socket), calls), commands) in each.zip(commands) {
            let all_end = stop.clone().drop_guard();
            let (shared, events, stop) = (shared.clone(), events_out.clone(), stop.clone());
            let serve = async move || {
                let _all_end = all_end;
                let socket = socket.open()?;
                let task = Task::new(shared, calls, socket, commands, events, others);
                task.run(stop).await;
                Ok(())
            };
            threads.push(async {
                if let Err(error) = thread::run("viewers", serve).await {
                    log::error!("viewers cannot be served: {error}");
                }
            });
        }
        let served = async {
            join_all(threads).await;
        };
        (events, served)
    }
}
