//! What is kept on the disk, and found there again.

use std::time::Duration;

use edgeseed::config::{StoreConfig, Variants};
use edgeseed::fetch::ChannelState;
use edgeseed::ids::MediaSequence;
use edgeseed::store::{Found, Store};

use super::origin::{Answer, Origin, media, named, playlist, set_segments};
use super::rig::{Pipeline, files, news, open_plain};

#[tokio::test]
async fn the_quota_keeps_what_is_nearest_to_the_live_edge() {
    let (origin, dir) = (Origin::default(), tempfile::tempdir().unwrap());
    set_segments(&origin, 1..9);
    origin.set(
        "/news/index.m3u8",
        &[Answer::Text(playlist(1, 5)), Answer::Text(playlist(4, 5))],
    );
    let base = origin.serve().await;
    let url = format!("{base}/news/index.m3u8");
    let pipeline = Pipeline::start_with(&url, dir.path(), 1_000_000, Variants::Highest);
    pipeline.stored(&named(5), 5).await;
    pipeline.stored(&named(8), 8).await;
    let settled = |store: &Store| {
        let ready = |number: &u64| {
            let found = store.find(&news(), &named(*number), Some(MediaSequence(*number)));
            matches!(found, Found::Ready(_))
        };
        let stored: Vec<u64> = (1..9).filter(ready).collect();
        (stored == [6, 7, 8]).then_some(())
    };
    pipeline.until(settled).await;
    assert!(pipeline.store.summary(&news()).bytes <= 1_000_000);
    pipeline.stop().await;
}

#[tokio::test]
async fn what_somebody_wiped_is_fetched_again() {
    let (origin, dir) = (Origin::default(), tempfile::tempdir().unwrap());
    set_segments(&origin, 1..6);
    origin.set("/news/index.m3u8", &[Answer::Text(playlist(1, 5))]);
    let base = origin.serve().await;
    let pipeline = Pipeline::start(&format!("{base}/news/index.m3u8"), dir.path());
    pipeline.stored(&named(1), 1).await;
    std::fs::remove_dir_all(dir.path().join("news")).unwrap();
    let found = pipeline
        .store
        .find(&news(), &named(5), Some(MediaSequence(5)));
    assert!(matches!(found, Found::Absent), "that is how it is noticed");
    for number in 1..6 {
        let reader = pipeline.stored(&named(number), number).await;
        assert_eq!(reader.read(0..usize::MAX).unwrap(), media(number));
    }
    pipeline.stop().await;
}

#[tokio::test]
async fn a_restart_finds_the_window_again_and_deletes_what_is_not_whole() {
    let (origin, dir) = (Origin::default(), tempfile::tempdir().unwrap());
    set_segments(&origin, 1..6);
    origin.set("/news/index.m3u8", &[Answer::Text(playlist(1, 5))]);
    let base = origin.serve().await;
    let url = format!("{base}/news/index.m3u8");
    let pipeline = Pipeline::start(&url, dir.path());
    for number in 1..6 {
        pipeline.stored(&named(number), number).await;
    }
    pipeline.stop().await;

    let mut stored = files(dir.path(), "seg");
    stored.sort();
    assert_eq!(stored.len(), 5);
    // A flipped bit in 1, a tail cut off 2, and what a crash leaves behind.
    let mut bytes = std::fs::read(&stored[0]).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(&stored[0], bytes).unwrap();
    let bytes = std::fs::read(&stored[1]).unwrap();
    std::fs::write(&stored[1], &bytes[..bytes.len() - 5]).unwrap();
    std::fs::write(dir.path().join("news/0-9-00000000.part"), "x").unwrap();
    std::fs::write(dir.path().join("news/0-9-00000000.seg"), "").unwrap();

    let pipeline = Pipeline::start(&url, dir.path());
    for number in 1..6 {
        let segment = pipeline.stored(&named(number), number).await;
        assert_eq!(segment.read(0..usize::MAX).unwrap(), media(number));
        let expected = if number < 3 { 2 } else { 1 };
        assert_eq!(origin.asked(&format!("/news/seg_{number}.ts")), expected);
    }
    pipeline.stop().await;
    assert_eq!(files(dir.path(), "seg").len(), 5);
    assert!(files(dir.path(), "part").is_empty());
}

