//! Writing segments, and what is left when that goes wrong.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

use super::super::{Arrival, Disk, Fault, Found, Operation, Reader, Store};
use super::*;
use crate::budget::Budget;
use crate::config::{Matching, StoreConfig};
use crate::ids::{MediaSequence, RenditionIndex, Resource};
use crate::metrics::Metrics;

fn store(dir: &Path, min_free: u64) -> (Store, ChannelName, Announced) {
    store_on(Disk::default(), dir, min_free)
}

fn store_on(disk: Disk, dir: &Path, min_free: u64) -> (Store, ChannelName, Announced) {
    let channel = ChannelName::from("news");
    let config = StoreConfig {
        dir: dir.into(),
        max_size: 4 << 20,
        min_free,
    };
    let channels = [(channel.clone(), Matching::Exact)];
    let store = Store::open_on(
        disk,
        config,
        channels,
        Arc::new(Metrics::new([&channel])),
        Budget::new(8 << 20),
    )
    .unwrap();
    let announced = Announced {
        rendition: RenditionIndex(0),
        uri: "1.ts".into(),
        resource: Resource {
            url: "http://origin/1.ts".parse().unwrap(),
            range: None,
        },
        sequence: MediaSequence(1),
    };
    store.announce(&channel, std::slice::from_ref(&announced));
    (store, channel, announced)
}

/// The bytes of the one segment.
fn served(store: &Store, channel: &ChannelName) -> Vec<u8> {
    match store.find(channel, "1.ts", None) {
        Found::Ready(reader) => reader.read(0..usize::MAX).unwrap().into(),
        other => panic!("{other:?}"),
    }
}

fn files(dir: &Path) -> usize {
    std::fs::read_dir(dir.join("news")).unwrap().count()
}

#[tokio::test]
async fn more_or_fewer_bytes_than_promised_are_never_stored() {
    let dir = tempfile::tempdir().unwrap();
    let (store, channel, announced) = store(dir.path(), 0);
    let mut writer = store
        .begin(&channel, &announced, Some(300_000))
        .await
        .unwrap();
    writer.write(&vec![1; 299_999]).await.unwrap();
    let error = writer.commit().await.unwrap_err();
    assert!(matches!(error, StoreError::Length { got: 299_999, .. }));
    let mut writer = store.begin(&channel, &announced, Some(3)).await.unwrap();
    let error = writer.write(b"four").await.unwrap_err();
    assert!(matches!(error, StoreError::Length { got: 4, .. }));
    drop(writer);
    let writer = store.begin(&channel, &announced, None).await.unwrap();
    let error = writer.commit().await.unwrap_err();
    assert!(matches!(error, StoreError::Empty));
    assert_eq!(files(dir.path()), 0);
    let found = store.find(&channel, "1.ts", None);
    assert!(matches!(found, Found::Coming), "it may be tried again");
}

#[tokio::test]
async fn a_writer_that_is_dropped_leaves_no_file_and_no_reservation() {
    let dir = tempfile::tempdir().unwrap();
    let (store, channel, announced) = store(dir.path(), 0);
    for _ in 0..3 {
        let mut writer = store
            .begin(&channel, &announced, Some(3 << 20))
            .await
            .unwrap();
        writer.write(&vec![1; 1 << 20]).await.unwrap();
        assert_eq!(files(dir.path()), 1);
    }
    store.inner.delete().unwrap();
    assert_eq!(files(dir.path()), 0);
}

#[tokio::test]
async fn the_quota_and_the_free_space_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (quota, channel, announced) = store(dir.path(), 0);
    let error = quota
        .begin(&channel, &announced, Some(5 << 20))
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::NoRoom { .. }));
    let mut writer = quota.begin(&channel, &announced, None).await.unwrap();
    let error = loop {
        if let Err(error) = writer.write(&vec![1; 1 << 20]).await {
            break error;
        }
    };
    assert!(matches!(error, StoreError::NoRoom { .. }));
}

