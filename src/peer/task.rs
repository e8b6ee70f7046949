//! The loop that drives every connection, and the registry of who is connected.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::Rng;
use rand::distr::Alphanumeric;
use rtc::stun::attributes::ATTR_USERNAME;
use rtc::stun::message::{Message as StunMessage, is_stun_message};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::calls::Calls;
use super::connection::{Connection, Context, Life};
use super::refusals::Refusals;
use super::setup::Identity;
use super::socket::Socket;
use super::{Command, Event, Parts, PeerKey, addresses};
use crate::ids::tame;
use crate::session::SessionConfig;
use crate::sibling::proof::Proof;

/// Bytes handed over to one viewer and not yet acknowledged. Between 64 KiB and 256 KiB Chromium
/// did best in our measurements, larger windows overran its receive buffer (stack.md).
const WINDOW: usize = 256 * 1024;

/// Longest offer that is looked at. Browsers write some 700 bytes for a data channel; with many
/// candidates a few KiB.
const MAX_OFFER: usize = 32 * 1024;

/// How long an offer may take to become an open channel. Trickled candidates and a prompt of the
/// browser (field.md item 3) take seconds; after this the place is for somebody else.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// Datagram groups read before anything is driven, so that one busy viewer cannot keep the others
/// waiting; at 64 KiB each it is what the kernel's buffer holds.
const READS_PER_ROUND: usize = 64;

/// Remote addresses remembered for one connection: a browser has a few interfaces.
const MAX_ADDRESSES_PER_PEER: usize = 8;

/// Length of our ICE username fragment: RFC 8839 section 5.4 asks for at least 4 characters and 24
/// random bits; 12 of 62 letters cannot be guessed by who has not seen the answer.
const UFRAG_LEN: usize = 12;

/// RFC 8839 section 5.4: at least 22 characters and 128 random bits.
const PASSWORD_LEN: usize = 24;

/// Why a connection is replaced.
const OFFERED_ANEW: &str = "it made a new offer";

/// A place in the registry; never used twice.
pub(super) type Slot = u64;

pub(super) struct Entry {
    pub(super) key: PeerKey,
    ufrag: String,
    pub(super) connection: Connection,
    /// This box called, and reports how that goes.
    pub(super) called: bool,
    /// It is open, and whom it concerns has been told.
    pub(super) announced: bool,
    addresses: heapless::Vec<SocketAddr, MAX_ADDRESSES_PER_PEER>,
    due: Instant,
}

/// The credentials of a connection, ours alone.
pub(super) struct Credentials {
    ufrag: String,
    password: String,
}

pub(super) struct Task {
    pub(super) context: Context,
    config: crate::config::PeerConfig,
    pub(super) calls: Calls,
    socket: Socket,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Event>,
    next_slot: Slot,
    pub(super) entries: HashMap<Slot, Entry>,
    pub(super) by_key: HashMap<PeerKey, Slot>,
    by_ufrag: HashMap<String, Slot>,
    by_address: HashMap<SocketAddr, Slot>,
    timers: BTreeSet<(Instant, Slot)>,
    pub(super) stopping: bool,
    refusals: Refusals,
}

impl Task {
    pub(super) fn new(
        parts: Parts,
        socket: Socket,
        commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let session = SessionConfig {
            request_hold: parts.config.request_hold,
            packet_size: parts.config.packet_size,
            window: WINDOW.min(parts.budget.total()),
        };
        let own = parts.siblings.own().clone();
        Self {
            context: Context {
                store: parts.store,
                budget: parts.budget,
                metrics: parts.metrics,
                siblings: parts.siblings,
                session,
            },
            calls: Calls::new(&parts.config, own, parts.channel_ids, parts.asks),
            config: parts.config,
            socket,
            commands,
            events,
            next_slot: 0,
            entries: HashMap::new(),
            by_key: HashMap::new(),
            by_ufrag: HashMap::new(),
            by_address: HashMap::new(),
            timers: BTreeSet::new(),
            stopping: false,
            refusals: Refusals::default(),
        }
    }

    pub(super) fn port(&self) -> u16 {
        self.socket.port()
    }

