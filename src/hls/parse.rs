//! From the text of a playlist to what is in it.
//!
//! `quick-m3u8` reads the lines; what they mean together (RFC 8216 section 4.3) is decided here.
//! A list that cannot be understood is refused as a whole; a single segment that cannot be
//! prefetched keeps its place and says why ([`Unfit`]), because the numbers of those after it
//! depend on it. Keys are never looked at: encrypted segments pass through as they are. Neither are
//! the parts of low-latency lists: the full segments that they grow into are listed as well.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use quick_m3u8::config::{ParsingOptions, ParsingOptionsBuilder};
use quick_m3u8::tag::hls::{EnumeratedString, MediaType, Tag};
use quick_m3u8::tag::{DecimalIntegerRange, KnownTag, UnknownTag};
use quick_m3u8::{HlsLine, Reader};
use url::Url;

use super::{
    AudioRendition, InitSection, MAX_SEGMENTS, MAX_URI, MAX_VARIANTS, MediaPlaylist, MediaSegment,
    Multivariant, Playlist, PlaylistError, Unfit, Variables, Variant,
};
use crate::ids::{ByteRange, MediaSequence, Resource, SegmentUri};

/// No segment is this long; also keeps the next reload within reason.
const MAX_DURATION: Duration = Duration::from_secs(3600);

/// Only the tags that matter here: what is not read cannot be misread. Some that matter are read
/// from their attributes below, for what is wrong with them has to be noticed.
static OPTIONS: LazyLock<ParsingOptions> = LazyLock::new(|| {
    ParsingOptionsBuilder::new()
        .with_parsing_for_targetduration()
        .with_parsing_for_media_sequence()
        .with_parsing_for_endlist()
        .with_parsing_for_inf()
        .with_parsing_for_byterange()
        .with_parsing_for_discontinuity()
        .with_parsing_for_media()
        .with_parsing_for_stream_inf()
        .build()
});

/// Reads `text`, which came from `base` (the final address, after redirects). `imports` are the
/// variables of the multivariant playlist that lists it, if there is one.
///
/// # Errors
/// [`PlaylistError`] where the list as a whole cannot be understood or is out of bounds.
pub fn parse(text: &str, base: &Url, imports: &Variables) -> Result<Playlist, PlaylistError> {
    let text = text.trim_start_matches('\u{feff}');
    if !text.starts_with("#EXTM3U") {
        return Err(PlaylistError::NotAPlaylist(beginning(text)));
    }
    let mut draft = Draft::new(base, imports);
    let mut reader = Reader::from_str(text, OPTIONS.clone());
    loop {
        match reader.read_line() {
            Ok(None) => break,
            Ok(Some(HlsLine::KnownTag(KnownTag::Hls(tag)))) => draft.tag(tag)?,
            Ok(Some(HlsLine::UnknownTag(tag))) => draft.other_tag(&tag)?,
            Ok(Some(HlsLine::Uri(uri))) => draft.uri(uri.trim())?,
            // Comments, blank lines, and a tag without a name: to be ignored (section 4.1).
            Ok(Some(_)) | Err(_) => {}
        }
    }
    draft.finish()
}

/// A playlist while its lines are read.
struct Draft<'a> {
    base: &'a Url,
    imports: &'a Variables,
    variables: Variables,
    target_duration: Option<Duration>,
    media_sequence: Option<u64>,
    segments: Vec<MediaSegment>,
    endlist: bool,
    multivariant: Multivariant,
    seen_multivariant: bool,
    seen_media: bool,
    /// The section of the `EXT-X-MAP` above.
    init: Option<Arc<InitSection>>,
    /// Where the byte range of the segment above ends.
    range_end: Option<(SegmentUri, u64)>,
    /// When the next segment begins by the encoder's clock.
    program_time: Option<SystemTime>,
    next: Next,
}

/// What the tags so far say about the next URI.
#[derive(Default)]
struct Next {
    duration: Option<Duration>,
    gap: bool,
    /// Length and start.
    range: Option<(u64, Option<u64>)>,
    discontinuity: bool,
    program_time: Option<SystemTime>,
    variant: Option<NextVariant>,
}

#[derive(Default)]
struct NextVariant {
    bandwidth: u64,
    audio: Option<String>,
    only_sound: bool,
}

