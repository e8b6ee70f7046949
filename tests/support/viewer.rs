//! A viewer: what the script in a page does, on another WebRTC stack's asynchronous half.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use rand::Rng;
use rtc::ice::mdns::MulticastDnsMode;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use webrtc::data_channel::{DataChannel, DataChannelEvent};
use webrtc::peer_connection::{
    PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCIceCandidateInit,
    RTCPeerConnectionIceEvent, RTCSessionDescription, SettingEngineBuilder,
};

use super::origin::uri;
use super::signalling::Signalling;

/// How long a viewer tries to get a channel.
const OPEN_WITHIN: Duration = Duration::from_secs(10);

/// What a REQUEST came to.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The whole segment, its announced size and number of packets checked.
    Segment { bytes: Bytes, elapsed: Duration },
    /// LACK.
    Lack { elapsed: Duration },
    /// Neither in time.
    Timeout,
}

/// A message from the box.
#[derive(Debug)]
pub(crate) enum Incoming {
    Text(Value),
    Binary(Bytes),
}

/// Why there is no channel.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoChannel {
    /// The server named no parent.
    NoParent,
    /// The parent did not answer, or its channel did not open.
    NotOpened,
}

/// How this viewer's browser writes its candidates.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum CandidateForm {
    /// `candidate:…`
    #[default]
    Today,
    /// `a=candidate:…`, seen of 2018.
    Of2018,
}

/// A viewer with an open channel to the box; vanishes when dropped, as a closed page does.
pub(crate) struct Viewer {
    connection: Arc<dyn PeerConnection>,
    channel: Arc<dyn DataChannel>,
    inbox: mpsc::Receiver<Incoming>,
    /// Asked for and given up: an answer may still come.
    given_up: Vec<String>,
    tasks: [JoinHandle<()>; 2],
}

struct Handler(mpsc::UnboundedSender<RTCIceCandidateInit>);

#[async_trait]
impl PeerConnectionEventHandler for Handler {
    async fn on_ice_candidate(&self, event: RTCPeerConnectionIceEvent) {
        if let Ok(candidate) = event.candidate.to_json() {
            let _ = self.0.send(candidate);
        }
    }
}

impl Viewer {
    /// Enters the channel and opens a data channel to the parent that the server names.
    pub(crate) async fn join(server: &str, channel: &str) -> Self {
        Self::try_join(server, channel, CandidateForm::Today)
            .await
            .expect("a channel to the box")
    }

    pub(crate) async fn try_join(
        server: &str,
        channel: &str,
        form: CandidateForm,
    ) -> Result<Self, NoChannel> {
        let mut signalling = Signalling::enter(server, channel).await;
        let parent = signalling
            .parent(OPEN_WITHIN)
            .await
            .ok_or(NoChannel::NoParent)?;

        let (handler, mut candidates) = mpsc::unbounded_channel();
        let settings = SettingEngineBuilder::new()
            .with_multicast_dns_mode(MulticastDnsMode::Disabled)
            .build();
        let connection: Arc<dyn PeerConnection> = Arc::new(
            PeerConnectionBuilder::new()
                .with_setting_engine(settings)
                .with_handler(Arc::new(Handler(handler)))
                .with_udp_addrs(vec!["127.0.0.1:0"])
                .build()
                .await
                .unwrap(),
        );
        // Ordered and reliable is the default.
        let data = connection
            .create_data_channel(&label(), None)
            .await
            .unwrap();
        let offer = connection.create_offer(None).await.unwrap();
        signalling
            .signal(&parent, json!({ "type": "offer", "sdp": offer.sdp }))
            .await;
        connection.set_local_description(offer).await.unwrap();

        let (opened, mut open) = mpsc::channel(1);
        let (messages, inbox) = mpsc::channel(256);
        let reading = tokio::spawn(read(Arc::clone(&data), opened, messages));
        let opening = async {
            loop {
                tokio::select! {
                    Some(candidate) = candidates.recv() => {
                        let candidate = form.write(&candidate.candidate);
                        signalling.signal(&parent, candidate).await;
                    }
                    message = signalling.next() => take(&*connection, &message?).await,
                    opened = open.recv() => return opened,
                }
            }
        };
        if !matches!(timeout(OPEN_WITHIN, opening).await, Ok(Some(()))) {
            reading.abort();
            // Whether it can still be closed makes no difference here.
            let _ = connection.close().await;
            return Err(NoChannel::NotOpened);
        }
        signalling.dc_opened(&parent).await;
        // The socket stays open as long as the page does.
        let listening = tokio::spawn(async move { while signalling.next().await.is_some() {} });
        Ok(Self {
            connection,
            channel: data,
            inbox,
            given_up: Vec::new(),
            tasks: [reading, listening],
        })
    }

    /// Asks for a segment by its sequence number.
    pub(crate) async fn request(&mut self, sequence: u64) -> Outcome {
        self.ask(&uri(sequence), sequence, Duration::from_secs(5))
            .await
    }

    /// Asks for a segment by any name.
    ///
    /// # Panics
    /// When the answer is not what was announced.
    pub(crate) async fn ask(&mut self, uri: &str, sequence: u64, within: Duration) -> Outcome {
        let start = Instant::now();
        self.send_request(uri, sequence).await;
        let answer = self.answer(uri, sequence);
        match timeout_at(start + within, answer).await {
            Ok(Some(bytes)) => Outcome::Segment {
                bytes,
                elapsed: start.elapsed(),
            },
            Ok(None) => Outcome::Lack {
                elapsed: start.elapsed(),
            },
            Err(_) => {
                self.given_up.push(uri.to_owned());
                Outcome::Timeout
            }
        }
    }

