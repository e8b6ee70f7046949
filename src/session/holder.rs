//! The holding side of the protocol: what is asked of this box, and how it is answered.

use std::ops::Range;
use std::time::{Duration, Instant};

use heapless::Deque;

use super::io::{Answer, CloseReason, Found, Output, RequestId};
use super::{MAX_WAITING, Session};
use crate::ids::MediaSequence;
use crate::wire::{BinaryHeader, Message, Packets, Request};

/// How long after its REQUEST a segment has to be here whole for its first packets to be sent while
/// the rest is on its way: a viewer gives up after 2 s, and then what still comes is in the way of
/// what it asks next. The last fifth of a second is for the packets themselves, and for an origin that
/// becomes a little slower than it was.
const CUT_THROUGH_WITHIN: Duration = Duration::from_millis(1800);

/// How long after its REQUEST the rest of a segment that is being sent is waited for: the longest that
/// viewers wait for one. After that it is in the way of what they ask next.
const ARRIVES_WITHIN: Duration = Duration::from_secs(5);

/// How long a segment may take to be sent: viewers wait for 5 s at most, and what is being read takes
/// room in the store even after it was deleted. One that takes longer gives up nothing by starting
/// again.
const SENT_WITHIN: Duration = Duration::from_secs(30);

/// How soon a REQUEST for a segment is looked at again that grows too slowly: the pace of a
/// download's first moments says little.
const TOO_SLOW_RETRY: Duration = Duration::from_millis(100);

/// How soon a REQUEST is tried again for which there was no memory: a few times within the hold,
/// and well below what a viewer would notice.
const NO_ROOM_RETRY: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) id: RequestId,
    pub(super) request: Request,
    pub(super) since: Instant,
    pub(super) state: WaitState,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum WaitState {
    Asked {
        held: bool,
    },
    Held {
        retry_at: Option<Instant>,
    },
    Ready {
        size: usize,
        crc32c: Option<u32>,
        available: usize,
        held: bool,
    },
}

#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) id: RequestId,
    pub(super) request: Request,
    pub(super) since: Instant,
    /// When it was first seen to be under way.
    pub(super) begun: Option<Instant>,
    pub(super) packets: Packets,
    pub(super) next: usize,
    /// Bytes that can be sent so far.
    pub(super) available: usize,
}

impl Transfer {
    /// The bytes of the next packet, if they are here.
    pub(super) fn next(&self) -> Option<Range<usize>> {
        let next = self.packets.range(self.next);
        next.filter(|range| range.end <= self.available)
    }

    /// Whether everything has been handed over.
    pub(super) fn is_sent(&self) -> bool {
        self.next == self.packets.count()
    }

    /// Bytes that have not been handed over.
    pub(super) fn left(&self) -> usize {
        self.packets.left(self.next)
    }

    /// When the next packet has to be here, if it is not.
    pub(super) fn arrives_until(&self) -> Option<Instant> {
        (!self.is_sent() && self.next().is_none()).then(|| self.since + ARRIVES_WITHIN)
    }

    /// When all of it has to be sent.
    pub(super) fn sent_until(&self) -> Option<Instant> {
        Some(self.begun? + SENT_WITHIN)
    }
}

impl Session {
    pub(super) fn request(&mut self, now: Instant, request: Request) {
        let same = |other: &Request| other.is_for_same(&request);
        let repeated = self.waiting.iter().any(|w| same(&w.request))
            || self.transfer.as_ref().is_some_and(|t| same(&t.request));
        if repeated {
            // It will be answered once (protocol.md: field clients ask again after 3 s).
            return;
        }
        let id = RequestId(self.next_id);
        let waiting = Waiting {
            id,
            request: request.clone(),
            since: now,
            state: WaitState::Asked { held: false },
        };
        if self.stopping || self.waiting.push_back(waiting).is_err() {
            self.lack(request);
            return;
        }
        self.next_id = self.next_id.wrapping_add(1);
        self.push(Output::Find {
            id,
            request,
            asked: now,
        });
    }

