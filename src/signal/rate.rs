//! How fast one socket may speak: a token bucket.

use std::time::{Duration, Instant};

/// Messages at once: a page that opens connections to several parents trickles a few dozen
/// candidates within a second.
const BURST: f64 = 100.0;

/// Messages per second in the long run, many times what an honest page sends.
const PER_SECOND: f64 = 20.0;

/// The bucket of one socket.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    tokens: f64,
    filled: Instant,
}

impl TokenBucket {
    /// A full bucket.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            tokens: BURST,
            filled: now,
        }
    }

    /// Takes a token for a message that has come, and says how long to wait before the next one
    /// is read: nothing, unless the bucket is empty. Who has children answers each of them, and may
    /// do so as fast as they may ask: a box that a whole venue calls at once keeps nobody waiting.
    pub(crate) fn take(&mut self, now: Instant, children: usize) -> Duration {
        let speakers = 1.0 + children as f64;
        let per_second = PER_SECOND * speakers;
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + passed * per_second).min(BURST * speakers) - 1.0;
        self.filled = now;
        Duration::from_secs_f64((-self.tokens).max(0.0) / per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_each_message_waits_for_its_token() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(start);
        for _ in 0..100 {
            assert_eq!(bucket.take(start, 0), Duration::ZERO);
        }
        assert_eq!(bucket.take(start, 0), Duration::from_millis(50));
        let later = start + Duration::from_secs(3600);
        for _ in 0..100 {
            assert_eq!(bucket.take(later, 0), Duration::ZERO);
        }
        assert!(bucket.take(later, 0) > Duration::ZERO);
    }

    #[test]
    fn who_has_children_answers_as_fast_as_they_may_ask() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(start);
        let mut waited = Duration::ZERO;
        for second in 0..10 {
            let now = start + Duration::from_secs(second);
            for _ in 0..60 {
                waited += bucket.take(now, 3);
            }
        }
        assert_eq!(waited, Duration::ZERO);
    }
}
