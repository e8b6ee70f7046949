//! The session in virtual time: a base instant and offsets, no clock is read after that.

use std::ops::Range;

use super::progress::STUCK_AFTER;
use super::*;

const CONFIG: SessionConfig = SessionConfig {
    request_hold: Duration::from_millis(1600),
    packet_size: 1000,
    window: 4000,
};

const CURRENT: Option<MediaSequence> = Some(MediaSequence(40));

struct Fixture {
    session: Session,
    now: Instant,
    outstanding: usize,
    /// Bytes of packets that were sent.
    sent: u64,
}

impl Fixture {
    fn new() -> Self {
        Self {
            session: Session::new(CONFIG),
            now: Instant::now(),
            outstanding: 0,
            sent: 0,
        }
    }

    fn settle(&mut self) {
        let flight = Flight {
            delivered: self.sent - self.outstanding as u64,
            outstanding: self.outstanding,
            alone: true,
            resent: 0,
        };
        self.session.settle(self.now, flight);
    }

    fn input(&mut self, input: Input<'_>) {
        self.session.handle(self.now, input, CURRENT);
    }

    fn request(&mut self, uri: &str) {
        let text = format!(r#"{{"event":"REQUEST","url":"{uri}","sn":1}}"#);
        self.input(Input::Text(text.as_bytes()));
    }

    fn advance(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
        self.session.handle_timeout(self.now);
    }

    fn poll(&mut self) -> Option<Output> {
        let output = self.session.poll(self.outstanding, CURRENT);
        let output = output.or_else(|| self.session.next_packet(self.outstanding));
        if let Some(Output::Packet(_, range)) = &output {
            self.outstanding += range.len();
            self.sent += range.len() as u64;
        }
        output
    }

    fn drain(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.poll()).collect()
    }

    /// Polls once, expecting a question to the store; answers it.
    fn answer(&mut self, found: Found) -> RequestId {
        match self.poll() {
            Some(Output::Find { id, .. }) => {
                self.input(Input::Found(id, found));
                id
            }
            other => panic!("expected a question to the store, got {other:?}"),
        }
    }
}

fn ready(size: usize) -> Found {
    Found::Ready {
        size,
        crc32c: None,
        available: size,
        whole_at: None,
    }
}

fn lacks(outputs: &[Output]) -> Vec<&str> {
    outputs
        .iter()
        .filter_map(|output| match output {
            Output::Send(Message::Lack(request)) => Some(request.uri.as_str()),
            _ => None,
        })
        .collect()
}

fn packets(outputs: &[Output]) -> Vec<Range<usize>> {
    outputs
        .iter()
        .filter_map(|output| match output {
            Output::Packet(_, range) => Some(range.clone()),
            _ => None,
        })
        .collect()
}

#[test]
fn a_stored_segment_is_announced_and_sent_whole() {
    let mut f = Fixture::new();
    f.request("a.ts");
    let id = f.answer(ready(2500));
    let outputs = f.drain();
    let Output::Send(Message::Binary(header)) = &outputs[0] else {
        panic!("{outputs:?}");
    };
    assert_eq!((header.attachments, header.size), (3, 2500));
    assert_eq!(header.current, CURRENT);
    assert_eq!(outputs[1], Output::Answered(Answer::Hit));
    assert_eq!(packets(&outputs), [0..1000, 1000..2000, 2000..2500]);
    assert_eq!(outputs.last(), Some(&Output::Release(id)));
}

#[test]
fn packets_wait_for_the_window() {
    let mut f = Fixture::new();
    f.request("a.ts");
    f.answer(ready(10_000));
    assert_eq!(packets(&f.drain()).len(), 4);
    assert!(f.drain().is_empty());
    f.outstanding -= 1500;
    assert_eq!(packets(&f.drain()), std::slice::from_ref(&(4000..5000)));
}

