//! Other boxes of the same operator in the same LAN. They find each other through the swarm, as
//! viewers do, and each segment is fetched from the origin once for all of them.
//!
//! # Who is a sibling
//!
//! Who holds the operator's secret (`[peer] sibling-secret`). An offer or answer between boxes
//! carries a MAC over its session description, and with that over the fingerprint of the DTLS
//! certificate: whoever relays it can neither forge nor alter it, and a copy of it is of no use
//! without the certificate's key ([`proof`]). Everybody else is a viewer: served, never asked.
//! Without a secret there are no siblings.
//!
//! A sibling is believed, but not blindly. What it sends has to have the announced size and, where
//! it gives one, the announced CRC-32C; and it answers only if it follows a playlist of the same
//! address and has looked at it since the asker knows it ([`Claim`](crate::wire::Claim)), so that a
//! name that an encoder uses again does not bring the older segment. That rests on boxes with the
//! same `url`, and on an origin that gives all of them the playlist of the moment.
//!
//! # Who fetches
//!
//! Whoever hears of a segment first. A box asks its siblings before the origin; one that is just
//! fetching the segment lets the other wait, one that knows nothing of it says LACK at once. If two
//! ask each other at the same moment, the one that ranks lower for this segment waits and the other
//! one fetches: [`Siblings::is_coming`]. Whoever waits in vain fetches after a second: these rules
//! spare the origin, no viewer depends on them.
//!
//! This room stands between `fetch`, which asks, and `peer`, which carries: neither knows the other.

pub mod proof;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::budget::Share;
use crate::ids::{BoxId, ChannelName, MediaSequence, SegmentUri};

/// Siblings asked for one segment at most: each one that has nothing costs a round trip.
const MAX_ASKED: usize = 3;

/// How long a sibling that did not deliver is not asked: some segments, so that a box that hangs
/// costs little, and one that has just started is found again soon.
const SHUNNED_FOR: Duration = Duration::from_secs(10);

/// How long siblings may take to deliver a segment whole, all of them together, before it is fetched
/// from the origin: a viewer's REQUEST is held for 1.6 s, so that the origin still has the rest of
/// it. Measured on a LAN a segment takes some 50 ms once a sibling has it.
pub const DELIVER_WITHIN: Duration = Duration::from_secs(1);

/// Parts of one answer that may wait for the disk: some 7 MB, more than a segment of high quality.
pub const MAX_PARTS: usize = 128;

/// Asks under way to the peers: as many downloads as a box of many channels runs at once.
const QUEUE: usize = 256;

/// A segment wanted from a sibling.
#[derive(Debug)]
pub struct Ask {
    /// Which sibling.
    pub to: BoxId,
    /// The channel.
    pub channel: ChannelName,
    /// The segment's URI as the playlist writes it.
    pub uri: SegmentUri,
    /// Its number there.
    pub sequence: MediaSequence,
    /// Address of the media playlist, as [`Claim`](crate::wire::Claim) has it.
    pub playlist: String,
    /// Since when this playlist is followed without the encoder starting anew.
    pub epoch_age: Duration,
    /// Where the answer goes, part by part, each packet with its share of the memory budget. Closed
    /// before [`Part::End`]: the sibling is gone, or the disk too slow.
    pub answer: mpsc::Sender<Part>,
}

/// A part of a sibling's answer.
#[derive(Debug)]
pub enum Part {
    /// It has the segment.
    Size {
        /// Its bytes.
        bytes: u64,
        /// Their CRC-32C, if the sibling says.
        crc32c: Option<u32>,
    },
    /// The next bytes.
    Packet(Bytes, Share),
    /// The segment was sent whole, as announced.
    End,
    /// It does not have it.
    Lack,
    /// It cannot come, for this reason, which says nothing of the sibling.
    Failed(&'static str),
    /// It should have come: the sibling is not to be asked for a while, for this reason.
    Unreliable(&'static str),
}

/// How far this box is with a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effort {
    /// It asks its siblings.
    Asking,
    /// It fetches from the origin.
    Fetching,
}

/// What `fetch` and `peer` know of the siblings. Clones share it.
#[derive(Clone, Debug)]
pub struct Siblings {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    own: BoxId,
    asks: mpsc::Sender<Ask>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    open: HashMap<ChannelName, Vec<BoxId>>,
    shunned: HashMap<(ChannelName, BoxId), Instant>,
    /// By the segment's name without its query: where each load of a playlist has other tokens, two
    /// boxes mean the same segment all the same.
    efforts: HashMap<(ChannelName, String), Efforts>,
}

/// What this box does to get one segment, for however many renditions that list it.
#[derive(Debug)]
struct Efforts {
    effort: Effort,
    attempts: usize,
    /// Siblings that do not have it either.
    lacked: Vec<BoxId>,
}

/// Says, as long as it lives, that this box is after a segment.
#[derive(Debug)]
pub struct Attempt {
    siblings: Siblings,
    key: (ChannelName, String),
}

impl Siblings {
    /// Nobody yet. The receiver is for whoever carries the [`Ask`]s.
    pub fn new() -> (Self, mpsc::Receiver<Ask>) {
        let (asks, carried) = mpsc::channel(QUEUE);
        let siblings = Self {
            inner: Arc::new(Inner {
                // 128 random bits: no two boxes have the same.
                own: BoxId::from(format!("{:032x}", rand::random::<u128>())),
                asks,
                state: Mutex::default(),
            }),
        };
        (siblings, carried)
    }

