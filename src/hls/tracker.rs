//! What changes from one load of a live media playlist to the next.
//!
//! The tracker remembers the segments of its window by their numbers. It says which are new, which
//! have expired, and when the playlist is to be loaded again (RFC 8216 section 6.3.4). A number
//! that comes back with another URI, or numbers that jump back, mean that the encoder started
//! anew: the old segments expire at once, for the same names may now stand for other bytes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::sections::Sections;
use super::{InitSection, MAX_SEGMENTS, MediaPlaylist, MediaSegment};
use crate::config::Matching;
use crate::ids::{ByteRange, MediaSequence, SegmentUri};

/// The floor between two loads, whatever the playlist claims about its durations.
const MIN_RELOAD: Duration = Duration::from_millis(500);
/// How far errors back off: viewers need the box again as soon as the origin returns, and once in ten
/// seconds is what a single player with long segments asks.
const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// Follows one media playlist.
#[derive(Debug)]
pub struct Tracker {
    window: Duration,
    matching: Matching,
    target_duration: Duration,
    known: BTreeMap<MediaSequence, Known>,
    sections: Sections,
    last: Option<Extent>,
    /// The list was complete when it was first loaded: its viewers begin at its beginning.
    from_beginning: bool,
    failures: u32,
}

/// A segment that has been listed, as long as it is within the window.
#[derive(Debug)]
struct Known {
    uri: SegmentUri,
    range: Option<ByteRange>,
    /// `None` for a segment that was stored by an earlier run and not listed since.
    duration: Option<Duration>,
    /// For how long it had been stored when this run began.
    age: Option<Duration>,
    listed: bool,
    wanted: bool,
}

/// What makes two loads the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extent {
    first: MediaSequence,
    newest: Option<MediaSequence>,
    endlist: bool,
}

/// What a load of the playlist changed.
#[derive(Debug, PartialEq)]
pub struct Update {
    /// Segments to fetch, each told once per epoch. Newest first where there was nothing before,
    /// so that a viewer at the live edge is served first; in order later on.
    pub wanted: Vec<MediaSegment>,
    /// Segments to forget, before those in `wanted` are announced.
    pub expired: Vec<(MediaSequence, SegmentUri)>,
    /// Initialization sections to fetch, each with the first segment that needs it.
    pub wanted_sections: Vec<(MediaSequence, Arc<InitSection>)>,
    /// Initialization sections to forget, before those in `wanted_sections` are announced.
    pub expired_sections: Vec<(MediaSequence, SegmentUri)>,
    /// No load before this.
    pub next_reload: Instant,
    /// The list is complete: no load is needed any more.
    pub ended: bool,
    /// The encoder started anew: everything known before is in `expired`.
    pub epoch_changed: bool,
    /// ... or so it looks because known segments came with other queries, and nothing else: tokens,
    /// commonly, where [`Matching::Path`] is meant.
    pub only_queries_changed: bool,
    /// Whether the list differs from the one before.
    pub changed: bool,
    /// Its viewers begin at its beginning: it was complete when it was first seen.
    pub from_beginning: bool,
}

impl Tracker {
    /// A tracker that wants what is less than `window` behind the live edge, and keeps it as long as
    /// it is that or listed. A list that is complete from the start has no live edge: of such a one
    /// the first `window` is wanted. Two URIs are the same if they are by `matching`: the token of a query does not make
    /// another segment where names are matched without it.
    pub fn new(window: Duration, matching: Matching) -> Self {
        Self {
            window,
            matching,
            target_duration: Duration::ZERO,
            known: BTreeMap::new(),
            sections: Sections::new(matching),
            last: None,
            from_beginning: false,
            failures: 0,
        }
    }

    /// Takes over a segment that an earlier run stored `age` ago; call before the first
    /// [`Self::on_playlist`], which decides whether it still is what the playlist means. If so it
    /// is wanted like any other, and found in the store.
    pub fn adopt(&mut self, sequence: MediaSequence, uri: SegmentUri, age: Duration) {
        let known = Known {
            uri,
            range: None,
            duration: None,
            age: Some(age),
            listed: false,
            wanted: true,
        };
        self.known.insert(sequence, known);
    }

