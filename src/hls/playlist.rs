//! What is in a playlist, as far as it matters here.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use url::Url;

use super::Variables;
use crate::config::Variants;
use crate::ids::{ByteRange, MediaSequence, Resource, SegmentUri};

/// Segments of one media playlist at most: a day of 2 s segments is 43,200.
pub const MAX_SEGMENTS: usize = 50_000;
/// Bytes of one URI at most; signed URLs in the field stay below 2 KiB.
pub const MAX_URI: usize = 4096;
/// Variants and audio renditions of one multivariant playlist at most.
pub const MAX_VARIANTS: usize = 256;

/// What a playlist's text turned out to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Playlist {
    /// It lists other playlists (RFC 8216 section 4.3.4).
    Multivariant(Multivariant),
    /// It lists segments (RFC 8216 section 4.3.3).
    Media(MediaPlaylist),
}

/// A list of segments.
#[derive(Clone, Debug, PartialEq)]
pub struct MediaPlaylist {
    /// `EXT-X-TARGETDURATION`: no segment is longer, and reloads go by it. At most an hour.
    pub target_duration: Duration,
    /// `EXT-X-MEDIA-SEQUENCE`: the number of the first segment.
    pub media_sequence: MediaSequence,
    /// In the order of the list, numbered without gaps; the last one is the live edge.
    pub segments: Vec<MediaSegment>,
    /// `EXT-X-ENDLIST`: nothing will be added.
    pub endlist: bool,
    /// What its tags may refer to (`EXT-X-DEFINE`).
    pub variables: Variables,
}

/// One segment of a media playlist.
#[derive(Clone, Debug, PartialEq)]
pub struct MediaSegment {
    /// As written, variables replaced: this is how peers name it.
    pub uri: SegmentUri,
    /// Where it is fetched from, or why it is not.
    pub source: Result<Resource, Unfit>,
    /// Its number within the playlist.
    pub sequence: MediaSequence,
    /// `EXTINF`, at most an hour.
    pub duration: Duration,
    /// Whether `EXT-X-DISCONTINUITY` stands before it.
    pub discontinuity: bool,
    /// What a player needs before it, if anything.
    pub init: Option<Arc<InitSection>>,
    /// When its media begins by the encoder's clock: `EXT-X-PROGRAM-DATE-TIME` here, or before and
    /// counted on by durations.
    pub program_time: Option<SystemTime>,
}

/// A media initialization section (`EXT-X-MAP`, RFC 8216 section 4.3.2.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitSection {
    /// As written, variables replaced: this is how peers name it.
    pub uri: SegmentUri,
    /// Where it is fetched from, or why it is not.
    pub source: Result<Resource, Unfit>,
}

/// Why a segment keeps its place in the list but is not prefetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// `EXT-X-GAP`: the origin says that it is missing.
    Gap,
    /// `EXT-X-BYTERANGE` with a part that cannot be.
    ByteRange,
    /// The URI does not resolve to an `http` or `https` address.
    Address,
}

/// A list of playlists.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Multivariant {
    /// In the order of the list; never empty.
    pub variants: Vec<Variant>,
    /// Audio that is not inside the variants.
    pub audio: Vec<AudioRendition>,
    /// Other video and subtitles (`EXT-X-MEDIA`): not prefetched, but a viewer may ask for their
    /// segments.
    pub others: Vec<Url>,
    /// What its media playlists may import.
    pub variables: Arc<Variables>,
}

/// One `EXT-X-STREAM-INF`.
#[derive(Clone, Debug, PartialEq)]
pub struct Variant {
    /// Its media playlist.
    pub url: Url,
    /// `BANDWIDTH` in bits per second; 0 where the list does not say.
    pub bandwidth: u64,
    /// The group of its audio renditions.
    pub audio: Option<String>,
    /// Its `CODECS` are of sound alone: for devices without a screen. Players leave it out where
    /// others have pictures.
    pub only_sound: bool,
}

/// One `EXT-X-MEDIA:TYPE=AUDIO` with a playlist of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct AudioRendition {
    /// `GROUP-ID`, which variants refer to.
    pub group: String,
    /// Its media playlist.
    pub url: Url,
}

