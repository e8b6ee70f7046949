//! One channel: finds its media playlists, follows them, and keeps the store filled.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{FuturesUnordered, iter};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::client::{Loaded, LoadedPlaylist, OriginClient, OriginError, Validators};
use super::downloads::Means;
use super::follow::Follower;
use super::lan::{self, LanPlaylists};
use super::pace::{Pace, Places};
use super::status::{Board, ChannelStatus};
use crate::budget::Budget;
use crate::config::ChannelConfig;
use crate::hls::{self, MediaPlaylist, Multivariant, Playlist, SharedName, Variables, Written};
use crate::ids::{RenditionIndex, without_password, without_secrets};
use crate::metrics::{ChannelMetrics, OriginKind};
use crate::sibling::Siblings;
use crate::store::Store;

/// Playlists of one channel that are followed at most: the bandwidth of as many variants is more
/// than any uplink has.
const MAX_PLAYLISTS: usize = 32;
/// How often a multivariant playlist and all that it lists are looked at again: names that clash with
/// those of a playlist that is not followed may appear at any time, with an advertisement for one.
/// One load of each a minute is little beside those of the followed ones.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Back-off of the first playlist, before anything is known of the channel; as far as that of others.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// A media playlist to follow.
pub(super) struct Source {
    pub(super) url: Url,
    /// What it may import from the multivariant playlist that lists it.
    pub(super) variables: Arc<Variables>,
    /// Loaded already while the channel was looked at.
    pub(super) first: Option<(Instant, MediaPlaylist, Written)>,
}

/// What a look at the channel's own playlist found.
struct Sources {
    followed: Vec<Source>,
    /// What tells these playlists from others, from one run to the next.
    names: Vec<String>,
    /// What followed playlists have in common with others.
    shared: Vec<SharedName>,
    /// Whether every playlist could be loaded, so that nothing else is shared.
    seen: bool,
    /// Whether there is a multivariant playlist to go back to.
    multivariant: bool,
    /// That one for players in the LAN.
    lan: Option<Bytes>,
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
    /// The playlists for players in the LAN.
    pub lan: watch::Sender<LanPlaylists>,
}

/// Keeps the window of one channel in the store until `stop` is cancelled. Nothing that the origin
/// does ends it.
pub async fn run(channel: ChannelConfig, parts: Parts, stop: CancellationToken) {
    let means = Means {
        client: parts.client,
        store: parts.store,
        budget: parts.budget,
        siblings: parts.siblings,
        pace: Pace::new(channel.max_bandwidth),
        places: Places::default(),
        board: Board::new(channel.name.clone(), parts.metrics, parts.status),
        lan: parts.lan,
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
                share(channel, means, &sources);
                let urls: Vec<Url> = sources.followed.iter().map(|s| s.url.clone()).collect();
                board.follows(&urls);
                follow_all(channel, means, sources).await;
                continue;
            }
            Err(error) => error,
        };
        board.failed(&channel.url, &error.to_string());
        sleep(backoff + jitter(backoff)).await;
        backoff = (backoff * 2).min(MAX_BACKOFF);
    }
}

/// What can be told from what others call the same, as of this look.
fn share(channel: &ChannelConfig, means: &Means, sources: &Sources) {
    let shared = sources.shared.iter();
    let shared: Vec<_> = shared
        .map(|name| (name.rendition, name.matching, name.uri.clone()))
        .collect();
    means.store.set_shared(&channel.name, &shared, sources.seen);
    means.lan.send_modify(|lan| {
        if lan.names != sources.names {
            lan.names.clone_from(&sources.names);
            lan.media.clear();
        }
        lan.multivariant.clone_from(&sources.lan);
        let followed = sources.followed.iter();
        lan.followed = followed.map(|s| without_password(&s.url)).collect();
    });
}

/// Loads the channel's playlist and, if it is multivariant, each of those that it lists, once: a
/// viewer of any of them may ask, and names a segment by its URI alone.
async fn look(channel: &ChannelConfig, means: &Means) -> Result<Sources, OriginError> {
    let started = Instant::now();
    let nothing = Arc::default();
    let loaded = load(means, &channel.url, &Validators::default(), &nothing).await?;
    let Loaded::Changed(loaded) = loaded else {
        return Err(OriginError::Status(304));
    };
    let LoadedPlaylist {
        playlist, written, ..
    } = *loaded;
    match playlist {
        Playlist::Multivariant(multivariant) => {
            Ok(look_into(channel, means, &multivariant, &written).await)
        }
        Playlist::Media(media) => {
            let url = channel.url.clone();
            Ok(Sources {
                names: vec![url.to_string()],
                followed: vec![Source {
                    url,
                    variables: nothing,
                    first: Some((started, media, written)),
                }],
                shared: Vec::new(),
                seen: true,
                multivariant: false,
                lan: None,
            })
        }
    }
}

async fn look_into(
    channel: &ChannelConfig,
    means: &Means,
    multivariant: &Multivariant,
    written: &Written,
) -> Sources {
    let mut followed = multivariant.choose(channel.variants);
    followed.truncate(MAX_PLAYLISTS);
    let mut all = followed.clone();
    all.extend(multivariant.choose(crate::config::Variants::All));
    all.extend(multivariant.others.iter().cloned());
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
        let variables = &multivariant.variables;
        let loaded = load(means, &url, &Validators::default(), variables).await;
        match loaded.and_then(media) {
            Ok(Some((media, written, _))) => (url, Some((started, media, written))),
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
        .map(|(_, first)| first.as_ref().map(|(_, media, _)| media))
        .collect();
    let shared = hls::shared_names(&lists, followed.len(), channel.matching);
    let seen = lists.iter().all(Option::is_some);
    let lan = lan::multivariant(written, multivariant, &followed);
    loaded.truncate(followed.len());
    let followed = loaded
        .into_iter()
        .map(|(url, first)| Source {
            url,
            variables: Arc::clone(&multivariant.variables),
            first,
        })
        .collect();
    Sources {
        followed,
        names,
        shared,
        seen,
        multivariant: true,
        lan,
    }
}

/// The addresses of the first `followed` of `listed`: without their queries, where tokens change
/// from load to load, unless the queries are what tells two playlists apart.
fn names(listed: &[Url], followed: usize) -> Vec<String> {
    let mut plain: Vec<String> = listed.iter().map(without_secrets).collect();
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
                        share(channel, means, &now);
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

pub(super) async fn load(
    means: &Means,
    url: &Url,
    validators: &Validators,
    imports: &Variables,
) -> Result<Loaded, OriginError> {
    let loaded = means.client.playlist(url, validators, imports).await;
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

/// A media playlist, its text and its validators; `None` if it did not change.
pub(super) fn media(
    loaded: Loaded,
) -> Result<Option<(MediaPlaylist, Written, Validators)>, OriginError> {
    match loaded {
        Loaded::Unchanged => Ok(None),
        Loaded::Changed(loaded) => match loaded.playlist {
            Playlist::Media(media) => Ok(Some((media, loaded.written, loaded.validators))),
            Playlist::Multivariant(_) => Err(OriginError::NotMediaPlaylist),
        },
    }
}

/// Up to a twentieth of `wait`, so that the channels of many boxes do not ask in step.
pub(super) fn jitter(wait: Duration) -> Duration {
    wait.mul_f64(rand::random_range(0.0..0.05))
}
