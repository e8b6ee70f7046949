//! What the system says of a process: its memory and its processor time.

// Each bench is built with all of this.
#![allow(clippy::unwrap_used, dead_code)]

/// Processor time in seconds, user and system.
#[derive(Clone, Copy)]
pub(crate) struct Cpu {
    user: f64,
    system: f64,
}

/// A size of `/proc/PID/status` (proc(5)) in MB; what it calls kB is 1024 bytes.
pub(crate) fn memory(pid: &str, field: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    let kib: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024.0 / 1e6
}

/// Its processor time.
pub(crate) fn cpu(pid: &str) -> Cpu {
    cpu_if_running(pid).unwrap()
}

/// Fields 14 and 15 of `/proc/PID/stat` (proc(5)); the second field may hold blanks, and ends with
/// the last parenthesis. `None` when there is no such process any more.
pub(crate) fn cpu_if_running(pid: &str) -> Option<Cpu> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks = |field: usize| -> Option<f64> {
        let value: u64 = fields.split_whitespace().nth(field - 3)?.parse().ok()?;
        Some(value as f64 / rustix::param::clock_ticks_per_second() as f64)
    };
    Some(Cpu {
        user: ticks(14)?,
        system: ticks(15)?,
    })
}

impl Cpu {
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            user: self.user - before.user,
            system: self.system - before.system,
        }
    }

    pub(crate) fn user(self) -> f64 {
        self.user
    }

    pub(crate) fn total(self) -> f64 {
        self.user + self.system
    }
}

impl std::fmt::Display for Cpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.2} s ({:.2} user, {:.2} system)",
            self.total(),
            self.user,
            self.system
        )
    }
}
