//! One viewer: its WebRTC connection, its session, and the segments that it is being sent.

mod exchange;

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use heapless::LinearMap;
use rtc::shared::error::Error as RtcError;

use super::asks::Asks;
use super::link::Crowd;
use super::sdp::Offer;
use super::setup::Identity;
use super::socket::Socket;
use super::transport::{Datagram, Heard, Transport};
use super::{PeerKey, PeerStatus};
use crate::budget::{Budget, Share};
use crate::ids::{BoxId, MediaSequence};
use crate::metrics::{ChannelMetrics, Metrics};
use crate::session::{Flight, Input, Output, RequestId, Session, SessionConfig};
use crate::sibling::{Ask, DELIVER_WITHIN, Siblings};
use crate::store::{Reader, Store};

/// Segments that a session can hold on to: one being sent and those that are ready and wait.
const MAX_SEGMENTS: usize = 16;

/// Bytes of memory for each byte of a window: itself, and what the stack notes and copies of it until it
/// is acknowledged (1.5 were seen).
const COST: usize = 2;

/// How long a REQUEST of a sibling is held: a little less than it waits ([`DELIVER_WITHIN`]), so that
/// it hears LACK, and does not take a box whose origin is slow for one that is dead.
const SIBLING_HOLD: Duration = Duration::from_millis(900);

/// What every connection shares.
pub(super) struct Context {
    pub(super) store: Store,
    pub(super) budget: Budget,
    pub(super) metrics: Arc<Metrics>,
    pub(super) siblings: Siblings,
    pub(super) session: SessionConfig,
    /// How many connections have something on its way, of all tasks.
    pub(super) under_way: Arc<AtomicUsize>,
    /// What waits for the link, while that is full.
    pub(super) crowd: Cell<Option<Crowd>>,
}

/// That something is on its way to a peer. It counts as long as it is held.
struct UnderWay(Arc<AtomicUsize>);

impl UnderWay {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(super) struct Connection {
    key: PeerKey,
    transport: Transport,
    /// Once the data channel is open.
    session: Option<Session>,
    metrics: Arc<ChannelMetrics>,
    created: Instant,
    address: Option<SocketAddr>,
    segments: LinearMap<RequestId, Reader, MAX_SEGMENTS>,
    share: Option<Share>,
    under_way: Option<UnderWay>,
    sibling: Option<BoxId>,
    /// What this box offered, until that is answered.
    offered: Option<String>,
    asks: Asks,
    told_of_bad_message: bool,
    segments_sent: u64,
    bytes_sent: u64,
    lacks: u64,
    stopping: bool,
}

/// Whether a connection goes on after it has been driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// It does.
    Open,
    /// It is over, for this reason.
    Over(&'static str),
}

impl Connection {
    /// Accepts an offer, of a viewer or of a sibling box. Gives the connection and its answer.
    ///
    /// # Errors
    /// What the WebRTC stack says about the offer.
    pub(super) fn answer(
        now: Instant,
        key: PeerKey,
        identity: Identity<'_>,
        offer: &str,
        sibling: Option<BoxId>,
        context: &Context,
    ) -> Result<(Self, String), RtcError> {
        let offer = Offer::read(offer);
        let (transport, answer) = Transport::answer(now, identity, offer.sdp, sibling.is_some())?;
        let mut connection = Self::new(now, key, transport, context);
        connection.sibling = sibling;
        for candidate in &offer.candidates {
            connection.candidate(candidate);
        }
        Ok((connection, offer.form.write(answer)))
    }

    /// Calls a peer that may be a sibling box. Gives the connection and its offer.
    ///
    /// # Errors
    /// What the WebRTC stack says.
    pub(super) fn call(
        now: Instant,
        key: PeerKey,
        identity: Identity<'_>,
        context: &Context,
    ) -> Result<(Self, String), RtcError> {
        let (transport, offer) = Transport::call(now, identity)?;
        let mut connection = Self::new(now, key, transport, context);
        connection.offered = Some(offer.clone());
        Ok((connection, offer))
    }

    /// Takes the answer to [`Self::call`] of a sibling that has proved to be one.
    ///
    /// # Errors
    /// What the WebRTC stack says about the answer.
    pub(super) fn answered(
        &mut self,
        now: Instant,
        sibling: BoxId,
        answer: &str,
    ) -> Result<(), RtcError> {
        self.offered = None;
        self.sibling = Some(sibling);
        self.transport.answered(now, answer.to_owned())
    }

