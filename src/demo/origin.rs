//! The sample origin: an endless live channel from a clip of 24 s that is part of the program, so
//! that the whole system can be tried, and tested, without a network.
//!
//! The clip is a loop of 12 segments (`assets/demo/make-clip`). Segment *n* of the channel is
//! segment *n* mod 12 of the clip under a name of its own, so that the same name always means the
//! same bytes, even after a restart. [`Timeline`] is the pure part: from the time since the start
//! to the text of the playlist. [`Origin`] serves it, and counts who asked for what: a box that
//! does its work asks once for each segment, however many viewers there are.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, USER_AGENT,
};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use url::Url;

/// Seconds of one segment of the clip, and the target duration of the channel.
const SEGMENT_SECONDS: u64 = 2;

/// Segments in the playlist unless told otherwise: 12 s, of which a player stays 6 s behind the
/// live edge.
pub const DEFAULT_WINDOW: usize = 6;

/// Segments that are counted one by one; the oldest are forgotten. A quarter of an hour, longer
/// than any test.
const COUNTED_SEGMENTS: usize = 450;

/// How the User-Agent of a box begins; everybody else is a viewer.
const BOX_AGENT: &str = "edgeseed/";

/// The clip, segment by segment.
const CLIP: [&[u8]; 12] = [
    include_bytes!("../../assets/demo/segment_00.ts"),
    include_bytes!("../../assets/demo/segment_01.ts"),
    include_bytes!("../../assets/demo/segment_02.ts"),
    include_bytes!("../../assets/demo/segment_03.ts"),
    include_bytes!("../../assets/demo/segment_04.ts"),
    include_bytes!("../../assets/demo/segment_05.ts"),
    include_bytes!("../../assets/demo/segment_06.ts"),
    include_bytes!("../../assets/demo/segment_07.ts"),
    include_bytes!("../../assets/demo/segment_08.ts"),
    include_bytes!("../../assets/demo/segment_09.ts"),
    include_bytes!("../../assets/demo/segment_10.ts"),
    include_bytes!("../../assets/demo/segment_11.ts"),
];

/// The live channel as a function of the time since it began. It begins with a full window, so
/// that a player can start at once.
#[derive(Clone, Copy, Debug)]
struct Timeline {
    /// Segments in the playlist, at least 1.
    window: u64,
}

impl Timeline {
    /// The segments that the playlist lists.
    fn listed(self, elapsed: Duration) -> Range<u64> {
        let first = elapsed.as_secs() / SEGMENT_SECONDS;
        first..first + self.window
    }

    /// The segments that are served. One that has left the playlist stays for its own duration
    /// and that of the playlist (RFC 8216 section 6.2.2); one that is not yet listed does not exist.
    fn served(self, elapsed: Duration) -> Range<u64> {
        let listed = self.listed(elapsed);
        listed.start.saturating_sub(self.window + 1)..listed.end
    }

    /// The media playlist (RFC 8216 section 4).
    fn playlist(self, elapsed: Duration) -> String {
        let listed = self.listed(elapsed);
        let mut text = format!(
            "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:{SEGMENT_SECONDS}\n\
             #EXT-X-MEDIA-SEQUENCE:{}\n#EXT-X-DISCONTINUITY-SEQUENCE:{}\n",
            listed.start,
            // The tags that have left the playlist. A tag leaves together with the segment that
            // it stands before (RFC 8216 section 6.2.2).
            loop_joins_before(listed.start),
        );
        for number in listed {
            if is_loop_join(number) {
                text.push_str("#EXT-X-DISCONTINUITY\n");
            }
            text.push_str(&format!("#EXTINF:{SEGMENT_SECONDS}.000,\n"));
            text.push_str(&segment_name(number));
            text.push('\n');
        }
        text
    }
}

/// Whether the clip begins anew with this segment: its timestamps jump back.
fn is_loop_join(number: u64) -> bool {
    number > 0 && number.is_multiple_of(CLIP.len() as u64)
}

