//! The channel's playlists for players without WebRTC, which load them from the box as plain HLS
//! (`/live/<name>/`).

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use url::Url;

use crate::hls::{self, Listed, MediaPlaylist, Multivariant, Written};
use crate::ids::{ChannelName, MediaSequence, RenditionIndex, without_password};
use crate::store::Store;

/// Bytes of a playlist that is offered at most: they are held, one for each playlist that is followed. A
/// recording of four hours in segments of 6 s takes some 250 kB.
pub const MAX_LAN_PLAYLIST: usize = 512 << 10;

/// The playlists of a channel as the box offers them.
#[derive(Clone, Debug, Default)]
pub struct LanPlaylists {
    /// What lists the others; `None` where the channel is a single media playlist.
    pub multivariant: Option<Bytes>,
    /// Those that are followed, as soon as they were loaded.
    pub media: BTreeMap<RenditionIndex, Bytes>,
}

/// What is below `/live/<name>/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LanPath {
    /// What a player is given: the multivariant playlist, or the only media playlist.
    Index,
    /// A media playlist.
    Media(RenditionIndex),
    /// A segment, or an initialization section, by the list that it belongs to and its number there.
    Segment(RenditionIndex, MediaSequence),
}

impl LanPath {
    /// `index.m3u8`, `0.m3u8`, `0/17.ts`, `0/init-17.mp4`; what follows a number is for players that go
    /// by it, and means nothing.
    pub fn parse(path: &str) -> Option<Self> {
        if path == "index.m3u8" {
            return Some(Self::Index);
        }
        let number = |text: &str| text.parse().ok().filter(|_| !text.starts_with('+'));
        let rendition = |text: &str| {
            let rendition = RenditionIndex(u16::try_from(number(text)?).ok()?);
            (!rendition.is_sections()).then_some(rendition)
        };
        let Some((list, file)) = path.split_once('/') else {
            return Some(Self::Media(rendition(path.strip_suffix(".m3u8")?)?));
        };
        let list = rendition(list)?;
        let (stem, _) = file.split_once('.').unwrap_or((file, ""));
        let (list, stem) = match stem.strip_prefix("init-") {
            Some(stem) => (list.sections(), stem),
            None => (list, stem),
        };
        Some(Self::Segment(list, MediaSequence(number(stem)?)))
    }
}

impl fmt::Display for LanPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index => f.write_str("index.m3u8"),
            Self::Media(list) => write!(f, "{}.m3u8", list.0),
            Self::Segment(list, number) => {
                let init = if list.is_sections() { "init-" } else { "" };
                write!(f, "{}/{init}{number}", list.playlist().0)
            }
        }
    }
}

/// A multivariant playlist whose `followed` playlists are here.
pub(super) fn multivariant(written: &Written, list: &Multivariant, followed: &[Url]) -> Bytes {
    let here = |address: &Url| {
        let address = without_password(address);
        let mut followed = (0..).map(RenditionIndex).zip(followed);
        let (rendition, _) = followed.find(|(_, url)| without_password(url) == address)?;
        Some(LanPath::Media(rendition).to_string())
    };
    hls::relist_multivariant(written, list, here).into()
}

/// A media playlist of which what the store knows is here; `None` if it is too long.
pub(super) fn media(
    store: &Store,
    channel: &ChannelName,
    rendition: RenditionIndex,
    media: &MediaPlaylist,
    written: &Written,
) -> Option<Bytes> {
    let segments = store.announced(channel, rendition);
    let sections = store.announced(channel, rendition.sections());
    let here = |listed: Listed<'_>| {
        let (list, number, source) = match listed {
            Listed::Segment(segment) => {
                let number = segment.sequence;
                segments.contains_key(&number).then_some(())?;
                (rendition, number, &segment.source)
            }
            Listed::SectionOf(segment) => {
                let section = segment.init.as_deref()?;
                let mut before = sections.range(..=segment.sequence).rev();
                let (number, _) = before.find(|(_, uri)| **uri == section.uri)?;
                (rendition.sections(), *number, &section.source)
            }
        };
        let url = &source.as_ref().ok()?.url;
        Some(format!("{}{}", LanPath::Segment(list, number), suffix(url)))
    };
    let list = hls::relist_media(written, media, here);
    (list.len() <= MAX_LAN_PLAYLIST).then(|| list.into())
}

/// With the dot; what players expect where the origin's address has none.
fn suffix(url: &Url) -> &str {
    let file = url.path().rsplit('/').next().unwrap_or_default();
    match file.rfind('.').map(|dot| &file[dot..]) {
        Some(suffix) if (2..=5).contains(&suffix.len()) => suffix,
        _ => ".ts",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_read_as_it_is_written_whatever_follows_the_number() {
        let (list, number) = (RenditionIndex(3), MediaSequence(17));
        let (segment, section) = (
            LanPath::Segment(list, number),
            LanPath::Segment(list.sections(), number),
        );
        for (path, text) in [
            (LanPath::Index, "index.m3u8"),
            (LanPath::Media(list), "3.m3u8"),
            (segment, "3/17"),
            (section, "3/init-17"),
        ] {
            assert_eq!(path.to_string(), text);
            assert_eq!(LanPath::parse(text), Some(path));
        }
        assert_eq!(LanPath::parse("3/17.tar.gz"), Some(segment));
        for text in [
            "", "3", "3/", "/17", "3/+17", "+3/17", "32771/17", "3/1/7", "a.m3u8", "3/init-",
        ] {
            assert_eq!(LanPath::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_suffix_is_the_files_own_if_it_is_one() {
        for (address, expected) in [
            ("http://o/a/1.ts?x=1.mp4", ".ts"),
            ("http://o/a/1.m4s", ".m4s"),
            ("http://o/a.b/1", ".ts"),
            ("http://o/a/1.", ".ts"),
            ("http://o/a/1.something", ".ts"),
        ] {
            assert_eq!(suffix(&Url::parse(address).unwrap()), expected, "{address}");
        }
    }
}
