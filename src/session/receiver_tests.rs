//! Asking a sibling, in virtual time.

use super::*;
use crate::wire::Request;

const CONFIG: SessionConfig = SessionConfig {
    request_hold: Duration::from_millis(900),
    packet_size: 1000,
    window: 4000,
};

const WITHIN: Duration = Duration::from_secs(1);

struct Fixture {
    session: Session,
    now: Instant,
}

impl Fixture {
    fn new() -> Self {
        Self {
            session: Session::with_sibling(CONFIG, WITHIN),
            now: Instant::now(),
        }
    }

    fn input(&mut self, input: Input<'_>) -> Vec<Output> {
        self.session.handle(self.now, input, None);
        self.outputs()
    }

    fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.session.poll(0, None)).collect()
    }

    fn ask(&mut self, number: u64) -> AskId {
        let id = AskId(number);
        let outputs = self.input(Input::Ask(id, request(number)));
        assert_eq!(outputs, [Output::Send(Message::Request(request(number)))]);
        id
    }

    fn announce(&mut self, number: u64, attachments: usize, size: usize) -> Vec<Output> {
        let text = format!(
            r#"{{"event":"BINARY","attachments":{attachments},"url":"{number}.ts","sn":{number},"size":{size}}}"#
        );
        self.input(Input::Text(text.as_bytes()))
    }

    fn lack(&mut self, number: u64) -> Vec<Output> {
        let text = format!(r#"{{"event":"LACK","url":"{number}.ts","sn":{number}}}"#);
        self.input(Input::Text(text.as_bytes()))
    }

    fn packet(&mut self, bytes: usize) -> Vec<Output> {
        self.input(Input::Binary(bytes))
    }

    fn advance(&mut self, by: Duration) -> Vec<Output> {
        self.now += by;
        self.session.handle_timeout(self.now);
        self.outputs()
    }
}

fn request(number: u64) -> Request {
    Request {
        uri: format!("{number}.ts").into(),
        sequence: Some(MediaSequence(number)),
        claim: None,
    }
}

fn lied(ids: &[AskId]) -> Vec<Output> {
    let lost = ids.iter().map(|id| Output::Lost(*id, Lost::Lied));
    lost.chain([Output::Close(CloseReason::Lied)]).collect()
}

#[test]
fn a_segment_arrives_packet_by_packet() {
    let mut f = Fixture::new();
    let id = f.ask(7);
    let announced = Output::Announced {
        id,
        size: 1500,
        crc32c: None,
    };
    assert_eq!(f.announce(7, 2, 1500), [announced]);
    assert_eq!(f.packet(1000), [Output::Arrived { id, last: false }]);
    assert_eq!(f.packet(500), [Output::Arrived { id, last: true }]);
    assert_eq!(f.session.next_timeout(), None);
}

#[test]
fn answers_may_come_in_any_order() {
    let mut f = Fixture::new();
    let (first, second) = (f.ask(1), f.ask(2));
    f.announce(2, 1, 10);
    assert_eq!(
        f.packet(10),
        [Output::Arrived {
            id: second,
            last: true
        }]
    );
    assert_eq!(f.lack(1), [Output::Lost(first, Lost::Lack)]);
}

#[test]
fn no_more_than_four_are_asked_for_at_a_time() {
    let mut f = Fixture::new();
    for number in 0..4 {
        f.ask(number);
    }
    assert_eq!(
        f.input(Input::Ask(AskId(4), request(4))),
        [Output::Lost(AskId(4), Lost::Busy)]
    );
}

#[test]
fn a_silent_sibling_is_late_after_a_second() {
    let mut f = Fixture::new();
    let id = f.ask(1);
    assert_eq!(f.session.next_timeout(), Some(f.now + WITHIN));
    assert_eq!(f.advance(WITHIN - Duration::from_millis(1)), []);
    assert_eq!(
        f.advance(Duration::from_millis(1)),
        [Output::Lost(id, Lost::Late)]
    );
    assert_eq!(f.lack(1), [], "too late to mean anything");
}

#[test]
fn one_that_stops_half_way_is_late_and_its_rest_goes_by() {
    let mut f = Fixture::new();
    let id = f.ask(1);
    f.announce(1, 2, 1500);
    f.packet(1000);
    assert_eq!(f.advance(WITHIN), [Output::Lost(id, Lost::Late)]);
    assert_eq!(f.packet(500), []);
    let next = f.ask(2);
    f.announce(2, 1, 10);
    assert_eq!(
        f.packet(10),
        [Output::Arrived {
            id: next,
            last: true
        }]
    );
}

