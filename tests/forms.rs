//! Peers and servers of other make: every form of ids, descriptions and candidates that was seen
//! in the field (protocol.md section 3) leads to a data channel and a segment.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::large_futures
)]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::daemon::{Daemon, Setup};
use support::origin::{Live, Origin};
use support::relay::{Habits, Relay};
use support::signalling::Signalling;
use support::viewer::{Form, Outcome, Viewer};

async fn origin_and_box() -> (Origin, Daemon) {
    let origin = Origin::start(Live::default()).await;
    let daemon = Daemon::start(Setup::channel("news", origin.url())).await;
    (origin, daemon)
}

async fn gets_the_newest(viewer: &mut Viewer, origin: &Origin) {
    let sequence = origin.newest();
    match viewer.request(sequence).await {
        Outcome::Segment { bytes, .. } => assert!(bytes == origin.segment(sequence)),
        other => panic!("segment {sequence}: {other:?}"),
    }
}

/// A viewer that signals in this form, and checks that it is answered in it, is served.
async fn a_viewer_of(form: Form) {
    let (origin, daemon) = origin_and_box().await;
    let viewer = Viewer::try_join(&daemon.signal, &origin.url(), form).await;
    gets_the_newest(&mut viewer.expect("a channel"), &origin).await;
}

/// A viewer is served through a server with these habits.
async fn through_a_server_with(habits: Habits) {
    let relay = Relay::start(habits).await;
    let origin = Origin::start(Live::default()).await;
    let setup = Setup::channel("news", origin.url()).at(&relay.url);
    let _daemon = Daemon::start(setup).await;
    for viewer in 1..=2 {
        let mut viewer_n = Viewer::join(&relay.url, &origin.url()).await;
        assert_eq!(viewer_n.parent, (habits.id)(0), "viewer {viewer}");
        gets_the_newest(&mut viewer_n, &origin).await;
    }
}

#[tokio::test]
async fn an_offer_in_the_form_of_2018_is_answered_in_it() {
    a_viewer_of(Form::SdpOf2018).await;
}

#[tokio::test]
async fn data_as_a_string_is_answered_with_a_string() {
    a_viewer_of(Form::Text).await;
}

#[tokio::test]
async fn candidates_in_the_form_of_2018_are_understood() {
    a_viewer_of(Form::CandidatesOf2018).await;
}

#[tokio::test]
async fn ids_may_be_integers() {
    through_a_server_with(Habits {
        id: |nth| json!(4_294_967_296_u64 + nth as u64),
        ..Habits::default()
    })
    .await;
}

#[tokio::test]
async fn ids_may_be_longer_than_three_hundred_characters() {
    through_a_server_with(Habits {
        id: |nth| Value::from(format!("{}{nth}", "peer-".repeat(70))),
        ..Habits::default()
    })
    .await;
}

#[tokio::test]
async fn an_offer_that_no_connect_announced_is_answered() {
    through_a_server_with(Habits {
        id: |nth| Value::from(format!("0123456789abcdef-{nth}")),
        tells_parent: false,
        ..Habits::default()
    })
    .await;
}

#[tokio::test]
async fn disconnect_drops_the_peers_that_it_names_and_no_other() {
    let relay = Relay::start(Habits::default()).await;
    let origin = Origin::start(Live::default()).await;
    let daemon = Daemon::start(Setup::channel("news", origin.url()).at(&relay.url)).await;
    let mut named = Viewer::join(&relay.url, &origin.url()).await;
    let mut other = Viewer::join(&relay.url, &origin.url()).await;
    // The box entered first, and nobody is the 7000th.
    relay.tell(
        0,
        json!({ "action": "disconnect", "peers": [1, 7000, "x"] }),
    );
    assert!(named.is_closed(Duration::from_secs(5)).await);
    gets_the_newest(&mut other, &origin).await;
    daemon.until_metric("edgeseed_peers", 1.0).await;
}

#[tokio::test]
async fn a_page_that_enters_four_times_takes_one_place() {
    let (origin, daemon) = origin_and_box().await;
    let url = origin.url();
    let enter = || Signalling::enter(&daemon.signal, &url);
    let (_one, _two, _three) = tokio::join!(enter(), enter(), enter());
    let fourth = enter().await;
    let mut viewer = Viewer::call(fourth, Form::Today).await.expect("a channel");
    gets_the_newest(&mut viewer, &origin).await;
    daemon.until_metric("edgeseed_peers", 1.0).await;
}

#[tokio::test]
async fn a_page_that_offers_anew_from_each_of_four_entries_is_served_on_every_channel() {
    let (origin, daemon) = origin_and_box().await;
    let url = origin.url();
    let join = || Viewer::join(&daemon.signal, &url);
    let (mut one, mut two, mut three, mut four) = tokio::join!(join(), join(), join(), join());
    for viewer in [&mut one, &mut two, &mut three, &mut four] {
        gets_the_newest(viewer, &origin).await;
    }
    for viewer in [one, two, three] {
        viewer.leave().await;
    }
    daemon.until_metric("edgeseed_peers", 1.0).await;
    gets_the_newest(&mut four, &origin).await;
}

#[tokio::test]
async fn a_second_channel_is_closed_and_the_first_goes_on() {
    let (origin, daemon) = origin_and_box().await;
    let mut viewer = Viewer::join(&daemon.signal, &origin.url()).await;
    viewer.second_channel_is_closed().await;
    gets_the_newest(&mut viewer, &origin).await;
    assert!(
        viewer
            .next_event("ERROR", Duration::from_millis(1))
            .await
            .is_none()
    );
}
