//! How many bytes may be on their way to one peer: as many as its pipe holds, and as many more as its
//! receive buffer takes when it does not come to read.
//!
//! What the buffer takes is learned: a little more after each segment of which nothing had to be sent
//! again, less after a loss, and for some time not that much again. It begins with what browsers take.
//!
//! The pipe holds what is delivered in one round trip. The round trip is measured where nothing
//! queues: from the first bytes of a segment until the first acknowledgement, and only while nobody
//! else is being sent anything: else the queue of all would be taken for a longer pipe, and make the
//! queue longer still. The rate is the highest of the last moments.
//!
//! So a peer nearby has a small window, which costs little memory and overruns nothing, one behind a
//! slow radio a larger one, and nothing has to be set. What the network itself bears is the business of
//! the stack's SCTP, which halves its own window at each loss.

use std::time::{Duration, Instant};

use heapless::HistoryBuf;

use super::Flight;

/// Bytes that wait at a peer that is busy, as long as nothing is known of it, and at the least.
/// Chromium's UDP sockets ask for a receive buffer of 64 KiB (`kUdpRecvSocketBufferSize`), which Linux
/// doubles and then fills with 2304 bytes for each datagram: 56 of them, and this is 52 of the longest.
const LEAST: usize = 68 * 1024;

/// The same at the most: 86 datagrams. Linux's default buffer takes 92, and more waiting makes nothing
/// faster.
const MOST: usize = 112 * 1024;

/// By how much the allowance grows: three datagrams, of which the stack sends those that are too many
/// again within a round trip or two.
const STEP: usize = 4 * 1024;

/// Bytes sent again that are a loss: a part of a datagram. How many there were is known about only.
const A_LOSS: u64 = 200;

/// After how many segments without a loss more is tried again than was too much: some minutes, for a
/// buffer does not change, but the reader of it may have been busy.
const FORGOTTEN_AFTER: u32 = 256;

/// Rates that are remembered: enough to bridge the slow start of a segment.
const RATES: usize = 8;

/// Round trips that are remembered, one for each segment at most: the least of them had no queue in
/// its way.
const ROUND_TRIPS: usize = 32;

/// Round trips that the allowance bridges by itself: 35 MB/s. Neighbours in a LAN all get the same.
const NEAR: Duration = Duration::from_millis(2);

/// Over how long a rate is measured: several round trips of a LAN, and a fraction of what a segment
/// takes where it matters.
const INTERVAL: Duration = Duration::from_millis(20);

/// Bytes below which nothing is learned: short messages are acknowledged late, for the receiver waits
/// for another one first (RFC 9260 section 6.2).
const TELLING: u64 = 1000;

/// The window of one peer.
#[derive(Debug)]
pub(super) struct Window {
    /// Bytes at most.
    limit: usize,
    bytes: usize,
    allowance: usize,
    /// The allowance with which something was lost, and for how many segments nothing was since.
    too_much: Option<(usize, u32)>,
    /// What had been sent again when it was last looked at; `None` before the first segment.
    resent: Option<u64>,
    /// Bytes of the segment of which everything has been handed over, until that is looked at.
    segment: Option<usize>,
    round_trips: HistoryBuf<Duration, ROUND_TRIPS>,
    /// Bytes per second.
    rates: HistoryBuf<u64, RATES>,
    busy: Option<Busy>,
}

/// Something is on its way all the time.
#[derive(Clone, Copy, Debug)]
struct Busy {
    /// Since when, or since a rate was measured last.
    since: Instant,
    /// What had been delivered then.
    delivered: u64,
    /// Whether nothing has been acknowledged since it began, and nothing sent to anybody else.
    round_trip: RoundTrip,
}

/// Whether a round trip is being measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RoundTrip {
    /// It is, undisturbed.
    Measured,
    /// Others are in its way.
    Disturbed,
    /// It is over.
    Over,
}

