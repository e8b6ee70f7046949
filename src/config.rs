//! The configuration: one TOML file, sections with defaults, each part of the daemon given its own
//! section by value. Unknown keys are errors, and every mistake of a file is reported at once, by
//! line and key.
//!
//! A file with one `[[channel]]` and one `[signal]` is complete. Every default carries its reason.

mod error;
mod reader;
mod sections;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use url::Url;

pub use self::error::{ConfigError, Mistake};
use crate::ids::{ChannelId, ChannelName};
use crate::sibling::proof::Secret;

/// Everything the daemon is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The channels that are prefetched; at least one.
    pub channels: Vec<ChannelConfig>,
    /// The signalling server of the channels' viewers.
    pub signal: SignalConfig,
    /// Present when the box is to be a signalling server as well.
    pub signal_server: Option<SignalServerConfig>,
    /// Serving viewers.
    pub peer: PeerConfig,
    /// Segments on disk.
    pub store: StoreConfig,
    /// Bounds of memory.
    pub memory: MemoryConfig,
    /// Status, metrics and the page.
    pub http: HttpConfig,
}

/// `[[channel]]`
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelConfig {
    /// The playlist at the origin, media or multivariant, `http` or `https`.
    pub url: Url,
    /// Unique among the channels; by default derived from the URL.
    pub name: ChannelName,
    /// What viewers send as `channel`; by default the URL without its query, as field clients do
    /// (protocol.md section 3).
    pub id: ChannelId,
    /// Which variants of a multivariant playlist are prefetched.
    pub variants: Variants,
    /// How much behind the live edge is kept at least, however long the playlist is.
    pub window: Duration,
    /// Bytes per second that are loaded from the origin at most; `None`: as fast as it comes.
    pub max_bandwidth: Option<u64>,
    /// What of a URI names a segment.
    pub matching: Matching,
}

/// What of a URI names a segment (`match`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Matching {
    /// All of it, as the playlist writes it.
    #[default]
    Exact,
    /// All of it; failing that, what is before its query: for origins that put another token there
    /// at each load, so that no two viewers write it alike.
    Path,
}

impl Matching {
    /// The part of `uri` that has to be the same.
    pub fn name(self, uri: &str) -> &str {
        match (self, uri.split_once('?')) {
            (Self::Path, Some((path, _))) => path,
            _ => uri,
        }
    }
}

/// Which variants of a multivariant playlist are prefetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variants {
    /// The one with the highest `BANDWIDTH`: on a LAN the segment comes from next door, so that
    /// is what an adaptive player settles on.
    Highest,
    /// Every variant, at the price of the sum of their bandwidths.
    All,
    /// The one with the lowest `BANDWIDTH`.
    Lowest,
}

/// `[signal]`: where the channels' viewers meet the box.
#[derive(Clone, Debug, PartialEq)]
pub enum SignalConfig {
    /// A server elsewhere.
    Server {
        /// `ws://` or `wss://`.
        url: Url,
        /// Who has to have signed the certificate of a `wss://` server; empty for the system's CAs.
        ca: Vec<CertificateDer<'static>>,
        /// What it wants to see from who enters.
        token: Option<String>,
    },
    /// The box's own `[signal-server]`, when there is no `[signal]`.
    Own,
}

/// `[signal-server]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignalServerConfig {
    /// Where browsers connect.
    pub listen: SocketAddr,
    /// With these it is a `wss://` server.
    pub tls: Option<TlsFiles>,
    /// Tells what these files held when the configuration was read from what they hold later: a
    /// renewed certificate is a changed configuration. They are read again where they are used.
    pub tls_digest: u64,
    /// What everybody has to show who enters a channel.
    pub token: Option<String>,
    /// Sockets of one address at once, any number if 0.
    pub max_sockets_per_address: usize,
}

/// `certificate` and `key`, both in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate and the chain above it.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl SignalServerConfig {
    /// A server at this address; the rest is the default.
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            tls: None,
            tls_digest: 0,
            token: None,
            // A campus of 500 viewers behind one NAT whose pages have entered four times each
            // (protocol.md section 3); and one address takes a sixth of all places at most.
            max_sockets_per_address: 2000,
        }
    }
}

