//! `edgeseed probe URL`: what the box would see of a channel, and what it would refuse and why.

use std::collections::HashMap;
use std::time::Instant;

use url::Url;

use super::{Failure, say};
use crate::config::{Matching, Variants};
use crate::fetch::{Loaded, OriginClient, OriginError, Validators};
use crate::hls::{MediaPlaylist, Multivariant, Playlist, Variables, shared_names};
use crate::ids::{MediaSequence, Resource, SegmentUri};

/// Segments whose length and time are tried: the ones a box fetches first.
const SAMPLES: usize = 3;
/// Refused segments that are named one by one.
const NAMED: usize = 5;

pub(super) async fn print(url: &Url) -> Result<(), Failure> {
    let client = OriginClient::new().map_err(Failure::Fetch)?;
    let mut probe = Probe {
        client,
        failures: Vec::new(),
    };
    match probe.load(url, &Variables::default()).await {
        None => {}
        Some(Playlist::Media(playlist)) => {
            probe.media(url, &playlist, &Variables::default()).await;
        }
        Some(Playlist::Multivariant(list)) => probe.multivariant(&list).await,
    }
    match probe.failures.is_empty() {
        true => Ok(()),
        false => Err(Failure::Probe(probe.failures)),
    }
}

struct Probe {
    client: OriginClient,
    /// Playlists that cannot be used.
    failures: Vec<(Url, String)>,
}

impl Probe {
    async fn load(&mut self, url: &Url, imports: &Variables) -> Option<Playlist> {
        let started = Instant::now();
        let validators = Validators::default();
        let error = match self.client.playlist(url, &validators, imports).await {
            Ok(Loaded::Changed(loaded)) => {
                let millis = started.elapsed().as_millis();
                say(&format!("{url}: {} bytes in {millis} ms", loaded.bytes));
                return Some(loaded.playlist);
            }
            // Only a conditional request may be answered so.
            Ok(Loaded::Unchanged) => OriginError::Status(304),
            Err(error) => error,
        };
        say(&format!("{url}: refused: {error}"));
        self.failures.push((url.clone(), error.to_string()));
        None
    }

    async fn multivariant(&mut self, list: &Multivariant) {
        let highest = list.choose(Variants::Highest);
        let mark = |url: &Url| match highest.contains(url) {
            true => "  (followed by variants = \"highest\")",
            false => "",
        };
        say(&format!(
            "  multivariant, {} variants:",
            list.variants.len()
        ));
        for variant in &list.variants {
            let (rate, url) = (variant.bandwidth / 1000, &variant.url);
            let audio = variant.audio.as_ref();
            let audio = audio.map_or_else(String::new, |group| format!(" with audio {group:?}"));
            say(&format!("  {rate:>9} kbit/s  {url}{audio}{}", mark(url)));
        }
        for audio in &list.audio {
            let (group, url) = (&audio.group, &audio.url);
            say(&format!("  audio {group:?}  {url}{}", mark(url)));
        }
        for url in &list.others {
            say(&format!("  not prefetched  {url}"));
        }
        // Those that are followed first, as `shared_names` has them.
        let mut urls = highest.clone();
        let others = list.choose(Variants::All).into_iter();
        let others = others.chain(list.others.iter().cloned());
        urls.extend(others.filter(|url| !highest.contains(url)));
        let mut lists = Vec::new();
        for url in &urls {
            let playlist = match self.load(url, &list.variables).await {
                Some(Playlist::Media(playlist)) => playlist,
                Some(Playlist::Multivariant(_)) => {
                    let error = OriginError::NotMediaPlaylist.to_string();
                    say(&format!("  refused: {error}"));
                    self.failures.push((url.clone(), error));
                    lists.push(None);
                    continue;
                }
                None => {
                    lists.push(None);
                    continue;
                }
            };
            self.media(url, &playlist, &list.variables).await;
            lists.push(Some(playlist));
        }
        let lists: Vec<_> = lists.iter().map(Option::as_ref).collect();
        for shared in shared_names(&lists, highest.len(), Matching::Exact) {
            say(&format!(
                "  not served with variants = \"highest\": {} names different segments in different \
                 playlists, and viewers name a segment by that; give the files of each rendition \
                 names of their own",
                shared.uri
            ));
        }
    }

