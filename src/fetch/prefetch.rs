//! One channel: finds its media playlists, follows them, and keeps the store filled.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{FuturesUnordered, iter};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::client::{Loaded, LoadedPlaylist, OriginClient, OriginError, Validators, shown};
use super::downloads::{Downloads, Means};
use super::status::{Board, ChannelStatus};
use crate::budget::Budget;
use crate::config::ChannelConfig;
use crate::hls::{self, MediaPlaylist, Multivariant, Playlist, SharedName, Tracker};
use crate::ids::{MediaSequence, RenditionIndex};
use crate::metrics::{ChannelMetrics, OriginKind};
use crate::sibling::Siblings;
use crate::store::Store;

/// Playlists of one channel that are followed at most: the bandwidth of as many variants is more
/// than any uplink has.
const MAX_PLAYLISTS: usize = 32;
/// Failures in a row after which the multivariant playlist is asked again: addresses of variants
/// carry tokens that run out.
const LOST_AFTER: u32 = 5;
/// How often a multivariant playlist and all that it lists are looked at again: names that clash with
/// those of a playlist that is not followed may appear at any time, with an advertisement for one.
/// One load of each a minute is little beside those of the followed ones.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Back-off of the first playlist, before anything is known of the channel.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// How long a playlist that is complete is left alone. A player would not look again (RFC 8216
/// section 6.3.4); but encoders write ENDLIST whenever they stop, and start again.
const ENDED_RECHECK: Duration = Duration::from_secs(30);
/// How often the lag is written down while the newest segment is missing.
const LAG_TICK: Duration = Duration::from_millis(500);

/// A media playlist to follow.
struct Source {
    url: Url,
    /// Loaded already while the channel was looked at.
    first: Option<(Instant, MediaPlaylist)>,
}

/// What a look at the channel's own playlist found.
struct Sources {
    followed: Vec<Source>,
    /// What tells these playlists from others, from one run to the next.
    names: Vec<String>,
    /// What followed playlists have in common with others.
    shared: Vec<SharedName>,
    /// Whether there is a multivariant playlist to go back to.
    multivariant: bool,
}

/// What the prefetching of a channel needs from the rest of the box.
pub struct Parts {
    /// Towards the origin.
    pub client: OriginClient,
    /// Where segments go.
    pub store: Store,
    /// What media in flight is taken from.
    pub budget: Budget,
    /// The other boxes, asked before the origin.
    pub siblings: Siblings,
    /// What is counted.
    pub metrics: Arc<ChannelMetrics>,
    /// How it goes.
    pub status: watch::Sender<ChannelStatus>,
}

/// Keeps the window of one channel in the store until `stop` is cancelled. Nothing that the origin
/// does ends it.
pub async fn run(channel: ChannelConfig, parts: Parts, stop: CancellationToken) {
    let means = Means {
        client: parts.client,
        store: parts.store,
        budget: parts.budget,
        siblings: parts.siblings,
        board: Board::new(channel.name.clone(), parts.metrics, parts.status),
    };
    stop.run_until_cancelled(prefetch(&channel, &means)).await;
}

async fn prefetch(channel: &ChannelConfig, means: &Means) {
    let board = &means.board;
    let mut backoff = FIRST_BACKOFF;
    loop {
        let error = match look(channel, means).await {
            Ok(sources) => {
                means.store.set_sources(&channel.name, &sources.names).await;
                backoff = FIRST_BACKOFF;
                share(channel, means, &sources.shared);
                let urls: Vec<Url> = sources.followed.iter().map(|s| s.url.clone()).collect();
                board.follows(&urls);
                follow_all(channel, means, sources).await;
                continue;
            }
            Err(error) => error,
        };
        board.failed(&error.to_string());
        sleep(backoff + jitter(backoff)).await;
        backoff = (backoff * 2).min(MAX_BACKOFF);
    }
}

/// Nothing more of these renditions can be told from what others call the same.
fn share(channel: &ChannelConfig, means: &Means, shared: &[SharedName]) {
    for name in shared {
        means
            .store
            .share(&channel.name, name.rendition, name.matching, &name.uri);
    }
}

