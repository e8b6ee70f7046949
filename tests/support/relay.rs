//! A signalling server that is not ours, in as few lines as protocol.md allows: it pairs whoever
//! enters with who entered first, and relays what they signal. What it does differently from ours
//! is what the tests choose.

use std::sync::{Arc, Mutex};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::task::AbortOnDropHandle;

/// A running relay; gone when dropped.
pub(crate) struct Relay {
    /// Its URL.
    pub(crate) url: String,
    peers: Peers,
    heard: Heard,
    _task: AbortOnDropHandle<()>,
}

/// How it differs.
#[derive(Clone, Copy)]
pub(crate) struct Habits {
    /// The id of the peer that is the nth to enter.
    pub(crate) id: fn(usize) -> Value,
    /// Whether the parent is told of its child, or has to take its offer unannounced.
    pub(crate) tells_parent: bool,
    /// Whether it has the parent call, too.
    pub(crate) has_both_call: bool,
    /// What it does to the data that it relays.
    pub(crate) alters: fn(&mut Value),
}

impl Default for Habits {
    fn default() -> Self {
        Self {
            id: |nth| json!(nth),
            tells_parent: true,
            has_both_call: false,
            alters: |_| {},
        }
    }
}

/// Every message so far.
type Heard = Arc<Mutex<Vec<Value>>>;

/// Everybody, in the order in which they entered.
type Peers = Arc<Mutex<Vec<(Value, mpsc::UnboundedSender<Value>)>>>;

impl Relay {
    pub(crate) async fn start(habits: Habits) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("ws://{}/", listener.local_addr().unwrap());
        let peers = Peers::default();
        let heard = Heard::default();
        let (everybody, everything) = (Arc::clone(&peers), Arc::clone(&heard));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let shared = (Arc::clone(&everybody), Arc::clone(&everything));
                tokio::spawn(serve(stream, habits, shared));
            }
        });
        Self {
            url,
            peers,
            heard,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// The messages with this action so far.
    pub(crate) fn heard(&self, action: &str) -> Vec<Value> {
        let heard = self.heard.lock().unwrap();
        let with_action = heard.iter().filter(|message| message["action"] == action);
        with_action.cloned().collect()
    }

    /// Says something to who was the nth to enter.
    pub(crate) fn tell(&self, nth: usize, message: Value) {
        self.peers.lock().unwrap()[nth].1.send(message).unwrap();
    }
}

async fn serve(stream: TcpStream, habits: Habits, (peers, heard): (Peers, Heard)) {
    let (mut to_peer, mut from_peer) = accept_async(stream).await.unwrap().split();
    let (outbox, mut out) = mpsc::unbounded_channel::<Value>();
    let writing = tokio::spawn(async move {
        while let Some(message) = out.recv().await {
            if to_peer
                .send(Message::text(message.to_string()))
                .await
                .is_err()
            {
                return;
            }
        }
    });
    let _writing = AbortOnDropHandle::new(writing);
    let mut own = Value::Null;
    while let Some(Ok(message)) = from_peer.next().await {
        let Message::Text(text) = message else {
            continue;
        };
        let message: Value = serde_json::from_str(&text).unwrap();
        heard.lock().unwrap().push(message.clone());
        let mut peers = peers.lock().unwrap();
        if message["action"] == "enter" {
            own = (habits.id)(peers.len());
            let accept = json!({ "action": "accept", "live": true, "peer_id": own, "region": 7 });
            outbox.send(accept).unwrap();
            let connect = |to: &Value, initiator| json!({ "action": "connect", "to_peer_id": to, "initiator": initiator });
            if let Some((parent, to_parent)) = peers.first() {
                if habits.tells_parent {
                    let _ = to_parent.send(connect(&own, habits.has_both_call));
                }
                outbox.send(connect(parent, true)).unwrap();
            }
            peers.push((own.clone(), outbox.clone()));
        } else if message["action"] == "signal" {
            let to = peers.iter().find(|(id, _)| *id == message["to_peer_id"]);
            if let Some((_, to)) = to {
                let mut data = message["data"].clone();
                (habits.alters)(&mut data);
                let relayed = json!({ "action": "signal", "from_peer_id": own, "data": data });
                let _ = to.send(relayed);
            }
        }
    }
}
