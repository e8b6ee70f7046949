//! Reading each section of a file, and what is wanted of its values.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};
use url::Url;

use super::reader::{self, Document, Section};
use super::{
    ChannelConfig, Config, HttpConfig, Matching, MemoryConfig, Mistake, PeerConfig, SignalConfig,
    SignalServerConfig, StoreConfig, TlsFiles, Variants,
};
use crate::ids::{ChannelId, ChannelName, without_secrets};
use crate::sibling::proof::{MIN_SECRET, Secret};

/// 60 s: several times what a player buffers, and more than most live playlists list.
pub(super) const DEFAULT_WINDOW: Duration = Duration::from_secs(60);

impl Config {
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
        if let Some(server) = &signal_server
            && meet(server.listen, http.listen)
        {
            let message = format!(
                "is {}, and [http] listen is {}: give it another port",
                server.listen, http.listen
            );
            let offset = document.offset_of(SIGNAL_SERVER);
            document.mistake(offset, "signal-server.listen", &message);
        }
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

/// Whether not both can be listened on: `[::]` takes IPv4, too.
fn meet(one: SocketAddr, two: SocketAddr) -> bool {
    let takes = |all: IpAddr, other: IpAddr| match all {
        IpAddr::V4(all) => all.is_unspecified() && other.is_ipv4(),
        IpAddr::V6(all) => all.is_unspecified(),
    };
    let (a, b) = (one.ip().to_canonical(), two.ip().to_canonical());
    one.port() == two.port() && one.port() != 0 && (a == b || takes(a, b) || takes(b, a))
}

/// What is remembered of its section; no channel has this name.
const SIGNAL_SERVER: &str = "[signal-server]";

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
                // Not repeated: it may be a url with a password.
                "is that of another channel: viewers could not tell them apart",
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
    // A page has no password to write there, and the signalling server is told the id.
    ChannelId::from(without_secrets(url))
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
    document.remember(SIGNAL_SERVER, offset);
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
    config.max_upload = section.optional(document, "max-upload", |value| {
        // Below 1 Mbit/s no viewer gets a segment in time.
        reader::bandwidth(value, 1_000_000)
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

/// What is wrong with it may be shown to all of the LAN, and there may be a token in it: it is not
/// repeated.
fn url_of(value: &toml_span::Value<'_>, schemes: &[&str], what: &str) -> Result<Url, String> {
    let text = reader::text(value)?;
    let wanted = schemes.join(":// or ");
    let url = Url::parse(text)
        .map_err(|error| format!("is not {what} ({error}): it starts with {wanted}://"))?;
    match schemes.contains(&url.scheme()) {
        true => Ok(url),
        false => Err(format!(
            "is not {what} ({}://): it starts with {wanted}://",
            url.scheme()
        )),
    }
}