    pub(crate) async fn send_request(&self, uri: &str, sequence: u64) {
        self.send_text(&json!({ "event": "REQUEST", "url": uri, "sn": sequence }).to_string())
            .await;
    }

    /// The segment, or `None` for LACK.
    pub(crate) async fn answer(&mut self, uri: &str, sequence: u64) -> Option<Bytes> {
        loop {
            let header = match self.next().await.expect("the channel stays open") {
                Incoming::Text(header) => header,
                // The rest of an answer that was given up half-way.
                Incoming::Binary(_) if !self.given_up.is_empty() => continue,
                Incoming::Binary(_) => panic!("a packet that no BINARY announced"),
            };
            let is_ours = header["url"] == uri;
            let is_late = self
                .given_up
                .iter()
                .any(|late| header["url"] == late.as_str());
            match header["event"].as_str() {
                Some("BINARY" | "LACK") if is_late && !is_ours => {}
                Some("LACK") => {
                    assert!(is_ours, "a LACK for {}, not for {uri}", header["url"]);
                    return None;
                }
                Some("BINARY") => {
                    assert!(is_ours, "{} was sent, {uri} was asked", header["url"]);
                    assert_eq!(header["sn"], sequence);
                    return Some(self.packets(&header).await);
                }
                _ => {}
            }
        }
    }

    async fn packets(&mut self, header: &Value) -> Bytes {
        let size = usize::try_from(header["size"].as_u64().unwrap()).unwrap();
        let mut bytes = BytesMut::with_capacity(size);
        for _ in 0..header["attachments"].as_u64().unwrap() {
            bytes.extend_from_slice(&self.next_packet().await);
        }
        assert_eq!(bytes.len(), size, "bytes of the packets, and as announced");
        bytes.freeze()
    }

    /// The next packet of the segment that has been announced. The box may ask in between whether
    /// this viewer still listens; nothing else may come.
    pub(crate) async fn next_packet(&mut self) -> Bytes {
        loop {
            match self
                .next()
                .await
                .expect("the channel stays open until the last packet")
            {
                Incoming::Binary(packet) => return packet,
                Incoming::Text(text) if text["event"] == "KEEPALIVE" => {}
                Incoming::Text(text) => panic!("{text} between the packets of a segment"),
            }
        }
    }

    /// The next message of the box; `None` once the channel is closed.
    pub(crate) async fn next(&mut self) -> Option<Incoming> {
        self.inbox.recv().await
    }

    /// The next text of the box with this event.
    pub(crate) async fn next_event(&mut self, event: &str, within: Duration) -> Option<Value> {
        let found = async {
            loop {
                match self.next().await? {
                    Incoming::Text(text) if text["event"] == event => return Some(text),
                    _ => {}
                }
            }
        };
        timeout(within, found).await.ok().flatten()
    }

    /// Whether the box closes the channel.
    pub(crate) async fn is_closed(&mut self, within: Duration) -> bool {
        let closed = async { while self.next().await.is_some() {} };
        timeout(within, closed).await.is_ok()
    }

    /// Sends whatever text; a closed channel is noticed by who waits for an answer.
    pub(crate) async fn send_text(&self, text: &str) {
        let _ = self.channel.send_text(text).await;
    }

    /// Sends whatever bytes.
    pub(crate) async fn send_binary(&self, bytes: &[u8]) {
        let _ = self.channel.send(BytesMut::from(bytes)).await;
    }

    /// Closes the connection as a well-behaved page does.
    pub(crate) async fn leave(self) {
        let _ = self.connection.close().await;
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl CandidateForm {
    fn write(self, candidate: &str) -> Value {
        let candidate = match self {
            Self::Today => candidate.to_owned(),
            Self::Of2018 => format!("a={candidate}"),
        };
        json!({ "candidate": { "candidate": candidate, "sdpMLineIndex": 0, "sdpMid": "0" } })
    }
}

/// 40 hex characters, as pages choose them.
fn label() -> String {
    let mut random = rand::rng();
    (0..40)
        .map(|_| char::from_digit(random.random_range(0..16), 16).unwrap())
        .collect()
}

/// Takes what the parent signals: its answer and its candidates.
async fn take(connection: &dyn PeerConnection, message: &Value) {
    let data = match &message["data"] {
        Value::String(text) => serde_json::from_str(text).unwrap(),
        object => object.clone(),
    };
    if data["type"] == "answer" {
        let answer = RTCSessionDescription::answer(data["sdp"].as_str().unwrap().into()).unwrap();
        connection.set_remote_description(answer).await.unwrap();
    } else if let Some(candidate) = data["candidate"]["candidate"].as_str() {
        let candidate = RTCIceCandidateInit {
            candidate: candidate.to_owned(),
            sdp_mline_index: Some(0),
            ..Default::default()
        };
        connection.add_ice_candidate(candidate).await.unwrap();
    }
}

/// Passes on what arrives until the channel closes.
async fn read(
    channel: Arc<dyn DataChannel>,
    opened: mpsc::Sender<()>,
    messages: mpsc::Sender<Incoming>,
) {
    while let Some(event) = channel.poll().await {
        let message = match event {
            DataChannelEvent::OnOpen => {
                let _ = opened.send(()).await;
                continue;
            }
            DataChannelEvent::OnMessage(message) if message.is_string => {
                Incoming::Text(serde_json::from_slice(&message.data).expect("the box speaks JSON"))
            }
            DataChannelEvent::OnMessage(message) => Incoming::Binary(message.data.freeze()),
            DataChannelEvent::OnClose => return,
            _ => continue,
        };
        if messages.send(message).await.is_err() {
            return;
        }
    }
}
