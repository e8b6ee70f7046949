//! What a box takes of an origin that is slow, or that it must not use up: the newest segments come
//! first, few at a time, and no faster than it is told.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::large_futures
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use support::daemon::{Daemon, PATIENCE, Setup};
use support::eventually;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

/// Segments in each list, and the number of the newest at the start.
const WINDOW: u64 = 6;
const FIRST: u64 = 100;

/// Bytes of a segment, and of what is sent of it at once.
const SIZE: usize = 500_000;
const PIECE: usize = 10_000;

/// So much in so long comes of a segment until it is let go: what is silent for a second is given up,
/// and what brings less than 4 kB/s.
const TRICKLE: Duration = Duration::from_millis(200);
const DROP: usize = 2000;

/// Lists segments when it is told to, and sends them in drops until it is let go.
struct Origin {
    base: String,
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

struct Shared {
    /// Of each channel; 0: its playlist is a media playlist.
    renditions: u64,
    newest: AtomicU64,
    /// Its playlists are complete.
    ended: AtomicBool,
    flows: watch::Sender<bool>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// How often each playlist was loaded.
    playlists: BTreeMap<String, u64>,
    /// Segments in the order in which they were asked for.
    asked: Vec<String>,
    open: usize,
    most_open: usize,
    sent: usize,
}

impl Origin {
    async fn start(renditions: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            renditions,
            newest: AtomicU64::new(FIRST),
            ended: AtomicBool::new(false),
            flows: watch::Sender::new(false),
            seen: Mutex::default(),
        });
        let app = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&shared));
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            base,
            shared,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// A box with so many channels, of which each playlist is one of its own.
    async fn serve(&self, channels: usize, keys: &str) -> Daemon {
        let channels = (0..channels).map(|number| {
            let url = format!("{}/{number}/index.m3u8", self.base);
            format!("[[channel]]\nname = \"c{number}\"\nurl = \"{url}\"\n{keys}")
        });
        let channels: String = channels.collect();
        let more = format!("[peer]\nudp-port = 0\n{channels}");
        Daemon::start_ailing(Setup::default().with(&more)).await
    }

    /// Lists the next one, and waits until the box has seen that and done about it what it will.
    async fn list_next(&self) {
        self.shared.newest.fetch_add(1, Ordering::Relaxed);
        let before = self.seen(|seen| seen.playlists.clone());
        eventually("everything is loaded twice", PATIENCE, async || {
            let now = self.seen(|seen| seen.playlists.clone());
            let mut media = now
                .iter()
                .filter(|(name, _)| !self.shared.is_multivariant(name));
            let twice = media.all(|(name, times)| *times >= before.get(name).unwrap_or(&0) + 2);
            twice.then_some(())
        })
        .await;
    }

    fn seen<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.shared.seen.lock().unwrap())
    }

    async fn until_asked(&self, count: usize) -> Vec<String> {
        eventually(
            &format!("{count} segments are asked for"),
            PATIENCE,
            async || self.seen(|seen| (seen.asked.len() >= count).then(|| seen.asked.clone())),
        )
        .await
    }

    fn let_go(&self) {
        self.shared.flows.send_replace(true);
    }
}

/// A body on its way.
struct Sending {
    shared: Arc<Shared>,
    flows: watch::Receiver<bool>,
    left: usize,
}

impl Sending {
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        let flows = timeout(TRICKLE, self.flows.wait_for(|flows| *flows))
            .await
            .is_ok();
        let piece = if flows { PIECE } else { DROP };
        let piece = piece.min(self.left);
        self.left -= piece;
        self.shared.seen.lock().unwrap().sent += piece;
        (piece > 0).then(|| (Ok(vec![7; piece].into()), self))
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.shared.seen.lock().unwrap().open -= 1;
    }
}

async fn answer(State(shared): State<Arc<Shared>>, asked: Uri) -> Response {
    let name = asked.path().to_owned();
    let mut seen = shared.seen.lock().unwrap();
    if name.ends_with(".m3u8") {
        *seen.playlists.entry(name.clone()).or_default() += 1;
        return shared.playlist(&name).into_response();
    }
    seen.asked.push(name);
    seen.open += 1;
    seen.most_open = seen.most_open.max(seen.open);
    drop(seen);
    let flows = shared.flows.subscribe();
    let sending = Sending {
        shared,
        flows,
        left: SIZE,
    };
    let response = Response::builder().header(header::CONTENT_LENGTH, SIZE);
    let body = Body::from_stream(stream::unfold(sending, Sending::next));
    response.body(body).unwrap()
}

impl Shared {
    fn is_multivariant(&self, name: &str) -> bool {
        self.renditions > 0 && name.ends_with("index.m3u8")
    }

    fn playlist(&self, name: &str) -> String {
        if self.is_multivariant(name) {
            let variants = (0..self.renditions).map(|number| {
                format!(
                    "#EXT-X-STREAM-INF:BANDWIDTH={}\n{number}.m3u8\n",
                    number + 1
                )
            });
            return format!("#EXTM3U\n{}", variants.collect::<String>());
        }
        let newest = self.newest.load(Ordering::Relaxed);
        let (first, prefix) = (newest + 1 - WINDOW, name.trim_end_matches(".m3u8"));
        let segments = (first..=newest).map(|number| format!("#EXTINF:1,\n{prefix}_{number}.ts\n"));
        let end = match self.ended.load(Ordering::Relaxed) {
            true => "#EXT-X-ENDLIST\n",
            false => "",
        };
        format!(
            "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:{first}\n{}{end}",
            segments.collect::<String>()
        )
    }
}

