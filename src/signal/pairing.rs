//! One channel: who is a parent of whom.
//!
//! A *parent* holds segments, a *child* asks it for them. Every page is given up to
//! [`MAX_PARENTS`] parents, the best first ([`member`](super::member)): boxes share the pages,
//! and without a box pages serve one another, the lower level the higher one's child, so that
//! segments flow downhill; since levels change later, a member's own descendants are excluded.
//!
//! Boxes have no parents. They are introduced to each other as *siblings*.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::member::{Level, Link, Member, Rank, SocketId, Tier};
use super::messages::{ParentNode, ServerMessage};
use crate::ids::PeerId;

/// Messages to send, in this order.
pub type Outbound = Vec<(SocketId, ServerMessage)>;

/// Parents of one page: it asks the second within 2 ms when the first lacks a segment
/// (protocol.md section 3).
pub(crate) const MAX_PARENTS: usize = 2;

/// Siblings of one box: each of them may ask for every segment, so few; and with four, two that
/// do not reach each other have others.
pub(crate) const MAX_SIBLINGS: usize = 4;

/// A pair of which no `dc_opened` is heard for this long has failed. In a LAN a data channel is
/// open within a second; a browser gives up after 15 s and more, and the page has nobody until then.
pub(crate) const OPEN_WITHIN: Duration = Duration::from_secs(10);

/// Children that a new parent gets at once: their offers, some 1 kB each with the candidates, are
/// half of what may wait for it in the server, and a small machine is busy for a while with so many
/// handshakes. Further children get it when they report, within 30 s. And so many who lost a
/// parent or a sibling are given another within one second; the others wait for the next.
pub(crate) const MAX_AT_ONCE: usize = 128;

/// Possible parents looked at for one member, and listed in `parents`: the best come first, and
/// one of them nearly always fits.
const MAX_CONSIDERED: usize = 16;

/// Ancestors looked at; a member with more of them counts as everybody's descendant.
const MAX_ANCESTORS: usize = 64;

/// The members of one channel. A socket is one member of it, so that sockets name members.
#[derive(Debug, Default)]
pub(crate) struct Swarm {
    members: BTreeMap<SocketId, Member>,
    by_id: HashMap<PeerId, SocketId>,
    /// Everybody who takes a child.
    ranking: BTreeSet<Rank>,
    /// Boxes that take a sibling, the oldest first.
    lonely: BTreeSet<SocketId>,
    /// Pages that lack a parent, by how many they have.
    lacking: BTreeSet<(usize, SocketId)>,
    /// Whoever lost a parent or a sibling and was not given another yet.
    bereft: BTreeSet<SocketId>,
    /// Of them, those who were looked after since the last tick.
    consoled: usize,
    /// Pairs that were formed, child first, in the order of time: to be looked at after
    /// [`OPEN_WITHIN`].
    formed: VecDeque<(Instant, SocketId, SocketId)>,
    /// First parents given.
    turns: u64,
}

impl Swarm {
    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn id_of(&self, socket: SocketId) -> Option<&PeerId> {
        self.members.get(&socket).map(|member| &member.id)
    }

    /// How many children a member has.
    pub(crate) fn children(&self, socket: SocketId) -> usize {
        let member = self.members.get(&socket);
        member.map_or(0, |member| member.children.len())
    }

    pub(crate) fn socket_of(&self, id: &PeerId) -> Option<SocketId> {
        self.by_id.get(id).copied()
    }

    /// Somebody enters.
    pub(crate) fn add(&mut self, socket: SocketId, id: PeerId, now: Instant, out: &mut Outbound) {
        self.by_id.insert(id.clone(), socket);
        self.members.insert(socket, Member::new(id.clone()));
        self.change(socket, |_| ());
        let accept = ServerMessage::Accept {
            live: true,
            peer_id: id,
        };
        out.push((socket, accept));
        self.find_parents(socket, now, out);
    }

    /// Somebody leaves: its children and siblings get others.
    pub(crate) fn remove(&mut self, socket: SocketId, now: Instant, out: &mut Outbound) {
        self.forget_place(socket);
        let Some(member) = self.members.remove(&socket) else {
            return;
        };
        self.by_id.remove(&member.id);
        self.bereft.remove(&socket);
        for link in &member.parents {
            self.change(link.parent, |parent| parent.release(socket));
        }
        for child in &member.children {
            self.change(*child, |child| {
                child.parents.retain(|link| link.parent != socket);
            });
        }
        for sibling in &member.siblings {
            self.change(*sibling, |sibling| _ = sibling.siblings.remove(&socket));
        }
        self.bereft.extend(member.children);
        self.bereft.extend(member.siblings);
        self.console(now, out);
    }

