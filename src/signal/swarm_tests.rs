use std::time::Duration;

use super::*;
use crate::signal::messages::dc_id;
use crate::signal::pairing::{MAX_CHILDREN, RETRY_AFTER};

/// Drives [`Swarms`] and writes down what it says, one line a message: `socket: message`.
struct Scene {
    swarms: Swarms,
    now: Instant,
}

impl Scene {
    fn new() -> Self {
        Self {
            swarms: Swarms::default(),
            now: Instant::now(),
        }
    }

    fn say(&mut self, socket: u64, message: ClientMessage) -> Vec<String> {
        let fresh = id(socket);
        written(
            self.swarms
                .receive(SocketId(socket), message, fresh, self.now),
        )
    }

    fn enter(&mut self, socket: u64) -> Vec<String> {
        self.enter_channel(socket, "news")
    }

    fn enter_channel(&mut self, socket: u64, channel: &str) -> Vec<String> {
        let channel = ChannelId::from(channel);
        self.say(
            socket,
            ClientMessage::Enter {
                channel,
                token: None,
            },
        )
    }

    fn level(&mut self, socket: u64, level: f64) -> Vec<String> {
        let channel = None;
        self.say(
            socket,
            ClientMessage::Level {
                channel,
                level,
                room: None,
            },
        )
    }

    fn failed(&mut self, reporter: u64, dc_id: PeerId) -> Vec<String> {
        let channel = None;
        self.say(reporter, ClientMessage::DcFailed { channel, dc_id })
    }

    fn gone(&mut self, socket: u64) -> Vec<String> {
        written(self.swarms.gone(SocketId(socket), self.now))
    }

    fn signal(&mut self, socket: u64, to: u64) -> Vec<String> {
        self.say(
            socket,
            ClientMessage::Signal {
                channel: None,
                to_peer_id: id(to),
                data: RawValue::from_string("{ }".to_owned()).unwrap(),
            },
        )
    }

    /// A box at socket 1 that has reported its level.
    fn with_box() -> Self {
        let mut scene = Self::new();
        scene.enter(1);
        assert_eq!(scene.level(1, 100.0), NOTHING);
        scene
    }
}

const NOTHING: [&str; 0] = [];

fn id(socket: u64) -> PeerId {
    PeerId::from(format!("id{socket}."))
}

fn written(out: Outbound) -> Vec<String> {
    let line = |(SocketId(socket), message): (SocketId, ServerMessage)| match message {
        ServerMessage::Accept {
            live: true,
            peer_id,
        } => format!("{socket}: accept {peer_id}"),
        ServerMessage::Connect {
            to_peer_id,
            initiator,
        } => format!(
            "{socket}: {} {to_peer_id}",
            if initiator { "open" } else { "expect" }
        ),
        ServerMessage::Signal { from_peer_id, data } => {
            format!("{socket}: from {from_peer_id} {data}")
        }
        ServerMessage::Parents { nodes } => {
            let nodes = nodes.into_iter().map(|node| node.peer_id.to_string());
            format!("{socket}: parents {}", nodes.collect::<Vec<_>>().join(" "))
        }
        other => format!("{socket}: {}", other.to_json()),
    };
    out.into_iter().map(line).collect()
}

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
        scene.level(1, 100.0),
        [
            "1: expect id2.",
            "2: open id1.",
            "1: expect id3.",
            "3: open id1."
        ]
    );
    assert_eq!(scene.level(1, 100.0), NOTHING);
}

