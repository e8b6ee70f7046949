//! One segment on its way to the disk.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use super::files::{self, PartFile, Trailer, blocking};
use super::index::Ticket;
use super::{Announced, Inner, Segment, StoreError};
use crate::ids::ChannelName;

/// What is gathered before it is written: one hop to another thread for each 128 KiB, and writes
/// that suit the erase blocks of SD cards.
const BUFFER: usize = 128 << 10;
/// What is reserved at a time where the length is not known in advance.
const STEP: u64 = 1 << 20;

/// Writes one segment; dropped before [`Self::commit`], it leaves nothing behind.
pub struct SegmentWriter {
    inner: Arc<Inner>,
    channel: ChannelName,
    announced: Announced,
    ticket: Ticket,
    expected: Option<u64>,
    expected_crc32c: Option<u32>,
    reserved: Reserved,
    buffer: Vec<u8>,
    output: Option<Output>,
    path: PathBuf,
    length: u64,
}

/// What moves to the blocking thread and back.
struct Output {
    part: PartFile,
    crc: u32,
}

/// Bytes set aside in the index, given back on drop.
struct Reserved {
    inner: Arc<Inner>,
    bytes: u64,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.inner.index().release(self.bytes);
    }
}

impl fmt::Debug for SegmentWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SegmentWriter")
            .field("announced", &self.announced)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

impl SegmentWriter {
    pub(super) fn new(
        inner: Arc<Inner>,
        channel: &ChannelName,
        announced: &Announced,
        expected: Option<u64>,
    ) -> Result<Self, StoreError> {
        let ticket = inner
            .index()
            .ticket(channel, announced)
            .ok_or(StoreError::NotWanted)?;
        let folder = inner.folder(channel);
        let path = files::path_of(
            &folder,
            announced.rendition.0,
            announced.sequence,
            tag(announced),
        );
        let mut writer = Self {
            reserved: Reserved {
                inner: Arc::clone(&inner),
                bytes: 0,
            },
            inner,
            channel: channel.clone(),
            announced: announced.clone(),
            ticket,
            expected,
            expected_crc32c: None,
            buffer: Vec::with_capacity(BUFFER),
            output: None,
            path,
            length: 0,
        };
        if let Some(expected) = expected {
            writer.reserve(expected)?;
        }
        Ok(writer)
    }

    /// Takes that these will be bytes with this CRC-32C.
    pub fn expect_crc32c(&mut self, crc32c: u32) {
        self.expected_crc32c = Some(crc32c);
    }

    /// Takes the next bytes of the segment.
    ///
    /// # Errors
    /// [`StoreError::Length`] if more come than were promised, [`StoreError::NoRoom`], or what the
    /// disk says. The writer is of no use after an error.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), StoreError> {
        self.length += bytes.len() as u64;
        if let Some(expected) = self.expected.filter(|expected| self.length > *expected) {
            return Err(StoreError::Length {
                expected,
                got: self.length,
            });
        }
        if self.length > self.reserved.bytes {
            self.reserve((self.length - self.reserved.bytes).max(STEP))?;
        }
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BUFFER - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == BUFFER {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Ends the segment: checks its length, gives the file its name, and lets it be found.
    ///
    /// # Errors
    /// [`StoreError::Length`] if fewer bytes came than were promised, [`StoreError::Digest`] if
    /// other ones, [`StoreError::Empty`], [`StoreError::NotWanted`] if it expired meanwhile, or what the disk says.
    pub async fn commit(mut self) -> Result<Arc<Segment>, StoreError> {
        let got = self.length;
        match self.expected {
            _ if got == 0 => return Err(StoreError::Empty),
            Some(expected) if expected != got => return Err(StoreError::Length { expected, got }),
            _ => {}
        }
        self.flush().await?;
        let Some(Output { mut part, crc }) = self.output.take() else {
            return Err(StoreError::Empty);
        };
        if self.expected_crc32c.is_some_and(|expected| expected != crc) {
            return Err(StoreError::Digest);
        }
        let trailer = Trailer {
            uri: self.announced.uri.clone(),
            sequence: self.announced.sequence,
            rendition: self.announced.rendition.0,
            length: self.length,
            crc32c: crc,
        };
        let path = std::mem::take(&mut self.path);
        let segment = blocking(move || {
            let encoded = trailer.encode().map_err(StoreError::at(&path))?;
            part.write(&encoded)?;
            part.keep(path, trailer)
        })
        .await?;
        let segment = Arc::new(segment);
        let stored = self
            .inner
            .index()
            .store(&self.channel, self.ticket, Arc::clone(&segment));
        if !stored {
            self.inner.discard(vec![segment]);
            return Err(StoreError::NotWanted);
        }
        self.inner.after_change(&self.channel, Vec::new());
        Ok(segment)
    }

    async fn flush(&mut self) -> Result<(), StoreError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let output = self.output.take();
        let path = self.path.clone();
        let mut buffer = std::mem::take(&mut self.buffer);
        let (output, buffer) = blocking(move || {
            let mut output = match output {
                Some(output) => output,
                None => Output {
                    part: PartFile::create(&path)?,
                    crc: 0,
                },
            };
            output.part.write(&buffer)?;
            output.crc = crc32c::crc32c_append(output.crc, &buffer);
            buffer.clear();
            Ok((output, buffer))
        })
        .await?;
        self.output = Some(output);
        self.buffer = buffer;
        Ok(())
    }

