//! A day of three channels, in compressed time: an origin in this process whose clock runs fast, the
//! box as a child process with a store that is too small, and viewers who come and go all day.
//!
//! ```text
//! cargo bench --bench day -- --hours 24 --minutes 12
//! ```
//!
//! What is compressed is the media: a segment of 6 s is listed, and takes, 50 ms, while the box reloads,
//! retries and forgets viewers by its own clock. So the day has all of its segments, and as many of
//! everything else as fit into some minutes; a list holds more segments than it would, those that
//! come between two looks.
//!
//! Fails when a byte is wrong, when a segment is sent more than once without a reason, when the store
//! outgrows its size, and when memory, descriptors, threads or files grow from the first third to the last.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::large_futures,
    clippy::print_stdout
)]

mod origin;
#[path = "../../tests/support/process.rs"]
mod process;
mod samples;
#[path = "../shared/mod.rs"]
mod shared;
#[path = "../../tests/support/mod.rs"]
mod support;
mod visit;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use origin::{Clock, Counts, Origin, SEGMENT, TRACKS, Track};
use process::cpu;
use samples::Sample;
use shared::Report;
use support::daemon::{Daemon, Setup};
use support::eventually;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use visit::Seen;

/// `[store] max-size`, the least there is: less than the channels' lists hold, so that segments are
/// evicted all day.
const STORE: u64 = 16 << 20;

/// One in so many may be fetched twice or not at all: a machine that is busy lets the origin answer so
/// late that the box asks again, or look so late that a list has run on.
const FEW: u64 = 200;

/// How often it is looked at what the box takes.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A viewer is forgotten after 10 s of silence.
const FORGOTTEN: Duration = Duration::from_secs(30);

#[derive(Parser)]
#[command(about = "A day of three channels in compressed time")]
struct Args {
    /// Hours of segments.
    #[arg(long)]
    hours: Option<f64>,
    /// Minutes that they take.
    #[arg(long)]
    minutes: Option<f64>,
    /// Viewers at once.
    #[arg(long, default_value_t = 6)]
    viewers: usize,
    /// The `edgeseed` to be measured, if not the one just built.
    #[arg(long)]
    bin: Option<PathBuf>,
    #[command(flatten)]
    size: shared::Size,
}

fn main() -> ExitCode {
    shared::run(measure(Args::parse()))
}

async fn measure(args: Args) -> Report {
    shared::raise_file_limit();
    let tiny = args.size.is_tiny();
    let hours = args.hours.unwrap_or(if tiny { 0.5 } else { 2.0 });
    let minutes = args.minutes.unwrap_or(hours / 2.0);
    let day = Duration::from_secs_f64(hours * 3600.0);
    let clock = Clock::new(day, Duration::from_secs_f64(minutes * 60.0));
    let origin = Origin::start(clock).await;
    let daemon = Daemon::start(Setup {
        binary: args.bin,
        ..setup(&origin, clock, args.viewers)
    })
    .await;
    let pid = daemon.pid().to_string();
    let idle = Sample::of(&daemon).await;
    let cpu_before = cpu(&pid);

    let mut watching = JoinSet::new();
    for _ in 0..args.viewers {
        let signal = daemon.signal.clone();
        let urls = TRACKS.map(|track| origin.url(track));
        let url = move |track: Track| urls[track as usize].clone();
        watching.spawn_blocking(move || visit::all_day(&signal, url, clock));
    }
    let mut samples = Vec::new();
    let mut next = Instant::now();
    while !clock.is_over() {
        next += LOOK_EVERY;
        sleep_until(next).await;
        samples.push(Sample::of(&daemon).await);
    }
    // A viewer that saw a wrong byte has panicked.
    let seen = watching.join_all().await;
    let seen = seen.into_iter().fold(Seen::default(), |mut all, one| {
        all += one;
        all
    });
    let used = cpu(&pid).since(cpu_before);

    let mut report = Report::default();
    report.row(
        "a day of",
        format!(
            "{hours} h, {:.0} times as fast: a segment of {} s every {:.0} ms for {minutes} min",
            day.as_secs_f64() / clock.takes.as_secs_f64(),
            SEGMENT.as_secs(),
            clock.period.as_secs_f64() * 1e3,
        ),
    );
    fetched(&mut report, clock, &origin.counts());
    watched(&mut report, seen);
    let written = daemon.metric("edgeseed_store_written_bytes_total").await;
    report.row("store: written", {
        let times = written / STORE as f64;
        format!("{:.1} MB, {times:.0} times its size", written / 1e6)
    });
    report.row("box: CPU", used);
    samples::judge(&mut report, &samples, STORE, origin::SIZE);
    at_rest(&mut report, &daemon, idle).await;
    let ended = daemon.stop().await;
    if ended.code != Some(0) {
        report.fail(format!(
            "the box ended with {:?}:\n{}",
            ended.code, ended.stderr
        ));
    }
    report
}

