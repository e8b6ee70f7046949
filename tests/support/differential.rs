//! A second opinion on playlists: `m3u8-rs`, which shares no code with the parser of the box.
//!
//! The two may differ only where a reason for it stands below.

use edgeseed::hls::{self, MediaPlaylist, Playlist, PlaylistError, Variables};
use m3u8_rs::MediaPlaylist as Second;
use url::Url;

/// What came of a text.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Both see the same segments.
    Agree,
    /// One of them does not take it, for this known reason.
    Excused(#[allow(dead_code)] &'static str), // only some look at it
    /// They differ, like this.
    Differ(String),
}

/// Asks both.
pub(crate) fn compare(text: &str) -> Verdict {
    let base = Url::parse("http://origin.example.com/live/index.m3u8?token=1");
    let base = base.expect("an address");
    let ours = hls::parse(text, &base, &Variables::default());
    // Theirs has no notion of variables, and takes no byte order mark.
    if text.contains("{$") {
        return Verdict::Excused("variables");
    }
    if text.replace("\r\n", "\n").contains('\r') {
        return Verdict::Excused("they end a line at a bare carriage return");
    }
    if text.lines().any(|line| line.starts_with(',')) {
        return Verdict::Excused("they take a comma at the beginning of a line for that of EXTINF");
    }
    let plain = text.trim_start_matches('\u{feff}');
    let theirs = m3u8_rs::parse_media_playlist(plain.as_bytes());
    let theirs = match &theirs {
        Ok((rest, list)) if rest.iter().all(u8::is_ascii_whitespace) => Some(list),
        _ => None,
    };
    match (ours, theirs) {
        (Ok(Playlist::Multivariant(_)), _) => Verdict::Excused("multivariant"),
        (Ok(Playlist::Media(_)), None) => {
            Verdict::Excused("they give up at a line they cannot read")
        }
        (Ok(Playlist::Media(ours)), Some(theirs)) => same(&ours, theirs, plain),
        (Err(_), None) => Verdict::Agree,
        (Err(error), Some(theirs)) => {
            laxer(plain).map_or_else(|| stricter(&error, theirs, plain), Verdict::Excused)
        }
    }
}

fn same(ours: &MediaPlaylist, theirs: &Second, text: &str) -> Verdict {
    if let Some(reason) = laxer(text) {
        return Verdict::Excused(reason);
    }
    let differ = |what: &str, ours: &dyn std::fmt::Debug, theirs: &dyn std::fmt::Debug| {
        Verdict::Differ(format!("{what}: {ours:?}, they say {theirs:?}"))
    };
    if ours.media_sequence.0 != theirs.media_sequence {
        let (ours, theirs) = (ours.media_sequence.0, theirs.media_sequence);
        return differ("media sequence", &ours, &theirs);
    }
    if ours.endlist != theirs.end_list {
        return differ("endlist", &ours.endlist, &theirs.end_list);
    }
    let uris: Vec<&str> = ours.segments.iter().map(|s| s.uri.as_str()).collect();
    let their_uris: Vec<&str> = theirs.segments.iter().map(|s| s.uri.trim()).collect();
    let mut pairs = uris.iter().zip(&their_uris);
    if let Some((ours, theirs)) = pairs.find(|(ours, theirs)| ours != theirs) {
        return differ("uri", ours, theirs);
    }
    if uris.len() != their_uris.len() {
        return differ("segments", &uris.len(), &their_uris.len());
    }
    for (segment, other) in ours.segments.iter().zip(&theirs.segments) {
        let (seconds, other_seconds) = (segment.duration.as_secs_f64(), f64::from(other.duration));
        // Ours are cut to an hour; theirs have 24 bits.
        let capped = other_seconds.min(3600.0);
        if (seconds - capped).abs() > 1e-6 * capped.max(1.0) {
            return differ("duration", &seconds, &other_seconds);
        }
        let range = other.byte_range.as_ref().map(|range| range.length);
        if let (Ok(resource), Some(length)) = (&segment.source, range)
            && resource.range.map(|range| range.length()) != Some(length)
        {
            return differ("range", &resource.range, &range);
        }
        if segment.range().is_some() && range.is_none() {
            return differ("range", &segment.range(), &range);
        }
        if segment.discontinuity != other.discontinuity {
            return differ(
                "discontinuity",
                &segment.discontinuity,
                &other.discontinuity,
            );
        }
    }
    Verdict::Agree
}

/// Where they read something else into a text that both take.
fn laxer(text: &str) -> Option<&'static str> {
    text.lines().find_map(|line| {
        let title = line.strip_prefix("#EXTINF:").unwrap_or_default();
        if title.matches(',').count() > 1 {
            Some("they take what follows a comma in a title for a URI")
        } else if is_well_formed(line) == Some(false) {
            Some("they read a tag as far as it goes, and take the rest of the line for a URI")
        } else {
            None
        }
    })
}

