//! How much room there is, and how it is made.

use super::channel::State;
use super::{Announced, Index, Key, Stored};
use crate::ids::ChannelName;

/// What segments take room of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Pool {
    /// `max-size`.
    Disk,
    /// The part of `max-buffers` that may be held while the disk cannot be written to.
    Memory,
}

/// What a pool has, and who has it.
#[derive(Debug)]
pub(super) struct Account {
    max: u64,
    /// Of what is stored.
    pub(super) used: u64,
    /// Set aside for what is on its way, and taken by what is being deleted.
    reserved: u64,
    /// Of those set aside, the ones that have not been written yet.
    unwritten: u64,
}

/// What there is less of than the pool says.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::store) struct Scarcity {
    /// Bytes of the pool that are taken by what is no segment.
    pub(in crate::store) foreign: u64,
    /// Bytes that have to be evicted at least, whatever the pool has left.
    pub(in crate::store) short: u64,
}

/// The answer to [`Index::reserve`].
#[derive(Debug, PartialEq)]
pub(in crate::store) enum Room<S> {
    /// There is room once these are deleted, which is for the caller to do first.
    Made(Vec<S>),
    /// There would not be, unless by deleting what is nearer to the live edge.
    Taken,
    /// Even without any segment the file system would be as `short` as it is.
    Never,
}

impl<S: Stored> Index<S> {
    pub(super) fn account(&mut self, pool: Pool) -> &mut Account {
        match pool {
            Pool::Disk => &mut self.disk,
            Pool::Memory => &mut self.memory,
        }
    }

    /// What was taken out takes room on the disk until it is deleted ([`Self::release`]).
    pub(super) fn leave(&mut self, removed: &[S]) {
        for segment in removed {
            self.account(segment.pool()).used -= segment.bytes();
            self.leaves(segment);
        }
    }

    /// Sets `more` bytes of a pool aside for a segment.
    pub(in crate::store) fn reserve(
        &mut self,
        pool: Pool,
        name: &ChannelName,
        announced: &Announced,
        more: u64,
        Scarcity { foreign, short }: Scarcity,
    ) -> Room<S> {
        let Some(channel) = self.channels.get(name) else {
            return Room::Taken;
        };
        let distance = channel.behind((announced.rendition, announced.sequence));
        let account = self.account(pool);
        let over = account.total().saturating_add(more);
        let over = over.saturating_add(foreign);
        let over = over.saturating_sub(account.max).max(short);
        let never = account.used < short;
        match self.evict(pool, Some(distance), over) {
            Some(evicted) => {
                let account = self.account(pool);
                account.reserved += more;
                account.unwritten += more;
                Room::Made(evicted)
            }
            None if never => Room::Never,
            None => Room::Taken,
        }
    }

    /// Of what was set aside, so much has been written.
    pub(in crate::store) fn wrote(&mut self, pool: Pool, bytes: u64) {
        let account = self.account(pool);
        account.unwritten = account.unwritten.saturating_sub(bytes);
    }

    /// Gives back what was set aside, `unwritten` of it unwritten, or what has been deleted.
    pub(in crate::store) fn release(&mut self, pool: Pool, bytes: u64, unwritten: u64) {
        let account = self.account(pool);
        account.reserved = account.reserved.saturating_sub(bytes);
        account.unwritten = account.unwritten.saturating_sub(unwritten);
    }

    /// What is about to be deleted takes room until it is ([`Self::release`]).
    pub(in crate::store) fn leaves(&mut self, segment: &S) {
        if segment.pool() == Pool::Disk {
            self.disk.reserved += segment.bytes();
        }
    }

    /// Bytes that are set aside on the disk and not written yet.
    pub(in crate::store) fn unwritten(&self) -> u64 {
        self.disk.unwritten
    }

    /// Takes at least `bytes` bytes of segments out of memory, or all that there are.
    pub(in crate::store) fn evict_from_memory(&mut self, bytes: u64) -> Vec<S> {
        let bytes = bytes.min(self.memory.used);
        self.evict(Pool::Memory, None, bytes).unwrap_or_default()
    }

    /// Takes out what is more than the disk may hold.
    pub(super) fn evict_surplus(&mut self) -> Vec<S> {
        let over = self.disk.total().saturating_sub(self.disk.max);
        let evicted = self.evict(Pool::Disk, None, over).unwrap_or_default();
        for segment in &evicted {
            self.leaves(segment);
        }
        evicted
    }

    /// Bytes of all stored segments in a pool.
    pub(in crate::store) fn used(&self, pool: Pool) -> u64 {
        match pool {
            Pool::Disk => self.disk.used,
            Pool::Memory => self.memory.used,
        }
    }

    /// Takes out at least `bytes` bytes of segments of a pool, all of them further behind the live
    /// edge than `distance`; `None`, and nothing is taken out, if there are not so many.
    fn evict(&mut self, pool: Pool, distance: Option<u64>, bytes: u64) -> Option<Vec<S>> {
        if bytes == 0 {
            return Some(Vec::new());
        }
        let mut candidates: Vec<(u64, ChannelName, Key, u64)> = Vec::new();
        for (name, channel) in &self.channels {
            let stored = channel.stored(pool);
            let further = stored.filter(|(behind, ..)| distance.is_none_or(|d| *behind > d));
            candidates.extend(further.map(|(behind, key, size)| (behind, name.clone(), key, size)));
        }
        candidates.sort_by_key(|(behind, ..)| std::cmp::Reverse(*behind));
        let mut freed = 0;
        let enough = candidates.iter().position(|(.., size)| {
            freed += size;
            freed >= bytes
        })?;
        candidates.truncate(enough + 1);
        let evicted = candidates.into_iter().filter_map(|(_, name, key, _)| {
            let entry = self.channels.get_mut(&name)?.entries.get_mut(&key)?;
            std::mem::replace(&mut entry.state, State::Gone).stored()
        });
        let evicted: Vec<S> = evicted.collect();
        self.account(pool).used -= evicted.iter().map(S::bytes).sum::<u64>();
        Some(evicted)
    }
}

impl Account {
    pub(super) fn new(max: u64) -> Self {
        Self {
            max,
            used: 0,
            reserved: 0,
            unwritten: 0,
        }
    }

    fn total(&self) -> u64 {
        self.used.saturating_add(self.reserved)
    }
}