#[test]
fn the_highest_levels_are_the_parents() {
    let mut scene = Scene::new();
    for (socket, level) in [(2, 3.0), (3, 5.0), (1, 100.0)] {
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
fn of_equal_boxes_the_one_with_fewer_children_comes_first_and_they_do_not_pair() {
    let mut scene = Scene::with_box();
    scene.enter(5);
    scene.enter(2);
    // 2 was a child of 1 until it said that it is a box; 5 gets it as a second parent.
    assert_eq!(scene.level(2, 100.0), ["2: expect id5.", "5: open id2."]);
    // Now 1 has a child and 2 has none.
    assert_eq!(scene.failed(5, dc_id(&id(5), &id(2))), NOTHING);
    assert_eq!(
        scene.enter(6)[1..],
        [
            "2: expect id6.",
            "6: open id2.",
            "1: expect id6.",
            "6: open id1."
        ]
    );
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
    let paired = scene.level(1, 100.0);
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
fn signals_go_to_known_peers_of_the_same_channel_only() {
    let mut scene = Scene::with_box();
    scene.enter(2);
    scene.enter_channel(3, "sports");
    assert_eq!(scene.signal(2, 1), ["1: from id2. { }"]);
    for (from, to) in [(3, 1), (2, 3), (2, 77), (2, 2), (88, 1)] {
        assert_eq!(scene.signal(from, to), NOTHING);
    }
    assert_eq!(scene.swarms.unroutable(), 5);
}

#[test]
fn parents_are_listed_best_first() {
    let mut scene = Scene::new();
    for (socket, level) in [(1, 100.0), (2, 3.0), (3, 4.0), (4, 5.0), (5, 0.0), (6, 1.0)] {
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
fn a_socket_may_be_in_several_channels_but_not_in_any_number() {
    let mut scene = Scene::new();
    for entry in 0..MAX_ENTRIES {
        let said = scene.enter_channel(2, &format!("channel {entry}"));
        assert_eq!(said, ["2: accept id2."]);
    }
    let refused = scene.enter_channel(2, "one more");
    assert!(refused[0].contains("reject") && refused[0].contains("too many"));
    // Again into one of them is no further entry.
    assert_eq!(scene.enter_channel(2, "channel 0"), ["2: accept id2."]);
    assert!(scene.swarms.has_entered(SocketId(2)));
    scene.gone(2);
    assert!(!scene.swarms.has_entered(SocketId(2)));
    assert!(scene.swarms.channels.is_empty());
}

#[test]
fn entering_again_replaces_the_entry_and_its_children_are_cared_for() {
    let mut scene = Scene::with_box();
    scene.enter(2);
    let enter = ClientMessage::Enter {
        channel: ChannelId::from("news"),
        token: None,
    };
    let fresh = PeerId::from("fresh");
    let out = scene.swarms.receive(SocketId(1), enter, fresh, scene.now);
    assert_eq!(written(out), ["1: accept fresh"]);
    assert_eq!(scene.signal(2, 1), NOTHING);
    assert_eq!(scene.level(1, 100.0), ["1: expect id2.", "2: open fresh"]);
}

#[test]
fn leave_means_the_named_entry_or_all() {
    let mut scene = Scene::new();
    scene.enter_channel(2, "a");
    let channel = ChannelId::from("b");
    let fresh = PeerId::from("second");
    let enter = ClientMessage::Enter {
        channel,
        token: None,
    };
    scene
        .swarms
        .receive(SocketId(2), enter, fresh.clone(), scene.now);
    let peer_id = Some(fresh);
    scene.say(2, ClientMessage::Leave { peer_id });
    assert_eq!(
        scene.swarms.entered(SocketId(2), None),
        [ChannelId::from("a")]
    );
    scene.say(2, ClientMessage::Leave { peer_id: None });
    assert!(!scene.swarms.has_entered(SocketId(2)));
}

#[test]
fn invented_channels_are_bounded() {
    let mut scene = Scene::new();
    for socket in 0..MAX_CHANNELS as u64 {
        scene.enter_channel(socket, &format!("channel {socket}"));
    }
    let refused = scene.enter_channel(9999, "one more");
    assert!(refused[0].contains("reject") && refused[0].contains("too many channels"));
    assert_eq!(
        scene.enter_channel(9999, "channel 3")[0],
        "9999: accept id9999."
    );
}

#[test]
fn under_random_traffic_parents_are_few_mutual_and_never_cyclic() {
    let mut scene = Scene::new();
    let mut seed = 7_u64;
    let mut random = |below: u64| {
        seed = seed
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (seed >> 33) % below
    };
    for _ in 0..5_000 {
        let socket = random(40);
        match random(8) {
            0 | 1 => _ = scene.enter(socket),
            2..5 => _ = scene.level(socket, random(6) as f64),
            5 => _ = scene.failed(socket, dc_id(&id(socket), &id(random(40)))),
            6 => _ = scene.gone(socket),
            _ => scene.now += Duration::from_secs(random(20)),
        }
        if let Some(swarm) = scene.swarms.channels.values().next() {
            swarm.check();
        }
    }
}
