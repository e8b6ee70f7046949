//! The HTTP client towards the origin: bounded in size and time, and its errors in the words of
//! whoever has to mend the origin, the network or the configuration.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{
    CONNECTION, ETAG, HeaderMap, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
    TRANSFER_ENCODING,
};
use reqwest::{Response, StatusCode, Version};
use url::Url;

use super::names::Names;
use crate::hls::{self, Playlist, PlaylistError, Variables, Written};

/// Bytes of a playlist at most, after decompression: 50,000 entries of 40 bytes.
pub const MAX_PLAYLIST: usize = 2 << 20;
/// Bytes of a segment at most: 10 s at 50 Mbit/s.
pub const MAX_SEGMENT: u64 = 64 << 20;

/// A connection takes one round trip; five seconds is a dead address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Silence for longer than most segments last: what comes after that is of little use, and a new
/// connection may do better.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);
/// For a whole playlist; it is small.
const PLAYLIST_TIMEOUT: Duration = Duration::from_secs(10);
/// CDNs need one or two.
const MAX_REDIRECTS: usize = 5;

/// The client; clones share its connections.
#[derive(Clone, Debug)]
pub struct OriginClient {
    http: reqwest::Client,
    fresh: reqwest::Client,
}

/// What tells the origin which copy of a playlist we have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validators {
    etag: Option<HeaderValue>,
    last_modified: Option<HeaderValue>,
}

/// The answer to a request for a playlist.
#[derive(Debug)]
pub enum Loaded {
    /// 304: the copy that the validators stand for is current.
    Unchanged,
    /// A playlist.
    Changed(Box<LoadedPlaylist>),
}

/// A playlist as it came.
#[derive(Debug)]
pub struct LoadedPlaylist {
    /// What is in it; its addresses are resolved against the final one, after redirects.
    pub playlist: Playlist,
    /// For the next request.
    pub validators: Validators,
    /// Bytes of the answer.
    pub bytes: usize,
    /// What was read, from the final address.
    pub written: Written,
}

/// What went wrong with the origin.
#[derive(Debug, PartialEq, Eq)]
pub enum OriginError {
    /// The name of the host cannot be resolved.
    Dns(String),
    /// The host answers, but not on that port.
    Refused(String),
    /// No connection for another reason.
    Connect(String),
    /// It took too long.
    Timeout,
    /// No trust between us and the host.
    Tls(String),
    /// Another status than 200 (and 304 where asked for).
    Status(u16),
    /// More redirects than are followed.
    Redirects,
    /// More bytes than are taken.
    TooLarge {
        /// How many are taken.
        limit: u64,
    },
    /// The connection broke off inside the answer.
    Truncated {
        /// Bytes that came.
        got: u64,
        /// Bytes that were promised, if any were.
        expected: Option<u64>,
    },
    /// Nothing more came inside the answer, or next to nothing, and the connection stayed.
    Stalled {
        /// Bytes that came.
        got: u64,
        /// Bytes that were promised, if any were.
        expected: Option<u64>,
    },
    /// Another attempt at a segment brought other bytes than the first.
    Changed,
    /// A page in place of a segment, as sign-in portals send.
    NotMedia(String),
    /// A part of a resource was asked for, and something else came: this.
    NotThatPart(String),
    /// A multivariant playlist where a media playlist was.
    NotMediaPlaylist,
    /// The playlist does not make sense.
    Playlist(PlaylistError),
    /// Anything else.
    Other(String),
}

impl fmt::Display for OriginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(detail) => {
                write!(
                    f,
                    "the host's name cannot be resolved ({detail}): check the url and the DNS"
                )
            }
            Self::Refused(host) => write!(f, "{host} refuses connections: is the server running?"),
            Self::Connect(detail) => write!(f, "no connection: {detail}"),
            Self::Timeout => f.write_str("no answer in time"),
            Self::Tls(detail) => write!(f, "no trusted connection: {detail}"),
            Self::Status(code) => {
                let known = StatusCode::from_u16(*code).ok();
                let reason = known.and_then(|status| status.canonical_reason());
                write!(f, "answered {code} {}", reason.unwrap_or_default())
            }
            Self::Redirects => write!(f, "redirects more than {MAX_REDIRECTS} times"),
            Self::TooLarge { limit } => {
                write!(f, "larger than {} MiB, the most that is taken", limit >> 20)
            }
            Self::Truncated { got, expected } => {
                write!(f, "broke off after {}", progress(*got, *expected))
            }
            Self::Stalled { got, expected } => {
                write!(f, "stalled after {}", progress(*got, *expected))
            }
            Self::Changed => f.write_str("the segment's bytes changed while it was loaded"),
            Self::NotMedia(kind) => write!(f, "answered with {kind} in place of a segment"),
            Self::NotThatPart(what) => write!(
                f,
                "answered with {what} in place of the byte range: the origin does not serve ranges \
                 of it"
            ),
            Self::NotMediaPlaylist => f.write_str("is a multivariant playlist, not a media one"),
            Self::Playlist(error) => error.fmt(f),
            Self::Other(detail) => f.write_str(detail),
        }
    }
}

