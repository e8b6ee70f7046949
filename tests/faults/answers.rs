//! Answers that are none: sign-in pages, errors, redirects without end.

use std::time::Duration;

use crate::http::{Answer, Then, gzip};
use crate::origin::{in_everything, in_playlists, in_segments};
use crate::ward::{Case, Viewers, Ward};

#[tokio::test]
async fn pages_errors_and_redirects_in_place_of_what_was_asked_for() {
    let portal = in_everything(|_, answer| *answer = Answer::sign_in("text/html; charset=utf-8"));
    let loud = in_segments(|_, answer| *answer = Answer::sign_in("TEXT/HTML"));
    let disguised = in_segments(|_, answer| *answer = Answer::sign_in("video/mp2t"));
    let json = in_segments(|_, answer| {
        *answer = Answer::ok("application/json", r#"{"error":"no such stream"}"#.into());
    });
    let compressed = in_segments(|asked, answer| {
        answer.body = gzip(&answer.body);
        answer.length = Some(answer.body.len());
        answer.more += "Content-Encoding: gzip\r\n";
        if asked.times == 1 {
            answer.half(Then::Reset);
        }
    });
    let early = in_segments(|asked, answer| {
        if asked.live.listed_for(asked.number()) < Duration::from_millis(500) {
            *answer = Answer::error("404 Not Found");
        }
    });
    let missing = in_segments(|_, answer| *answer = Answer::error("404 Not Found"));
    let storm = in_everything(|_, answer| {
        *answer = Answer::error("503 Service Unavailable");
        answer.more = "Retry-After: 5\r\n".into();
    });
    let segments = in_segments(|_, answer| *answer = Answer::error("500 Internal Server Error"));
    let now_and_then = in_playlists(|asked, answer| {
        if asked.times.is_multiple_of(2) {
            *answer = Answer::error("500 Internal Server Error");
        }
    });
    let redirects = in_everything(|_, answer| {
        *answer = Answer::error("302 Found");
        answer.more = "Location: index.m3u8\r\n".into();
    });
    let cases = [
        Case::new("portal", Viewers::AreRefused, portal),
        Case::new("portal-of-segments", Viewers::AreRefused, loud),
        Case::new("portal-in-disguise", Viewers::AreRefused, disguised),
        Case::new("json", Viewers::AreRefused, json),
        Case::new("compressed", Viewers::AreServed, compressed),
        Case::new("early", Viewers::AreServed, early),
        Case::new("missing", Viewers::AreRefused, missing),
        Case::new("storm", Viewers::AreRefused, storm),
        Case::new("storm-of-segments", Viewers::AreRefused, segments),
        Case::new("now-and-then", Viewers::AreServed, now_and_then),
        Case::new("redirects", Viewers::AreRefused, redirects),
    ];
    Ward::treat(cases).await;
}
