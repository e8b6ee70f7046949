//! The pages: `/` and `/api/status` (the state of channels and peers), `/metrics` (Prometheus),
//! `/healthz`, `/watch` (a page with a player that uses the box), and `/live/<name>/` (the segments as plain
//! HLS, for players without WebRTC).
//!
//! Read-only: whatever is asked here, nothing of the box changes by it.

pub mod assets;
mod connections;
mod live;
mod metrics;
mod status;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use bytes::Bytes;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use url::Url;

use self::live::Live;
use crate::budget::Budget;
use crate::config::ChannelConfig;
use crate::fetch::{ChannelStatus, LanPlaylists};
use crate::ids::{ChannelId, ChannelName, without_password};
use crate::metrics::Metrics;
use crate::peer;
use crate::store::Store;

/// The status page; it asks `/api/status` every two seconds.
const STATUS_PAGE: &str = include_str!("assets/status.html");

/// The pages bring all they need; a media element plays from memory (`blob:`) and everything may
/// talk to the origin and the signalling server, wherever these are.
const CONTENT_SECURITY_POLICY: &str = "default-src 'self' 'unsafe-inline'; media-src 'self' blob:; \
     worker-src 'self' blob:; connect-src *; img-src 'self' data:; frame-ancestors *";

/// Why there are no pages.
#[derive(Debug)]
pub enum HttpError {
    /// Another program listens there.
    AddressInUse(SocketAddr),
    /// The system does not let us listen there.
    Permission(SocketAddr),
    /// Anything else that the system said.
    Socket(SocketAddr, io::Error),
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddressInUse(address) => write!(
                f,
                "{address} is taken by another program: stop it, or choose another [http] listen"
            ),
            Self::Permission(address) => write!(
                f,
                "no permission to listen on {address}: choose a port above 1023 for [http] listen"
            ),
            Self::Socket(address, error) => write!(
                f,
                "cannot listen on {address}: {error}; is [http] listen an address of this machine?"
            ),
        }
    }
}

impl std::error::Error for HttpError {}

/// One channel as the pages know it.
pub struct Channel {
    /// Its configuration.
    pub config: ChannelConfig,
    /// How its prefetching goes.
    pub status: watch::Receiver<ChannelStatus>,
    /// Its playlists for players in the LAN.
    pub lan: watch::Receiver<LanPlaylists>,
}

/// Where the watch page finds the signalling server.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SignalAddress {
    /// The server that the configuration names, as a URL.
    Signal(Url),
    /// Our own server: this port of whatever host the page was loaded from.
    SignalPort(u16),
    /// The same with TLS.
    SignalTlsPort(u16),
}

/// What the pages show.
pub struct Sources {
    /// The channels, in the order of the configuration.
    pub channels: Vec<Channel>,
    /// Where viewers meet the box.
    pub signal: SignalAddress,
    /// What our own server wants to see from who enters: shared by all pages, and no secret to them.
    pub signal_token: Option<String>,
    /// The numbers.
    pub metrics: Arc<Metrics>,
    /// Media in flight.
    pub budget: Budget,
    /// Segments.
    pub store: Store,
    /// Bytes of segments at most, `[store] max-size`.
    pub store_max: u64,
    /// How long a request may wait for a segment that is on its way.
    pub request_hold: Duration,
    /// Who can list the peers.
    pub peers: mpsc::Sender<peer::Command>,
    /// When the box started.
    pub started: Instant,
}

