//! A playlist that is written anew means what it meant, wherever it is loaded from, but for what is here.

use edgeseed::hls::{self, Listed, MediaPlaylist, Playlist, Unfit, Variables, Written};
use edgeseed::ids::Resource;
use url::Url;

/// More than any text here takes.
const LIMIT: usize = 1 << 20;

/// What is not the same any more, if anything is.
pub(crate) fn changed_by_relisting(text: &str) -> Option<String> {
    // An address loses these, and what was around them may look like a variable then.
    if text.replace("\r\n", "\n").contains(['\t', '\r']) {
        return None;
    }
    let base = Url::parse("http://origin.example.com/live/index.m3u8?token=1").ok()?;
    let read = |text: &str, base: &Url| hls::parse(text, base, &Variables::default());
    let before = read(text, &base).ok()?;
    let written = Written {
        text: text.to_owned(),
        base,
    };
    // Every other segment is here, with its section, if these can be had.
    let here = |listed: Listed<'_>| {
        let (segment, source, name) = match listed {
            Listed::Segment(segment) => (segment, &segment.source, "segment"),
            Listed::SectionOf(segment) => (segment, &segment.init.as_ref()?.source, "section"),
        };
        let even = segment.sequence.0 % 2 == 0 && source.is_ok();
        even.then(|| format!("here/{name}{}", segment.sequence))
    };
    let relisted = match &before {
        Playlist::Media(list) => hls::relist_media(&written, list, LIMIT, here),
        Playlist::Multivariant(list) => hls::relist_multivariant(&written, list, LIMIT, |_| None),
    }?;
    let elsewhere = Url::parse("http://box.example.com/live/news/index.m3u8").ok()?;
    let same = match (&before, read(&relisted, &elsewhere)) {
        (Playlist::Media(before), Ok(Playlist::Media(after))) => {
            before.media_sequence == after.media_sequence
                && before.target_duration == after.target_duration
                && before.endlist == after.endlist
                && before.segments.len() == after.segments.len()
                && meaning(before, &after) == meaning(&after, &after)
        }
        (Playlist::Multivariant(before), Ok(Playlist::Multivariant(after))) => *before == after,
        _ => false,
    };
    (!same).then_some(relisted)
}

/// Everything but how it is written, and where that is which is here by `relisted`.
fn meaning(list: &MediaPlaylist, relisted: &MediaPlaylist) -> Vec<impl PartialEq> {
    let segments = list.segments.iter().zip(&relisted.segments);
    let segments = segments.map(|(segment, relisted)| {
        let section = |segment: &hls::MediaSegment| Some(segment.init.as_ref()?.source.clone());
        (
            segment.sequence,
            (!is_here(&relisted.source)).then(|| segment.source.clone()),
            segment.duration,
            segment.discontinuity,
            segment.program_time,
            match section(relisted) {
                Some(source) if is_here(&source) => None,
                _ => section(segment),
            },
        )
    });
    segments.collect()
}

/// A whole file at the box.
fn is_here(source: &Result<Resource, Unfit>) -> bool {
    source.as_ref().is_ok_and(|resource| {
        let path = resource.url.path();
        path.starts_with("/live/news/here/") && resource.range.is_none()
    })
}
