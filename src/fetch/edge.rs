//! How far behind the live edge of one playlist the box is. Pure: time is an argument.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::hls::MediaPlaylist;
use crate::ids::MediaSequence;

/// The end of the newest segment is this old at most when it is first listed, or else the encoder's
/// clock and ours do not agree, or the list is a recording: encoding, publishing and caching take
/// seconds, at times a minute.
const PLAUSIBLE: Duration = Duration::from_secs(600);
/// Segments whose times are remembered, from the live edge backwards: whoever is further behind than
/// that is behind by the time of the oldest of them at least.
const REMEMBERED: usize = 64;
/// Segments in a row that are late before it is more than a hiccup.
const LATE: u32 = 3;

/// The live edge of one playlist.
#[derive(Debug, Default)]
pub(super) struct Edge {
    newest: Option<MediaSequence>,
    /// When what is not here yet was listed for the first time.
    appeared: BTreeMap<MediaSequence, Instant>,
    /// It was complete when it was first loaded: it has no live edge.
    recording: bool,
    /// When the media of each segment ended by the encoder's clock, where the playlist says so
    /// (`EXT-X-PROGRAM-DATE-TIME`) and can be believed.
    ends: BTreeMap<MediaSequence, Instant>,
    ended: bool,
    missing: bool,
    /// The newest that is here, now and when the newest of the list was listed.
    stored: [Option<MediaSequence>; 2],
    /// Segments in a row that were not here yet when the next was listed.
    late: u32,
}

impl Edge {
    /// A load at `now`, which is `clock` by the wall, brought `media`.
    pub(super) fn listed(&mut self, media: &MediaPlaylist, now: Instant, clock: SystemTime) {
        self.ended = media.endlist;
        if self.newest.is_none() {
            self.recording = media.endlist;
        }
        let last = media
            .segments
            .iter()
            .rfind(|segment| segment.source.is_ok());
        let Some(last) = last.filter(|last| Some(last.sequence) > self.newest) else {
            return;
        };
        self.appeared.insert(last.sequence, now);
        while self.appeared.len() > REMEMBERED {
            // The oldest says how long it has been.
            self.appeared.pop_last();
        }
        if self.newest.replace(last.sequence).is_some() {
            let [stored, before] = self.stored;
            // Where nothing arrives at all, it is not for want of speed.
            match self.missing {
                true if stored > before => self.late = self.late.saturating_add(1),
                true => {}
                false => self.late = 0,
            }
        }
        self.stored[1] = self.stored[0];
        let ended_at = |start: SystemTime, duration| {
            let age = clock.duration_since(start.checked_add(duration)?);
            // A clock that is ahead of ours by little is right.
            now.checked_sub(age.unwrap_or_default())
        };
        let edge = last.program_time.map(|time| clock.duration_since(time));
        let early = last.duration + Duration::from_secs(2);
        let plausible = match edge {
            Some(Ok(age)) => age < last.duration + PLAUSIBLE,
            Some(Err(ahead)) => ahead.duration() < early,
            None => false,
        };
        if !plausible {
            self.ends.clear();
            return;
        }
        for segment in media.segments.iter().rev().take(REMEMBERED) {
            let end = segment.program_time;
            let end = end.and_then(|time| ended_at(time, segment.duration));
            // A time once told stays: the clock here may be set meanwhile.
            if let Some(end) = end {
                self.ends.entry(segment.sequence).or_insert(end);
            }
        }
        while self.ends.len() > REMEMBERED {
            self.ends.pop_first();
        }
    }

    /// Since when the box has been behind, with this segment as its newest: by the encoder's clock
    /// since the end of that segment's media; without such a clock since the first that is missing after
    /// it was listed. A recording is never behind.
    pub(super) fn behind_since(&mut self, stored: Option<MediaSequence>) -> Option<Instant> {
        let newest = self.newest.filter(|_| !self.recording)?;
        self.appeared.retain(|listed, _| Some(*listed) > stored);
        self.stored[0] = stored;
        self.missing = stored < Some(newest);
        if self.ended && !self.missing {
            self.late = 0;
        }
        if self.ended && !self.missing {
            return None;
        }
        let stored = stored.unwrap_or_default();
        let end = self.ends.range(..=stored).next_back();
        match end.or(self.ends.first_key_value()) {
            Some((_, end)) => Some(*end),
            None => self.appeared.first_key_value().map(|(_, at)| *at),
        }
    }

    /// Whether segments arrive, but later than the next ones are listed, again and again.
    pub(super) fn is_late(&self) -> bool {
        self.late >= LATE
    }

