//! The box's signalling client over real WebSockets on loopback, at our server and at foreign ones.

// clippy.toml lifts these inside test functions only; here the helpers need it as well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/signal.rs"]
mod support;

use std::net::SocketAddr;
use std::sync::Arc;

use edgeseed::ids::{ChannelId, PeerId};
use edgeseed::metrics::ChannelMetrics;
use edgeseed::signal::client::{self, ClientConfig, Command, Event, Load};
use edgeseed::signal::{DataForm, Dialer, SignalData};
use serde_json::{Value, json};
use support::{CHANNEL, Page, Running, any_port, connect, soon};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use url::Url;

/// The box's client, stopped when dropped.
struct Seeder {
    commands: mpsc::Sender<Command>,
    events: mpsc::Receiver<Event>,
    _stop: tokio_util::sync::DropGuard,
}

impl Seeder {
    fn start(addr: SocketAddr) -> Self {
        let (commands, from_test) = mpsc::channel(8);
        let (to_test, events) = mpsc::channel(8);
        let stop = CancellationToken::new();
        let url = Url::parse(&format!("ws://{addr}/ws")).unwrap();
        let load = Load {
            level: 100.0,
            room: 64,
        };
        let config = ClientConfig {
            dialer: Arc::new(Dialer::new(url, Vec::new())),
            channel: ChannelId::from(CHANNEL),
            token: None,
            load: watch::channel(load).1,
        };
        let metrics = Arc::new(ChannelMetrics::default());
        tokio::spawn(client::run(
            config,
            from_test,
            to_test,
            metrics,
            stop.clone(),
        ));
        Self {
            commands,
            events,
            _stop: stop.drop_guard(),
        }
    }

    async fn event(&mut self) -> Event {
        soon(self.events.recv()).await.unwrap()
    }

    async fn accepted(&mut self) -> PeerId {
        match self.event().await {
            Event::Accepted { peer_id } => peer_id,
            other => panic!("not accepted: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_page_and_the_box_meet_and_answer_in_the_pages_form() {
    let server = Running::start(any_port()).await;
    let mut the_box = Seeder::start(server.addr);
    let box_id = the_box.accepted().await.to_string();
    for form in [DataForm::Object, DataForm::Text] {
        let (mut page, page_id) = Page::enter(server.addr).await;
        let to = PeerId::from(page_id.as_str());
        let initiator = false;
        let expected = Event::Connect {
            to: to.clone(),
            initiator,
        };
        assert_eq!(the_box.event().await, expected);
        assert_eq!(page.hear().await, connect(&box_id, true));

        let in_form = |object: Value| match form {
            DataForm::Object => object,
            DataForm::Text => Value::from(object.to_string()),
        };
        let offer = in_form(json!({"type": "offer", "sdp": "v=0\r\n"}));
        page.say(
            json!({"action": "signal", "to_peer_id": box_id, "data": offer,
                        "channel": CHANNEL, "peer_id": page_id}),
        )
        .await;
        let sdp = "v=0\r\n".to_owned();
        let data = SignalData::Offer {
            sdp: sdp.clone(),
            sibling: None,
        };
        let from = to.clone();
        assert_eq!(the_box.event().await, Event::Signal { from, data, form });

        let data = SignalData::Answer { sdp, sibling: None };
        the_box
            .commands
            .send(Command::Signal { to, data, form })
            .await
            .unwrap();
        let heard = page.hear().await;
        assert_eq!(heard["action"], "signal");
        assert_eq!(heard["from_peer_id"], box_id);
        let data = match &heard["data"] {
            Value::String(text) if form == DataForm::Text => serde_json::from_str(text).unwrap(),
            data => data.clone(),
        };
        assert_eq!(data, json!({"type": "answer", "sdp": "v=0\r\n"}));
    }
    server.stop().await;
}

#[tokio::test]
async fn a_signal_that_grows_beyond_the_bound_does_not_cost_the_box_its_session() {
    let server = Running::start(any_port()).await;
    let mut the_box = Seeder::start(server.addr);
    let box_id = the_box.accepted().await.to_string();
    let (mut page, page_id) = Page::enter(server.addr).await;
    page.hear().await;
    the_box.event().await;
    let offer = |sdp: &str| {
        json!({"action": "signal", "to_peer_id": box_id, "data": {"type": "offer", "sdp": sdp}})
            .to_string()
    };
    let room = 64 * 1024 - offer("").len();
    page.say_text(&offer(&"x".repeat(room))).await;
    page.say_text(&offer("small")).await;
    let (from, form) = (PeerId::from(page_id), DataForm::Object);
    let sdp = "small".to_owned();
    let data = SignalData::Offer { sdp, sibling: None };
    assert_eq!(the_box.event().await, Event::Signal { from, data, form });
    server.stop().await;
}

#[tokio::test]
async fn the_box_comes_back_under_a_new_id_when_its_server_does() {
    let server = Running::start(any_port()).await;
    let addr = server.addr;
    let mut the_box = Seeder::start(addr);
    let first = the_box.accepted().await;
    server.stop().await;
    assert_eq!(the_box.event().await, Event::Lost);
    let server = Running::start(addr).await;
    let second = the_box.accepted().await;
    assert_ne!(first, second);
    let (mut page, _) = Page::enter(addr).await;
    assert_eq!(page.hear().await, connect(&second.to_string(), true));
    server.stop().await;
}

#[tokio::test]
async fn a_viewer_that_the_box_refuses_is_not_sent_to_it_again() {
    let server = Running::start(any_port()).await;
    let mut the_box = Seeder::start(server.addr);
    the_box.accepted().await;
    let (mut page, page_id) = Page::enter(server.addr).await;
    page.hear().await;
    the_box.event().await;
    let peer = PeerId::from(page_id.as_str());
    the_box
        .commands
        .send(Command::Failed { peer: peer.clone() })
        .await
        .unwrap();
    // Comes through after the refusal, on the same socket.
    let (data, form) = (SignalData::EndOfCandidates, DataForm::Object);
    the_box
        .commands
        .send(Command::Signal {
            to: peer,
            data,
            form,
        })
        .await
        .unwrap();
    assert_eq!(page.hear().await["action"], "signal");
    page.say(json!({"level": "0.00"})).await;
    page.say(json!({"action": "get_parents"})).await;
    assert_eq!(page.hear().await, json!({"action": "parents", "nodes": []}));
    server.stop().await;
}
