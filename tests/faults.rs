//! Origins that misbehave: the box says what is wrong, in its status and its log, and its other
//! channels go on as if nothing were.

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
use support::origin::{Fault, Live, Origin};
use support::viewer::{Outcome, Viewer};

/// How long it may take until a fault is reported: a request without an answer is given up after
/// some seconds only.
const TOLD_WITHIN: Duration = Duration::from_secs(30);

/// How long it may take until a channel is well again: a failing origin is asked less and less
/// often.
const WELL_WITHIN: Duration = Duration::from_secs(40);

/// A channel's name, what is wrong with its origin, and words of which one has to be in what the
/// operator reads.
type Case = (&'static str, Fault, &'static [&'static str]);

/// One box with a good channel and one for each fault.
struct Patient {
    good: Origin,
    bad: Vec<(Case, Origin)>,
    daemon: Daemon,
    viewer: Viewer,
}

impl Patient {
    /// The origins misbehave from the start.
    async fn new(cases: &[Case], spoil: fn(&Origin, Fault), more: &[(&'static str, &str)]) -> Self {
        let good = Origin::start(Live::default()).await;
        let mut setup = Setup::channel("good", good.url());
        let mut bad = Vec::new();
        for case in cases {
            let origin = Origin::start(Live::default()).await;
            spoil(&origin, case.1);
            setup = setup.and_channel(case.0, origin.url());
            bad.push((*case, origin));
        }
        for (name, url) in more {
            setup = setup.and_channel(name, (*url).to_owned());
        }
        let daemon = Daemon::start_ailing(setup).await;
        let viewer = Viewer::join(&daemon.signal, &good.url()).await;
        Self {
            good,
            bad,
            daemon,
            viewer,
        }
    }

    /// The channel's fault is told by one of these words, under its name.
    async fn is_told(&self, name: &str, words: &[&str]) {
        let told = |text: &str| {
            text.lines().any(|line| {
                line.contains(&format!("channel {name}: "))
                    && words.iter().any(|word| line.to_lowercase().contains(word))
            })
        };
        eventually(
            &format!("one of {words:?} in the problems of {name}"),
            TOLD_WITHIN,
            async || told(&self.daemon.problems().await).then_some(()),
        )
        .await;
        let log = self.daemon.stderr();
        assert!(told(&log), "none of {words:?} in the log of {name}");
    }

    async fn good_goes_on(&mut self) {
        let first = self.good.newest();
        for sequence in first..first + 2 {
            gets(&mut self.viewer, &self.good, sequence).await;
            assert_eq!(self.good.requests_of(sequence), 1);
        }
        let problems = self.daemon.problems().await;
        assert!(!problems.contains("channel good"), "{problems}");
    }

    async fn all_are_told(&mut self) {
        for ((name, _, words), _) in &self.bad {
            self.is_told(name, words).await;
        }
        self.good_goes_on().await;
    }

    /// Once their origins are well again, so are the channels, and a viewer gets what is new.
    async fn all_recover(&self) {
        for (_, origin) in &self.bad {
            origin.fail_playlist(None);
            origin.fail_segments(None);
        }
        for ((name, ..), origin) in &self.bad {
            eventually(&format!("{name} is well again"), WELL_WITHIN, async || {
                let problems = self.daemon.problems().await;
                (!problems.contains(&format!("channel {name}: "))).then_some(())
            })
            .await;
            let mut viewer = Viewer::join(&self.daemon.signal, &origin.url()).await;
            gets(&mut viewer, origin, origin.newest()).await;
        }
    }
}

async fn gets(viewer: &mut Viewer, origin: &Origin, sequence: u64) {
    match viewer.request(sequence).await {
        Outcome::Segment { bytes, .. } => assert!(bytes == origin.segment(sequence)),
        other => panic!("segment {sequence}: {other:?}"),
    }
}

#[tokio::test]
async fn a_bad_playlist_is_told_and_costs_the_other_channels_nothing() {
    let cases: &[Case] = &[
        ("missing", Fault::NotFound, &["404"]),
        ("broken", Fault::ServerError, &["500"]),
        ("login", Fault::Html, &["html", "not a playlist"]),
        ("cut", Fault::Truncated, &["broke off", "closed before"]),
        ("huge", Fault::Huge, &["larger than"]),
        (
            "silent",
            Fault::Silent,
            &["no answer", "in time", "timed out"],
        ),
    ];
    let nowhere = [("nowhere", "http://origin.invalid/live/index.m3u8")];
    let mut patient = Patient::new(cases, |bad, fault| bad.fail_playlist(fault), &nowhere).await;
    patient.all_are_told().await;
    patient.is_told("nowhere", &["origin.invalid"]).await;
    patient.all_recover().await;
}

#[tokio::test]
async fn bad_segments_are_told_and_cost_the_other_channels_nothing() {
    let cases: &[Case] = &[
        ("missing", Fault::NotFound, &["404"]),
        ("broken", Fault::ServerError, &["500"]),
        ("login", Fault::Html, &["html"]),
        ("cut", Fault::Truncated, &["broke off", "closed before"]),
        (
            "silent",
            Fault::Silent,
            &["no answer", "in time", "timed out"],
        ),
    ];
    let mut patient = Patient::new(cases, |bad, fault| bad.fail_segments(fault), &[]).await;
    patient.all_are_told().await;
    patient.all_recover().await;
}
