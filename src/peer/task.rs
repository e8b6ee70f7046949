//! The loop that drives the connections of one socket, and the registry of who they are.

use std::cell::Cell;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand::Rng;
use rand::distr::Alphanumeric;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::addresses::Hosts;
use super::calls::Calls;
use super::connection::{Connection, Context, Life};
use super::directory::{Directory, Place};
use super::link::Link;
use super::others::{Others, Passed};
use super::refusals::Refusals;
use super::registry::{Entry, Registry, Slot};
use super::setup::Identity;
use super::socket::Socket;
use super::{Command, Event, Parts, PeerKey, PeerStatus};
use crate::budget::Budget;
use crate::config::PeerConfig;
use crate::ids::tame;
use crate::metrics::Metrics;
use crate::session::SessionConfig;
use crate::sibling::Siblings;
use crate::sibling::proof::Proof;
use crate::store::Store;

/// Bytes handed over to one viewer and not yet acknowledged, at most: 10 ms of 200 Mbit/s, which is
/// more than a viewer on Wi-Fi has. Most have far less (`session::window`).
const WINDOW: usize = 256 * 1024;

/// Longest offer that is looked at. Browsers write some 700 bytes for a data channel; with many
/// candidates a few KiB.
const MAX_OFFER: usize = 32 * 1024;

/// How long an offer may take to become an open channel. Trickled candidates and a prompt of the
/// browser (field.md item 3) take seconds; after this the place is for somebody else.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// Reads before anything is driven, so that one busy viewer cannot keep the others waiting.
const READS_PER_ROUND: usize = 4;

/// How far behind the others a viewer comes whose segment is late: further than any deadline is away.
const BEHIND_OTHERS: Duration = Duration::from_secs(60);

/// Length of our ICE username fragment: RFC 8839 section 5.4 asks for at least 4 characters and 24
/// random bits; 12 of 62 letters cannot be guessed by who has not seen the answer.
const UFRAG_LEN: usize = 12;

/// RFC 8839 section 5.4: at least 22 characters and 128 random bits.
const PASSWORD_LEN: usize = 24;

/// Why a viewer is given up of whom nothing was ever heard.
const NEVER_REACHED: &str = "it never reached us: does its browser allow local network access?";

/// How often a task that has nothing to send any more looks whether the others have.
const STOPPING: Duration = Duration::from_millis(20);

/// Why a connection is replaced.
const OFFERED_ANEW: &str = "it made a new offer";

/// The credentials of a connection, ours alone.
pub(super) struct Credentials {
    pub(super) ufrag: String,
    password: String,
}

/// Who has something to do.
pub(super) type Dirty = BTreeSet<Slot>;

/// What all tasks share.
#[derive(Clone)]
pub(super) struct Shared {
    config: PeerConfig,
    store: Store,
    budget: Budget,
    metrics: Arc<Metrics>,
    siblings: Siblings,
    directory: Arc<Directory>,
    under_way: Arc<AtomicUsize>,
}

pub(super) struct Task {
    pub(super) context: Context,
    config: PeerConfig,
    pub(super) directory: Arc<Directory>,
    pub(super) calls: Calls,
    socket: Socket,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Event>,
    pub(super) others: Others,
    pub(super) registry: Registry,
    timers: BTreeSet<(Instant, Slot)>,
    /// Viewers who wait to be heard ([`Directory`]), and until when they may.
    waiting: VecDeque<(Instant, String)>,
    link: Link,
    /// Whom something can be sent, the most urgent first.
    turns: BTreeSet<(Instant, Slot)>,
    pub(super) stopping: bool,
    refusals: Refusals,
}

impl Shared {
    pub(super) fn new(parts: &Parts) -> Self {
        Self {
            directory: Arc::new(Directory::new(
                parts.config.max_peers,
                Arc::clone(&parts.metrics),
            )),
            under_way: Arc::default(),
            config: parts.config.clone(),
            store: parts.store.clone(),
            budget: parts.budget.clone(),
            metrics: Arc::clone(&parts.metrics),
            siblings: parts.siblings.clone(),
        }
    }
}

impl Task {
    pub(super) fn new(
        shared: Shared,
        calls: Calls,
        socket: Socket,
        commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<Event>,
        others: Others,
    ) -> Self {
        let session = SessionConfig {
            request_hold: shared.config.request_hold,
            packet_size: shared.config.packet_size,
            window: WINDOW.min(shared.budget.total()),
        };
        Self {
            context: Context {
                store: shared.store,
                budget: shared.budget,
                metrics: shared.metrics,
                siblings: shared.siblings,
                session,
                under_way: shared.under_way,
                crowd: Cell::new(None),
            },
            link: Link::new(Instant::now(), shared.config.max_upload),
            turns: BTreeSet::new(),
            calls,
            config: shared.config,
            directory: shared.directory,
            socket,
            commands,
            events,
            others,
            registry: Registry::default(),
            timers: BTreeSet::new(),
            waiting: VecDeque::new(),
            stopping: false,
            refusals: Refusals::default(),
        }
    }

