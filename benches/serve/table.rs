//! What was measured, as a table, and how it compares.

use std::fmt;

use super::holders::HolderKind;
use super::process::Cpu;
use super::receiver::{ReceiverKind, Seen};

/// A viewer in the field gives up after this many ms (protocol.md section 3).
const VIEWER_WAITS: f64 = 2000.0;

/// One run.
pub(crate) struct Row {
    pub(crate) holder: HolderKind,
    pub(crate) receiver: ReceiverKind,
    pub(crate) viewers: usize,
    pub(crate) opened: Vec<f64>,
    pub(crate) cpu: Cpu,
    /// Seconds.
    pub(crate) receiving_cpu: f64,
    /// kB that the viewers cost before they ask.
    pub(crate) idle_memory: f64,
    /// kB that they cost at most while they are served.
    pub(crate) active_memory: f64,
    pub(crate) seen: Vec<Seen>,
}

impl Row {
    pub(crate) fn name(&self) -> String {
        let (holder, receiver) = (self.holder.name(), self.receiver.name());
        format!("{holder} to {} on {receiver}", self.viewers)
    }

    /// What must not be.
    pub(crate) fn failures(&self) -> Vec<String> {
        let wrong: u64 = self.seen.iter().map(|seen| seen.wrong).sum();
        let lacks: u64 = self.seen.iter().map(|seen| seen.lacks).sum();
        let mut failures = Vec::new();
        if wrong > 0 {
            failures.push(format!("{wrong} packets were not what was asked for"));
        }
        if lacks > 0 {
            failures.push(format!("{lacks} LACKs for segments that are there"));
        }
        if self.lost() > 0 && self.holder == HolderKind::Edgeseed {
            failures.push(format!("{} viewers waited in vain", self.lost()));
        }
        if self.seen.iter().all(|seen| seen.times.is_empty()) {
            failures.push("nothing was served".to_owned());
        }
        failures
    }

    fn gigabytes(&self) -> f64 {
        self.seen.iter().map(|seen| seen.bytes as f64).sum::<f64>() / 1e9
    }

    fn rate(&self) -> f64 {
        let took = self.seen.iter().map(|seen| seen.took).fold(0.0, f64::max);
        self.gigabytes() * 1e6 / took
    }

    fn cpu_per_gigabyte(&self) -> f64 {
        self.cpu.total() / self.gigabytes()
    }

    fn times(&self) -> Vec<f64> {
        sorted(self.seen.iter().flat_map(|seen| seen.times.iter().copied()))
    }

    fn worst(&self) -> f64 {
        self.times().last().copied().unwrap_or(f64::NAN)
    }

    fn in_time(&self) -> f64 {
        let times = self.times();
        let in_time = times.iter().filter(|time| **time <= VIEWER_WAITS).count();
        100.0 * in_time as f64 / (times.len() + self.lost()).max(1) as f64
    }

    /// Viewers who waited in vain.
    fn lost(&self) -> usize {
        self.seen.iter().map(|seen| seen.lost as usize).sum()
    }

    /// The least of what a viewer got by the most.
    fn fairness(&self) -> f64 {
        let bytes = || self.seen.iter().map(|seen| seen.bytes as f64);
        bytes().fold(f64::MAX, f64::min) / bytes().fold(0.0, f64::max)
    }

    fn cells(&self) -> Vec<String> {
        let (times, opened) = (self.times(), sorted(self.opened.iter().copied()));
        let gigabytes = self.gigabytes();
        let viewers = self.viewers as f64;
        vec![
            self.receiver.name().to_owned(),
            self.viewers.to_string(),
            self.holder.name().to_owned(),
            format!("{:.1}", self.rate()),
            format!("{:.2}", self.cpu_per_gigabyte()),
            format!("{:.2}", self.cpu.user() / gigabytes),
            format!("{:.2}", self.receiving_cpu / gigabytes),
            format!("{:.0}", part(&times, 0.5)),
            format!("{:.0}", part(&times, 0.99)),
            format!("{:.0}", self.worst()),
            format!("{:.1}", self.in_time()),
            format!("{:.2}", self.fairness()),
            format!("{:.0}", self.idle_memory / viewers),
            format!("{:.0}", self.active_memory / viewers),
            format!("{:.0}", part(&opened, 0.5)),
            format!("{:.0}", part(&opened, 1.0)),
        ]
    }
}

