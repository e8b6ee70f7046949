//! What is stored, what is on its way, and what goes when room is needed. Pure: no files, no
//! clock; what is taken out is returned for the caller to delete.
//!
//! Room is made from the far end: the segment that lies the most segments behind the live edge
//! of its rendition goes first, of whatever channel, and never in favour of one further behind.
//! Where that does not make enough room, nothing goes at all.

mod channel;
mod names;
mod room;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use self::channel::{Channel, Entry, State};
use self::room::Account;
pub(super) use self::room::{Pool, Room, Wish};
use super::{Ambiguous, Announced, Segment, Summary};
use crate::config::Matching;
use crate::ids::{ByteRange, ChannelName, MediaSequence, RenditionIndex, Resource, SegmentUri};

/// What the index has to know of what is stored.
pub(super) trait Stored: Clone {
    fn rendition(&self) -> RenditionIndex;
    fn sequence(&self) -> MediaSequence;
    fn uri(&self) -> &SegmentUri;
    /// Which part of a resource it is.
    fn range(&self) -> Option<ByteRange>;
    /// Where its bytes are.
    fn pool(&self) -> Pool;
    /// How many bytes of that it takes.
    fn bytes(&self) -> u64;
    /// Whether both are the same one.
    fn is(&self, other: &Self) -> bool;
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

    fn range(&self) -> Option<ByteRange> {
        Segment::range(self)
    }

    fn pool(&self) -> Pool {
        Segment::pool(self)
    }

    fn bytes(&self) -> u64 {
        self.occupied()
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(self, other)
    }
}

/// One announcement: what was begun for it cannot be stored for a later one of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ticket(u64);

#[derive(Debug)]
pub(super) struct Index<S> {
    disk: Account,
    memory: Account,
    tickets: u64,
    channels: BTreeMap<ChannelName, Channel<S>>,
}

#[derive(Debug, PartialEq)]
pub(super) enum Lookup<S> {
    Ready(S),
    /// An earlier run stored it, and nobody has seen yet whether it still is whole.
    Unproven(S, Ticket),
    /// On its way.
    Coming(Ticket),
    /// It is here, and whether it is still what is meant by its name will be known in a moment.
    Unconfirmed,
    /// Not announced yet, but just past what is.
    Ahead,
    Absent,
}

/// What an announcement brought about.
#[derive(Debug)]
pub(super) struct Outcome<S> {
    /// Segments of the same number under another URI, or beyond the quota.
    pub(super) removed: Vec<S>,
    /// The first name ever that stands for two things.
    pub(super) first_clash: Option<String>,
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

    fn ticket_for_new(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    /// Takes in a segment that an earlier run stored, unproven; removed is it if another one has its
    /// place.
    pub(super) fn restore(&mut self, name: &ChannelName, segment: S) -> Outcome<S> {
        let ticket = self.ticket_for_new();
        let key = (segment.rendition(), segment.sequence());
        let mut outcome = Outcome {
            removed: Vec::new(),
            first_clash: None,
        };
        let bytes = segment.bytes();
        match self.channels.get_mut(name) {
            Some(channel) if !channel.entries.contains_key(&key) => {
                let entry = Entry {
                    uri: segment.uri().clone(),
                    resource: None,
                    state: State::Unproven(segment, ticket),
                };
                outcome.first_clash = channel.insert(key, entry);
                self.disk.used += bytes;
            }
            _ => {
                self.leaves(Pool::Disk, bytes);
                outcome.removed.push(segment);
            }
        }
        outcome
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

    /// A playlist lists these, whether or not they are fetched: what of them an earlier run stored is
    /// known now for what it is. The first name ever that stands for two things by that.
    pub(super) fn identify(&mut self, name: &ChannelName, listed: &[Announced]) -> Option<String> {
        let channel = self.channels.get_mut(name)?;
        let mut first_clash = None;
        for listed in listed {
            if channel.has(listed) {
                first_clash = first_clash.or(channel.identify(listed));
            }
        }
        first_clash
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
                if let Some(name) = channel.identify(announced) {
                    outcome.first_clash.get_or_insert(name);
                }
                continue;
            }
            outcome.removed.extend(channel.remove(key));
            self.tickets += 1;
            let entry = Entry {
                uri: announced.uri.clone(),
                resource: Some(announced.resource.clone()),
                state: State::Coming(Ticket(self.tickets)),
            };
            if let Some(name) = channel.insert(key, entry) {
                outcome.first_clash.get_or_insert(name);
            }
        }
        self.leave(&outcome.removed);
        outcome
    }

    /// Nothing of these renditions can be told from what playlists that are not followed list, when
    /// names are matched like that; of others it can again if all of those were `seen`. Which were
    /// never told of before.
    pub(super) fn set_shared(
        &mut self,
        name: &ChannelName,
        matching: Matching,
        renditions: BTreeSet<RenditionIndex>,
        seen: bool,
    ) -> BTreeSet<RenditionIndex> {
        match self.channels.get_mut(name) {
            Some(channel) => channel.set_shared(matching, renditions, seen),
            None => BTreeSet::new(),
        }
    }

