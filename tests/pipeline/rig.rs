//! The parts of the box under test, put together.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use edgeseed::budget::Budget;
use edgeseed::config::{ChannelConfig, Config, Matching, StoreConfig, Variants};
use edgeseed::fetch::{self, ChannelState, ChannelStatus, OriginClient};
use edgeseed::ids::{ChannelName, MediaSequence};
use edgeseed::metrics::Metrics;
use edgeseed::sibling::Siblings;
use edgeseed::store::{Found, Reader, Store, StoreError};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The box: everything between the origin and the disk.
pub(crate) struct Pipeline {
    pub(crate) store: Store,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) status: watch::Receiver<ChannelStatus>,
    stop: DropGuard,
    task: tokio::task::JoinHandle<()>,
}

pub(crate) fn news() -> ChannelName {
    "news".into()
}

pub(crate) fn channel(url: &str) -> ChannelConfig {
    ChannelConfig {
        url: url.parse().unwrap(),
        name: news(),
        id: url.into(),
        variants: Variants::Highest,
        window: Duration::from_secs(60),
        max_bandwidth: None,
        matching: Matching::Exact,
    }
}

pub(crate) fn open(dir: &Path, max_size: u64, matching: Matching) -> (Store, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new([&news()]));
    let config = StoreConfig {
        dir: dir.into(),
        max_size,
        min_free: 0,
    };
    let budget = Budget::new(4 << 20);
    let store = Store::open(config, [(news(), matching)], Arc::clone(&metrics), budget).unwrap();
    (store, metrics)
}

pub(crate) fn open_plain(config: StoreConfig) -> Result<Store, StoreError> {
    let channels = [(news(), Matching::Exact)];
    Store::open(config, channels, Arc::default(), Budget::new(4 << 20))
}

impl Pipeline {
    pub(crate) fn start(url: &str, dir: &Path) -> Self {
        Self::start_with(url, dir, 1 << 30, Variants::Highest)
    }

    pub(crate) fn start_with(url: &str, dir: &Path, max_size: u64, variants: Variants) -> Self {
        Self::start_channel(
            dir,
            max_size,
            ChannelConfig {
                variants,
                ..channel(url)
            },
        )
    }

    pub(crate) fn start_channel(dir: &Path, max_size: u64, channel: ChannelConfig) -> Self {
        let (store, metrics) = open(dir, max_size, channel.matching);
        let (sender, status) = watch::channel(ChannelStatus::default());
        let stop = CancellationToken::new();
        let task = tokio::spawn(fetch::run(
            channel,
            fetch::Parts {
                client: OriginClient::new().unwrap(),
                store: store.clone(),
                budget: Budget::new(4 << 20),
                siblings: Siblings::new().0,
                metrics: metrics.channel(&news()),
                status: sender,
                lan: watch::Sender::default(),
            },
            stop.clone(),
        ));
        Self {
            store,
            metrics,
            status,
            stop: stop.drop_guard(),
            task,
        }
    }

    /// Starts a channel with these lines of configuration, in a folder of its own.
    pub(crate) fn start_with_lines(url: &str, lines: &str) -> (Self, TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            "[[channel]]\nurl = \"{url}\"\nname = \"news\"\n{lines}\n[signal]\nurl = \"ws://127.0.0.1\"\n"
        );
        let channel = Config::parse(&text).unwrap().channels.remove(0);
        (Self::start_channel(dir.path(), 1 << 30, channel), dir)
    }

    pub(crate) fn find(&self, uri: &str, sequence: Option<u64>) -> Found {
        self.store.find(&news(), uri, sequence.map(MediaSequence))
    }

    pub(crate) async fn stored(&self, uri: &str, sequence: u64) -> Reader {
        self.ready(uri, Some(sequence)).await
    }

    pub(crate) async fn ready(&self, uri: &str, sequence: Option<u64>) -> Reader {
        self.until(|_| match self.find(uri, sequence) {
            Found::Ready(reader) => Some(reader),
            _ => None,
        })
        .await
    }

    /// Waits for the store to change until `look` sees what it looks for.
    pub(crate) async fn until<T>(&self, look: impl Fn(&Store) -> Option<T>) -> T {
        let mut changes = self.store.changes();
        let seen = async {
            loop {
                changes.borrow_and_update();
                if let Some(seen) = look(&self.store) {
                    return seen;
                }
                changes.changed().await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, seen)
            .await
            .expect("not in time")
    }

    pub(crate) async fn status(
        &mut self,
        wanted: impl FnMut(&ChannelStatus) -> bool,
    ) -> ChannelStatus {
        let seen = self.status.wait_for(wanted);
        let seen = tokio::time::timeout(PATIENCE, seen).await;
        seen.expect("not in time").unwrap().clone()
    }

    pub(crate) async fn failure(&mut self) -> String {
        let status = self.status(|s| s.state == ChannelState::Failing).await;
        status.failure.unwrap().error
    }

    /// What is wrong, whatever the channel's state is.
    pub(crate) async fn complaint(&mut self) -> String {
        let status = self.status(|status| status.failure.is_some()).await;
        status.failure.unwrap().error
    }

    pub(crate) async fn stop(self) {
        drop(self.stop);
        self.task.await.unwrap();
    }
}

pub(crate) fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir.join("news")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect()
}
