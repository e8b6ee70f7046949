//! A playlist that is written anew with nothing of it here means what it meant, wherever it is loaded from.

use edgeseed::hls::{self, MediaPlaylist, Playlist, Variables, Written};
use url::Url;

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
    let relisted = match &before {
        Playlist::Media(list) => hls::relist_media(&written, list, |_| None),
        Playlist::Multivariant(list) => hls::relist_multivariant(&written, list, |_| None),
    };
    let elsewhere = Url::parse("http://box.example.com/live/news/index.m3u8").ok()?;
    let same = match (&before, read(&relisted, &elsewhere)) {
        (Playlist::Media(before), Ok(Playlist::Media(after))) => {
            before.media_sequence == after.media_sequence
                && before.target_duration == after.target_duration
                && before.endlist == after.endlist
                && meaning(before) == meaning(&after)
        }
        (Playlist::Multivariant(before), Ok(Playlist::Multivariant(after))) => *before == after,
        _ => false,
    };
    (!same).then_some(relisted)
}

/// Everything but how it is written.
fn meaning(list: &MediaPlaylist) -> Vec<impl PartialEq> {
    let segments = list.segments.iter().map(|segment| {
        (
            segment.source.clone(),
            segment.duration,
            segment.discontinuity,
            segment.program_time,
            segment.init.as_ref().map(|init| init.source.clone()),
        )
    });
    segments.collect()
}
