//! An origin that misbehaves: the box says what is wrong, in its status and its log, and its other
//! channel goes on as if nothing were.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::time::Duration;

use support::daemon::{Daemon, Setup};
use support::eventually;
use support::origin::{Fault, Live, Origin};
use support::viewer::{Outcome, Viewer};

/// How long it may take until a fault is reported; a request without an answer is given up after
/// some seconds only.
const REPORTED_WITHIN: Duration = Duration::from_secs(20);

/// A box with a channel `good` and a channel `bad`, and a viewer of the good one.
struct Pair {
    good: Origin,
    bad: Origin,
    daemon: Daemon,
    viewer: Viewer,
}

impl Pair {
    /// The bad origin has its fault from the start.
    async fn new(spoil: impl FnOnce(&Origin)) -> Self {
        let (good, bad) =
            tokio::join!(Origin::start(Live::default()), Origin::start(Live::default()));
        spoil(&bad);
        let setup = Setup::channel("good", good.url()).and_channel("bad", bad.url());
        let daemon = Daemon::start_ailing(setup).await;
        let viewer = Viewer::join(&daemon.signal, &good.url()).await;
        Self { good, bad, daemon, viewer }
    }

    /// The fault is told by one of these words, under the name of the bad channel alone.
    async fn is_told(&self, words: &[&str]) {
        let told = |text: &str| {
            text.lines().any(|line| {
                let line = line.to_lowercase();
                line.contains("bad") && words.iter().any(|word| line.contains(word))
            })
        };
        eventually(&format!("{words:?} in the problems"), REPORTED_WITHIN, async || {
            told(&self.daemon.problems().await).then_some(())
        })
        .await;
        let problems = self.daemon.problems().await;
        assert!(!problems.contains("channel good"), "{problems}");
        let log = self.daemon.stderr();
        assert!(told(&log), "none of {words:?} in the log:\n{log}");
    }

    async fn good_goes_on(&mut self) {
        let first = self.good.newest();
        for sequence in first..first + 2 {
            match self.viewer.request(sequence).await {
                Outcome::Segment { bytes, .. } => assert!(bytes == self.good.segment(sequence)),
                other => panic!("segment {sequence}: {other:?}"),
            }
            assert_eq!(self.good.requests_of(sequence), 1);
        }
    }

    /// Once the origin is well again, so is the box, and a viewer gets what is new.
    async fn recovers(&mut self) {
        self.bad.fail_playlist(None);
        self.bad.fail_segments(None);
        eventually("no problems any more", Duration::from_secs(40), async || {
            self.daemon.problems().await.is_empty().then_some(())
        })
        .await;
        let mut viewer = Viewer::join(&self.daemon.signal, &self.bad.url()).await;
        let sequence = self.bad.newest();
        match viewer.request(sequence).await {
            Outcome::Segment { bytes, .. } => assert!(bytes == self.bad.segment(sequence)),
            other => panic!("segment {sequence}: {other:?}"),
        }
    }
}

async fn playlist_fault_is_told(fault: Fault, words: &[&str]) {
    let mut pair = Pair::new(|bad| bad.fail_playlist(fault)).await;
    pair.is_told(words).await;
    pair.good_goes_on().await;
    pair.recovers().await;
}

async fn segment_fault_is_told(fault: Fault, words: &[&str]) {
    let mut pair = Pair::new(|bad| bad.fail_segments(fault)).await;
    pair.is_told(words).await;
    pair.good_goes_on().await;
    pair.recovers().await;
}

#[tokio::test]
async fn a_playlist_that_is_not_found_is_told() {
    playlist_fault_is_told(Fault::NotFound, &["404"]).await;
}

#[tokio::test]
async fn a_server_error_for_a_playlist_is_told() {
    playlist_fault_is_told(Fault::ServerError, &["500"]).await;
}

#[tokio::test]
async fn a_login_page_in_place_of_a_playlist_is_told() {
    playlist_fault_is_told(Fault::Html, &["html", "not a playlist", "no playlist"]).await;
}

#[tokio::test]
async fn a_playlist_that_breaks_off_is_told() {
    playlist_fault_is_told(Fault::Truncated, &["broke", "incomplete", "ended"]).await;
}

#[tokio::test]
async fn a_playlist_of_10_mb_is_told() {
    playlist_fault_is_told(Fault::Huge, &["too long", "too large", "more than", "longer than"])
        .await;
}

#[tokio::test]
async fn a_playlist_that_never_comes_is_told() {
    playlist_fault_is_told(Fault::Silent, &["no answer", "in time", "timed out"]).await;
}

#[tokio::test]
async fn segments_that_are_not_found_are_told() {
    segment_fault_is_told(Fault::NotFound, &["404"]).await;
}

#[tokio::test]
async fn a_login_page_in_place_of_segments_is_told() {
    segment_fault_is_told(Fault::Html, &["html"]).await;
}

#[tokio::test]
async fn segments_shorter_than_promised_are_told() {
    segment_fault_is_told(Fault::Truncated, &["broke", "promised", "incomplete", "ended"]).await;
}

#[tokio::test]
async fn a_host_that_does_not_exist_is_told() {
    let good = Origin::start(Live::default()).await;
    let bad = "http://origin.invalid/live/index.m3u8".to_owned();
    let setup = Setup::channel("good", good.url()).and_channel("bad", bad);
    let daemon = Daemon::start_ailing(setup).await;
    let problems = eventually("a problem", REPORTED_WITHIN, async || {
        let problems = daemon.problems().await;
        problems.contains("channel bad: ").then_some(problems)
    })
    .await;
    assert!(!problems.contains("channel good"), "{problems}");
    assert!(daemon.stderr().contains("origin.invalid"), "{}", daemon.stderr());
}