/// Loads the channel's playlist and, if it is multivariant, each of those that it lists, once: a
/// viewer of any of them may ask, and names a segment by its URI alone.
async fn look(channel: &ChannelConfig, means: &Means) -> Result<Sources, OriginError> {
    let started = Instant::now();
    let multivariant = match load(means, &channel.url, &Validators::default()).await? {
        Loaded::Changed(LoadedPlaylist { playlist, .. }) => match playlist {
            Playlist::Multivariant(multivariant) => multivariant,
            Playlist::Media(media) => {
                let first = Some((started, media));
                let url = channel.url.clone();
                return Ok(Sources {
                    names: vec![url.to_string()],
                    followed: vec![Source { url, first }],
                    shared: Vec::new(),
                    multivariant: false,
                });
            }
        },
        Loaded::Unchanged => return Err(OriginError::Status(304)),
    };
    Ok(look_into(channel, means, &multivariant).await)
}

async fn look_into(channel: &ChannelConfig, means: &Means, multivariant: &Multivariant) -> Sources {
    let mut followed = multivariant.choose(channel.variants);
    followed.truncate(MAX_PLAYLISTS);
    let mut all = followed.clone();
    all.extend(multivariant.choose(crate::config::Variants::All));
    let mut listed: Vec<Url> = Vec::new();
    for url in all {
        if !listed.contains(&url) && listed.len() < 2 * MAX_PLAYLISTS {
            listed.push(url);
        }
    }
    let names = names(&listed, followed.len());
    // In the order of `listed`.
    let loads = iter(listed).map(|url| async move {
        let started = Instant::now();
        let loaded = load(means, &url, &Validators::default()).await;
        match loaded.and_then(media) {
            Ok(Some((media, _))) => (url, Some((started, media))),
            Ok(None) => (url, None),
            Err(error) => {
                log::debug!("channel {}: a variant: {error}", channel.name);
                (url, None)
            }
        }
    });
    let mut loaded: Vec<(Url, _)> = loads.buffered(4).collect().await;
    let lists: Vec<Option<&MediaPlaylist>> = loaded
        .iter()
        .map(|(_, first)| first.as_ref().map(|(_, media)| media))
        .collect();
    let shared = hls::shared_names(&lists, followed.len(), channel.matching);
    loaded.truncate(followed.len());
    let followed = loaded
        .into_iter()
        .map(|(url, first)| Source { url, first })
        .collect();
    Sources {
        followed,
        names,
        shared,
        multivariant: true,
    }
}

/// The addresses of the first `followed` of `listed`: without their queries, where tokens change
/// from load to load, unless the queries are what tells two playlists apart.
fn names(listed: &[Url], followed: usize) -> Vec<String> {
    let mut plain: Vec<String> = listed.iter().map(shown).collect();
    let distinct: HashSet<&String> = plain.iter().collect();
    if distinct.len() < plain.len() {
        plain = listed.iter().map(Url::to_string).collect();
    }
    plain.truncate(followed);
    plain
}

/// Follows every playlist until none is left, or they are no longer the channel's. One that is lost
/// does not disturb the others: the channel is looked at again for a newer address of it.
async fn follow_all(channel: &ChannelConfig, means: &Means, sources: Sources) {
    let Sources {
        followed,
        names,
        multivariant,
        ..
    } = sources;
    let follow = |index, source| async move {
        let follower = Follower::new(channel, means, index, multivariant);
        follower.run(source).await;
        index
    };
    let mut followers: FuturesUnordered<_> = (0..)
        .map(RenditionIndex)
        .zip(followed)
        .map(|(index, source)| follow(index, source))
        .collect();
    let mut lost = Vec::new();
    let look_in = |wait| async move {
        sleep(wait).await;
        look(channel, means).await
    };
    let mut again = Box::pin(look_in(LOOK_AGAIN));
    loop {
        tokio::select! {
            ended = followers.next() => match ended {
                Some(index) if !followers.is_empty() => {
                    means.board.set_behind(index, None);
                    lost.push(index);
                    again.set(look_in(Duration::ZERO));
                }
                _ => return,
            },
            looked = &mut again, if multivariant => {
                again.set(look_in(LOOK_AGAIN));
                match looked {
                    Ok(now) if now.names == names => {
                        share(channel, means, &now.shared);
                        let found = (0..).map(RenditionIndex).zip(now.followed);
                        let found = found.filter(|(index, _)| lost.contains(index));
                        followers.extend(found.map(|(index, source)| follow(index, source)));
                        lost.clear();
                    }
                    // Other addresses for each load are no reason to drop what works.
                    Ok(_) if !lost.is_empty() => return,
                    _ => {}
                }
            }
        }
    }
}

