//! What is fetched of a media playlist, and what becomes of playlists and segments that fail.

use std::sync::{Arc, Mutex};

use edgeseed::fetch::ChannelState;
use edgeseed::ids::MediaSequence;
use edgeseed::store::{Found, Store};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::origin::{Answer, Origin, media, named, playlist, set_segments};
use super::rig::{PATIENCE, Pipeline, files, news};

#[tokio::test]
async fn every_segment_of_the_window_is_fetched_once_and_served_as_it_was() {
    let (origin, dir) = (Origin::default(), tempfile::tempdir().unwrap());
    set_segments(&origin, 10..16);
    origin.set(
        "/news/index.m3u8",
        &[
            Answer::Text(playlist(10, 3)),
            Answer::Text(playlist(11, 3)),
            Answer::Text(playlist(13, 3)),
        ],
    );
    let base = origin.serve().await;
    let mut pipeline = Pipeline::start(&format!("{base}/news/index.m3u8"), dir.path());
    for number in 10..16 {
        let segment = pipeline.stored(&named(number), number).await;
        assert_eq!(segment.read(0..usize::MAX).unwrap(), media(number));
        assert_eq!(segment.segment().unwrap().uri().as_str(), named(number));
    }
    let status = pipeline.status(|s| s.state == ChannelState::Live).await;
    assert_eq!(status.playlists[0].target_duration, Some(1.0));
    for number in 10..16 {
        assert_eq!(origin.asked(&format!("/news/seg_{number}.ts")), 1);
    }
    let numbers = pipeline.metrics.channel(&news());
    // A segment is found a moment before it is counted.
    let counted = async {
        while numbers.origin_segments.ok.get() < 6 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, counted).await.unwrap();
    assert_eq!(numbers.origin_segments.error.get(), 0);
    assert_eq!(numbers.store_segments.get(), 6);
    let bodies: u64 = (10..16).map(|n| media(n).len() as u64).sum();
    assert!(numbers.origin_bytes.get() > bodies);
    assert_eq!(pipeline.store.newest(&news()), Some(MediaSequence(15)));
    let ahead = pipeline
        .store
        .find(&news(), "seg_16.ts", Some(MediaSequence(16)));
    assert!(matches!(ahead, Found::Coming), "{ahead:?}");
    pipeline.stop().await;
}

#[tokio::test]
async fn a_playlist_that_cannot_be_used_is_explained_and_recovery_is_noticed() {
    let cut = Answer::Half(playlist(1, 3).into_bytes());
    let cases = [
        (Answer::Html, "begins with \"<html>"),
        (Answer::Status(404), "404"),
        (Answer::Status(500), "500"),
        (Answer::Bytes(vec![b'#'; 10 << 20]), "larger than"),
        (Answer::Redirect("/news/index.m3u8".into()), "redirects"),
        (cut, "broke off"),
    ];
    for (answer, expected) in cases {
        let (origin, dir) = (Origin::default(), tempfile::tempdir().unwrap());
        set_segments(&origin, 1..4);
        origin.set("/news/index.m3u8", &[answer]);
        let base = origin.serve().await;
        let mut pipeline = Pipeline::start(&format!("{base}/news/index.m3u8"), dir.path());
        let error = pipeline.failure().await;
        assert!(error.contains(expected), "{error:?} has no {expected:?}");
        origin.set("/news/index.m3u8", &[Answer::Text(playlist(1, 3))]);
        pipeline.status(|s| s.state == ChannelState::Live).await;
        pipeline.stored(&named(3), 3).await;
        pipeline.stop().await;
    }
}

#[tokio::test]
async fn a_channel_that_fails_later_keeps_what_it_has_and_goes_on() {
    let (origin, dir) = (Origin::default(), tempfile::tempdir().unwrap());
    set_segments(&origin, 1..6);
    origin.set("/news/index.m3u8", &[Answer::Text(playlist(1, 3))]);
    let base = origin.serve().await;
    let mut pipeline = Pipeline::start(&format!("{base}/news/index.m3u8"), dir.path());
    pipeline.stored(&named(3), 3).await;
    pipeline.stored(&named(1), 1).await;
    origin.set("/news/index.m3u8", &[Answer::Html]);
    pipeline.failure().await;
    pipeline.stored(&named(1), 1).await;
    origin.set("/news/index.m3u8", &[Answer::Text(playlist(3, 3))]);
    let status = pipeline.status(|s| s.state == ChannelState::Live).await;
    assert!(status.failure.is_none());
    pipeline.stored(&named(5), 5).await;
    assert_eq!(origin.asked("/news/seg_3.ts"), 1);
    pipeline.stop().await;
}

