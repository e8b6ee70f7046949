//! The JSON text messages.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use crate::ids::{MediaSequence, SegmentUri};

/// Bytes of a text message that are looked at. The longest legitimate one is a REQUEST with a
/// signed URI, some 2 KiB; 16 KiB leaves room for the unknown fields of later clients.
pub const MAX_TEXT: usize = 16 * 1024;

/// Which segment a peer asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `url`: the URI as the playlist writes it. It only names what may already be in the store;
    /// nothing is ever fetched because of it.
    pub uri: SegmentUri,
    /// `sn`. A wrong one does no harm (protocol.md section 3), so a missing one is taken too.
    pub sequence: Option<MediaSequence>,
    /// Only in what one box asks of another.
    pub claim: Option<Claim>,
}

impl Request {
    /// Whether `other` names the same segment; BINARY and LACK echo nothing else.
    pub fn is_for_same(&self, other: &Self) -> bool {
        (&self.uri, self.sequence) == (&other.uri, other.sequence)
    }
}

/// What a box adds to a REQUEST so that another one can tell whether both mean the same bytes by
/// the same name: an addition of ours to the protocol, which others ignore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// `playlist`: the address of the media playlist that lists the segment, as the asker's
    /// configuration has it; that of a variant without its query.
    pub playlist: String,
    /// `epoch_age`, in milliseconds: since when the asker has followed this playlist without the
    /// encoder starting anew. Who has not looked at the playlist since may hold an older segment
    /// of the same name.
    pub epoch_age: Duration,
}

/// Announces the packets of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BinaryHeader {
    /// The request this answers; its `url` and `sn` are echoed exactly.
    pub request: Request,
    /// `attachments`: how many packets follow.
    pub attachments: usize,
    /// `size`: bytes of the whole segment.
    pub size: usize,
    /// `current`: the newest media sequence number that the holder has.
    pub current: Option<MediaSequence>,
    /// `crc32c` of the whole segment, only from one box to another: an addition of ours.
    pub crc32c: Option<u32>,
}

/// What a peer sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer is there.
    Keepalive,
    /// The answer to a KEEPALIVE of ours.
    KeepaliveAck,
    /// The peer asks for a segment.
    Request(Request),
    /// The peer sends a segment; its packets follow.
    Binary(BinaryHeader),
    /// The peer does not have the segment.
    Lack(Request),
    /// The peer closes the channel.
    Close,
    /// The peer met an error.
    Error,
    /// Something that later generations say (TRANSITION, DISPLACE, …), or a BINARY or LACK that
    /// lacks what it needs: of no use, no fault.
    Other,
}

/// What we send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// KEEPALIVE-ACK; a KEEPALIVE of ours there is none.
    KeepaliveAck {
        /// The newest media sequence number that we hold.
        current: Option<MediaSequence>,
    },
    /// REQUEST
    Request(Request),
    /// BINARY
    Binary(BinaryHeader),
    /// LACK: the segment is not here.
    Lack(Request),
    /// ERROR: we give this channel up.
    Error,
}

/// Why a text message could not be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// Longer than [`MAX_TEXT`]; holds its length in bytes.
    TooLong(usize),
    /// Not a JSON object with an `event`.
    NotAMessage,
    /// A REQUEST without `url`.
    RequestWithoutUrl,
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(len) => write!(
                f,
                "a text message of {len} bytes, more than the {MAX_TEXT} that any message needs"
            ),
            Self::NotAMessage => f.write_str("a text message that is no JSON object with an event"),
            Self::RequestWithoutUrl => f.write_str("a REQUEST without a url"),
        }
    }
}

impl std::error::Error for WireError {}

#[derive(Deserialize)]
struct Incoming<'a> {
    #[serde(borrow)]
    event: std::borrow::Cow<'a, str>,
    #[serde(default, borrow)]
    url: Option<std::borrow::Cow<'a, str>>,
    #[serde(default, deserialize_with = "lenient_number")]
    sn: Option<u64>,
    #[serde(default, deserialize_with = "lenient_number")]
    attachments: Option<u64>,
    #[serde(default, deserialize_with = "lenient_number")]
    size: Option<u64>,
    #[serde(default, deserialize_with = "lenient_number")]
    current: Option<u64>,
    #[serde(default, deserialize_with = "lenient_number")]
    crc32c: Option<u64>,
    #[serde(default, deserialize_with = "lenient_text")]
    playlist: Option<String>,
    #[serde(default, deserialize_with = "lenient_number")]
    epoch_age: Option<u64>,
}