    fn new(now: Instant, key: PeerKey, transport: Transport, context: &Context) -> Self {
        let metrics = context.metrics.channel(&key.channel);
        Self {
            key,
            transport,
            session: None,
            metrics,
            created: now,
            address: None,
            segments: LinearMap::new(),
            share: None,
            under_way: None,
            sibling: None,
            offered: None,
            asks: Asks::default(),
            told_of_bad_message: false,
            segments_sent: 0,
            bytes_sent: 0,
            lacks: 0,
            stopping: false,
        }
    }

    /// The sibling box at the other end, if it is one.
    pub(super) fn sibling(&self) -> Option<&BoxId> {
        self.sibling.as_ref()
    }

    /// The offer that waits for its answer, if this box called.
    pub(super) fn offered(&self) -> Option<&str> {
        self.offered.as_deref()
    }

    /// Asks the sibling for a segment.
    pub(super) fn ask(&mut self, now: Instant, ask: Ask, context: &Context) {
        if let Some((id, request)) = self.asks.add(ask) {
            self.input(now, Input::Ask(id, request), context);
        }
    }

    pub(super) fn created(&self) -> Instant {
        self.created
    }

    pub(super) fn is_open(&self) -> bool {
        self.session.is_some()
    }

    /// Whether a datagram of the viewer ever came.
    pub(super) fn is_reached(&self) -> bool {
        self.address.is_some()
    }

    pub(super) fn status(&self, now: Instant) -> PeerStatus {
        PeerStatus {
            channel: self.key.channel.clone(),
            id: self.key.peer.clone(),
            open: self.is_open(),
            address: self.address.map(|address| address.to_string()),
            age_seconds: now.saturating_duration_since(self.created).as_secs(),
            segments: self.segments_sent,
            bytes: self.bytes_sent,
            sibling: self.sibling.is_some(),
            lacks: self.lacks,
        }
    }

    /// Takes a candidate of the other end. Those of viewers are of no use: their checks come to us, as
    /// to every server with an address of its own (RFC 8445 section 2.5), and libdatachannel 0.24 does
    /// not begin its own for four seconds when one of ours arrives before our answer.
    pub(super) fn candidate(&mut self, candidate: &str) {
        if self.sibling.is_none() && self.offered.is_none() {
            return;
        }
        if let Err(error) = self.transport.candidate(candidate) {
            log::debug!("{}: a candidate is of no use: {error}", self.key);
        }
    }

    /// Takes a datagram.
    pub(super) fn datagram(&mut self, now: Instant, datagram: Datagram) {
        self.address = Some(datagram.from);
        if let Err(error) = self.transport.datagram(now, datagram) {
            log::debug!("{}: a datagram is of no use: {error}", self.key);
        }
    }

    /// Takes that the store may have what is held for.
    pub(super) fn store_changed(&mut self, now: Instant, context: &Context) {
        self.input(now, Input::StoreChanged, context);
    }

    /// Takes that the daemon stops.
    pub(super) fn stop(&mut self, now: Instant, context: &Context) {
        self.stopping = true;
        self.input(now, Input::Stop, context);
    }

    /// Whether a stop has something to wait for here.
    pub(super) fn is_sending(&mut self) -> bool {
        self.transport.outstanding() > 0 || self.session.as_ref().is_some_and(Session::is_sending)
    }

    /// Ends the connection; what there is to say about it is sent by the next [`Self::drive`].
    pub(super) fn close(&mut self) {
        if let Err(error) = self.transport.close() {
            log::debug!("{}: closing: {error}", self.key);
        }
    }

    /// Takes that time has passed.
    pub(super) fn timeout(&mut self, now: Instant) {
        if let Err(error) = self.transport.timeout(now) {
            log::debug!("{}: a timer: {error}", self.key);
        }
        if let Some(session) = &mut self.session {
            session.handle_timeout(now);
        }
    }

    /// When [`Self::timeout`] is due.
    pub(super) fn next_timeout(&mut self) -> Option<Instant> {
        let session = self.session.as_ref().and_then(Session::next_timeout);
        let transport = self.transport.next_timeout();
        [transport, session].into_iter().flatten().min()
    }