const HEAD: [&str; 16] = [
    "receiver",
    "viewers",
    "holder",
    "MB/s",
    "CPU s/GB",
    "user",
    "receiver's",
    "p50 ms",
    "p99",
    "worst",
    "in 2 s %",
    "min/max",
    "idle kB",
    "active",
    "open ms",
    "worst",
];

/// All runs.
pub(crate) struct Table {
    segment_kb: usize,
    every: f64,
    floor: Option<(Cpu, f64)>,
    rows: Vec<Row>,
}

impl Table {
    pub(crate) fn new(segment_kb: usize, every: f64) -> Self {
        Self {
            segment_kb,
            every,
            floor: None,
            rows: Vec::new(),
        }
    }

    pub(crate) fn floor(&mut self, floor: (Cpu, f64)) {
        self.floor = Some(floor);
    }

    pub(crate) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Of the runs of the same kind, the one in the middle by processor time, and in the order of the
    /// first.
    fn medians(&self) -> Vec<&Row> {
        let mut kinds: Vec<Vec<&Row>> = Vec::new();
        for row in &self.rows {
            match kinds.iter_mut().find(|kind| kind[0].name() == row.name()) {
                Some(kind) => kind.push(row),
                None => kinds.push(vec![row]),
            }
        }
        kinds
            .into_iter()
            .map(|mut kind| {
                kind.sort_by(|a, b| a.cpu_per_gigabyte().total_cmp(&b.cpu_per_gigabyte()));
                kind[kind.len() / 2]
            })
            .collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pace = match self.every {
            0.0 => "as fast as each viewer can".to_owned(),
            every => format!("one every {every} s for each viewer"),
        };
        writeln!(f, "segments of {} kB, {pace}", self.segment_kb)?;
        let medians = self.medians();
        let mut lines = vec![HEAD.map(str::to_owned).to_vec()];
        lines.extend(medians.iter().map(|row| row.cells()));
        let width = |column: usize| lines.iter().map(|cells| cells[column].len()).max();
        let widths: Vec<usize> = (0..HEAD.len()).filter_map(width).collect();
        for cells in &lines {
            let padded: Vec<String> = cells
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:>width$}"))
                .collect();
            writeln!(f, "{}", padded.join("  "))?;
        }
        for other in medians
            .iter()
            .filter(|row| row.holder != HolderKind::Edgeseed)
        {
            let ours = medians.iter().find(|row| {
                row.holder == HolderKind::Edgeseed
                    && (row.receiver, row.viewers) == (other.receiver, other.viewers)
            });
            let Some(ours) = ours else { continue };
            writeln!(
                f,
                "{} viewers on {}: edgeseed by {}: CPU {:.2}, MB/s {:.2}, worst segment {:.2}",
                other.viewers,
                other.receiver.name(),
                other.holder.name(),
                ours.cpu_per_gigabyte() / other.cpu_per_gigabyte(),
                ours.rate() / other.rate(),
                ours.worst() / other.worst(),
            )?;
        }
        if let Some((cpu, gigabytes)) = self.floor {
            let floor = cpu.total() / gigabytes;
            writeln!(
                f,
                "the floor (AES-128-GCM, CRC-32C, UDP with GSO): {floor:.2} CPU s/GB"
            )?;
        }
        writeln!(f, "{}", circumstances())
    }
}

/// The day and the machine.
fn circumstances() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let models: Vec<&str> = cpus
        .lines()
        .filter_map(|line| line.strip_prefix("model name")?.split(": ").nth(1))
        .collect();
    let kernel = read("/proc/sys/kernel/osrelease");
    let (model, kernel) = (models.first().unwrap_or(&"unknown"), kernel.trim());
    let date = jiff::Timestamp::now().strftime("%Y-%m-%d");
    format!(
        "{date}, {} x {model}, Linux {kernel}, loopback",
        models.len()
    )
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The value below which this part of the sorted values lies.
fn part(sorted: &[f64], part: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let index = (last as f64 * part).round() as usize;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}
