use std::time::Duration;

use super::*;
use crate::signal::messages::dc_id;

/// Who is paired with whom.
#[path = "pairing_tests.rs"]
mod pairing;

/// Many at once.
#[path = "crowd_tests.rs"]
mod crowd;

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
        match self
            .swarms
            .receive(SocketId(socket), message, fresh, self.now)
        {
            Ok(out) => written(out),
            Err(refused) => vec![format!("refused: {refused:?}")],
        }
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
        self.report(socket, level, None)
    }

    fn report(&mut self, socket: u64, level: f64, room: Option<u32>) -> Vec<String> {
        let channel = None;
        self.say(
            socket,
            ClientMessage::Level {
                channel,
                level,
                room,
            },
        )
    }

    fn opened(&mut self, child: u64, parent: u64) {
        let channel = None;
        let dc_id = dc_id(&id(child), &id(parent));
        let said = self.say(child, ClientMessage::DcOpened { channel, dc_id });
        assert_eq!(said, NOTHING);
    }

    fn later(&mut self, after: Duration) -> Vec<String> {
        self.now += after;
        written(self.swarms.tick(self.now))
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
        assert_eq!(scene.report(1, 100.0, ROOM), NOTHING);
        scene
    }
}

/// More than anybody here needs.
const ROOM: Option<u32> = Some(1000);

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
fn signals_go_to_known_peers_of_the_same_channel_only() {
    let mut scene = Scene::with_box();
    scene.enter(2);
    scene.enter_channel(3, "sports");
    assert_eq!(scene.signal(2, 1), ["1: from id2. { }"]);
    for (from, to) in [(3, 1), (2, 3), (2, 77), (2, 2), (88, 1)] {
        assert_eq!(scene.signal(from, to), ["refused: Unroutable"]);
    }
}

#[test]
fn a_socket_may_be_in_several_channels_but_not_in_any_number() {
    let mut scene = Scene::new();
    for entry in 0..MAX_ENTRIES {
        let said = scene.enter_channel(2, &format!("channel {entry}"));
        assert_eq!(said, ["2: accept id2."]);
    }
    assert_eq!(scene.enter_channel(2, "one more"), ["refused: Entries"]);
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
    assert_eq!(written(out.unwrap()), ["1: accept fresh"]);
    assert_eq!(scene.signal(2, 1), ["refused: Unroutable"]);
    assert_eq!(
        scene.report(1, 100.0, ROOM),
        ["1: expect id2.", "2: open fresh"]
    );
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
        .receive(SocketId(2), enter, fresh.clone(), scene.now)
        .unwrap();
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
    assert_eq!(scene.enter_channel(9999, "one more"), ["refused: Channels"]);
    assert_eq!(
        scene.enter_channel(9999, "channel 3")[0],
        "9999: accept id9999."
    );
}

#[test]
fn a_channel_takes_so_many_peers_and_no_more() {
    let mut scene = Scene::new();
    for socket in 0..MAX_PEERS as u64 {
        assert_eq!(scene.enter(socket).len(), 1);
    }
    assert_eq!(scene.enter(99_999), ["refused: Peers"]);
    // Who is in may enter again, and another channel is another matter.
    assert_eq!(scene.enter(7).len(), 1);
    assert_eq!(scene.enter_channel(99_999, "sports").len(), 1);
}
