//! The budget of media in flight, and what a box takes of memory besides.

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
use std::time::Duration;

use futures_util::{StreamExt, stream};
use support::daemon::{Daemon, Setup};
use support::origin::{Live, Origin, uri};
use support::viewer::Viewer;
use tokio::sync::oneshot;
use tokio::time::Instant;

const CHANNELS: usize = 20;
const VIEWERS: usize = 100;
/// `[memory] max-buffers`.
const BUDGET: usize = 16 << 20;
/// What a box takes besides, whatever it does: code's data, TLS, 20 channels' clients and indexes.
const FIXED: usize = 24 << 20;
/// What each viewer takes besides: DTLS, SCTP, and what the allocator cannot give back.
const EACH_VIEWER: usize = 384 << 10;
const ALLOWED: usize = BUDGET + FIXED + VIEWERS * EACH_VIEWER;

/// How long the viewers are slow.
const SLOW_FOR: Duration = Duration::from_secs(8);

const LIVE: Live = Live {
    segment_duration: Duration::from_secs(1),
    window: 4,
    segment_size: 300_000,
};

/// A limit of the kernel's: who takes more is killed. Gone when dropped.
struct Cgroup(PathBuf);

impl Cgroup {
    /// `None` where this user may not make one.
    fn around(pid: u32, bytes: usize) -> Option<Self> {
        let root = Path::new("/sys/fs/cgroup");
        let (parent, limit) = match root.join("cgroup.controllers").exists() {
            true => (root.to_owned(), "memory.max"),
            false => (root.join("memory"), "memory.limit_in_bytes"),
        };
        let group = Self(parent.join(format!("edgeseed-test-{pid}")));
        fs::create_dir(&group.0).ok()?;
        fs::write(group.0.join(limit), bytes.to_string()).ok()?;
        fs::write(group.0.join("cgroup.procs"), pid.to_string()).ok()?;
        Some(group)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Nobody is left in it, or somebody else has to clear up.
        let _ = fs::remove_dir(&self.0);
    }
}

/// Memory that is the box's own: what it has allocated, not what the kernel keeps of files
/// (proc(5), `RssAnon`, in KiB).
fn own_bytes(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon"));
    let kib: usize = line
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    kib << 10
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_slow_viewers_of_twenty_channels_stay_within_the_budget() {
    stay_within_the_budget("16MiB").await;
    // Where the disk cannot be used, what is held in its place is of the same budget.
    stay_within_the_budget("1000TiB").await;
}

async fn stay_within_the_budget(min_free: &'static str) {
    let names: Vec<&'static str> = (0..CHANNELS)
        .map(|number| &*format!("channel-{number}").leak())
        .collect();
    let mut origins = Vec::new();
    let mut setup = Setup::default().with(&format!(
        "[peer]\nudp-port = 0\nmax-peers = {VIEWERS}\n[memory]\nmax-buffers = \"{}MiB\"\n",
        BUDGET >> 20
    ));
    for name in names {
        let origin = Origin::start(LIVE).await;
        setup = setup.and_channel(name, origin.url());
        origins.push(origin);
    }
    setup.min_free = Some(min_free);
    let daemon = Daemon::start_ailing(setup).await;
    let pid = daemon.pid();
    let cgroup = Cgroup::around(pid, ALLOWED);
    let idle = own_bytes(pid);

    let urls: Vec<String> = origins.iter().map(Origin::url).collect();
    let (asked, all_asked) = oneshot::channel();
    let viewers = std::thread::spawn({
        let (signal, newest) = (daemon.signal.clone(), origins[0].newest());
        move || slow_viewers(&signal, &urls, newest, asked)
    });
    all_asked.await.unwrap();
    let (mut own, mut buffers) = (0, 0.0_f64);
    let end = Instant::now() + SLOW_FOR;
    while Instant::now() < end {
        own = own.max(own_bytes(pid));
        buffers = buffers.max(daemon.metric("edgeseed_buffer_bytes").await);
        tokio::time::sleep(support::LOOK_EVERY).await;
    }
    viewers.join().unwrap();
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    println!(
        "min-free {min_free}: own memory: {:.1} MiB without viewers, {:.1} MiB at most; media in flight: {:.1} of {:.1} \
             MiB; allowed: {:.1} MiB, by a cgroup as well: {}",
        mib(idle),
        mib(own),
        buffers / f64::from(1 << 20),
        mib(BUDGET),
        mib(ALLOWED),
        cgroup.is_some(),
    );
    assert!(buffers <= BUDGET as f64, "{buffers} bytes of media");
    assert!(
        buffers > BUDGET as f64 / 2.0,
        "only {buffers} bytes: that was no test"
    );
    assert!(own <= ALLOWED, "{own} bytes of memory");
    let ended = daemon.stop().await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

/// Viewers on a device that stands still most of the time: each asks for all that is listed, and
/// acknowledges what comes in gulps.
fn slow_viewers(signal: &str, urls: &[String], newest: u64, asked: oneshot::Sender<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(async {
        let viewers = stream::iter(0..VIEWERS)
            .map(|viewer| Viewer::join(signal, &urls[viewer % urls.len()]))
            .buffer_unordered(8);
        let viewers: Vec<Viewer> = viewers.collect().await;
        asked.send(()).unwrap();
        let end = Instant::now() + SLOW_FOR;
        for sequence in newest.. {
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
