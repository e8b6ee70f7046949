//! How a WebRTC connection is set up, as the one who answers and as the one who calls.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::Rng;
use rtc::dtls::cipher_suite::CipherSuiteId;
use rtc::peer_connection::configuration::RTCConfigurationBuilder;
use rtc::peer_connection::configuration::setting_engine::SettingEngineBuilder;
use rtc::peer_connection::sdp::RTCSessionDescription;
use rtc::peer_connection::transport::{
    CandidateConfig, CandidateHostConfig, RTCIceCandidate, RTCIceCandidateInit,
};
use rtc::peer_connection::{RTCPeerConnection, RTCPeerConnectionBuilder};
use rtc::shared::error::Error as RtcError;

use super::addresses::Hosts;
use super::clock::StackClock;

/// Silence after which a viewer is taken for gone: 5 s until ICE calls it disconnected (its
/// default), 5 s more until it has failed. A page that vanished frees its place that soon, and
/// Wi-Fi that roams (some 3 s) survives.
const ICE_DISCONNECTED: Duration = Duration::from_secs(5);
const ICE_FAILED: Duration = Duration::from_secs(5);

/// How often an open connection is checked; the default of ICE.
const ICE_KEEPALIVE: Duration = Duration::from_secs(2);

/// Interval of connectivity checks: opening takes several, and 20 ms halved the time to open
/// against the default of 200 ms (stack.md).
const ICE_CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// Checks of one candidate pair: 200 of 20 ms span the 4 s that the default spans.
const ICE_MAX_CHECKS: u16 = 200;

/// Bytes of a datagram that are not SCTP's: the headers of IPv4 and UDP, and of a DTLS record its
/// header, explicit nonce and tag (RFC 6347 section 4.1, RFC 5288 section 3).
const OVERHEAD: u32 = 20 + 8 + 13 + 8 + 16;

/// Sizes of SCTP packets. The least is the stack's default, which passes every network that IPv6
/// does. The more a packet holds, the less its bytes cost; the most fits into an Ethernet frame with
/// some room for a tunnel. What is too long for a network in between is fragmented by its router
/// ([`super::socket`]).
const PACKET_SIZES: std::ops::RangeInclusive<u32> = 1191..=1420 - OVERHEAD;

/// SCTP receive buffer. Viewers send us REQUESTs, no segments; one message of the size that we
/// announce (64 KiB) has to fit.
const VIEWER_RECEIVE_BUFFER: u32 = 128 * 1024;

/// The same of a sibling, who sends segments: four times what it has outstanding at most.
const SIBLING_RECEIVE_BUFFER: u32 = 1024 * 1024;

/// Bytes of a data channel's label, of which pages write 40 hexadecimal digits (protocol.md
/// section 3, "Connection").
const LABEL: usize = 20;

/// Under which names and addresses this box is reached.
#[derive(Clone, Copy)]
pub(super) struct Identity<'a> {
    /// Our ICE username fragment, and the password to it.
    pub(super) credentials: (&'a str, &'a str),
    pub(super) hosts: &'a Hosts,
}

/// Answers an offer. Gives the connection and the session description of the answer.
pub(super) fn answer(
    now: Instant,
    identity: Identity<'_>,
    offer: String,
    sibling: bool,
) -> Result<(RTCPeerConnection, String), RtcError> {
    let mut rtc = build(now, identity, sibling)?;
    rtc.set_remote_description(now, RTCSessionDescription::offer(offer)?)?;
    add_hosts(&mut rtc, identity)?;
    let answer = rtc.create_answer(None)?;
    rtc.set_local_description(now, answer)?;
    let sdp = described(&rtc)?;
    Ok((rtc, sdp))
}

/// Offers a connection with a data channel, as a child does. Gives the connection and the session
/// description of the offer.
pub(super) fn offer(
    now: Instant,
    identity: Identity<'_>,
) -> Result<(RTCPeerConnection, String), RtcError> {
    let mut rtc = build(now, identity, true)?;
    let label: [u8; LABEL] = rand::rng().random();
    let label: String = label.iter().map(|byte| format!("{byte:02x}")).collect();
    // Ordered and reliable is the default.
    rtc.create_data_channel(&label, None)?;
    let offer = rtc.create_offer(None)?;
    rtc.set_local_description(now, offer)?;
    add_hosts(&mut rtc, identity)?;
    let sdp = described(&rtc)?;
    Ok((rtc, sdp))
}

