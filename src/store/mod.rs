//! Segments on disk: written once while they arrive, read from their files, unlinked when nobody
//! needs them any more.
//!
//! # On disk
//!
//! `<dir>/<channel name>/<rendition>-<sequence>-<tag>.seg`, where the tag (in hexadecimal digits, eight
//! for the run of the box and eight for the file) keeps apart what one number meant at different
//! times. A file is the body of the segment followed by a trailer, so that one sequential write holds
//! everything and a card is not worn by a sidecar:
//!
//! ```text
//! body | JSON {uri, sequence, rendition, playlist, range, length, crc32c}
//!      | length of the JSON, u32 LE | CRC-32C of the JSON, u32 LE | "EDGESEG2"
//! ```
//!
//! where `length` and `crc32c` are those of the body, `range` says which part of its resource it is,
//! and `playlist` is the address of the playlist that the rendition stands for: what another playlist
//! listed is not taken for what this one means. A file is written as `<same name>.part`, its length is
//! checked, it is renamed, and later unlinked; it is never changed. Nothing is synced: after a power
//! cut the digests tell what is whole. (They do not tell what is meant. A file whose unlinking the cut
//! undid is served only if its playlist lists that number and name again.)
//!
//! The folder is locked (flock(2)), and looked at again before each new file: two boxes never share
//! one, not even after somebody wiped it.
//!
//! # A start
//!
//! [`Store::open`] makes the folders and takes the lock. What earlier runs left is looked for
//! afterwards ([`Store::recover`]): trailers only, and whatever has no sound one is deleted. A segment
//! found so is *unproven*: it is read back as a whole before it is served, when its playlist lists
//! it again ([`Store::recall`]) or as soon as somebody asks for it, whichever is first, one at a
//! time. Until then the answer is [`Found::Coming`]. What is not whole is deleted, and fetched again.
//!
//! # Reading what is being written
//!
//! A segment whose length is known may be read while it arrives ([`SegmentWriter::serve_meanwhile`]),
//! from the same open file: the writer says how far it has come, readers stay behind that. It is
//! stored, and looked up as such, only when it is whole. If it goes on in memory because the disk
//! fails, its readers get the rest once it is whole.
//!
//! # Room
//!
//! What is stored, what has been set aside for what is on its way, and what was taken out and is not
//! gone yet, is together never more than `max-size` ([`index`]). Whoever needs room takes out what is
//! further behind the live edge, deletes it, and asks again: on a blocking thread. What is
//! still being read after that goes on taking room until it is not ([`leaving`]).
//!
//! # When the disk fails
//!
//! Full, read-only, broken: what is stored is served for as long as it can be read. What arrives is
//! held in memory, the newest few, in at most half of `[memory] max-buffers` and only as long as
//! nobody else needs that ([`Budget::on_shortage`]). A disk that does not answer for ten seconds fails
//! as well. It is tried again every ten seconds; the operator is told when it fails and when it works
//! again, and in between by [`Store::problem`].
//!
//! # In memory
//!
//! A pure index says what is stored, what is on its way, and what goes when room is needed. It
//! stands behind one mutex, held for the length of a lookup and never across I/O.

mod disk;
mod error;
mod files;
mod folder;
mod growing;
mod health;
mod index;
mod inner;
mod leaving;
mod lookup;
mod prover;
mod segment;
mod work;
mod writer;

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde::Serialize;
use tokio::sync::{OnceCell, watch};

pub use self::disk::{Disk, Fault, Operation};
pub use self::error::StoreError;
use self::files::Names;
use self::folder::{Folder, LOCK_WITHIN, lock};
pub use self::growing::Arrival;
use self::index::{Index, Lookup, Pool};
use self::inner::{Followed, Inner, in_background};
use self::leaving::Leaving;
pub use self::segment::{Reader, Segment};
pub use self::writer::SegmentWriter;
use crate::budget::Budget;
use crate::config::{Matching, StoreConfig};
use crate::ids::{ChannelName, MediaSequence, RenditionIndex, Resource, SegmentUri};
use crate::metrics::Metrics;

/// What helps against ambiguous names.
const NAMES_OF_THEIR_OWN: &str = "give the files of each rendition names of their own";

