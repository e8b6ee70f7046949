//! The index with segments that are only numbers.

mod ambiguous;

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
