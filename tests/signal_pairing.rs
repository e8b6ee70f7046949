//! Whom the signalling server introduces to whom, over real WebSockets on loopback.

// clippy.toml lifts these inside test functions only; here the helpers need it as well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/signal.rs"]
mod support;

use edgeseed::metrics::Refused;
use serde_json::{Value, json};
use support::{CHANNEL, Page, Running, any_port, connect};

const NOTHING: [Value; 0] = [];

fn dc(action: &str, own: &str, remote: &str) -> Value {
    json!({"action": action, "dc_id": format!("{own}{remote}")})
}

#[tokio::test]
async fn a_parent_hears_of_its_child_before_it_hears_from_it() {
    let server = Running::start(any_port()).await;
    let (mut parent, parent_id) = Page::enter(server.addr).await;
    // First generation: no action, and the level is a string.
    parent
        .say(json!({"level": "5.00", "channel": CHANNEL}))
        .await;
    // Answered after the report was taken in.
    parent.say(json!({"action": "get_parents"})).await;
    assert_eq!(
        parent.hear().await,
        json!({"action": "parents", "nodes": []})
    );
    for _ in 0..5 {
        let (mut child, child_id) = Page::enter(server.addr).await;
        assert_eq!(child.hear().await, connect(&parent_id, true));
        child
            .say(json!({"action": "signal", "to_peer_id": parent_id, "data": 1}))
            .await;
        assert_eq!(parent.hear().await, connect(&child_id, false));
        assert_eq!(parent.hear().await["from_peer_id"], child_id.as_str());
    }
    server.stop().await;
}

#[tokio::test]
async fn without_a_box_viewers_are_paired_with_one_another() {
    let server = Running::start(any_port()).await;
    let (mut one, one_id) = Page::holding(server.addr, json!({"level": "8.00"})).await;
    // It has been the other's child since before it held anything.
    let (mut two, two_id) = Page::holding(server.addr, json!({"level": "8.00"})).await;
    let (mut three, three_id) = Page::enter(server.addr).await;
    assert_eq!(
        three.settle().await,
        [connect(&one_id, true), connect(&two_id, true)]
    );
    assert_eq!(two.settle().await, [connect(&three_id, false)]);
    assert_eq!(
        one.settle().await,
        [connect(&two_id, false), connect(&three_id, false)]
    );
    server.stop().await;
}

#[tokio::test]
async fn two_boxes_are_introduced_and_the_newer_one_makes_the_offer() {
    let server = Running::start(any_port()).await;
    let report = json!({"action": "level", "level": 100, "room": 0});
    let (mut older, older_id) = Page::holding(server.addr, report.clone()).await;
    let (mut newer, newer_id) = Page::enter(server.addr).await;
    newer.say(report.clone()).await;
    assert_eq!(newer.settle().await, [connect(&older_id, true)]);
    assert_eq!(older.settle().await, [connect(&newer_id, false)]);
    // It failed: not again at once.
    newer.say(dc("dc_failed", &newer_id, &older_id)).await;
    newer.say(report).await;
    assert_eq!(newer.settle().await, NOTHING);
    assert_eq!(older.settle().await, NOTHING);
    server.stop().await;
}

