//! The one place with `mmap`, and with `unsafe`: a segment's file as a slice of bytes, so that
//! peers are fed from the page cache without a copy of the segment in memory.
#![allow(unsafe_code)] // mapping a file is unsafe by nature; see the reason at the call

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use memmap2::Mmap;

use super::files::Trailer;
use crate::ids::{MediaSequence, RenditionIndex, SegmentUri};

/// A stored segment, whole. It stays valid after its file is deleted, until the last one who
/// holds it lets go.
#[derive(Debug)]
pub struct Segment {
    map: Mmap,
    trailer: Trailer,
    path: PathBuf,
    stored_at: SystemTime,
}

impl Segment {
    /// Maps the file at `path`, whose length has been checked against its trailer.
    pub(super) fn map(file: &File, path: PathBuf, trailer: Trailer) -> io::Result<Self> {
        // SAFETY: undefined behaviour needs somebody to change or truncate the file while it is
        // mapped. Files of the store are written once under another name and then only unlinked,
        // which leaves the mapping intact; the folder belongs to this daemon's own user.
        let map = unsafe { Mmap::map(file)? };
        let stored_at = file.metadata()?.modified()?;
        if (map.len() as u64) < trailer.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Self {
            map,
            trailer,
            path,
            stored_at,
        })
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

    /// Bytes of the segment.
    pub fn len(&self) -> usize {
        // It fits: that many bytes are mapped.
        self.trailer.length as usize
    }

    /// Never: a segment without bytes is not stored.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of `range`, cut to the segment. Reading them may wait for the disk.
    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        let end = range.end.min(self.len());
        self.map.get(range.start..end).unwrap_or_default()
    }

    /// CRC-32C of its bytes, as they were written.
    pub fn crc32c(&self) -> u32 {
        self.trailer.crc32c
    }

    /// How long ago it was stored by the wall clock; `None` if that would be in the future.
    pub fn age(&self) -> Option<Duration> {
        self.stored_at.elapsed().ok()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn stored_at(&self) -> SystemTime {
        self.stored_at
    }

    /// Bytes of its file.
    pub(super) fn file_len(&self) -> u64 {
        self.map.len() as u64
    }

    /// Whether the bytes are those that were written.
    pub(super) fn verify(&self) -> bool {
        crc32c::crc32c(self.bytes(0..self.len())) == self.trailer.crc32c
    }
}
