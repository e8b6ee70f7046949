//! From a real origin over HTTP to a segment on the disk, and what goes wrong on the way.
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests fail the test
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, Response, StatusCode, header};
use edgeseed::budget::Budget;
use edgeseed::config::{ChannelConfig, Matching, StoreConfig, Variants};
use edgeseed::fetch::{self, ChannelState, ChannelStatus, OriginClient};
use edgeseed::ids::{ChannelName, MediaSequence};
use edgeseed::metrics::Metrics;
use edgeseed::sibling::Siblings;
use edgeseed::store::{Found, Reader, Store, StoreError};
use futures_util::{StreamExt, stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

const PATIENCE: Duration = Duration::from_secs(20);

/// What the origin answers to one path.
#[derive(Clone)]
enum Answer {
    Text(String),
    Bytes(Vec<u8>),
    Status(u16),
    /// Promises the length of these bytes, sends half of them, and breaks off.
    Half(Vec<u8>),
    Html,
    Redirect(String),
    /// With a validator: 304 to whoever has it.
    Tagged(String),
}

#[derive(Clone, Default)]
struct Origin {
    answers: Arc<Mutex<HashMap<String, Vec<Answer>>>>,
    asked: Arc<Mutex<BTreeMap<String, usize>>>,
    not_modified: Arc<Mutex<usize>>,
}

impl Origin {
    /// Serves on loopback; returns the address.
    async fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .fallback(Self::answer)
            .with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}")
    }

    /// Answers from now on; of several answers each is given once, the last for ever.
    fn set(&self, path: &str, answers: &[Answer]) {
        let mut map = self.answers.lock().unwrap();
        map.insert(path.into(), answers.to_vec());
    }

    fn asked(&self, path: &str) -> usize {
        self.asked.lock().unwrap().get(path).copied().unwrap_or(0)
    }

    async fn answer(State(origin): State<Self>, request: Request<Body>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        *origin
            .asked
            .lock()
            .unwrap()
            .entry(path.clone())
            .or_default() += 1;
        let answer = {
            let mut answers = origin.answers.lock().unwrap();
            match answers.get_mut(&path) {
                Some(list) if list.len() > 1 => list.remove(0),
                Some(list) => list[0].clone(),
                None => Answer::Status(404),
            }
        };
        let respond = Response::builder();
        match answer {
            Answer::Text(text) => Response::new(text.into()),
            Answer::Bytes(bytes) => Response::new(bytes.into()),
            Answer::Status(code) => respond.status(code).body(Body::empty()).unwrap(),
            Answer::Html => respond
                .header(header::CONTENT_TYPE, "text/html")
                .body("<html>sign in</html>".into())
                .unwrap(),
            Answer::Redirect(to) => respond
                .status(StatusCode::FOUND)
                .header(header::LOCATION, to)
                .body(Body::empty())
                .unwrap(),
            Answer::Half(bytes) => {
                let half = bytes[..bytes.len() / 2].to_vec();
                let broken = stream::once(async {
                    // Lets the first half go out.
                    tokio::task::yield_now().await;
                    Err(std::io::Error::other("pulled the plug"))
                });
                let body = stream::once(async { Ok(half) }).chain(broken);
                respond
                    .header(header::CONTENT_LENGTH, bytes.len())
                    .body(Body::from_stream(body))
                    .unwrap()
            }
            Answer::Tagged(text) => {
                if request.headers().contains_key(header::IF_NONE_MATCH) {
                    *origin.not_modified.lock().unwrap() += 1;
                    return respond.status(304).body(Body::empty()).unwrap();
                }
                respond
                    .header(header::ETAG, "\"v1\"")
                    .body(text.into())
                    .unwrap()
            }
        }
    }
}

/// The box: everything between the origin and the disk.
struct Pipeline {
    store: Store,
    metrics: Arc<Metrics>,
    status: watch::Receiver<ChannelStatus>,
    stop: DropGuard,
    task: tokio::task::JoinHandle<()>,
}

fn news() -> ChannelName {
    "news".into()
}

fn channel(url: &str) -> ChannelConfig {
    ChannelConfig {
        url: url.parse().unwrap(),
        name: news(),
        id: url.into(),
        variants: Variants::Highest,
        window: Duration::from_secs(60),
        max_bandwidth: None,
        matching: Matching::Exact,
    }
}

fn open(dir: &Path, max_size: u64, matching: Matching) -> (Store, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new([&news()]));
    let config = StoreConfig {
        dir: dir.into(),
        max_size,
        min_free: 0,
    };
    let budget = Budget::new(4 << 20);
    let store = Store::open(config, [(news(), matching)], Arc::clone(&metrics), budget).unwrap();
    (store, metrics)
}

