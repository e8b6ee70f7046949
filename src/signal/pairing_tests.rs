use super::*;
use crate::signal::member::{MAX_CHILDREN, RETRY_AFTER};
use crate::signal::pairing::{MAX_SIBLINGS, OPEN_WITHIN};

#[test]
fn a_viewer_is_paired_with_the_box_and_the_box_hears_first() {
    let mut scene = Scene::with_box();
    assert_eq!(
        scene.enter(2),
        ["2: accept id2.", "1: expect id2.", "2: open id1."]
    );
}

#[test]
fn whoever_was_there_before_the_first_parent_gets_it_when_it_appears() {
    let mut scene = Scene::new();
    assert_eq!(scene.enter(2), ["2: accept id2."]);
    assert_eq!(scene.enter(3), ["3: accept id3."]);
    assert_eq!(scene.enter(1), ["1: accept id1."]);
    assert_eq!(
        scene.report(1, 100.0, ROOM),
        [
            "1: expect id2.",
            "2: open id1.",
            "1: expect id3.",
            "3: open id1."
        ]
    );
    assert_eq!(scene.report(1, 100.0, ROOM), NOTHING);
}

#[test]
fn the_highest_levels_are_the_parents() {
    let mut scene = Scene::with_box();
    for (socket, level) in [(2, 3.0), (3, 5.0)] {
        scene.enter(socket);
        scene.level(socket, level);
    }
    assert_eq!(
        scene.enter(9),
        [
            "9: accept id9.",
            "1: expect id9.",
            "9: open id1.",
            "3: expect id9.",
            "9: open id3."
        ]
    );
}

#[test]
fn two_boxes_share_the_viewers_and_each_viewer_has_the_other_as_a_spare() {
    let mut scene = Scene::with_box();
    scene.enter(5);
    scene.enter(2);
    // 2 was a child of 1 until it said that it is a box; 5 gets it as a second parent.
    assert_eq!(
        scene.report(2, 100.0, ROOM),
        ["2: expect id5.", "5: open id2."]
    );
    for (viewer, first, second) in [(6, 2, 1), (7, 1, 2), (8, 2, 1)] {
        assert_eq!(
            scene.enter(viewer)[1..],
            [
                format!("{first}: expect id{viewer}."),
                format!("{viewer}: open id{first}."),
                format!("{second}: expect id{viewer}."),
                format!("{viewer}: open id{second}."),
            ]
        );
    }
}

#[test]
fn a_viewer_goes_to_the_box_that_is_less_full() {
    let mut scene = Scene::new();
    for (socket, room) in [(1, 10), (2, 40)] {
        scene.enter(socket);
        scene.report(socket, 120.0, Some(room));
    }
    let asked: Vec<String> = (10..60).flat_map(|viewer| scene.enter(viewer)).collect();
    let first = |who: &str| asked.iter().filter(|line| line.starts_with(who)).count();
    // Spares are given as long as half is free; the last tenth is kept back for need.
    assert_eq!((first("1: expect"), first("2: expect")), (10, 40));
}

#[test]
fn a_nearly_full_box_is_passed_over_while_there_is_another_parent() {
    let mut scene = Scene::new();
    scene.enter(1);
    scene.report(1, 100.0, Some(20));
    for viewer in 10..29 {
        scene.enter(viewer);
    }
    scene.enter(2);
    scene.report(2, 100.0, Some(100));
    // Not even as a spare.
    assert_eq!(scene.enter(30)[1..], ["2: expect id30.", "30: open id2."]);
    // Better than nobody.
    assert_eq!(scene.gone(2), ["1: expect id30.", "30: open id1."]);
    assert_eq!(scene.enter(31), ["31: accept id31."]);
}

