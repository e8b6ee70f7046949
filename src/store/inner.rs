//! What every clone of the store shares.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{OnceCell, watch};

use super::disk::Disk;
use super::files::Names;
use super::folder::Folder;
use super::growing::Growing;
use super::health::Health;
use super::index::{Index, Pool, Ticket};
use super::leaving::Leaving;
use super::prover::Prover;
use super::{Segment, StoreError};
use crate::budget::Budget;
use crate::config::StoreConfig;
use crate::ids::{ChannelName, RenditionIndex};
use crate::metrics::Metrics;

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
    pub(super) folder: Folder,
    pub(super) leaving: Leaving,
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

    pub(super) fn folder_of(&self, channel: &ChannelName) -> PathBuf {
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

    /// The folder of a channel is not there any more: nor is what was in it.
    pub(super) fn wiped(self: &Arc<Self>, channel: &ChannelName) {
        let stored: Vec<_> = self.index().stored(channel).cloned().collect();
        let mut lost = Vec::new();
        for segment in stored {
            if segment.path().is_some_and(|path| !path.exists()) {
                lost.extend(self.index().lose(channel, &segment));
            }
        }
        log::warn!(
            "channel {channel}: its folder was wiped; the {} segments in it that are listed are \
             fetched again",
            lost.len()
        );
        self.after_change(channel, lost);
    }

    pub(super) fn evict_from_memory(self: &Arc<Self>, bytes: u64) {
        let evicted = self.index().evict_from_memory(bytes);
        match evicted.is_empty() {
            true => self.sweep(),
            false => self.evicted(evicted),
        }
    }

    /// Segments of whatever channels were taken out, to make room.
    pub(super) fn evicted(self: &Arc<Self>, evicted: Vec<Arc<Segment>>) {
        self.discard(evicted);
        self.count_all();
    }

    /// Counts what every channel has, and tells everybody.
    pub(super) fn count_all(&self) {
        for channel in &self.channels {
            self.count(channel);
        }
        self.changed();
    }

    /// Waits for what is asked of the disk: one that does not answer fails.
    pub(super) async fn patiently<T>(
        &self,
        within: Duration,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let Ok(result) = tokio::time::timeout(within, work).await else {
            let hangs = StoreError::at(&self.config.dir)(io::ErrorKind::TimedOut.into());
            self.disk_failed(&hangs);
            return Err(hangs);
        };
        result
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

/// Does blocking work, off the caller's thread where there is a runtime.
pub(super) fn in_background(work: impl FnOnce() + Send + 'static) {
    match Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(work)),
        Err(_) => work(),
    }
}