    /// Somebody reports its level, not negative and finite, and perhaps its room.
    pub(crate) fn report(
        &mut self,
        socket: SocketId,
        level: f64,
        room: Option<u32>,
        now: Instant,
        out: &mut Outbound,
    ) {
        // Who turns out to be a box is a new parent.
        let known = self.is_box(socket) == room.is_some();
        let before = self.rank(socket).filter(|_| known);
        self.change(socket, |member| member.report(level, room, now));
        let is_box = self.is_box(socket);
        if is_box {
            self.leave_parents(socket);
        }
        if before.is_none() && self.rank(socket).is_some() {
            // A page whose level comes and goes is no news.
            let member = self.members.get_mut(&socket);
            let offered = member.map(|member| std::mem::replace(&mut member.offered, true));
            if is_box {
                self.offer_box(socket, now, out);
            } else if offered == Some(false) {
                self.offer_to_lacking(socket, now, out);
            }
        }
        // Reports come regularly: the occasion to look again for what was not there before.
        self.find_others(socket, now, out);
    }

    /// A child reports that a data channel is open.
    pub(crate) fn opened(&mut self, reporter: SocketId, dc_id: &PeerId) {
        let Some(other) = self.other_end(reporter, dc_id) else {
            return;
        };
        for (child, parent) in [(reporter, other), (other, reporter)] {
            let member = self.members.get_mut(&child);
            if let Some(link) = member.and_then(|member| member.link_to(parent)) {
                link.opened = true;
                self.change(parent, |parent| parent.reached());
            }
        }
    }

    /// Either end reports that a data channel failed or closed.
    pub(crate) fn failed(
        &mut self,
        reporter: SocketId,
        dc_id: &PeerId,
        now: Instant,
        out: &mut Outbound,
    ) {
        if let Some(other) = self.other_end(reporter, dc_id) {
            self.part(reporter, other, now);
            self.console(now, out);
        }
    }

    /// Parts the pairs that have not come about in time, and gives others to whoever waits for
    /// them. To be called every second.
    pub(crate) fn expire(&mut self, now: Instant, out: &mut Outbound) {
        while let Some((since, child, parent)) = self.formed.front().copied()
            && now.saturating_duration_since(since) >= OPEN_WITHIN
        {
            self.formed.pop_front();
            let links = self.links(child).iter();
            let mut this = links.filter(|link| link.parent == parent && link.since == since);
            if this.any(|link| !link.opened) {
                self.part(child, parent, now);
            }
        }
        self.consoled = 0;
        self.console(now, out);
    }

    /// Whom this member could be paired with now, the best first.
    pub(crate) fn possible_parents(&self, socket: SocketId, now: Instant) -> Vec<ParentNode> {
        self.candidates(socket)
            .filter(|rank| self.may_pair(socket, *rank, now))
            .filter_map(|rank| self.members.get(&rank.socket))
            .map(|parent| ParentNode {
                peer_id: parent.id.clone(),
                ul_bw: parent.level.0,
            })
            .collect()
    }

    /// Gives others to whoever lost somebody: when a big box dies, the one that is left is not
    /// flooded with all its viewers at once.
    fn console(&mut self, now: Instant, out: &mut Outbound) {
        while self.consoled < MAX_AT_ONCE
            && let Some(bereft) = self.bereft.pop_first()
        {
            self.consoled += 1;
            self.find_others(bereft, now, out);
        }
    }

    /// Gives a member what it still lacks, as far as there is any: a page parents, a box siblings.
    fn find_others(&mut self, socket: SocketId, now: Instant, out: &mut Outbound) {
        if self.is_box(socket) {
            self.find_siblings(socket, now, out);
        } else {
            self.find_parents(socket, now, out);
        }
    }

    fn find_parents(&mut self, child: SocketId, now: Instant, out: &mut Outbound) {
        while self.links(child).len() < MAX_PARENTS {
            let best = self
                .candidates(child)
                .find(|rank| self.may_pair(child, *rank, now));
            match best {
                Some(parent) => self.pair(child, parent.socket, now, out),
                None => return,
            }
        }
    }

