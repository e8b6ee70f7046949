//! Playlists that are too much, stand still or go backwards, and names that mean something else now.

use std::time::Duration;

use bytes::Bytes;

use crate::http::{Answer, Then, gzip};
use crate::origin::{Origin, in_playlists, in_segments};
use crate::ward::{Case, Patient, Viewers, Ward};

/// A playlist of so many bytes.
fn list(size: usize) -> Bytes {
    let line = "#EXTINF:1.0,\nseg_1.ts\n";
    let text = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n".to_owned();
    (text + &line.repeat(size / line.len())).into()
}

#[tokio::test]
async fn playlists_that_are_too_large_stand_still_or_are_old_copies() {
    let kind = "application/vnd.apple.mpegurl";
    let (large, some, bomb) = (list(10_000_000), list(100_000), gzip(&list(50_000_000)));
    let huge = in_playlists(move |_, answer| *answer = Answer::ok(kind, large.clone()));
    let endless = in_playlists(move |_, answer| {
        *answer = Answer::ok(kind, some.clone());
        answer.length = None;
        answer.then = Then::Repeat;
    });
    let bomb = in_playlists(move |_, answer| {
        *answer = Answer::ok(kind, bomb.clone());
        answer.more = "Content-Encoding: gzip\r\n".into();
    });
    let reset = in_playlists(|_, answer| answer.half(Then::Reset));
    let silent = in_playlists(|_, answer| answer.wait = Duration::MAX);
    let old_copies = in_playlists(|asked, answer| {
        if asked.times.is_multiple_of(2) {
            let newest = asked.live.newest().sequence;
            *answer = Answer::ok("audio/mpegurl", asked.live.playlist(newest - 2).into());
        }
    });
    // The first half of each segment is of one version, all that is asked for later of another.
    let changed = in_segments(|asked, answer| match asked.times {
        1 => answer.half(Then::Reset),
        _ => {
            *answer = Answer::ok("video/mp2t", asked.live.changed().bytes(asked.number()));
            answer.more = "ETag: \"changed\"\r\n".into();
        }
    });
    let cases = [
        Case::new("huge", Viewers::AreRefused, huge),
        Case::new("endless", Viewers::AreRefused, endless),
        Case::new("bomb", Viewers::AreRefused, bomb),
        Case::new("reset-playlist", Viewers::AreRefused, reset),
        Case::new("silent", Viewers::AreRefused, silent),
        Case::new("old-copies", Viewers::AreServed, old_copies),
        Case::new("changed", Viewers::AreServed, changed).right_is(|live, segment, bytes| {
            let versions = [*live, live.changed()];
            versions
                .iter()
                .any(|live| live.bytes(segment.sequence) == *bytes)
        }),
    ];
    Ward::treat(cases).await;
}

#[tokio::test]
async fn an_encoder_that_starts_anew_or_uses_names_again() {
    let patient = async |channel: &str| {
        let origin = Origin::start().await;
        let url = origin.url();
        Patient::new(channel, origin, url)
    };
    let patients = [patient("restarted").await, patient("reused-names").await];
    let [restarted, reused] = &patients;
    reused.origin.reuse_names_after(5);
    let ward = Ward::open(&patients).await;

    // Numbers go back by some, and the same names are of other bytes now. What a viewer asks for
    // before the box has loaded the new playlist is taken for the old.
    restarted.origin.right_is(|live, segment, bytes| {
        (0..=1).any(|version| live.of(version).bytes(segment.sequence) == *bytes)
    });
    restarted.origin.restart_at(101);
    restarted.is_told_in_the_log(&ward).await;
    restarted.sees(restarted.seen() + 1).await;
    restarted
        .origin
        .right_is(|live, segment, bytes| live.bytes(segment.sequence) == *bytes);
    restarted.gets(Viewers::AreServed).await;
    reused.gets(Viewers::AreServed).await;
    ward.close(&patients).await;
}
