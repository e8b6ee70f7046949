//! The store's folder: that it belongs to this store, and what earlier runs left there.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::disk::Disk;
use super::files::{self, Scan, blocking};
use super::inner::Inner;
use super::{StoreError, tell_clash};
use crate::ids::{ChannelName, RenditionIndex};

/// How long a start waits for the folder: a box that is being restarted, or is given another
/// configuration, may take this long to let go of it.
pub(super) const LOCK_WITHIN: Duration = Duration::from_secs(2);
const LOCK_RETRY: Duration = Duration::from_millis(50);

/// How long a channel waits for what earlier runs left of it. A bad card takes some seconds for ten
/// thousand files; one that hangs must not keep the channel from starting.
const SCANNED_WITHIN: Duration = Duration::from_secs(30);

/// Whose the folder is.
#[derive(Debug, Default)]
pub(super) struct Folder {
    /// Open, it is this store's. `None` if it could not be had because the disk fails.
    held: Mutex<Option<File>>,
    closed: AtomicBool,
}

impl Folder {
    pub(super) fn new(held: Option<File>) -> Self {
        Self {
            held: Mutex::new(held),
            closed: AtomicBool::new(false),
        }
    }
}

impl Inner {
    /// Makes sure that the folder is this store's: somebody may have wiped it and another box taken
    /// what is in its place, and at the start it may not have been to be had.
    pub(super) fn hold_folder(&self) -> Result<(), StoreError> {
        let mut held = self
            .folder
            .held
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let dir = &self.config.dir;
        if self.is_closed() {
            return Err(StoreError::NotWanted);
        }
        if !held.as_ref().is_some_and(|held| self.disk.is_at(held, dir)) {
            *held = Some(lock(&self.disk, dir, Duration::ZERO)?);
        }
        Ok(())
    }

    /// Lets go of the folder for good.
    pub(super) fn close(&self) {
        self.folder.closed.store(true, Ordering::Release);
        // Who has this at the moment asks a disk that may hang, and lets go with the store.
        if let Ok(mut held) = self.folder.held.try_lock() {
            *held = None;
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.folder.closed.load(Ordering::Acquire)
    }

    /// Takes in what earlier runs left of a channel, once.
    pub(super) async fn recover(self: &Arc<Self>, channel: &ChannelName) {
        let Some(scan) = self.scans.get(channel) else {
            return;
        };
        let scanned = scan.get_or_try_init(async || {
            let weak = Arc::downgrade(self);
            let (disk, names) = (self.disk.clone(), Arc::clone(&self.names));
            let folder = self.folder_of(channel);
            let scan = blocking(move || {
                let inner = weak.upgrade().ok_or(StoreError::NotWanted)?;
                inner.hold_folder()?;
                drop(inner);
                // Whoever closes the store, or lets go of it, ends it.
                let go_on = || weak.upgrade().is_some_and(|inner| !inner.is_closed());
                files::scan(&disk, &folder, &names, go_on)
            });
            self.take_in(channel, self.patiently(SCANNED_WITHIN, scan).await?);
            Ok(())
        });
        match scanned.await {
            Ok(()) | Err(StoreError::NotWanted) => {}
            Err(error) => log::warn!(
                "channel {channel}: {error}: what earlier runs left is neither served nor counted \
                 until that can be read"
            ),
        }
    }

    /// [`Self::recover`] for every channel.
    pub(super) async fn recover_all(self: &Arc<Self>) {
        for channel in &self.channels {
            self.recover(channel).await;
        }
    }

    /// Looks once more for what could not be seen before.
    pub(super) fn look_again(self: &Arc<Self>) {
        let unseen =
            |channel: &&ChannelName| self.scans.get(*channel).is_some_and(|s| !s.initialized());
        let unseen: Vec<ChannelName> = self.channels.iter().filter(unseen).cloned().collect();
        if let (false, Ok(runtime)) = (unseen.is_empty(), Handle::try_current()) {
            let inner = Arc::clone(self);
            runtime.spawn(async move {
                for channel in unseen {
                    inner.recover(&channel).await;
                }
            });
        }
    }

    fn take_in(self: &Arc<Self>, channel: &ChannelName, mut found: Scan) {
        if self.playlist(channel, RenditionIndex(0)).is_some() {
            // What is followed is not compared with what turns up later.
            let segments = std::mem::take(&mut found.segments);
            let old = segments
                .iter()
                .filter_map(|old| Some((old.path()?.to_owned(), old.occupied())));
            found.useless.extend(old);
        }
        let mut removed = Vec::new();
        for segment in found.segments {
            let outcome = self.index().restore(channel, Arc::new(segment));
            tell_clash(channel, outcome.first_clash);
            removed.extend(outcome.removed);
        }
        if !found.useless.is_empty() {
            let (count, dir) = (found.useless.len(), self.folder_of(channel));
            log::info!(
                "{count} files in {} are of no use any more, deleted",
                dir.display()
            );
        }
        for (path, bytes) in found.useless {
            self.doom_file(path, bytes, None);
        }
        self.after_change(channel, removed);
        let surplus = self.index().evict_surplus();
        self.evicted(surplus);
        self.delete_in_background();
    }
}

/// Makes the folder, and takes it for this store; waits so long for another box to let go of it.
pub(super) fn lock(disk: &Disk, dir: &Path, within: Duration) -> Result<File, StoreError> {
    disk.make_folder(dir).map_err(StoreError::at(dir))?;
    let give_up = Instant::now() + within;
    loop {
        match disk.lock(dir).map_err(StoreError::at(dir))? {
            Some(lock) => return Ok(lock),
            None if Instant::now() < give_up => std::thread::sleep(LOCK_RETRY),
            None => return Err(StoreError::InUse(dir.to_owned())),
        }
    }
}