/// Follows one media playlist.
struct Follower<'a> {
    channel: &'a ChannelConfig,
    means: &'a Means,
    rendition: RenditionIndex,
    multivariant: bool,
    tracker: Tracker,
    downloads: Downloads,
    /// Since when its numbers have had the meaning that they have.
    epoch: Instant,
    newest: Option<MediaSequence>,
    /// The newest listed segment and when it appeared, until it is stored.
    edge: Option<(MediaSequence, Instant)>,
    restarts_told: bool,
}

impl<'a> Follower<'a> {
    fn new(
        channel: &'a ChannelConfig,
        means: &'a Means,
        rendition: RenditionIndex,
        multivariant: bool,
    ) -> Self {
        let mut tracker = Tracker::new(channel.window, channel.matching);
        for segment in means.store.stored(&channel.name, rendition) {
            // Stored in the future means a clock that jumped: as good as unknown.
            let age = segment.age().unwrap_or(Duration::MAX);
            tracker.adopt(segment.sequence(), segment.uri().clone(), age);
        }
        Self {
            channel,
            means,
            rendition,
            multivariant,
            tracker,
            downloads: Downloads::new(means.clone(), rendition),
            epoch: Instant::now(),
            newest: None,
            edge: None,
            restarts_told: false,
        }
    }

    /// Returns when the playlist is lost and the channel has to be looked at again.
    async fn run(mut self, source: Source) {
        let mut validators = Validators::default();
        let mut asked_ahead = self.means.store.asked_ahead(&self.channel.name);
        let (mut started, mut next) = match source.first {
            Some((started, media)) => (started, self.update(started, &media)),
            None => (Instant::now(), Instant::now()),
        };
        loop {
            let earliest = self.tracker.earliest_reload(started.into_std()).into();
            let nudged = self.tracker.failures() == 0;
            self.meanwhile(async {
                tokio::select! {
                    () = sleep_until(next) => {}
                    () = asked(asked_ahead.as_mut(), earliest), if nudged => {}
                }
            })
            .await;
            started = Instant::now();
            if let Some(asked_ahead) = &mut asked_ahead {
                asked_ahead.mark_unchanged();
            }
            let loading = load(self.means, &source.url, &validators);
            let loaded = self.meanwhile(loading).await;
            next = match loaded.and_then(media) {
                Ok(Some((media, current))) => {
                    validators = current;
                    self.update(started, &media)
                }
                Ok(None) => {
                    let mut ended = false;
                    let name = &self.channel.name;
                    self.means
                        .store
                        .looked(name, self.rendition, started.into_std());
                    self.means.board.loaded(self.rendition, |p| ended = p.ended);
                    match ended {
                        true => started + ENDED_RECHECK,
                        false => self.tracker.on_unchanged(started.into_std()).into(),
                    }
                }
                Err(error) => {
                    let board = &self.means.board;
                    board.failed_to_load(self.rendition, &error.to_string());
                    let next: Instant = self.tracker.on_failure(Instant::now().into_std()).into();
                    let next = next + jitter(next.saturating_duration_since(started));
                    // A list that is of another kind now is looked at anew as well.
                    let other_kind = error == OriginError::NotMediaPlaylist;
                    if other_kind || (self.multivariant && self.tracker.failures() >= LOST_AFTER) {
                        self.meanwhile(sleep_until(next)).await;
                        return;
                    }
                    next
                }
            };
        }
    }