#[tokio::test]
async fn what_is_read_after_it_has_gone_counts_until_it_is_not_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let (store, channel, announced) = store(dir.path(), 0);
    let mut writer = store
        .begin(&channel, &announced, Some(3 << 20))
        .await
        .unwrap();
    writer.write(&vec![7; 3 << 20]).await.unwrap();
    writer.commit().await.unwrap();
    let Found::Ready(reader) = store.find(&channel, "1.ts", None) else {
        panic!("it is stored");
    };
    let name = (
        announced.rendition,
        announced.sequence,
        announced.uri.clone(),
    );
    store.expire(&channel, &[name]);
    store.announce(&channel, std::slice::from_ref(&announced));
    let error = store
        .begin(&channel, &announced, Some(3 << 20))
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::NoRoom { .. }));
    assert_eq!(files(dir.path()), 0, "its blocks are taken all the same");
    assert_eq!(reader.read(0..3).unwrap(), &[7; 3][..]);
    drop(reader);
    assert!(
        store
            .begin(&channel, &announced, Some(3 << 20))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_folder_that_was_wiped_and_taken_by_another_box_is_not_written_to() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("store");
    let (first, channel, announced) = store(&folder, 0);
    std::fs::remove_dir_all(&folder).unwrap();
    let (second, ..) = store(&folder, 0);
    let mut writer = first.begin(&channel, &announced, Some(3)).await.unwrap();
    writer.write(b"new").await.unwrap();
    writer.commit().await.unwrap();
    assert!(first.problem().unwrap().contains("another edgeseed"));
    assert_eq!(served(&first, &channel), b"new", "held in memory");
    assert_eq!(files(&folder), 0);
    assert_eq!(second.problem(), None);
}

#[tokio::test]
async fn a_folder_that_was_wiped_is_made_again_and_belongs_to_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("store");
    let (store, channel, announced) = store(&folder, 0);
    std::fs::remove_dir_all(&folder).unwrap();
    let mut writer = store.begin(&channel, &announced, Some(3)).await.unwrap();
    writer.write(b"new").await.unwrap();
    writer.commit().await.unwrap();
    assert_eq!((store.problem(), files(&folder)), (None, 1));
    let config = StoreConfig {
        dir: folder,
        max_size: 4 << 20,
        min_free: 0,
    };
    let other = Store::open(config, [], Arc::default(), Budget::new(8 << 20));
    assert!(matches!(other, Err(StoreError::InUse(_))));
}

#[tokio::test]
async fn a_store_that_was_closed_lets_another_one_open_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    let (first, channel, announced) = store(dir.path(), 0);
    first.close();
    let (second, ..) = store(dir.path(), 0);
    let writer = first.begin(&channel, &announced, Some(3)).await;
    let mut writer = writer.unwrap();
    writer.write(b"new").await.unwrap();
    let error = writer.commit().await.unwrap_err();
    assert!(matches!(error, StoreError::NotWanted));
    assert_eq!(files(dir.path()), 0);
    assert_eq!(second.problem(), None);
}

#[tokio::test]
async fn what_expires_while_it_is_written_is_not_stored() {
    let dir = tempfile::tempdir().unwrap();
    let (store, channel, announced) = store(dir.path(), 0);
    let mut writer = store.begin(&channel, &announced, Some(3)).await.unwrap();
    writer.write(b"old").await.unwrap();
    let expired = (
        announced.rendition,
        announced.sequence,
        announced.uri.clone(),
    );
    store.expire(&channel, &[expired]);
    store.announce(&channel, std::slice::from_ref(&announced));
    let error = writer.commit().await.unwrap_err();
    assert!(matches!(error, StoreError::NotWanted));
    let mut writer = store.begin(&channel, &announced, Some(3)).await.unwrap();
    writer.write(b"new").await.unwrap();
    let segment = writer.commit().await.unwrap();
    assert_eq!(segment.len(), 3);
    assert_eq!(served(&store, &channel), b"new");
}

/// A disk on which this operation fails, the `n`th time (from 0) and ever after.
fn failing(operation: Operation, n: usize, errno: rustix::io::Errno) -> Disk {
    let seen = AtomicU32::new(0);
    Disk::with_faults(move |now| {
        let fails = now == operation && seen.fetch_add(1, Ordering::Relaxed) >= n as u32;
        fails.then_some(Fault {
            errno: errno.raw_os_error(),
            partly: operation == Operation::Write,
        })
    })
}

