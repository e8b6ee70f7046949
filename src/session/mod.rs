//! The data-channel protocol with one peer: as the holder of segments towards everybody, and as the
//! receiver towards a sibling, another box of the operator's ([`crate::sibling`]).
//!
//! Pure: [`Session::handle`] takes an [`Input`], [`Session::poll`] gives the next [`Output`],
//! [`Session::next_packet`] what of a segment may be sent next, and [`Session::next_timeout`] says when
//! to come back at the latest. Time is an argument. The session never touches the store: it asks for a
//! segment ([`Output::Find`]) and for its bytes ([`Output::Packet`]), whoever drives it answers.
//!
//! A REQUEST is `Asked` until the store has answered; `Held` while the segment is on its way, for
//! `request-hold` at most; then `Ready`, and sent when its turn comes. At most one segment is being
//! sent at a time. Every REQUEST gets exactly one answer, BINARY or LACK, and what BINARY announces is
//! sent whole, or the channel is closed (protocol.md, "What hurts a viewer").
//!
//! A segment that is still arriving is sent as it comes, if it will be here in time by the pace so far
//! and nothing else is being sent: what waits for its rest keeps everything else waiting.

mod holder;
mod io;
mod progress;
mod receiver;
#[cfg(test)]
mod receiver_tests;
#[cfg(test)]
mod tests;
mod window;

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use heapless::Deque;

use self::holder::{Transfer, WaitState, Waiting};
pub use self::io::{Answer, CloseReason, Flight, Found, Input, Output, RequestId};
use self::progress::Progress;
pub use self::receiver::{AskId, Lost};
use self::receiver::{MAX_ASKED, Receiver, Verdict};
use self::window::Window;
use crate::ids::MediaSequence;
use crate::wire::{Event, Message};

/// REQUESTs that may wait at a time. Field clients ask for one after the other; one that repeats
/// itself after a timeout, or asks ahead, stays far below this.
const MAX_WAITING: usize = 8;

/// Outputs that one input can cause at most: an answer, a count and a release for each waiting REQUEST,
/// the end of each REQUEST of ours, and what there is to say about the input itself.
const MAX_OUTPUTS: usize = 3 * MAX_WAITING + MAX_ASKED + 1 + 4;

/// Bytes outstanding beyond any window: the packet that exceeds it, and answers to some hundred
/// messages. Who asks on and on and takes no answer has more.
const MAX_UNHEARD: usize = 128 * 1024;

/// Messages that were not of the protocol until the channel is closed: a confused page is told
/// so, a hostile one does not get to keep us busy.
const MAX_BAD_MESSAGES: u8 = 16;

/// How long a viewer waits for a segment (protocol.md section 3).
pub const VIEWER_WAITS: Duration = Duration::from_secs(2);

/// What a session is told about the box's configuration.
#[derive(Clone, Copy, Debug)]
pub struct SessionConfig {
    /// `[peer] request-hold`
    pub request_hold: Duration,
    /// `[peer] packet-size`, in bytes.
    pub packet_size: usize,
    /// Bytes that may be outstanding (handed over, not yet acknowledged) on one channel at most.
    pub window: usize,
}

/// One peer's protocol state.
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    waiting: Deque<Waiting, MAX_WAITING>,
    transfer: Option<Transfer>,
    /// [`MAX_OUTPUTS`] at most, and mostly one or two: they would be half of an idle session.
    outputs: VecDeque<Output>,
    next_id: u32,
    bad_messages: u8,
    progress: Progress,
    window: Window,
    /// Towards siblings only.
    receiver: Option<Box<Receiver>>,
    stopping: bool,
    /// The channel is closed, for this reason, as soon as the peer has what was sent to it.
    last_words: Option<CloseReason>,
    closed: bool,
}

impl Session {
    /// A session of a channel that has just opened.
    pub fn new(config: SessionConfig) -> Self {
        Self {
            config,
            waiting: Deque::new(),
            transfer: None,
            outputs: VecDeque::new(),
            next_id: 0,
            bad_messages: 0,
            progress: Progress::default(),
            window: Window::new(config.window),
            receiver: None,
            stopping: false,
            last_words: None,
            closed: false,
        }
    }