#[tokio::test]
async fn two_boxes_share_the_viewers() {
    let server = Running::start(any_port()).await;
    let mut boxes = Vec::new();
    for room in [6, 6] {
        let report = json!({"action": "level", "level": 100, "room": room});
        boxes.push(Page::holding(server.addr, report).await);
    }
    let mut first_parents = Vec::new();
    let mut pages = Vec::new();
    for _ in 0..8 {
        let (mut page, _) = Page::enter(server.addr).await;
        let told = page.settle().await;
        first_parents.push(told[0]["to_peer_id"].as_str().unwrap().to_owned());
        pages.push(page);
    }
    for (_, id) in &boxes {
        let share = first_parents.iter().filter(|parent| *parent == id).count();
        assert_eq!(share, 4, "{first_parents:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_box_that_is_nearly_full_is_passed_over_and_a_full_one_is_left_alone() {
    let server = Running::start(any_port()).await;
    let report = |room: u32| json!({"action": "level", "level": 100, "room": room});
    let (mut full, full_id) = Page::holding(server.addr, report(1)).await;
    let mut pages = Vec::new();
    // 20 viewers; it says anew how much room it has.
    for _ in 0..20 {
        full.say(report(2)).await;
        full.settle().await;
        pages.push(Page::enter(server.addr).await);
    }
    full.say(report(1)).await;
    full.settle().await;
    let (spare, spare_id) = Page::holding(server.addr, report(100)).await;
    let (mut page, _) = Page::enter(server.addr).await;
    assert_eq!(page.settle().await, [connect(&spare_id, true)]);
    spare.vanish();
    assert_eq!(page.hear().await, connect(&full_id, true));
    full.say(report(0)).await;
    full.settle().await;
    let (mut late, late_id) = Page::enter(server.addr).await;
    assert_eq!(late.settle().await, NOTHING);
    full.say(report(1)).await;
    assert!(full.settle().await.contains(&connect(&late_id, false)));
    assert_eq!(late.settle().await, [connect(&full_id, true)]);
    server.stop().await;
}

#[tokio::test]
async fn a_parent_that_failed_or_closed_is_replaced_at_once_whoever_says_so() {
    let server = Running::start(any_port()).await;
    let mut holders = Vec::new();
    for level in [9, 8, 7] {
        holders.push(Page::holding(server.addr, json!({"level": level})).await);
    }
    for (by_parent, action) in [
        (true, "dc_failed"),
        (false, "dc_failed"),
        (true, "dc_closed"),
        (false, "dc_closed"),
    ] {
        let (mut page, id) = Page::enter(server.addr).await;
        let (first, second, third) = (&holders[0].1, &holders[1].1, &holders[2].1);
        let told = [connect(first, true), connect(second, true)];
        assert_eq!(page.settle().await, told);
        let (first, third) = (first.clone(), connect(third, true));
        if action == "dc_closed" {
            page.say(dc("dc_opened", &id, &first)).await;
            page.settle().await;
        }
        if by_parent {
            let parent = &mut holders[0].0;
            parent.say(dc(action, &first, &id)).await;
            parent.settle().await;
        } else {
            page.say(dc(action, &id, &first)).await;
        }
        assert_eq!(page.settle().await, [third]);
        // Not again for a while.
        page.say(json!({"level": "0.00"})).await;
        assert_eq!(page.settle().await, NOTHING);
        page.vanish();
        server.until_sockets(3).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn a_parent_whose_socket_vanishes_is_replaced_at_once() {
    let server = Running::start(any_port()).await;
    let (first, first_id) = Page::holding(server.addr, json!({"level": 100, "room": 64})).await;
    let (mut page, _) = Page::enter(server.addr).await;
    assert_eq!(page.settle().await, [connect(&first_id, true)]);
    let (_second, second_id) = Page::holding(server.addr, json!({"level": 100, "room": 1})).await;
    // As a spare while there is ample room.
    assert_eq!(page.settle().await, [connect(&second_id, true)]);
    let (mut third, third_id) = Page::enter(server.addr).await;
    third.say(json!({"level": 5})).await;
    third.settle().await;
    first.vanish();
    assert_eq!(page.hear().await, connect(&third_id, true));
    server.stop().await;
}

#[tokio::test]
async fn a_parent_that_stays_silent_is_replaced_and_one_that_was_opened_stays() {
    let server = Running::start(any_port()).await;
    let (_silent, silent_id) = Page::holding(server.addr, json!({"level": 9})).await;
    let (_open, open_id) = Page::holding(server.addr, json!({"level": 8})).await;
    let (_other, other_id) = Page::holding(server.addr, json!({"level": 7})).await;
    let (mut page, id) = Page::enter(server.addr).await;
    let told = [connect(&silent_id, true), connect(&open_id, true)];
    assert_eq!(page.settle().await, told);
    page.say(dc("dc_opened", &id, &open_id)).await;
    // Takes as long as the server waits for `dc_opened`.
    assert_eq!(page.hear().await, connect(&other_id, true));
    page.say(dc("dc_opened", &id, &other_id)).await;
    assert_eq!(page.settle().await, NOTHING);
    server.stop().await;
}

#[tokio::test]
async fn a_box_that_refuses_several_in_a_row_is_passed_over() {
    let server = Running::start(any_port()).await;
    let (mut refuser, refuser_id) =
        Page::holding(server.addr, json!({"level": 100, "room": 64})).await;
    let (_page, page_id) = Page::holding(server.addr, json!({"level": 5})).await;
    refuser.settle().await;
    let mut viewers = Vec::new();
    for _ in 0..3 {
        let (mut viewer, id) = Page::enter(server.addr).await;
        assert_eq!(viewer.settle().await[0], connect(&refuser_id, true));
        refuser.say(dc("dc_failed", &refuser_id, &id)).await;
        refuser.settle().await;
        viewers.push(viewer);
    }
    let (mut viewer, _) = Page::enter(server.addr).await;
    assert_eq!(viewer.settle().await, [connect(&page_id, true)]);
    assert_eq!(server.refused(Refused::Unroutable), 0);
    server.stop().await;
}