#[test]
fn a_segment_on_its_way_is_held_and_then_sent() {
    let mut f = Fixture::new();
    f.request("a.ts");
    f.answer(Found::Coming);
    assert!(f.drain().is_empty());
    f.advance(1000);
    f.input(Input::StoreChanged);
    f.answer(ready(500));
    let outputs = f.drain();
    assert!(
        outputs.contains(&Output::Answered(Answer::Held)),
        "{outputs:?}"
    );
    assert_eq!(packets(&outputs), vec![0..500]);
}

#[test]
fn a_hold_that_runs_out_ends_in_one_lack() {
    let mut f = Fixture::new();
    f.request("a.ts");
    f.answer(Found::Coming);
    assert_eq!(f.session.next_timeout(), Some(f.now + CONFIG.request_hold));
    f.advance(1599);
    assert!(f.drain().is_empty());
    f.advance(1);
    let outputs = f.drain();
    assert_eq!(lacks(&outputs), ["a.ts"]);
    assert!(outputs.contains(&Output::Answered(Answer::Lack)));
    f.input(Input::StoreChanged);
    f.advance(5000);
    assert!(f.drain().is_empty());
    assert_eq!(f.session.next_timeout(), None);
}

#[test]
fn an_unknown_segment_gets_lack_at_once() {
    let mut f = Fixture::new();
    f.request("../../etc/passwd");
    f.answer(Found::Absent);
    assert_eq!(lacks(&f.drain()), ["../../etc/passwd"]);
}

#[test]
fn a_held_request_does_not_stand_in_the_way_of_a_ready_one() {
    let mut f = Fixture::new();
    f.request("next.ts");
    f.answer(Found::Coming);
    f.request("here.ts");
    f.answer(ready(100));
    assert_eq!(packets(&f.drain()), vec![0..100]);
}

#[test]
fn a_repeated_request_is_answered_once() {
    let mut f = Fixture::new();
    f.request("a.ts");
    f.answer(Found::Coming);
    f.request("a.ts");
    assert!(f.drain().is_empty());
    f.input(Input::StoreChanged);
    f.answer(ready(5000));
    assert_eq!(packets(&f.drain()).len(), 4);
    f.request("a.ts");
    assert!(f.drain().is_empty(), "it is being sent already");
}

#[test]
fn without_memory_a_request_is_tried_again_and_then_lacked() {
    let mut f = Fixture::new();
    f.request("a.ts");
    f.answer(Found::NoRoom);
    for _ in 0..10 {
        f.advance(20);
        f.answer(Found::NoRoom);
    }
    f.advance(1600);
    assert_eq!(lacks(&f.drain()), ["a.ts"]);
}

#[test]
fn more_requests_than_can_wait_are_lacked_at_once() {
    let mut f = Fixture::new();
    for n in 0..MAX_WAITING {
        f.request(&format!("{n}.ts"));
        f.answer(Found::Coming);
    }
    f.request("one-too-many.ts");
    assert_eq!(lacks(&f.drain()), ["one-too-many.ts"]);
    f.advance(1600);
    assert_eq!(lacks(&f.drain()).len(), MAX_WAITING);
}

