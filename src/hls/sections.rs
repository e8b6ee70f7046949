//! Which initialization sections are needed from one load of a playlist to the next.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{InitSection, MediaSegment};
use crate::config::Matching;
use crate::ids::{MediaSequence, SegmentUri};

/// The initialization sections of the segments that a tracker knows.
///
/// A section is needed by a run of segments and stays as long as one of them is known. It is fetched
/// once for a run; a discontinuity begins another run even where the URI stays the same, for an
/// encoder that was started anew writes another section under the old name.
#[derive(Debug)]
pub(super) struct Sections {
    matching: Matching,
    /// By the first segment of each run.
    runs: BTreeMap<MediaSequence, Run>,
}

#[derive(Debug)]
struct Run {
    section: Arc<InitSection>,
    last: MediaSequence,
}

impl Sections {
    pub(super) fn new(matching: Matching) -> Self {
        Self {
            matching,
            runs: BTreeMap::new(),
        }
    }

    /// Takes in segments in the order of their numbers; gives the sections that are new, each with
    /// the first segment that needs it.
    pub(super) fn admit<'a>(
        &mut self,
        segments: impl Iterator<Item = &'a MediaSegment>,
    ) -> Vec<(MediaSequence, Arc<InitSection>)> {
        let mut new = Vec::new();
        for segment in segments {
            let Some(section) = &segment.init else {
                continue;
            };
            let number = segment.sequence;
            if let Some((_, run)) = self.runs.range_mut(..=number).next_back() {
                if run.last >= number {
                    continue;
                }
                let follows = run.last.0 + 1 == number.0 && !segment.discontinuity;
                if follows && is_same(self.matching, &run.section, section) {
                    run.last = number;
                    continue;
                }
            }
            let run = Run {
                section: Arc::clone(section),
                last: number,
            };
            self.runs.insert(number, run);
            new.push((number, Arc::clone(section)));
        }
        new
    }

    /// Whether this segment has been seen with another section.
    pub(super) fn contradict(&self, segment: &MediaSegment) -> bool {
        let run = self.runs.range(..=segment.sequence).next_back();
        let run = run.filter(|(_, run)| run.last >= segment.sequence);
        match (run, &segment.init) {
            (Some((_, run)), Some(section)) => !is_same(self.matching, &run.section, section),
            _ => false,
        }
    }

    /// Gives up what no segment from `oldest` on needs.
    pub(super) fn expire(
        &mut self,
        oldest: Option<MediaSequence>,
    ) -> Vec<(MediaSequence, SegmentUri)> {
        let mut gone = Vec::new();
        self.runs.retain(|number, run| {
            let needed = oldest.is_some_and(|oldest| run.last >= oldest);
            if !needed {
                gone.push((*number, run.section.uri.clone()));
            }
            needed
        });
        gone
    }
}

fn is_same(matching: Matching, one: &InitSection, other: &InitSection) -> bool {
    let range = |section: &InitSection| section.source.as_ref().ok().and_then(|r| r.range);
    matching.name(one.uri.as_str()) == matching.name(other.uri.as_str())
        && range(one) == range(other)
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::super::{MediaPlaylist, Playlist, Variables, parse};
    use super::*;

    /// A playlist from `first` on; an upper-case word is a tag before the next segment.
    fn list(first: u64, items: &str) -> MediaPlaylist {
        let mut text = format!("#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXT-X-MEDIA-SEQUENCE:{first}\n");
        for item in items.split_whitespace() {
            text += &match item.strip_prefix('#') {
                Some("DISC") => "#EXT-X-DISCONTINUITY\n".to_owned(),
                Some(map) => format!("#EXT-X-MAP:URI=\"{map}\"\n"),
                None => format!("#EXTINF:6,\n{item}\n"),
            };
        }
        let base = Url::parse("http://origin/index.m3u8").unwrap();
        match parse(&text, &base, &Variables::default()).unwrap() {
            Playlist::Media(media) => media,
            Playlist::Multivariant(_) => unreachable!(),
        }
    }

    fn admit(sections: &mut Sections, list: &MediaPlaylist) -> Vec<(u64, String)> {
        let new = sections.admit(list.segments.iter());
        new.into_iter()
            .map(|(number, section)| (number.0, section.uri.as_str().to_owned()))
            .collect()
    }

    #[test]
    fn a_section_is_wanted_once_for_all_the_segments_that_need_it() {
        let mut sections = Sections::new(Matching::Exact);
        let new = admit(&mut sections, &list(5, "#init 5 6 7"));
        assert_eq!(new, [(5, "init".to_owned())]);
        for first in 6..20 {
            let again = list(first, "#init a b c");
            assert_eq!(admit(&mut sections, &again), [], "from {first}");
        }
    }

    #[test]
    fn another_section_and_the_same_after_a_discontinuity_are_wanted_anew() {
        let mut sections = Sections::new(Matching::Exact);
        let ads = list(1, "#init 1 2 #DISC #ad 3 #DISC #init 4 5 #DISC 6");
        let names = |pairs: &[(u64, &str)]| -> Vec<(u64, String)> {
            pairs.iter().map(|(n, s)| (*n, (*s).to_owned())).collect()
        };
        let expected = names(&[(1, "init"), (3, "ad"), (4, "init"), (6, "init")]);
        assert_eq!(admit(&mut sections, &ads), expected);
        assert_eq!(admit(&mut sections, &ads), []);
    }

    #[test]
    fn a_section_stays_until_the_last_segment_that_needs_it_is_gone() {
        let mut sections = Sections::new(Matching::Exact);
        admit(&mut sections, &list(1, "#a 1 2 3 #b 4 5"));
        assert_eq!(sections.expire(Some(MediaSequence(3))), []);
        let gone = sections.expire(Some(MediaSequence(4)));
        assert_eq!(gone, [(MediaSequence(1), "a".into())]);
        let gone = sections.expire(None);
        assert_eq!(gone, [(MediaSequence(4), "b".into())]);
    }

    #[test]
    fn a_segment_that_comes_back_with_another_section_contradicts() {
        for (matching, expected) in [(Matching::Exact, true), (Matching::Path, false)] {
            let mut sections = Sections::new(matching);
            admit(&mut sections, &list(1, "#init?t=1 1 2"));
            let again = list(1, "#init?t=2 1 2");
            assert_eq!(sections.contradict(&again.segments[0]), expected);
            let other = list(1, "#other 1 2");
            assert!(sections.contradict(&other.segments[1]));
        }
    }
}
