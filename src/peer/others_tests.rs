//! Two tasks on one port, driven by hand: who has a viewer after what was heard of it, and where.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rtc::stun::attributes::{ATTR_USE_CANDIDATE, ATTR_USERNAME};
use rtc::stun::message::{BINDING_REQUEST, Message};
use rtc::stun::textattrs::TextAttribute;
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};

use super::addresses::Hosts;
use super::calls::Calls;
use super::connection::Life;
use super::offers::LetGo;
use super::others::{Others, Passed};
use super::setup::Identity;
use super::socket::Port;
use super::task::{CONNECT_TIMEOUT, Dirty, Shared, Task};
use super::transport::{Datagram, Transport};
use super::{Command, Event, Parts, PeerKey};
use crate::budget::Budget;
use crate::config::{PeerConfig, StoreConfig};
use crate::ids::{ChannelName, PeerId};
use crate::metrics::Metrics;
use crate::sibling::Siblings;
use crate::store::Store;

const FIRST: usize = 0;
const SECOND: usize = 1;

struct Fixture {
    tasks: Vec<Task>,
    events: mpsc::Receiver<Event>,
    metrics: Arc<Metrics>,
    dirty: Dirty,
    _dir: TempDir,
}

fn key() -> PeerKey {
    PeerKey {
        channel: "news".into(),
        peer: PeerId::Number(1),
    }
}

fn other_key() -> PeerKey {
    PeerKey {
        channel: "news".into(),
        peer: PeerId::Number(2),
    }
}

/// A box of two tasks with a place for one viewer.
fn two_tasks() -> Fixture {
    two_tasks_for(1)
}

fn two_tasks_for(max_peers: usize) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let channel = ChannelName::from("news");
    let metrics = Arc::new(Metrics::new([&channel]));
    let budget = Budget::new(8 << 20);
    let config = StoreConfig {
        dir: dir.path().to_owned(),
        ..StoreConfig::default()
    };
    let (siblings, asks) = Siblings::new();
    let own = siblings.own().clone();
    let parts = Parts {
        config: PeerConfig {
            max_peers,
            ..PeerConfig::default()
        },
        store: Store::open(config, [], Arc::clone(&metrics), budget.clone()).unwrap(),
        budget,
        metrics: Arc::clone(&metrics),
        channel_ids: [].into(),
        siblings,
        asks,
    };
    let shared = Shared::new(&parts);
    let (events_out, events) = mpsc::channel(100);
    let sockets = Port::bind(0, 2).unwrap().sockets();
    let each = sockets.into_iter().zip(Others::all(2));
    let tasks = each.map(|(socket, others)| {
        let (socket, commands) = (socket.open().unwrap(), mpsc::channel(1).1);
        let calls = Calls::none(own.clone());
        Task::new(
            shared.clone(),
            calls,
            socket,
            commands,
            events_out.clone(),
            others,
        )
    });
    Fixture {
        tasks: tasks.collect(),
        events,
        metrics,
        dirty: Dirty::new(),
        _dir: dir,
    }
}

impl Fixture {
    /// Takes an offer; gives the name by which the box answers.
    fn offered(&mut self) -> String {
        self.offered_by(key())
    }

    fn offered_by(&mut self, key: PeerKey) -> String {
        let hosts = Hosts {
            addresses: vec!["192.0.2.2:40000".parse().unwrap()],
            mtu: 1500,
        };
        let identity = Identity {
            credentials: ("viewer000001", "password0000000000000000"),
            hosts: &hosts,
        };
        let (_, sdp) = Transport::call(Instant::now(), identity).unwrap();
        let offer = Command::Offer {
            key,
            sdp,
            proof: None,
        };
        self.tasks[FIRST].command(offer, &mut self.dirty);
        match self.events.try_recv().unwrap() {
            Event::Answer { sdp, .. } => {
                let ufrag = sdp
                    .lines()
                    .find_map(|line| line.strip_prefix("a=ice-ufrag:"));
                ufrag.unwrap().to_owned()
            }
            other => panic!("{other:?}"),
        }
    }

