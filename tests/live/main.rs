//! `/live/<name>/` as a player without WebRTC sees it: the real box, in front of origins of files and of
//! one that stops in the middle.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::large_futures
)]

#[allow(dead_code)]
#[path = "../pipeline/files.rs"]
mod files;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use files::{Origin, bytes, list};
use reqwest::{Client, Response, StatusCode, redirect};
use support::daemon::{Daemon, PATIENCE, Setup};
use support::eventually;
use support::tap::Tap;
use support::viewer::{Outcome, Viewer};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const SIZE: usize = 1_000_000;

/// A player that shows where it is sent instead of going there.
struct Player {
    client: Client,
    folder: String,
}

impl Player {
    fn of(daemon: &Daemon, channel: &str) -> Self {
        let client = Client::builder().redirect(redirect::Policy::none());
        Self {
            client: client.build().unwrap(),
            folder: format!("{}/live/{channel}/", daemon.pages()),
        }
    }

    async fn get(&self, path: &str) -> Response {
        let url = format!("{}{path}", self.folder);
        self.client.get(url).send().await.unwrap()
    }

    /// The lines of a playlist that has come this far.
    async fn list(&self, path: &str, with: &str) -> String {
        let seen = eventually("the playlist is there", PATIENCE, async || {
            let answer = self.get(path).await;
            if answer.status() != StatusCode::OK {
                return None;
            }
            assert_eq!(
                answer.headers()["content-type"],
                "application/vnd.apple.mpegurl"
            );
            let text = answer.text().await.unwrap();
            text.contains(with).then_some(text)
        });
        seen.await
    }

    async fn media(&self, path: &str) -> Vec<u8> {
        let answer = self.get(path).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        answer.bytes().await.unwrap().into()
    }
}

#[tokio::test]
async fn a_player_without_webrtc_gets_all_of_a_channel_from_the_box() {
    let origin = Origin::default();
    let master = "#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",NAME=\"x\",URI=\"audio/a.m3u8\"\n\
         #EXT-X-STREAM-INF:BANDWIDTH=2000000,AUDIO=\"a\"\nhigh/v.m3u8\n\
         #EXT-X-STREAM-INF:BANDWIDTH=1000000,AUDIO=\"a\"\nlow/v.m3u8\n";
    origin.set("/index.m3u8", master);
    let map = "#EXT-X-MAP:URI=\"all.mp4\",BYTERANGE=\"500@0\"";
    let other_map = "#EXT-X-MAP:URI=\"all.mp4\",BYTERANGE=\"400@90500\"";
    let key = "#EXT-X-KEY:METHOD=AES-128,URI=\"../key\"";
    let parts = [
        map,
        key,
        "#EXT-X-BYTERANGE:40000@500",
        "all.mp4",
        other_map,
        "#EXT-X-BYTERANGE:50000@40500",
        "all.mp4",
    ];
    origin.set("/high/v.m3u8", list(7, &parts));
    origin.set("/high/all.mp4", bytes(0..90_900));
    // The same names as in the other one: here that is no trouble.
    origin.set("/low/v.m3u8", list(7, &parts));
    origin.set("/low/all.mp4", bytes(1..90_901));
    origin.set("/audio/a.m3u8", list(3, &["3.aac"]));
    origin.set("/audio/3.aac", "sound");
    let base = origin.serve().await;
    let daemon = Daemon::start(Setup::channel("news", format!("{base}/index.m3u8"))).await;
    let player = Player::of(&daemon, "news");

    let index = player.list("index.m3u8", "0.m3u8").await;
    let expected = format!(
        "#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",NAME=\"x\",URI=\"1.m3u8\"\n\
         #EXT-X-STREAM-INF:BANDWIDTH=2000000,AUDIO=\"a\"\n0.m3u8\n\
         #EXT-X-STREAM-INF:BANDWIDTH=1000000,AUDIO=\"a\"\n{base}/low/v.m3u8\n"
    );
    assert_eq!(index, expected);
    let video = player.list("0.m3u8", "0/8.mp4").await;
    let key = format!("#EXT-X-KEY:METHOD=AES-128,URI=\"{base}/key\"");
    let expected = [
        "#EXT-X-MAP:URI=\"0/init-7.mp4\"",
        &key,
        "#EXTINF:1,",
        "0/7.mp4",
        "#EXT-X-MAP:URI=\"0/init-8.mp4\"",
        "#EXTINF:1,",
        "0/8.mp4",
    ];
    assert_eq!(video.lines().skip(3).collect::<Vec<_>>(), expected);
    assert!(player.media("0/init-7.mp4").await == bytes(0..500));
    assert!(player.media("0/init-8.mp4").await == bytes(90_500..90_900));
    assert!(player.media("0/7.mp4").await == bytes(500..40_500));
    assert!(player.media("0/8.mp4").await == bytes(40_500..90_500));
    player.list("1.m3u8", "1/3.aac").await;
    let sound = player.get("1/3.aac").await;
    assert_eq!(sound.headers()["content-type"], "audio/aac");
    assert_eq!(sound.headers()["content-length"], "5");
    assert_eq!(sound.text().await.unwrap(), "sound");

    let served = "edgeseed_served_bytes_total{channel=\"news\",via=\"http\"}";
    daemon.until_metric(served, 90_905.0).await;
    assert_eq!(origin.asked("/high/all.mp4 bytes=40500-90499"), 1);
    assert_eq!(origin.asked("/audio/3.aac"), 1);
    assert_eq!(origin.asked("/key"), 0, "keys are no business of the box");
}

