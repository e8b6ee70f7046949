//! Where each peer is: with which task, or with none yet. Shared by all of them.
//!
//! Each task has a socket of its own on the one port, and the kernel deals viewers out to the sockets by
//! their addresses (`SO_REUSEPORT`, socket(7)), of which an offer tells nothing. So a viewer whose offer has
//! been answered waits here until one of the tasks hears a connectivity check that names it, and takes
//! it. The directory is asked only about names that a task does not know itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::PeerKey;
use super::registry::Entry;
use crate::metrics::Metrics;

/// The task that owns the socket of this index.
pub(super) type Index = usize;

/// Where a peer is.
pub(super) enum Place {
    /// With nobody: nothing was heard of it yet.
    Waiting(Box<Entry>),
    /// With this task, or on its way there.
    At(Index),
}

/// What is known of a username fragment.
pub(super) enum Named {
    /// It is of a viewer that waited, and is now with who asked.
    Taken(Box<Entry>),
    /// It is of a peer of this task.
    At(Index),
    /// It is nobody's.
    Nobody,
}

pub(super) struct Directory {
    /// `[peer] max-peers`.
    most: usize,
    metrics: Arc<Metrics>,
    peers: Mutex<Peers>,
}

/// A peer is known by the username fragment that it was given, of which there are no two the same.
#[derive(Default)]
struct Peers {
    by_key: HashMap<PeerKey, String>,
    by_ufrag: HashMap<String, (PeerKey, Place)>,
}

impl Directory {
    pub(super) fn new(most: usize, metrics: Arc<Metrics>) -> Self {
        Self {
            most,
            metrics,
            peers: Mutex::default(),
        }
    }

    /// Whether a peer of this key is there.
    pub(super) fn has(&self, key: &PeerKey) -> bool {
        self.peers().by_key.contains_key(key)
    }

    /// How many peers there are, if there is a place for no further one.
    pub(super) fn is_full(&self) -> Option<usize> {
        Some(self.peers().by_key.len()).filter(|count| *count >= self.most)
    }

    /// Takes down a peer, under a key that nobody has.
    pub(super) fn enter(&self, key: PeerKey, ufrag: String, place: Place) {
        let mut peers = self.peers();
        peers.by_key.insert(key.clone(), ufrag.clone());
        peers.by_ufrag.insert(ufrag, (key, place));
        self.count(&peers);
    }

    /// Whose name this is; a viewer that waits is taken by `asker`.
    pub(super) fn named(&self, ufrag: &str, asker: Index) -> Named {
        match self.peers().by_ufrag.get_mut(ufrag) {
            None => Named::Nobody,
            Some((_, place)) => match std::mem::replace(place, Place::At(asker)) {
                Place::Waiting(entry) => Named::Taken(entry),
                Place::At(index) => {
                    *place = Place::At(index);
                    Named::At(index)
                }
            },
        }
    }

    /// Takes down that a peer moves to another task; `false` when it is not to be there any more.
    pub(super) fn moves(&self, ufrag: &str, to: Index) -> bool {
        let mut peers = self.peers();
        let known = peers.by_ufrag.get_mut(ufrag);
        known.map(|(_, place)| *place = Place::At(to)).is_some()
    }

    /// Whether this peer is still to be with this task.
    pub(super) fn is_at(&self, ufrag: &str, index: Index) -> bool {
        let peers = self.peers();
        let known = peers.by_ufrag.get(ufrag);
        known.is_some_and(|(_, place)| matches!(place, Place::At(at) if *at == index))
    }

    /// Strikes out whoever has this key: its place is free at once. Gives its name and where it is.
    pub(super) fn strike(&self, key: &PeerKey) -> Option<(String, Place)> {
        let mut peers = self.peers();
        let ufrag = peers.by_key.remove(key)?;
        let (_, place) = peers.by_ufrag.remove(&ufrag)?;
        self.count(&peers);
        Some((ufrag, place))
    }

    /// Takes down that a peer has left. Another of the same key may be there since.
    pub(super) fn left(&self, ufrag: &str) {
        let mut peers = self.peers();
        if let Some((key, _)) = peers.by_ufrag.remove(ufrag)
            && peers.by_key.get(&key).is_some_and(|named| named == ufrag)
        {
            peers.by_key.remove(&key);
        }
        self.count(&peers);
    }

    /// Gives up a viewer of whom nothing was heard in time, if it still waits.
    pub(super) fn give_up(&self, ufrag: &str) -> Option<Box<Entry>> {
        let mut peers = self.peers();
        if !matches!(peers.by_ufrag.get(ufrag), Some((_, Place::Waiting(_)))) {
            return None;
        }
        let (key, place) = peers.by_ufrag.remove(ufrag)?;
        peers.by_key.remove(&key);
        self.count(&peers);
        match place {
            Place::Waiting(entry) => Some(entry),
            Place::At(_) => None,
        }
    }

    /// Looks at each viewer that waits.
    pub(super) fn waiting<T>(&self, look: impl Fn(&Entry) -> T) -> Vec<T> {
        let peers = self.peers();
        let waiting = peers
            .by_ufrag
            .values()
            .filter_map(|(_, place)| match place {
                Place::Waiting(entry) => Some(look(entry)),
                Place::At(_) => None,
            });
        waiting.collect()
    }

    fn count(&self, peers: &Peers) {
        self.metrics.peers.set(peers.by_key.len() as i64);
    }

    fn peers(&self) -> MutexGuard<'_, Peers> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::PeerId;

    fn key(number: i64) -> PeerKey {
        PeerKey {
            channel: "news".into(),
            peer: PeerId::Number(number),
        }
    }

    fn directory(most: usize) -> Directory {
        Directory::new(most, Arc::new(Metrics::default()))
    }

    #[test]
    fn who_makes_a_new_offer_needs_no_second_place_and_the_old_one_takes_none_away_when_it_ends() {
        let directory = directory(1);
        directory.enter(key(1), "first".into(), Place::At(1));
        assert_eq!(directory.is_full(), Some(1));
        assert!(
            matches!(directory.strike(&key(1)), Some((ufrag, Place::At(1))) if ufrag == "first")
        );
        assert_eq!(directory.is_full(), None);
        directory.enter(key(1), "second".into(), Place::At(0));
        // Only now has the other task heard of it.
        directory.left("first");
        assert!(directory.has(&key(1)) && directory.is_at("second", 0));
        directory.left("second");
        assert!(!directory.has(&key(1)));
        assert_eq!(directory.metrics.peers.get(), 0);
    }

    #[test]
    fn who_is_dropped_on_its_way_to_another_task_does_not_arrive() {
        let directory = directory(2);
        directory.enter(key(1), "one".into(), Place::At(0));
        assert!(directory.moves("one", 1));
        assert!(directory.is_at("one", 1) && !directory.is_at("one", 0));
        assert!(matches!(directory.named("one", 0), Named::At(1)));
        directory.strike(&key(1));
        assert!(!directory.is_at("one", 1));
        assert!(!directory.moves("one", 0));
        assert!(matches!(directory.named("one", 0), Named::Nobody));
    }
}
