//! Real viewers at the real box, in front of a real origin, all on the loopback interface.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::large_futures
)]

#[path = "../support/process.rs"]
mod process;
mod sharing;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use serde_json::json;
use support::daemon::{Daemon, Setup};
use support::eventually;
use support::origin::{Live, Origin, uri};
use support::server::Server;
use support::signalling::Signalling;
use support::viewer::{Form, Incoming, NoChannel, Outcome, Viewer};

/// Answered at once: far below the 1.6 s of a held REQUEST, far above what a busy machine needs.
const AT_ONCE: Duration = Duration::from_millis(800);

async fn origin_and_box() -> (Origin, Daemon) {
    origin_and_box_with(Live::default(), "").await
}

async fn origin_and_box_with(live: Live, more: &str) -> (Origin, Daemon) {
    let origin = Origin::start(live).await;
    let daemon = Daemon::start(Setup::channel("news", origin.url()).with(more)).await;
    (origin, daemon)
}

/// The viewer gets this segment, byte for byte.
async fn gets(viewer: &mut Viewer, origin: &Origin, sequence: u64) -> Duration {
    match viewer.request(sequence).await {
        Outcome::Segment { bytes, elapsed } => {
            assert!(
                bytes == origin.segment(sequence),
                "the bytes of segment {sequence}"
            );
            elapsed
        }
        other => panic!("segment {sequence} of {:?}: {other:?}", origin.listed()),
    }
}

/// The viewer gets a LACK for this name, and at once.
async fn lacks(viewer: &mut Viewer, name: &str) {
    match viewer.ask(name, 1, Duration::from_secs(5)).await {
        Outcome::Lack { elapsed } => assert!(elapsed < AT_ONCE, "{name:?} after {elapsed:?}"),
        other => panic!("{name:?}: {other:?}"),
    }
}

#[tokio::test]
async fn a_viewer_follows_the_live_edge_and_the_origin_is_asked_once() {
    let (origin, daemon) = origin_and_box().await;
    let mut viewer = Viewer::join(&daemon.signal, &origin.url()).await;
    let first = origin.newest();
    for sequence in first..first + 6 {
        // From the second on each is asked for before it is listed, and held until it is here.
        gets(&mut viewer, &origin, sequence).await;
        assert_eq!(origin.requests_of(sequence), 1);
    }
    assert!(
        daemon
            .metric("edgeseed_requests_total{channel=\"news\",result=\"held\"}")
            .await
            >= 4.0
    );
    let served = daemon
        .metric("edgeseed_served_bytes_total{channel=\"news\",via=\"p2p\"}")
        .await;
    assert_eq!(served, 6.0 * 150_000.0);
}

#[tokio::test]
async fn three_viewers_at_once_cost_the_origin_one_request() {
    let (origin, daemon) = origin_and_box().await;
    let url = origin.url();
    let join = || Viewer::join(&daemon.signal, &url);
    let (mut one, mut two, mut three) = tokio::join!(join(), join(), join());
    assert_eq!(daemon.metric("edgeseed_peers").await, 3.0);
    let first = origin.newest();
    for sequence in first..first + 4 {
        tokio::join!(
            gets(&mut one, &origin, sequence),
            gets(&mut two, &origin, sequence),
            gets(&mut three, &origin, sequence),
        );
        assert_eq!(origin.requests_of(sequence), 1);
    }
}

#[tokio::test]
async fn a_request_just_past_the_newest_is_held_and_served() {
    let (origin, daemon) = origin_and_box().await;
    let mut viewer = Viewer::join(&daemon.signal, &origin.url()).await;
    let newest = origin.newest();
    // Having it means that the box has just read the playlist.
    gets(&mut viewer, &origin, newest + 1).await;
    assert_eq!(origin.requests_of(newest + 2), 0);
    let waited = gets(&mut viewer, &origin, newest + 2).await;
    assert!(
        waited < Duration::from_secs(2),
        "{waited:?}, when the viewer has given up"
    );
}

