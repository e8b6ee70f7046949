//! Which segments a name stands for, and when it stands for too many.

use std::collections::{BTreeSet, HashMap};

use super::Key;
use crate::ids::RenditionIndex;

/// Names of one kind, and who bears them.
#[derive(Debug, Default)]
pub(super) struct Names {
    bearers: HashMap<Box<str>, Bearers>,
    /// Renditions that have had a name in common with another followed one.
    clashing: BTreeSet<RenditionIndex>,
    /// Renditions that have a name in common with a playlist that is not followed.
    shared: BTreeSet<RenditionIndex>,
    /// Those that ever had.
    shared_told: BTreeSet<RenditionIndex>,
    clash_told: bool,
}

#[derive(Debug, Default)]
struct Bearers {
    keys: Vec<Key>,
    /// Stays as long as anybody bears the name: a viewer may mean the one that has just expired.
    ambiguous: bool,
}

impl Names {
    /// Gives `key` a name; `unlike` says of another bearer that it is something else. Whether this
    /// is the first clash of all.
    pub(super) fn insert(&mut self, name: &str, key: Key, unlike: impl Fn(&Key) -> bool) -> bool {
        let bearers = self.bearers.entry(name.into()).or_default();
        for other in bearers.keys.iter().filter(|other| unlike(other)) {
            bearers.ambiguous = true;
            if other.0 != key.0 {
                self.clashing.extend([other.0, key.0]);
            }
        }
        bearers.keys.push(key);
        bearers.ambiguous && !std::mem::replace(&mut self.clash_told, true)
    }

    pub(super) fn remove(&mut self, name: &str, key: Key) {
        if let Some(bearers) = self.bearers.get_mut(name) {
            bearers.keys.retain(|other| *other != key);
            if bearers.keys.is_empty() {
                self.bearers.remove(name);
            }
        }
    }

    /// Playlists that are not followed share names with these renditions, and with no others if
    /// all of them were `seen`. Which of these never did before.
    pub(super) fn set_shared(
        &mut self,
        renditions: BTreeSet<RenditionIndex>,
        seen: bool,
    ) -> BTreeSet<RenditionIndex> {
        let new = renditions.difference(&self.shared_told).copied().collect();
        self.shared_told.extend(&new);
        if seen {
            self.shared = renditions;
        } else {
            self.shared.extend(renditions);
        }
        new
    }

    /// Who bears the name, if anybody does.
    pub(super) fn get(&self, name: &str) -> Option<&[Key]> {
        self.bearers
            .get(name)
            .map(|bearers| bearers.keys.as_slice())
    }

    /// Whether a viewer who says `name` may mean something else than what `rendition` has.
    pub(super) fn is_ambiguous(&self, name: &str, rendition: RenditionIndex) -> bool {
        let ambiguous = self
            .bearers
            .get(name)
            .is_some_and(|bearers| bearers.ambiguous);
        ambiguous || self.is_shared(rendition)
    }

    pub(super) fn is_shared(&self, rendition: RenditionIndex) -> bool {
        self.shared.contains(&rendition)
    }

    /// The followed renditions that may soon list a name that this one has.
    pub(super) fn rivals(&self, rendition: RenditionIndex) -> impl Iterator<Item = RenditionIndex> {
        let clashing = self.clashing.contains(&rendition).then_some(&self.clashing);
        let rivals = clashing.into_iter().flatten().copied();
        rivals.filter(move |other| *other != rendition)
    }
}
