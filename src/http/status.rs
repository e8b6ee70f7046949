//! `/api/status` and `/healthz`: the state of the box in one value.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::oneshot;

use super::{Sources, metrics};
use crate::fetch::{ChannelState, ChannelStatus};
use crate::ids::{ChannelId, ChannelName, MediaSequence, without_secrets};
use crate::peer::{Command, PeerStatus};
use crate::store::Ambiguous;

/// How long the peers may take to list themselves; they answer between two datagrams.
const LIST_TIMEOUT: Duration = Duration::from_secs(1);

/// The body of `/api/status`.
#[derive(Serialize)]
pub(super) struct Status {
    version: &'static str,
    uptime_seconds: u64,
    healthy: bool,
    problems: Vec<String>,
    memory: Memory,
    store: StoreSize,
    channels: Vec<Channel>,
    peers: Vec<PeerStatus>,
}

#[derive(Serialize)]
struct Memory {
    resident_bytes: Option<u64>,
    buffer_bytes: usize,
    max_buffer_bytes: usize,
}

#[derive(Serialize)]
struct StoreSize {
    bytes: i64,
    max_bytes: u64,
    /// In memory, because the disk fails.
    memory_bytes: u64,
    /// Since the start.
    written_bytes: u64,
}

#[derive(Serialize)]
struct Channel {
    name: ChannelName,
    id: ChannelId,
    url: String,
    prefetch: ChannelStatus,
    signal_connected: bool,
    signal_trouble: Option<String>,
    segments: usize,
    bytes: u64,
    newest: Option<MediaSequence>,
    ambiguous: Option<Ambiguous>,
    lag_seconds: f64,
    origin_bytes: u64,
    served_p2p_bytes: u64,
    served_http_bytes: u64,
    requests_hit: u64,
    requests_held: u64,
    requests_lack: u64,
}

/// What keeps the box from doing its work, one line each; empty when all is well.
pub(super) fn problems(sources: &Sources) -> Vec<String> {
    let mut problems = Vec::new();
    problems.extend(sources.store.problem().map(|why| format!("store: {why}")));
    for channel in &sources.channels {
        let name = &channel.config.name;
        if let Some(problem) = problem(&channel.status.borrow()) {
            problems.push(format!("channel {name}: {problem}"));
        }
        let numbers = sources.metrics.channel(name);
        if !numbers.signal_connected.load(Ordering::Relaxed) {
            problems.push(match numbers.signal_trouble() {
                Some(why) => format!("channel {name}: no signalling server: {why}"),
                None => format!("channel {name}: no signalling server"),
            });
        }
    }
    problems
}

fn problem(status: &ChannelStatus) -> Option<String> {
    match (&status.failure, status.state) {
        (Some(failure), _) => Some(failure.error.clone()),
        (None, ChannelState::Starting) => Some("no playlist has been loaded yet".into()),
        (None, _) => None,
    }
}

/// The state of everything.
pub(super) async fn status(sources: &Sources) -> Status {
    let problems = problems(sources);
    Status {
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: sources.started.elapsed().as_secs(),
        healthy: problems.is_empty(),
        problems,
        memory: Memory {
            resident_bytes: metrics::resident_bytes(),
            buffer_bytes: sources.budget.used(),
            max_buffer_bytes: sources.budget.total(),
        },
        store: StoreSize {
            bytes: sources.metrics.store_bytes.get(),
            max_bytes: sources.store_max,
            memory_bytes: sources.store.memory_bytes(),
            written_bytes: sources.metrics.store_written_bytes.get(),
        },
        channels: sources
            .channels
            .iter()
            .map(|c| channel(sources, c))
            .collect(),
        peers: peers(sources).await,
    }
}

fn channel(sources: &Sources, channel: &super::Channel) -> Channel {
    let config = &channel.config;
    let numbers = sources.metrics.channel(&config.name);
    let stored = sources.store.summary(&config.name);
    Channel {
        name: config.name.clone(),
        id: config.id.clone(),
        url: without_secrets(&config.url),
        prefetch: channel.status.borrow().clone(),
        signal_connected: numbers.signal_connected.load(Ordering::Relaxed),
        signal_trouble: numbers.signal_trouble(),
        segments: stored.segments,
        bytes: stored.bytes,
        newest: stored.newest,
        ambiguous: sources.store.ambiguous(&config.name),
        lag_seconds: numbers.live_edge_lag_ms.get() as f64 / 1000.0,
        origin_bytes: numbers.origin_bytes.get(),
        served_p2p_bytes: numbers.served_p2p_bytes.get(),
        served_http_bytes: numbers.served_http_bytes.get(),
        requests_hit: numbers.requests_hit.get(),
        requests_held: numbers.requests_held.get(),
        requests_lack: numbers.requests_lack.get(),
    }
}

async fn peers(sources: &Sources) -> Vec<PeerStatus> {
    let (reply, list) = oneshot::channel();
    if sources.peers.send(Command::List(reply)).await.is_err() {
        return Vec::new();
    }
    match tokio::time::timeout(LIST_TIMEOUT, list).await {
        Ok(Ok(peers)) => peers,
        _ => Vec::new(),
    }
}
