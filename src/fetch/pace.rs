//! How much of the origin a channel may take: so many bytes a second (`[channel] max-bandwidth`, a
//! token bucket), and so many downloads at a time. Pure but for its locks.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What may come at once after a pause: a fifth of a second, which no uplink notices.
const BURST: Duration = Duration::from_millis(200);

/// Downloads of one channel at a time, over all of its renditions: what a browser takes of a host.
const PLACES: usize = 6;

/// The pace of one channel; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Pace(Option<Arc<Mutex<Bucket>>>);

#[derive(Debug)]
struct Bucket {
    bytes_per_second: f64,
    /// Until when what was taken has been earned.
    paid_until: Option<Instant>,
    /// How far behind each download is; the second number tells apart those that are alike.
    lanes: BTreeSet<(u64, u64)>,
    entered: u64,
}

/// One download; the most urgent one has what it needs, the others share what that leaves.
#[derive(Debug)]
#[must_use = "a download that is dropped takes no part"]
pub(super) struct Lane {
    pace: Pace,
    key: (u64, u64),
}

impl Pace {
    /// `None`: as fast as it comes.
    pub(super) fn new(bytes_per_second: Option<u64>) -> Self {
        Self(bytes_per_second.map(|bytes| {
            Arc::new(Mutex::new(Bucket {
                bytes_per_second: bytes as f64,
                paid_until: None,
                lanes: BTreeSet::new(),
                entered: 0,
            }))
        }))
    }

    /// A download begins, of what is so far behind: the less, the more urgent it is.
    pub(super) fn enter(&self, behind: u64) -> Lane {
        let mut key = (behind, 0);
        if let Some(mut bucket) = self.bucket() {
            bucket.entered += 1;
            key.1 = bucket.entered;
            bucket.lanes.insert(key);
        }
        let pace = self.clone();
        Lane { pace, key }
    }

    fn bucket(&self) -> Option<MutexGuard<'_, Bucket>> {
        let bucket = self.0.as_ref()?.lock();
        Some(bucket.unwrap_or_else(PoisonError::into_inner))
    }
}

impl Lane {
    /// `bytes` have come.
    pub(super) fn spend(&self, now: Instant, bytes: usize) {
        if let Some(mut bucket) = self.pace.bucket() {
            let earned = Duration::from_secs_f64(bytes as f64 / bucket.bytes_per_second);
            let from = bucket.paid_until.map_or(now, |until| until.max(now));
            bucket.paid_until = Some(from + earned);
        }
    }

    /// How long not to read, after which this is to be asked again; `None`: read on. Those who wait
    /// do not read, so that the origin sends no faster.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        let bucket = self.pace.bucket()?;
        let most_urgent = bucket.lanes.first().map(|(behind, _)| *behind);
        // Whoever may take in advance leaves nothing to those who may not.
        let advance = match Some(self.key.0) == most_urgent {
            true => BURST,
            false => Duration::ZERO,
        };
        let debt = bucket.paid_until?.saturating_duration_since(now);
        Some(debt.saturating_sub(advance)).filter(|wait| !wait.is_zero())
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if let Some(mut bucket) = self.pace.bucket() {
            bucket.lanes.remove(&self.key);
        }
    }
}

/// The places for downloads of one channel; clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(Arc<AtomicUsize>);

/// One of them, free again when dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<AtomicUsize>);

impl Places {
    /// Takes a place if one is free. Of its `own` each rendition has some in any case, so that none waits
    /// for another.
    pub(super) fn take(&self, own: bool) -> Option<Place> {
        let taken = self.0.fetch_add(1, Ordering::Relaxed);
        // Gives it back if it is one too many.
        let place = Place(Arc::clone(&self.0));
        (own || taken < PLACES).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn without_a_limit_nobody_waits() {
        let lane = Pace::new(None).enter(1);
        lane.spend(Instant::now(), usize::MAX);
        assert_eq!(lane.wait(Instant::now()), None);
    }

    #[test]
    fn two_who_are_alike_share_the_bandwidth() {
        let (pace, start) = (Pace::new(Some(1000)), Instant::now());
        let (one, other) = (pace.enter(5), pace.enter(5));
        one.spend(start, 100);
        other.spend(start, 100);
        assert_eq!((one.wait(start), other.wait(start)), (None, None));
        one.spend(start, 1000);
        assert_eq!(other.wait(start), Some(1000 * MS));
    }

    #[test]
    fn a_pause_earns_no_more_than_a_burst() {
        let (pace, start) = (Pace::new(Some(1000)), Instant::now());
        let lane = pace.enter(1);
        lane.spend(start, 1000);
        let later = start + Duration::from_secs(3600);
        assert_eq!(lane.wait(later), None);
        lane.spend(later, 1200);
        assert_eq!(lane.wait(later), Some(1000 * MS));
    }

    /// What each gets in ten seconds at 1000 bytes a second, in pieces of 10 of which there are
    /// always more.
    fn shares(start: Instant, lanes: &[&Lane]) -> Vec<usize> {
        let mut got = vec![0; lanes.len()];
        for step in 0..10_000 {
            for (lane, got) in lanes.iter().zip(&mut got) {
                while lane.wait(start + MS * step).is_none() {
                    lane.spend(start + MS * step, 10);
                    *got += 10;
                }
            }
        }
        got
    }

    #[test]
    fn the_newest_has_all_of_it_for_as_long_as_it_is_there() {
        let (pace, start) = (Pace::new(Some(1000)), Instant::now());
        let is_all = |bytes: usize| bytes.abs_diff(10_000) <= 220;
        let older = pace.enter(1);
        let alone = shares(start, &[&older]);
        let newer = pace.enter(0);
        let both = shares(start + 10_000 * MS, &[&older, &newer]);
        drop(newer);
        let alone_again = shares(start + 20_000 * MS, &[&older]);
        assert!(
            is_all(alone[0]) && is_all(alone_again[0]),
            "{alone:?} {alone_again:?}"
        );
        assert!(both[0] <= 10 && is_all(both[1]), "{both:?}");
    }

    #[test]
    fn beyond_a_channels_places_each_rendition_has_its_first() {
        let places = Places::default();
        let taken: Vec<Place> = (0..PLACES).map_while(|_| places.take(false)).collect();
        assert_eq!(taken.len(), PLACES);
        assert!(places.take(false).is_none());
        let first = places.take(true);
        assert!(first.is_some() && places.take(false).is_none());
        drop((taken, first));
        assert!(places.take(false).is_some());
    }
}
