//! The configuration: one TOML file, sections with defaults, each part of the daemon given its own
//! section by value. Unknown keys are errors, and every mistake of a file is reported at once, by
//! line and key.
//!
//! A file with one `[[channel]]` and one `[signal]` is complete. Every default carries its reason.

mod reader;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};
use url::Url;

use self::reader::{Document, Section};
use crate::ids::{ChannelId, ChannelName};
use crate::sibling::proof::{MIN_SECRET, Secret};

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

/// 60 s: several times what a player buffers, and more than most live playlists list.
const DEFAULT_WINDOW: Duration = Duration::from_secs(60);

/// What is wrong with a configuration file, and how to mend it.
#[derive(Debug)]
pub enum ConfigError {
    /// The file cannot be read.
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file can be read, and has these mistakes.
    Mistakes {
        /// Which file.
        path: PathBuf,
        /// Each of them, in the order of their lines; never empty.
        mistakes: Vec<Mistake>,
    },
}

/// One mistake in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Line of the file, from 1.
    pub line: usize,
    /// The key as an operator would look for it, for example `peer.packet-size`; empty when the
    /// file is not TOML at all.
    pub key: String,
    /// What is wrong and what is wanted.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, source } => write!(
                f,
                "cannot read the configuration {}: {source}",
                path.display()
            ),
            Self::Mistakes { path, mistakes } => {
                for (index, mistake) in mistakes.iter().enumerate() {
                    if index > 0 {
                        writeln!(f)?;
                    }
                    write!(f, "{}:{}: ", path.display(), mistake.line)?;
                    if !mistake.key.is_empty() {
                        write!(f, "{}: ", mistake.key)?;
                    }
                    f.write_str(&mistake.message)?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads and validates the file at `path`.
    ///
    /// # Errors
    /// [`ConfigError`], with every mistake of the file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text).map_err(|mistakes| ConfigError::Mistakes {
            path: path.to_owned(),
            mistakes,
        })
    }

    /// Validates the text of a file.
    ///
    /// # Errors
    /// Every [`Mistake`] of the text, in the order of their lines.
    pub fn parse(text: &str) -> Result<Self, Vec<Mistake>> {
        let mut document = Document::parse(text)?;
        let channel_sections = document.sections("channel");
        if channel_sections.is_empty() {
            document.mistake(0, "channel", "no channel: add a [[channel]] with its url");
        }
        let channels: Vec<ChannelConfig> = channel_sections
            .into_iter()
            .filter_map(|section| channel(&mut document, section))
            .collect();
        unique_channels(&mut document, &channels);

        let signal_server = document
            .section("signal-server")
            .and_then(|section| signal_server(&mut document, section));
        let signal = match document.section("signal") {
            Some(section) => signal(&mut document, section),
            None => match signal_server {
                Some(_) => Some(SignalConfig::Own),
                None if document.has_mistakes() => None,
                None => {
                    document.mistake(
                        0,
                        "signal",
                        "no signalling server: add [signal] with the url that this channel's \
                         viewers use, or [signal-server] to be that server",
                    );
                    None
                }
            },
        };
        let peer = peer(&mut document);
        let store = store(&mut document);
        let memory = memory(&mut document);
        let http = http(&mut document);
        document.finish()?;
        let (Some(signal), false) = (signal, channels.is_empty()) else {
            return Err(vec![Mistake {
                line: 1,
                key: String::new(),
                message: "incomplete: a [[channel]] and a [signal] are needed".into(),
            }]);
        };
        Ok(Self {
            channels,
            signal,
            signal_server,
            peer,
            store,
            memory,
            http,
        })
    }
}

fn channel(document: &mut Document, mut section: Section) -> Option<ChannelConfig> {
    let offset = section.offset();
    let url = section.required(document, "url", |value| {
        url_of(value, &["http", "https"], "the playlist's address")
    });
    let name = section.optional(document, "name", |value| {
        let text = reader::text(value)?;
        let valid = !text.is_empty()
            && text.len() <= 64
            && !text.starts_with('.')
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
        if valid {
            Ok(ChannelName::from(text))
        } else {
            Err(format!(
                "{text:?} is not a name: up to 64 letters, digits, '-', '_' and '.', not starting with '.'"
            ))
        }
    });
    let id = section.optional(document, "id", |value| match reader::text(value)? {
        "" => Err("is empty: leave it out for the url without its query".into()),
        text => Ok(ChannelId::from(text)),
    });
    let variants = section.optional(document, "variants", |value| match reader::text(value)? {
        "highest" => Ok(Variants::Highest),
        "all" => Ok(Variants::All),
        "lowest" => Ok(Variants::Lowest),
        other => Err(format!(
            "{other:?} is none of \"highest\", \"all\", \"lowest\""
        )),
    });
    let window = section.optional(document, "window", |value| {
        reader::duration(
            value,
            Duration::from_secs(1),
            Duration::from_secs(24 * 3600),
        )
    });
    let matching = section.optional(document, "match", |value| match reader::text(value)? {
        "exact" => Ok(Matching::Exact),
        "path" => Ok(Matching::Path),
        other => Err(format!("{other:?} is neither \"exact\" nor \"path\"")),
    });
    let max_bandwidth = section.optional(document, "max-bandwidth", |value| {
        // Below 100 kbit/s not even sound keeps up.
        reader::bandwidth(value, 100_000)
    });
    section.finish(document);
    let url = url?;
    let name = name.unwrap_or_else(|| name_from_url(&url));
    let id = id.unwrap_or_else(|| id_from_url(&url));
    document.remember(name.as_str(), offset);
    Some(ChannelConfig {
        id,
        name,
        variants: variants.unwrap_or(Variants::Highest),
        window: window.unwrap_or(DEFAULT_WINDOW),
        max_bandwidth,
        matching: matching.unwrap_or_default(),
        url,
    })
}