/// Why a text is refused as a playlist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlaylistError {
    /// It does not begin with `#EXTM3U`; holds how it begins.
    NotAPlaylist(String),
    /// It has tags of media and of multivariant playlists.
    Mixed,
    /// A media playlist without `EXT-X-TARGETDURATION`.
    NoTargetDuration,
    /// A URI without the `EXTINF` that every segment needs.
    NoDuration(String),
    /// A tag that matters cannot be read; holds its line.
    BadTag(String),
    /// A byte range that begins where no other one ends; holds the URI.
    NoRangeStart(String),
    /// A variable that nothing defines; holds its name.
    Undefined(String),
    /// A delta update (`EXT-X-SKIP`), which was not asked for.
    DeltaUpdate,
    /// A multivariant playlist without a variant that has an address.
    NoVariants,
    /// More entries than this limit.
    TooMany(usize),
    /// A URI longer than [`MAX_URI`]; holds its length.
    LongUri(usize),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gap => "the origin marks it as missing (EXT-X-GAP)",
            Self::ByteRange => "its byte range is empty or has no end (EXT-X-BYTERANGE)",
            Self::Address => "its URI is not an http or https address",
        })
    }
}

impl fmt::Display for PlaylistError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAPlaylist(begins) if begins.is_empty() => f.write_str("the answer is empty"),
            Self::NotAPlaylist(begins) => {
                write!(f, "not an HLS playlist: it begins with {begins:?}")
            }
            Self::Mixed => f.write_str("mixes tags of media and multivariant playlists"),
            Self::NoTargetDuration => f.write_str("has no EXT-X-TARGETDURATION"),
            Self::NoDuration(uri) => write!(f, "has no EXTINF before {uri:?}"),
            Self::BadTag(line) => write!(f, "cannot be read at {line:?}"),
            Self::NoRangeStart(uri) => write!(
                f,
                "does not say where the byte range of {uri:?} begins, and the segment before is no \
                 part of the same resource"
            ),
            Self::Undefined(name) => {
                write!(f, "needs the variable {name:?}, which nothing defines")
            }
            Self::DeltaUpdate => f.write_str("is a delta update, which was not asked for"),
            Self::NoVariants => f.write_str("lists no variant with an http or https address"),
            Self::TooMany(limit) => write!(f, "has more than {limit} entries"),
            Self::LongUri(length) => {
                write!(
                    f,
                    "has a URI of {length} bytes, more than the {MAX_URI} taken"
                )
            }
        }
    }
}

impl std::error::Error for PlaylistError {}

impl MediaPlaylist {
    /// The number of the last segment, the live edge.
    pub fn newest(&self) -> Option<MediaSequence> {
        self.segments.last().map(|segment| segment.sequence)
    }

    /// Each initialization section with the segment before which it is first needed, in the order of
    /// the list. One that recurs after another is told again.
    pub fn sections(&self) -> impl Iterator<Item = (MediaSequence, &InitSection)> {
        let mut last = None;
        self.segments.iter().filter_map(move |segment| {
            let init = segment.init.as_deref();
            let new = init.is_some() && std::mem::replace(&mut last, init) != init;
            init.filter(|_| new).map(|init| (segment.sequence, init))
        })
    }
}

impl MediaSegment {
    /// Which part of what is at its address it is, if it is a part.
    pub fn range(&self) -> Option<ByteRange> {
        self.source.as_ref().ok()?.range
    }
}

impl Multivariant {
    /// The media playlists to follow: those of the variants, then the audio renditions that a viewer
    /// of them may need, each address once.
    pub fn choose(&self, variants: Variants) -> Vec<Url> {
        // With equal bandwidths the first listed: later ones are commonly its backups.
        let chosen: Vec<&Variant> = match variants {
            Variants::All => self.variants.iter().collect(),
            Variants::Highest => {
                let best = self.variants.iter().rev();
                let best = best.max_by_key(|v| (!v.only_sound, v.bandwidth));
                best.into_iter().collect()
            }
            Variants::Lowest => {
                let best = self.variants.iter();
                let best = best.min_by_key(|v| (v.only_sound, v.bandwidth));
                best.into_iter().collect()
            }
        };
        // The same video is commonly listed once for each group of audio, and which of them a viewer
        // takes depends on what its device can decode.
        let is_chosen = |variant: &&Variant| chosen.iter().any(|other| other.url == variant.url);
        let groups: Vec<_> = self.variants.iter().filter(is_chosen).collect();
        let audio = self.audio.iter().filter(|rendition| {
            let group = Some(&rendition.group);
            groups.iter().any(|variant| variant.audio.as_ref() == group)
        });
        let all = chosen.iter().map(|v| &v.url).chain(audio.map(|a| &a.url));
        let mut urls: Vec<Url> = Vec::new();
        for url in all {
            if !urls.contains(url) {
                urls.push(url.clone());
            }
        }
        urls
    }
}