fn open_plain(config: StoreConfig) -> Result<Store, StoreError> {
    let channels = [(news(), Matching::Exact)];
    Store::open(config, channels, Arc::default(), Budget::new(4 << 20))
}

impl Pipeline {
    fn start(url: &str, dir: &Path) -> Self {
        Self::start_with(url, dir, 1 << 30, Variants::Highest)
    }

    fn start_with(url: &str, dir: &Path, max_size: u64, variants: Variants) -> Self {
        Self::start_channel(
            dir,
            max_size,
            ChannelConfig {
                variants,
                ..channel(url)
            },
        )
    }

    fn start_channel(dir: &Path, max_size: u64, channel: ChannelConfig) -> Self {
        let (store, metrics) = open(dir, max_size, channel.matching);
        let (sender, status) = watch::channel(ChannelStatus::default());
        let stop = CancellationToken::new();
        let task = tokio::spawn(fetch::run(
            channel,
            fetch::Parts {
                client: OriginClient::new().unwrap(),
                store: store.clone(),
                budget: Budget::new(4 << 20),
                siblings: Siblings::new().0,
                metrics: metrics.channel(&news()),
                status: sender,
            },
            stop.clone(),
        ));
        Self {
            store,
            metrics,
            status,
            stop: stop.drop_guard(),
            task,
        }
    }

    async fn stored(&self, uri: &str, sequence: u64) -> Reader {
        let found =
            self.until(
                |store| match store.find(&news(), uri, Some(MediaSequence(sequence))) {
                    Found::Ready(reader) => Some(reader),
                    _ => None,
                },
            );
        found.await
    }

    /// Waits for the store to change until `look` sees what it looks for.
    async fn until<T>(&self, look: impl Fn(&Store) -> Option<T>) -> T {
        let mut changes = self.store.changes();
        let seen = async {
            loop {
                changes.borrow_and_update();
                if let Some(seen) = look(&self.store) {
                    return seen;
                }
                changes.changed().await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, seen)
            .await
            .expect("not in time")
    }

    async fn status(&mut self, wanted: impl FnMut(&ChannelStatus) -> bool) -> ChannelStatus {
        let seen = self.status.wait_for(wanted);
        let seen = tokio::time::timeout(PATIENCE, seen).await;
        seen.expect("not in time").unwrap().clone()
    }

    async fn failure(&mut self) -> String {
        let status = self.status(|s| s.state == ChannelState::Failing).await;
        status.failure.unwrap().error
    }

    async fn stop(self) {
        drop(self.stop);
        self.task.await.unwrap();
    }
}

fn playlist(first: u64, count: u64) -> String {
    let mut text = format!("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:{first}\n");
    for number in first..first + count {
        text += &format!("#EXTINF:1,\nseg_{number}.ts?token=a%2Fb\n");
    }
    text
}

fn named(number: u64) -> String {
    format!("seg_{number}.ts?token=a%2Fb")
}

/// Bytes that differ by segment and by place.
fn media(number: u64) -> Vec<u8> {
    let length = 300_000 + number as usize;
    (0..length)
        .map(|i| (i as u64 * 31 + number) as u8)
        .collect()
}

fn set_segments(origin: &Origin, numbers: std::ops::Range<u64>) {
    for number in numbers {
        origin.set(
            &format!("/news/seg_{number}.ts"),
            &[Answer::Bytes(media(number))],
        );
    }
}

fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir.join("news")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect()
}

#[tokio::test]
async fn every_segment_of_the_window_is_fetched_once_and_served_as_it_was() {
    let (origin, dir) = (Origin::default(), tempfile::tempdir().unwrap());
    set_segments(&origin, 10..16);
    origin.set(
        "/news/index.m3u8",
        &[
            Answer::Text(playlist(10, 3)),
            Answer::Text(playlist(11, 3)),
            Answer::Text(playlist(13, 3)),
        ],
    );
    let base = origin.serve().await;
    let mut pipeline = Pipeline::start(&format!("{base}/news/index.m3u8"), dir.path());
    for number in 10..16 {
        let segment = pipeline.stored(&named(number), number).await;
        assert_eq!(segment.read(0..usize::MAX).unwrap(), media(number));
        assert_eq!(segment.segment().unwrap().uri().as_str(), named(number));
    }
    let status = pipeline.status(|s| s.state == ChannelState::Live).await;
    assert_eq!(status.playlists[0].target_duration, Some(1.0));
    for number in 10..16 {
        assert_eq!(origin.asked(&format!("/news/seg_{number}.ts")), 1);
    }
    let numbers = pipeline.metrics.channel(&news());
    // A segment is found a moment before it is counted.
    let counted = async {
        while numbers.origin_segments.ok.get() < 6 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, counted).await.unwrap();
    assert_eq!(numbers.origin_segments.error.get(), 0);
    assert_eq!(numbers.store_segments.get(), 6);
    let bodies: u64 = (10..16).map(|n| media(n).len() as u64).sum();
    assert!(numbers.origin_bytes.get() > bodies);
    assert_eq!(pipeline.store.newest(&news()), Some(MediaSequence(15)));
    let ahead = pipeline
        .store
        .find(&news(), "seg_16.ts", Some(MediaSequence(16)));
    assert!(matches!(ahead, Found::Coming), "{ahead:?}");
    pipeline.stop().await;
}

