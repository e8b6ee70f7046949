//! What was taken out of the index, until it is gone. It counts as long as it takes room: until its file
//! is deleted and the last of its readers has let go of it.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::index::Pool;
use super::inner::{Inner, in_background};
use super::{Segment, StoreError};

/// How long whoever needs room waits for another one's deleting: a card that takes longer is in
/// trouble, and then there are older segments to take out, or memory.
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
    held: Vec<Arc<Segment>>,
    /// Somebody is at it: one at a time, so that a disk that hangs does not take every thread.
    deleting: bool,
}

#[derive(Debug)]
enum Doomed {
    Segment(Arc<Segment>),
    /// What never became one, and could not be deleted; and its bytes.
    File(PathBuf, u64),
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
        if removed.is_empty() {
            return;
        }
        let mut state = self.leaving.state();
        for segment in removed {
            match segment.path() {
                Some(_) => state.doomed.push_back(Doomed::Segment(segment)),
                None => state.held.push(segment),
            }
        }
        let idle = !state.doomed.is_empty() && !state.deleting;
        drop(state);
        self.sweep();
        if idle {
            self.delete_in_background();
        }
    }

    /// A file that is no segment could not be deleted: it takes this room until it can.
    pub(super) fn remember(&self, path: PathBuf, bytes: u64) {
        self.index().leaves(Pool::Disk, bytes);
        let doomed = Doomed::File(path, bytes);
        self.leaving.state().doomed.push_back(doomed);
    }

    pub(super) fn delete_in_background(self: &Arc<Self>) {
        let weak = Arc::downgrade(self);
        in_background(move || {
            if let Some(inner) = weak.upgrade() {
                // Told already.
                let _ = inner.delete();
            }
        });
    }

    /// Deletes all that is to be deleted, or waits until somebody else has, for a moment.
    ///
    /// # Errors
    /// That of the first file that cannot be deleted; what is left is tried again the next time.
    pub(super) fn delete(&self) -> Result<(), StoreError> {
        let mut state = self.leaving.state();
        if state.deleting {
            let deleted = &self.leaving.deleted;
            let others = deleted.wait_timeout_while(state, DELETED_WITHIN, |s| s.deleting);
            drop(others);
            self.sweep();
            return Ok(());
        }
        state.deleting = true;
        let mut failed = None;
        while failed.is_none()
            && let Some(doomed) = state.doomed.pop_front()
        {
            drop(state);
            failed = self.delete_one(&doomed).err();
            state = self.leaving.state();
            match doomed {
                // Further ones would fail too.
                doomed if failed.is_some() => state.doomed.push_front(doomed),
                Doomed::Segment(segment) => state.held.push(segment),
                Doomed::File(_, bytes) => self.index().left(Pool::Disk, bytes),
            }
        }
        state.deleting = false;
        drop(state);
        self.leaving.deleted.notify_all();
        self.sweep();
        match failed {
            Some(error) => {
                self.disk_failed(&error);
                Err(error)
            }
            None => Ok(()),
        }
    }

    fn delete_one(&self, doomed: &Doomed) -> Result<(), StoreError> {
        let path = match doomed {
            Doomed::Segment(segment) => segment.path(),
            Doomed::File(path, _) => Some(path.as_path()),
        };
        let path = path.unwrap_or(std::path::Path::new(""));
        self.disk.remove(path).map_err(StoreError::at(path))
    }

    /// Lets go of what nobody reads any more.
    pub(super) fn sweep(&self) {
        let mut gone = Vec::new();
        let mut state = self.leaving.state();
        state.held.retain(|segment| {
            let read = Arc::strong_count(segment) > 1;
            if !read {
                gone.push((segment.pool(), segment.occupied()));
            }
            read
        });
        drop(state);
        let mut index = self.index();
        for (pool, bytes) in gone {
            index.left(pool, bytes);
        }
    }
}
