//! One channel of the index: its segments, and what they may be asked for by.
//!
//! # Names
//!
//! A viewer names a segment by a URI and a number, an initialization section by its URI alone, and
//! does not say of which rendition. Whoever watches another one must never get the bytes of this one,
//! so there are four rules:
//!
//! - A number is that of a segment. A URI alone is not served where it stands for several parts of
//!   one resource, as in a list of byte ranges.
//! - A URI that two followed renditions give to different resources is ambiguous and is not served,
//!   for as long as either of them lists it. Their other names are served. What an earlier run stored
//!   is not known to be the same resource, and is not served under such a name, until it is listed.
//! - Such renditions are not loaded at the same instant: the next shared name is in the one list
//!   before it is in the other. So from the first clash on a segment is held until the other list
//!   has come as far as its number, and then either shows the same name or cannot mean it. (To do so
//!   before there was any clash would cost every channel of several renditions its live edge. What is
//!   left is a viewer who is faster than our next load when the first name ever is shared.)
//! - Playlists that are not followed are only looked at from time to time. Where one of them shares a
//!   name with a followed rendition, its next names cannot be seen coming, so that nothing of that
//!   rendition is served ([`Channel::set_shared`]), until a look at all of them finds none shared.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::names::Names;
use super::{Announced, Key, Lookup, Pool, Stored, Ticket};
use crate::config::Matching;
use crate::ids::{MediaSequence, RenditionIndex, Resource, SegmentUri};
use crate::store::Ambiguous;

/// How far past the newest announced segment a request is believed: a viewer's playlist is one
/// reload ahead of ours at most, and seldom brings more than this.
const AHEAD: u64 = 3;
/// How long after its last change a live playlist counts as alive: three of the longest segments
/// in common use (10 s).
pub(super) const ALIVE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Channel<S> {
    matching: Matching,
    pub(super) entries: BTreeMap<Key, Entry<S>>,
    by_uri: Names,
    /// By the URI without its query; empty unless that is how the channel matches.
    by_path: Names,
    /// The last number that each playlist lists.
    pub(super) listed: BTreeMap<RenditionIndex, MediaSequence>,
    /// When a live playlist last changed.
    pub(super) alive: Option<Instant>,
    /// What could not be read any more, and is still listed.
    pub(super) lost: Vec<Announced>,
}

#[derive(Debug)]
pub(super) struct Entry<S> {
    pub(super) uri: SegmentUri,
    /// Not known of a segment that an earlier run stored, until a playlist lists it.
    pub(super) resource: Option<Resource>,
    pub(super) state: State<S>,
}

#[derive(Debug)]
pub(super) enum State<S> {
    Coming(Ticket),
    Ready(S),
    /// Stored by an earlier run, and not read since.
    Unproven(S, Ticket),
    /// Given up or evicted, and still listed.
    Gone,
}

impl<S: Stored> Channel<S> {
    pub(super) fn new(matching: Matching) -> Self {
        Self {
            matching,
            entries: BTreeMap::new(),
            by_uri: Names::default(),
            by_path: Names::default(),
            listed: BTreeMap::new(),
            alive: None,
            lost: Vec::new(),
        }
    }

    /// Forgets every segment and every clash of names; returns what was stored.
    pub(super) fn clear(&mut self) -> Vec<S> {
        self.by_uri = Names::default();
        self.by_path = Names::default();
        self.listed.clear();
        let entries = std::mem::take(&mut self.entries);
        entries
            .into_values()
            .filter_map(|entry| entry.state.stored())
            .collect()
    }

    /// Which renditions share names of this kind with playlists that are not followed; of what was
    /// known before nothing is taken back unless all were `seen`. Which never did before.
    pub(super) fn set_shared(
        &mut self,
        matching: Matching,
        renditions: BTreeSet<RenditionIndex>,
        seen: bool,
    ) -> BTreeSet<RenditionIndex> {
        match matching {
            Matching::Exact => self.by_uri.set_shared(renditions, seen),
            Matching::Path => self.by_path.set_shared(renditions, seen),
        }
    }

    pub(super) fn find(
        &self,
        uri: &str,
        sequence: Option<MediaSequence>,
        now: Instant,
    ) -> Lookup<S> {
        let mut named = self.names(uri).into_iter();
        let named = named.find_map(|(names, name)| Some((names, name, names.get(name)?)));
        let Some((names, name, keys)) = named else {
            return self.not_listed(sequence, now);
        };
        let fits = |key: &Key| match sequence {
            Some(wanted) => wanted == key.1 && !key.0.is_sections(),
            None => true,
        };
        let bearers = keys.iter();
        let bearers = bearers.filter_map(|key| Some((*key, self.entries.get(key)?)));
        let fitting = bearers.clone().filter(|(key, _)| fits(key));
        // Where one URI recurs and no number is given, the newest is meant; of one resource in two
        // renditions either will do.
        let best = fitting.max_by_key(|(key, entry)| (key.1, entry.ready().is_some()));
        let Some((key, entry)) = best else {
            return self.not_listed(sequence, now);
        };
        let ranges = sequence.is_none() && bearers.clone().any(|(_, o)| o.is_another_part(entry));
        let doubt = bearers
            .filter(|(other, _)| other.0.playlist() != key.0.playlist())
            .any(|(_, other)| other.resource.is_none() || entry.resource.is_none());
        if ranges || doubt || names.is_ambiguous(name, key.0) {
            return Lookup::Absent;
        }
        if self.may_clash(names, key) {
            return Lookup::Ahead;
        }
        self.state(entry)
    }