    /// Runs until `stop`, and then until everything under way is sent or `stop-timeout` is over.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut changes = self.context.store.changes();
        let mut growth = self.context.store.growth();
        let mut dirty = Dirty::new();
        let mut give_up_at: Option<Instant> = None;
        loop {
            let due = self.timers.first().map(|(due, _)| *due);
            let opens = self.link.opens_at(Instant::now());
            let opens = opens.filter(|_| !self.turns.is_empty());
            let waiting = self.waiting.front().map(|(until, _)| *until);
            let look = self.stopping.then(|| Instant::now() + STOPPING);
            let due = [
                due,
                give_up_at,
                self.calls.next_timeout(),
                opens,
                waiting,
                look,
            ];
            let idle = || Instant::now() + Duration::from_secs(3600);
            let wake = due.into_iter().flatten().min().unwrap_or_else(idle);
            let (mut has_changed, mut has_grown) = (false, false);
            // In this order: a stop is heard at once, then new viewers, then what there is to
            // read, since acknowledgements make room for sending; timers are late rather than
            // datagrams lost.
            tokio::select! {
                biased;
                () = stop.cancelled(), if !self.stopping => {
                    give_up_at = Some(Instant::now() + self.config.stop_timeout);
                    self.begin_stop(&mut dirty);
                }
                Some(command) = self.commands.recv() => {
                    self.command(command, &mut dirty);
                    // However many commands there are, the viewers are heard in between.
                    self.read(&mut dirty);
                }
                Some(passed) = self.others.passed() => {
                    self.take_passed(passed, &mut dirty);
                    self.read(&mut dirty);
                }
                Some(ask) = self.calls.asked() => self.ask(ask, &mut dirty),
                readable = self.socket.readable() => {
                    if let Err(error) = readable {
                        log::error!("the viewers' socket is broken: {error}");
                        return;
                    }
                    self.read(&mut dirty);
                }
                Ok(()) = self.socket.writable(), if self.socket.is_blocked() => {}
                Ok(()) = changes.changed() => has_changed = true,
                Ok(()) = growth.changed() => has_grown = true,
                () = tokio::time::sleep_until(wake.into()) => {}
            }
            let now = Instant::now();
            // In every turn: however much there is to read, who waits for a segment hears of it.
            if has_changed || changes.has_changed().unwrap_or(false) {
                changes.mark_unchanged();
                self.store_changed(now, &mut dirty);
            }
            if has_grown || growth.has_changed().unwrap_or(false) {
                growth.mark_unchanged();
                self.store_grown(now, &mut dirty);
            }
            self.fire_timers(now, &mut dirty);
            self.give_up_waiting(now);
            self.call_again(now, &mut dirty);
            let registry = &self.registry;
            self.context
                .crowd
                .set(self.link.crowd(now, || registry.promised()));
            self.drive(now, &mut dirty);
            self.send(now);
            if self.stopping {
                // A socket that is closed has the kernel deal all viewers out anew.
                let of_others = self.context.under_way.load(Ordering::Relaxed) > 0;
                if !(of_others || self.is_sending()) || give_up_at.is_some_and(|end| now >= end) {
                    self.close_all(now);
                    return;
                }
            }
        }
    }

    fn store_changed(&mut self, now: Instant, dirty: &mut Dirty) {
        for (slot, entry) in self.registry.entries_mut() {
            entry.connection.store_changed(now, &self.context);
            dirty.insert(slot);
        }
    }

    fn store_grown(&mut self, now: Instant, dirty: &mut Dirty) {
        for (slot, entry) in self.registry.entries_mut() {
            if entry.connection.grown(now, &self.context) {
                dirty.insert(slot);
            }
        }
    }

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
            Command::Drop { key } => match self.directory.strike(&key) {
                Some((ufrag, Place::At(index))) if index == self.others.own() => {
                    self.dropped(&ufrag, dirty);
                }
                Some((ufrag, Place::At(index))) => {
                    // Should that be more than it can take, the peer leaves by itself.
                    let _ = self.others.pass(index, Passed::Dropped(ufrag));
                }
                Some((_, Place::Waiting(_))) | None => {}
            },
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

    /// A peer of ours has made a new offer.
    pub(super) fn replaced(&mut self, ufrag: &str) {
        if let Some(slot) = self.registry.slot_named(ufrag) {
            self.remove(slot, OFFERED_ANEW);
        }
    }

    /// The signalling server wants a peer of ours dropped.
    pub(super) fn dropped(&mut self, ufrag: &str, dirty: &mut Dirty) {
        if let Some(slot) = self.registry.slot_named(ufrag)
            && let Some(entry) = self.registry.get_mut(slot)
        {
            entry.connection.close();
            dirty.insert(slot);
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
        match self.directory.strike(&key) {
            Some((ufrag, Place::At(index))) if index == self.others.own() => {
                self.replaced(&ufrag);
            }
            Some((ufrag, Place::At(index))) => {
                // Should that be more than it can take, the old connection ends by its own timers.
                let _ = self.others.pass(index, Passed::Replaced(ufrag));
            }
            Some((_, Place::Waiting(_))) | None => {}
        }
        let refused = match sdp.len() {
            len if len > MAX_OFFER => Some(format!("its offer has {len} bytes")),
            _ => self.no_place(),
        };
        if let Some(reason) = refused {
            self.tell_refusal(&key, &reason);
            return self.report(Event::Failed { key });
        }
        let now = Instant::now();
        let credentials = Credentials::random();
        let answered = self.with_identity(&credentials, |identity, context| {
            Connection::answer(now, key.clone(), identity, sdp, sibling.clone(), context)
        });
        match answered {
            Ok((connection, answer)) => {
                let entry = Entry::new(key.clone(), credentials.ufrag, connection, false);
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
                self.tell_refusal(&key, &format!("its offer cannot be used: {error}"));
                self.report(Event::Failed { key });
            }
        }
    }

    fn tell_refusal(&mut self, key: &PeerKey, why: &str) {
        match self.refusals.tell(Instant::now(), key, why) {
            Some(line) => log::warn!("{line}"),
            None => log::debug!("{key}: refused: {}", tame(why)),
        }
    }

    /// Why there is no place for another peer, if there is none.
    pub(super) fn no_place(&self) -> Option<String> {
        if self.stopping {
            return Some("the box stops".to_owned());
        }
        let peers = self.directory.is_full()?;
        Some(format!(
            "the box has {peers} peers already ([peer] max-peers)"
        ))
    }

    pub(super) fn with_identity<T>(
        &self,
        credentials: &Credentials,
        build: impl FnOnce(Identity<'_>, &Context) -> T,
    ) -> T {
        let hosts = Hosts::now(self.socket.port());
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
        while let Some((until, _)) = self.waiting.front()
            && (*until <= now || self.stopping)
        {
            let Some((_, ufrag)) = self.waiting.pop_front() else {
                return;
            };
            if let Some(entry) = self.directory.give_up(&ufrag)
                && !self.stopping
            {
                self.context.metrics.peers_unreached.add(1);
                log::info!("{}: viewer left: {NEVER_REACHED}", entry.key);
            }
        }
    }

    /// Takes in a peer that the directory has at this task.
    pub(super) fn admit(&mut self, entry: Box<Entry>, dirty: &mut Dirty) -> Slot {
        let due = entry.due;
        let slot = self.registry.admit(entry);
        self.timers.insert((due, slot));
        dirty.insert(slot);
        slot
    }

    fn read(&mut self, dirty: &mut Dirty) {
        let now = Instant::now();
        for _ in 0..READS_PER_ROUND {
            let registry = &mut self.registry;
            let mut unknown = Vec::new();
            let more = self
                .socket
                .read(|datagram| match registry.deliver(now, datagram) {
                    Ok(slot) => drop(dirty.insert(slot)),
                    Err(datagram) => unknown.push(datagram),
                });
            for unknown in unknown {
                self.hear_unknown(now, unknown, dirty);
            }
            if !more {
                return;
            }
        }
    }

    fn fire_timers(&mut self, now: Instant, dirty: &mut Dirty) {
        while let Some((due, slot)) = self.timers.first().copied()
            && due <= now
        {
            self.timers.pop_first();
            if let Some(entry) = self.registry.get_mut(slot) {
                entry.connection.timeout(now);
                dirty.insert(slot);
            }
        }
    }

    /// Drives everybody who has something to do.
    fn drive(&mut self, now: Instant, dirty: &mut Dirty) {
        while let Some(slot) = dirty.pop_first() {
            let Some(entry) = self.registry.get_mut(slot) else {
                continue;
            };
            let connection = &mut entry.connection;
            let life = connection.drive(now, &mut self.socket, &self.context);
            self.driven(now, slot, life, dirty);
            // Little by little costs both ends more: what there is to say goes with what is sent next.
            if self.socket.is_filled() {
                self.flush(now);
            }
        }
    }

    /// Sends segments, packet by packet, as long as the link takes them: to whoever is closest to its
    /// deadline first.
    fn send(&mut self, now: Instant) {
        let mut dirty = Dirty::new();
        while self.link.is_open(now)
            && let Some((_, slot)) = self.turns.pop_first()
        {
            let Some(entry) = self.registry.get_mut(slot) else {
                continue;
            };
            entry.turn = None;
            let life = entry.connection.send(now, &mut self.socket, &self.context);
            self.driven(now, slot, life, &mut dirty);
            self.flush(now);
        }
        self.flush(now);
    }

    fn flush(&mut self, now: Instant) {
        let sent = self.socket.flush();
        self.link.sent(now, sent);
        self.link.blocked(self.socket.is_blocked());
    }

    /// Sees to a connection after it was driven: when it wants to be looked at again, whether
    /// something can be sent to it, whether it is over.
    fn driven(&mut self, now: Instant, slot: Slot, life: Life, dirty: &mut Dirty) {
        let Some(entry) = self.registry.get_mut(slot) else {
            return;
        };
        let connection = &mut entry.connection;
        let connect_by = connection.created() + CONNECT_TIMEOUT;
        let mut life = life;
        if life == Life::Open && !connection.is_open() && now >= connect_by {
            life = if connection.is_reached() || entry.called {
                Life::Over("its channel did not open in time")
            } else {
                self.context.metrics.peers_unreached.add(1);
                Life::Over(NEVER_REACHED)
            };
        }
        if let Life::Over(why) = life {
            connection.close();
            connection.drive(now, &mut self.socket, &self.context);
            return self.remove(slot, why);
        }
        let mut due = connection.next_timeout().unwrap_or(connect_by);
        if !connection.is_open() {
            due = due.min(connect_by);
        }
        // A timer of the past would spin; 1 ms is below what any of them means.
        let due = due.max(now + Duration::from_millis(1));
        self.timers.remove(&(entry.due, slot));
        entry.due = due;
        self.timers.insert((due, slot));
        // Who is late already is not saved by making others late.
        let turn = connection.deadline().map(|deadline| match deadline > now {
            true => deadline,
            false => deadline + BEHIND_OTHERS,
        });
        if entry.turn != turn {
            if let Some(before) = std::mem::replace(&mut entry.turn, turn) {
                self.turns.remove(&(before, slot));
            }
            self.turns.extend(turn.map(|turn| (turn, slot)));
        }
        if connection.is_open() && !entry.announced {
            entry.announced = true;
            self.channel_opened(slot, dirty);
        }
    }

    /// Takes a peer out of everything that it is known by here.
    pub(super) fn take_out(&mut self, slot: Slot) -> Option<Box<Entry>> {
        let mut entry = self.registry.remove(slot)?;
        self.timers.remove(&(entry.due, slot));
        if let Some(turn) = entry.turn.take() {
            self.turns.remove(&(turn, slot));
        }
        Some(entry)
    }

    fn remove(&mut self, slot: Slot, why: &str) {
        let Some(entry) = self.take_out(slot) else {
            return;
        };
        match entry.connection.sibling() {
            Some(sibling) => log::info!("{}: sibling box {sibling} left: {why}", entry.key),
            // As often as anybody likes.
            None if why == OFFERED_ANEW => log::debug!("{}: {why}", entry.key),
            None => log::info!("{}: viewer left: {why}", entry.key),
        }
        self.directory.left(&entry.ufrag);
        self.channel_closed(&entry);
    }

    fn is_sending(&mut self) -> bool {
        let mut entries = self.registry.entries_mut();
        entries.any(|(_, entry)| entry.connection.is_sending())
    }

    fn begin_stop(&mut self, dirty: &mut Dirty) {
        self.stopping = true;
        let now = Instant::now();
        for (slot, entry) in self.registry.entries_mut() {
            entry.connection.stop(now, &self.context);
            dirty.insert(slot);
        }
    }

    fn close_all(&mut self, now: Instant) {
        for (_, entry) in self.registry.entries_mut() {
            let connection = &mut entry.connection;
            connection.close();
            connection.drive(now, &mut self.socket, &self.context);
            self.directory.left(&entry.ufrag);
        }
        self.socket.flush();
        self.registry.clear();
    }

    /// Reports to signalling. When its queue is full, so many viewers have arrived at once that
    /// this one is better served by the origin.
    pub(super) fn report(&mut self, event: Event) {
        if let Err(error) = self.events.try_send(event) {
            log::warn!("signalling does not keep up, a viewer goes unanswered: {error}");
        }
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
