//! The half of a writer that blocks: the bytes of one segment on their way to the disk, or to memory
//! where that fails.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::files::{self, PartFile, Trailer};
use super::growing::Grower;
use super::health::Advice;
use super::index::{Index, Pool, Room, Scarcity, Ticket};
use super::inner::Inner;
use super::{Announced, Segment, StoreError};
use crate::budget::Share;
use crate::ids::ChannelName;

/// What is reserved at a time where the length is not known in advance.
const STEP: u64 = 1 << 20;

/// What moves to the blocking thread and back. If the caller is gone by then, it ends there.
pub(super) struct Work {
    // In this order: what it takes is given back once it is gone.
    place: Place,
    evicted: Evicted,
    reserved: Reserved,
    /// Tells those who read it meanwhile.
    grower: Option<Grower>,
    channel: ChannelName,
    announced: Announced,
    playlist: String,
    ticket: Ticket,
    path: PathBuf,
    expected: Option<u64>,
    /// Bytes of its trailer at most.
    trailer: u64,
    /// Bytes written, and their CRC-32C.
    length: u64,
    crc: u32,
}

enum Place {
    Disk {
        part: Option<PartFile>,
        /// Whether this one is to show that the disk works again.
        is_try: bool,
    },
    Memory {
        bytes: Vec<u8>,
        share: Option<Share>,
    },
}

/// Bytes set aside in the index, given back on drop.
struct Reserved {
    inner: Arc<Inner>,
    pool: Pool,
    bytes: u64,
    unwritten: u64,
}

impl Reserved {
    fn nothing(inner: &Arc<Inner>, pool: Pool) -> Self {
        Self {
            inner: Arc::clone(inner),
            pool,
            bytes: 0,
            unwritten: 0,
        }
    }

    fn wrote(&mut self, bytes: u64) {
        let bytes = bytes.min(self.unwritten);
        self.unwritten -= bytes;
        self.inner.index().wrote(self.pool, bytes);
    }

    fn release(&mut self, index: &mut Index<Arc<Segment>>) {
        let (bytes, unwritten) = (self.bytes, self.unwritten);
        (self.bytes, self.unwritten) = (0, 0);
        index.release(self.pool, bytes, unwritten);
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let inner = Arc::clone(&self.inner);
        self.release(&mut inner.index());
    }
}

/// What has to be deleted before there is room.
struct Evicted {
    inner: Arc<Inner>,
    segments: Vec<Arc<Segment>>,
}

impl Evicted {
    fn delete(&mut self) -> Result<(), StoreError> {
        while let Some(segment) = self.segments.pop() {
            self.inner.delete(&segment)?;
        }
        Ok(())
    }

    /// Nothing is to be put in their place: they are deleted at leisure.
    fn let_go(&mut self) {
        let segments = std::mem::take(&mut self.segments);
        let mut index = self.inner.index();
        segments.iter().for_each(|segment| index.leaves(segment));
        drop(index);
        self.inner.discard(segments);
    }
}

impl Drop for Evicted {
    fn drop(&mut self) {
        self.let_go();
    }
}

impl Work {
    fn inner(&self) -> Arc<Inner> {
        Arc::clone(&self.reserved.inner)
    }

    /// Finds a place for an announced segment, and sets aside what is known to come.
    pub(super) fn begin(
        inner: &Arc<Inner>,
        channel: &ChannelName,
        announced: &Announced,
        expected: Option<u64>,
    ) -> Result<Self, StoreError> {
        let ticket = inner.index().ticket(channel, announced);
        let ticket = ticket.ok_or(StoreError::NotWanted)?;
        let playlist = inner.playlist(channel, announced.rendition);
        let playlist = playlist.unwrap_or_default();
        let path = files::path_of(
            &inner.folder(channel),
            announced.rendition.0,
            announced.sequence,
            tag(announced),
        );
        let mut work = Work {
            place: Place::Disk {
                part: None,
                is_try: false,
            },
            grower: None,
            reserved: Reserved::nothing(inner, Pool::Disk),
            evicted: Evicted {
                inner: Arc::clone(inner),
                segments: Vec::new(),
            },
            channel: channel.clone(),
            announced: announced.clone(),
            trailer: Trailer::max_len(&announced.uri, &playlist),
            playlist,
            ticket,
            path,
            expected,
            length: 0,
            crc: 0,
        };
        let advice = inner.health().advice(Instant::now());
        if advice == Advice::Spare {
            work.go_to_memory()?;
            return Ok(work);
        }
        let is_try = advice == Advice::Try;
        work.place = Place::Disk { part: None, is_try };
        work.reserve(expected.unwrap_or(0) + work.trailer)
            .or_else(|error| work.rescue(error))?;
        Ok(work)
    }

