//! Sibling boxes: who proves to be one, whom this box calls, and what is asked of them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::connection::Connection;
use super::offers::Credentials;
use super::registry::{Entry, Slot};
use super::task::{CONNECT_TIMEOUT, Dirty, Task};
use super::{Event, PeerKey};
use crate::config::PeerConfig;
use crate::ids::{BoxId, ChannelId, ChannelName, tame};
use crate::sibling::proof::{Proof, Secret, Subject};
use crate::sibling::{Ask, Part};

/// Calls without an answer at a time: a few siblings in each of a few channels. A server that has
/// this box call every viewer is told that it failed.
const MAX_CALLS: usize = 16;

/// How long after a sibling was lost it is called again: ICE has just found it gone, so the network
/// may be away for another while.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// How often it is called; each call is given up after 15 s, so for about two minutes. One that was
/// restarted has another id, under which the server introduces it.
const TRIES: u8 = 5;

pub(super) struct Calls {
    secret: Option<Secret>,
    own: BoxId,
    channel_ids: HashMap<ChannelName, ChannelId>,
    asks: mpsc::Receiver<Ask>,
    told_of_bad_proof: AtomicBool,
    /// Siblings that this box called and lost, to be called again.
    lost: Vec<LostSibling>,
}

struct LostSibling {
    key: PeerKey,
    again_at: Instant,
    tries_left: u8,
}

impl Calls {
    pub(super) fn new(
        config: &PeerConfig,
        own: BoxId,
        channel_ids: HashMap<ChannelName, ChannelId>,
        asks: mpsc::Receiver<Ask>,
    ) -> Self {
        Self {
            secret: config.sibling_secret.clone(),
            own,
            channel_ids,
            asks,
            told_of_bad_proof: AtomicBool::new(false),
            lost: Vec::new(),
        }
    }

    /// Of a task that has nothing to do with siblings.
    pub(super) fn none(own: BoxId) -> Self {
        Self {
            secret: None,
            own,
            channel_ids: HashMap::new(),
            asks: mpsc::channel(1).1,
            told_of_bad_proof: AtomicBool::new(false),
            lost: Vec::new(),
        }
    }

    /// The next question to a sibling.
    pub(super) async fn asked(&mut self) -> Option<Ask> {
        self.asks.recv().await
    }

    /// The box that made this offer, if it proves to be one of this operator.
    pub(super) fn sibling_who_offers(
        &self,
        key: &PeerKey,
        offer: &str,
        proof: Option<Proof>,
    ) -> Option<BoxId> {
        self.proved(key, proof?, Subject::Offer { offer })
    }

    /// When the next lost sibling is to be called again.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.lost.iter().map(|lost| lost.again_at).min()
    }

    /// Its channel broke, as when the network was away for longer than ICE bears. Not every server
    /// introduces two peers a second time.
    fn has_lost(&mut self, now: Instant, key: PeerKey) {
        self.lost.retain(|lost| lost.key != key);
        if self.lost.len() < MAX_CALLS {
            self.lost.push(LostSibling {
                key,
                again_at: now + AGAIN_AFTER,
                tries_left: TRIES,
            });
        }
    }

    fn proved(&self, key: &PeerKey, proof: Proof, subject: Subject<'_>) -> Option<BoxId> {
        let secret = self.secret.as_ref()?;
        if secret.accepts(self.channel_ids.get(&key.channel)?, &proof, subject) {
            // A server that shows this box to itself finds no sibling.
            return Some(proof.id).filter(|id| *id != self.own);
        }
        // Anybody can have this said; once is enough.
        if !self.told_of_bad_proof.swap(true, Ordering::Relaxed) {
            log::warn!(
                "{key}: a box with another [peer] sibling-secret, or a forgery: not asked for \
                 segments; further ones go unmentioned"
            );
        }
        None
    }
}

impl Task {
    /// Calls a peer that the signalling server takes for a parent of ours.
    pub(super) fn call(&mut self, key: PeerKey, dirty: &mut Dirty) {
        if self.directory.has(&key) {
            // It has called, or was called, already.
            return;
        }
        let calls = self.registry.entries();
        let calls = calls.filter(|entry| entry.connection.offered().is_some());
        let refused = match calls.count() {
            _ if self.calls.secret.is_none() => {
                Some("there is no [peer] sibling-secret, so it is no sibling".to_owned())
            }
            MAX_CALLS.. => Some(format!("{MAX_CALLS} calls are unanswered")),
            _ => self.no_place(Instant::now()),
        };
        if let Some(reason) = refused {
            log::debug!("{key}: not called: {reason}");
            return self.report(Event::Failed { key });
        }
        let now = Instant::now();
        let credentials = Credentials::random();
        let port = match self.socket.open_line() {
            Ok(port) => port,
            Err(error) => {
                log::error!("{key}: not called: there is no port for it: {error}");
                return self.report(Event::Failed { key });
            }
        };
        let called = self.with_identity(port, &credentials, |identity, context| {
            Connection::call(now, key.clone(), identity, context)
        });
        let (connection, sdp) = match called {
            Ok(called) => called,
            Err(error) => {
                log::error!("{key}: not called: no offer could be made: {error}");
                self.socket.close_line(port);
                return self.report(Event::Failed { key });
            }
        };
        let Some(proof) = self.prove(&key, Subject::Offer { offer: &sdp }) else {
            return self.socket.close_line(port);
        };
        let entry = Entry::new(key.clone(), credentials.ufrag, connection, Some(port));
        self.enter(entry, dirty);
        self.report(Event::Offer { key, sdp, proof });
    }

