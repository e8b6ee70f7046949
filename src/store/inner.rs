//! What every clone of the store shares.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{OnceCell, watch};

use super::disk::Disk;
use super::files::{self, Names, Scan};
use super::growing::Growing;
use super::health::Health;
use super::index::{Index, Pool, Ticket};
use super::leaving::Leaving;
use super::prover::Prover;
use super::{Segment, StoreError, tell_clash};
use crate::budget::Budget;
use crate::config::StoreConfig;
use crate::ids::{ChannelName, RenditionIndex};
use crate::metrics::Metrics;

/// How long a start waits for the folder: a box that is being restarted, or is given another
/// configuration, may take this long to let go of it.
pub(super) const LOCK_WITHIN: Duration = Duration::from_secs(2);
const LOCK_RETRY: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) config: StoreConfig,
    pub(super) channels: Vec<ChannelName>,
    pub(super) disk: Disk,
    pub(super) budget: Budget,
    pub(super) index: Mutex<Index<Arc<Segment>>>,
    pub(super) health: Mutex<Health>,
    pub(super) prover: Mutex<Prover>,
    /// Whose folder has been looked through.
    pub(super) scans: HashMap<ChannelName, OnceCell<()>>,
    pub(super) changes: watch::Sender<u64>,
    /// What is being written and may be read meanwhile, by what it is stored for.
    pub(super) growing: Mutex<HashMap<Ticket, Weak<Growing>>>,
    pub(super) growth: watch::Sender<u64>,
    pub(super) ahead: HashMap<ChannelName, watch::Sender<u64>>,
    pub(super) playlists: Mutex<HashMap<(ChannelName, RenditionIndex), Followed>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) names: Arc<Names>,
    pub(super) lock: Mutex<Folder>,
    pub(super) leaving: Leaving,
}

/// Whether the folder is this store's.
#[derive(Debug)]
pub(super) enum Folder {
    /// It is, for as long as this is open.
    Held(File),
    /// It could not be had because the disk fails.
    NotHeld,
    /// Not any more, nor will it be again.
    Closed,
}

/// The playlist that a rendition stands for.
#[derive(Debug)]
pub(super) struct Followed {
    pub(super) address: String,
    /// When the newest load of it began, in this run.
    pub(super) looked: Option<Instant>,
    /// A sibling waits for the next look.
    pub(super) awaited: bool,
    /// That a sibling follows another playlist has been said.
    pub(super) told_of_another: bool,
}

