//! What it gains to send a segment while it arrives: the time from the origin's first byte to a viewer's
//! first and last packet, beside that of the same segments when the origin does not say how long they
//! are, so that each has to be whole first.
//!
//! ```text
//! cargo bench --bench cut_through -- --segments 10 --mbit 4 10 50
//! ```
//!
//! The viewer asks for each segment in the moment in which it is listed, and again after each LACK. A
//! viewer in the field waits 2 s for a segment ("in time").

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::large_futures,
    clippy::print_stdout
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use clap::Parser;
use support::daemon::{Daemon, Setup};
use support::origin::uri;
use support::tap::Tap;
use support::viewer::{Incoming, Viewer};
use tokio::time::{Instant, interval};

/// A viewer in the field gives up after this (protocol.md section 3).
const VIEWER_WAITS: Duration = Duration::from_secs(2);

/// How often the origin's link lets more through.
const TICK: Duration = Duration::from_millis(2);

#[derive(Parser)]
#[command(about = "Cut-through, measured")]
struct Args {
    /// Segments of each run.
    #[arg(long)]
    segments: Option<u64>,
    /// Size of a segment in kB (1000 bytes).
    #[arg(long, default_value_t = 2000)]
    segment_kb: usize,
    /// Speeds of the origin in Mbit/s.
    #[arg(long, num_args = 1..)]
    mbit: Vec<u32>,
    /// What `cargo bench` adds. Without it this is a test of the generator: a tiny run.
    #[arg(long, hide = true)]
    bench: bool,
    /// What `cargo bench -- --test` adds: a tiny run as well.
    #[arg(long, hide = true)]
    test: bool,
}

/// What became of one segment, from the origin's first byte on.
struct Seen {
    first_packet: Duration,
    last_packet: Duration,
    lacks: u32,
    /// From the REQUEST that was answered to the last packet.
    patience: Duration,
}

#[tokio::main]
async fn main() {
    let args = Args::parse();
    let tiny = args.test || !args.bench;
    let segments = args.segments.unwrap_or(if tiny { 2 } else { 10 });
    let speeds = match args.mbit.as_slice() {
        [] if tiny => vec![50],
        [] => vec![4, 10, 50],
        speeds => speeds.to_vec(),
    };
    println!(
        "{segments} segments of {} kB; milliseconds from the origin's first byte",
        args.segment_kb
    );
    println!(
        "origin     cut-through  first packet  last packet  the origin's last byte  LACKs  in time"
    );
    for mbit in speeds {
        for cut_through in [true, false] {
            let seen = run(mbit, args.segment_kb * 1000, segments, cut_through).await;
            let median = |of: fn(&Seen) -> Duration| {
                let mut all: Vec<Duration> = seen.iter().map(of).collect();
                all.sort();
                all[all.len() / 2].as_millis()
            };
            let lacks: u32 = seen.iter().map(|seen| seen.lacks).sum();
            let in_time = seen.iter().filter(|seen| seen.patience <= VIEWER_WAITS);
            println!(
                "{mbit:>3} Mbit/s  {:>11}  {:>12}  {:>11}  {:>22}  {lacks:>5}  {:>2} of {segments}",
                if cut_through { "yes" } else { "no" },
                median(|seen| seen.first_packet),
                median(|seen| seen.last_packet),
                args.segment_kb * 8 / mbit as usize,
                in_time.count(),
            );
        }
    }
}

async fn run(mbit: u32, size: usize, segments: u64, cut_through: bool) -> Vec<Seen> {
    let tap = Arc::new(Tap::start(size, cut_through).await);
    tap.list(1);
    tap.open(1, size);
    let daemon = Daemon::start(Setup::channel("news", tap.url())).await;
    let mut viewer = Viewer::join(&daemon.signal, &tap.url()).await;
    let mut seen = Vec::new();
    for sequence in 2..segments + 3 {
        tap.list(sequence);
        let link = tokio::spawn(link(Arc::clone(&tap), sequence, mbit, size));
        let one = watch(&tap, &mut viewer, sequence).await;
        link.await.unwrap();
        // The first one widens the viewer's window.
        if sequence > 2 {
            seen.push(one);
        }
    }
    seen
}

/// Lets a segment through at this speed, from the moment in which it is asked for.
async fn link(tap: Arc<Tap>, sequence: u64, mbit: u32, size: usize) {
    let bytes_per_second = f64::from(mbit) * 125_000.0;
    let mut tick = interval(TICK);
    tap.open(sequence, 1);
    let first_byte = loop {
        tick.tick().await;
        if let Some(first_byte) = tap.first_byte(sequence) {
            break first_byte;
        }
    };
    let mut open = 1;
    while open < size {
        tick.tick().await;
        let through = first_byte.elapsed().as_secs_f64() * bytes_per_second;
        open = size.min(through as usize).max(1);
        tap.open(sequence, open);
    }
}

async fn watch(tap: &Tap, viewer: &mut Viewer, sequence: u64) -> Seen {
    let mut asked = Instant::now();
    viewer.send_request(&uri(sequence), sequence).await;
    let mut lacks = 0;
    loop {
        let Incoming::Text(text) = viewer.next().await.expect("the channel stays open") else {
            panic!("a packet that no BINARY announced");
        };
        match text["event"].as_str() {
            Some("BINARY") => break,
            Some("LACK") => {
                lacks += 1;
                asked = Instant::now();
                viewer.send_request(&uri(sequence), sequence).await;
            }
            _ => {}
        }
    }
    let whole = tap.segment(sequence);
    let mut got = BytesMut::from(&*viewer.next_packet().await);
    let first_packet = Instant::now();
    while got.len() < whole.len() {
        got.extend_from_slice(&viewer.next_packet().await);
    }
    let last_packet = Instant::now();
    assert!(got == whole, "the bytes of segment {sequence}");
    let first_byte = tap.first_byte(sequence).unwrap();
    Seen {
        first_packet: first_packet.saturating_duration_since(first_byte),
        last_packet: last_packet.saturating_duration_since(first_byte),
        lacks,
        patience: last_packet - asked,
    }
}
