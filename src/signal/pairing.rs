//! One channel: who is a parent of whom.
//!
//! A *parent* holds segments, a *child* asks it for them. Every peer is given up to
//! [`MAX_PARENTS`] parents, the highest level first, ties by fewest children. A parent's level is
//! above its child's when they are paired, so that segments flow downhill from the box; since
//! levels change later, a peer's own descendants are excluded as well.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use super::messages::{ParentNode, ServerMessage};
use super::swarm::{Outbound, SocketId};
use crate::ids::PeerId;

/// Parents of one peer: a page asks the second within 2 ms when the first lacks a segment
/// (protocol.md section 3).
pub(crate) const MAX_PARENTS: usize = 2;

/// Children of one peer, except of those with the highest level in the channel: those are boxes,
/// which know their own bound and refuse with `dc_failed`. A page has one small uplink.
pub(crate) const MAX_CHILDREN: usize = 8;

/// For how long a parent that failed a child is not offered to it again: a box that was full may
/// have room by then.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(60);

/// Failures remembered for each peer; beyond that the oldest is forgotten.
const MAX_FAILED: usize = 16;

/// Possible parents looked at for one peer, and listed in `parents`: the best come first, and one
/// of them nearly always fits.
const MAX_CONSIDERED: usize = 16;

/// Ancestors looked at; a peer with more of them counts as everybody's descendant.
const MAX_ANCESTORS: usize = 64;

/// The peers of one channel. A socket is one peer of it, so that sockets name peers.
#[derive(Debug, Default)]
pub(crate) struct Swarm {
    peers: HashMap<SocketId, Peer>,
    by_id: HashMap<PeerId, SocketId>,
    /// Everybody with a level above 0, the best parent first.
    ranking: BTreeSet<Rank>,
}

#[derive(Debug)]
struct Peer {
    id: PeerId,
    level: Level,
    parents: Vec<SocketId>,
    children: BTreeSet<SocketId>,
    failed: Vec<(PeerId, Instant)>,
}

/// Level, number of children, and the socket to make it unique.
type Rank = (Reverse<Level>, usize, SocketId);

/// A finite number.
#[derive(Clone, Copy, Debug)]
struct Level(f64);

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

impl Swarm {
    pub(crate) fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    pub(crate) fn id_of(&self, socket: SocketId) -> Option<&PeerId> {
        self.peers.get(&socket).map(|peer| &peer.id)
    }

    pub(crate) fn socket_of(&self, id: &PeerId) -> Option<SocketId> {
        self.by_id.get(id).copied()
    }

    /// A peer enters.
    pub(crate) fn add(&mut self, socket: SocketId, id: PeerId, now: Instant, out: &mut Outbound) {
        self.by_id.insert(id.clone(), socket);
        self.peers.insert(
            socket,
            Peer {
                id: id.clone(),
                level: Level(0.0),
                parents: Vec::new(),
                children: BTreeSet::new(),
                failed: Vec::new(),
            },
        );
        let accept = ServerMessage::Accept {
            live: true,
            peer_id: id,
        };
        out.push((socket, accept));
        self.find_parents(socket, now, out);
    }

    /// A peer leaves: its children get another parent.
    pub(crate) fn remove(&mut self, socket: SocketId, now: Instant, out: &mut Outbound) {
        if let Some(rank) = self.rank(socket) {
            self.ranking.remove(&rank);
        }
        let Some(peer) = self.peers.remove(&socket) else {
            return;
        };
        self.by_id.remove(&peer.id);
        for parent in peer.parents {
            self.change(parent, |parent| _ = parent.children.remove(&socket));
        }
        for child in &peer.children {
            self.change(*child, |child| child.parents.retain(|id| *id != socket));
        }
        for child in peer.children {
            self.find_parents(child, now, out);
        }
    }

    /// A peer reports its level: not negative, finite.
    pub(crate) fn set_level(
        &mut self,
        socket: SocketId,
        level: f64,
        now: Instant,
        out: &mut Outbound,
    ) {
        let before = self.level(socket);
        // `+ 0.0` makes -0 a 0, which the total order tells apart.
        let level = Level(level + 0.0);
        self.change(socket, |peer| peer.level = level);
        if before == Level(0.0) && level > before {
            self.leave_lesser_parents(socket);
            self.offer_to_all(socket, now, out);
        }
        // Reports come regularly: the occasion to look again for what was not there before.
        self.find_parents(socket, now, out);
    }

