//! What a channel looks like from outside, for the status page.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;
use url::Url;

use super::client::shown;
use crate::ids::{ChannelName, MediaSequence, RenditionIndex};
use crate::metrics::ChannelMetrics;

/// The state of a channel as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChannelState {
    /// No playlist has been loaded yet.
    #[default]
    Starting,
    /// Every playlist is followed.
    Live,
    /// Every playlist is complete.
    Ended,
    /// Something could not be loaded; see [`ChannelStatus::failure`].
    Failing,
}

/// What is known of a channel. Times are in seconds since 1970 by this machine's clock, which may
/// be wrong until it has been set.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ChannelStatus {
    /// The state.
    pub state: ChannelState,
    /// The first thing that fails, if any does.
    pub failure: Option<Failure>,
    /// The media playlists that are followed, in the order of their rendition indexes.
    pub playlists: Vec<PlaylistStatus>,
}

/// What fails, and since when.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Failure {
    /// In words for the operator.
    pub error: String,
    /// Seconds since 1970.
    pub since: u64,
}

/// A media playlist that is followed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlaylistStatus {
    /// Its address without the query.
    pub url: String,
    /// `EXT-X-TARGETDURATION` in seconds; `None` before it was loaded.
    pub target_duration: Option<f64>,
    /// The number of the newest segment listed.
    pub newest: Option<MediaSequence>,
    /// When it was last loaded (seconds since 1970), changed or not.
    pub last_reload: Option<u64>,
    /// Whether it is complete.
    pub ended: bool,
    /// Why it cannot be loaded, if it cannot.
    pub failure: Option<Failure>,
    /// Why its segments are given up, until one arrives again.
    pub segment_failure: Option<Failure>,
}

/// Where the tasks of one channel write down how they fare.
#[derive(Clone, Debug)]
pub(super) struct Board {
    pub(super) channel: ChannelName,
    pub(super) metrics: Arc<ChannelMetrics>,
    status: watch::Sender<ChannelStatus>,
    behind: Arc<Mutex<BTreeMap<RenditionIndex, Instant>>>,
}

impl Board {
    pub(super) fn new(
        channel: ChannelName,
        metrics: Arc<ChannelMetrics>,
        status: watch::Sender<ChannelStatus>,
    ) -> Self {
        Self {
            channel,
            metrics,
            status,
            behind: Arc::default(),
        }
    }

    /// The channel as a whole cannot be started.
    pub(super) fn failed(&self, error: &str) {
        let mut new = false;
        self.status.send_modify(|status| {
            new = status.failure.is_none();
            status.state = ChannelState::Failing;
            fail(&mut status.failure, error);
        });
        if new {
            log::warn!("channel {}: {error}; tries again", self.channel);
        }
    }

    /// These playlists are followed from now on.
    pub(super) fn follows(&self, playlists: &[Url]) {
        self.behind().clear();
        let playlist = |url| PlaylistStatus {
            url: shown(url),
            target_duration: None,
            newest: None,
            last_reload: None,
            ended: false,
            failure: None,
            segment_failure: None,
        };
        self.status.send_modify(|status| {
            let playlists: Vec<_> = playlists.iter().map(playlist).collect();
            let urls = |list: &[PlaylistStatus]| list.iter().map(|p| p.url.clone()).collect();
            let (old, new): (Vec<_>, Vec<_>) = (urls(&status.playlists), urls(&playlists));
            if old != new {
                log::info!("channel {}: follows {}", self.channel, new.join(" and "));
            }
            status.playlists = playlists;
        });
    }

    /// A playlist was loaded, changed or not.
    pub(super) fn loaded(
        &self,
        rendition: RenditionIndex,
        update: impl FnOnce(&mut PlaylistStatus),
    ) {
        self.status.send_modify(|status| {
            let Some(playlist) = status.playlists.get_mut(usize::from(rendition.0)) else {
                return;
            };
            playlist.failure = None;
            playlist.last_reload = Some(unix_seconds());
            update(playlist);
            let before = status.failure.clone();
            status.summarize();
            if let (Some(failure), None) = (before, &status.failure) {
                let seconds = unix_seconds().saturating_sub(failure.since);
                log::info!("channel {}: works again after {seconds} s", self.channel);
            }
        });
    }

    /// A playlist could not be loaded.
    pub(super) fn failed_to_load(&self, rendition: RenditionIndex, error: &str) {
        self.status.send_modify(|status| {
            let new = status.failure.is_none();
            let Some(playlist) = status.playlists.get_mut(usize::from(rendition.0)) else {
                return;
            };
            fail(&mut playlist.failure, error);
            let (channel, url) = (&self.channel, &playlist.url);
            match new {
                true => log::warn!("channel {channel}: {url}: {error}; tries again"),
                false => log::debug!("channel {channel}: {url}: {error}"),
            }
            status.summarize();
        });
    }

    /// A segment was given up for this reason, or (`None`) one has arrived.
    pub(super) fn segment(&self, rendition: RenditionIndex, error: Option<&str>) {
        let channel = &self.channel;
        self.status.send_if_modified(|status| {
            let Some(playlist) = status
                .playlists
                .get_mut(usize::from(rendition.playlist().0))
            else {
                return false;
            };
            let failing = playlist.segment_failure.is_some();
            match error {
                Some(error) => {
                    if !failing {
                        log::warn!("channel {channel}: {error}");
                    }
                    fail(&mut playlist.segment_failure, error);
                }
                None if failing => {
                    playlist.segment_failure = None;
                    log::info!("channel {channel}: segments arrive again");
                }
                None => return false,
            }
            status.summarize();
            true
        });
    }

    /// Since when this playlist has been behind its live edge; `None`: it is not.
    /// `live_edge_lag_ms` is the longest of these of all renditions.
    pub(super) fn set_behind(&self, rendition: RenditionIndex, since: Option<Instant>) {
        let mut behind = self.behind();
        match since {
            Some(since) => behind.insert(rendition, since),
            None => behind.remove(&rendition),
        };
        let lag = behind.values().map(Instant::elapsed).max();
        let millis = lag.unwrap_or_default().as_millis();
        let millis = i64::try_from(millis).unwrap_or(i64::MAX);
        self.metrics.live_edge_lag_ms.set(millis);
    }

    fn behind(&self) -> std::sync::MutexGuard<'_, BTreeMap<RenditionIndex, Instant>> {
        self.behind.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ChannelStatus {
    /// A failure is over once every playlist has been loaded since.
    fn summarize(&mut self) {
        let loaded = self.playlists.iter().all(|p| p.last_reload.is_some());
        let failures = self.playlists.iter();
        let mut failures =
            failures.filter_map(|p| p.failure.as_ref().or(p.segment_failure.as_ref()));
        match failures.next() {
            Some(failure) => fail(&mut self.failure, &failure.error),
            None if loaded => self.failure = None,
            None => {}
        }
        self.state = if self.failure.is_some() {
            ChannelState::Failing
        } else if !loaded {
            ChannelState::Starting
        } else if self.playlists.iter().all(|playlist| playlist.ended) {
            ChannelState::Ended
        } else {
            ChannelState::Live
        };
    }
}

/// Keeps since when, replaces why.
fn fail(failure: &mut Option<Failure>, error: &str) {
    match failure {
        Some(failure) => failure.error = error.to_owned(),
        None => {
            *failure = Some(Failure {
                error: error.to_owned(),
                since: unix_seconds(),
            });
        }
    }
}

fn unix_seconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}
