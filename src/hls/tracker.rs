//! What changes from one load of a live media playlist to the next.
//!
//! The tracker remembers the segments of its window by their numbers. It says which are new, which
//! have expired, and when the playlist is to be loaded again (RFC 8216 section 6.3.4). A number
//! that comes back with another URI, or numbers that jump back, mean that the encoder started
//! anew: the old segments expire at once, for the same names may now stand for other bytes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{MAX_SEGMENTS, MediaPlaylist, MediaSegment};
use crate::config::Matching;
use crate::ids::{MediaSequence, SegmentUri};

/// The floor between two loads, whatever the playlist claims about its durations.
const MIN_RELOAD: Duration = Duration::from_millis(500);
/// How far errors back off: an origin that returns is noticed within half a minute.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// Follows one media playlist.
#[derive(Debug)]
pub struct Tracker {
    window: Duration,
    matching: Matching,
    target_duration: Duration,
    known: BTreeMap<MediaSequence, Known>,
    last: Option<Extent>,
    failures: u32,
}

/// A segment that has been listed, as long as it is within the window.
#[derive(Debug)]
struct Known {
    uri: SegmentUri,
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
    /// No load before this.
    pub next_reload: Instant,
    /// The list is complete: no load is needed any more.
    pub ended: bool,
    /// The encoder started anew: everything known before is in `expired`.
    pub epoch_changed: bool,
    /// Whether the list differs from the one before.
    pub changed: bool,
}

impl Tracker {
    /// A tracker that keeps what is less than `window` behind the live edge, and whatever is
    /// listed. Two URIs are the same if they are by `matching`: the token of a query does not make
    /// another segment where names are matched without it.
    pub fn new(window: Duration, matching: Matching) -> Self {
        Self {
            window,
            matching,
            target_duration: Duration::ZERO,
            known: BTreeMap::new(),
            last: None,
            failures: 0,
        }
    }

    /// Takes over a segment that an earlier run stored `age` ago; call before the first
    /// [`Self::on_playlist`], which decides whether it still is what the playlist means. If so it
    /// is wanted like any other, and found in the store.
    pub fn adopt(&mut self, sequence: MediaSequence, uri: SegmentUri, age: Duration) {
        let known = Known {
            uri,
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
                next_reload: self.reload(load_started, false),
                ended: false,
                epoch_changed: false,
                changed: false,
            };
        }
        let mut expired = Vec::new();
        let epoch_changed = self.is_contradicted_by(playlist);
        if epoch_changed {
            expired.extend(expire(std::mem::take(&mut self.known)));
        }
        let first_load = epoch_changed || self.last.is_none();
        let changed = epoch_changed || self.last != Some(extent);
        self.last = Some(extent);

