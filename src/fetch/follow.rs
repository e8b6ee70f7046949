//! One media playlist, from one load to the next: what it lists is fetched, what has expired is
//! forgotten, and how far behind it is, is written down.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::client::{OriginError, Validators};
use super::downloads::{Downloads, Means, Wanted};
use super::edge::Edge;
use super::lan::{self, MAX_LAN_PLAYLIST};
use super::prefetch::{Source, jitter, load, media};
use crate::config::ChannelConfig;
use crate::hls::{MediaPlaylist, Tracker, Unfit, Update, Written};
use crate::ids::{MediaSequence, RenditionIndex, Resource, SegmentUri};
use crate::store::Announced;

/// Failures in a row after which the multivariant playlist is asked again: addresses of variants
/// carry tokens that run out.
const LOST_AFTER: u32 = 5;
/// How long a playlist that is complete is left alone. A player would not look again (RFC 8216
/// section 6.3.4); but encoders write ENDLIST whenever they stop, and start again.
const ENDED_RECHECK: Duration = Duration::from_secs(30);
/// How often the lag is written down while there is any.
const LAG_TICK: Duration = Duration::from_millis(500);

/// Follows one media playlist.
pub(super) struct Follower<'a> {
    channel: &'a ChannelConfig,
    means: &'a Means,
    rendition: RenditionIndex,
    multivariant: bool,
    tracker: Tracker,
    downloads: Downloads,
    /// Of initialization sections.
    sections: Downloads,
    /// Since when its numbers have had the meaning that they have.
    epoch: Instant,
    newest: Option<MediaSequence>,
    edge: Edge,
    restarts_told: bool,
    long_told: bool,
}

impl<'a> Follower<'a> {
    pub(super) fn new(
        channel: &'a ChannelConfig,
        means: &'a Means,
        rendition: RenditionIndex,
        multivariant: bool,
    ) -> Self {
        let (name, store) = (&channel.name, &means.store);
        let mut tracker = Tracker::new(channel.window, channel.matching);
        for segment in store.stored(name, rendition) {
            // Stored in the future means a clock that jumped: as good as unknown.
            let age = segment.age().unwrap_or(Duration::MAX);
            tracker.adopt(segment.sequence(), segment.uri().clone(), age);
        }
        // An encoder that was started anew meanwhile wrote others under the same names, and nothing
        // would show it. They are small.
        let sections = store.stored(name, rendition.sections()).into_iter();
        let sections: Vec<_> = sections
            .map(|section| {
                (
                    section.rendition(),
                    section.sequence(),
                    section.uri().clone(),
                )
            })
            .collect();
        store.expire(name, &sections);
        Self {
            channel,
            means,
            rendition,
            multivariant,
            tracker,
            downloads: Downloads::new(means.clone(), rendition),
            sections: Downloads::new(means.clone(), rendition.sections()),
            epoch: Instant::now(),
            newest: None,
            edge: Edge::default(),
            restarts_told: false,
            long_told: false,
        }
    }

