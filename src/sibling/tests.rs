//! Who is asked, and who waits for whom.

use super::*;

fn two() -> (Siblings, Siblings) {
    (Siblings::new().0, Siblings::new().0)
}

fn names() -> (ChannelName, SegmentUri) {
    ("news".into(), "seg_1.ts".into())
}

#[test]
fn a_sibling_is_asked_while_its_channel_is_open() {
    let (here, there) = two();
    let (channel, uri) = names();
    let now = Instant::now();
    assert!(here.to_ask(&channel, &uri, now).is_empty());
    here.opened(&channel, there.own());
    assert_eq!(here.to_ask(&channel, &uri, now), [there.own().clone()]);
    assert!(here.to_ask(&"sport".into(), &uri, now).is_empty());
    here.closed(&channel, there.own());
    assert!(here.to_ask(&channel, &uri, now).is_empty());
}

#[test]
fn of_two_channels_to_one_sibling_the_second_still_counts_when_the_first_closes() {
    let (here, there) = two();
    let (channel, uri) = names();
    here.opened(&channel, there.own());
    here.opened(&channel, there.own());
    here.closed(&channel, there.own());
    assert_eq!(here.to_ask(&channel, &uri, Instant::now()).len(), 1);
}

#[test]
fn a_sibling_that_did_not_deliver_is_left_alone_for_a_while() {
    let (here, there) = two();
    let (channel, uri) = names();
    let now = Instant::now();
    here.opened(&channel, there.own());
    here.shun(&channel, there.own().clone(), now);
    assert!(here.to_ask(&channel, &uri, now).is_empty());
    assert_eq!(here.to_ask(&channel, &uri, now + SHUNNED_FOR).len(), 1);
}

#[test]
fn whoever_asks_for_what_is_being_fetched_waits_for_it() {
    let (here, there) = two();
    let (channel, uri) = names();
    assert!(!here.is_coming(&channel, &uri, there.own()));
    let attempt = here.attempt(&channel, &uri);
    attempt.fetching();
    assert!(here.is_coming(&channel, &uri, there.own()));
    drop(attempt);
    assert!(!here.is_coming(&channel, &uri, there.own()));
}

#[test]
fn of_two_that_ask_each_other_exactly_one_fetches() {
    let (here, there) = two();
    let (channel, _) = names();
    let mut here_fetches = 0;
    for number in 0..200 {
        let uri = SegmentUri::from(format!("seg_{number}.ts"));
        let _attempts = (here.attempt(&channel, &uri), there.attempt(&channel, &uri));
        let there_waits = here.is_coming(&channel, &uri, there.own());
        let here_waits = there.is_coming(&channel, &uri, here.own());
        assert_ne!(here_waits, there_waits, "{uri}");
        here_fetches += usize::from(there_waits);
    }
    assert!((50..150).contains(&here_fetches), "{here_fetches} of 200");
}

#[test]
fn a_token_that_differs_for_each_box_makes_no_other_segment() {
    let (here, there) = two();
    let (channel, _) = names();
    let attempt = here.attempt(&channel, &"seg_1.ts?token=here".into());
    attempt.fetching();
    let theirs = "seg_1.ts?token=there".into();
    assert!(here.is_coming(&channel, &theirs, there.own()));
}

#[test]
fn a_second_attempt_at_one_segment_outlives_the_first() {
    let (here, there) = two();
    let (channel, uri) = names();
    let first = here.attempt(&channel, &uri);
    let second = here.attempt(&channel, &uri);
    second.fetching();
    drop(first);
    assert!(here.is_coming(&channel, &uri, there.own()));
}

#[test]
fn a_sibling_that_said_lack_and_then_hears_of_the_segment_waits() {
    let (here, there) = two();
    let (channel, _) = names();
    for number in 0..20 {
        let uri = SegmentUri::from(format!("seg_{number}.ts"));
        let attempt = here.attempt(&channel, &uri);
        here.lacked(&channel, &uri, there.own());
        assert!(here.is_coming(&channel, &uri, there.own()), "{uri}");
        drop(attempt);
        assert!(!here.is_coming(&channel, &uri, there.own()), "{uri}");
    }
}
