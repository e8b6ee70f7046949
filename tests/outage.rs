//! The signalling server is gone, and viewers who have their channel notice nothing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::large_futures
)]

mod support;

use support::daemon::{Daemon, Setup};
use support::origin::{Live, Origin};
use support::server::Server;
use support::viewer::{Outcome, Viewer};

const CONNECTED: &str = "edgeseed_signal_connected{channel=\"news\"}";

/// The viewer gets the next segments, each as soon as it is there.
async fn follows(viewer: &mut Viewer, origin: &Origin, segments: u64) {
    let first = origin.newest();
    for sequence in first..first + segments {
        match viewer.request(sequence).await {
            Outcome::Segment { bytes, .. } => assert!(bytes == origin.segment(sequence)),
            other => panic!("segment {sequence}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_viewer_is_served_while_the_signalling_server_is_gone_and_when_it_is_back() {
    let origin = Origin::start(Live::default()).await;
    let server = Server::start().await;
    let setup = Setup::channel("news", origin.url()).at(&server.url);
    let daemon = Daemon::start(setup).await;
    let mut viewer = Viewer::join(&server.url, &origin.url()).await;
    follows(&mut viewer, &origin, 2).await;

    let gone = server.kill();
    daemon.until_metric(CONNECTED, 0.0).await;
    let problems = daemon.problems().await;
    assert!(problems.contains("no signalling server"), "{problems}");
    follows(&mut viewer, &origin, 5).await;
    assert_eq!(daemon.metric(CONNECTED).await, 0.0);

    let server = gone.start_again().await;
    daemon.until_metric(CONNECTED, 1.0).await;
    follows(&mut viewer, &origin, 2).await;
    let mut late = Viewer::join(&server.url, &origin.url()).await;
    let (_, _) = tokio::join!(
        follows(&mut viewer, &origin, 2),
        follows(&mut late, &origin, 2)
    );
    assert_eq!(daemon.metric("edgeseed_peers").await, 2.0);
}
