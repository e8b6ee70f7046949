//! Multivariant playlists, and names that stand for more than one segment.

use edgeseed::config::{ChannelConfig, Matching, Variants};
use edgeseed::fetch::ChannelState;
use edgeseed::ids::MediaSequence;
use edgeseed::store::{Found, Store};
use tempfile::TempDir;

use super::origin::{Answer, Origin, media, playlist, set_segments};
use super::rig::{Pipeline, channel, news};

const MASTER: &str = "#EXTM3U\n\
    #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",NAME=\"en\",URI=\"audio.m3u8\"\n\
    #EXT-X-STREAM-INF:BANDWIDTH=1,AUDIO=\"a\"\nlow/index.m3u8\n\
    #EXT-X-STREAM-INF:BANDWIDTH=2,AUDIO=\"a\"\nhigh/index.m3u8\n";

fn one_segment(uri: &str) -> Answer {
    Answer::Text(format!(
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{uri}\n"
    ))
}

#[tokio::test]
async fn a_multivariant_playlist_brings_the_chosen_variant_and_its_audio_through_a_redirect() {
    let (origin, dir) = (Origin::default(), tempfile::tempdir().unwrap());
    origin.set(
        "/m.m3u8",
        &[Answer::Redirect("/deep/down/master.m3u8".into())],
    );
    origin.set("/deep/down/master.m3u8", &[Answer::Text(MASTER.into())]);
    origin.set("/deep/down/audio.m3u8", &[one_segment("a1.aac")]);
    origin.set("/deep/down/low/index.m3u8", &[one_segment("low1.ts")]);
    origin.set("/deep/down/high/index.m3u8", &[one_segment("high1.ts")]);
    origin.set("/deep/down/a1.aac", &[Answer::Bytes(vec![1; 10])]);
    origin.set("/deep/down/high/high1.ts", &[Answer::Bytes(vec![2; 10])]);
    let base = origin.serve().await;
    let mut pipeline = Pipeline::start(&format!("{base}/m.m3u8"), dir.path());
    assert_eq!(
        pipeline.stored("high1.ts", 0).await.read(0..1).unwrap(),
        [2][..]
    );
    assert_eq!(
        pipeline.stored("a1.aac", 0).await.read(0..1).unwrap(),
        [1][..]
    );
    let status = pipeline.status(|s| s.state == ChannelState::Live).await;
    assert_eq!(status.playlists.len(), 2);
    assert_eq!(origin.asked("/deep/down/low/low1.ts"), 0);
    pipeline.stop().await;
}

/// An origin of two variants and an audio rendition, with one segment each of these names.
fn variants(low: &str, high: &str, audio: &str) -> Origin {
    let origin = Origin::default();
    origin.set("/m.m3u8", &[Answer::Text(MASTER.into())]);
    origin.set("/audio.m3u8", &[one_segment(audio)]);
    for (folder, uri, byte) in [("low", low, 1), ("high", high, 2)] {
        origin.set(&format!("/{folder}/index.m3u8"), &[one_segment(uri)]);
        let path = uri.split('?').next().unwrap();
        origin.set(
            &format!("/{folder}/{path}"),
            &[Answer::Bytes(vec![byte; 10])],
        );
    }
    origin.set(&format!("/{audio}"), &[Answer::Bytes(vec![3; 10])]);
    origin
}

/// Two variants whose segments have one name, which stands for neither; the followed one's is stored.
async fn of_one_name() -> (Origin, Pipeline, TempDir) {
    let origin = variants("1.ts", "1.ts", "a1.aac");
    let dir = tempfile::tempdir().unwrap();
    let base = origin.serve().await;
    let pipeline = Pipeline::start(&format!("{base}/m.m3u8"), dir.path());
    pipeline
        .until(|store| (store.summary(&news()).segments == 2).then_some(()))
        .await;
    let found = first(&pipeline.store, "1.ts");
    assert!(matches!(found, Found::Absent), "{found:?}");
    (origin, pipeline, dir)
}

fn first(store: &Store, uri: &str) -> Found {
    store.find(&news(), uri, Some(MediaSequence(0)))
}

#[tokio::test]
async fn a_name_that_another_variant_uses_too_is_never_served_even_if_that_is_not_followed() {
    let (_origin, pipeline, _dir) = of_one_name().await;
    // The audio is nobody else's.
    assert_eq!(
        pipeline.stored("a1.aac", 0).await.read(0..1).unwrap(),
        [3][..]
    );
    let ambiguous = pipeline.store.ambiguous(&news()).unwrap();
    assert_eq!(
        (ambiguous.example.as_str(), ambiguous.segments),
        ("1.ts", 1)
    );
    pipeline.stop().await;
}

#[tokio::test]
async fn a_variant_is_served_again_once_no_other_uses_its_names() {
    let (origin, pipeline, _dir) = of_one_name().await;
    origin.set("/low/index.m3u8", &[one_segment("low1.ts")]);
    // A list of another kind is lost at once, and looked for at once.
    let audio = [Answer::Text(MASTER.into()), one_segment("a1.aac")];
    origin.set("/audio.m3u8", &audio);
    assert_eq!(
        pipeline.stored("1.ts", 0).await.read(0..1).unwrap(),
        [2][..]
    );
    assert_eq!(pipeline.store.ambiguous(&news()), None);
    pipeline.stop().await;
}