    /// A load that began at `load_started` brought `playlist`.
    pub fn on_playlist(&mut self, load_started: Instant, playlist: &MediaPlaylist) -> Update {
        self.failures = 0;
        self.target_duration = playlist.target_duration;
        let extent = Extent::of(playlist);
        if self.is_stale_copy(playlist) {
            return Update {
                wanted: Vec::new(),
                expired: Vec::new(),
                wanted_sections: Vec::new(),
                expired_sections: Vec::new(),
                next_reload: self.reload(load_started, false),
                ended: false,
                epoch_changed: false,
                only_queries_changed: false,
                changed: false,
                from_beginning: self.from_beginning,
            };
        }
        let (mut expired, mut expired_sections) = (Vec::new(), Vec::new());
        let renamed = self.renamed(playlist, self.matching);
        let restarted = self.is_restarted_by(playlist);
        let epoch_changed = renamed || restarted;
        let only_queries_changed = renamed && !restarted && !self.renamed(playlist, Matching::Path);
        if epoch_changed {
            expired.extend(expire(std::mem::take(&mut self.known)));
            expired_sections = self.sections.expire(None);
        }
        let first_load = epoch_changed || self.last.is_none();
        let changed = epoch_changed || self.last != Some(extent);
        self.last = Some(extent);
        if first_load {
            self.from_beginning = playlist.endlist;
        }

        let mut wanted = self.admit(playlist, &mut expired);
        if !first_load || self.from_beginning {
            wanted.reverse();
        }
        self.expire_behind_window(&mut expired);
        let known = playlist.segments.iter();
        let known = known.filter(|segment| self.known.contains_key(&segment.sequence));
        let wanted_sections = self.sections.admit(known);
        let oldest = self.known.keys().next().copied();
        expired_sections.extend(self.sections.expire(oldest));
        Update {
            wanted,
            expired,
            wanted_sections: wanted_sections
                .into_iter()
                .filter(|(_, section)| section.source.is_ok())
                .collect(),
            expired_sections,
            next_reload: self.reload(load_started, changed),
            ended: playlist.endlist,
            epoch_changed,
            only_queries_changed,
            changed,
            from_beginning: self.from_beginning,
        }
    }

    /// A load that began at `load_started` was answered with "not modified". Returns when to load
    /// again.
    pub fn on_unchanged(&mut self, load_started: Instant) -> Instant {
        self.failures = 0;
        self.reload(load_started, false)
    }

    /// A load failed at `now`. Returns when to try again: from half the target duration, doubled
    /// with each failure, up to ten seconds.
    pub fn on_failure(&mut self, now: Instant) -> Instant {
        let first = (self.target_duration / 2).max(MIN_RELOAD);
        let delay = first.saturating_mul(1 << self.failures.min(10));
        self.failures = self.failures.saturating_add(1);
        now + delay.min(MAX_BACKOFF.max(first))
    }

    /// When a load may follow one that began at `load_started` at the earliest, whatever the reason:
    /// half the target duration later, the pace that section 6.3.4 allows while nothing changes.
    pub fn earliest_reload(&self, load_started: Instant) -> Instant {
        self.reload(load_started, false)
    }

    /// Loads that failed since the last that did not.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// "The client MUST wait for at least the target duration before attempting to reload the
    /// Playlist file again, measured from the last time the client began loading" if it changed,
    /// half of that if not (section 6.3.4).
    fn reload(&self, load_started: Instant, changed: bool) -> Instant {
        let wait = match changed {
            true => self.target_duration,
            false => self.target_duration / 2,
        };
        load_started + wait.max(MIN_RELOAD)
    }

    /// Whether this is an older copy of what was loaded before, as the caches of a CDN hand out
    /// at times: it begins or ends before the last one, and holds at least half of that one, with
    /// the same numbers, URIs and durations. An encoder that starts anew overlaps with little or
    /// nothing.
    fn is_stale_copy(&self, playlist: &MediaPlaylist) -> bool {
        let Some(last) = self.last else { return false };
        if !last.is_ahead_of(playlist) || last.endlist {
            return false;
        }
        let mut same = 0;
        for segment in &playlist.segments {
            match self.known.get(&segment.sequence) {
                Some(known) if !is_same(self.matching, known, segment) => return false,
                Some(known) if known.listed && known.duration == Some(segment.duration) => {
                    same += 1;
                }
                _ => {}
            }
        }
        let listed = self.known.values().filter(|known| known.listed).count();
        same > 0 && same * 2 >= listed
    }

    /// Whether a number means another segment than it did, if names are matched like that.
    fn renamed(&self, playlist: &MediaPlaylist, matching: Matching) -> bool {
        playlist.segments.iter().any(|segment| {
            let known = self.known.get(&segment.sequence);
            known.is_some_and(|known| !is_same(matching, known, segment))
        })
    }

