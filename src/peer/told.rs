//! What the log says of viewers: anybody can have it say so, as often as they like.

use std::time::{Duration, Instant};

use log::Level;

use super::PeerKey;
use crate::ids::tame;

/// So long is counted at a time: an operator sees that it goes on.
const PERIOD: Duration = Duration::from_secs(60);

/// What there is to tell.
#[derive(Clone, Copy, Debug)]
pub(super) enum Topic {
    /// There is no place for another viewer.
    Full,
    /// An offer cannot be used.
    Unusable,
    /// Signalling does not keep up.
    Unanswered,
    /// A viewer has left.
    Left,
}

impl Topic {
    /// Lines in a period at most. Those who leave are told one by one as long as it is people who do;
    /// who is refused is refused for the same reason as the one before.
    fn most(self) -> u32 {
        match self {
            Self::Full | Self::Unusable | Self::Unanswered => 1,
            Self::Left => 20,
        }
    }

    fn level(self) -> Level {
        match self {
            Self::Full | Self::Unusable | Self::Unanswered => Level::Warn,
            Self::Left => Level::Info,
        }
    }
}

/// Lets a few lines of each topic through, and counts the rest.
#[derive(Debug, Default)]
pub(super) struct Told {
    topics: [Lines; 4],
}

#[derive(Debug, Default)]
struct Lines {
    since: Option<Instant>,
    told: u32,
    untold: u64,
}

impl Told {
    /// Logs it, for an operator if it is time for a line; `what` may hold words of the viewer.
    pub(super) fn tell(&mut self, now: Instant, topic: Topic, who: &PeerKey, what: &str) {
        match self.line(now, topic, who, what) {
            Some(line) => log::log!(topic.level(), "{line}"),
            None => log::debug!("{who}: {}", tame(what)),
        }
    }

    fn line(&mut self, now: Instant, topic: Topic, who: &PeerKey, what: &str) -> Option<String> {
        let lines = &mut self.topics[topic as usize];
        let lately = |since| now.saturating_duration_since(since) < PERIOD;
        if !lines.since.is_some_and(lately) {
            (lines.since, lines.told) = (Some(now), 0);
        }
        if lines.told >= topic.most() {
            lines.untold += 1;
            return None;
        }
        lines.told += 1;
        let others = match std::mem::take(&mut lines.untold) {
            0 => String::new(),
            untold => format!("; and {untold} more before"),
        };
        Some(format!("{who}: {}{others}", tame(what)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who() -> PeerKey {
        PeerKey {
            channel: "news".into(),
            peer: "evil\nid".into(),
        }
    }

    #[test]
    fn one_refusal_a_minute_is_told_and_the_rest_is_counted() {
        let mut told = Told::default();
        let start = Instant::now();
        let mut tell = |after, topic| {
            let now = start + Duration::from_secs(after);
            told.line(now, topic, &who(), "its offer has\nERROR a line of its own")
        };
        let first = "news/evil\\nid: its offer has\\nERROR a line of its own";
        assert_eq!(tell(0, Topic::Unusable).as_deref(), Some(first));
        assert_eq!(tell(1, Topic::Unusable), None);
        assert_eq!(tell(59, Topic::Unusable), None);
        // One topic does not keep another from being told.
        assert_eq!(tell(59, Topic::Full).as_deref(), Some(first));
        let later = format!("{first}; and 2 more before");
        assert_eq!(tell(60, Topic::Unusable), Some(later));
        assert_eq!(tell(120, Topic::Unusable).as_deref(), Some(first));
    }

    #[test]
    fn those_who_leave_are_told_one_by_one_until_there_are_too_many() {
        let mut told = Told::default();
        let start = Instant::now();
        let mut tell = |after| {
            let now = start + Duration::from_secs(after);
            told.line(now, Topic::Left, &who(), "viewer left").is_some()
        };
        assert_eq!((0..1000).filter(|_| tell(0)).count(), 20);
        assert_eq!((0..1000).filter(|_| tell(61)).count(), 20);
    }
}
