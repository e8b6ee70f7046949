//! Who is connected, under which names, and whose a datagram is.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Instant;

use super::PeerKey;
use super::connection::Connection;
use super::stun;
use super::transport::Datagram;

/// Remote addresses remembered for one connection: a browser has a few interfaces.
const MAX_ADDRESSES_PER_PEER: usize = 8;

/// A place in the registry; never used twice.
pub(super) type Slot = u64;

pub(super) struct Entry {
    pub(super) key: PeerKey,
    ufrag: String,
    pub(super) connection: Connection,
    /// This box called, and reports how that goes.
    pub(super) called: bool,
    /// It is open, and whom it concerns has been told.
    pub(super) announced: bool,
    addresses: heapless::Vec<SocketAddr, MAX_ADDRESSES_PER_PEER>,
    /// When it wants to be looked at.
    pub(super) due: Instant,
    /// Its place among those who can be sent something.
    pub(super) turn: Option<Instant>,
}

/// The connections, by all that they are known by.
#[derive(Default)]
pub(super) struct Registry {
    next_slot: Slot,
    entries: HashMap<Slot, Entry>,
    by_key: HashMap<PeerKey, Slot>,
    by_ufrag: HashMap<String, Slot>,
    by_address: HashMap<SocketAddr, Slot>,
}

impl Registry {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    pub(super) fn entries_mut(&mut self) -> impl Iterator<Item = (Slot, &mut Entry)> {
        self.entries.iter_mut().map(|(slot, entry)| (*slot, entry))
    }

    /// Bytes of segments that are still to be sent to all of them.
    pub(super) fn promised(&self) -> u64 {
        let promised = self.entries().map(|entry| entry.connection.promised());
        promised.sum::<usize>() as u64
    }

    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut Entry> {
        self.entries.get_mut(&slot)
    }

    /// The slot of a peer.
    pub(super) fn slot_of(&self, key: &PeerKey) -> Option<Slot> {
        self.by_key.get(key).copied()
    }

    /// A peer and its slot.
    pub(super) fn entry_of(&mut self, key: &PeerKey) -> Option<(Slot, &mut Entry)> {
        let slot = self.slot_of(key)?;
        self.get_mut(slot).map(|entry| (slot, entry))
    }

    /// Takes a connection in, known by its key and by the username fragment that we gave it.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        key: PeerKey,
        ufrag: String,
        connection: Connection,
        called: bool,
    ) -> Slot {
        let slot = self.next_slot;
        self.next_slot += 1;
        self.by_key.insert(key.clone(), slot);
        self.by_ufrag.insert(ufrag.clone(), slot);
        self.entries.insert(
            slot,
            Entry {
                key,
                ufrag,
                connection,
                called,
                announced: false,
                addresses: heapless::Vec::new(),
                due: now,
                turn: None,
            },
        );
        slot
    }

    pub(super) fn remove(&mut self, slot: Slot) -> Option<Entry> {
        let entry = self.entries.remove(&slot)?;
        self.by_ufrag.remove(&entry.ufrag);
        if self.by_key.get(&entry.key) == Some(&slot) {
            self.by_key.remove(&entry.key);
        }
        for address in &entry.addresses {
            if self.by_address.get(address) == Some(&slot) {
                self.by_address.remove(address);
            }
        }
        Some(entry)
    }

    pub(super) fn clear(&mut self) {
        *self = Self {
            next_slot: self.next_slot,
            ..Self::default()
        };
    }

    /// Gives a datagram to whom it belongs: to the connection that a connectivity check names, and
    /// from then on to the one that owns its remote address. `None` when it is nobody's.
    pub(super) fn deliver(&mut self, now: Instant, datagram: Datagram) -> Option<Slot> {
        let from = datagram.from;
        let named = stun::local_ufrag(&datagram.bytes)
            .and_then(|ufrag| self.by_ufrag.get(&ufrag))
            .copied();
        let slot = named.or_else(|| self.by_address.get(&from).copied())?;
        let entry = self.entries.get_mut(&slot)?;
        if named.is_some() && !entry.addresses.contains(&from) {
            entry.addresses.push(from).ok()?;
            if let Some(before) = self.by_address.insert(from, slot)
                && let Some(other) = self.entries.get_mut(&before)
            {
                // The browser uses the same port for a new connection.
                other.addresses.retain(|address| *address != from);
            }
        }
        let entry = self.entries.get_mut(&slot)?;
        entry.connection.datagram(now, datagram);
        Some(slot)
    }
}