    /// A datagram comes up at the socket of this task.
    fn heard(&mut self, task: usize, datagram: Datagram) {
        let now = Instant::now();
        let task = &mut self.tasks[task];
        if let Some(unknown) = task.registry.deliver(now, datagram, &mut self.dirty) {
            task.hear_unknown(now, unknown, &mut self.dirty);
        }
    }

    /// What has been passed to this task is taken; gives how much that was.
    fn passed(&mut self, task: usize) -> usize {
        let mut count = 0;
        while let Some(passed) = self.tasks[task].others.try_passed() {
            self.tasks[task].take_passed(passed, &mut self.dirty);
            count += 1;
        }
        count
    }

    fn has(&self, task: usize, ufrag: &str) -> bool {
        self.tasks[task].registry.slot_named(ufrag).is_some()
    }

    fn peers(&self) -> i64 {
        self.metrics.peers.get()
    }
}

fn datagram(from: &str, bytes: &[u8]) -> Datagram {
    let to: SocketAddr = "192.0.2.1:12036".parse().unwrap();
    Datagram {
        from: from.parse().unwrap(),
        to,
        bytes: BytesMut::from(bytes),
    }
}

/// A connectivity check of the viewer.
fn check(ufrag: &str, from: &str, nominates: bool) -> Datagram {
    let mut message = Message::new();
    let name = TextAttribute::new(ATTR_USERNAME, format!("{ufrag}:viewer000001"));
    message
        .build(&[Box::new(BINDING_REQUEST), Box::new(name)])
        .unwrap();
    if nominates {
        message.add(ATTR_USE_CANDIDATE, &[]);
    }
    datagram(from, &message.raw)
}

const HERE: &str = "192.0.2.2:40000";
const THERE: &str = "198.51.100.2:40000";

#[tokio::test]
async fn a_viewer_is_taken_by_the_task_that_first_hears_it_and_then_nothing_passes() {
    let mut tasks = two_tasks();
    let ufrag = tasks.offered();
    assert_eq!(tasks.peers(), 1);
    tasks.heard(SECOND, check(&ufrag, HERE, false));
    assert!(tasks.has(SECOND, &ufrag) && !tasks.has(FIRST, &ufrag));
    tasks.heard(SECOND, check(&ufrag, HERE, true));
    tasks.heard(SECOND, datagram(HERE, &[22, 254, 253]));
    assert_eq!((tasks.passed(FIRST), tasks.passed(SECOND)), (0, 0));
}

#[tokio::test]
async fn the_address_that_a_viewer_chooses_decides_whose_it_is() {
    let mut tasks = two_tasks();
    let ufrag = tasks.offered();
    tasks.heard(SECOND, check(&ufrag, HERE, false));
    // One that is only tried is passed on, and so is what follows from there.
    tasks.heard(FIRST, check(&ufrag, THERE, false));
    tasks.heard(FIRST, datagram(THERE, &[22, 254, 253]));
    assert_eq!(tasks.passed(SECOND), 2);
    assert!(tasks.has(SECOND, &ufrag));
    tasks.heard(FIRST, check(&ufrag, THERE, true));
    assert_eq!((tasks.passed(SECOND), tasks.passed(FIRST)), (1, 1));
    assert!(tasks.has(FIRST, &ufrag) && !tasks.has(SECOND, &ufrag));
    // And the other way round again: the first task has learned where it was before.
    tasks.heard(FIRST, datagram(THERE, &[22, 254, 253]));
    assert_eq!((tasks.passed(SECOND), tasks.passed(FIRST)), (0, 0));
}

#[tokio::test]
async fn what_names_nobody_is_passed_to_nobody() {
    let mut tasks = two_tasks();
    let ufrag = tasks.offered();
    tasks.heard(SECOND, check(&ufrag, HERE, false));
    tasks.heard(SECOND, check("nobody", HERE, true));
    tasks.heard(FIRST, check("nobody", THERE, true));
    tasks.heard(FIRST, datagram(THERE, &[0; 1200]));
    assert_eq!((tasks.passed(FIRST), tasks.passed(SECOND)), (0, 0));
}

