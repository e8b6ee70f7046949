//! Viewers who come, watch for some minutes of the day, and go: some of them as a device does whose
//! battery is taken out.

use std::ops::AddAssign;
use std::time::Duration;

use rand::Rng;
use tokio::runtime;
use tokio::time::{Instant, sleep};

use crate::origin::{Clock, TRACKS, Track};
use crate::support::viewer::{Form, Outcome, Viewer};

/// How far behind the live edge they watch: the box looks every half second at the earliest, and
/// has as long to fetch what it sees. Of a real day this is three minutes.
const BEHIND: Duration = Duration::from_millis(1500);

/// How long they stay.
const STAYS: std::ops::Range<Duration> = Duration::from_secs(2)..Duration::from_secs(12);

/// What they have no answer to by then does not come.
const PATIENCE: Duration = Duration::from_secs(5);

/// One in so many vanishes without a word, in the middle of a transfer.
const RUDE: u32 = 3;

/// What visitors have seen.
#[derive(Clone, Copy, Default)]
pub(crate) struct Seen {
    pub(crate) visits: u64,
    pub(crate) vanished: u64,
    pub(crate) refused: u64,
    pub(crate) served: u64,
    pub(crate) bytes: u64,
    pub(crate) lacks: u64,
    /// While there was no trouble.
    pub(crate) needless_lacks: u64,
    pub(crate) timeouts: u64,
}

impl AddAssign for Seen {
    fn add_assign(&mut self, other: Self) {
        self.visits += other.visits;
        self.vanished += other.vanished;
        self.refused += other.refused;
        self.served += other.served;
        self.bytes += other.bytes;
        self.lacks += other.lacks;
        self.needless_lacks += other.needless_lacks;
        self.timeouts += other.timeouts;
    }
}

/// One visitor after another, each on a device of its own, until the day is over.
pub(crate) fn all_day(signal: &str, url: impl Fn(Track) -> String, clock: Clock) -> Seen {
    let mut seen = Seen::default();
    let mut vanished = Vec::new();
    while !clock.is_over() {
        let track = TRACKS[rand::rng().random_range(..TRACKS.len())];
        let device = runtime::Builder::new_current_thread().enable_all().build();
        let device = device.unwrap();
        let rude = rand::rng().random_ratio(1, RUDE);
        let url = url(track);
        let visit = visit(signal, &url, track, clock, rude);
        let (of_visit, left_behind) = device.block_on(visit);
        seen += of_visit;
        // What is done with a device that is switched off says goodbye to nobody, and its socket stays
        // open: it is closed when the day is over.
        device.shutdown_background();
        vanished.extend(left_behind);
    }
    seen
}

/// What was seen, and the viewer if it has vanished.
async fn visit(
    signal: &str,
    url: &str,
    track: Track,
    clock: Clock,
    rude: bool,
) -> (Seen, Option<Viewer>) {
    let mut seen = Seen {
        visits: 1,
        ..Seen::default()
    };
    let Ok(mut viewer) = Viewer::try_join(signal, url, Form::Today).await else {
        seen.refused += 1;
        return (seen, None);
    };
    let end = Instant::now() + rand::rng().random_range(STAYS);
    let mut last = None;
    while Instant::now() < end && !clock.is_over() {
        let next = clock.newest(track, BEHIND);
        if last == Some(next) {
            sleep(clock.period / 4).await;
            continue;
        }
        last = Some(next);
        match viewer.ask(&next.uri(), next.number, PATIENCE).await {
            Outcome::Segment { bytes, .. } => {
                assert!(bytes == next.bytes(), "the bytes of {next:?}");
                seen.served += 1;
                seen.bytes += bytes.len() as u64;
            }
            Outcome::Lack { .. } => {
                seen.lacks += 1;
                seen.needless_lacks += u64::from(!clock.is_troubled_now(track));
            }
            Outcome::Timeout => seen.timeouts += 1,
        }
    }
    if !rude {
        viewer.leave().await;
        return (seen, None);
    }
    seen.vanished += 1;
    let next = clock.newest(track, BEHIND);
    viewer.send_request(&next.uri(), next.number).await;
    (seen, Some(viewer))
}