    fn find_siblings(&mut self, socket: SocketId, now: Instant, out: &mut Outbound) {
        let others: Vec<SocketId> = self.lonely.iter().copied().take(MAX_CONSIDERED).collect();
        for other in others {
            let (Some(one), Some(two)) = (self.members.get(&socket), self.members.get(&other))
            else {
                continue;
            };
            if one.siblings.len() < MAX_SIBLINGS
                && socket != other
                && !one.siblings.contains(&other)
                && !one.children.contains(&other)
                && !one.failed_lately(&two.id, now)
            {
                let (older, newer) = (socket.min(other), socket.max(other));
                self.introduce(older, newer, out);
                self.make_siblings(older, newer);
            }
        }
    }

    /// A box is anybody's child until it reports its level, a moment after it entered. A box that
    /// was its parent stays with it as a sibling.
    fn leave_parents(&mut self, socket: SocketId) {
        for Link { parent, .. } in self.links(socket).to_vec() {
            self.unlink(socket, parent);
            if self.lonely.contains(&parent) && self.lonely.contains(&socket) {
                self.make_siblings(socket, parent);
            }
        }
    }

    /// A new parent has appeared: whoever lacks one gets it, those without any first. Says how
    /// many got it.
    fn offer_to_lacking(&mut self, parent: SocketId, now: Instant, out: &mut Outbound) -> usize {
        let lacking = self.lacking.iter().map(|(_, child)| *child);
        let children: Vec<SocketId> = lacking.take(MAX_AT_ONCE).collect();
        let mut given = 0;
        for child in children {
            let Some(rank) = self.rank(parent) else {
                break;
            };
            if self.may_pair(child, rank, now) {
                self.pair(child, parent, now, out);
                given += 1;
            }
        }
        given
    }

    /// A box also takes the place of a page, so that a box that was away gets its viewers back.
    fn offer_box(&mut self, parent: SocketId, now: Instant, out: &mut Outbound) {
        let given = self.offer_to_lacking(parent, now, out);
        let children: Vec<(SocketId, SocketId)> = self
            .members
            .iter()
            .filter(|(_, member)| member.parents.len() == MAX_PARENTS)
            .filter_map(|(child, _)| Some((*child, self.weakest_page(*child)?)))
            .take(MAX_AT_ONCE - given)
            .collect();
        for (child, weakest) in children {
            let Some(rank) = self.rank(parent) else {
                return;
            };
            if self.may_pair(child, rank, now) {
                self.unlink(child, weakest);
                self.pair(child, parent, now, out);
            }
        }
    }

    /// Of its parents the page with the lowest level.
    fn weakest_page(&self, child: SocketId) -> Option<SocketId> {
        let parents = self.links(child).iter().map(|link| link.parent);
        parents
            .filter(|parent| !self.is_box(*parent))
            .min_by_key(|page| self.level(*page))
    }

    /// Who may be this member's parent, the best first.
    fn candidates(&self, child: SocketId) -> impl Iterator<Item = Rank> {
        let level = self.level(child);
        let pages = Rank::before(Tier::Page);
        let last_resort = Rank::before(Tier::LastResort);
        let boxes = self.ranking.range(..pages);
        let above = self.ranking.range(pages..last_resort);
        boxes
            .chain(above.take_while(move |page| self.level(page.socket) >= level))
            .chain(self.ranking.range(last_resort..))
            .take(MAX_CONSIDERED)
            .copied()
    }

    fn may_pair(&self, child: SocketId, parent: Rank, now: Instant) -> bool {
        let tier = parent.tier;
        let (Some(member), Some(other)) =
            (self.members.get(&child), self.members.get(&parent.socket))
        else {
            return false;
        };
        if child == parent.socket
            || member.is_box()
            || !other.is_box() && other.level < member.level
            || member.has_parent(parent.socket)
            || member.siblings.contains(&parent.socket)
        {
            return false;
        }
        // Who has a parent does not take the last places of a nearly full box, nor, if it has a
        // box, one of the places that viewers without any will need.
        let has_box = member.parents.iter().any(|link| self.is_box(link.parent));
        let is_needed = member.parents.is_empty()
            || tier != Tier::LastResort && !(has_box && other.is_box() && !other.has_ample_room());
        // Who has no child is nobody's ancestor.
        let may_be_ancestor = !member.children.is_empty();
        is_needed
            && !member.failed_lately(&other.id, now)
            && !(may_be_ancestor && self.descends_from(parent.socket, child))
    }

