//! From the text of a playlist to what is in it.
//!
//! `quick-m3u8` reads the lines; what they mean together (RFC 8216 section 4.3) is decided here.
//! A list that cannot be understood is refused as a whole; a single segment that cannot be
//! prefetched keeps its place and says why ([`Unfit`]), because the numbers of those after it
//! depend on it. Keys are never looked at: encrypted segments pass through as they are.

use std::fmt;
use std::sync::LazyLock;
use std::time::Duration;

use quick_m3u8::config::{ParsingOptions, ParsingOptionsBuilder};
use quick_m3u8::tag::KnownTag;
use quick_m3u8::tag::hls::{EnumeratedString, MediaType, Tag};
use quick_m3u8::{HlsLine, Reader};
use url::Url;

use crate::config::Variants;
use crate::ids::{MediaSequence, SegmentUri};

/// Segments of one media playlist at most: a day of 2 s segments is 43,200.
pub const MAX_SEGMENTS: usize = 50_000;
/// Bytes of one URI at most; signed URLs in the field stay below 2 KiB.
pub const MAX_URI: usize = 4096;
/// Variants and audio renditions of one multivariant playlist at most.
pub const MAX_VARIANTS: usize = 256;
/// No segment is this long; also keeps the next reload within reason.
const MAX_DURATION: Duration = Duration::from_secs(3600);

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
    /// Whether there is an `EXT-X-MAP`. Players take it over HTTP; it is not prefetched.
    pub has_map: bool,
}

/// One segment of a media playlist.
#[derive(Clone, Debug, PartialEq)]
pub struct MediaSegment {
    /// Exactly as written: this is how peers name it.
    pub uri: SegmentUri,
    /// Where it is fetched from, or why it is not.
    pub source: Result<Url, Unfit>,
    /// Its number within the playlist.
    pub sequence: MediaSequence,
    /// `EXTINF`, at most an hour.
    pub duration: Duration,
    /// Whether `EXT-X-DISCONTINUITY` stands before it.
    pub discontinuity: bool,
}

/// Why a segment keeps its place in the list but is not prefetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// `EXT-X-GAP`: the origin says that it is missing.
    Gap,
    /// `EXT-X-BYTERANGE`: a part of a resource; peers name whole ones.
    ByteRange,
    /// The URI holds a variable of `EXT-X-DEFINE`.
    Variable,
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
            Self::ByteRange => "it is a byte range (EXT-X-BYTERANGE)",
            Self::Variable => "its URI holds a variable (EXT-X-DEFINE)",
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

/// Only the tags that matter here: what is not read cannot be misread.
static OPTIONS: LazyLock<ParsingOptions> = LazyLock::new(|| {
    ParsingOptionsBuilder::new()
        .with_parsing_for_targetduration()
        .with_parsing_for_media_sequence()
        .with_parsing_for_endlist()
        .with_parsing_for_inf()
        .with_parsing_for_discontinuity()
        .with_parsing_for_media()
        .with_parsing_for_stream_inf()
        .build()
});

/// Reads `text`, which came from `base` (the final address, after redirects).
///
/// # Errors
/// [`PlaylistError`] where the list as a whole cannot be understood or is out of bounds.
pub fn parse(text: &str, base: &Url) -> Result<Playlist, PlaylistError> {
    let text = text.trim_start_matches('\u{feff}');
    if !text.starts_with("#EXTM3U") {
        return Err(PlaylistError::NotAPlaylist(beginning(text)));
    }
    let mut draft = Draft::new(base);
    let mut reader = Reader::from_str(text, OPTIONS.clone());
    loop {
        match reader.read_line() {
            Ok(None) => break,
            Ok(Some(HlsLine::KnownTag(KnownTag::Hls(tag)))) => draft.tag(tag)?,
            Ok(Some(HlsLine::UnknownTag(tag))) => {
                let malformed = tag.validation_error().is_some();
                draft.other_tag(tag.name(), malformed, tag.as_bytes())?;
            }
            Ok(Some(HlsLine::Uri(uri))) => draft.uri(uri.trim())?,
            // Comments, blank lines, and a tag without a name: to be ignored (section 4.1).
            Ok(Some(_)) | Err(_) => {}
        }
    }
    draft.finish()
}

