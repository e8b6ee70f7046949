//! One peer's side of the data-channel protocol, as the holder of segments.
//!
//! Pure: [`Session::handle`] takes an [`Input`], [`Session::poll`] gives the next [`Output`], and
//! [`Session::next_timeout`] says when to come back at the latest. Time is an argument. The
//! session never touches the store: it asks for a segment ([`Output::Find`]) and for its bytes
//! ([`Output::Packet`]), whoever drives it answers.
//!
//! A REQUEST is `Asked` until the store has answered; `Held` while the segment is on its way, for
//! `request-hold` at most; then `Ready`, and sent when its turn comes. At most one segment is being
//! sent at a time, and it is always sent whole. Every REQUEST gets exactly one answer: BINARY or
//! LACK (protocol.md, "What hurts a viewer").

#[cfg(test)]
mod tests;

use std::ops::Range;
use std::time::{Duration, Instant};

use heapless::Deque;

use crate::ids::MediaSequence;
use crate::wire::{BinaryHeader, Event, Message, Packets, Request};

/// REQUESTs that may wait at a time. Field clients ask for one after the other; one that repeats
/// itself after a timeout, or asks ahead, stays far below this.
const MAX_WAITING: usize = 8;

/// Outputs that one input can cause at most: an answer and a count for each waiting REQUEST, and
/// what there is to say about the input itself.
const MAX_OUTPUTS: usize = 2 * MAX_WAITING + 4;

/// Messages that were not of the protocol until the channel is closed: a confused page is told
/// so, a hostile one does not get to keep us busy.
const MAX_BAD_MESSAGES: u8 = 16;

/// How soon a REQUEST is tried again for which there was no memory: a few times within the hold,
/// and well below what a viewer would notice.
const NO_ROOM_RETRY: Duration = Duration::from_millis(20);

/// Silence after which bytes that should have been acknowledged are asked about with a KEEPALIVE.
/// The stack's own retransmission timer is at least 1 s, half of a viewer's patience; the receiver
/// acknowledges the small extra message at once and thereby shows the gap (stack.md, "Known
/// traps"). Acknowledgements on a LAN take a few milliseconds, delayed ones 20 ms in browsers.
const PROBE_AFTER: Duration = Duration::from_millis(60);

/// KEEPALIVEs in one silence: fast retransmission wants a gap reported three times (RFC 9260
/// section 7.2.4).
const MAX_PROBES: u8 = 3;

/// How often a silence that no probe has ended is called a stall ([`Output::Stalled`]): the initial
/// retransmission timeout is three times the least one.
const MAX_STALLS: u8 = 3;

/// How long a peer may acknowledge nothing before its channel is closed: it gave the segment up after
/// 2 s, and holds memory that others could use. Wi-Fi that roams takes some 3 s.
pub const STUCK_AFTER: Duration = Duration::from_secs(10);

/// What a session is told about the box's configuration.
#[derive(Clone, Copy, Debug)]
pub struct SessionConfig {
    /// `[peer] request-hold`
    pub request_hold: Duration,
    /// `[peer] packet-size`, in bytes.
    pub packet_size: usize,
    /// Bytes that may be outstanding (handed over, not yet acknowledged) on one channel.
    pub window: usize,
}

/// Names a REQUEST between the session and whoever drives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(u32);

/// What happened.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// A text message arrived.
    Text(&'a [u8]),
    /// A binary message arrived; nobody sends us segments, so its bytes are of no interest.
    Binary,
    /// The store's answer to [`Output::Find`].
    Found(RequestId, Found),
    /// The store may answer differently from before.
    StoreChanged,
    /// The daemon stops: finish what is being sent, begin nothing new.
    Stop,
}

