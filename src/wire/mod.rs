//! The data-channel messages (seed-protocol.md, "datachannel传输协议"; protocol.md section 1) and
//! how a segment is cut into packets. Pure: bytes in, values out.
//!
//! A segment travels as one JSON text message, BINARY, that announces how many binary messages
//! follow, and then exactly these packets, in order. In what is sent this is strict; in what is
//! accepted it is tolerant: unknown fields and events, any key order, `sn` as number or string.

mod message;
mod packets;

pub use message::{BinaryHeader, Claim, Event, MAX_TEXT, Message, Request, WireError};
pub use packets::Packets;