    async fn media(&mut self, url: &Url, playlist: &MediaPlaylist, imports: &Variables) {
        describe(playlist);
        refusals(playlist);
        for (number, section) in playlist.sections() {
            let what = format!("initialization section {} (from {number} on)", section.uri);
            match &section.source {
                Ok(resource) => drop(self.try_one(&what, resource).await),
                Err(reason) => say(&format!("  refused: {what}: {reason}")),
            }
        }
        let (mut works, mut error) = (playlist.segments.is_empty(), None);
        let fit = playlist.segments.iter().rev();
        for segment in fit.filter(|s| s.source.is_ok()).take(SAMPLES) {
            let seconds = segment.duration.as_secs_f64();
            let what = format!("{} {} ({seconds:.1} s)", segment.sequence, segment.uri);
            let Ok(resource) = &segment.source else {
                continue;
            };
            match self.try_one(&what, resource).await {
                Ok(()) => works = true,
                Err(failed) => error = Some(format!("{}: {failed}", resource.url)),
            }
        }
        if !works {
            let error = error.map_or_else(String::new, |error| format!(", last {error}"));
            let error = format!("none of its segments can be fetched{error}");
            self.failures.push((url.clone(), error));
        }
        self.compare(url, playlist, imports).await;
    }

    async fn try_one(&self, what: &str, resource: &Resource) -> Result<(), OriginError> {
        let started = Instant::now();
        let result = fetch(&self.client, resource).await;
        let millis = started.elapsed().as_millis();
        let part = resource.range.map(|range| format!(", {range}"));
        let part = part.unwrap_or_default();
        match &result {
            Ok(bytes) => say(&format!("  {what}{part}: {bytes} bytes in {millis} ms")),
            Err(error) => say(&format!(
                "  {what}{part}: failed: {}: {error}",
                resource.url
            )),
        }
        result.map(drop)
    }

    /// Whether the names of the segments change from one load to the next.
    async fn compare(&mut self, url: &Url, playlist: &MediaPlaylist, imports: &Variables) {
        let validators = Validators::default();
        let again = self.client.playlist(url, &validators, imports).await;
        let Ok(Loaded::Changed(again)) = again else {
            return;
        };
        let Playlist::Media(again) = again.playlist else {
            return;
        };
        let names = |list: &MediaPlaylist| -> HashMap<MediaSequence, SegmentUri> {
            let segments = list.segments.iter();
            segments.map(|s| (s.sequence, s.uri.clone())).collect()
        };
        let (before, after) = (names(playlist), names(&again));
        let changed = before.iter().find(|(number, uri)| {
            let now = after.get(number);
            now.is_some_and(|now| now != *uri)
        });
        let Some((number, uri)) = changed else { return };
        let path = |uri: &SegmentUri| Matching::Path.name(uri.as_str()).to_owned();
        match after.get(number).is_some_and(|now| path(now) == path(uri)) {
            true => say(
                "  the queries of its segments change from load to load: set match = \"path\" for \
                 this channel, or viewers find nothing",
            ),
            false => say(&format!(
                "  segment {number} is another one at the next load: a box takes that for an encoder \
                 that started anew, and forgets what it has"
            )),
        }
    }
}

fn describe(playlist: &MediaPlaylist) {
    let seconds: f64 = playlist
        .segments
        .iter()
        .map(|s| s.duration.as_secs_f64())
        .sum();
    let clock = playlist.segments.iter().any(|s| s.program_time.is_some());
    say(&format!(
        "  media playlist, {}: {} segments, {seconds:.1} s, target duration {:.0} s, media sequence \
         {}{}",
        if playlist.endlist { "complete" } else { "live" },
        playlist.segments.len(),
        playlist.target_duration.as_secs_f64(),
        playlist.media_sequence,
        if clock {
            ", with the encoder's clock"
        } else {
            ""
        },
    ));
}

fn refusals(playlist: &MediaPlaylist) {
    let refused = playlist.segments.iter().filter_map(|segment| {
        let reason = segment.source.as_ref().err()?;
        Some(format!("{} {}: {reason}", segment.sequence, segment.uri))
    });
    let refused: Vec<String> = refused.collect();
    for refusal in refused.iter().take(NAMED) {
        say(&format!("  refused: {refusal}"));
    }
    if let Some(more @ 1..) = refused.len().checked_sub(NAMED) {
        say(&format!("  refused: {more} more"));
    }
}

async fn fetch(client: &OriginClient, resource: &Resource) -> Result<u64, OriginError> {
    let mut body = client.segment(resource).await?;
    while body.next().await?.is_some() {}
    Ok(body.received())
}