/// What the store has of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// All of it: this many bytes. Its bytes stay readable until [`Output::Release`].
    Ready {
        /// Bytes of the segment.
        size: usize,
    },
    /// Nothing yet, but it is on its way.
    Coming,
    /// It is there, but there is no memory to send it from at the moment.
    NoRoom,
    /// Nothing, and nothing is known to come.
    Absent,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Ask the store, and answer with [`Input::Found`].
    Find(RequestId, Request),
    /// Send a text message.
    Send(Message),
    /// Send these bytes of the segment as one binary message.
    Packet(RequestId, Range<usize>),
    /// The segment of this REQUEST is not needed any more.
    Release(RequestId),
    /// Nothing has been acknowledged for so long, probes notwithstanding, that what is outstanding
    /// must be taken for lost.
    Stalled,
    /// A REQUEST has been answered.
    Answered(Answer),
    /// A message was refused, for this reason.
    Refused(String),
    /// Close the channel, for this reason; nothing follows.
    Close(CloseReason),
}

/// How a REQUEST was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// At once.
    Hit,
    /// After waiting for the segment, or for memory.
    Held,
    /// With LACK.
    Lack,
}

/// Why a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The peer said CLOSE.
    ByPeer,
    /// The peer said ERROR.
    PeerError,
    /// Too many messages that are not of the protocol.
    BadMessages,
    /// Nothing of what was sent has been acknowledged for [`STUCK_AFTER`].
    Stuck,
    /// The daemon stops, and everything under way has been sent.
    Stopped,
}

#[derive(Debug)]
struct Waiting {
    id: RequestId,
    request: Request,
    since: Instant,
    state: WaitState,
}

#[derive(Debug, PartialEq, Eq)]
enum WaitState {
    Asked { held: bool },
    Held { retry_at: Option<Instant> },
    Ready { size: usize, held: bool },
}

#[derive(Debug)]
struct Transfer {
    id: RequestId,
    request: Request,
    packets: Packets,
    next: usize,
}

/// One peer's protocol state.
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    waiting: Deque<Waiting, MAX_WAITING>,
    transfer: Option<Transfer>,
    outputs: Deque<Output, MAX_OUTPUTS>,
    next_id: u32,
    bad_messages: u8,
    progress: Progress,
    stopping: bool,
    closed: bool,
}

/// When bytes were last seen to be acknowledged.
#[derive(Debug)]
struct Progress {
    outstanding: usize,
    /// When bytes were last acknowledged, or there was nothing to acknowledge.
    since: Option<Instant>,
    probe_at: Option<Instant>,
    probes: u8,
}

impl Session {
    /// A session of a channel that has just opened.
    pub fn new(config: SessionConfig) -> Self {
        Self {
            config,
            waiting: Deque::new(),
            transfer: None,
            outputs: Deque::new(),
            next_id: 0,
            bad_messages: 0,
            progress: Progress {
                outstanding: 0,
                since: None,
                probe_at: None,
                probes: 0,
            },
            stopping: false,
            closed: false,
        }
    }

    /// Takes what happened at `now`. `current` is the newest media sequence number of the store.
    pub fn handle(&mut self, now: Instant, input: Input<'_>, current: Option<MediaSequence>) {
        if self.closed {
            return;
        }
        match input {
            Input::Text(text) => self.text(now, text, current),
            Input::Binary => self.refuse("a binary message that nobody asked for".into()),
            Input::Found(id, found) => self.found(now, id, found),
            Input::StoreChanged => self.ask_again(|_| true),
            Input::Stop => {
                self.stopping = true;
                self.lack_where(|_| true);
            }
        }
    }

    /// Takes that time has passed: what was held too long gets its LACK.
    pub fn handle_timeout(&mut self, now: Instant) {
        let hold = self.config.request_hold;
        self.lack_where(|w| matches!(w.state, WaitState::Held { .. }) && now >= w.since + hold);
        self.ask_again(|w| matches!(w.state, WaitState::Held { retry_at: Some(at) } if now >= at));
    }