#[tokio::test]
async fn what_is_no_segment_of_the_channel_is_lacked_and_never_fetched() {
    let (origin, daemon) = origin_and_box().await;
    let elsewhere = Origin::start(Live::default()).await;
    let mut viewer = Viewer::join(&daemon.signal, &origin.url()).await;
    gets(&mut viewer, &origin, origin.newest()).await;
    let absolute = elsewhere.url().replace("index.m3u8", &uri(100));
    for name in [
        "seg_7.ts",
        "../../etc/passwd",
        "/etc/passwd",
        "%2e%2e/%2e%2e/etc/passwd",
        "index.m3u8",
        &absolute,
        "file:///etc/passwd",
        "",
        &"x".repeat(8000),
        // A segment, but not named as its playlist names it.
        &format!("seg_{}.ts", origin.newest()),
    ] {
        lacks(&mut viewer, name).await;
    }
    assert!(
        elsewhere.requests().is_empty(),
        "{:?}",
        elsewhere.requests()
    );
    for path in origin.requests().into_keys() {
        let known = path == support::origin::PLAYLIST
            || (path.starts_with("/live/seg_") && path.ends_with("?token=a%2Fb&x=1"));
        assert!(known, "{path} was asked for");
    }
    gets(&mut viewer, &origin, origin.newest()).await;
}

#[tokio::test]
async fn a_peer_that_talks_nonsense_disturbs_nobody_else() {
    let live = Live {
        segment_size: 1_000_000,
        ..Live::default()
    };
    let (origin, daemon) = origin_and_box_with(live, "").await;
    let url = origin.url();
    let join = || Viewer::join(&daemon.signal, &url);
    let (mut good, bad) = tokio::join!(join(), join());
    let first = origin.newest();
    let nonsense = async {
        let long = "x".repeat(60_000);
        let nested = "[".repeat(10_000);
        let unnamed = r#"{"event":"REQUEST","sn":1}"#;
        for text in [
            "hello",
            "{}",
            "null",
            "{\"event\":7}",
            unnamed,
            &nested,
            &long,
        ] {
            bad.send_text(text).await;
            bad.send_binary(text.as_bytes()).await;
        }
    };
    let good_goes_on = async {
        for sequence in first..first + 3 {
            let elapsed = gets(&mut good, &origin, sequence).await;
            assert!(elapsed < Duration::from_secs(2), "{elapsed:?}");
        }
    };
    tokio::join!(nonsense, good_goes_on);
    assert!(daemon.metric("edgeseed_refused_messages_total").await >= 7.0);
}

#[tokio::test]
async fn a_peer_that_goes_on_talking_nonsense_is_closed_and_its_place_is_free() {
    let (origin, daemon) = origin_and_box().await;
    let mut bad = Viewer::join(&daemon.signal, &origin.url()).await;
    for _ in 0..100 {
        bad.send_text("nonsense").await;
    }
    let told = bad.next_event("ERROR", Duration::from_secs(5)).await;
    assert!(told.is_some(), "it is told why");
    assert!(bad.is_closed(Duration::from_secs(5)).await);
    daemon.until_metric("edgeseed_peers", 0.0).await;
    let mut next = Viewer::join(&daemon.signal, &origin.url()).await;
    gets(&mut next, &origin, origin.newest()).await;
}

#[tokio::test]
async fn a_garbage_offer_disturbs_nobody_else() {
    let (origin, daemon) = origin_and_box().await;
    let mut good = Viewer::join(&daemon.signal, &origin.url()).await;
    let mut bad = Signalling::enter(&daemon.signal, &origin.url()).await;
    let parent = bad.parent(Duration::from_secs(5)).await.expect("a parent");
    for data in [
        json!({ "type": "offer", "sdp": "garbage" }),
        json!({ "type": "offer", "sdp": "v=0\r\nERROR forged\nERROR forged" }),
        json!({ "type": "offer", "sdp": "v=0\r\nm=application 9 UDP/DTLS/SCTP x\r\n" }),
        json!({ "type": "offer", "sdp": "v=0\r\n".repeat(3000) }),
        json!({ "type": "offer" }),
        json!("{\"type\":\"offer\",\"sdp\":\""),
        json!({ "candidate": { "candidate": "candidate:garbage" } }),
        json!([1, 2, 3]),
        json!(null),
    ] {
        bad.signal(&parent, data).await;
    }
    let first = origin.newest();
    for sequence in first..first + 3 {
        gets(&mut good, &origin, sequence).await;
    }
    daemon.until_metric("edgeseed_peers", 1.0).await;
    let log = daemon.stop().await.stderr;
    assert_eq!(log.matches(": refused: ").count(), 1, "{log}");
    assert!(!log.lines().any(|line| line.starts_with("ERROR")), "{log}");
}