/// Two channels of one name would share a folder and a page; two of one id would answer the same
/// viewers with different segments.
fn unique_channels(document: &mut Document, channels: &[ChannelConfig]) {
    let (mut names, mut ids) = (HashSet::new(), HashSet::new());
    for channel in channels {
        let offset = document.offset_of(channel.name.as_str());
        if !names.insert(&channel.name) {
            document.mistake(
                offset,
                "channel.name",
                &format!(
                    "{:?} is used twice: give each channel a name of its own",
                    channel.name.as_str()
                ),
            );
        } else if !ids.insert(&channel.id) {
            document.mistake(
                offset,
                "channel.id",
                &format!(
                    "{:?} is used twice: viewers could not tell the channels apart",
                    channel.id.as_str()
                ),
            );
        }
    }
}

/// `https://cdn.example.com/news/index.m3u8` is "news"; a playlist at the root is named after its
/// file.
fn name_from_url(url: &Url) -> ChannelName {
    let parts: Vec<&str> = url
        .path_segments()
        .map(|parts| parts.filter(|part| !part.is_empty()).collect())
        .unwrap_or_default();
    let raw = match parts.as_slice() {
        [.., folder, _file] => folder,
        [file] => file.split('.').next().unwrap_or(file),
        [] => url.host_str().unwrap_or("channel"),
    };
    let clean: String = raw
        .chars()
        .take(64)
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '-' {
                c
            } else {
                '_'
            }
        })
        .collect();
    ChannelName::from(clean)
}

fn id_from_url(url: &Url) -> ChannelId {
    let mut bare = url.clone();
    bare.set_query(None);
    bare.set_fragment(None);
    ChannelId::from(String::from(bare))
}

fn signal(document: &mut Document, mut section: Section) -> Option<SignalConfig> {
    let url = section.required(document, "url", |value| {
        url_of(value, &["ws", "wss"], "the signalling server's address")
    });
    let ca = section.optional(document, "ca", |value| match &url {
        Some(url) if url.scheme() != "wss" => Err("is of no use without a wss:// url".into()),
        _ => certificates(reader::text(value)?),
    });
    let token = section.optional(document, "token", token);
    section.finish(document);
    Some(SignalConfig::Server {
        url: url?,
        ca: ca.unwrap_or_default(),
        token,
    })
}

/// Reads the CAs that a file holds. It is read here, so that `check` finds what is wrong with it, and
/// a changed file is a changed configuration.
fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let found: Vec<_> = found.map_err(|error| match error {
        pem::Error::Io(error) => format!("{path} cannot be read: {error}"),
        error => format!("{path} is not PEM: {error}"),
    })?;
    if found.is_empty() {
        return Err(format!(
            "{path} has no certificate in it: it wants PEM (\"-----BEGIN CERTIFICATE-----\")"
        ));
    }
    for certificate in &found {
        RootCertStore::empty()
            .add(certificate.clone())
            .map_err(|error| format!("{path} has a certificate that cannot be used: {error}"))?;
    }
    Ok(found)
}

fn signal_server(document: &mut Document, mut section: Section) -> Option<SignalServerConfig> {
    let offset = section.offset();
    let listen = section.required(document, "listen", reader::address);
    // Without `listen` only the mistakes of the other keys are wanted.
    let mut config = SignalServerConfig::new(listen.unwrap_or(HttpConfig::default().listen));
    let certificate = section.optional(document, "certificate", file);
    let key = section.optional(document, "key", file);
    config.token = section.optional(document, "token", token);
    section.set(
        document,
        "max-sockets-per-address",
        &mut config.max_sockets_per_address,
        |value| reader::integer(value, 0, 1_000_000),
    );
    section.finish(document);
    config.tls = match (certificate, key) {
        (Some(certificate), Some(key)) => Some(TlsFiles { certificate, key }),
        (None, None) => None,
        (certificate, _) => {
            let (missing, there) = match certificate {
                Some(_) => ("key", "certificate"),
                None => ("certificate", "key"),
            };
            document.mistake(
                offset,
                &format!("signal-server.{missing}"),
                &format!("is missing, and {there} is of no use without it"),
            );
            None
        }
    };
    config.tls_digest = config.tls.as_ref().map_or(0, digest);
    listen.map(|_| config)
}

