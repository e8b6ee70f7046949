//! What is asked of the store: by viewers, by siblings, and by the pages.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use super::index::Lookup;
use super::inner::Inner;
use super::{Ambiguous, Announced, Found, Reader, Segment, Store, Summary};
use crate::ids::{ChannelName, MediaSequence, RenditionIndex, Resource};

impl Store {
    /// Changes whenever somebody asks for a segment just past the newest announced one: a viewer has
    /// seen a newer playlist than we have. `None` for an unknown channel.
    pub fn asked_ahead(&self, channel: &ChannelName) -> Option<watch::Receiver<u64>> {
        self.inner.ahead.get(channel).map(watch::Sender::subscribe)
    }

    /// Looks up what a viewer names: the URI as the playlist writes it (or without its query, where
    /// the channel says so) and, if given, the media sequence number, which has to fit: numbers are
    /// of segments. Without one, it is whatever has that URI, an initialization section for one; but
    /// not if the URI stands for several parts of one resource.
    ///
    /// A URI that nobody announced is [`Found::Coming`] if its number is at most three past the
    /// newest listed one of a channel that is alive: the viewer has loaded the playlist before us. One whose name may turn out to be ambiguous in a moment is, too.
    pub fn find(&self, channel: &ChannelName, uri: &str, sequence: Option<MediaSequence>) -> Found {
        let found = self.look_up(channel, uri, sequence);
        self.answer(channel, found)
    }

    /// Looks up what the playlist of a rendition lists under this number, and where it is at the origin;
    /// `None` if it lists no such thing within the window. Here no name can be ambiguous.
    pub fn find_listed(
        &self,
        channel: &ChannelName,
        rendition: RenditionIndex,
        sequence: MediaSequence,
    ) -> Option<(Found, Option<Resource>)> {
        let found = self
            .inner
            .index()
            .find_listed(channel, (rendition, sequence));
        let (found, resource) = found?;
        self.prove(channel, &found);
        Some((self.answer(channel, found), resource))
    }

    /// What [`Self::find_listed`] can find of a rendition, now or in a moment.
    pub fn announced(
        &self,
        channel: &ChannelName,
        rendition: RenditionIndex,
    ) -> BTreeMap<MediaSequence, Announced> {
        self.inner.index().announced(channel, rendition)
    }

    fn answer(&self, channel: &ChannelName, found: Lookup<Arc<Segment>>) -> Found {
        match found {
            Lookup::Ready(segment) => self.open_found(channel, segment),
            Lookup::Coming(ticket) => match self.inner.growing(ticket) {
                Some(growing) => Found::Arriving(Reader::growing(growing)),
                None => Found::Coming,
            },
            Lookup::Unproven(..) | Lookup::Unconfirmed => Found::Coming,
            Lookup::Ahead => {
                self.look_ahead(channel);
                Found::Coming
            }
            Lookup::Absent => Found::Absent,
        }
    }

    /// Looks up what another box names. It gets only what belongs to the playlist that it follows,
    /// and only if this box has looked at that playlist at `since` or later, or at all; before that the answer
    /// is [`Found::Coming`], and the next look is brought forward. What is on its way is
    /// [`Found::Absent`] here: whether to wait for it is not the store's to say.
    pub fn find_for_sibling(
        &self,
        channel: &ChannelName,
        uri: &str,
        sequence: Option<MediaSequence>,
        playlist: &str,
        since: Option<Instant>,
    ) -> Found {
        // Held over the lookup: what a newer look expires cannot be found under it.
        let mut playlists = self.inner.playlists();
        let segment = match self.look_up(channel, uri, sequence) {
            Lookup::Ready(segment) => segment,
            Lookup::Unproven(..) => return Found::Coming,
            Lookup::Ahead => {
                self.look_ahead(channel);
                return Found::Absent;
            }
            Lookup::Coming(_) | Lookup::Unconfirmed | Lookup::Absent => return Found::Absent,
        };
        let key = (channel.clone(), segment.rendition());
        match playlists.get_mut(&key) {
            Some(followed) if followed.address != playlist => {
                if !std::mem::replace(&mut followed.told_of_another, true) {
                    log::warn!(
                        "channel {channel}: a sibling box follows {playlist:?}, this one {}: they \
                         share nothing; give both the same url",
                        followed.address
                    );
                }
                Found::Absent
            }
            Some(followed) if followed.looked.is_some_and(|looked| Some(looked) >= since) => {
                drop(playlists);
                self.open_found(channel, segment)
            }
            Some(followed) => {
                followed.awaited = true;
                self.look_ahead(channel);
                Found::Coming
            }
            None => Found::Absent,
        }
    }

    /// Looks up a name; what is not proven yet is read back next.
    fn look_up(
        &self,
        channel: &ChannelName,
        uri: &str,
        sequence: Option<MediaSequence>,
    ) -> Lookup<Arc<Segment>> {
        let now = Instant::now();
        let found = self.inner.index().find(channel, uri, sequence, now);
        self.prove(channel, &found);
        found
    }

    fn prove(&self, channel: &ChannelName, found: &Lookup<Arc<Segment>>) {
        if let Lookup::Unproven(segment, ticket) = found {
            Inner::prove(&self.inner, channel, Arc::clone(segment), *ticket, true);
        }
    }

    fn open_found(&self, channel: &ChannelName, segment: Arc<Segment>) -> Found {
        match Arc::clone(&segment).open(&self.inner.disk) {
            Ok(reader) => Found::Ready(reader),
            Err(error) => {
                self.inner.lose(channel, &segment, error);
                Found::Absent
            }
        }
    }

    fn look_ahead(&self, channel: &ChannelName) {
        if let Some(ahead) = self.inner.ahead.get(channel) {
            ahead.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// The highest number that is stored of the channel, over all renditions.
    pub fn newest(&self, channel: &ChannelName) -> Option<MediaSequence> {
        self.inner.index().newest_of_all(channel)
    }

    /// The highest number that is stored of one rendition.
    pub fn newest_of(
        &self,
        channel: &ChannelName,
        rendition: RenditionIndex,
    ) -> Option<MediaSequence> {
        self.inner.index().newest(channel, rendition)
    }

    /// Grows whenever a [`Self::find`] may answer differently.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// Grows whenever there is more to read of a segment that somebody reads while it arrives, or the rest
    /// of it will not come.
    pub fn growth(&self) -> watch::Receiver<u64> {
        self.inner.growth.subscribe()
    }

    /// What of a channel is not served because of its names, if there is such.
    pub fn ambiguous(&self, channel: &ChannelName) -> Option<Ambiguous> {
        self.inner.index().ambiguous(channel)
    }

    /// What a channel holds.
    pub fn summary(&self, channel: &ChannelName) -> Summary {
        self.inner.index().summary(channel)
    }
}
