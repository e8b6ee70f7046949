//! The signalling server over real WebSockets on loopback: what it makes of every message, well
//! written or not.

// clippy.toml lifts these inside test functions only; here the helpers need it as well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/signal.rs"]
mod support;

use edgeseed::config::SignalServerConfig;
use edgeseed::metrics::Refused;
use edgeseed::signal::server::{Server, SignalError};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::sync::Arc;
use support::{CHANNEL, Page, Running, any_port, connect, soon};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::Message;

#[tokio::test]
async fn whoever_enters_is_accepted_under_an_id_of_its_own() {
    let server = Running::start(any_port()).await;
    let mut page = Page::open(server.addr).await;
    // In any order, with what field clients add.
    page.say(
        json!({"peer_id": null, "level": {}, "channel": CHANNEL, "x": [1], "action": "enter"}),
    )
    .await;
    let accept = page.hear().await;
    let id = accept["peer_id"].as_str().unwrap();
    assert_eq!(
        accept,
        json!({"action": "accept", "live": true, "peer_id": id})
    );
    let (_other, other_id) = Page::enter(server.addr).await;
    assert_ne!(id, other_id);
    server.stop().await;
}

#[tokio::test]
async fn an_enter_that_cannot_be_understood_is_rejected_with_a_reason() {
    let server = Running::start(any_port()).await;
    let mut page = Page::open(server.addr).await;
    let long = "x".repeat(5000);
    for (message, reason) in [
        (json!({"action": "enter"}), "`channel` is missing"),
        (json!({"action": "enter", "channel": 7}), "must be a string"),
        (json!({"action": "enter", "channel": ""}), "1 to 4096"),
        (json!({"action": "enter", "channel": long}), "1 to 4096"),
        (json!(["enter"]), "not a JSON object"),
    ] {
        page.say(message).await;
        let reject = page.hear().await;
        assert_eq!(reject["action"], "reject");
        assert!(
            reject["reason"].as_str().unwrap().contains(reason),
            "{reject}"
        );
    }
    assert_eq!(server.refused(Refused::Message), 5);
    page.enter_channel(CHANNEL).await;
    server.stop().await;
}

#[tokio::test]
async fn one_page_that_enters_four_times_is_four_peers_and_each_has_its_parent() {
    let server = Running::start(any_port()).await;
    let (mut holder, holder_id) =
        Page::holding(server.addr, json!({"level": 100, "room": 64})).await;
    let mut entries = Vec::new();
    for _ in 0..4 {
        let (mut page, id) = Page::enter(server.addr).await;
        assert_eq!(page.settle().await, [connect(&holder_id, true)]);
        assert_eq!(holder.settle().await, [connect(&id, false)]);
        entries.push((page, id));
    }
    // The older ones go on.
    for (page, id) in &mut entries {
        page.say(json!({"action": "signal", "to_peer_id": holder_id, "data": 1}))
            .await;
        assert_eq!(holder.hear().await["from_peer_id"], id.as_str());
    }
    server.stop().await;
}

#[tokio::test]
async fn a_second_enter_on_a_socket_replaces_the_first() {
    let server = Running::start(any_port()).await;
    let (mut holder, holder_id) =
        Page::holding(server.addr, json!({"level": 100, "room": 64})).await;
    let (mut page, old) = Page::enter(server.addr).await;
    page.settle().await;
    let new = page.enter_channel(CHANNEL).await;
    assert_ne!(old, new);
    assert_eq!(page.settle().await, [connect(&holder_id, true)]);
    assert_eq!(
        holder.settle().await,
        [connect(&old, false), connect(&new, false)]
    );
    for to in [old, new] {
        holder
            .say(json!({"action": "signal", "to_peer_id": to, "data": to}))
            .await;
    }
    holder.settle().await;
    let heard = page.settle().await;
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert_eq!(server.refused(Refused::Unroutable), 1);
    server.stop().await;
}

