//! Three live channels whose clock runs fast, with an encoder that starts anew and hours at which
//! nothing works. Every segment that was sent whole is counted.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::support::origin::segment as bytes_of;

/// A segment's duration, before time is compressed.
pub(crate) const SEGMENT: Duration = Duration::from_secs(6);

/// The box looks every half second at the earliest, and time runs on meanwhile: a list holds what
/// came in as long as this, besides what it would hold.
const UNSEEN: Duration = Duration::from_millis(2500);

/// How long a fault lasts: some minutes of the day.
const LASTS: Duration = Duration::from_secs(3);

/// How long after a fault, or after the encoder was started anew, not everything can be there: the box
/// has backed off for up to 4 s, and what viewers watch is older.
const RECOVERS: Duration = Duration::from_secs(7);

/// When the origin fails, in parts of the day, and how.
const FAULTS: [(f64, Fault); 4] = [
    (0.15, Fault::Refuses),
    (0.40, Fault::IsSilent),
    (0.60, Fault::BreaksOff),
    (0.80, Fault::Refuses),
];

/// Segments between two discontinuities of the channel that has them.
const PROGRAMME: u64 = 300;

/// Segments in one resource of the channel with byte ranges.
const RANGES: u64 = 10;

/// Bytes of a segment at least, and by how much they differ. Small, so that the box is measured and
/// not the loopback; more than one packet.
pub(crate) const SIZE: u64 = 60_000;
const SIZES: u64 = 30_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// 503 to everything.
    Refuses,
    /// No answer to anything.
    IsSilent,
    /// Segments end half-way.
    BreaksOff,
}

/// A list of segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Track {
    /// MPEG-TS, six segments.
    News,
    /// Fragmented MP4 with an initialization section and times, sixty segments.
    Film,
    /// Byte ranges and discontinuities, twenty segments.
    Sport,
    /// The sound of that, in files of its own.
    SportSound,
}

pub(crate) const TRACKS: [Track; 4] = [Track::News, Track::Film, Track::Sport, Track::SportSound];

/// A segment for all time: which run of the encoder, and which number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Segment {
    pub(crate) track: Track,
    run: usize,
    pub(crate) number: u64,
}

/// The clock of the day.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
    began: SystemTime,
    /// How long the day takes.
    pub(crate) takes: Duration,
    /// Between two segments.
    pub(crate) period: Duration,
}

pub(crate) struct Origin {
    base: String,
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

struct Shared {
    clock: Clock,
    counts: Mutex<Counts>,
}

/// What was asked of the origin.
#[derive(Clone, Default)]
pub(crate) struct Counts {
    /// How often each segment was sent whole.
    pub(crate) sent: HashMap<Segment, u32>,
    pub(crate) playlists: u64,
    pub(crate) sections: u64,
    /// Requests that were refused, not answered, or answered with half.
    pub(crate) failed: u64,
}

impl Track {
    /// Its folder, and that of its playlist.
    fn folder(self) -> &'static str {
        match self {
            Self::News => "/news/",
            Self::Film => "/film/",
            Self::Sport => "/sport/video/",
            Self::SportSound => "/sport/sound/",
        }
    }

    fn window(self) -> u64 {
        match self {
            Self::News => 6,
            Self::Film => 60,
            Self::Sport | Self::SportSound => 20,
        }
    }

    /// When its encoder is started anew, in parts of the day.
    fn restarts(self) -> &'static [f64] {
        match self {
            Self::News => &[0.25, 0.7],
            Self::Film => &[0.35],
            Self::Sport | Self::SportSound => &[0.5],
        }
    }

    /// The path of its playlist as viewers name the channel.
    pub(crate) fn channel(self) -> &'static str {
        match self {
            Self::News => "/news/index.m3u8",
            Self::Film => "/film/index.m3u8",
            Self::Sport | Self::SportSound => "/sport/master.m3u8",
        }
    }
}

impl Segment {
    /// As its playlist writes it.
    pub(crate) fn uri(self) -> String {
        let number = self.number;
        match self.track {
            Track::News => format!("news_{number}.ts"),
            Track::Film => format!("film_{number}.m4s"),
            Track::Sport => format!("sport_{}.ts", number / RANGES),
            Track::SportSound => format!("sound_{number}.aac"),
        }
    }

    /// No other segment has these.
    pub(crate) fn bytes(self) -> Bytes {
        bytes_of(self.seed(), usize::try_from(self.size()).unwrap())
    }

    fn seed(self) -> u64 {
        (self.track as u64) << 56 | (self.run as u64) << 48 | self.number
    }

