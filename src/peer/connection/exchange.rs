//! The session's hands: what it wants done is found in the store, sent to the peer, and counted.

use std::time::Instant;

use bytes::BytesMut;
use rtc::shared::error::Error as RtcError;

use super::{Connection, Context, Life, MAX_SEGMENTS};
use crate::ids::tame;
use crate::session::{Answer, AskId, CloseReason, Found, Input, Lost, Output, RequestId};
use crate::store::{self, Arrival};
use crate::wire::{Claim, MAX_TEXT, Request};

impl Connection {
    /// Carries out what the session wants. `true` when there was anything.
    pub(super) fn outputs(&mut self, now: Instant, context: &Context, life: &mut Life) -> bool {
        let mut any = false;
        let current = self.current(context);
        loop {
            let outstanding = self.transport.outstanding();
            let Some(session) = &mut self.session else {
                return any;
            };
            let Some(output) = session.poll(outstanding, current) else {
                return any;
            };
            any = true;
            match output {
                Output::Find { id, request, asked } => {
                    let found = self.find(now, id, &request, asked, context);
                    self.input(now, Input::Found(id, found), context);
                }
                Output::Send(message) => self.send_text(now, message.to_text(), life),
                // Comes from `Session::next_packet` alone.
                Output::Packet(id, range) => self.send_packet(now, id, range, context, life),
                Output::Release(id) => {
                    self.segments.remove(&id);
                }
                Output::Announced { id, size, crc32c } => self.asks.announced(id, size, crc32c),
                Output::Arrived { id, last } => self.asks.arrived(id, last, &context.budget),
                Output::Lost(id, why) => self.lost(id, why, context),
                Output::Answered(answer) => self.count(answer),
                Output::Refused(reason) => {
                    context.metrics.refused_messages.add(1);
                    if !std::mem::replace(&mut self.told_of_bad_message, true) {
                        log::warn!(
                            "{}: refused {}; further ones go unmentioned",
                            self.key,
                            tame(&reason)
                        );
                    }
                }
                Output::Close(reason) => {
                    *life = Life::Over(match reason {
                        CloseReason::ByPeer => "it said CLOSE",
                        CloseReason::PeerError => "it said ERROR",
                        CloseReason::BadMessages => "too many messages were not of the protocol",
                        CloseReason::Stuck => {
                            "it acknowledged nothing, or too little, for too long"
                        }
                        CloseReason::Broken => "the rest of a segment did not come",
                        CloseReason::Lied => "it sent something else than it announced",
                        CloseReason::Stopped => "the box stops",
                    });
                }
            }
        }
    }

    fn lost(&mut self, id: AskId, why: Lost, context: &Context) {
        if why == Lost::Lack
            && let (Some(sibling), Some(uri)) = (&self.sibling, self.asks.uri(id))
        {
            context.siblings.lacked(&self.key.channel, uri, sibling);
        }
        self.asks.lost(id, why);
    }

    fn find(
        &mut self,
        now: Instant,
        id: RequestId,
        request: &Request,
        asked: Instant,
        context: &Context,
    ) -> Found {
        let (channel, uri) = (&self.key.channel, &request.uri);
        let found = match (&self.sibling, &request.claim) {
            (
                Some(sibling),
                Some(Claim {
                    playlist,
                    epoch_age,
                }),
            ) => {
                // Before this machine was up: any look is as good.
                let since = asked.checked_sub(*epoch_age);
                let (store, sequence) = (&context.store, request.sequence);
                match store.find_for_sibling(channel, uri.as_str(), sequence, playlist, since) {
                    store::Found::Absent if context.siblings.is_coming(channel, uri, sibling) => {
                        store::Found::Coming
                    }
                    found => found,
                }
            }
            // Ours always say; what one means that does not, nobody knows.
            (Some(_), None) => store::Found::Absent,
            (None, _) => context.store.find(channel, uri.as_str(), request.sequence),
        };
        match found {
            store::Found::Ready(reader) | store::Found::Arriving(reader) => {
                let (available, whole_at) = match reader.arrival(now) {
                    Arrival::Whole => (reader.len(), None),
                    Arrival::Under {
                        available,
                        whole_at,
                    } => (available, whole_at),
                    Arrival::Broken => return Found::Coming,
                };
                let size = reader.len();
                if !gets_there(now, asked, size, context) {
                    return Found::TooLate;
                }
                let segment = reader.segment().filter(|_| self.sibling.is_some());
                let crc32c = segment.map(|segment| segment.crc32c());
                if !self.has_room(context) || self.segments.insert(id, reader).is_err() {
                    return Found::NoRoom;
                }
                Found::Ready {
                    size,
                    crc32c,
                    available,
                    whole_at,
                }
            }
            store::Found::Coming => Found::Coming,
            store::Found::Absent => Found::Absent,
        }
    }