fn build(
    now: Instant,
    identity: Identity<'_>,
    sibling: bool,
) -> Result<RTCPeerConnection, RtcError> {
    let (ufrag, password) = identity.credentials;
    let receive_buffer = match sibling {
        true => SIBLING_RECEIVE_BUFFER,
        false => VIEWER_RECEIVE_BUFFER,
    };
    let settings = SettingEngineBuilder::new()
        .with_include_loopback_candidate(true)
        // The default (query) fails an offer where no multicast interface is up, and browsers'
        // .local candidates need not be resolved (stack.md, "Known traps").
        .with_multicast_dns_mode(rtc::ice::mdns::MulticastDnsMode::Disabled)
        .with_ice_timeouts(
            Some(StackClock::lasting(ICE_DISCONNECTED)),
            Some(StackClock::lasting(ICE_FAILED)),
            Some(StackClock::lasting(ICE_KEEPALIVE)),
        )
        .with_ice_connection_attempts(
            Some(StackClock::lasting(ICE_CHECK_INTERVAL)),
            Some(ICE_MAX_CHECKS),
        )
        .with_dtls_cipher_suites(ciphers().to_vec())
        .with_sctp_mtu(packet_size(identity.hosts))
        .with_sctp_max_receive_buffer_size(receive_buffer)
        .with_ice_credentials(ufrag.to_owned(), password.to_owned())
        .build();
    RTCPeerConnectionBuilder::new()
        .with_configuration(RTCConfigurationBuilder::new().build())
        .with_setting_engine(settings)
        .build(now)
}

fn packet_size(hosts: &Hosts) -> u32 {
    hosts
        .mtu
        .saturating_sub(OVERHEAD)
        .clamp(*PACKET_SIZES.start(), *PACKET_SIZES.end())
}

/// Bytes of a message in a datagram of full length: an SCTP packet without its header and that of
/// its chunk, in whole words (`with_sctp_mtu` of the stack).
pub(super) fn payload(identity: Identity<'_>) -> usize {
    ((packet_size(identity.hosts) - 12 - 16) / 4 * 4) as usize
}

/// The ciphers that are offered, the best one first: AES where the processor has instructions for it,
/// ChaCha20 where it has not, as in a Raspberry Pi 4, for it costs a fraction there. Both are for the
/// kind of certificate that the stack makes (ECDSA).
fn ciphers() -> [CipherSuiteId; 2] {
    let aes = CipherSuiteId::Tls_Ecdhe_Ecdsa_With_Aes_128_Gcm_Sha256;
    let chacha = CipherSuiteId::Tls_Ecdhe_Ecdsa_With_ChaCha20_Poly1305_Sha256;
    match has_aes() {
        true => [aes, chacha],
        false => [chacha, aes],
    }
}

#[cfg(target_arch = "x86_64")]
fn has_aes() -> bool {
    std::arch::is_x86_feature_detected!("aes")
}

#[cfg(target_arch = "aarch64")]
fn has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

/// Other processors are older and smaller.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has_aes() -> bool {
    false
}

fn add_hosts(rtc: &mut RTCPeerConnection, identity: Identity<'_>) -> Result<(), RtcError> {
    for host in &identity.hosts.addresses {
        rtc.add_local_candidate(host_candidate(*host)?)?;
    }
    Ok(())
}

fn described(rtc: &RTCPeerConnection) -> Result<String, RtcError> {
    let description = rtc
        .local_description()
        .ok_or_else(|| RtcError::Other("no session description was made".into()))?;
    Ok(description.sdp)
}

fn host_candidate(host: SocketAddr) -> Result<RTCIceCandidateInit, RtcError> {
    let candidate = CandidateHostConfig {
        base_config: CandidateConfig {
            network: "udp".into(),
            address: host.ip().to_string(),
            port: host.port(),
            component: 1,
            ..Default::default()
        },
        ..Default::default()
    }
    .new_candidate_host()?;
    RTCIceCandidate::from(&candidate).to_json()
}
