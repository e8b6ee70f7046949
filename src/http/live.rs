//! `/live/<name>/`: what the box has as plain HLS, for players without WebRTC (television sets, VLC).
//!
//! The playlists are the origin's, with what is here named as it is here ([`crate::fetch`]). Whatever is named
//! so and cannot be had in time is at the origin, and the player is sent there.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::try_unfold;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout_at;
use url::Url;

use super::{Channel, Sources, content};
use crate::budget::{Budget, Share};
use crate::fetch::{LanPath, LanPlaylists};
use crate::ids::{MediaSequence, RenditionIndex, Resource, without_password};
use crate::metrics::ChannelMetrics;
use crate::store::{Arrival, Found, Reader};

/// What is read at a time, and held until the player takes it.
const PIECE: usize = 16 << 10;

const PLAYLIST: &str = "application/vnd.apple.mpegurl";

/// A part of a resource has no address that a player could be sent to: it is waited for as long as a segment
/// commonly is.
const PART_HOLD: Duration = Duration::from_secs(10);

/// What players in the LAN share.
#[derive(Clone)]
pub(super) struct Live {
    sources: Arc<Sources>,
    /// Pieces that they may hold at once: a quarter of the budget, so that players that do not read cost
    /// viewers and downloads nothing.
    pieces: Arc<Semaphore>,
}

impl Live {
    pub(super) fn new(sources: Arc<Sources>) -> Self {
        let pieces = (sources.budget.total() / 4 / PIECE).max(1);
        let pieces = Arc::new(Semaphore::new(pieces));
        Self { sources, pieces }
    }
}

/// Answers what a player asks for.
pub(super) async fn answer(
    State(live): State<Live>,
    Path((name, path)): Path<(String, String)>,
) -> Response {
    let mut channels = live.sources.channels.iter();
    let channel = channels.find(|channel| channel.config.name.as_str() == name);
    let mut response = match (channel, LanPath::parse(&path)) {
        (Some(channel), Some(LanPath::Segment(list, number))) => {
            segment(&live, channel, list, number, media_type(&path)).await
        }
        (Some(channel), Some(LanPath::Media(list))) => playlist(&channel.lan.borrow(), list),
        (Some(channel), Some(LanPath::Index)) => index(channel),
        (Some(_) | None, None) | (None, Some(_)) => StatusCode::NOT_FOUND.into_response(),
    };
    // Players come back every few seconds, and would keep the connections of the pages to themselves.
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
    response
}

fn index(channel: &Channel) -> Response {
    let lan = channel.lan.borrow();
    match &lan.multivariant {
        Some(list) => content(list.clone(), PLAYLIST),
        // Or before it has been loaded.
        None if lan.followed.len() != 1 => elsewhere(&channel.config.url),
        None => playlist(&lan, RenditionIndex(0)),
    }
}

fn playlist(lan: &LanPlaylists, list: RenditionIndex) -> Response {
    match (lan.media.get(&list), lan.followed.get(usize::from(list.0))) {
        (Some(list), _) => content(list.clone(), PLAYLIST),
        (None, Some(url)) => elsewhere(url),
        (None, None) => StatusCode::NOT_FOUND.into_response(),
    }
}

fn elsewhere(url: &Url) -> Response {
    Redirect::temporary(without_password(url).as_str()).into_response()
}

async fn segment(
    live: &Live,
    channel: &Channel,
    list: RenditionIndex,
    number: MediaSequence,
    media_type: &'static str,
) -> Response {
    let (name, store) = (&channel.config.name, &live.sources.store);
    let now = tokio::time::Instant::now();
    let mut changes = store.changes();
    loop {
        changes.mark_unchanged();
        let Some((found, resource)) = store.find_listed(name, list, number) else {
            return StatusCode::NOT_FOUND.into_response();
        };
        let is_part = |resource: &Resource| resource.range.is_some();
        let until = match resource.as_ref().is_some_and(is_part) {
            true => now + PART_HOLD,
            false => now + live.sources.request_hold,
        };
        match found {
            Found::Ready(reader) | Found::Arriving(reader) => {
                return send(live, channel, reader, media_type);
            }
            Found::Coming if matches!(timeout_at(until, changes.changed()).await, Ok(Ok(()))) => {}
            Found::Coming | Found::Absent => return at_the_origin(resource.as_ref()),
        }
    }
}

fn send(live: &Live, channel: &Channel, reader: Reader, media_type: &'static str) -> Response {
    let sources = &live.sources;
    let length = HeaderValue::from(reader.len());
    let sending = Sending {
        reader: Arc::new(reader),
        at: 0,
        growth: sources.store.growth(),
        budget: sources.budget.clone(),
        pieces: Arc::clone(&live.pieces),
        metrics: sources.metrics.channel(&channel.config.name),
    };
    let mut response = content(Body::from_stream(sending.pieces()), media_type);
    response
        .headers_mut()
        .insert(header::CONTENT_LENGTH, length);
    response
}

/// Sends a player to where the playlist has it from. A part of a resource has no address of its own.
fn at_the_origin(resource: Option<&Resource>) -> Response {
    match resource {
        Some(Resource { url, range: None }) => elsewhere(url),
        _ => {
            let mut response = StatusCode::SERVICE_UNAVAILABLE.into_response();
            let second = HeaderValue::from_static("1");
            response.headers_mut().insert(header::RETRY_AFTER, second);
            response
        }
    }
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
    pieces: Arc<Semaphore>,
    metrics: Arc<ChannelMetrics>,
}

/// Media that is in flight until the player has taken it.
struct Piece {
    bytes: Bytes,
    _share: Share,
    _place: OwnedSemaphorePermit,
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
        let place = Arc::clone(&self.pieces).acquire_owned().await;
        let place = place.map_err(io::Error::other)?;
        let share = self.budget.take(range.len()).await;
        self.at = range.end;
        let reader = Arc::clone(&self.reader);
        let read = tokio::task::spawn_blocking(move || reader.read(range)).await;
        let bytes = read.map_err(io::Error::other)??;
        self.metrics.served_http_bytes.add(bytes.len() as u64);
        let piece = Piece {
            bytes,
            _share: share,
            _place: place,
        };
        Ok(Some(Bytes::from_owner(piece)))
    }
}
