//! Boxes of one operator in one LAN: real boxes with each other, and one real box with a sibling
//! that misbehaves.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::large_futures
)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use support::daemon::{Daemon, Setup};
use support::eventually;
use support::origin::{Live, Origin, uri};
use support::relay::{Habits, Relay};
use support::server::Server;
use support::sibling::{Behaviour, SECRET, Sibling};
use support::viewer::{Form, Incoming, Outcome, Viewer};

/// Two boxes meet within some round trips; a busy machine takes its time.
const MEET_WITHIN: Duration = Duration::from_secs(10);

fn with_secret(origin: &Origin) -> Setup {
    Setup::channel("news", origin.url()).with(&format!(
        "[peer]\nudp-port = 0\nsibling-secret = \"{SECRET}\"\n"
    ))
}

async fn origin_and_box() -> (Arc<Origin>, Daemon) {
    let origin = Arc::new(Origin::start(Live::default()).await);
    let daemon = Daemon::start(with_secret(&origin)).await;
    (origin, daemon)
}

fn results(result: &str) -> String {
    format!("edgeseed_sibling_requests_total{{channel=\"news\",result=\"{result}\"}}")
}

/// The viewer asks for this segment once it is listed, as players do, and gets it, byte for byte,
/// before it would have given up.
async fn gets(viewer: &mut Viewer, origin: &Origin, sequence: u64) {
    tokio::time::sleep_until(origin.listed_at(sequence)).await;
    match viewer.request(sequence).await {
        Outcome::Segment { bytes, elapsed } => {
            assert!(
                bytes == origin.segment(sequence),
                "the bytes of segment {sequence}"
            );
            assert!(elapsed < Duration::from_secs(2), "{elapsed:?}");
        }
        other => panic!("segment {sequence} of {:?}: {other:?}", origin.listed()),
    }
}

/// Until both boxes have an open channel to the other.
async fn have_met(one: &Daemon, other: &Daemon) {
    for daemon in [one, other] {
        eventually("the boxes meet", MEET_WITHIN, async || {
            let status = daemon.status().await;
            let peers = status["peers"].as_array().unwrap();
            peers
                .iter()
                .any(|peer| peer["sibling"] == true && peer["open"] == true)
                .then_some(())
        })
        .await;
    }
}

/// The origin was asked for each of these once: where a busy machine held a box up for a second, a
/// second time for one of them.
fn were_fetched_once(origin: &Origin, segments: std::ops::Range<u64>) {
    let asked: Vec<u64> = segments.map(|n| origin.requests_of(n)).collect();
    assert!(asked.iter().all(|times| *times >= 1), "{asked:?}");
    assert!(
        asked.iter().map(|times| times - 1).sum::<u64>() <= 1,
        "{asked:?}"
    );
}

/// Both boxes serve the next segments to a viewer of their own, and the origin gives each once.
async fn share(origin: &Origin, one: &mut Viewer, other: &mut Viewer) {
    // Those that are on their way at this moment may have been fetched before they met.
    let first = origin.newest() + 2;
    for sequence in first..first + 6 {
        tokio::join!(gets(one, origin, sequence), gets(other, origin, sequence));
    }
    were_fetched_once(origin, first..first + 6);
}

#[tokio::test]
async fn two_boxes_fetch_each_segment_once_for_both() {
    let origin = Origin::start(Live::default()).await;
    let server = Server::start().await;
    let signal = |setup: Setup| Setup {
        signal: Some(server.url.clone()),
        ..setup
    };
    let one = Daemon::start(signal(with_secret(&origin))).await;
    let two = Daemon::start(signal(with_secret(&origin))).await;
    have_met(&one, &two).await;
    let mut first = Viewer::join(&server.url, &origin.url()).await;
    let mut second = Viewer::join(&server.url, &origin.url()).await;
    share(&origin, &mut first, &mut second).await;
    let from_siblings = one.metric(&results("ok")).await + two.metric(&results("ok")).await;
    assert!(from_siblings >= 6.0, "{from_siblings}");
}

#[tokio::test]
async fn two_boxes_of_two_channels_fetch_each_segment_of_both_once() {
    let (news, sport) = (
        Origin::start(Live::default()).await,
        Origin::start(Live::default()).await,
    );
    let server = Server::start().await;
    let both = || {
        with_secret(&news)
            .and_channel("sport", sport.url())
            .at(&server.url)
    };
    let one = Daemon::start(both()).await;
    let two = Daemon::start(both()).await;
    for daemon in [&one, &two] {
        eventually("the boxes meet for both", MEET_WITHIN, async || {
            let status = daemon.status().await;
            let peers = status["peers"].as_array().unwrap();
            let open = |peer: &&serde_json::Value| peer["sibling"] == true && peer["open"] == true;
            (peers.iter().filter(open).count() == 2).then_some(())
        })
        .await;
    }
    for origin in [&news, &sport] {
        let mut first = Viewer::join(&server.url, &origin.url()).await;
        let mut second = Viewer::join(&server.url, &origin.url()).await;
        share(origin, &mut first, &mut second).await;
    }
}

