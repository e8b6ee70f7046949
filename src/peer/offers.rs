//! What signalling says of viewers: their offers, and that they are to be let go.

use std::time::{Duration, Instant};

use rand::Rng;
use rand::distr::Alphanumeric;
use tokio::sync::{mpsc, oneshot};

use super::addresses::Hosts;
use super::connection::{Connection, Context};
use super::directory::Place;
use super::others::Passed;
use super::registry::Entry;
use super::setup::Identity;
use super::task::{CONNECT_TIMEOUT, Dirty, NEVER_REACHED, Task};
use super::told::Topic;
use super::{Command, Event, PeerKey, PeerStatus};
use crate::sibling::proof::Proof;

/// Longest offer that is looked at. Browsers write some 700 bytes for a data channel; with many
/// candidates a few KiB.
const MAX_OFFER: usize = 32 * 1024;

/// Length of our ICE username fragment: RFC 8839 section 5.4 asks for at least 4 characters and 24
/// random bits; 12 of 62 letters cannot be guessed by who has not seen the answer.
const UFRAG_LEN: usize = 12;

/// RFC 8839 section 5.4: at least 22 characters and 128 random bits.
const PASSWORD_LEN: usize = 24;

/// How long a viewer keeps its place, when all are taken, though nothing was heard of it: a check takes some
/// ms through the LAN, and longer only if the browser asks first.
const HEARD_WITHIN: Duration = Duration::from_millis(500);

/// Why a connection is replaced.
pub(super) const OFFERED_ANEW: &str = "it made a new offer";

/// Why a peer is let go.
#[derive(Clone, Copy)]
pub(super) enum LetGo {
    /// It has made a new offer.
    OfferedAnew,
    /// The signalling server wants it dropped.
    Dropped,
}

/// The credentials of a connection, ours alone.
pub(super) struct Credentials {
    pub(super) ufrag: String,
    password: String,
}

impl Task {
    pub(super) fn command(&mut self, command: Command, dirty: &mut Dirty) {
        match command {
            Command::Offer { key, sdp, proof } => self.offer(key, &sdp, proof, dirty),
            Command::Call { key } => self.call(key, dirty),
            Command::Answer { key, sdp, proof } => self.answered(&key, &sdp, proof, dirty),
            Command::Candidate { key, candidate } => {
                if let Some((slot, entry)) = self.registry.entry_of(&key) {
                    entry.connection.candidate(&candidate);
                    dirty.insert(slot);
                }
            }
            Command::Drop { key } => self.strike(&key, LetGo::Dropped, dirty),
            Command::List(reply) => self.list_all(reply),
        }
    }

    /// Says who is there, with all tasks, as soon as all of them have said it.
    fn list_all(&self, reply: oneshot::Sender<Vec<PeerStatus>>) {
        let now = Instant::now();
        let (parts, mut listed) = mpsc::channel(self.others.count());
        self.others.list(&parts);
        let mut all = self.list(now);
        all.extend(self.directory.waiting(|entry| entry.connection.status(now)));
        drop(parts);
        tokio::spawn(async move {
            while let Some(part) = listed.recv().await {
                all.extend(part);
            }
            all.sort_by(|a, b| (&a.channel, &a.id).cmp(&(&b.channel, &b.id)));
            // Whoever asked may have gone in the meantime.
            let _ = reply.send(all);
        });
    }

    pub(super) fn list(&self, now: Instant) -> Vec<PeerStatus> {
        let entries = self.registry.entries();
        entries.map(|entry| entry.connection.status(now)).collect()
    }

    /// Strikes out whoever has this key, and has it let go wherever it is.
    fn strike(&mut self, key: &PeerKey, why: LetGo, dirty: &mut Dirty) {
        match self.directory.strike(key) {
            Some((ufrag, Place::At(index))) if index == self.others.own() => {
                self.let_go(&ufrag, why, dirty);
            }
            Some((ufrag, Place::At(index))) => {
                // One that has ended has let everybody go.
                let _ = self.others.pass(index, Passed::LetGo(ufrag, why));
            }
            Some((_, Place::Waiting(_))) | None => {}
        }
    }

    /// Lets the peer of this name go, if it is here.
    pub(super) fn let_go(&mut self, ufrag: &str, why: LetGo, dirty: &mut Dirty) {
        let Some(slot) = self.registry.slot_named(ufrag) else {
            return;
        };
        match why {
            LetGo::OfferedAnew => self.remove(slot, OFFERED_ANEW),
            LetGo::Dropped => {
                if let Some(entry) = self.registry.get_mut(slot) {
                    entry.connection.close();
                    dirty.insert(slot);
                }
            }
        }
    }