    /// Takes that there may be more of what arrives while it is sent; `true` if anything is being sent.
    pub(in crate::peer) fn grown(&mut self, now: Instant, context: &Context) -> bool {
        let news = self
            .segments
            .iter()
            .map(|(id, reader)| match reader.arrival(now) {
                Arrival::Under { available, .. } => Input::Grown(*id, available),
                Arrival::Whole => Input::Grown(*id, reader.len()),
                Arrival::Broken => Input::Broken(*id),
            });
        let news: heapless::Vec<Input<'_>, MAX_SEGMENTS> = news.collect();
        let any = !news.is_empty();
        for input in news {
            self.input(now, input, context);
        }
        any
    }

    fn send_text(&mut self, now: Instant, text: String, life: &mut Life) {
        debug_assert!(text.len() <= 2 * MAX_TEXT);
        let sent = self.transport.send_text(now, text);
        self.sent(sent, life);
    }

    pub(super) fn send_packet(
        &mut self,
        now: Instant,
        id: RequestId,
        range: std::ops::Range<usize>,
        context: &Context,
        life: &mut Life,
    ) {
        let Some(reader) = self.segments.get(&id) else {
            // A transfer that cannot go on must not leave the viewer waiting (protocol.md).
            *life = Life::Over("a segment vanished while it was being sent");
            return;
        };
        let bytes = match reader.read(range) {
            Ok(bytes) => BytesMut::from(bytes),
            Err(error) => {
                context.store.lose(&self.key.channel, reader, error);
                *life = Life::Over("a segment could not be read from the disk");
                return;
            }
        };
        let count = bytes.len() as u64;
        let sent = self.transport.send_packet(now, bytes);
        if sent.is_ok() {
            self.bytes_sent += count;
            match self.sibling {
                Some(_) => self.metrics.siblings.sent_bytes.add(count),
                None => self.metrics.served_p2p_bytes.add(count),
            }
        }
        self.sent(sent, life);
    }

    /// After a message that could not be sent the channel is ended: the viewer would wait for the
    /// rest in vain (protocol.md, "What hurts a viewer").
    fn sent(&self, sent: Result<(), RtcError>, life: &mut Life) {
        if let Err(error) = sent {
            log::debug!("{}: cannot send: {error}", self.key);
            *life = Life::Over("a message could not be sent");
        }
    }

    fn count(&mut self, answer: Answer) {
        match answer {
            Answer::Hit | Answer::Held => self.segments_sent += 1,
            Answer::Lack => self.lacks += 1,
        }
        // What a sibling asks says nothing of how viewers fare.
        if self.sibling.is_none() {
            match answer {
                Answer::Hit => self.metrics.requests_hit.add(1),
                Answer::Held => self.metrics.requests_held.add(1),
                Answer::Lack => self.metrics.requests_lack.add(1),
            }
        }
    }
}

/// Whether a segment that was asked for at `asked` gets there in time, whatever else has to be sent.
fn gets_there(now: Instant, asked: Instant, size: usize, context: &Context) -> bool {
    let Some(mut crowd) = context.crowd.get() else {
        return true;
    };
    let in_time = crowd.promise(now, asked, size);
    context.crowd.set(Some(crowd));
    in_time
}
