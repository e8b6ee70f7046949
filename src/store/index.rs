//! What is stored, what is on its way, and what goes when room is needed. Pure: no files, no
//! clock; what is taken out is returned for the caller to delete.
//!
//! Room is made from the far end: the segment that lies the most segments behind the live edge
//! of its rendition goes first, of whatever channel, and never in favour of one further behind.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Announced, Segment, Summary};
use crate::ids::{ChannelName, MediaSequence, RenditionIndex, SegmentUri};

/// How far past the newest announced segment a request is believed: a viewer's playlist is one
/// reload ahead of ours at most, and seldom brings more than this.
const AHEAD: u64 = 3;
/// How long after its last change a live playlist counts as alive: three of the longest segments
/// in common use (10 s).
const ALIVE: Duration = Duration::from_secs(30);

/// What the index has to know of what is stored.
pub(super) trait Stored: Clone {
    fn rendition(&self) -> RenditionIndex;
    fn sequence(&self) -> MediaSequence;
    fn uri(&self) -> &SegmentUri;
    /// Bytes of its file.
    fn bytes(&self) -> u64;
}

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

type Key = (RenditionIndex, MediaSequence);

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

#[derive(Debug)]
struct Channel<S> {
    entries: BTreeMap<Key, Entry<S>>,
    by_uri: HashMap<SegmentUri, Vec<Key>>,
    /// When a live playlist last changed.
    alive: Option<Instant>,
    ambiguous: bool,
}

#[derive(Debug)]
struct Entry<S> {
    uri: SegmentUri,
    state: State<S>,
}

#[derive(Debug)]
enum State<S> {
    Coming(Ticket),
    Ready(S),
    /// Given up or evicted, and still listed.
    Gone,
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
    /// Segments of the same number under another URI.
    pub(super) removed: Vec<S>,
    /// The first URI that two renditions use.
    pub(super) newly_ambiguous: Option<SegmentUri>,
}

impl<S: Stored> Index<S> {
    pub(super) fn new(max_size: u64, channels: impl IntoIterator<Item = ChannelName>) -> Self {
        let channel = |name| {
            let channel = Channel {
                entries: BTreeMap::new(),
                by_uri: HashMap::new(),
                alive: None,
                ambiguous: false,
            };
            (name, channel)
        };
        Self {
            max_size,
            used: 0,
            reserved: 0,
            tickets: 0,
            channels: channels.into_iter().map(channel).collect(),
        }
    }

    /// Takes in a segment that an earlier run stored; returns what does not fit any more.
    pub(super) fn restore(&mut self, name: &ChannelName, segment: S) -> Vec<S> {
        let Some(channel) = self.channels.get_mut(name) else {
            return vec![segment];
        };
        let key = (segment.rendition(), segment.sequence());
        self.used += segment.bytes();
        channel.insert(key, segment.uri().clone(), State::Ready(segment));
        let mut surplus = Vec::new();
        while self.used > self.max_size {
            let Some(evicted) = self.evict_behind(None) else {
                break;
            };
            surplus.push(evicted);
        }
        surplus
    }

