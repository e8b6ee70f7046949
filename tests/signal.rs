//! Signalling over real WebSockets on loopback: pages, the box's client, the embedded server and
//! foreign ones.

// clippy.toml lifts these inside test functions only; here the helpers need it as well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use edgeseed::ids::{ChannelId, PeerId};
use edgeseed::metrics::ChannelMetrics;
use edgeseed::signal::client::{self, ClientConfig, Command, Event};
use edgeseed::signal::server::{Server, SignalError};
use edgeseed::signal::{DataForm, SignalData};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, accept_async, connect_async};
use tokio_util::sync::CancellationToken;
use url::Url;

const CHANNEL: &str = "https://cdn.example.com/news/index.m3u8";

/// Nothing here takes long; without an answer by then there will be none.
const SOON: Duration = Duration::from_secs(20);

async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, work).await.expect("no answer")
}

/// A running server, stopped when dropped.
struct Running {
    addr: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    async fn start(listen: SocketAddr) -> Self {
        let server = Server::bind(listen).await.unwrap();
        let addr = server.local_addr();
        let stop = CancellationToken::new();
        let task = tokio::spawn(server.run(stop.clone()));
        Self { addr, stop, task }
    }

    async fn stop(self) {
        self.stop.cancel();
        soon(self.task).await.unwrap();
    }
}

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// A browser page, as far as signalling goes.
struct Page(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Page {
    async fn open(addr: SocketAddr) -> Self {
        let (socket, _) = soon(Box::pin(connect_async(format!("ws://{addr}/any/path?x=1"))))
            .await
            .unwrap();
        Self(socket)
    }

    /// Opens and enters; returns its id as well.
    async fn enter(addr: SocketAddr) -> (Self, String) {
        let mut page = Self::open(addr).await;
        page.say(json!({"channel": CHANNEL, "action": "enter"}))
            .await;
        let accept = page.hear().await;
        assert_eq!(accept["action"], "accept");
        assert_eq!(accept["live"], true);
        let id = accept["peer_id"].as_str().unwrap().to_owned();
        assert!((19..=36).contains(&id.len()));
        (page, id)
    }

    async fn say(&mut self, message: Value) {
        self.say_text(&message.to_string()).await;
    }

    async fn say_text(&mut self, text: &str) {
        soon(self.0.send(Message::text(text))).await.unwrap();
    }

    async fn hear_text(&mut self) -> String {
        loop {
            match soon(self.0.next()).await.unwrap().unwrap() {
                Message::Text(text) => return text.to_string(),
                Message::Ping(_) => {}
                other => panic!("unexpected: {other:?}"),
            }
        }
    }

    async fn hear(&mut self) -> Value {
        serde_json::from_str(&self.hear_text().await).unwrap()
    }

    /// Waits for the server to hang up.
    async fn hung_up(mut self) {
        while let Some(Ok(_)) = soon(self.0.next()).await {}
    }
}

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
        let config = ClientConfig {
            url: Url::parse(&format!("ws://{addr}/ws")).unwrap(),
            channel: ChannelId::from(CHANNEL),
            level: 100.0,
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

fn connect(to: &str, initiator: bool) -> Value {
    json!({"action": "connect", "to_peer_id": to, "initiator": initiator})
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
async fn data_is_relayed_byte_for_byte() {
    let server = Running::start(any_port()).await;
    let (mut one, one_id) = Page::enter(server.addr).await;
    let (mut two, two_id) = Page::enter(server.addr).await;
    for data in [
        r#"{ "type" : "offer","sdp":"v=0\r\n", "z":1.50e0 }"#,
        r#""{\"type\":\"offer\",\u0022sdp\":\"\"}""#,
        r#"{"candidate":{"candidate":"a=candidate:1","sdpMLineIndex":0,"sdpMid":"0"}}"#,
    ] {
        let text = format!(r#"{{"data":{data},"to_peer_id":"{two_id}","action":"signal"}}"#);
        one.say_text(&text).await;
        assert_eq!(
            two.hear_text().await,
            format!(r#"{{"action":"signal","from_peer_id":"{one_id}","data":{data}}}"#)
        );
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
async fn garbage_costs_its_sender_and_nobody_else() {
    let server = Running::start(any_port()).await;
    let (mut one, _) = Page::enter(server.addr).await;
    let (mut two, two_id) = Page::enter(server.addr).await;

    // What is only not of the protocol is ignored, or refused with a reason; the socket goes on.
    let mut odd = Page::open(server.addr).await;
    odd.say_text("hello").await;
    assert_eq!(odd.hear().await["action"], "reject");
    soon(odd.0.send(Message::binary(vec![0; 1000])))
        .await
        .unwrap();
    let long = "x".repeat(5000);
    odd.say(json!({"action": "enter", "channel": long})).await;
    assert!(
        odd.hear().await["reason"]
            .as_str()
            .unwrap()
            .contains("4096")
    );
    odd.say(json!({"action": "enter", "channel": CHANNEL}))
        .await;
    assert_eq!(odd.hear().await["action"], "accept");

    // A message of 1 MB ends its socket, which may be before all of it was written.
    let (mut huge, _) = Page::enter(server.addr).await;
    let _ = soon(huge.0.send(Message::text("x".repeat(1 << 20)))).await;
    huge.hung_up().await;

    // A handshake that never comes blocks nobody, nor does one that is none.
    let _silent = TcpStream::connect(server.addr).await.unwrap();
    let wrong = TcpStream::connect(server.addr).await.unwrap();
    wrong.writable().await.unwrap();
    wrong.try_write(b"\x16\x03\x01 no HTTP\r\n\r\n").unwrap();

    one.say(json!({"action": "signal", "to_peer_id": two_id, "data": "still here"}))
        .await;
    assert_eq!(two.hear().await["data"], "still here");
    server.stop().await;
}

#[tokio::test]
async fn a_socket_that_does_not_read_is_dropped_and_its_sender_goes_on() {
    let server = Running::start(any_port()).await;
    let (slow, slow_id) = Page::enter(server.addr).await;
    let (mut sender, _) = Page::enter(server.addr).await;
    let (mut other, other_id) = Page::enter(server.addr).await;
    // Far more than its socket buffers and its outbox hold, within one burst of the rate.
    let data = "x".repeat(60_000);
    let flood = json!({"action": "signal", "to_peer_id": slow_id, "data": data}).to_string();
    for _ in 0..90 {
        sender.say_text(&flood).await;
    }
    sender
        .say(json!({"action": "signal", "to_peer_id": other_id, "data": 1}))
        .await;
    assert_eq!(other.hear().await["data"], 1);
    slow.hung_up().await;
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

#[tokio::test]
async fn a_foreign_server_with_integer_ids_is_understood() {
    let listener = TcpListener::bind(any_port()).await.unwrap();
    let mut the_box = Seeder::start(listener.local_addr().unwrap());
    let (stream, _) = soon(listener.accept()).await.unwrap();
    let mut socket = soon(accept_async(stream)).await.unwrap();
    let enter = soon(socket.next()).await.unwrap().unwrap();
    assert_eq!(
        enter.to_text().unwrap(),
        format!(r#"{{"action":"enter","channel":"{CHANNEL}"}}"#)
    );
    for text in [
        r#"{"peer_id":4711,"extra":{},"action":"accept","live":true}"#,
        r#"{"from_peer_id":7,"action":"signal","data":{"type":"offer","sdp":"v=0"}}"#,
    ] {
        soon(socket.send(Message::text(text))).await.unwrap();
    }
    assert_eq!(the_box.accepted().await, PeerId::Number(4711));
    let to = PeerId::Number(7);
    let form = DataForm::Object;
    let sdp = "v=0".to_owned();
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
    loop {
        let message = soon(socket.next()).await.unwrap().unwrap();
        let message: Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
        if message["action"] != "level" {
            assert_eq!(message["to_peer_id"], 7);
            assert_eq!(message["data"], json!({"type": "answer", "sdp": "v=0"}));
            return;
        }
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_with_a_way_out() {
    let server = Running::start(any_port()).await;
    let error = Server::bind(server.addr).await.unwrap_err();
    assert!(matches!(error, SignalError::AddressInUse { addr } if addr == server.addr));
    let text = error.to_string();
    assert!(text.contains(&server.addr.to_string()) && text.contains("choose another port"));
    server.stop().await;
}

#[tokio::test]
async fn a_stopping_server_says_goodbye() {
    let server = Running::start(any_port()).await;
    let (mut page, _) = Page::enter(server.addr).await;
    server.stop.cancel();
    let Some(Ok(Message::Close(Some(frame)))) = soon(page.0.next()).await else {
        panic!("no closing frame");
    };
    assert_eq!(u16::from(frame.code), 1001);
    soon(server.task).await.unwrap();
}
