//! One WebRTC connection with its one data channel. Pure, as the stack below it is: datagrams and time
//! go in, datagrams and what the peer said come out.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use rtc::data_channel::{RTCDataChannel, RTCDataChannelId};
use rtc::peer_connection::RTCPeerConnection;
use rtc::peer_connection::event::{RTCDataChannelEvent, RTCPeerConnectionEvent};
use rtc::peer_connection::message::RTCMessage;
use rtc::peer_connection::sdp::RTCSessionDescription;
use rtc::peer_connection::state::{RTCIceConnectionState, RTCPeerConnectionState};
use rtc::peer_connection::transport::RTCIceCandidateInit;
use rtc::sansio::Protocol;
use rtc::shared::error::Error as RtcError;
use rtc::shared::{TaggedBytesMut, TransportContext, TransportProtocol};

use super::clock::StackClock;
use super::setup::{self, Identity};
use super::stun;

/// Candidates of one peer that are tried: a browser has one for each of its interfaces, and each
/// costs checks towards an address that the peer chose.
const MAX_CANDIDATES: u8 = 16;

pub(super) struct Transport {
    rtc: RTCPeerConnection,
    clock: StackClock,
    channel: Option<RTCDataChannelId>,
    /// Bytes of messages handed to the stack.
    handed: u64,
    resent: Resent,
    candidates: u8,
    nomination: Nomination,
}

/// What the peer did.
pub(super) enum Heard {
    /// Its data channel is open.
    Opened,
    /// It sent a text message.
    Text(Bytes),
    /// It sent a binary message.
    Packet(Bytes),
    /// The connection is over, for this reason.
    Over(&'static str),
}

/// A datagram on its way from one address to another.
#[derive(Clone)]
pub(super) struct Datagram {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) bytes: BytesMut,
}

/// Counts what is sent again, of which the stack tells nothing: bytes in datagrams beyond those of the
/// messages. A few for each message are the headers of chunks that share a datagram.
struct Resent {
    /// Bytes of a message in a datagram of full length.
    payload: usize,
    /// The length of the longest datagram so far.
    longest: usize,
    /// Datagrams so far, and their bytes.
    datagrams: u64,
    bytes: u64,
    /// The most that was ever counted: less is what the stack has not sent yet.
    most: u64,
}

/// The check by which the other end chooses an address, kept until the stack can follow it.
///
/// `rtc-ice` 0.21 neither answers nor remembers such a check if it comes before the answer to the
/// stack's own check of that address (RFC 8445 section 7.3.1.5 has it remembered), so that the
/// connection waits until the other end repeats it: half a second for libdatachannel. Here it is
/// shown to the stack again after each answer.
enum Nomination {
    Awaited,
    Seen(Datagram),
    /// The connection is made.
    Followed,
}

impl Transport {
    /// Accepts an offer. Gives the connection and its answer.
    ///
    /// # Errors
    /// What the WebRTC stack says about the offer.
    pub(super) fn answer(
        now: Instant,
        identity: Identity<'_>,
        offer: String,
        sibling: bool,
    ) -> Result<(Self, String), RtcError> {
        let (rtc, answer) = setup::answer(now, identity, offer, sibling)?;
        Ok((Self::new(now, rtc, identity), answer))
    }

    /// Calls a peer. Gives the connection and its offer.
    ///
    /// # Errors
    /// What the WebRTC stack says.
    pub(super) fn call(now: Instant, identity: Identity<'_>) -> Result<(Self, String), RtcError> {
        let (rtc, offer) = setup::offer(now, identity)?;
        Ok((Self::new(now, rtc, identity), offer))
    }

    fn new(now: Instant, rtc: RTCPeerConnection, identity: Identity<'_>) -> Self {
        Self {
            rtc,
            clock: StackClock::new(now),
            channel: None,
            handed: 0,
            resent: Resent {
                payload: setup::payload(identity),
                longest: 0,
                datagrams: 0,
                bytes: 0,
                most: 0,
            },
            candidates: 0,
            nomination: Nomination::Awaited,
        }
    }

