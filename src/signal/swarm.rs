//! All channels of the signalling server. A pure state machine: what peers say goes in, messages
//! for sockets come out, in the order in which they must be sent. Who is paired with whom is
//! decided channel by channel, in `pairing`.
//!
//! One socket holds at most one entry in a channel (entering again replaces it), which makes a
//! sender known by its socket and the channel of the peer that it talks to.

use std::collections::HashMap;
use std::time::Instant;

use serde_json::value::RawValue;

pub use super::member::SocketId;
use super::messages::{ClientMessage, ServerMessage};
pub use super::pairing::Outbound;
use super::pairing::Swarm;
use crate::ids::{ChannelId, PeerId};
use crate::metrics::Refused;

/// Channels that one socket may be in; pages were seen to enter up to four times.
pub const MAX_ENTRIES: usize = 8;

/// Channels at once, so that invented names cannot fill the memory.
pub const MAX_CHANNELS: usize = 1024;

/// Peers of one channel: the viewers of a big venue, with room left in the server for its other
/// channels.
pub const MAX_PEERS: usize = 10_000;

/// All channels.
#[derive(Debug, Default)]
pub struct Swarms {
    channels: HashMap<ChannelId, Swarm>,
    entries: HashMap<SocketId, Vec<ChannelId>>,
}

impl Swarms {
    /// Takes in what the socket's peer said. `fresh` is the id that its entry gets if this is an
    /// `enter`: unique among all.
    ///
    /// # Errors
    /// The limit that was reached; nothing has changed then.
    pub fn receive(
        &mut self,
        socket: SocketId,
        message: ClientMessage,
        fresh: PeerId,
        now: Instant,
    ) -> Result<Outbound, Refused> {
        let mut out = Outbound::new();
        match message {
            ClientMessage::Enter { channel, .. } => {
                self.enter(socket, channel, fresh, now, &mut out)?;
            }
            ClientMessage::Leave { peer_id } => self.leave(socket, peer_id, now, &mut out),
            ClientMessage::Signal {
                to_peer_id, data, ..
            } => out.push(self.route(socket, &to_peer_id, data)?),
            ClientMessage::DcOpened { dc_id, .. } => {
                for channel in self.entered(socket, None) {
                    if let Some(swarm) = self.channels.get_mut(&channel) {
                        swarm.opened(socket, &dc_id);
                    }
                }
            }
            ClientMessage::DcFailed { dc_id, .. } | ClientMessage::DcClosed { dc_id, .. } => {
                for channel in self.entered(socket, None) {
                    if let Some(swarm) = self.channels.get_mut(&channel) {
                        swarm.failed(socket, &dc_id, now, &mut out);
                    }
                }
            }
            ClientMessage::Level {
                channel,
                level,
                room,
            } => {
                for channel in self.entered(socket, channel.as_ref()) {
                    if let Some(swarm) = self.channels.get_mut(&channel) {
                        swarm.report(socket, level, room, now, &mut out);
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
        }
        Ok(out)
    }

    /// Time has passed: pairs that have not come about are given up. To be called every second or
    /// so.
    pub fn tick(&mut self, now: Instant) -> Outbound {
        let mut out = Outbound::new();
        for swarm in self.channels.values_mut() {
            swarm.expire(now, &mut out);
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

    /// Members that the socket is a parent of, in all of its channels.
    pub fn children(&self, socket: SocketId) -> usize {
        let channels = self.entries.get(&socket).into_iter().flatten();
        let swarms = channels.filter_map(|channel| self.channels.get(channel));
        swarms.map(|swarm| swarm.children(socket)).sum()
    }

    fn enter(
        &mut self,
        socket: SocketId,
        channel: ChannelId,
        id: PeerId,
        now: Instant,
        out: &mut Outbound,
    ) -> Result<(), Refused> {
        let entries = self.entries.get(&socket).map_or(0, Vec::len);
        let known = self.channels.get(&channel);
        let again = known.is_some_and(|swarm| swarm.id_of(socket).is_some());
        if entries >= MAX_ENTRIES && !again {
            return Err(Refused::Entries);
        }
        if self.channels.len() >= MAX_CHANNELS && known.is_none() {
            return Err(Refused::Channels);
        }
        if known.is_some_and(|swarm| swarm.len() >= MAX_PEERS) && !again {
            return Err(Refused::Peers);
        }
        let swarm = self.channels.entry(channel.clone()).or_default();
        if again {
            swarm.remove(socket, now, out);
        } else {
            self.entries.entry(socket).or_default().push(channel);
        }
        swarm.add(socket, id, now, out);
        Ok(())
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
                if swarm.len() == 0 {
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

    fn route(
        &self,
        socket: SocketId,
        to: &PeerId,
        data: Box<RawValue>,
    ) -> Result<(SocketId, ServerMessage), Refused> {
        let route = self.entered(socket, None).iter().find_map(|channel| {
            let swarm = self.channels.get(channel)?;
            Some((swarm.socket_of(to)?, swarm.id_of(socket)?.clone()))
        });
        match route {
            Some((to, from_peer_id)) if to != socket => {
                Ok((to, ServerMessage::Signal { from_peer_id, data }))
            }
            _ => Err(Refused::Unroutable),
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