/// `[peer]`
#[derive(Clone, Debug, PartialEq)]
pub struct PeerConfig {
    /// Viewers served at once; the next one is refused with `dc_failed`, so that it looks
    /// elsewhere.
    pub max_peers: usize,
    /// The least that is reported to the scheduler; the higher, the sooner it makes us a parent. What
    /// is reported is the mean number of segments held of each followed playlist of the channel, if
    /// that is more.
    pub level: f64,
    /// How long a REQUEST may wait for a segment that is on its way, before LACK.
    pub request_hold: Duration,
    /// Bytes of one packet, the binary message of a segment.
    pub packet_size: usize,
    /// Bytes per second that are sent to all peers together at most; `None`: what the link takes.
    pub max_upload: Option<u64>,
    /// The one UDP port of all peers; 0 takes any free port (for tests).
    pub udp_port: u16,
    /// How long a stop waits for segments that are being sent.
    pub stop_timeout: Duration,
    /// What the boxes of one operator share: with it, those of one LAN fetch each segment once
    /// for all of them. Without it, this box has no siblings.
    pub sibling_secret: Option<Secret>,
}

/// `[store]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// Where segments lie, one folder for each channel. May be on a tmpfs.
    pub dir: PathBuf,
    /// Bytes of segments at most; those the furthest behind their live edge go first.
    pub max_size: u64,
    /// Bytes of the file system that are left free for others. Where there are fewer, nothing is
    /// written.
    pub min_free: u64,
}

/// `[memory]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryConfig {
    /// Every byte of media in flight, all peers and downloads together, and what is held in memory
    /// while the disk fails (half of it at most).
    pub max_buffers: usize,
}

/// `[http]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    /// Where the status page, `/metrics` and `/watch` are.
    pub listen: SocketAddr,
}

impl Default for PeerConfig {
    fn default() -> Self {
        Self {
            // A household or a small venue; at 256 KiB each in flight, half of `max-buffers`.
            max_peers: 64,
            // Browsers report the mean of what they hold, a few tens at most: 100 is above them.
            level: 100.0,
            // A viewer gives up after 2 s and asks again 3 s after its first REQUEST; 1.6 s leaves
            // 400 ms for the transfer (protocol.md, "What hurts a viewer").
            request_hold: Duration::from_millis(1600),
            // What browsers send (61,440 bytes), and below the 65,536 that the stack announces.
            packet_size: 60 * 1024,
            // A LAN is there to be used, and who is served is served soonest at full speed.
            max_upload: None,
            // Next to the field's signalling port 12035.
            udp_port: 12036,
            // Twice the 2 s within which a viewer wants a segment: whatever is under way then is
            // wanted by nobody.
            stop_timeout: Duration::from_secs(4),
            // One box in a LAN is the rule, and a secret that everybody knows is none.
            sibling_secret: None,
        }
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            // The unit's CacheDirectory.
            dir: PathBuf::from("/var/cache/edgeseed"),
            // An hour of one channel at 4.7 Mbit/s; fits the smallest card in use (8 GB).
            max_size: 2 << 30,
            // Room for logs and updates where the cache shares a file system.
            min_free: 256 << 20,
        }
    }
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            // 64 peers with 256 KiB each in flight, and as much again for downloads; small enough
            // for a Raspberry Pi 3 (1 GB).
            max_buffers: 32 << 20,
        }
    }
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            // Every interface: the pages are for the LAN.
            listen: SocketAddr::from(([0, 0, 0, 0], 8080)),
        }
    }
}

/// Bytes of a file that are read: some 300 for each channel. A device has no end.
const MAX_FILE: u64 = 4 << 20;

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = File::open(path).map_err(|error| misnamed(path).unwrap_or(error))?;
    let read = file.take(MAX_FILE + 1).read_to_string(&mut text);
    let length = read.map_err(|error| match error.kind() {
        ErrorKind::InvalidData => io::Error::other("it is not in UTF-8: save it as UTF-8"),
        _ => error,
    })?;
    match length as u64 {
        ..=MAX_FILE => Ok(text),
        _ => Err(io::Error::other(
            "it has more than 4 MiB: is it a configuration?",
        )),
    }
}

/// Editors of Windows append a `.txt`, and do not show it. On a flashed box the path is a link to the card.
fn misnamed(path: &Path) -> Option<io::Error> {
    let target = path.read_link();
    let path = target.as_deref().unwrap_or(path);
    let mut other = path.to_owned().into_os_string();
    other.push(".txt");
    let other = Path::new(&other);
    (!path.exists() && other.exists()).then(|| {
        let (other, name) = (other.display(), path.file_name().unwrap_or_default());
        io::Error::other(format!(
            "there is none, but there is {other}: rename it to {}",
            name.display()
        ))
    })
}

impl Config {
    /// Reads and validates the file at `path`.
    ///
    /// # Errors
    /// [`ConfigError`], with every mistake of the file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = read(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text).map_err(|mistakes| ConfigError::Mistakes {
            path: path.to_owned(),
            mistakes,
        })
    }
}