/// How many of the segments before this one have a discontinuity before them.
fn loop_joins_before(number: u64) -> u64 {
    number.saturating_sub(1) / CLIP.len() as u64
}

fn segment_name(number: u64) -> String {
    format!("seg_{number}.ts")
}

/// The number in a name that [`segment_name`] made, and in no other spelling of it.
fn segment_number(name: &str) -> Option<u64> {
    let number = name
        .strip_prefix("seg_")?
        .strip_suffix(".ts")?
        .parse()
        .ok()?;
    (segment_name(number) == name).then_some(number)
}

fn segment_bytes(number: u64) -> &'static [u8] {
    // The remainder is below 12, so it fits.
    CLIP[(number % CLIP.len() as u64) as usize]
}

/// Requests that were answered with the resource, by who asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Requests {
    #[serde(rename = "box")]
    from_box: u64,
    viewers: u64,
}

impl Requests {
    fn count(&mut self, headers: &HeaderMap) {
        let agent = headers.get(USER_AGENT).map_or(&b""[..], |v| v.as_bytes());
        if agent.starts_with(BOX_AGENT.as_bytes()) {
            self.from_box += 1;
        } else {
            self.viewers += 1;
        }
    }
}

/// `GET /stats`
#[derive(Debug, Default, Serialize)]
struct Stats {
    playlist: Requests,
    #[serde(serialize_with = "by_name")]
    segments: BTreeMap<u64, Requests>,
}

impl Stats {
    fn count_segment(&mut self, number: u64, headers: &HeaderMap) {
        self.segments.entry(number).or_default().count(headers);
        while self.segments.len() > COUNTED_SEGMENTS {
            self.segments.pop_first();
        }
    }
}

fn by_name<S: serde::Serializer>(
    segments: &BTreeMap<u64, Requests>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(
        segments
            .iter()
            .map(|(n, requests)| (segment_name(*n), requests)),
    )
}

#[derive(Debug)]
struct Channel {
    timeline: Timeline,
    begun: Instant,
    stats: Mutex<Stats>,
}

