//! Our signalling server in this process, and pages at it.

#![allow(dead_code)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use edgeseed::config::SignalServerConfig;
use edgeseed::metrics::{Refused, SignalServerMetrics};
use edgeseed::signal::server::Server;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, client_async};
use tokio_util::sync::CancellationToken;

pub(crate) const CHANNEL: &str = "https://cdn.example.com/news/index.m3u8";

/// Nothing here takes long; without an answer by then there will be none.
const SOON: Duration = Duration::from_secs(20);

pub(crate) async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, work).await.expect("no answer")
}

pub(crate) fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// What a peer is told to expect (`initiator` false) or to do.
pub(crate) fn connect(to: &str, initiator: bool) -> Value {
    json!({"action": "connect", "to_peer_id": to, "initiator": initiator})
}

/// A running server.
pub(crate) struct Running {
    pub(crate) addr: SocketAddr,
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<()>,
    metrics: Arc<SignalServerMetrics>,
}

impl Running {
    pub(crate) async fn start(listen: SocketAddr) -> Self {
        Self::with(SignalServerConfig::new(listen)).await
    }

    pub(crate) async fn with(config: SignalServerConfig) -> Self {
        let metrics = Arc::<SignalServerMetrics>::default();
        let server = Server::bind(config, Arc::clone(&metrics)).await.unwrap();
        let addr = server.local_addr();
        let stop = CancellationToken::new();
        let task = tokio::spawn(server.run(stop.clone()));
        Self {
            addr,
            stop,
            task,
            metrics,
        }
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        soon(self.task).await.unwrap();
    }

    pub(crate) fn refused(&self, what: Refused) -> u64 {
        self.metrics.refused(what).get()
    }

    /// Waits until so many sockets are served.
    pub(crate) async fn until_sockets(&self, expected: i64) {
        soon(async {
            while self.metrics.sockets.get() != expected {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

/// A browser page, as far as signalling goes.
pub(crate) struct Page(pub(crate) WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Page {
    pub(crate) async fn open(addr: SocketAddr) -> Self {
        Self::open_from("127.0.0.1", addr).await
    }

    /// From another address of the loopback network.
    pub(crate) async fn open_from(from: &str, addr: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        let from = SocketAddr::new(from.parse().unwrap(), 0);
        socket.bind(from).unwrap();
        let stream = MaybeTlsStream::Plain(soon(socket.connect(addr)).await.unwrap());
        Self::over(stream, addr).await
    }

    /// Over a stream that is there.
    pub(crate) async fn over(stream: MaybeTlsStream<TcpStream>, addr: SocketAddr) -> Self {
        let url = format!("ws://{addr}/any/path?x=1");
        let (socket, _) = soon(Box::pin(client_async(url, stream))).await.unwrap();
        Self(socket)
    }

    /// Opens and enters; returns its id as well.
    pub(crate) async fn enter(addr: SocketAddr) -> (Self, String) {
        let mut page = Self::open(addr).await;
        let id = page.enter_channel(CHANNEL).await;
        (page, id)
    }

    /// Enters a channel and returns its id there.
    pub(crate) async fn enter_channel(&mut self, channel: &str) -> String {
        self.say(json!({"channel": channel, "action": "enter"}))
            .await;
        let accept = self.hear().await;
        assert_eq!(accept["action"], "accept");
        assert_eq!(accept["live"], true);
        let id = accept["peer_id"].as_str().unwrap().to_owned();
        assert!((19..=36).contains(&id.len()));
        id
    }

    /// Enters, says what it holds, and knows that this was heard.
    pub(crate) async fn holding(addr: SocketAddr, report: Value) -> (Self, String) {
        let (mut page, id) = Self::enter(addr).await;
        page.say(report).await;
        page.settle().await;
        (page, id)
    }

    pub(crate) async fn say(&mut self, message: Value) {
        self.say_text(&message.to_string()).await;
    }

    pub(crate) async fn say_text(&mut self, text: &str) {
        soon(self.0.send(Message::text(text))).await.unwrap();
    }

    pub(crate) async fn hear_text(&mut self) -> String {
        loop {
            match soon(self.0.next()).await.unwrap().unwrap() {
                Message::Text(text) => return text.to_string(),
                Message::Ping(_) => {}
                other => panic!("unexpected: {other:?}"),
            }
        }
    }

    pub(crate) async fn hear(&mut self) -> Value {
        serde_json::from_str(&self.hear_text().await).unwrap()
    }

    /// Waits until the server has taken in what this page has said, and returns what the page
    /// heard until then.
    pub(crate) async fn settle(&mut self) -> Vec<Value> {
        self.say(json!({"action": "get_parents"})).await;
        let mut heard = Vec::new();
        loop {
            match self.hear().await {
                answer if answer["action"] == "parents" => return heard,
                message => heard.push(message),
            }
        }
    }

    /// Waits for the server to hang up; what it said last, if it said goodbye.
    pub(crate) async fn hung_up(mut self) -> Option<CloseFrame> {
        let mut frame = None;
        while let Some(Ok(message)) = soon(self.0.next()).await {
            if let Message::Close(close) = message {
                frame = close;
            }
        }
        frame
    }

    /// Vanishes without a closing frame: the server's next packet is answered with a reset.
    pub(crate) fn vanish(self) {
        if let MaybeTlsStream::Plain(stream) = self.0.get_ref() {
            let socket = socket2::SockRef::from(stream);
            socket.set_linger(Some(Duration::ZERO)).unwrap();
        }
    }
}
