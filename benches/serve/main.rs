//! What serving costs and how fast it is: this box, the `webrtc` crate and libdatachannel as holders,
//! to viewers on libdatachannel and in Chromium, side by side in one run, and the floor below all.
//!
//! ```text
//! cargo bench --bench serve                                    # every holder, both receivers, 1, 8 and 64 viewers
//! cargo bench --bench serve -- --every 2 --viewers 8 --segments 200 --receivers chromium
//! cargo bench --bench serve -- --link lossy --segment-kb 350 --every 2 --viewers 4
//! ```
//!
//! Everything goes over the loopback interface of one machine, so that only what is beside each other
//! in one table compares. `scripts/setup bench` installs what it needs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::large_futures,
    clippy::print_stdout
)]

mod crate_holder;
mod floor;
mod holders;
mod link;
#[path = "../../tests/support/process.rs"]
mod process;
mod receiver;
#[path = "../shared/mod.rs"]
mod shared;
#[path = "../../tests/support/mod.rs"]
mod support;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use holders::{Holder, HolderKind};
use link::Conditions;
use receiver::{Plan, Receiver, ReceiverKind};
use support::origin::{Live, Origin, uri};
use support::relay::{Habits, Relay};
use table::{Row, Table};

/// Segments that viewers ask for, one after the other and again from the beginning.
const LISTED: u64 = 10;

/// The sequence number of the first of them.
const FIRST: u64 = 1;

/// More than anybody waits for.
const UNLIMITED: u64 = 1_000_000_000;

#[derive(Parser)]
#[command(about = "Serving, measured beside others")]
struct Args {
    /// Who serves.
    #[arg(long, value_delimiter = ',')]
    holders: Vec<HolderKind>,
    /// Who receives.
    #[arg(long, value_delimiter = ',')]
    receivers: Vec<ReceiverKind>,
    /// Viewers at once, one run for each number.
    #[arg(long, value_delimiter = ',')]
    viewers: Vec<usize>,
    /// How often all of it is measured; the table has the median run by processor time.
    #[arg(long, default_value_t = 1)]
    runs: usize,
    /// How long viewers go on asking; what they have asked for then is waited for. 5 without `--segments`.
    #[arg(long)]
    seconds: Option<f64>,
    /// How many segments each viewer asks for.
    #[arg(long)]
    segments: Option<u64>,
    /// Seconds from one request of a viewer to the next, as live players do; 0: as fast as it can.
    #[arg(long, default_value_t = 0.0)]
    every: f64,
    /// Size of a segment in kB (1000 bytes).
    #[arg(long, default_value_t = 2400)]
    segment_kb: usize,
    /// What is between holder and viewers.
    #[arg(long, value_enum, default_value_t = LinkKind::None)]
    link: LinkKind,
    /// The seed of the link's misfortunes.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The `edgeseed` to be measured, if not the one just built.
    #[arg(long)]
    bin: Option<PathBuf>,
    /// Where the table is written, too.
    #[arg(long)]
    out: Option<PathBuf>,
    /// What this process is started again for.
    #[arg(long, hide = true)]
    role: Option<String>,
    #[command(flatten)]
    size: shared::Size,
}

/// A link's name and what it does to datagrams.
#[derive(Clone, Copy, ValueEnum)]
enum LinkKind {
    /// The loopback interface as it is.
    None,
    /// 1 % loss and 20 ms there and back.
    Lossy,
    /// 5 % loss in bursts of eight, 20 ms there and back.
    Bursty,
    /// 100 Mbit/s, 3 to 8 ms there and back, 0.3 % loss, and silences of 60 ms.
    Wifi,
}