#[tokio::test]
async fn what_the_box_has_not_got_is_at_the_origin_and_what_nobody_lists_is_nowhere() {
    let origin = Origin::default();
    origin.set("/i.m3u8", list(1, &["1.ts?t=1", "#EXT-X-GAP", "2.ts"]));
    let base = origin.serve().await;
    let with_password = base.replace("http://", "http://name:word@");
    let setup = Setup::channel("news", format!("{with_password}/i.m3u8"));
    let daemon = Daemon::start(setup).await;
    let player = Player::of(&daemon, "news");
    let text = player.list("index.m3u8", "0/1.ts").await;
    assert!(
        text.ends_with(&format!("#EXT-X-GAP\n#EXTINF:1,\n{base}/2.ts\n")),
        "{text}"
    );
    let sent = player.get("0/1.ts").await;
    assert_eq!(sent.status(), StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(sent.headers()["location"], format!("{base}/1.ts?t=1"));
    for path in [
        "0/2.ts",
        "0/9.ts",
        "7/1.ts",
        "0/init-1.mp4",
        "0/http://elsewhere/1.ts",
        "x.m3u8",
        "3.m3u8",
        "",
    ] {
        let answer = player.get(path).await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{path}");
    }
    let unknown = Player::of(&daemon, "sport").get("index.m3u8").await;
    assert_eq!(unknown.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_playlist_that_the_box_cannot_offer_is_at_the_origin() {
    let origin = Origin::default();
    let base = origin.serve().await;
    let with_password = base.replace("http://", "http://name:word@");
    // More than is held, once the addresses are full ones.
    let long: Vec<String> = (0..20_000).map(|number| format!("{number}.ts")).collect();
    let long: Vec<&str> = long.iter().map(String::as_str).collect();
    origin.set("/long.m3u8", list(1, &long) + "#EXT-X-ENDLIST\n");
    let setup = Setup::channel("none", format!("{with_password}/none.m3u8?a=b"));
    let daemon = Daemon::start_ailing(setup.and_channel("long", format!("{base}/long.m3u8"))).await;
    let sent_to = async |channel: &str, path: &str, expected: &str| {
        let answer = Player::of(&daemon, channel).get(path).await;
        let to = answer.headers().get("location");
        let to = to.is_some_and(|to| to.to_str().unwrap() == format!("{base}{expected}"));
        (to && answer.status() == StatusCode::TEMPORARY_REDIRECT).then_some(())
    };
    eventually("it is sent to the origin", PATIENCE, async || {
        sent_to("none", "index.m3u8", "/none.m3u8?a=b").await?;
        sent_to("long", "index.m3u8", "/long.m3u8").await?;
        // When it is known.
        sent_to("long", "0.m3u8", "/long.m3u8").await
    })
    .await;
}

#[tokio::test]
async fn a_player_is_sent_what_is_here_while_the_rest_arrives_and_never_less_than_it_was_promised()
{
    let tap = Tap::start(SIZE, true).await;
    tap.list(1);
    tap.open(1, SIZE);
    let daemon = Daemon::start(Setup::channel("news", tap.url())).await;
    let player = Player::of(&daemon, "news");
    player.list("index.m3u8", "0/1.ts").await;
    assert!(player.media("0/1.ts").await == tap.segment(1));
    tap.list(2);
    tap.open(2, SIZE / 2);
    player.list("index.m3u8", "0/2.ts").await;
    let mut answer = player.get("0/2.ts").await;
    assert_eq!(answer.content_length(), Some(SIZE as u64));
    let mut got = Vec::new();
    while got.len() < SIZE / 2 - 100_000 {
        got.extend_from_slice(&answer.chunk().await.unwrap().unwrap());
    }
    tap.open(2, SIZE);
    while let Some(bytes) = answer.chunk().await.unwrap() {
        got.extend_from_slice(&bytes);
    }
    assert!(got == tap.segment(2));
    assert_eq!(tap.requests(2).len(), 1);

    // The next one does not come to its end, and is not taken for whole.
    tap.list(3);
    tap.open(3, SIZE / 2);
    player.list("index.m3u8", "0/3.ts").await;
    let answer = player.get("0/3.ts").await;
    assert_eq!(answer.status(), StatusCode::OK);
    tap.lose(3);
    assert!(answer.bytes().await.is_err());
}

#[tokio::test]
async fn players_that_never_read_cost_a_viewer_nothing() {
    let tap = Tap::start(SIZE, true).await;
    tap.list(1);
    tap.open(1, SIZE);
    // Of which they may hold 512 KiB.
    let memory = "[memory]\nmax-buffers = \"2MiB\"\n";
    let daemon = Daemon::start(Setup::channel("news", tap.url()).with(memory)).await;
    let player = Player::of(&daemon, "news");
    player.list("index.m3u8", "0/1.ts").await;
    player.media("0/1.ts").await;
    let mut silent = Vec::new();
    for _ in 0..16 {
        let address = daemon.pages().replace("http://", "");
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = b"GET /live/news/0/1.ts HTTP/1.1\r\nHost: x\r\n\r\n";
        stream.write_all(request).await.unwrap();
        silent.push(stream);
    }
    let mut viewer = Viewer::join(&daemon.signal, &tap.url()).await;
    for _ in 0..3 {
        let got = tokio::time::timeout(Duration::from_secs(2), viewer.request(1)).await;
        assert!(matches!(got, Ok(Outcome::Segment { .. })));
    }
}