/// The server, listening already.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Listens at `address`.
    ///
    /// # Errors
    /// [`HttpError`] when the address cannot be had.
    pub async fn bind(address: SocketAddr) -> Result<Self, HttpError> {
        let error = |error: io::Error| match error.kind() {
            io::ErrorKind::AddrInUse => HttpError::AddressInUse(address),
            io::ErrorKind::PermissionDenied => HttpError::Permission(address),
            _ => HttpError::Socket(address, error),
        };
        let listener = TcpListener::bind(address).await.map_err(error)?;
        let address = listener.local_addr().map_err(error)?;
        Ok(Self { listener, address })
    }

    /// Where it listens; the port is a real one even if 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`.
    pub async fn run(self, sources: Sources, stop: CancellationToken) {
        let sources = Arc::new(sources);
        let app = Router::new()
            .route("/", get(status_page))
            .route("/healthz", get(healthz))
            .route("/metrics", get(metrics_text))
            .route("/api/status", get(api_status))
            .route("/watch", get(watch_page))
            .route("/watch/", get(|| async { Redirect::permanent("/watch") }))
            .route("/watch/config.json", get(watch_config))
            .route("/watch/{*file}", get(watch_file))
            .with_state(Arc::clone(&sources))
            .route(
                "/live/{channel}/{*path}",
                get(live::answer).with_state(Live::new(sources)),
            );
        connections::serve(self.listener, app, stop).await;
    }
}

impl Server {
    /// Answers everything with this text, that the box is not healthy, until `stop`. Whoever has opened a
    /// page sees the box's own as soon as they are there.
    pub async fn run_with_one_answer(self, text: String, stop: CancellationToken) {
        let text = Bytes::from(text);
        let answer = async move || {
            let mut response = content(text, "text/plain; charset=utf-8");
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            let again = HeaderValue::from_static("5");
            response.headers_mut().insert(header::REFRESH, again);
            response
        };
        let app = Router::new().fallback(answer);
        connections::serve(self.listener, app, stop).await;
    }
}

type AppState = State<Arc<Sources>>;

fn content(body: impl Into<Body>, content_type: &'static str) -> Response {
    let mut response = Response::new(body.into());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(CONTENT_SECURITY_POLICY),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

async fn status_page() -> Response {
    content(STATUS_PAGE, "text/html; charset=utf-8")
}

async fn healthz(State(sources): AppState) -> Response {
    let problems = status::problems(&sources);
    if problems.is_empty() {
        return content("ok\n", "text/plain; charset=utf-8");
    }
    let mut response = content(problems.join("\n") + "\n", "text/plain; charset=utf-8");
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response
}

async fn metrics_text(State(sources): AppState) -> Response {
    match metrics::render(&sources.metrics, &sources.budget) {
        Ok(text) => content(text, metrics::CONTENT_TYPE),
        Err(fmt::Error) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn api_status(State(sources): AppState) -> Response {
    json(&status::status(&sources).await)
}

fn json(value: &impl Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(text) => content(text, "application/json"),
        Err(error) => {
            log::error!("cannot write JSON: {error}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn watch_page() -> Response {
    let mut response = watch_file(Path(String::new())).await;
    if !assets::WATCH_BUILT {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

async fn watch_file(Path(file): Path<String>) -> Response {
    match assets::watch_asset(&file) {
        Some((bytes, content_type)) => content(bytes, content_type),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

#[derive(Serialize)]
struct WatchConfig<'a> {
    channels: Vec<WatchChannel<'a>>,
    #[serde(flatten)]
    signal: &'a SignalAddress,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal_token: Option<&'a str>,
}

#[derive(Serialize)]
struct WatchChannel<'a> {
    name: &'a ChannelName,
    id: &'a ChannelId,
    url: Url,
}

async fn watch_config(State(sources): AppState) -> Response {
    json(&WatchConfig {
        channels: sources
            .channels
            .iter()
            .map(|channel| WatchChannel {
                name: &channel.config.name,
                id: &channel.config.id,
                url: without_password(&channel.config.url),
            })
            .collect(),
        signal: &sources.signal,
        signal_token: sources.signal_token.as_deref(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watch_page_is_told_where_to_signal_and_with_which_token() {
        let written = |signal, signal_token| {
            let channels = Vec::new();
            let config = WatchConfig {
                channels,
                signal: &signal,
                signal_token,
            };
            serde_json::to_string(&config).unwrap()
        };
        assert_eq!(
            written(SignalAddress::SignalTlsPort(12035), Some("t")),
            r#"{"channels":[],"signal_tls_port":12035,"signal_token":"t"}"#
        );
        assert_eq!(
            written(SignalAddress::SignalPort(12035), None),
            r#"{"channels":[],"signal_port":12035}"#
        );
    }
}