    /// Takes the answer to [`Self::call`].
    ///
    /// # Errors
    /// What the WebRTC stack says about the answer.
    pub(super) fn answered(&mut self, now: Instant, answer: String) -> Result<(), RtcError> {
        let answer = RTCSessionDescription::answer(answer)?;
        self.rtc.set_remote_description(self.clock.at(now), answer)
    }

    /// Takes a candidate that the peer trickled. One with a hidden address (`.local`) need not be
    /// resolved: the peer's checks come in from its real one.
    ///
    /// # Errors
    /// What the WebRTC stack says about it.
    pub(super) fn candidate(&mut self, candidate: &str) -> Result<(), RtcError> {
        let candidate = candidate.strip_prefix("a=").unwrap_or(candidate);
        if candidate.is_empty() || candidate.contains(".local") || self.candidates >= MAX_CANDIDATES
        {
            return Ok(());
        }
        self.candidates += 1;
        self.rtc.add_remote_candidate(RTCIceCandidateInit {
            candidate: candidate.to_owned(),
            ..Default::default()
        })
    }

    /// Takes a datagram.
    ///
    /// # Errors
    /// What the WebRTC stack says about it.
    pub(super) fn datagram(&mut self, now: Instant, datagram: Datagram) -> Result<(), RtcError> {
        if matches!(self.nomination, Nomination::Followed) || !stun::is_stun(&datagram.bytes) {
            return self.read(now, datagram);
        }
        if stun::nominates(&datagram.bytes) {
            self.nomination = Nomination::Seen(datagram.copy());
            return self.read(now, datagram);
        }
        self.read(now, datagram)?;
        match &self.nomination {
            Nomination::Seen(check) => self.read(now, check.copy()),
            Nomination::Awaited | Nomination::Followed => Ok(()),
        }
    }

    fn read(&mut self, now: Instant, datagram: Datagram) -> Result<(), RtcError> {
        self.rtc.handle_read(TaggedBytesMut {
            now: self.clock.at(now),
            transport: TransportContext {
                local_addr: datagram.to,
                peer_addr: datagram.from,
                ecn: None,
                transport_protocol: TransportProtocol::UDP,
            },
            message: datagram.bytes,
        })
    }

    /// Takes that time has passed.
    ///
    /// # Errors
    /// What the WebRTC stack says.
    pub(super) fn timeout(&mut self, now: Instant) -> Result<(), RtcError> {
        self.rtc.handle_timeout(self.clock.at(now))
    }

    /// When [`Self::timeout`] is due.
    pub(super) fn next_timeout(&mut self) -> Option<Instant> {
        Some(self.clock.when(self.rtc.poll_timeout()?))
    }

    /// The next datagram to be sent.
    pub(super) fn poll_datagram(&mut self) -> Option<Datagram> {
        let datagram = self.rtc.poll_write()?;
        self.resent.sent(&datagram.message);
        Some(Datagram {
            from: datagram.transport.local_addr,
            to: datagram.transport.peer_addr,
            bytes: datagram.message,
        })
    }

    /// The next thing that the peer did.
    pub(super) fn poll(&mut self) -> Option<Heard> {
        while let Some(event) = self.rtc.poll_event() {
            if let Some(heard) = self.event(event) {
                return Some(heard);
            }
        }
        while let Some(message) = self.rtc.poll_read() {
            if let RTCMessage::DataChannelMessage(id, message) = message.message
                && self.channel == Some(id)
            {
                let bytes = message.data.freeze();
                return Some(match message.is_string {
                    true => Heard::Text(bytes),
                    false => Heard::Packet(bytes),
                });
            }
        }
        None
    }

