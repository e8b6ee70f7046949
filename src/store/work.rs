//! The half of a writer that blocks: the bytes of one segment on their way to the disk, or to memory
//! where that fails.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::files::{PartFile, Trailer};
use super::growing::Grower;
use super::health::Advice;
use super::index::{Index, Pool, Room, Ticket, Wish};
use super::inner::Inner;
use super::{Announced, Segment, StoreError};
use crate::budget::Share;
use crate::ids::ChannelName;

/// What is reserved at a time where the length is not known in advance.
const STEP: u64 = 1 << 20;

/// What is read back at a time of what went to a disk that fails.
const PIECE: usize = 256 << 10;

const NOWHERE: Place = Place::Disk {
    part: None,
    is_try: false,
};

/// What moves to the blocking thread and back. If the caller is gone by then, it ends there.
pub(super) struct Work {
    place: Place,
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

    fn grow(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.unwritten += bytes;
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

impl Drop for Work {
    /// Leaves nothing behind, and only then gives back what it took: wherever this is dropped, that takes
    /// no time.
    fn drop(&mut self) {
        let Place::Disk { part, is_try } = &mut self.place else {
            return;
        };
        let (part, is_try) = (part.take(), *is_try);
        if is_try {
            self.inner().health().untried(Instant::now());
        }
        if let Some(part) = part {
            self.doom(&part);
            self.inner().delete_in_background();
        }
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
        let name = inner.names.next(announced.rendition.0, announced.sequence);
        let path = inner.folder_of(channel).join(name);
        let mut work = Work {
            place: Place::Disk {
                part: None,
                is_try: false,
            },
            grower: None,
            reserved: Reserved::nothing(inner, Pool::Disk),
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
            drop(work.go_to_memory());
            work.hold(0)?;
            return Ok(work);
        }
        let is_try = advice == Advice::Try;
        work.place = Place::Disk { part: None, is_try };
        work.reserve(expected.unwrap_or(0) + work.trailer)
            .or_else(|error| work.rescue(error))?;
        Ok(work)
    }

    /// Lets it be read from now on, if its length is known.
    pub(super) fn serve_meanwhile(&mut self, since: Instant) {
        // It fits: what is read comes through memory.
        let length = self
            .expected
            .and_then(|length| usize::try_from(length).ok());
        if let Some(length) = length.filter(|length| *length > 0) {
            let inner = self.inner();
            let grower = Grower::new(&inner, length, since);
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
        if let Place::Disk { part, .. } = &mut self.place {
            let part = match part {
                Some(part) => part,
                None => {
                    inner.hold_folder()?;
                    let wiped = || inner.wiped(&self.channel);
                    part.insert(PartFile::create(&inner.disk, &self.path, wiped)?)
                }
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
        let (dir, min_free) = (&inner.config.dir, inner.config.min_free);
        let is_try = matches!(self.place, Place::Disk { is_try: true, .. });
        let mut patient = true;
        loop {
            inner.sweep();
            // The file system is asked at each step only: others may fill it at any time anyway.
            let free = inner.disk.free_bytes(dir);
            let wish = Wish {
                pool: Pool::Disk,
                bytes: more,
                spare: free.map_or(i64::MAX, |free| difference(free, min_free)),
                patient,
            };
            let room = inner.index().reserve(&self.channel, &self.announced, wish);
            match room {
                Room::Made => {
                    self.reserved.grow(more);
                    return Ok(());
                }
                Room::Evicted(segments) => {
                    inner.doom(segments);
                    inner.count_all();
                    // Where nothing can be deleted, nothing more is taken out in vain.
                    inner.delete()?;
                }
                Room::Leaving => {
                    match inner.delete() {
                        Err(error) if is_try => return Err(error),
                        // What is left is being read, or cannot be deleted: others can.
                        Ok(()) | Err(_) => patient = false,
                    }
                }
                Room::Taken => return Err(StoreError::NoRoom { wanted: more }),
                Room::Never => {
                    return Err(StoreError::NotFree {
                        dir: dir.clone(),
                        free: free.unwrap_or_default(),
                        min_free,
                    });
                }
            }
        }
    }

    /// After `error` of the disk: what it has taken is read back, and goes on in memory.
    fn rescue(&mut self, error: StoreError) -> Result<(), StoreError> {
        if !error.is_the_disks() || error.is_about_us() {
            return Err(error);
        }
        let inner = self.inner();
        inner.disk_failed(&error);
        let part = match &mut self.place {
            Place::Disk { part, .. } => part.take(),
            Place::Memory { .. } => None,
        };
        // Given back once the file is deleted.
        let on_disk = self.go_to_memory();
        let moved = match &part {
            Some(part) => self.read_back(part),
            None => self.hold(0).map(|()| true),
        };
        if let Some(part) = part {
            self.doom(&part);
            // What cannot be deleted is remembered.
            let _ = inner.delete();
        }
        drop(on_disk);
        match moved? {
            true => Ok(()),
            false => Err(error),
        }
    }

    /// Reads what was written so far into memory; whether it is what was written.
    fn read_back(&mut self, part: &PartFile) -> Result<bool, StoreError> {
        // It fits: there is no place for more than fits into memory.
        let written = self.length as usize;
        let mut crc = 0;
        self.hold(written)?;
        while let Place::Memory { bytes, .. } = &mut self.place
            && bytes.len() < written
        {
            let at = bytes.len();
            let piece = part.read_back(at as u64, PIECE.min(written - at))?;
            crc = crc32c::crc32c_append(crc, &piece);
            bytes.extend_from_slice(&piece);
        }
        Ok(crc == self.crc)
    }

    /// Its file is to be deleted.
    fn doom(&self, part: &PartFile) {
        let (path, file) = (part.path().to_owned(), Arc::clone(part.file()));
        self.inner().doom_file(path, self.length, Some(file));
    }

    /// What was set aside on the disk.
    fn go_to_memory(&mut self) -> Reserved {
        self.place = Place::Memory {
            bytes: Vec::new(),
            share: None,
        };
        let nothing = Reserved::nothing(&self.inner(), Pool::Memory);
        std::mem::replace(&mut self.reserved, nothing)
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
        let wish = Wish {
            pool: Pool::Memory,
            bytes: growth as u64,
            spare: i64::MAX,
            patient: false,
        };
        loop {
            inner.sweep();
            let room = inner.index().reserve(&self.channel, &self.announced, wish);
            match room {
                Room::Made => break,
                Room::Evicted(segments) => inner.evicted(segments),
                Room::Leaving | Room::Taken | Room::Never => return Err(StoreError::NoMemory),
            }
        }
        self.reserved.grow(growth as u64);
        let (channel, announced) = (&self.channel, &self.announced);
        let take = |bytes: usize| {
            inner.budget.try_take_spare(bytes).or_else(|| {
                let missing = inner.budget.missing(bytes) as u64;
                let evicted = inner.index().evict_for(channel, announced, missing);
                inner.evicted(evicted);
                inner.budget.try_take_spare(bytes)
            })
        };
        // While it is moved, the old place is taken as well.
        let copy = take(bytes.len()).ok_or(StoreError::NoMemory)?;
        let more = take(growth).ok_or(StoreError::NoMemory)?;
        match share {
            Some(share) => share.join(more),
            None => *share = Some(more),
        }
        bytes.reserve_exact(wanted - bytes.len());
        drop(copy);
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
        if let Place::Disk {
            part: Some(part),
            is_try,
        } = &self.place
        {
            let tried = *is_try;
            let held = inner.hold_folder();
            match held.and_then(|()| part.keep(&self.path, &trailer)) {
                Ok(segment) => {
                    self.place = NOWHERE;
                    return self.publish(segment, tried);
                }
                Err(error) => self.rescue(error)?,
            }
        }
        match std::mem::replace(&mut self.place, NOWHERE) {
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
        let segment = Arc::new(segment);
        let mut index = inner.index();
        self.reserved.release(&mut index);
        let stored = index.store(&self.channel, self.ticket, Arc::clone(&segment));
        drop(index);
        match segment.pool() {
            Pool::Disk if tried => inner.disk_works(),
            Pool::Disk => {}
            Pool::Memory => inner.health().held(true),
        }
        if !stored {
            inner.discard(vec![segment]);
            return Err(StoreError::NotWanted);
        }
        if let Some(grower) = self.grower.take() {
            grower.finish(Arc::clone(&segment));
        }
        inner.after_change(&self.channel, Vec::new());
        Ok(segment)
    }
}

/// How much more the one is than the other.
fn difference(more: u64, less: u64) -> i64 {
    let (more, less) = (i128::from(more), i128::from(less));
    i64::try_from(more - less).unwrap_or(match more > less {
        true => i64::MAX,
        false => i64::MIN,
    })
}
