//! Who is connected, under which names, and whose a datagram is.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Instant;

use super::MAX_TASKS;
use super::PeerKey;
use super::connection::Connection;
use super::directory::Index;
use super::stun;
use super::task::Dirty;
use super::transport::Datagram;

/// Remote addresses remembered for one connection: a browser has a few interfaces.
const MAX_ADDRESSES_PER_PEER: usize = 8;

/// Connections that one path may stand for. More than one, for a browser uses a port again, and anybody can
/// put another's address under a check of its own: who was there first goes on to get what it is sent, and who is not
/// meant cannot decrypt it.
const MAX_PER_PATH: usize = 4;

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

/// Some of the tasks.
pub(super) type Tasks = heapless::Vec<Index, MAX_TASKS>;

/// The connections, by all that they are known by.
#[derive(Default)]
pub(super) struct Registry {
    next_slot: Slot,
    /// Each is some kB: a table has room for more than it holds.
    entries: HashMap<Slot, Box<Entry>>,
    by_key: HashMap<PeerKey, Slot>,
    by_ufrag: HashMap<String, Slot>,
    by_address: HashMap<Path, heapless::Vec<Slot, MAX_PER_PATH>>,
    elsewhere: HashMap<SocketAddr, Tasks>,
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
        for path in &entry.addresses {
            if let Some(slots) = self.by_address.get_mut(path) {
                slots.retain(|other| *other != slot);
                if slots.is_empty() {
                    self.by_address.remove(path);
                }
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

    /// Remembers that this address is of a peer of another task.
    pub(super) fn is_elsewhere(&mut self, address: SocketAddr, index: Index) {
        if self.elsewhere.len() >= MAX_ELSEWHERE && !self.elsewhere.contains_key(&address) {
            self.elsewhere.clear();
        }
        let tasks = self.elsewhere.entry(address).or_default();
        if !tasks.contains(&index) {
            // There is a place for each.
            let _ = tasks.push(index);
        }
    }

    /// Forgets that this address is of a peer of another task: it has come here.
    pub(super) fn is_here(&mut self, address: SocketAddr) {
        self.elsewhere.remove(&address);
    }

    /// The tasks whose peers have this address.
    pub(super) fn elsewhere(&self, address: SocketAddr) -> Tasks {
        self.elsewhere.get(&address).cloned().unwrap_or_default()
    }

    /// Gives a datagram to whom it belongs, and adds them to `dirty`: to the connection that a
    /// connectivity check names, and from then on to those that have its path. It comes back when it is,
    /// or may be, of a peer of another task.
    pub(super) fn deliver(
        &mut self,
        now: Instant,
        datagram: Datagram,
        dirty: &mut Dirty,
    ) -> Option<Unknown> {
        let path = (datagram.from, datagram.to.port());
        let ufrag = stun::local_ufrag(&datagram.bytes);
        let slots = match &ufrag {
            Some(ufrag) => self.by_ufrag.get(ufrag).copied().into_iter().collect(),
            None => self.by_address.get(&path).cloned().unwrap_or_default(),
        };
        let Some((last, others)) = slots.split_last() else {
            return Some(Unknown { ufrag, datagram });
        };
        let mut unknown = None;
        if ufrag.is_some() {
            self.learn(path, *last);
        } else if self.elsewhere.contains_key(&datagram.from) {
            let datagram = datagram.clone();
            unknown = Some(Unknown { ufrag, datagram });
        }
        for slot in others {
            self.give(now, *slot, datagram.clone(), dirty);
        }
        self.give(now, *last, datagram, dirty);
        unknown
    }

    fn give(&mut self, now: Instant, slot: Slot, datagram: Datagram, dirty: &mut Dirty) {
        if let Some(entry) = self.get_mut(slot) {
            entry.connection.datagram(now, datagram);
            dirty.insert(slot);
        }
    }

    /// What comes by this path from now on is this connection's. One of more paths than are remembered
    /// is answered, and not learned.
    fn learn(&mut self, path: Path, slot: Slot) {
        let Some(entry) = self.entries.get_mut(&slot) else {
            return;
        };
        if entry.addresses.is_full() || entry.addresses.contains(&path) {
            return;
        }
        if self.by_address.entry(path).or_default().push(slot).is_ok() {
            // There is room.
            let _ = entry.addresses.push(path);
        }
    }
}
