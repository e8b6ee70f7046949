//! `/live/<name>/`: what the box has as plain HLS, for players without WebRTC (television sets, VLC).
//!
//! The playlists are the origin's, with what is here named as it is here ([`crate::fetch`]). Whatever is named
//! so and cannot be had in time is at the origin, and the player is sent there: it is never worse off than
//! without a box.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::try_unfold;
use tokio::sync::watch;
use tokio::time::timeout_at;

use super::{AppState, Channel, Sources, content};
use crate::budget::{Budget, Share};
use crate::fetch::LanPath;
use crate::ids::{MediaSequence, RenditionIndex, Resource, without_password};
use crate::metrics::ChannelMetrics;
use crate::store::{Arrival, Found, Reader};

/// What is read at a time, and held until the player takes it: as many connections as there may be, each
/// with one that goes out and one that waits, hold 4 MiB of the budget at most.
const PIECE: usize = 16 << 10;

const PLAYLIST: &str = "application/vnd.apple.mpegurl";

/// Answers what a player asks for.
pub(super) async fn answer(
    State(sources): AppState,
    Path((name, path)): Path<(String, String)>,
) -> Response {
    let mut channels = sources.channels.iter();
    let channel = channels.find(|channel| channel.config.name.as_str() == name);
    let mut response = match (channel, LanPath::parse(&path)) {
        (Some(channel), Some(LanPath::Segment(list, number))) => {
            let mut response = segment(&sources, channel, list, number).await;
            if response.status() == StatusCode::OK {
                let media = HeaderValue::from_static(media_type(&path));
                response.headers_mut().insert(header::CONTENT_TYPE, media);
            }
            response
        }
        (Some(channel), Some(list)) => playlist(channel, list),
        _ => StatusCode::NOT_FOUND.into_response(),
    };
    // For players in pages of anywhere.
    let any = HeaderValue::from_static("*");
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, any);
    response
}

fn playlist(channel: &Channel, path: LanPath) -> Response {
    let lan = channel.lan.borrow();
    let first = || lan.media.get(&RenditionIndex(0));
    let list = match path {
        LanPath::Media(list) => lan.media.get(&list),
        _ => lan.multivariant.as_ref().or_else(first),
    };
    match list {
        Some(list) => content(list.clone(), PLAYLIST),
        None => later("This playlist is not here yet.\n"),
    }
}

async fn segment(
    sources: &Sources,
    channel: &Channel,
    list: RenditionIndex,
    number: MediaSequence,
) -> Response {
    let (name, store) = (&channel.config.name, &sources.store);
    let until = tokio::time::Instant::now() + sources.request_hold;
    let mut changes = store.changes();
    loop {
        changes.mark_unchanged();
        let Some((found, resource)) = store.find_listed(name, list, number) else {
            return StatusCode::NOT_FOUND.into_response();
        };
        match found {
            Found::Ready(reader) | Found::Arriving(reader) => {
                return send(sources, channel, reader);
            }
            Found::Coming if matches!(timeout_at(until, changes.changed()).await, Ok(Ok(()))) => {}
            Found::Coming | Found::Absent => return at_the_origin(resource.as_ref()),
        }
    }
}

fn send(sources: &Sources, channel: &Channel, reader: Reader) -> Response {
    let length = HeaderValue::from(reader.len());
    let sending = Sending {
        reader: Arc::new(reader),
        at: 0,
        growth: sources.store.growth(),
        budget: sources.budget.clone(),
        metrics: sources.metrics.channel(&channel.config.name),
    };
    let body = Body::from_stream(sending.pieces());
    let mut response = content(body, "application/octet-stream");
    response
        .headers_mut()
        .insert(header::CONTENT_LENGTH, length);
    response
}

/// Sends a player to where the playlist has it from. A part of a resource has no address of its own.
fn at_the_origin(resource: Option<&Resource>) -> Response {
    match resource {
        Some(Resource { url, range: None }) => {
            Redirect::temporary(without_password(url).as_str()).into_response()
        }
        _ => later("This segment is not here yet.\n"),
    }
}

fn later(why: &'static str) -> Response {
    let mut response = content(why, "text/plain; charset=utf-8");
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    let second = HeaderValue::from_static("1");
    response.headers_mut().insert(header::RETRY_AFTER, second);
    response
}

/// By the name that it has in our playlist; RFC 8216 section 3 has the kinds of segments.
fn media_type(path: &str) -> &'static str {
    match path.rsplit('.').next().unwrap_or_default() {
        "ts" => "video/mp2t",
        "mp4" | "m4s" | "m4v" | "cmfv" => "video/mp4",
        "m4a" | "cmfa" => "audio/mp4",
        "aac" => "audio/aac",
        "mp3" => "audio/mpeg",
        "vtt" => "text/vtt",
        _ => "application/octet-stream",
    }
}

/// A segment on its way to a player.
struct Sending {
    reader: Arc<Reader>,
    at: usize,
    growth: watch::Receiver<u64>,
    budget: Budget,
    metrics: Arc<ChannelMetrics>,
}

/// Media that is in flight until the player has taken it.
struct Piece {
    bytes: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Sending {
    /// One after the other, as they come. An error ends the connection: a player must not take what came
    /// for the whole.
    fn pieces(self) -> impl Stream<Item = io::Result<Bytes>> {
        try_unfold(self, async |mut sending: Self| {
            let piece = sending.next().await?;
            Ok(piece.map(|piece| (piece, sending)))
        })
    }

    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let length = self.reader.len();
        if self.at == length {
            return Ok(None);
        }
        let available = loop {
            self.growth.mark_unchanged();
            match self.reader.arrival(Instant::now()) {
                Arrival::Whole => break length,
                Arrival::Broken => return Err(io::ErrorKind::UnexpectedEof.into()),
                Arrival::Under { available, .. } if available > self.at => break available,
                Arrival::Under { .. } => {
                    let more = self.growth.changed().await;
                    more.map_err(|_| io::ErrorKind::UnexpectedEof)?;
                }
            }
        };
        let range = self.at..available.min(self.at + PIECE);
        let share = self.budget.take(range.len()).await;
        self.at = range.end;
        let reader = Arc::clone(&self.reader);
        let read = tokio::task::spawn_blocking(move || reader.read(range)).await;
        let bytes = read.map_err(io::Error::other)??;
        self.metrics.served_http_bytes.add(bytes.len() as u64);
        let piece = Piece {
            bytes,
            _share: share,
        };
        Ok(Some(Bytes::from_owner(piece)))
    }
}