#[tokio::test]
async fn whatever_fails_on_the_disk_the_segment_goes_on_in_memory() {
    use rustix::io::Errno;
    let media: Vec<u8> = (0..700_000_u32).map(|i| (i % 251) as u8).collect();
    // The start itself creates one file and writes to it.
    for (operation, n, errno) in [
        (Operation::Create, 1, Errno::ROFS),
        (Operation::Write, 1, Errno::NOSPC),
        (Operation::Write, 3, Errno::NOSPC),
        (Operation::Write, 7, Errno::IO),
        (Operation::Rename, 0, Errno::IO),
    ] {
        for expected in [Some(700_000), None] {
            let dir = tempfile::tempdir().unwrap();
            let disk = failing(operation, n, errno);
            let (store, channel, announced) = store_on(disk, dir.path(), 0);
            assert_eq!(store.problem(), None);
            let mut writer = store.begin(&channel, &announced, expected).await.unwrap();
            for piece in media.chunks(50_000) {
                writer.write(piece).await.unwrap();
            }
            writer.commit().await.unwrap();
            assert_eq!(served(&store, &channel), media, "{operation:?} {n}");
            assert!(store.problem().unwrap().contains("cannot"));
            assert!(store.memory_bytes() >= 700_000);
            assert_eq!(files(dir.path()), 0);
            store.expire(
                &channel,
                &[(
                    announced.rendition,
                    announced.sequence,
                    announced.uri.clone(),
                )],
            );
            assert_eq!(store.memory_bytes(), 0);
        }
    }
}

#[tokio::test]
async fn a_disk_that_is_read_only_or_full_at_the_start_is_done_without() {
    use rustix::io::Errno;
    for operation in [Operation::MakeFolder, Operation::Create, Operation::Write] {
        let dir = tempfile::tempdir().unwrap();
        let (store, channel, announced) =
            store_on(failing(operation, 0, Errno::ROFS), dir.path(), 0);
        assert!(store.problem().unwrap().contains("Read-only"));
        let mut writer = store.begin(&channel, &announced, Some(3)).await.unwrap();
        writer.write(b"new").await.unwrap();
        writer.commit().await.unwrap();
        assert_eq!(served(&store, &channel), b"new");
    }
}

#[tokio::test]
async fn more_to_be_left_free_than_there_is_costs_the_disk_and_not_the_viewers() {
    let dir = tempfile::tempdir().unwrap();
    let (store, channel, announced) = store(dir.path(), u64::MAX);
    let mut writer = store.begin(&channel, &announced, Some(3)).await.unwrap();
    writer.write(b"new").await.unwrap();
    writer.commit().await.unwrap();
    assert_eq!(served(&store, &channel), b"new");
    assert!(store.problem().unwrap().contains("min-free"));
    assert_eq!(files(dir.path()), 0);
}

#[tokio::test]
async fn what_memory_does_not_hold_is_refused_and_what_others_need_is_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let (store, channel, announced) = store(dir.path(), u64::MAX);
    let error = store
        .begin(&channel, &announced, Some(5 << 20))
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::NoMemory));
    let mut writer = store
        .begin(&channel, &announced, Some(3 << 20))
        .await
        .unwrap();
    writer.write(&vec![7; 3 << 20]).await.unwrap();
    writer.commit().await.unwrap();
    let budget = store.inner.budget.clone();
    assert_eq!(budget.used(), 3 << 20);
    let needed = budget.try_take(8 << 20).unwrap();
    assert_eq!(needed.bytes(), 8 << 20);
    assert_eq!(store.memory_bytes(), 0);
    assert!(matches!(store.find(&channel, "1.ts", None), Found::Absent));
}