#[tokio::test]
async fn more_than_a_task_can_take_is_lost_and_a_viewer_is_not() {
    let mut tasks = two_tasks();
    let ufrag = tasks.offered();
    tasks.heard(SECOND, check(&ufrag, HERE, false));
    tasks.heard(FIRST, check(&ufrag, THERE, false));
    for _ in 0..10_000 {
        tasks.heard(SECOND, check(&ufrag, HERE, false));
        tasks.heard(FIRST, datagram(THERE, &[22; 1400]));
    }
    let held = tasks.passed(SECOND);
    assert!(held <= 1024, "{held}");
    // The mailbox of the first task is full when the viewer is to go there.
    while tasks.tasks[SECOND]
        .others
        .pass(FIRST, Passed::LetGo(String::new(), LetGo::OfferedAnew))
        .is_ok()
    {}
    tasks.heard(FIRST, check(&ufrag, THERE, true));
    tasks.passed(SECOND);
    assert!(tasks.has(SECOND, &ufrag) && tasks.peers() == 1);
}

#[tokio::test]
async fn a_viewer_that_is_dropped_on_its_way_does_not_arrive() {
    let mut tasks = two_tasks();
    let ufrag = tasks.offered();
    tasks.heard(SECOND, check(&ufrag, HERE, false));
    tasks.heard(FIRST, check(&ufrag, THERE, true));
    tasks.passed(SECOND);
    tasks.tasks[FIRST].command(Command::Drop { key: key() }, &mut Dirty::new());
    assert_eq!(tasks.passed(FIRST), 1);
    assert!(!tasks.has(FIRST, &ufrag) && !tasks.has(SECOND, &ufrag));
    assert_eq!(tasks.peers(), 0);
}

#[tokio::test]
async fn a_new_offer_takes_the_place_of_the_old_one_wherever_that_is() {
    let mut tasks = two_tasks();
    let waits = tasks.offered();
    let second = tasks.offered();
    tasks.heard(SECOND, check(&waits, HERE, false));
    assert!(!tasks.has(SECOND, &waits));
    tasks.heard(SECOND, check(&second, HERE, false));
    let third = tasks.offered();
    assert_eq!(tasks.passed(SECOND), 1);
    assert!(!tasks.has(SECOND, &second) && tasks.peers() == 1);
    // The same port once more, at the same socket.
    tasks.heard(SECOND, check(&third, HERE, false));
    assert!(tasks.has(SECOND, &third) && tasks.peers() == 1);
}

#[tokio::test]
async fn all_tasks_say_who_is_there() {
    let mut tasks = two_tasks();
    for hear in [false, true] {
        let ufrag = tasks.offered();
        if hear {
            tasks.heard(SECOND, check(&ufrag, HERE, false));
        }
        let (reply, mut list) = oneshot::channel();
        tasks.tasks[FIRST].command(Command::List(reply), &mut Dirty::new());
        assert!(
            list.try_recv().is_err(),
            "the second task has not been heard"
        );
        tasks.passed(SECOND);
        let peers = list.await.unwrap();
        assert!(peers.len() == 1 && peers[0].id == key().peer, "{peers:?}");
    }
}

#[tokio::test]
async fn a_viewer_that_nobody_hears_is_given_up_in_time_and_one_that_was_heard_is_not() {
    for hear in [false, true] {
        let mut tasks = two_tasks();
        let ufrag = tasks.offered();
        if hear {
            tasks.heard(SECOND, check(&ufrag, HERE, false));
        }
        let now = Instant::now();
        tasks.tasks[FIRST].give_up_waiting(now);
        assert_eq!(tasks.peers(), 1);
        tasks.tasks[FIRST].give_up_waiting(now + CONNECT_TIMEOUT);
        assert_eq!(tasks.peers(), i64::from(hear));
        let unreached = tasks.metrics.peers_unreached.get();
        assert_eq!(unreached, u64::from(!hear));
    }
}

