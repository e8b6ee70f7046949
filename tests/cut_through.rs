//! Segments that are sent while they arrive: real viewers at the real box, in front of an origin that
//! stops in the middle.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::large_futures
)]

mod support;

use std::time::Duration;

use bytes::BytesMut;
use support::daemon::{Daemon, Setup};
use support::eventually;
use support::origin::uri;
use support::tap::Tap;
use support::viewer::{Incoming, Viewer};

const SIZE: usize = 1_000_000;
/// Longer than anything here takes.
const IN_TIME: Duration = Duration::from_secs(10);

/// An origin with one whole segment, number 1; a box in front of it, and a viewer there.
async fn one_viewer(says_length: bool) -> (Tap, Daemon, Viewer) {
    let tap = Tap::start(SIZE, says_length).await;
    tap.list(1);
    tap.open(1, SIZE);
    let daemon = Daemon::start(Setup::channel("news", tap.url())).await;
    let viewer = Viewer::join(&daemon.signal, &tap.url()).await;
    (tap, daemon, viewer)
}

/// Lists segment 2, of which a half comes; the viewer asks for it and is sent what is there.
async fn half(tap: &Tap, viewer: &mut Viewer) -> BytesMut {
    tap.list(2);
    tap.open(2, SIZE / 2);
    viewer.send_request(&uri(2), 2).await;
    let header = viewer.next_event("BINARY", IN_TIME).await.unwrap();
    assert_eq!(header["size"], SIZE);
    let mut got = BytesMut::new();
    // The writer gathers some, and a packet is sent only when it is there as a whole.
    while got.len() < SIZE / 2 - 100_000 {
        got.extend_from_slice(&viewer.next_packet().await);
    }
    got
}

async fn rest(viewer: &mut Viewer, mut got: BytesMut) -> BytesMut {
    while got.len() < SIZE {
        got.extend_from_slice(&viewer.next_packet().await);
    }
    got
}

#[tokio::test]
async fn what_is_here_is_sent_before_the_rest_has_left_the_origin() {
    let (tap, daemon, mut viewer) = one_viewer(true).await;
    let got = half(&tap, &mut viewer).await;
    tap.open(2, SIZE);
    assert!(rest(&mut viewer, got).await == tap.segment(2));
    assert_eq!(tap.requests(2).len(), 1);
    // It is stored like any other, and others get it from there.
    let mut other = Viewer::join(&daemon.signal, &tap.url()).await;
    other.send_request(&uri(2), 2).await;
    assert!(other.answer(&uri(2), 2).await.unwrap() == tap.segment(2));
    assert_eq!(tap.requests(2).len(), 1);
}

#[tokio::test]
async fn an_origin_that_breaks_off_is_taken_up_again_behind_the_viewers_back() {
    let (tap, _daemon, mut viewer) = one_viewer(true).await;
    let got = half(&tap, &mut viewer).await;
    tap.break_off(2);
    tap.open(2, SIZE);
    assert!(rest(&mut viewer, got).await == tap.segment(2));
    let requests = tap.requests(2);
    assert_eq!(requests.len(), 2);
    assert!(requests[1].is_some(), "the rest only was asked for");
}

#[tokio::test]
async fn a_segment_whose_rest_never_comes_ends_the_channel_and_the_viewer_may_come_again() {
    let (tap, daemon, mut viewer) = one_viewer(true).await;
    half(&tap, &mut viewer).await;
    tap.lose(2);
    assert!(viewer.is_closed(IN_TIME).await);
    let mut again = Viewer::join(&daemon.signal, &tap.url()).await;
    again.send_request(&uri(1), 1).await;
    assert!(again.answer(&uri(1), 1).await.unwrap() == tap.segment(1));
}

#[tokio::test]
async fn an_origin_that_falls_silent_does_not_hold_the_channel_for_ever() {
    let (tap, _daemon, mut viewer) = one_viewer(true).await;
    half(&tap, &mut viewer).await;
    // The origin neither goes on nor breaks off, over whatever connection.
    assert!(viewer.is_closed(IN_TIME).await);
    assert!(tap.requests(2).len() > 1);
}

#[tokio::test]
async fn bytes_of_two_versions_are_never_sent_as_one_segment() {
    let (tap, daemon, mut viewer) = one_viewer(true).await;
    half(&tap, &mut viewer).await;
    tap.change(2);
    tap.break_off(2);
    tap.open(2, SIZE);
    assert!(viewer.is_closed(IN_TIME).await);
    // Another attempt brings the new one, as a whole.
    let mut again = Viewer::join(&daemon.signal, &tap.url()).await;
    let got = eventually("the new one", IN_TIME, async || {
        again.send_request(&uri(2), 2).await;
        again.answer(&uri(2), 2).await
    });
    assert!(got.await == tap.segment(2));
}

#[tokio::test]
async fn a_planned_stop_waits_for_what_is_being_sent_to_arrive() {
    let (tap, daemon, mut viewer) = one_viewer(true).await;
    let got = half(&tap, &mut viewer).await;
    daemon.terminate();
    eventually("it stops", IN_TIME, async || {
        let stops = daemon.stderr().contains("asked to stop");
        stops.then_some(())
    })
    .await;
    // What is new gets LACK from then on.
    let mut got = got;
    viewer.send_request("news.ts", 3).await;
    loop {
        match viewer.next().await.unwrap() {
            Incoming::Binary(packet) => got.extend_from_slice(&packet),
            Incoming::Text(text) if text["event"] == "LACK" => break,
            Incoming::Text(_) => {}
        }
    }
    tap.open(2, SIZE);
    assert!(rest(&mut viewer, got).await == tap.segment(2));
    assert_eq!(daemon.ended().await.code, Some(0));
}

#[tokio::test]
async fn a_segment_of_unknown_length_is_sent_once_it_is_whole() {
    let (tap, _daemon, mut viewer) = one_viewer(false).await;
    tap.list(2);
    tap.open(2, SIZE / 2);
    viewer.send_request(&uri(2), 2).await;
    eventually("it arrives", IN_TIME, async || tap.first_byte(2)).await;
    assert!(viewer.hears_nothing_before_an_ack().await);
    tap.open(2, SIZE);
    assert!(viewer.next_event("BINARY", IN_TIME).await.is_some());
    assert!(rest(&mut viewer, BytesMut::new()).await == tap.segment(2));
}
