//! What `edgeseed probe` says of origins.

use std::process::Command;

use super::files::{Origin, bytes, list};

/// What `edgeseed probe` says, and whether it fails as when a service is unavailable.
pub(crate) async fn probe(url: &str) -> (String, bool) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edgeseed"));
    command.args(["probe", url]);
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = output.await.unwrap().unwrap();
    let code = output.status.code().unwrap();
    assert!([0, 69].contains(&code), "{code}");
    let text = [output.stdout, output.stderr].concat();
    (String::from_utf8(text).unwrap(), code == 69)
}

#[tokio::test]
async fn probe_shows_what_is_refused_and_why_and_what_works() {
    let origin = Origin::default();
    for name in ["/init.mp4", "/1.m4s"] {
        origin.set(name, bytes(0..500));
    }
    origin.set("/all.mp4", bytes(0..1000));
    let lines = [
        "#EXT-X-MAP:URI=\"init.mp4\"",
        "1.m4s",
        "#EXT-X-GAP",
        "gap.m4s",
        "ftp://x/2.m4s",
        "#EXT-X-BYTERANGE:300@100",
        "all.mp4",
    ];
    origin.set("/i.m3u8", list(1, &lines));
    let base = origin.serve().await;
    let (output, failed) = probe(&format!("{base}/i.m3u8")).await;
    assert!(!failed, "{output}");
    for expected in [
        "media playlist, live: 4 segments, 4.0 s, target duration 1 s, media sequence 1",
        "refused: 2 gap.m4s: the origin marks it as missing (EXT-X-GAP)",
        "refused: 3 ftp://x/2.m4s: its URI is not an http or https address",
        "initialization section init.mp4 (from 1 on): 500 bytes",
        "4 all.mp4 (1.0 s), bytes 100-399: 300 bytes",
        "1 1.m4s (1.0 s): 500 bytes",
    ] {
        assert!(output.contains(expected), "{expected:?} in\n{output}");
    }
}

#[tokio::test]
async fn probe_fails_and_names_the_address_when_a_playlist_or_all_of_its_segments_do() {
    let origin = Origin::default();
    origin.set("/i.m3u8", list(1, &["1.ts", "2.ts"]));
    origin.set("/text.m3u8", "<html>sign in</html>");
    let streams = "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=2\ni.m3u8\n#EXT-X-STREAM-INF:BANDWIDTH=1\ngone.m3u8\n";
    origin.set("/m.m3u8", streams);
    let base = origin.serve().await;
    for (path, expected) in [
        (
            "i.m3u8",
            format!(
                "{base}/i.m3u8: none of its segments can be fetched, last {base}/1.ts: answered 404"
            ),
        ),
        (
            "text.m3u8",
            format!("{base}/text.m3u8: not an HLS playlist: it begins with \"<html>"),
        ),
        (
            "m.m3u8",
            format!("{base}/gone.m3u8: answered 404 Not Found"),
        ),
        (
            "none.m3u8",
            format!("{base}/none.m3u8: answered 404 Not Found"),
        ),
    ] {
        let (output, failed) = probe(&format!("{base}/{path}")).await;
        assert!(
            failed && output.contains(&expected),
            "{expected:?} in\n{output}"
        );
    }
}

#[tokio::test]
async fn probe_tells_of_names_that_viewers_could_not_mean() {
    let origin = Origin::default();
    origin.set(
        "/m.m3u8",
        "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=2\nhigh/i.m3u8\n#EXT-X-STREAM-INF:BANDWIDTH=1\nlow/i.m3u8\n",
    );
    for folder in ["high", "low"] {
        origin.set(&format!("/{folder}/i.m3u8"), list(1, &["1.ts"]));
        origin.set(&format!("/{folder}/1.ts"), folder);
    }
    let base = origin.serve().await;
    let (output, _) = probe(&format!("{base}/m.m3u8")).await;
    let expected = "not served with variants = \"highest\": 1.ts names different segments";
    assert!(output.contains(expected), "{output}");
}
