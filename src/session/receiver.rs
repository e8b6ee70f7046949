//! The receiving side of the protocol: what this box asks of a sibling, and whether what comes is
//! what was announced.

use std::time::{Duration, Instant};

use heapless::Deque;

use super::io::Output;
use crate::wire::{BinaryHeader, Message, Request};

/// REQUESTs of ours that may be open at a time on one channel. The holder takes eight; four
/// leave room, and more would only make each of them later.
pub(super) const MAX_ASKED: usize = 4;

/// Bytes of a segment at most, as from an origin.
const MAX_SEGMENT: usize = 64 << 20;

/// Names a REQUEST of ours between the session and whoever drives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AskId(pub u64);

/// Why a sibling did not deliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// It said LACK.
    Lack,
    /// It did not deliver in time.
    Late,
    /// What came was not what was announced; such a sibling is not asked again.
    Lied,
    /// Too much is being asked of it already.
    Busy,
}

/// What a message of the sibling was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// As it should be.
    Fine,
    /// More or fewer bytes or packets than announced.
    Lie,
}

#[derive(Debug)]
struct Asked {
    /// Who waits for it; `None` once it was given up. The answer may still come: until then nothing
    /// of the same name is asked, or it would be taken for the answer to that.
    id: Option<AskId>,
    request: Request,
    until: Instant,
}

/// The segment that is arriving.
#[derive(Debug)]
struct Arriving {
    /// Who waits for it; `None` once it was given up, and its packets are let go by.
    id: Option<AskId>,
    until: Instant,
    packets_left: usize,
    bytes_left: usize,
}

/// What was asked and what is arriving.
#[derive(Debug)]
pub(super) struct Receiver {
    within: Duration,
    asked: Deque<Asked, MAX_ASKED>,
    arriving: Option<Arriving>,
}

impl Receiver {
    pub(super) fn new(within: Duration) -> Self {
        Self {
            within,
            asked: Deque::new(),
            arriving: None,
        }
    }

    /// Asks for a segment.
    pub(super) fn ask(&mut self, now: Instant, id: AskId, request: Request) -> Output {
        let asked = Asked {
            id: Some(id),
            request: request.clone(),
            until: now + self.within,
        };
        let is_unanswered = self.asked.iter().any(|a| a.request.is_for_same(&request));
        if is_unanswered || self.asked.push_back(asked).is_err() {
            return Output::Lost(id, Lost::Busy);
        }
        Output::Send(Message::Request(request))
    }

    /// Takes BINARY.
    pub(super) fn announced(
        &mut self,
        now: Instant,
        header: &BinaryHeader,
    ) -> (Verdict, Option<Output>) {
        if self.arriving.is_some() {
            // The one before is not complete.
            return (Verdict::Lie, None);
        }
        // A segment has at least one byte, and so has each of its packets.
        let sound = (1..=MAX_SEGMENT).contains(&header.size)
            && (1..=header.size).contains(&header.attachments);
        if !sound {
            return (Verdict::Lie, None);
        }
        let asked = self.take(&header.request);
        self.arriving = Some(Arriving {
            id: asked.as_ref().and_then(|asked| asked.id),
            until: asked.as_ref().map_or(now, |asked| asked.until),
            packets_left: header.attachments,
            bytes_left: header.size,
        });
        let id = asked.and_then(|asked| asked.id);
        let output = id.map(|id| Output::Announced {
            id,
            size: header.size,
            crc32c: header.crc32c,
        });
        (Verdict::Fine, output)
    }

    /// Takes a packet of `bytes` bytes.
    pub(super) fn packet(&mut self, bytes: usize) -> (Verdict, Option<Output>) {
        let Some(arriving) = &mut self.arriving else {
            return (Verdict::Lie, None);
        };
        arriving.packets_left -= 1;
        let Some(left) = arriving.bytes_left.checked_sub(bytes) else {
            return (Verdict::Lie, None);
        };
        arriving.bytes_left = left;
        let last = arriving.packets_left == 0;
        if last && left > 0 {
            return (Verdict::Lie, None);
        }
        let output = arriving.id.map(|id| Output::Arrived { id, last });
        if last {
            self.arriving = None;
        }
        (Verdict::Fine, output)
    }

    /// Takes LACK.
    pub(super) fn lacked(&mut self, request: &Request) -> Option<Output> {
        let id = self.take(request)?.id?;
        Some(Output::Lost(id, Lost::Lack))
    }

    /// The next REQUEST that has taken too long.
    pub(super) fn late(&mut self, now: Instant) -> Option<Output> {
        if let Some(arriving) = self.arriving.as_mut().filter(|a| now >= a.until)
            && let Some(id) = arriving.id.take()
        {
            return Some(Output::Lost(id, Lost::Late));
        }
        let mut asked = self.asked.iter_mut();
        let late = asked.find(|asked| asked.id.is_some() && now >= asked.until)?;
        Some(Output::Lost(late.id.take()?, Lost::Late))
    }

    /// The next of everything that is open, when the channel ends.
    pub(super) fn give_up(&mut self, why: Lost) -> Option<Output> {
        let arriving = self
            .arriving
            .as_mut()
            .and_then(|arriving| arriving.id.take());
        let id = arriving.or_else(|| self.asked.iter_mut().find_map(|asked| asked.id.take()))?;
        Some(Output::Lost(id, why))
    }

    /// When [`Self::late`] is due, if at all.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let arriving = self.arriving.as_ref().filter(|a| a.id.is_some());
        let open = self.asked.iter().filter(|asked| asked.id.is_some());
        let asked = open.map(|asked| asked.until).min();
        [arriving.map(|a| a.until), asked]
            .into_iter()
            .flatten()
            .min()
    }

    fn take(&mut self, request: &Request) -> Option<Asked> {
        let mut found = None;
        for _ in 0..self.asked.len() {
            let asked = self.asked.pop_front()?;
            if found.is_none() && asked.request.is_for_same(request) {
                found = Some(asked);
            } else {
                // There is room: one was just taken out.
                let _ = self.asked.push_back(asked);
            }
        }
        found
    }
}
