//! HLS as the box needs it (RFC 8216): a playlist's text becomes types, and a [`Tracker`] says from
//! one load to the next which segments are wanted, which have expired, and when to load again.
//!
//! Everything here is pure: text and time come in as arguments, nothing is fetched.

mod names;
mod parse;
mod playlist;
mod relist;
mod sections;
mod tracker;
mod variables;

pub use names::{SharedName, shared_names};
pub use parse::parse;
pub use playlist::{
    AudioRendition, InitSection, MAX_SEGMENTS, MAX_URI, MAX_VARIANTS, MediaPlaylist, MediaSegment,
    Multivariant, Playlist, PlaylistError, Unfit, Variant,
};
pub use relist::{Listed, Written, relist_media, relist_multivariant};
pub use tracker::{Tracker, Update};
pub use variables::Variables;
