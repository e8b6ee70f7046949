//! What the log says of viewers that are refused: anybody can have it say so, as often as they like.

use std::time::{Duration, Instant};

use super::PeerKey;
use crate::ids::tame;

/// Between two lines: enough for an operator to see that it goes on.
const EVERY: Duration = Duration::from_secs(60);

/// Lets one refusal through a minute, and counts the rest.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    told: Option<Instant>,
    untold: u64,
}

impl Refusals {
    /// The line for a refusal, if it is time for one; `why` may hold words of the refused.
    pub(super) fn tell(&mut self, now: Instant, who: &PeerKey, why: &str) -> Option<String> {
        let lately = |told| now.saturating_duration_since(told) < EVERY;
        if self.told.is_some_and(lately) {
            self.untold += 1;
            return None;
        }
        self.told = Some(now);
        let others = match std::mem::take(&mut self.untold) {
            0 => String::new(),
            untold => format!("; and {untold} more since the last such line"),
        };
        Some(format!("{who}: refused: {}{others}", tame(why)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_refusal_a_minute_is_told_and_the_rest_is_counted() {
        let mut refusals = Refusals::default();
        let start = Instant::now();
        let who = PeerKey {
            channel: "news".into(),
            peer: "evil\nid".into(),
        };
        let mut tell = |after| {
            let now = start + Duration::from_secs(after);
            refusals.tell(now, &who, "its offer has\nERROR a line of its own")
        };
        let first = "news/evil\\nid: refused: its offer has\\nERROR a line of its own";
        assert_eq!(tell(0).as_deref(), Some(first));
        assert_eq!(tell(1), None);
        assert_eq!(tell(59), None);
        let later = format!("{first}; and 2 more since the last such line");
        assert_eq!(tell(60), Some(later));
        assert_eq!(tell(120).as_deref(), Some(first));
    }
}
