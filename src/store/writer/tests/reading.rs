//! Segments that are read while they are written.

use std::time::Instant;

use super::*;
use crate::store::{Arrival, Reader};

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
