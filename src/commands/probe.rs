//! `edgeseed probe URL`: what the box would see of a channel, and what it would refuse and why.

use std::time::Instant;

use url::Url;

use super::{Failure, say};
use crate::config::Variants;
use crate::fetch::{Loaded, OriginClient, OriginError, Validators};
use crate::hls::{MediaPlaylist, Multivariant, Playlist};

/// Segments whose length and time are tried: the ones a box fetches first.
const SAMPLES: usize = 3;

pub(super) async fn print(url: &Url) -> Result<(), Failure> {
    let client = OriginClient::new().map_err(Failure::Fetch)?;
    match load(&client, url).await? {
        Playlist::Media(playlist) => media(&client, &playlist).await,
        Playlist::Multivariant(list) => {
            multivariant(&list);
            for url in list.choose(Variants::All) {
                match load(&client, &url).await? {
                    Playlist::Media(playlist) => media(&client, &playlist).await,
                    Playlist::Multivariant(_) => {
                        return Err(Failure::Fetch(OriginError::NotMediaPlaylist));
                    }
                }
            }
        }
    }
    Ok(())
}

async fn load(client: &OriginClient, url: &Url) -> Result<Playlist, Failure> {
    let started = Instant::now();
    let loaded = client
        .playlist(url, &Validators::default())
        .await
        .map_err(Failure::Fetch)?;
    let Loaded::Changed(loaded) = loaded else {
        // Only a conditional request may be answered so.
        return Err(Failure::Fetch(OriginError::Status(304)));
    };
    say(&format!(
        "{url}: {} bytes in {} ms",
        loaded.bytes,
        started.elapsed().as_millis()
    ));
    Ok(loaded.playlist)
}

fn multivariant(list: &Multivariant) {
    say(&format!(
        "  multivariant, {} variants:",
        list.variants.len()
    ));
    let chosen = list.choose(Variants::Highest);
    for variant in &list.variants {
        let mark = if chosen.contains(&variant.url) {
            " (highest)"
        } else {
            ""
        };
        say(&format!(
            "  {:>9} kbit/s  {}{mark}",
            variant.bandwidth / 1000,
            variant.url
        ));
    }
}

async fn media(client: &OriginClient, playlist: &MediaPlaylist) {
    let window: f64 = playlist
        .segments
        .iter()
        .map(|segment| segment.duration.as_secs_f64())
        .sum();
    say(&format!(
        "  media playlist, {}: {} segments, {window:.1} s, target duration {:.0} s, media sequence {}",
        if playlist.endlist { "complete" } else { "live" },
        playlist.segments.len(),
        playlist.target_duration.as_secs_f64(),
        playlist.media_sequence,
    ));
    for segment in &playlist.segments {
        if let Err(reason) = &segment.source {
            say(&format!(
                "  refused: {} {}: {reason}",
                segment.sequence, segment.uri
            ));
        }
    }
    for segment in playlist.segments.iter().rev().take(SAMPLES) {
        let Ok(url) = &segment.source else { continue };
        match time(client, url).await {
            Ok((bytes, millis)) => say(&format!(
                "  {} {}: {bytes} bytes, {:.1} s, fetched in {millis} ms",
                segment.sequence,
                segment.uri,
                segment.duration.as_secs_f64(),
            )),
            Err(error) => say(&format!("  {} {}: {error}", segment.sequence, segment.uri)),
        }
    }
}

async fn time(client: &OriginClient, url: &Url) -> Result<(u64, u128), OriginError> {
    let started = Instant::now();
    let mut body = client.segment(url).await?;
    while body.next().await?.is_some() {}
    Ok((body.received(), started.elapsed().as_millis()))
}
