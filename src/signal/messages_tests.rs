use super::*;

fn client(text: &str) -> ClientMessage {
    ClientMessage::parse(text).unwrap().unwrap()
}

#[test]
fn what_the_box_sends_has_the_seeds_fields() {
    let channel = ChannelId::from("http://a/x.m3u8");
    let enter = ClientMessage::Enter {
        channel,
        token: None,
    };
    assert_eq!(
        enter.to_json(),
        r#"{"action":"enter","channel":"http://a/x.m3u8"}"#
    );
    let signal = ClientMessage::Signal {
        channel: None,
        to_peer_id: PeerId::Number(7),
        data: RawValue::from_string(r#"{"type":"answer","sdp":"v=0"}"#.to_owned()).unwrap(),
    };
    assert_eq!(
        signal.to_json(),
        r#"{"action":"signal","to_peer_id":7,"data":{"type":"answer","sdp":"v=0"}}"#
    );
    let level = ClientMessage::Level {
        channel: None,
        level: 100.0,
        room: Some(3),
    };
    assert_eq!(
        level.to_json(),
        r#"{"action":"level","level":100.0,"room":3}"#
    );
}

#[test]
fn what_the_server_sends_has_the_seeds_fields() {
    let accept = ServerMessage::Accept {
        live: true,
        peer_id: PeerId::from("p"),
    };
    assert_eq!(
        accept.to_json(),
        r#"{"action":"accept","live":true,"peer_id":"p"}"#
    );
    let connect = ServerMessage::Connect {
        to_peer_id: PeerId::from("p"),
        initiator: false,
    };
    assert_eq!(
        connect.to_json(),
        r#"{"action":"connect","to_peer_id":"p","initiator":false}"#
    );
    let parents = ServerMessage::Parents {
        nodes: vec![ParentNode {
            peer_id: PeerId::from("p"),
            ul_bw: 100.0,
        }],
    };
    assert_eq!(
        parents.to_json(),
        r#"{"action":"parents","nodes":[{"peer_id":"p","ul_bw":100.0}]}"#
    );
}

#[test]
fn a_level_comes_as_number_or_string_with_an_action_or_without() {
    for (text, expected) in [
        (r#"{"action":"level","level":3}"#, 3.0),
        (r#"{"level":"0.00","channel":"c","peer_id":"p"}"#, 0.0),
        (r#"{"level":"2.50"}"#, 2.5),
        (
            r#"{"p2p":1,"cdn":"x","level":7.25,"action":"statistics"}"#,
            7.25,
        ),
    ] {
        assert!(
            matches!(client(text), ClientMessage::Level { level, .. } if level == expected),
            "{text}"
        );
    }
    for text in [
        r#"{"level":"NaN"}"#,
        r#"{"level":"inf"}"#,
        r#"{"level":-1}"#,
        r#"{"level":[]}"#,
        r#"{"action":"level"}"#,
    ] {
        assert!(ClientMessage::parse(text).is_err(), "{text}");
    }
}

#[test]
fn a_level_report_says_how_much_room_there_is_in_every_form() {
    for (text, expected) in [
        (r#"{"action":"level","level":3,"room":7}"#, Some(7)),
        (r#"{"level":"3","room":0}"#, Some(0)),
        (r#"{"action":"statistics","level":3,"room":1}"#, Some(1)),
        (r#"{"level":3}"#, None),
        (r#"{"level":3,"room":-1}"#, None),
        (r#"{"level":3,"room":"many"}"#, None),
    ] {
        assert!(
            matches!(client(text), ClientMessage::Level { room, .. } if room == expected),
            "{text}"
        );
    }
}

#[test]
fn a_token_that_is_no_token_reads_as_none() {
    let long = "x".repeat(MAX_TOKEN + 1);
    for (token, expected) in [
        (r#""abc""#, Some("abc")),
        ("null", None),
        ("7", None),
        (&format!("\"{long}\""), None),
    ] {
        let text = format!(r#"{{"action":"enter","channel":"c","token":{token}}}"#);
        let ClientMessage::Enter { token, .. } = client(&text) else {
            panic!("not an enter: {text}");
        };
        assert_eq!(token.as_deref(), expected, "{text:.60}");
    }
}

#[test]
fn unknown_actions_are_ignored_and_unneeded_fields_may_be_anything() {
    for text in [
        "{}",
        r#"{"action":"dance"}"#,
        r#"{"action":7,"level":1}"#,
        r#"{"action":"statistics","cdn":1}"#,
        r#" {"action":"get_stats","peer_id":{}}"#,
    ] {
        assert!(ClientMessage::parse(text).unwrap().is_none(), "{text}");
        assert!(ServerMessage::parse(text).unwrap().is_none(), "{text}");
    }
    let enter = r#"{"level":{},"peer_id":null,"channel":"c","data":[1],"action":"enter"}"#;
    assert!(matches!(client(enter), ClientMessage::Enter { .. }));
}

#[test]
fn data_is_kept_byte_for_byte() {
    for data in [
        r#"{ "b":1,"a" : 1.0e0 }"#,
        r#""{\u0022type\":1}""#,
        "[1, 2]",
    ] {
        let text = format!(r#"{{"data":{data},"to_peer_id":12,"action":"signal"}}"#);
        let ClientMessage::Signal {
            to_peer_id,
            data: read,
            ..
        } = client(&text)
        else {
            panic!("not a signal: {text}");
        };
        assert_eq!(to_peer_id, PeerId::Number(12));
        assert_eq!(read.get(), data);
        let out = ServerMessage::Signal {
            from_peer_id: to_peer_id,
            data: read,
        };
        assert_eq!(
            out.to_json(),
            format!(r#"{{"action":"signal","from_peer_id":12,"data":{data}}}"#)
        );
    }
}

#[test]
fn ids_come_back_in_their_json_form() {
    let accept = ServerMessage::parse(r#"{"peer_id":4711,"action":"accept"}"#);
    let Ok(Some(ServerMessage::Accept {
        live: true,
        peer_id,
    })) = accept
    else {
        panic!("not an accept: {accept:?}");
    };
    assert_eq!(peer_id, PeerId::Number(4711));
    let leave = ClientMessage::Leave {
        peer_id: Some(peer_id),
    };
    assert_eq!(leave.to_json(), r#"{"action":"leave","peer_id":4711}"#);
}

#[test]
fn what_is_beyond_its_bound_is_refused_with_a_reason() {
    let long = "x".repeat(MAX_CHANNEL + 1);
    let refusal = ClientMessage::parse(&format!(r#"{{"action":"enter","channel":"{long}"}}"#));
    assert_eq!(
        refusal.unwrap_err().to_string(),
        "`channel` must be of 1 to 4096 bytes"
    );
    let long = "x".repeat(MAX_ID + 1);
    let refusal = ServerMessage::parse(&format!(r#"{{"action":"accept","peer_id":"{long}"}}"#));
    assert_eq!(
        refusal.unwrap_err().to_string(),
        "`peer_id` must be of 1 to 1024 bytes"
    );
    let long = " ".repeat(MAX_MESSAGE + 1);
    assert_eq!(
        ClientMessage::parse(&long).unwrap_err(),
        Refusal::TooLong {
            bytes: MAX_MESSAGE + 1
        }
    );
    assert_eq!(
        ClientMessage::parse(r#"{"action":"signal","to_peer_id":"p"}"#).unwrap_err(),
        Refusal::Missing { field: "data" }
    );
}

#[test]
fn what_is_no_json_object_is_refused() {
    let deep = "[".repeat(60_000);
    for text in ["", "hello", "[1]", "7", r#"{"action":"enter""#, &deep] {
        assert!(
            matches!(ClientMessage::parse(text), Err(Refusal::NotAnObject(_))),
            "{text:.20}"
        );
    }
    let deep = format!(r#"{{"action":"signal","to_peer_id":"p","data":{}"#, deep);
    assert!(ClientMessage::parse(&deep).is_err());
}

#[test]
fn disconnect_names_one_peer_or_several() {
    for (text, expected) in [
        (
            r#"{"action":"disconnect","to_peer_id":3}"#,
            vec![PeerId::Number(3)],
        ),
        (
            r#"{"action":"disconnect","peer_id":"a"}"#,
            vec![PeerId::from("a")],
        ),
        (
            r#"{"action":"disconnect","peers":["a",3]}"#,
            vec![PeerId::from("a"), PeerId::Number(3)],
        ),
    ] {
        let message = ServerMessage::parse(text).unwrap().unwrap();
        assert!(
            matches!(&message, ServerMessage::Disconnect { peers } if *peers == expected),
            "{message:?}"
        );
    }
}

#[test]
fn a_data_channel_is_named_by_both_ids_and_by_the_sum_of_integers() {
    let (a, b) = (PeerId::from("a"), PeerId::from("b"));
    assert_eq!(dc_id(&a, &b), PeerId::from("ab"));
    assert_eq!(
        dc_id(&PeerId::Number(5), &PeerId::Number(7)),
        PeerId::Number(12)
    );
    assert_eq!(dc_id(&a, &PeerId::Number(7)), PeerId::from("a7"));
    assert_eq!(
        dc_id(&PeerId::Number(i64::MAX), &PeerId::Number(1)),
        PeerId::from("92233720368547758071")
    );
}