    /// Takes how many bytes are outstanding once everything has been polled: as long as their
    /// number falls all is well; when it stands still, the peer is probed.
    pub fn settle(&mut self, now: Instant, outstanding: usize, current: Option<MediaSequence>) {
        let progress = &mut self.progress;
        if outstanding < progress.outstanding || progress.outstanding == 0 {
            progress.since = Some(now);
        }
        let stuck = progress
            .since
            .is_some_and(|since| now >= since + STUCK_AFTER);
        if outstanding == 0 {
            progress.since = None;
            progress.probe_at = None;
        } else if stuck && !self.closed {
            self.close(CloseReason::Stuck);
        } else if outstanding != progress.outstanding || progress.probe_at.is_none() {
            if outstanding < progress.outstanding || progress.outstanding == 0 {
                progress.probes = 0;
            }
            progress.probe_at =
                (progress.probes < MAX_PROBES + MAX_STALLS).then_some(now + PROBE_AFTER);
        } else if progress.probe_at.is_some_and(|at| now >= at) {
            progress.probes += 1;
            let probe = progress.probes <= MAX_PROBES;
            progress.probe_at =
                (progress.probes < MAX_PROBES + MAX_STALLS).then_some(now + PROBE_AFTER);
            if !self.closed {
                self.push(if probe {
                    Output::Send(Message::Keepalive { current })
                } else {
                    Output::Stalled
                });
            }
        }
        self.progress.outstanding = outstanding;
    }

    /// When [`Session::handle_timeout`] is due, if at all.
    pub fn next_timeout(&self) -> Option<Instant> {
        let held = self
            .waiting
            .iter()
            .filter_map(|w| match w.state {
                WaitState::Held { retry_at } => {
                    let deadline = w.since + self.config.request_hold;
                    Some(retry_at.map_or(deadline, |at| at.min(deadline)))
                }
                WaitState::Asked { .. } | WaitState::Ready { .. } => None,
            })
            .min();
        let stuck = self.progress.since.map(|since| since + STUCK_AFTER);
        [held, self.progress.probe_at, stuck]
            .into_iter()
            .flatten()
            .min()
    }

    /// The next thing to do, while `outstanding` bytes are on their way to the peer.
    pub fn poll(&mut self, outstanding: usize, current: Option<MediaSequence>) -> Option<Output> {
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        if self.closed {
            return None;
        }
        if self.transfer.is_none()
            && let Some(begun) = self.begin(current)
        {
            return Some(begun);
        }
        if let Some(transfer) = &mut self.transfer {
            if let Some(range) = transfer.packets.range(transfer.next) {
                if outstanding >= self.config.window {
                    return None;
                }
                transfer.next += 1;
                return Some(Output::Packet(transfer.id, range));
            }
            let id = transfer.id;
            self.transfer = None;
            return Some(Output::Release(id));
        }
        if self.stopping && self.waiting.is_empty() && outstanding == 0 {
            self.close(CloseReason::Stopped);
            return self.outputs.pop_front();
        }
        None
    }

    /// Whether a segment is being sent or about to be: such a peer is worth waiting for at a stop.
    pub fn is_sending(&self) -> bool {
        self.transfer.is_some()
            || self
                .waiting
                .iter()
                .any(|w| matches!(w.state, WaitState::Ready { .. }))
    }

    fn text(&mut self, now: Instant, text: &[u8], current: Option<MediaSequence>) {
        match Event::parse(text) {
            Ok(Event::Request(request)) => self.request(now, request),
            Ok(Event::Keepalive) => self.push(Output::Send(Message::KeepaliveAck { current })),
            Ok(Event::Close) => self.close(CloseReason::ByPeer),
            Ok(Event::Error) => self.close(CloseReason::PeerError),
            Ok(Event::KeepaliveAck | Event::Other) => {}
            Err(error) => self.refuse(error.to_string()),
        }
    }

    fn request(&mut self, now: Instant, request: Request) {
        let repeated = self.waiting.iter().any(|w| w.request == request)
            || self.transfer.as_ref().is_some_and(|t| t.request == request);
        if repeated {
            // It will be answered once (protocol.md: field clients ask again after 3 s).
            return;
        }
        let id = RequestId(self.next_id);
        let waiting = Waiting {
            id,
            request: request.clone(),
            since: now,
            state: WaitState::Asked { held: false },
        };
        if self.stopping || self.waiting.push_back(waiting).is_err() {
            self.lack(request);
            return;
        }
        self.next_id = self.next_id.wrapping_add(1);
        self.push(Output::Find(id, request));
    }

