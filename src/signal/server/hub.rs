//! What all sockets share: the channels, and what waits to be sent to whom.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use subtle::ConstantTimeEq;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::ids::PeerId;
use crate::metrics::{Refused, SignalServerMetrics};
use crate::signal::messages::{ClientMessage, ServerMessage};
use crate::signal::swarm::{Outbound, SocketId, Swarms};

/// Bytes up to which signals of other peers are taken for one socket: a box of 64 viewers whose
/// offers all come at once, four times over.
const MAX_SIGNALS: usize = 256 * 1024;

/// Bytes that may wait for one socket in all. What is ours fits beside all signals: a `connect`
/// has about 100 bytes.
const MAX_OUTBOX: usize = MAX_SIGNALS + 128 * 1024;

/// The state machine and the way back to the sockets.
pub(super) struct Hub {
    state: Mutex<State>,
    token: Option<String>,
    pub(super) metrics: Arc<SignalServerMetrics>,
}

#[derive(Default)]
struct State {
    swarms: Swarms,
    outboxes: HashMap<SocketId, Outbox>,
    sockets: u64,
}

/// What waits for one socket. Empty it owns no memory.
#[derive(Default)]
struct Outbox {
    waiting: VecDeque<String>,
    bytes: usize,
    filled: Arc<Notify>,
}

/// A socket's place in the hub; dropping it means that the socket has gone.
pub(super) struct Seat {
    hub: Arc<Hub>,
    id: SocketId,
    filled: Arc<Notify>,
}

impl Hub {
    pub(super) fn new(token: Option<String>, metrics: Arc<SignalServerMetrics>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            token,
            metrics,
        })
    }

    pub(super) fn join(self: &Arc<Self>) -> Seat {
        let outbox = Outbox::default();
        let filled = Arc::clone(&outbox.filled);
        let mut state = self.state();
        let id = SocketId(state.sockets);
        state.sockets += 1;
        state.outboxes.insert(id, outbox);
        self.metrics.sockets.add(1);
        let hub = Arc::clone(self);
        Seat { hub, id, filled }
    }

    /// Does what is due by now.
    pub(super) fn tick(&self, now: Instant) {
        let mut state = self.state();
        let out = state.swarms.tick(now.into_std());
        self.post(&mut state, out, now);
    }

    /// Puts messages into outboxes, in their order. A signal that does not fit is dropped: its
    /// sender is to blame. A socket whose outbox has no room for what is ours is gone.
    fn post(&self, state: &mut State, out: Outbound, now: Instant) {
        let mut out = VecDeque::from(out);
        while let Some((socket, message)) = out.pop_front() {
            let Some(outbox) = state.outboxes.get_mut(&socket) else {
                continue;
            };
            let relayed = matches!(message, ServerMessage::Signal { .. });
            let text = message.to_json();
            let bytes = outbox.bytes + text.len();
            if relayed && bytes > MAX_SIGNALS {
                self.metrics.refused(Refused::Flood).add(1);
            } else if bytes <= MAX_OUTBOX {
                outbox.bytes = bytes;
                outbox.waiting.push_back(text);
                outbox.filled.notify_one();
            } else if let Some(outbox) = state.outboxes.remove(&socket) {
                outbox.filled.notify_one();
                out.extend(state.swarms.gone(socket, now.into_std()));
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this is our token, in a time that tells nothing about it but its length.
    fn admits(&self, token: Option<&str>) -> bool {
        match (&self.token, token) {
            (None, _) => true,
            (Some(ours), Some(theirs)) => ours.as_bytes().ct_eq(theirs.as_bytes()).into(),
            (Some(_), None) => false,
        }
    }
}

impl Seat {
    /// Takes in what the peer said; `Err`: it was refused.
    pub(super) fn receive(&self, message: ClientMessage, now: Instant) -> Result<(), Refused> {
        if let ClientMessage::Enter { token, .. } = &message
            && !self.hub.admits(token.as_deref())
        {
            return Err(Refused::Token);
        }
        // 128 random bits in 32 characters: nobody guesses the id of another peer.
        let fresh = PeerId::from(format!("{:032x}", rand::random::<u128>()));
        let mut state = self.hub.state();
        let out = state
            .swarms
            .receive(self.id, message, fresh, now.into_std())?;
        self.hub.post(&mut state, out, now);
        Ok(())
    }

    pub(super) fn send(&self, message: ServerMessage, now: Instant) {
        let mut state = self.hub.state();
        self.hub.post(&mut state, vec![(self.id, message)], now);
    }

    /// Returns when there is something to collect.
    pub(super) async fn filled(&self) {
        self.filled.notified().await;
    }

    /// What is to be sent now; `None`: it was too much.
    pub(super) fn collect(&self) -> Option<VecDeque<String>> {
        let mut state = self.hub.state();
        let outbox = state.outboxes.get_mut(&self.id)?;
        outbox.bytes = 0;
        Some(std::mem::take(&mut outbox.waiting))
    }

    /// Peers that this one is a parent of, in all of its channels.
    pub(super) fn children(&self) -> usize {
        self.hub.state().swarms.children(self.id)
    }

    pub(super) fn has_entered(&self) -> bool {
        self.hub.state().swarms.has_entered(self.id)
    }

    pub(super) fn refused(&self, what: Refused) {
        self.hub.metrics.refused(what).add(1);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.hub.metrics.sockets.add(-1);
        let mut state = self.hub.state();
        state.outboxes.remove(&self.id);
        let now = Instant::now();
        let out = state.swarms.gone(self.id, now.into_std());
        self.hub.post(&mut state, out, now);
    }
}
