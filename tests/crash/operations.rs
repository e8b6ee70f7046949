//! Each operation of a run fails once, in each of several ways; then the box is started again.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use edgeseed::ids::RenditionIndex;
use edgeseed::store::{Disk, Fault, Operation, Store};
use rustix::io::Errno;
use tokio::time::Instant;

use super::torn::{TEARS, tear};
use super::{announced, bytes_of, files, open, served};

const PLAYLIST: &str = "http://origin/live/index.m3u8";
/// Room for one of unknown length, 1 MiB of which is set aside at a time, and two of the others.
const MAX_SIZE: u64 = 1_500_000;
const SEGMENTS: u64 = 8;
/// What is still listed when so many segments have come.
const WINDOW: u64 = 5;

/// What happens at the Nth operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// It fails, and the next one does not.
    Once(Errno),
    /// The disk is read-only from then on.
    ReadOnly,
    /// The box is killed: it does nothing any more.
    Killed,
}

/// What a disk with trouble has seen.
#[derive(Clone, Default)]
struct Seen {
    operations: Arc<AtomicUsize>,
    failed_reads: Arc<AtomicUsize>,
    /// The most bytes that there were in this folder at any operation.
    dir: PathBuf,
    most: Arc<AtomicU64>,
}

impl Seen {
    fn is_readable(&self) -> bool {
        self.failed_reads.load(Ordering::Relaxed) == 0
    }
}

/// A disk with trouble at the `n`th operation.
fn troubled(trouble: Option<Trouble>, n: usize, seen: Seen) -> Disk {
    Disk::with_faults(move |operation| {
        use Operation::{List, Lock, Open, Read};
        let now = seen.operations.fetch_add(1, Ordering::Relaxed);
        let bytes = bytes_of(&files(&seen.dir));
        seen.most.fetch_max(bytes, Ordering::Relaxed);
        let writes = !matches!(operation, Lock | List | Open | Read);
        let errno = match trouble? {
            Trouble::Once(errno) => (now == n).then_some(errno),
            Trouble::ReadOnly => (now >= n && writes).then_some(Errno::ROFS),
            Trouble::Killed => (now >= n).then_some(Errno::IO),
        };
        let errno = errno?.raw_os_error();
        if !writes {
            seen.failed_reads.fetch_add(1, Ordering::Relaxed);
        }
        let partly = now == n;
        Some(Fault { errno, partly })
    })
}

/// A body that no other segment has, several writes long.
fn body(sequence: u64) -> Bytes {
    static ALL: LazyLock<Bytes> = LazyLock::new(|| {
        let byte = |at: u64| (at.wrapping_mul(31) ^ (at >> 8)) as u8;
        (0..300_000).map(byte).collect()
    });
    let start = sequence as usize % 1000 * 77;
    ALL.slice(start..start + 150_000 + sequence as usize % 8 * 9_000)
}

/// Whether a segment is served; never with other bytes than its own.
fn is_served(store: &Store, sequence: u64) -> bool {
    let bytes = served(store, sequence);
    let right = bytes.as_ref().is_none_or(|bytes| *bytes == body(sequence));
    assert!(right, "other bytes are served for segment {sequence}");
    bytes.is_some()
}

/// As the box does it: what fails is tried once more.
async fn fetch(store: &Store, sequence: u64) -> bool {
    try_to_fetch(store, sequence).await || try_to_fetch(store, sequence).await
}

async fn try_to_fetch(store: &Store, sequence: u64) -> bool {
    let (segment, body) = (announced(sequence, PLAYLIST), body(sequence));
    store.announce(&super::news(), std::slice::from_ref(&segment));
    if store.recall(&super::news(), &segment).await {
        return true;
    }
    // Not every origin says how long it is.
    let length = sequence.is_multiple_of(2).then_some(body.len() as u64);
    let Ok(mut writer) = store.begin(&super::news(), &segment, length).await else {
        return false;
    };
    for piece in body.chunks(40_000) {
        if writer.write(piece).await.is_err() {
            return false;
        }
    }
    writer.commit().await.is_ok()
}

/// A run of the box. Whatever it serves is right, and it never has more on the disk than it may;
/// what was fetched is served unless the disk could not even be read.
async fn run(dir: &Path, trouble: Option<Trouble>, n: usize, disk: Seen) {
    let troubled = troubled(trouble, n, disk.clone());
    let Ok(store) = open(troubled, dir, MAX_SIZE, PLAYLIST).await else {
        panic!("a disk that fails is no reason not to start");
    };
    for sequence in 1..=SEGMENTS {
        let fetched = fetch(&store, sequence).await;
        assert!(
            fetched || !disk.is_readable(),
            "segment {sequence} is not stored"
        );
        for earlier in 1..=sequence {
            is_served(&store, earlier);
        }
        let old = announced(sequence.saturating_sub(WINDOW), PLAYLIST);
        store.expire(
            &super::news(),
            &[(RenditionIndex(0), old.sequence, old.uri)],
        );
    }
    let most = disk.most.load(Ordering::Relaxed);
    assert!(most <= MAX_SIZE, "{most} bytes are more than the quota");
    // A read that fails costs the segment.
    assert!(is_served(&store, SEGMENTS) || !disk.is_readable());
}