#[test]
fn a_full_box_gets_nobody_until_it_says_that_it_has_room() {
    let mut scene = Scene::new();
    scene.enter(1);
    assert_eq!(scene.report(1, 100.0, Some(0)), NOTHING);
    assert_eq!(scene.enter(2), ["2: accept id2."]);
    assert_eq!(scene.enter(3), ["3: accept id3."]);
    let offered = scene.report(1, 100.0, Some(1));
    assert_eq!(offered, ["1: expect id2.", "2: open id1."]);
    // Who leaves makes room.
    assert_eq!(scene.gone(2), NOTHING);
    assert_eq!(scene.level(3, 0.0), ["1: expect id3.", "3: open id1."]);
}

#[test]
fn a_box_that_refuses_several_in_a_row_is_passed_over_for_a_while() {
    let mut scene = Scene::with_box();
    scene.enter(2);
    scene.level(2, 5.0);
    for viewer in 10..13 {
        assert!(
            scene
                .enter(viewer)
                .contains(&format!("1: expect id{viewer}."))
        );
        scene.failed(1, dc_id(&id(1), &id(viewer)));
    }
    assert_eq!(scene.enter(13)[1..], ["2: expect id13.", "13: open id2."]);
    // Whoever has nobody else is still sent to it.
    scene.gone(2);
    assert!(scene.enter(14).contains(&"14: open id1.".to_owned()));
    scene.enter(3);
    scene.level(3, 5.0);
    // Not forgiven because it says that it is a fine box.
    scene.report(1, 100.0, ROOM);
    assert!(scene.enter(15).contains(&"15: open id3.".to_owned()));
    scene.now += RETRY_AFTER;
    scene.report(1, 100.0, ROOM);
    assert_eq!(scene.enter(16)[1], "1: expect id16.");
}

#[test]
fn a_viewer_whose_parent_stays_silent_gets_another_at_once() {
    let mut scene = Scene::with_box();
    for (page, level) in [(3, 7.0), (4, 6.0)] {
        scene.enter(page);
        scene.level(page, level);
        scene.opened(page, 1);
    }
    scene.opened(4, 3);
    scene.enter(2);
    scene.opened(2, 3);
    let soon = Duration::from_millis(1);
    assert_eq!(scene.later(OPEN_WITHIN - soon), NOTHING);
    assert_eq!(scene.later(soon), ["4: expect id2.", "2: open id4."]);
    scene.opened(2, 4);
    assert_eq!(scene.later(RETRY_AFTER), NOTHING);
}

#[test]
fn a_pair_that_was_formed_again_has_its_time_again() {
    let mut scene = Scene::with_box();
    scene.enter(2);
    scene.later(OPEN_WITHIN - Duration::from_secs(1));
    // The same socket under another id.
    scene.enter(2);
    assert_eq!(scene.later(Duration::from_secs(1)), NOTHING);
    scene.opened(2, 1);
    assert_eq!(scene.later(OPEN_WITHIN), NOTHING);
}

#[test]
fn two_boxes_are_introduced_as_siblings_and_the_older_hears_first() {
    let mut scene = Scene::new();
    for socket in [1, 2] {
        assert_eq!(scene.enter(socket).len(), 1);
    }
    assert_eq!(
        scene.report(2, 110.0, Some(64)),
        ["2: expect id1.", "1: open id2."]
    );
    // The newer one was not known as a box; the older one is its child no more.
    assert_eq!(scene.report(1, 120.0, Some(64)), NOTHING);
    let mut scene = Scene::new();
    scene.enter(1);
    scene.report(1, 120.0, Some(0));
    scene.enter(2);
    assert_eq!(
        scene.report(2, 110.0, Some(64)),
        ["1: expect id2.", "2: open id1."]
    );
    assert_eq!(scene.report(1, 120.0, Some(64)), NOTHING);
    // A viewer may have both, siblings or not.
    assert_eq!(scene.enter(3).len(), 5);
}

