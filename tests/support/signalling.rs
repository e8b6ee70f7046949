//! A page's side of the signalling WebSocket (protocol.md sections 2 and 3).

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// A peer that has entered a channel.
pub(crate) struct Signalling {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    channel: String,
    /// Its own id, as the server gave it.
    pub(crate) peer_id: Value,
}

impl Signalling {
    /// Connects, enters the channel and waits for `accept`.
    pub(crate) async fn enter(server: &str, channel: &str) -> Self {
        let (socket, _) = connect_async(server)
            .await
            .expect("the signalling server answers");
        let mut signalling = Self {
            socket,
            channel: channel.to_owned(),
            peer_id: Value::Null,
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
        loop {
            match self.socket.next().await? {
                Ok(Message::Text(text)) => {
                    return Some(serde_json::from_str(&text).expect("the server speaks JSON"));
                }
                Ok(Message::Close(_)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
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
        let _ = self.socket.send(Message::text(message.to_string())).await;
    }
}
