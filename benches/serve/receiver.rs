//! Who receives: a process of Node.js with viewers on libdatachannel, or with a page of Chromium.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::process;

/// How often the holder's memory is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Who receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ReceiverKind {
    /// libdatachannel, by node-datachannel.
    Libdatachannel,
    /// A page in Chromium.
    Chromium,
}

impl ReceiverKind {
    pub(crate) const ALL: [Self; 2] = [Self::Libdatachannel, Self::Chromium];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Libdatachannel => "libdatachannel",
            Self::Chromium => "Chromium",
        }
    }
}

/// What viewers are to do.
#[derive(Serialize)]
pub(crate) struct Plan {
    pub(crate) kind: ReceiverKind,
    pub(crate) viewers: usize,
    pub(crate) signal: String,
    pub(crate) channel: String,
    /// The sequence number of the first segment.
    pub(crate) first: u64,
    pub(crate) listed: u64,
    pub(crate) uris: Vec<String>,
    /// By what a segment is told from the others.
    pub(crate) marks: Vec<u32>,
    pub(crate) seconds: f64,
    pub(crate) segments: u64,
    /// Milliseconds.
    pub(crate) every: f64,
}

/// What one viewer saw.
#[derive(Deserialize)]
pub(crate) struct Seen {
    /// Milliseconds from each REQUEST to its last byte.
    pub(crate) times: Vec<f64>,
    pub(crate) bytes: u64,
    pub(crate) lacks: u64,
    /// 1 if a segment never came, upon which the viewer gave up.
    pub(crate) lost: u64,
    /// Packets that were not what was asked for.
    pub(crate) wrong: u64,
    /// Milliseconds from the first REQUEST to the last byte.
    pub(crate) took: f64,
}

/// What the process says.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Said {
    Opened(Vec<f64>),
    Seen(Vec<Seen>),
}

pub(crate) struct Receiver {
    child: Child,
    told: ChildStdin,
    said: Lines<BufReader<ChildStdout>>,
}

impl Receiver {
    pub(crate) fn start(plan: &Plan) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/serve/receiver.mjs");
        let mut child = Command::new("node")
            .arg(script)
            .arg(serde_json::to_string(plan).unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("Node.js (scripts/setup bench installs what the bench needs)");
        Self {
            told: child.stdin.take().unwrap(),
            said: BufReader::new(child.stdout.take().unwrap()).lines(),
            child,
        }
    }

    async fn said(&mut self) -> Said {
        let line = self.said.next_line().await.unwrap();
        let line = line.expect("the receiver ended (see above; is `scripts/setup bench` done?)");
        serde_json::from_str(&line).unwrap()
    }

    /// Waits for all channels; milliseconds from each offer until its channel was open.
    pub(crate) async fn opened(&mut self) -> Vec<f64> {
        match self.said().await {
            Said::Opened(opened) => opened,
            Said::Seen(_) => panic!("nothing was to be seen yet"),
        }
    }

    async fn tell(&mut self) {
        self.told.write_all(b"go\n").await.unwrap();
    }

    /// Lets the viewers ask, and waits for what they saw. Also gives the most that `look` has said.
    pub(crate) async fn seen(&mut self, look: impl Fn() -> f64) -> (Vec<Seen>, f64) {
        self.tell().await;
        let mut most = 0_f64;
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                said = self.said() => match said {
                    Said::Seen(seen) => return (seen, most),
                    Said::Opened(_) => panic!("all were open already"),
                },
                _ = ticks.tick() => most = most.max(look()),
            }
        }
    }

    /// Processor time of the process and of all that it started, in seconds.
    pub(crate) fn cpu(&self) -> f64 {
        let parents = parents();
        let root = self.child.id().expect("it is running");
        let descends = |mut pid: u32| {
            while pid != root {
                match parents.get(&pid) {
                    Some(parent) => pid = *parent,
                    None => return false,
                }
            }
            true
        };
        let all = parents.keys().filter(|pid| descends(**pid));
        let cpus = all.filter_map(|pid| process::cpu_if_running(&pid.to_string()));
        cpus.map(process::Cpu::total).sum()
    }

    pub(crate) async fn end(mut self) {
        self.tell().await;
        self.child.wait().await.unwrap();
    }
}

/// Every process and its parent.
fn parents() -> BTreeMap<u32, u32> {
    let entries = std::fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let pairs = pids.filter_map(|pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, fields) = stat.rsplit_once(')')?;
        Some((pid, fields.split_whitespace().nth(1)?.parse().ok()?))
    });
    pairs.collect()
}