    fn state(&self, entry: &Entry<S>) -> Lookup<S> {
        match &entry.state {
            // Found at start, and no playlist has been loaded since that says it is still what is
            // meant by this name.
            State::Ready(_) if self.alive.is_none() => Lookup::Unconfirmed,
            State::Ready(segment) => Lookup::Ready(segment.clone()),
            State::Unproven(segment, ticket) => Lookup::Unproven(segment.clone(), *ticket),
            State::Coming(ticket) => Lookup::Coming(*ticket),
            State::Gone => Lookup::Absent,
        }
    }

    /// What a playlist lists under this number, and where it is at the origin.
    pub(super) fn find_listed(&self, key: Key) -> Option<(Lookup<S>, Option<Resource>)> {
        let entry = self.entries.get(&key)?;
        let found = match entry.resource {
            Some(_) => self.state(entry),
            None => Lookup::Unconfirmed,
        };
        Some((found, entry.resource.clone()))
    }

    /// What is listed and not served because of its name, even as the playlist writes it.
    pub(super) fn ambiguous(&self) -> Option<Ambiguous> {
        let refused =
            |(key, entry): &(&Key, &Entry<S>)| self.by_uri.is_ambiguous(entry.uri.as_str(), key.0);
        let mut refused = self.entries.iter().filter(refused);
        let (_, first) = refused.next()?;
        Some(Ambiguous {
            example: first.uri.clone(),
            segments: 1 + refused.count(),
        })
    }

    /// The name that is the first to stand for two things by this, if it is.
    pub(super) fn insert(&mut self, key: Key, entry: Entry<S>) -> Option<String> {
        let uri = entry.uri.as_str();
        let other = |key: &Key| self.entries.get(key);
        let elsewhere = |o: &Key| {
            let unlike = || other(o).is_some_and(|o| o.is_unlike(&entry));
            o.0.playlist() != key.0.playlist() && unlike()
        };
        let mut clash = self.by_uri.insert(uri, key, elsewhere).then_some(uri);
        if self.matching == Matching::Path {
            let path = Matching::Path.name(uri);
            // Also within one rendition: there it may be the query that tells two apart.
            let unlike = |o: &Key| elsewhere(o) || other(o).is_some_and(|o| o.uri != entry.uri);
            clash = clash.or(self.by_path.insert(path, key, unlike).then_some(path));
        }
        let clash = clash.map(str::to_owned);
        self.entries.insert(key, entry);
        clash
    }

    /// A playlist lists what an earlier run stored: now it is known what it is, and thus whether its
    /// name is the first to stand for two things.
    pub(super) fn identify(&mut self, listed: &Announced) -> Option<String> {
        let key = (listed.rendition, listed.sequence);
        self.entries
            .get(&key)
            .filter(|entry| entry.resource.is_none())?;
        let mut entry = self.take(key)?;
        entry.resource = Some(listed.resource.clone());
        // Its token may be another one today.
        entry.uri = listed.uri.clone();
        self.insert(key, entry)
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<S> {
        self.take(key)?.state.stored()
    }

    fn take(&mut self, key: Key) -> Option<Entry<S>> {
        let entry = self.entries.remove(&key)?;
        let uri = entry.uri.as_str();
        self.by_uri.remove(uri, key);
        self.by_path.remove(Matching::Path.name(uri), key);
        Some(entry)
    }

    /// Whether this is stored, or on its way, already. What an earlier run stored is known by the
    /// name that it had then.
    pub(super) fn has(&self, announced: &Announced) -> bool {
        let entry = self.entries.get(&(announced.rendition, announced.sequence));
        entry.is_some_and(|entry| self.is_same(announced) && !entry.is_gone())
    }

    pub(super) fn standing(&self, announced: &Announced) -> Lookup<S> {
        let entry = self.entries.get(&(announced.rendition, announced.sequence));
        match entry
            .filter(|_| self.is_same(announced))
            .map(|entry| &entry.state)
        {
            Some(State::Ready(segment)) => Lookup::Ready(segment.clone()),
            Some(State::Unproven(segment, ticket)) => Lookup::Unproven(segment.clone(), *ticket),
            Some(State::Coming(ticket)) => Lookup::Coming(*ticket),
            Some(State::Gone) | None => Lookup::Absent,
        }
    }

    fn is_same(&self, announced: &Announced) -> bool {
        let entry = self.entries.get(&(announced.rendition, announced.sequence));
        let Some(entry) = entry else { return false };
        let name = |uri: &SegmentUri| self.matching.name(uri.as_str()).to_owned();
        match entry.stored() {
            Some(stored) => {
                let same_name = name(&entry.uri) == name(&announced.uri);
                same_name && stored.range() == announced.resource.range
            }
            None => entry.uri == announced.uri,
        }
    }

    /// What a URI may be found by, the better first.
    fn names<'a>(&'a self, uri: &'a str) -> [(&'a Names, &'a str); 2] {
        [
            (&self.by_uri, uri),
            (&self.by_path, Matching::Path.name(uri)),
        ]
    }

