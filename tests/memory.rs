//! The budget of media in flight (`[memory] max-buffers`), and what a box takes of memory besides.

// Helpers of tests fail the test, and print what it measures.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::large_futures
)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use support::daemon::{Daemon, Setup};
use support::eventually;
use support::origin::{Live, Origin, uri};
use support::viewer::{Outcome, Viewer};
use tokio::sync::oneshot;
use tokio::time::Instant;

const CHANNELS: usize = 20;
/// Where there is no disk, half of `BUDGET` has to hold the newest segment of each, and the one that comes.
const CHANNELS_WITHOUT_DISK: usize = 6;
const VIEWERS: usize = 100;

/// `[memory] max-buffers`: half of what the viewers and downloads would take of a larger one.
const BUDGET: usize = 8 << 20;
/// More than they can take.
const AMPLE: usize = 64 << 20;
/// What media in flight may cost beyond the budget: a viewer's last packet goes beyond its share, the
/// heap has gaps, and everything else that is done meanwhile is in it.
const SLACK: usize = BUDGET / 2;
/// Where whole segments come and go in memory, its gaps are as large (5.2 MiB were seen).
const SLACK_WITHOUT_DISK: usize = BUDGET;
/// What the kernel counts besides: files of the store that it has not written yet, sockets.
const KERNEL: usize = 16 << 20;

/// How long the viewers are slow.
const SLOW_FOR: Duration = Duration::from_secs(6);

const LIVE: Live = Live {
    segment_duration: Duration::from_secs(1),
    window: 4,
    segment_size: 300_000,
};

const MIB: usize = 1 << 20;

/// A group of the kernel's with one process in it. Gone when dropped.
struct Cgroup {
    dir: PathBuf,
    limit: &'static str,
}

impl Cgroup {
    /// `None` where this user may not make one.
    fn around(pid: u32) -> Option<Self> {
        let root = Path::new("/sys/fs/cgroup");
        let (parent, limit) = match root.join("cgroup.controllers").exists() {
            true => (root.to_owned(), "memory.max"),
            false => (root.join("memory"), "memory.limit_in_bytes"),
        };
        let dir = parent.join(format!("edgeseed-test-{pid}"));
        fs::create_dir(&dir).ok()?;
        let group = Self { dir, limit };
        fs::write(group.dir.join("cgroup.procs"), pid.to_string()).ok()?;
        Some(group)
    }

    /// Who takes more from now on is killed. Whether the kernel will do so.
    fn limit(&self, bytes: usize) -> bool {
        fs::write(self.dir.join(self.limit), bytes.to_string()).is_ok()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Nobody is left in it, or somebody else has to clear up.
        let _ = fs::remove_dir(&self.dir);
    }
}

/// Memory that is the box's own: what it has allocated, not what the kernel keeps of files
/// (proc(5), `RssAnon`, in KiB).
fn own_bytes(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<usize>().unwrap() << 10
}

/// What serving cost.
struct Cost {
    /// Bytes by which the box grew while all its viewers, connected before, were served.
    growth: usize,
    /// Bytes of the budget that were taken at most.
    taken: f64,
}

async fn cost(budget: usize, min_free: &'static str, channels: usize) -> Cost {
    let mut origins = Vec::new();
    let mut setup = Setup::default().with(&format!(
        "[peer]\nudp-port = 0\nmax-peers = {VIEWERS}\n[memory]\nmax-buffers = \"{}MiB\"\n",
        budget / MIB
    ));
    for name in names(channels) {
        let origin = Origin::start(LIVE).await;
        setup = setup.and_channel(name, origin.url());
        origins.push(origin);
    }
    setup.min_free = Some(min_free);
    let daemon = Daemon::start_ailing(setup).await;
    let pid = daemon.pid();
    let cgroup = Cgroup::around(pid);

    let origins = Arc::new(origins);
    let (joined, all_joined) = oneshot::channel();
    let (go, told_to_go) = oneshot::channel();
    let viewers = std::thread::spawn({
        let (signal, origins) = (daemon.signal.clone(), origins.clone());
        move || slow_viewers(&signal, &origins, joined, told_to_go)
    });
    all_joined.await.unwrap();
    let connected = own_bytes(pid);
    let allowed = connected + budget + SLACK + KERNEL;
    let limited = cgroup.as_ref().is_some_and(|group| group.limit(allowed));
    go.send(()).unwrap();
    let (mut own, mut buffers) = (0, 0.0_f64);
    let end = Instant::now() + SLOW_FOR;
    while Instant::now() < end {
        own = own.max(own_bytes(pid));
        buffers = buffers.max(daemon.metric("edgeseed_buffer_bytes").await);
        tokio::time::sleep(support::LOOK_EVERY).await;
    }
    viewers.join().unwrap();
    let mib = |bytes: usize| bytes as f64 / MIB as f64;
    println!(
        "min-free {min_free}: {:.1} MiB with {VIEWERS} viewers connected, {:.1} MiB at most while they are served; \
         media in flight {:.1} of {:.1} MiB; limited by a cgroup as well: {limited}",
        mib(connected),
        mib(own),
        buffers / MIB as f64,
        mib(budget),
    );
    assert!(buffers <= budget as f64, "{buffers} bytes of media");
    let ended = daemon.stop().await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    Cost {
        growth: own.saturating_sub(connected),
        taken: buffers,
    }
}