/// The segments of every channel. Clones share one store.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
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
#[derive(Debug)]
pub enum Found {
    /// It is here, whole.
    Ready(Reader),
    /// A part of it is here, and the rest on its way ([`Reader::arrival`]).
    Arriving(Reader),
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
    /// Opens the folder: makes it where it is missing, locks it, and proves that it can be written
    /// to. Does not read what earlier runs left ([`Self::recover`]). With each channel comes how its
    /// viewers name segments. Where the disk cannot be written to, segments are held in what
    /// `budget` has to spare.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another box has the folder, [`StoreError::Io`] where it is not one
    /// that can be used. A disk that is full, read-only or broken is no error.
    pub fn open(
        config: StoreConfig,
        channels: impl IntoIterator<Item = (ChannelName, Matching)>,
        metrics: Arc<Metrics>,
        budget: Budget,
    ) -> Result<Self, StoreError> {
        Self::open_on(Disk::default(), config, channels, metrics, budget)
    }

    /// [`Self::open`] on a disk that may be made to fail, for tests.
    ///
    /// # Errors
    /// Those of [`Self::open`].
    pub fn open_on(
        disk: Disk,
        config: StoreConfig,
        channels: impl IntoIterator<Item = (ChannelName, Matching)>,
        metrics: Arc<Metrics>,
        budget: Budget,
    ) -> Result<Self, StoreError> {
        let channels: Vec<(ChannelName, Matching)> = channels.into_iter().collect();
        let max_memory = budget.total() as u64 / 2;
        let index = Index::new(config.max_size, max_memory, channels.iter().cloned());
        let channels: Vec<ChannelName> = channels.into_iter().map(|(name, _)| name).collect();
        let (lock, failed) = match lock(&disk, &config.dir, LOCK_WITHIN) {
            Ok(lock) => {
                let prepared = files::prepare(&disk, &config.dir, &channels);
                (Some(lock), prepared.err())
            }
            Err(error) => (None, Some(error)),
        };
        let ailment = match failed {
            Some(error) if error.is_the_operators() => return Err(error),
            failed => failed,
        };
        let ahead = channels.iter().cloned();
        let inner = Arc::new(Inner {
            disk,
            index: Mutex::new(index),
            health: Mutex::default(),
            prover: Mutex::default(),
            scans: channels
                .iter()
                .map(|c| (c.clone(), OnceCell::new()))
                .collect(),
            changes: watch::Sender::new(0),
            growing: Mutex::default(),
            growth: watch::Sender::new(0),
            ahead: ahead.map(|name| (name, watch::Sender::new(0))).collect(),
            playlists: Mutex::default(),
            metrics,
            names: Arc::new(Names::new()),
            folder: Folder::new(lock),
            leaving: Leaving::default(),
            channels,
            config,
            budget,
        });
        if let Some(ailment) = ailment {
            inner.disk_failed(&ailment);
        }
        let weak = Arc::downgrade(&inner);
        inner.budget.on_shortage(move |bytes| {
            if let Some(inner) = weak.upgrade() {
                inner.evict_from_memory(bytes as u64);
            }
        });
        Ok(Self { inner })
    }

    /// Takes in what earlier runs left, once: finds the segments whose trailers are sound, and
    /// deletes everything else that looks like one. [`Self::set_sources`] waits for it, for its channel;
    /// to begin earlier saves time. Takes two small reads for each segment.
    pub async fn recover(&self) {
        self.inner.recover_all().await;
        let inner = Arc::clone(&self.inner);
        let others = files::blocking(move || {
            if !inner.is_closed() {
                files::remove_others(&inner.disk, &inner.config.dir, &inner.channels);
            }
            Ok(())
        });
        // Fails only if the runtime stops.
        let _ = others.await;
    }

    /// Lets go of the folder, whoever still holds this store: another one may open it. What is read
    /// goes on being read, and nothing new is stored.
    pub fn close(&self) {
        self.inner.close();
    }