impl MediaPlaylist {
    /// The number of the last segment, the live edge.
    pub fn newest(&self) -> Option<MediaSequence> {
        self.segments.last().map(|segment| segment.sequence)
    }
}

impl Multivariant {
    /// The media playlists to follow: those of the variants, then their audio renditions, each
    /// address once.
    pub fn choose(&self, variants: Variants) -> Vec<Url> {
        // With equal bandwidths the first listed: later ones are commonly its backups.
        let chosen: Vec<&Variant> = match variants {
            Variants::All => self.variants.iter().collect(),
            Variants::Highest => {
                let best = self.variants.iter().rev().max_by_key(|v| v.bandwidth);
                best.into_iter().collect()
            }
            Variants::Lowest => {
                let best = self.variants.iter().min_by_key(|v| v.bandwidth);
                best.into_iter().collect()
            }
        };
        let audio = self.audio.iter().filter(|rendition| {
            let group = Some(&rendition.group);
            chosen.iter().any(|variant| variant.audio.as_ref() == group)
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

/// A playlist while its lines are read.
struct Draft<'a> {
    base: &'a Url,
    target_duration: Option<Duration>,
    media_sequence: Option<u64>,
    segments: Vec<MediaSegment>,
    endlist: bool,
    has_map: bool,
    multivariant: Multivariant,
    seen_multivariant: bool,
    seen_media: bool,
    next: Next,
}

/// What the tags so far say about the next URI.
#[derive(Default)]
struct Next {
    duration: Option<Duration>,
    unfit: Option<Unfit>,
    discontinuity: bool,
    variant: Option<(u64, Option<String>)>,
}

impl<'a> Draft<'a> {
    fn new(base: &'a Url) -> Self {
        Self {
            base,
            target_duration: None,
            media_sequence: None,
            segments: Vec::new(),
            endlist: false,
            has_map: false,
            multivariant: Multivariant::default(),
            seen_multivariant: false,
            seen_media: false,
            next: Next::default(),
        }
    }

    fn tag(&mut self, tag: Tag<'_>) -> Result<(), PlaylistError> {
        match tag {
            Tag::Targetduration(tag) => {
                self.seen_media = true;
                let duration = Duration::from_secs(tag.target_duration());
                self.target_duration = Some(duration.min(MAX_DURATION));
            }
            Tag::MediaSequence(tag) => {
                self.seen_media = true;
                self.media_sequence = Some(tag.media_sequence());
            }
            Tag::Endlist(_) => {
                self.seen_media = true;
                self.endlist = true;
            }
            Tag::Inf(tag) => {
                self.seen_media = true;
                let duration = Duration::try_from_secs_f64(tag.duration())
                    .map_err(|_| PlaylistError::BadTag(format!("#EXTINF:{}", tag.duration())))?;
                self.next.duration = Some(duration.min(MAX_DURATION));
            }
            Tag::Discontinuity(_) => self.next.discontinuity = true,
            Tag::StreamInf(tag) => {
                self.seen_multivariant = true;
                self.next.variant = Some((tag.bandwidth(), tag.audio().map(str::to_owned)));
            }
            Tag::Media(tag) => {
                self.seen_multivariant = true;
                let audio = tag.media_type() == EnumeratedString::Known(MediaType::Audio);
                // Without a URI the audio is inside the variants (section 4.3.4.2.1).
                if let (true, Some(uri)) = (audio, tag.uri())
                    && let Ok(url) = self.resolve(uri)?
                {
                    let group = tag.group_id().to_owned();
                    self.multivariant.audio.push(AudioRendition { group, url });
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A tag known by its name alone, or one that could not be read.
    fn other_tag(&mut self, name: &str, malformed: bool, line: &[u8]) -> Result<(), PlaylistError> {
        match name {
            "-X-GAP" => self.next.unfit = Some(Unfit::Gap),
            "-X-BYTERANGE" => self.next.unfit = self.next.unfit.or(Some(Unfit::ByteRange)),
            "-X-MAP" => self.has_map = true,
            "-X-SKIP" => return Err(PlaylistError::DeltaUpdate),
            // Seen without the BANDWIDTH that section 4.3.4.2 asks for: still a variant.
            "-X-STREAM-INF" => {
                self.seen_multivariant = true;
                self.next.variant = Some((0, None));
            }
            "-X-MEDIA" => self.seen_multivariant = true,
            _ if malformed => {
                let line = String::from_utf8_lossy(line);
                return Err(PlaylistError::BadTag(beginning(&line)));
            }
            _ => {}
        }
        Ok(())
    }

    fn uri(&mut self, uri: &str) -> Result<(), PlaylistError> {
        if uri.is_empty() {
            return Ok(());
        }
        let source = self.resolve(uri)?;
        let next = std::mem::take(&mut self.next);
        if let Some((bandwidth, audio)) = next.variant {
            if let Ok(url) = source {
                self.multivariant.variants.push(Variant {
                    url,
                    bandwidth,
                    audio,
                });
            }
            let entries = self.multivariant.variants.len() + self.multivariant.audio.len();
            return within(entries, MAX_VARIANTS);
        }
        let duration = next
            .duration
            .ok_or_else(|| PlaylistError::NoDuration(beginning(uri)))?;
        self.segments.push(MediaSegment {
            uri: SegmentUri::from(uri),
            source: next.unfit.map_or(source, Err),
            // Numbered in `finish`, once EXT-X-MEDIA-SEQUENCE is known for sure.
            sequence: MediaSequence::default(),
            duration,
            discontinuity: next.discontinuity,
        });
        within(self.segments.len(), MAX_SEGMENTS)
    }

    fn resolve(&self, uri: &str) -> Result<Result<Url, Unfit>, PlaylistError> {
        if uri.len() > MAX_URI {
            return Err(PlaylistError::LongUri(uri.len()));
        }
        if uri.contains("{$") {
            return Ok(Err(Unfit::Variable));
        }
        let url = self.base.join(uri).ok();
        let url = url.filter(|url| matches!(url.scheme(), "http" | "https"));
        Ok(url.ok_or(Unfit::Address))
    }

    fn finish(mut self) -> Result<Playlist, PlaylistError> {
        if self.seen_multivariant && self.seen_media {
            return Err(PlaylistError::Mixed);
        }
        if self.seen_multivariant {
            if self.multivariant.variants.is_empty() {
                return Err(PlaylistError::NoVariants);
            }
            return Ok(Playlist::Multivariant(self.multivariant));
        }
        let target_duration = self
            .target_duration
            .ok_or(PlaylistError::NoTargetDuration)?;
        let first = self.media_sequence.unwrap_or(0);
        if first.checked_add(MAX_SEGMENTS as u64).is_none() {
            return Err(PlaylistError::BadTag(format!(
                "#EXT-X-MEDIA-SEQUENCE:{first}"
            )));
        }
        for (sequence, segment) in (first..).zip(&mut self.segments) {
            segment.sequence = MediaSequence(sequence);
        }
        Ok(Playlist::Media(MediaPlaylist {
            target_duration,
            media_sequence: MediaSequence(first),
            segments: self.segments,
            endlist: self.endlist,
            has_map: self.has_map,
        }))
    }
}

fn within(entries: usize, limit: usize) -> Result<(), PlaylistError> {
    if entries > limit {
        return Err(PlaylistError::TooMany(limit));
    }
    Ok(())
}

/// The first line, cut to what fits a log line.
fn beginning(text: &str) -> String {
    let line = text.trim_start().lines().next().unwrap_or_default();
    line.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Url {
        Url::parse("http://origin/live/news/index.m3u8?token=1").unwrap()
    }

    fn media(text: &str) -> MediaPlaylist {
        match parse(text, &base()).unwrap() {
            Playlist::Media(media) => media,
            other => panic!("{other:?}"),
        }
    }

    fn multivariant(text: &str) -> Multivariant {
        match parse(text, &base()).unwrap() {
            Playlist::Multivariant(multivariant) => multivariant,
            other => panic!("{other:?}"),
        }
    }

    fn refusal(text: &str) -> PlaylistError {
        parse(text, &base()).unwrap_err()
    }

    const LIVE: &str = "#EXTM3U\r\n#EXT-X-VERSION:3\r\n#EXT-X-TARGETDURATION:6\r\n#EXT-X-MEDIA-SEQUENCE:112\r\n\
        #EXT-X-KEY:METHOD=AES-128,URI=\"key.bin\"\r\n#EXTINF:5.995,title\r\nseg_112.ts?token=a%2Fb&x=1\r\n\r\n# note\r\n\
        #EXT-X-DISCONTINUITY\r\n#EXTINF:6\r\nhttp://cdn/x/seg_113.ts\r\n";

    #[test]
    fn a_live_playlist_numbers_and_resolves_its_segments_and_keeps_their_uris_as_written() {
        let list = media(LIVE);
        assert_eq!(list.target_duration, Duration::from_secs(6));
        assert!(!list.endlist);
        assert_eq!(list.newest(), Some(MediaSequence(113)));
        let first = &list.segments[0];
        assert_eq!(first.uri.as_str(), "seg_112.ts?token=a%2Fb&x=1");
        assert_eq!(
            first.source.as_ref().unwrap().as_str(),
            "http://origin/live/news/seg_112.ts?token=a%2Fb&x=1"
        );
        assert_eq!(first.sequence, MediaSequence(112));
        assert_eq!(first.duration, Duration::from_millis(5995));
        let second = &list.segments[1];
        assert!(second.discontinuity && !first.discontinuity);
        assert_eq!(
            second.source.as_ref().unwrap().host_str(),
            Some("cdn"),
            "an absolute URI stays what it is"
        );
    }

    #[test]
    fn what_cannot_be_prefetched_keeps_its_number_and_says_why() {
        let list = media(
            "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXT-X-DEFINE:NAME=\"a\",VALUE=\"b\"\n\
             #EXTINF:4,\n#EXT-X-GAP\ngap.ts\n#EXTINF:4,\n#EXT-X-BYTERANGE:100@0\nrange.ts\n\
             #EXTINF:4,\n{$a}.ts\n#EXTINF:4,\ndata:video/mp2t,x\n#EXTINF:4,\nplain.ts\n",
        );
        let sources: Vec<_> = list
            .segments
            .iter()
            .map(|s| s.source.clone().err())
            .collect();
        assert_eq!(
            sources,
            [
                Some(Unfit::Gap),
                Some(Unfit::ByteRange),
                Some(Unfit::Variable),
                Some(Unfit::Address),
                None
            ]
        );
        assert_eq!(list.segments[4].sequence, MediaSequence(4));
    }

    #[test]
    fn a_page_in_place_of_a_playlist_shows_how_it_begins() {
        let error = refusal("<!DOCTYPE html>\n<html>sign in</html>");
        assert_eq!(error, PlaylistError::NotAPlaylist("<!DOCTYPE html>".into()));
        assert!(error.to_string().contains("<!DOCTYPE html>"), "{error}");
        assert_eq!(refusal("").to_string(), "the answer is empty");
    }

    #[test]
    fn a_list_that_cannot_be_understood_is_refused() {
        let segment = "#EXTINF:4,\na.ts\n";
        let cases = [
            (
                format!("#EXTM3U\n{segment}"),
                PlaylistError::NoTargetDuration,
            ),
            (
                "#EXTM3U\n#EXT-X-TARGETDURATION:4\na.ts\n".into(),
                PlaylistError::NoDuration("a.ts".into()),
            ),
            (
                format!(
                    "#EXTM3U\n#EXT-X-TARGETDURATION:4\n{segment}#EXT-X-STREAM-INF:BANDWIDTH=1\nv.m3u8\n"
                ),
                PlaylistError::Mixed,
            ),
            (
                "#EXTM3U\n#EXT-X-TARGETDURATION:soon\n".into(),
                PlaylistError::BadTag("#EXT-X-TARGETDURATION:soon".into()),
            ),
            (
                "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:-1,\na.ts\n".into(),
                PlaylistError::BadTag("#EXTINF:-1".into()),
            ),
            (
                "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXT-X-SKIP:SKIPPED-SEGMENTS=3\n".into(),
                PlaylistError::DeltaUpdate,
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(refusal(&text), expected, "{text}");
        }
    }

    #[test]
    fn lists_and_uris_beyond_their_bounds_are_refused() {
        let head = "#EXTM3U\n#EXT-X-TARGETDURATION:4\n";
        let long = format!("{head}#EXTINF:4,\n{}\n", "a".repeat(MAX_URI + 1));
        assert_eq!(refusal(&long), PlaylistError::LongUri(MAX_URI + 1));
        let many = format!("{head}{}", "#EXTINF:4,\na\n".repeat(MAX_SEGMENTS + 1));
        assert_eq!(refusal(&many), PlaylistError::TooMany(MAX_SEGMENTS));
        let last = format!("{head}#EXT-X-MEDIA-SEQUENCE:{}\n", u64::MAX);
        assert!(matches!(refusal(&last), PlaylistError::BadTag(_)));
    }

    const MASTER: &str = "#EXTM3U\n\
        #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"aac\",NAME=\"en\",URI=\"audio/en.m3u8\"\n\
        #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"lo\",NAME=\"en\",URI=\"audio/lo.m3u8\"\n\
        #EXT-X-MEDIA:TYPE=SUBTITLES,GROUP-ID=\"subs\",NAME=\"en\",URI=\"subs/en.m3u8\"\n\
        #EXT-X-STREAM-INF:BANDWIDTH=800000,AUDIO=\"lo\"\nlow.m3u8\n\
        #EXT-X-STREAM-INF:BANDWIDTH=3000000,AUDIO=\"aac\"\nhigh.m3u8\n\
        #EXT-X-STREAM-INF:BANDWIDTH=3000000,AUDIO=\"aac\"\nbackup.m3u8\n\
        #EXT-X-STREAM-INF:AVERAGE-BANDWIDTH=5\nhigh.m3u8\n";

    fn names(urls: &[Url]) -> Vec<&str> {
        urls.iter()
            .map(|url| url.path().trim_start_matches("/live/news/"))
            .collect()
    }

    #[test]
    fn the_chosen_variant_brings_its_audio() {
        let list = multivariant(MASTER);
        assert_eq!(
            names(&list.choose(Variants::Highest)),
            ["high.m3u8", "audio/en.m3u8"]
        );
        assert_eq!(
            names(&list.choose(Variants::All)),
            [
                "low.m3u8",
                "high.m3u8",
                "backup.m3u8",
                "audio/en.m3u8",
                "audio/lo.m3u8"
            ]
        );
    }

    #[test]
    fn a_variant_without_a_bandwidth_counts_as_the_lowest() {
        let list = multivariant(MASTER);
        assert_eq!(list.variants[3].bandwidth, 0);
        assert_eq!(names(&list.choose(Variants::Lowest)), ["high.m3u8"]);
    }
}
