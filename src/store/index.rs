//! What is stored, what is on its way, and what goes when room is needed. Pure: no files, no
//! clock; what is taken out is returned for the caller to delete.
//!
//! Room is made from the far end: the segment that lies the most segments behind the live edge
//! of its rendition goes first, of whatever channel, and never in favour of one further behind.
//! Where that does not make enough room, nothing goes at all.

mod channel;
mod names;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use self::channel::{Channel, Entry, State};
use super::{Ambiguous, Announced, Segment, Summary};
use crate::config::Matching;
use crate::ids::{ChannelName, MediaSequence, RenditionIndex, SegmentUri};

/// What the index has to know of what is stored.
pub(super) trait Stored: Clone {
    fn rendition(&self) -> RenditionIndex;
    fn sequence(&self) -> MediaSequence;
    fn uri(&self) -> &SegmentUri;
    /// Where its bytes are.
    fn pool(&self) -> Pool;
    /// How many bytes of that it takes.
    fn bytes(&self) -> u64;
}

/// What segments take room of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pool {
    /// `max-size`.
    Disk,
    /// The part of `max-buffers` that may be held while the disk cannot be written to.
    Memory,
}

/// Names a segment within a channel.
type Key = (RenditionIndex, MediaSequence);

impl Stored for Arc<Segment> {
    fn rendition(&self) -> RenditionIndex {
        Segment::rendition(self)
    }

    fn sequence(&self) -> MediaSequence {
        Segment::sequence(self)
    }

    fn uri(&self) -> &SegmentUri {
        Segment::uri(self)
    }

    fn pool(&self) -> Pool {
        match self.path() {
            Some(_) => Pool::Disk,
            None => Pool::Memory,
        }
    }

    fn bytes(&self) -> u64 {
        self.occupied()
    }
}

/// One announcement: what was begun for it cannot be stored for a later one of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket(u64);

#[derive(Debug)]
pub(super) struct Index<S> {
    disk: Account,
    memory: Account,
    tickets: u64,
    channels: BTreeMap<ChannelName, Channel<S>>,
}

/// What a pool has, and who has it.
#[derive(Debug)]
struct Account {
    max: u64,
    /// Of what is stored.
    used: u64,
    /// Set aside for what is on its way, and taken by what is being deleted.
    reserved: u64,
    /// Of those set aside, the ones that have not been written yet.
    unwritten: u64,
}

#[derive(Debug, PartialEq)]
pub(super) enum Lookup<S> {
    Ready(S),
    /// An earlier run stored it, and nobody has seen yet whether it still is whole.
    Unproven(S, Ticket),
    Coming,
    /// Not announced yet, but just past what is.
    Ahead,
    Absent,
}

/// What an announcement brought about.
#[derive(Debug)]
pub(super) struct Outcome<S> {
    /// Segments of the same number under another URI.
    pub(super) removed: Vec<S>,
    /// The first name ever that stands for two things.
    pub(super) first_clash: Option<String>,
}

/// What there is less of than the pool says.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scarcity {
    /// Bytes of the pool that are taken by what is no segment.
    pub(super) foreign: u64,
    /// Bytes that have to be evicted at least, whatever the pool has left.
    pub(super) short: u64,
}

/// The answer to [`Index::reserve`].
#[derive(Debug, PartialEq)]
pub(super) enum Room<S> {
    /// There is room once these are deleted, which is for the caller to do first.
    Made(Vec<S>),
    /// There would not be, unless by deleting what is nearer to the live edge.
    Taken,
    /// Even without any segment the file system would be as `short` as it is.
    Never,
}

impl<S: Stored> Index<S> {
    /// An index of these channels, with so many bytes of disk and of memory.
    pub(super) fn new(
        max_disk: u64,
        max_memory: u64,
        channels: impl IntoIterator<Item = (ChannelName, Matching)>,
    ) -> Self {
        let channel = |(name, matching)| (name, Channel::new(matching));
        Self {
            disk: Account::new(max_disk),
            memory: Account::new(max_memory),
            tickets: 0,
            channels: channels.into_iter().map(channel).collect(),
        }
    }

    fn account(&mut self, pool: Pool) -> &mut Account {
        match pool {
            Pool::Disk => &mut self.disk,
            Pool::Memory => &mut self.memory,
        }
    }

