//! What goes into a session, and what comes out.

use std::ops::Range;
use std::time::Instant;

use super::receiver::{AskId, Lost};
use crate::wire::{Message, Request};

/// Names a REQUEST between the session and whoever drives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(pub(super) u32);

/// How far what was sent to a peer has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flight {
    /// Bytes that have been acknowledged, all in all.
    pub delivered: u64,
    /// Bytes that were handed over and have not been acknowledged.
    pub outstanding: usize,
    /// Whether nothing is on its way to any other peer.
    pub alone: bool,
    /// Bytes that had to be sent again, all in all and about.
    pub resent: u64,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// A text message arrived.
    Text(&'a [u8]),
    /// A binary message of this many bytes arrived. Whoever drives the session keeps them until
    /// [`Output::Arrived`] says whose they are.
    Binary(usize),
    /// Ask a sibling for a segment; it ends with [`Output::Arrived`] (`last`) or [`Output::Lost`].
    Ask(AskId, Request),
    /// The store's answer to [`Output::Find`].
    Found(RequestId, Found),
    /// More of a segment is here: this many bytes now.
    Grown(RequestId, usize),
    /// The rest of a segment will not come.
    Broken(RequestId),
    /// The store may answer differently from before.
    StoreChanged,
    /// The daemon stops: finish what is being sent, begin nothing new.
    Stop,
}

/// What the store has of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// All of it, or what is here of it while the rest is on its way. Its bytes stay readable until
    /// [`Output::Release`].
    Ready {
        /// Bytes of the segment.
        size: usize,
        /// Their CRC-32C, where the peer is a sibling and it is known.
        crc32c: Option<u32>,
        /// Of how many of its bytes, from the first, are here; [`Input::Grown`] says when there
        /// are more.
        available: usize,
        /// When all of them will be, by the pace so far; `None` if there is none yet.
        whole_at: Option<Instant>,
    },
    /// Nothing yet, but it is on its way.
    Coming,
    /// It is there, but there is no memory to send it from at the moment.
    NoRoom,
    /// It is there, but so much is to be sent before it that it would come too late.
    TooLate,
    /// Nothing, and nothing is known to come.
    Absent,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Ask the store, and answer with [`Input::Found`].
    Find {
        /// For the answer.
        id: RequestId,
        /// What is asked for.
        request: Request,
        /// When it was.
        asked: Instant,
    },
    /// Send a text message.
    Send(Message),
    /// Send these bytes of the segment as one binary message.
    Packet(RequestId, Range<usize>),
    /// The segment of this REQUEST is not needed any more.
    Release(RequestId),
    /// The sibling has announced what we asked for.
    Announced {
        /// Which of our REQUESTs.
        id: AskId,
        /// Bytes of the segment.
        size: usize,
        /// Their CRC-32C, if it knows.
        crc32c: Option<u32>,
    },
    /// The binary message that came with [`Input::Binary`] belongs to this REQUEST of ours.
    Arrived {
        /// Which.
        id: AskId,
        /// Whether the segment is whole now.
        last: bool,
    },
    /// This REQUEST of ours has come to nothing.
    Lost(AskId, Lost),
    /// A REQUEST has been answered.
    Answered(Answer),
    /// A message was refused, for this reason.
    Refused(String),
    /// Close the channel, for this reason; nothing follows.
    Close(CloseReason),
}

/// How a REQUEST was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// At once.
    Hit,
    /// After waiting for the segment, or for memory.
    Held,
    /// With LACK.
    Lack,
}

/// Why a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The peer said CLOSE.
    ByPeer,
    /// The peer said ERROR.
    PeerError,
    /// Too many messages that are not of the protocol.
    BadMessages,
    /// Nothing of what was sent has been acknowledged for 10 s, or not all of a segment for 30 s.
    Stuck,
    /// A sibling sent something else than it announced.
    Lied,
    /// The rest of the segment that was being sent will not come. A viewer that got a part would
    /// never ask on this channel again (protocol.md, "What hurts a viewer").
    Broken,
    /// The daemon stops, and everything under way has been sent.
    Stopped,
}