    /// A session with a sibling, of which segments may be asked ([`Input::Ask`]); it has `within` to
    /// deliver one whole.
    pub fn with_sibling(config: SessionConfig, within: Duration) -> Self {
        Self {
            receiver: Some(Box::new(Receiver::new(within))),
            ..Self::new(config)
        }
    }

    /// Takes what happened at `now`. `current` is the newest media sequence number of the store.
    pub fn handle(&mut self, now: Instant, input: Input<'_>, current: Option<MediaSequence>) {
        if self.closed || self.last_words.is_some() {
            if let Input::Ask(id, _) = input {
                self.push(Output::Lost(id, Lost::Busy));
            }
            return;
        }
        match input {
            Input::Text(text) => self.text(now, text, current),
            Input::Binary(bytes) => match &mut self.receiver {
                Some(receiver) => {
                    let (verdict, output) = receiver.packet(bytes);
                    self.judge(verdict, output);
                }
                None => self.refuse("a binary message that nobody asked for".into()),
            },
            Input::Ask(id, request) => {
                let output = match &mut self.receiver {
                    Some(receiver) if !self.stopping => receiver.ask(now, id, request),
                    _ => Output::Lost(id, Lost::Busy),
                };
                self.push(output);
            }
            Input::Found(id, found) => self.found(now, id, found),
            Input::Grown(id, available) => self.grown(id, available),
            Input::Broken(id) => self.broken(id),
            Input::StoreChanged => self.ask_again(|_| true),
            Input::Stop => {
                self.stopping = true;
                self.lack_where(|_| true);
            }
        }
    }