#[test]
fn siblings_that_fail_are_introduced_again_after_a_while() {
    let mut scene = Scene::new();
    scene.enter(1);
    scene.report(1, 100.0, Some(0));
    scene.enter(2);
    scene.report(2, 100.0, Some(0));
    assert_eq!(scene.failed(2, dc_id(&id(2), &id(1))), NOTHING);
    assert_eq!(scene.report(1, 100.0, Some(0)), NOTHING);
    scene.later(RETRY_AFTER);
    assert_eq!(
        scene.report(1, 100.0, Some(0)),
        ["1: expect id2.", "2: open id1."]
    );
    // Nobody has to say that it is open.
    assert_eq!(scene.later(OPEN_WITHIN), NOTHING);
}

#[test]
fn a_box_has_few_siblings_and_gets_another_for_one_that_leaves() {
    let mut scene = Scene::new();
    let boxes = 1..=MAX_SIBLINGS as u64 + 2;
    for socket in boxes.clone() {
        scene.enter(socket);
        let said = scene.report(socket, 100.0, Some(0));
        let expected = if socket == *boxes.end() {
            0
        } else {
            2 * (socket - 1)
        };
        assert_eq!(said.len() as u64, expected);
    }
    let gone = scene.gone(2);
    let lonely = boxes.end();
    assert_eq!(
        gone[..2],
        [
            format!("1: expect id{lonely}."),
            format!("{lonely}: open id1.")
        ]
    );
    assert_eq!(gone.len(), 2 * MAX_SIBLINGS);
}

#[test]
fn nobody_becomes_a_child_of_a_lower_level_or_of_itself() {
    let mut scene = Scene::new();
    scene.enter(2);
    assert_eq!(scene.level(2, 5.0), NOTHING);
    assert_eq!(scene.level(2, 6.0), NOTHING);
    assert_eq!(scene.enter(3)[1..], ["2: expect id3.", "3: open id2."]);
    assert_eq!(scene.level(3, 1.0), NOTHING);
    // When it has more than its parent, that still is not its child.
    assert_eq!(scene.level(3, 50.0), NOTHING);
    assert_eq!(scene.level(2, 6.0), NOTHING);
}

#[test]
fn a_grandchild_does_not_become_a_parent() {
    let mut scene = Scene::new();
    scene.enter(1);
    scene.level(1, 9.0);
    scene.enter(2);
    scene.level(2, 8.0);
    scene.enter(3);
    scene.level(3, 1.0);
    scene.failed(3, dc_id(&id(3), &id(1)));
    // 3 is a child of 2, and 2 of 1. Even with the highest level it is no parent of either.
    assert_eq!(scene.level(3, 10.0), NOTHING);
    assert_eq!(scene.level(1, 9.0), NOTHING);
    assert_eq!(scene.level(2, 8.0), NOTHING);
}

#[test]
fn whoever_loses_a_parent_gets_the_next_one_at_once() {
    let mut scene = Scene::with_box();
    scene.enter(2);
    scene.enter(3);
    scene.level(3, 7.0);
    scene.enter(4);
    scene.level(4, 6.0);
    // 2 has 1 and 3.
    assert_eq!(scene.gone(1), ["4: expect id2.", "2: open id4."]);
}

#[test]
fn a_box_that_comes_back_gets_its_viewers_back() {
    let mut scene = Scene::new();
    for (socket, level) in [(2, 3.0), (3, 4.0)] {
        scene.enter(socket);
        scene.level(socket, level);
    }
    scene.enter(9);
    scene.enter(1);
    let paired = scene.report(1, 100.0, ROOM);
    for viewer in [2, 3, 9] {
        assert!(
            paired.contains(&format!("{viewer}: open id1.")),
            "{paired:?}"
        );
    }
}