        let mut wanted = self.admit(playlist, &mut expired);
        if !first_load {
            wanted.reverse();
        }
        self.expire_behind_window(&mut expired);
        Update {
            wanted,
            expired,
            next_reload: self.reload(load_started, changed),
            ended: playlist.endlist,
            epoch_changed,
            changed,
        }
    }

    /// A load that began at `load_started` was answered with "not modified". Returns when to load
    /// again.
    pub fn on_unchanged(&mut self, load_started: Instant) -> Instant {
        self.failures = 0;
        self.reload(load_started, false)
    }

    /// A load failed at `now`. Returns when to try again: from half the target duration, doubled
    /// with each failure, up to half a minute.
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
                Some(known) if !self.is_same(&known.uri, &segment.uri) => return false,
                Some(known) if known.listed && known.duration == Some(segment.duration) => {
                    same += 1;
                }
                _ => {}
            }
        }
        let listed = self.known.values().filter(|known| known.listed).count();
        same > 0 && same * 2 >= listed
    }

    fn is_contradicted_by(&self, playlist: &MediaPlaylist) -> bool {
        let renamed = playlist.segments.iter().any(|segment| {
            let known = self.known.get(&segment.sequence);
            known.is_some_and(|known| !self.is_same(&known.uri, &segment.uri))
        });
        let restarted = match self.last {
            // After an ENDLIST nothing is added: a list that differs is another one.
            Some(last) if last.endlist => last != Extent::of(playlist),
            Some(last) => last.is_ahead_of(playlist),
            // Only segments of an earlier run are known: none may be newer than the live edge.
            None => {
                let newest = self.known.keys().next_back();
                newest.is_some_and(|newest| Some(*newest) > playlist.newest())
            }
        };
        renamed || restarted
    }

    fn is_same(&self, one: &SegmentUri, other: &SegmentUri) -> bool {
        self.matching.name(one.as_str()) == self.matching.name(other.as_str())
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
        let mut behind = Duration::ZERO;
        for segment in playlist.segments.iter().rev() {
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
                known.duration = Some(segment.duration);
            } else if behind < self.window {
                let fit = segment.source.is_ok();
                let known = Known {
                    uri: segment.uri.clone(),
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
            behind = behind.saturating_add(segment.duration);
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
mod tests {
    use url::Url;

    use super::super::{Playlist, parse};
    use super::*;

    const WINDOW: Duration = Duration::from_secs(30);

    fn list(first: u64, uris: &[&str]) -> MediaPlaylist {
        let mut text = format!("#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXT-X-MEDIA-SEQUENCE:{first}\n");
        for uri in uris {
            text += &format!("#EXTINF:6,\n{uri}\n");
        }
        let base = Url::parse("http://origin/index.m3u8").unwrap();
        match parse(&text, &base).unwrap() {
            Playlist::Media(media) => media,
            Playlist::Multivariant(_) => unreachable!(),
        }
    }

    /// Segments `first..first + count`, named by their numbers.
    fn numbered(first: u64, count: u64) -> MediaPlaylist {
        let uris: Vec<String> = (first..first + count).map(|n| format!("{n}.ts")).collect();
        list(first, &uris.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn wanted(update: &Update) -> Vec<u64> {
        update.wanted.iter().map(|s| s.sequence.0).collect()
    }

    fn expired(update: &Update) -> Vec<u64> {
        let mut numbers: Vec<u64> = update.expired.iter().map(|(s, _)| s.0).collect();
        numbers.sort_unstable();
        numbers
    }

    #[test]
    fn the_first_load_wants_the_newest_first_and_later_ones_only_what_is_new_in_order() {
        let start = Instant::now();
        let mut tracker = Tracker::new(WINDOW, Matching::Exact);
        let update = tracker.on_playlist(start, &numbered(10, 3));
        assert_eq!(wanted(&update), [12, 11, 10]);
        let update = tracker.on_playlist(start, &numbered(11, 4));
        assert_eq!(wanted(&update), [13, 14]);
        assert!(update.expired.is_empty(), "still within the window");
    }

    #[test]
    fn a_long_playlist_is_fetched_only_as_far_back_as_the_window() {
        let mut tracker = Tracker::new(WINDOW, Matching::Exact);
        let update = tracker.on_playlist(Instant::now(), &numbered(0, 1000));
        assert_eq!(wanted(&update), [999, 998, 997, 996, 995]);
    }

    #[test]
    fn reloads_wait_for_the_target_duration_from_the_start_of_the_load_or_half_of_it() {
        let start = Instant::now();
        let mut tracker = Tracker::new(WINDOW, Matching::Exact);
        let update = tracker.on_playlist(start, &numbered(10, 3));
        assert_eq!(update.next_reload - start, Duration::from_secs(6));
        let update = tracker.on_playlist(start, &numbered(10, 3));
        assert!(!update.changed);
        assert_eq!(update.next_reload - start, Duration::from_secs(3));
        assert_eq!(
            tracker.on_unchanged(start) - start,
            Duration::from_secs(3),
            "not modified is unchanged"
        );
    }

    #[test]
    fn failures_back_off_to_a_cap_and_success_forgets_them() {
        let now = Instant::now();
        let mut tracker = Tracker::new(WINDOW, Matching::Exact);
        tracker.on_playlist(now, &numbered(10, 3));
        let mut delays = Vec::new();
        for _ in 0..6 {
            delays.push((tracker.on_failure(now) - now).as_secs());
        }
        assert_eq!(delays, [3, 6, 12, 24, 30, 30]);
        tracker.on_playlist(now, &numbered(10, 3));
        assert_eq!((tracker.on_failure(now) - now).as_secs(), 3);
    }

    #[test]
    fn what_left_the_playlist_is_kept_until_it_is_behind_the_window() {
        let now = Instant::now();
        let mut tracker = Tracker::new(WINDOW, Matching::Exact);
        tracker.on_playlist(now, &numbered(10, 3));
        assert!(expired(&tracker.on_playlist(now, &numbered(12, 3))).is_empty());
        // 15 is the edge: 11 ended 24 s before it began, 10 ended 30 s before.
        assert_eq!(expired(&tracker.on_playlist(now, &numbered(13, 3))), [10]);
        assert_eq!(expired(&tracker.on_playlist(now, &numbered(14, 3))), [11]);
    }

    #[test]
    fn what_is_still_listed_never_expires() {
        let now = Instant::now();
        let mut tracker = Tracker::new(WINDOW, Matching::Exact);
        for last in 5..100 {
            let update = tracker.on_playlist(now, &numbered(0, last));
            assert!(update.expired.is_empty());
        }
    }

    #[test]
    fn numbers_that_jump_back_are_a_new_epoch() {
        let now = Instant::now();
        let mut tracker = Tracker::new(WINDOW, Matching::Exact);
        tracker.on_playlist(now, &numbered(10, 3));
        let update = tracker.on_playlist(now, &numbered(0, 2));
        assert!(update.epoch_changed);
        assert_eq!(expired(&update), [10, 11, 12]);
        assert_eq!(wanted(&update), [1, 0], "a new start: newest first");
    }

    #[test]
    fn another_uri_under_the_same_number_is_a_new_epoch() {
        let now = Instant::now();
        let mut tracker = Tracker::new(WINDOW, Matching::Exact);
        tracker.on_playlist(now, &list(10, &["a", "b", "c"]));
        let update = tracker.on_playlist(now, &list(11, &["b", "x", "y"]));
        assert!(update.epoch_changed);
        assert_eq!(expired(&update), [10, 11, 12]);
        assert_eq!(wanted(&update), [13, 12, 11]);
    }

    #[test]
    fn an_older_copy_of_the_same_list_changes_nothing() {
        let now = Instant::now();
        let mut tracker = Tracker::new(WINDOW, Matching::Exact);
        tracker.on_playlist(now, &numbered(10, 4));
        let update = tracker.on_playlist(now, &numbered(9, 4));
        assert!(!update.epoch_changed && !update.changed);
        assert!(update.wanted.is_empty() && update.expired.is_empty());
        assert_eq!(wanted(&tracker.on_playlist(now, &numbered(11, 4))), [14]);
    }

    #[test]
    fn a_list_that_lost_its_last_line_changes_nothing_but_one_that_begins_again_does() {
        let now = Instant::now();
        let mut tracker = Tracker::new(WINDOW, Matching::Exact);
        tracker.on_playlist(now, &numbered(0, 5));
        assert!(!tracker.on_playlist(now, &numbered(0, 4)).changed);
        assert!(tracker.on_playlist(now, &numbered(0, 1)).epoch_changed);
    }

    #[test]
    fn a_stream_that_goes_on_after_its_end_is_a_new_epoch() {
        let now = Instant::now();
        let mut tracker = Tracker::new(WINDOW, Matching::Exact);
        let mut ended = numbered(0, 3);
        ended.endlist = true;
        tracker.on_playlist(now, &ended);
        assert!(!tracker.on_playlist(now, &ended).epoch_changed);
        assert!(tracker.on_playlist(now, &numbered(0, 3)).epoch_changed);
    }

    #[test]
    fn gaps_are_counted_but_not_wanted() {
        let mut playlist = numbered(0, 2);
        playlist.segments[0].source = Err(super::super::Unfit::Gap);
        let mut tracker = Tracker::new(WINDOW, Matching::Exact);
        assert_eq!(wanted(&tracker.on_playlist(Instant::now(), &playlist)), [1]);
        let update = tracker.on_playlist(Instant::now(), &numbered(100, 5));
        assert_eq!(expired(&update), [1], "a gap was never there to expire");
    }

    #[test]
    fn an_ended_playlist_says_so() {
        let mut playlist = numbered(0, 2);
        playlist.endlist = true;
        let mut tracker = Tracker::new(WINDOW, Matching::Exact);
        assert!(tracker.on_playlist(Instant::now(), &playlist).ended);
    }

    #[test]
    fn what_an_earlier_run_stored_is_not_wanted_again() {
        let mut tracker = Tracker::new(WINDOW, Matching::Exact);
        for number in [9, 10, 11] {
            let uri = format!("{number}.ts").into();
            tracker.adopt(MediaSequence(number), uri, Duration::from_secs(8));
        }
        let update = tracker.on_playlist(Instant::now(), &numbered(10, 3));
        assert_eq!(wanted(&update), [12, 11, 10]);
        assert!(update.expired.is_empty(), "9 is within the window");
    }

    #[test]
    fn what_was_stored_before_the_listed_segment_existed_is_fetched_again() {
        let mut tracker = Tracker::new(WINDOW, Matching::Exact);
        for number in [3, 10, 11] {
            let uri = format!("{number}.ts").into();
            tracker.adopt(MediaSequence(number), uri, Duration::from_secs(3600));
        }
        let update = tracker.on_playlist(Instant::now(), &numbered(10, 3));
        assert_eq!(wanted(&update), [12, 11, 10]);
        assert_eq!(expired(&update), [3, 10, 11]);
    }

    #[test]
    fn what_an_earlier_run_stored_beyond_the_live_edge_is_of_another_epoch() {
        let mut tracker = Tracker::new(WINDOW, Matching::Exact);
        tracker.adopt(MediaSequence(500), "500.ts".into(), Duration::ZERO);
        let update = tracker.on_playlist(Instant::now(), &numbered(10, 3));
        assert!(update.epoch_changed);
        assert_eq!(expired(&update), [500]);
    }

    #[test]
    fn another_token_is_another_segment_only_where_names_are_matched_with_it() {
        for (matching, anew) in [(Matching::Exact, true), (Matching::Path, false)] {
            let now = Instant::now();
            let mut tracker = Tracker::new(WINDOW, matching);
            tracker.on_playlist(now, &list(1, &["1.ts?t=a", "2.ts?t=a"]));
            let update = tracker.on_playlist(now, &list(1, &["1.ts?t=b", "2.ts?t=b", "3.ts?t=b"]));
            assert_eq!(update.epoch_changed, anew);
            assert_eq!(wanted(&update).len(), if anew { 3 } else { 1 });
            let update = tracker.on_playlist(now, &list(1, &["1.ts?t=c", "other.ts?t=c"]));
            assert!(update.epoch_changed, "{matching:?}: the path differs");
        }
    }
}
