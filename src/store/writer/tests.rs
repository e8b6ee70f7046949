//! Writing segments, and what is left when that goes wrong.

mod faults;
mod reading;

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use super::super::{Disk, Fault, Found, Operation, Store};
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

/// Writes a segment whose length was promised.
async fn put(
    store: &Store,
    channel: &ChannelName,
    announced: &Announced,
    bytes: &[u8],
) -> Arc<Segment> {
    let length = Some(bytes.len() as u64);
    let mut writer = store.begin(channel, announced, length).await.unwrap();
    writer.write(bytes).await.unwrap();
    writer.commit().await.unwrap()
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
    put(&store, &channel, &announced, &vec![7; 3 << 20]).await;
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
    put(&first, &channel, &announced, b"new").await;
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
    put(&store, &channel, &announced, b"new").await;
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
    let segment = put(&store, &channel, &announced, b"new").await;
    assert_eq!(segment.len(), 3);
    assert_eq!(served(&store, &channel), b"new");
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