impl Inner {
    pub(super) fn index(&self) -> MutexGuard<'_, Index<Arc<Segment>>> {
        // The index is consistent between its calls, whatever happened to another thread.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn playlists(
        &self,
    ) -> MutexGuard<'_, HashMap<(ChannelName, RenditionIndex), Followed>> {
        self.playlists
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn playlist(
        &self,
        channel: &ChannelName,
        rendition: RenditionIndex,
    ) -> Option<String> {
        let followed = self.playlists();
        let followed = followed.get(&(channel.clone(), rendition.playlist()))?;
        Some(followed.address.clone())
    }

    pub(super) fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn folder(&self, channel: &ChannelName) -> PathBuf {
        self.config.dir.join(channel.as_str())
    }

    /// Deletes what was taken out, and tells everybody.
    pub(super) fn after_change(
        self: &Arc<Self>,
        channel: &ChannelName,
        removed: Vec<Arc<Segment>>,
    ) {
        self.discard(removed);
        self.count(channel);
        self.changed();
    }

    /// A look may find something else than before.
    pub(super) fn changed(&self) {
        self.changes.send_modify(|number| *number += 1);
    }

    /// What is being written for this and may be read meanwhile.
    pub(super) fn growing(&self, ticket: Ticket) -> Option<Arc<Growing>> {
        let growing = self.all_growing().get(&ticket)?.upgrade();
        growing.filter(|growing| !growing.is_broken())
    }

    pub(super) fn grows(&self, ticket: Ticket, growing: &Arc<Growing>) {
        let mut all = self.all_growing();
        all.retain(|_, growing| growing.strong_count() > 0);
        all.insert(ticket, Arc::downgrade(growing));
    }

    fn all_growing(&self) -> MutexGuard<'_, HashMap<Ticket, Weak<Growing>>> {
        self.growing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A segment cannot be read, for this reason.
    pub(super) fn lose(
        self: &Arc<Self>,
        channel: &ChannelName,
        segment: &Arc<Segment>,
        error: io::Error,
    ) {
        let Some(path) = segment.path() else { return };
        let error = StoreError::at(path)(error);
        if error.is_about_us() {
            log::debug!("{error}");
            return;
        }
        let Some(removed) = self.index().lose(channel, segment) else {
            // It was taken out in the meantime.
            return;
        };
        log::warn!("{error}; it is not served any more");
        self.after_change(channel, vec![removed]);
    }

    pub(super) fn evict_from_memory(self: &Arc<Self>, bytes: u64) {
        let evicted = self.index().evict_from_memory(bytes);
        if !evicted.is_empty() {
            self.evicted(evicted);
        }
    }

    /// Segments of whatever channels were taken out, to make room.
    pub(super) fn evicted(self: &Arc<Self>, evicted: Vec<Arc<Segment>>) {
        self.discard(evicted);
        for channel in &self.channels {
            self.count(channel);
        }
        self.changed();
    }

    pub(super) fn disk_failed(&self, error: &StoreError) {
        let mut health = self.health();
        let new = health.failed(Instant::now(), error.to_string());
        self.metrics.store_writable.set(0);
        drop(health);
        match new {
            true => log::warn!(
                "{error}; new segments are held in memory, {} MiB at most, until the disk works again",
                self.budget.total() >> 21
            ),
            false => log::debug!("the disk still fails: {error}"),
        }
    }

    pub(super) fn disk_works(self: &Arc<Self>) {
        let mut health = self.health();
        let failed = health.works(Instant::now());
        self.metrics.store_writable.set(1);
        drop(health);
        if let Some(failed) = failed {
            log::info!("the disk works again, after {} s", failed.as_secs());
        }
        self.delete_in_background();
        self.look_again();
    }

    /// Looks once more for what earlier runs left, where that could not be seen before.
    fn look_again(self: &Arc<Self>) {
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

    /// Takes in what earlier runs left of a channel, once.
    pub(super) async fn recover(self: &Arc<Self>, channel: &ChannelName) {
        let Some(scan) = self.scans.get(channel) else {
            return;
        };
        let scanned = scan.get_or_try_init(async || {
            self.hold_folder()?;
            let (disk, folder) = (self.disk.clone(), self.folder(channel));
            let weak = Arc::downgrade(self);
            // Whoever closes the store, or lets go of it, ends it.
            let go_on = move || weak.upgrade().is_some_and(|inner| !inner.is_closed());
            let names = Arc::clone(&self.names);
            let scan = move || files::scan(&disk, &folder, &names, go_on);
            let found = files::blocking(scan).await?;
            self.take_in(channel, found);
            Ok::<_, StoreError>(())
        });
        if let Err(error) = scanned.await {
            log::debug!("channel {channel}: what earlier runs left cannot be seen: {error}");
        }
    }

    fn take_in(self: &Arc<Self>, channel: &ChannelName, found: Scan) {
        let mut removed = Vec::new();
        for segment in found.segments {
            let outcome = self.index().restore(channel, Arc::new(segment));
            tell_clash(channel, outcome.first_clash);
            removed.extend(outcome.removed);
        }
        if !found.useless.is_empty() {
            let (count, dir) = (found.useless.len(), self.folder(channel));
            log::info!(
                "{count} files in {} are of no use any more, deleted",
                dir.display()
            );
        }
        for (path, bytes) in found.useless {
            self.remember(path, bytes);
        }
        self.after_change(channel, removed);
        let surplus = self.index().evict_surplus();
        self.evicted(surplus);
        self.delete_in_background();
    }

    /// Makes sure that the folder is this store's: somebody may have wiped it and another box taken
    /// what is in its place, and at the start it may not have been to be had.
    pub(super) fn hold_folder(&self) -> Result<(), StoreError> {
        let mut folder = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = &self.config.dir;
        match &*folder {
            Folder::Closed => Err(StoreError::NotWanted),
            Folder::Held(held) if self.disk.is_at(held, dir) => Ok(()),
            Folder::Held(_) | Folder::NotHeld => {
                *folder = Folder::Held(lock(&self.disk, dir, Duration::ZERO)?);
                Ok(())
            }
        }
    }

    pub(super) fn close(&self) {
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = Folder::Closed;
    }

    pub(super) fn is_closed(&self) -> bool {
        let folder = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(*folder, Folder::Closed)
    }

    fn count(&self, channel: &ChannelName) {
        let index = self.index();
        let summary = index.summary(channel);
        let (disk, memory) = (index.used(Pool::Disk), index.used(Pool::Memory));
        drop(index);
        let gauge = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.metrics.store_bytes.set(gauge(disk));
        self.metrics.store_memory_bytes.set(gauge(memory));
        let segments = gauge(summary.segments as u64);
        self.metrics.channel(channel).store_segments.set(segments);
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

/// Does blocking work, off the caller's thread where there is a runtime.
pub(super) fn in_background(work: impl FnOnce() + Send + 'static) {
    match Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(work)),
        Err(_) => work(),
    }
}
