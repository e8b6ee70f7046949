//! The load generator: an origin in this process, the box as a child process, and viewers that
//! ask for every new segment as live players do.
//!
//! ```text
//! cargo bench --bench viewers -- --viewers 100 --seconds 60 --segment-kb 350 --segment-seconds 2
//! ```
//!
//! Fails when a segment was fetched more than once, or a listed one was answered with LACK.
//! Whatever is late may be this generator's fault: its own processor time is reported beside the
//! box's, and is the larger one on a machine that carries both.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::large_futures,
    clippy::print_stdout
)]

#[path = "../tests/support/process.rs"]
mod process;
mod shared;
#[path = "../tests/support/mod.rs"]
mod support;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use futures_util::{StreamExt, stream};
use process::{cpu, memory};
use rand::Rng;
use shared::Report;
use support::daemon::{Daemon, Setup};
use support::origin::{Live, Origin, uri};
use support::viewer::{Outcome, Viewer};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// A viewer in the field gives up after this (protocol.md section 3).
const VIEWER_WAITS: Duration = Duration::from_secs(2);

/// We wait longer, to see by how much it was late.
const WE_WAIT: Duration = Duration::from_secs(5);

/// Viewers that connect at the same time.
const JOINING: usize = 8;

#[derive(Parser)]
#[command(about = "Viewers at a box, measured")]
struct Args {
    /// Viewers at once.
    #[arg(long)]
    viewers: Option<usize>,
    /// How long they watch.
    #[arg(long)]
    seconds: Option<u64>,
    /// Size of a segment in kB (1000 bytes).
    #[arg(long, default_value_t = 350)]
    segment_kb: usize,
    /// Duration of a segment.
    #[arg(long)]
    segment_seconds: Option<u64>,
    /// Segments in the playlist.
    #[arg(long, default_value_t = 6)]
    window: u64,
    /// The `edgeseed` to be measured, if not the one just built.
    #[arg(long)]
    bin: Option<PathBuf>,
    #[command(flatten)]
    size: shared::Size,
}

/// What the viewers saw.
#[derive(Default)]
struct Seen {
    served: Vec<Duration>,
    lacks: Vec<u64>,
    timeouts: usize,
}

fn main() -> ExitCode {
    shared::run(measure(Args::parse()))
}