#[tokio::test]
async fn two_boxes_meet_through_a_server_that_knows_nothing_of_boxes() {
    let origin = Origin::start(Live::default()).await;
    let relay = Relay::start(Habits {
        id: |nth| json!(nth + 7000),
        ..Habits::default()
    })
    .await;
    let signal = |setup: Setup| Setup {
        signal: Some(relay.url.clone()),
        ..setup
    };
    let one = Daemon::start(signal(with_secret(&origin))).await;
    let two = Daemon::start(signal(with_secret(&origin))).await;
    have_met(&one, &two).await;
    let mut viewer = Viewer::join(&relay.url, &origin.url()).await;
    let first = origin.newest() + 2;
    for sequence in first..first + 4 {
        gets(&mut viewer, &origin, sequence).await;
        eventually("the other box has it", MEET_WITHIN, async || {
            let newest = two.status().await["channels"][0]["newest"].as_u64();
            (newest >= Some(sequence)).then_some(())
        })
        .await;
    }
    were_fetched_once(&origin, first..first + 4);
}

#[tokio::test]
async fn a_box_that_called_a_sibling_says_that_the_channel_opened_and_that_it_closed() {
    let origin = Origin::start(Live::default()).await;
    let relay = Relay::start(Habits {
        id: |nth| json!(format!("box-{nth}")),
        ..Habits::default()
    })
    .await;
    let one = Daemon::start(with_secret(&origin).at(&relay.url)).await;
    let two = Daemon::start(with_secret(&origin).at(&relay.url)).await;
    have_met(&one, &two).await;
    let says = async |action: &str| {
        let heard = eventually(action, MEET_WITHIN, async || {
            relay.heard(action).first().cloned()
        });
        assert_eq!(heard.await["dc_id"], "box-1box-0");
    };
    says("dc_opened").await;
    one.stop().await;
    says("dc_closed").await;
}

/// Two boxes at a relay with these habits.
async fn at_a_relay(habits: Habits) -> (Arc<Origin>, Relay, [Daemon; 2]) {
    let origin = Arc::new(Origin::start(Live::default()).await);
    let relay = Relay::start(habits).await;
    let one = Daemon::start(with_secret(&origin).at(&relay.url)).await;
    let two = Daemon::start(with_secret(&origin).at(&relay.url)).await;
    (origin, relay, [one, two])
}

#[tokio::test]
async fn an_answer_whose_proof_was_altered_is_not_believed() {
    let (_origin, relay, boxes) = at_a_relay(Habits {
        alters: |data| {
            if data["type"] == "answer" {
                data["sibling"]["mac"] = json!("00".repeat(32));
            }
        },
        ..Habits::default()
    })
    .await;
    eventually("the call failed", MEET_WITHIN, async || {
        relay.heard("dc_failed").first().cloned()
    })
    .await;
    for daemon in &boxes {
        assert!(!daemon.status().await.to_string().contains("\"open\":true"));
    }
}

#[tokio::test]
async fn an_offer_whose_session_description_was_altered_makes_no_sibling() {
    let (_origin, relay, _boxes) = at_a_relay(Habits {
        alters: |data| {
            if data["type"] == "offer" {
                let sdp = data["sdp"].as_str().unwrap().replace("s=-", "s=x");
                data["sdp"] = json!(sdp);
            }
        },
        ..Habits::default()
    })
    .await;
    // It is answered as a viewer is, without a proof, which ends the call.
    eventually("the call failed", MEET_WITHIN, async || {
        relay.heard("dc_failed").first().cloned()
    })
    .await;
    let answers = relay.heard("signal");
    let mut answers = answers.iter().filter(|m| m["data"]["type"] == "answer");
    assert!(answers.all(|answer| answer["data"]["sibling"].is_null()));
}

#[tokio::test]
async fn two_boxes_that_call_each_other_at_once_meet() {
    let (_origin, _relay, [one, two]) = at_a_relay(Habits {
        has_both_call: true,
        ..Habits::default()
    })
    .await;
    have_met(&one, &two).await;
}