fn names(channels: usize) -> impl Iterator<Item = &'static str> {
    (0..channels).map(|number| &*format!("channel-{number}").leak())
}

/// Viewers on a device that stands still most of the time: each asks for all that is listed, and
/// acknowledges what comes in gulps. Each has been served before: what a viewer costs from then on, whether
/// media is in flight or not, is no matter of the budget.
fn slow_viewers(
    signal: &str,
    origins: &[Origin],
    joined: oneshot::Sender<()>,
    go: oneshot::Receiver<()>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(async {
        let viewers = stream::iter(0..VIEWERS)
            .map(|viewer| served(signal, &origins[viewer % origins.len()]))
            .buffer_unordered(8);
        let viewers: Vec<Viewer> = viewers.collect().await;
        joined.send(()).unwrap();
        go.await.unwrap();
        let end = Instant::now() + SLOW_FOR;
        for sequence in origins[0].newest().. {
            for viewer in &viewers {
                viewer.send_request(&uri(sequence), sequence).await;
            }
            // The whole device, not this task.
            std::thread::sleep(Duration::from_millis(900));
            tokio::time::sleep(Duration::from_millis(100)).await;
            if Instant::now() > end {
                break;
            }
        }
    });
}

/// A viewer that has got a segment.
async fn served(signal: &str, origin: &Origin) -> Viewer {
    let mut viewer = Viewer::join(signal, &origin.url()).await;
    eventually(
        "a viewer is served",
        3 * support::daemon::PATIENCE,
        async || match viewer.request(origin.newest()).await {
            Outcome::Segment { .. } => Some(()),
            Outcome::Lack { .. } | Outcome::Timeout => None,
        },
    )
    .await;
    viewer
}

#[tokio::test(flavor = "multi_thread")]
async fn the_budget_bounds_what_a_hundred_slow_viewers_of_many_channels_cost() {
    // Where the disk cannot be used, what is held in its place is of the same budget.
    for (min_free, slack, channels) in [
        ("16MiB", SLACK, CHANNELS),
        ("1000TiB", SLACK_WITHOUT_DISK, CHANNELS_WITHOUT_DISK),
    ] {
        let allowed = BUDGET + slack;
        let Cost { growth, .. } = cost(BUDGET, min_free, channels).await;
        assert!(growth <= allowed, "grew by {growth} bytes");
        // It was the budget that bounded it, and not that little was asked. By its own account, for how
        // much of what may be taken is held at the same moment is a matter of the machine's speed.
        let Cost { taken, .. } = cost(AMPLE, min_free, channels).await;
        assert!(
            taken > 1.5 * BUDGET as f64,
            "only {taken} bytes: that was no test"
        );
    }
}

/// A playlist is no media, and not of the budget: it is bounded by its length (2 MiB of text) and
/// gone once it has been read, which each core does with one at a time.
#[tokio::test(flavor = "multi_thread")]
async fn twenty_playlists_as_long_as_they_may_be_cost_their_text_and_what_each_core_makes_of_one() {
    const TEXT: usize = 2 * MIB;
    const READ: usize = 32 * MIB;
    let cores = std::thread::available_parallelism().unwrap().get();
    let allowed = SLACK + KERNEL + CHANNELS * TEXT + cores * READ;
    // As many segments as a playlist may have, almost.
    let segment = |number| format!("#EXTINF:1,\nseg_{number}.ts?token=0123456\n");
    let segments: String = (0..49_000).map(segment).collect();
    let long = format!("#EXTM3U\n#EXT-X-TARGETDURATION:1\n{segments}");
    let mut setup = Setup::default().with("[peer]\nudp-port = 0\n");
    let mut origins = Vec::new();
    for name in names(CHANNELS) {
        let origin = Origin::start_listing(LIVE, Some(long.clone())).await;
        setup = setup.and_channel(name, origin.url());
        origins.push(origin);
    }
    let daemon = Daemon::start_ailing(setup).await;
    let mut own = 0;
    eventually(
        "every playlist is loaded",
        3 * support::daemon::PATIENCE,
        async || {
            own = own.max(own_bytes(daemon.pid()));
            // It may be too busy to answer in time.
            let metrics = daemon.get("/metrics").await?;
            let loaded = metrics.lines().filter(|line| {
                line.contains("kind=\"playlist\",result=\"ok\"") && !line.ends_with(" 0")
            });
            (loaded.count() == CHANNELS).then_some(())
        },
    )
    .await;
    println!(
        "{CHANNELS} long playlists, {cores} cores: {} MiB at most",
        own / MIB
    );
    assert!(own <= allowed, "{own} bytes, {allowed} allowed");
}