    /// Returns when the playlist is lost and the channel has to be looked at again.
    pub(super) async fn run(mut self, source: Source) {
        let mut validators = Validators::default();
        let mut asked_ahead = self.means.store.asked_ahead(&self.channel.name);
        let (mut started, mut next) = match source.first {
            Some((started, media, written)) => (started, self.update(started, &media, &written)),
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
            self.fetch_lost();
            started = Instant::now();
            if let Some(asked_ahead) = &mut asked_ahead {
                asked_ahead.mark_unchanged();
            }
            let loading = load(self.means, &source.url, &validators, &source.variables);
            let loaded = self.meanwhile(loading).await;
            next = match loaded.and_then(media) {
                Ok(Some((media, written, current))) => {
                    validators = current;
                    self.update(started, &media, &written)
                }
                Ok(None) => {
                    let mut ended = false;
                    let name = &self.channel.name;
                    let (store, began) = (&self.means.store, started.into_std());
                    store.looked(name, self.rendition, began, self.newest);
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

    /// Fetches again what was stored and is not there any more.
    fn fetch_lost(&mut self) {
        let (store, name) = (&self.means.store, &self.channel.name);
        let lost = store.take_lost(name, self.rendition);
        if !lost.is_empty() {
            self.downloads.add(lost, self.epoch, Wanted::NewestFirst);
        }
        let lost = store.take_lost(name, self.rendition.sections());
        if !lost.is_empty() {
            self.sections.add(lost, self.epoch, Wanted::NewestFirst);
        }
    }

    /// Puts what a load brought into effect.
    fn update(&mut self, started: Instant, media: &MediaPlaylist, written: &Written) -> Instant {
        let update = self.tracker.on_playlist(started.into_std(), media);
        // A cache's old copy is no look at what the playlist is now.
        let is_current = update.changed || media.newest() == self.newest;
        self.tell_of_restart(&update);
        if update.epoch_changed || self.newest.is_none() {
            self.epoch = Instant::now();
        }
        let sections = self.rendition.sections();
        self.forget(&update.expired, self.rendition);
        self.forget(&update.expired_sections, sections);
        if self.newest.is_none() {
            // Those that are stored, and no others: a list may be of a whole day.
            let stored = self.means.store.stored(&self.channel.name, self.rendition);
            let stored: HashSet<_> = stored.iter().map(|segment| segment.sequence()).collect();
            let listed = media.segments.iter();
            let listed = listed.filter(|segment| stored.contains(&segment.sequence));
            let listed = listed.map(|s| (s.sequence, s.uri.clone(), s.source.clone()));
            let listed = announced(self.rendition, listed);
            self.means.store.identify(&self.channel.name, &listed);
        }
        if update.changed {
            let init = update.wanted_sections.into_iter();
            let init = init.map(|(number, init)| (number, init.uri.clone(), init.source.clone()));
            let order = match update.from_beginning {
                true => Wanted::OldestFirst,
                false => Wanted::NewestFirst,
            };
            self.sections
                .add(announced(sections, init), self.epoch, order);
            let wanted = update.wanted.into_iter();
            let wanted = wanted.map(|segment| (segment.sequence, segment.uri, segment.source));
            self.downloads
                .add(announced(self.rendition, wanted), self.epoch, order);
        }
        if update.epoch_changed {
            self.edge = Edge::default();
        }
        if update.epoch_changed || media.newest() > self.newest {
            self.newest = media.newest();
        }
        let (name, store) = (&self.channel.name, &self.means.store);
        if is_current {
            store.looked(name, self.rendition, started.into_std(), self.newest);
            self.relist(media, written);
        }
        self.edge.listed(media, Instant::now(), SystemTime::now());
        self.means
            .board
            .delayed(self.rendition, self.edge.is_late());
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

    /// Offers the playlist to players in the LAN.
    fn relist(&mut self, media: &MediaPlaylist, written: &Written) {
        let (name, store) = (&self.channel.name, &self.means.store);
        let list = lan::media(store, self.channel, self.rendition, media, written);
        if list.is_none() && !std::mem::replace(&mut self.long_told, true) {
            log::warn!(
                "channel {name}: a playlist of it is too long for /live/{name}/ ({} KiB at most): players \
                 without WebRTC are sent to the origin",
                MAX_LAN_PLAYLIST >> 10
            );
        }
        self.means.lan.send_modify(|lan| match list {
            Some(list) => drop(lan.media.insert(self.rendition, list)),
            None => drop(lan.media.remove(&self.rendition)),
        });
    }

    fn tell_of_restart(&mut self, update: &Update) {
        let name = &self.channel.name;
        if update.epoch_changed && !std::mem::replace(&mut self.restarts_told, true) {
            match update.only_queries_changed {
                true => log::warn!(
                    "channel {name}: segments came back with other queries, and nothing else about \
                     them changed. If these are tokens, set match = \"path\" for this channel: as it \
                     is, everything is fetched again at each load, and viewers find nothing"
                ),
                false => log::warn!(
                    "channel {name}: the encoder started anew (its numbers jumped back, or mean \
                     other segments now); what was stored before is dropped"
                ),
            }
        }
        if update.changed && !update.epoch_changed {
            self.restarts_told = false;
        }
    }

    fn forget(&mut self, expired: &[(MediaSequence, SegmentUri)], rendition: RenditionIndex) {
        let numbers: Vec<_> = expired.iter().map(|(number, _)| *number).collect();
        match rendition.is_sections() {
            true => self.sections.cancel(&numbers),
            false => self.downloads.cancel(&numbers),
        }
        let expired = expired.iter();
        let expired: Vec<_> = expired
            .map(|(sequence, uri)| (rendition, *sequence, uri.clone()))
            .collect();
        if !expired.is_empty() {
            self.means.store.expire(&self.channel.name, &expired);
        }
    }

    /// Lets downloads go on while `other` is awaited.
    async fn meanwhile<T>(&mut self, other: impl Future<Output = T>) -> T {
        let mut other = std::pin::pin!(other);
        loop {
            tokio::select! {
                result = &mut other => return result,
                () = self.downloads.drive() => self.note_lag(),
                () = self.sections.drive() => {}
                () = sleep(LAG_TICK), if self.edge.moves() => self.note_lag(),
            }
        }
    }

    fn note_lag(&mut self) {
        let store = &self.means.store;
        let stored = store.newest_of(&self.channel.name, self.rendition);
        let behind = self.edge.behind_since(stored);
        self.means.board.set_behind(self.rendition, behind);
    }
}

/// What is to be fetched of what is listed.
fn announced(
    rendition: RenditionIndex,
    listed: impl Iterator<Item = (MediaSequence, SegmentUri, Result<Resource, Unfit>)>,
) -> Vec<Announced> {
    let announced = listed.filter_map(|(sequence, uri, source)| {
        Some(Announced {
            rendition,
            uri,
            resource: source.ok()?,
            sequence,
        })
    });
    announced.collect()
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
