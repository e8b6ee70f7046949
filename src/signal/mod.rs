//! Signalling: how a viewer and the box find each other, over a WebSocket (protocol.md
//! section 2).
//!
//! ```text
//! messages, data   text ↔ types, in both directions (pure)
//! backoff, rate    when to try again, how fast a peer may speak (pure)
//! swarm            who is in which channel (pure)
//! pairing, member  who is paired with whom, and how good a parent somebody makes (pure)
//! client           the box at a signalling server, ours or a foreign one: one task for a channel
//! dial             the way there, which the clients share
//! server           the embedded signalling server: sockets around `swarm`
//! ```
//!
//! Client and server share the messages and nothing else; neither knows about data channels.

mod backoff;
pub mod client;
mod data;
mod dial;
mod member;
pub mod messages;
mod pairing;
mod rate;
pub mod server;
pub mod swarm;
mod tls;

use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

pub use self::data::{DataForm, SiblingProof, SignalData};
pub use self::dial::Dialer;

/// How every WebSocket of this room is set up, at either end.
fn websocket_config() -> WebSocketConfig {
    WebSocketConfig::default()
        // Allocated for each socket and kept while it idles: ten thousand of them make 10 MB. An
        // offer is about 500 bytes; what is longer is read in several goes.
        .read_buffer_size(1024)
        // Each message is written at once: signalling is rare, and somebody waits for it.
        .write_buffer_size(0)
        // One message and the control frames between.
        .max_write_buffer_size(2 * messages::MAX_MESSAGE)
        .max_message_size(Some(messages::MAX_MESSAGE))
        .max_frame_size(Some(messages::MAX_MESSAGE))
}
