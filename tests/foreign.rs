//! The box's client at a signalling server that we did not write, over real sockets: each server here
//! is in the hands of its test.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use edgeseed::ids::{ChannelId, PeerId};
use edgeseed::metrics::ChannelMetrics;
use edgeseed::signal::client::{self, ClientConfig, Command, Event, Load};
use edgeseed::signal::{DataForm, Dialer, SignalData};
use futures_util::StreamExt;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use support::daemon::{Daemon, Setup};
use support::eventually;
use support::foreign::{Authority, Foreign};
use support::origin::{Live, Origin};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};
use tokio_util::sync::{CancellationToken, DropGuard};

/// The longest that the client itself waits for anything here is 10 s.
const SOON: Duration = Duration::from_secs(30);

async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, work).await.expect("in time")
}

/// The client of one channel; it leaves when this is dropped.
struct Channel {
    commands: mpsc::Sender<Command>,
    events: mpsc::Receiver<Event>,
    metrics: Arc<ChannelMetrics>,
    stop: DropGuard,
}

impl Channel {
    fn start(server: &Foreign) -> Self {
        Self::start_with(server, None, &[])
    }

    fn start_with(server: &Foreign, token: Option<&str>, ca: &[CertificateDer<'static>]) -> Self {
        let dialer = Dialer::new(server.url().parse().unwrap(), ca.to_vec());
        Self::named("news", token, Arc::new(dialer))
    }

    fn named(channel: &str, token: Option<&str>, dialer: Arc<Dialer>) -> Self {
        let (commands, from_test) = mpsc::channel(8);
        let (to_test, events) = mpsc::channel(8);
        let metrics = Arc::new(ChannelMetrics::default());
        let stop = CancellationToken::new();
        let load = Load {
            level: 100.0,
            room: 64,
        };
        let config = ClientConfig {
            dialer,
            channel: ChannelId::from(channel),
            token: token.map(str::to_owned),
            load: watch::channel(load).1,
        };
        let numbers = Arc::clone(&metrics);
        tokio::spawn(client::run(
            config,
            from_test,
            to_test,
            numbers,
            stop.clone(),
        ));
        Self {
            commands,
            events,
            metrics,
            stop: stop.drop_guard(),
        }
    }

    async fn event(&mut self) -> Event {
        soon(self.events.recv()).await.unwrap()
    }

    async fn is_accepted_as(&mut self, id: Value) {
        let peer_id = serde_json::from_value(id).unwrap();
        assert_eq!(self.event().await, Event::Accepted { peer_id });
    }
}

#[tokio::test]
async fn a_server_that_takes_the_connection_and_says_nothing_is_tried_again() {
    let server = Foreign::start().await;
    let mut channel = Channel::start(&server);
    let _mute = server.connection().await;
    let (_guest, _) = server.accept(json!("me")).await;
    channel.is_accepted_as(json!("me")).await;
}

#[tokio::test]
async fn a_server_that_does_not_answer_to_enter_is_tried_again() {
    let server = Foreign::start().await;
    let mut channel = Channel::start(&server);
    let mut mute = server.guest().await;
    assert_eq!(mute.hear().await["action"], "enter");
    let (_guest, _) = server.accept(json!("me")).await;
    channel.is_accepted_as(json!("me")).await;
}

#[tokio::test]
async fn each_time_a_server_drops_the_box_it_enters_again_under_whatever_id_it_is_given() {
    let server = Foreign::start().await;
    let mut channel = Channel::start(&server);
    for id in [json!("first"), json!(2), json!("x".repeat(300)), json!(-4)] {
        let (guest, enter) = server.accept(id.clone()).await;
        assert_eq!(enter, json!({"action": "enter", "channel": "news"}));
        channel.is_accepted_as(id).await;
        drop(guest);
        assert_eq!(channel.event().await, Event::Lost);
    }
}

#[tokio::test]
async fn what_a_server_says_amiss_is_counted_and_costs_nothing() {
    let server = Foreign::start().await;
    let mut channel = Channel::start(&server);
    let (mut guest, _) = server.accept(json!("me")).await;
    channel.is_accepted_as(json!("me")).await;
    let nodes: Vec<Value> = (0..9000)
        .map(|id| json!({"peer_id": format!("{id:0>64}"), "ul_bw": 1}))
        .collect();
    let long = json!({"action": "parents", "nodes": nodes}).to_string();
    assert!((500_000..1_000_000).contains(&long.len()));
    let amiss = [
        Message::text("hello"),
        Message::text("[]"),
        Message::text(r#"{"action":"accept"}"#),
        Message::text(r#"{"action":"signal","from_peer_id":{},"data":{}}"#),
        Message::text(r#"{"action":"signal","from_peer_id":1,"data":"{"}"#),
        Message::text(r#"{"action":"dance"}"#),
        Message::text(long),
        Message::binary(vec![0; 500_000]),
    ];
    for message in amiss.clone() {
        guest.send(message).await;
    }
    // What nobody asked for, and every server may say.
    guest.say(json!({"action": "parents", "nodes": []})).await;
    guest
        .say(json!({"action": "disconnect", "peers": ["a", 7]}))
        .await;
    let peers = vec![PeerId::from("a"), PeerId::Number(7)];
    assert_eq!(channel.event().await, Event::Drop { peers });
    assert_eq!(channel.metrics.signal_ignored.get(), amiss.len() as u64);
}

#[tokio::test]
async fn a_message_that_nobody_could_mean_ends_the_session_and_not_the_client() {
    let server = Foreign::start().await;
    let mut channel = Channel::start(&server);
    let (mut guest, _) = server.accept(json!("first")).await;
    channel.is_accepted_as(json!("first")).await;
    guest.send(Message::text("x".repeat(2 << 20))).await;
    assert_eq!(channel.event().await, Event::Lost);
    let (_guest, _) = server.accept(json!("second")).await;
    channel.is_accepted_as(json!("second")).await;
}

#[tokio::test]
async fn a_channel_that_is_refused_is_asked_for_again() {
    let server = Foreign::start().await;
    let mut channel = Channel::start(&server);
    for reject in [
        json!({"action": "reject"}),
        json!({"action": "reject", "reason": "full"}),
    ] {
        let mut guest = server.guest().await;
        assert_eq!(guest.hear().await["action"], "enter");
        guest.say(reject.clone()).await;
        let reason = reject["reason"].as_str().unwrap_or("").to_owned();
        assert_eq!(channel.event().await, Event::Rejected { reason });
    }
    let (_guest, _) = server.accept(json!("me")).await;
    channel.is_accepted_as(json!("me")).await;
}

#[tokio::test]
async fn why_a_server_refuses_the_channel_is_told_in_log_and_status() {
    let origin = Origin::start(Live::default()).await;
    let server = Foreign::start().await;
    let setup = Setup::channel("news", origin.url()).at(&server.url());
    let daemon = Daemon::start_ailing(setup).await;
    let mut guest = server.guest().await;
    assert_eq!(guest.hear().await["action"], "enter");
    let reason = "unknown channel\nERROR all is lost";
    guest
        .say(json!({"action": "reject", "reason": reason}))
        .await;
    let why = "it refuses the channel: unknown channel\\nERROR all is lost";
    let trouble = eventually("the refusal is told", SOON, async || {
        let status = daemon.status().await;
        let trouble = status["channels"][0]["signal_trouble"].as_str();
        trouble.map(str::to_owned)
    });
    assert_eq!(trouble.await, why);
    let line = format!("channel news: no signalling server: {why}\n");
    assert!(daemon.problems().await.contains(&line));
    assert!(daemon.get("/healthz").await.unwrap().contains(&line));
    let (_guest, _) = server.accept(json!("me")).await;
    eventually("nothing is wrong any more", SOON, async || {
        daemon.problems().await.is_empty().then_some(())
    })
    .await;
    let log = daemon.stop().await.stderr;
    assert!(log.contains(why), "{log}");
    assert!(!log.lines().any(|line| line.starts_with("ERROR")), "{log}");
}

#[tokio::test]
async fn an_offer_that_no_connect_announced_is_heard_and_answered_in_its_form() {
    let server = Foreign::start().await;
    let mut channel = Channel::start(&server);
    let (mut guest, _) = server.accept(json!(4711)).await;
    channel.is_accepted_as(json!(4711)).await;
    let offer = json!({"type": "offer", "sdp": "v=0"});
    for (form, sent) in [
        (DataForm::Object, offer.clone()),
        (DataForm::Text, Value::from(offer.to_string())),
    ] {
        let signal = json!({"extra": {}, "from_peer_id": 7, "data": sent, "action": "signal"});
        guest.say(signal).await;
        let from = PeerId::Number(7);
        let to = from.clone();
        let sdp = "v=0".to_owned();
        let sibling = None;
        let data = SignalData::Offer {
            sdp: sdp.clone(),
            sibling,
        };
        assert_eq!(channel.event().await, Event::Signal { from, data, form });

        let data = SignalData::Answer { sdp, sibling: None };
        let answer = Command::Signal { to, data, form };
        channel.commands.send(answer).await.unwrap();
        let heard = guest.hear_of("signal").await;
        assert_eq!(heard["to_peer_id"], 7);
        let said = match (form, &heard["data"]) {
            (DataForm::Text, Value::String(text)) => serde_json::from_str(text).unwrap(),
            (_, said) => said.clone(),
        };
        assert_eq!(said, json!({"type": "answer", "sdp": "v=0"}));
    }
}

#[tokio::test]
async fn the_box_shows_its_token_tells_its_load_and_says_when_it_leaves() {
    let server = Foreign::start().await;
    let mut channel = Channel::start_with(&server, Some("open sesame"), &[]);
    let (mut guest, enter) = server.accept(json!("me")).await;
    assert_eq!(
        enter,
        json!({"action": "enter", "channel": "news", "token": "open sesame"})
    );
    channel.is_accepted_as(json!("me")).await;
    assert_eq!(
        guest.hear().await,
        json!({"action": "level", "channel": "news", "level": 100.0, "room": 64})
    );
    drop(channel.stop);
    assert_eq!(
        guest.hear().await,
        json!({"action": "leave", "peer_id": "me"})
    );
    assert!(guest.is_closed().await);
}

#[tokio::test]
async fn a_wss_server_is_trusted_by_the_ca_that_is_given() {
    let authority = Authority::new();
    let server = Foreign::start_with(authority.server("127.0.0.1")).await;
    let mut channel = Channel::start_with(&server, None, &[authority.certificate()]);
    let (_guest, _) = server.accept(json!("me")).await;
    channel.is_accepted_as(json!("me")).await;
}

#[tokio::test]
async fn a_wss_server_that_cannot_be_trusted_is_named_and_tried_until_it_can() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    ours.write(&ca);
    let origin = Origin::start(Live::default()).await;
    for (tls, words) in [
        (
            theirs.server("127.0.0.1"),
            "name the CA's certificate in [signal] ca",
        ),
        (ours.server("other.example.com"), "it is for another name"),
    ] {
        let server = Foreign::start_with(tls).await;
        let setup = Setup::channel("news", origin.url());
        let box_ = setup.at(&server.url()).trusting(&ca);
        let daemon = Daemon::start_ailing(box_).await;
        for _ in 0..3 {
            server.distrusted().await;
        }
        let told = || daemon.stderr().matches(words).count();
        eventually("it is told why", SOON, async || (told() > 0).then_some(())).await;
        let daemon = daemon.stop().await;
        assert_eq!(daemon.stderr.matches(words).count(), 1, "{}", daemon.stderr);
    }
    let server = Foreign::start_with(ours.server("127.0.0.1")).await;
    let setup = Setup::channel("news", origin.url());
    let daemon = Daemon::start_ailing(setup.at(&server.url()).trusting(&ca)).await;
    let (_guest, enter) = server.accept(json!("me")).await;
    assert_eq!(enter["channel"], origin.url());
    daemon
        .until_metric("edgeseed_signal_connected{channel=\"news\"}", 1.0)
        .await;
}

/// Counts the handshakes that are under way, and the most there ever were.
#[derive(Default)]
struct Handshakes {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Handshakes {
    #[allow(clippy::result_large_err)] // the size is that of the library's callback
    async fn accept(self: Arc<Self>, stream: TcpStream) -> WebSocketStream<TcpStream> {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        // Long enough for everybody who does not wait for a turn to be here as well.
        tokio::time::sleep(Duration::from_millis(20)).await;
        // Over before the client can know that it is.
        let over = |_: &Request, response: Response| {
            self.now.fetch_sub(1, Ordering::SeqCst);
            Ok(response)
        };
        accept_hdr_async(stream, over).await.unwrap()
    }
}

#[tokio::test]
async fn a_hundred_channels_enter_a_few_at_a_time_at_first_and_when_the_server_is_back() {
    const CHANNELS: usize = 100;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let dialer = Arc::new(Dialer::new(url.parse().unwrap(), Vec::new()));
    let mut channels: Vec<Channel> = (0..CHANNELS)
        .map(|channel| Channel::named(&format!("channel {channel}"), None, Arc::clone(&dialer)))
        .collect();
    for round in 0..2 {
        let handshakes = Arc::new(Handshakes::default());
        let died = CancellationToken::new();
        let counted = async {
            for id in 0..CHANNELS {
                let (stream, _) = listener.accept().await.unwrap();
                let (handshakes, died) = (Arc::clone(&handshakes), died.clone());
                tokio::spawn(async move {
                    let mut socket = handshakes.accept(stream).await;
                    let accept = json!({"action": "accept", "peer_id": id}).to_string();
                    let accept = Message::text(accept);
                    futures_util::SinkExt::send(&mut socket, accept)
                        .await
                        .unwrap();
                    let talk = async { while socket.next().await.is_some() {} };
                    died.run_until_cancelled(talk).await;
                });
            }
        };
        soon(counted).await;
        for channel in &mut channels {
            let event = channel.event().await;
            assert!(
                matches!(event, Event::Accepted { .. }),
                "{round}: {event:?}"
            );
        }
        let most = handshakes.most.load(Ordering::SeqCst);
        assert!((1..=4).contains(&most), "{most} handshakes at a time");
        died.cancel();
        for channel in &mut channels {
            assert_eq!(channel.event().await, Event::Lost);
        }
    }
}
