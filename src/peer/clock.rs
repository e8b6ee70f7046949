//! The time that the WebRTC stack is told.

use std::time::{Duration, Instant};

/// How many times faster the stack's clock runs than the wall's.
///
/// Its SCTP waits at least a second for an acknowledgement before it sends again (`RTO_MIN` of
/// `rtc-sctp`, after RFC 9260 section 16), half of a viewer's patience, and offers no way to change
/// that. But time is an argument of it: by a clock four times as fast that second is 250 ms. That is
/// more than the 200 ms by which a receiver may delay an acknowledgement (RFC 9260 section 6.2, and
/// what browsers do), so that a tail that is whole is not sent twice; on slower paths the stack's own
/// measurements make the timeout longer, for they are taken by the same clock.
const RATE: u32 = 4;

/// Converts between the wall's time and the stack's. The stack's timeouts are set in its own time
/// ([`StackClock::lasting`]).
#[derive(Clone, Copy, Debug)]
pub(super) struct StackClock {
    origin: Instant,
}

impl StackClock {
    /// Both clocks show the same at `origin`.
    pub(super) fn new(origin: Instant) -> Self {
        Self { origin }
    }

    /// What the stack's clock shows at this time.
    pub(super) fn at(self, now: Instant) -> Instant {
        self.origin + now.saturating_duration_since(self.origin) * RATE
    }

    /// When the stack's clock will show this; rounded up, so that a timer is never asked too early.
    pub(super) fn when(self, shown: Instant) -> Instant {
        let since = shown.saturating_duration_since(self.origin);
        self.origin + since / RATE + Duration::from_nanos(1)
    }

    /// What the stack has to be told for a timeout to last this long.
    pub(super) fn lasting(time: Duration) -> Duration {
        time * RATE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_retransmission_timeout_is_a_quarter_of_a_second() {
        let start = Instant::now();
        let clock = StackClock::new(start);
        let sent = start + Duration::from_millis(700);
        let due = clock.when(clock.at(sent) + Duration::from_secs(1));
        assert_eq!((due - sent).as_millis(), 250);
    }

    #[test]
    fn a_timer_is_due_when_it_is_said_to_be() {
        let start = Instant::now();
        let clock = StackClock::new(start);
        for nanos in [0, 1, 2, 3, 4, 5, 1_000_001] {
            let shown = start + Duration::from_nanos(nanos);
            assert!(clock.at(clock.when(shown)) >= shown);
        }
    }
}
