//! What playlists hold besides whole segments of MPEG-TS.

use std::ops::Range;
use std::time::Duration;

use edgeseed::store::{Found, Reader, Store};

use super::files::{Origin, bytes, list};
use super::probe::probe;
use super::rig::{PATIENCE, Pipeline, news};

fn is_absent(found: &Found) -> bool {
    matches!(found, Found::Absent)
}

fn all(segment: &Reader) -> Vec<u8> {
    segment.read(0..usize::MAX).unwrap().into()
}

#[tokio::test]
async fn an_initialization_section_is_fetched_once_and_stays_as_long_as_it_is_needed() {
    let origin = Origin::default();
    let map = "#EXT-X-MAP:URI=\"init.mp4?v=1\"";
    origin.set("/init.mp4", "the section");
    for number in 1..200 {
        origin.set(&format!("/{number}.m4s"), format!("segment {number}"));
    }
    origin.set("/i.m3u8", list(1, &[map, "1.m4s", "2.m4s", "3.m4s"]));
    let base = origin.serve().await;
    let (pipeline, _dir) = Pipeline::start_with_lines(&format!("{base}/i.m3u8"), "window = \"3s\"");
    let init = pipeline.ready("init.mp4?v=1", None).await;
    assert_eq!(all(&init), b"the section");
    assert_eq!(all(&pipeline.ready("3.m4s", Some(3)).await), b"segment 3");
    origin.set("/i.m3u8", list(9, &[map, "9.m4s", "10.m4s", "11.m4s"]));
    pipeline.ready("11.m4s", Some(11)).await;
    assert!(
        is_absent(&pipeline.find("1.m4s", Some(1))),
        "it has left the window"
    );
    pipeline.ready("init.mp4?v=1", None).await;
    let before = origin.asked("/init.mp4?v=1");
    origin.set("/i.m3u8", list(10, &[map, "10.m4s", "11.m4s", "12.m4s"]));
    pipeline.ready("12.m4s", Some(12)).await;
    assert_eq!(origin.asked("/init.mp4?v=1"), before);
    assert!(before <= 2, "once for each run of segments: {before}");

    // The next programme: its section comes, and the old one goes with the last of its segments.
    origin.set("/next.mp4", "another");
    let next = [
        "#EXT-X-DISCONTINUITY",
        "#EXT-X-MAP:URI=\"next.mp4\"",
        "13.m4s",
        "14.m4s",
        "15.m4s",
    ];
    origin.set("/i.m3u8", list(13, &next));
    assert_eq!(all(&pipeline.ready("next.mp4", None).await), b"another");
    pipeline.ready("15.m4s", Some(15)).await;
    pipeline
        .until(|store| is_absent(&store.find(&news(), "init.mp4?v=1", None)).then_some(()))
        .await;
}

#[tokio::test]
async fn an_encoder_that_starts_anew_writes_another_section_under_the_old_name() {
    let origin = Origin::default();
    let map = "#EXT-X-MAP:URI=\"init.mp4\"";
    origin.set("/init.mp4", "old");
    for number in [1, 2, 3] {
        origin.set(&format!("/{number}.m4s"), "x");
    }
    origin.set("/i.m3u8", list(1, &[map, "1.m4s", "2.m4s"]));
    let base = origin.serve().await;
    let (pipeline, _dir) = Pipeline::start_with_lines(&format!("{base}/i.m3u8"), "");
    assert_eq!(all(&pipeline.ready("init.mp4", None).await), b"old");
    origin.set("/init.mp4", "new");
    origin.set(
        "/i.m3u8",
        list(
            1,
            &[map, "1.m4s", "2.m4s", "#EXT-X-DISCONTINUITY", map, "3.m4s"],
        ),
    );
    pipeline.ready("3.m4s", Some(3)).await;
    assert_eq!(all(&pipeline.ready("init.mp4", None).await), b"new");
}

