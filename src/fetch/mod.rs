//! From the origin to the store: an HTTP client that expects everything to go wrong, and one task
//! for each channel that follows its playlists and fetches each segment once.
//!
//! The task never ends because of an origin: it says once that something fails, backs off, and
//! says once that it works again.

mod client;
mod downloads;
mod edge;
mod follow;
mod lan;
mod names;
mod neighbour;
mod pace;
mod prefetch;
mod segment;
mod status;
mod voice;

pub use client::{
    Loaded, LoadedPlaylist, MAX_PLAYLIST, MAX_SEGMENT, OriginClient, OriginError, Validators,
};
pub use lan::{LanPath, LanPlaylists, MAX_LAN_PLAYLIST};
pub use prefetch::{Parts, run};
pub use segment::SegmentBody;
pub use status::{ChannelState, ChannelStatus, Failure, PlaylistStatus};