    /// Puts what a load brought into effect.
    fn update(&mut self, started: Instant, media: &MediaPlaylist) -> Instant {
        let update = self.tracker.on_playlist(started.into_std(), media);
        let (name, store) = (&self.channel.name, &self.means.store);
        if update.epoch_changed && !std::mem::replace(&mut self.restarts_told, true) {
            log::warn!(
                "channel {name}: the encoder started anew (its numbers jumped back, or mean other \
                 segments now); what was stored before is dropped"
            );
        }
        if update.changed && !update.epoch_changed {
            self.restarts_told = false;
        }
        if update.epoch_changed || self.newest.is_none() {
            self.epoch = Instant::now();
        }
        let numbers: Vec<_> = update.expired.iter().map(|(number, _)| *number).collect();
        self.downloads.cancel(&numbers);
        let expired: Vec<_> = update
            .expired
            .into_iter()
            .map(|(sequence, uri)| (self.rendition, sequence, uri))
            .collect();
        if !expired.is_empty() {
            store.expire(name, &expired);
        }
        if update.changed {
            self.downloads.add(update.wanted, self.epoch);
        }
        store.looked(name, self.rendition, started.into_std());
        if update.epoch_changed || media.newest() > self.newest {
            self.newest = media.newest();
            let newest = media.segments.last().filter(|s| s.source.is_ok());
            self.edge = newest.map(|s| (s.sequence, Instant::now()));
        }
        self.note_lag();
        let newest = self.newest;
        self.means.board.loaded(self.rendition, |playlist| {
            playlist.target_duration = Some(media.target_duration.as_secs_f64());
            playlist.newest = newest;
            playlist.ended = update.ended;
        });
        match update.ended {
            true => started + ENDED_RECHECK,
            false => update.next_reload.into(),
        }
    }

    /// Lets downloads go on while `other` is awaited.
    async fn meanwhile<T>(&mut self, other: impl Future<Output = T>) -> T {
        let mut other = std::pin::pin!(other);
        loop {
            tokio::select! {
                result = &mut other => return result,
                () = self.downloads.drive() => self.note_lag(),
                () = sleep(LAG_TICK), if self.edge.is_some() => self.note_lag(),
            }
        }
    }

    fn note_lag(&mut self) {
        let store = &self.means.store;
        let stored = store.newest_of(&self.channel.name, self.rendition);
        let missing = |(sequence, _): &(MediaSequence, Instant)| stored < Some(*sequence);
        self.edge = self.edge.take().filter(missing);
        let since = self.edge.as_ref().map(|(_, since)| *since);
        self.means.board.set_behind(self.rendition, since);
    }
}

async fn load(means: &Means, url: &Url, validators: &Validators) -> Result<Loaded, OriginError> {
    let loaded = means.client.playlist(url, validators).await;
    let counted = means.board.metrics.origin(OriginKind::Playlist);
    match &loaded {
        Ok(loaded) => {
            counted.ok.add(1);
            if let Loaded::Changed(loaded) = loaded {
                means.board.metrics.origin_bytes.add(loaded.bytes as u64);
            }
        }
        Err(_) => counted.error.add(1),
    }
    loaded
}

/// A media playlist and its validators; `None` if it did not change.
fn media(loaded: Loaded) -> Result<Option<(MediaPlaylist, Validators)>, OriginError> {
    match loaded {
        Loaded::Unchanged => Ok(None),
        Loaded::Changed(loaded) => match loaded.playlist {
            Playlist::Media(media) => Ok(Some((media, loaded.validators))),
            Playlist::Multivariant(_) => Err(OriginError::NotMediaPlaylist),
        },
    }
}

/// Waits until a viewer asks for what the playlist does not list yet, but not before `earliest`. A
/// viewer whose reloads fall a little before ours would otherwise wait for us at each segment.
async fn asked(ahead: Option<&mut watch::Receiver<u64>>, earliest: Instant) {
    sleep_until(earliest).await;
    let heard = match ahead {
        Some(ahead) => ahead.changed().await.is_ok(),
        None => false,
    };
    if !heard {
        std::future::pending::<()>().await;
    }
}

/// Up to a twentieth of `wait`, so that the channels of many boxes do not ask in step.
fn jitter(wait: Duration) -> Duration {
    wait.mul_f64(rand::random_range(0.0..0.05))
}