    /// Whether the lag grows as time passes.
    pub(super) fn moves(&self) -> bool {
        self.newest.is_some()
            && !self.recording
            && (self.missing || !(self.ended || self.ends.is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::*;
    use crate::hls::{Playlist, Variables, parse};

    /// Segments 1 to `newest` of 4 s, the last of which ends `age` seconds before 2020-01-01T01:00.
    fn list(newest: u64, age: Option<u64>) -> MediaPlaylist {
        let mut text = "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXT-X-MEDIA-SEQUENCE:1\n".to_owned();
        if let Some(age) = age {
            let second = 3600 - age - 4 * newest;
            let (minute, second) = (second / 60, second % 60);
            let time = format!("2020-01-01T00:{minute:02}:{second:02}.000Z");
            text += &format!("#EXT-X-PROGRAM-DATE-TIME:{time}\n");
        }
        for number in 1..=newest {
            text += &format!("#EXTINF:4,\n{number}.ts\n");
        }
        let base = Url::parse("http://origin/i.m3u8").unwrap();
        match parse(&text, &base, &Variables::default()).unwrap() {
            Playlist::Media(media) => media,
            Playlist::Multivariant(_) => unreachable!(),
        }
    }

    fn clock() -> SystemTime {
        let time: jiff::Timestamp = "2020-01-01T01:00:00Z".parse().unwrap();
        time.into()
    }

    fn seconds(now: Instant, edge: &mut Edge, stored: u64) -> Option<u64> {
        let since = edge.behind_since(Some(MediaSequence(stored)))?;
        Some(now.duration_since(since).as_secs())
    }

    #[test]
    fn with_a_clock_the_lag_is_since_the_end_of_the_newest_segment_here() {
        let now = Instant::now() + Duration::from_secs(7200);
        let mut edge = Edge::default();
        edge.listed(&list(5, Some(3)), now, clock());
        assert_eq!(seconds(now, &mut edge, 5), Some(3));
        assert_eq!(seconds(now, &mut edge, 3), Some(11));
        assert!(edge.moves(), "it grows when nothing new is listed, too");
        let later = now + Duration::from_secs(60);
        assert_eq!(seconds(later, &mut edge, 5), Some(63));
    }

    #[test]
    fn without_one_the_lag_is_for_how_long_the_newest_listed_segment_has_been_missing() {
        let now = Instant::now();
        let mut edge = Edge::default();
        edge.listed(&list(5, None), now, clock());
        let later = now + Duration::from_secs(2);
        assert_eq!(seconds(later, &mut edge, 4), Some(2));
        assert!(edge.moves());
        assert_eq!(seconds(later, &mut edge, 5), None);
        assert!(!edge.moves());
    }

    #[test]
    fn segments_are_late_if_they_arrive_after_the_next_was_listed_again_and_again() {
        let now = Instant::now();
        let listed = |edge: &mut Edge, newest, stored| {
            edge.listed(&list(newest, None), now, clock());
            edge.behind_since(Some(MediaSequence(stored)));
            edge.is_late()
        };
        let mut edge = Edge::default();
        let late = (5..=9).map(|newest| listed(&mut edge, newest, newest - 2));
        assert_eq!(late.collect::<Vec<_>>(), [false, false, false, true, true]);
        assert!(listed(&mut edge, 10, 10), "the one before was late");
        assert!(!listed(&mut edge, 11, 11));
        let mut edge = Edge::default();
        let late = (5..=20).any(|newest| listed(&mut edge, newest, 3));
        assert!(!late, "they do not arrive at all");
    }

    #[test]
    fn without_a_clock_the_lag_is_since_the_first_missing_segment_was_listed() {
        let start = Instant::now();
        let mut edge = Edge::default();
        let mut now = start;
        for newest in 5..=9 {
            edge.listed(&list(newest, None), now, clock());
            now += Duration::from_secs(4);
        }
        assert_eq!(seconds(now, &mut edge, 4), Some(20));
        assert_eq!(seconds(now, &mut edge, 6), Some(12));
        assert_eq!(seconds(now, &mut edge, 9), None);
    }

    #[test]
    fn a_recording_has_no_lag() {
        let mut recording = list(9, None);
        recording.endlist = true;
        let mut edge = Edge::default();
        edge.listed(&recording, Instant::now(), clock());
        assert_eq!(edge.behind_since(Some(MediaSequence(3))), None);
        assert!(!edge.moves());
    }

    #[test]
    fn a_clock_that_cannot_be_right_is_not_believed() {
        let now = Instant::now() + Duration::from_secs(7200);
        let mut edge = Edge::default();
        edge.listed(&list(5, Some(1500)), now, clock());
        assert_eq!(seconds(now, &mut edge, 5), None);
        let mut edge = Edge::default();
        let unset = clock() - Duration::from_secs(3000);
        edge.listed(&list(5, Some(3)), now, unset);
        assert_eq!(seconds(now, &mut edge, 5), None);
    }

    #[test]
    fn a_programme_that_has_ended_is_not_behind_once_its_end_is_here() {
        let now = Instant::now() + Duration::from_secs(7200);
        let mut media = list(5, Some(3));
        media.endlist = true;
        let mut edge = Edge::default();
        edge.listed(&list(4, Some(7)), now, clock());
        edge.listed(&media, now, clock());
        assert_eq!(seconds(now, &mut edge, 4), Some(7));
        assert_eq!(seconds(now, &mut edge, 5), None);
        assert!(!edge.moves());
    }
}
