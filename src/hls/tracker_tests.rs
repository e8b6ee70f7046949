use url::Url;

use super::super::{Playlist, Variables, parse};
use super::*;

const WINDOW: Duration = Duration::from_secs(30);

fn list(first: u64, uris: &[&str]) -> MediaPlaylist {
    let mut text = format!("#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXT-X-MEDIA-SEQUENCE:{first}\n");
    for uri in uris {
        text += &format!("#EXTINF:6,\n{uri}\n");
    }
    let base = Url::parse("http://origin/index.m3u8").unwrap();
    match parse(&text, &base, &Variables::default()).unwrap() {
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
    assert_eq!(delays, [3, 6, 10, 10, 10, 10]);
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
    playlist.segments[0].source = Err(crate::hls::Unfit::Gap);
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

/// `numbered` as parts of one resource, each of 100 bytes, the first from `start` on.
fn parts(first: u64, count: u64, start: u64) -> MediaPlaylist {
    let mut playlist = numbered(first, count);
    for (segment, at) in playlist.segments.iter_mut().zip(0..) {
        let range = ByteRange::new(start + 100 * at, 100);
        segment.uri = "all.ts".into();
        segment.source.as_mut().unwrap().range = range;
    }
    playlist
}

#[test]
fn another_range_under_the_same_number_is_a_new_epoch() {
    let now = Instant::now();
    let mut tracker = Tracker::new(WINDOW, Matching::Exact);
    tracker.on_playlist(now, &parts(1, 3, 0));
    let update = tracker.on_playlist(now, &parts(2, 3, 100));
    assert!(!update.epoch_changed);
    assert_eq!(wanted(&update), [4]);
    assert!(tracker.on_playlist(now, &parts(2, 4, 101)).epoch_changed);
}

#[test]
fn other_queries_alone_are_told_apart_from_another_stream() {
    let now = Instant::now();
    let mut tracker = Tracker::new(WINDOW, Matching::Exact);
    tracker.on_playlist(now, &list(1, &["1.ts?t=a", "2.ts?t=a"]));
    let update = tracker.on_playlist(now, &list(1, &["1.ts?t=b", "2.ts?t=b"]));
    assert!(update.epoch_changed && update.only_queries_changed);
    let update = tracker.on_playlist(now, &list(1, &["x.ts?t=b", "2.ts?t=b"]));
    assert!(update.epoch_changed && !update.only_queries_changed);
}

#[test]
fn of_a_playlist_that_is_complete_the_beginning_is_wanted_in_order() {
    let now = Instant::now();
    let mut tracker = Tracker::new(WINDOW, Matching::Exact);
    let mut whole = numbered(0, 100);
    whole.endlist = true;
    assert_eq!(wanted(&tracker.on_playlist(now, &whole)), [0, 1, 2, 3, 4]);
    let again = tracker.on_playlist(now, &whole);
    assert!(again.wanted.is_empty() && again.expired.is_empty());
}

#[test]
fn a_live_playlist_that_ends_brings_its_last_segments() {
    let now = Instant::now();
    let mut tracker = Tracker::new(WINDOW, Matching::Exact);
    tracker.on_playlist(now, &numbered(10, 3));
    let mut ended = numbered(10, 5);
    ended.endlist = true;
    let update = tracker.on_playlist(now, &ended);
    assert!(update.ended && !update.epoch_changed);
    assert_eq!(wanted(&update), [13, 14]);
}

#[test]
fn sections_come_once_and_go_with_the_last_segment_that_needs_them() {
    let with_map = |first, count| {
        let text = format!(
            "#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXT-X-MEDIA-SEQUENCE:{first}\n\
             #EXT-X-MAP:URI=\"init.mp4\"\n"
        );
        let segments = (first..first + count).map(|n| format!("#EXTINF:6,\n{n}.m4s\n"));
        let text = text + &segments.collect::<String>();
        let base = Url::parse("http://origin/index.m3u8").unwrap();
        match parse(&text, &base, &Variables::default()).unwrap() {
            Playlist::Media(media) => media,
            Playlist::Multivariant(_) => unreachable!(),
        }
    };
    let now = Instant::now();
    let mut tracker = Tracker::new(WINDOW, Matching::Exact);
    let first = tracker.on_playlist(now, &with_map(0, 100));
    let sections = |update: &Update| -> Vec<(u64, String)> {
        let sections = update.wanted_sections.iter();
        sections
            .map(|(number, section)| (number.0, section.uri.to_string()))
            .collect()
    };
    let expected = [(95, "init.mp4".to_owned())];
    assert_eq!(
        sections(&first),
        expected,
        "from the first segment that is kept"
    );
    for first in 1..50 {
        let update = tracker.on_playlist(now, &with_map(first, 100));
        assert!(sections(&update).is_empty() && update.expired_sections.is_empty());
    }
    let restarted = tracker.on_playlist(now, &with_map(0, 2));
    assert!(restarted.epoch_changed);
    assert_eq!(
        restarted.expired_sections,
        [(MediaSequence(95), "init.mp4".into())]
    );
    assert_eq!(sections(&restarted), [(0, "init.mp4".to_owned())]);
}