    /// A peer reports that a data channel failed or closed: the two are no longer a pair, and
    /// will not be one again soon.
    pub(crate) fn failed(
        &mut self,
        reporter: SocketId,
        dc_id: &PeerId,
        now: Instant,
        out: &mut Outbound,
    ) {
        let Some(other) = self.other_end(reporter, dc_id) else {
            return;
        };
        for (one, two) in [(reporter, other), (other, reporter)] {
            let Some(id) = self.id_of(two).cloned() else {
                return;
            };
            self.unlink(one, two);
            self.change(one, |peer| {
                if peer.failed.len() >= MAX_FAILED {
                    peer.failed.remove(0);
                }
                peer.failed.push((id, now));
            });
        }
        self.find_parents(reporter, now, out);
        self.find_parents(other, now, out);
    }

    /// Whom this peer could be paired with now, the best first.
    pub(crate) fn possible_parents(&self, socket: SocketId, now: Instant) -> Vec<ParentNode> {
        self.candidates(socket)
            .filter(|parent| self.may_pair(socket, *parent, now))
            .filter_map(|parent| self.peers.get(&parent))
            .map(|parent| ParentNode {
                peer_id: parent.id.clone(),
                ul_bw: parent.level.0,
            })
            .collect()
    }

    /// Gives a peer the parents that it still lacks, as far as there are any.
    fn find_parents(&mut self, child: SocketId, now: Instant, out: &mut Outbound) {
        while self.parents(child).len() < MAX_PARENTS {
            let best = self
                .candidates(child)
                .find(|parent| self.may_pair(child, *parent, now));
            match best {
                Some(parent) => self.link(child, parent, out),
                None => return,
            }
        }
    }

    /// A box is anybody's child until it reports its level, a moment after it entered. From then
    /// on those are to be its children.
    fn leave_lesser_parents(&mut self, child: SocketId) {
        if self.is_top(child) {
            for parent in self.parents(child).to_vec() {
                self.unlink(child, parent);
            }
        }
    }

