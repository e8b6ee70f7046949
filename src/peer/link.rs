//! The box's own link: how much passes, whether it is full, and what still gets there in time. Pure.
//!
//! It is full while the kernel takes no more, which is when the network card is behind, or while more
//! has been sent than `[peer] max-upload` allows. Then whoever is closest to its deadline is sent to
//! first, and a viewer whose segment would come too late is told so at once: it has other sources, and
//! what it does not get makes room for the others. Where several tasks serve, each sees to its own viewers,
//! and the kernel deals out the link to the sockets.

use std::time::{Duration, Instant};

/// How much may pass at once of what `max-upload` allows: a few turns of the loop.
const BURST: Duration = Duration::from_millis(10);

/// Over how long the rate of a full link is measured.
const INTERVAL: Duration = Duration::from_millis(200);

/// What a segment may take: what viewers wait for one, less a fifth of a second for the way itself.
const IN_TIME: Duration = Duration::from_millis(1800);

/// The link.
#[derive(Debug)]
pub(super) struct Link {
    /// `[peer] max-upload`, in bytes per second.
    limit: Option<u64>,
    /// When everything that was sent has passed at that rate.
    passed_at: Instant,
    is_blocked: bool,
    interval: Interval,
    /// Bytes per second that passed when it was last full, if that was lately.
    rate: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Interval {
    since: Instant,
    bytes: u64,
    was_full: bool,
}

/// What waits for a full link.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crowd {
    /// Bytes per second that pass.
    rate: u64,
    /// Bytes that have been promised.
    promised: u64,
}

impl Link {
    pub(super) fn new(now: Instant, limit: Option<u64>) -> Self {
        Self {
            limit,
            passed_at: now,
            is_blocked: false,
            interval: Interval {
                since: now,
                bytes: 0,
                was_full: false,
            },
            rate: None,
        }
    }

    /// Takes that so many bytes were sent.
    pub(super) fn sent(&mut self, now: Instant, bytes: usize) {
        let bytes = bytes as u64;
        self.interval.bytes += bytes;
        if let Some(limit) = self.limit {
            let earliest = now.checked_sub(BURST).unwrap_or(now);
            let takes = Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / limit.max(1));
            self.passed_at = self.passed_at.max(earliest) + takes;
        }
        self.interval.was_full |= !self.is_open(now);
    }

    /// Takes whether the kernel takes more.
    pub(super) fn blocked(&mut self, is_blocked: bool) {
        self.is_blocked = is_blocked;
        self.interval.was_full |= is_blocked;
    }

    /// Whether more may be sent.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        !self.is_blocked && self.opens_at(now).is_none()
    }

    /// When more may be sent, if `max-upload` is in the way.
    pub(super) fn opens_at(&self, now: Instant) -> Option<Instant> {
        self.limit?;
        Some(self.passed_at).filter(|at| *at > now)
    }

    /// What a segment that is promised now would be behind, if the link is full; `promised` counts
    /// the bytes that are to be sent before it.
    pub(super) fn crowd(&mut self, now: Instant, promised: impl FnOnce() -> u64) -> Option<Crowd> {
        let took = now.saturating_duration_since(self.interval.since);
        if took >= INTERVAL {
            let passed = u128::from(self.interval.bytes) * 1_000_000 / took.as_micros().max(1);
            let passed = u64::try_from(passed).unwrap_or(u64::MAX);
            self.rate = self.interval.was_full.then_some(passed.max(1));
            self.interval = Interval {
                since: now,
                bytes: 0,
                was_full: !self.is_open(now),
            };
        }
        let rate = self.limit.or(self.rate)?;
        Some(Crowd {
            rate: rate.max(1),
            promised: promised(),
        })
    }
}

impl Crowd {
    /// Promises another segment of so many bytes that was asked for at `asked`, if it gets there in
    /// time.
    pub(super) fn promise(&mut self, now: Instant, asked: Instant, bytes: usize) -> bool {
        let before = self.promised + bytes as u64;
        let takes = Duration::from_millis(before.saturating_mul(1000) / self.rate);
        let in_time = now + takes <= asked + IN_TIME;
        if in_time {
            self.promised = before;
        }
        in_time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MBYTE: u64 = 1_000_000;

    #[test]
    fn no_more_passes_than_is_allowed() {
        let start = Instant::now();
        let mut link = Link::new(start, Some(MBYTE));
        let (mut now, mut sent) = (start, 0);
        while now < start + Duration::from_secs(10) {
            while link.is_open(now) {
                link.sent(now, 60_000);
                sent += 60_000;
            }
            now = link.opens_at(now).unwrap();
        }
        assert!((10 * MBYTE..10 * MBYTE + 200_000).contains(&sent), "{sent}");
    }

    #[test]
    fn a_pause_is_not_saved_up() {
        let start = Instant::now();
        let mut link = Link::new(start, Some(MBYTE));
        let later = start + Duration::from_secs(60);
        assert!(link.is_open(later));
        link.sent(later, 60_000);
        let opens = link.opens_at(later).unwrap();
        assert_eq!((opens - later).as_millis(), 50);
    }

    #[test]
    fn without_a_limit_only_the_kernel_can_fill_the_link() {
        let now = Instant::now();
        let mut link = Link::new(now, None);
        link.sent(now, 1 << 30);
        assert!(link.is_open(now));
        link.blocked(true);
        assert!(!link.is_open(now));
        assert_eq!(link.opens_at(now), None);
        link.blocked(false);
        assert!(link.is_open(now));
    }

    #[test]
    fn a_link_that_was_never_full_promises_everything() {
        let mut now = Instant::now();
        let mut link = Link::new(now, None);
        for _ in 0..10 {
            link.sent(now, 1_000_000);
            now += INTERVAL;
            assert!(link.crowd(now, || u64::MAX).is_none());
        }
    }

    #[test]
    fn a_full_link_promises_what_gets_there_in_time_and_no_more() {
        let start = Instant::now();
        let mut link = Link::new(start, None);
        // 10 MB/s, and the kernel is behind all the time.
        link.blocked(true);
        link.sent(start, 2_000_000);
        let now = start + INTERVAL;
        let mut crowd = link.crowd(now, || 0).unwrap();
        let promised = (0..)
            .take_while(|_| crowd.promise(now, now, 1_000_000))
            .count();
        assert_eq!(promised, 18);
        // What was asked for a second ago has that much less time.
        let asked = now - Duration::from_secs(1);
        let mut crowd = link.crowd(now, || 0).unwrap();
        let promised = (0..)
            .take_while(|_| crowd.promise(now, asked, 1_000_000))
            .count();
        assert_eq!(promised, 8);
    }

    #[test]
    fn what_was_full_is_taken_for_open_once_it_is() {
        let start = Instant::now();
        let mut link = Link::new(start, None);
        link.blocked(true);
        link.sent(start, 1000);
        link.blocked(false);
        let now = start + INTERVAL;
        assert!(link.crowd(now, || 0).is_some());
        assert!(link.crowd(now + INTERVAL, || 0).is_none());
    }
}
