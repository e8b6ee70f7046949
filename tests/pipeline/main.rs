//! From a real origin over HTTP to a segment on the disk, and what goes wrong on the way.
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests fail the test

mod fetching;
mod files;
mod formats;
mod keeping;
mod origin;
mod probe;
mod rig;
mod variants;