    /// Lets it be read from now on, if its length is known.
    pub(super) fn serve_meanwhile(&mut self) {
        // It fits: what is read comes through memory.
        if let Some(length) = self
            .expected
            .and_then(|length| usize::try_from(length).ok())
        {
            let inner = self.inner();
            let grower = Grower::new(&inner, length);
            inner.grows(self.ticket, grower.growing());
            self.grower = Some(grower);
        }
    }

    /// Takes further bytes, to wherever they can go.
    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        if matches!(self.place, Place::Disk { .. })
            && let Err(error) = self.write(bytes)
        {
            self.rescue(error)?;
        }
        if let Place::Memory { .. } = self.place {
            self.hold(bytes.len())?;
            if let Place::Memory { bytes: held, .. } = &mut self.place {
                held.extend_from_slice(bytes);
            }
        }
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.length += bytes.len() as u64;
        if let (
            Some(grower),
            Place::Disk {
                part: Some(part), ..
            },
        ) = (&self.grower, &self.place)
        {
            grower.wrote(part.file(), self.length as usize);
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let inner = self.inner();
        let count = bytes.len() as u64;
        let needed = self.length + count + self.trailer;
        if needed > self.reserved.bytes {
            self.reserve((needed - self.reserved.bytes).max(STEP))?;
        }
        self.evicted.delete()?;
        if let Place::Disk { part, .. } = &mut self.place {
            let part = match part {
                Some(part) => part,
                None => part.insert(PartFile::create(&inner.disk, &self.path)?),
            };
            part.append(bytes)?;
            self.reserved.wrote(count);
            inner.metrics.store_written_bytes.add(count);
        }
        Ok(())
    }

    /// Sets `more` bytes of the disk aside, at the expense of what is further behind the live edge.
    fn reserve(&mut self, more: u64) -> Result<(), StoreError> {
        let inner = self.inner();
        let config = &inner.config;
        // The file system is asked at each step only: others may fill it at any time anyway.
        let free = inner.disk.free_bytes(&config.dir);
        let mut index = inner.index();
        let needed = config.min_free.saturating_add(more);
        let needed = needed.saturating_add(index.unwritten());
        let scarcity = Scarcity {
            foreign: inner.disk.leftover_bytes(),
            short: free.map_or(0, |free| needed.saturating_sub(free)),
        };
        match index.reserve(Pool::Disk, &self.channel, &self.announced, more, scarcity) {
            Room::Made(evicted) => {
                self.reserved.bytes += more;
                self.reserved.unwritten += more;
                self.evicted.segments.extend(evicted);
                drop(index);
                if !self.evicted.segments.is_empty() {
                    inner.after_change(&self.channel, Vec::new());
                }
                Ok(())
            }
            Room::Taken => Err(StoreError::NoRoom { wanted: more }),
            Room::Never => Err(StoreError::NotFree {
                dir: config.dir.clone(),
                free: free.unwrap_or_default(),
                min_free: config.min_free,
            }),
        }
    }

    /// After `error` of the disk: what it has taken is read back, and goes on in memory.
    fn rescue(&mut self, error: StoreError) -> Result<(), StoreError> {
        if !matches!(error, StoreError::Io { .. } | StoreError::NotFree { .. }) {
            return Err(error);
        }
        self.inner().disk_failed(&error);
        let mut taken = Vec::new();
        if let Place::Disk {
            part: Some(part), ..
        } = &self.place
        {
            // It fits: it came through memory.
            taken = part.read_back(self.length as usize)?;
            if crc32c::crc32c(&taken) != self.crc {
                return Err(error);
            }
        }
        self.go_to_memory()?;
        self.hold(taken.len())?;
        if let Place::Memory { bytes, .. } = &mut self.place {
            bytes.extend_from_slice(&taken);
        }
        Ok(())
    }