    fn size(self) -> u64 {
        SIZE + self.seed().wrapping_mul(7919) % SIZES
    }

    /// The initialization section that it needs.
    pub(crate) fn section(self) -> Bytes {
        bytes_of(u64::MAX - self.run as u64, 900)
    }

    fn range(self) -> (u64, u64) {
        let first = self.number - self.number % RANGES;
        let size = |number| Self { number, ..self }.size();
        ((first..self.number).map(size).sum(), self.size())
    }
}

impl Clock {
    pub(crate) fn new(day: Duration, takes: Duration) -> Self {
        let segments = day.as_secs_f64() / SEGMENT.as_secs_f64();
        Self {
            start: Instant::now(),
            began: SystemTime::now(),
            takes,
            period: takes.div_f64(segments),
        }
    }

    fn segments_in(self, time: Duration) -> u64 {
        u64::try_from(time.as_nanos() / self.period.as_nanos()).unwrap()
    }

    /// When the runs of a track's encoder begin.
    fn runs(self, track: Track) -> impl Iterator<Item = Duration> {
        let restarts = track.restarts().iter();
        let restarts = restarts.map(move |part| self.takes.mul_f64(*part));
        [Duration::ZERO].into_iter().chain(restarts)
    }

    /// The newest segment of a track, as the list was `ago`. After the day nothing is added.
    pub(crate) fn newest(self, track: Track, ago: Duration) -> Segment {
        let passed = self.start.elapsed().min(self.takes).saturating_sub(ago);
        let begun = self.runs(track).enumerate();
        let begun = begun.take_while(|(_, at)| *at <= passed);
        let (run, since) = begun.last().unwrap();
        Segment {
            track,
            run,
            number: self.segments_in(passed - since) + 1,
        }
    }

    /// When the media of a segment began: it is listed as soon as it has ended.
    fn time(self, segment: Segment) -> SystemTime {
        let run = self.runs(segment.track).nth(segment.run).unwrap();
        let number = u32::try_from(segment.number).unwrap();
        (self.began + run + self.period * number)
            .checked_sub(self.period * 2)
            .unwrap()
    }

    pub(crate) fn is_over(self) -> bool {
        self.start.elapsed() >= self.takes
    }

    fn faults(self) -> impl Iterator<Item = (Range<Duration>, Fault)> {
        // A run that is short is not to be nothing but trouble.
        let some = self.takes.as_secs().div_ceil(30);
        let faults = FAULTS.into_iter().take(usize::try_from(some).unwrap());
        faults.map(move |(part, fault)| {
            let at = self.takes.mul_f64(part);
            (at..at + LASTS, fault)
        })
    }

    fn fault(self) -> Option<Fault> {
        let now = self.start.elapsed();
        let fault = self.faults().find(|(lasts, _)| lasts.contains(&now));
        fault.map(|(_, fault)| fault)
    }

    /// Whether at this time of the day a segment of the track may not be there, and not by the box's
    /// fault: there is a fault of the origin's, the encoder starts anew, or the day ends; or that was a
    /// moment ago; or it is about to be, and what is listed now cannot be fetched any more.
    fn is_troubled(self, track: Track, at: Duration) -> bool {
        let faults = self.faults().map(|(lasts, _)| lasts);
        let restarts = self.runs(track).chain([self.takes]).map(|at| at..at);
        let mut troubles = faults.chain(restarts);
        troubles.any(|trouble| {
            (trouble.start.saturating_sub(UNSEEN)..trouble.end + RECOVERS).contains(&at)
        })
    }

    pub(crate) fn is_troubled_now(self, track: Track) -> bool {
        self.is_troubled(track, self.start.elapsed())
    }

    /// Every segment of the day, and whether it was listed while there was trouble.
    pub(crate) fn segments(self, track: Track) -> impl Iterator<Item = (Segment, bool)> {
        let begins = self.runs(track);
        let ends = self.runs(track).skip(1).chain([self.takes]);
        begins
            .zip(ends)
            .enumerate()
            .flat_map(move |(run, (begin, end))| {
                (1..=self.segments_in(end - begin)).map(move |number| {
                    let at = begin + self.period * u32::try_from(number - 1).unwrap();
                    (Segment { track, run, number }, self.is_troubled(track, at))
                })
            })
    }
}

impl Origin {
    pub(crate) async fn start(clock: Clock) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            clock,
            counts: Mutex::default(),
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

    /// The channel that the track is of.
    pub(crate) fn url(&self, track: Track) -> String {
        format!("{}{}", self.base, track.channel())
    }

