//! What a box costs that nobody looks at: how soon it is ready with an empty store, and the processor
//! time that it takes to follow its channels.
//!
//! ```text
//! cargo bench --bench idle -- --channels 5 --segment-seconds 6 --seconds 60
//! ```

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
use std::time::Duration;

use clap::Parser;
use process::{cpu, memory};
use shared::Report;
use support::daemon::{Daemon, Setup, Stopped};
use support::origin::{Live, Origin};
use tokio::time::{Instant, sleep};

#[derive(Parser)]
#[command(about = "A box without viewers, measured")]
struct Args {
    /// Channels that it follows.
    #[arg(long, default_value_t = 5)]
    channels: usize,
    /// Duration of a segment.
    #[arg(long, default_value_t = 6)]
    segment_seconds: u64,
    /// Size of a segment in kB (1000 bytes).
    #[arg(long, default_value_t = 2400)]
    segment_kb: usize,
    /// How often it is started.
    #[arg(long)]
    starts: Option<usize>,
    /// How long it is looked at.
    #[arg(long)]
    seconds: Option<u64>,
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
    let tiny = args.size.is_tiny();
    let starts = args.starts.unwrap_or(if tiny { 1 } else { 21 });
    let seconds = args.seconds.unwrap_or(if tiny { 1 } else { 60 });
    let live = Live {
        segment_duration: Duration::from_secs(args.segment_seconds),
        segment_size: args.segment_kb * 1000,
        ..Live::default()
    };
    let mut origins = Vec::new();
    for _ in 0..args.channels {
        origins.push(Origin::start(live).await);
    }
    let setup = || {
        let named = |(number, origin): (usize, &Origin)| {
            let name: &'static str = format!("channel-{number}").leak();
            (name, origin.url())
        };
        Setup {
            channels: origins.iter().enumerate().map(named).collect(),
            binary: args.bin.clone(),
            ..Setup::default()
        }
    };
    let report = Report::default();
    report.row("channels", args.channels);
    report.row("segments of", {
        format!("{} kB every {} s", args.segment_kb, args.segment_seconds)
    });

    let mut took = Vec::new();
    for _ in 0..starts {
        let (daemon, ready) = Stopped::fresh(&setup()).start().await;
        took.push(ready.as_secs_f64() * 1e3);
        daemon.stop().await;
    }
    took.sort_by(f64::total_cmp);
    report.row("from the start to READY, median / worst", {
        format!(
            "{:.1} / {:.1} ms of {starts}",
            took[starts / 2],
            took[starts - 1]
        )
    });

    let daemon = Daemon::start(setup()).await;
    let pid = daemon.pid().to_string();
    // The window is fetched as fast as the origin gives it; then it is one segment after the other.
    sleep(Duration::from_secs(if tiny {
        0
    } else {
        args.segment_seconds
    }))
    .await;
    let (before, start) = (cpu(&pid), Instant::now());
    sleep(Duration::from_secs(seconds)).await;
    let used = cpu(&pid).since(before);
    let share = 100.0 * used.total() / start.elapsed().as_secs_f64();
    report.row("CPU while nobody watches", {
        format!("{used} in {seconds} s = {share:.2} % of a core")
    });
    report.row("RSS", format!("{:.1} MB", memory(&pid, "VmRSS")));
    daemon.stop().await;
    report
}
