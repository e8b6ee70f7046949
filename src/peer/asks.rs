//! What this box has asked of one sibling, and where the answers go.

use bytes::Bytes;
use heapless::LinearMap;
use tokio::sync::mpsc::Sender;

use crate::budget::Budget;
use crate::ids::SegmentUri;
use crate::session::{AskId, Lost};
use crate::sibling::{Ask, Part};
use crate::wire::{Claim, Request};

/// The session refuses before this is full.
const MAX_ASKS: usize = 16;

/// Open questions. Dropped with the connection, which tells whoever waits that it is gone.
#[derive(Default)]
pub(super) struct Asks {
    open: LinearMap<AskId, Open, MAX_ASKS>,
    next: u64,
    /// The binary message that came last, until its owner is known.
    pub(super) packet: Option<Bytes>,
}

struct Open {
    uri: SegmentUri,
    answer: Sender<Part>,
}

impl Asks {
    /// Remembers where the answer goes; gives what to say to the session.
    pub(super) fn add(&mut self, ask: Ask) -> Option<(AskId, Request)> {
        let id = AskId(self.next);
        self.next += 1;
        let open = Open {
            uri: ask.uri.clone(),
            answer: ask.answer,
        };
        if let Err((_, open)) = self.open.insert(id, open) {
            let _ = open.answer.try_send(Part::Lack);
            return None;
        }
        let request = Request {
            uri: ask.uri,
            sequence: Some(ask.sequence),
            claim: Some(Claim {
                playlist: ask.playlist,
                epoch_age: ask.epoch_age,
            }),
        };
        Some((id, request))
    }

    /// What was asked for.
    pub(super) fn uri(&self, id: AskId) -> Option<&SegmentUri> {
        self.open.get(&id).map(|open| &open.uri)
    }

    pub(super) fn announced(&mut self, id: AskId, size: usize, crc32c: Option<u32>) {
        let bytes = size as u64;
        self.say(id, Part::Size { bytes, crc32c });
    }

    /// The packet belongs to this question.
    pub(super) fn arrived(&mut self, id: AskId, last: bool, budget: &Budget) {
        let Some(packet) = self.packet.take() else {
            return;
        };
        match budget.try_take(packet.len()) {
            Some(share) => self.say(id, Part::Packet(packet, share)),
            None => self.end(
                id,
                Part::Failed("there is no memory for it ([memory] max-buffers)"),
            ),
        }
        if last {
            self.end(id, Part::End);
        }
    }

    pub(super) fn lost(&mut self, id: AskId, why: Lost) {
        let part = match why {
            // One that is busy may not be so the next time.
            Lost::Lack | Lost::Busy => Part::Lack,
            Lost::Late => Part::Unreliable("it took too long"),
            Lost::Lied => Part::Unreliable("it sent something else than it announced"),
        };
        self.end(id, part);
    }

    fn say(&mut self, id: AskId, part: Part) {
        let gone = self
            .open
            .get(&id)
            .is_some_and(|open| open.answer.try_send(part).is_err());
        if gone {
            // Whoever asked wants it no more, or does not keep up; the rest goes by.
            self.open.remove(&id);
        }
    }

    fn end(&mut self, id: AskId, part: Part) {
        self.say(id, part);
        self.open.remove(&id);
    }
}