impl std::error::Error for OriginError {}

fn progress(got: u64, expected: Option<u64>) -> String {
    match expected {
        Some(expected) => format!("{got} of {expected} bytes"),
        None => format!("{got} bytes"),
    }
}

impl OriginClient {
    /// A client that trusts the system's certificate authorities. Where there are none it can
    /// still be used for `http`.
    ///
    /// # Errors
    /// [`OriginError::Other`] if TLS cannot be set up at all.
    pub fn new() -> Result<Self, OriginError> {
        // reqwest asks for a provider of the process. A second one is refused, which is fine: it
        // is the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let names = Names::default();
        let builder = || {
            reqwest::Client::builder()
                .dns_resolver(names.clone())
                .user_agent(concat!("edgeseed/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(CONNECT_TIMEOUT)
                .read_timeout(IDLE_TIMEOUT)
                .redirect(reqwest::redirect::Policy::limited(MAX_REDIRECTS))
                // Tokens in one address are nobody's business at the next.
                .referer(false)
                .tcp_nodelay(true)
        };
        let build = |builder: &dyn Fn() -> reqwest::ClientBuilder| {
            let built = builder().build();
            let built = built.or_else(|_| builder().tls_certs_only([]).build());
            built.map_err(|error| OriginError::Other(innermost(&error)))
        };
        if let Err(error) = builder().build() {
            log::warn!(
                "no certificate authorities ({}): origins over https will fail; install \
                 ca-certificates",
                innermost(&error)
            );
        }
        Ok(Self {
            http: build(&builder)?,
            fresh: build(&|| builder().pool_max_idle_per_host(0))?,
        })
    }

    /// Loads and reads a playlist. `imports` are the variables of the multivariant playlist that
    /// lists it, if there is one.
    ///
    /// # Errors
    /// [`OriginError`]; what came of an answer that broke off is not looked at.
    pub async fn playlist(
        &self,
        url: &Url,
        validators: &Validators,
        imports: &Variables,
    ) -> Result<Loaded, OriginError> {
        let mut headers = HeaderMap::new();
        let conditions = [
            (IF_NONE_MATCH, &validators.etag),
            (IF_MODIFIED_SINCE, &validators.last_modified),
        ];
        for (name, value) in conditions {
            if let Some(value) = value {
                headers.insert(name, value.clone());
            }
        }
        let request = self.http.get(url.clone()).headers(headers);
        let response = request.timeout(PLAYLIST_TIMEOUT).send().await;
        let response = response.map_err(|error| before_body(&error, url))?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_MODIFIED if *validators != Validators::default() => {
                return Ok(Loaded::Unchanged);
            }
            other => return Err(OriginError::Status(other.as_u16())),
        }
        let validators = Validators {
            etag: response.headers().get(ETAG).cloned(),
            last_modified: response.headers().get(LAST_MODIFIED).cloned(),
        };
        let base = response.url().clone();
        let open_ended = is_open_ended(&response);
        let body = read_all(response, MAX_PLAYLIST).await?;
        let bytes = body.len();
        let mut text = String::from_utf8_lossy(&body);
        if open_ended && let Some(end) = text.rfind('\n') {
            text.to_mut().truncate(end + 1);
        }
        let playlist = hls::parse(&text, &base, imports).map_err(OriginError::Playlist)?;
        Ok(Loaded::Changed(Box::new(LoadedPlaylist {
            playlist,
            validators,
            bytes,
            written: Written {
                text: text.into_owned(),
                base,
            },
        })))
    }

    /// Loads a small text, such as the status of a box.
    ///
    /// # Errors
    /// [`OriginError`], also for one of more than `limit` bytes.
    pub async fn text(&self, url: &Url, limit: usize) -> Result<String, OriginError> {
        let request = self.http.get(url.clone()).timeout(PLAYLIST_TIMEOUT);
        let response = request.send().await;
        let response = response.map_err(|error| before_body(&error, url))?;
        if response.status() != StatusCode::OK {
            return Err(OriginError::Status(response.status().as_u16()));
        }
        let body = read_all(response, limit).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// A client that opens a connection for each request: when the one at hand is stuck, the next
    /// request must not wait behind it.
    pub(super) fn fresh(&self) -> &reqwest::Client {
        &self.fresh
    }

    pub(super) fn pooled(&self) -> &reqwest::Client {
        &self.http
    }
}

/// Whether the end of the body is just the end of the connection, so that a cut cannot be told
/// from the end. The last line of such a playlist counts only if it is terminated, or half a URI
/// would be fetched. (The length of a compressed body is not shown to us; that it is not open
/// ended shows in `Connection`.)
fn is_open_ended(response: &Response) -> bool {
    let headers = response.headers();
    let closes = headers.get(CONNECTION).is_some_and(|value| {
        let value = value.to_str().unwrap_or_default();
        value.eq_ignore_ascii_case("close")
    });
    let framed = response.content_length().is_some() || headers.contains_key(TRANSFER_ENCODING);
    match response.version() {
        Version::HTTP_09 | Version::HTTP_10 => !framed,
        Version::HTTP_11 => !framed && closes,
        _ => false,
    }
}

async fn read_all(mut response: Response, limit: usize) -> Result<Bytes, OriginError> {
    let length = response.content_length();
    let too_large = OriginError::TooLarge {
        limit: limit as u64,
    };
    if length.is_some_and(|length| length > limit as u64) {
        return Err(too_large);
    }
    let mut body = BytesMut::new();
    loop {
        let bytes = response.chunk().await;
        match bytes.map_err(|error| inside_body(&error, body.len() as u64, length))? {
            Some(bytes) if body.len() + bytes.len() > limit => return Err(too_large),
            Some(bytes) => body.extend_from_slice(&bytes),
            None => return Ok(body.freeze()),
        }
    }
}

pub(super) fn before_body(error: &reqwest::Error, url: &Url) -> OriginError {
    let host = url.host_str().unwrap_or_default();
    if error.is_redirect() {
        return OriginError::Redirects;
    }
    if error.is_timeout() {
        return OriginError::Timeout;
    }
    if error.is_dns() {
        return OriginError::Dns(host.into());
    }
    for source in sources(error) {
        if let Some(tls) = source.downcast_ref::<rustls::Error>() {
            return OriginError::Tls(explain_tls(tls));
        }
        let refused = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
        if source.downcast_ref::<io::Error>().is_some_and(refused) {
            let port = url.port_or_known_default().unwrap_or_default();
            return OriginError::Refused(format!("{host}:{port}"));
        }
    }
    match error.is_connect() {
        true => OriginError::Connect(innermost(error)),
        false => OriginError::Other(innermost(error)),
    }
}

fn inside_body(error: &reqwest::Error, got: u64, expected: Option<u64>) -> OriginError {
    match error.is_timeout() {
        true => OriginError::Timeout,
        false => OriginError::Truncated { got, expected },
    }
}

fn explain_tls(error: &rustls::Error) -> String {
    use rustls::CertificateError as Bad;
    let day = |time: &rustls::pki_types::UnixTime| {
        let seconds = i64::try_from(time.as_secs()).ok();
        let time = seconds.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
        time.map_or_else(|| "?".into(), |time| time.strftime("%Y-%m-%d").to_string())
    };
    let rustls::Error::InvalidCertificate(bad) = error else {
        return error.to_string();
    };
    // A box without a battery-backed clock starts in the past.
    match bad {
        Bad::ExpiredContext { time, not_after } => format!(
            "the certificate expired on {}, and it is {} by this machine's clock",
            day(not_after),
            day(time)
        ),
        Bad::NotValidYetContext { time, not_before } => format!(
            "the certificate is valid from {}, and it is {} by this machine's clock",
            day(not_before),
            day(time)
        ),
        Bad::Expired | Bad::NotValidYet => format!("{error}; is this machine's clock set?"),
        Bad::UnknownIssuer => {
            "the certificate is of an authority that this machine does not know; \
                               if it is to be trusted, install its certificate"
                .into()
        }
        _ => error.to_string(),
    }
}

/// The causes, one within the other. Of an error that an `io::Error` wraps, `source` gives the cause
/// and not the error itself.
fn sources<'a>(
    error: &'a reqwest::Error,
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(error.source(), |&source| {
        let wrapped = source
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        match wrapped {
            Some(wrapped) => Some(wrapped),
            None => source.source(),
        }
    })
}

/// The last cause: what reqwest puts before it ("error sending request for url ...") repeats the
/// address with its tokens.
pub(super) fn innermost(error: &reqwest::Error) -> String {
    match sources(error).last() {
        Some(source) => source.to_string(),
        None => "the request cannot be made".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_of_another_time_points_at_the_clock() {
        let error = rustls::Error::InvalidCertificate(rustls::CertificateError::NotValidYet);
        assert!(explain_tls(&error).contains("clock"));
    }
}