async fn measure(args: Args) -> Report {
    let tiny = args.size.is_tiny();
    let viewers = args.viewers.unwrap_or(if tiny { 3 } else { 20 });
    let length = Duration::from_secs(args.seconds.unwrap_or(if tiny { 4 } else { 20 }));
    let segment_seconds = args.segment_seconds.unwrap_or(if tiny { 1 } else { 2 });
    let live = Live {
        segment_duration: Duration::from_secs(segment_seconds),
        window: args.window,
        segment_size: args.segment_kb * 1000,
    };
    let origin = Arc::new(Origin::start(live).await);
    let more = format!("[peer]\nudp-port = 0\nmax-peers = {viewers}\n");
    let mut setup = Setup::channel("news", origin.url()).with(&more);
    setup.binary = args.bin;
    let daemon = Daemon::start(setup).await;
    let pid = daemon.pid().to_string();
    let idle = memory(&pid, "VmRSS");

    let begun = Instant::now();
    let url = origin.url();
    let joined: Vec<Viewer> = stream::iter(0..viewers)
        .map(|_| Viewer::join(&daemon.signal, &url))
        .buffer_unordered(JOINING)
        .collect()
        .await;
    println!(
        "{viewers} viewers connected in {:.1} s",
        begun.elapsed().as_secs_f64()
    );

    let (box_before, own_before) = (cpu(&pid), cpu("self"));
    let start = Instant::now();
    let mut watching: JoinSet<Seen> = joined
        .into_iter()
        .map(|viewer| watch(viewer, Arc::clone(&origin), live, start + length))
        .collect();
    sleep_until(start + length / 3).await;
    let third = memory(&pid, "VmRSS");
    let (mut seen, mut shares) = (Seen::default(), Vec::new());
    while let Some(one) = watching.join_next().await {
        // A viewer that saw a wrong byte has panicked.
        let one = one.unwrap();
        shares.push(one.served.len());
        seen.served.extend(one.served);
        seen.lacks.extend(one.lacks);
        seen.timeouts += one.timeouts;
    }
    let took = start.elapsed().as_secs_f64();
    let (box_cpu, own_cpu) = (cpu(&pid), cpu("self"));
    let (box_used, own_used) = (box_cpu.since(box_before), own_cpu.since(own_before));

    seen.served.sort();
    let expected = seen.served.len() + seen.lacks.len() + seen.timeouts;
    let late = seen
        .served
        .iter()
        .filter(|elapsed| **elapsed > VIEWER_WAITS)
        .count();
    let gigabytes = (seen.served.len() * live.segment_size) as f64 / 1e9;
    let fetched = fetches(&origin);
    let mut report = Report::default();
    let row = |name: &str, value: String| report.row(name, value);
    row(
        "segments of",
        format!("{} kB every {segment_seconds} s", args.segment_kb),
    );
    row(
        "watched",
        format!(
            "{took:.1} s, {gigabytes:.3} GB, {:.1} Mbit/s",
            gigabytes * 8e3 / took
        ),
    );
    row("segments expected", expected.to_string());
    row("  served", seen.served.len().to_string());
    row("  served later than 2 s", late.to_string());
    row("  LACK", seen.lacks.len().to_string());
    row("  no answer in 5 s", seen.timeouts.to_string());
    row("  least / most that a viewer got", {
        let (least, most) = (shares.iter().min(), shares.iter().max());
        format!("{} / {}", least.unwrap_or(&0), most.unwrap_or(&0))
    });
    row("time p50 / p95 / worst", {
        let at = |part: f64| millis(&seen.served, part);
        format!("{} / {} / {} ms", at(0.5), at(0.95), at(1.0))
    });
    row(
        "segments fetched from the origin",
        fetched.len().to_string(),
    );
    row(
        "  most often one was fetched",
        fetched.values().max().copied().unwrap_or(0).to_string(),
    );
    row("box: RSS idle / at 1/3 / at end", {
        let end = memory(&pid, "VmRSS");
        format!("{idle:.1} / {third:.1} / {end:.1} MB")
    });
    row("box: RSS peak", format!("{:.1} MB", memory(&pid, "VmHWM")));
    row("box: CPU, connecting included", box_cpu.to_string());
    row("box: CPU while watched", {
        let (total, share) = (box_used.total(), 100.0 * box_used.total() / took);
        format!(
            "{box_used} = {:.1} s per GB, {share:.0} % of a core",
            total / gigabytes
        )
    });
    row("generator: CPU while watched", {
        format!(
            "{own_used} = {:.0} % of a core",
            100.0 * own_used.total() / took
        )
    });

    for (segment, count) in fetched.iter().filter(|(_, count)| **count > 1) {
        report.fail(format!("{segment} was fetched {count} times"));
    }
    if !seen.lacks.is_empty() {
        report.fail(format!("LACK for listed segments {:?}", seen.lacks));
    }
    if seen.served.is_empty() {
        report.fail("nothing was served");
    }
    let ended = daemon.stop().await;
    if ended.code != Some(0) {
        report.fail(format!(
            "the box ended with {:?}:\n{}",
            ended.code, ended.stderr
        ));
    }
    report
}

/// Asks for every new segment, always the same time after it is listed: a live player has found it
/// at its next reload of the playlist, and reloads once per segment.
async fn watch(mut viewer: Viewer, origin: Arc<Origin>, live: Live, end: Instant) -> Seen {
    let phase = rand::rng().random_range(Duration::ZERO..live.segment_duration);
    let mut seen = Seen::default();
    for sequence in origin.newest() + 1.. {
        let at = origin.listed_at(sequence) + phase;
        if at >= end {
            break;
        }
        sleep_until(at).await;
        match viewer.ask(&uri(sequence), sequence, WE_WAIT).await {
            Outcome::Segment { bytes, elapsed } => {
                assert!(
                    bytes == origin.segment(sequence),
                    "the bytes of segment {sequence}"
                );
                seen.served.push(elapsed);
            }
            Outcome::Lack { .. } => seen.lacks.push(sequence),
            Outcome::Timeout => seen.timeouts += 1,
        }
    }
    seen
}

/// The segments that the origin was asked for, and how often.
fn fetches(origin: &Origin) -> std::collections::BTreeMap<String, u64> {
    let mut requests = origin.requests();
    requests.retain(|path, _| path.contains("/seg_"));
    requests
}

/// The value below which this part of the sorted values lies.
fn millis(sorted: &[Duration], part: f64) -> u128 {
    let last = sorted.len().saturating_sub(1);
    let index = (last as f64 * part).round() as usize;
    sorted.get(index).map_or(0, Duration::as_millis)
}
