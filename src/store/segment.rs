//! A stored segment, and reading it.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;

use super::disk::{Disk, DiskFile};
use super::files::Trailer;
use super::growing::{Arrival, Growing};
use super::index::Pool;
use crate::budget::Share;
use crate::ids::{ByteRange, MediaSequence, RenditionIndex, SegmentUri};

/// What is read at a time to see whether a segment is whole.
const PIECE: usize = 256 << 10;

/// A stored segment.
#[derive(Debug)]
pub struct Segment {
    trailer: Trailer,
    place: Place,
    stored_at: SystemTime,
}

#[derive(Debug)]
enum Place {
    File {
        path: PathBuf,
        /// Of the file.
        bytes: u64,
    },
    /// Where the disk cannot be written to.
    Memory { bytes: Bytes, _share: Share },
}

/// A segment that is being read. It stays readable after it was evicted, until this is dropped.
#[derive(Debug)]
pub struct Reader {
    source: Source,
}

#[derive(Debug)]
enum Source {
    Stored {
        segment: Arc<Segment>,
        /// None of a segment that is in memory.
        file: Option<DiskFile>,
    },
    Growing(Arc<Growing>),
}

impl Segment {
    /// The segment in the file at `path`, of `bytes` bytes.
    pub(super) fn in_file(
        path: PathBuf,
        bytes: u64,
        trailer: Trailer,
        stored_at: SystemTime,
    ) -> Self {
        Self {
            trailer,
            place: Place::File { path, bytes },
            stored_at,
        }
    }

    /// A segment whose bytes are held in memory, where `share` pays for them.
    pub(super) fn in_memory(bytes: Bytes, share: Share, trailer: Trailer) -> Self {
        Self {
            trailer,
            place: Place::Memory {
                bytes,
                _share: share,
            },
            stored_at: SystemTime::now(),
        }
    }

    /// Its URI exactly as the playlist writes it.
    pub fn uri(&self) -> &SegmentUri {
        &self.trailer.uri
    }

    /// Its number in its playlist.
    pub fn sequence(&self) -> MediaSequence {
        self.trailer.sequence
    }

    /// Which playlist of the channel it belongs to.
    pub fn rendition(&self) -> RenditionIndex {
        RenditionIndex(self.trailer.rendition)
    }

    /// Which part of its resource it is; `None` if it is all of it.
    pub(super) fn range(&self) -> Option<ByteRange> {
        let (start, length) = self.trailer.range?;
        ByteRange::new(start, length)
    }

    /// Bytes of the segment.
    pub fn len(&self) -> usize {
        // It fits: the store takes what fits into memory and no more.
        usize::try_from(self.trailer.length).unwrap_or(usize::MAX)
    }

    /// Never: a segment without bytes is not stored.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// CRC-32C of its bytes, as they came.
    pub fn crc32c(&self) -> u32 {
        self.trailer.crc32c
    }

    /// How long ago it was stored by the wall clock; `None` if that would be in the future.
    pub fn age(&self) -> Option<Duration> {
        self.stored_at.elapsed().ok()
    }

    /// The address of the playlist that listed it.
    pub(super) fn playlist(&self) -> &str {
        &self.trailer.playlist
    }

    /// Its file, if it is not in memory.
    pub(super) fn path(&self) -> Option<&Path> {
        match &self.place {
            Place::File { path, .. } => Some(path),
            Place::Memory { .. } => None,
        }
    }

    pub(super) fn pool(&self) -> Pool {
        match self.place {
            Place::File { .. } => Pool::Disk,
            Place::Memory { .. } => Pool::Memory,
        }
    }

    pub(super) fn stored_at(&self) -> SystemTime {
        self.stored_at
    }

    /// Bytes of its file, or of what is held in memory.
    pub(super) fn occupied(&self) -> u64 {
        match &self.place {
            Place::File { bytes, .. } => *bytes,
            Place::Memory { bytes, .. } => bytes.len() as u64,
        }
    }

    pub(super) fn open(self: Arc<Self>, disk: &Disk) -> io::Result<Reader> {
        let file = match &self.place {
            Place::File { path, .. } => Some(disk.open(path)?),
            Place::Memory { .. } => None,
        };
        let segment = self;
        Ok(Reader {
            source: Source::Stored { segment, file },
        })
    }

    /// Bytes of a segment that is held in memory.
    pub(super) fn in_memory_at(&self, range: &Range<usize>) -> Option<Bytes> {
        match &self.place {
            Place::Memory { bytes, .. } => Some(bytes.slice(range.clone())),
            Place::File { .. } => None,
        }
    }

    /// Reads all of it: whether the bytes are those that were written.
    pub(super) fn is_whole(self: &Arc<Self>, disk: &Disk) -> io::Result<bool> {
        let reader = Arc::clone(self).open(disk)?;
        let mut crc = 0;
        let mut at = 0;
        while at < self.len() {
            let piece = reader.read(at..at.saturating_add(PIECE))?;
            crc = crc32c::crc32c_append(crc, &piece);
            at += piece.len();
        }
        Ok(crc == self.crc32c())
    }
}

impl Reader {
    pub(super) fn growing(growing: Arc<Growing>) -> Self {
        let source = Source::Growing(growing);
        Self { source }
    }

    /// The segment; `None` as long as the rest of it is on its way.
    pub fn segment(&self) -> Option<Arc<Segment>> {
        match &self.source {
            Source::Stored { segment, .. } => Some(Arc::clone(segment)),
            Source::Growing(growing) => growing.segment(),
        }
    }

    /// Bytes of the segment, here or on their way.
    pub fn len(&self) -> usize {
        match &self.source {
            Source::Stored { segment, .. } => segment.len(),
            Source::Growing(growing) => growing.len(),
        }
    }

    /// Never: a segment without bytes is not stored.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How far it has come; [`super::Store::growth`] tells when there may be more.
    pub fn arrival(&self, now: Instant) -> Arrival {
        match &self.source {
            Source::Stored { .. } => Arrival::Whole,
            Source::Growing(growing) => growing.arrival(now),
        }
    }

    /// The bytes of `range`, cut to the segment; may wait for the disk.
    ///
    /// # Errors
    /// What the disk says; also where they are not here yet ([`Self::arrival`]).
    pub fn read(&self, range: Range<usize>) -> io::Result<Bytes> {
        let end = range.end.min(self.len());
        let range = range.start.min(end)..end;
        match &self.source {
            Source::Growing(growing) => growing.read(range),
            Source::Stored { segment, file } => match (segment.in_memory_at(&range), file) {
                (Some(bytes), _) => Ok(bytes),
                (None, Some(file)) => Ok(file.read(range.start as u64, range.len())?.into()),
                (None, None) => Err(io::ErrorKind::NotFound.into()),
            },
        }
    }
}
