//! How fast a channel may load (`[channel] max-bandwidth`): a token bucket, pure but for its lock.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What may come at once after a pause: a fifth of a second, which no uplink notices.
const BURST: Duration = Duration::from_millis(200);

/// The pace of one channel; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Pace(Option<Arc<Mutex<Bucket>>>);

#[derive(Debug)]
struct Bucket {
    bytes_per_second: f64,
    /// Until when what was taken has been earned.
    paid_until: Option<Instant>,
}

impl Pace {
    /// `None`: as fast as it comes.
    pub(super) fn new(bytes_per_second: Option<u64>) -> Self {
        Self(bytes_per_second.map(|bytes| {
            Arc::new(Mutex::new(Bucket {
                bytes_per_second: bytes as f64,
                paid_until: None,
            }))
        }))
    }

    /// Takes that `bytes` have come, and says how long to wait before more is read. Those who wait
    /// do not read, so that the origin sends no faster.
    pub(super) fn take(&self, now: Instant, bytes: usize) -> Duration {
        let Some(bucket) = &self.0 else {
            return Duration::ZERO;
        };
        let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let earned = Duration::from_secs_f64(bytes as f64 / bucket.bytes_per_second);
        let from = bucket.paid_until.map_or(now, |until| until.max(now));
        bucket.paid_until = Some(from + earned);
        (from + earned)
            .saturating_duration_since(now)
            .saturating_sub(BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_limit_nobody_waits() {
        let pace = Pace::new(None);
        assert_eq!(pace.take(Instant::now(), usize::MAX), Duration::ZERO);
    }

    #[test]
    fn two_who_load_share_the_bandwidth() {
        let (one, start) = (Pace::new(Some(1000)), Instant::now());
        let other = one.clone();
        assert_eq!(one.take(start, 100), Duration::ZERO);
        assert_eq!(other.take(start, 100), Duration::ZERO);
        assert_eq!(one.take(start, 1000), Duration::from_secs(1));
        assert_eq!(other.take(start, 1000), Duration::from_secs(2));
    }

    #[test]
    fn a_pause_earns_no_more_than_a_burst() {
        let (pace, start) = (Pace::new(Some(1000)), Instant::now());
        pace.take(start, 1000);
        let later = start + Duration::from_secs(3600);
        assert_eq!(pace.take(later, 1200), Duration::from_secs(1));
    }
}
