//! The messages between a peer and the signalling server (protocol.md sections 2 and 3). Strict
//! in what we send (the seed's fields), tolerant in what we accept: any order of keys, unknown
//! fields and actions, ids as strings or integers, a level as number or string.
//!
//! `Ok(None)` from a reader means: well-formed, and nothing that concerns us.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::ids::{ChannelId, PeerId};

/// Bytes of one message at most, in both directions: an offer has about 500 bytes, a session
/// description with every candidate of a machine with many interfaces a few thousand.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// Bytes of the `data` of a signal that we relay: four times a session description with many
/// candidates, so that no peer fills another's outbox with a few messages.
pub const MAX_DATA: usize = 16 * 1024;

/// Bytes of a peer id at most; 300 characters were seen (protocol.md section 3).
pub const MAX_ID: usize = 1024;

/// Bytes of a channel id at most: a URL without its query.
pub const MAX_CHANNEL: usize = 4096;

/// Bytes of a shared token at most: several times what anybody generates.
pub const MAX_TOKEN: usize = 256;

/// From a peer to the server. `channel` is what field clients add to every message; only `enter`
/// needs it. Servers know the sender by its socket.
#[derive(Debug, Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum ClientMessage {
    /// Asks for a place in a channel; answered with `accept` or `reject`.
    Enter {
        /// Which channel.
        channel: ChannelId,
        /// What a server may ask for before it lets anybody in; ours does with `[signal-server]
        /// token`. One of another type or beyond [`MAX_TOKEN`] reads as none.
        #[serde(skip_serializing_if = "Option::is_none")]
        token: Option<String>,
    },
    /// Gives the place up.
    Leave {
        /// Its own id.
        #[serde(skip_serializing_if = "Option::is_none")]
        peer_id: Option<PeerId>,
    },
    /// To be passed on to another peer.
    Signal {
        /// See [`ClientMessage`].
        #[serde(skip_serializing_if = "Option::is_none")]
        channel: Option<ChannelId>,
        /// To whom.
        to_peer_id: PeerId,
        /// Passed on as it is; [`SignalData`](super::SignalData) reads it.
        data: Box<RawValue>,
    },
    /// A data channel is open; the child says so.
    DcOpened {
        /// See [`ClientMessage`].
        #[serde(skip_serializing_if = "Option::is_none")]
        channel: Option<ChannelId>,
        /// See [`dc_id`].
        dc_id: PeerId,
    },
    /// A data channel did not come about, or was refused.
    DcFailed {
        /// See [`ClientMessage`].
        #[serde(skip_serializing_if = "Option::is_none")]
        channel: Option<ChannelId>,
        /// See [`dc_id`].
        dc_id: PeerId,
    },
    /// A data channel has closed.
    DcClosed {
        /// See [`ClientMessage`].
        #[serde(skip_serializing_if = "Option::is_none")]
        channel: Option<ChannelId>,
        /// See [`dc_id`].
        dc_id: PeerId,
    },
    /// How much this peer has to give, used for scheduling; reported every 30 s. Also read from
    /// `statistics`, and from a message with a `level` and no action at all.
    Level {
        /// See [`ClientMessage`].
        #[serde(skip_serializing_if = "Option::is_none")]
        channel: Option<ChannelId>,
        /// Finite, not negative.
        level: f64,
        /// How many more peers the sender takes. Only our boxes say so, to servers that know it;
        /// what is no such number reads as none.
        #[serde(skip_serializing_if = "Option::is_none")]
        room: Option<u32>,
    },
    /// Asks for `parents`.
    GetParents {
        /// See [`ClientMessage`].
        #[serde(skip_serializing_if = "Option::is_none")]
        channel: Option<ChannelId>,
    },
}

/// From the server to a peer.
#[derive(Debug, Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum ServerMessage {
    /// The peer is in.
    Accept {
        /// Live or VOD.
        live: bool,
        /// The peer's id from now on.
        peer_id: PeerId,
    },
    /// From another peer.
    Signal {
        /// From whom.
        from_peer_id: PeerId,
        /// As it was sent.
        data: Box<RawValue>,
    },
    /// Open a data channel with that peer, or expect one.
    Connect {
        /// With whom.
        to_peer_id: PeerId,
        /// True for the child, who makes the offer and will receive segments.
        initiator: bool,
    },
    /// The channel is refused.
    Reject {
        /// Why, where the server says so.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Drop these peers.
    Disconnect {
        /// Which ones.
        peers: Vec<PeerId>,
    },
    /// The answer to `get_parents`.
    Parents {
        /// The best first.
        nodes: Vec<ParentNode>,
    },
}