    fn found(&mut self, now: Instant, id: RequestId, found: Found) {
        let hold = self.config.request_hold;
        let Some(waiting) = self.waiting.iter_mut().find(|w| w.id == id) else {
            // It has had its LACK in the meantime.
            if matches!(found, Found::Ready { .. }) {
                self.push(Output::Release(id));
            }
            return;
        };
        let WaitState::Asked { held } = waiting.state else {
            return;
        };
        let may_wait = now < waiting.since + hold;
        match found {
            Found::Ready { size } => waiting.state = WaitState::Ready { size, held },
            Found::Coming if may_wait => waiting.state = WaitState::Held { retry_at: None },
            Found::NoRoom if may_wait => {
                waiting.state = WaitState::Held {
                    retry_at: Some(now + NO_ROOM_RETRY),
                };
            }
            Found::Coming | Found::NoRoom | Found::Absent => self.lack_where(|w| w.id == id),
        }
    }

    /// Asks the store again for what is held and chosen.
    fn ask_again(&mut self, chosen: impl Fn(&Waiting) -> bool) {
        let mut asked: Deque<Output, MAX_WAITING> = Deque::new();
        for waiting in self.waiting.iter_mut() {
            if matches!(waiting.state, WaitState::Held { .. }) && chosen(waiting) {
                waiting.state = WaitState::Asked { held: true };
                // Holds as many as there can be waiting.
                let _ = asked.push_back(Output::Find(waiting.id, waiting.request.clone()));
            }
        }
        while let Some(output) = asked.pop_front() {
            self.push(output);
        }
    }

    /// Answers with LACK what waits and is chosen, except what has its segment already.
    fn lack_where(&mut self, chosen: impl Fn(&Waiting) -> bool) {
        for _ in 0..self.waiting.len() {
            let Some(waiting) = self.waiting.pop_front() else {
                return;
            };
            if chosen(&waiting) && !matches!(waiting.state, WaitState::Ready { .. }) {
                self.lack(waiting.request);
            } else {
                // There is room: one was just taken out.
                let _ = self.waiting.push_back(waiting);
            }
        }
    }

    /// Begins to send the segment that has been ready for longest.
    fn begin(&mut self, current: Option<MediaSequence>) -> Option<Output> {
        let mut begun = None;
        for _ in 0..self.waiting.len() {
            let waiting = self.waiting.pop_front()?;
            match waiting.state {
                WaitState::Ready { size, held } if begun.is_none() => {
                    begun = Some((waiting, size, held));
                }
                _ => {
                    let _ = self.waiting.push_back(waiting);
                }
            }
        }
        let (Waiting { id, request, .. }, size, held) = begun?;
        let packets = Packets::new(size, self.config.packet_size);
        self.push(Output::Answered(if held {
            Answer::Held
        } else {
            Answer::Hit
        }));
        self.transfer = Some(Transfer {
            id,
            request: request.clone(),
            packets,
            next: 0,
        });
        Some(Output::Send(Message::Binary(BinaryHeader {
            request,
            attachments: packets.count(),
            size,
            current,
        })))
    }

    fn lack(&mut self, request: Request) {
        self.push(Output::Send(Message::Lack(request)));
        self.push(Output::Answered(Answer::Lack));
    }

    fn refuse(&mut self, reason: String) {
        self.push(Output::Refused(reason));
        self.bad_messages = self.bad_messages.saturating_add(1);
        if self.bad_messages >= MAX_BAD_MESSAGES {
            self.push(Output::Send(Message::Error));
            self.close(CloseReason::BadMessages);
        }
    }

    fn close(&mut self, reason: CloseReason) {
        self.push(Output::Close(reason));
        self.closed = true;
    }

    /// Whoever drives the session polls it empty after each input, so there is room; should it
    /// not, the channel is closed rather than an answer lost.
    fn push(&mut self, output: Output) {
        if self.outputs.push_back(output).is_err() {
            self.outputs.clear();
            let _ = self
                .outputs
                .push_back(Output::Close(CloseReason::BadMessages));
            self.closed = true;
        }
    }
}
