//! Segments on disk: written once while they arrive, served from a mapping, unlinked when nobody
//! needs them any more.
//!
//! # On disk
//!
//! `<dir>/<channel name>/<rendition>-<sequence>-<tag>.seg`, where the tag keeps apart what one
//! number meant at different times. A file is the body of the segment followed by a trailer, so
//! that one sequential write holds everything and a card is not worn by a sidecar:
//!
//! ```text
//! body | JSON {uri, sequence, rendition, length, crc32c} | length of the JSON, u32 LE | "EDGESEG1"
//! ```
//!
//! It is written as `<same name>.part`, its length is checked, it is renamed, and later unlinked;
//! it is never truncated, so that a mapping of it stays valid. Nothing is synced: after a power
//! cut the CRC-32C tells what is whole, and what is not provably whole is deleted. `sources` holds
//! the addresses of the playlists that the renditions' numbers stand for; when they differ, the
//! folder is emptied. The index is rebuilt from the folder at start.
//!
//! # In memory
//!
//! A pure index says what is stored, what is on its way, and what goes when room is needed. It
//! stands behind one mutex, held for the length of a lookup and never across I/O.

mod error;
mod files;
mod index;
mod mapping;
mod writer;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

pub use self::error::StoreError;
use self::index::{Index, Lookup};
pub use self::mapping::Segment;
pub use self::writer::SegmentWriter;
use crate::config::{Matching, StoreConfig};
use crate::ids::{ChannelName, MediaSequence, RenditionIndex, Resource, SegmentUri};
use crate::metrics::Metrics;
use serde::Serialize;
use tokio::sync::watch;

/// What helps against ambiguous names.
const NAMES_OF_THEIR_OWN: &str = "give the files of each rendition names of their own";

/// The segments of every channel. Clones share one store.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: StoreConfig,
    index: Mutex<Index<Arc<Segment>>>,
    changes: watch::Sender<u64>,
    ahead: HashMap<ChannelName, watch::Sender<u64>>,
    playlists: Mutex<HashMap<(ChannelName, RenditionIndex), Followed>>,
    metrics: Arc<Metrics>,
}

/// The playlist that a rendition stands for.
#[derive(Debug)]
struct Followed {
    address: String,
    /// When the newest load of it began, in this run.
    looked: Option<Instant>,
    /// A sibling waits for the next look.
    awaited: bool,
    /// That a sibling follows another playlist has been said.
    told_of_another: bool,
}

/// A segment, or an initialization section, that a playlist lists and that is about to be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced {
    /// Which list it belongs to.
    pub rendition: RenditionIndex,
    /// Its URI exactly as written there.
    pub uri: SegmentUri,
    /// What that URI stands for there.
    pub resource: Resource,
    /// Its number there; of an initialization section, that of the first segment that needs it.
    pub sequence: MediaSequence,
}

/// The answer to [`Store::find`].
#[derive(Clone, Debug)]
pub enum Found {
    /// It is here, whole.
    Ready(Arc<Segment>),
    /// It is listed, or about to be, and not here yet: worth waiting for
    /// ([`Store::changes`]) for a moment.
    Coming,
    /// It is not here and will not come, or its name is ambiguous.
    Absent,
}

/// What a channel holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Segments that can be served now.
    pub segments: usize,
    /// Bytes of their files.
    pub bytes: u64,
    /// The highest number among them.
    pub newest: Option<MediaSequence>,
}

/// Listed segments that are not served, because a viewer who asks for one by its name may mean
/// another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ambiguous {
    /// The URI of one of them.
    pub example: SegmentUri,
    /// How many there are.
    pub segments: usize,
}

fn tell_clash(channel: &ChannelName, first: Option<String>) {
    if let Some(name) = first {
        log::warn!(
            "channel {channel}: two of its segments are called {name}. Viewers name a segment by \
             that, so neither can be served to them; {NAMES_OF_THEIR_OWN}"
        );
    }
}