fn setup(origin: &Origin, clock: Clock, viewers: usize) -> Setup {
    // Of sixty segments, in the time that they take here.
    let window = (clock.period * 60).max(Duration::from_secs(1));
    let channels = [
        ("news", Track::News),
        ("film", Track::Film),
        ("sport", Track::Sport),
    ];
    let channels: String = channels
        .iter()
        .map(|(name, track)| {
            let url = origin.url(*track);
            format!(
                "[[channel]]\nname = \"{name}\"\nurl = \"{url}\"\nwindow = \"{}s\"\n",
                window.as_secs_f64()
            )
        })
        .collect();
    // Those who have vanished keep their places for a while.
    let peers = viewers * 8;
    Setup {
        max_size: Some(format!("{STORE}B")),
        ..Setup::default()
    }
    .with(&format!(
        "[peer]\nudp-port = 0\nmax-peers = {peers}\npacket-size = \"16KiB\"\n{channels}"
    ))
}

/// Each segment once.
fn fetched(report: &mut Report, clock: Clock, counts: &Counts) {
    report.row("origin: playlists sent", counts.playlists);
    report.row("origin: initialization sections", counts.sections);
    report.row("origin: failed on purpose", counts.failed);
    for track in TRACKS {
        let (mut all, mut once, mut excused, mut again, mut missed) = (0, 0, 0, 0, 0);
        for (segment, troubled) in clock.segments(track) {
            all += 1;
            match counts.sent.get(&segment) {
                Some(1) => once += 1,
                _ if troubled => excused += 1,
                Some(_) => again += 1,
                None => missed += 1,
            }
        }
        report.row(
            &format!("{track:?}: segments"),
            format!(
                "{all}; fetched once {once}, twice {again}, never {missed}; not once in trouble {excused}"
            ),
        );
        if again + missed > all / FEW {
            report.fail(format!("not every segment of {track:?} was fetched once"));
        }
    }
}

fn watched(report: &mut Report, seen: Seen) {
    report.row(
        "viewers: visits",
        format!(
            "{}; {} of them vanished, {} had no channel",
            seen.visits, seen.vanished, seen.refused
        ),
    );
    report.row(
        "viewers: segments",
        format!(
            "{} served ({:.1} MB, every byte the origin's), {} LACK in trouble, {} without, {} \
             unanswered",
            seen.served,
            seen.bytes as f64 / 1e6,
            seen.lacks - seen.needless_lacks,
            seen.needless_lacks,
            seen.timeouts
        ),
    );
    if seen.needless_lacks >= seen.served / FEW {
        report.fail("LACK for what there was time to fetch");
    }
    if seen.timeouts > 0 {
        report.fail("a REQUEST was not answered");
    }
}

/// Once the day is over and everybody gone, nothing may be left of them.
async fn at_rest(report: &mut Report, daemon: &Daemon, idle: Sample) {
    eventually("the viewers are forgotten", FORGOTTEN, async || {
        let peers =
            daemon.metric("edgeseed_peers").await + daemon.metric("edgeseed_buffer_bytes").await;
        let sockets = daemon.metric("edgeseed_signal_server_sockets").await;
        // Each channel of the box has one itself.
        (peers == 0.0 && sockets == 3.0).then_some(())
    })
    .await;
    let rest = Sample::of(daemon).await;
    report.row("at rest before", idle);
    report.row("at rest after", rest);
    if rest.stored != rest.bytes {
        report.fail("the store does not hold what its metric says");
    }
}
