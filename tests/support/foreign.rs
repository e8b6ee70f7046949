//! A signalling server in the hands of the test: it says what the test says, and nothing else.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, accept_async};

/// The longest that a client itself waits for anything is 10 s.
const SOON: Duration = Duration::from_secs(30);

async fn soon<T>(work: impl Future<Output = T>) -> T {
    timeout(SOON, work).await.expect("in time")
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A server that listens on the loopback interface.
pub(crate) struct Foreign {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
}

/// A peer that has connected to it.
pub(crate) struct Guest(WebSocketStream<Box<dyn Stream>>);

impl Foreign {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self {
            listener,
            tls: None,
        }
    }

    pub(crate) async fn start_with(tls: TlsAcceptor) -> Self {
        Self {
            tls: Some(tls),
            ..Self::start().await
        }
    }

    pub(crate) fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "wss" } else { "ws" };
        format!("{scheme}://{}/ws", self.listener.local_addr().unwrap())
    }

    /// The next connection, on which nothing has been said.
    pub(crate) async fn connection(&self) -> TcpStream {
        soon(self.listener.accept()).await.unwrap().0
    }

    /// The next connection, on which TLS and WebSocket have to come about.
    pub(crate) async fn guest(&self) -> Guest {
        let stream = self.connection().await;
        let stream: Box<dyn Stream> = match &self.tls {
            Some(tls) => Box::new(tls.accept(stream).await.unwrap()),
            None => Box::new(stream),
        };
        Guest(accept_async(stream).await.unwrap())
    }

    /// The next connection, whose TLS handshake has to fail.
    pub(crate) async fn distrusted(&self) {
        let stream = self.connection().await;
        let tls = self.tls.as_ref().unwrap();
        assert!(tls.accept(stream).await.is_err());
    }

    /// Lets the next peer in as `id`; returns what it said to enter.
    pub(crate) async fn accept(&self, id: Value) -> (Guest, Value) {
        let mut guest = self.guest().await;
        let enter = guest.hear().await;
        guest
            .say(json!({"action": "accept", "live": true, "peer_id": id}))
            .await;
        (guest, enter)
    }
}

impl Guest {
    pub(crate) async fn say(&mut self, message: Value) {
        self.send(Message::text(message.to_string())).await;
    }

    pub(crate) async fn send(&mut self, message: Message) {
        // Who has gone is noticed by who waits for an answer.
        let _ = self.0.send(message).await;
    }

    /// The next message of the peer, as it was written.
    pub(crate) async fn hear_text(&mut self) -> String {
        loop {
            match soon(self.0.next()).await.unwrap().unwrap() {
                Message::Text(text) => return text.to_string(),
                Message::Ping(_) => {}
                other => panic!("unexpected: {other:?}"),
            }
        }
    }

    pub(crate) async fn hear(&mut self) -> Value {
        serde_json::from_str(&self.hear_text().await).unwrap()
    }

    /// The next message with this action.
    pub(crate) async fn hear_of(&mut self, action: &str) -> Value {
        loop {
            let message = self.hear().await;
            if message["action"] == action {
                return message;
            }
        }
    }

    /// Whether the peer closes as the protocol of WebSockets wants it.
    pub(crate) async fn is_closed(&mut self) -> bool {
        matches!(soon(self.0.next()).await, Some(Ok(Message::Close(_))))
    }
}

/// A certificate authority of one's own.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        let name = format!("authority {:x}", rand::random::<u64>());
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem(),
            der: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        self.der.clone()
    }

    /// Writes its certificate into a file.
    pub(crate) fn write(&self, path: &Path) {
        std::fs::write(path, &self.pem).unwrap();
    }

    /// What a server at this name needs.
    pub(crate) fn server(&self, name: &str) -> TlsAcceptor {
        self.sign(CertificateParams::new([name.to_owned()]).unwrap())
    }

    /// The same, with a certificate that has expired.
    pub(crate) fn expired_server(&self, name: &str) -> TlsAcceptor {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_after = date_time_ymd(2020, 1, 1);
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}