#[tokio::test]
async fn a_playlist_that_cannot_be_used_is_explained_and_recovery_is_noticed() {
    let cut = Answer::Half(playlist(1, 3).into_bytes());
    let cases = [
        (Answer::Html, "begins with \"<html>"),
        (Answer::Status(404), "404"),
        (Answer::Status(500), "500"),
        (Answer::Bytes(vec![b'#'; 10 << 20]), "larger than"),
        (Answer::Redirect("/news/index.m3u8".into()), "redirects"),
        (cut, "broke off"),
    ];
    for (answer, expected) in cases {
        let (origin, dir) = (Origin::default(), tempfile::tempdir().unwrap());
        set_segments(&origin, 1..4);
        origin.set("/news/index.m3u8", &[answer]);
        let base = origin.serve().await;
        let mut pipeline = Pipeline::start(&format!("{base}/news/index.m3u8"), dir.path());
        let error = pipeline.failure().await;
        assert!(error.contains(expected), "{error:?} has no {expected:?}");
        origin.set("/news/index.m3u8", &[Answer::Text(playlist(1, 3))]);
        pipeline.status(|s| s.state == ChannelState::Live).await;
        pipeline.stored(&named(3), 3).await;
        pipeline.stop().await;
    }
}

#[tokio::test]
async fn a_channel_that_fails_later_keeps_what_it_has_and_goes_on() {
    let (origin, dir) = (Origin::default(), tempfile::tempdir().unwrap());
    set_segments(&origin, 1..6);
    origin.set("/news/index.m3u8", &[Answer::Text(playlist(1, 3))]);
    let base = origin.serve().await;
    let mut pipeline = Pipeline::start(&format!("{base}/news/index.m3u8"), dir.path());
    pipeline.stored(&named(3), 3).await;
    pipeline.stored(&named(1), 1).await;
    origin.set("/news/index.m3u8", &[Answer::Html]);
    pipeline.failure().await;
    pipeline.stored(&named(1), 1).await;
    origin.set("/news/index.m3u8", &[Answer::Text(playlist(3, 3))]);
    let status = pipeline.status(|s| s.state == ChannelState::Live).await;
    assert!(status.failure.is_none());
    pipeline.stored(&named(5), 5).await;
    assert_eq!(origin.asked("/news/seg_3.ts"), 1);
    pipeline.stop().await;
}

#[tokio::test]
async fn a_refused_connection_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let dir = tempfile::tempdir().unwrap();
    let mut pipeline = Pipeline::start(&format!("http://{address}/i.m3u8"), dir.path());
    let error = pipeline.failure().await;
    assert!(error.contains("refuses connections"), "{error}");
    pipeline.stop().await;
}

#[tokio::test]
async fn a_segment_that_breaks_off_is_taken_up_again_and_never_served_short() {
    let (origin, dir) = (Origin::default(), tempfile::tempdir().unwrap());
    origin.set(
        "/news/seg_1.ts",
        &[
            Answer::Half(media(1)),
            Answer::Html,
            Answer::Bytes(media(1)),
        ],
    );
    origin.set("/news/index.m3u8", &[Answer::Text(playlist(1, 1))]);
    let base = origin.serve().await;
    let pipeline = Pipeline::start(&format!("{base}/news/index.m3u8"), dir.path());
    let segment = pipeline.stored(&named(1), 1).await;
    assert_eq!(segment.read(0..usize::MAX).unwrap(), media(1));
    assert_eq!(origin.asked("/news/seg_1.ts"), 3);
    let numbers = pipeline.metrics.channel(&news());
    assert_eq!(
        numbers.origin_segments.error.get(),
        0,
        "one fetch, in the end whole"
    );
    assert!(files(dir.path(), "part").is_empty());
    pipeline.stop().await;
}