impl LinkKind {
    fn conditions(self) -> Option<Conditions> {
        Some(match self {
            Self::None => return None,
            Self::Lossy => Conditions::lossy(),
            Self::Bursty => Conditions::bursty(),
            Self::Wifi => Conditions::wifi(),
        })
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    match &args.role {
        Some(role) => shared::run(holders::act(role.clone())),
        None => shared::run(measure(args)),
    }
}

async fn measure(args: Args) -> shared::Report {
    shared::raise_file_limit();
    let tiny = args.size.is_tiny();
    let or = |given: &[usize], all: &[usize]| match (given, tiny) {
        ([], true) => vec![1],
        ([], false) => all.to_vec(),
        _ => given.to_vec(),
    };
    let viewers = or(&args.viewers, &[1, 8, 64]);
    let seconds = args.seconds.unwrap_or(match args.segments {
        Some(_) => UNLIMITED as f64,
        None if tiny => 1.0,
        None => 5.0,
    });
    let holders = match (args.holders.as_slice(), tiny) {
        ([], true) => vec![HolderKind::Edgeseed, HolderKind::Crate],
        ([], false) => HolderKind::ALL.to_vec(),
        (given, _) => given.to_vec(),
    };
    let receivers = match (args.receivers.as_slice(), tiny) {
        // What a tiny run needs is there without `scripts/setup bench`.
        ([], true) => vec![],
        ([], false) => ReceiverKind::ALL.to_vec(),
        (given, _) => given.to_vec(),
    };
    if let Some(conditions) = args.link.conditions() {
        link::install(conditions, args.seed);
    }
    let mut report = shared::Report::default();
    let mut table = Table::new(args.segment_kb, args.every);
    if holders.len() == HolderKind::ALL.len() || tiny {
        table.floor(floor::measure(if tiny { 1 } else { 1000 }).await);
    }
    for _ in 0..args.runs {
        for receiver in &receivers {
            for viewers in &viewers {
                for holder in &holders {
                    let row = one(*holder, *receiver, *viewers, seconds, &args).await;
                    for failure in row.failures() {
                        report.fail(format!("{}: {failure}", row.name()));
                    }
                    table.add(row);
                }
            }
        }
    }
    let text = table.to_string();
    println!("{text}");
    if let Some(out) = &args.out {
        std::fs::write(out, text).unwrap();
    }
    report
}

/// One holder, one receiver, so many viewers.
async fn one(
    holder: HolderKind,
    receiver: ReceiverKind,
    viewers: usize,
    seconds: f64,
    args: &Args,
) -> Row {
    let live = Live {
        segment_size: args.segment_kb * 1000,
        ..Live::default()
    };
    let origin = Origin::start_listing(live, Some(playlist())).await;
    let relay = Relay::start(Habits {
        alters: link::alter,
        ..Habits::default()
    })
    .await;
    let holder = Holder::start(holder, &origin, &relay, args.bin.clone()).await;
    let sequences = FIRST..FIRST + LISTED;
    let plan = Plan {
        kind: receiver,
        viewers,
        signal: relay.url.clone(),
        channel: origin.url(),
        first: FIRST,
        listed: LISTED,
        uris: sequences.clone().map(uri).collect(),
        marks: sequences
            .map(|number| mark(&origin.segment(number)))
            .collect(),
        seconds,
        segments: args.segments.unwrap_or(UNLIMITED),
        every: args.every * 1000.0,
    };
    let before = holder.memory();
    let mut receiving = Receiver::start(&plan);
    let opened = receiving.opened().await;
    let idle = holder.memory();
    let (cpu, receiving_cpu) = (holder.cpu(), receiving.cpu());
    let (seen, peak) = receiving.seen(|| holder.memory()).await;
    let row = Row {
        holder: holder.kind(),
        receiver,
        viewers,
        opened,
        cpu: holder.cpu().since(cpu),
        receiving_cpu: receiving.cpu() - receiving_cpu,
        idle_memory: idle - before,
        active_memory: peak - before,
        seen,
    };
    receiving.end().await;
    holder.stop().await;
    row
}

/// A live playlist to which nothing is added while it is measured.
fn playlist() -> String {
    let head = format!(
        "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:6\n#EXT-X-MEDIA-SEQUENCE:{FIRST}\n"
    );
    let segments = (FIRST..FIRST + LISTED).map(|number| format!("#EXTINF:6.0,\n{}\n", uri(number)));
    head + &segments.collect::<String>()
}

/// By what viewers tell a segment: the four bytes after the first one, which all of them share.
fn mark(segment: &[u8]) -> u32 {
    u32::from_be_bytes([segment[1], segment[2], segment[3], segment[4]])
}