#[test]
fn keepalive_is_acknowledged_with_what_is_newest() {
    let mut f = Fixture::new();
    f.input(Input::Text(br#"{"event":"KEEPALIVE","current":3}"#));
    assert_eq!(
        f.drain(),
        [Output::Send(Message::KeepaliveAck { current: CURRENT })]
    );
}

#[test]
fn close_and_error_end_the_session() {
    for (event, reason) in [
        ("CLOSE", CloseReason::ByPeer),
        ("ERROR", CloseReason::PeerError),
    ] {
        let mut f = Fixture::new();
        f.input(Input::Text(format!(r#"{{"event":"{event}"}}"#).as_bytes()));
        assert_eq!(f.drain(), [Output::Close(reason)]);
        f.request("a.ts");
        assert!(f.drain().is_empty());
    }
}

#[test]
fn a_bad_message_is_refused_and_the_next_request_still_served() {
    let mut f = Fixture::new();
    f.input(Input::Text(b"hello"));
    f.input(Input::Binary(1));
    assert!(matches!(
        f.drain().as_slice(),
        [Output::Refused(_), Output::Refused(_)]
    ));
    f.request("a.ts");
    f.answer(ready(10));
    assert_eq!(packets(&f.drain()).len(), 1);
}

#[test]
fn a_peer_that_is_closed_for_nonsense_hears_error_first() {
    let mut f = Fixture::new();
    for _ in 0..MAX_BAD_MESSAGES {
        f.input(Input::Binary(1));
        f.outstanding = 17;
        let outputs = f.drain();
        assert!(!outputs.contains(&Output::Close(CloseReason::BadMessages)));
    }
    f.outstanding = 0;
    assert_eq!(f.drain(), [Output::Close(CloseReason::BadMessages)]);
}

#[test]
fn who_asks_on_and_on_and_takes_no_answer_is_closed_before_much_is_held_for_it() {
    let mut f = Fixture::new();
    let mut said = 0;
    let closed = loop {
        f.input(Input::Text(br#"{"event":"KEEPALIVE"}"#));
        match f.drain().pop() {
            Some(Output::Send(message)) => {
                said += 1;
                f.outstanding += message.to_text().len();
            }
            other => break other,
        }
    };
    assert_eq!(closed, Some(Output::Close(CloseReason::Stuck)));
    assert!(f.outstanding < CONFIG.window + MAX_UNHEARD + 1000 && said > 1000);
}

#[test]
fn a_peer_that_sends_only_nonsense_is_closed() {
    let mut f = Fixture::new();
    let mut outputs = Vec::new();
    for _ in 0..MAX_BAD_MESSAGES {
        f.input(Input::Binary(1));
        outputs.extend(f.drain());
    }
    assert_eq!(
        outputs.last(),
        Some(&Output::Close(CloseReason::BadMessages))
    );
    f.input(Input::Binary(1));
    assert!(f.drain().is_empty());
}

#[test]
fn a_stop_finishes_what_is_being_sent_and_lacks_the_rest() {
    let mut f = Fixture::new();
    f.request("sending.ts");
    f.answer(ready(6000));
    assert_eq!(packets(&f.drain()).len(), 4);
    f.request("held.ts");
    f.answer(Found::Coming);
    f.input(Input::Stop);
    f.request("late.ts");
    assert_eq!(lacks(&f.drain()), ["held.ts", "late.ts"]);
    assert!(f.session.is_sending());
    f.outstanding = 0;
    assert_eq!(packets(&f.drain()).len(), 2);
    assert!(!f.session.is_sending());
    f.outstanding = 0;
    assert_eq!(f.drain(), [Output::Close(CloseReason::Stopped)]);
}

#[test]
fn a_peer_that_acknowledges_nothing_is_given_up() {
    let mut f = Fixture::new();
    f.request("a.ts");
    f.answer(ready(3000));
    f.drain();
    f.settle();
    let given_up = f.now + STUCK_AFTER;
    assert_eq!(f.session.next_timeout(), Some(given_up));
    f.advance(STUCK_AFTER.as_millis() as u64 - 1);
    assert!(f.drain().is_empty());
    f.advance(1);
    assert_eq!(f.drain(), [Output::Close(CloseReason::Stuck)]);
}

#[test]
fn a_peer_that_acknowledges_a_little_now_and_then_is_not_given_up() {
    let mut f = Fixture::new();
    f.request("a.ts");
    f.answer(ready(3000));
    f.drain();
    while f.outstanding > 0 {
        f.settle();
        f.advance(900);
        f.outstanding -= 100;
        assert!(f.drain().is_empty());
    }
    f.settle();
    assert_eq!(f.session.next_timeout(), None);
}

/// A segment of 3000 bytes of which this many are here; whole after so many milliseconds more.
fn growing(f: &Fixture, available: usize, whole_in: u64) -> Found {
    Found::Ready {
        size: 3000,
        crc32c: None,
        available,
        whole_at: Some(f.now + Duration::from_millis(whole_in)),
    }
}

#[test]
fn what_is_here_is_sent_while_the_rest_is_on_its_way() {
    let mut f = Fixture::new();
    f.request("a.ts");
    let found = growing(&f, 1500, 500);
    let id = f.answer(found);
    assert_eq!(packets(&f.drain()), std::slice::from_ref(&(0..1000)));
    f.input(Input::Grown(id, 2000));
    assert_eq!(packets(&f.drain()), std::slice::from_ref(&(1000..2000)));
    f.input(Input::Grown(id, 2999));
    assert_eq!(f.drain(), []);
    f.input(Input::Grown(id, 3000));
    let outputs = f.drain();
    assert_eq!(packets(&outputs), std::slice::from_ref(&(2000..3000)));
    assert_eq!(outputs.last(), Some(&Output::Release(id)));
}

#[test]
fn what_grows_too_slowly_is_held_until_it_is_fast_enough() {
    let mut f = Fixture::new();
    f.request("a.ts");
    let found = growing(&f, 100, 5000);
    let id = f.answer(found);
    assert_eq!(f.drain(), [Output::Release(id)]);
    f.advance(100);
    let found = growing(&f, 1000, 1000);
    f.answer(found);
    assert_eq!(packets(&f.drain()), std::slice::from_ref(&(0..1000)));
}

#[test]
fn what_grows_too_slowly_gets_lack_at_the_end_of_the_hold() {
    let mut f = Fixture::new();
    f.request("a.ts");
    let mut sent = Vec::new();
    for _ in 0..16 {
        let found = growing(&f, 100, 5000);
        f.answer(found);
        sent.extend(f.drain());
        assert!(lacks(&sent).is_empty());
        f.advance(100);
    }
    sent.extend(f.drain());
    assert_eq!(lacks(&sent), ["a.ts"]);
}

#[test]
fn a_segment_whose_rest_does_not_come_in_time_ends_the_channel() {
    let mut f = Fixture::new();
    f.request("a.ts");
    let found = growing(&f, 1500, 500);
    f.answer(found);
    f.drain();
    f.advance(4999);
    assert_eq!(f.drain(), []);
    let in_a_moment = f.now + Duration::from_millis(1);
    assert_eq!(f.session.next_timeout(), Some(in_a_moment));
    f.advance(1);
    assert_eq!(f.drain(), [Output::Close(CloseReason::Broken)]);
}

#[test]
fn a_segment_that_breaks_off_while_it_is_sent_ends_the_channel() {
    let mut f = Fixture::new();
    f.request("a.ts");
    let found = growing(&f, 1500, 500);
    let id = f.answer(found);
    f.drain();
    f.input(Input::Broken(id));
    assert_eq!(f.drain(), [Output::Close(CloseReason::Broken)]);
}

#[test]
fn what_is_still_arriving_waits_until_nothing_else_is_being_sent() {
    let mut f = Fixture::new();
    f.request("a.ts");
    f.answer(ready(9000));
    f.drain();
    f.request("b.ts");
    let found = growing(&f, 1500, 500);
    let id = f.answer(found);
    assert_eq!(f.drain(), [Output::Release(id)]);
    f.outstanding = 0;
    f.drain();
    f.outstanding = 0;
    f.drain();
    f.outstanding = 0;
    f.drain();
    f.advance(100);
    let found = growing(&f, 2500, 500);
    f.answer(found);
    assert_eq!(packets(&f.drain()), [0..1000, 1000..2000]);
}

#[test]
fn a_viewer_that_takes_a_segment_in_drop_by_drop_is_closed() {
    let mut f = Fixture::new();
    f.request("a.ts");
    f.answer(ready(1_000_000));
    let mut sent = f.drain();
    for _ in 0..6 {
        // Something is acknowledged every five seconds.
        f.settle();
        f.outstanding -= 1000;
        f.settle();
        assert!(!sent.contains(&Output::Close(CloseReason::Stuck)));
        f.advance(5000);
        sent = f.drain();
    }
    assert_eq!(sent.last(), Some(&Output::Close(CloseReason::Stuck)));
}
