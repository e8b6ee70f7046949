//! One segment on its way into the store.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::files::blocking;
use super::work::Work;
use super::{Announced, Inner, Segment, StoreError};
use crate::ids::ChannelName;

/// What is gathered before it is written: a hop to another thread for each piece costs some ten
/// microseconds. (The card sees larger writes: the kernel gathers them.)
const BUFFER: usize = 64 << 10;

/// How long it is gathered, if more comes: those who read the segment meanwhile wait for it. At
/// 10 Mbit/s some 16 kB come at a time, 13 ms apart.
const GATHERED_FOR: Duration = Duration::from_millis(10);

/// How long an operation of the disk may take before the disk counts as one that fails. Cards that are
/// worn out take seconds at times, and come back.
const HANGS_AFTER: Duration = Duration::from_secs(10);

/// Writes one segment; dropped before [`Self::commit`], it leaves nothing behind.
///
/// A disk that fails meanwhile is not the caller's concern: what was written is read back, and the
/// segment goes on in memory.
pub struct SegmentWriter {
    expected: Option<u64>,
    expected_crc32c: Option<u32>,
    length: u64,
    inner: Arc<Inner>,
    buffer: Vec<u8>,
    /// When the first of these bytes came.
    since: Instant,
    /// None while it is on a blocking thread, and after an error.
    work: Option<Box<Work>>,
}

impl fmt::Debug for SegmentWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SegmentWriter")
            .field("length", &self.length)
            .field("expected", &self.expected)
            .finish_non_exhaustive()
    }
}

impl SegmentWriter {
    pub(super) async fn new(
        inner: &Arc<Inner>,
        channel: &ChannelName,
        announced: &Announced,
        expected: Option<u64>,
    ) -> Result<Self, StoreError> {
        // What there is already takes its room.
        inner.recover_all().await;
        let (store, channel) = (Arc::clone(inner), channel.clone());
        let announced = announced.clone();
        // Room is made by deleting files.
        let inner = Arc::clone(inner);
        let work = blocking(move || {
            let work = Work::begin(&inner, &channel, &announced, expected);
            if matches!(work, Err(StoreError::NoMemory)) {
                inner.health().held(false);
            }
            Ok(Box::new(work?))
        });
        let work = store.patiently(HANGS_AFTER, work).await?;
        Ok(Self {
            expected,
            expected_crc32c: None,
            inner: store,
            length: 0,
            buffer: Vec::with_capacity(BUFFER),
            since: Instant::now(),
            work: Some(work),
        })
    }

    /// Takes that these will be bytes with this CRC-32C.
    pub fn expect_crc32c(&mut self, crc32c: u32) {
        self.expected_crc32c = Some(crc32c);
    }

    /// Lets the segment be read while it arrives, which it has done since then, if its length is
    /// known: not for bytes that may turn out to be wrong.
    pub fn serve_meanwhile(&mut self, since: Instant) {
        if let Some(work) = &mut self.work {
            work.serve_meanwhile(since);
        }
    }

    /// Takes the next bytes of the segment.
    ///
    /// # Errors
    /// [`StoreError::Length`] if more come than were promised, [`StoreError::NoRoom`] and
    /// [`StoreError::NoMemory`] where there is no place for them, or what the disk says if not even
    /// what it had taken already can be read back. The writer is of no use after an error.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), StoreError> {
        self.length += bytes.len() as u64;
        if let Some(expected) = self.expected.filter(|expected| self.length > *expected) {
            return Err(StoreError::Length {
                expected,
                got: self.length,
            });
        }
        if self.buffer.is_empty() {
            self.since = Instant::now();
        }
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BUFFER - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == BUFFER {
                self.flush().await?;
            }
        }
        match self.since.elapsed() < GATHERED_FOR {
            true => Ok(()),
            false => self.flush().await,
        }
    }

    /// Ends the segment: checks its length, gives the file its name, and lets it be found.
    ///
    /// # Errors
    /// [`StoreError::Length`] if fewer bytes came than were promised, [`StoreError::Digest`] if
    /// other ones, [`StoreError::Empty`], [`StoreError::NotWanted`] if it expired meanwhile, and
    /// those of [`Self::write`].
    pub async fn commit(mut self) -> Result<Arc<Segment>, StoreError> {
        let got = self.length;
        match self.expected {
            _ if got == 0 => return Err(StoreError::Empty),
            Some(expected) if expected != got => return Err(StoreError::Length { expected, got }),
            _ => {}
        }
        self.flush().await?;
        let work = self.work.take().ok_or(StoreError::NotWanted)?;
        let expected_crc32c = self.expected_crc32c;
        // To its end on that thread: whoever gives up half-way leaves no file without an entry.
        let finish = blocking(move || work.finish(expected_crc32c));
        self.inner.patiently(HANGS_AFTER, finish).await
    }

    async fn flush(&mut self) -> Result<(), StoreError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let mut work = self.work.take().ok_or(StoreError::NotWanted)?;
        let mut buffer = std::mem::take(&mut self.buffer);
        let put = blocking(move || {
            work.put(&buffer)?;
            buffer.clear();
            Ok((work, buffer))
        });
        let (work, buffer) = self.inner.patiently(HANGS_AFTER, put).await?;
        self.work = Some(work);
        self.buffer = buffer;
        self.since = Instant::now();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
