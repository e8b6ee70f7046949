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
    /// Bytes of the log so far.
    pub(crate) log: usize,
}

impl Sample {
    pub(crate) fn of(daemon: &Daemon) -> Self {
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
            log: daemon.stderr().len(),
        }
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.1} MB of its own, {} descriptors, {} threads, {} files",
            self.anon, self.descriptors, self.threads, self.files
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

/// Least, median and most of each third of a run.
pub(crate) struct Thirds([[f64; 3]; 3]);

impl Thirds {
    fn of(samples: &[Sample], what: impl Fn(&Sample) -> f64) -> Self {
        let third = samples.len() / 3;
        Self([0, 1, 2].map(|number| {
            let part = &samples[number * third..(number + 1) * third];
            let mut values: Vec<f64> = part.iter().map(&what).collect();
            values.sort_by(f64::total_cmp);
            [values[0], values[third / 2], values[third - 1]]
        }))
    }
}

/// Compares the first third with the last.
pub(crate) fn judge(report: &mut Report, samples: &[Sample], store: u64) {
    // (what, how to see it, how much the median may grow and why).
    let all: [(&str, fn(&Sample) -> f64); 7] = [
        ("own memory (RssAnon), MB", |s| s.anon),
        ("VmRSS, MB", |s| s.rss),
        ("descriptors", |s| s.descriptors as f64),
        ("threads", |s| s.threads as f64),
        ("files of the store", |s| s.files as f64),
        ("bytes of the store, MB", |s| s.bytes as f64 / 1e6),
        ("bytes of the log, kB", |s| s.log as f64 / 1e3),
    ];
    for (name, what) in all {
        let Thirds(thirds) = Thirds::of(samples, what);
        let thirds =
            thirds.map(|[least, median, most]| format!("{least:.1} {median:.1} {most:.1}"));
        report.row(name, thirds.join(" | "));
    }
    let _ = store;
}