#[test]
fn a_parent_that_failed_a_viewer_is_not_offered_to_it_until_later() {
    let mut scene = Scene::with_box();
    scene.enter(2);
    assert_eq!(scene.failed(1, dc_id(&id(1), &id(2))), NOTHING);
    assert_eq!(scene.level(2, 0.0), NOTHING);
    // Others are not concerned.
    assert_eq!(scene.enter(3)[1..], ["1: expect id3.", "3: open id1."]);
    scene.now += RETRY_AFTER - Duration::from_millis(1);
    assert_eq!(scene.level(2, 0.0), NOTHING);
    scene.now += Duration::from_millis(1);
    assert_eq!(scene.level(2, 0.0), ["1: expect id2.", "2: open id1."]);
}

#[test]
fn a_failure_is_understood_from_either_end_in_every_spelling() {
    for (reporter, dc_id) in [
        (1, "id1.id2."),
        (1, "id2.id1."),
        (2, "id2.id1."),
        (2, "id2.-id1."),
        (1, "id2.-id1."),
    ] {
        let mut scene = Scene::with_box();
        scene.enter(2);
        scene.enter(3);
        scene.level(3, 7.0);
        scene.enter(4);
        scene.level(4, 6.0);
        let replaced = scene.failed(reporter, PeerId::from(dc_id));
        assert_eq!(replaced, ["4: expect id2.", "2: open id4."], "{dc_id}");
    }
    let mut scene = Scene::with_box();
    scene.enter(2);
    for nonsense in ["", "id2.", "id1.", "id2.id9.", "id3.id1."] {
        assert_eq!(scene.failed(2, PeerId::from(nonsense)), NOTHING);
    }
    assert_eq!(scene.failed(2, PeerId::Number(7)), NOTHING);
}

#[test]
fn a_page_that_claims_to_be_the_best_is_still_a_page() {
    let mut scene = Scene::with_box();
    scene.enter(2);
    assert_eq!(scene.level(2, 1e9), NOTHING);
    let paired = [
        "1: expect id3.",
        "3: open id1.",
        "2: expect id3.",
        "3: open id2.",
    ];
    assert_eq!(scene.enter(3)[1..], paired);
    // It has kept its parent, and gets a spare one as any page does.
    scene.enter(4);
    let offered = scene.report(4, 100.0, ROOM);
    assert!(offered.contains(&"2: open id4.".to_owned()));
    assert!(!offered.contains(&"2: open id1.".to_owned()));
}

#[test]
fn a_page_gets_few_children_and_a_box_as_many_as_come() {
    let mut scene = Scene::with_box();
    scene.enter(2);
    scene.level(2, 5.0);
    let viewers = 100..100 + 2 * MAX_CHILDREN as u64;
    let said: Vec<String> = viewers.flat_map(|viewer| scene.enter(viewer)).collect();
    let asked = |who: &str| said.iter().filter(|line| line.starts_with(who)).count();
    assert_eq!(asked("1: expect"), 2 * MAX_CHILDREN);
    assert_eq!(asked("2: expect"), MAX_CHILDREN);
}

#[test]
fn parents_are_listed_best_first() {
    let mut scene = Scene::with_box();
    for (socket, level) in [(2, 3.0), (3, 4.0), (4, 5.0), (5, 0.0), (6, 1.0)] {
        scene.enter(socket);
        scene.level(socket, level);
    }
    let channel = None;
    assert_eq!(
        scene.say(1, ClientMessage::GetParents { channel }),
        ["1: parents "]
    );
    scene.enter(7);
    // It has 1 and 4 already.
    let channel = Some(ChannelId::from("news"));
    assert_eq!(
        scene.say(7, ClientMessage::GetParents { channel }),
        ["7: parents id3. id2. id6."]
    );
}

#[test]
fn a_page_that_turns_out_to_be_a_box_is_offered_as_one() {
    let mut scene = Scene::new();
    for (page, level) in [(3, 9.0), (2, 5.0)] {
        scene.enter(page);
        scene.level(page, level);
    }
    let offered = ["2: expect id3.", "3: open id2."];
    assert_eq!(scene.report(2, 5.0, ROOM), offered);
}