#[test]
fn what_was_given_up_may_still_come_and_goes_by() {
    let mut f = Fixture::new();
    f.ask(1);
    f.advance(WITHIN);
    assert_eq!(f.announce(1, 1, 10), []);
    assert_eq!(f.packet(10), []);
}

#[test]
fn too_few_bytes_are_a_lie() {
    let mut f = Fixture::new();
    let id = f.ask(1);
    f.announce(1, 2, 1500);
    f.packet(1000);
    assert_eq!(f.packet(499), lied(&[id]));
}

#[test]
fn too_many_bytes_are_a_lie() {
    let mut f = Fixture::new();
    let (id, waiting) = (f.ask(1), f.ask(2));
    f.announce(1, 2, 1500);
    assert_eq!(f.packet(1501), lied(&[id, waiting]));
}

#[test]
fn too_few_packets_are_a_lie_as_soon_as_something_else_comes() {
    let mut f = Fixture::new();
    let (first, second) = (f.ask(1), f.ask(2));
    f.announce(1, 2, 1500);
    f.packet(1000);
    assert_eq!(f.announce(2, 1, 10), lied(&[first, second]));
}

#[test]
fn a_packet_that_nothing_announced_is_a_lie() {
    let mut f = Fixture::new();
    let id = f.ask(1);
    assert_eq!(f.packet(10), lied(&[id]));
}

#[test]
fn what_cannot_be_a_segment_is_a_lie() {
    for (attachments, size) in [(0, 10), (1, 0), (11, 10), (1, usize::MAX)] {
        let mut f = Fixture::new();
        let id = f.ask(1);
        assert_eq!(f.announce(1, attachments, size), lied(&[id]));
    }
}

#[test]
fn a_sibling_is_served_on_the_channel_on_which_it_is_asked() {
    let mut f = Fixture::new();
    f.ask(1);
    let outputs = f.input(Input::Text(br#"{"event":"REQUEST","url":"9.ts","sn":9}"#));
    assert!(matches!(outputs[..], [Output::Find { .. }]), "{outputs:?}");
}

#[test]
fn nothing_is_asked_any_more_once_the_box_stops() {
    let mut f = Fixture::new();
    f.session.handle(f.now, Input::Stop, None);
    f.session
        .handle(f.now, Input::Ask(AskId(1), request(1)), None);
    assert_eq!(
        f.session.poll(1, None),
        Some(Output::Lost(AskId(1), Lost::Busy))
    );
}

#[test]
fn a_viewer_that_announces_segments_is_ignored() {
    let mut session = Session::new(CONFIG);
    let text = br#"{"event":"BINARY","attachments":1,"url":"1.ts","sn":1,"size":10}"#;
    session.handle(Instant::now(), Input::Text(text), None);
    assert_eq!(session.poll(0, None), None);
}

#[test]
fn what_was_given_up_is_not_asked_again_before_its_answer_has_come() {
    let mut f = Fixture::new();
    f.ask(1);
    f.advance(WITHIN);
    let again = f.input(Input::Ask(AskId(2), request(1)));
    assert_eq!(again, [Output::Lost(AskId(2), Lost::Busy)]);
    f.announce(1, 1, 10);
    f.packet(10);
    f.input(Input::Ask(AskId(3), request(1)));
    let announced = f.announce(1, 1, 10);
    assert!(matches!(
        announced[..],
        [Output::Announced { id: AskId(3), .. }]
    ));
}

#[test]
fn what_is_asked_of_a_peer_that_is_being_closed_ends_at_once() {
    let mut f = Fixture::new();
    let id = f.ask(1);
    let mut outputs = Vec::new();
    for _ in 0..MAX_BAD_MESSAGES {
        outputs.extend(f.input(Input::Text(b"nonsense")));
    }
    assert!(outputs.contains(&Output::Lost(id, Lost::Busy)));
    f.session
        .handle(f.now, Input::Ask(AskId(2), request(2)), None);
    let lost = Output::Lost(AskId(2), Lost::Busy);
    assert_eq!(f.session.poll(1, None), Some(lost));
}
