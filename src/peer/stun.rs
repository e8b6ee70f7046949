//! What a STUN message (RFC 8489) tells before it belongs to a connection.

use rtc::stun::attributes::{ATTR_USE_CANDIDATE, ATTR_USERNAME};
use rtc::stun::message::{BINDING_REQUEST, Message, is_stun_message};

/// Whether this datagram is a STUN message.
pub(super) fn is_stun(datagram: &[u8]) -> bool {
    is_stun_message(datagram)
}

/// The username fragment of ours that a connectivity check names: its USERNAME is `ours:theirs`
/// (RFC 8445 section 7.2.2).
pub(super) fn local_ufrag(datagram: &[u8]) -> Option<String> {
    let username = message(datagram)?.get(ATTR_USERNAME).ok()?;
    let username = std::str::from_utf8(&username).ok()?;
    username.split(':').next().map(str::to_owned)
}

/// Whether this is a check by which the other end chooses the address (RFC 8445 section 7.1.2).
pub(super) fn nominates(datagram: &[u8]) -> bool {
    message(datagram).is_some_and(|message| {
        message.typ == BINDING_REQUEST && message.contains(ATTR_USE_CANDIDATE)
    })
}

fn message(datagram: &[u8]) -> Option<Message> {
    if !is_stun(datagram) {
        return None;
    }
    let mut message = Message::new();
    message.raw = datagram.to_vec();
    message.decode().ok()?;
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_stun_check_names_nobody() {
        for datagram in [&[][..], &[0x16, 0xfe, 0xfd, 0, 0], &[0; 20]] {
            assert_eq!(local_ufrag(datagram), None);
            assert!(!nominates(datagram));
        }
    }
}
