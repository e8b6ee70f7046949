//! Names that several segments bear, and parts of one resource.

use super::*;

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