    /// Whether a rendition that shares names with this one has not been seen as far as this number,
    /// and may yet have the same name there.
    fn may_clash(&self, names: &Names, (rendition, sequence): Key) -> bool {
        names.rivals(rendition).any(|rival| {
            // A section is known as soon as a segment that needs it is.
            let newest = self.of_rendition(rival.playlist()).next_back();
            newest.is_some_and(|((_, newest), _)| is_past(sequence, *newest))
        })
    }

    pub(super) fn of_rendition(
        &self,
        rendition: RenditionIndex,
    ) -> impl DoubleEndedIterator<Item = (&Key, &Entry<S>)> {
        let first = (rendition, MediaSequence(0));
        let last = (rendition, MediaSequence(u64::MAX));
        self.entries.range(first..=last)
    }

    /// How many segments lie between this one and the live edge of its rendition.
    pub(super) fn behind(&self, (rendition, sequence): Key) -> u64 {
        let newest = self.of_rendition(rendition).next_back();
        newest.map_or(0, |((_, newest), _)| newest.0.saturating_sub(sequence.0))
    }

    /// What is stored in a pool: how far it is behind, what it is, and its bytes.
    pub(super) fn stored(&self, pool: Pool) -> impl Iterator<Item = (u64, Key, u64)> {
        let stored = self.entries.iter();
        let stored = stored.filter_map(|(key, entry)| Some((*key, entry.stored()?)));
        let stored = stored.filter(move |(_, segment)| segment.pool() == pool);
        stored.map(|(key, segment)| (self.behind(key), key, segment.bytes()))
    }

    /// What no playlist lists, unless the viewer's is newer than ours.
    fn not_listed(&self, sequence: Option<MediaSequence>, now: Instant) -> Lookup<S> {
        let alive = self.alive.is_some_and(|at| now.duration_since(at) < ALIVE);
        let segments = self.entries.keys().filter(|key| !key.0.is_sections());
        let listed = self.listed.iter();
        let known = listed.map(|(rendition, last)| (*rendition, *last));
        // Of what is not served, the next one is of no interest either.
        let served = known
            .chain(segments.copied())
            .filter(|(rendition, _)| !self.by_uri.is_shared(*rendition));
        let mut newest = BTreeMap::new();
        for (rendition, sequence) in served {
            let last = newest.entry(rendition).or_insert(sequence);
            *last = sequence.max(*last);
        }
        // Which playlist the viewer has newer than we do, a new name does not say: while we know the
        // next pictures already, it may be the sound.
        let is_next = |wanted| newest.values().any(|newest| is_past(wanted, *newest));
        match sequence {
            Some(wanted) if alive && is_next(wanted) => Lookup::Ahead,
            _ => Lookup::Absent,
        }
    }
}

/// Whether a number comes just after what is listed, as that of a viewer whose playlist is newer than
/// ours.
fn is_past(wanted: MediaSequence, newest: MediaSequence) -> bool {
    (1..=AHEAD).contains(&wanted.0.saturating_sub(newest.0))
}

impl<S> Entry<S> {
    /// Whether the same URI is another resource there, as far as is known.
    fn is_unlike(&self, other: &Self) -> bool {
        let known = self.resource.is_some() && other.resource.is_some();
        known && self.resource != other.resource
    }

    /// Whether both are parts, or one is and the other all, of what has the same URI.
    fn is_another_part(&self, other: &Self) -> bool {
        let range = |entry: &Self| entry.resource.as_ref().map(|resource| resource.range);
        let (ours, theirs) = (range(self), range(other));
        ours.is_some() && theirs.is_some() && ours != theirs
    }

    pub(super) fn ready(&self) -> Option<&S> {
        match &self.state {
            State::Ready(segment) => Some(segment),
            _ => None,
        }
    }

    /// What is stored, proven or not.
    pub(super) fn stored(&self) -> Option<&S> {
        match &self.state {
            State::Ready(segment) | State::Unproven(segment, _) => Some(segment),
            State::Coming(_) | State::Gone => None,
        }
    }

    pub(super) fn is_gone(&self) -> bool {
        matches!(self.state, State::Gone)
    }
}

impl<S> State<S> {
    pub(super) fn stored(self) -> Option<S> {
        match self {
            Self::Ready(segment) | Self::Unproven(segment, _) => Some(segment),
            Self::Coming(_) | Self::Gone => None,
        }
    }
}