/// Why ours refuses what theirs takes.
fn stricter(error: &PlaylistError, theirs: &Second, text: &str) -> Verdict {
    let timeless = theirs
        .segments
        .iter()
        .any(|segment| segment.duration == 0.0);
    Verdict::Excused(match error {
        PlaylistError::NoTargetDuration if theirs.target_duration == 0 => {
            "RFC 8216 section 4.3.3.1 asks for EXT-X-TARGETDURATION"
        }
        PlaylistError::NoDuration(_) if timeless => "RFC 8216 section 4.3.2.1 asks for EXTINF",
        PlaylistError::Mixed
            if text.contains("#EXT-X-STREAM-INF") || text.contains("#EXT-X-MEDIA") =>
        {
            "RFC 8216 section 4 forbids to mix the kinds"
        }
        PlaylistError::NoRangeStart(_) => "RFC 8216 section 4.3.2.2 asks for a start",
        PlaylistError::DeltaUpdate if text.contains("#EXT-X-SKIP") => {
            "a delta update is not asked for"
        }
        PlaylistError::Undefined(_) => "theirs knows no variables",
        PlaylistError::TooMany(_) | PlaylistError::LongUri(_) => "ours has bounds",
        PlaylistError::NoVariants => "a multivariant playlist without a variant",
        PlaylistError::BadTag(_) if text.lines().any(is_indented) => {
            "they take a tag after blanks, which RFC 8216 section 4.1 rules out"
        }
        // The corpus holds ours to the maps that are right.
        PlaylistError::BadTag(line) if line.starts_with("#EXT-X-MAP:") => {
            "they take a map whose attributes make no sense"
        }
        PlaylistError::BadTag(line) if is_well_formed(line) != Some(true) => {
            "ours refuses a list with a number or an attribute that cannot be read"
        }
        PlaylistError::BadTag(_) if theirs.media_sequence.checked_add(1 << 32).is_none() => {
            "the numbers of the segments would not fit"
        }
        other => return Verdict::Differ(format!("refused: {other}, and they take it")),
    })
}

fn is_indented(line: &str) -> bool {
    line.starts_with(char::is_whitespace) && line.trim_start().starts_with('#')
}

/// Whether RFC 8216 section 4 allows this line; `None` for what only one of the two reads.
fn is_well_formed(line: &str) -> Option<bool> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number = |text: &str| digits(text) && text.parse::<u64>().is_ok();
    let line = line.trim_end_matches('\r');
    let (tag, value) = line.split_once(':').unwrap_or((line, ""));
    Some(match tag {
        "#EXTINF" => {
            let seconds = value.split(',').next().unwrap_or_default();
            let (whole, part) = seconds.split_once('.').unwrap_or((seconds, "0"));
            digits(whole) && digits(part)
        }
        "#EXT-X-TARGETDURATION"
        | "#EXT-X-MEDIA-SEQUENCE"
        | "#EXT-X-DISCONTINUITY-SEQUENCE"
        | "#EXT-X-VERSION" => number(value),
        "#EXT-X-BYTERANGE" => {
            let (length, start) = value.split_once('@').unwrap_or((value, "0"));
            number(length) && number(start)
        }
        "#EXT-X-MAP" | "#EXT-X-KEY" | "#EXT-X-DATERANGE" | "#EXT-X-START" => {
            is_attribute_list(value)
        }
        "#EXT-X-PLAYLIST-TYPE" => matches!(value, "VOD" | "EVENT"),
        // What they take for a tag by how its name begins.
        _ => {
            let plain = [
                "#EXTM3U",
                "#EXT-X-ENDLIST",
                "#EXT-X-DISCONTINUITY",
                "#EXT-X-I-FRAMES-ONLY",
                "#EXT-X-INDEPENDENT-SEGMENTS",
            ];
            let begins = plain.iter().find(|plain| line.starts_with(**plain))?;
            line == *begins
        }
    })
}

fn is_attribute_list(text: &str) -> bool {
    let mut rest = text;
    loop {
        let Some((name, value)) = rest.split_once('=') else {
            return false;
        };
        let known = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '-';
        let end = match value.strip_prefix('"') {
            Some(quoted) => quoted.find('"').map(|end| end + 2),
            None => Some(value.find(',').unwrap_or(value.len())),
        };
        let Some(end) = end.filter(|end| *end > 0 && name.chars().all(known) && !name.is_empty())
        else {
            return false;
        };
        match value[end..].strip_prefix(',') {
            Some(more) => rest = more,
            None => return value[end..].is_empty() && !value[..end].contains(' '),
        }
    }
}
