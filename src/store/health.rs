//! Whether the disk can be written to. Pure: time is an argument.
//!
//! A disk that fails is left alone, and tried again from time to time with one segment, which is
//! rescued into memory if it fails again. It is well once such a segment is stored.

use std::time::{Duration, Instant};

/// How often a disk that fails is tried again: soon enough for an operator who has made room and
/// waits, and seldom enough for a card that hangs for a second at each error.
pub(super) const RETRY: Duration = Duration::from_secs(10);

/// The state of the disk.
#[derive(Debug, Default)]
pub(super) struct Health {
    ailment: Option<Ailment>,
}

#[derive(Debug)]
struct Ailment {
    why: String,
    since: Instant,
    next_try: Instant,
    /// A try has neither failed nor succeeded yet: a disk may hang.
    trying: bool,
    /// Memory had no room for the newest segment either.
    refused: bool,
}

/// Whether a segment should be written to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Advice {
    /// The disk is well.
    Write,
    /// The disk fails; see whether it still does.
    Try,
    /// The disk fails.
    Spare,
}

impl Health {
    /// What to do with a segment that begins now.
    pub(super) fn advice(&mut self, now: Instant) -> Advice {
        match &mut self.ailment {
            None => Advice::Write,
            Some(ailment) if now >= ailment.next_try && !ailment.trying => {
                ailment.trying = true;
                Advice::Try
            }
            Some(_) => Advice::Spare,
        }
    }

    /// An operation failed, for this reason. Whether this is new.
    pub(super) fn failed(&mut self, now: Instant, why: String) -> bool {
        let since = self.ailment.take().map(|ailment| ailment.since);
        self.ailment = Some(Ailment {
            why,
            since: since.unwrap_or(now),
            next_try: now + RETRY,
            trying: false,
            refused: false,
        });
        since.is_none()
    }

    /// An [`Advice::Try`] came to nothing, through no fault of the disk's.
    pub(super) fn untried(&mut self, now: Instant) {
        if let Some(ailment) = &mut self.ailment
            && std::mem::take(&mut ailment.trying)
        {
            ailment.next_try = now + RETRY;
        }
    }

    /// A segment that was a [`Advice::Try`] is stored. How long the disk had failed, if it had.
    pub(super) fn works(&mut self, now: Instant) -> Option<Duration> {
        let ailment = self.ailment.take()?;
        Some(now.saturating_duration_since(ailment.since))
    }

    /// Whether a segment that should be held in memory is.
    pub(super) fn held(&mut self, held: bool) {
        if let Some(ailment) = &mut self.ailment {
            ailment.refused = !held;
        }
    }

    /// Why the disk is not written to, if it is not, and what becomes of new segments.
    pub(super) fn problem(&self) -> Option<String> {
        let Ailment { why, refused, .. } = self.ailment.as_ref()?;
        Some(match refused {
            false => format!("{why}; new segments are held in memory"),
            true => format!(
                "{why}; new segments would be held in memory, but it has no room: raise [memory] max-buffers"
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_fails_is_told_once_and_tried_from_time_to_time_until_it_works() {
        let (mut health, start) = (Health::default(), Instant::now());
        assert_eq!(health.advice(start), Advice::Write);
        assert!(health.failed(start, "full".into()));
        assert!(!health.failed(start, "still full".into()));
        assert!(
            health
                .problem()
                .unwrap()
                .contains("still full; new segments are held")
        );
        health.held(false);
        assert!(health.problem().unwrap().contains("max-buffers"));
        assert_eq!(health.advice(start), Advice::Spare);
        let later = start + RETRY;
        assert_eq!(health.advice(later), Advice::Try);
        assert_eq!(health.advice(later), Advice::Spare, "one at a time");
        health.untried(later);
        assert_eq!(health.advice(later), Advice::Spare);
        let later = later + RETRY;
        assert_eq!(health.advice(later), Advice::Try);
        assert_eq!(health.works(later), Some(RETRY + RETRY));
        assert_eq!(health.advice(later), Advice::Write);
        assert_eq!(health.works(later), None);
    }
}
