//! Names that a playlist shares with others that nobody keeps an eye on.

use std::collections::{BTreeMap, HashMap};

use super::{MediaPlaylist, Unfit};
use crate::config::Matching;
use crate::ids::{RenditionIndex, SegmentUri};

/// A followed playlist gives a name to another segment than one that is not followed does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedName {
    /// The followed one.
    pub rendition: RenditionIndex,
    /// How names have to be matched for the two to be the same.
    pub matching: Matching,
    /// The name as it is written in the followed one.
    pub uri: SegmentUri,
}

/// Compares the first `followed` of `playlists` with what will not be seen of the others; `None` is
/// one that could not be loaded. One shared name is told of each rendition.
///
/// A playlist that could not be loaded does not count: viewers cannot load it either, and the next
/// look may bring it. Neither do segments of followed playlists, which the store compares by itself,
/// name by name, unless they are of a kind that is not stored.
pub fn shared_names(
    playlists: &[Option<&MediaPlaylist>],
    followed: usize,
    matching: Matching,
) -> Vec<SharedName> {
    let mut shared = shared_by(Matching::Exact, playlists, followed);
    if matching == Matching::Path {
        shared.extend(shared_by(Matching::Path, playlists, followed));
    }
    shared
}

fn shared_by(
    matching: Matching,
    playlists: &[Option<&MediaPlaylist>],
    followed: usize,
) -> Vec<SharedName> {
    let playlists = || (0..).map(RenditionIndex).zip(playlists);
    let named = || {
        playlists().flat_map(|(at, playlist)| {
            let segments = playlist.iter().flat_map(|playlist| &playlist.segments);
            let segments = segments.map(move |s| (at, &s.uri, &s.source));
            let sections = playlist.iter().flat_map(|playlist| playlist.sections());
            segments.chain(sections.map(move |(_, s)| (at.sections(), &s.uri, &s.source)))
        })
    };
    let is_followed = |at: RenditionIndex| usize::from(at.playlist().0) < followed;
    let mut served: HashMap<&str, Vec<_>> = HashMap::new();
    for (at, uri, source) in named().filter(|(at, _, s)| is_followed(*at) && s.is_ok()) {
        let name = matching.name(uri.as_str());
        served.entry(name).or_default().push((at, uri, source));
    }
    let mut shared = BTreeMap::new();
    for (at, uri, source) in named() {
        let unseen = match source {
            Ok(_) => !is_followed(at),
            // Nobody asks for it.
            Err(Unfit::Gap) => false,
            Err(_) => true,
        };
        let namesakes = served.get(matching.name(uri.as_str()));
        for (rendition, our_uri, ours) in namesakes.into_iter().flatten().filter(|_| unseen) {
            let elsewhere = rendition.playlist() != at.playlist();
            let same = *our_uri == uri && *ours == source;
            if elsewhere && !same {
                shared
                    .entry(*rendition)
                    .or_insert_with(|| (*our_uri).clone());
            }
        }
    }
    let told = shared.into_iter().map(|(rendition, uri)| SharedName {
        rendition,
        matching,
        uri,
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::super::{Playlist, Variables, parse};
    use super::*;

    fn list(folder: &str, lines: &[&str]) -> MediaPlaylist {
        let mut text = "#EXTM3U\n#EXT-X-TARGETDURATION:6\n".to_owned();
        for line in lines {
            text += &format!("#EXTINF:6,\n{line}\n");
        }
        let base = Url::parse(&format!("http://origin/{folder}/index.m3u8")).unwrap();
        match parse(&text, &base, &Variables::default()).unwrap() {
            Playlist::Media(media) => media,
            Playlist::Multivariant(_) => unreachable!(),
        }
    }

    fn shared(lists: &[&MediaPlaylist], followed: usize, matching: Matching) -> Vec<(u16, String)> {
        let lists: Vec<_> = lists.iter().map(|list| Some(*list)).collect();
        shared_names(&lists, followed, matching)
            .into_iter()
            .map(|shared| (shared.rendition.0, shared.uri.as_str().to_owned()))
            .collect()
    }

    #[test]
    fn a_name_shared_with_a_list_that_is_not_followed_concerns_the_rendition_that_has_it() {
        let (video, audio) = (list("high", &["1.ts", "2.ts"]), list("audio", &["a1.aac"]));
        let low = list("low", &["2.ts", "3.ts"]);
        let all = [&video, &audio, &low];
        assert_eq!(shared(&all, 2, Matching::Exact), [(0, "2.ts".to_owned())]);
        assert_eq!(shared(&all, 3, Matching::Exact), [], "the store sees all");
    }

    #[test]
    fn the_same_resource_in_two_lists_is_no_clash_and_neither_is_what_nobody_asks_for() {
        let ours = list("high", &["http://ads/1.ts", "2.ts"]);
        let theirs = list("low", &["http://ads/1.ts", "#EXT-X-GAP\n2.ts"]);
        assert_eq!(shared(&[&ours, &theirs], 1, Matching::Exact), []);
    }

    #[test]
    fn a_part_of_a_resource_is_not_the_resource() {
        let ours = list("high", &["all.ts"]);
        let parts = list("high", &["#EXT-X-BYTERANGE:10@0\nall.ts"]);
        let all = [&ours, &parts];
        assert_eq!(shared(&all, 1, Matching::Exact), [(0, "all.ts".to_owned())]);
        assert_eq!(shared(&all, 2, Matching::Exact), [], "the store sees both");
    }

    #[test]
    fn a_section_of_a_list_that_is_not_followed_shares_names_as_segments_do() {
        let with_map = |folder| list(folder, &["#EXT-X-MAP:URI=\"i.mp4\"\n1.m4s"]);
        let (high, low) = (with_map("high"), with_map("low"));
        let sections = RenditionIndex(0).sections().0;
        let expected = [(0, "1.m4s".to_owned()), (sections, "i.mp4".to_owned())];
        assert_eq!(shared(&[&high, &low], 1, Matching::Exact), expected);
        let own = list("high", &["#EXT-X-MAP:URI=\"a.mp4\"\na.mp4"]);
        assert_eq!(shared(&[&own], 1, Matching::Exact), []);
    }

    #[test]
    fn queries_tell_names_apart_only_where_they_count() {
        let (high, low) = (list("high", &["1.ts?t=a"]), list("low", &["1.ts?t=b"]));
        assert_eq!(shared(&[&high, &low], 1, Matching::Exact), []);
        let by_path = shared_names(&[Some(&high), Some(&low)], 1, Matching::Path);
        let expected = SharedName {
            rendition: RenditionIndex(0),
            matching: Matching::Path,
            uri: "1.ts?t=a".into(),
        };
        assert_eq!(by_path, [expected]);
    }

    #[test]
    fn a_list_that_could_not_be_loaded_says_nothing() {
        let ours = list("high", &["1.ts"]);
        assert_eq!(shared_names(&[Some(&ours), None], 1, Matching::Exact), []);
    }
}