#[tokio::test]
async fn a_refused_connection_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let dir = tempfile::tempdir().unwrap();
    let mut pipeline = Pipeline::start(&format!("http://{address}/i.m3u8"), dir.path());
    let error = pipeline.failure().await;
    assert!(error.contains("refuses connections"), "{error}");
    pipeline.stop().await;
}

#[tokio::test]
async fn a_segment_that_breaks_off_is_taken_up_again_and_never_served_short() {
    let (origin, dir) = (Origin::default(), tempfile::tempdir().unwrap());
    origin.set(
        "/news/seg_1.ts",
        &[
            Answer::Half(media(1)),
            Answer::Html,
            Answer::Bytes(media(1)),
        ],
    );
    origin.set("/news/index.m3u8", &[Answer::Text(playlist(1, 1))]);
    let base = origin.serve().await;
    let pipeline = Pipeline::start(&format!("{base}/news/index.m3u8"), dir.path());
    let segment = pipeline.stored(&named(1), 1).await;
    assert_eq!(segment.read(0..usize::MAX).unwrap(), media(1));
    assert_eq!(origin.asked("/news/seg_1.ts"), 3);
    let numbers = pipeline.metrics.channel(&news());
    assert_eq!(
        numbers.origin_segments.error.get(),
        0,
        "one fetch, in the end whole"
    );
    assert!(files(dir.path(), "part").is_empty());
    pipeline.stop().await;
}

#[tokio::test]
async fn a_segment_that_never_comes_is_given_up_and_the_others_are_not_held_up() {
    let (origin, dir) = (Origin::default(), tempfile::tempdir().unwrap());
    set_segments(&origin, 1..3);
    origin.set("/news/seg_3.ts", &[Answer::Status(404)]);
    origin.set("/news/index.m3u8", &[Answer::Text(playlist(1, 3))]);
    let base = origin.serve().await;
    let pipeline = Pipeline::start(&format!("{base}/news/index.m3u8"), dir.path());
    let find = |store: &Store| store.find(&news(), &named(3), Some(MediaSequence(3)));
    pipeline
        .until(|store| matches!(find(store), Found::Coming).then_some(()))
        .await;
    pipeline.stored(&named(1), 1).await;
    pipeline.stored(&named(2), 2).await;
    pipeline
        .until(|store| matches!(find(store), Found::Absent).then_some(()))
        .await;
    assert_eq!(origin.asked("/news/seg_3.ts"), 5);
    pipeline.stop().await;
}

/// An origin of the old kind: the end of the connection is the end of the body.
#[tokio::test]
async fn half_a_uri_at_the_end_of_an_open_ended_answer_is_not_fetched() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = socket.read(&mut request).await.unwrap();
            let line = String::from_utf8_lossy(&request[..length]);
            let path = line.split(' ').nth(1).unwrap().to_owned();
            let body = match path.ends_with(".m3u8") {
                true => {
                    "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\na.ts\n#EXTINF:1,\nb.t".into()
                }
                false => "media".to_owned(),
            };
            seen.lock().unwrap().push(path);
            let answer = format!("HTTP/1.0 200 OK\r\n\r\n{body}");
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let mut pipeline = Pipeline::start(&format!("http://{address}/i.m3u8"), dir.path());
    let segment = pipeline.stored("a.ts", 0).await;
    assert_eq!(segment.read(0..9).unwrap(), b"media"[..]);
    pipeline.status(|s| s.state == ChannelState::Live).await;
    pipeline.stop().await;
    let asked = asked.lock().unwrap();
    assert!(!asked.iter().any(|path| path.contains("b.t")), "{asked:?}");
}

#[tokio::test]
async fn a_last_line_without_a_newline_counts_where_the_length_proves_it() {
    let (origin, dir) = (Origin::default(), tempfile::tempdir().unwrap());
    set_segments(&origin, 1..3);
    let text = playlist(1, 2).trim_end().to_owned();
    origin.set("/news/index.m3u8", &[Answer::Text(text)]);
    let base = origin.serve().await;
    let pipeline = Pipeline::start(&format!("{base}/news/index.m3u8"), dir.path());
    pipeline.stored(&named(2), 2).await;
    pipeline.stop().await;
}

#[tokio::test]
async fn an_unchanged_playlist_is_asked_for_with_its_validator() {
    let (origin, dir) = (Origin::default(), tempfile::tempdir().unwrap());
    set_segments(&origin, 1..3);
    origin.set("/news/index.m3u8", &[Answer::Tagged(playlist(1, 2))]);
    let base = origin.serve().await;
    let mut pipeline = Pipeline::start(&format!("{base}/news/index.m3u8"), dir.path());
    let count = Arc::clone(&origin.not_modified);
    pipeline.status(|_| *count.lock().unwrap() > 0).await;
    assert_eq!(pipeline.status.borrow().state, ChannelState::Live);
    pipeline.stop().await;
}