    fn event(&mut self, event: RTCPeerConnectionEvent) -> Option<Heard> {
        match event {
            RTCPeerConnectionEvent::OnDataChannel(RTCDataChannelEvent::OnOpen(id)) => {
                if self.channel.is_none() {
                    self.channel = Some(id);
                    return Some(Heard::Opened);
                }
                if let Some(mut extra) = self.rtc.data_channel(id) {
                    // One channel is the protocol; more are more memory.
                    let _ = extra.close();
                }
                None
            }
            RTCPeerConnectionEvent::OnDataChannel(RTCDataChannelEvent::OnClose(id))
                if self.channel == Some(id) =>
            {
                Some(Heard::Over("the viewer closed its channel"))
            }
            RTCPeerConnectionEvent::OnIceConnectionStateChangeEvent(
                RTCIceConnectionState::Connected,
            ) => {
                self.nomination = Nomination::Followed;
                None
            }
            RTCPeerConnectionEvent::OnConnectionStateChangeEvent(state) => match state {
                RTCPeerConnectionState::Failed => Some(Heard::Over("the viewer is gone")),
                RTCPeerConnectionState::Closed => Some(Heard::Over("the connection is closed")),
                _ => None,
            },
            _ => None,
        }
    }

    /// Bytes of messages that were handed over, all in all.
    pub(super) fn handed(&self) -> u64 {
        self.handed
    }

    /// Bytes of messages that were handed over and have not been acknowledged.
    pub(super) fn outstanding(&mut self) -> usize {
        self.open().map_or(0, |channel| channel.outstanding_bytes())
    }

    /// Bytes that were sent again, give or take some for each message.
    pub(super) fn resent(&mut self) -> u64 {
        self.resent.beyond(self.handed)
    }

    /// Sends a text message.
    ///
    /// # Errors
    /// What the WebRTC stack says, such as that the channel is closed.
    pub(super) fn send_text(&mut self, now: Instant, text: String) -> Result<(), RtcError> {
        let (at, bytes) = (self.clock.at(now), text.len() as u64);
        let mut channel = self.open().ok_or(RtcError::ErrDataChannelClosed)?;
        channel.send_text(at, text)?;
        self.handed += bytes;
        Ok(())
    }

    /// Sends a binary message.
    ///
    /// # Errors
    /// As [`Self::send_text`].
    pub(super) fn send_packet(&mut self, now: Instant, packet: BytesMut) -> Result<(), RtcError> {
        let (at, bytes) = (self.clock.at(now), packet.len() as u64);
        let mut channel = self.open().ok_or(RtcError::ErrDataChannelClosed)?;
        channel.send(at, packet)?;
        self.handed += bytes;
        Ok(())
    }

    fn open(&mut self) -> Option<RTCDataChannel<'_>> {
        self.rtc.data_channel(self.channel?)
    }

    /// Ends the connection; [`Self::poll_datagram`] gives what there is to say about it.
    ///
    /// # Errors
    /// What the WebRTC stack says.
    pub(super) fn close(&mut self) -> Result<(), RtcError> {
        self.rtc.close()
    }
}

impl Resent {
    fn sent(&mut self, datagram: &[u8]) {
        // What is neither a check nor a handshake (RFC 6347 section 4.1).
        const APPLICATION_DATA: u8 = 23;
        if datagram.first() == Some(&APPLICATION_DATA) {
            self.longest = self.longest.max(datagram.len());
            self.datagrams += 1;
            self.bytes += datagram.len() as u64;
        }
    }

    fn beyond(&mut self, handed: u64) -> u64 {
        if let Some(headers) = self.longest.checked_sub(self.payload) {
            let needed = handed + self.datagrams * headers as u64;
            self.most = self.most.max(self.bytes.saturating_sub(needed));
        }
        self.most
    }
}

impl Datagram {
    pub(super) fn copy(&self) -> Self {
        Self {
            from: self.from,
            to: self.to,
            bytes: self.bytes.clone(),
        }
    }
}