#[tokio::test]
async fn a_segment_that_never_comes_is_given_up_and_the_others_are_not_held_up() {
    let (origin, dir) = (Origin::default(), tempfile::tempdir().unwrap());
    set_segments(&origin, 1..3);
    origin.set("/news/seg_3.ts", &[Answer::Status(404)]);
    origin.set("/news/index.m3u8", &[Answer::Text(playlist(1, 3))]);
    let base = origin.serve().await;
    let pipeline = Pipeline::start(&format!("{base}/news/index.m3u8"), dir.path());
    let find = |store: &Store| store.find(&news(), &named(3), Some(MediaSequence(3)));
    pipeline
        .until(|store| matches!(find(store), Found::Coming).then_some(()))
        .await;
    pipeline.stored(&named(1), 1).await;
    pipeline.stored(&named(2), 2).await;
    pipeline
        .until(|store| matches!(find(store), Found::Absent).then_some(()))
        .await;
    assert_eq!(origin.asked("/news/seg_3.ts"), 5);
    pipeline.stop().await;
}

/// An origin of the old kind: the end of the connection is the end of the body.
#[tokio::test]
async fn half_a_uri_at_the_end_of_an_open_ended_answer_is_not_fetched() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = socket.read(&mut request).await.unwrap();
            let line = String::from_utf8_lossy(&request[..length]);
            let path = line.split(' ').nth(1).unwrap().to_owned();
            let body = match path.ends_with(".m3u8") {
                true => {
                    "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\na.ts\n#EXTINF:1,\nb.t".into()
                }
                false => "media".to_owned(),
            };
            seen.lock().unwrap().push(path);
            let answer = format!("HTTP/1.0 200 OK\r\n\r\n{body}");
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let mut pipeline = Pipeline::start(&format!("http://{address}/i.m3u8"), dir.path());
    let segment = pipeline.stored("a.ts", 0).await;
    assert_eq!(segment.read(0..9).unwrap(), b"media"[..]);
    pipeline.status(|s| s.state == ChannelState::Live).await;
    pipeline.stop().await;
    let asked = asked.lock().unwrap();
    assert!(!asked.iter().any(|path| path.contains("b.t")), "{asked:?}");
}

#[tokio::test]
async fn a_last_line_without_a_newline_counts_where_the_length_proves_it() {
    let (origin, dir) = (Origin::default(), tempfile::tempdir().unwrap());
    set_segments(&origin, 1..3);
    let text = playlist(1, 2).trim_end().to_owned();
    origin.set("/news/index.m3u8", &[Answer::Text(text)]);
    let base = origin.serve().await;
    let pipeline = Pipeline::start(&format!("{base}/news/index.m3u8"), dir.path());
    pipeline.stored(&named(2), 2).await;
    pipeline.stop().await;
}

#[tokio::test]
async fn an_unchanged_playlist_is_asked_for_with_its_validator() {
    let (origin, dir) = (Origin::default(), tempfile::tempdir().unwrap());
    set_segments(&origin, 1..3);
    origin.set("/news/index.m3u8", &[Answer::Tagged(playlist(1, 2))]);
    let base = origin.serve().await;
    let mut pipeline = Pipeline::start(&format!("{base}/news/index.m3u8"), dir.path());
    let count = Arc::clone(&origin.not_modified);
    pipeline.status(|_| *count.lock().unwrap() > 0).await;
    assert_eq!(pipeline.status.borrow().state, ChannelState::Live);
    pipeline.stop().await;
}

#[tokio::test]
async fn the_quota_keeps_what_is_nearest_to_the_live_edge() {
    let (origin, dir) = (Origin::default(), tempfile::tempdir().unwrap());
    set_segments(&origin, 1..9);
    origin.set(
        "/news/index.m3u8",
        &[Answer::Text(playlist(1, 5)), Answer::Text(playlist(4, 5))],
    );
    let base = origin.serve().await;
    let url = format!("{base}/news/index.m3u8");
    let pipeline = Pipeline::start_with(&url, dir.path(), 1_000_000, Variants::Highest);
    pipeline.stored(&named(5), 5).await;
    pipeline.stored(&named(8), 8).await;
    let settled = |store: &Store| {
        let ready = |number: &u64| {
            let found = store.find(&news(), &named(*number), Some(MediaSequence(*number)));
            matches!(found, Found::Ready(_))
        };
        let stored: Vec<u64> = (1..9).filter(ready).collect();
        (stored == [6, 7, 8]).then_some(())
    };
    pipeline.until(settled).await;
    assert!(pipeline.store.summary(&news()).bytes <= 1_000_000);
    pipeline.stop().await;
}

