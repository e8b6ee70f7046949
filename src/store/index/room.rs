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
    /// By what is stored.
    pub(super) used: u64,
    /// By what was taken out and is not gone yet: it has to be deleted, and is being read perhaps.
    leaving: u64,
    /// Set aside for what is on its way.
    reserved: u64,
    /// Of those set aside, the ones that have not been written yet.
    unwritten: u64,
}

/// What is to be set aside.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Wish {
    pub(in crate::store) pool: Pool,
    pub(in crate::store) bytes: u64,
    /// Bytes that there are in fact, whatever the pool has left; less than none if others have taken
    /// what is to be left to them.
    pub(in crate::store) spare: i64,
    /// Whether to wait for what is leaving, rather than to take out more.
    pub(in crate::store) patient: bool,
}

/// The answer to [`Index::reserve`].
#[derive(Debug, PartialEq)]
pub(in crate::store) enum Room<S> {
    /// They are set aside.
    Made,
    /// These have been taken out: ask again once they are deleted.
    Evicted(Vec<S>),
    /// Ask again once what is leaving is gone.
    Leaving,
    /// There would not be room, unless by taking out what is nearer to the live edge.
    Taken,
    /// There would not be without any segment: others have it.
    Never,
}

impl<S: Stored> Index<S> {
    pub(super) fn account(&mut self, pool: Pool) -> &mut Account {
        match pool {
            Pool::Disk => &mut self.disk,
            Pool::Memory => &mut self.memory,
        }
    }

    /// What was taken out takes room until it is gone ([`Self::left`]).
    pub(super) fn leave(&mut self, removed: &[S]) {
        for segment in removed {
            let account = self.account(segment.pool());
            less(&mut account.used, segment.bytes());
            account.leaving += segment.bytes();
        }
    }

    /// What is none of these, and has to be deleted all the same, takes room until then.
    pub(in crate::store) fn leaves(&mut self, pool: Pool, bytes: u64) {
        self.account(pool).leaving += bytes;
    }

    /// What was leaving is gone.
    pub(in crate::store) fn left(&mut self, pool: Pool, bytes: u64) {
        less(&mut self.account(pool).leaving, bytes);
    }

    /// Sets bytes of a pool aside for a segment, or takes out what is further behind the live edge than
    /// that.
    pub(in crate::store) fn reserve(
        &mut self,
        name: &ChannelName,
        announced: &Announced,
        wish: Wish,
    ) -> Room<S> {
        let Some(channel) = self.channels.get(name) else {
            return Room::Taken;
        };
        let distance = channel.behind((announced.rendition, announced.sequence));
        let account = self.account(wish.pool);
        let wanted = account.unwritten.saturating_add(wish.bytes);
        let short = i128::from(wanted) - i128::from(wish.spare);
        let short = u64::try_from(short.max(0)).unwrap_or(u64::MAX);
        let over = account.taken().saturating_add(wish.bytes);
        let over = over.saturating_sub(account.max).max(short);
        if over == 0 {
            account.reserved += wish.bytes;
            account.unwritten += wish.bytes;
            return Room::Made;
        }
        let soon = if wish.patient { account.leaving } else { 0 };
        let never = account.used < short;
        if over <= soon {
            return Room::Leaving;
        }
        match self.evict(wish.pool, Some(distance), over - soon) {
            Some(evicted) => Room::Evicted(evicted),
            None if soon > 0 => Room::Leaving,
            None if never => Room::Never,
            None => Room::Taken,
        }
    }

    /// Of what was set aside, so much has been written.
    pub(in crate::store) fn wrote(&mut self, pool: Pool, bytes: u64) {
        less(&mut self.account(pool).unwritten, bytes);
    }

    /// Gives back what was set aside, `unwritten` of it unwritten.
    pub(in crate::store) fn release(&mut self, pool: Pool, bytes: u64, unwritten: u64) {
        let account = self.account(pool);
        less(&mut account.reserved, bytes);
        less(&mut account.unwritten, unwritten);
    }

    /// Takes at least `bytes` bytes of segments out of memory, or all that there are.
    pub(in crate::store) fn evict_from_memory(&mut self, bytes: u64) -> Vec<S> {
        let bytes = bytes.min(self.memory.used);
        self.evict(Pool::Memory, None, bytes).unwrap_or_default()
    }

    /// Takes at least `bytes` bytes of segments out of memory that are further behind the live edge
    /// than this one; nothing if there are not so many.
    pub(in crate::store) fn evict_for(
        &mut self,
        name: &ChannelName,
        announced: &Announced,
        bytes: u64,
    ) -> Vec<S> {
        let channel = self.channels.get(name);
        let distance = channel.map(|c| c.behind((announced.rendition, announced.sequence)));
        self.evict(Pool::Memory, distance, bytes)
            .unwrap_or_default()
    }

    /// Takes out what is more than the disk may hold.
    pub(in crate::store) fn evict_surplus(&mut self) -> Vec<S> {
        let over = self.disk.used.saturating_sub(self.disk.max);
        self.evict(Pool::Disk, None, over).unwrap_or_default()
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
        self.leave(&evicted);
        Some(evicted)
    }
}

impl Account {
    pub(super) fn new(max: u64) -> Self {
        Self {
            max,
            used: 0,
            leaving: 0,
            reserved: 0,
            unwritten: 0,
        }
    }

    fn taken(&self) -> u64 {
        let taken = self.used.saturating_add(self.leaving);
        taken.saturating_add(self.reserved)
    }
}

/// Nobody gives back what he did not take.
fn less(account: &mut u64, bytes: u64) {
    debug_assert!(*account >= bytes, "{bytes} of {account} bytes");
    *account = account.saturating_sub(bytes);
}
