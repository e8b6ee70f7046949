//! One viewer: its WebRTC connection, its session, and the segments that it is being sent.

mod exchange;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use heapless::LinearMap;
use rtc::data_channel::RTCDataChannelId;
use rtc::peer_connection::RTCPeerConnection;
use rtc::peer_connection::event::{RTCDataChannelEvent, RTCPeerConnectionEvent};
use rtc::peer_connection::message::RTCMessage;
use rtc::peer_connection::sdp::RTCSessionDescription;
use rtc::peer_connection::state::RTCPeerConnectionState;
use rtc::peer_connection::transport::RTCIceCandidateInit;
use rtc::sansio::Protocol;
use rtc::shared::error::Error as RtcError;
use rtc::shared::{TaggedBytesMut, TransportContext, TransportProtocol};

use super::asks::Asks;
use super::sdp::Offer;
use super::setup::{self, Identity};
use super::socket::Socket;
use super::{PeerKey, PeerStatus};
use crate::budget::{Budget, Share};
use crate::ids::{BoxId, MediaSequence};
use crate::metrics::{ChannelMetrics, Metrics};
use crate::session::{Input, RequestId, Session, SessionConfig};
use crate::sibling::{Ask, DELIVER_WITHIN, Siblings};
use crate::store::{Reader, Store};

/// Segments that a session can hold on to: one being sent and those that are ready and wait.
const MAX_SEGMENTS: usize = 16;

/// How long a REQUEST of a sibling is held: a little less than it waits ([`DELIVER_WITHIN`]), so that
/// it hears LACK, and does not take a box whose origin is slow for one that is dead.
const SIBLING_HOLD: Duration = Duration::from_millis(900);

/// Candidates of one viewer that are tried: a browser has one for each of its interfaces, and each
/// costs checks towards an address that the viewer chose.
const MAX_CANDIDATES: u8 = 16;

/// What every connection shares.
pub(super) struct Context {
    pub(super) store: Store,
    pub(super) budget: Budget,
    pub(super) metrics: Arc<Metrics>,
    pub(super) siblings: Siblings,
    pub(super) session: SessionConfig,
}

pub(super) struct Connection {
    key: PeerKey,
    rtc: RTCPeerConnection,
    channel: Option<Channel>,
    metrics: Arc<ChannelMetrics>,
    created: Instant,
    /// How far the stack's clock is ahead of ours.
    ahead: Duration,
    address: Option<SocketAddr>,
    segments: LinearMap<RequestId, Reader, MAX_SEGMENTS>,
    share: Option<Share>,
    sibling: Option<BoxId>,
    /// What this box offered, until that is answered.
    offered: Option<String>,
    asks: Asks,
    told_of_bad_message: bool,
    candidates: u8,
    segments_sent: u64,
    bytes_sent: u64,
    lacks: u64,
    stopping: bool,
}

