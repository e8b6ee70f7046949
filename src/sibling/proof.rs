//! How two boxes prove to each other that they belong to the same operator (pure).
//!
//! The proof is an HMAC-SHA-256 (RFC 2104) with the operator's secret over everything that must
//! not be exchanged by whoever relays it: which of the two messages it is, the channel, the box,
//! and the session descriptions. The answer's proof covers the offer too. A session description
//! holds the fingerprint of its maker's DTLS certificate (RFC 8122), so that a proof stands for
//! exactly the connection that comes of it.

use std::fmt;
use std::sync::Arc;

use ring::hmac;

use crate::ids::{BoxId, ChannelId};

/// Least length of a secret, in bytes: whoever relays a proof could try short ones out.
pub const MIN_SECRET: usize = 16;

/// The operator's secret. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// What goes with an offer or answer between boxes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The box that made it.
    pub id: BoxId,
    /// The MAC, in hexadecimal.
    pub mac: String,
}

/// What a proof is about.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'a> {
    /// An offer.
    Offer {
        /// Its session description.
        offer: &'a str,
    },
    /// An answer.
    Answer {
        /// The session description that is answered.
        offer: &'a str,
        /// Its own.
        answer: &'a str,
    },
}

impl Secret {
    /// A secret of at least [`MIN_SECRET`] bytes; the configuration has seen to that.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    fn key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, self.0.as_bytes())
    }

    /// Proves that `subject` comes from the box `id`.
    pub fn prove(&self, channel: &ChannelId, id: &BoxId, subject: Subject<'_>) -> Proof {
        let tag = hmac::sign(&self.key(), &message(channel, id, subject));
        let mac = tag.as_ref().iter().map(|byte| format!("{byte:02x}"));
        Proof {
            id: id.clone(),
            mac: mac.collect(),
        }
    }

    /// Whether `proof` is right.
    pub fn accepts(&self, channel: &ChannelId, proof: &Proof, subject: Subject<'_>) -> bool {
        let Some(mac) = unhex(&proof.mac) else {
            return false;
        };
        // Takes the same time wherever the first difference is.
        hmac::verify(&self.key(), &message(channel, &proof.id, subject), &mac).is_ok()
    }
}

/// Every part with its length before it, so that no two different subjects read the same.
fn message(channel: &ChannelId, id: &BoxId, subject: Subject<'_>) -> Vec<u8> {
    let (kind, offer, answer) = match subject {
        Subject::Offer { offer } => ("edgeseed offer", offer, ""),
        Subject::Answer { offer, answer } => ("edgeseed answer", offer, answer),
    };
    let mut message = Vec::new();
    for part in [kind, channel.as_str(), id.as_str(), offer, answer] {
        message.extend_from_slice(&(part.len() as u64).to_be_bytes());
        message.extend_from_slice(part.as_bytes());
    }
    message
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits
        .chunks_exact(2)
        .map(|pair| {
            let pair = std::str::from_utf8(pair).ok()?;
            u8::from_str_radix(pair, 16).ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: Subject<'_> = Subject::Offer { offer: "v=0 offer" };
    const ANSWER: Subject<'_> = Subject::Answer {
        offer: "v=0 offer",
        answer: "v=0 answer",
    };

    fn channel() -> ChannelId {
        "http://o/live/index.m3u8".into()
    }

    fn proof(subject: Subject<'_>) -> Proof {
        Secret::new("sixteen letters!").prove(&channel(), &"a".into(), subject)
    }

    #[test]
    fn a_box_with_the_same_secret_is_believed() {
        let secret = Secret::new("sixteen letters!");
        for subject in [OFFER, ANSWER] {
            assert!(secret.accepts(&channel(), &proof(subject), subject));
        }
    }

    #[test]
    fn nothing_of_a_proof_can_be_exchanged() {
        let secret = Secret::new("sixteen letters!");
        let good = proof(ANSWER);
        let other_answer = Subject::Answer {
            offer: "v=0 offer",
            answer: "v=0 other",
        };
        let shifted = Subject::Answer {
            offer: "v=0 offerv=0",
            answer: " answer",
        };
        for subject in [OFFER, other_answer, shifted] {
            assert!(!secret.accepts(&channel(), &good, subject));
        }
        assert!(!secret.accepts(&"http://o/other.m3u8".into(), &good, ANSWER));
        let other_box = Proof {
            id: "b".into(),
            ..good.clone()
        };
        assert!(!secret.accepts(&channel(), &other_box, ANSWER));
        assert!(!Secret::new("another secret!!").accepts(&channel(), &good, ANSWER));
    }

    #[test]
    fn what_is_no_mac_proves_nothing() {
        let secret = Secret::new("sixteen letters!");
        for mac in ["", "0", "zz", "ü", "00"] {
            let bad = Proof {
                id: "a".into(),
                mac: mac.into(),
            };
            assert!(!secret.accepts(&channel(), &bad, OFFER), "{mac}");
        }
    }
}