#[tokio::test]
async fn who_leaves_by_any_name_is_offered_to_nobody() {
    let server = Running::start(any_port()).await;
    for leave in [
        json!({"action": "leave"}),
        json!({"action": "leave", "peer_id": 4711}),
        json!({"action": "leave", "peer_id": "somebody"}),
        json!({"action": "leave", "peer_id": {}}),
    ] {
        let (mut holder, _) = Page::holding(server.addr, json!({"level": 100, "room": 64})).await;
        holder.say(leave).await;
        holder.enter_channel("another").await;
        let (mut page, _) = Page::enter(server.addr).await;
        assert_eq!(page.settle().await, Vec::<Value>::new());
    }
    server.stop().await;
}

#[tokio::test]
async fn a_level_report_is_understood_in_every_form() {
    let server = Running::start(any_port()).await;
    for report in [
        json!({"action": "level", "level": 5}),
        json!({"action": "level", "level": "5.00", "peer_id": "x", "channel": CHANNEL}),
        json!({"level": "5.00", "channel": CHANNEL}),
        json!({"level": 5.5, "channel": "elsewhere"}),
        json!({"action": "statistics", "level": "5.00", "cdn": 1200, "p2p": 0}),
        json!({"action": "level", "level": 100, "room": 12}),
        json!({"level": "100", "room": "plenty"}),
    ] {
        let (_holder, holder_id) = Page::holding(server.addr, report.clone()).await;
        let (mut page, _) = Page::enter(server.addr).await;
        assert_eq!(page.settle().await, [connect(&holder_id, true)], "{report}");
    }
    // What is no level changes nothing, and nobody is told.
    let (mut page, _) = Page::enter(server.addr).await;
    page.settle().await;
    for report in [
        json!({"level": "NaN"}),
        json!({"action": "level"}),
        json!({"action": "level", "level": -1}),
        json!({"action": "statistics", "cdn": 5}),
    ] {
        page.say(report).await;
    }
    assert_eq!(page.settle().await, Vec::<Value>::new());
    assert_eq!(server.refused(Refused::Message), 3);
    server.stop().await;
}

#[tokio::test]
async fn get_parents_is_answered_with_the_best_first() {
    let server = Running::start(any_port()).await;
    let mut holders = Vec::new();
    for level in [4, 8, 100, 6] {
        holders.push(Page::holding(server.addr, json!({"level": level})).await);
    }
    let (mut page, _) = Page::enter(server.addr).await;
    // 100 and 8 it has already.
    for _ in 0..2 {
        assert_eq!(page.hear().await["action"], "connect");
    }
    page.say(json!({"action": "get_parents", "peer_id": 7, "channel": CHANNEL}))
        .await;
    let node = |index: usize, level: f64| json!({"peer_id": holders[index].1, "ul_bw": level});
    assert_eq!(
        page.hear().await,
        json!({"action": "parents", "nodes": [node(3, 6.0), node(0, 4.0)]})
    );
    server.stop().await;
}

