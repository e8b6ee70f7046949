//! Real viewers at the real box, in front of a real origin, all on the loopback interface.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::large_futures
)]

mod support;

use std::time::Duration;

use serde_json::json;
use support::daemon::{Daemon, Setup};
use support::eventually;
use support::origin::{Live, Origin, uri};
use support::signalling::Signalling;
use support::viewer::{CandidateForm, NoChannel, Outcome, Viewer};

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
        for text in ["hello", "{}", "null", "{\"event\":7}", &nested, &long] {
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
    assert!(daemon.metric("edgeseed_refused_messages_total").await >= 6.0);
}

#[tokio::test]
async fn a_peer_that_goes_on_talking_nonsense_is_closed_and_its_place_is_free() {
    let (origin, daemon) = origin_and_box().await;
    let mut bad = Viewer::join(&daemon.signal, &origin.url()).await;
    for _ in 0..100 {
        bad.send_text("nonsense").await;
    }
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
    let second = Viewer::try_join(&daemon.signal, &url, CandidateForm::Today).await;
    assert_eq!(second.err(), Some(NoChannel::NotOpened));
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
async fn candidates_in_the_form_of_2018_are_understood() {
    let (origin, daemon) = origin_and_box().await;
    let url = origin.url();
    let mut viewer = Viewer::try_join(&daemon.signal, &url, CandidateForm::Of2018)
        .await
        .expect("a channel");
    gets(&mut viewer, &origin, origin.newest()).await;
}

#[tokio::test]
async fn what_is_being_sent_is_finished_before_a_stop() {
    // Large enough to be under way for a while.
    let live = Live {
        segment_size: 8_000_000,
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
    let mut received = 0;
    for _ in 0..header["attachments"].as_u64().unwrap() {
        received += viewer.next_packet().await.len();
    }
    assert_eq!(received, live.segment_size);
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