#[tokio::test]
async fn segments_of_another_playlist_are_not_taken_for_those_of_this_one() {
    let (origin, dir) = (Origin::default(), tempfile::tempdir().unwrap());
    set_segments(&origin, 1..2);
    origin.set("/news/index.m3u8", &[Answer::Text(playlist(1, 1))]);
    origin.set("/low/index.m3u8", &[Answer::Text(playlist(1, 1))]);
    origin.set("/low/seg_1.ts", &[Answer::Bytes(b"low".to_vec())]);
    let base = origin.serve().await;
    let pipeline = Pipeline::start(&format!("{base}/news/index.m3u8"), dir.path());
    pipeline.stored(&named(1), 1).await;
    pipeline.stop().await;
    let mut pipeline = Pipeline::start(&format!("{base}/low/index.m3u8"), dir.path());
    pipeline.status(|s| s.state == ChannelState::Live).await;
    let segment = pipeline.stored(&named(1), 1).await;
    assert_eq!(segment.read(0..usize::MAX).unwrap(), b"low"[..]);
    pipeline.stop().await;
}

#[tokio::test]
async fn an_encoder_that_starts_anew_under_the_same_names_is_not_served_stale() {
    let (origin, dir) = (Origin::default(), tempfile::tempdir().unwrap());
    set_segments(&origin, 0..9);
    origin.set("/news/index.m3u8", &[Answer::Text(playlist(0, 8))]);
    let base = origin.serve().await;
    let pipeline = Pipeline::start(&format!("{base}/news/index.m3u8"), dir.path());
    pipeline.stored(&named(0), 0).await;
    origin.set("/news/seg_0.ts", &[Answer::Bytes(b"anew".to_vec())]);
    origin.set("/news/index.m3u8", &[Answer::Text(playlist(0, 1))]);
    let anew = |store: &Store| match store.find(&news(), &named(0), None) {
        Found::Ready(reader) => (reader.len() == 4).then_some(()),
        _ => None,
    };
    pipeline.until(anew).await;
    assert_eq!(pipeline.store.summary(&news()).segments, 1);
    pipeline.stop().await;
}

#[test]
fn a_folder_that_cannot_be_written_to_is_found_at_start() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("news"), "a file where a folder is needed").unwrap();
    let config = StoreConfig {
        dir: dir.path().into(),
        max_size: 1 << 20,
        min_free: 0,
    };
    let error = open_plain(config).unwrap_err();
    assert!(error.to_string().contains("news"), "{error}");
    let config = StoreConfig {
        dir: "/proc/edgeseed".into(),
        max_size: 1 << 20,
        min_free: 0,
    };
    assert!(open_plain(config).is_err());
}

#[tokio::test]
async fn what_is_no_regular_file_does_not_hold_up_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("news");
    std::fs::create_dir(&folder).unwrap();
    for name in ["0-7-00000001.seg", "x.part"] {
        let made = std::process::Command::new("mkfifo")
            .arg(folder.join(name))
            .status();
        assert!(made.unwrap().success());
    }
    let config = StoreConfig {
        dir: dir.path().into(),
        max_size: 1 << 20,
        min_free: 0,
    };
    let opening = tokio::task::spawn_blocking(|| open_plain(config));
    let opened = tokio::time::timeout(Duration::from_secs(10), opening).await;
    assert!(opened.expect("opens at once").unwrap().is_ok());
}

#[tokio::test]
async fn a_sibling_gets_a_segment_only_if_the_playlist_was_looked_at_since_it_asks() {
    let (origin, dir) = (Origin::default(), tempfile::tempdir().unwrap());
    origin.set("/news/seg_1.ts", &[Answer::Bytes(media(1))]);
    origin.set("/news/index.m3u8", &[Answer::Text(playlist(1, 1))]);
    let base = origin.serve().await;
    let address = format!("{base}/news/index.m3u8");
    let pipeline = Pipeline::start(&address, dir.path());
    pipeline.stored(&named(1), 1).await;
    let find = |store: &Store, playlist: &str, since| {
        let sequence = Some(MediaSequence(1));
        store.find_for_sibling(&news(), &named(1), sequence, playlist, since)
    };
    let other = format!("{base}/other/index.m3u8");
    assert!(matches!(find(&pipeline.store, &other, None), Found::Absent));
    assert!(matches!(
        find(&pipeline.store, &address, None),
        Found::Ready(_)
    ));
    let asked = origin.asked("/news/index.m3u8");
    let since = Some(std::time::Instant::now());
    assert!(matches!(
        find(&pipeline.store, &address, since),
        Found::Coming
    ));
    // Which has the playlist looked at.
    let segment = pipeline
        .until(|store| match find(store, &address, since) {
            Found::Ready(segment) => Some(segment),
            _ => None,
        })
        .await;
    assert_eq!(segment.read(0..usize::MAX).unwrap(), media(1));
    assert!(origin.asked("/news/index.m3u8") > asked);
    pipeline.stop().await;
}
