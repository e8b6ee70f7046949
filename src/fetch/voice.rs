//! When to say in the log that something fails, and that it works again. Pure: time is an argument.

use std::time::Duration;

use tokio::time::Instant;

/// An origin that fails every other time would otherwise fill the log, and wear out the card that it
/// is written to. The status page always shows what is.
const QUIET: Duration = Duration::from_secs(60);

/// One kind of failure: told when it begins and when it is over, but begun once a minute at most. One
/// that still lasts then is told late.
#[derive(Debug, Default)]
pub(super) struct Voice {
    told: Option<Instant>,
    is_open: bool,
}

impl Voice {
    /// It fails. Whether that is to be told.
    pub(super) fn fails(&mut self, now: Instant) -> bool {
        let quiet = |told: Instant| now.duration_since(told) < QUIET;
        if self.is_open || self.told.is_some_and(quiet) {
            return false;
        }
        self.told = Some(now);
        self.is_open = true;
        true
    }

    /// It works. For how long it was told to fail, if that is to be told.
    pub(super) fn works(&mut self, now: Instant) -> Option<Duration> {
        let was_open = std::mem::take(&mut self.is_open);
        let told = self.told.filter(|_| was_open)?;
        Some(now.duration_since(told))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_and_its_end_are_told_once() {
        let (mut voice, start) = (Voice::default(), Instant::now());
        assert_eq!(voice.works(start), None);
        assert!(voice.fails(start));
        let later = start + 2 * QUIET;
        assert!(!voice.fails(later));
        assert_eq!(voice.works(later), Some(2 * QUIET));
        assert_eq!(voice.works(later), None);
        assert!(voice.fails(later));
    }

    #[test]
    fn what_comes_and_goes_is_told_once_a_minute_and_what_lasts_is_told_late() {
        let (mut voice, start) = (Voice::default(), Instant::now());
        assert!(voice.fails(start));
        assert!(voice.works(start).is_some());
        for second in 1..60 {
            let now = start + Duration::from_secs(second);
            assert!(!voice.fails(now));
            assert_eq!(voice.works(now), None);
        }
        assert!(!voice.fails(start + QUIET / 2));
        assert!(voice.fails(start + QUIET));
    }
}