    /// Does everything that can be done now, but for sending segments: events, messages, answers,
    /// datagrams.
    pub(super) fn drive(&mut self, now: Instant, socket: &mut Socket, context: &Context) -> Life {
        let mut life = Life::Open;
        // Before anything new is sent: whoever asks at once is never seen to have everything.
        self.settle(now, context);
        loop {
            while let Some(heard) = self.transport.poll() {
                self.hear(now, heard, context, &mut life);
                self.outputs(now, context, &mut life);
                self.asks.packet = None;
            }
            let said = self.outputs(now, context, &mut life);
            while let Some(datagram) = self.transport.poll_datagram() {
                socket.queue(datagram);
            }
            // What was said may be an end, of which the stack has to say more.
            if !said {
                break;
            }
        }
        self.settle(now, context);
        life
    }

    /// By when the segment should be there of which [`Self::send`] would send something now.
    pub(super) fn deadline(&mut self) -> Option<Instant> {
        let outstanding = self.transport.outstanding();
        self.session.as_ref()?.deadline(outstanding)
    }

    /// Bytes of segments that are still to be sent.
    pub(super) fn promised(&self) -> usize {
        self.session.as_ref().map_or(0, Session::promised)
    }

    /// Sends the next packet of a segment.
    pub(super) fn send(&mut self, now: Instant, socket: &mut Socket, context: &Context) -> Life {
        let mut life = Life::Open;
        let outstanding = self.transport.outstanding();
        let session = self.session.as_mut();
        if let Some(Output::Packet(id, range)) =
            session.and_then(|session| session.next_packet(outstanding))
        {
            self.send_packet(now, id, range, context, &mut life);
        }
        match (life, self.drive(now, socket, context)) {
            (Life::Open, life) => life,
            (over, _) => over,
        }
    }

    fn hear(&mut self, now: Instant, heard: Heard, context: &Context, life: &mut Life) {
        match heard {
            Heard::Opened => {
                log::debug!("{}: channel open", self.key);
                self.session = Some(match &self.sibling {
                    Some(_) => {
                        let config = SessionConfig {
                            request_hold: SIBLING_HOLD,
                            ..context.session
                        };
                        Session::with_sibling(config, DELIVER_WITHIN)
                    }
                    None => Session::new(context.session),
                });
                if self.stopping {
                    self.input(now, Input::Stop, context);
                }
            }
            Heard::Text(text) => self.input(now, Input::Text(&text), context),
            Heard::Packet(packet) => {
                self.input(now, Input::Binary(packet.len()), context);
                self.asks.packet = Some(packet);
            }
            Heard::Over(why) => *life = Life::Over(why),
        }
    }

    fn input(&mut self, now: Instant, input: Input<'_>, context: &Context) {
        let current = self.current(context);
        if let Some(session) = &mut self.session {
            session.handle(now, input, current);
        }
    }

    /// Sees how far everything has come, and gives back the memory of what has arrived.
    fn settle(&mut self, now: Instant, context: &Context) {
        let outstanding = self.transport.outstanding();
        match outstanding {
            0 => self.under_way = None,
            _ if self.under_way.is_none() => {
                self.under_way = Some(UnderWay::new(&context.under_way))
            }
            _ => {}
        }
        let mine = usize::from(self.under_way.is_some());
        if let Some(session) = &mut self.session {
            let handed = self.transport.handed();
            let flight = Flight {
                delivered: handed.saturating_sub(outstanding as u64),
                outstanding,
                resent: self.transport.resent(),
                alone: context.under_way.load(Ordering::Relaxed) == mine,
            };
            session.settle(now, flight);
        }
        if self.segments.is_empty() && outstanding == 0 {
            self.share = None;
        }
    }

    /// Takes the memory that the window of the peer stands for; `false` when there is none.
    fn has_room(&mut self, context: &Context) -> bool {
        let window = self.session.as_ref().map_or(0, Session::window);
        let wanted = (COST * window).min(context.budget.total());
        let missing = match &self.share {
            Some(share) => wanted.saturating_sub(share.bytes()),
            None => wanted,
        };
        if missing == 0 {
            return true;
        }
        let Some(more) = context.budget.try_take(missing) else {
            return false;
        };
        match &mut self.share {
            Some(share) => share.join(more),
            None => self.share = Some(more),
        }
        true
    }

    /// The newest media sequence number that a viewer of this channel can get.
    fn current(&self, context: &Context) -> Option<MediaSequence> {
        context.store.newest(&self.key.channel)
    }
}