    /// The last number that a playlist lists, whether or not it was announced.
    pub(super) fn listed(
        &mut self,
        name: &ChannelName,
        rendition: RenditionIndex,
        newest: Option<MediaSequence>,
    ) {
        if let (Some(channel), Some(newest)) = (self.channels.get_mut(name), newest) {
            channel.listed.insert(rendition, newest);
        }
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
        let state = match entry.resource {
            Some(_) => State::Coming(anew),
            None => State::Gone,
        };
        let removed = std::mem::replace(&mut entry.state, state).stored()?;
        self.leave(std::slice::from_ref(&removed));
        Some(removed)
    }

    /// Whether a segment of an earlier run is still to be proven.
    pub(super) fn is_unproven(&self, name: &ChannelName, segment: &S, ticket: Ticket) -> bool {
        let key = (segment.rendition(), segment.sequence());
        let entry = self.channels.get(name).and_then(|c| c.entries.get(&key));
        entry.is_some_and(|entry| matches!(entry.state, State::Unproven(_, t) if t == ticket))
    }

    /// A stored segment cannot be read any more; `None` if it is not stored any more anyway.
    pub(super) fn lose(&mut self, name: &ChannelName, segment: &S) -> Option<S> {
        let key = (segment.rendition(), segment.sequence());
        let channel = self.channels.get_mut(name)?;
        let entry = channel.entries.get_mut(&key)?;
        entry.ready().filter(|ready| ready.is(segment))?;
        let removed = std::mem::replace(&mut entry.state, State::Gone).stored()?;
        if let Some(resource) = entry.resource.clone() {
            let (rendition, sequence) = key;
            let uri = entry.uri.clone();
            channel.lost.push(Announced {
                rendition,
                uri,
                resource,
                sequence,
            });
        }
        self.leave(std::slice::from_ref(&removed));
        Some(removed)
    }

    /// What of a rendition was lost since it was last asked, and is still listed.
    pub(super) fn take_lost(
        &mut self,
        name: &ChannelName,
        rendition: RenditionIndex,
    ) -> Vec<Announced> {
        let Some(channel) = self.channels.get_mut(name) else {
            return Vec::new();
        };
        let taken = channel
            .lost
            .extract_if(.., |lost| lost.rendition == rendition);
        let taken: Vec<Announced> = taken.collect();
        let listed = |lost: &Announced| {
            let entry = channel.entries.get(&(lost.rendition, lost.sequence));
            entry.is_some_and(|entry| entry.is_gone() && entry.uri == lost.uri)
        };
        taken.into_iter().filter(listed).collect()
    }

    /// Lets a segment be found; false if its announcement does not stand any more, and it leaves.
    pub(super) fn store(&mut self, name: &ChannelName, ticket: Ticket, segment: S) -> bool {
        let key = (segment.rendition(), segment.sequence());
        let (pool, bytes) = (segment.pool(), segment.bytes());
        let channel = self.channels.get_mut(name);
        let entry = channel.and_then(|channel| channel.entries.get_mut(&key));
        match entry {
            Some(entry) if matches!(entry.state, State::Coming(current) if current == ticket) => {
                entry.state = State::Ready(segment);
                self.account(pool).used += bytes;
                true
            }
            _ => {
                self.leaves(pool, bytes);
                false
            }
        }
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

    /// What a playlist lists under this number, and where it is at the origin.
    pub(super) fn find_listed(
        &self,
        name: &ChannelName,
        key: Key,
    ) -> Option<(Lookup<S>, Option<Resource>)> {
        self.channels.get(name)?.find_listed(key)
    }

    /// Everything of a rendition that is listed, and stored or on its way.
    pub(super) fn announced(
        &self,
        name: &ChannelName,
        rendition: RenditionIndex,
    ) -> BTreeMap<MediaSequence, Announced> {
        let channel = self.channels.get(name).into_iter();
        let entries = channel.flat_map(|channel| channel.of_rendition(rendition));
        let here = entries.filter(|(_, entry)| !entry.is_gone());
        let announced = here.filter_map(|((rendition, sequence), entry)| {
            let (rendition, sequence) = (*rendition, *sequence);
            let announced = Announced {
                rendition,
                uri: entry.uri.clone(),
                resource: entry.resource.clone()?,
                sequence,
            };
            Some((sequence, announced))
        });
        announced.collect()
    }

    /// What is listed and not served because of its name.
    pub(super) fn ambiguous(&self, name: &ChannelName) -> Option<Ambiguous> {
        self.channels.get(name)?.ambiguous()
    }

    pub(super) fn summary(&self, name: &ChannelName) -> Summary {
        let mut summary = Summary::default();
        let entries = self.channels.get(name).into_iter();
        for ((rendition, sequence), entry) in entries.flat_map(|channel| &channel.entries) {
            if let Some(segment) = entry.ready() {
                summary.bytes += segment.bytes();
                if !rendition.is_sections() {
                    summary.segments += 1;
                    summary.newest = summary.newest.max(Some(*sequence));
                }
            }
        }
        summary
    }

    /// The highest number that is stored, over all renditions. Each viewer asks for it at every
    /// datagram, so it looks at the end of each rendition and not at every segment.
    pub(super) fn newest_of_all(&self, name: &ChannelName) -> Option<MediaSequence> {
        let entries = &self.channels.get(name)?.entries;
        let sections = (RenditionIndex(0).sections(), MediaSequence(0));
        let ((last, _), _) = entries.range(..sections).next_back()?;
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
}