    /// A new parent has appeared. Whoever lacks one gets it, those without any first; a box also
    /// takes the place of a lesser parent, so that a box that was away gets its viewers back.
    fn offer_to_all(&mut self, parent: SocketId, now: Instant, out: &mut Outbound) {
        let level = self.level(parent);
        let mut children: Vec<(usize, SocketId)> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.level < level)
            .map(|(child, peer)| (peer.parents.len(), *child))
            .collect();
        children.sort_unstable();
        for (parents, child) in children {
            if !self.has_room(parent) {
                return;
            }
            if !self.may_pair(child, parent, now) {
                continue;
            }
            if parents >= MAX_PARENTS {
                let of = self.parents(child);
                let weakest = of.iter().copied().min_by_key(|parent| self.level(*parent));
                match weakest {
                    Some(weakest) if self.is_top(parent) && self.level(weakest) < level => {
                        self.unlink(child, weakest);
                    }
                    _ => continue,
                }
            }
            self.link(child, parent, out);
        }
    }

    /// Peers with room whose level is above this one's, the best first.
    fn candidates(&self, child: SocketId) -> impl Iterator<Item = SocketId> {
        let level = self.level(child);
        self.ranking
            .iter()
            .take_while(move |(Reverse(above), ..)| *above > level)
            .map(|(_, _, parent)| *parent)
            .filter(|parent| self.has_room(*parent))
            .take(MAX_CONSIDERED)
    }

    fn may_pair(&self, child: SocketId, parent: SocketId, now: Instant) -> bool {
        let (Some(peer), Some(id)) = (self.peers.get(&child), self.id_of(parent)) else {
            return false;
        };
        let failed_lately = peer
            .failed
            .iter()
            .any(|(failed, at)| failed == id && now.saturating_duration_since(*at) < RETRY_AFTER);
        child != parent
            && !failed_lately
            && !peer.parents.contains(&parent)
            && !self.descends_from(parent, child)
    }

    fn descends_from(&self, peer: SocketId, ancestor: SocketId) -> bool {
        let mut seen = HashSet::from([peer]);
        let mut above = vec![peer];
        while let Some(peer) = above.pop() {
            if peer == ancestor || seen.len() > MAX_ANCESTORS {
                return true;
            }
            above.extend(
                self.parents(peer)
                    .iter()
                    .filter(|parent| seen.insert(**parent)),
            );
        }
        false
    }

    fn has_room(&self, parent: SocketId) -> bool {
        let children = self
            .peers
            .get(&parent)
            .map_or(0, |peer| peer.children.len());
        children < MAX_CHILDREN || self.is_top(parent)
    }

    fn is_top(&self, peer: SocketId) -> bool {
        let top = self.ranking.first();
        top.is_some_and(|(Reverse(top), ..)| *top == self.level(peer))
    }

    fn level(&self, peer: SocketId) -> Level {
        self.peers.get(&peer).map_or(Level(0.0), |peer| peer.level)
    }

    fn parents(&self, peer: SocketId) -> &[SocketId] {
        self.peers.get(&peer).map_or(&[], |peer| &peer.parents)
    }

    /// The parent is told first: a page drops signals that arrive before its `connect`
    /// (protocol.md section 3).
    fn link(&mut self, child: SocketId, parent: SocketId, out: &mut Outbound) {
        let (Some(child_id), Some(parent_id)) = (self.id_of(child), self.id_of(parent)) else {
            return;
        };
        for (socket, to, initiator) in [(parent, child_id, false), (child, parent_id, true)] {
            let to_peer_id = to.clone();
            out.push((
                socket,
                ServerMessage::Connect {
                    to_peer_id,
                    initiator,
                },
            ));
        }
        self.change(child, |peer| peer.parents.push(parent));
        self.change(parent, |peer| _ = peer.children.insert(child));
    }

    fn unlink(&mut self, child: SocketId, parent: SocketId) {
        self.change(child, |peer| peer.parents.retain(|id| *id != parent));
        self.change(parent, |peer| _ = peer.children.remove(&child));
    }

    /// Changes a peer and keeps its place in the ranking right.
    fn change(&mut self, socket: SocketId, change: impl FnOnce(&mut Peer)) {
        if let Some(rank) = self.rank(socket) {
            self.ranking.remove(&rank);
        }
        if let Some(peer) = self.peers.get_mut(&socket) {
            change(peer);
        }
        if let Some(rank) = self.rank(socket) {
            self.ranking.insert(rank);
        }
    }

    fn rank(&self, socket: SocketId) -> Option<Rank> {
        let peer = self.peers.get(&socket)?;
        (peer.level > Level(0.0)).then_some((Reverse(peer.level), peer.children.len(), socket))
    }

    /// A data channel's id is both ids one after the other, the reporter's usually first; some
    /// put a `-` between (protocol.md section 3). Ours are hexadecimal, so nothing is ambiguous.
    fn other_end(&self, reporter: SocketId, dc_id: &PeerId) -> Option<SocketId> {
        let own = self.id_of(reporter)?.to_string();
        let dc_id = dc_id.to_string();
        let other = match dc_id.strip_prefix(&own) {
            Some(other) => other.strip_prefix('-').unwrap_or(other),
            None => {
                let other = dc_id.strip_suffix(&own)?;
                other.strip_suffix('-').unwrap_or(other)
            }
        };
        self.socket_of(&PeerId::from(other))
    }
}

#[cfg(test)]
impl Swarm {
    /// What always holds.
    pub(crate) fn check(&self) {
        let ranked = self.peers.keys().filter_map(|peer| self.rank(*peer));
        assert_eq!(ranked.collect::<BTreeSet<_>>(), self.ranking);
        assert_eq!(self.by_id.len(), self.peers.len());
        for (socket, peer) in &self.peers {
            assert!(peer.parents.len() <= MAX_PARENTS && peer.failed.len() <= MAX_FAILED);
            for parent in &peer.parents {
                assert!(self.peers[parent].children.contains(socket));
                assert!(!self.descends_from(*parent, *socket), "a cycle");
            }
            for child in &peer.children {
                assert!(self.peers[child].parents.contains(socket));
            }
        }
    }
}