#[tokio::test]
async fn two_boxes_meet_again_after_the_network_was_away() {
    let (origin, _relay, [one, two]) = at_a_relay(Habits::default()).await;
    have_met(&one, &two).await;
    one.freeze(true);
    eventually("the other box gives it up", 2 * MEET_WITHIN, async || {
        let status = two.status().await;
        let peers = status["peers"].as_array().unwrap();
        peers
            .iter()
            .all(|peer| peer["sibling"] == false)
            .then_some(())
    })
    .await;
    one.freeze(false);
    // Whichever of them hears of segments later has them from the other.
    let delivered = async || one.metric(&results("ok")).await + two.metric(&results("ok")).await;
    eventually("they meet again", 3 * MEET_WITHIN, async || {
        let before = delivered().await;
        tokio::time::sleep_until(origin.listed_at(origin.newest() + 2)).await;
        (delivered().await > before).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_box_whose_sibling_is_killed_fetches_by_itself() {
    let origin = Origin::start(Live::default()).await;
    let server = Server::start().await;
    let signal = |setup: Setup| Setup {
        signal: Some(server.url.clone()),
        ..setup
    };
    let one = Daemon::start(signal(with_secret(&origin))).await;
    let mut viewer = Viewer::join(&server.url, &origin.url()).await;
    let two = Daemon::start(signal(with_secret(&origin))).await;
    have_met(&one, &two).await;
    gets(&mut viewer, &origin, origin.newest()).await;
    // Dropped is killed, without a goodbye.
    drop(two);
    let first = origin.newest() + 1;
    for sequence in first..first + 4 {
        gets(&mut viewer, &origin, sequence).await;
    }
}

#[tokio::test]
async fn what_a_sibling_has_is_not_asked_of_the_origin() {
    let started = tokio::time::Instant::now();
    let (origin, daemon) = origin_and_box().await;
    let sibling = Sibling::join(&daemon.signal, &origin, Behaviour::Honest).await;
    let mut viewer = Viewer::join(&daemon.signal, &origin.url()).await;
    let first = origin.newest() + 1;
    for sequence in first..first + 4 {
        gets(&mut viewer, &origin, sequence).await;
        assert_eq!(origin.requests_of(sequence), 0, "segment {sequence}");
    }
    let asked = sibling.asked();
    let last = asked.last().unwrap();
    assert_eq!(last["url"], uri(last["sn"].as_u64().unwrap()));
    assert_eq!(last["playlist"], origin.url());
    let age = Duration::from_millis(last["epoch_age"].as_u64().unwrap());
    assert!(age <= started.elapsed(), "{last}");
    let bytes = "edgeseed_sibling_bytes_total{channel=\"news\",direction=\"received\"}";
    assert!(daemon.metric(bytes).await >= 4.0 * 150_000.0);
}

/// A sibling that does not deliver costs nobody anything: the segment comes from the origin, in
/// time and right.
async fn falls_back_to_the_origin(behaviour: Behaviour, result: &str) {
    let (origin, daemon) = origin_and_box().await;
    let mut viewer = Viewer::join(&daemon.signal, &origin.url()).await;
    gets(&mut viewer, &origin, origin.newest()).await;
    let sibling = Sibling::join(&daemon.signal, &origin, behaviour).await;
    let first = origin.newest() + 1;
    for sequence in first..first + 3 {
        gets(&mut viewer, &origin, sequence).await;
        assert_eq!(origin.requests_of(sequence), 1, "segment {sequence}");
    }
    match behaviour {
        Behaviour::Lacks => assert!(sibling.asked().len() >= 3),
        // Left alone for a while; the next one may just have been asked for.
        _ => assert!(
            (1..=2).contains(&sibling.asked().len()),
            "{:?}",
            sibling.asked()
        ),
    }
    assert!(daemon.metric(&results(result)).await >= 1.0);
    assert_eq!(daemon.metric(&results("ok")).await, 0.0);
}

#[tokio::test]
async fn a_lack_of_a_sibling_is_made_up_by_the_origin() {
    falls_back_to_the_origin(Behaviour::Lacks, "lack").await;
}

#[tokio::test]
async fn a_silent_sibling_is_made_up_by_the_origin() {
    falls_back_to_the_origin(Behaviour::Silent, "failed").await;
}

#[tokio::test]
async fn a_sibling_that_stops_half_way_is_made_up_by_the_origin() {
    falls_back_to_the_origin(Behaviour::StopsHalfWay, "failed").await;
}

#[tokio::test]
async fn a_sibling_that_sends_too_few_bytes_is_made_up_by_the_origin() {
    falls_back_to_the_origin(Behaviour::TooFewBytes, "failed").await;
}

#[tokio::test]
async fn a_sibling_that_sends_too_many_bytes_is_made_up_by_the_origin() {
    falls_back_to_the_origin(Behaviour::TooManyBytes, "failed").await;
}

#[tokio::test]
async fn a_sibling_that_sends_too_few_packets_is_made_up_by_the_origin() {
    falls_back_to_the_origin(Behaviour::TooFewPackets, "failed").await;
}

#[tokio::test]
async fn a_sibling_that_sends_too_many_packets_is_made_up_by_the_origin() {
    falls_back_to_the_origin(Behaviour::TooManyPackets, "failed").await;
}

#[tokio::test]
async fn a_sibling_whose_bytes_are_not_what_its_digest_says_is_made_up_by_the_origin() {
    falls_back_to_the_origin(Behaviour::WrongDigest, "failed").await;
}

#[tokio::test]
async fn a_sibling_that_dies_half_way_is_made_up_by_the_origin() {
    falls_back_to_the_origin(Behaviour::Dies, "failed").await;
}

#[tokio::test]
async fn a_sibling_that_says_close_is_made_up_by_the_origin() {
    falls_back_to_the_origin(Behaviour::SaysClose, "failed").await;
}

#[tokio::test]
async fn a_sibling_that_says_error_is_made_up_by_the_origin() {
    falls_back_to_the_origin(Behaviour::SaysError, "failed").await;
}

#[tokio::test]
async fn a_sibling_that_asks_is_told_the_newest_segment() {
    let (origin, daemon) = origin_and_box().await;
    let mut viewer = Viewer::join(&daemon.signal, &origin.url()).await;
    let newest = origin.newest();
    gets(&mut viewer, &origin, newest).await;
    let form = Form::Sibling(SECRET);
    let sibling = Viewer::try_join(&daemon.signal, &origin.url(), form).await;
    let mut sibling = sibling.expect("a channel to the box");
    sibling
        .send_text(r#"{"event":"KEEPALIVE","current":1}"#)
        .await;
    let ack = sibling.next_event("KEEPALIVE-ACK", MEET_WITHIN).await;
    let current = ack.expect("an ack")["current"].as_u64().unwrap();
    assert!((newest..=origin.newest()).contains(&current), "{current}");
}

#[tokio::test]
async fn who_does_not_know_the_secret_is_served_and_never_asked() {
    let (origin, daemon) = origin_and_box().await;
    let form = Form::Stranger("some other secret");
    let mut stranger = Viewer::try_join(&daemon.signal, &origin.url(), form)
        .await
        .expect("a channel to the box");
    let first = origin.newest() + 1;
    for sequence in first..first + 2 {
        // Fails on any REQUEST of the box.
        gets(&mut stranger, &origin, sequence).await;
    }
    assert_eq!(daemon.status().await["peers"][0]["sibling"], false);
}

#[tokio::test]
async fn a_box_without_a_secret_has_no_siblings() {
    let origin = Origin::start(Live::default()).await;
    let daemon = Daemon::start(Setup::channel("news", origin.url())).await;
    let form = Form::Stranger(SECRET);
    let mut other = Viewer::try_join(&daemon.signal, &origin.url(), form)
        .await
        .expect("a channel to the box");
    gets(&mut other, &origin, origin.newest() + 1).await;
    assert_eq!(daemon.status().await["peers"][0]["sibling"], false);
}

#[tokio::test]
async fn a_sibling_gets_only_what_both_mean_by_the_same_name() {
    let (origin, daemon) = origin_and_box().await;
    let mut viewer = Viewer::join(&daemon.signal, &origin.url()).await;
    let sequence = origin.newest() + 1;
    gets(&mut viewer, &origin, sequence).await;
    let form = Form::Sibling(SECRET);
    let mut sibling = Viewer::try_join(&daemon.signal, &origin.url(), form)
        .await
        .expect("a channel to the box");
    let mut ask = async |playlist: &str, epoch_age: u64| {
        let request = json!({
            "event": "REQUEST", "url": uri(sequence), "sn": sequence,
            "playlist": playlist, "epoch_age": epoch_age,
        });
        sibling.send_text(&request.to_string()).await;
        loop {
            match sibling.next().await.expect("the channel stays open") {
                Incoming::Text(text) if text["event"] == "REQUEST" => {
                    let lack = json!({ "event": "LACK", "url": text["url"], "sn": text["sn"] });
                    sibling.send_text(&lack.to_string()).await;
                }
                Incoming::Text(text) if text["event"] == "KEEPALIVE" => {}
                Incoming::Text(text) => return text,
                Incoming::Binary(_) => {}
            }
        }
    };
    let other = ask("http://127.0.0.1:9/live/index.m3u8", 600).await;
    assert_eq!(other["event"], "LACK", "{other}");
    // The box has looked at the playlist within the last minute: what it has is what is meant.
    let known = ask(&origin.url(), 60_000).await;
    assert_eq!(known["event"], "BINARY", "{known}");
    let digest = crc32c::crc32c(&origin.segment(sequence));
    assert_eq!(known["crc32c"], digest, "{known}");
}
