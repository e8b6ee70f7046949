//! edgeseed prefetches live HLS segments from their origin **once**, keeps them on local storage
//! with bounded memory, and serves every viewer of its LAN as a permanent high-level peer: a
//! browser asks for a segment over a WebRTC data channel and has it before the CDN would have
//! answered.
//!
//! This page is the architecture. A segment's way through the house:
//!
//! ```text
//!             origin                                     signalling server (theirs, or ours)
//!                │ playlists, segments over HTTP                   │ offers over a WebSocket
//!        ┌───────▼───────┐                                 ┌───────▼───────┐
//!        │ hls: playlist │ wanted, expired                 │ signal        │
//!        │ and tracker   ├─────────┐                       └───────┬───────┘
//!        └───────────────┘         ▼                               │ daemon::meeting
//!                            ┌───────────┐  find   ┌───────────────▼──┐ REQUEST  ┌─────────┐
//!                            │ fetch     ├► store ◄┤ peer ──► session ├◄────────►│ viewers │
//!                            └───────────┘  read   └──────────────────┘  BINARY  └─────────┘
//! ```
//!
//! 1. [`hls`] reads a playlist and says which segments are wanted, which have expired, and when to
//!    load it again. [`fetch`] does so: it loads playlists and streams segments to disk.
//! 2. [`store`] keeps segments as files, knows which are there and which are on their way, and reads
//!    them packet by packet, also while they are being written: a viewer is sent what is here. A
//!    segment is held whole in memory only while the disk fails.
//! 3. [`signal`] meets viewers in the channel's swarm, and can be that server as well.
//! 4. [`peer`] owns the one UDP port and a WebRTC connection for each viewer, on threads of their own,
//!    one for each core. What a viewer says goes to its [`session`], which decides what it gets and how much of it
//!    may be on its way; whose turn it is on a full link is decided by deadlines. [`wire`] has the
//!    messages and packets. Other boxes of the operator are peers too: [`sibling`] is how [`fetch`] asks them before the origin.
//! 5. [`http`] shows how it goes, and serves the segments to players without WebRTC; [`metrics`] has the numbers.
//! 6. [`daemon`] builds all of them in order and takes them down again. Nothing else knows all.
//!
//! # The rules
//!
//! - `hls`, `session`, `wire` and the deciding halves of `store` and `signal` are pure: no tokio, no
//!   sockets, no clock; time is an argument. They are tested in virtual time.
//! - Imports go downwards only; `tests/layout.rs` has the table and holds it.
//! - What serving costs is measured beside others, in one run (`benches/serve`, `docs/serve.md`).
//! - Every message of the protocol has a row for each role in `docs/conformance.md`, and a test over
//!   a real data channel or WebSocket; so has every fault of an origin in `docs/faults.md`;
//!   `tests/conformance.rs` holds both.
//! - Every byte of media in flight is taken from one [`budget`]; every queue has a bound.
//! - One [`PeerId`](ids::PeerId), [`ChannelId`](ids::ChannelId),
//!   [`MediaSequence`](ids::MediaSequence): what could be swapped by mistake is a type ([`ids`]).
//!
//! # Where building changed the drawing
//!
//! - `budget` is a room of its own: `fetch` and `peer` both take from it, and neither may know the
//!   other.
//! - [`door`] is a room of its own: how many connections an address may have is one rule for the
//!   signalling server and the pages.
//! - The command line is split: [`cli`] is what can be said, [`commands`] what is done, so that
//!   `main.rs` stays a doorbell; [`exit`] and [`logging`] are what both rely on.
//! - Segments are read with pread(2), not mapped: an error of the disk is then an error and not a
//!   SIGBUS, what the kernel caches does not look like memory of ours, and a packet costs the one copy
//!   that it cost before. There is no `unsafe` code.
//! - A segment is sent while it arrives only to viewers, only when its length is known, and only if it
//!   will be whole before its viewer gives up, by the pace so far (`session`). A sibling gets it when
//!   it is whole: one transfer at a time goes over a channel, and a slow one would hold up all others.
//! - What an earlier run stored is proven to be whole when its playlist lists it again, or somebody
//!   asks for it: a start reads none of it.
//! - A REQUEST for the URI *after* the newest known one is held too, if its `sn` is just past it:
//!   a viewer that loads the playlist a moment before the box asks for what the box has not heard
//!   of. No segment is fetched because of it; it only brings the next load of the playlist forward,
//!   to half a target duration after the last one at the earliest, the pace that RFC 8216 allows
//!   while nothing changes. Without it viewers wait for the box at each segment once its reloads
//!   have drifted behind theirs (measured: 300 to 830 ms of waiting, against 10 to 30 ms).
//! - [`sibling`] is a room of its own, between `fetch` and `peer`: who is a sibling, who fetches, who
//!   waits. A segment's name does not say which bytes are meant, so a REQUEST between boxes carries
//!   the playlist and since when the asker follows it, and BINARY a CRC-32C; others ignore both.
//! - An initialization section (`EXT-X-MAP`) is kept beside the segments ([`ids::RenditionIndex`]) and
//!   has no number: a REQUEST names it by its `url` alone. A byte range is named by `url` and `sn`, for
//!   the number says which part is meant; a `url` alone that stands for several parts is LACK.
//! - A recording has no live edge: of a playlist that is complete when it is first loaded, the first
//!   `window` is fetched, for that is where its viewers begin.
//! - SIGHUP builds every part anew, in this process, when the file is good and has changed. Viewers
//!   meet the box again under a fresh id, as after a restart; no part needs a second way to change.
//! - `/live/<name>/` is the origin's playlist, line by line, with what the box has named as it is here
//!   (`hls::relist`): what is for players only, as keys and dates, need not be understood, and what is
//!   not here is where it always was.
//! - The WebRTC stack is told another time than the wall's ([`peer`], `clock.rs`): four times as fast, a
//!   lost tail is sent again after 250 ms instead of a second. It replaced probes by KEEPALIVE.
//! - A viewer gets no ICE checks from us before it has sent one: its own are enough for a box with an
//!   address in its LAN, and ours, arriving before our answer, kept libdatachannel from beginning.
//! - `stop-timeout` is in `[peer]`: it is viewers who are waited for.

pub mod budget;
pub mod cli;
pub mod commands;
pub mod config;
pub mod daemon;
pub mod demo;
pub mod door;
pub mod exit;
pub mod fetch;
pub mod hls;
pub mod http;
pub mod ids;
pub mod logging;
pub mod metrics;
pub mod peer;
pub mod session;
pub mod sibling;
pub mod signal;
pub mod store;
pub mod systemd;
pub mod wire;
