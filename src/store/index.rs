//! What is stored, what is on its way, and what goes when room is needed. Pure: no files, no
//! clock; what is taken out is returned for the caller to delete.
//!
//! Room is made from the far end: the segment that lies the most segments behind the live edge
//! of its rendition goes first, of whatever channel, and never in favour of one further behind.

mod channel;
mod names;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
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
    /// Bytes of its file.
    fn bytes(&self) -> u64;
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

    fn bytes(&self) -> u64 {
        self.file_len()
    }
}

/// One announcement: what was begun for it cannot be stored for a later one of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket(u64);

#[derive(Debug)]
pub(super) struct Index<S> {
    max_size: u64,
    used: u64,
    reserved: u64,
    tickets: u64,
    channels: BTreeMap<ChannelName, Channel<S>>,
}

#[derive(Debug, PartialEq)]
pub(super) enum Lookup<S> {
    Ready(S),
    Coming,
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
    pub(super) fn new(
        max_size: u64,
        channels: impl IntoIterator<Item = (ChannelName, Matching)>,
    ) -> Self {
        let channel = |(name, matching)| (name, Channel::new(matching));
        Self {
            max_size,
            used: 0,
            reserved: 0,
            tickets: 0,
            channels: channels.into_iter().map(channel).collect(),
        }
    }

    /// Takes in a segment that an earlier run stored; removed is what does not fit any more.
    pub(super) fn restore(&mut self, name: &ChannelName, segment: S) -> Outcome<S> {
        let Some(channel) = self.channels.get_mut(name) else {
            return Outcome {
                removed: vec![segment],
                first_clash: None,
            };
        };
        let key = (segment.rendition(), segment.sequence());
        self.used += segment.bytes();
        let entry = Entry {
            uri: segment.uri().clone(),
            resource: None,
            state: State::Ready(segment),
        };
        let first_clash = channel.insert(key, entry);
        let mut removed = Vec::new();
        while self.used > self.max_size {
            let Some(evicted) = self.evict_behind(None) else {
                break;
            };
            removed.push(evicted);
        }
        Outcome {
            removed,
            first_clash,
        }
    }

    /// Removes everything of a channel.
    pub(super) fn clear(&mut self, name: &ChannelName) -> Vec<S> {
        let Some(channel) = self.channels.get_mut(name) else {
            return Vec::new();
        };
        let removed = channel.clear();
        self.used -= removed.iter().map(S::bytes).sum::<u64>();
        removed
    }

    pub(super) fn stored(&self, name: &ChannelName, rendition: RenditionIndex) -> Vec<S> {
        let entries = self.channels.get(name).into_iter();
        entries
            .flat_map(|channel| channel.of_rendition(rendition))
            .filter_map(|(_, entry)| entry.ready().cloned())
            .collect()
    }

    /// A playlist lists these, whether or not they are fetched: what of them an earlier run stored is
    /// known now for what it is. The first name ever that stands for two things by that.
    pub(super) fn identify(&mut self, name: &ChannelName, listed: &[Announced]) -> Option<String> {
        let channel = self.channels.get_mut(name)?;
        let mut first_clash = None;
        for listed in listed {
            let key = (listed.rendition, listed.sequence);
            let entry = channel.entries.get(&key);
            if entry.is_some_and(|e| e.uri == listed.uri && e.resource.is_none()) {
                first_clash = first_clash.or(channel.identify(key, &listed.resource));
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
            match channel.entries.get(&key) {
                Some(entry) if entry.uri == announced.uri && !entry.is_gone() => continue,
                _ => {}
            }
            if let Some(old) = channel.remove(key) {
                self.used -= old.bytes();
                outcome.removed.push(old);
            }
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

    /// Sets `more` bytes aside for a segment, and evicts at least `short` bytes. Returns what was
    /// evicted, and whether there is room now.
    pub(super) fn reserve(
        &mut self,
        name: &ChannelName,
        announced: &Announced,
        more: u64,
        short: u64,
    ) -> (Vec<S>, bool) {
        let mut removed = Vec::new();
        let Some(channel) = self.channels.get(name) else {
            return (removed, false);
        };
        let distance = channel.behind((announced.rendition, announced.sequence));
        let mut freed = 0;
        loop {
            let total = self.used.saturating_add(self.reserved).saturating_add(more);
            if total <= self.max_size && freed >= short {
                self.reserved += more;
                return (removed, true);
            }
            let Some(evicted) = self.evict_behind(Some(distance)) else {
                return (removed, false);
            };
            freed += evicted.bytes();
            removed.push(evicted);
        }
    }

    pub(super) fn release(&mut self, bytes: u64) {
        self.reserved = self.reserved.saturating_sub(bytes);
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
        self.used += segment.bytes();
        entry.state = State::Ready(segment);
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
        self.used -= removed.iter().map(S::bytes).sum::<u64>();
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

    /// Bytes of all stored files.
    pub(super) fn used(&self) -> u64 {
        self.used
    }

    /// Takes out the segment that is the furthest behind its live edge, if it is further behind
    /// than `distance`.
    fn evict_behind(&mut self, distance: Option<u64>) -> Option<S> {
        let (behind, name, key) = self
            .channels
            .iter()
            .flat_map(|(name, channel)| {
                let candidates = channel.furthest().into_iter();
                candidates.map(move |(behind, key)| (behind, name, key))
            })
            .max_by_key(|(behind, _, _)| *behind)
            .map(|(behind, name, key)| (behind, name.clone(), key))?;
        if distance.is_some_and(|distance| behind <= distance) {
            return None;
        }
        let entry = self.channels.get_mut(&name)?.entries.get_mut(&key)?;
        match std::mem::replace(&mut entry.state, State::Gone) {
            State::Ready(segment) => {
                self.used -= segment.bytes();
                Some(segment)
            }
            _ => None,
        }
    }
}