/// A number as such, a string holding one, or anything else (which then is no number at all).
fn lenient_number<'de, D: Deserializer<'de>>(de: D) -> Result<Option<u64>, D::Error> {
    let value = serde_json::Value::deserialize(de)?;
    Ok(match &value {
        serde_json::Value::Number(number) => number.as_u64(),
        serde_json::Value::String(text) => text.parse().ok(),
        _ => None,
    })
}

fn lenient_text<'de, D: Deserializer<'de>>(de: D) -> Result<Option<String>, D::Error> {
    match serde_json::Value::deserialize(de)? {
        serde_json::Value::String(text) => Ok(Some(text)),
        _ => Ok(None),
    }
}

impl Incoming<'_> {
    fn request(self) -> Option<Request> {
        let claim = self.playlist.zip(self.epoch_age);
        Some(Request {
            uri: SegmentUri::from(self.url?.as_ref()),
            sequence: self.sn.map(MediaSequence),
            claim: claim.map(|(playlist, millis)| Claim {
                playlist,
                epoch_age: Duration::from_millis(millis),
            }),
        })
    }

    fn header(self) -> Option<BinaryHeader> {
        Some(BinaryHeader {
            attachments: usize::try_from(self.attachments?).ok()?,
            size: usize::try_from(self.size?).ok()?,
            current: self.current.map(MediaSequence),
            crc32c: self.crc32c.and_then(|crc| u32::try_from(crc).ok()),
            request: self.request()?,
        })
    }
}

impl Event {
    /// Reads one text message.
    ///
    /// # Errors
    /// [`WireError`] when it is no message of the protocol, of whatever generation.
    pub fn parse(text: &[u8]) -> Result<Self, WireError> {
        if text.len() > MAX_TEXT {
            return Err(WireError::TooLong(text.len()));
        }
        let incoming: Incoming<'_> =
            serde_json::from_slice(text).map_err(|_| WireError::NotAMessage)?;
        Ok(match incoming.event.as_ref() {
            "KEEPALIVE" => Self::Keepalive,
            "KEEPALIVE-ACK" => Self::KeepaliveAck,
            "REQUEST" => Self::Request(incoming.request().ok_or(WireError::RequestWithoutUrl)?),
            "BINARY" => incoming.header().map_or(Self::Other, Self::Binary),
            "LACK" => incoming.request().map_or(Self::Other, Self::Lack),
            "CLOSE" => Self::Close,
            "ERROR" => Self::Error,
            _ => Self::Other,
        })
    }
}

#[derive(Default, Serialize)]
struct Outgoing<'a> {
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    attachments: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<&'a SegmentUri>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sn: Option<MediaSequence>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    current: Option<MediaSequence>,
    #[serde(skip_serializing_if = "Option::is_none")]
    crc32c: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    playlist: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch_age: Option<u128>,
}

impl Message {
    /// The JSON text of this message.
    pub fn to_text(&self) -> String {
        let out = match self {
            Self::KeepaliveAck { current } => Outgoing {
                event: "KEEPALIVE-ACK",
                current: *current,
                ..Default::default()
            },
            Self::Request(request) => Outgoing {
                event: "REQUEST",
                url: Some(&request.uri),
                sn: request.sequence,
                playlist: request.claim.as_ref().map(|claim| claim.playlist.as_str()),
                epoch_age: request.claim.as_ref().map(|c| c.epoch_age.as_millis()),
                ..Default::default()
            },
            Self::Binary(header) => Outgoing {
                event: "BINARY",
                attachments: Some(header.attachments),
                url: Some(&header.request.uri),
                sn: header.request.sequence,
                size: Some(header.size),
                current: header.current,
                crc32c: header.crc32c,
                ..Default::default()
            },
            Self::Lack(request) => Outgoing {
                event: "LACK",
                url: Some(&request.uri),
                sn: request.sequence,
                ..Default::default()
            },
            Self::Error => Outgoing {
                event: "ERROR",
                ..Default::default()
            },
        };
        // A struct of strings and numbers has a JSON form whatever it holds.
        serde_json::to_string(&out).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, sn: Option<u64>) -> Request {
        Request {
            uri: uri.into(),
            sequence: sn.map(MediaSequence),
            claim: None,
        }
    }