/// How many segments of the run before are served after a start, all of them right.
async fn survivors(dir: &Path) -> usize {
    let store = open(Disk::default(), dir, MAX_SIZE, PLAYLIST).await;
    let store = store.unwrap();
    assert!(bytes_of(&files(dir)) <= MAX_SIZE, "more than the quota");
    let mut survivors = 0;
    for sequence in 1..=SEGMENTS {
        let segment = announced(sequence, PLAYLIST);
        store.announce(&super::news(), std::slice::from_ref(&segment));
        if store.recall(&super::news(), &segment).await {
            assert!(is_served(&store, sequence));
            survivors += 1;
        }
    }
    assert!(fetch(&store, SEGMENTS).await && is_served(&store, SEGMENTS));
    survivors
}

/// A process of its own as far as the store can tell: all it had begun has ended with it.
fn process<T>(life: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(life)
}

/// A run with trouble, and a start after it. Returns how many operations the run had.
fn crash(trouble: Option<Trouble>, n: usize, torn: Option<(usize, usize)>) -> (usize, usize) {
    let dir = tempfile::tempdir().unwrap();
    let seen = Seen {
        dir: dir.path().to_owned(),
        ..Seen::default()
    };
    process(run(dir.path(), trouble, n, seen.clone()));
    if let Some((file, how)) = torn {
        tear(dir.path(), file, how);
    }
    let survivors = process(survivors(dir.path()));
    assert!(
        files(dir.path())
            .iter()
            .all(|path| path.extension().unwrap() == "seg")
    );
    (seen.operations.load(Ordering::Relaxed), survivors)
}

const TROUBLES: [Trouble; 6] = [
    Trouble::Once(Errno::IO),
    Trouble::Once(Errno::NOSPC),
    Trouble::Once(Errno::UCLEAN),
    Trouble::Once(Errno::MFILE),
    Trouble::ReadOnly,
    Trouble::Killed,
];

#[test]
fn whichever_operation_fails_no_wrong_byte_is_served_then_or_after_a_start() {
    let (operations, survivors) = crash(None, 0, None);
    assert_eq!(survivors, 4, "as many as fit");
    let mut crashes = 0;
    for n in 0..operations {
        for trouble in TROUBLES {
            crash(Some(trouble), n, None);
            crashes += 1;
        }
        crash(Some(Trouble::Killed), n, Some((n / TEARS, n)));
        crashes += 1;
    }
    println!("{operations} operations, {crashes} crashes");
}

#[test]
fn writers_at_once_never_exceed_the_quota_between_them() {
    let dir = tempfile::tempdir().unwrap();
    // Room for all three, if none of them says how long it is.
    let max_size = 3_500_000;
    let seen = Seen {
        dir: dir.path().to_owned(),
        ..Seen::default()
    };
    process(async {
        let disk = troubled(None, 0, seen.clone());
        let store = open(disk, dir.path(), max_size, PLAYLIST).await.unwrap();
        for sequence in (1..40).step_by(3) {
            let three = (sequence..sequence + 3).map(|sequence| fetch(&store, sequence));
            futures_util::future::join_all(three).await;
            assert!(is_served(&store, sequence + 2), "the newest has room");
        }
    });
    let most = seen.most.load(Ordering::Relaxed);
    assert!(most <= max_size, "{most} bytes are more than the quota");
}

#[test]
#[ignore = "the long form: each operation, each file, each way of being torn"]
fn whatever_a_power_cut_tears_no_wrong_byte_is_served() {
    let (operations, _) = crash(None, 0, None);
    let mut crashes = 0;
    for n in 0..operations {
        for file in 0..4 {
            for how in 0..TEARS {
                crash(Some(Trouble::Killed), n, Some((file, how)));
                crashes += 1;
            }
        }
    }
    println!("{operations} operations, {crashes} power cuts");
}

#[tokio::test]
async fn a_disk_that_works_again_is_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let broken = Arc::new(AtomicBool::new(false));
    let fails = Arc::clone(&broken);
    let disk = Disk::with_faults(move |operation| {
        let fails = fails.load(Ordering::Relaxed) && operation != Operation::Read;
        let errno = Errno::IO.raw_os_error();
        fails.then_some(Fault {
            errno,
            partly: false,
        })
    });
    let store = open(disk, dir.path(), 1 << 30, PLAYLIST).await.unwrap();
    assert!(fetch(&store, 1).await);
    broken.store(true, Ordering::Relaxed);
    assert!(fetch(&store, 2).await);
    assert!(store.problem().unwrap().contains("held in memory"));
    let old = announced(1, PLAYLIST);
    store.expire(
        &super::news(),
        &[(RenditionIndex(0), old.sequence, old.uri)],
    );
    broken.store(false, Ordering::Relaxed);
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut sequence = 2;
    while store.problem().is_some() {
        assert!(Instant::now() < deadline, "it never tries again");
        tokio::time::sleep(super::support::LOOK_EVERY).await;
        sequence += 1;
        assert!(fetch(&store, sequence).await && is_served(&store, sequence));
    }
    // Deleted off the thread of whoever found that the disk works.
    loop {
        let stored = files(dir.path());
        if stored.len() == 1 {
            break;
        }
        let late = Instant::now() >= deadline;
        assert!(!late, "what could not be deleted stays: {stored:?}");
        tokio::time::sleep(super::support::LOOK_EVERY).await;
    }
}
