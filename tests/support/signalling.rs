//! A page's side of the signalling WebSocket (protocol.md sections 2 and 3).

use std::time::Duration;

use futures_util::stream::SplitSink;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tokio_util::task::AbortOnDropHandle;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A peer that has entered a channel. Its socket is read all the time, as a page does, and closes
/// when this is dropped.
pub(crate) struct Signalling {
    to_server: SplitSink<Socket, Message>,
    from_server: mpsc::UnboundedReceiver<Value>,
    /// The channel that it has entered.
    pub(crate) channel: String,
    /// Its own id, as the server gave it.
    pub(crate) peer_id: Value,
    _reading: AbortOnDropHandle<()>,
}

impl Signalling {
    /// Connects, enters the channel and waits for `accept`.
    pub(crate) async fn enter(server: &str, channel: &str) -> Self {
        let (socket, _) = connect_async(server)
            .await
            .expect("the signalling server answers");
        let (to_server, mut socket) = socket.split();
        let (heard, from_server) = mpsc::unbounded_channel();
        let reading = tokio::spawn(async move {
            while let Some(Ok(message)) = socket.next().await {
                if let Message::Text(text) = message {
                    let message = serde_json::from_str(&text).expect("the server speaks JSON");
                    if heard.send(message).is_err() {
                        return;
                    }
                }
            }
        });
        let mut signalling = Self {
            to_server,
            from_server,
            channel: channel.to_owned(),
            peer_id: Value::Null,
            _reading: AbortOnDropHandle::new(reading),
        };
        signalling
            .send(json!({ "action": "enter", "channel": channel }))
            .await;
        let accept = signalling.wait_for("accept").await;
        signalling.peer_id = accept["peer_id"].clone();
        signalling
    }

    /// Waits for a parent that this peer has to call; `None` when there is none `within` that.
    pub(crate) async fn parent(&mut self, within: Duration) -> Option<Value> {
        let connect = async {
            loop {
                let connect = self.wait_for("connect").await;
                if connect["initiator"] == true {
                    return connect["to_peer_id"].clone();
                }
            }
        };
        tokio::time::timeout(within, connect).await.ok()
    }

    /// The next message; `None` once the server has closed.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        self.from_server.recv().await
    }

    async fn wait_for(&mut self, action: &str) -> Value {
        loop {
            let message = self.next().await.expect("the server stays");
            if message["action"] == action {
                return message;
            }
        }
    }

    /// Sends to another peer, with the fields that pages add.
    pub(crate) async fn signal(&mut self, to: &Value, data: Value) {
        let message = json!({
            "action": "signal", "channel": self.channel, "peer_id": self.peer_id,
            "to_peer_id": to, "data": data,
        });
        self.send(message).await;
    }

    /// Reports the open data channel to `parent`, as the child does.
    pub(crate) async fn dc_opened(&mut self, parent: &Value) {
        let text = |id: &Value| id.as_str().map_or_else(|| id.to_string(), str::to_owned);
        let dc_id = text(&self.peer_id) + &text(parent);
        self.send(json!({ "action": "dc_opened", "channel": self.channel, "dc_id": dc_id }))
            .await;
    }

    pub(crate) async fn send(&mut self, message: Value) {
        // A server that has gone is noticed by who waits for an answer.
        let _ = self
            .to_server
            .send(Message::text(message.to_string()))
            .await;
    }
}