    #[test]
    fn a_request_is_read_in_any_key_order_and_with_unknown_fields() {
        let text =
            br#"{"sn":112,"x":{"y":[1]},"url":"seg_112.ts?token=a%2Fb&x=1","event":"REQUEST"}"#;
        assert_eq!(
            Event::parse(text),
            Ok(Event::Request(request(
                "seg_112.ts?token=a%2Fb&x=1",
                Some(112)
            )))
        );
    }

    #[test]
    fn a_request_without_a_usable_sn_is_still_a_request() {
        for sn in ["null", "-1", "1.5", "\"x\"", "{}"] {
            let text = format!(r#"{{"event":"REQUEST","url":"a.ts","sn":{sn}}}"#);
            assert_eq!(
                Event::parse(text.as_bytes()),
                Ok(Event::Request(request("a.ts", None))),
                "{sn}"
            );
        }
        assert_eq!(
            Event::parse(br#"{"event":"REQUEST","url":"a.ts","sn":"7"}"#),
            Ok(Event::Request(request("a.ts", Some(7))))
        );
    }

    #[test]
    fn events_of_other_generations_are_no_fault() {
        for event in ["TRANSITION", "DISPLACE", "BINARY", "LACK", ""] {
            let text = format!(r#"{{"event":"{event}"}}"#);
            assert_eq!(Event::parse(text.as_bytes()), Ok(Event::Other));
        }
    }

    #[test]
    fn what_is_no_message_is_refused_with_a_reason() {
        for text in [
            "",
            "hello",
            "[]",
            "42",
            "{}",
            r#"{"event":5}"#,
            "{\"event\":\"CLOSE\"",
        ] {
            assert_eq!(
                Event::parse(text.as_bytes()),
                Err(WireError::NotAMessage),
                "{text}"
            );
        }
        assert_eq!(
            Event::parse(br#"{"event":"REQUEST","sn":1}"#),
            Err(WireError::RequestWithoutUrl)
        );
        let long = vec![b' '; MAX_TEXT + 1];
        assert_eq!(Event::parse(&long), Err(WireError::TooLong(MAX_TEXT + 1)));
        assert_eq!(Event::parse(&[0xff, 0xfe]), Err(WireError::NotAMessage));
    }

    #[test]
    fn binary_echoes_the_request_and_announces_its_packets() {
        let text = Message::Binary(BinaryHeader {
            request: request("seg_1.ts?t=ü\"", Some(1)),
            attachments: 3,
            size: 150_000,
            current: Some(MediaSequence(5)),
            crc32c: None,
        })
        .to_text();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "event": "BINARY", "attachments": 3, "url": "seg_1.ts?t=ü\"",
                "sn": 1, "size": 150_000, "current": 5
            })
        );
    }

    #[test]
    fn lack_names_the_segment_and_nothing_else() {
        assert_eq!(
            Message::Lack(request("a.ts", Some(9))).to_text(),
            r#"{"event":"LACK","url":"a.ts","sn":9}"#
        );
    }

    #[test]
    fn what_one_box_writes_another_reads() {
        let request = Request {
            claim: Some(Claim {
                playlist: "http://o/live/index.m3u8".into(),
                epoch_age: Duration::from_millis(90_500),
            }),
            ..request("seg_1.ts?t=1", Some(1))
        };
        let text = Message::Request(request.clone()).to_text();
        assert_eq!(
            Event::parse(text.as_bytes()),
            Ok(Event::Request(request.clone()))
        );
        let header = BinaryHeader {
            request: Request {
                claim: None,
                ..request
            },
            attachments: 2,
            size: 100_000,
            current: None,
            crc32c: Some(u32::MAX),
        };
        let text = Message::Binary(header.clone()).to_text();
        assert_eq!(Event::parse(text.as_bytes()), Ok(Event::Binary(header)));
    }

    #[test]
    fn a_claim_of_another_kind_is_none() {
        for claim in [
            r#""playlist":5,"epoch_age":1"#,
            r#""playlist":"x","epoch_age":-1"#,
        ] {
            let text = format!(r#"{{"event":"REQUEST","url":"a.ts",{claim}}}"#);
            assert_eq!(
                Event::parse(text.as_bytes()),
                Ok(Event::Request(request("a.ts", None))),
                "{claim}"
            );
        }
    }
}