#[tokio::test]
async fn memory_that_was_read_when_it_was_let_go_is_there_again_for_the_next_segment() {
    let dir = tempfile::tempdir().unwrap();
    let (store, channel, announced) = store(dir.path(), u64::MAX);
    let next = |sequence: u64| Announced {
        sequence: MediaSequence(sequence),
        uri: format!("{sequence}.ts").as_str().into(),
        ..announced.clone()
    };
    let mut readers = Vec::new();
    for sequence in 1..5 {
        let announced = next(sequence);
        store.announce(&channel, std::slice::from_ref(&announced));
        let begun = store.begin(&channel, &announced, Some(3 << 20)).await;
        if sequence == 2 {
            // The first is let go for it, and is still being read.
            assert!(matches!(begun, Err(StoreError::NoMemory)));
            assert!(store.problem().unwrap().contains("no room"));
            readers.clear();
            continue;
        }
        let mut writer = begun.unwrap();
        writer.write(&vec![7; 3 << 20]).await.unwrap();
        writer.commit().await.unwrap();
        let name = format!("{sequence}.ts");
        let Found::Ready(reader) = store.find(&channel, &name, None) else {
            panic!("{name} is stored");
        };
        readers = match sequence {
            1 => vec![reader],
            _ => Vec::new(),
        };
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_deleted_keeps_no_other_from_it_and_the_disk_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let disk = failing(Operation::Remove, 1, rustix::io::Errno::UCLEAN);
    let (store, channel, announced) = store_on(disk, dir.path(), 0);
    let mut writer = store
        .begin(&channel, &announced, Some(200_000))
        .await
        .unwrap();
    writer.write(&[1; 100_000]).await.unwrap();
    drop(writer);
    // It may have waited for the one in the background.
    let _ = store.inner.delete();
    assert!(store.inner.delete().is_err());
    let mut writer = store.begin(&channel, &announced, Some(3)).await.unwrap();
    writer.write(b"new").await.unwrap();
    writer.commit().await.unwrap();
    assert_eq!((store.problem(), files(dir.path())), (None, 2));
    assert_eq!(served(&store, &channel), b"new");
}

#[tokio::test]
async fn a_full_store_on_a_disk_that_turns_read_only_keeps_what_it_has() {
    use rustix::io::Errno;
    let dir = tempfile::tempdir().unwrap();
    let read_only = Arc::new(AtomicBool::new(false));
    let turned = Arc::clone(&read_only);
    let disk = Disk::with_faults(move |now| {
        let writes = matches!(
            now,
            Operation::Create | Operation::Write | Operation::Rename | Operation::Remove
        );
        let fails = writes && turned.load(Ordering::Relaxed);
        fails.then_some(Fault {
            errno: Errno::ROFS.raw_os_error(),
            partly: false,
        })
    });
    let (store, channel, announced) = store_on(disk, dir.path(), 0);
    let name = |sequence: u64| format!("{sequence}.ts");
    for sequence in 1..=9 {
        if sequence == 8 {
            read_only.store(true, Ordering::Relaxed);
        }
        let next = Announced {
            sequence: MediaSequence(sequence),
            uri: name(sequence).as_str().into(),
            ..announced.clone()
        };
        store.announce(&channel, std::slice::from_ref(&next));
        let length = 600_000;
        let mut writer = store.begin(&channel, &next, Some(length)).await.unwrap();
        writer.write(&vec![7; length as usize]).await.unwrap();
        writer.commit().await.unwrap();
    }
    // Six fit. For the eighth one was taken out, and for the ninth, which went to memory at once, none.
    let served = |sequence: &u64| {
        let found = store.find(&channel, &name(*sequence), None);
        matches!(found, Found::Ready(_))
    };
    let served: Vec<u64> = (1..=9).filter(served).collect();
    assert_eq!(served, [3, 4, 5, 6, 7, 8, 9]);
}

#[tokio::test]
async fn two_stores_never_share_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let (first, ..) = store(dir.path(), 0);
    let open = |dir: &Path| {
        let config = StoreConfig {
            dir: dir.into(),
            max_size: 4 << 20,
            min_free: 0,
        };
        Store::open(config, [], Arc::default(), Budget::new(8 << 20))
    };
    let error = open(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::InUse(_)));
    assert!(error.to_string().contains("another edgeseed"));
    drop(first);
    assert!(open(dir.path()).is_ok());
}

#[tokio::test]
async fn what_cannot_be_read_any_more_is_not_found_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let disk = failing(Operation::Read, 0, rustix::io::Errno::IO);
    let (store, channel, announced) = store_on(disk, dir.path(), 0);
    let mut writer = store.begin(&channel, &announced, Some(3)).await.unwrap();
    writer.write(b"new").await.unwrap();
    writer.commit().await.unwrap();
    let Found::Ready(reader) = store.find(&channel, "1.ts", None) else {
        panic!("it is stored");
    };
    let error = reader.read(0..3).unwrap_err();
    store.lose(&channel, &reader, error);
    assert_eq!(store.problem(), None, "it can be written to");
    assert!(matches!(store.find(&channel, "1.ts", None), Found::Absent));
}

/// What is there to read of the one segment.
fn arriving(store: &Store, channel: &ChannelName) -> Reader {
    match store.find(channel, "1.ts", None) {
        Found::Arriving(reader) => reader,
        other => panic!("{other:?}"),
    }
}

