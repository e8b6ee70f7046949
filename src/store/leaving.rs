//! What was taken out of the index, until it is gone. It counts as long as it takes room: until its file
//! is deleted and the last of its readers has let go of it.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::disk::DiskFile;
use super::index::Pool;
use super::inner::{Inner, in_background};
use super::{Segment, StoreError};

/// How long whoever needs room waits for another one's deleting: a card that takes longer is in
/// trouble, and the segment goes to memory.
const DELETED_WITHIN: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Leaving {
    state: Mutex<State>,
    deleted: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Their files are to be deleted.
    doomed: VecDeque<Doomed>,
    /// What has no file, or none any more, and is perhaps being read.
    held: Vec<Held>,
    /// Somebody is at it: one at a time, so that a disk that hangs does not take every thread.
    deleting: bool,
}

#[derive(Debug)]
struct Doomed {
    path: PathBuf,
    held: Held,
    /// That it cannot be deleted has been said.
    told: bool,
}

#[derive(Debug)]
enum Held {
    Segment(Arc<Segment>),
    /// What never became one: its bytes, and the file if it is open.
    File(u64, Option<Arc<DiskFile>>),
}

impl Held {
    fn is_read(&self) -> bool {
        match self {
            Self::Segment(segment) => Arc::strong_count(segment) > 1,
            Self::File(_, file) => file
                .as_ref()
                .is_some_and(|file| Arc::strong_count(file) > 1),
        }
    }

    fn room(&self) -> (Pool, u64) {
        match self {
            Self::Segment(segment) => (segment.pool(), segment.occupied()),
            Self::File(bytes, _) => (Pool::Disk, *bytes),
        }
    }
}

impl Leaving {
    fn state(&self) -> MutexGuard<'_, State> {
        // Whole between its calls, whatever happened to another thread.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Sees that what was taken out of the index goes, off the caller's thread.
    pub(super) fn discard(self: &Arc<Self>, removed: Vec<Arc<Segment>>) {
        let files = self.doom(removed);
        self.sweep();
        if files {
            self.delete_in_background();
        }
    }

    /// What was taken out of the index is to go: the files among it, if there are any, by
    /// [`Self::delete`].
    pub(super) fn doom(&self, removed: Vec<Arc<Segment>>) -> bool {
        let mut files = false;
        let mut state = self.leaving.state();
        for segment in removed {
            match segment.path().map(Path::to_owned) {
                Some(path) => {
                    files = true;
                    let held = Held::Segment(segment);
                    let told = false;
                    state.doomed.push_back(Doomed { path, held, told });
                }
                None => state.held.push(Held::Segment(segment)),
            }
        }
        files
    }

    /// A file that is no segment is to be deleted, and takes this room until it is.
    pub(super) fn doom_file(&self, path: PathBuf, bytes: u64, file: Option<Arc<DiskFile>>) {
        self.index().leaves(Pool::Disk, bytes);
        let held = Held::File(bytes, file);
        let told = false;
        let doomed = Doomed { path, held, told };
        self.leaving.state().doomed.push_back(doomed);
    }

    pub(super) fn delete_in_background(self: &Arc<Self>) {
        // Who is at it sees what was added meanwhile.
        if self.leaving.state().deleting {
            return;
        }
        let weak = Arc::downgrade(self);
        in_background(move || {
            if let Some(inner) = weak.upgrade()
                && let Some(state) = inner.take_turn()
            {
                // Told already.
                let _ = inner.delete_all(state);
                inner.sweep();
            }
        });
    }

    /// Deletes all that is to be deleted, or waits until somebody else has tried to.
    ///
    /// # Errors
    /// If nothing could be deleted at all: that of one of the files, which are tried again the next
    /// time. [`io::ErrorKind::TimedOut`] if somebody else does not come to an end.
    pub(super) fn delete(&self) -> Result<(), StoreError> {
        let result = match self.take_turn() {
            Some(state) => self.delete_all(state),
            None => self.wait_for_others(),
        };
        self.sweep();
        result
    }

    /// `None` if somebody else is at it.
    fn take_turn(&self) -> Option<MutexGuard<'_, State>> {
        let mut state = self.leaving.state();
        let taken = std::mem::replace(&mut state.deleting, true);
        (!taken).then_some(state)
    }

    fn wait_for_others(&self) -> Result<(), StoreError> {
        let (state, deleted) = (self.leaving.state(), &self.leaving.deleted);
        let others = deleted.wait_timeout_while(state, DELETED_WITHIN, |s| s.deleting);
        let (state, waited) = others.unwrap_or_else(PoisonError::into_inner);
        drop(state);
        match waited.timed_out() {
            true => Err(StoreError::at(&self.config.dir)(
                io::ErrorKind::TimedOut.into(),
            )),
            false => Ok(()),
        }
    }

    fn delete_all<'a>(&'a self, mut state: MutexGuard<'a, State>) -> Result<(), StoreError> {
        let (mut error, mut any) = (None, false);
        let mut failed = Vec::new();
        while let Some(mut doomed) = state.doomed.pop_front() {
            drop(state);
            let deleted = self.disk.remove(&doomed.path);
            let deleted = deleted.map_err(StoreError::at(&doomed.path));
            state = self.leaving.state();
            match deleted {
                Ok(()) => {
                    any = true;
                    state.held.push(doomed.held);
                }
                Err(why) => {
                    if !std::mem::replace(&mut doomed.told, true) {
                        log::warn!("{why}: it cannot be deleted, and takes its room until it can");
                    }
                    failed.push(doomed);
                    error = Some(why);
                }
            }
        }
        state.doomed.extend(failed);
        state.deleting = false;
        drop(state);
        self.leaving.deleted.notify_all();
        match error {
            Some(error) if !any => Err(error),
            _ => Ok(()),
        }
    }

    /// Lets go of what nobody reads any more.
    pub(super) fn sweep(&self) {
        let mut state = self.leaving.state();
        // Under the lock: whoever finds nothing to sweep may count on its room.
        let mut index = self.index();
        state.held.retain(|held| {
            let read = held.is_read();
            if !read {
                let (pool, bytes) = held.room();
                index.left(pool, bytes);
            }
            read
        });
    }
}
