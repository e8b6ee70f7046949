//! What the benches share: how they are run, what they print, and how they fail.

// Each bench is built with all of this, and printing is what it is for.
#![allow(dead_code, clippy::unwrap_used, clippy::print_stdout)]

use std::process::ExitCode;

/// How much is measured, by what Cargo adds to the arguments.
#[derive(clap::Args)]
pub(crate) struct Size {
    /// What `cargo bench` adds. Without it this is a test of the bench: a tiny run.
    #[arg(long, hide = true)]
    bench: bool,
    /// What `cargo bench -- --test` adds: a tiny run as well.
    #[arg(long, hide = true)]
    test: bool,
}

impl Size {
    /// Whether the bench is only to be tried.
    pub(crate) fn is_tiny(&self) -> bool {
        self.test || !self.bench
    }
}

/// Runs a bench to its end.
pub(crate) fn run(bench: impl Future<Output = Report>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    match runtime.block_on(bench).failed {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}

/// Each socket is a descriptor, and the usual soft limit is 1024.
pub(crate) fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let current = limit.maximum;
    setrlimit(Resource::Nofile, Rlimit { current, ..limit }).unwrap();
}

/// What a bench has to say, printed as it goes.
#[derive(Default)]
pub(crate) struct Report {
    failed: bool,
}

impl Report {
    /// A line of the table.
    pub(crate) fn row(&self, name: &str, value: impl std::fmt::Display) {
        println!("{name:<34} {value}");
    }

    /// What must not be.
    pub(crate) fn fail(&mut self, what: impl std::fmt::Display) {
        println!("FAILED: {what}");
        self.failed = true;
    }
}