/// A possible parent, as `parents` lists it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ParentNode {
    /// Its id.
    pub peer_id: PeerId,
    /// What it can give, the higher the better. Our server writes the level, the only measure
    /// it has.
    pub ul_bw: f64,
}

/// Why a message was refused.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Longer than [`MAX_MESSAGE`].
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Not a JSON object; what the JSON reader found.
    NotAnObject(String),
    /// A field that the action needs is absent.
    Missing {
        /// Its name.
        field: &'static str,
    },
    /// A field is of the wrong type, out of range or beyond its bound.
    Wrong {
        /// Its name.
        field: &'static str,
        /// What it should be.
        expected: String,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { bytes } => write!(f, "{bytes} bytes, at most {MAX_MESSAGE} are read"),
            Self::NotAnObject(found) => write!(f, "not a JSON object: {found}"),
            Self::Missing { field } => write!(f, "`{field}` is missing"),
            Self::Wrong { field, expected } => write!(f, "`{field}` must be {expected}"),
        }
    }
}

impl std::error::Error for Refusal {}

/// The name of the data channel between two peers, as `own` reports it: own id + remote id with
/// nothing between; of two integer ids their sum (protocol.md section 3).
pub fn dc_id(own: &PeerId, remote: &PeerId) -> PeerId {
    if let (PeerId::Number(own), PeerId::Number(remote)) = (own, remote)
        && let Some(sum) = own.checked_add(*remote)
    {
        return PeerId::Number(sum);
    }
    PeerId::from(format!("{own}{remote}"))
}

impl ClientMessage {
    /// Reads what a peer sent.
    pub fn parse(text: &str) -> Result<Option<Self>, Refusal> {
        let fields = Fields::read(text)?;
        let channel = || match fields.channel {
            Some(_) => fields.channel().map(Some),
            None => Ok(None),
        };
        let report = || {
            Ok(Self::Level {
                channel: channel()?,
                level: level(fields.level)?,
                room: value("room", fields.room, "a number").ok(),
            })
        };
        let message = match fields.action().as_deref() {
            Some("enter") => Self::Enter {
                channel: fields.channel()?,
                token: value("token", fields.token, "a string")
                    .ok()
                    .filter(|token: &String| token.len() <= MAX_TOKEN),
            },
            // What cannot be its own id is as good as none.
            Some("leave") => Self::Leave {
                peer_id: id("peer_id", fields.peer_id).ok(),
            },
            Some("signal") => Self::Signal {
                channel: channel()?,
                to_peer_id: id("to_peer_id", fields.to_peer_id)?,
                data: relayed(fields.data()?)?,
            },
            Some("dc_opened") => Self::DcOpened {
                channel: channel()?,
                dc_id: two_ids(fields.dc_id)?,
            },
            Some("dc_failed") => Self::DcFailed {
                channel: channel()?,
                dc_id: two_ids(fields.dc_id)?,
            },
            Some("dc_closed") => Self::DcClosed {
                channel: channel()?,
                dc_id: two_ids(fields.dc_id)?,
            },
            Some("level") => report()?,
            Some("statistics") | None if fields.level.is_some() => report()?,
            Some("get_parents") => Self::GetParents {
                channel: channel()?,
            },
            _ => return Ok(None),
        };
        Ok(Some(message))
    }

    /// The JSON text to send.
    pub fn to_json(&self) -> String {
        to_json(self)
    }
}

impl ServerMessage {
    /// Reads what a server sent.
    pub fn parse(text: &str) -> Result<Option<Self>, Refusal> {
        let fields = Fields::read(text)?;
        let message = match fields.action().as_deref() {
            Some("accept") => Self::Accept {
                live: value("live", fields.live, "a boolean").unwrap_or(true),
                peer_id: id("peer_id", fields.peer_id)?,
            },
            Some("signal") => Self::Signal {
                from_peer_id: id("from_peer_id", fields.from_peer_id)?,
                data: fields.data()?,
            },
            Some("connect") => Self::Connect {
                to_peer_id: id("to_peer_id", fields.to_peer_id)?,
                // A box has data to give: it makes no offer unless it is told to.
                initiator: value("initiator", fields.initiator, "a boolean").unwrap_or(false),
            },
            Some("reject") => Self::Reject {
                reason: value("reason", fields.reason, "a string").ok(),
            },
            Some("disconnect") => Self::Disconnect {
                peers: fields.disconnected()?,
            },
            Some("parents") => Self::Parents {
                nodes: value("nodes", fields.nodes, "a list of {peer_id, ul_bw}")?,
            },
            _ => return Ok(None),
        };
        Ok(Some(message))
    }

    /// The JSON text to send.
    pub fn to_json(&self) -> String {
        to_json(self)
    }
}

fn to_json(message: &impl Serialize) -> String {
    // Neither ids nor text nor finite numbers can fail to serialize.
    serde_json::to_string(message).unwrap_or_default()
}

