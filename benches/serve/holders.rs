//! Who serves.

use std::path::PathBuf;
use std::process::Stdio;

use clap::ValueEnum;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::process::{self, Cpu};
use super::support::daemon::{Daemon, Setup};
use super::support::origin::Origin;
use super::support::relay::Relay;
use super::{FIRST, LISTED, crate_holder, floor, mark, shared};

/// Who serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum HolderKind {
    /// This box, as a process of its own, with the store and all.
    Edgeseed,
    /// The `webrtc` crate.
    #[value(name = "webrtc")]
    Crate,
    /// libdatachannel, by node-datachannel.
    Libdatachannel,
}

/// A running holder.
pub(crate) struct Holder {
    kind: HolderKind,
    process: Process,
}

enum Process {
    Daemon(Daemon),
    Child(Child),
}

impl HolderKind {
    pub(crate) const ALL: [Self; 3] = [Self::Edgeseed, Self::Crate, Self::Libdatachannel];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Edgeseed => "edgeseed",
            Self::Crate => "webrtc",
            Self::Libdatachannel => "libdatachannel",
        }
    }
}

impl Holder {
    /// Starts it, and waits until it has entered the channel and has its segments.
    pub(crate) async fn start(
        kind: HolderKind,
        origin: &Origin,
        relay: &Relay,
        bin: Option<PathBuf>,
    ) -> Self {
        let sequences = FIRST..FIRST + LISTED;
        let told = json!({
            "signal": relay.url, "channel": origin.url(), "first": FIRST,
            "size": origin.segment(FIRST).len(),
            "marks": sequences.map(|number| mark(&origin.segment(number))).collect::<Vec<_>>(),
        });
        let process = match kind {
            HolderKind::Edgeseed => {
                let mut setup = Setup::channel("news", origin.url())
                    .at(&relay.url)
                    .with("[peer]\nudp-port = 0\nmax-peers = 1000\n");
                setup.binary = bin;
                let daemon = Daemon::start(setup).await;
                let stored = r#"edgeseed_store_segments{channel="news"}"#;
                daemon.until_metric(stored, LISTED as f64).await;
                Process::Daemon(daemon)
            }
            HolderKind::Crate => {
                let mut command = Command::new(std::env::current_exe().unwrap());
                command.arg("--role").arg(format!("webrtc {told}"));
                Process::Child(started(command).await)
            }
            HolderKind::Libdatachannel => {
                let script = concat!(
                    env!("CARGO_MANIFEST_DIR"),
                    "/benches/serve/libdatachannel.mjs"
                );
                let mut command = Command::new("node");
                command.arg(script).arg(told.to_string());
                Process::Child(started(command).await)
            }
        };
        Self { kind, process }
    }

    pub(crate) fn kind(&self) -> HolderKind {
        self.kind
    }

    fn pid(&self) -> String {
        match &self.process {
            Process::Daemon(daemon) => daemon.pid().to_string(),
            Process::Child(child) => child.id().expect("it is running").to_string(),
        }
    }

    /// Memory of its own, in kB: files that it has mapped are the kernel's to give back.
    pub(crate) fn memory(&self) -> f64 {
        process::memory(&self.pid(), "RssAnon") * 1000.0
    }

    pub(crate) fn cpu(&self) -> Cpu {
        process::cpu(&self.pid())
    }

    pub(crate) async fn stop(self) {
        match self.process {
            Process::Daemon(daemon) => drop(daemon.stop().await),
            Process::Child(mut child) => child.kill().await.unwrap(),
        }
    }
}

/// Starts a holder that says so when it has entered.
async fn started(mut command: Command) -> Child {
    let mut child = command
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = said.next_line().await.unwrap();
    assert_eq!(first.as_deref(), Some("entered"));
    child
}

/// What this program does when it is started again by itself.
pub(crate) async fn act(role: String) -> shared::Report {
    match role.split_once(' ') {
        Some(("webrtc", told)) => crate_holder::serve(told).await,
        Some(("sink", _)) => floor::sink().await,
        _ => panic!("no such role: {role}"),
    }
    shared::Report::default()
}
