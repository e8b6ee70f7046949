//! Whoever is in the LAN may open connections to the pages, and do with them what they like.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::large_futures
)]

mod support;

use std::time::Duration;

use support::daemon::{Daemon, Setup};
use support::eventually;
use support::origin::{Live, Origin};
use support::viewer::{Outcome, Viewer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// More than the pages serve at once.
const CROWD: usize = 300;

/// A request may take 10 s to arrive, and as many again wait behind the first.
const PATIENCE: Duration = Duration::from_secs(40);

async fn open(daemon: &Daemon, begun: &[u8]) -> TcpStream {
    let address = daemon.pages().replace("http://", "");
    let mut stream = TcpStream::connect(address).await.unwrap();
    // It may have been closed half-way.
    let _ = stream.write_all(begun).await;
    stream
}

#[tokio::test]
async fn requests_that_never_end_hold_neither_the_pages_nor_a_stop_nor_a_viewer() {
    let origin = Origin::start(Live::default()).await;
    let daemon = Daemon::start(Setup::channel("news", origin.url())).await;
    let mut viewer = Viewer::join(&daemon.signal, &origin.url()).await;
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        crowd.push(open(&daemon, b"GET /metrics HTTP/1.1\r\nHost: x\r\n").await);
    }
    let sequence = *origin.listed().end();
    assert!(matches!(
        viewer.request(sequence).await,
        Outcome::Segment { .. }
    ));
    // Those who came before are gone by themselves.
    let healthy = eventually("the pages answer", PATIENCE, async || {
        daemon.get("/healthz").await
    });
    assert_eq!(healthy.await, "ok\n");
    let mut first = crowd.swap_remove(0);
    assert_eq!(
        first.read(&mut [0; 1]).await.unwrap_or(0),
        0,
        "it is closed"
    );

    let before = Instant::now();
    assert_eq!(daemon.stop().await.code, Some(0));
    assert!(
        before.elapsed() < Duration::from_secs(4),
        "{:?}",
        before.elapsed()
    );
}

#[tokio::test]
async fn a_request_that_is_too_long_is_refused_at_once() {
    let origin = Origin::start(Live::default()).await;
    let daemon = Daemon::start(Setup::channel("news", origin.url())).await;
    let begun = format!("GET /metrics HTTP/1.1\r\nX-A: {}", "a".repeat(390_000));
    let before = Instant::now();
    let mut stream = open(&daemon, begun.as_bytes()).await;
    let mut answer = Vec::new();
    // What was not read makes the system cut the connection behind the answer.
    let _ = stream.read_to_end(&mut answer).await;
    // And not when its time is over.
    assert!(before.elapsed() < Duration::from_secs(5));
    let answer = String::from_utf8_lossy(&answer);
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
        "{answer}"
    );
}