impl<'a> Draft<'a> {
    fn new(base: &'a Url, imports: &'a Variables) -> Self {
        Self {
            base,
            imports,
            variables: Variables::default(),
            target_duration: None,
            media_sequence: None,
            segments: Vec::new(),
            endlist: false,
            multivariant: Multivariant::default(),
            seen_multivariant: false,
            seen_media: false,
            init: None,
            range_end: None,
            program_time: None,
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
            Tag::Byterange(tag) => self.next.range = Some((tag.length(), tag.offset())),
            Tag::Discontinuity(_) => self.next.discontinuity = true,
            Tag::StreamInf(tag) => {
                self.seen_multivariant = true;
                let audio = tag.audio().map(|group| self.text(group)).transpose()?;
                self.next.variant = Some(NextVariant {
                    bandwidth: tag.bandwidth(),
                    audio: audio.map(Cow::into_owned),
                    only_sound: tag.resolution().is_none() && tag.codecs().is_some_and(only_sound),
                });
            }
            Tag::Media(tag) => {
                self.seen_multivariant = true;
                // Without a URI it is inside the variants (section 4.3.4.2.1).
                if let Some(uri) = tag.uri()
                    && let Ok(url) = self.resolve(&self.text(uri)?)
                {
                    if tag.media_type() == EnumeratedString::Known(MediaType::Audio) {
                        let group = self.text(tag.group_id())?.into_owned();
                        self.multivariant.audio.push(AudioRendition { group, url });
                    } else {
                        self.multivariant.others.push(url);
                    }
                    self.count_entries()?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A tag known by its name alone, or one that could not be read.
    fn other_tag(&mut self, tag: &UnknownTag<'_>) -> Result<(), PlaylistError> {
        match tag.name() {
            "-X-GAP" => self.next.gap = true,
            "-X-MAP" => self.map(tag)?,
            "-X-DEFINE" => self.define(tag)?,
            // One that cannot be read says nothing about the media.
            "-X-PROGRAM-DATE-TIME" => self.next.program_time = date_time(tag),
            "-X-SKIP" => return Err(PlaylistError::DeltaUpdate),
            // Seen without the BANDWIDTH that section 4.3.4.2 asks for: still a variant.
            "-X-STREAM-INF" => {
                self.seen_multivariant = true;
                self.next.variant = Some(NextVariant::default());
            }
            "-X-MEDIA" => self.seen_multivariant = true,
            _ if tag.validation_error().is_some() => return Err(bad(tag)),
            _ => {}
        }
        Ok(())
    }

    fn map(&mut self, tag: &UnknownTag<'_>) -> Result<(), PlaylistError> {
        self.seen_media = true;
        let (mut uri, mut range) = (None, None);
        for (name, value) in attributes(tag)? {
            match name {
                "URI" => uri = value,
                "BYTERANGE" => {
                    let value = value.and_then(|text| text.as_bytes().try_into().ok());
                    range = Some(value.ok_or_else(|| bad(tag))?);
                }
                _ => {}
            }
        }
        let uri = self.text(uri.ok_or_else(|| bad(tag))?)?;
        let range = range.map(|range: DecimalIntegerRange| {
            // Players take a part without a start to begin the resource.
            ByteRange::new(range.offset.unwrap_or(0), range.length).ok_or(Unfit::ByteRange)
        });
        let source = match range.transpose() {
            Ok(range) => self.resource(&uri, range),
            Err(unfit) => Err(unfit),
        };
        let uri = named(&uri)?;
        self.init = Some(Arc::new(InitSection { uri, source }));
        Ok(())
    }

    fn define(&mut self, tag: &UnknownTag<'_>) -> Result<(), PlaylistError> {
        let (mut name, mut value) = (None, None);
        for (attribute, text) in attributes(tag)? {
            let text = text.ok_or_else(|| bad(tag))?;
            let undefined = || PlaylistError::Undefined(text.to_owned());
            match attribute {
                "NAME" => name = Some(text),
                "VALUE" => value = Some(Cow::Borrowed(text)),
                "IMPORT" => {
                    name = Some(text);
                    value = Some(self.imports.get(text).ok_or_else(undefined)?.into());
                }
                "QUERYPARAM" => {
                    name = Some(text);
                    let mut pairs = self.base.query_pairs();
                    let found = pairs.find(|(name, value)| name == text && !value.is_empty());
                    value = Some(found.ok_or_else(undefined)?.1);
                }
                _ => {}
            }
        }
        let (name, value) = name.zip(value).ok_or_else(|| bad(tag))?;
        match self.variables.define(name, &value)? {
            true => Ok(()),
            false => Err(bad(tag)),
        }
    }

    fn uri(&mut self, uri: &str) -> Result<(), PlaylistError> {
        if uri.is_empty() {
            return Ok(());
        }
        // Some readers take a tag after blanks for one, others for a URI.
        if uri.starts_with('#') {
            return Err(PlaylistError::BadTag(beginning(uri)));
        }
        let uri = self.text(uri)?.into_owned();
        let name = named(&uri)?;
        let next = std::mem::take(&mut self.next);
        if let Some(next) = next.variant {
            if let Ok(url) = self.resolve(&uri) {
                self.multivariant.variants.push(Variant {
                    url,
                    bandwidth: next.bandwidth,
                    audio: next.audio,
                    only_sound: next.only_sound,
                });
            }
            return self.count_entries();
        }
        let duration = next
            .duration
            .ok_or_else(|| PlaylistError::NoDuration(beginning(&uri)))?;
        let range = self.range(&name, next.range)?;
        let source = match range {
            _ if next.gap => Err(Unfit::Gap),
            Err(unfit) => Err(unfit),
            Ok(range) => self.resource(&uri, range),
        };
        // A jump of the timestamps says nothing about the clock.
        let counted = self.program_time.filter(|_| !next.discontinuity);
        let program_time = next.program_time.or(counted);
        self.program_time = program_time.and_then(|time| time.checked_add(duration));
        self.segments.push(MediaSegment {
            uri: name,
            source,
            // Numbered in `finish`, once EXT-X-MEDIA-SEQUENCE is known for sure.
            sequence: MediaSequence::default(),
            duration,
            discontinuity: next.discontinuity,
            init: self.init.clone(),
            program_time,
        });
        within(self.segments.len(), MAX_SEGMENTS)
    }

    /// "If o is not present, the sub-range begins at the next byte following the sub-range of the
    /// previous Media Segment", which has to be of the same resource (section 4.3.2.2).
    fn range(
        &mut self,
        name: &SegmentUri,
        written: Option<(u64, Option<u64>)>,
    ) -> Result<Result<Option<ByteRange>, Unfit>, PlaylistError> {
        let before = self.range_end.take().filter(|(uri, _)| uri == name);
        let Some((length, start)) = written else {
            return Ok(Ok(None));
        };
        let start = start.or(before.map(|(_, end)| end));
        let start = start.ok_or_else(|| PlaylistError::NoRangeStart(beginning(name.as_str())))?;
        let range = ByteRange::new(start, length);
        self.range_end = range.map(|range| (name.clone(), range.end()));
        Ok(range.map(Some).ok_or(Unfit::ByteRange))
    }

    fn text<'t>(&self, text: &'t str) -> Result<Cow<'t, str>, PlaylistError> {
        self.variables.replace(text)
    }

    fn resource(&self, uri: &str, range: Option<ByteRange>) -> Result<Resource, Unfit> {
        let url = self.resolve(uri)?;
        Ok(Resource { url, range })
    }

    fn resolve(&self, uri: &str) -> Result<Url, Unfit> {
        let url = self.base.join(uri).ok();
        let url = url.filter(|url| matches!(url.scheme(), "http" | "https"));
        url.ok_or(Unfit::Address)
    }

    fn count_entries(&self) -> Result<(), PlaylistError> {
        let list = &self.multivariant;
        let entries = list.variants.len() + list.audio.len() + list.others.len();
        within(entries, MAX_VARIANTS)
    }

    fn finish(mut self) -> Result<Playlist, PlaylistError> {
        if self.seen_multivariant && self.seen_media {
            return Err(PlaylistError::Mixed);
        }
        if self.seen_multivariant {
            if self.multivariant.variants.is_empty() {
                return Err(PlaylistError::NoVariants);
            }
            self.multivariant.variables = Arc::new(self.variables);
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
            variables: self.variables,
        }))
    }
}

