//! The loop that drives the connections of one socket, and the registry of who they are.

use std::cell::Cell;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::calls::Calls;
use super::connection::{Context, Life};
use super::directory::Directory;
use super::link::Link;
use super::offers::OFFERED_ANEW;
use super::others::Others;
use super::registry::{Entry, Registry, Slot};
use super::socket::Socket;
use super::told::{Told, Topic};
use super::{Command, Event, Parts};
use crate::budget::Budget;
use crate::config::PeerConfig;
use crate::metrics::Metrics;
use crate::session::SessionConfig;
use crate::sibling::Siblings;
use crate::store::Store;

/// Bytes handed over to one viewer and not yet acknowledged, at most: 10 ms of 200 Mbit/s, which is
/// more than a viewer on Wi-Fi has. Most have far less (`session::window`).
const WINDOW: usize = 256 * 1024;

/// How long an offer may take to become an open channel. Trickled candidates and a prompt of the
/// browser (field.md item 3) take seconds; after this the place is for somebody else.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// Reads before anything is driven, so that one busy viewer cannot keep the others waiting.
const READS_PER_ROUND: usize = 4;

/// How far behind the others a viewer comes whose segment is late: further than any deadline is away.
const BEHIND_OTHERS: Duration = Duration::from_secs(60);

/// Why a viewer is given up of whom nothing was ever heard.
pub(super) const NEVER_REACHED: &str =
    "it never reached us: does its browser allow local network access?";

/// How often a task that has nothing to send any more looks whether the others have.
const STOPPING: Duration = Duration::from_millis(20);

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
    /// Tasks that have nothing more to send, of those that stop.
    quiet: Arc<AtomicUsize>,
}

pub(super) struct Task {
    pub(super) context: Context,
    pub(super) config: PeerConfig,
    pub(super) directory: Arc<Directory>,
    pub(super) calls: Calls,
    pub(super) socket: Socket,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Event>,
    pub(super) others: Others,
    pub(super) registry: Registry,
    timers: BTreeSet<(Instant, Slot)>,
    /// Viewers who wait to be heard ([`Directory`]), and until when they may.
    pub(super) waiting: VecDeque<(Instant, String)>,
    link: Link,
    /// Whom something can be sent, the most urgent first.
    turns: BTreeSet<(Instant, Slot)>,
    pub(super) stopping: bool,
    quiet: Arc<AtomicUsize>,
    is_quiet: bool,
    pub(super) told: Told,
}

impl Shared {
    pub(super) fn new(parts: &Parts) -> Self {
        Self {
            directory: Arc::new(Directory::new(
                parts.config.max_peers,
                Arc::clone(&parts.metrics),
            )),
            under_way: Arc::default(),
            quiet: Arc::default(),
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
            quiet: shared.quiet,
            is_quiet: false,
            told: Told::default(),
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
            self.take_more_passed(&mut dirty);
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
                // Together: a socket that is closed has the kernel deal all viewers out anew.
                let all_quiet = self.count_quiet() == self.others.count();
                if all_quiet || give_up_at.is_some_and(|end| now >= end) {
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
                .read(|datagram| unknown.extend(registry.deliver(now, datagram, dirty)));
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
            life = if connection.is_reached() || entry.called.is_some() {
                Life::Over("its channel did not open in time")
            } else {
                self.context.metrics.peers_unreached.add(1);
                Life::Over(NEVER_REACHED)
            };
        }
        if let Life::Over(why) = life {
            connection.close();
            connection.drive(now, &mut self.socket, &self.context);
            self.flush(now);
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

    pub(super) fn remove(&mut self, slot: Slot, why: &str) {
        let Some(entry) = self.take_out(slot) else {
            return;
        };
        match entry.connection.sibling() {
            Some(sibling) => log::info!("{}: sibling box {sibling} left: {why}", entry.key),
            // As often as anybody likes.
            None if why == OFFERED_ANEW => log::debug!("{}: {why}", entry.key),
            None => self.tell(Topic::Left, &entry.key, &format!("viewer left: {why}")),
        }
        self.directory.left(&entry.ufrag);
        self.channel_closed(&entry);
    }

    /// How many tasks have nothing more to send; this one among them, if so it is.
    fn count_quiet(&mut self) -> usize {
        let mut entries = self.registry.entries_mut();
        let is_quiet = !entries.any(|(_, entry)| entry.connection.is_sending());
        drop(entries);
        match (std::mem::replace(&mut self.is_quiet, is_quiet), is_quiet) {
            (false, true) => self.quiet.fetch_add(1, Ordering::Relaxed) + 1,
            (true, false) => self.quiet.fetch_sub(1, Ordering::Relaxed) - 1,
            _ => self.quiet.load(Ordering::Relaxed),
        }
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
        use mpsc::error::TrySendError::{Closed, Full};
        match self.events.try_send(event) {
            Ok(()) => {}
            Err(Full(event)) => {
                let what = "refused: signalling does not keep up";
                self.tell(Topic::Unanswered, event.key(), what);
            }
            Err(Closed(event)) => log::debug!("{}: signalling has ended", event.key()),
        }
    }
}