#[tokio::test]
async fn what_somebody_wiped_is_fetched_again() {
    let (origin, dir) = (Origin::default(), tempfile::tempdir().unwrap());
    set_segments(&origin, 1..6);
    origin.set("/news/index.m3u8", &[Answer::Text(playlist(1, 5))]);
    let base = origin.serve().await;
    let pipeline = Pipeline::start(&format!("{base}/news/index.m3u8"), dir.path());
    pipeline.stored(&named(1), 1).await;
    std::fs::remove_dir_all(dir.path().join("news")).unwrap();
    let found = pipeline
        .store
        .find(&news(), &named(5), Some(MediaSequence(5)));
    assert!(matches!(found, Found::Absent), "that is how it is noticed");
    for number in 1..6 {
        let reader = pipeline.stored(&named(number), number).await;
        assert_eq!(reader.read(0..usize::MAX).unwrap(), media(number));
    }
    pipeline.stop().await;
}

#[tokio::test]
async fn a_restart_finds_the_window_again_and_deletes_what_is_not_whole() {
    let (origin, dir) = (Origin::default(), tempfile::tempdir().unwrap());
    set_segments(&origin, 1..6);
    origin.set("/news/index.m3u8", &[Answer::Text(playlist(1, 5))]);
    let base = origin.serve().await;
    let url = format!("{base}/news/index.m3u8");
    let pipeline = Pipeline::start(&url, dir.path());
    for number in 1..6 {
        pipeline.stored(&named(number), number).await;
    }
    pipeline.stop().await;

    let mut stored = files(dir.path(), "seg");
    stored.sort();
    assert_eq!(stored.len(), 5);
    // A flipped bit in 1, a tail cut off 2, and what a crash leaves behind.
    let mut bytes = std::fs::read(&stored[0]).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(&stored[0], bytes).unwrap();
    let bytes = std::fs::read(&stored[1]).unwrap();
    std::fs::write(&stored[1], &bytes[..bytes.len() - 5]).unwrap();
    std::fs::write(dir.path().join("news/0-9-00000000.part"), "x").unwrap();
    std::fs::write(dir.path().join("news/0-9-00000000.seg"), "").unwrap();

    let pipeline = Pipeline::start(&url, dir.path());
    for number in 1..6 {
        let segment = pipeline.stored(&named(number), number).await;
        assert_eq!(segment.read(0..usize::MAX).unwrap(), media(number));
        let expected = if number < 3 { 2 } else { 1 };
        assert_eq!(origin.asked(&format!("/news/seg_{number}.ts")), expected);
    }
    pipeline.stop().await;
    assert_eq!(files(dir.path(), "seg").len(), 5);
    assert!(files(dir.path(), "part").is_empty());
}

#[tokio::test]
async fn segments_of_another_playlist_are_not_taken_for_those_of_this_one() {
    let (origin, dir) = (Origin::default(), tempfile::tempdir().unwrap());
    set_segments(&origin, 1..2);
    origin.set("/news/index.m3u8", &[Answer::Text(playlist(1, 1))]);
    origin.set("/low/index.m3u8", &[Answer::Text(playlist(1, 1))]);
    origin.set("/low/seg_1.ts", &[Answer::Bytes(b"low".to_vec())]);
    let base = origin.serve().await;
    let pipeline = Pipeline::start(&format!("{base}/news/index.m3u8"), dir.path());
    pipeline.stored(&named(1), 1).await;
    pipeline.stop().await;
    let mut pipeline = Pipeline::start(&format!("{base}/low/index.m3u8"), dir.path());
    pipeline.status(|s| s.state == ChannelState::Live).await;
    let segment = pipeline.stored(&named(1), 1).await;
    assert_eq!(segment.read(0..usize::MAX).unwrap(), b"low"[..]);
    pipeline.stop().await;
}

#[tokio::test]
async fn an_encoder_that_starts_anew_under_the_same_names_is_not_served_stale() {
    let (origin, dir) = (Origin::default(), tempfile::tempdir().unwrap());
    set_segments(&origin, 0..9);
    origin.set("/news/index.m3u8", &[Answer::Text(playlist(0, 8))]);
    let base = origin.serve().await;
    let pipeline = Pipeline::start(&format!("{base}/news/index.m3u8"), dir.path());
    pipeline.stored(&named(0), 0).await;
    origin.set("/news/seg_0.ts", &[Answer::Bytes(b"anew".to_vec())]);
    origin.set("/news/index.m3u8", &[Answer::Text(playlist(0, 1))]);
    let anew = |store: &Store| match store.find(&news(), &named(0), None) {
        Found::Ready(reader) => (reader.len() == 4).then_some(()),
        _ => None,
    };
    pipeline.until(anew).await;
    assert_eq!(pipeline.store.summary(&news()).segments, 1);
    pipeline.stop().await;
}