    /// Says which playlists the renditions of a channel stand for, in their order. Where that
    /// differs from where the stored segments came from, those are deleted. Call before anything is
    /// announced.
    pub async fn set_sources(&self, channel: &ChannelName, playlists: &[String]) {
        self.inner.recover(channel).await;
        let mut followed = self.inner.playlists();
        let before = (0..).map_while(|index| {
            let followed = followed.get(&(channel.clone(), RenditionIndex(index)))?;
            Some(followed.address.clone())
        });
        let before: Vec<String> = before.collect();
        let as_before = before.is_empty() || before == playlists;
        let mut index = self.inner.index();
        let same = as_before
            && index.stored(channel).all(|segment| {
                let list = segment.rendition().playlist();
                let playlist = playlists.get(usize::from(list.0));
                playlist.is_some_and(|playlist| playlist == segment.playlist())
            });
        let removed = match same {
            true => Vec::new(),
            false => index.clear(channel),
        };
        drop(index);
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
        drop(followed);
        self.inner.after_change(channel, removed);
    }

    /// What keeps the store from writing to the disk, if anything does.
    pub fn problem(&self) -> Option<String> {
        self.inner.health().problem()
    }

    /// Bytes of segments that are held in memory.
    pub fn memory_bytes(&self) -> u64 {
        self.inner.index().used(Pool::Memory)
    }

    /// The address of the playlist that a rendition stands for ([`Self::set_sources`]).
    pub fn playlist(&self, channel: &ChannelName, rendition: RenditionIndex) -> Option<String> {
        self.inner.playlist(channel, rendition)
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
            self.inner.changed();
        }
    }

    /// What is stored of one rendition, read back or not.
    pub fn stored(&self, channel: &ChannelName, rendition: RenditionIndex) -> Vec<Arc<Segment>> {
        let index = self.inner.index();
        let stored = index.stored(channel);
        let stored = stored.filter(|segment| segment.rendition() == rendition);
        stored.cloned().collect()
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
        for announced in segments {
            let standing = self.inner.index().standing(channel, announced);
            if let Lookup::Unproven(segment, ticket) = standing {
                Inner::prove(&self.inner, channel, segment, ticket, false);
            }
        }
    }

    /// Whether an earlier run stored this, and it is still to be seen whether it is whole
    /// ([`Self::changes`]).
    pub fn is_being_proven(&self, channel: &ChannelName, announced: &Announced) -> bool {
        let standing = self.inner.index().standing(channel, announced);
        matches!(standing, Lookup::Unproven(..))
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

    /// Whether an announced segment is here, whole: one that an earlier run stored is read back now.
    /// If that shows that it is not whole, it is deleted and stays announced.
    pub async fn recall(&self, channel: &ChannelName, announced: &Announced) -> bool {
        let mut changes = self.changes();
        loop {
            changes.borrow_and_update();
            let standing = self.inner.index().standing(channel, announced);
            match standing {
                Lookup::Ready(_) => return true,
                Lookup::Unproven(segment, ticket) => {
                    Inner::prove(&self.inner, channel, segment, ticket, false);
                }
                Lookup::Coming(_) | Lookup::Unconfirmed | Lookup::Ahead | Lookup::Absent => {
                    return false;
                }
            }
            // Cannot fail: this store has the other end.
            let _ = changes.changed().await;
        }
    }

    /// A segment that was found could not be read to its end: it is not found any more. Of one that is
    /// still arriving its writer will find out.
    pub fn lose(&self, channel: &ChannelName, reader: &Reader, error: io::Error) {
        match reader.segment() {
            Some(segment) => self.inner.lose(channel, &segment, error),
            None => log::debug!("channel {channel}: a segment that is arriving: {error}"),
        }
    }

    /// What of a rendition turned out not to be there any more since this was last asked, and is listed
    /// all the same: it is to be fetched again.
    pub fn take_lost(&self, channel: &ChannelName, rendition: RenditionIndex) -> Vec<Announced> {
        self.inner.index().take_lost(channel, rendition)
    }

    /// Starts storing an announced segment. Makes room where the length is known; quota and free
    /// space are checked while writing, too.
    ///
    /// # Errors
    /// [`StoreError::NotWanted`] if it expired meanwhile or is stored already,
    /// [`StoreError::NoRoom`] if only segments nearer to the live edge could make room,
    /// [`StoreError::NoMemory`] if the disk fails and memory has no room either.
    pub async fn begin(
        &self,
        channel: &ChannelName,
        announced: &Announced,
        expected_len: Option<u64>,
    ) -> Result<SegmentWriter, StoreError> {
        SegmentWriter::new(&self.inner, channel, announced, expected_len).await
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
}