#[tokio::test]
async fn a_viewer_that_a_prompt_has_held_up_is_not_given_up_as_soon_as_it_is_heard() {
    let mut tasks = two_tasks();
    let ufrag = tasks.offered();
    // Longer than the stack waits for a peer that it has once heard of.
    let late = Instant::now() + CONNECT_TIMEOUT - Duration::from_secs(1);
    let task = &mut tasks.tasks[SECOND];
    let heard = check(&ufrag, HERE, false);
    let unknown = task.registry.deliver(late, heard, &mut tasks.dirty);
    let unknown = unknown.expect("nobody has this name yet");
    task.hear_unknown(late, unknown, &mut tasks.dirty);
    let slot = task.registry.slot_named(&ufrag).unwrap();
    let mut now = late;
    while now < late + Duration::from_secs(1) {
        let connection = &mut task.registry.get_mut(slot).unwrap().connection;
        connection.timeout(now);
        let life = connection.drive(now, &mut task.socket, &task.context);
        assert_eq!(life, Life::Open);
        now += Duration::from_millis(20);
    }
}

/// Anybody can put another's address under a check of its own.
#[tokio::test]
async fn who_claims_the_address_of_another_gets_what_comes_from_there_and_the_other_still_does() {
    for (claims, claimant) in [(FIRST, "the same task"), (SECOND, "another task")] {
        let mut tasks = two_tasks_for(2);
        let victim = tasks.offered();
        tasks.heard(FIRST, check(&victim, HERE, false));
        let attacker = tasks.offered_by(other_key());
        tasks.heard(claims, check(&attacker, "192.0.2.3:50000", false));
        tasks.heard(FIRST, check(&attacker, HERE, false));
        tasks.passed(SECOND);
        tasks.dirty.clear();
        tasks.heard(FIRST, datagram(HERE, &[22, 254, 253]));
        let slot = tasks.tasks[FIRST].registry.slot_named(&victim).unwrap();
        assert!(
            tasks.dirty.contains(&slot),
            "claimed by a viewer of {claimant}"
        );
        assert_eq!(tasks.passed(SECOND), usize::from(claims == SECOND));
        // The other way round: the victim is heard at a socket that is not its task's.
        tasks.heard(SECOND, check(&victim, THERE, false));
        tasks.heard(SECOND, check(&attacker, THERE, false));
        tasks.passed(FIRST);
        tasks.heard(SECOND, datagram(THERE, &[22, 254, 253]));
        assert_eq!(tasks.passed(FIRST), 1, "claimed by a viewer of {claimant}");
    }
}

#[tokio::test]
async fn that_a_viewer_is_let_go_is_heard_however_many_datagrams_wait() {
    let mut tasks = two_tasks();
    let ufrag = tasks.offered();
    tasks.heard(SECOND, check(&ufrag, HERE, false));
    tasks.heard(FIRST, check(&ufrag, THERE, false));
    for _ in 0..10_000 {
        tasks.heard(FIRST, datagram(THERE, &[22; 1400]));
    }
    tasks.tasks[FIRST].command(Command::Drop { key: key() }, &mut Dirty::new());
    tasks.passed(SECOND);
    let task = &mut tasks.tasks[SECOND];
    let slot = task.registry.slot_named(&ufrag).unwrap();
    let connection = &mut task.registry.get_mut(slot).unwrap().connection;
    let life = connection.drive(Instant::now(), &mut task.socket, &task.context);
    assert!(matches!(life, Life::Over(_)));
}

#[tokio::test]
async fn who_was_never_heard_gives_its_place_to_another_when_all_are_taken() {
    let mut tasks = two_tasks();
    let now = Instant::now();
    let waits = tasks.offered();
    assert!(
        tasks.tasks[FIRST].no_place(now).is_some(),
        "it has just come"
    );
    let later = now + Duration::from_secs(1);
    assert_eq!(tasks.tasks[FIRST].no_place(later), None);
    assert_eq!((tasks.peers(), tasks.metrics.peers_unreached.get()), (0, 1));
    tasks.heard(SECOND, check(&waits, HERE, false));
    assert!(!tasks.has(SECOND, &waits));
    // One that was heard stays.
    let heard = tasks.offered();
    tasks.heard(SECOND, check(&heard, HERE, false));
    assert!(tasks.tasks[FIRST].no_place(later).is_some());
}