#[tokio::test]
async fn a_name_that_two_followed_variants_use_is_not_served_and_their_others_are() {
    let (origin, dir) = (
        variants("ad.ts", "ad.ts", "a1.aac"),
        tempfile::tempdir().unwrap(),
    );
    for (folder, byte) in [("low", 1), ("high", 2)] {
        let text = format!(
            "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nad.ts\n#EXTINF:1,\n{folder}1.ts\n"
        );
        origin.set(&format!("/{folder}/index.m3u8"), &[Answer::Text(text)]);
        let path = format!("/{folder}/{folder}1.ts");
        origin.set(&path, &[Answer::Bytes(vec![byte; 10])]);
    }
    let base = origin.serve().await;
    let url = format!("{base}/m.m3u8");
    let pipeline = Pipeline::start_with(&url, dir.path(), 1 << 30, Variants::All);
    assert_eq!(
        pipeline.stored("low1.ts", 1).await.read(0..1).unwrap(),
        [1][..]
    );
    assert_eq!(
        pipeline.stored("high1.ts", 1).await.read(0..1).unwrap(),
        [2][..]
    );
    pipeline
        .until(|store| (store.summary(&news()).segments == 5).then_some(()))
        .await;
    let found = first(&pipeline.store, "ad.ts");
    assert!(matches!(found, Found::Absent), "{found:?}");
    assert_eq!(pipeline.store.ambiguous(&news()).unwrap().segments, 2);
    pipeline.stop().await;
}

#[tokio::test]
async fn one_resource_in_two_variants_is_served_after_a_restart_too() {
    let (origin, dir) = (
        variants("low.ts", "high.ts", "a1.aac"),
        tempfile::tempdir().unwrap(),
    );
    let base = origin.serve().await;
    let advertisement = format!("{base}/ad.ts");
    for folder in ["low", "high"] {
        let list = one_segment(&advertisement);
        origin.set(&format!("/{folder}/index.m3u8"), &[list]);
    }
    origin.set("/ad.ts", &[Answer::Bytes(vec![4; 10])]);
    let url = format!("{base}/m.m3u8");
    for _ in 0..2 {
        let pipeline = Pipeline::start_with(&url, dir.path(), 1 << 30, Variants::All);
        pipeline
            .until(|store| (store.summary(&news()).segments == 3).then_some(()))
            .await;
        assert_eq!(
            pipeline.stored(&advertisement, 0).await.read(0..1).unwrap(),
            [4][..]
        );
        assert_eq!(pipeline.store.ambiguous(&news()), None);
        pipeline.stop().await;
    }
}

#[tokio::test]
async fn a_variant_that_cannot_be_loaded_does_not_keep_the_others_from_being_served() {
    let (origin, dir) = (
        variants("1.ts", "1.ts", "a1.aac"),
        tempfile::tempdir().unwrap(),
    );
    origin.set("/low/index.m3u8", &[Answer::Status(404)]);
    let base = origin.serve().await;
    let pipeline = Pipeline::start(&format!("{base}/m.m3u8"), dir.path());
    assert_eq!(
        pipeline.stored("1.ts", 0).await.read(0..1).unwrap(),
        [2][..]
    );
    pipeline.stop().await;
}

#[tokio::test]
async fn tokens_that_change_at_each_load_cost_no_second_fetch_where_the_path_is_the_name() {
    let (origin, dir) = (Origin::default(), tempfile::tempdir().unwrap());
    set_segments(&origin, 1..5);
    let with = |first, token: &str| Answer::Text(playlist(first, 3).replace("a%2Fb", token));
    origin.set(
        "/news/index.m3u8",
        &[with(1, "one"), with(1, "two"), with(2, "three")],
    );
    let base = origin.serve().await;
    let channel = ChannelConfig {
        matching: Matching::Path,
        ..channel(&format!("{base}/news/index.m3u8"))
    };
    let pipeline = Pipeline::start_channel(dir.path(), 1 << 30, channel.clone());
    for number in 1..5 {
        let theirs = format!("seg_{number}.ts?token=theirs");
        let segment = pipeline.stored(&theirs, number).await;
        assert_eq!(segment.read(0..usize::MAX).unwrap(), media(number));
    }
    pipeline.stop().await;
    // A start over the store is a load with other tokens as well.
    let mut pipeline = Pipeline::start_channel(dir.path(), 1 << 30, channel);
    pipeline.status(|s| s.state == ChannelState::Live).await;
    pipeline.stored("seg_4.ts", 4).await;
    for number in 1..5 {
        assert_eq!(origin.asked(&format!("/news/seg_{number}.ts")), 1);
    }
    pipeline.stop().await;
}

#[tokio::test]
async fn a_variant_that_is_lost_comes_back_without_disturbing_the_others() {
    let origin = variants("low1.ts", "high1.ts", "a1.aac");
    let dir = tempfile::tempdir().unwrap();
    origin.set("/high/high1.ts", &[Answer::Status(404)]);
    let base = origin.serve().await;
    let url = format!("{base}/m.m3u8");
    let pipeline = Pipeline::start_with(&url, dir.path(), 1 << 30, Variants::All);
    pipeline.stored("low1.ts", 0).await;
    pipeline
        .until(|store| matches!(first(store, "high1.ts"), Found::Absent).then_some(()))
        .await;
    let given_up_after = origin.asked("/high/high1.ts");
    // A list of another kind is lost at once; the look for it brings what it is now.
    origin.set("/low/low2.ts", &[Answer::Bytes(vec![1; 10])]);
    let list = [Answer::Text(MASTER.into()), one_segment("low2.ts")];
    origin.set("/low/index.m3u8", &list);
    pipeline.stored("low2.ts", 0).await;
    assert_eq!(
        origin.asked("/high/high1.ts"),
        given_up_after,
        "who follows the other variant is still the same"
    );
    pipeline.stop().await;
}