/// Every field of every message, unread: whatever an action does not need may be of any type.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    action: Option<&'a RawValue>,
    channel: Option<&'a RawValue>,
    peer_id: Option<&'a RawValue>,
    to_peer_id: Option<&'a RawValue>,
    from_peer_id: Option<&'a RawValue>,
    dc_id: Option<&'a RawValue>,
    token: Option<&'a RawValue>,
    room: Option<&'a RawValue>,
    data: Option<&'a RawValue>,
    level: Option<&'a RawValue>,
    live: Option<&'a RawValue>,
    initiator: Option<&'a RawValue>,
    reason: Option<&'a RawValue>,
    peers: Option<&'a RawValue>,
    nodes: Option<&'a RawValue>,
}

impl<'a> Fields<'a> {
    fn read(text: &'a str) -> Result<Self, Refusal> {
        if text.len() > MAX_MESSAGE {
            return Err(Refusal::TooLong { bytes: text.len() });
        }
        if !text.trim_start().starts_with('{') {
            return Err(Refusal::NotAnObject("it starts otherwise".to_owned()));
        }
        serde_json::from_str(text).map_err(|error| Refusal::NotAnObject(error.to_string()))
    }

    fn action(&self) -> Option<String> {
        // An action that is no string is none that we know, which is not the same as no action.
        let action = self.action?;
        Some(serde_json::from_str(action.get()).unwrap_or_default())
    }

    fn channel(&self) -> Result<ChannelId, Refusal> {
        let channel: ChannelId = value("channel", self.channel, "a string")?;
        if channel.as_str().is_empty() || channel.as_str().len() > MAX_CHANNEL {
            return Err(Refusal::Wrong {
                field: "channel",
                expected: format!("of 1 to {MAX_CHANNEL} bytes"),
            });
        }
        Ok(channel)
    }

    fn data(&self) -> Result<Box<RawValue>, Refusal> {
        match self.data {
            Some(data) => Ok(data.to_owned()),
            None => Err(Refusal::Missing { field: "data" }),
        }
    }

    /// Nobody wrote down what `disconnect` carries: a list or a single id, under the names that
    /// other messages use.
    fn disconnected(&self) -> Result<Vec<PeerId>, Refusal> {
        if self.peers.is_some() {
            let peers: Vec<PeerId> = value("peers", self.peers, "a list of ids")?;
            return peers
                .into_iter()
                .map(|id| bounded("peers", id, MAX_ID))
                .collect();
        }
        id("to_peer_id", self.to_peer_id.or(self.peer_id)).map(|id| vec![id])
    }
}

fn relayed(data: Box<RawValue>) -> Result<Box<RawValue>, Refusal> {
    if data.get().len() > MAX_DATA {
        return Err(Refusal::Wrong {
            field: "data",
            expected: format!("of at most {MAX_DATA} bytes"),
        });
    }
    Ok(data)
}

fn value<T: DeserializeOwned>(
    field: &'static str,
    raw: Option<&RawValue>,
    expected: &str,
) -> Result<T, Refusal> {
    let raw = raw.ok_or(Refusal::Missing { field })?;
    serde_json::from_str(raw.get()).map_err(|_| Refusal::Wrong {
        field,
        expected: expected.to_owned(),
    })
}

fn id(field: &'static str, raw: Option<&RawValue>) -> Result<PeerId, Refusal> {
    bounded(field, value(field, raw, "a string or an integer")?, MAX_ID)
}

fn two_ids(raw: Option<&RawValue>) -> Result<PeerId, Refusal> {
    let id = value("dc_id", raw, "a string or an integer")?;
    // Two ids and what a client puts between them.
    bounded("dc_id", id, 2 * MAX_ID + 1)
}

fn bounded(field: &'static str, id: PeerId, max: usize) -> Result<PeerId, Refusal> {
    match &id {
        PeerId::Text(text) if text.is_empty() || text.len() > max => Err(Refusal::Wrong {
            field,
            expected: format!("of 1 to {max} bytes"),
        }),
        _ => Ok(id),
    }
}

fn level(raw: Option<&RawValue>) -> Result<f64, Refusal> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Level {
        Number(f64),
        Text(String),
    }
    let expected = "a number that is not negative";
    let level = match value("level", raw, expected)? {
        Level::Number(number) => Some(number),
        Level::Text(text) => text.trim().parse().ok(),
    };
    level
        .filter(|level: &f64| level.is_finite() && *level >= 0.0)
        .ok_or_else(|| Refusal::Wrong {
            field: "level",
            expected: expected.to_owned(),
        })
}

#[cfg(test)]
#[path = "messages_tests.rs"]
mod tests;