#[tokio::test]
async fn tokens_that_change_at_each_load_cost_no_second_section_where_the_path_is_the_name() {
    let origin = Origin::default();
    origin.set("/init.mp4", "the section");
    for number in 1..5 {
        origin.set(&format!("/{number}.m4s"), "x");
    }
    let with_token = |token: &str, numbers: Range<u64>| {
        let map = format!("#EXT-X-MAP:URI=\"init.mp4?t={token}\"");
        let first = numbers.start;
        let segments = numbers.map(|number| format!("{number}.m4s?t={token}"));
        let lines: Vec<String> = std::iter::once(map).chain(segments).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        list(first, &lines)
    };
    origin.set("/i.m3u8", with_token("a", 1..3));
    let base = origin.serve().await;
    let (pipeline, _dir) =
        Pipeline::start_with_lines(&format!("{base}/i.m3u8"), "match = \"path\"");
    pipeline.ready("2.m4s?t=viewer", Some(2)).await;
    for (token, newest) in [("b", 3), ("c", 4)] {
        origin.set("/i.m3u8", with_token(token, 1..newest + 1));
        let name = format!("{newest}.m4s?t=viewer");
        pipeline.ready(&name, Some(newest)).await;
    }
    let init = pipeline.ready("init.mp4?t=viewer", None).await;
    assert_eq!(all(&init), b"the section");
    let asked = origin.asked.lock().unwrap().clone();
    let media: Vec<_> = asked
        .iter()
        .filter(|path| !path.contains(".m3u8"))
        .collect();
    assert_eq!(media.len(), 5, "{media:?}");
}

#[tokio::test]
async fn byte_ranges_are_fetched_as_such_and_told_apart_by_their_numbers() {
    let origin = Origin::default();
    origin.set("/all.mp4", bytes(0..1000));
    let lines = [
        "#EXT-X-MAP:URI=\"all.mp4\",BYTERANGE=\"100@0\"",
        "#EXT-X-BYTERANGE:300@100",
        "all.mp4",
        "#EXT-X-BYTERANGE:200",
        "all.mp4",
    ];
    origin.set("/i.m3u8", list(7, &lines));
    let base = origin.serve().await;
    let (pipeline, _dir) = Pipeline::start_with_lines(&format!("{base}/i.m3u8"), "");
    assert_eq!(
        all(&pipeline.ready("all.mp4", Some(7)).await),
        bytes(100..400)
    );
    assert_eq!(
        all(&pipeline.ready("all.mp4", Some(8)).await),
        bytes(400..600)
    );
    assert!(is_absent(&pipeline.find("all.mp4", None)), "which of them?");
    assert!(is_absent(&pipeline.find("all.mp4", Some(6))));
    for part in ["0-99", "100-399", "400-599"] {
        assert_eq!(origin.asked(&format!("/all.mp4 bytes={part}")), 1, "{part}");
    }
    assert_eq!(origin.asked("/all.mp4"), 0, "never all of it");
}

#[tokio::test]
async fn an_origin_without_ranges_is_refused_and_the_operator_told() {
    let origin = Origin {
        knows_no_ranges: true,
        ..Origin::default()
    };
    origin.set("/all.ts", bytes(0..1000));
    origin.set("/i.m3u8", list(1, &["#EXT-X-BYTERANGE:300@0", "all.ts"]));
    let base = origin.serve().await;
    let (mut pipeline, _dir) = Pipeline::start_with_lines(&format!("{base}/i.m3u8"), "");
    let error = pipeline.complaint().await;
    assert!(error.contains("does not serve ranges"), "{error}");
    assert!(!matches!(pipeline.find("all.ts", Some(1)), Found::Ready(_)));
}

#[tokio::test]
async fn a_gap_is_never_asked_for_and_a_viewer_is_told_so_at_once() {
    let origin = Origin::default();
    origin.set("/1.ts", "one");
    origin.set("/i.m3u8", list(1, &["1.ts", "#EXT-X-GAP", "2.ts"]));
    let base = origin.serve().await;
    let (pipeline, _dir) = Pipeline::start_with_lines(&format!("{base}/i.m3u8"), "");
    pipeline.ready("1.ts", Some(1)).await;
    assert!(is_absent(&pipeline.find("2.ts", Some(2))));
    assert!(
        matches!(pipeline.find("3.ts", Some(3)), Found::Coming),
        "the next one may"
    );
    assert_eq!(origin.asked("/2.ts"), 0);
}