    /// What siblings call this box.
    pub fn own(&self) -> &BoxId {
        &self.inner.own
    }

    /// A channel to a sibling is open.
    pub fn opened(&self, channel: &ChannelName, sibling: &BoxId) {
        let mut state = self.state();
        state.shunned.remove(&(channel.clone(), sibling.clone()));
        state
            .open
            .entry(channel.clone())
            .or_default()
            .push(sibling.clone());
    }

    /// It is open no longer.
    pub fn closed(&self, channel: &ChannelName, sibling: &BoxId) {
        let mut state = self.state();
        let Some(open) = state.open.get_mut(channel) else {
            return;
        };
        if let Some(index) = open.iter().position(|other| other == sibling) {
            open.swap_remove(index);
        }
        if !open.contains(sibling) {
            state.shunned.remove(&(channel.clone(), sibling.clone()));
        }
    }

    /// Whether there is a channel to this sibling.
    pub fn is_open(&self, channel: &ChannelName, sibling: &BoxId) -> bool {
        let state = self.state();
        let open = state.open.get(channel);
        open.is_some_and(|open| open.contains(sibling))
    }

    /// Which siblings to ask for a segment at `now`, the best first.
    pub fn to_ask(&self, channel: &ChannelName, uri: &SegmentUri, now: Instant) -> Vec<BoxId> {
        let mut state = self.state();
        let state = &mut *state;
        state.shunned.retain(|_, until| now < *until);
        let mut chosen: Vec<BoxId> = state
            .open
            .get(channel)
            .into_iter()
            .flatten()
            .filter(|sibling| {
                let key = (channel.clone(), (*sibling).clone());
                !state.shunned.contains_key(&key)
            })
            .cloned()
            .collect();
        chosen.sort_by_key(|sibling| std::cmp::Reverse(rank(sibling, uri)));
        chosen.dedup();
        chosen.truncate(MAX_ASKED);
        chosen
    }

    /// Leaves a sibling that did not deliver alone for a while.
    pub fn shun(&self, channel: &ChannelName, sibling: BoxId, now: Instant) {
        let mut state = self.state();
        state
            .shunned
            .insert((channel.clone(), sibling), now + SHUNNED_FOR);
    }

    /// Passes a question to whoever carries it; `false` when that is more than it can take.
    pub fn ask(&self, ask: Ask) -> bool {
        self.inner.asks.try_send(ask).is_ok()
    }

    /// Says that this box is after a segment, and so far asks its siblings.
    pub fn attempt(&self, channel: &ChannelName, uri: &SegmentUri) -> Attempt {
        let key = (channel.clone(), path(uri).to_owned());
        let mut state = self.state();
        let first = || Efforts {
            effort: Effort::Asking,
            attempts: 0,
            lacked: Vec::new(),
        };
        let efforts = state.efforts.entry(key.clone()).or_insert_with(first);
        efforts.attempts += 1;
        drop(state);
        Attempt {
            siblings: self.clone(),
            key,
        }
    }

    /// A sibling said LACK. Taken down where it is heard, so that it counts for what the same sibling
    /// asks next.
    pub fn lacked(&self, channel: &ChannelName, uri: &SegmentUri, sibling: &BoxId) {
        let mut state = self.state();
        let key = (channel.clone(), path(uri).to_owned());
        let efforts = state.efforts.get_mut(&key);
        if let Some(efforts) = efforts.filter(|efforts| !efforts.lacked.contains(sibling)) {
            efforts.lacked.push(sibling.clone());
        }
    }

    /// Whether a sibling that asks for this segment, which is not here, should wait for it: it is
    /// being fetched from the origin; or it will be, because that sibling has said LACK itself, or
    /// ranks lower than this box and so gets no LACK to go and fetch it.
    pub fn is_coming(&self, channel: &ChannelName, uri: &SegmentUri, asker: &BoxId) -> bool {
        let state = self.state();
        let key = (channel.clone(), path(uri).to_owned());
        let Some(efforts) = state.efforts.get(&key) else {
            return false;
        };
        efforts.effort == Effort::Fetching
            || efforts.lacked.contains(asker)
            || rank(asker, uri) < rank(self.own(), uri)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attempt {
    /// From now on it is fetched from the origin.
    pub fn fetching(&self) {
        let mut state = self.siblings.state();
        if let Some(efforts) = state.efforts.get_mut(&self.key) {
            efforts.effort = Effort::Fetching;
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let mut state = self.siblings.state();
        if let Entry::Occupied(mut efforts) = state.efforts.entry(self.key.clone()) {
            efforts.get_mut().attempts -= 1;
            if efforts.get().attempts == 0 {
                efforts.remove();
            }
        }
    }
}

/// Which of several boxes goes first for a segment, the same on each of them; over many segments
/// each goes first as often as the others. `DefaultHasher::new` has fixed keys, but another release
/// of the compiler may hash otherwise: boxes of different builds then at worst both fetch.
fn rank(sibling: &BoxId, uri: &SegmentUri) -> (u64, BoxId) {
    let mut hasher = DefaultHasher::new();
    (sibling.as_str(), path(uri)).hash(&mut hasher);
    (hasher.finish(), sibling.clone())
}

fn path(uri: &SegmentUri) -> &str {
    let uri = uri.as_str();
    uri.split_once('?').map_or(uri, |(path, _)| path)
}