/// Whether these `CODECS` (RFC 6381) are of sound alone.
fn only_sound(codecs: &str) -> bool {
    const SOUND: [&str; 6] = ["mp4a", "ac-3", "ec-3", "ac-4", "opus", "flac"];
    let is_sound = |codec: &str| {
        let kind = codec.trim().split('.').next().unwrap_or_default();
        SOUND.iter().any(|sound| sound.eq_ignore_ascii_case(kind))
    };
    codecs.split(',').all(is_sound)
}

/// The attributes of a tag; what is in quotes, for those that are.
fn attributes<'t>(tag: &UnknownTag<'t>) -> Result<Vec<(&'t str, Option<&'t str>)>, PlaylistError> {
    let list = tag.value().ok_or_else(|| bad(tag))?;
    let list = list.try_as_ordered_attribute_list().map_err(|_| bad(tag))?;
    let quoted = list
        .into_iter()
        .map(|(name, value)| (name.trim(), value.quoted()));
    Ok(quoted.collect())
}

fn date_time(tag: &UnknownTag<'_>) -> Option<SystemTime> {
    let text = std::str::from_utf8(tag.as_bytes()).ok()?;
    let (_, text) = text.split_once(':')?;
    let time: jiff::Timestamp = text.trim().parse().ok()?;
    Some(time.into())
}

fn named(uri: &str) -> Result<SegmentUri, PlaylistError> {
    match uri.len() > MAX_URI {
        true => Err(PlaylistError::LongUri(uri.len())),
        false => Ok(uri.into()),
    }
}

fn within(entries: usize, limit: usize) -> Result<(), PlaylistError> {
    match entries > limit {
        true => Err(PlaylistError::TooMany(limit)),
        false => Ok(()),
    }
}

fn bad(tag: &UnknownTag<'_>) -> PlaylistError {
    let line = String::from_utf8_lossy(tag.as_bytes());
    PlaylistError::BadTag(beginning(&line))
}

/// The first line, cut to what fits a log line.
fn beginning(text: &str) -> String {
    let line = text.trim_start().lines().next().unwrap_or_default();
    line.chars().take(60).collect()
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