    pub(super) fn found(&mut self, now: Instant, id: RequestId, found: Found) {
        let hold = self.config.request_hold;
        let is_free = !self.is_sending();
        let Some(waiting) = self.waiting.iter_mut().find(|w| w.id == id) else {
            // It has had its LACK in the meantime.
            if matches!(found, Found::Ready { .. }) {
                self.push(Output::Release(id));
            }
            return;
        };
        let WaitState::Asked { held } = waiting.state else {
            return;
        };
        let may_wait = now < waiting.since + hold;
        match found {
            Found::Ready {
                size,
                crc32c,
                available,
                whole_at,
            } => {
                let in_time = waiting.since + CUT_THROUGH_WITHIN;
                let in_time = is_free && whole_at.is_some_and(|at| at <= in_time);
                if available == size || in_time {
                    waiting.state = WaitState::Ready {
                        size,
                        crc32c,
                        available,
                        held,
                    };
                    return;
                }
                self.push(Output::Release(id));
                match may_wait {
                    true => self.retry(id, now + TOO_SLOW_RETRY),
                    false => self.lack_where(|w| w.id == id),
                }
            }
            Found::Coming if may_wait => waiting.state = WaitState::Held { retry_at: None },
            Found::NoRoom if may_wait => self.retry(id, now + NO_ROOM_RETRY),
            Found::Coming | Found::NoRoom | Found::TooLate | Found::Absent => {
                self.lack_where(|w| w.id == id);
            }
        }
    }

    pub(super) fn retry(&mut self, id: RequestId, at: Instant) {
        if let Some(waiting) = self.waiting.iter_mut().find(|w| w.id == id) {
            waiting.state = WaitState::Held { retry_at: Some(at) };
        }
    }

    pub(super) fn grown(&mut self, id: RequestId, available: usize) {
        if let Some(transfer) = self.transfer.as_mut().filter(|t| t.id == id) {
            transfer.available = available;
        }
    }

    /// What has begun cannot be taken back.
    pub(super) fn broken(&mut self, id: RequestId) {
        if self.transfer.as_ref().is_some_and(|t| t.id == id) {
            self.close(CloseReason::Broken);
        }
    }

    /// Asks the store again for what is held and chosen.
    pub(super) fn ask_again(&mut self, chosen: impl Fn(&Waiting) -> bool) {
        let mut asked: Deque<Output, MAX_WAITING> = Deque::new();
        for waiting in self.waiting.iter_mut() {
            if matches!(waiting.state, WaitState::Held { .. }) && chosen(waiting) {
                waiting.state = WaitState::Asked { held: true };
                // Holds as many as there can be waiting.
                let _ = asked.push_back(Output::Find {
                    id: waiting.id,
                    request: waiting.request.clone(),
                    asked: waiting.since,
                });
            }
        }
        while let Some(output) = asked.pop_front() {
            self.push(output);
        }
    }

    /// Answers with LACK what waits and is chosen, except what has its segment already.
    pub(super) fn lack_where(&mut self, chosen: impl Fn(&Waiting) -> bool) {
        for _ in 0..self.waiting.len() {
            let Some(waiting) = self.waiting.pop_front() else {
                return;
            };
            if chosen(&waiting) && !matches!(waiting.state, WaitState::Ready { .. }) {
                self.lack(waiting.request);
            } else {
                // There is room: one was just taken out.
                let _ = self.waiting.push_back(waiting);
            }
        }
    }

    /// Begins to send the segment that has been ready for longest.
    pub(super) fn begin(&mut self, current: Option<MediaSequence>) -> Option<Output> {
        let mut begun = None;
        for _ in 0..self.waiting.len() {
            let waiting = self.waiting.pop_front()?;
            match waiting.state {
                WaitState::Ready {
                    size,
                    crc32c,
                    available,
                    held,
                } if begun.is_none() => {
                    begun = Some((waiting, size, crc32c, available, held));
                }
                _ => {
                    let _ = self.waiting.push_back(waiting);
                }
            }
        }
        let (waiting, size, crc32c, available, held) = begun?;
        let Waiting {
            id, request, since, ..
        } = waiting;
        let packets = Packets::new(size, self.config.packet_size);
        self.push(Output::Answered(if held {
            Answer::Held
        } else {
            Answer::Hit
        }));
        self.transfer = Some(Transfer {
            id,
            request: request.clone(),
            since,
            begun: None,
            packets,
            next: 0,
            available,
        });
        Some(Output::Send(Message::Binary(BinaryHeader {
            request,
            attachments: packets.count(),
            size,
            current,
            crc32c,
        })))
    }

    pub(super) fn lack(&mut self, request: Request) {
        self.push(Output::Send(Message::Lack(request)));
        self.push(Output::Answered(Answer::Lack));
    }
}
