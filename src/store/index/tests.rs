//! The index with segments that are only numbers.

use std::time::Duration;

use url::Url;

use super::channel::ALIVE;
use super::*;
use crate::config::Matching;
use crate::ids::{ByteRange, Resource};

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

    fn range(&self) -> Option<ByteRange> {
        self.0.resource.range
    }

    fn pool(&self) -> Pool {
        Pool::Disk
    }

    fn bytes(&self) -> u64 {
        self.1
    }

    fn is(&self, other: &Self) -> bool {
        self == other
    }
}

fn named(rendition: u16, sequence: u64, uri: &str) -> Announced {
    let base = format!("http://origin/{rendition}/");
    Announced {
        rendition: RenditionIndex(rendition),
        uri: uri.into(),
        resource: Resource {
            url: Url::parse(&base).unwrap().join(uri).unwrap(),
            range: None,
        },
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
    index_of(max_size, Matching::Exact)
}

fn index_of(max_size: u64, matching: Matching) -> Index<Fake> {
    Index::new(
        max_size,
        0,
        [(news(), matching), ("sport".into(), matching)],
    )
}

fn announce(index: &mut Index<Fake>, segments: &[Announced]) -> Outcome<Fake> {
    index.announce(&news(), segments, Instant::now())
}

/// Sets bytes aside where the file system lacks `short` of them; what leaves takes room.
fn reserve(index: &mut Index<Fake>, announced: &Announced, bytes: u64, short: i64) -> Room<Fake> {
    let wish = Wish {
        pool: Pool::Disk,
        bytes,
        spare: match short {
            0 => i64::MAX,
            short => bytes as i64 - short,
        },
        patient: false,
    };
    index.reserve(&news(), announced, wish)
}

/// Stores what has been announced, if there is room; what goes for it goes at once.
fn store(index: &mut Index<Fake>, announced: &Announced, bytes: u64) -> Option<Vec<u64>> {
    let ticket = index.ticket(&news(), announced).unwrap();
    let mut gone = Vec::new();
    loop {
        match reserve(index, announced, bytes, 0) {
            Room::Made => break,
            Room::Evicted(evicted) => {
                for fake in evicted {
                    index.left(Pool::Disk, fake.bytes());
                    gone.push(fake.sequence().0);
                }
            }
            _ => return None,
        }
    }
    index.release(Pool::Disk, bytes, bytes);
    assert!(index.store(&news(), ticket, Fake(announced.clone(), bytes)));
    Some(gone)
}

fn is_coming(found: &Lookup<Fake>) -> bool {
    matches!(found, Lookup::Coming(_))
}

fn find(index: &Index<Fake>, uri: &str, sequence: Option<u64>) -> Lookup<Fake> {
    index.find(&news(), uri, sequence.map(MediaSequence), Instant::now())
}

#[test]
fn a_segment_is_coming_once_announced_and_ready_once_stored() {
    let mut index = index(1000);
    assert_eq!(find(&index, "1.ts", Some(1)), Lookup::Absent);
    announce(&mut index, &[number(1)]);
    assert!(is_coming(&find(&index, "1.ts", Some(1))));
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
    assert_eq!(index.used(Pool::Disk), 0);
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
fn a_viewer_may_wait_for_sound_while_the_next_pictures_are_known() {
    let mut index = index(1000);
    let segments = [number(6), named(1, 6, "a6.aac"), number(7)];
    announce(&mut index, &segments);
    assert_eq!(find(&index, "a7.aac", Some(7)), Lookup::Ahead);
    // Numbers of one playlist say nothing of another's.
    announce(&mut index, &[named(2, 100, "b100.aac")]);
    assert_eq!(find(&index, "a7.aac", Some(7)), Lookup::Ahead);
    assert_eq!(find(&index, "b101.aac", Some(101)), Lookup::Ahead);
    assert_eq!(find(&index, "old.ts", Some(5)), Lookup::Absent);
    // Nor do those of initialization sections, which are those of segments long ago.
    let init = Announced {
        rendition: RenditionIndex(0).sections(),
        ..named(0, 1, "init.mp4")
    };
    announce(&mut index, &[init]);
    assert_eq!(find(&index, "old.ts", Some(2)), Lookup::Absent);
}

#[test]
fn a_recurring_uri_is_told_apart_by_its_number() {
    let mut index = index(1000);
    announce(&mut index, &[named(0, 1, "ad.ts"), named(0, 5, "ad.ts")]);
    store(&mut index, &named(0, 1, "ad.ts"), 10).unwrap();
    assert!(matches!(find(&index, "ad.ts", Some(1)), Lookup::Ready(_)));
    assert!(is_coming(&find(&index, "ad.ts", Some(5))));
    assert!(is_coming(&find(&index, "ad.ts", None)));
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
    assert_eq!(index.used(Pool::Disk), 30);
}

#[test]
fn room_is_made_from_the_channel_that_is_furthest_behind() {
    let mut index = index(40);
    let sport = || ChannelName::from("sport");
    index.restore(&sport(), Fake(number(1), 10));
    index.restore(&sport(), Fake(number(9), 10));
    announce(&mut index, &[number(100), number(101)]);
    assert_eq!(store(&mut index, &number(100), 10), Some(vec![]));
    let room = reserve(&mut index, &number(101), 20, 0);
    assert_eq!(room, Room::Evicted(vec![Fake(number(1), 10)]));
}

#[test]
fn a_short_file_system_evicts_too_and_nothing_where_that_does_not_help() {
    let mut index = index(1000);
    announce(&mut index, &(1..=4).map(number).collect::<Vec<_>>());
    for sequence in 1..=3 {
        store(&mut index, &number(sequence), 10).unwrap();
    }
    let room = reserve(&mut index, &number(2), 10, 15);
    assert_eq!(room, Room::Taken, "what would help is nearer to the edge");
    let room = reserve(&mut index, &number(4), 10, 31);
    assert_eq!(room, Room::Never, "there is not so much");
    assert_eq!(index.used(Pool::Disk), 30, "nothing went in vain");
    let Room::Evicted(evicted) = reserve(&mut index, &number(4), 10, 15) else {
        panic!("there will be room");
    };
    assert_eq!(evicted.len(), 2);
    assert_eq!(index.used(Pool::Disk), 10);
}

#[test]
fn bytes_set_aside_count_until_they_are_given_back() {
    let mut index = index(30);
    announce(&mut index, &[number(1), number(2)]);
    assert_eq!(reserve(&mut index, &number(1), 30, 0), Room::Made);
    assert_eq!(reserve(&mut index, &number(2), 1, 0), Room::Taken);
    index.release(Pool::Disk, 30, 30);
    assert_eq!(reserve(&mut index, &number(2), 30, 0), Room::Made);
}

#[test]
fn what_expired_counts_until_it_is_gone_and_so_do_files_that_cannot_be_deleted() {
    let mut index = index(30);
    announce(&mut index, &[number(1), number(2)]);
    store(&mut index, &number(1), 30).unwrap();
    let expired = (RenditionIndex(0), MediaSequence(1), "1.ts".into());
    index.expire(&news(), &[expired]);
    assert_eq!(reserve(&mut index, &number(2), 1, 0), Room::Taken);
    let patient = Wish {
        pool: Pool::Disk,
        bytes: 10,
        spare: 10,
        patient: true,
    };
    let room = index.reserve(&news(), &number(2), patient);
    assert_eq!(room, Room::Leaving, "it will be gone in a moment");
    index.left(Pool::Disk, 30);
    index.leaves(Pool::Disk, 25);
    assert_eq!(reserve(&mut index, &number(2), 10, 0), Room::Taken);
    index.left(Pool::Disk, 25);
    assert_eq!(reserve(&mut index, &number(2), 10, 0), Room::Made);
}

#[test]
fn what_has_not_been_written_yet_is_not_free() {
    let mut index = index(1000);
    announce(&mut index, &[number(1), number(2)]);
    // 15 bytes are free in all.
    assert_eq!(reserve(&mut index, &number(1), 10, -5), Room::Made);
    assert_eq!(reserve(&mut index, &number(2), 10, -5), Room::Never);
    index.wrote(Pool::Disk, 4);
    assert_eq!(reserve(&mut index, &number(2), 1, -10), Room::Made);
}

#[test]
fn a_start_over_more_than_the_quota_keeps_as_much_as_fits_and_the_newest_of_it() {
    let mut index = index(100);
    for sequence in 1..=40 {
        index.restore(&news(), Fake(number(sequence), 10));
    }
    let surplus = index.evict_surplus();
    assert_eq!(surplus.len(), 30);
    assert!(surplus.iter().all(|fake| fake.sequence().0 <= 30));
    assert_eq!(index.used(Pool::Disk), 100);
}

#[test]
fn what_an_earlier_run_stored_is_found_once_it_is_proven() {
    let mut index = index(1000);
    let fake = Fake(number(1), 10);
    index.restore(&news(), fake.clone());
    announce(&mut index, &[number(1), number(2)]);
    let Lookup::Unproven(_, ticket) = find(&index, "1.ts", Some(1)) else {
        panic!("it is there");
    };
    assert_eq!(index.summary(&news()).segments, 0);
    assert_eq!(index.proved(&news(), &fake, ticket, true), None);
    assert_eq!(find(&index, "1.ts", Some(1)), Lookup::Ready(fake));
}

#[test]
fn what_is_not_whole_is_on_its_way_again_if_it_is_listed() {
    let mut index = index(1000);
    let (listed, old) = (Fake(number(2), 10), Fake(number(1), 10));
    index.restore(&news(), listed.clone());
    index.restore(&news(), old.clone());
    announce(&mut index, &[number(2)]);
    for (fake, uri, again) in [(listed, "2.ts", true), (old, "1.ts", false)] {
        let Lookup::Unproven(_, ticket) = find(&index, uri, None) else {
            panic!("it is there");
        };
        let removed = index.proved(&news(), &fake, ticket, false);
        assert_eq!(removed, Some(fake));
        assert_eq!(is_coming(&find(&index, uri, None)), again);
    }
    assert_eq!(index.used(Pool::Disk), 0);
    assert!(index.ticket(&news(), &number(2)).is_some());
}

#[test]
fn what_was_stored_under_another_token_is_the_same_where_names_are_matched_by_path() {
    for (matching, removed) in [(Matching::Path, 0), (Matching::Exact, 1)] {
        let mut index = index_of(1000, matching);
        index.restore(&news(), Fake(named(0, 1, "1.ts?t=old"), 10));
        let outcome = announce(&mut index, &[named(0, 1, "1.ts?t=new")]);
        assert_eq!(outcome.removed.len(), removed);
    }
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
    assert!(is_coming(&find(&index, "1.ts", Some(1))));
}

#[test]
fn another_uri_under_a_known_number_replaces_it() {
    let mut index = index(1000);
    announce(&mut index, &[number(1)]);
    store(&mut index, &number(1), 10).unwrap();
    let outcome = announce(&mut index, &[named(0, 1, "other.ts")]);
    assert_eq!(outcome.removed, [Fake(number(1), 10)]);
    assert_eq!(find(&index, "1.ts", Some(1)), Lookup::Absent);
    assert!(is_coming(&find(&index, "other.ts", Some(1))));
}

#[test]
fn a_clash_of_what_an_earlier_run_stored_is_told_once_it_is_listed_and_never_served() {
    let mut index = index(1000);
    let (ours, theirs) = (named(0, 1, "ad.ts"), named(1, 1, "ad.ts"));
    for segment in [&ours, &theirs] {
        let outcome = index.restore(&news(), Fake(segment.clone(), 10));
        assert_eq!(outcome.first_clash, None, "nobody knows");
    }
    assert_eq!(index.identify(&news(), &[ours]), None);
    announce(&mut index, &[]);
    assert_eq!(find(&index, "ad.ts", Some(1)), Lookup::Absent, "in doubt");
    let clash = index.identify(&news(), &[theirs]);
    assert_eq!(clash.as_deref(), Some("ad.ts"));
    assert_eq!(find(&index, "ad.ts", Some(1)), Lookup::Absent);
    assert_eq!(index.ambiguous(&news()).unwrap().segments, 2);
}

#[test]
fn a_clash_of_paths_that_an_earlier_run_stored_is_told() {
    let mut index = index_of(1000, Matching::Path);
    let outcome = index.restore(&news(), Fake(named(0, 1, "s.ts?n=1"), 10));
    assert_eq!(outcome.first_clash, None);
    let outcome = index.restore(&news(), Fake(named(0, 2, "s.ts?n=2"), 10));
    assert_eq!(outcome.first_clash.as_deref(), Some("s.ts"));
}

#[test]
fn one_resource_in_two_renditions_is_served_after_a_restart_too() {
    let mut index = index(1000);
    let url = "http://ads/1.ts";
    let both = [named(0, 1, url), named(1, 1, url)];
    for segment in &both {
        index.restore(&news(), Fake(segment.clone(), 10));
    }
    assert_eq!(index.identify(&news(), &both), None);
    announce(&mut index, &[]);
    assert!(matches!(find(&index, url, Some(1)), Lookup::Unproven(..)));
    assert_eq!(index.ambiguous(&news()), None);
}

#[test]
fn of_one_name_and_query_in_two_renditions_neither_is_found_by_its_path() {
    let mut index = index_of(1000, Matching::Path);
    keep(
        &mut index,
        &[named(0, 1, "1.ts?t=x"), named(1, 1, "1.ts?t=x")],
    );
    assert_eq!(find(&index, "1.ts?t=theirs", Some(1)), Lookup::Absent);
}

/// Announces and stores these, in this order.
fn keep(index: &mut Index<Fake>, segments: &[Announced]) {
    announce(index, segments);
    for segment in segments {
        store(index, segment, 10).unwrap();
    }
}

fn ready(segment: Announced) -> Lookup<Fake> {
    Lookup::Ready(Fake(segment, 10))
}

#[test]
fn a_name_that_two_renditions_use_is_not_served_and_their_others_are() {
    let mut index = index(1000);
    let ours = [named(0, 1, "high1.ts"), named(0, 2, "ad.ts")];
    assert!(announce(&mut index, &ours).first_clash.is_none());
    assert_eq!(index.ambiguous(&news()), None);
    let theirs = [named(1, 1, "low1.ts"), named(1, 2, "ad.ts")];
    let clash = announce(&mut index, &theirs).first_clash;
    assert_eq!(clash.as_deref(), Some("ad.ts"));
    for segment in ours.iter().chain(&theirs) {
        store(&mut index, segment, 10).unwrap();
    }
    assert_eq!(find(&index, "high1.ts", Some(1)), ready(ours[0].clone()));
    assert_eq!(find(&index, "low1.ts", Some(1)), ready(theirs[0].clone()));
    for sequence in [Some(2), None] {
        assert_eq!(find(&index, "ad.ts", sequence), Lookup::Absent);
    }
    let ambiguous = index.ambiguous(&news()).unwrap();
    assert_eq!(
        (ambiguous.example.as_str(), ambiguous.segments),
        ("ad.ts", 2)
    );

    let again = [named(0, 3, "ad2.ts"), named(1, 3, "ad2.ts")];
    assert_eq!(announce(&mut index, &again).first_clash, None, "told once");
}

#[test]
fn a_name_stays_ambiguous_while_one_of_its_bearers_is_left() {
    let mut index = index(1000);
    keep(&mut index, &[named(0, 1, "1.ts"), named(1, 1, "1.ts")]);
    let first = (RenditionIndex(0), MediaSequence(1), "1.ts".into());
    index.expire(&news(), &[first]);
    assert_eq!(find(&index, "1.ts", Some(1)), Lookup::Absent);
    let second = (RenditionIndex(1), MediaSequence(1), "1.ts".into());
    index.expire(&news(), &[second]);
    keep(&mut index, &[number(1)]);
    assert_eq!(find(&index, "1.ts", Some(1)), ready(number(1)));
}

#[test]
fn after_a_clash_a_segment_waits_until_the_other_rendition_has_come_as_far() {
    let mut index = index(1000);
    keep(&mut index, &[named(0, 1, "ad.ts"), named(1, 1, "ad.ts")]);
    // Listed by the one first: a viewer of the other may have seen it there already.
    keep(
        &mut index,
        &[named(0, 2, "ad2.ts"), named(0, 3, "high3.ts")],
    );
    assert_eq!(find(&index, "ad2.ts", Some(2)), Lookup::Ahead);
    assert_eq!(find(&index, "high3.ts", Some(3)), Lookup::Ahead);
    keep(&mut index, &[named(1, 2, "ad2.ts"), named(1, 3, "low3.ts")]);
    assert_eq!(find(&index, "ad2.ts", Some(2)), Lookup::Absent);
    assert_eq!(
        find(&index, "high3.ts", Some(3)),
        ready(named(0, 3, "high3.ts"))
    );
    assert_eq!(
        find(&index, "low3.ts", Some(3)),
        ready(named(1, 3, "low3.ts"))
    );
}

#[test]
fn after_a_clash_a_rendition_that_stands_still_costs_the_other_only_what_could_be_meant() {
    let mut index = index(1000);
    keep(&mut index, &[named(0, 1, "ad.ts"), named(1, 1, "ad.ts")]);
    keep(&mut index, &(2..=5).map(number).collect::<Vec<_>>());
    assert_eq!(find(&index, "4.ts", Some(4)), Lookup::Ahead);
    assert_eq!(find(&index, "5.ts", Some(5)), ready(number(5)));
}

#[test]
fn one_resource_in_two_renditions_is_served_whoever_has_it() {
    let mut index = index(1000);
    let url = "http://ads/1.ts";
    keep(&mut index, &[named(0, 1, url)]);
    announce(&mut index, &[named(1, 1, url)]);
    assert_eq!(find(&index, url, Some(1)), ready(named(0, 1, url)));
    assert_eq!(index.ambiguous(&news()), None);
}

#[test]
fn of_a_rendition_that_shares_names_with_an_unfollowed_one_nothing_is_served() {
    let mut index = index(1000);
    let (video, audio) = (number(1), named(1, 1, "a1.aac"));
    keep(&mut index, &[video.clone(), audio.clone()]);
    let shared = RenditionIndex(0);
    let share = |index: &mut Index<Fake>, shared: &[RenditionIndex], seen| {
        let shared = shared.iter().copied().collect();
        index.set_shared(&news(), Matching::Exact, shared, seen)
    };
    assert_eq!(share(&mut index, &[shared], true).len(), 1);
    assert!(share(&mut index, &[shared], true).is_empty(), "told once");
    assert_eq!(find(&index, "1.ts", Some(1)), Lookup::Absent);
    assert_eq!(find(&index, "a1.aac", Some(1)), ready(audio));
    assert_eq!(index.ambiguous(&news()).unwrap().example, video.uri);
    // What will be listed next cannot be served either, unless it is of the other.
    keep(&mut index, &[number(2), number(3), number(4), number(5)]);
    assert_eq!(find(&index, "2.ts", Some(2)), Lookup::Absent);
    assert_eq!(find(&index, "6.ts", Some(6)), Lookup::Absent);
    assert_eq!(find(&index, "a2.aac", Some(2)), Lookup::Ahead);
    share(&mut index, &[], false);
    assert_eq!(
        find(&index, "2.ts", Some(2)),
        Lookup::Absent,
        "who knows what the unseen one lists"
    );
    share(&mut index, &[], true);
    assert_eq!(find(&index, "2.ts", Some(2)), ready(number(2)));
    assert!(share(&mut index, &[shared], true).is_empty(), "told once");
    assert_eq!(find(&index, "2.ts", Some(2)), Lookup::Absent);
    index.clear(&news());
    keep(&mut index, &[number(1)]);
    assert_eq!(
        find(&index, "1.ts", Some(1)),
        ready(number(1)),
        "another list"
    );
}

#[test]
fn a_query_of_another_viewer_does_not_matter_where_the_channel_matches_by_path() {
    let mut index = index_of(1000, Matching::Path);
    let segment = named(0, 1, "1.ts?t=ours");
    keep(&mut index, std::slice::from_ref(&segment));
    for uri in ["1.ts?t=ours", "1.ts?t=theirs", "1.ts"] {
        assert_eq!(find(&index, uri, Some(1)), ready(segment.clone()));
        assert_eq!(find(&index, uri, None), ready(segment.clone()));
    }
    assert_eq!(find(&index, "2.ts?t=ours", None), Lookup::Absent);
    assert_eq!(find(&index, "1.ts?t=theirs", Some(9)), Lookup::Absent);
    let exact = find(&self::index(1000), "1.ts?t=theirs", Some(1));
    assert_eq!(exact, Lookup::Absent);
}

#[test]
fn a_path_is_ambiguous_where_only_the_query_tells_segments_apart() {
    let mut index = index_of(1000, Matching::Path);
    let (one, two) = (named(0, 1, "seg.ts?n=1"), named(0, 2, "seg.ts?n=2"));
    announce(&mut index, std::slice::from_ref(&one));
    let clash = announce(&mut index, std::slice::from_ref(&two)).first_clash;
    assert_eq!(clash.as_deref(), Some("seg.ts"));
    for segment in [&one, &two] {
        store(&mut index, segment, 10).unwrap();
    }
    assert_eq!(
        find(&index, "seg.ts?n=1", Some(1)),
        ready(one),
        "as written"
    );
    assert_eq!(find(&index, "seg.ts?n=2", Some(2)), ready(two));
    assert_eq!(find(&index, "seg.ts?n=1&t=x", Some(1)), Lookup::Absent);
    assert_eq!(find(&index, "seg.ts", None), Lookup::Absent);
    assert_eq!(index.ambiguous(&news()), None, "each has a name of its own");
}

fn part(sequence: u64, start: u64) -> Announced {
    let mut part = named(0, sequence, "all.mp4");
    part.resource.range = ByteRange::new(start, 100);
    part
}

#[test]
fn what_was_stored_as_another_part_of_a_resource_is_another_segment() {
    for (start, removed) in [(800, 0), (900, 1)] {
        let mut index = index(1000);
        index.restore(&news(), Fake(part(1, 800), 10));
        let outcome = announce(&mut index, &[part(1, start)]);
        assert_eq!(outcome.removed.len(), removed);
    }
}

/// The initialization section of a playlist.
fn section(rendition: u16, sequence: u64, uri: &str) -> Announced {
    let mut section = named(rendition, sequence, uri);
    section.rendition = section.rendition.sections();
    section
}

#[test]
fn parts_of_one_resource_are_told_apart_by_their_numbers_and_never_guessed() {
    let mut index = index(1000);
    let parts = [part(1, 800), part(2, 900)];
    let mut init = section(0, 1, "all.mp4");
    init.resource.range = ByteRange::new(0, 800);
    keep(&mut index, &parts);
    keep(&mut index, &[init]);
    assert_eq!(find(&index, "all.mp4", Some(1)), ready(parts[0].clone()));
    assert_eq!(find(&index, "all.mp4", Some(2)), ready(parts[1].clone()));
    assert_eq!(find(&index, "all.mp4", None), Lookup::Absent);
    assert_eq!(index.ambiguous(&news()), None);
}

#[test]
fn a_section_is_found_by_its_uri_alone_and_is_no_segment() {
    let mut index = index(1000);
    keep(&mut index, &[number(7), number(8)]);
    let init = section(0, 7, "init.mp4");
    keep(&mut index, std::slice::from_ref(&init));
    assert_eq!(find(&index, "init.mp4", None), ready(init));
    assert_eq!(find(&index, "init.mp4", Some(7)), Lookup::Absent);
    assert_eq!(index.newest_of_all(&news()), Some(MediaSequence(8)));
    let summary = index.summary(&news());
    assert_eq!((summary.segments, summary.bytes), (2, 30));
}

#[test]
fn of_two_sections_of_one_name_the_newer_is_meant_and_of_two_renditions_neither() {
    let mut index = index(1000);
    let (old, new) = (section(0, 1, "init.mp4"), section(0, 5, "init.mp4"));
    keep(&mut index, &[old, new.clone()]);
    assert_eq!(find(&index, "init.mp4", None), ready(new));
    keep(&mut index, &[section(1, 1, "init.mp4")]);
    assert_eq!(find(&index, "init.mp4", None), Lookup::Absent);
    assert_eq!(find(&index, "other.ts", None), Lookup::Absent);
}

#[test]
fn what_is_listed_and_not_fetched_is_absent_at_once() {
    let mut index = index(1000);
    announce(&mut index, &[number(1)]);
    assert_eq!(
        find(&index, "gap.ts", Some(2)),
        Lookup::Ahead,
        "not listed yet"
    );
    index.listed(&news(), RenditionIndex(0), Some(MediaSequence(2)));
    assert_eq!(find(&index, "gap.ts", Some(2)), Lookup::Absent);
    assert_eq!(find(&index, "3.ts", Some(3)), Lookup::Ahead);
}