impl Store {
    /// Opens the folder: makes it where it is missing, proves that it can be written to, verifies
    /// what earlier runs left in it, and deletes what is not whole. Blocks for as long as reading
    /// back the stored segments takes, some seconds at most. With each channel comes how its viewers
    /// name segments.
    ///
    /// # Errors
    /// [`StoreError::Permission`] or [`StoreError::Io`] where the folder cannot be used.
    pub fn open(
        config: StoreConfig,
        channels: impl IntoIterator<Item = (ChannelName, Matching)>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StoreError> {
        let channels: Vec<(ChannelName, Matching)> = channels.into_iter().collect();
        let mut index = Index::new(config.max_size, channels.iter().cloned());
        let channels: Vec<ChannelName> = channels.into_iter().map(|(name, _)| name).collect();
        files::prepare(&config.dir, &channels)?;
        let mut surplus = Vec::new();
        for (channel, segment) in files::recover(&config.dir, &channels)? {
            let outcome = index.restore(&channel, Arc::new(segment));
            tell_clash(&channel, outcome.first_clash);
            surplus.extend(outcome.removed);
        }
        let store = Self {
            inner: Arc::new(Inner {
                config,
                index: Mutex::new(index),
                changes: watch::Sender::new(0),
                ahead: channels
                    .iter()
                    .map(|channel| (channel.clone(), watch::Sender::new(0)))
                    .collect(),
                playlists: Mutex::default(),
                metrics,
            }),
        };
        store.inner.discard(surplus);
        for channel in &channels {
            store.inner.count(channel);
        }
        Ok(store)
    }

    /// Says which playlists the renditions of a channel stand for, in their order. Where that
    /// differs from where the stored segments came from, those are deleted. Call before anything is
    /// announced.
    ///
    /// # Errors
    /// [`StoreError`] where the note of it cannot be written.
    pub async fn set_sources(
        &self,
        channel: &ChannelName,
        playlists: &[String],
    ) -> Result<(), StoreError> {
        let folder = self.inner.folder(channel);
        let text: String = playlists.iter().map(|name| format!("{name}\n")).collect();
        let same = files::blocking(move || files::note_sources(&folder, &text)).await?;
        if !same {
            let removed = self.inner.index().clear(channel);
            self.inner.after_change(channel, removed);
        }
        let mut followed = self.inner.playlists();
        followed.retain(|(name, _), _| name != channel);
        followed.extend((0..).zip(playlists).map(|(index, address)| {
            let playlist = Followed {
                address: address.clone(),
                looked: None,
                awaited: false,
                told_of_another: false,
            };
            ((channel.clone(), RenditionIndex(index)), playlist)
        }));
        Ok(())
    }

    /// The address of the playlist that a rendition stands for ([`Self::set_sources`]).
    pub fn playlist(&self, channel: &ChannelName, rendition: RenditionIndex) -> Option<String> {
        let followed = self.inner.playlists();
        let followed = followed.get(&(channel.clone(), rendition))?;
        Some(followed.address.clone())
    }

    /// A playlist has been loaded, and what it says is in effect; the load began at `started`, and
    /// `newest` is the last number it lists, whether or not that is fetched.
    pub fn looked(
        &self,
        channel: &ChannelName,
        rendition: RenditionIndex,
        started: Instant,
        newest: Option<MediaSequence>,
    ) {
        self.inner.index().listed(channel, rendition, newest);
        let key = (channel.clone(), rendition);
        let mut playlists = self.inner.playlists();
        let Some(followed) = playlists.get_mut(&key) else {
            return;
        };
        followed.looked = Some(started);
        if std::mem::take(&mut followed.awaited) {
            drop(playlists);
            self.inner.changes.send_modify(|number| *number += 1);
        }
    }

    /// What is stored of one rendition.
    pub fn stored(&self, channel: &ChannelName, rendition: RenditionIndex) -> Vec<Arc<Segment>> {
        self.inner.index().stored(channel, rendition)
    }

    /// A playlist lists these, whether or not they are fetched. What an earlier run stored under these
    /// names and numbers is taken for them; until then, other renditions may mean something else by
    /// its names, and it is not served by those that they use.
    pub fn identify(&self, channel: &ChannelName, listed: &[Announced]) {
        let first_clash = self.inner.index().identify(channel, listed);
        tell_clash(channel, first_clash);
    }

    /// The playlist lists these and they are about to be fetched: a request for one may wait.
    /// What is stored already stays. Call it, if need be with nothing, at each change of a live
    /// playlist: it also says that the channel is alive.
    pub fn announce(&self, channel: &ChannelName, segments: &[Announced]) {
        let outcome = self
            .inner
            .index()
            .announce(channel, segments, Instant::now());
        tell_clash(channel, outcome.first_clash);
        self.inner.after_change(channel, outcome.removed);
    }

    /// Playlists of the channel that are not followed give a name, such as these, to something else
    /// than these renditions do: nothing of them is found by such names, for what those playlists
    /// will list next is not known. It lasts until a later call leaves them out and all playlists
    /// were `seen` for it.
    pub fn set_shared(
        &self,
        channel: &ChannelName,
        shared: &[(RenditionIndex, Matching, SegmentUri)],
        seen: bool,
    ) {
        let mut new = Vec::new();
        {
            let mut index = self.inner.index();
            for kind in [Matching::Exact, Matching::Path] {
                let of_kind = || shared.iter().filter(|(_, matching, _)| *matching == kind);
                let renditions = of_kind().map(|(rendition, _, _)| *rendition).collect();
                let told = index.set_shared(channel, kind, renditions, seen);
                new.extend(of_kind().filter(|(rendition, _, _)| told.contains(rendition)));
            }
        }
        for (rendition, _, uri) in new {
            let what = match rendition.is_sections() {
                true => "no initialization section",
                false => "no segment",
            };
            log::warn!(
                "channel {channel}: {uri} is the name of different things in a playlist that is \
                 followed and in one that is not. Viewers name a segment by that, so {what} of the \
                 followed one can be served to them; {NAMES_OF_THEIR_OWN}"
            );
        }
        self.inner.after_change(channel, Vec::new());
    }

    /// Starts storing an announced segment. Makes room where the length is known; quota and free
    /// space are checked while writing, too.
    ///
    /// # Errors
    /// [`StoreError::NotWanted`] if it expired meanwhile or is stored already,
    /// [`StoreError::NoRoom`] if only segments nearer to the live edge could make room.
    pub fn begin(
        &self,
        channel: &ChannelName,
        announced: &Announced,
        expected_len: Option<u64>,
    ) -> Result<SegmentWriter, StoreError> {
        SegmentWriter::new(Arc::clone(&self.inner), channel, announced, expected_len)
    }

    /// It will not come: whoever waits for it is told now.
    pub fn give_up(&self, channel: &ChannelName, announced: &Announced) {
        if self.inner.index().give_up(channel, announced) {
            self.inner.after_change(channel, Vec::new());
        }
    }

    /// Forgets segments and deletes their files. Those that are being served stay valid until
    /// they are let go.
    pub fn expire(
        &self,
        channel: &ChannelName,
        segments: &[(RenditionIndex, MediaSequence, SegmentUri)],
    ) {
        let removed = self.inner.index().expire(channel, segments);
        self.inner.after_change(channel, removed);
    }

    /// Changes whenever somebody asks for a segment just past the newest announced one: a viewer has
    /// seen a newer playlist than we have. `None` for an unknown channel.
    pub fn asked_ahead(&self, channel: &ChannelName) -> Option<watch::Receiver<u64>> {
        self.inner.ahead.get(channel).map(watch::Sender::subscribe)
    }

    /// Looks up what a viewer names: the URI as the playlist writes it (or without its query, where
    /// the channel says so) and, if given, the media sequence number, which has to fit: numbers are
    /// of segments. Without one, it is whatever has that URI, an initialization section for one; but
    /// not if the URI stands for several parts of one resource.
    ///
    /// A URI that nobody announced is [`Found::Coming`] if its number is at most three past the
    /// newest listed one of a channel that is alive: the viewer has loaded the playlist before us. One whose name may turn out to be ambiguous in a moment is, too.
    pub fn find(&self, channel: &ChannelName, uri: &str, sequence: Option<MediaSequence>) -> Found {
        let now = Instant::now();
        match self.inner.index().find(channel, uri, sequence, now) {
            Lookup::Ready(segment) => Found::Ready(segment),
            Lookup::Coming => Found::Coming,
            Lookup::Ahead => {
                self.look_ahead(channel);
                Found::Coming
            }
            Lookup::Absent => Found::Absent,
        }
    }

    /// Looks up what another box names. It gets only what belongs to the playlist that it follows,
    /// and only if this box has looked at that playlist at `since` or later, or at all; before that the answer
    /// is [`Found::Coming`], and the next look is brought forward. What is on its way is
    /// [`Found::Absent`] here: whether to wait for it is not the store's to say.
    pub fn find_for_sibling(
        &self,
        channel: &ChannelName,
        uri: &str,
        sequence: Option<MediaSequence>,
        playlist: &str,
        since: Option<Instant>,
    ) -> Found {
        // Held over the lookup: what a newer look expires cannot be found under it.
        let mut playlists = self.inner.playlists();
        let found = self
            .inner
            .index()
            .find(channel, uri, sequence, Instant::now());
        let segment = match found {
            Lookup::Ready(segment) => segment,
            Lookup::Ahead => {
                self.look_ahead(channel);
                return Found::Absent;
            }
            Lookup::Coming | Lookup::Absent => return Found::Absent,
        };
        let key = (channel.clone(), segment.rendition());
        match playlists.get_mut(&key) {
            Some(followed) if followed.address != playlist => {
                if !std::mem::replace(&mut followed.told_of_another, true) {
                    log::warn!(
                        "channel {channel}: a sibling box follows {playlist:?}, this one {}: they \
                         share nothing; give both the same url",
                        followed.address
                    );
                }
                Found::Absent
            }
            Some(followed) if followed.looked.is_some_and(|looked| Some(looked) >= since) => {
                Found::Ready(segment)
            }
            Some(followed) => {
                followed.awaited = true;
                self.look_ahead(channel);
                Found::Coming
            }
            None => Found::Absent,
        }
    }

    fn look_ahead(&self, channel: &ChannelName) {
        if let Some(ahead) = self.inner.ahead.get(channel) {
            ahead.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// The highest number that is stored of the channel, over all renditions.
    pub fn newest(&self, channel: &ChannelName) -> Option<MediaSequence> {
        self.inner.index().newest_of_all(channel)
    }

    /// The highest number that is stored of one rendition.
    pub fn newest_of(
        &self,
        channel: &ChannelName,
        rendition: RenditionIndex,
    ) -> Option<MediaSequence> {
        self.inner.index().newest(channel, rendition)
    }

    /// Grows whenever a [`Self::find`] may answer differently.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// What of a channel is not served because of its names, if there is such.
    pub fn ambiguous(&self, channel: &ChannelName) -> Option<Ambiguous> {
        self.inner.index().ambiguous(channel)
    }

    /// What a channel holds.
    pub fn summary(&self, channel: &ChannelName) -> Summary {
        self.inner.index().summary(channel)
    }
}

impl Inner {
    fn index(&self) -> MutexGuard<'_, Index<Arc<Segment>>> {
        // The index is consistent between its calls, whatever happened to another thread.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn playlists(&self) -> MutexGuard<'_, HashMap<(ChannelName, RenditionIndex), Followed>> {
        self.playlists
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn folder(&self, channel: &ChannelName) -> PathBuf {
        self.config.dir.join(channel.as_str())
    }

    /// Deletes what was taken out, and tells everybody.
    fn after_change(&self, channel: &ChannelName, removed: Vec<Arc<Segment>>) {
        self.discard(removed);
        self.count(channel);
        self.changes.send_modify(|number| *number += 1);
    }

    /// Unlinks files, off the caller's thread where there is a runtime.
    fn discard(&self, removed: Vec<Arc<Segment>>) {
        if removed.is_empty() {
            return;
        }
        let unlink = move || {
            for segment in removed {
                files::unlink(segment.path());
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(unlink)),
            Err(_) => unlink(),
        }
    }

    fn count(&self, channel: &ChannelName) {
        let index = self.index();
        let (summary, used) = (index.summary(channel), index.used());
        drop(index);
        let gauge = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.metrics.store_bytes.set(gauge(used));
        let segments = gauge(summary.segments as u64);
        self.metrics.channel(channel).store_segments.set(segments);
    }
}
