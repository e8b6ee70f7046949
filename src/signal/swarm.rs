//! All channels of the signalling server. A pure state machine: what peers say goes in, messages
//! for sockets come out, in the order in which they must be sent. Who is paired with whom is
//! decided channel by channel, in `pairing`.
//!
//! One socket holds at most one entry in a channel (entering again replaces it), which makes a
//! sender known by its socket and the channel of the peer that it talks to.

use std::collections::HashMap;
use std::time::Instant;

use serde_json::value::RawValue;

use super::messages::{ClientMessage, ServerMessage};
use super::pairing::Swarm;
use crate::ids::{ChannelId, PeerId};

/// Channels that one socket may be in; pages were seen to enter up to four times.
pub const MAX_ENTRIES: usize = 8;

/// Channels at once, so that invented names cannot fill the memory.
pub const MAX_CHANNELS: usize = 1024;

/// A socket as the server numbers it; a number is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(pub u64);

/// Messages to send, in this order.
pub type Outbound = Vec<(SocketId, ServerMessage)>;

/// All channels.
#[derive(Debug, Default)]
pub struct Swarms {
    channels: HashMap<ChannelId, Swarm>,
    entries: HashMap<SocketId, Vec<ChannelId>>,
    unroutable: u64,
}

impl Swarms {
    /// Takes in what the socket's peer said. `fresh` is the id that its entry gets if this is an
    /// `enter`: unique among all.
    pub fn receive(
        &mut self,
        socket: SocketId,
        message: ClientMessage,
        fresh: PeerId,
        now: Instant,
    ) -> Outbound {
        let mut out = Outbound::new();
        match message {
            ClientMessage::Enter { channel, .. } => {
                self.enter(socket, channel, fresh, now, &mut out)
            }
            ClientMessage::Leave { peer_id } => self.leave(socket, peer_id, now, &mut out),
            ClientMessage::Signal {
                to_peer_id, data, ..
            } => self.relay(socket, &to_peer_id, data, &mut out),
            ClientMessage::DcFailed { dc_id, .. } | ClientMessage::DcClosed { dc_id, .. } => {
                for channel in self.entered(socket, None) {
                    if let Some(swarm) = self.channels.get_mut(&channel) {
                        swarm.failed(socket, &dc_id, now, &mut out);
                    }
                }
            }
            ClientMessage::Level { channel, level, .. } => {
                for channel in self.entered(socket, channel.as_ref()) {
                    if let Some(swarm) = self.channels.get_mut(&channel) {
                        swarm.set_level(socket, level, now, &mut out);
                    }
                }
            }
            ClientMessage::GetParents { channel } => {
                let entered = self.entered(socket, channel.as_ref());
                if let Some(swarm) = entered.last().and_then(|last| self.channels.get(last)) {
                    let nodes = swarm.possible_parents(socket, now);
                    out.push((socket, ServerMessage::Parents { nodes }));
                }
            }
            ClientMessage::DcOpened { .. } => {}
        }
        out
    }

    /// The socket has gone.
    pub fn gone(&mut self, socket: SocketId, now: Instant) -> Outbound {
        let mut out = Outbound::new();
        self.leave(socket, None, now, &mut out);
        out
    }

    /// Whether the socket is in any channel.
    pub fn has_entered(&self, socket: SocketId) -> bool {
        self.entries.contains_key(&socket)
    }

    /// Signals dropped because they were for nobody that the sender may talk to.
    pub fn unroutable(&self) -> u64 {
        self.unroutable
    }

    fn enter(
        &mut self,
        socket: SocketId,
        channel: ChannelId,
        id: PeerId,
        now: Instant,
        out: &mut Outbound,
    ) {
        let entries = self.entries.get(&socket).map_or(0, Vec::len);
        let known = self.channels.get(&channel);
        let again = known.is_some_and(|swarm| swarm.id_of(socket).is_some());
        let reason = if entries >= MAX_ENTRIES && !again {
            "this socket is in too many channels"
        } else if self.channels.len() >= MAX_CHANNELS && known.is_none() {
            "the server has too many channels"
        } else {
            ""
        };
        if !reason.is_empty() {
            let reason = Some(reason.to_owned());
            return out.push((socket, ServerMessage::Reject { reason }));
        }
        let swarm = self.channels.entry(channel.clone()).or_default();
        if again {
            swarm.remove(socket, now, out);
        } else {
            self.entries.entry(socket).or_default().push(channel);
        }
        swarm.add(socket, id, now, out);
    }

    /// Takes the socket out of the channel where it has this id; without one, or with one that
    /// is not its own, out of all.
    fn leave(&mut self, socket: SocketId, id: Option<PeerId>, now: Instant, out: &mut Outbound) {
        let mut leaving = self.entered(socket, None);
        let named = leaving.iter().position(|channel| {
            let swarm = self.channels.get(channel);
            id.is_some() && swarm.and_then(|swarm| swarm.id_of(socket)) == id.as_ref()
        });
        if let Some(named) = named {
            leaving = vec![leaving.swap_remove(named)];
        }
        for channel in &leaving {
            if let Some(swarm) = self.channels.get_mut(channel) {
                swarm.remove(socket, now, out);
                if swarm.is_empty() {
                    self.channels.remove(channel);
                }
            }
        }
        if let Some(entries) = self.entries.get_mut(&socket) {
            entries.retain(|channel| !leaving.contains(channel));
            if entries.is_empty() {
                self.entries.remove(&socket);
            }
        }
    }

    fn relay(&mut self, socket: SocketId, to: &PeerId, data: Box<RawValue>, out: &mut Outbound) {
        let route = self.entered(socket, None).iter().find_map(|channel| {
            let swarm = self.channels.get(channel)?;
            Some((swarm.socket_of(to)?, swarm.id_of(socket)?.clone()))
        });
        match route {
            Some((to, from_peer_id)) if to != socket => {
                out.push((to, ServerMessage::Signal { from_peer_id, data }));
            }
            _ => self.unroutable += 1,
        }
    }

    /// The channels that the socket is in, in the order of entering; with a name only that one.
    fn entered(&self, socket: SocketId, named: Option<&ChannelId>) -> Vec<ChannelId> {
        let entries = self.entries.get(&socket).map_or(&[][..], Vec::as_slice);
        match named {
            Some(named) if entries.contains(named) => vec![named.clone()],
            // A channel that it is not in says nothing: the socket does.
            _ => entries.to_vec(),
        }
    }
}

#[cfg(test)]
#[path = "swarm_tests.rs"]
mod tests;
