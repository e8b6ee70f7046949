//! The JSON text messages.

use std::fmt;

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
    /// `current`: the newest media sequence number that we hold.
    pub current: Option<MediaSequence>,
}

/// What a peer sent, as far as a holder of segments cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer is there.
    Keepalive,
    /// The answer to a KEEPALIVE of ours.
    KeepaliveAck,
    /// The peer asks for a segment.
    Request(Request),
    /// The peer closes the channel.
    Close,
    /// The peer met an error.
    Error,
    /// Something that later generations say (TRANSITION, DISPLACE, …) or that only a receiver
    /// cares for (BINARY, LACK): not ours, no fault.
    Other,
}

/// What we send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// KEEPALIVE
    Keepalive {
        /// The newest media sequence number that we hold.
        current: Option<MediaSequence>,
    },
    /// KEEPALIVE-ACK
    KeepaliveAck {
        /// The newest media sequence number that we hold.
        current: Option<MediaSequence>,
    },
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
    #[serde(default, deserialize_with = "lenient_sequence")]
    sn: Option<MediaSequence>,
}

/// `sn` as a number, a string holding one, or anything else (which then is no number at all).
fn lenient_sequence<'de, D: Deserializer<'de>>(de: D) -> Result<Option<MediaSequence>, D::Error> {
    let value = serde_json::Value::deserialize(de)?;
    let number = match &value {
        serde_json::Value::Number(number) => number.as_u64(),
        serde_json::Value::String(text) => text.parse().ok(),
        _ => None,
    };
    Ok(number.map(MediaSequence))
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
            "REQUEST" => Self::Request(Request {
                uri: incoming
                    .url
                    .map(|url| SegmentUri::from(url.as_ref()))
                    .ok_or(WireError::RequestWithoutUrl)?,
                sequence: incoming.sn,
            }),
            "CLOSE" => Self::Close,
            "ERROR" => Self::Error,
            _ => Self::Other,
        })
    }
}

#[derive(Serialize)]
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
}

impl Message {
    /// The JSON text of this message.
    pub fn to_text(&self) -> String {
        let mut out = Outgoing {
            event: "ERROR",
            attachments: None,
            url: None,
            sn: None,
            size: None,
            current: None,
        };
        match self {
            Self::Keepalive { current } => {
                out.event = "KEEPALIVE";
                out.current = *current;
            }
            Self::KeepaliveAck { current } => {
                out.event = "KEEPALIVE-ACK";
                out.current = *current;
            }
            Self::Binary(header) => {
                out.event = "BINARY";
                out.attachments = Some(header.attachments);
                out.url = Some(&header.request.uri);
                out.sn = header.request.sequence;
                out.size = Some(header.size);
                out.current = header.current;
            }
            Self::Lack(request) => {
                out.event = "LACK";
                out.url = Some(&request.uri);
                out.sn = request.sequence;
            }
            Self::Error => {}
        }
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
}
