//! One member of a channel: what it has said, whom it is paired with, and how good a parent it
//! makes.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use crate::ids::PeerId;

/// A socket as the server numbers it; a number is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(pub u64);

/// Children of one page: it has one small uplink. A box knows its own bound.
pub(crate) const MAX_CHILDREN: usize = 8;

/// A box with less than one in so many of its places free is passed over: its report is up to 30 s
/// old, viewers that are on their way to it may have taken the rest, and who loses its only parent
/// should still find a place somewhere.
const RESERVE: usize = 10;

/// A parent that fails so many children in a row is passed over. One failure may be the child's
/// own, three hardly are.
const MAX_REFUSALS: u8 = 3;

/// For how long a pair that failed is not formed again, and a parent that failed several children
/// is passed over: a box that was full may have room by then.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(60);

/// Failures remembered for each member; beyond that the oldest is forgotten.
const MAX_FAILED: usize = 16;

/// A finite number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Level(pub(crate) f64);

impl Ord for Level {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Level {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Level {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Level {}

/// Which parents are preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tier {
    /// Boxes with room.
    Box,
    /// Pages that hold something.
    Page,
    /// Boxes that are nearly full, and whoever failed several children in a row: better than
    /// nobody.
    LastResort,
}

/// How good a parent somebody makes; the best comes first. Boxes by how full they are, pages by
/// their level; of equal pages the oldest are filled first, so that they form a wide tree and not
/// a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    pub(crate) tier: Tier,
    level: Reverse<Level>,
    load: usize,
    /// Among equals, whose turn it is.
    turn: u64,
    pub(crate) socket: SocketId,
}

impl Rank {
    /// Before every rank of this tier.
    pub(crate) fn before(tier: Tier) -> Self {
        Self {
            tier,
            level: Reverse(Level(f64::INFINITY)),
            load: 0,
            turn: 0,
            socket: SocketId(0),
        }
    }
}

/// A child's side of a pair.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub(crate) parent: SocketId,
    /// When the two were told of each other.
    pub(crate) since: Instant,
    /// Whether the child has said that the data channel is open.
    pub(crate) opened: bool,
}

#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) id: PeerId,
    pub(crate) level: Level,
    /// How many more it takes, as far as we know: what it said, and what has changed since. Who
    /// says so is a box; whatever level a page claims, it stays a page.
    room: Option<usize>,
    refusals: u8,
    refused: Option<Instant>,
    /// Whether whoever lacked a parent was offered this one since it entered.
    pub(crate) offered: bool,
    turn: u64,
    pub(crate) parents: Vec<Link>,
    pub(crate) children: BTreeSet<SocketId>,
    pub(crate) siblings: BTreeSet<SocketId>,
    failed: VecDeque<(PeerId, Instant)>,
}

impl Member {
    pub(crate) fn new(id: PeerId) -> Self {
        Self {
            id,
            level: Level(0.0),
            room: None,
            refusals: 0,
            refused: None,
            offered: false,
            turn: 0,
            parents: Vec::new(),
            children: BTreeSet::new(),
            siblings: BTreeSet::new(),
            failed: VecDeque::new(),
        }
    }

    /// What it reports counts from now on; refusals are forgiven after [`RETRY_AFTER`].
    pub(crate) fn report(&mut self, level: f64, room: Option<u32>, now: Instant) {
        // `+ 0.0` makes -0 a 0, which the total order tells apart.
        self.level = Level(level + 0.0);
        self.room = room.map(|room| usize::try_from(room).unwrap_or(usize::MAX));
        let forgiven = |at| now.saturating_duration_since(at) >= RETRY_AFTER;
        if self.refused.is_some_and(forgiven) {
            self.reached();
        }
    }

    pub(crate) fn is_box(&self) -> bool {
        self.room.is_some()
    }

    /// Its place among the parents; `None`: it takes no child. A box without any room is left
    /// alone until it says otherwise: it would only refuse, and the viewer could not be sent to it
    /// again when it has room.
    pub(crate) fn rank(&self, socket: SocketId) -> Option<Rank> {
        let children = self.children.len();
        let (level, load, turn) = if self.is_box() {
            let load = children.saturating_mul(1000) / self.places();
            (Level(0.0), load, self.turn)
        } else {
            (self.level, 0, 0)
        };
        let takes_children = match self.is_box() {
            true => self.room != Some(0),
            false => self.level > Level(0.0) && children < MAX_CHILDREN,
        };
        takes_children.then_some(Rank {
            tier: self.tier(),
            level: Reverse(level),
            load,
            turn,
            socket,
        })
    }

    fn tier(&self) -> Tier {
        let nearly_full = self
            .room
            .is_some_and(|room| room.saturating_mul(RESERVE) < self.places());
        match self.is_box() {
            _ if nearly_full || self.refusals >= MAX_REFUSALS => Tier::LastResort,
            true => Tier::Box,
            false => Tier::Page,
        }
    }

    /// Whether less than half of its places are taken.
    pub(crate) fn has_ample_room(&self) -> bool {
        self.children.len().saturating_mul(2) < self.places()
    }

    /// At least 1.
    fn places(&self) -> usize {
        let room = self.room.unwrap_or(0);
        room.saturating_add(self.children.len()).max(1)
    }

    /// Gets a child; `turn` if it is the child's first parent.
    pub(crate) fn adopt(&mut self, child: SocketId, turn: Option<u64>) {
        if self.children.insert(child) {
            self.room = self.room.map(|room| room.saturating_sub(1));
        }
        self.turn = turn.unwrap_or(self.turn);
    }

    pub(crate) fn release(&mut self, child: SocketId) {
        if self.children.remove(&child) {
            self.room = self.room.map(|room| room.saturating_add(1));
        }
    }

    /// As a parent: a child reached it.
    pub(crate) fn reached(&mut self) {
        self.refusals = 0;
        self.refused = None;
    }

    /// As a parent: a child could not reach it.
    pub(crate) fn refused(&mut self, now: Instant) {
        self.refusals = self.refusals.saturating_add(1);
        self.refused = Some(now);
    }

    pub(crate) fn link_to(&mut self, parent: SocketId) -> Option<&mut Link> {
        self.parents.iter_mut().find(|link| link.parent == parent)
    }

    pub(crate) fn has_parent(&self, parent: SocketId) -> bool {
        self.parents.iter().any(|link| link.parent == parent)
    }

    pub(crate) fn remember_failure(&mut self, with: PeerId, now: Instant) {
        if self.failed.len() >= MAX_FAILED {
            self.failed.pop_front();
        }
        self.failed.push_back((with, now));
    }

    pub(crate) fn failed_lately(&self, with: &PeerId, now: Instant) -> bool {
        self.failed
            .iter()
            .any(|(failed, at)| failed == with && now.saturating_duration_since(*at) < RETRY_AFTER)
    }
}
