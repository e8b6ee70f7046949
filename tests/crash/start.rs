//! How long a start takes over what earlier runs left.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use edgeseed::store::Disk;

use super::support::daemon::{Daemon, Setup};
use super::support::origin::{Live, Origin};
use super::{announced, bytes_of, files, open, served};

/// A typical segment: 2 s at 8 Mbit/s.
const SEGMENT: usize = 2 << 20;
const MAX_SIZE: u64 = 4 << 30;

/// The body of a segment: real bytes, none of them repeated soon.
fn body(sequence: u64) -> Bytes {
    let seed = Bytes::from(sequence.to_le_bytes().to_vec());
    let words = (0..SEGMENT as u64 / 8).map(|word| word.wrapping_mul(0x9e37_79b9) ^ sequence);
    let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    [&seed[..], &bytes[seed.len()..]].concat().into()
}

/// Stores so many segments, as a run of the box would.
async fn fill(dir: &Path, playlist: &str, segments: u64) {
    let store = open(Disk::default(), dir, MAX_SIZE, playlist)
        .await
        .unwrap();
    for sequence in 1..=segments {
        let segment = announced(sequence, playlist);
        store.announce(&super::news(), std::slice::from_ref(&segment));
        let mut writer = store
            .begin(&super::news(), &segment, Some(SEGMENT as u64))
            .await
            .unwrap();
        writer.write(&body(sequence)).await.unwrap();
        writer.commit().await.unwrap();
    }
}

/// Makes the kernel forget what it has read; false if it does not let us.
fn forget_all_reads() -> bool {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}

async fn start_over(segments: u64) {
    let origin = Origin::start(Live::default()).await;
    let playlist = origin.url();
    let setup = || Setup::channel("news", playlist.clone());
    let stopped = Daemon::start(setup()).await.kill();
    let dir = stopped.store();
    std::fs::remove_dir_all(dir.join("news")).unwrap();
    fill(&dir, &playlist, segments).await;
    let stored = files(&dir);
    assert_eq!(stored.len() as u64, segments);
    println!("{segments} segments, {} MiB", bytes_of(&stored) >> 20);

    let cold = forget_all_reads();
    let clock = Instant::now();
    let store = open(Disk::default(), &dir, MAX_SIZE, &playlist)
        .await
        .unwrap();
    println!("found (cold: {cold}) after {:?}", clock.elapsed());
    let clock = Instant::now();
    let newest = announced(segments, &playlist);
    store.announce(&super::news(), std::slice::from_ref(&newest));
    assert!(store.recall(&super::news(), &newest).await);
    assert!(served(&store, segments).unwrap() == body(segments));
    println!("the newest read back after {:?} more", clock.elapsed());
    drop(store);

    let cold = forget_all_reads();
    let (daemon, after) = stopped.start().await;
    println!("READY (cold: {cold}) after {after:?}");
    assert!(after < Duration::from_secs(1), "a start took {after:?}");
    let stopped = daemon.kill();

    forget_all_reads();
    let (daemon, _) = stopped.start().await;
    let ended = daemon.stop().await;
    println!("stopped {:?} after SIGTERM at READY", ended.after);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_is_ready_before_it_has_looked_into_its_store() {
    start_over(16).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the long form: writes 2 GiB"]
async fn a_box_is_ready_within_a_second_over_a_store_of_2_gib() {
    start_over(1024).await;
}
