//! Whether what was sent arrives: a peer that acknowledges nothing must not hold memory for ever.

use std::time::{Duration, Instant};

use super::Flight;

/// How long a peer may acknowledge nothing before its channel is closed: it gave the segment up after
/// 2 s, and holds memory that others could use. Wi-Fi that roams takes some 3 s.
pub(super) const STUCK_AFTER: Duration = Duration::from_secs(10);

/// When bytes were last seen to be acknowledged.
#[derive(Debug, Default)]
pub(super) struct Progress {
    delivered: u64,
    /// When something was last acknowledged, or began to be on its way; `None` while nothing is.
    since: Option<Instant>,
}

impl Progress {
    /// Takes how far what was sent has come.
    pub(super) fn settle(&mut self, now: Instant, flight: Flight) {
        let before = std::mem::replace(&mut self.delivered, flight.delivered);
        let moved = flight.delivered > before;
        self.since = match self.since {
            _ if flight.outstanding == 0 => None,
            Some(since) if !moved => Some(since),
            _ => Some(now),
        };
    }

    /// When the peer is to be given up.
    pub(super) fn stuck_at(&self) -> Option<Instant> {
        Some(self.since? + STUCK_AFTER)
    }
}
