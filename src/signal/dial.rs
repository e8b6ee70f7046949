//! The way to a signalling server, which the clients of all channels share: how to trust it, and how
//! many of them knock at a time.

use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{
    Connector, MaybeTlsStream, WebSocketStream, connect_async_tls_with_config,
};
use url::Url;

use super::{tls, websocket_config};
use crate::ids::without_secrets;

/// Connections that are being made at a time. A box of a hundred channels that has lost its server,
/// or has just been started, asks for a hundred at once: four at a time are through within two
/// seconds at 80 ms each, and cost a server that has many such boxes, and this box's CPU, no burst
/// of TLS handshakes.
const AT_A_TIME: usize = 4;

/// Name, TCP, TLS and upgrade together.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Bytes of one message that are read at most. What is longer than
/// [`MAX_MESSAGE`](super::messages::MAX_MESSAGE) is of no use to us, but not worth the connection
/// either: another server's list of all ten thousand peers of a channel has this size. It is held
/// only until it has been looked at.
const MAX_READ: usize = 1 << 20;

/// How the channels of a box reach their signalling server.
#[derive(Debug)]
pub struct Dialer {
    url: Url,
    shown: String,
    ca: Vec<CertificateDer<'static>>,
    connector: OnceCell<Trust>,
    places: Semaphore,
}

/// A [`Connector`] once it is made: reading the system's certificates takes a while.
struct Trust(Connector);

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Trust")
    }
}

impl Dialer {
    /// To the server at `url` (`ws://` or `wss://`), whose certificate has to come from `ca`; if that
    /// is empty, from one of the system's.
    pub fn new(url: Url, ca: Vec<CertificateDer<'static>>) -> Self {
        Self {
            shown: without_secrets(&url),
            url,
            ca,
            connector: OnceCell::new(),
            places: Semaphore::new(AT_A_TIME),
        }
    }

    /// The address without what may be secret.
    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    /// Connects, when it is its turn.
    ///
    /// # Errors
    /// What went wrong, in words for the operator.
    pub(super) async fn dial(&self) -> Result<WebSocketStream<MaybeTlsStream<TcpStream>>, String> {
        // Never closed, so that there always is a turn.
        let _turn = self.places.acquire().await.ok();
        let trust = async { tls::connector(&self.url, &self.ca).map(Trust) };
        let Trust(connector) = self.connector.get_or_try_init(|| trust).await?;
        let connector = Some(connector.clone());
        let config = Some(client_config());
        let connect = connect_async_tls_with_config(self.url.as_str(), config, true, connector);
        match timeout(CONNECT_WITHIN, connect).await {
            Ok(Ok((socket, _))) => Ok(socket),
            Ok(Err(error)) => Err(tls::explain(&error)),
            Err(_) => Err(format!(
                "no connection within {} s",
                CONNECT_WITHIN.as_secs()
            )),
        }
    }
}

pub(super) fn client_config() -> WebSocketConfig {
    websocket_config()
        .max_message_size(Some(MAX_READ))
        .max_frame_size(Some(MAX_READ))
}