    /// Whether the numbers began anew, or segments stand on other initialization sections now.
    fn is_restarted_by(&self, playlist: &MediaPlaylist) -> bool {
        let jumped = match self.last {
            // After an ENDLIST nothing is added: a list that differs is another one.
            Some(last) if last.endlist => last != Extent::of(playlist),
            Some(last) => last.is_ahead_of(playlist),
            // Only segments of an earlier run are known: none may be newer than the live edge.
            None => {
                let newest = self.known.keys().next_back();
                newest.is_some_and(|newest| Some(*newest) > playlist.newest())
            }
        };
        let contradicts = |segment| self.sections.contradict(segment);
        jumped || playlist.segments.iter().any(contradicts)
    }

    /// Takes in what is listed, from the live edge backwards. Returns what is to be fetched.
    fn admit(
        &mut self,
        playlist: &MediaPlaylist,
        expired: &mut Vec<(MediaSequence, SegmentUri)>,
    ) -> Vec<MediaSegment> {
        let mut wanted = Vec::new();
        for known in self.known.values_mut() {
            known.listed = false;
        }
        let total: Duration = playlist.segments.iter().map(|s| s.duration).sum();
        let mut behind = Duration::ZERO;
        for segment in playlist.segments.iter().rev() {
            let before = total.saturating_sub(behind + segment.duration);
            let away = if self.from_beginning { before } else { behind };
            let reused = self
                .known
                .get(&segment.sequence)
                .is_some_and(|known| self.is_too_old(known, behind));
            if reused {
                expired.extend(
                    self.known
                        .remove(&segment.sequence)
                        .map(|known| (segment.sequence, known.uri)),
                );
            }
            if let Some(known) = self.known.get_mut(&segment.sequence) {
                // Of an earlier run: whether it still is whole shows when it is fetched.
                if known.age.take().is_some() && segment.source.is_ok() {
                    wanted.push(segment.clone());
                }
                known.listed = true;
                known.range = segment.range();
                known.duration = Some(segment.duration);
            } else if away < self.window {
                let fit = segment.source.is_ok();
                let known = Known {
                    uri: segment.uri.clone(),
                    range: segment.range(),
                    duration: Some(segment.duration),
                    age: None,
                    listed: true,
                    wanted: fit,
                };
                self.known.insert(segment.sequence, known);
                if fit {
                    wanted.push(segment.clone());
                }
            }
            behind += segment.duration;
        }
        wanted
    }

    /// Whether a segment of an earlier run was stored before the one now listed in its place can
    /// have existed: that one ended `behind` ago. Three target durations are for the delays of
    /// publishing, loading and fetching. Refetching in doubt costs one download; serving old
    /// bytes under a name that an encoder used again would cost a viewer.
    fn is_too_old(&self, known: &Known, behind: Duration) -> bool {
        let slack = self.target_duration * 3;
        known
            .age
            .is_some_and(|age| age > behind.saturating_add(slack))
    }

    fn expire_behind_window(&mut self, expired: &mut Vec<(MediaSequence, SegmentUri)>) {
        let mut behind = Duration::ZERO;
        let mut gone = Vec::new();
        for (count, (sequence, known)) in self.known.iter().rev().enumerate() {
            // The count bounds segments that claim to take no time at all.
            let outside = behind >= self.window || count >= MAX_SEGMENTS;
            if !known.listed && (outside || self.is_too_old(known, behind)) {
                gone.push(*sequence);
            }
            let duration = known.duration.unwrap_or(self.target_duration);
            behind = behind.saturating_add(duration);
        }
        for sequence in gone {
            let known = self.known.remove(&sequence);
            expired.extend(expire(known.map(|known| (sequence, known))));
        }
    }
}

impl Extent {
    fn of(playlist: &MediaPlaylist) -> Self {
        Self {
            first: playlist.media_sequence,
            newest: playlist.newest(),
            endlist: playlist.endlist,
        }
    }

    /// Whether the numbers of `playlist` go back from here. One without segments says nothing
    /// about its end.
    fn is_ahead_of(&self, playlist: &MediaPlaylist) -> bool {
        let newest = playlist.newest();
        playlist.media_sequence < self.first || (newest.is_some() && newest < self.newest)
    }
}

/// Whether a segment is what was known under its number. Of one that an earlier run stored the range
/// is not known, and its age decides.
fn is_same(matching: Matching, known: &Known, segment: &MediaSegment) -> bool {
    let same_range = known.age.is_some() || known.range == segment.range();
    same_range && matching.name(known.uri.as_str()) == matching.name(segment.uri.as_str())
}

/// Only what was wanted once can expire.
fn expire(
    known: impl IntoIterator<Item = (MediaSequence, Known)>,
) -> impl Iterator<Item = (MediaSequence, SegmentUri)> {
    known
        .into_iter()
        .filter(|(_, known)| known.wanted)
        .map(|(sequence, known)| (sequence, known.uri))
}

#[cfg(test)]
#[path = "tracker_tests.rs"]
mod tests;
