//! A live origin whose segments come byte by byte as a test lets them: it opens the tap, closes it,
//! and breaks the pipe.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::origin::{PLAYLIST, segment, uri};

/// What is written to a connection at a time.
const PIECE: usize = 4 << 10;

/// A running origin; gone when dropped.
pub(crate) struct Tap {
    url: String,
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<Result<Infallible, io::Error>>,
}

struct Shared {
    segment_size: usize,
    /// Whether it says how long a segment is.
    says_length: bool,
    segments: Mutex<BTreeMap<u64, Arc<Pipe>>>,
}

/// One listed segment.
struct Pipe {
    flow: watch::Sender<Flow>,
    bytes: Mutex<Bytes>,
    first_byte: Mutex<Option<Instant>>,
    requests: Mutex<Vec<Option<String>>>,
}

#[derive(Clone, Copy, Default)]
struct Flow {
    /// Bytes that may leave the origin.
    open: usize,
    /// How often it broke; what is under way then ends.
    breaks: u32,
    /// Asked again it answers 404.
    gone: bool,
}

impl Tap {
    pub(crate) async fn start(segment_size: usize, says_length: bool) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}{PLAYLIST}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            segment_size,
            says_length,
            segments: Mutex::default(),
        });
        let app = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&shared));
        let serve = async move {
            axum::serve(listener, app).await?;
            unreachable!("it serves for ever")
        };
        Self {
            url,
            shared,
            _task: AbortOnDropHandle::new(tokio::spawn(serve)),
        }
    }

    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// Lists a segment, of which nothing comes yet.
    pub(crate) fn list(&self, sequence: u64) {
        let pipe = Pipe {
            flow: watch::Sender::default(),
            bytes: Mutex::new(segment(sequence, self.shared.segment_size)),
            first_byte: Mutex::default(),
            requests: Mutex::default(),
        };
        self.shared.segments().insert(sequence, Arc::new(pipe));
    }

    pub(crate) fn segment(&self, sequence: u64) -> Bytes {
        self.pipe(sequence).bytes.lock().unwrap().clone()
    }

    /// Lets the first `bytes` of a segment come.
    pub(crate) fn open(&self, sequence: u64, bytes: usize) {
        let pipe = self.pipe(sequence);
        pipe.flow.send_modify(|flow| flow.open = bytes);
    }

    /// Breaks the connections that a segment comes over.
    pub(crate) fn break_off(&self, sequence: u64) {
        let pipe = self.pipe(sequence);
        pipe.flow.send_modify(|flow| flow.breaks += 1);
    }

    /// Breaks them, and has nothing of it any more.
    pub(crate) fn lose(&self, sequence: u64) {
        let pipe = self.pipe(sequence);
        pipe.flow.send_modify(|flow| flow.gone = true);
        self.break_off(sequence);
    }

    /// Other bytes under the same name from now on.
    pub(crate) fn change(&self, sequence: u64) {
        let other = segment(sequence + 1_000_000, self.shared.segment_size);
        *self.pipe(sequence).bytes.lock().unwrap() = other;
    }

    /// When the first byte of a segment left.
    pub(crate) fn first_byte(&self, sequence: u64) -> Option<Instant> {
        *self.pipe(sequence).first_byte.lock().unwrap()
    }

    /// The `Range` of each request for a segment.
    pub(crate) fn requests(&self, sequence: u64) -> Vec<Option<String>> {
        self.pipe(sequence).requests.lock().unwrap().clone()
    }

    fn pipe(&self, sequence: u64) -> Arc<Pipe> {
        let segments = self.shared.segments();
        Arc::clone(segments.get(&sequence).expect("it is listed"))
    }
}

impl Shared {
    fn segments(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Pipe>>> {
        self.segments.lock().unwrap()
    }

    fn playlist(&self) -> String {
        let segments = self.segments();
        let first = segments.keys().next().copied().unwrap_or_default();
        let head = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n";
        let mut text = format!("{head}#EXT-X-MEDIA-SEQUENCE:{first}\n");
        for sequence in segments.keys() {
            text += &format!("#EXTINF:2.000,\n{}\n", uri(*sequence));
        }
        text
    }
}

async fn answer(State(shared): State<Arc<Shared>>, asked: Uri, headers: HeaderMap) -> Response {
    if asked.path() == PLAYLIST {
        let kind = [(header::CONTENT_TYPE, "application/vnd.apple.mpegurl")];
        return (kind, shared.playlist()).into_response();
    }
    let named = |sequence: &u64| asked.to_string().ends_with(&uri(*sequence));
    let pipe = {
        let segments = shared.segments();
        let named = segments.iter().find(|(sequence, _)| named(sequence));
        named.map(|(_, pipe)| Arc::clone(pipe))
    };
    let Some(pipe) = pipe else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let range = headers
        .get(header::RANGE)
        .map(|range| range.to_str().unwrap());
    let requests = &pipe.requests;
    requests.lock().unwrap().push(range.map(str::to_owned));
    if pipe.flow.borrow().gone {
        return StatusCode::NOT_FOUND.into_response();
    }
    let bytes = pipe.bytes.lock().unwrap().clone();
    let tag = format!("\"{:08x}\"", crc32c::crc32c(&bytes));
    let same = headers
        .get(header::IF_RANGE)
        .is_some_and(|held| *held == *tag);
    let start = range.filter(|_| same).map(|range| {
        let start = range.strip_prefix("bytes=").unwrap().strip_suffix('-');
        start.unwrap().parse::<usize>().unwrap()
    });
    let (start, length) = (start.unwrap_or(0), bytes.len());
    let mut response = Body::from_stream(flow(pipe, bytes, start)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, "video/mp2t".parse().unwrap());
    headers.insert(header::ETAG, tag.parse().unwrap());
    if shared.says_length {
        headers.insert(header::CONTENT_LENGTH, (length - start).into());
    }
    if start > 0 {
        let part = format!("bytes {start}-{}/{length}", length - 1);
        headers.insert(header::CONTENT_RANGE, part.parse().unwrap());
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    response
}

/// The bytes from `start`, as far as the tap is open.
fn flow(pipe: Arc<Pipe>, bytes: Bytes, start: usize) -> impl Stream<Item = io::Result<Bytes>> {
    let flow = pipe.flow.subscribe();
    let breaks = flow.borrow().breaks;
    let state = (pipe, bytes, start, flow);
    stream::unfold(state, move |(pipe, bytes, at, mut flow)| async move {
        if at == bytes.len() {
            return None;
        }
        let now = flow.wait_for(|flow| flow.open > at || flow.breaks != breaks);
        let now = *now.await.unwrap();
        if now.breaks != breaks {
            let end = bytes.len();
            return Some((
                Err(io::Error::other("broken off")),
                (pipe, bytes, end, flow),
            ));
        }
        let end = now.open.min(at + PIECE).min(bytes.len());
        pipe.first_byte
            .lock()
            .unwrap()
            .get_or_insert_with(Instant::now);
        Some((Ok(bytes.slice(at..end)), (pipe, bytes, end, flow)))
    })
}