impl Channel {
    /// Changes the counts. A poisoned lock only means that a count was not finished.
    fn stats(&self, change: impl FnOnce(&mut Stats)) {
        change(&mut self.stats.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// The sample origin, bound to its address and not yet serving.
#[derive(Debug)]
pub struct Origin {
    listener: TcpListener,
    local_addr: SocketAddr,
    playlist_url: Url,
    channel: Arc<Channel>,
}

impl Origin {
    /// Takes the address `addr` (port 0: any free one); the channel begins now. `window` is the
    /// number of segments in the playlist, at least 1 ([`DEFAULT_WINDOW`]).
    ///
    /// # Errors
    /// What the system says when the address cannot be had.
    pub async fn bind(addr: SocketAddr, window: usize) -> io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let local_addr = listener.local_addr()?;
        Ok(Self {
            listener,
            local_addr,
            playlist_url: Url::parse(&format!("http://{local_addr}/sample/index.m3u8"))
                .map_err(io::Error::other)?,
            channel: Arc::new(Channel {
                timeline: Timeline {
                    window: window.max(1) as u64,
                },
                begun: Instant::now(),
                stats: Mutex::default(),
            }),
        })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The channel's playlist, as the box and the viewers load it.
    pub fn playlist_url(&self) -> &Url {
        &self.playlist_url
    }

    /// Serves until `stop`; requests under way are finished.
    ///
    /// # Errors
    /// None at present: `axum` retries what can go wrong with a listener.
    pub async fn run(self, stop: CancellationToken) -> io::Result<()> {
        let routes = Router::new()
            .route("/sample/index.m3u8", get(playlist))
            .route("/sample/{segment}", get(segment))
            .route("/stats", get(stats))
            .with_state(self.channel);
        axum::serve(self.listener, routes)
            .with_graceful_shutdown(stop.cancelled_owned())
            .await
    }
}

async fn playlist(State(channel): State<Arc<Channel>>, headers: HeaderMap) -> Response {
    channel.stats(|stats| stats.playlist.count(&headers));
    let text = channel.timeline.playlist(channel.begun.elapsed());
    let head = head("application/vnd.apple.mpegurl", "no-cache");
    (head, text).into_response()
}

async fn segment(
    State(channel): State<Arc<Channel>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Response {
    let served = channel.timeline.served(channel.begun.elapsed());
    let Some(number) = segment_number(&name).filter(|number| served.contains(number)) else {
        let head = head("text/plain; charset=utf-8", "no-cache");
        return (StatusCode::NOT_FOUND, head, "not in the window\n").into_response();
    };
    channel.stats(|stats| stats.count_segment(number, &headers));
    // The same name always means the same bytes; a minute is longer than anybody needs them.
    let head = head("video/mp2t", "public, max-age=60, immutable");
    (head, segment_bytes(number)).into_response()
}

async fn stats(State(channel): State<Arc<Channel>>) -> Response {
    let mut json = Ok(String::new());
    channel.stats(|stats| json = serde_json::to_string(stats));
    match json {
        Ok(json) => (head("application/json", "no-store"), json).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Every answer may be read by a page of another origin: the player's page comes from the box.
fn head(content_type: &'static str, cache: &'static str) -> [(HeaderName, HeaderValue); 3] {
    [
        (CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (CACHE_CONTROL, HeaderValue::from_static(cache)),
        (ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
    ]
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    const TIMELINE: Timeline = Timeline { window: 6 };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// For each listed segment its number, and its discontinuity sequence number as RFC 8216
    /// section 6.2.1 has a client compute it.
    fn discontinuity_sequences(playlist: &str) -> Vec<(u64, u64)> {
        let mut current = 0;
        let mut found = Vec::new();
        for line in playlist.lines() {
            if let Some(value) = line.strip_prefix("#EXT-X-DISCONTINUITY-SEQUENCE:") {
                current = value.parse().unwrap();
            } else if line == "#EXT-X-DISCONTINUITY" {
                current += 1;
            } else if !line.starts_with('#') {
                found.push((segment_number(line).unwrap(), current));
            }
        }
        found
    }

    #[test]
    fn the_channel_begins_with_a_full_window() {
        assert_eq!(
            TIMELINE.playlist(at(0)),
            "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:0\n\
             #EXT-X-DISCONTINUITY-SEQUENCE:0\n\
             #EXTINF:2.000,\nseg_0.ts\n#EXTINF:2.000,\nseg_1.ts\n#EXTINF:2.000,\nseg_2.ts\n\
             #EXTINF:2.000,\nseg_3.ts\n#EXTINF:2.000,\nseg_4.ts\n#EXTINF:2.000,\nseg_5.ts\n"
        );
    }

    #[test]
    fn a_segment_comes_and_a_segment_goes_every_two_seconds() {
        assert_eq!(TIMELINE.listed(Duration::from_millis(1999)), 0..6);
        assert_eq!(TIMELINE.listed(at(2)), 1..7);
        assert_eq!(TIMELINE.listed(at(86_400)), 43_200..43_206);
    }

    #[test]
    fn the_loop_join_is_marked_where_the_clip_begins_anew() {
        let playlist = TIMELINE.playlist(at(16));
        assert!(playlist.contains("seg_11.ts\n#EXT-X-DISCONTINUITY\n#EXTINF:2.000,\nseg_12.ts\n"));
        assert_eq!(playlist.matches("#EXT-X-DISCONTINUITY\n").count(), 1);
    }

    #[test]
    fn a_segment_keeps_its_discontinuity_sequence_number_while_the_window_passes() {
        for window in [1, 6, 30] {
            for seconds in 0..200 {
                let playlist = Timeline { window }.playlist(at(seconds));
                let found = discontinuity_sequences(&playlist);
                assert_eq!(found.len() as u64, window);
                for (number, sequence) in found {
                    assert_eq!(sequence, number / 12, "segment {number} at {seconds} s");
                }
            }
        }
    }

    #[test]
    fn a_segment_stays_a_while_after_it_left_the_playlist_and_then_is_gone() {
        // Segment 5 leaves the playlist at 12 s; its own duration and the playlist's are 14 s.
        assert_eq!(TIMELINE.listed(at(12)), 6..12);
        assert!(TIMELINE.served(Duration::from_millis(25_999)).contains(&5));
        assert!(!TIMELINE.served(at(26)).contains(&5));
        assert!(!TIMELINE.served(at(12)).contains(&12));
    }

    #[test]
    fn only_the_one_spelling_names_a_segment() {
        assert_eq!(segment_number("seg_12.ts"), Some(12));
        for name in [
            "seg_012.ts",
            "seg_+1.ts",
            "seg_.ts",
            "seg_-1.ts",
            "seg_1.m4s",
            "x",
        ] {
            assert_eq!(segment_number(name), None, "{name}");
        }
    }

    #[test]
    fn every_segment_of_the_clip_is_whole_transport_stream_packets() {
        for (index, bytes) in CLIP.iter().enumerate() {
            assert!(!bytes.is_empty());
            assert_eq!(bytes.len() % 188, 0, "segment {index}");
            assert!(bytes.chunks(188).all(|p| p[0] == 0x47), "segment {index}");
        }
    }

    #[test]
    fn the_counts_are_bounded_and_the_oldest_go() {
        let mut stats = Stats::default();
        for number in 0..COUNTED_SEGMENTS as u64 + 10 {
            stats.count_segment(number, &HeaderMap::new());
        }
        assert_eq!(stats.segments.len(), COUNTED_SEGMENTS);
        assert_eq!(stats.segments.first_key_value().unwrap().0, &10);
    }

    async fn ask(addr: SocketAddr, path: &str, agent: &str) -> (String, Vec<u8>) {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nUser-Agent: {agent}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        (head.to_lowercase(), answer[end + 4..].to_vec())
    }

    #[tokio::test]
    async fn the_box_and_the_viewers_are_counted_apart() {
        let origin = Origin::bind(([127, 0, 0, 1], 0).into(), DEFAULT_WINDOW)
            .await
            .unwrap();
        let addr = origin.local_addr();
        let path = origin.playlist_url().path().to_owned();
        let stop = CancellationToken::new();
        let running = tokio::spawn(origin.run(stop.clone()));

        let (head, body) = ask(addr, &path, "edgeseed/0.1.0").await;
        assert!(head.starts_with("http/1.1 200"), "{head}");
        assert!(head.contains("access-control-allow-origin: *"), "{head}");
        assert!(
            head.contains("content-type: application/vnd.apple.mpegurl"),
            "{head}"
        );
        assert!(body.starts_with(b"#EXTM3U"));

        let (head, body) = ask(addr, "/sample/seg_3.ts", "edgeseed/0.1.0").await;
        assert!(head.contains("content-type: video/mp2t"), "{head}");
        assert_eq!(body, CLIP[3]);
        ask(addr, "/sample/seg_3.ts", "Mozilla/5.0 edgeseed/1").await;
        let (head, _) = ask(addr, "/sample/seg_999.ts", "edgeseed/0.1.0").await;
        assert!(head.starts_with("http/1.1 404"), "{head}");

        let (_, body) = ask(addr, "/stats", "x").await;
        let stats: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            stats,
            serde_json::json!({
                "playlist": {"box": 1, "viewers": 0},
                "segments": {"seg_3.ts": {"box": 1, "viewers": 1}},
            })
        );
        stop.cancel();
        running.await.unwrap().unwrap();
    }
}
