//! Disks on which something fails, and memory in their place.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

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
        put(&store, &channel, &announced, b"new").await;
        assert_eq!(served(&store, &channel), b"new");
    }
}

#[tokio::test]
async fn more_to_be_left_free_than_there_is_costs_the_disk_and_not_the_viewers() {
    let dir = tempfile::tempdir().unwrap();
    let (store, channel, announced) = store(dir.path(), u64::MAX);
    put(&store, &channel, &announced, b"new").await;
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
    put(&store, &channel, &announced, &vec![7; 3 << 20]).await;
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
    put(&store, &channel, &announced, b"new").await;
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
        put(&store, &channel, &next, &vec![7; 600_000]).await;
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
async fn what_cannot_be_read_any_more_is_not_found_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let disk = failing(Operation::Read, 0, rustix::io::Errno::IO);
    let (store, channel, announced) = store_on(disk, dir.path(), 0);
    put(&store, &channel, &announced, b"new").await;
    let Found::Ready(reader) = store.find(&channel, "1.ts", None) else {
        panic!("it is stored");
    };
    let error = reader.read(0..3).unwrap_err();
    store.lose(&channel, &reader, error);
    assert_eq!(store.problem(), None, "it can be written to");
    assert!(matches!(store.find(&channel, "1.ts", None), Found::Absent));
}
