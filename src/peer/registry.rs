//! Who is connected, under which names, and whose a datagram is.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Instant;

use super::PeerKey;
use super::connection::Connection;
use super::directory::Index;
use super::stun;
use super::transport::Datagram;

/// Remote addresses remembered for one connection: a browser has a few interfaces.
const MAX_ADDRESSES_PER_PEER: usize = 8;

/// A remote address, and the port of ours at which it is heard: two calls of a box to another have the
/// same remote address.
type Path = (SocketAddr, u16);

/// A place in the registry; never used twice.
pub(super) type Slot = u64;

pub(super) struct Entry {
    pub(super) key: PeerKey,
    pub(super) ufrag: String,
    pub(super) connection: Connection,
    /// This box called, by this port of its own, and reports how that goes.
    pub(super) called: Option<u16>,
    /// It is open, and whom it concerns has been told.
    pub(super) announced: bool,
    addresses: heapless::Vec<Path, MAX_ADDRESSES_PER_PEER>,
    /// When it wants to be looked at.
    pub(super) due: Instant,
    /// Its place among those who can be sent something.
    pub(super) turn: Option<Instant>,
}

impl Entry {
    /// A peer, known by its key and by the username fragment that we gave it.
    pub(super) fn new(
        key: PeerKey,
        ufrag: String,
        connection: Connection,
        called: Option<u16>,
    ) -> Box<Self> {
        Box::new(Self {
            key,
            ufrag,
            due: connection.created(),
            connection,
            called,
            announced: false,
            addresses: heapless::Vec::new(),
            turn: None,
        })
    }
}

/// A datagram of nobody here.
pub(super) struct Unknown {
    /// Whom it names, if it is a connectivity check.
    pub(super) ufrag: Option<String>,
    pub(super) datagram: Datagram,
}

/// Addresses of peers of other tasks that are remembered. With more than that, all are learned anew, by
/// the checks that come every few seconds.
const MAX_ELSEWHERE: usize = 1024;

/// The connections, by all that they are known by.
#[derive(Default)]
pub(super) struct Registry {
    next_slot: Slot,
    /// Each is some kB: a table has room for more than it holds.
    entries: HashMap<Slot, Box<Entry>>,
    by_key: HashMap<PeerKey, Slot>,
    by_ufrag: HashMap<String, Slot>,
    by_address: HashMap<Path, Slot>,
    elsewhere: HashMap<SocketAddr, Index>,
}

impl Registry {
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values().map(Box::as_ref)
    }

    pub(super) fn entries_mut(&mut self) -> impl Iterator<Item = (Slot, &mut Entry)> {
        let entries = self.entries.iter_mut();
        entries.map(|(slot, entry)| (*slot, entry.as_mut()))
    }

    /// Bytes of segments that are still to be sent to all of them.
    pub(super) fn promised(&self) -> u64 {
        let promised = self.entries().map(|entry| entry.connection.promised());
        promised.sum::<usize>() as u64
    }

    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut Entry> {
        self.entries.get_mut(&slot).map(Box::as_mut)
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

    /// Takes in a peer from whom nothing has been heard yet.
    pub(super) fn admit(&mut self, entry: Box<Entry>) -> Slot {
        let slot = self.next_slot;
        self.next_slot += 1;
        self.by_key.insert(entry.key.clone(), slot);
        self.by_ufrag.insert(entry.ufrag.clone(), slot);
        self.entries.insert(slot, entry);
        slot
    }

    pub(super) fn remove(&mut self, slot: Slot) -> Option<Box<Entry>> {
        let mut entry = self.entries.remove(&slot)?;
        self.by_ufrag.remove(&entry.ufrag);
        if self.by_key.get(&entry.key) == Some(&slot) {
            self.by_key.remove(&entry.key);
        }
        for address in &entry.addresses {
            if self.by_address.get(address) == Some(&slot) {
                self.by_address.remove(address);
            }
        }
        // Whoever takes it in learns them anew.
        entry.addresses.clear();
        Some(entry)
    }

    pub(super) fn clear(&mut self) {
        *self = Self {
            next_slot: self.next_slot,
            ..Self::default()
        };
    }

    /// The viewer that a connectivity check names, if it can still go to another task.
    pub(super) fn may_move(&self, datagram: &Datagram) -> Option<Slot> {
        let ufrag = stun::local_ufrag(&datagram.bytes)?;
        let slot = self.by_ufrag.get(&ufrag).copied()?;
        let entry = self.entries.get(&slot)?;
        let is_viewer = entry.called.is_none() && entry.connection.sibling().is_none();
        (is_viewer && !entry.connection.is_open()).then_some(slot)
    }

    /// The slot of a name.
    pub(super) fn slot_named(&self, ufrag: &str) -> Option<Slot> {
        self.by_ufrag.get(ufrag).copied()
    }

    /// Remembers that this datagram is of a peer of another task, and what comes from its address too.
    pub(super) fn is_elsewhere(&mut self, datagram: &Datagram, index: Index) {
        let address = datagram.from;
        let path = (address, datagram.to.port());
        if let Some(before) = self.by_address.remove(&path) {
            self.forgets(before, path);
        }
        if self.elsewhere.len() >= MAX_ELSEWHERE && !self.elsewhere.contains_key(&address) {
            self.elsewhere.clear();
        }
        self.elsewhere.insert(address, index);
    }

    /// The task whose peer has this address.
    pub(super) fn elsewhere(&self, address: SocketAddr) -> Option<Index> {
        self.elsewhere.get(&address).copied()
    }

    /// A browser uses the port of a connection for a new one.
    fn forgets(&mut self, slot: Slot, path: Path) {
        if let Some(entry) = self.entries.get_mut(&slot) {
            entry.addresses.retain(|address| *address != path);
        }
    }

    /// Gives a datagram to whom it belongs: to the connection that a connectivity check names, and
    /// from then on to the one that owns its remote address.
    ///
    /// # Errors
    /// The datagram, when it is nobody's.
    pub(super) fn deliver(&mut self, now: Instant, datagram: Datagram) -> Result<Slot, Unknown> {
        let path = (datagram.from, datagram.to.port());
        let ufrag = stun::local_ufrag(&datagram.bytes);
        // Who uses the address of another anew is not that other.
        let slot = match &ufrag {
            Some(ufrag) => self.by_ufrag.get(ufrag).copied(),
            None => self.by_address.get(&path).copied(),
        };
        let Some((slot, entry)) = slot.and_then(|slot| Some((slot, self.entries.get_mut(&slot)?)))
        else {
            return Err(Unknown { ufrag, datagram });
        };
        // One of more addresses than are remembered is answered, and not learned.
        if ufrag.is_some() && !entry.addresses.contains(&path) && entry.addresses.push(path).is_ok()
        {
            self.elsewhere.remove(&path.0);
            if let Some(before) = self.by_address.insert(path, slot) {
                self.forgets(before, path);
            }
        }
        if let Some(entry) = self.entries.get_mut(&slot) {
            entry.connection.datagram(now, datagram);
        }
        Ok(slot)
    }
}