#[tokio::test]
async fn keepalive_is_acknowledged_with_the_newest_segment() {
    let (origin, daemon) = origin_and_box().await;
    let mut viewer = Viewer::join(&daemon.signal, &origin.url()).await;
    let newest = origin.newest();
    gets(&mut viewer, &origin, newest).await;
    viewer
        .send_text(&json!({ "event": "KEEPALIVE", "current": 3 }).to_string())
        .await;
    let ack = viewer
        .next_event("KEEPALIVE-ACK", Duration::from_secs(5))
        .await
        .expect("an ack");
    let current = ack["current"].as_u64().unwrap();
    assert!(
        (newest..=origin.newest()).contains(&current),
        "{current}, newest was {newest}"
    );
}

#[tokio::test]
async fn a_full_box_refuses_the_next_viewer_until_one_says_close() {
    let more = "[peer]\nudp-port = 0\nmax-peers = 1\n";
    let (origin, daemon) = origin_and_box_with(Live::default(), more).await;
    let url = origin.url();
    let mut first = Viewer::join(&daemon.signal, &url).await;
    let second = Viewer::try_join(&daemon.signal, &url, Form::Today).await;
    // The server sends nobody to a box that has said that it is full; if it had not heard it yet, the
    // box refused.
    let refused = matches!(second, Err(NoChannel::NoParent | NoChannel::NotOpened));
    assert!(refused, "the box has one place");
    gets(&mut first, &origin, origin.newest()).await;
    first.send_text(r#"{"event":"CLOSE"}"#).await;
    daemon.until_metric("edgeseed_peers", 0.0).await;
    let mut third = Viewer::join(&daemon.signal, &url).await;
    gets(&mut third, &origin, origin.newest()).await;
}

#[tokio::test]
async fn a_viewer_that_closes_its_connection_frees_its_place() {
    let (origin, daemon) = origin_and_box().await;
    let viewer = Viewer::join(&daemon.signal, &origin.url()).await;
    daemon.until_metric("edgeseed_peers", 1.0).await;
    viewer.leave().await;
    daemon.until_metric("edgeseed_peers", 0.0).await;
}

#[tokio::test]
async fn a_viewer_that_vanishes_without_a_goodbye_frees_its_place() {
    let (origin, daemon) = origin_and_box().await;
    let device = Viewer::join_on_a_device(&daemon.signal, &origin.url()).await;
    daemon.until_metric("edgeseed_peers", 1.0).await;
    device.shutdown_background();
    daemon.until_metric("edgeseed_peers", 0.0).await;
}

#[tokio::test]
async fn close_and_error_end_the_channel_that_said_so_and_no_other() {
    let (origin, daemon) = origin_and_box().await;
    let url = origin.url();
    let join = || Viewer::join(&daemon.signal, &url);
    let (mut closing, mut failing, mut other) = tokio::join!(join(), join(), join());
    closing.send_text(r#"{"event":"CLOSE"}"#).await;
    failing
        .send_text(r#"{"event":"ERROR","reason":"mine"}"#)
        .await;
    assert!(closing.is_closed(Duration::from_secs(5)).await);
    assert!(failing.is_closed(Duration::from_secs(5)).await);
    gets(&mut other, &origin, origin.newest()).await;
    daemon.until_metric("edgeseed_peers", 1.0).await;
}

#[tokio::test]
async fn events_that_are_not_for_a_holder_are_ignored() {
    let (origin, daemon) = origin_and_box().await;
    let mut viewer = Viewer::join(&daemon.signal, &origin.url()).await;
    for text in [
        r#"{"event":"TRANSITION","to":"x"}"#,
        r#"{"event":"DISPLACE","peer_id":7}"#,
        r#"{"event":"KEEPALIVE-ACK","current":1}"#,
        r#"{"event":"LACK","url":"a.ts","sn":1}"#,
        r#"{"event":"BINARY","attachments":"many"}"#,
        r#"{"event":""}"#,
    ] {
        viewer.send_text(text).await;
        assert!(viewer.hears_nothing_before_an_ack().await, "{text}");
    }
    gets(&mut viewer, &origin, origin.newest()).await;
    assert_eq!(daemon.metric("edgeseed_refused_messages_total").await, 0.0);
}

#[tokio::test]
async fn a_request_that_is_repeated_while_it_is_held_is_answered_once() {
    let (origin, daemon) = origin_and_box().await;
    let mut viewer = Viewer::join(&daemon.signal, &origin.url()).await;
    let next = origin.newest() + 1;
    // Having it means that the box has just read the playlist.
    gets(&mut viewer, &origin, next).await;
    for _ in 0..3 {
        viewer.send_request(&uri(next + 1), next + 1).await;
    }
    let bytes = viewer.answer(&uri(next + 1), next + 1).await;
    assert!(bytes == Some(origin.segment(next + 1)));
    assert!(viewer.hears_nothing_before_an_ack().await);
}

#[tokio::test]
async fn a_number_that_does_not_fit_the_name_is_lacked() {
    let (origin, daemon) = origin_and_box().await;
    let mut viewer = Viewer::join(&daemon.signal, &origin.url()).await;
    let newest = origin.newest();
    gets(&mut viewer, &origin, newest).await;
    let answer = viewer.ask(&uri(newest), 7, Duration::from_secs(5)).await;
    assert!(matches!(answer, Outcome::Lack { .. }), "{answer:?}");
    // As a string, with unknown fields, in another order: the same request.
    let request =
        json!({ "x": [1], "sn": newest.to_string(), "url": uri(newest), "event": "REQUEST" });
    viewer.send_text(&request.to_string()).await;
    let bytes = viewer.answer(&uri(newest), newest).await;
    assert!(bytes == Some(origin.segment(newest)));
}

#[tokio::test]
async fn what_is_being_sent_is_finished_before_a_stop() {
    // Large enough to be under way for a while.
    let live = Live {
        segment_size: 24_000_000,
        segment_duration: Duration::from_secs(3),
        window: 3,
    };
    let (origin, daemon) = origin_and_box_with(live, "").await;
    let mut viewer = Viewer::join(&daemon.signal, &origin.url()).await;
    let sequence = origin.newest();
    viewer.send_request(&uri(sequence), sequence).await;
    let header = viewer
        .next_event("BINARY", Duration::from_secs(5))
        .await
        .expect("a header");
    daemon.terminate();
    eventually("the box stops", Duration::from_secs(5), async || {
        daemon.stderr().contains("asked to stop").then_some(())
    })
    .await;
    viewer.send_request(&uri(sequence - 1), sequence - 1).await;
    let mut received = 0;
    let mut lacked = false;
    for _ in 0..header["attachments"].as_u64().unwrap() {
        received += loop {
            match viewer.next().await.expect("the transfer is finished") {
                Incoming::Binary(packet) => break packet.len(),
                Incoming::Text(text) => lacked |= text["event"] == "LACK",
            }
        };
    }
    assert_eq!(received, live.segment_size);
    assert!(lacked, "what is asked for during a stop is lacked");
    assert!(viewer.is_closed(Duration::from_secs(5)).await);
    let ended = daemon.ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

#[tokio::test]
async fn a_viewer_is_served_again_after_the_box_was_restarted_over_its_store() {
    let (origin, daemon) = origin_and_box().await;
    let sequence = origin.newest();
    let mut viewer = Viewer::join(&daemon.signal, &origin.url()).await;
    gets(&mut viewer, &origin, sequence).await;
    let daemon = daemon.restart().await;
    let mut viewer = Viewer::join(&daemon.signal, &origin.url()).await;
    gets(&mut viewer, &origin, sequence).await;
    assert_eq!(origin.requests_of(sequence), 1, "it was on disk");
    eventually("the channel goes on", Duration::from_secs(5), async || {
        (origin.newest() > sequence + 2).then_some(())
    })
    .await;
    gets(&mut viewer, &origin, origin.newest()).await;
}

#[tokio::test]
async fn a_page_that_stays_meets_the_restarted_box_under_a_fresh_id() {
    let server = Server::start().await;
    let origin = Origin::start(Live::default()).await;
    let setup = Setup::channel("news", origin.url()).at(&server.url);
    let daemon = Daemon::start(setup).await;
    let mut viewer = Viewer::join(&server.url, &origin.url()).await;
    gets(&mut viewer, &origin, origin.newest()).await;
    let before = viewer.parent.clone();
    let _daemon = daemon.restart().await;
    assert!(viewer.is_closed(Duration::from_secs(5)).await);
    let mut viewer = Viewer::call(viewer.into_signalling(), Form::Today)
        .await
        .expect("the server names the box again");
    assert_ne!(viewer.parent, before);
    gets(&mut viewer, &origin, origin.newest()).await;
}