    /// Calls the siblings whose time has come.
    pub(super) fn call_again(&mut self, now: Instant, dirty: &mut Dirty) {
        if self.stopping {
            return self.calls.lost.clear();
        }
        let mut due = Vec::new();
        self.calls.lost.retain_mut(|lost| {
            if now >= lost.again_at {
                due.push(lost.key.clone());
                lost.tries_left -= 1;
                lost.again_at = now + AGAIN_AFTER + CONNECT_TIMEOUT;
            }
            lost.tries_left > 0
        });
        for key in due {
            self.call(key, dirty);
        }
    }

    /// Takes the answer to a call. Who does not prove to be a sibling is not wanted: the connection
    /// is closed, and the server told.
    pub(super) fn answered(
        &mut self,
        key: &PeerKey,
        sdp: &str,
        proof: Option<Proof>,
        dirty: &mut Dirty,
    ) {
        let Some((slot, offer)) = self.registry.entry_of(key).and_then(|(slot, entry)| {
            let offer = entry.connection.offered()?.to_owned();
            Some((slot, offer))
        }) else {
            return log::debug!("{key}: an answer that nobody waits for");
        };
        let subject = Subject::Answer {
            offer: &offer,
            answer: sdp,
        };
        let sibling = proof.and_then(|proof| self.calls.proved(key, proof, subject));
        let Some(entry) = self.registry.get_mut(slot) else {
            return;
        };
        dirty.insert(slot);
        let Some(sibling) = sibling else {
            log::debug!("{key}: is no sibling box");
            return entry.connection.close();
        };
        if let Err(error) = entry.connection.answered(Instant::now(), sibling, sdp) {
            log::warn!(
                "{key}: the answer of a sibling box cannot be used: {}",
                tame(&error.to_string())
            );
            entry.connection.close();
        }
    }

    /// The proof that an answer comes from this box.
    pub(super) fn prove_answer(&self, key: &PeerKey, offer: &str, answer: &str) -> Option<Proof> {
        self.prove(key, Subject::Answer { offer, answer })
    }

    fn prove(&self, key: &PeerKey, subject: Subject<'_>) -> Option<Proof> {
        let secret = self.calls.secret.as_ref()?;
        let channel = self.calls.channel_ids.get(&key.channel)?;
        Some(secret.prove(channel, self.context.siblings.own(), subject))
    }

    /// Passes a question to the sibling that it is for.
    pub(super) fn ask(&mut self, ask: Ask, dirty: &mut Dirty) {
        let (now, context) = (Instant::now(), &self.context);
        let asked = self.registry.entries_mut().find(|(_, entry)| {
            entry.announced
                && entry.key.channel == ask.channel
                && entry.connection.sibling() == Some(&ask.to)
        });
        match asked {
            Some((slot, entry)) => {
                entry.connection.ask(now, ask, context);
                dirty.insert(slot);
            }
            None => {
                // It has just gone. Whoever asked may have, too.
                let _ = ask.answer.try_send(Part::Failed("it is gone"));
            }
        }
    }

    /// A data channel has opened.
    pub(super) fn channel_opened(&mut self, slot: Slot, dirty: &mut Dirty) {
        let Some(entry) = self.registry.get_mut(slot) else {
            return;
        };
        let (key, called) = (entry.key.clone(), entry.called.is_some());
        if let Some(sibling) = entry.connection.sibling().cloned() {
            log::info!("{key}: sibling box {sibling}: each segment is fetched once for both");
            self.context.siblings.opened(&key.channel, &sibling);
            self.calls.lost.retain(|lost| lost.key != key);
            // A box that has entered again is met again: one channel to it is enough.
            for (other, entry) in self.registry.entries_mut() {
                let same = entry.key.channel == key.channel
                    && entry.connection.sibling() == Some(&sibling);
                if same && entry.announced && other < slot {
                    entry.connection.close();
                    dirty.insert(other);
                }
            }
        }
        if called {
            self.report(Event::Opened { key });
        }
    }

    /// A connection has ended.
    pub(super) fn channel_closed(&mut self, entry: &Entry) {
        let key = entry.key.clone();
        if entry.announced
            && let Some(sibling) = entry.connection.sibling().cloned()
        {
            self.context.siblings.closed(&key.channel, &sibling);
            if entry.called.is_some() && !self.context.siblings.is_open(&key.channel, &sibling) {
                self.calls.has_lost(Instant::now(), key.clone());
            }
        }
        if let Some(port) = entry.called {
            self.socket.close_line(port);
            self.report(match entry.announced {
                true => Event::Closed { key },
                false => Event::Failed { key },
            });
        }
    }
}
