//! When to try a server again: exponential back-off with full jitter, so that the boxes and pages
//! that lost a server together do not come back together (field.md item 5).

use std::time::Duration;

/// The first wait is at most this: a server that was only restarted is back within seconds.
const FIRST: Duration = Duration::from_secs(1);

/// No wait is longer: a viewer that finds no parent pays with WAN traffic.
const CAP: Duration = Duration::from_secs(30);

/// How often in a row it went wrong.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// How long to wait after one more failure. `random` is uniform in 0..1; the wait is uniform
    /// between nothing and a limit that doubles with each failure up to [`CAP`].
    pub(crate) fn wait(&mut self, random: f64) -> Duration {
        let limit = self.limit();
        self.failures = self.failures.saturating_add(1);
        limit.mul_f64(random.clamp(0.0, 1.0))
    }

    /// It went well for so long. If that was longer than the next wait could be, the next failure is
    /// the first one again; a server that accepts and drops at once is not hammered.
    pub(crate) fn went_well_for(&mut self, time: Duration) {
        if time >= self.limit() {
            self.failures = 0;
        }
    }

    fn limit(&self) -> Duration {
        let doubled = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        FIRST.saturating_mul(doubled).min(CAP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_start_over_after_a_success() {
        let mut backoff = Backoff::default();
        let limits: Vec<u64> = (0..7).map(|_| backoff.wait(1.0).as_secs()).collect();
        assert_eq!(limits, [1, 2, 4, 8, 16, 30, 30]);
        for _ in 0..100 {
            assert_eq!(backoff.wait(1.0), CAP);
        }
        backoff.went_well_for(CAP - Duration::from_secs(1));
        assert_eq!(backoff.wait(1.0), CAP);
        backoff.went_well_for(CAP);
        assert_eq!(backoff.wait(1.0), FIRST);
    }

    #[test]
    fn a_wait_is_anywhere_between_nothing_and_its_limit() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.wait(0.0), Duration::ZERO);
        assert_eq!(backoff.wait(0.5), Duration::from_secs(1));
    }
}