    /// Runs until `stop`, and then until everything under way is sent or `stop-timeout` is over.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut changes = self.context.store.changes();
        let mut growth = self.context.store.growth();
        let mut dirty: BTreeSet<Slot> = BTreeSet::new();
        let mut give_up_at: Option<Instant> = None;
        loop {
            let due = self.timers.first().map(|(due, _)| *due);
            let due = [due, give_up_at, self.calls.next_timeout()];
            let idle = || Instant::now() + Duration::from_secs(3600);
            let wake = due.into_iter().flatten().min().unwrap_or_else(idle);
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
                Some(ask) = self.calls.asked() => self.ask(ask, &mut dirty),
                readable = self.socket.readable() => {
                    if let Err(error) = readable {
                        log::error!("the viewers' socket is broken: {error}");
                        return;
                    }
                    self.read(&mut dirty);
                }
                Ok(()) = changes.changed() => {
                    changes.mark_unchanged();
                    let now = Instant::now();
                    for (slot, entry) in &mut self.entries {
                        entry.connection.store_changed(now, &self.context);
                        dirty.insert(*slot);
                    }
                }
                Ok(()) = growth.changed() => {
                    growth.mark_unchanged();
                    let now = Instant::now();
                    for (slot, entry) in &mut self.entries {
                        if entry.connection.grown(now, &self.context) {
                            dirty.insert(*slot);
                        }
                    }
                }
                () = tokio::time::sleep_until(wake.into()) => {}
            }
            let now = Instant::now();
            self.fire_timers(now, &mut dirty);
            self.call_again(now, &mut dirty);
            self.drive(now, &mut dirty).await;
            if self.stopping {
                let sending = self
                    .entries
                    .values_mut()
                    .any(|entry| entry.connection.is_sending());
                if !sending || give_up_at.is_some_and(|end| now >= end) {
                    self.close_all(now).await;
                    return;
                }
            }
        }
    }

    fn command(&mut self, command: Command, dirty: &mut BTreeSet<Slot>) {
        match command {
            Command::Offer { key, sdp, proof } => self.offer(key, &sdp, proof, dirty),
            Command::Call { key } => self.call(key, dirty),
            Command::Answer { key, sdp, proof } => self.answered(&key, &sdp, proof, dirty),
            Command::Candidate { key, candidate } => {
                if let Some((slot, entry)) = self.entry_of(&key) {
                    entry.connection.candidate(&candidate);
                    dirty.insert(slot);
                }
            }
            Command::Drop { key } => {
                if let Some((slot, entry)) = self.entry_of(&key) {
                    entry.connection.close();
                    dirty.insert(slot);
                }
            }
            Command::List(reply) => {
                let now = Instant::now();
                let mut list: Vec<_> = self
                    .entries
                    .values()
                    .map(|entry| entry.connection.status(now))
                    .collect();
                list.sort_by(|a, b| (&a.channel, &a.id).cmp(&(&b.channel, &b.id)));
                // Whoever asked may have gone in the meantime.
                let _ = reply.send(list);
            }
        }
    }

    pub(super) fn entry_of(&mut self, key: &PeerKey) -> Option<(Slot, &mut Entry)> {
        let slot = *self.by_key.get(key)?;
        self.entries.get_mut(&slot).map(|entry| (slot, entry))
    }

    fn offer(&mut self, key: PeerKey, sdp: &str, proof: Option<Proof>, dirty: &mut BTreeSet<Slot>) {
        let sibling = self.calls.sibling_who_offers(&key, sdp, proof);
        if let Some(old) = self.by_key.get(&key).copied() {
            let calling = self
                .entries
                .get(&old)
                .is_some_and(|entry| entry.connection.offered().is_some());
            let own = self.context.siblings.own();
            if calling && sibling.as_ref().is_some_and(|sibling| sibling < own) {
                // Both call at once: the call of the greater one stands.
                return;
            }
            self.remove(old, OFFERED_ANEW);
        }
        let refused = match sdp.len() {
            len if len > MAX_OFFER => Some(format!("its offer has {len} bytes")),
            _ => self.no_place(),
        };
        if let Some(reason) = refused {
            self.tell_refusal(&key, &reason);
            self.report(Event::Failed { key });
            return;
        }
        let now = Instant::now();
        let credentials = Credentials::random();
        let answered = self.with_identity(&credentials, |identity, context| {
            Connection::answer(now, key.clone(), identity, sdp, sibling.clone(), context)
        });
        match answered {
            Ok((connection, answer)) => {
                self.admit(now, key.clone(), credentials, connection, false, dirty);
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
        let peers = self.entries.len();
        (peers >= self.config.max_peers)
            .then(|| format!("the box has {peers} peers already ([peer] max-peers)"))
    }

    pub(super) fn with_identity<T>(
        &self,
        credentials: &Credentials,
        build: impl FnOnce(Identity<'_>, &Context) -> T,
    ) -> T {
        let hosts = addresses::host_addresses(self.socket.port());
        let identity = Identity {
            credentials: (&credentials.ufrag, &credentials.password),
            hosts: &hosts,
        };
        build(identity, &self.context)
    }

    pub(super) fn admit(
        &mut self,
        now: Instant,
        key: PeerKey,
        credentials: Credentials,
        connection: Connection,
        called: bool,
        dirty: &mut BTreeSet<Slot>,
    ) {
        let slot = self.next_slot;
        self.next_slot += 1;
        self.by_key.insert(key.clone(), slot);
        self.by_ufrag.insert(credentials.ufrag.clone(), slot);
        self.timers.insert((now, slot));
        let entry = Entry {
            key,
            ufrag: credentials.ufrag,
            connection,
            called,
            announced: false,
            addresses: heapless::Vec::new(),
            due: now,
        };
        self.entries.insert(slot, entry);
        self.count_peers();
        dirty.insert(slot);
    }

    fn read(&mut self, dirty: &mut BTreeSet<Slot>) {
        let now = Instant::now();
        for _ in 0..READS_PER_ROUND {
            let Some(received) = self.socket.read() else {
                return;
            };
            let (from, to) = (received.from, received.to);
            for datagram in received.datagrams() {
                let named = local_ufrag(datagram)
                    .and_then(|ufrag| self.by_ufrag.get(&ufrag))
                    .copied();
                let Some(slot) = named.or_else(|| self.by_address.get(&from).copied()) else {
                    continue;
                };
                let Some(entry) = self.entries.get_mut(&slot) else {
                    continue;
                };
                if named.is_some() && !entry.addresses.contains(&from) {
                    if entry.addresses.push(from).is_err() {
                        continue;
                    }
                    if let Some(before) = self.by_address.insert(from, slot)
                        && let Some(other) = self.entries.get_mut(&before)
                    {
                        // The browser uses the same port for a new connection.
                        other.addresses.retain(|address| *address != from);
                    }
                }
                if let Some(entry) = self.entries.get_mut(&slot) {
                    entry.connection.datagram(now, from, to, datagram);
                    dirty.insert(slot);
                }
            }
        }
    }

    fn fire_timers(&mut self, now: Instant, dirty: &mut BTreeSet<Slot>) {
        while let Some((due, slot)) = self.timers.first().copied()
            && due <= now
        {
            self.timers.pop_first();
            if let Some(entry) = self.entries.get_mut(&slot) {
                entry.connection.timeout(now);
                dirty.insert(slot);
            }
        }
    }

    async fn drive(&mut self, now: Instant, dirty: &mut BTreeSet<Slot>) {
        while let Some(slot) = dirty.pop_first() {
            let Some(entry) = self.entries.get_mut(&slot) else {
                continue;
            };
            let connection = &mut entry.connection;
            let mut life = connection.drive(now, &mut self.socket, &self.context).await;
            let connect_by = connection.created() + CONNECT_TIMEOUT;
            if life == Life::Open && !connection.is_open() && now >= connect_by {
                life = if connection.is_reached() || entry.called {
                    Life::Over("its channel did not open in time")
                } else {
                    self.context.metrics.peers_unreached.add(1);
                    Life::Over("it never reached us: does its browser allow local network access?")
                };
            }
            match life {
                Life::Open => {
                    let mut due = connection.next_timeout().unwrap_or(connect_by);
                    if !connection.is_open() {
                        due = due.min(connect_by);
                    }
                    // A timer of the past would spin; 1 ms is below what any of them means.
                    let due = due.max(now + Duration::from_millis(1));
                    self.timers.remove(&(entry.due, slot));
                    entry.due = due;
                    self.timers.insert((due, slot));
                    if connection.is_open() && !entry.announced {
                        entry.announced = true;
                        self.channel_opened(slot, dirty);
                    }
                }
                Life::Over(why) => {
                    connection.close();
                    connection.drive(now, &mut self.socket, &self.context).await;
                    self.remove(slot, why);
                }
            }
        }
        self.socket.flush().await;
    }

    fn remove(&mut self, slot: Slot, why: &str) {
        let Some(entry) = self.entries.remove(&slot) else {
            return;
        };
        match entry.connection.sibling() {
            Some(sibling) => log::info!("{}: sibling box {sibling} left: {why}", entry.key),
            // As often as anybody likes.
            None if why == OFFERED_ANEW => log::debug!("{}: {why}", entry.key),
            None => log::info!("{}: viewer left: {why}", entry.key),
        }
        self.channel_closed(&entry);
        self.timers.remove(&(entry.due, slot));
        self.by_ufrag.remove(&entry.ufrag);
        if self.by_key.get(&entry.key) == Some(&slot) {
            self.by_key.remove(&entry.key);
        }
        for address in &entry.addresses {
            if self.by_address.get(address) == Some(&slot) {
                self.by_address.remove(address);
            }
        }
        self.count_peers();
    }

    fn begin_stop(&mut self, dirty: &mut BTreeSet<Slot>) {
        self.stopping = true;
        let now = Instant::now();
        for (slot, entry) in &mut self.entries {
            entry.connection.stop(now, &self.context);
            dirty.insert(*slot);
        }
    }

    async fn close_all(&mut self, now: Instant) {
        for entry in self.entries.values_mut() {
            entry.connection.close();
            entry
                .connection
                .drive(now, &mut self.socket, &self.context)
                .await;
        }
        self.socket.flush().await;
        self.entries.clear();
        self.count_peers();
    }

    fn count_peers(&self) {
        self.context.metrics.peers.set(self.entries.len() as i64);
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

/// The username fragment of ours that a STUN connectivity check names: its USERNAME is
/// `ours:theirs` (RFC 8445 section 7.2.2).
fn local_ufrag(datagram: &[u8]) -> Option<String> {
    if !is_stun_message(datagram) {
        return None;
    }
    let mut message = StunMessage::new();
    message.raw = datagram.to_vec();
    message.decode().ok()?;
    let username = message.get(ATTR_USERNAME).ok()?;
    let username = std::str::from_utf8(&username).ok()?;
    username.split(':').next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_stun_check_names_nobody() {
        assert_eq!(local_ufrag(&[]), None);
        assert_eq!(local_ufrag(&[0x16, 0xfe, 0xfd, 0, 0]), None);
        assert_eq!(local_ufrag(&[0; 20]), None);
    }
}
