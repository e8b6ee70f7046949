//! What tests ask of a channel.

use super::*;

impl Swarm {
    /// How many have no parent.
    pub(crate) fn orphans(&self) -> usize {
        let members = self.members.values();
        members.filter(|member| member.parents.is_empty()).count()
    }

    /// The longest way up from a member.
    fn depth(&self, socket: SocketId, known: &mut HashMap<SocketId, usize>) -> usize {
        if let Some(depth) = known.get(&socket) {
            return *depth;
        }
        let parents = self.links(socket).iter().map(|link| link.parent);
        let depth = parents.map(|parent| 1 + self.depth(parent, known)).max();
        known.insert(socket, depth.unwrap_or(0));
        depth.unwrap_or(0)
    }

    /// The longest way up from anybody.
    pub(crate) fn deepest(&self) -> usize {
        let mut known = HashMap::new();
        let depths = self
            .members
            .keys()
            .map(|socket| self.depth(*socket, &mut known));
        depths.max().unwrap_or(0)
    }

    /// What always holds.
    pub(crate) fn check(&self) {
        let ranked = self.members.keys().filter_map(|socket| self.rank(*socket));
        assert_eq!(ranked.collect::<BTreeSet<_>>(), self.ranking);
        assert_eq!(self.by_id.len(), self.members.len());
        assert!(self.lacking.len() <= self.members.len());
        assert!(
            self.bereft
                .iter()
                .all(|socket| self.members.contains_key(socket))
        );
        for (socket, member) in &self.members {
            assert!(member.parents.len() <= MAX_PARENTS);
            assert!(member.siblings.len() <= MAX_SIBLINGS);
            let may_be_lonely = member.is_box() && member.siblings.len() < MAX_SIBLINGS;
            assert_eq!(self.lonely.contains(socket), may_be_lonely);
            let parents = member.parents.len();
            let lacks = !member.is_box() && parents < MAX_PARENTS;
            assert_eq!(self.lacking.contains(&(parents, *socket)), lacks);
            for Link { parent, .. } in &member.parents {
                assert!(self.members[parent].children.contains(socket));
                assert!(!self.descends_from(*parent, *socket), "a cycle");
            }
            for child in &member.children {
                assert!(self.members[child].has_parent(*socket));
            }
            for sibling in &member.siblings {
                assert!(self.members[sibling].siblings.contains(socket));
                assert!(!member.has_parent(*sibling) && !member.children.contains(sibling));
            }
        }
    }
}