#[tokio::test]
async fn keys_are_never_asked_for() {
    let origin = Origin::default();
    origin.set("/1.ts", "secret");
    let key = "#EXT-X-KEY:METHOD=AES-128,URI=\"key.bin\"";
    origin.set("/i.m3u8", list(1, &[key, "1.ts"]));
    let base = origin.serve().await;
    let (pipeline, _dir) = Pipeline::start_with_lines(&format!("{base}/i.m3u8"), "");
    assert_eq!(all(&pipeline.ready("1.ts", Some(1)).await), b"secret");
    assert_eq!(origin.asked("/key.bin"), 0);
}

#[tokio::test]
async fn variables_are_replaced_as_players_do_and_imported_from_the_multivariant_playlist() {
    let origin = Origin::default();
    origin.set(
        "/m.m3u8",
        "#EXTM3U\n#EXT-X-DEFINE:NAME=\"dir\",VALUE=\"deep\"\n\
         #EXT-X-STREAM-INF:BANDWIDTH=1\n{$dir}/v.m3u8?token=a%20b\n",
    );
    let defines = [
        "#EXT-X-DEFINE:IMPORT=\"dir\"",
        "#EXT-X-DEFINE:QUERYPARAM=\"token\"",
    ];
    origin.set(
        "/deep/v.m3u8",
        list(1, &[defines[0], defines[1], "{$dir}/1.ts?t={$token}"]),
    );
    origin.set("/deep/deep/1.ts", "one");
    let base = origin.serve().await;
    let (pipeline, _dir) = Pipeline::start_with_lines(&format!("{base}/m.m3u8"), "");
    assert_eq!(
        all(&pipeline.ready("deep/1.ts?t=a b", Some(1)).await),
        b"one"
    );
    assert_eq!(origin.asked("/deep/deep/1.ts?t=a%20b"), 1);
}

#[tokio::test]
async fn a_low_latency_playlist_is_served_by_its_full_segments_and_asked_for_as_any_other() {
    let origin = Origin::default();
    let head = [
        "#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,CAN-SKIP-UNTIL=6,PART-HOLD-BACK=1",
        "#EXT-X-PART-INF:PART-TARGET=0.33",
        "1.ts",
        "#EXT-X-PART:DURATION=0.33,URI=\"2.0.ts\",INDEPENDENT=YES",
        "#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"2.1.ts\"",
        "#EXT-X-RENDITION-REPORT:URI=\"low.m3u8\",LAST-MSN=1",
    ];
    origin.set("/1.ts", "one");
    origin.set("/2.ts", "two");
    origin.set("/i.m3u8", list(1, &head));
    let base = origin.serve().await;
    let (pipeline, _dir) = Pipeline::start_with_lines(&format!("{base}/i.m3u8"), "");
    pipeline.ready("1.ts", Some(1)).await;
    origin.set("/i.m3u8", list(1, &["1.ts", "2.ts"]));
    pipeline.ready("2.ts", Some(2)).await;
    let asked = origin.asked.lock().unwrap().clone();
    let known = ["/i.m3u8", "/1.ts", "/2.ts"];
    assert!(
        asked.iter().all(|path| known.contains(&path.as_str())),
        "{asked:?}"
    );
}

#[tokio::test]
async fn of_a_recording_the_beginning_is_fetched() {
    let origin = Origin::default();
    let names: Vec<String> = (0..50).map(|number| format!("{number}.ts")).collect();
    for name in &names {
        origin.set(&format!("/{name}"), name.as_bytes());
    }
    let mut lines: Vec<&str> = names.iter().map(String::as_str).collect();
    lines.push("#EXT-X-ENDLIST");
    lines.insert(0, "#EXT-X-PLAYLIST-TYPE:VOD");
    origin.set("/i.m3u8", list(0, &lines));
    let base = origin.serve().await;
    let (pipeline, _dir) = Pipeline::start_with_lines(&format!("{base}/i.m3u8"), "window = \"3s\"");
    for number in 0..3 {
        pipeline.ready(&format!("{number}.ts"), Some(number)).await;
    }
    assert_eq!(origin.asked("/49.ts"), 0);
    assert!(is_absent(&pipeline.find("10.ts", Some(10))));
}

