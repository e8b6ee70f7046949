//! Origins that misbehave, in every way of the table in `docs/faults.md`: what the viewers of such a
//! channel see, what the operator reads, and that the box is well again by itself. Its other
//! channels go on as if nothing were.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::large_futures
)]

mod answers;
mod http;
mod names;
mod origin;
mod playlists;
mod segments;
#[path = "../support/mod.rs"]
mod support;
mod table;
mod trust;
mod ward;
