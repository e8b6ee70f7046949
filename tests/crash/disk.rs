//! The real box on a disk that is full, or read-only, and then is not.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::support::daemon::{Daemon, Setup};
use super::support::eventually;
use super::support::origin::{Live, Origin};
use super::support::viewer::{Outcome, Viewer};

/// The box tries again after ten seconds, with the next segment that comes.
const RECOVERS_WITHIN: Duration = Duration::from_secs(20);

/// A small disk; gone when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` where this user may not mount one.
    fn at(folder: &Path) -> Option<Self> {
        let disk = Self(folder.to_owned());
        disk.mount(&["-t", "tmpfs", "-o", "size=32m", "edgeseed-test"])
            .then_some(disk)
    }

    fn mount(&self, options: &[&str]) -> bool {
        let mut mount = Command::new("mount");
        let mounted = mount.args(options).arg(&self.0).output();
        mounted.is_ok_and(|output| output.status.success())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).output();
    }
}

/// A viewer gets what is newest, again and again.
async fn is_served(daemon: &Daemon, origin: &Origin) {
    let mut viewer = Viewer::join(&daemon.signal, &origin.url()).await;
    for sequence in origin.newest() + 1..origin.newest() + 4 {
        tokio::time::sleep_until(origin.listed_at(sequence)).await;
        match viewer.request(sequence).await {
            Outcome::Segment { bytes, .. } => assert!(bytes == origin.segment(sequence)),
            other => panic!("segment {sequence}: {other:?}"),
        }
    }
    viewer.leave().await;
}

async fn ails(daemon: &Daemon, origin: &Origin, why: &str) {
    eventually(why, RECOVERS_WITHIN, async || {
        let problems = daemon.problems().await;
        (problems.contains("store: ") && problems.contains(why)).then_some(())
    })
    .await;
    is_served(daemon, origin).await;
    assert!(daemon.metric("edgeseed_store_memory_bytes").await > 0.0);
    let errors =
        "edgeseed_origin_requests_total{channel=\"news\",kind=\"segment\",result=\"error\"}";
    assert_eq!(daemon.metric(errors).await, 0.0, "the origin is blamed");
}

async fn recovers(daemon: &Daemon, origin: &Origin) {
    eventually("the disk is used again", RECOVERS_WITHIN, async || {
        let writable = daemon.metric("edgeseed_store_writable").await;
        (writable == 1.0).then_some(())
    })
    .await;
    assert_eq!(daemon.problems().await, "");
    is_served(daemon, origin).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_or_read_only_disk_costs_viewers_nothing_and_is_used_again_by_itself() {
    let origin = Origin::start(Live::default()).await;
    let setup = Setup {
        min_free: Some("4MiB"),
        ..Setup::channel("news", origin.url())
    };
    let killed = Daemon::start(setup).await.kill();
    let store = killed.store();
    let Some(disk) = SmallDisk::at(&store) else {
        println!("not tested: this user may not mount a disk");
        return;
    };
    let (daemon, _) = killed.start().await;
    is_served(&daemon, &origin).await;
    assert_eq!(daemon.problems().await, "");

    let filler = store.join("filler");
    std::fs::write(&filler, vec![1; 30 << 20]).unwrap();
    ails(&daemon, &origin, "min-free").await;
    std::fs::remove_file(&filler).unwrap();
    recovers(&daemon, &origin).await;

    assert!(disk.mount(&["-o", "remount,ro"]));
    ails(&daemon, &origin, "Read-only").await;
    assert!(disk.mount(&["-o", "remount,rw"]));
    recovers(&daemon, &origin).await;

    let told = daemon.stop().await.stderr;
    let count = |what| told.matches(what).count();
    assert_eq!(count("held in memory"), 2, "{told}");
    assert_eq!(count("works again, after"), 2, "{told}");
    // It could not be unmounted under a box that runs.
    drop(disk);
}