/// The numbers of segments that were asked for of one playlist, in the order in which they first were:
/// a busy machine looks like a connection that stands still, and another one is tried.
fn numbers(asked: &[String], playlist: &str) -> Vec<u64> {
    let mut seen = BTreeSet::new();
    let numbers = asked.iter().filter_map(|name| {
        let rest = name.strip_prefix(playlist)?.strip_prefix('_')?;
        rest.strip_suffix(".ts")?.parse().ok()
    });
    numbers.filter(|number| seen.insert(*number)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_nearest_to_the_live_edge_is_there_first_and_overtakes_the_rest() {
    let origin = Origin::start(0).await;
    let daemon = origin.serve(1, "").await;
    origin.until_asked(1).await;
    // As long as the newest is on its way, the window's tail waits, and what is newer does not.
    origin.list_next().await;
    origin.list_next().await;
    assert_eq!(
        numbers(&origin.seen(|seen| seen.asked.clone()), "/0/index"),
        [100, 101, 102]
    );
    // Three at a time.
    origin.list_next().await;
    assert_eq!(origin.seen(|seen| seen.open), 3);
    origin.let_go();
    let asked = origin.until_asked(9).await;
    assert_eq!(
        numbers(&asked, "/0/index"),
        [100, 101, 102, 103, 99, 98, 97, 96, 95]
    );
    daemon
        .until_metric("edgeseed_store_segments{channel=\"c0\"}", 9.0)
        .await;
    assert_eq!(origin.seen(|seen| seen.most_open), 3);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_is_fetched_from_its_beginning_also_where_bandwidth_is_scarce() {
    let origin = Origin::start(0).await;
    origin.shared.ended.store(true, Ordering::Relaxed);
    origin.let_go();
    let daemon = origin.serve(1, "max-bandwidth = \"20Mbit/s\"\n").await;
    daemon
        .until_metric("edgeseed_store_segments{channel=\"c0\"}", WINDOW as f64)
        .await;
    let asked = origin.seen(|seen| seen.asked.clone());
    assert_eq!(numbers(&asked, "/0/index"), [95, 96, 97, 98, 99, 100]);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_that_appear_at_once_the_newest_is_first() {
    let origin = Origin::start(0).await;
    origin.let_go();
    let daemon = origin.serve(1, "").await;
    let stored = "edgeseed_store_segments{channel=\"c0\"}";
    daemon.until_metric(stored, WINDOW as f64).await;
    let before = origin.seen(|seen| seen.asked.len());
    origin.shared.newest.fetch_add(3, Ordering::Relaxed);
    daemon.until_metric(stored, (WINDOW + 3) as f64).await;
    let asked = origin.seen(|seen| seen.asked[before..].to_vec());
    assert_eq!(numbers(&asked, "/0/index"), [103, 102, 101]);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_renditions_of_a_channel_together_have_six_downloads_at_a_time_or_two_each() {
    for (renditions, at_once) in [(3, 6), (8, 16)] {
        let origin = Origin::start(renditions).await;
        let daemon = origin.serve(1, "variants = \"all\"\n").await;
        origin.until_asked(renditions.try_into().unwrap()).await;
        for _ in 0..3 {
            origin.list_next().await;
        }
        assert_eq!(
            origin.seen(|seen| (seen.open, seen.most_open)),
            (at_once, at_once)
        );
        origin.let_go();
        let all = renditions * 9;
        let stored = "edgeseed_store_segments{channel=\"c0\"}";
        daemon.until_metric(stored, all as f64).await;
        let (asked, most) = origin.seen(|seen| (seen.asked.len() as u64, seen.most_open));
        assert_eq!((asked, most), (all, at_once));
        daemon.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_channels_that_start_at_once_ask_for_one_segment_each() {
    const CHANNELS: usize = 20;
    let origin = Origin::start(0).await;
    let daemon = origin.serve(CHANNELS, "").await;
    origin.until_asked(CHANNELS).await;
    origin.let_go();
    let all = CHANNELS * usize::try_from(WINDOW).unwrap();
    let asked = origin.until_asked(all).await;
    for channel in 0..CHANNELS {
        let numbers = numbers(&asked, &format!("/{channel}/index"));
        assert_eq!(numbers, [100, 99, 98, 97, 96, 95], "channel {channel}");
    }
    assert_eq!(origin.seen(|seen| seen.most_open), CHANNELS);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_loaded_than_max_bandwidth() {
    const BYTES_PER_SECOND: usize = 500_000;
    // What the box may take in advance, and what lies in the buffers of the connection.
    const AHEAD: usize = 1_200_000;
    let origin = Origin::start(0).await;
    origin.let_go();
    let start = Instant::now();
    let daemon = origin.serve(1, "max-bandwidth = \"4Mbit/s\"\n").await;
    let all = usize::try_from(WINDOW).unwrap() * SIZE;
    eventually("all of it is sent", PATIENCE, async || {
        // A machine that is slow makes this no less true.
        let sent = origin.seen(|seen| seen.sent);
        let earned = start.elapsed().as_secs_f64() * BYTES_PER_SECOND as f64;
        assert!(
            sent as f64 <= earned + AHEAD as f64,
            "{sent} bytes, {earned:.0} earned"
        );
        (sent >= all).then_some(())
    })
    .await;
    daemon.stop().await;
}
