//! Segments that are slow, stand still, break off or are not what their head says.

use std::time::Duration;

use crate::http::Then;
use crate::origin::{SIZE, in_segments};
use crate::ward::{Case, Viewers, Ward};

#[tokio::test]
async fn segments_that_are_slow_stand_still_break_off_or_lie_about_their_length() {
    let slow = in_segments(|_, answer| answer.pace = Some(SIZE / 3));
    let trickle = in_segments(|_, answer| answer.pace = Some(200));
    let hesitant = in_segments(|_, answer| answer.wait = Duration::from_millis(700));
    let stalled = in_segments(|_, answer| answer.half(Then::Stall));
    let stalled_once = in_segments(|asked, answer| {
        if asked.times == 1 && asked.number() % 3 == 0 {
            answer.half(Then::Stall);
        }
    });
    let reset = in_segments(|_, answer| answer.half(Then::Reset));
    let reset_once = in_segments(|asked, answer| {
        if asked.times == 1 {
            answer.half(Then::Reset);
        }
    });
    let too_short = in_segments(|_, answer| {
        answer.length = Some(SIZE + 1000);
        answer.then = Then::Close;
    });
    let too_long = in_segments(|_, answer| answer.length = Some(SIZE - 1000));
    let endless = in_segments(|_, answer| {
        answer.length = None;
        answer.body = vec![0x47; 1_000_000].into();
        answer.then = Then::Repeat;
        // As fast as it comes would keep this machine from all else.
        answer.pace = Some(20_000_000);
    });
    let cases = [
        Case::new("slow", Viewers::AreRefused, slow),
        Case::new("trickle", Viewers::AreRefused, trickle),
        Case::new("hesitant", Viewers::AreServed, hesitant),
        Case::new("stalled", Viewers::AreRefused, stalled),
        Case::new("stalled-once", Viewers::AreServed, stalled_once),
        Case::new("reset", Viewers::AreRefused, reset),
        Case::new("reset-once", Viewers::AreServed, reset_once),
        Case::new("too-short", Viewers::AreRefused, too_short),
        // By HTTP, the length says where the body ends, for the box as for any player.
        Case::new("too-long", Viewers::AreServed, too_long).right_is(|live, segment, bytes| {
            let whole = live.bytes(segment.sequence);
            *bytes == whole || *bytes == whole[..SIZE - 1000]
        }),
        Case::new("endless-segment", Viewers::AreRefused, endless),
    ];
    Ward::treat(cases).await;
}
