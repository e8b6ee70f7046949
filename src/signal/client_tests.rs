//! The client against a server in memory, in virtual time.

use serde_json::{Value, json};
use tokio::io::DuplexStream;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::protocol::Role;
use url::Url;

use super::super::dial::client_config;
use super::super::messages::MAX_MESSAGE;
use super::*;

type Socket = WebSocketStream<DuplexStream>;

/// A running client, and the server's side of everything it connects to.
struct Stage {
    sockets: mpsc::Receiver<Socket>,
    commands: mpsc::Sender<Command>,
    events: mpsc::Receiver<Event>,
    metrics: Arc<ChannelMetrics>,
    load: watch::Sender<Load>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Stage {
    fn new() -> Self {
        let (to_stage, sockets) = mpsc::channel(8);
        let (commands, from_stage) = mpsc::channel(8);
        let (to_daemon, events) = mpsc::channel(2);
        let metrics = Arc::new(ChannelMetrics::default());
        let stop = CancellationToken::new();
        let load = watch::Sender::new(Load {
            level: 100.0,
            room: 64,
        });
        let url = Url::parse("ws://server.test/ws").unwrap();
        let client = Client {
            config: ClientConfig {
                dialer: Arc::new(Dialer::new(url, Vec::new())),
                channel: ChannelId::from("news"),
                token: None,
                load: load.subscribe(),
            },
            commands: from_stage,
            events: to_daemon,
            metrics: Arc::clone(&metrics),
            stop: stop.clone(),
            accepted: None,
        };
        let task = tokio::spawn(client.run(move || {
            let to_stage = to_stage.clone();
            async move {
                let (near, far) = tokio::io::duplex(1 << 20);
                let config = Some(client_config());
                let far = WebSocketStream::from_raw_socket(far, Role::Server, None).await;
                to_stage.send(far).await.map_err(|_| "refused".to_owned())?;
                Ok(WebSocketStream::from_raw_socket(near, Role::Client, config).await)
            }
        }));
        Self {
            sockets,
            commands,
            events,
            metrics,
            load,
            stop,
            task,
        }
    }

    /// Lets the client in as `id`; it has said what it should by then.
    async fn accept(&mut self, id: Value) -> Socket {
        let mut socket = self.sockets.recv().await.unwrap();
        assert_eq!(
            told(&mut socket).await,
            json!({"action": "enter", "channel": "news"})
        );
        tell(
            &mut socket,
            json!({"action": "accept", "live": true, "peer_id": id}),
        )
        .await;
        let peer_id = serde_json::from_value(id).unwrap();
        assert_eq!(self.events.recv().await, Some(Event::Accepted { peer_id }));
        assert_eq!(
            told(&mut socket).await,
            json!({"action": "level", "channel": "news", "level": 100.0, "room": 64})
        );
        assert!(self.connected());
        socket
    }

    fn connected(&self) -> bool {
        self.metrics.signal_connected.load(Ordering::Relaxed)
    }
}

async fn tell(socket: &mut Socket, message: Value) {
    socket
        .send(Message::text(message.to_string()))
        .await
        .unwrap();
}

/// The next text that the client sends; pings are answered on the way.
async fn told(socket: &mut Socket) -> Value {
    loop {
        match socket.next().await.unwrap().unwrap() {
            Message::Text(text) => return serde_json::from_str(&text).unwrap(),
            Message::Ping(_) => {}
            other => panic!("unexpected: {other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_level_is_reported_at_once_and_every_thirty_seconds() {
    let mut stage = Stage::new();
    let mut socket = stage.accept(json!("me")).await;
    let start = Instant::now();
    for report in 1..=5 {
        assert_eq!(told(&mut socket).await["level"], 100.0);
        assert_eq!(start.elapsed().as_secs(), 30 * report);
    }
}

#[tokio::test(start_paused = true)]
async fn a_box_that_becomes_full_or_has_room_again_says_so_at_once() {
    let mut stage = Stage::new();
    let mut socket = stage.accept(json!("me")).await;
    let report = |level, room| Load { level, room };
    for (told_at_once, load) in [
        (false, report(7.0, 63)),
        (true, report(8.0, 0)),
        (false, report(9.0, 0)),
        (true, report(10.0, 1)),
    ] {
        let start = Instant::now();
        stage.load.send_replace(load);
        let said = told(&mut socket).await;
        assert_eq!(
            (&said["level"], &said["room"]),
            (&json!(load.level), &json!(load.room))
        );
        assert_eq!(start.elapsed() == Duration::ZERO, told_at_once, "{load:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_falls_silent_is_lost_and_entered_again_under_a_new_id() {
    let mut stage = Stage::new();
    // Kept open, never read: no pong will come.
    let _silent = stage.accept(json!("first")).await;
    let start = Instant::now();
    assert_eq!(stage.events.recv().await, Some(Event::Lost));
    assert_eq!(start.elapsed().as_secs(), DEAD_AFTER.as_secs());
    assert!(!stage.connected());
    stage.accept(json!("second")).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_pings_is_kept() {
    let mut stage = Stage::new();
    let mut socket = stage.accept(json!("me")).await;
    let start = Instant::now();
    while start.elapsed() < 10 * DEAD_AFTER {
        told(&mut socket).await;
    }
    assert!(stage.events.try_recv().is_err());
    assert!(stage.connected());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_accept_is_given_up_without_a_loss() {
    let mut stage = Stage::new();
    let _mute = stage.sockets.recv().await.unwrap();
    let start = Instant::now();
    let _again = stage.sockets.recv().await.unwrap();
    assert!(start.elapsed() >= ACCEPT_WITHIN);
    assert!(stage.events.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_drops_at_once_is_tried_at_growing_intervals() {
    let mut stage = Stage::new();
    let start = Instant::now();
    for _ in 0..20 {
        drop(stage.sockets.recv().await.unwrap());
    }
    // Full jitter: the mean is half the limits, which add up to 31 + 14 × 30 s.
    let waited = start.elapsed();
    assert!(waited > Duration::from_secs(60), "{waited:?}");
    assert!(waited < Duration::from_secs(452), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_refused_channel_is_reported_and_tried_again() {
    let mut stage = Stage::new();
    let mut socket = stage.sockets.recv().await.unwrap();
    tell(
        &mut socket,
        json!({"action": "reject", "reason": "unknown"}),
    )
    .await;
    let reason = "unknown".to_owned();
    assert_eq!(stage.events.recv().await, Some(Event::Rejected { reason }));
    assert!(!stage.connected());
    stage.accept(json!("me")).await;
}

#[tokio::test(start_paused = true)]
async fn a_data_channel_is_named_by_integer_ids_as_the_server_gave_them() {
    let mut stage = Stage::new();
    let mut socket = stage.accept(json!(40)).await;
    tell(
        &mut socket,
        json!({"initiator": false, "to_peer_id": 2, "action": "connect"}),
    )
    .await;
    let to = PeerId::Number(2);
    let connect = Event::Connect {
        to: to.clone(),
        initiator: false,
    };
    assert_eq!(stage.events.recv().await, Some(connect));
    stage
        .commands
        .send(Command::Failed { peer: to.clone() })
        .await
        .unwrap();
    assert_eq!(
        told(&mut socket).await,
        json!({"action": "dc_failed", "channel": "news", "dc_id": 42})
    );
    let data = SignalData::Answer {
        sibling: None,
        sdp: "v=0".to_owned(),
    };
    let form = DataForm::Text;
    stage
        .commands
        .send(Command::Signal { to, data, form })
        .await
        .unwrap();
    assert_eq!(
        told(&mut socket).await,
        json!({"action": "signal", "channel": "news", "to_peer_id": 2,
               "data": r#"{"type":"answer","sdp":"v=0"}"#})
    );
}

#[tokio::test(start_paused = true)]
async fn commands_of_a_lost_session_are_dropped() {
    let mut stage = Stage::new();
    drop(stage.accept(json!("first")).await);
    assert_eq!(stage.events.recv().await, Some(Event::Lost));
    for _ in 0..100 {
        let peer = PeerId::from("old");
        stage.commands.send(Command::Failed { peer }).await.unwrap();
    }
    let mut socket = stage.accept(json!("second")).await;
    let peer = PeerId::from("new");
    stage.commands.send(Command::Closed { peer }).await.unwrap();
    assert_eq!(
        told(&mut socket).await,
        json!({"action": "dc_closed", "channel": "news", "dc_id": "secondnew"})
    );
}

#[tokio::test(start_paused = true)]
async fn garbage_from_a_server_is_ignored() {
    let mut stage = Stage::new();
    let mut socket = stage.accept(json!("me")).await;
    let list: Vec<Value> = (0..2000)
        .map(|id| json!({"peer_id": format!("peer number {id}"), "ul_bw": 1}))
        .collect();
    let long = json!({"action": "parents", "nodes": list}).to_string();
    assert!(long.len() > MAX_MESSAGE);
    let garbage = [
        "",
        "hello",
        "[]",
        "{}",
        r#"{"action":"signal"}"#,
        r#"{"action":"signal","from_peer_id":"a","data":7}"#,
        r#"{"action":"x"}"#,
        &long,
    ];
    for garbage in garbage {
        socket.send(Message::text(garbage)).await.unwrap();
    }
    socket.send(Message::binary(vec![0; 1000])).await.unwrap();
    tell(&mut socket, json!({"action": "disconnect", "peers": ["a"]})).await;
    let peers = vec![PeerId::from("a")];
    assert_eq!(stage.events.recv().await, Some(Event::Drop { peers }));
    assert_eq!(stage.metrics.signal_ignored.get(), garbage.len() as u64 + 1);
}

#[tokio::test(start_paused = true)]
async fn a_huge_frame_costs_the_session_and_nothing_more() {
    let mut stage = Stage::new();
    let mut socket = stage.accept(json!("first")).await;
    let huge = Message::binary(vec![0; (1 << 20) + 1]);
    // The client may hang up while this is being written.
    let _ = socket.send(huge).await;
    assert_eq!(stage.events.recv().await, Some(Event::Lost));
    stage.accept(json!("second")).await;
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_takes_no_events_can_still_send_and_is_not_a_dead_server() {
    let mut stage = Stage::new();
    let mut socket = stage.accept(json!("me")).await;
    for peer in 0..20 {
        tell(
            &mut socket,
            json!({"action": "connect", "to_peer_id": peer}),
        )
        .await;
    }
    sleep(10 * DEAD_AFTER).await;
    let peer = PeerId::from("a");
    stage.commands.send(Command::Failed { peer }).await.unwrap();
    while told(&mut socket).await["action"] != "dc_failed" {}
    for peer in 0..20 {
        let to = PeerId::Number(peer);
        let initiator = false;
        let expected = Event::Connect { to, initiator };
        assert_eq!(stage.events.recv().await, Some(expected));
    }
}

#[tokio::test(start_paused = true)]
async fn on_stop_the_client_leaves_and_closes() {
    let mut stage = Stage::new();
    let mut socket = stage.accept(json!("me")).await;
    stage.stop.cancel();
    assert_eq!(
        told(&mut socket).await,
        json!({"action": "leave", "peer_id": "me"})
    );
    assert!(matches!(socket.next().await, Some(Ok(Message::Close(_)))));
    stage.task.await.unwrap();
    assert!(!stage.metrics.signal_connected.load(Ordering::Relaxed));
}

#[tokio::test(start_paused = true)]
async fn a_stop_while_waiting_is_immediate() {
    let mut stage = Stage::new();
    for _ in 0..10 {
        drop(stage.sockets.recv().await.unwrap());
    }
    let start = Instant::now();
    stage.stop.cancel();
    stage.task.await.unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
}