const MASTER: &str = "#EXTM3U\n\
    #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",NAME=\"en\",URI=\"audio.m3u8\"\n\
    #EXT-X-STREAM-INF:BANDWIDTH=1,AUDIO=\"a\"\nlow/index.m3u8\n\
    #EXT-X-STREAM-INF:BANDWIDTH=2,AUDIO=\"a\"\nhigh/index.m3u8\n";

fn one_segment(uri: &str) -> Answer {
    Answer::Text(format!(
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{uri}\n"
    ))
}

#[tokio::test]
async fn a_multivariant_playlist_brings_the_chosen_variant_and_its_audio_through_a_redirect() {
    let (origin, dir) = (Origin::default(), tempfile::tempdir().unwrap());
    origin.set(
        "/m.m3u8",
        &[Answer::Redirect("/deep/down/master.m3u8".into())],
    );
    origin.set("/deep/down/master.m3u8", &[Answer::Text(MASTER.into())]);
    origin.set("/deep/down/audio.m3u8", &[one_segment("a1.aac")]);
    origin.set("/deep/down/low/index.m3u8", &[one_segment("low1.ts")]);
    origin.set("/deep/down/high/index.m3u8", &[one_segment("high1.ts")]);
    origin.set("/deep/down/a1.aac", &[Answer::Bytes(vec![1; 10])]);
    origin.set("/deep/down/high/high1.ts", &[Answer::Bytes(vec![2; 10])]);
    let base = origin.serve().await;
    let mut pipeline = Pipeline::start(&format!("{base}/m.m3u8"), dir.path());
    assert_eq!(
        pipeline.stored("high1.ts", 0).await.read(0..1).unwrap(),
        [2][..]
    );
    assert_eq!(
        pipeline.stored("a1.aac", 0).await.read(0..1).unwrap(),
        [1][..]
    );
    let status = pipeline.status(|s| s.state == ChannelState::Live).await;
    assert_eq!(status.playlists.len(), 2);
    assert_eq!(origin.asked("/deep/down/low/low1.ts"), 0);
    pipeline.stop().await;
}

/// An origin of two variants and an audio rendition, with one segment each of these names.
fn variants(low: &str, high: &str, audio: &str) -> Origin {
    let origin = Origin::default();
    origin.set("/m.m3u8", &[Answer::Text(MASTER.into())]);
    origin.set("/audio.m3u8", &[one_segment(audio)]);
    for (folder, uri, byte) in [("low", low, 1), ("high", high, 2)] {
        origin.set(&format!("/{folder}/index.m3u8"), &[one_segment(uri)]);
        let path = uri.split('?').next().unwrap();
        origin.set(
            &format!("/{folder}/{path}"),
            &[Answer::Bytes(vec![byte; 10])],
        );
    }
    origin.set(&format!("/{audio}"), &[Answer::Bytes(vec![3; 10])]);
    origin
}

fn first(store: &Store, uri: &str) -> Found {
    store.find(&news(), uri, Some(MediaSequence(0)))
}

#[tokio::test]
async fn a_name_that_another_variant_uses_too_is_never_served_even_if_that_is_not_followed() {
    let (origin, dir) = (
        variants("1.ts", "1.ts", "a1.aac"),
        tempfile::tempdir().unwrap(),
    );
    let base = origin.serve().await;
    let pipeline = Pipeline::start(&format!("{base}/m.m3u8"), dir.path());
    pipeline
        .until(|store| (store.summary(&news()).segments == 2).then_some(()))
        .await;
    let found = first(&pipeline.store, "1.ts");
    assert!(matches!(found, Found::Absent), "{found:?}");
    // The audio is nobody else's.
    assert_eq!(
        pipeline.stored("a1.aac", 0).await.read(0..1).unwrap(),
        [3][..]
    );
    let ambiguous = pipeline.store.ambiguous(&news()).unwrap();
    assert_eq!(
        (ambiguous.example.as_str(), ambiguous.segments),
        ("1.ts", 1)
    );
    pipeline.stop().await;
}

#[tokio::test]
async fn a_variant_is_served_again_once_no_other_uses_its_names() {
    let (origin, dir) = (
        variants("1.ts", "1.ts", "a1.aac"),
        tempfile::tempdir().unwrap(),
    );
    let base = origin.serve().await;
    let pipeline = Pipeline::start(&format!("{base}/m.m3u8"), dir.path());
    pipeline
        .until(|store| (store.summary(&news()).segments == 2).then_some(()))
        .await;
    let found = first(&pipeline.store, "1.ts");
    assert!(matches!(found, Found::Absent), "{found:?}");
    origin.set("/low/index.m3u8", &[one_segment("low1.ts")]);
    // A list of another kind is lost at once, and looked for at once.
    let audio = [Answer::Text(MASTER.into()), one_segment("a1.aac")];
    origin.set("/audio.m3u8", &audio);
    assert_eq!(
        pipeline.stored("1.ts", 0).await.read(0..1).unwrap(),
        [2][..]
    );
    assert_eq!(pipeline.store.ambiguous(&news()), None);
    pipeline.stop().await;
}