    /// Takes that time has passed: what was held too long gets its LACK.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.closed {
            return;
        }
        let is_over = |until: Option<Instant>| until.is_some_and(|until| now >= until);
        if is_over(self.progress.stuck_at()) {
            return self.close(CloseReason::Stuck);
        }
        if self.last_words.is_some() {
            return;
        }
        let hold = self.config.request_hold;
        self.lack_where(|w| matches!(w.state, WaitState::Held { .. }) && now >= w.since + hold);
        self.ask_again(|w| matches!(w.state, WaitState::Held { retry_at: Some(at) } if now >= at));
        while let Some(lost) = self.receiver.as_mut().and_then(|r| r.late(now)) {
            self.push(lost);
        }
        match &self.transfer {
            Some(t) if is_over(t.arrives_until()) => self.close(CloseReason::Broken),
            Some(t) if is_over(t.sent_until()) => self.close(CloseReason::Stuck),
            _ => {}
        }
    }

    /// Takes how far what was sent has come, once everything has been polled.
    pub fn settle(&mut self, now: Instant, flight: Flight) {
        if let Some(transfer) = &mut self.transfer {
            transfer.begun.get_or_insert(now);
        }
        self.progress.settle(now, flight);
        self.window.settle(now, flight);
    }

    /// Bytes that the peer may have to be sent at a time: what whoever drives the session should have
    /// room for.
    pub fn window(&self) -> usize {
        self.window.bytes()
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
        let late = self.receiver.as_ref().and_then(|r| r.next_timeout());
        let transfer = self.transfer.as_ref();
        let arrives = transfer.and_then(Transfer::arrives_until);
        let sent = transfer.and_then(Transfer::sent_until);
        [held, self.progress.stuck_at(), late, arrives, sent]
            .into_iter()
            .flatten()
            .min()
    }

    /// The next packet ([`Output::Packet`]), if it is here and the peer's window has room for it while
    /// `outstanding` bytes are on their way. What [`Session::poll`] has to say comes first.
    pub fn next_packet(&mut self, outstanding: usize) -> Option<Output> {
        let range = self.sendable(outstanding)?;
        let transfer = self.transfer.as_mut()?;
        transfer.next += 1;
        Some(Output::Packet(transfer.id, range))
    }

    /// By when the segment should be with the peer of which [`Session::next_packet`] would give a
    /// packet.
    pub fn deadline(&self, outstanding: usize) -> Option<Instant> {
        self.sendable(outstanding)?;
        Some(self.transfer.as_ref()?.since + VIEWER_WAITS)
    }

    fn sendable(&self, outstanding: usize) -> Option<Range<usize>> {
        let transfer = self.transfer.as_ref().filter(|_| !self.closed)?;
        let range = transfer.next()?;
        self.window
            .allows(outstanding, range.len())
            .then_some(range)
    }

    /// Bytes of segments that this peer has been promised and not been sent.
    pub fn promised(&self) -> usize {
        let waiting = self.waiting.iter().map(|waiting| match waiting.state {
            WaitState::Ready { size, .. } => size,
            WaitState::Asked { .. } | WaitState::Held { .. } => 0,
        });
        let transfer = self.transfer.as_ref().map_or(0, Transfer::left);
        waiting.sum::<usize>() + transfer
    }

    /// The next thing to do but for packets, while `outstanding` bytes are on their way to the peer.
    pub fn poll(&mut self, outstanding: usize, current: Option<MediaSequence>) -> Option<Output> {
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        if self.closed {
            return None;
        }
        if outstanding > self.config.window + MAX_UNHEARD {
            // However slowly it acknowledges, what it has us say is not held without end.
            self.close(CloseReason::Stuck);
            return self.outputs.pop_front();
        }
        if let Some(reason) = self.last_words {
            if outstanding == 0 {
                self.close(reason);
            }
            return self.outputs.pop_front();
        }
        if self.transfer.is_none()
            && let Some(begun) = self.begin(current)
        {
            return Some(begun);
        }
        if let Some(transfer) = self.transfer.take_if(|transfer| transfer.is_sent()) {
            self.window.has_sent(transfer.packets.left(0));
            return Some(Output::Release(transfer.id));
        }
        if self.transfer.is_some() {
            return None;
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
            Ok(Event::Binary(header)) => {
                if let Some(receiver) = &mut self.receiver {
                    let (verdict, output) = receiver.announced(now, &header);
                    self.judge(verdict, output);
                }
            }
            Ok(Event::Lack(request)) => {
                let lost = self.receiver.as_mut().and_then(|r| r.lacked(&request));
                if let Some(lost) = lost {
                    self.push(lost);
                }
            }
            Ok(Event::KeepaliveAck | Event::Other) => {}
            Err(error) => self.refuse(error.to_string()),
        }
    }

    fn refuse(&mut self, reason: String) {
        self.push(Output::Refused(reason));
        self.bad_messages = self.bad_messages.saturating_add(1);
        if self.bad_messages >= MAX_BAD_MESSAGES {
            self.give_up_asked(Lost::Busy);
            self.push(Output::Send(Message::Error));
            self.last_words = Some(CloseReason::BadMessages);
        }
    }

    /// A sibling that lies once is believed nothing more.
    fn judge(&mut self, verdict: Verdict, output: Option<Output>) {
        match verdict {
            Verdict::Fine => output.into_iter().for_each(|output| self.push(output)),
            Verdict::Lie => {
                self.give_up_asked(Lost::Lied);
                self.close(CloseReason::Lied);
            }
        }
    }

    fn give_up_asked(&mut self, why: Lost) {
        while let Some(lost) = self.receiver.as_mut().and_then(|r| r.give_up(why)) {
            self.push(lost);
        }
    }

    fn close(&mut self, reason: CloseReason) {
        self.push(Output::Close(reason));
        self.closed = true;
    }

    /// Whoever drives the session polls it empty after each input, so there is room; should it
    /// not, the channel is closed rather than an answer lost.
    fn push(&mut self, output: Output) {
        if self.outputs.len() < MAX_OUTPUTS {
            return self.outputs.push_back(output);
        }
        self.outputs.clear();
        self.outputs
            .push_back(Output::Close(CloseReason::BadMessages));
        self.closed = true;
    }
}