    fn descends_from(&self, member: SocketId, ancestor: SocketId) -> bool {
        let mut line = vec![member];
        let mut looked_at = 0;
        while let Some(member) = line.get(looked_at).copied() {
            if member == ancestor || line.len() > MAX_ANCESTORS {
                return true;
            }
            for Link { parent, .. } in self.links(member) {
                if !line.contains(parent) {
                    line.push(*parent);
                }
            }
            looked_at += 1;
        }
        false
    }

    fn rank(&self, socket: SocketId) -> Option<Rank> {
        self.members.get(&socket)?.rank(socket)
    }

    fn is_box(&self, socket: SocketId) -> bool {
        self.members.get(&socket).is_some_and(Member::is_box)
    }

    fn level(&self, socket: SocketId) -> Level {
        let member = self.members.get(&socket);
        member.map_or(Level(0.0), |member| member.level)
    }

    fn links(&self, socket: SocketId) -> &[Link] {
        let member = self.members.get(&socket);
        member.map_or(&[], |member| &member.parents)
    }

    fn pair(&mut self, child: SocketId, parent: SocketId, now: Instant, out: &mut Outbound) {
        self.introduce(parent, child, out);
        self.turns += 1;
        let turn = self.links(child).is_empty().then_some(self.turns);
        self.change(parent, |member| member.adopt(child, turn));
        self.change(child, |member| {
            member.parents.push(Link {
                parent,
                since: now,
                opened: false,
            });
        });
        self.formed.push_back((now, child, parent));
    }

    /// Who waits for the offer is told first: a page drops signals that arrive before its
    /// `connect` (protocol.md section 3).
    fn introduce(&self, waits: SocketId, offers: SocketId, out: &mut Outbound) {
        let (Some(waiting), Some(offering)) = (self.id_of(waits), self.id_of(offers)) else {
            return;
        };
        for (socket, to, initiator) in [(waits, offering, false), (offers, waiting, true)] {
            let to_peer_id = to.clone();
            let connect = ServerMessage::Connect {
                to_peer_id,
                initiator,
            };
            out.push((socket, connect));
        }
    }

    fn make_siblings(&mut self, one: SocketId, two: SocketId) {
        self.change(one, |member| _ = member.siblings.insert(two));
        self.change(two, |member| _ = member.siblings.insert(one));
    }

    /// The two are no longer a pair of any kind, will not be one again soon, and need others.
    fn part(&mut self, one: SocketId, two: SocketId, now: Instant) {
        for (one, two) in [(one, two), (two, one)] {
            let Some(id) = self.id_of(two).cloned() else {
                return;
            };
            let links = self.links(one).iter();
            if links.clone().any(|link| link.parent == two && !link.opened) {
                self.change(two, |parent| parent.refused(now));
            }
            self.unlink(one, two);
            self.change(one, |member| {
                member.siblings.remove(&two);
                member.remember_failure(id, now);
            });
        }
        self.bereft.extend([one, two]);
    }

    fn unlink(&mut self, child: SocketId, parent: SocketId) {
        self.change(child, |member| {
            member.parents.retain(|link| link.parent != parent);
        });
        self.change(parent, |member| member.release(child));
    }

    /// Changes a member and keeps its place among parents, siblings and those who lack one right.
    fn change(&mut self, socket: SocketId, change: impl FnOnce(&mut Member)) {
        self.forget_place(socket);
        let Some(member) = self.members.get_mut(&socket) else {
            return;
        };
        change(member);
        self.ranking.extend(member.rank(socket));
        let parents = member.parents.len();
        if member.is_box() {
            if member.siblings.len() < MAX_SIBLINGS {
                self.lonely.insert(socket);
            }
        } else if parents < MAX_PARENTS {
            self.lacking.insert((parents, socket));
        }
    }

    fn forget_place(&mut self, socket: SocketId) {
        if let Some(rank) = self.rank(socket) {
            self.ranking.remove(&rank);
        }
        self.lonely.remove(&socket);
        self.lacking.remove(&(self.links(socket).len(), socket));
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
#[path = "pairing_checks.rs"]
mod checks;