    fn go_to_memory(&mut self) -> Result<(), StoreError> {
        self.place = Place::Memory {
            bytes: Vec::new(),
            share: None,
        };
        self.evicted.let_go();
        self.reserved = Reserved::nothing(&self.inner(), Pool::Memory);
        self.hold(0)
    }

    /// Makes room in memory for `more` bytes, and for all that is known to come, at the expense of
    /// what is further behind the live edge.
    fn hold(&mut self, more: usize) -> Result<(), StoreError> {
        let inner = self.inner();
        let Place::Memory { bytes, share } = &mut self.place else {
            return Ok(());
        };
        let known = self.expected.map_or(0, |length| length as usize);
        let wanted = known.max(bytes.len() + more);
        if wanted <= bytes.capacity() {
            return Ok(());
        }
        let wanted = match self.expected {
            Some(_) => wanted,
            None => wanted + STEP as usize,
        };
        let growth = wanted - bytes.capacity();
        let room = inner.index().reserve(
            Pool::Memory,
            &self.channel,
            &self.announced,
            growth as u64,
            Scarcity::default(),
        );
        let Room::Made(evicted) = room else {
            return Err(StoreError::NoMemory);
        };
        self.reserved.bytes += growth as u64;
        if !evicted.is_empty() {
            inner.after_change(&self.channel, evicted);
        }
        let more = inner.budget.try_take_spare(growth);
        let more = more.ok_or(StoreError::NoMemory)?;
        match share {
            Some(share) => share.join(more),
            None => *share = Some(more),
        }
        bytes.reserve_exact(wanted - bytes.len());
        Ok(())
    }

    /// Gives the file its name, and lets it be found.
    pub(super) fn finish(
        mut self: Box<Self>,
        expected_crc32c: Option<u32>,
    ) -> Result<Arc<Segment>, StoreError> {
        if expected_crc32c.is_some_and(|expected| expected != self.crc) {
            return Err(StoreError::Digest);
        }
        let inner = self.inner();
        let range = self.announced.resource.range;
        let trailer = Trailer {
            uri: self.announced.uri.clone(),
            sequence: self.announced.sequence,
            rendition: self.announced.rendition.0,
            playlist: std::mem::take(&mut self.playlist),
            range: range.map(|range| (range.start(), range.length())),
            length: self.length,
            crc32c: self.crc,
        };
        let mut tried = false;
        if let Place::Disk {
            part: Some(part),
            is_try,
        } = &mut self.place
        {
            tried = *is_try;
            match part.keep(&self.path, &trailer) {
                Ok(segment) => return self.publish(segment, tried),
                Err(error) => self.rescue(error)?,
            }
        }
        let empty = Place::Disk {
            part: None,
            is_try: tried,
        };
        match std::mem::replace(&mut self.place, empty) {
            Place::Memory {
                mut bytes,
                share: Some(mut share),
            } => {
                bytes.shrink_to_fit();
                share.shrink_to(bytes.capacity());
                let segment = Segment::in_memory(bytes.into(), share, trailer);
                drop(inner);
                self.publish(segment, false)
            }
            _ => Err(StoreError::Empty),
        }
    }

    /// Lets it be found.
    fn publish(&mut self, segment: Segment, tried: bool) -> Result<Arc<Segment>, StoreError> {
        let inner = self.inner();
        if tried {
            inner.disk_works();
        }
        let segment = Arc::new(segment);
        let mut index = inner.index();
        self.reserved.release(&mut index);
        if !index.store(&self.channel, self.ticket, Arc::clone(&segment)) {
            index.leaves(&segment);
            drop(index);
            inner.discard(vec![segment]);
            return Err(StoreError::NotWanted);
        }
        drop(index);
        if let Some(grower) = self.grower.take() {
            grower.finish(Arc::clone(&segment));
        }
        inner.after_change(&self.channel, Vec::new());
        Ok(segment)
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