    fn offer(&mut self, key: PeerKey, sdp: &str, proof: Option<Proof>, dirty: &mut Dirty) {
        let sibling = self.calls.sibling_who_offers(&key, sdp, proof);
        if let Some((_, entry)) = self.registry.entry_of(&key) {
            let calling = entry.connection.offered().is_some();
            let own = self.context.siblings.own();
            if calling && sibling.as_ref().is_some_and(|sibling| sibling < own) {
                // Both call at once: the call of the greater one stands.
                return;
            }
        }
        self.strike(&key, LetGo::OfferedAnew, dirty);
        let now = Instant::now();
        let refused = match sdp.len() {
            len if len > MAX_OFFER => Some((Topic::Unusable, format!("its offer has {len} bytes"))),
            _ => self.no_place(now).map(|why| (Topic::Full, why)),
        };
        if let Some((topic, reason)) = refused {
            self.tell(topic, &key, &format!("refused: {reason}"));
            return self.report(Event::Failed { key });
        }
        let credentials = Credentials::random();
        let answered = self.with_identity(self.socket.port(), &credentials, |identity, context| {
            Connection::answer(now, key.clone(), identity, sdp, sibling.clone(), context)
        });
        match answered {
            Ok((connection, answer)) => {
                let entry = Entry::new(key.clone(), credentials.ufrag, connection, None);
                match sibling {
                    Some(_) => self.enter(entry, dirty),
                    None => self.let_wait(now, entry),
                }
                let proof = sibling.and_then(|_| self.prove_answer(&key, sdp, &answer));
                self.report(Event::Answer {
                    key,
                    sdp: answer,
                    proof,
                });
            }
            Err(error) => {
                let what = format!("refused: its offer cannot be used: {error}");
                self.tell(Topic::Unusable, &key, &what);
                self.report(Event::Failed { key });
            }
        }
    }

    pub(super) fn tell(&mut self, topic: Topic, key: &PeerKey, what: &str) {
        self.told.tell(Instant::now(), topic, key, what);
    }

    /// Why there is no place for another peer, if there is none. One of whom nothing was heard gives
    /// way: anybody can make offers, and take all places with them.
    pub(super) fn no_place(&mut self, now: Instant) -> Option<String> {
        if self.stopping {
            return Some("the box stops".to_owned());
        }
        let silent = now + (CONNECT_TIMEOUT - HEARD_WITHIN);
        while self.directory.is_full().is_some() && self.give_up_first(silent) {}
        let peers = self.directory.is_full()?;
        Some(format!(
            "the box has {peers} peers already ([peer] max-peers)"
        ))
    }

    pub(super) fn with_identity<T>(
        &self,
        port: u16,
        credentials: &Credentials,
        build: impl FnOnce(Identity<'_>, &Context) -> T,
    ) -> T {
        let hosts = Hosts::now(port);
        let identity = Identity {
            credentials: (&credentials.ufrag, &credentials.password),
            hosts: &hosts,
        };
        build(identity, &self.context)
    }

    /// Takes in a peer that stays with this task, whoever hears it.
    pub(super) fn enter(&mut self, entry: Box<Entry>, dirty: &mut Dirty) {
        let (key, ufrag) = (entry.key.clone(), entry.ufrag.clone());
        let place = Place::At(self.others.own());
        self.directory.enter(key, ufrag, place);
        self.admit(entry, dirty);
    }

    /// Has a viewer wait for the task that will hear it.
    fn let_wait(&mut self, now: Instant, entry: Box<Entry>) {
        let (key, ufrag) = (entry.key.clone(), entry.ufrag.clone());
        self.waiting
            .push_back((now + CONNECT_TIMEOUT, ufrag.clone()));
        self.directory.enter(key, ufrag, Place::Waiting(entry));
    }

    /// Gives up viewers who have waited in vain.
    pub(super) fn give_up_waiting(&mut self, now: Instant) {
        if self.stopping {
            for (_, ufrag) in self.waiting.drain(..) {
                self.directory.give_up(&ufrag);
            }
        }
        while self.give_up_first(now) {}
    }

    /// Gives up the viewer who has waited longest, if its time is over by `then`.
    fn give_up_first(&mut self, then: Instant) -> bool {
        let over = self
            .waiting
            .front()
            .is_some_and(|(until, _)| *until <= then);
        let Some((_, ufrag)) = over.then(|| self.waiting.pop_front()).flatten() else {
            return false;
        };
        if let Some(entry) = self.directory.give_up(&ufrag) {
            self.context.metrics.peers_unreached.add(1);
            let what = format!("viewer left: {NEVER_REACHED}");
            self.tell(Topic::Left, &entry.key, &what);
        }
        true
    }
}

impl Credentials {
    pub(super) fn random() -> Self {
        Self {
            ufrag: random_text(UFRAG_LEN),
            password: random_text(PASSWORD_LEN),
        }
    }
}

fn random_text(len: usize) -> String {
    rand::rng()
        .sample_iter(Alphanumeric)
        .take(len)
        .map(char::from)
        .collect()
}
