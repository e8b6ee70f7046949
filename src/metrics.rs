//! Numbers, and the one word that explains one: every part adds to what concerns it, `http` renders them. Names and labels are
//! the contract's (README, "Metrics").

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::ids::ChannelName;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Replaces the value.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Adds `n`, which may be negative.
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What was asked of the origin (`kind` of `edgeseed_origin_requests_total`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginKind {
    /// A media or multivariant playlist.
    Playlist,
    /// A segment.
    Segment,
}

/// How many requests to the origin ended how (`result` of `edgeseed_origin_requests_total`).
#[derive(Debug, Default)]
pub struct OriginResults {
    /// Answered, whole, and used.
    pub ok: Counter,
    /// Anything else: refused, broken off, wrong length, wrong type.
    pub error: Counter,
}

/// How segments were asked of sibling boxes (`result` of `edgeseed_sibling_requests_total`).
#[derive(Debug, Default)]
pub struct SiblingResults {
    /// Delivered whole.
    pub ok: Counter,
    /// It did not have the segment.
    pub lack: Counter,
    /// Late, wrong, or gone; fetched from the origin instead.
    pub failed: Counter,
    /// Bytes of segments received, `edgeseed_sibling_bytes_total{direction="received"}`.
    pub bytes: Counter,
    /// Bytes of segments sent to them, `{direction="sent"}`; they are no viewers.
    pub sent_bytes: Counter,
}

/// The numbers of one channel.
#[derive(Debug, Default)]
pub struct ChannelMetrics {
    /// Bytes of bodies received from the origin, `edgeseed_origin_bytes_total`.
    pub origin_bytes: Counter,
    /// `edgeseed_origin_requests_total{kind="playlist"}`.
    pub origin_playlists: OriginResults,
    /// `edgeseed_origin_requests_total{kind="segment"}`.
    pub origin_segments: OriginResults,
    /// `edgeseed_sibling_requests_total` and `edgeseed_sibling_bytes_total`.
    pub siblings: SiblingResults,
    /// Segment bytes sent over data channels, `edgeseed_served_bytes_total{via="p2p"}`.
    pub served_p2p_bytes: Counter,
    /// Segment bytes sent over plain HTTP, `edgeseed_served_bytes_total{via="http"}`.
    pub served_http_bytes: Counter,
    /// REQUESTs answered at once, `edgeseed_requests_total{result="hit"}`.
    pub requests_hit: Counter,
    /// REQUESTs answered after waiting for the segment, `{result="held"}`.
    pub requests_held: Counter,
    /// REQUESTs answered with LACK, `{result="lack"}`.
    pub requests_lack: Counter,
    /// Segments that can be served now, `edgeseed_store_segments`.
    pub store_segments: Gauge,
    /// Milliseconds behind the live edge, `edgeseed_live_edge_lag_seconds`: since the media of the
    /// newest stored segment ended by the encoder's clock (`EXT-X-PROGRAM-DATE-TIME`); without such
    /// a clock, for how long the newest listed segment has been missing.
    pub live_edge_lag_ms: Gauge,
    /// Whether the channel has been accepted by its signalling server,
    /// `edgeseed_signal_connected`.
    pub signal_connected: AtomicBool,
    /// Why it is not, if that is known.
    signal_trouble: Mutex<Option<String>>,
    /// Messages of the signalling server that could not be understood,
    /// `edgeseed_signal_ignored_total`.
    pub signal_ignored: Counter,
}

impl ChannelMetrics {
    /// Says why the channel has no signalling server, in words for the operator; `None`: it has one.
    pub fn set_signal_trouble(&self, trouble: Option<String>) {
        *self
            .signal_trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Why the channel has no signalling server, if that is known.
    pub fn signal_trouble(&self) -> Option<String> {
        let trouble = self.signal_trouble.lock();
        trouble.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The results counted for `kind`.
    pub fn origin(&self, kind: OriginKind) -> &OriginResults {
        match kind {
            OriginKind::Playlist => &self.origin_playlists,
            OriginKind::Segment => &self.origin_segments,
        }
    }
}

/// What the signalling server refuses (`reason` of `edgeseed_signal_server_refused_total`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// A socket: all places are taken.
    Sockets,
    /// A socket: its address has too many.
    Address,
    /// A socket: no WebSocket came about on it.
    Handshake,
    /// A socket: it entered no channel.
    Idle,
    /// A socket: it does not read what is sent to it.
    Slow,
    /// An `enter`: it does not have the token.
    Token,
    /// An `enter`: its socket is in too many channels.
    Entries,
    /// An `enter`: the server has too many channels.
    Channels,
    /// An `enter`: the channel has too many peers.
    Peers,
    /// A message: too long, or not of the protocol.
    Message,
    /// A message: too soon after the others of its socket; it is read later.
    Rate,
    /// A signal: nobody of that id is in the sender's channels.
    Unroutable,
    /// A signal: too much waits for its receiver already.
    Flood,
}

impl Refused {
    /// All of them in their order, as `/metrics` names them.
    pub const ALL: [(Self, &'static str); 13] = [
        (Self::Sockets, "sockets"),
        (Self::Address, "address"),
        (Self::Handshake, "handshake"),
        (Self::Idle, "idle"),
        (Self::Slow, "slow"),
        (Self::Token, "token"),
        (Self::Entries, "entries"),
        (Self::Channels, "channels"),
        (Self::Peers, "peers"),
        (Self::Message, "message"),
        (Self::Rate, "rate"),
        (Self::Unroutable, "unroutable"),
        (Self::Flood, "flood"),
    ];
}

/// The numbers of the embedded signalling server.
#[derive(Debug, Default)]
pub struct SignalServerMetrics {
    /// Sockets that are served, `edgeseed_signal_server_sockets`.
    pub sockets: Gauge,
    refused: [Counter; Refused::ALL.len()],
}

impl SignalServerMetrics {
    /// How often this was refused, `edgeseed_signal_server_refused_total`.
    pub fn refused(&self, what: Refused) -> &Counter {
        &self.refused[what as usize]
    }
}

/// All numbers of the daemon.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Per channel, by name. Fixed when the daemon is built.
    pub channels: BTreeMap<ChannelName, Arc<ChannelMetrics>>,
    /// Bytes of segments on disk, `edgeseed_store_bytes`.
    pub store_bytes: Gauge,
    /// Bytes of segments in memory because the disk fails, `edgeseed_store_memory_bytes`.
    pub store_memory_bytes: Gauge,
    /// Bytes written to the disk, by which its wear is judged, `edgeseed_store_written_bytes_total`.
    pub store_written_bytes: Counter,
    /// 1 unless the disk fails, `edgeseed_store_writable`.
    pub store_writable: Gauge,
    /// Open peers, `edgeseed_peers`.
    pub peers: Gauge,
    /// Offers that were seen but never followed by an ICE check: what a browser's Local Network
    /// Access looks like from here (field.md item 3).
    pub peers_unreached: Counter,
    /// Messages of peers that were refused: too long, too many, not of the protocol.
    pub refused_messages: Counter,
    /// The embedded signalling server; all zero without one.
    pub signal_server: Arc<SignalServerMetrics>,
}

impl Metrics {
    /// Numbers for these channels, all zero.
    pub fn new<'a>(channels: impl IntoIterator<Item = &'a ChannelName>) -> Self {
        let metrics = Self {
            channels: channels
                .into_iter()
                .map(|name| (name.clone(), Arc::default()))
                .collect(),
            ..Self::default()
        };
        metrics.store_writable.set(1);
        metrics
    }

    /// The numbers of one channel; of an unknown one, numbers that nobody reads.
    pub fn channel(&self, name: &ChannelName) -> Arc<ChannelMetrics> {
        self.channels.get(name).cloned().unwrap_or_default()
    }
}