    /// Sets `more` bytes aside, at the expense of what is further behind the live edge.
    fn reserve(&mut self, more: u64) -> Result<(), StoreError> {
        let config = &self.inner.config;
        // The file system is asked at each step only: others may fill it at any time anyway.
        let missing = |free: u64| (config.min_free.saturating_add(more)).saturating_sub(free);
        let short = files::free_bytes(&config.dir).map_or(0, missing);
        let mut index = self.inner.index();
        let (removed, room) = index.reserve(&self.channel, &self.announced, more, short);
        drop(index);
        if room {
            self.reserved.bytes += more;
        }
        if !removed.is_empty() {
            self.inner.after_change(&self.channel, removed);
        }
        if room {
            Ok(())
        } else {
            Err(StoreError::NoRoom { wanted: more })
        }
    }
}

/// Differs for each file of this run, and in all likelihood from those of earlier runs.
fn tag(announced: &Announced) -> u32 {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanos = now.map_or(0, |now| now.subsec_nanos());
    let salted = crc32c::crc32c_append(nanos, &count.to_le_bytes());
    crc32c::crc32c_append(salted, announced.uri.as_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Found, Store};
    use super::*;
    use crate::config::{Matching, StoreConfig};
    use crate::ids::{MediaSequence, RenditionIndex, Resource};

    fn store(dir: &Path, min_free: u64) -> (Store, ChannelName, Announced) {
        let channel = ChannelName::from("news");
        let config = StoreConfig {
            dir: dir.into(),
            max_size: 4 << 20,
            min_free,
        };
        let store =
            Store::open(config, [(channel.clone(), Matching::Exact)], Arc::default()).unwrap();
        let announced = Announced {
            rendition: RenditionIndex(0),
            uri: "1.ts".into(),
            resource: Resource {
                url: "http://origin/1.ts".parse().unwrap(),
                range: None,
            },
            sequence: MediaSequence(1),
        };
        store.announce(&channel, std::slice::from_ref(&announced));
        (store, channel, announced)
    }

    fn files(dir: &Path) -> usize {
        std::fs::read_dir(dir.join("news")).unwrap().count()
    }

    #[tokio::test]
    async fn more_or_fewer_bytes_than_promised_are_never_stored() {
        let dir = tempfile::tempdir().unwrap();
        let (store, channel, announced) = store(dir.path(), 0);
        let mut writer = store.begin(&channel, &announced, Some(300_000)).unwrap();
        writer.write(&vec![1; 299_999]).await.unwrap();
        let error = writer.commit().await.unwrap_err();
        assert!(matches!(error, StoreError::Length { got: 299_999, .. }));
        let mut writer = store.begin(&channel, &announced, Some(3)).unwrap();
        let error = writer.write(b"four").await.unwrap_err();
        assert!(matches!(error, StoreError::Length { got: 4, .. }));
        drop(writer);
        let writer = store.begin(&channel, &announced, None).unwrap();
        let error = writer.commit().await.unwrap_err();
        assert!(matches!(error, StoreError::Empty));
        assert_eq!(files(dir.path()), 0);
        let found = store.find(&channel, "1.ts", None);
        assert!(matches!(found, Found::Coming), "it may be tried again");
    }

    #[tokio::test]
    async fn a_writer_that_is_dropped_leaves_no_file_and_no_reservation() {
        let dir = tempfile::tempdir().unwrap();
        let (store, channel, announced) = store(dir.path(), 0);
        for _ in 0..3 {
            let mut writer = store.begin(&channel, &announced, Some(3 << 20)).unwrap();
            writer.write(&vec![1; 1 << 20]).await.unwrap();
            assert_eq!(files(dir.path()), 1);
        }
        assert_eq!(files(dir.path()), 0);
    }

    #[tokio::test]
    async fn the_quota_and_the_free_space_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (quota, channel, announced) = store(dir.path(), 0);
        let error = quota
            .begin(&channel, &announced, Some(5 << 20))
            .unwrap_err();
        assert!(matches!(error, StoreError::NoRoom { .. }));
        let mut writer = quota.begin(&channel, &announced, None).unwrap();
        let error = loop {
            if let Err(error) = writer.write(&vec![1; 1 << 20]).await {
                break error;
            }
        };
        assert!(matches!(error, StoreError::NoRoom { .. }));
        let (full, channel, announced) = store(dir.path(), u64::MAX);
        let error = full.begin(&channel, &announced, Some(1)).unwrap_err();
        assert!(matches!(error, StoreError::NoRoom { .. }));
    }

    #[tokio::test]
    async fn what_expires_while_it_is_written_is_not_stored() {
        let dir = tempfile::tempdir().unwrap();
        let (store, channel, announced) = store(dir.path(), 0);
        let mut writer = store.begin(&channel, &announced, Some(3)).unwrap();
        writer.write(b"old").await.unwrap();
        let expired = (
            announced.rendition,
            announced.sequence,
            announced.uri.clone(),
        );
        store.expire(&channel, &[expired]);
        store.announce(&channel, std::slice::from_ref(&announced));
        let error = writer.commit().await.unwrap_err();
        assert!(matches!(error, StoreError::NotWanted));
        let mut writer = store.begin(&channel, &announced, Some(3)).unwrap();
        writer.write(b"new").await.unwrap();
        let segment = writer.commit().await.unwrap();
        assert_eq!(segment.bytes(0..3), b"new");
    }
}
