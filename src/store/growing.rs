//! A segment that is read while it is still being written.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Segment;
use super::disk::DiskFile;
use super::inner::Inner;

/// From when on the pace of a segment says anything: the first bytes of a slow one come at once, out of
/// buffers on the way.
const TELLING_TIME: Duration = Duration::from_millis(100);
/// Or as soon as this part of it is here: an eighth.
const TELLING_PART: usize = 8;

/// How far a segment has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// All of it can be read.
    Whole,
    /// The rest is on its way.
    Under {
        /// Bytes from its start that can be read.
        available: usize,
        /// When all of it will be here at the pace so far; `None` as long as there is none.
        whole_at: Option<Instant>,
    },
    /// The rest will not come.
    Broken,
}

/// What a writer and its readers share.
#[derive(Debug)]
pub(super) struct Growing {
    /// Bytes of the segment.
    length: usize,
    began: Instant,
    file: OnceLock<Arc<DiskFile>>,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// So many bytes are in the file.
    Written(usize),
    Whole(Arc<Segment>),
    Broken,
}

impl Growing {
    fn state(&self) -> MutexGuard<'_, State> {
        // Only ever assigned to.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// The segment, once it is stored.
    pub(super) fn segment(&self) -> Option<Arc<Segment>> {
        match &*self.state() {
            State::Whole(segment) => Some(Arc::clone(segment)),
            State::Written(_) | State::Broken => None,
        }
    }

    pub(super) fn is_broken(&self) -> bool {
        matches!(*self.state(), State::Broken)
    }

    pub(super) fn arrival(&self, now: Instant) -> Arrival {
        match *self.state() {
            State::Whole(_) => Arrival::Whole,
            State::Broken => Arrival::Broken,
            State::Written(available) => Arrival::Under {
                available,
                whole_at: self.whole_at(available, now),
            },
        }
    }

    fn whole_at(&self, available: usize, now: Instant) -> Option<Instant> {
        let so_far = now.saturating_duration_since(self.began);
        if so_far < TELLING_TIME && available < self.length / TELLING_PART {
            return None;
        }
        let so_far = so_far.as_secs_f64();
        let remaining = self.length.saturating_sub(available) as f64;
        let more = Duration::try_from_secs_f64(so_far * remaining / available as f64);
        now.checked_add(more.ok()?)
    }

    /// Bytes that are here; may wait for the disk.
    pub(super) fn read(&self, range: Range<usize>) -> io::Result<Bytes> {
        if let Some(bytes) = self
            .segment()
            .and_then(|segment| segment.in_memory_at(&range))
        {
            return Ok(bytes);
        }
        // Of a file that has got its name, or was deleted, in the meantime too.
        let file = self.file.get().ok_or(io::ErrorKind::NotFound)?;
        Ok(file.read(range.start as u64, range.len())?.into())
    }
}

/// The writer's end. Dropped before the segment is whole, it tells the readers that the rest will not
/// come.
pub(super) struct Grower {
    growing: Arc<Growing>,
    inner: Arc<Inner>,
}

impl Grower {
    pub(super) fn new(inner: &Arc<Inner>, length: usize, began: Instant) -> Self {
        let growing = Growing {
            length,
            began,
            file: OnceLock::new(),
            state: Mutex::new(State::Written(0)),
        };
        Self {
            growing: Arc::new(growing),
            inner: Arc::clone(inner),
        }
    }

    pub(super) fn growing(&self) -> &Arc<Growing> {
        &self.growing
    }

    /// So many bytes are in this file now.
    pub(super) fn wrote(&self, file: &Arc<DiskFile>, written: usize) {
        let first = self.growing.file.set(Arc::clone(file)).is_ok();
        self.set(State::Written(written));
        if first {
            // Whoever waits for the segment may be served from now on.
            self.inner.changed();
        }
    }

    pub(super) fn finish(self, segment: Arc<Segment>) {
        self.set(State::Whole(segment));
    }

    fn set(&self, state: State) {
        *self.growing.state() = state;
        // Whoever begins to read after this look has seen that state.
        if Arc::strong_count(&self.growing) > 1 {
            self.inner
                .growth
                .send_modify(|count| *count = count.wrapping_add(1));
        }
    }
}

impl Drop for Grower {
    fn drop(&mut self) {
        let arriving =
            |state: &State| matches!(state, State::Written(n) if *n < self.growing.length);
        let breaks_off = arriving(&self.growing.state());
        if breaks_off {
            self.set(State::Broken);
        }
    }
}