    pub(crate) fn counts(&self) -> Counts {
        self.shared.counts.lock().unwrap().clone()
    }
}

impl Shared {
    fn playlist(&self, track: Track) -> String {
        let period = self.clock.period;
        let newest = self.clock.newest(track, Duration::ZERO);
        let listed = track.window() + self.clock.segments_in(UNSEEN);
        let first = (newest.number + 1).saturating_sub(listed).max(1);
        let mut text = format!(
            "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:0\n#EXT-X-MEDIA-SEQUENCE:{first}\n"
        );
        if track == Track::Film {
            text += "#EXT-X-MAP:URI=\"init.mp4\"\n";
        }
        if track == Track::Sport {
            text += &format!(
                "#EXT-X-DISCONTINUITY-SEQUENCE:{}\n",
                (first - 1) / PROGRAMME
            );
        }
        for number in first..=newest.number {
            let segment = Segment { number, ..newest };
            if track == Track::Film {
                let at = Timestamp::try_from(self.clock.time(segment)).unwrap();
                text += &format!("#EXT-X-PROGRAM-DATE-TIME:{at:.3}\n");
            }
            if track == Track::Sport {
                if number % PROGRAMME == 0 {
                    text += "#EXT-X-DISCONTINUITY\n";
                }
                let (start, length) = segment.range();
                text += &format!("#EXT-X-BYTERANGE:{length}@{start}\n");
            }
            text += &format!("#EXTINF:{:.3},\n{}\n", period.as_secs_f64(), segment.uri());
        }
        text
    }

    /// The segment that is asked for, if it is or was listed.
    fn segment(&self, track: Track, name: &str, headers: &HeaderMap) -> Option<Segment> {
        let newest = self.clock.newest(track, Duration::ZERO);
        let digits = name.trim_matches(|c: char| !c.is_ascii_digit());
        let number: u64 = digits.split('.').next()?.parse().ok()?;
        let mut segments = match track {
            Track::Sport => number * RANGES..(number + 1) * RANGES,
            _ => number..number + 1,
        };
        let asked = headers
            .get(header::RANGE)
            .map(|range| range.to_str().unwrap());
        segments.find_map(|number| {
            let segment = Segment { number, ..newest };
            let is_it = match track {
                Track::Sport => {
                    let (start, length) = segment.range();
                    asked? == format!("bytes={start}-{}", start + length - 1)
                }
                _ => true,
            };
            (is_it && number <= newest.number).then_some(segment)
        })
    }
}

async fn answer(State(shared): State<Arc<Shared>>, headers: HeaderMap, asked: Uri) -> Response {
    let fault = shared.clock.fault();
    let path = asked.path();
    let counts = || shared.counts.lock().unwrap();
    match fault {
        Some(Fault::Refuses) => {
            counts().failed += 1;
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        Some(Fault::IsSilent) => {
            counts().failed += 1;
            return std::future::pending().await;
        }
        Some(Fault::BreaksOff) | None => {}
    }
    if path == Track::Sport.channel() {
        counts().playlists += 1;
        let text = "#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",NAME=\"en\",DEFAULT=YES,\
                    URI=\"sound/index.m3u8\"\n#EXT-X-STREAM-INF:BANDWIDTH=500000,AUDIO=\"a\"\n\
                    video/index.m3u8\n";
        return text.into_response();
    }
    let Some(track) = TRACKS
        .into_iter()
        .find(|track| path.starts_with(track.folder()))
    else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let name = &path[track.folder().len()..];
    match name {
        "index.m3u8" => {
            counts().playlists += 1;
            return shared.playlist(track).into_response();
        }
        "init.mp4" => {
            counts().sections += 1;
            let newest = shared.clock.newest(track, Duration::ZERO);
            return newest.section().into_response();
        }
        _ => {}
    }
    let Some(segment) = shared.segment(track, name, &headers) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let bytes = segment.bytes();
    let length = bytes.len();
    let body = match fault {
        Some(_) => {
            counts().failed += 1;
            let half = bytes.slice(..length / 2);
            Body::from_stream(stream::iter([Ok(half), Err("broken off")]))
        }
        None => {
            *counts().sent.entry(segment).or_default() += 1;
            bytes.into()
        }
    };
    let response = Response::builder().header(header::CONTENT_LENGTH, length);
    let response = match track {
        Track::Sport => {
            let (start, length) = segment.range();
            let range = format!("bytes {start}-{}/*", start + length - 1);
            let part = response.status(StatusCode::PARTIAL_CONTENT);
            part.header(header::CONTENT_RANGE, range)
        }
        _ => response,
    };
    response.body(body).unwrap()
}
