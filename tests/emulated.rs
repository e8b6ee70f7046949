//! The box as built for another machine, under an emulator, and a viewer on this one:
//!
//! ```text
//! scripts/cross && cargo test --test emulated -- --ignored
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::large_futures
)]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use support::daemon::{Daemon, Setup};
use support::origin::{Live, Origin};
use support::viewer::{Outcome, Viewer};

fn emulated() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/emulated")
}

fn run(args: &[&str]) -> Output {
    Command::new(emulated()).args(args).output().unwrap()
}

#[test]
#[ignore = "needs what scripts/cross builds"]
fn it_says_its_version_and_what_is_wrong_with_a_configuration() {
    let version = run(&["--version"]);
    let expected = format!("edgeseed {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(String::from_utf8(version.stdout).unwrap(), expected);

    let sample = run(&["check", "--config", "edgeseed.example.toml"]);
    assert_eq!(sample.status.code(), Some(0));

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("edgeseed.toml");
    std::fs::write(&file, "[peer]\nmax-peers = \"many\"\n").unwrap();
    let wrong = run(&["check", "--config", file.to_str().unwrap()]);
    assert_eq!(wrong.status.code(), Some(78));
    let said = String::from_utf8(wrong.stderr).unwrap();
    assert!(said.contains("edgeseed.toml:2"), "{said}");
}

#[tokio::test]
#[ignore = "needs what scripts/cross builds"]
async fn a_viewer_on_this_machine_gets_segments_from_it() {
    let origin = Origin::start(Live::default()).await;
    let setup = Setup {
        binary: Some(emulated()),
        ..Setup::channel("news", origin.url())
    };
    let daemon = Daemon::start(setup).await;
    let mut viewer = Viewer::join(&daemon.signal, &origin.url()).await;
    for sequence in origin.listed() {
        match viewer.request(sequence).await {
            Outcome::Segment { bytes, .. } => assert!(bytes == origin.segment(sequence)),
            other => panic!("segment {sequence}: {other:?}"),
        }
    }
}
