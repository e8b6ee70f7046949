//! What the signalling server refuses, and what that costs others: nothing. And who it lets in:
//! the token, and TLS.

// clippy.toml lifts these inside test functions only; here the helpers need it as well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/signal.rs"]
mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use edgeseed::config::{SignalServerConfig, TlsFiles};
use edgeseed::metrics::{ChannelMetrics, Refused};
use edgeseed::signal::Dialer;
use edgeseed::signal::client::{self, ClientConfig, Event, Load};
use edgeseed::signal::server::{Server, SignalError};
use futures_util::SinkExt;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;
use support::{CHANNEL, Page, Running, any_port, connect, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::{Connector, client_async_tls_with_config};
use tokio_util::sync::CancellationToken;
use url::Url;

fn config() -> SignalServerConfig {
    SignalServerConfig::new(any_port())
}

/// A pair of pages that can hear each other.
async fn can_talk(server: &Running) {
    let (mut one, _) = Page::enter(server.addr).await;
    let (mut two, two_id) = Page::enter(server.addr).await;
    one.say(json!({"action": "signal", "to_peer_id": two_id, "data": "hello"}))
        .await;
    assert_eq!(two.hear().await["data"], "hello");
}

#[tokio::test]
async fn one_address_takes_its_share_of_sockets_and_is_told_why_it_gets_no_more() {
    let server = Running::with(SignalServerConfig {
        max_sockets_per_address: 2,
        ..config()
    })
    .await;
    let open = || Page::open_from("127.0.0.3", server.addr);
    let (first, mut second, third) = (open().await, open().await, open().await);
    second.enter_channel(CHANNEL).await;
    let goodbye = third.hung_up().await.unwrap();
    assert_eq!(u16::from(goodbye.code), 1013);
    assert!(goodbye.reason.contains("too many sockets of this address"));
    assert_eq!(server.refused(Refused::Address), 1);
    // Others come in, and who leaves makes room.
    let mut other = Page::open_from("127.0.0.2", server.addr).await;
    other.enter_channel(CHANNEL).await;
    first.vanish();
    server.until_sockets(2).await;
    open().await.enter_channel(CHANNEL).await;
    second.settle().await;
    server.stop().await;
}

#[tokio::test]
async fn one_socket_enters_eight_channels_and_no_more() {
    let server = Running::with(config()).await;
    let mut page = Page::open(server.addr).await;
    for channel in 0..8 {
        page.enter_channel(&format!("channel {channel}")).await;
    }
    page.say(json!({"action": "enter", "channel": "one more"}))
        .await;
    assert_eq!(
        page.hear().await,
        json!({"action": "reject", "reason": "this socket is in too many channels"})
    );
    assert_eq!(server.refused(Refused::Entries), 1);
    // The others stay.
    page.enter_channel("channel 0").await;
    server.stop().await;
}

#[tokio::test]
async fn whoever_speaks_too_fast_is_held_back_and_nobody_else_is() {
    let server = Running::with(config()).await;
    let (mut fast, _) = Page::enter(server.addr).await;
    for _ in 0..150 {
        fast.say(json!({"action": "dance"})).await;
    }
    can_talk(&server).await;
    // It is heard in the end.
    fast.settle().await;
    assert!(server.refused(Refused::Rate) > 0);
    server.stop().await;
}

#[tokio::test]
async fn a_message_that_is_too_long_ends_its_socket_with_the_reason() {
    let server = Running::with(config()).await;
    let (mut page, _) = Page::enter(server.addr).await;
    // Just too long, so that all of it is written and read.
    let _ = soon(page.0.send(Message::text("x".repeat(64 * 1024 + 1)))).await;
    let goodbye = page.hung_up().await.unwrap();
    assert_eq!(u16::from(goodbye.code), 1009);
    assert!(goodbye.reason.contains("too long"));
    assert_eq!(server.refused(Refused::Message), 1);
    can_talk(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn a_socket_that_does_not_read_is_dropped_and_its_senders_go_on() {
    let server = Running::start(any_port()).await;
    let (slow, slow_id) = Page::enter(server.addr).await;
    let (mut other, other_id) = Page::enter(server.addr).await;
    let mut senders = Vec::new();
    while server.refused(Refused::Flood) == 0 {
        assert!(senders.len() < 20, "no flood fills its buffers");
        senders.push(flood(&server, &slow_id).await);
    }
    for mut sender in senders {
        sender
            .say(json!({"action": "signal", "to_peer_id": other_id, "data": 1}))
            .await;
        assert_eq!(other.hear().await["data"], 1);
    }
    // A write may take 10 s.
    soon(async {
        while server.refused(Refused::Slow) == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    slow.hung_up().await;
    server.stop().await;
}

/// A page that has sent so much to another as fits into one burst of the rate, and was heard.
async fn flood(server: &Running, to: &str) -> Page {
    let (mut page, _) = Page::enter(server.addr).await;
    let data = "x".repeat(16_000);
    let flood = json!({"action": "signal", "to_peer_id": to, "data": data}).to_string();
    for _ in 0..90 {
        page.say_text(&flood).await;
    }
    page.settle().await;
    page
}

#[tokio::test]
async fn a_peer_that_reads_stays_in_while_others_flood_it() {
    let server = Running::start(any_port()).await;
    let (mut victim, victim_id) = Page::enter(server.addr).await;
    let mut flooders = Vec::new();
    while server.refused(Refused::Flood) == 0 {
        assert!(flooders.len() < 20, "no flood fills its buffers");
        flooders.push(flood(&server, &victim_id).await);
    }
    // It was busy for a while; now it reads on.
    victim.settle().await;
    assert_eq!(server.refused(Refused::Slow), 0);
    can_talk(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn a_signal_that_is_too_long_is_refused_and_its_sender_stays_in() {
    let server = Running::start(any_port()).await;
    let (mut sender, _) = Page::enter(server.addr).await;
    let (mut other, other_id) = Page::enter(server.addr).await;
    let signal = |bytes: usize| {
        // Two of them are its quotes.
        let data = "x".repeat(bytes - 2);
        json!({"action": "signal", "to_peer_id": other_id, "data": data})
    };
    sender.say(signal(16 * 1024 + 1)).await;
    sender.settle().await;
    assert_eq!(server.refused(Refused::Message), 1);
    sender.say(signal(16 * 1024)).await;
    assert_eq!(other.hear().await["action"], "signal");
    server.stop().await;
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_socket_that_does_not_read() {
    let server = Running::with(config()).await;
    let (slow, slow_id) = Page::enter(server.addr).await;
    // More than the socket's buffers hold: it is being written to.
    let mut senders = Vec::new();
    while server.refused(Refused::Flood) == 0 {
        assert!(senders.len() < 20, "no flood fills its buffers");
        senders.push(flood(&server, &slow_id).await);
    }
    server.stop.cancel();
    // A write may take 10 s.
    tokio::time::timeout(Duration::from_secs(5), server.task)
        .await
        .expect("the server has stopped")
        .unwrap();
    drop(slow);
}

#[tokio::test]
async fn a_socket_that_shows_no_token_or_another_is_rejected_and_may_try_again() {
    let server = Running::with(SignalServerConfig {
        token: Some("open sesame".to_owned()),
        ..config()
    })
    .await;
    let mut page = Page::open(server.addr).await;
    for token in [
        json!(null),
        json!(7),
        json!(""),
        json!("open sesam"),
        json!("open sesamE"),
        json!("x".repeat(1000)),
    ] {
        page.say(json!({"action": "enter", "channel": CHANNEL, "token": token}))
            .await;
        let reject = page.hear().await;
        assert_eq!(reject["action"], "reject");
        assert!(reject["reason"].as_str().unwrap().contains("token"));
    }
    page.say(json!({"action": "enter", "channel": CHANNEL}))
        .await;
    assert_eq!(page.hear().await["action"], "reject");
    assert_eq!(server.refused(Refused::Token), 7);
    page.say(json!({"action": "enter", "channel": CHANNEL, "token": "open sesame"}))
        .await;
    assert_eq!(page.hear().await["action"], "accept");
    server.stop().await;
}

#[tokio::test]
async fn a_token_that_nobody_asks_for_does_no_harm() {
    let server = Running::with(config()).await;
    for token in [json!("anything"), json!({}), json!("x".repeat(1000))] {
        let mut page = Page::open(server.addr).await;
        page.say(json!({"action": "enter", "channel": CHANNEL, "token": token}))
            .await;
        assert_eq!(page.hear().await["action"], "accept");
    }
    server.stop().await;
}

/// A certificate for `localhost` in files.
struct Certificate {
    dir: tempfile::TempDir,
    roots: rustls::RootCertStore,
}

impl Certificate {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("chain.pem"), made.cert.pem()).unwrap();
        std::fs::write(dir.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        let root = CertificateDer::from_pem_file(dir.path().join("chain.pem")).unwrap();
        roots.add(root).unwrap();
        Self { dir, roots }
    }

    fn files(&self) -> TlsFiles {
        TlsFiles {
            certificate: self.path("chain.pem"),
            key: self.path("key.pem"),
        }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// A page that trusts this certificate.
    async fn page(&self, server: &Running) -> Page {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        let stream = TcpStream::connect(server.addr).await.unwrap();
        let url = format!("wss://localhost:{}/", server.addr.port());
        let connector = Some(Connector::Rustls(Arc::new(config)));
        let connected = client_async_tls_with_config(url, stream, None, connector);
        let (socket, _) = soon(Box::pin(connected)).await.unwrap();
        Page(socket)
    }
}

#[tokio::test]
async fn with_a_certificate_pages_come_in_by_tls_and_the_box_itself_without() {
    let certificate = Certificate::new();
    let server = Running::with(SignalServerConfig {
        tls: Some(certificate.files()),
        token: Some("secret".to_owned()),
        ..config()
    })
    .await;
    let (_commands, from_test) = mpsc::channel(8);
    let (to_test, mut events) = mpsc::channel(8);
    let stop = CancellationToken::new();
    let url = Url::parse(&format!("ws://{}/", server.addr)).unwrap();
    let load = Load {
        level: 100.0,
        room: 64,
    };
    let config = ClientConfig {
        dialer: Arc::new(Dialer::new(url, Vec::new())),
        channel: CHANNEL.into(),
        token: Some("secret".to_owned()),
        load: watch::channel(load).1,
    };
    let numbers = Arc::<ChannelMetrics>::default();
    tokio::spawn(client::run(
        config,
        from_test,
        to_test,
        numbers,
        stop.clone(),
    ));
    let Some(Event::Accepted { peer_id }) = soon(events.recv()).await else {
        panic!("the box is not accepted");
    };
    let mut page = certificate.page(&server).await;
    page.say(json!({"action": "enter", "channel": CHANNEL, "token": "secret"}))
        .await;
    assert_eq!(page.hear().await["action"], "accept");
    assert_eq!(page.hear().await, connect(&peer_id.to_string(), true));
    // From elsewhere nothing but TLS.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let stream = soon(socket.connect(server.addr)).await.unwrap();
    let url = format!("ws://{}/", server.addr);
    let plain = soon(Box::pin(tokio_tungstenite::client_async(url, stream))).await;
    assert!(plain.is_err());
    stop.cancel();
    server.stop().await;
    let goodbye = page.hung_up().await.unwrap();
    assert_eq!(u16::from(goodbye.code), 1001);
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_is_named_with_what_is_wrong() {
    let (certificate, other) = (Certificate::new(), Certificate::new());
    let problem = |chain: &Path, key: &Path| {
        let tls = Some(TlsFiles {
            certificate: chain.to_owned(),
            key: key.to_owned(),
        });
        Server::check(&SignalServerConfig { tls, ..config() }).unwrap_err()
    };
    let (chain, key) = (certificate.path("chain.pem"), certificate.path("key.pem"));
    let missing = certificate.path("missing.pem");
    assert!(matches!(
        problem(&missing, &key),
        SignalError::Unreadable { path, .. } if path == missing
    ));
    let broken = certificate.path("broken.pem");
    std::fs::write(
        &broken,
        "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    for (chain, key, at, words) in [
        (&key, &key, &key, "holds no certificate"),
        (&chain, &chain, &chain, "holds no private key"),
        (&broken, &key, &broken, ""),
        (
            &chain,
            &other.path("key.pem"),
            &other.path("key.pem"),
            "is not the key of",
        ),
    ] {
        let error = problem(chain, key);
        assert!(
            matches!(&error, SignalError::Certificate { path, .. } if path == at),
            "{error}"
        );
        assert!(error.to_string().contains(words), "{error}");
    }
}

/// A box with this certificate that asks for a token.
fn write_config(certificate: &Certificate, chain: &Path) -> std::path::PathBuf {
    let file = certificate.path("edgeseed.toml");
    let text = format!(
        "[[channel]]\nname = \"news\"\nurl = \"http://127.0.0.1:9/a/i.m3u8\"\n\
         [signal-server]\nlisten = \"127.0.0.1:0\"\ncertificate = {chain:?}\nkey = {:?}\n\
         token = \"secret\"\n[http]\nlisten = \"127.0.0.1:0\"\n[peer]\nudp-port = 0\n\
         [store]\ndir = {:?}\nmin-free = \"16MiB\"\n",
        certificate.path("key.pem"),
        certificate.path("store"),
    );
    std::fs::write(&file, text).unwrap();
    file
}

/// Killed when dropped.
struct Daemon(std::process::Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_box_with_a_token_and_a_certificate_meets_its_own_viewers() {
    let certificate = Certificate::new();
    let mut daemon = std::process::Command::new(env!("CARGO_BIN_EXE_edgeseed"))
        .args(["run", "--config"])
        .arg(write_config(&certificate, &certificate.path("chain.pem")))
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let log = BufReader::new(daemon.stderr.take().unwrap()).lines();
    let _daemon = Daemon(daemon);
    let (to_test, mut lines) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        log.map_while(Result::ok)
            .try_for_each(|line| to_test.send(line))
    });
    let mut pages = None;
    let mut accepted = false;
    while pages.is_none() || !accepted {
        let line = soon(lines.recv()).await.expect("the box runs");
        accepted |= line.contains("accepted as");
        pages = pages.or(line
            .split_once("pages at http://")
            .map(|(_, address)| address.trim_end_matches('/').to_owned()));
    }
    let mut page = TcpStream::connect(pages.unwrap()).await.unwrap();
    let ask = "GET /watch/config.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    soon(page.write_all(ask.as_bytes())).await.unwrap();
    let mut answer = String::new();
    soon(page.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.contains("\"signal_tls_port\":"), "{answer}");
    assert!(answer.contains("\"signal_token\":\"secret\""), "{answer}");
}

#[test]
fn check_and_start_end_with_the_exit_code_that_fits_the_certificate() {
    let certificate = Certificate::new();
    let ended = |command: &str, chain: &Path| {
        let file = write_config(&certificate, chain);
        let ended = std::process::Command::new(env!("CARGO_BIN_EXE_edgeseed"))
            .args([command, "--config"])
            .arg(file)
            .output()
            .unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        (ended.status.code().unwrap(), said)
    };
    assert_eq!(ended("check", &certificate.path("chain.pem")).0, 0);
    let missing = certificate.path("missing.pem");
    for command in ["check", "signal"] {
        for wrong in [&missing, &certificate.path("key.pem")] {
            let (code, said) = ended(command, wrong);
            assert_eq!(code, 78, "{said}");
            assert!(said.contains(wrong.to_str().unwrap()), "{said}");
        }
    }
}