impl Window {
    /// The window of a peer of which nothing is known; never more than `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            bytes: LEAST.min(limit),
            allowance: LEAST,
            too_much: None,
            resent: None,
            segment: None,
            round_trips: HistoryBuf::new(),
            rates: HistoryBuf::new(),
            busy: None,
        }
    }

    /// Bytes that may be on their way.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether `more` bytes may be sent. One message may always be, whatever its size.
    pub(super) fn allows(&self, outstanding: usize, more: usize) -> bool {
        outstanding == 0 || outstanding + more <= self.bytes
    }

    /// Takes how far what was sent has come.
    pub(super) fn settle(&mut self, now: Instant, flight: Flight) {
        let Flight {
            delivered,
            outstanding,
            alone,
            resent,
        } = flight;
        if let Some(bytes) = self.segment.take() {
            // What had room from the beginning shows nothing.
            self.learn(bytes > 2 * self.bytes, resent);
            // Not while a segment is being sent: there may be no memory for more.
            self.bytes = self.allowance.saturating_add(self.pipe()).min(self.limit);
        }
        let undisturbed = match alone {
            true => RoundTrip::Measured,
            false => RoundTrip::Disturbed,
        };
        let Some(busy) = &mut self.busy else {
            self.busy = (outstanding > 0).then_some(Busy {
                since: now,
                delivered,
                round_trip: undisturbed,
            });
            return;
        };
        if busy.round_trip == RoundTrip::Measured {
            busy.round_trip = undisturbed;
        }
        let took = now.saturating_duration_since(busy.since);
        let news = delivered - busy.delivered;
        if news == 0 {
            return;
        }
        let round_trip = std::mem::replace(&mut busy.round_trip, RoundTrip::Over);
        if round_trip == RoundTrip::Measured && news >= TELLING {
            self.round_trips.write(took);
        }
        let is_over = outstanding == 0;
        if took >= INTERVAL || is_over {
            if news >= TELLING {
                let rate = u128::from(news) * 1_000_000 / took.as_micros().max(1);
                self.rates.write(u64::try_from(rate).unwrap_or(u64::MAX));
            }
            busy.since = now;
            busy.delivered = delivered;
        }
        if is_over {
            self.busy = None;
        }
    }

    /// Takes that all of a segment of so many bytes has been handed over.
    pub(super) fn has_sent(&mut self, bytes: usize) {
        self.segment = Some(bytes);
    }

    /// Learns from a segment what the peer's receive buffer takes.
    fn learn(&mut self, filled: bool, resent: u64) {
        let Some(before) = self.resent.replace(resent) else {
            return;
        };
        if resent >= before + A_LOSS {
            self.too_much = Some((self.allowance, 0));
            self.allowance = (self.allowance * 3 / 4).max(LEAST);
        } else if filled {
            let most = match &mut self.too_much {
                None => MOST,
                Some((too_much, calm)) if *calm < FORGOTTEN_AFTER => {
                    *calm += 1;
                    too_much.saturating_sub(STEP)
                }
                Some(_) => {
                    self.too_much = None;
                    MOST
                }
            };
            let more = (self.allowance + STEP).min(most);
            self.allowance = self.allowance.max(more);
        }
    }

    /// Bytes that are delivered in the part of a round trip that the allowance does not bridge.
    fn pipe(&self) -> usize {
        let round_trip = self.round_trips.as_slice().iter().min();
        let rate = self.rates.as_slice().iter().max();
        let (Some(round_trip), Some(rate)) = (round_trip, rate) else {
            return 0;
        };
        let far = round_trip.saturating_sub(NEAR);
        let bytes = u128::from(*rate) * far.as_micros() / 1_000_000;
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flight(delivered: usize, outstanding: usize, alone: bool) -> Flight {
        Flight {
            delivered: delivered as u64,
            outstanding,
            alone,
            resent: 0,
        }
    }

    /// A path that delivers so many bytes a second, each a while after it was sent, and a segment that
    /// is sent over it in messages of 60 KiB.
    fn send(
        window: &mut Window,
        alone: bool,
        rate: u64,
        round_trip: Duration,
        segment: usize,
        at: &mut Instant,
    ) {
        let (message, mut sent, mut delivered) = (60 * 1024, 0, 0);
        let mut arrivals = std::collections::VecDeque::new();
        let mut free_at = *at;
        while delivered < segment {
            while sent < segment && window.allows(sent - delivered, message.min(segment - sent)) {
                for _ in 0..message.min(segment - sent).div_ceil(1300) {
                    let bytes = 1300.min(segment - sent);
                    sent += bytes;
                    free_at = free_at.max(*at)
                        + Duration::from_nanos(bytes as u64 * 1_000_000_000 / rate);
                    arrivals.push_back((free_at + round_trip, bytes));
                }
            }
            window.settle(*at, flight(delivered, sent - delivered, alone));
            let (when, bytes) = arrivals.pop_front().unwrap();
            *at = when;
            delivered += bytes;
        }
        window.settle(*at, flight(delivered, 0, alone));
        window.has_sent(segment);
        window.settle(*at, flight(delivered, 0, alone));
    }

    /// What is beyond the allowance after some segments.
    fn pipe_after_segments(rate: u64, round_trip: u64, alone: bool) -> usize {
        let mut window = Window::new(256 << 10);
        let mut now = Instant::now();
        for _ in 0..5 {
            let round_trip = Duration::from_micros(round_trip);
            send(&mut window, alone, rate, round_trip, 2_400_000, &mut now);
            now += Duration::from_secs(1);
        }
        window.bytes() - window.allowance
    }

    #[test]
    fn a_peer_nearby_keeps_the_allowance_however_fast_it_is() {
        assert_eq!(pipe_after_segments(100_000_000, 300, true), 0);
    }

    #[test]
    fn a_peer_far_away_gets_what_its_pipe_holds_and_the_allowance() {
        let (pipe, bytes) = (
            5_000_000 / 1000 * 18,
            pipe_after_segments(5_000_000, 20_000, true),
        );
        assert!((pipe..pipe * 13 / 10).contains(&bytes), "{bytes}");
    }

    #[test]
    fn a_peer_behind_a_slow_link_gets_little_more_than_the_allowance() {
        let bytes = pipe_after_segments(300_000, 20_000, true);
        assert!(bytes < 10_000, "{bytes}");
    }

    #[test]
    fn the_queue_of_others_is_not_taken_for_a_longer_pipe() {
        assert_eq!(pipe_after_segments(5_000_000, 20_000, false), 0);
    }

    /// A segment of which so many bytes were sent again.
    fn segment(window: &mut Window, bytes: usize, resent: u64) -> usize {
        window.has_sent(bytes);
        let resent = window.resent.unwrap_or(288) + resent;
        let flight = Flight {
            resent,
            ..Flight::default()
        };
        window.settle(Instant::now(), flight);
        window.allowance
    }

    #[test]
    fn the_allowance_grows_while_nothing_is_lost() {
        let mut window = Window::new(256 << 10);
        // The first shows how many are counted without a loss.
        assert_eq!(segment(&mut window, 1_000_000, 0), LEAST);
        assert_eq!(segment(&mut window, 1_000_000, 0), LEAST + STEP);
        assert_eq!(segment(&mut window, 1_000_000, 0), LEAST + 2 * STEP);
        for _ in 0..100 {
            segment(&mut window, 1_000_000, 0);
        }
        assert_eq!(window.allowance, MOST);
    }

    #[test]
    fn a_segment_that_had_room_from_the_beginning_shows_nothing() {
        let mut window = Window::new(256 << 10);
        for _ in 0..3 {
            assert_eq!(segment(&mut window, 100_000, 0), LEAST);
        }
    }

    #[test]
    fn what_was_too_much_is_not_tried_again_for_long() {
        let mut window = Window::new(256 << 10);
        for _ in 0..3 {
            segment(&mut window, 1_000_000, 0);
        }
        assert_eq!(segment(&mut window, 1_000_000, 1324), LEAST);
        for _ in 0..FORGOTTEN_AFTER {
            assert!(segment(&mut window, 1_000_000, 0) <= LEAST + STEP);
        }
        segment(&mut window, 1_000_000, 0);
        assert_eq!(segment(&mut window, 1_000_000, 0), LEAST + 3 * STEP);
    }

    #[test]
    fn the_window_has_a_limit() {
        let mut window = Window::new(100_000);
        for _ in 0..10 {
            segment(&mut window, 1_000_000, 0);
            assert!(window.bytes() <= 100_000);
        }
        assert_eq!(Window::new(10_000).bytes(), 10_000);
    }

    #[test]
    fn one_message_may_always_be_sent() {
        let window = Window::new(10_000);
        assert!(window.allows(0, 60_000));
        assert!(!window.allows(1, 60_000));
        assert!(window.allows(5_000, 5_000));
    }

    #[test]
    fn short_messages_that_are_acknowledged_late_teach_nothing() {
        let mut window = Window::new(256 << 10);
        let mut now = Instant::now();
        for sent in 1..10 {
            window.settle(now, flight(60 * (sent - 1), 60, true));
            now += Duration::from_millis(200);
            window.settle(now, flight(60 * sent, 0, true));
        }
        assert_eq!(window.bytes(), LEAST);
    }
}
