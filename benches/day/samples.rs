//! What the box takes of its machine, sampled, and whether that grows.

use std::fmt;
use std::fs;
use std::path::Path;

use crate::process::memory;
use crate::shared::Report;
use crate::support::daemon::Daemon;

/// One look.
#[derive(Clone, Copy)]
pub(crate) struct Sample {
    /// Its own memory in MB (`RssAnon`), not what the kernel keeps of files.
    pub(crate) anon: f64,
    pub(crate) rss: f64,
    pub(crate) descriptors: usize,
    pub(crate) threads: usize,
    /// Files of the store, and their bytes.
    pub(crate) files: usize,
    pub(crate) bytes: u64,
    /// The same as the box says it (`edgeseed_store_bytes`).
    pub(crate) stored: u64,
    /// Bytes of the log so far.
    pub(crate) log: usize,
}

impl Sample {
    pub(crate) async fn of(daemon: &Daemon) -> Self {
        let pid = daemon.pid();
        let entries = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
        let (files, bytes) = usage(&daemon.store());
        Self {
            anon: memory(&pid.to_string(), "RssAnon"),
            rss: memory(&pid.to_string(), "VmRSS"),
            descriptors: entries("fd"),
            threads: entries("task"),
            files,
            bytes,
            stored: daemon.metric("edgeseed_store_bytes").await as u64,
            log: daemon.stderr().len(),
        }
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.1} MB of its own memory, {} descriptors, {} threads, {} files of {} bytes; it says {}",
            self.anon, self.descriptors, self.threads, self.files, self.bytes, self.stored
        )
    }
}

/// Files below a folder and their bytes; what vanishes meanwhile does not count.
fn usage(dir: &Path) -> (usize, u64) {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.fold((0, 0), |(files, bytes), entry| {
        let (more_files, more_bytes) = match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => usage(&entry.path()),
            Ok(metadata) => (1, metadata.len()),
            Err(_) => (0, 0),
        };
        (files + more_files, bytes + more_bytes)
    })
}

/// What is looked at, and by how much its median may grow from the second third of the run to the
/// last; the first is for warming up.
type Bound = (&'static str, fn(&Sample) -> f64, f64);

const BOUNDS: [Bound; 8] = [
    // Of a whole day, 40 bytes of each segment or 5 kB of each visit. The heap of a process whose
    // load varies moves by less than that from minute to minute.
    ("own memory (RssAnon), MB", |s| s.anon, 1.5),
    // The same, and what the kernel keeps of the program's own file.
    ("memory (VmRSS), MB", |s| s.rss, 2.0),
    // Sockets of viewers who have vanished, and connections to the origin that wait for another use.
    ("descriptors", |s| s.descriptors as f64, 16.0),
    // Those that wait for the disk: as many as there were pieces to be written at once, a moment ago.
    ("threads", |s| s.threads as f64, 8.0),
    // What follows goes up and down with what the origin has; what it may come to is judged apart.
    ("files of the store", |s| s.files as f64, f64::INFINITY),
    (
        "bytes of the store (du), MB",
        |s| s.bytes as f64 / 1e6,
        f64::INFINITY,
    ),
    (
        "edgeseed_store_bytes, MB",
        |s| s.stored as f64 / 1e6,
        f64::INFINITY,
    ),
    ("log so far, kB", |s| s.log as f64 / 1e3, f64::INFINITY),
];

/// Prints least, median and most of each third, and compares the last with the one before; and holds
/// the store to its `max_size`, of segments of so many bytes at least.
pub(crate) fn judge(report: &mut Report, samples: &[Sample], max_size: u64, least_segment: u64) {
    report.row("least/median/most of each third", "");
    for (name, what, may_grow) in BOUNDS {
        let third = samples.len() / 3;
        let thirds = [0, 1, 2].map(|number| {
            let part = &samples[number * third..(number + 1) * third];
            let mut values: Vec<f64> = part.iter().map(what).collect();
            values.sort_by(f64::total_cmp);
            [values[0], values[third / 2], values[third - 1]]
        });
        let shown = thirds.map(|[least, median, most]| format!("{least:.1}/{median:.1}/{most:.1}"));
        report.row(name, shown.join("   "));
        let grew = thirds[2][1] - thirds[1][1];
        if grew > may_grow {
            report.fail(format!("{name}: grew by {grew:.1}, more than {may_grow}"));
        }
    }
    let most = |what: fn(&Sample) -> u64| samples.iter().map(what).max().unwrap_or_default();
    let stored = most(|sample| sample.stored);
    if stored > max_size {
        report.fail(format!("{stored} bytes were stored, {max_size} allowed"));
    }
    // While the folders are gone through, some go from the one and others come to the next.
    let bytes = most(|sample| sample.bytes);
    if bytes > max_size + max_size / 50 {
        report.fail(format!(
            "{bytes} bytes were on the disk, {max_size} allowed"
        ));
    }
    let files = most(|sample| sample.files as u64);
    if files > max_size / least_segment {
        report.fail(format!("{files} files, more than segments have room"));
    }
}