#[tokio::test]
async fn the_lag_is_by_the_encoders_clock_where_there_is_one() {
    let origin = Origin::default();
    origin.set("/1.ts", "one");
    let began = std::time::SystemTime::now() - Duration::from_secs(31);
    let began = jiff::Timestamp::try_from(began).unwrap();
    let clock = format!("#EXT-X-PROGRAM-DATE-TIME:{began}");
    origin.set("/i.m3u8", list(1, &[&clock, "1.ts"]));
    let base = origin.serve().await;
    let (pipeline, _dir) = Pipeline::start_with_lines(&format!("{base}/i.m3u8"), "");
    pipeline.ready("1.ts", Some(1)).await;
    let lag = || pipeline.metrics.channel(&news()).live_edge_lag_ms.get();
    let told = async {
        while lag() < 30_000 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.unwrap();
}

#[tokio::test]
async fn a_redirect_gives_the_base_of_what_is_listed_and_reloads_go_to_the_old_address() {
    let origin = Origin::default();
    let redirect = |to: &str| {
        let mut redirects = origin.redirects.lock().unwrap();
        redirects.insert("/i.m3u8".into(), to.into());
    };
    redirect("/here/i.m3u8");
    origin.set("/here/i.m3u8", list(1, &["1.ts"]));
    origin.set("/here/1.ts", "one");
    let base = origin.serve().await;
    let (pipeline, _dir) = Pipeline::start_with_lines(&format!("{base}/i.m3u8"), "");
    assert_eq!(all(&pipeline.ready("1.ts", Some(1)).await), b"one");
    origin.set("/there/i.m3u8", list(1, &["1.ts", "2.ts"]));
    origin.set("/there/2.ts", "two");
    redirect("/there/i.m3u8");
    assert_eq!(all(&pipeline.ready("2.ts", Some(2)).await), b"two");
}

#[tokio::test]
async fn a_compressed_playlist_is_read_and_one_that_swells_beyond_the_cap_is_refused() {
    let origin = Origin {
        compresses: true,
        ..Origin::default()
    };
    let mut small = list(1, &["1.ts"]);
    origin.set("/small.m3u8", small.clone());
    small += &"# a comment\n".repeat(1 << 20);
    origin.set("/huge.m3u8", small);
    let base = origin.serve().await;
    let (output, _) = probe(&format!("{base}/small.m3u8")).await;
    assert!(output.contains("1 segments"), "{output}");
    let (output, failed) = probe(&format!("{base}/huge.m3u8")).await;
    assert!(output.contains("larger than 2 MiB"), "{output}");
    assert!(failed);
}

#[tokio::test]
async fn the_names_of_subtitles_and_other_video_count_though_they_are_not_prefetched() {
    for kind in ["SUBTITLES", "VIDEO"] {
        let origin = Origin::default();
        origin.set(
            "/m.m3u8",
            format!(
                "#EXTM3U\n#EXT-X-MEDIA:TYPE={kind},GROUP-ID=\"g\",NAME=\"n\",URI=\"other/i.m3u8\"\n\
                 #EXT-X-STREAM-INF:BANDWIDTH=1,{kind}=\"g\"\nmain/i.m3u8\n"
            ),
        );
        for folder in ["main", "other"] {
            origin.set(&format!("/{folder}/i.m3u8"), list(1, &["1.m4s"]));
            origin.set(&format!("/{folder}/1.m4s"), folder);
        }
        let base = origin.serve().await;
        let (pipeline, _dir) = Pipeline::start_with_lines(&format!("{base}/m.m3u8"), "");
        let stored = |store: &Store| store.summary(&news()).segments == 1;
        pipeline.until(|store| stored(store).then_some(())).await;
        assert!(is_absent(&pipeline.find("1.m4s", Some(1))), "{kind}");
        assert_eq!(origin.asked("/other/1.m4s"), 0);
    }
}
