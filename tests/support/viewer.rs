//! A viewer: what the script in a page does, on another WebRTC stack's asynchronous half.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use rand::Rng;
use rtc::ice::mdns::MulticastDnsMode;
use serde_json::{Value, json};
use tokio::runtime::{self, Runtime};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;
use webrtc::data_channel::{DataChannel, DataChannelEvent};
use webrtc::peer_connection::{
    PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCIceCandidateInit,
    RTCPeerConnectionIceEvent, RTCSessionDescription, SettingEngineBuilder,
};

use super::origin::uri;
use super::sibling;
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

/// How this viewer's browser and script write what they signal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Form {
    /// `"data": {"type": …}`, RFC 8841, `candidate:…`
    #[default]
    Today,
    /// `"data": "{\"type\": …}"`, and the answer has to be one as well.
    Text,
    /// `m=application 9 DTLS/SCTP 5000`, and the answer has to say so as well; the candidates stand
    /// in the offer, among them one that nobody can resolve.
    SdpOf2018,
    /// `a=candidate:…`
    CandidatesOf2018,
    /// As a box of the operator who has this secret, which the answer has to prove as well.
    Sibling(&'static str),
    /// As a box with another secret, which is answered as a viewer is.
    Stranger(&'static str),
}

/// A viewer with an open channel to the box.
pub(crate) struct Viewer {
    connection: Arc<dyn PeerConnection>,
    channel: Arc<dyn DataChannel>,
    inbox: mpsc::Receiver<Incoming>,
    /// Asked for and given up: an answer may still come.
    given_up: Vec<String>,
    signalling: Signalling,
    /// The box's id, as the server named it.
    pub(crate) parent: Value,
    _reading: AbortOnDropHandle<()>,
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
        Self::try_join(server, channel, Form::Today)
            .await
            .expect("a channel to the box")
    }

    pub(crate) async fn try_join(
        server: &str,
        channel: &str,
        form: Form,
    ) -> Result<Self, NoChannel> {
        Self::call(Signalling::enter(server, channel).await, form).await
    }

    /// Joins from a device of its own. Shut it down ([`Runtime::shutdown_background`]), and it has
    /// vanished from one moment to the next.
    pub(crate) async fn join_on_a_device(server: &str, channel: &str) -> Runtime {
        let device = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (server, channel) = (server.to_owned(), channel.to_owned());
        let watching = async move {
            let viewer = Self::join(&server, &channel).await;
            let (joined, has_joined) = oneshot::channel();
            tokio::spawn(async move {
                let _viewer = viewer;
                joined.send(()).unwrap();
                std::future::pending::<()>().await;
            });
            has_joined.await.unwrap();
        };
        device.spawn(watching).await.unwrap();
        device
    }

    /// Waits for a parent on a socket that has entered, and opens a data channel to it.
    pub(crate) async fn call(mut signalling: Signalling, form: Form) -> Result<Self, NoChannel> {
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
                .with_udp_addrs(vec![format!("{}:0", super::here())])
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
        let sdp = form.offer(&offer.sdp);
        let mut said = json!({ "type": "offer", "sdp": sdp });
        if let Form::Sibling(secret) | Form::Stranger(secret) = form {
            said["sibling"] = sibling::proof(secret, &signalling.channel, &sdp);
        }
        signalling.signal(&parent, form.data(said)).await;
        connection.set_local_description(offer).await.unwrap();

        let (opened, mut open) = mpsc::channel(1);
        let (messages, inbox) = mpsc::channel(256);
        let reading = tokio::spawn(read(Arc::clone(&data), opened, messages));
        let reading = AbortOnDropHandle::new(reading);
        let opening = async {
            loop {
                tokio::select! {
                    Some(candidate) = candidates.recv() => {
                        let candidate = form.candidate(&candidate.candidate);
                        signalling.signal(&parent, candidate).await;
                    }
                    message = signalling.next() => {
                        let message = message?;
                        form.check_proof(&signalling.channel, &sdp, &message["data"]);
                        form.take(&*connection, &message).await;
                    }
                    opened = open.recv() => return opened,
                }
            }
        };
        if !matches!(timeout(OPEN_WITHIN, opening).await, Ok(Some(()))) {
            // Whether it can still be closed makes no difference here.
            let _ = connection.close().await;
            return Err(NoChannel::NotOpened);
        }
        signalling.dc_opened(&parent).await;
        Ok(Self {
            connection,
            channel: data,
            inbox,
            given_up: Vec::new(),
            signalling,
            parent,
            _reading: reading,
        })
    }

    /// The page stays, and its socket with it; the connection is over.
    pub(crate) fn into_signalling(self) -> Signalling {
        self.signalling
    }

    /// Opens a further channel on the connection, and waits until the other end has closed it.
    pub(crate) async fn second_channel_is_closed(&self) {
        let second = self
            .connection
            .create_data_channel(&label(), None)
            .await
            .unwrap();
        let closed = async {
            while let Some(event) = second.poll().await {
                if matches!(event, DataChannelEvent::OnClose) {
                    return;
                }
            }
        };
        timeout(OPEN_WITHIN, closed)
            .await
            .expect("the second channel closes");
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

    /// Whether it is the answer to this KEEPALIVE that comes next.
    pub(crate) async fn hears_nothing_before_an_ack(&mut self) -> bool {
        self.send_text(r#"{"event":"KEEPALIVE"}"#).await;
        let next = timeout(OPEN_WITHIN, self.next()).await;
        matches!(next, Ok(Some(Incoming::Text(text))) if text["event"] == "KEEPALIVE-ACK")
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

impl Form {
    fn data(self, object: Value) -> Value {
        match self {
            Self::Text => Value::String(object.to_string()),
            _ => object,
        }
    }

    fn offer(self, sdp: &str) -> String {
        if self != Self::SdpOf2018 {
            return sdp.to_owned();
        }
        let [media, port, size] = DATA_CHANNEL_TODAY;
        assert!(sdp.contains(media) && sdp.contains(port), "{sdp}");
        let sdp: String = sdp
            .lines()
            .filter(|line| !line.starts_with(size))
            .map(|line| match line {
                _ if line == media => MEDIA_OF_2018,
                _ if line == port => MAP_OF_2018,
                _ => line,
            })
            .map(|line| line.to_owned() + "\r\n")
            .collect();
        sdp + "a=candidate:1 1 udp 2113937151 8ec3e2a5.local 50123 typ host generation 0\r\n\
               a=end-of-candidates\r\n"
    }

    /// Back into the form that this stack reads.
    fn answer(self, sdp: &str) -> String {
        if self != Self::SdpOf2018 {
            return sdp.to_owned();
        }
        let [media, port, size] = DATA_CHANNEL_TODAY;
        for (line, is_there) in [
            (MEDIA_OF_2018, true),
            (MAP_OF_2018, true),
            (port, false),
            (size, false),
        ] {
            assert_eq!(sdp.contains(line), is_there, "{line} in {sdp}");
        }
        sdp.replace(MEDIA_OF_2018, media).replace(MAP_OF_2018, port)
    }

    fn candidate(self, candidate: &str) -> Value {
        let candidate = match self {
            Self::CandidatesOf2018 => format!("a={candidate}"),
            _ => candidate.to_owned(),
        };
        self.data(json!({
            "candidate": { "candidate": candidate, "sdpMLineIndex": 0, "sdpMid": "0" }
        }))
    }

    /// Whoever proves to be a sibling gets a proof, and nobody else.
    fn check_proof(self, channel: &str, offer: &str, data: &Value) {
        if data["type"] != "answer" {
            return;
        }
        match self {
            Self::Sibling(secret) => assert!(
                sibling::is_proved(secret, channel, offer, data),
                "{data} proves nothing"
            ),
            _ => assert_eq!(data["sibling"], Value::Null),
        }
    }

    /// Takes what the parent signals: its answer and its candidates.
    async fn take(self, connection: &dyn PeerConnection, message: &Value) {
        if message["action"] != "signal" {
            return;
        }
        let data = match (&message["data"], self) {
            (Value::String(text), Self::Text) => serde_json::from_str(text).unwrap(),
            (Value::Object(_), _) if self != Self::Text => message["data"].clone(),
            (other, _) => panic!("{self:?} is answered with {other}"),
        };
        if data["type"] == "answer" {
            let sdp = self.answer(data["sdp"].as_str().unwrap());
            let answer = RTCSessionDescription::answer(sdp).unwrap();
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
}

/// The lines of an offer that differ, as this stack writes them.
const DATA_CHANNEL_TODAY: [&str; 3] = [
    "m=application 9 UDP/DTLS/SCTP webrtc-datachannel",
    "a=sctp-port:5000",
    "a=max-message-size:",
];
const MEDIA_OF_2018: &str = "m=application 9 DTLS/SCTP 5000";
const MAP_OF_2018: &str = "a=sctpmap:5000 webrtc-datachannel 1024";

/// 40 hex characters, as pages choose them.
fn label() -> String {
    let mut random = rand::rng();
    (0..40)
        .map(|_| char::from_digit(random.random_range(0..16), 16).unwrap())
        .collect()
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
