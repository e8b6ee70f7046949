//! What a channel looks like from outside, for the status page.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;
use url::Url;

use super::voice::Voice;
use crate::ids::{ChannelName, MediaSequence, RenditionIndex, without_secrets};
use crate::metrics::ChannelMetrics;

const TOO_SLOW: &str = "segments arrive later than the next ones are listed: the origin, or the way \
                        to it, is too slow for this channel";

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
    /// That its segments arrive too late, as long as they do.
    pub delay: Option<Failure>,
}

/// Where the tasks of one channel write down how they fare.
#[derive(Clone, Debug)]
pub(super) struct Board {
    pub(super) channel: ChannelName,
    pub(super) metrics: Arc<ChannelMetrics>,
    status: watch::Sender<ChannelStatus>,
    voices: Arc<Mutex<Voices>>,
    behind: Arc<Mutex<BTreeMap<RenditionIndex, Instant>>>,
}

/// What is told of a channel in the log.
#[derive(Debug, Default)]
struct Voices {
    playlists: Voice,
    segments: Voice,
    delays: Voice,
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
            voices: Arc::default(),
            behind: Arc::default(),
        }
    }

    /// The channel as a whole cannot be started, for its playlist cannot be loaded.
    pub(super) fn failed(&self, url: &Url, error: &str) {
        self.status.send_modify(|status| {
            status.state = ChannelState::Failing;
            fail(&mut status.failure, error);
        });
        if self.voices().playlists.fails(Instant::now()) {
            let (channel, url) = (&self.channel, without_secrets(url));
            log::warn!("channel {channel}: {url}: {error}; tries again");
        }
    }

    /// These playlists are followed from now on.
    pub(super) fn follows(&self, playlists: &[Url]) {
        self.behind().clear();
        let playlist = |url| PlaylistStatus {
            url: without_secrets(url),
            target_duration: None,
            newest: None,
            last_reload: None,
            ended: false,
            failure: None,
            segment_failure: None,
            delay: None,
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
            status.summarize();
            let works = |p: &PlaylistStatus| p.failure.is_none() && p.last_reload.is_some();
            if status.playlists.iter().all(works)
                && let Some(after) = self.voices().playlists.works(Instant::now())
            {
                let (channel, seconds) = (&self.channel, after.as_secs());
                log::info!("channel {channel}: works again after {seconds} s");
            }
        });
    }

    /// A playlist could not be loaded.
    pub(super) fn failed_to_load(&self, rendition: RenditionIndex, error: &str) {
        self.status.send_modify(|status| {
            let Some(playlist) = status.playlists.get_mut(usize::from(rendition.0)) else {
                return;
            };
            fail(&mut playlist.failure, error);
            let (channel, url) = (&self.channel, &playlist.url);
            match self.voices().playlists.fails(Instant::now()) {
                true => log::warn!("channel {channel}: {url}: {error}; tries again"),
                false => log::debug!("channel {channel}: {url}: {error}"),
            }
            status.summarize();
        });
    }

    /// A segment was given up for this reason, or (`None`) one has arrived.
    pub(super) fn segment(&self, rendition: RenditionIndex, error: Option<&str>) {
        let channel = &self.channel;
        let fails = self.note(rendition, error, |playlist| &mut playlist.segment_failure);
        let (now, mut voices) = (Instant::now(), self.voices());
        match error {
            Some(error) if voices.segments.fails(now) => log::warn!("channel {channel}: {error}"),
            Some(error) => log::debug!("channel {channel}: {error}"),
            None if fails => {}
            None => {
                if let Some(after) = voices.segments.works(now) {
                    let seconds = after.as_secs();
                    log::info!("channel {channel}: segments arrive again after {seconds} s");
                }
            }
        }
    }

    /// Whether segments arrive, but later than the next ones are listed.
    pub(super) fn delayed(&self, rendition: RenditionIndex, late: bool) {
        let channel = &self.channel;
        let error = late.then_some(TOO_SLOW);
        let fails = self.note(rendition, error, |playlist| &mut playlist.delay);
        let (now, mut voices) = (Instant::now(), self.voices());
        if late && voices.delays.fails(now) {
            log::warn!("channel {channel}: {TOO_SLOW}");
        }
        if !fails && let Some(after) = voices.delays.works(now) {
            let seconds = after.as_secs();
            log::info!("channel {channel}: segments arrive in time again after {seconds} s");
        }
    }

    /// Writes down that something of a playlist fails, or works. Whether it fails of any playlist.
    fn note(
        &self,
        rendition: RenditionIndex,
        error: Option<&str>,
        failure: fn(&mut PlaylistStatus) -> &mut Option<Failure>,
    ) -> bool {
        let mut fails = false;
        self.status.send_if_modified(|status| {
            let index = usize::from(rendition.playlist().0);
            let noted = status.playlists.get_mut(index).map(failure);
            let changed = match (noted, error) {
                (Some(noted), Some(error)) => {
                    fail(noted, error);
                    true
                }
                (Some(noted), None) => noted.take().is_some(),
                (None, _) => false,
            };
            fails = status.playlists.iter_mut().any(|p| failure(p).is_some());
            if changed {
                status.summarize();
            }
            changed
        });
        fails
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

    fn voices(&self) -> std::sync::MutexGuard<'_, Voices> {
        self.voices.lock().unwrap_or_else(PoisonError::into_inner)
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
        let mut failures = failures.filter_map(|p| {
            let segments = p.segment_failure.as_ref().or(p.delay.as_ref());
            p.failure.as_ref().or(segments)
        });
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
