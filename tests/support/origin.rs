//! A live HLS origin on the loopback interface. The bytes of a segment follow from its sequence
//! number, and every request is counted.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// The sequence number of the newest segment at the start.
const FIRST: u64 = 100;

/// The playlist's path.
pub(crate) const PLAYLIST: &str = "/live/index.m3u8";

/// What the live channel is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Live {
    /// Seconds of media in a segment, and between two of them.
    pub(crate) segment_duration: Duration,
    /// Segments in the playlist.
    pub(crate) window: u64,
    /// Bytes of a segment.
    pub(crate) segment_size: usize,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            segment_duration: Duration::from_secs(1),
            window: 4,
            segment_size: 150_000,
        }
    }
}

/// A running origin; gone when dropped.
pub(crate) struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    live: Live,
    /// What it lists whatever it has, if it was told so.
    fixed: Option<String>,
    started: Instant,
    requests: Mutex<BTreeMap<String, u64>>,
}

impl Origin {
    pub(crate) async fn start(live: Live) -> Self {
        Self::start_listing(live, None).await
    }

    /// Has this playlist, if given, whatever its segments are.
    pub(crate) async fn start_listing(live: Live, fixed: Option<String>) -> Self {
        let listener = TcpListener::bind((super::here(), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            live,
            fixed,
            started: Instant::now(),
            requests: Mutex::default(),
        });
        let app = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&shared));
        let task = tokio::spawn(async move {
            axum::serve(listener, app).await.unwrap();
        });
        Self {
            address,
            shared,
            task,
        }
    }

    /// The playlist's URL, which is also the channel's id.
    pub(crate) fn url(&self) -> String {
        format!("http://{}{PLAYLIST}", self.address)
    }

    /// The sequence number of the newest segment.
    pub(crate) fn newest(&self) -> u64 {
        self.shared.newest()
    }

    /// The sequence numbers in the playlist.
    pub(crate) fn listed(&self) -> RangeInclusive<u64> {
        self.shared.listed()
    }

    /// When the segment is, was or will be listed for the first time.
    pub(crate) fn listed_at(&self, sequence: u64) -> Instant {
        let later = u32::try_from(sequence.saturating_sub(FIRST)).unwrap();
        self.shared.started + self.shared.live.segment_duration * later
    }

    /// The bytes of a segment.
    pub(crate) fn segment(&self, sequence: u64) -> Bytes {
        segment(sequence, self.shared.live.segment_size)
    }

    /// How often the segment was asked for.
    pub(crate) fn requests_of(&self, sequence: u64) -> u64 {
        let path = format!("/live/{}", uri(sequence));
        self.shared
            .requests
            .lock()
            .unwrap()
            .get(&path)
            .copied()
            .unwrap_or(0)
    }

    /// Every path that was asked for, query included, and how often.
    pub(crate) fn requests(&self) -> BTreeMap<String, u64> {
        self.shared.requests.lock().unwrap().clone()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn newest(&self) -> u64 {
        let passed = self.started.elapsed().as_nanos() / self.live.segment_duration.as_nanos();
        FIRST + u64::try_from(passed).unwrap()
    }

    fn listed(&self) -> RangeInclusive<u64> {
        let newest = self.newest();
        newest + 1 - self.live.window..=newest
    }

    fn playlist(&self) -> String {
        let seconds = self.live.segment_duration.as_secs_f64();
        let listed = self.listed();
        let mut text = format!(
            "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:{}\n#EXT-X-MEDIA-SEQUENCE:{}\n",
            seconds.ceil(),
            listed.start()
        );
        for sequence in listed {
            text += &format!("#EXTINF:{seconds:.3},\n{}\n", uri(sequence));
        }
        text
    }
}

/// A segment's URI as the playlist writes it: with a token, as CDNs have them.
pub(crate) fn uri(sequence: u64) -> String {
    format!("seg_{sequence}.ts?token=a%2Fb&x=1")
}

/// Bytes that no other segment has (SplitMix64 from the sequence number), each 188th of them the
/// sync byte of MPEG-TS.
pub(crate) fn segment(sequence: u64, size: usize) -> Bytes {
    let mut state = sequence;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    bytes.truncate(size);
    bytes.iter_mut().step_by(188).for_each(|byte| *byte = 0x47);
    bytes.into()
}

async fn answer(State(shared): State<Arc<Shared>>, asked: Uri) -> Response {
    let path = asked
        .path_and_query()
        .map_or_else(String::new, ToString::to_string);
    *shared.requests.lock().unwrap().entry(path).or_default() += 1;
    let is_playlist = asked.path() == PLAYLIST;
    let sequence = asked
        .path()
        .strip_prefix("/live/seg_")
        .and_then(|rest| rest.strip_suffix(".ts"))
        .and_then(|number| number.parse().ok())
        .filter(|sequence| *sequence <= shared.newest());
    match sequence {
        _ if is_playlist => {
            let playlist = shared.fixed.clone();
            let playlist = playlist.unwrap_or_else(|| shared.playlist());
            respond(playlist, "application/vnd.apple.mpegurl")
        }
        Some(sequence) => respond(segment(sequence, shared.live.segment_size), "video/mp2t"),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn respond(body: impl Into<Body>, content_type: &'static str) -> Response {
    let mut response = Response::new(body.into());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_ORIGIN,
        HeaderValue::from_static("*"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