#[tokio::test]
async fn a_name_that_two_followed_variants_use_is_not_served_and_their_others_are() {
    let (origin, dir) = (
        variants("ad.ts", "ad.ts", "a1.aac"),
        tempfile::tempdir().unwrap(),
    );
    for (folder, byte) in [("low", 1), ("high", 2)] {
        let text = format!(
            "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nad.ts\n#EXTINF:1,\n{folder}1.ts\n"
        );
        origin.set(&format!("/{folder}/index.m3u8"), &[Answer::Text(text)]);
        let path = format!("/{folder}/{folder}1.ts");
        origin.set(&path, &[Answer::Bytes(vec![byte; 10])]);
    }
    let base = origin.serve().await;
    let url = format!("{base}/m.m3u8");
    let pipeline = Pipeline::start_with(&url, dir.path(), 1 << 30, Variants::All);
    assert_eq!(
        pipeline.stored("low1.ts", 1).await.read(0..1).unwrap(),
        [1][..]
    );
    assert_eq!(
        pipeline.stored("high1.ts", 1).await.read(0..1).unwrap(),
        [2][..]
    );
    pipeline
        .until(|store| (store.summary(&news()).segments == 5).then_some(()))
        .await;
    let found = first(&pipeline.store, "ad.ts");
    assert!(matches!(found, Found::Absent), "{found:?}");
    assert_eq!(pipeline.store.ambiguous(&news()).unwrap().segments, 2);
    pipeline.stop().await;
}

#[tokio::test]
async fn one_resource_in_two_variants_is_served_after_a_restart_too() {
    let (origin, dir) = (
        variants("low.ts", "high.ts", "a1.aac"),
        tempfile::tempdir().unwrap(),
    );
    let base = origin.serve().await;
    let advertisement = format!("{base}/ad.ts");
    for folder in ["low", "high"] {
        let list = one_segment(&advertisement);
        origin.set(&format!("/{folder}/index.m3u8"), &[list]);
    }
    origin.set("/ad.ts", &[Answer::Bytes(vec![4; 10])]);
    let url = format!("{base}/m.m3u8");
    for _ in 0..2 {
        let pipeline = Pipeline::start_with(&url, dir.path(), 1 << 30, Variants::All);
        pipeline
            .until(|store| (store.summary(&news()).segments == 3).then_some(()))
            .await;
        assert_eq!(
            pipeline.stored(&advertisement, 0).await.read(0..1).unwrap(),
            [4][..]
        );
        assert_eq!(pipeline.store.ambiguous(&news()), None);
        pipeline.stop().await;
    }
}

#[tokio::test]
async fn a_variant_that_cannot_be_loaded_does_not_keep_the_others_from_being_served() {
    let (origin, dir) = (
        variants("1.ts", "1.ts", "a1.aac"),
        tempfile::tempdir().unwrap(),
    );
    origin.set("/low/index.m3u8", &[Answer::Status(404)]);
    let base = origin.serve().await;
    let pipeline = Pipeline::start(&format!("{base}/m.m3u8"), dir.path());
    assert_eq!(
        pipeline.stored("1.ts", 0).await.read(0..1).unwrap(),
        [2][..]
    );
    pipeline.stop().await;
}

#[tokio::test]
async fn tokens_that_change_at_each_load_cost_no_second_fetch_where_the_path_is_the_name() {
    let (origin, dir) = (Origin::default(), tempfile::tempdir().unwrap());
    set_segments(&origin, 1..5);
    let with = |first, token: &str| Answer::Text(playlist(first, 3).replace("a%2Fb", token));
    origin.set(
        "/news/index.m3u8",
        &[with(1, "one"), with(1, "two"), with(2, "three")],
    );
    let base = origin.serve().await;
    let channel = ChannelConfig {
        matching: Matching::Path,
        ..channel(&format!("{base}/news/index.m3u8"))
    };
    let pipeline = Pipeline::start_channel(dir.path(), 1 << 30, channel.clone());
    for number in 1..5 {
        let theirs = format!("seg_{number}.ts?token=theirs");
        let segment = pipeline.stored(&theirs, number).await;
        assert_eq!(segment.read(0..usize::MAX).unwrap(), media(number));
    }
    pipeline.stop().await;
    // A start over the store is a load with other tokens as well.
    let mut pipeline = Pipeline::start_channel(dir.path(), 1 << 30, channel);
    pipeline.status(|s| s.state == ChannelState::Live).await;
    pipeline.stored("seg_4.ts", 4).await;
    for number in 1..5 {
        assert_eq!(origin.asked(&format!("/news/seg_{number}.ts")), 1);
    }
    pipeline.stop().await;
}