    fn ticket_for_new(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    /// Takes in what an earlier run stored, none of it proven; returns what does not fit any more.
    pub(super) fn restore(
        &mut self,
        segments: impl IntoIterator<Item = (ChannelName, S)>,
    ) -> Vec<S> {
        let mut surplus = Vec::new();
        for (name, segment) in segments {
            let ticket = self.ticket_for_new();
            self.disk.used += segment.bytes();
            let key = (segment.rendition(), segment.sequence());
            match self.channels.get_mut(&name) {
                Some(channel) if !channel.entries.contains_key(&key) => {
                    let entry = Entry {
                        uri: segment.uri().clone(),
                        url: None,
                        state: State::Unproven(segment, ticket),
                    };
                    channel.insert(key, entry);
                }
                _ => surplus.push(segment),
            }
        }
        self.leave(&surplus);
        let over = self.disk.total().saturating_sub(self.disk.max);
        let over = self.evict(Pool::Disk, None, over).unwrap_or_default();
        for segment in &over {
            self.leaves(segment);
        }
        surplus.extend(over);
        surplus
    }

    /// What was taken out takes room on the disk until it is deleted ([`Self::release`]).
    fn leave(&mut self, removed: &[S]) {
        for segment in removed {
            self.account(segment.pool()).used -= segment.bytes();
            self.leaves(segment);
        }
    }

    /// Removes everything of a channel.
    pub(super) fn clear(&mut self, name: &ChannelName) -> Vec<S> {
        let channel = self.channels.get_mut(name);
        let removed = channel.map(Channel::clear).unwrap_or_default();
        self.leave(&removed);
        removed
    }

    /// What is stored of a channel, proven or not.
    pub(super) fn stored(&self, name: &ChannelName) -> impl Iterator<Item = &S> {
        let entries = self.channels.get(name).into_iter();
        let entries = entries.flat_map(|channel| channel.entries.values());
        entries.filter_map(Entry::stored)
    }

    pub(super) fn announce(
        &mut self,
        name: &ChannelName,
        segments: &[Announced],
        now: Instant,
    ) -> Outcome<S> {
        let mut outcome = Outcome {
            removed: Vec::new(),
            first_clash: None,
        };
        let Some(channel) = self.channels.get_mut(name) else {
            return outcome;
        };
        channel.alive = Some(now);
        for announced in segments {
            let key = (announced.rendition, announced.sequence);
            if channel.has(announced) {
                continue;
            }
            outcome.removed.extend(channel.remove(key));
            self.tickets += 1;
            let entry = Entry {
                uri: announced.uri.clone(),
                url: Some(announced.url.clone()),
                state: State::Coming(Ticket(self.tickets)),
            };
            if let Some(name) = channel.insert(key, entry) {
                outcome.first_clash.get_or_insert(name);
            }
        }
        self.leave(&outcome.removed);
        outcome
    }

    /// Nothing of this rendition can be told from what a playlist that is not followed lists, when
    /// names are matched like that. Whether this is new.
    pub(super) fn share(
        &mut self,
        name: &ChannelName,
        rendition: RenditionIndex,
        matching: Matching,
    ) -> bool {
        let channel = self.channels.get_mut(name);
        channel.is_some_and(|channel| channel.share(rendition, matching))
    }

    /// The ticket of a segment that is on its way.
    pub(super) fn ticket(&self, name: &ChannelName, announced: &Announced) -> Option<Ticket> {
        let key = (announced.rendition, announced.sequence);
        let entry = self.channels.get(name)?.entries.get(&key)?;
        match entry.state {
            State::Coming(ticket) if entry.uri == announced.uri => Some(ticket),
            _ => None,
        }
    }

    /// How it stands with an announced segment.
    pub(super) fn standing(&self, name: &ChannelName, announced: &Announced) -> Lookup<S> {
        let channel = self.channels.get(name);
        channel.map_or(Lookup::Absent, |channel| channel.standing(announced))
    }

    /// A segment of an earlier run has been read: it is found from now on, or taken out if it is
    /// not whole.
    pub(super) fn proved(
        &mut self,
        name: &ChannelName,
        segment: &S,
        ticket: Ticket,
        whole: bool,
    ) -> Option<S> {
        let key = (segment.rendition(), segment.sequence());
        let anew = self.ticket_for_new();
        let entry = self.channels.get_mut(name)?.entries.get_mut(&key)?;
        if !matches!(entry.state, State::Unproven(_, current) if current == ticket) {
            return None;
        }
        if whole {
            entry.state = State::Ready(segment.clone());
            return None;
        }
        let state = match entry.url {
            Some(_) => State::Coming(anew),
            None => State::Gone,
        };
        let removed = std::mem::replace(&mut entry.state, state).stored()?;
        self.leave(std::slice::from_ref(&removed));
        Some(removed)
    }

    /// A stored segment cannot be read any more.
    pub(super) fn lose(&mut self, name: &ChannelName, segment: &S) -> Option<S> {
        let key = (segment.rendition(), segment.sequence());
        let entry = self.channels.get_mut(name)?.entries.get_mut(&key)?;
        entry.ready().filter(|ready| ready.uri() == segment.uri())?;
        let removed = std::mem::replace(&mut entry.state, State::Gone).stored()?;
        self.leave(std::slice::from_ref(&removed));
        Some(removed)
    }

    /// Sets `more` bytes of a pool aside for a segment.
    pub(super) fn reserve(
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
    pub(super) fn wrote(&mut self, pool: Pool, bytes: u64) {
        let account = self.account(pool);
        account.unwritten = account.unwritten.saturating_sub(bytes);
    }

    /// Gives back what was set aside, `unwritten` of it unwritten, or what has been deleted.
    pub(super) fn release(&mut self, pool: Pool, bytes: u64, unwritten: u64) {
        let account = self.account(pool);
        account.reserved = account.reserved.saturating_sub(bytes);
        account.unwritten = account.unwritten.saturating_sub(unwritten);
    }

    /// What is about to be deleted takes room until it is ([`Self::release`]).
    pub(super) fn leaves(&mut self, segment: &S) {
        if segment.pool() == Pool::Disk {
            self.disk.reserved += segment.bytes();
        }
    }

    /// Bytes that are set aside on the disk and not written yet.
    pub(super) fn unwritten(&self) -> u64 {
        self.disk.unwritten
    }

    /// Takes at least `bytes` bytes of segments out of memory, or all that there are.
    pub(super) fn evict_from_memory(&mut self, bytes: u64) -> Vec<S> {
        let bytes = bytes.min(self.memory.used);
        self.evict(Pool::Memory, None, bytes).unwrap_or_default()
    }

    /// Lets a segment be found; false if its announcement does not stand any more.
    pub(super) fn store(&mut self, name: &ChannelName, ticket: Ticket, segment: S) -> bool {
        let key = (segment.rendition(), segment.sequence());
        let channel = self.channels.get_mut(name);
        let Some(entry) = channel.and_then(|channel| channel.entries.get_mut(&key)) else {
            return false;
        };
        if !matches!(entry.state, State::Coming(current) if current == ticket) {
            return false;
        }
        let (pool, bytes) = (segment.pool(), segment.bytes());
        entry.state = State::Ready(segment);
        self.account(pool).used += bytes;
        true
    }

    /// Whether that changed anything.
    pub(super) fn give_up(&mut self, name: &ChannelName, announced: &Announced) -> bool {
        let key = (announced.rendition, announced.sequence);
        let channel = self.channels.get_mut(name);
        let Some(entry) = channel.and_then(|channel| channel.entries.get_mut(&key)) else {
            return false;
        };
        let coming = matches!(entry.state, State::Coming(_)) && entry.uri == announced.uri;
        if coming {
            entry.state = State::Gone;
        }
        coming
    }

    pub(super) fn expire(
        &mut self,
        name: &ChannelName,
        segments: &[(RenditionIndex, MediaSequence, SegmentUri)],
    ) -> Vec<S> {
        let Some(channel) = self.channels.get_mut(name) else {
            return Vec::new();
        };
        let mut removed = Vec::new();
        for (rendition, sequence, uri) in segments {
            let key = (*rendition, *sequence);
            if channel.entries.get(&key).is_some_and(|e| e.uri == *uri) {
                removed.extend(channel.remove(key));
            }
        }
        self.leave(&removed);
        removed
    }

    pub(super) fn find(
        &self,
        name: &ChannelName,
        uri: &str,
        sequence: Option<MediaSequence>,
        now: Instant,
    ) -> Lookup<S> {
        match self.channels.get(name) {
            Some(channel) => channel.find(uri, sequence, now),
            None => Lookup::Absent,
        }
    }

    /// What is listed and not served because of its name.
    pub(super) fn ambiguous(&self, name: &ChannelName) -> Option<Ambiguous> {
        self.channels.get(name)?.ambiguous()
    }

    pub(super) fn summary(&self, name: &ChannelName) -> Summary {
        let mut summary = Summary::default();
        let entries = self.channels.get(name).into_iter();
        for ((_, sequence), entry) in entries.flat_map(|channel| &channel.entries) {
            if let Some(segment) = entry.ready() {
                summary.segments += 1;
                summary.bytes += segment.bytes();
                summary.newest = summary.newest.max(Some(*sequence));
            }
        }
        summary
    }

    /// The highest number that is stored, over all renditions. Each viewer asks for it at every
    /// datagram, so it looks at the end of each rendition and not at every segment.
    pub(super) fn newest_of_all(&self, name: &ChannelName) -> Option<MediaSequence> {
        let ((last, _), _) = self.channels.get(name)?.entries.last_key_value()?;
        (0..=last.0)
            .filter_map(|rendition| self.newest(name, RenditionIndex(rendition)))
            .max()
    }

    /// The highest number that is stored of one rendition.
    pub(super) fn newest(
        &self,
        name: &ChannelName,
        rendition: RenditionIndex,
    ) -> Option<MediaSequence> {
        let mut entries = self.channels.get(name)?.of_rendition(rendition).rev();
        entries
            .find(|(_, entry)| entry.ready().is_some())
            .map(|((_, sequence), _)| *sequence)
    }

    /// Bytes of all stored segments in a pool.
    pub(super) fn used(&self, pool: Pool) -> u64 {
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
    fn new(max: u64) -> Self {
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
