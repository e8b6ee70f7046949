//! Whether what was sent arrives: the tail of a segment must not wait for the stack's own
//! retransmission timer, and a peer that acknowledges nothing must not hold memory for ever.

use std::time::{Duration, Instant};

/// Silence after which bytes that should have been acknowledged are asked about with a KEEPALIVE.
/// The stack's own retransmission timer is at least 1 s, half of a viewer's patience; the receiver
/// acknowledges the small extra message at once and thereby shows the gap (stack.md, "Known
/// traps"). Acknowledgements on a LAN take a few milliseconds, delayed ones 20 ms in browsers.
const PROBE_AFTER: Duration = Duration::from_millis(60);

/// KEEPALIVEs in one silence: fast retransmission wants a gap reported three times (RFC 9260
/// section 7.2.4).
pub(super) const MAX_PROBES: u8 = 3;

/// How often a silence that no probe has ended is called a stall: the initial retransmission
/// timeout is three times the least one.
pub(super) const MAX_STALLS: u8 = 3;

/// How long a peer may acknowledge nothing before its channel is closed: it gave the segment up after
/// 2 s, and holds memory that others could use. Wi-Fi that roams takes some 3 s.
pub(super) const STUCK_AFTER: Duration = Duration::from_secs(10);

/// What a silence calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silence {
    /// Send a small message.
    Probe,
    /// Take what is outstanding for lost.
    Stalled,
    /// Give the peer up.
    Stuck,
}

/// When bytes were last seen to be acknowledged.
#[derive(Debug, Default)]
pub(super) struct Progress {
    outstanding: usize,
    /// When bytes were last acknowledged, or there was nothing to acknowledge.
    since: Option<Instant>,
    probe_at: Option<Instant>,
    probes: u8,
}

impl Progress {
    /// Takes how many bytes are outstanding: as long as their number falls all is well.
    pub(super) fn settle(&mut self, now: Instant, outstanding: usize) -> Option<Silence> {
        let before = std::mem::replace(&mut self.outstanding, outstanding);
        let moved = outstanding < before || before == 0;
        if moved {
            self.since = Some(now);
        }
        if outstanding == 0 {
            self.since = None;
            self.probe_at = None;
            return None;
        }
        if self.since.is_some_and(|since| now >= since + STUCK_AFTER) {
            return Some(Silence::Stuck);
        }
        if outstanding != before || self.probe_at.is_none() {
            if moved {
                self.probes = 0;
            }
            self.schedule(now);
            return None;
        }
        if self.probe_at.is_some_and(|at| now < at) {
            return None;
        }
        self.probes += 1;
        self.schedule(now);
        Some(match self.probes <= MAX_PROBES {
            true => Silence::Probe,
            false => Silence::Stalled,
        })
    }

    fn schedule(&mut self, now: Instant) {
        let more = self.probes < MAX_PROBES + MAX_STALLS;
        self.probe_at = more.then_some(now + PROBE_AFTER);
    }

    /// When [`Self::settle`] should be called at the latest.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let stuck = self.since.map(|since| since + STUCK_AFTER);
        [self.probe_at, stuck].into_iter().flatten().min()
    }
}