#[tokio::test]
async fn data_is_relayed_byte_for_byte() {
    let server = Running::start(any_port()).await;
    let (mut one, one_id) = Page::enter(server.addr).await;
    let (mut two, two_id) = Page::enter(server.addr).await;
    for data in [
        r#"{ "type" : "offer","sdp":"v=0\r\n", "z":1.50e0 }"#,
        r#""{\"type\":\"offer\",\u0022sdp\":\"\"}""#,
        r#"{"candidate":{"candidate":"a=candidate:1","sdpMLineIndex":0,"sdpMid":"0"}}"#,
    ] {
        let text = format!(r#"{{"data":{data},"to_peer_id":"{two_id}","action":"signal"}}"#);
        one.say_text(&text).await;
        assert_eq!(
            two.hear_text().await,
            format!(r#"{{"action":"signal","from_peer_id":"{one_id}","data":{data}}}"#)
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn a_signal_to_nobody_is_counted_and_costs_its_sender_nothing() {
    let server = Running::start(any_port()).await;
    let (mut page, own) = Page::enter(server.addr).await;
    let mut elsewhere = Page::open(server.addr).await;
    let foreign = elsewhere.enter_channel("another").await;
    for to in [json!("nobody"), json!(4711), json!(own), json!(foreign)] {
        page.say(json!({"action": "signal", "to_peer_id": to, "data": 1}))
            .await;
    }
    assert_eq!(page.settle().await, Vec::<Value>::new());
    assert_eq!(server.refused(Refused::Unroutable), 4);
    assert_eq!(elsewhere.settle().await, Vec::<Value>::new());
    // What names nobody is not of the protocol.
    for bad in [
        json!({"action": "signal", "data": 1}),
        json!({"action": "signal", "to_peer_id": 1.5, "data": 1}),
        json!({"action": "signal", "to_peer_id": "x".repeat(2000), "data": 1}),
        json!({"action": "signal", "to_peer_id": "x"}),
    ] {
        page.say(bad).await;
    }
    page.settle().await;
    assert_eq!(server.refused(Refused::Message), 4);
    server.stop().await;
}

#[tokio::test]
async fn what_nobody_knows_is_ignored() {
    let server = Running::start(any_port()).await;
    let (mut page, _) = Page::enter(server.addr).await;
    for message in [
        json!({}),
        json!({"action": "dance", "with": "me"}),
        json!({"action": 7}),
        json!({"action": "accept", "peer_id": "me"}),
        json!({"action": "dc_failed", "dc_id": 4711}),
        json!({"action": "dc_opened", "dc_id": "no-such-pair"}),
        json!({"action": "dc_closed", "dc_id": ""}),
    ] {
        page.say(message).await;
    }
    soon(page.0.send(Message::binary(vec![0; 100])))
        .await
        .unwrap();
    assert_eq!(page.settle().await, Vec::<Value>::new());
    server.stop().await;
}

#[tokio::test]
async fn garbage_costs_its_sender_and_nobody_else() {
    let server = Running::start(any_port()).await;
    let (mut one, _) = Page::enter(server.addr).await;
    let (mut two, two_id) = Page::enter(server.addr).await;

    // What is only not of the protocol is ignored, or refused with a reason; the socket goes on.
    let mut odd = Page::open(server.addr).await;
    odd.say_text("hello").await;
    assert_eq!(odd.hear().await["action"], "reject");
    soon(odd.0.send(Message::binary(vec![0; 1000])))
        .await
        .unwrap();
    let long = "x".repeat(5000);
    odd.say(json!({"action": "enter", "channel": long})).await;
    assert!(
        odd.hear().await["reason"]
            .as_str()
            .unwrap()
            .contains("4096")
    );
    odd.say(json!({"action": "enter", "channel": CHANNEL}))
        .await;
    assert_eq!(odd.hear().await["action"], "accept");

    // A message of 1 MB ends its socket, which may be before all of it was written.
    let (mut huge, _) = Page::enter(server.addr).await;
    let _ = soon(huge.0.send(Message::text("x".repeat(1 << 20)))).await;
    huge.hung_up().await;

    // A handshake that never comes blocks nobody, nor does one that is none.
    let _silent = TcpStream::connect(server.addr).await.unwrap();
    let wrong = TcpStream::connect(server.addr).await.unwrap();
    wrong.writable().await.unwrap();
    wrong.try_write(b"\x16\x03\x01 no HTTP\r\n\r\n").unwrap();

    one.say(json!({"action": "signal", "to_peer_id": two_id, "data": "still here"}))
        .await;
    assert_eq!(two.hear().await["data"], "still here");
    server.stop().await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_with_a_way_out() {
    let server = Running::start(any_port()).await;
    let error = Server::bind(SignalServerConfig::new(server.addr), Arc::default())
        .await
        .err()
        .unwrap();
    assert!(matches!(error, SignalError::AddressInUse { addr } if addr == server.addr));
    let text = error.to_string();
    assert!(text.contains(&server.addr.to_string()) && text.contains("choose another port"));
    server.stop().await;
}

#[tokio::test]
async fn a_stopping_server_says_goodbye() {
    let server = Running::start(any_port()).await;
    let (mut page, _) = Page::enter(server.addr).await;
    server.stop.cancel();
    let Some(Ok(Message::Close(Some(frame)))) = soon(page.0.next()).await else {
        panic!("no closing frame");
    };
    assert_eq!(u16::from(frame.code), 1001);
    soon(server.task).await.unwrap();
}