    /// Removes everything of a channel.
    pub(super) fn clear(&mut self, name: &ChannelName) -> Vec<S> {
        let Some(channel) = self.channels.get_mut(name) else {
            return Vec::new();
        };
        channel.by_uri.clear();
        channel.ambiguous = false;
        let entries = std::mem::take(&mut channel.entries);
        let removed: Vec<S> = entries.into_values().filter_map(Entry::segment).collect();
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

    pub(super) fn announce(
        &mut self,
        name: &ChannelName,
        segments: &[Announced],
        now: Instant,
    ) -> Outcome<S> {
        let mut outcome = Outcome {
            removed: Vec::new(),
            newly_ambiguous: None,
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
            let state = State::Coming(Ticket(self.tickets));
            let shared = channel.insert(key, announced.uri.clone(), state);
            if shared && !channel.ambiguous {
                channel.ambiguous = true;
                outcome.newly_ambiguous = Some(announced.uri.clone());
            }
        }
        outcome
    }

    /// Whether this is new.
    pub(super) fn set_ambiguous(&mut self, name: &ChannelName) -> bool {
        let channel = self.channels.get_mut(name);
        channel.is_some_and(|channel| !std::mem::replace(&mut channel.ambiguous, true))
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
        let Some(channel) = self.channels.get(name) else {
            return Lookup::Absent;
        };
        if channel.ambiguous {
            return Lookup::Absent;
        }
        let keys = channel.by_uri.get(&SegmentUri::from(uri));
        let keys = keys.into_iter().flatten();
        // Where one URI recurs and no number is given, the newest is meant.
        let fitting = keys
            .filter(|(_, number)| sequence.is_none_or(|wanted| wanted == *number))
            .max_by_key(|(_, number)| *number);
        match fitting.and_then(|key| channel.entries.get(key)) {
            Some(entry) => match &entry.state {
                // Found at start, and no playlist has been loaded since that says it is still
                // what is meant by this name.
                State::Ready(_) if channel.alive.is_none() => Lookup::Coming,
                State::Ready(segment) => Lookup::Ready(segment.clone()),
                State::Coming(_) => Lookup::Coming,
                State::Gone => Lookup::Absent,
            },
            None if channel.is_next(sequence, now) => Lookup::Ahead,
            None => Lookup::Absent,
        }
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

impl<S: Stored> Channel<S> {
    /// Whether another rendition has the same URI.
    fn insert(&mut self, key: Key, uri: SegmentUri, state: State<S>) -> bool {
        let keys = self.by_uri.entry(uri.clone()).or_default();
        let shared = keys.iter().any(|(rendition, _)| *rendition != key.0);
        keys.push(key);
        self.entries.insert(key, Entry { uri, state });
        shared
    }

    fn remove(&mut self, key: Key) -> Option<S> {
        let entry = self.entries.remove(&key)?;
        if let Some(keys) = self.by_uri.get_mut(&entry.uri) {
            keys.retain(|other| *other != key);
            if keys.is_empty() {
                self.by_uri.remove(&entry.uri);
            }
        }
        entry.segment()
    }

    fn of_rendition(
        &self,
        rendition: RenditionIndex,
    ) -> impl DoubleEndedIterator<Item = (&Key, &Entry<S>)> {
        let first = (rendition, MediaSequence(0));
        let last = (rendition, MediaSequence(u64::MAX));
        self.entries.range(first..=last)
    }

    /// How many segments lie between this one and the live edge of its rendition.
    fn behind(&self, (rendition, sequence): Key) -> u64 {
        let newest = self.of_rendition(rendition).next_back();
        newest.map_or(0, |((_, newest), _)| newest.0.saturating_sub(sequence.0))
    }

    /// The oldest stored segment of each rendition, as far as it is behind; the furthest of them.
    fn furthest(&self) -> Option<(u64, Key)> {
        let mut renditions: Vec<RenditionIndex> = self.entries.keys().map(|key| key.0).collect();
        renditions.dedup();
        let oldest = renditions.into_iter().filter_map(|rendition| {
            let mut entries = self.of_rendition(rendition);
            entries.find(|(_, entry)| entry.ready().is_some())
        });
        oldest
            .map(|(key, _)| (self.behind(*key), *key))
            .max_by_key(|(behind, _)| *behind)
    }

    fn is_next(&self, sequence: Option<MediaSequence>, now: Instant) -> bool {
        let alive = self.alive.is_some_and(|at| now.duration_since(at) < ALIVE);
        let newest = self.entries.keys().map(|(_, sequence)| sequence.0).max();
        match (alive, sequence, newest) {
            (true, Some(MediaSequence(wanted)), Some(newest)) => {
                (1..=AHEAD).contains(&wanted.saturating_sub(newest))
            }
            _ => false,
        }
    }
}

impl<S> Entry<S> {
    fn ready(&self) -> Option<&S> {
        match &self.state {
            State::Ready(segment) => Some(segment),
            _ => None,
        }
    }

    fn segment(self) -> Option<S> {
        match self.state {
            State::Ready(segment) => Some(segment),
            _ => None,
        }
    }

    fn is_gone(&self) -> bool {
        matches!(self.state, State::Gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Fake(Announced, u64);

    impl Stored for Fake {
        fn rendition(&self) -> RenditionIndex {
            self.0.rendition
        }

        fn sequence(&self) -> MediaSequence {
            self.0.sequence
        }

        fn uri(&self) -> &SegmentUri {
            &self.0.uri
        }

        fn bytes(&self) -> u64 {
            self.1
        }
    }

    fn named(rendition: u16, sequence: u64, uri: &str) -> Announced {
        Announced {
            rendition: RenditionIndex(rendition),
            uri: uri.into(),
            sequence: MediaSequence(sequence),
        }
    }

    fn number(sequence: u64) -> Announced {
        named(0, sequence, &format!("{sequence}.ts"))
    }

    fn news() -> ChannelName {
        "news".into()
    }

    fn index(max_size: u64) -> Index<Fake> {
        Index::new(max_size, [news(), "sport".into()])
    }

    fn announce(index: &mut Index<Fake>, segments: &[Announced]) -> Outcome<Fake> {
        index.announce(&news(), segments, Instant::now())
    }

    /// Stores what has been announced, if there is room.
    fn store(index: &mut Index<Fake>, announced: &Announced, bytes: u64) -> Option<Vec<u64>> {
        let ticket = index.ticket(&news(), announced).unwrap();
        let (evicted, room) = index.reserve(&news(), announced, bytes, 0);
        if room {
            assert!(index.store(&news(), ticket, Fake(announced.clone(), bytes)));
            index.release(bytes);
        }
        room.then(|| evicted.iter().map(|f| f.sequence().0).collect())
    }

    fn find(index: &Index<Fake>, uri: &str, sequence: Option<u64>) -> Lookup<Fake> {
        index.find(&news(), uri, sequence.map(MediaSequence), Instant::now())
    }

    #[test]
    fn a_segment_is_coming_once_announced_and_ready_once_stored() {
        let mut index = index(1000);
        assert_eq!(find(&index, "1.ts", Some(1)), Lookup::Absent);
        announce(&mut index, &[number(1)]);
        assert_eq!(find(&index, "1.ts", Some(1)), Lookup::Coming);
        store(&mut index, &number(1), 10).unwrap();
        let ready = Lookup::Ready(Fake(number(1), 10));
        assert_eq!(find(&index, "1.ts", Some(1)), ready);
        assert_eq!(find(&index, "1.ts", None), ready);
        assert_eq!(find(&index, "1.ts", Some(2)), Lookup::Ahead, "2 is next");
        assert_eq!(
            find(&index, "1.ts", Some(0)),
            Lookup::Absent,
            "other number"
        );
        assert_eq!(index.summary(&news()).newest, Some(MediaSequence(1)));
        assert_eq!(index.newest_of_all(&news()), Some(MediaSequence(1)));
    }

    #[test]
    fn what_was_given_up_or_expired_is_absent() {
        let mut index = index(1000);
        announce(&mut index, &[number(1), number(2), number(3)]);
        assert!(index.give_up(&news(), &number(3)));
        assert_eq!(find(&index, "3.ts", Some(3)), Lookup::Absent);
        store(&mut index, &number(1), 10).unwrap();
        assert!(!index.give_up(&news(), &number(1)), "it is here");
        let expired = (RenditionIndex(0), MediaSequence(1), "1.ts".into());
        assert_eq!(index.expire(&news(), &[expired]).len(), 1);
        assert_eq!(find(&index, "1.ts", Some(1)), Lookup::Absent);
        assert_eq!(index.used(), 0);
    }

    #[test]
    fn a_viewer_that_loaded_the_playlist_before_us_may_wait() {
        let mut index = index(1000);
        let start = Instant::now();
        index.announce(&news(), &[number(10)], start);
        let ask = |sequence, after| {
            index.find(
                &news(),
                "new.ts",
                Some(MediaSequence(sequence)),
                start + after,
            )
        };
        assert_eq!(ask(11, Duration::ZERO), Lookup::Ahead);
        assert_eq!(ask(13, Duration::ZERO), Lookup::Ahead);
        assert_eq!(ask(14, Duration::ZERO), Lookup::Absent, "too far ahead");
        assert_eq!(ask(10, Duration::ZERO), Lookup::Absent, "another name");
        assert_eq!(ask(11, ALIVE), Lookup::Absent, "the playlist stands still");
        let unnamed = index.find(&news(), "new.ts", None, start);
        assert_eq!(unnamed, Lookup::Absent);
    }

    #[test]
    fn a_name_that_two_renditions_use_is_never_served() {
        let mut index = index(1000);
        assert!(announce(&mut index, &[number(1)]).newly_ambiguous.is_none());
        store(&mut index, &number(1), 10).unwrap();
        let outcome = announce(&mut index, &[named(1, 1, "1.ts")]);
        assert_eq!(outcome.newly_ambiguous, Some("1.ts".into()));
        assert_eq!(find(&index, "1.ts", Some(1)), Lookup::Absent);
        let again = announce(&mut index, &[named(1, 2, "2.ts"), number(2)]);
        assert!(again.newly_ambiguous.is_none(), "told once");
    }

    #[test]
    fn a_recurring_uri_is_told_apart_by_its_number() {
        let mut index = index(1000);
        announce(&mut index, &[named(0, 1, "ad.ts"), named(0, 5, "ad.ts")]);
        store(&mut index, &named(0, 1, "ad.ts"), 10).unwrap();
        assert!(matches!(find(&index, "ad.ts", Some(1)), Lookup::Ready(_)));
        assert_eq!(find(&index, "ad.ts", Some(5)), Lookup::Coming);
        assert_eq!(find(&index, "ad.ts", None), Lookup::Coming);
    }

    #[test]
    fn the_quota_evicts_what_is_furthest_behind_and_never_for_something_older() {
        let mut index = index(30);
        let all: Vec<_> = (1..=5).map(number).collect();
        announce(&mut index, &all);
        // As after a start: the newest first.
        for sequence in [5, 4, 3] {
            assert_eq!(store(&mut index, &number(sequence), 10), Some(vec![]));
        }
        assert_eq!(store(&mut index, &number(2), 10), None);
        announce(&mut index, &[number(6)]);
        assert_eq!(store(&mut index, &number(6), 10), Some(vec![3]));
        assert_eq!(find(&index, "3.ts", Some(3)), Lookup::Absent);
        assert_eq!(index.used(), 30);
    }

    #[test]
    fn room_is_made_from_the_channel_that_is_furthest_behind() {
        let mut index = index(40);
        index.restore(&"sport".into(), Fake(number(1), 10));
        index.restore(&"sport".into(), Fake(number(9), 10));
        announce(&mut index, &[number(100), number(101)]);
        assert_eq!(store(&mut index, &number(100), 10), Some(vec![]));
        let (evicted, room) = index.reserve(&news(), &number(101), 20, 0);
        assert!(room);
        assert_eq!(evicted, [Fake(number(1), 10)]);
    }

    #[test]
    fn a_short_file_system_evicts_too() {
        let mut index = index(1000);
        announce(&mut index, &(1..=4).map(number).collect::<Vec<_>>());
        for sequence in 1..=3 {
            store(&mut index, &number(sequence), 10).unwrap();
        }
        let (evicted, room) = index.reserve(&news(), &number(4), 10, 15);
        assert!(room);
        assert_eq!(evicted.len(), 2);
        let (evicted, room) = index.reserve(&news(), &number(4), 10, 15);
        assert!(!room);
        assert_eq!(evicted.len(), 1);
    }

    #[test]
    fn bytes_set_aside_count_until_they_are_given_back() {
        let mut index = index(30);
        announce(&mut index, &[number(1), number(2)]);
        assert!(index.reserve(&news(), &number(1), 30, 0).1);
        assert!(!index.reserve(&news(), &number(2), 1, 0).1);
        index.release(30);
        assert!(index.reserve(&news(), &number(2), 30, 0).1);
    }

    #[test]
    fn what_was_begun_before_a_new_epoch_is_not_stored_after_it() {
        let mut index = index(1000);
        announce(&mut index, &[number(1)]);
        let ticket = index.ticket(&news(), &number(1)).unwrap();
        let expired = (RenditionIndex(0), MediaSequence(1), "1.ts".into());
        index.expire(&news(), &[expired]);
        announce(&mut index, &[number(1)]);
        assert!(!index.store(&news(), ticket, Fake(number(1), 10)));
        assert_eq!(find(&index, "1.ts", Some(1)), Lookup::Coming);
    }

    #[test]
    fn another_uri_under_a_known_number_replaces_it() {
        let mut index = index(1000);
        announce(&mut index, &[number(1)]);
        store(&mut index, &number(1), 10).unwrap();
        let outcome = announce(&mut index, &[named(0, 1, "other.ts")]);
        assert_eq!(outcome.removed, [Fake(number(1), 10)]);
        assert_eq!(find(&index, "1.ts", Some(1)), Lookup::Absent);
        assert_eq!(find(&index, "other.ts", Some(1)), Lookup::Coming);
    }

    #[test]
    fn more_than_the_quota_is_not_restored() {
        let mut index = index(20);
        index.restore(&news(), Fake(number(3), 10));
        index.restore(&news(), Fake(number(2), 10));
        let surplus = index.restore(&news(), Fake(number(1), 10));
        assert_eq!(surplus, [Fake(number(1), 10)]);
    }
}