struct Channel {
    id: RTCDataChannelId,
    session: Session,
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
        let (rtc, answer) = setup::answer(now, identity, offer.sdp, sibling.is_some())?;
        let mut connection = Self::new(now, key, rtc, context);
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
        let (rtc, offer) = setup::offer(now, identity)?;
        let mut connection = Self::new(now, key, rtc, context);
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
        self.rtc
            .set_remote_description(now, RTCSessionDescription::answer(answer.to_owned())?)
    }

    fn new(now: Instant, key: PeerKey, rtc: RTCPeerConnection, context: &Context) -> Self {
        let metrics = context.metrics.channel(&key.channel);
        Self {
            key,
            rtc,
            channel: None,
            metrics,
            created: now,
            ahead: Duration::ZERO,
            address: None,
            segments: LinearMap::new(),
            share: None,
            sibling: None,
            offered: None,
            asks: Asks::default(),
            told_of_bad_message: false,
            candidates: 0,
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
        self.channel.is_some()
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

    /// Takes a candidate that the viewer trickled. One with a hidden address (`.local`) need not
    /// be resolved: the viewer's checks come in from its real one.
    pub(super) fn candidate(&mut self, candidate: &str) {
        let candidate = candidate.strip_prefix("a=").unwrap_or(candidate);
        if candidate.is_empty() || candidate.contains(".local") || self.candidates >= MAX_CANDIDATES
        {
            return;
        }
        self.candidates += 1;
        let init = RTCIceCandidateInit {
            candidate: candidate.to_owned(),
            ..Default::default()
        };
        if let Err(error) = self.rtc.add_remote_candidate(init) {
            log::debug!("{}: a candidate is of no use: {error}", self.key);
        }
    }

    /// Takes a datagram.
    pub(super) fn datagram(
        &mut self,
        now: Instant,
        from: SocketAddr,
        to: SocketAddr,
        bytes: &[u8],
    ) {
        self.address = Some(from);
        let read = self.rtc.handle_read(TaggedBytesMut {
            now: now + self.ahead,
            transport: TransportContext {
                local_addr: to,
                peer_addr: from,
                ecn: None,
                transport_protocol: TransportProtocol::UDP,
            },
            message: BytesMut::from(bytes),
        });
        if let Err(error) = read {
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
        self.outstanding() > 0
            || self
                .channel
                .as_ref()
                .is_some_and(|channel| channel.session.is_sending())
    }

    /// Ends the connection; what there is to say about it is sent by the next [`Self::drive`].
    pub(super) fn close(&mut self) {
        if let Err(error) = self.rtc.close() {
            log::debug!("{}: closing: {error}", self.key);
        }
    }

    /// Takes that time has passed.
    pub(super) fn timeout(&mut self, now: Instant) {
        self.stack_timeout(now);
        if let Some(channel) = &mut self.channel {
            channel.session.handle_timeout(now);
        }
    }

    fn stack_timeout(&mut self, now: Instant) {
        if let Err(error) = self.rtc.handle_timeout(now + self.ahead) {
            log::debug!("{}: a timer: {error}", self.key);
        }
    }

    /// When [`Self::timeout`] is due.
    pub(super) fn next_timeout(&mut self) -> Option<Instant> {
        let session = self
            .channel
            .as_ref()
            .and_then(|channel| channel.session.next_timeout());
        let stack = self.rtc.poll_timeout();
        let stack = stack.map(|at| at.checked_sub(self.ahead).unwrap_or(at));
        [stack, session].into_iter().flatten().min()
    }

    /// Does everything that can be done now: events, messages, answers, packets, datagrams.
    pub(super) async fn drive(
        &mut self,
        now: Instant,
        socket: &mut Socket,
        context: &Context,
    ) -> Life {
        let mut life = Life::Open;
        loop {
            while let Some(datagram) = self.rtc.poll_write() {
                let transport = datagram.transport;
                socket
                    .queue(transport.local_addr, transport.peer_addr, &datagram.message)
                    .await;
            }
            let mut progress = false;
            while let Some(event) = self.rtc.poll_event() {
                progress = true;
                if let Life::Over(why) = self.event(event, context) {
                    life = Life::Over(why);
                }
            }
            while let Some(message) = self.rtc.poll_read() {
                progress = true;
                if let RTCMessage::DataChannelMessage(id, message) = message.message
                    && self.channel.as_ref().is_some_and(|c| c.id == id)
                {
                    if message.is_string {
                        self.input(now, Input::Text(&message.data), context);
                    } else {
                        self.input(now, Input::Binary(message.data.len()), context);
                        self.asks.packet = Some(message.data.freeze());
                    }
                    progress |= self.outputs(now, context, &mut life);
                    self.asks.packet = None;
                }
            }
            progress |= self.outputs(now, context, &mut life);
            if !progress {
                self.settle(now, context);
                if !self.outputs(now, context, &mut life) {
                    break;
                }
            }
        }
        if self.segments.is_empty() && self.share.is_some() && self.outstanding() == 0 {
            self.share = None;
        }
        life
    }

    fn event(&mut self, event: RTCPeerConnectionEvent, context: &Context) -> Life {
        match event {
            RTCPeerConnectionEvent::OnDataChannel(RTCDataChannelEvent::OnOpen(id)) => {
                if self.channel.is_none() {
                    log::debug!("{}: channel open", self.key);
                    let session = match &self.sibling {
                        Some(_) => {
                            let config = SessionConfig {
                                request_hold: SIBLING_HOLD,
                                ..context.session
                            };
                            Session::with_sibling(config, DELIVER_WITHIN)
                        }
                        None => Session::new(context.session),
                    };
                    self.channel = Some(Channel { id, session });
                } else if let Some(mut extra) = self.rtc.data_channel(id) {
                    // One channel is the protocol; more are more memory.
                    let _ = extra.close();
                }
                Life::Open
            }
            RTCPeerConnectionEvent::OnDataChannel(RTCDataChannelEvent::OnClose(id))
                if self.channel.as_ref().is_some_and(|c| c.id == id) =>
            {
                Life::Over("the viewer closed its channel")
            }
            RTCPeerConnectionEvent::OnConnectionStateChangeEvent(state) => match state {
                RTCPeerConnectionState::Failed => Life::Over("the viewer is gone"),
                RTCPeerConnectionState::Closed => Life::Over("the connection is closed"),
                _ => Life::Open,
            },
            _ => Life::Open,
        }
    }

    fn input(&mut self, now: Instant, input: Input<'_>, context: &Context) {
        let current = self.current(context);
        if let Some(channel) = &mut self.channel {
            channel.session.handle(now, input, current);
        }
    }

    fn settle(&mut self, now: Instant, context: &Context) {
        let (current, outstanding) = (self.current(context), self.outstanding());
        if let Some(channel) = &mut self.channel {
            channel.session.settle(now, outstanding, current);
        }
    }

    /// The newest media sequence number that a viewer of this channel can get.
    fn current(&self, context: &Context) -> Option<MediaSequence> {
        context.store.newest(&self.key.channel)
    }
}