#[tokio::test]
async fn a_variant_that_is_lost_comes_back_without_disturbing_the_others() {
    let origin = variants("low1.ts", "high1.ts", "a1.aac");
    let dir = tempfile::tempdir().unwrap();
    origin.set("/high/high1.ts", &[Answer::Status(404)]);
    let base = origin.serve().await;
    let url = format!("{base}/m.m3u8");
    let pipeline = Pipeline::start_with(&url, dir.path(), 1 << 30, Variants::All);
    pipeline.stored("low1.ts", 0).await;
    pipeline
        .until(|store| matches!(first(store, "high1.ts"), Found::Absent).then_some(()))
        .await;
    let given_up_after = origin.asked("/high/high1.ts");
    // A list of another kind is lost at once; the look for it brings what it is now.
    origin.set("/low/low2.ts", &[Answer::Bytes(vec![1; 10])]);
    let list = [Answer::Text(MASTER.into()), one_segment("low2.ts")];
    origin.set("/low/index.m3u8", &list);
    pipeline.stored("low2.ts", 0).await;
    assert_eq!(
        origin.asked("/high/high1.ts"),
        given_up_after,
        "who follows the other variant is still the same"
    );
    pipeline.stop().await;
}

#[test]
fn a_folder_that_cannot_be_written_to_is_found_at_start() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("news"), "a file where a folder is needed").unwrap();
    let config = StoreConfig {
        dir: dir.path().into(),
        max_size: 1 << 20,
        min_free: 0,
    };
    let error = open_plain(config).unwrap_err();
    assert!(error.to_string().contains("news"), "{error}");
    let config = StoreConfig {
        dir: "/proc/edgeseed".into(),
        max_size: 1 << 20,
        min_free: 0,
    };
    assert!(open_plain(config).is_err());
}

#[tokio::test]
async fn what_is_no_regular_file_does_not_hold_up_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("news");
    std::fs::create_dir(&folder).unwrap();
    for name in ["0-7-00000001.seg", "x.part"] {
        let made = std::process::Command::new("mkfifo")
            .arg(folder.join(name))
            .status();
        assert!(made.unwrap().success());
    }
    let config = StoreConfig {
        dir: dir.path().into(),
        max_size: 1 << 20,
        min_free: 0,
    };
    let opening = tokio::task::spawn_blocking(|| open_plain(config));
    let opened = tokio::time::timeout(Duration::from_secs(10), opening).await;
    assert!(opened.expect("opens at once").unwrap().is_ok());
}

#[tokio::test]
async fn a_sibling_gets_a_segment_only_if_the_playlist_was_looked_at_since_it_asks() {
    let (origin, dir) = (Origin::default(), tempfile::tempdir().unwrap());
    origin.set("/news/seg_1.ts", &[Answer::Bytes(media(1))]);
    origin.set("/news/index.m3u8", &[Answer::Text(playlist(1, 1))]);
    let base = origin.serve().await;
    let address = format!("{base}/news/index.m3u8");
    let pipeline = Pipeline::start(&address, dir.path());
    pipeline.stored(&named(1), 1).await;
    let find = |store: &Store, playlist: &str, since| {
        let sequence = Some(MediaSequence(1));
        store.find_for_sibling(&news(), &named(1), sequence, playlist, since)
    };
    let other = format!("{base}/other/index.m3u8");
    assert!(matches!(find(&pipeline.store, &other, None), Found::Absent));
    assert!(matches!(
        find(&pipeline.store, &address, None),
        Found::Ready(_)
    ));
    let asked = origin.asked("/news/index.m3u8");
    let since = Some(std::time::Instant::now());
    assert!(matches!(
        find(&pipeline.store, &address, since),
        Found::Coming
    ));
    // Which has the playlist looked at.
    let segment = pipeline
        .until(|store| match find(store, &address, since) {
            Found::Ready(segment) => Some(segment),
            _ => None,
        })
        .await;
    assert_eq!(segment.read(0..usize::MAX).unwrap(), media(1));
    assert!(origin.asked("/news/index.m3u8") > asked);
    pipeline.stop().await;
}
