//! The channel's playlists for players without WebRTC, which load them from the box as plain HLS
//! (`/live/<name>/`).

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use url::Url;

use crate::config::ChannelConfig;
use crate::hls::{self, Listed, MediaPlaylist, Multivariant, Written};
use crate::ids::{MediaSequence, RenditionIndex, without_password};
use crate::store::Store;

/// Bytes of a playlist that is offered at most: they are held, one for each playlist that is followed. A
/// recording of four hours in segments of 6 s takes some 250 kB.
pub const MAX_LAN_PLAYLIST: usize = 512 << 10;

/// The playlists of a channel as the box offers them; those that it does not are at the origin.
#[derive(Clone, Debug, Default)]
pub struct LanPlaylists {
    /// What lists the others, if the channel's own playlist does and is not too long.
    pub multivariant: Option<Bytes>,
    /// The media playlists that are followed, in the order of their rendition indexes: where they are at the
    /// origin, without passwords. Only the channel's own if it is one.
    pub followed: Vec<Url>,
    /// Those of them that have been loaded and are not too long.
    pub media: BTreeMap<RenditionIndex, Bytes>,
    /// What tells these playlists from others.
    pub(super) names: Vec<String>,
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

/// A multivariant playlist whose `followed` playlists are here; `None` if it is too long.
pub(super) fn multivariant(
    written: &Written,
    list: &Multivariant,
    followed: &[Url],
) -> Option<Bytes> {
    let followed: Vec<Url> = followed.iter().map(without_password).collect();
    let here = |address: &Url| {
        let address = without_password(address);
        let mut followed = (0..).map(RenditionIndex).zip(&followed);
        let (rendition, _) = followed.find(|(_, url)| **url == address)?;
        Some(LanPath::Media(rendition).to_string())
    };
    let list = hls::relist_multivariant(written, list, MAX_LAN_PLAYLIST, here);
    list.map(Bytes::from)
}

/// A media playlist of which what the store knows is here; `None` if it is too long.
pub(super) fn media(
    store: &Store,
    channel: &ChannelConfig,
    rendition: RenditionIndex,
    media: &MediaPlaylist,
    written: &Written,
) -> Option<Bytes> {
    let segments = store.announced(&channel.name, rendition);
    let sections = store.announced(&channel.name, rendition.sections());
    let first = media.media_sequence.0 + leaving(media, channel.window);
    let here = |listed: Listed<'_>| {
        let (found, otherwise) = match listed {
            Listed::Segment(segment) => {
                let found = segments.get(&segment.sequence);
                let found = found.filter(|_| segment.sequence.0 >= first && segment.source.is_ok());
                let otherwise = if segment.init.is_some() {
                    ".m4s"
                } else {
                    ".ts"
                };
                (found?, otherwise)
            }
            Listed::SectionOf(segment) => {
                let section = segment.init.as_deref()?;
                let range = section.source.as_ref().ok()?.range;
                let name = channel.matching.name(section.uri.as_str());
                let mut before = sections.range(..=segment.sequence).rev();
                let found = before.find(|(_, found)| {
                    channel.matching.name(found.uri.as_str()) == name
                        && found.resource.range == range
                });
                (found?.1, ".mp4")
            }
        };
        let path = LanPath::Segment(found.rendition, found.sequence);
        let suffix = suffix(&found.resource.url).unwrap_or(otherwise);
        Some(format!("{path}{suffix}"))
    };
    hls::relist_media(written, media, MAX_LAN_PLAYLIST, here).map(Bytes::from)
}

/// How many of the first segments of a live list stay at the origin, since the box lets go of them as soon as
/// they leave it, while an origin has them for some time longer (RFC 8216 section 6.2.2). Nobody begins there.
fn leaving(media: &MediaPlaylist, window: Duration) -> u64 {
    let length: Duration = media.segments.iter().map(|segment| segment.duration).sum();
    match media.endlist || length + 2 * media.target_duration < window {
        true => 0,
        // Of a short list a player begins near them.
        false => (media.segments.len() as u64).saturating_sub(4).min(2),
    }
}

/// With the dot, if the address has one that players may go by.
fn suffix(url: &Url) -> Option<&str> {
    let file = url.path().rsplit('/').next()?;
    let suffix = &file[file.rfind('.')?..];
    (2..=5).contains(&suffix.len()).then_some(suffix)
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
            ("http://o/a/1.ts?x=1.mp4", Some(".ts")),
            ("http://o/a/1.m4s", Some(".m4s")),
            ("http://o/a.b/1", None),
            ("http://o/a/1.", None),
            ("http://o/a/1.something", None),
        ] {
            assert_eq!(suffix(&Url::parse(address).unwrap()), expected, "{address}");
        }
    }
}