/// Whoever uses the files says what is wrong with them: here one that is missing is only different.
fn digest(files: &TlsFiles) -> u64 {
    let mut hasher = DefaultHasher::new();
    for path in [&files.certificate, &files.key] {
        std::fs::read(path).ok().hash(&mut hasher);
    }
    hasher.finish()
}

fn file(value: &toml_span::Value<'_>) -> Result<PathBuf, String> {
    match reader::text(value)? {
        "" => Err("is empty: name a file".into()),
        path => Ok(path.into()),
    }
}

fn token(value: &toml_span::Value<'_>) -> Result<String, String> {
    match reader::text(value)? {
        "" => Err("is empty: leave it out if nobody needs one".into()),
        // What servers read of one.
        text if text.len() > 256 => Err("is too long: 256 bytes at most".into()),
        text => Ok(text.into()),
    }
}

fn peer(document: &mut Document) -> PeerConfig {
    let mut config = PeerConfig::default();
    let Some(mut section) = document.section("peer") else {
        return config;
    };
    section.set(document, "max-peers", &mut config.max_peers, |value| {
        reader::integer(value, 1, 10_000)
    });
    section.set(document, "level", &mut config.level, |value| {
        reader::number(value, 0.0, 1_000_000.0)
    });
    section.set(
        document,
        "request-hold",
        &mut config.request_hold,
        |value| {
            // Beyond 10 s every known viewer has gone elsewhere.
            reader::duration(value, Duration::ZERO, Duration::from_secs(10))
        },
    );
    section.set(document, "packet-size", &mut config.packet_size, |value| {
        // Below 1 KiB the framing outweighs the media; 64 KiB is what browsers take as one message.
        reader::size(value, 1 << 10, 64 << 10)
    });
    section.set(document, "udp-port", &mut config.udp_port, |value| {
        reader::integer(value, 0, u16::MAX.into())
    });
    section.set(
        document,
        "stop-timeout",
        &mut config.stop_timeout,
        |value| reader::duration(value, Duration::ZERO, Duration::from_secs(60)),
    );
    section.set(
        document,
        "sibling-secret",
        &mut config.sibling_secret,
        |value| match reader::text(value)? {
            text if text.len() < MIN_SECRET => Err(format!(
                "is too short: use at least {MIN_SECRET} characters that nobody guesses, for \
                 example what `openssl rand -hex 16` prints, the same on each box"
            )),
            text => Ok(Some(Secret::new(text))),
        },
    );
    section.finish(document);
    config
}

fn store(document: &mut Document) -> StoreConfig {
    let mut config = StoreConfig::default();
    let Some(mut section) = document.section("store") else {
        return config;
    };
    section.set(document, "dir", &mut config.dir, |value| {
        let path = PathBuf::from(reader::text(value)?);
        if path.as_os_str().is_empty() {
            return Err("is empty: name a folder".into());
        }
        Ok(path)
    });
    section.set(document, "max-size", &mut config.max_size, |value| {
        // A few segments at the least.
        reader::size(value, 16 << 20, u64::MAX)
    });
    section.set(document, "min-free", &mut config.min_free, |value| {
        reader::size(value, 0, u64::MAX)
    });
    section.finish(document);
    config
}

fn memory(document: &mut Document) -> MemoryConfig {
    let mut config = MemoryConfig::default();
    let Some(mut section) = document.section("memory") else {
        return config;
    };
    section.set(document, "max-buffers", &mut config.max_buffers, |value| {
        // One download and a few peers have to fit at the same time.
        reader::size(value, 2 << 20, 64 << 30)
    });
    section.finish(document);
    config
}

fn http(document: &mut Document) -> HttpConfig {
    let mut config = HttpConfig::default();
    let Some(mut section) = document.section("http") else {
        return config;
    };
    section.set(document, "listen", &mut config.listen, reader::address);
    section.finish(document);
    config
}

fn url_of(value: &toml_span::Value<'_>, schemes: &[&str], what: &str) -> Result<Url, String> {
    let text = reader::text(value)?;
    let wanted = schemes.join(":// or ");
    let url = Url::parse(text)
        .map_err(|error| format!("{text:?} is not {what} ({error}): it starts with {wanted}://"))?;
    if !schemes.contains(&url.scheme()) {
        return Err(format!(
            "{text:?} is not {what}: it starts with {wanted}://"
        ));
    }
    Ok(url)
}