fn available(reader: &Reader) -> usize {
    match reader.arrival(Instant::now()) {
        Arrival::Under { available, .. } => available,
        Arrival::Whole => reader.len(),
        Arrival::Broken => panic!("it broke off"),
    }
}

#[tokio::test]
async fn a_segment_is_read_while_it_is_written_and_goes_on_to_be_after_it_was_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let (store, channel, announced) = store(dir.path(), 0);
    let body: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
    let mut writer = store
        .begin(&channel, &announced, Some(300_000))
        .await
        .unwrap();
    writer.serve_meanwhile(Instant::now());
    let reader = arriving(&store, &channel);
    let arrival = reader.arrival(Instant::now());
    let nothing = Arrival::Under {
        available: 0,
        whole_at: None,
    };
    assert_eq!(arrival, nothing);
    let mut growth = store.growth();
    writer.write(&body[..100_000]).await.unwrap();
    assert!(growth.has_changed().unwrap());
    let here = available(&reader);
    assert!((50_000..=100_000).contains(&here), "{here}");
    assert_eq!(reader.read(0..here).unwrap(), &body[..here]);
    assert!(reader.read(0..300_000).is_err(), "the rest is not here");
    writer.write(&body[100_000..]).await.unwrap();
    let segment = writer.commit().await.unwrap();
    growth.mark_unchanged();
    assert_eq!(reader.arrival(Instant::now()), Arrival::Whole);
    assert_eq!(reader.segment().unwrap().crc32c(), segment.crc32c());
    assert_eq!(served(&store, &channel), body);
    store.expire(
        &channel,
        &[(announced.rendition, announced.sequence, announced.uri)],
    );
    assert_eq!(reader.read(0..300_000).unwrap(), body);
}

#[tokio::test]
async fn who_reads_a_segment_that_breaks_off_is_told_and_the_next_attempt_is_another() {
    let dir = tempfile::tempdir().unwrap();
    let (store, channel, announced) = store(dir.path(), 0);
    let mut writer = store
        .begin(&channel, &announced, Some(300_000))
        .await
        .unwrap();
    writer.serve_meanwhile(Instant::now());
    writer.write(&[1; 200_000]).await.unwrap();
    let reader = arriving(&store, &channel);
    drop(writer);
    assert_eq!(reader.arrival(Instant::now()), Arrival::Broken);
    assert!(matches!(store.find(&channel, "1.ts", None), Found::Coming));
    let mut writer = store.begin(&channel, &announced, Some(3)).await.unwrap();
    writer.serve_meanwhile(Instant::now());
    writer.write(b"new").await.unwrap();
    assert_eq!(arriving(&store, &channel).len(), 3);
    assert_eq!(reader.arrival(Instant::now()), Arrival::Broken);
}

#[tokio::test]
async fn a_segment_whose_length_nobody_knows_is_not_read_before_it_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (store, channel, announced) = store(dir.path(), 0);
    let mut writer = store.begin(&channel, &announced, None).await.unwrap();
    writer.serve_meanwhile(Instant::now());
    writer.write(&[1; 200_000]).await.unwrap();
    assert!(matches!(store.find(&channel, "1.ts", None), Found::Coming));
}

#[tokio::test]
async fn a_reader_gets_the_rest_of_a_segment_that_went_on_in_memory() {
    for (operation, n) in [(Operation::Write, 3), (Operation::Rename, 0)] {
        let dir = tempfile::tempdir().unwrap();
        let disk = failing(operation, n, rustix::io::Errno::NOSPC);
        let (store, channel, announced) = store_on(disk, dir.path(), 0);
        let body: Vec<u8> = (0..300_000_u32).map(|n| (n / 7) as u8).collect();
        let mut writer = store
            .begin(&channel, &announced, Some(300_000))
            .await
            .unwrap();
        writer.serve_meanwhile(Instant::now());
        writer.write(&body[..80_000]).await.unwrap();
        let reader = arriving(&store, &channel);
        writer.write(&body[80_000..]).await.unwrap();
        writer.commit().await.unwrap();
        assert_eq!(files(dir.path()), 0, "{operation:?}");
        assert_eq!(reader.arrival(Instant::now()), Arrival::Whole);
        assert_eq!(reader.read(0..300_000).unwrap(), body);
    }
}
