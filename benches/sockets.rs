//! The signalling server under many idle sockets: `edgeseed signal` as a child process, and sockets
//! in this one that have each entered a channel and then only answer pings, as the pages of a big
//! venue do.
//!
//! ```text
//! cargo bench --bench sockets -- --sockets 10000 --seconds 60
//! ```
//!
//! Fails when a socket is lost, when a box and a viewer that come late do not meet, or when the
//! server needs more memory than `--max-mb`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

#[path = "../tests/support/process.rs"]
mod process;
mod shared;
#[path = "../tests/support/signalling.rs"]
#[allow(dead_code)]
mod signalling;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clap::Parser;
use futures_util::{StreamExt, stream};
use process::{cpu, memory};
use serde_json::json;
use shared::Report;
use signalling::Signalling;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// Sockets that connect at the same time.
const JOINING: usize = 100;

/// A pair that has not met by then will not.
const PATIENCE: Duration = Duration::from_secs(10);

/// The first byte of a ping and of a closing frame (RFC 6455 section 5.2).
const PING: u8 = 0x89;
const CLOSE: u8 = 0x88;

/// An empty pong, masked with zeros.
const PONG: [u8; 6] = [0x8A, 0x80, 0, 0, 0, 0];

#[derive(Parser)]
#[command(about = "Idle sockets at the signalling server, measured")]
struct Args {
    /// Sockets at once.
    #[arg(long)]
    sockets: Option<usize>,
    /// How long they are held: from 45 s on each is pinged at least once.
    #[arg(long)]
    seconds: Option<u64>,
    /// Channels that they are spread over.
    #[arg(long, default_value_t = 100)]
    channels: usize,
    /// What the server may need, in MB.
    #[arg(long, default_value_t = 200.0)]
    max_mb: f64,
    /// The `edgeseed` to be measured, if not the one just built.
    #[arg(long)]
    bin: Option<PathBuf>,
    #[command(flatten)]
    size: shared::Size,
}

/// The server as a child process; killed when dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn main() -> ExitCode {
    shared::run(measure(Args::parse()))
}

async fn measure(args: Args) -> Report {
    shared::raise_file_limit();
    let tiny = args.size.is_tiny();
    let sockets = args.sockets.unwrap_or(if tiny { 50 } else { 10_000 });
    let length = Duration::from_secs(args.seconds.unwrap_or(if tiny { 1 } else { 60 }));
    let (server, addr) = start(args.bin.clone());
    let pid = server.0.id().to_string();
    let mut report = Report::default();
    let row = |name: &str, value: String| report.row(name, value);
    row(
        "server: RSS idle",
        format!("{:.1} MB", memory(&pid, "VmRSS")),
    );

    let begun = Instant::now();
    let mut held: JoinSet<()> = JoinSet::new();
    let pinged = Arc::new(AtomicUsize::new(0));
    let mut opening = stream::iter(0..sockets)
        .map(|index| open(addr, index % args.channels))
        .buffer_unordered(JOINING);
    while let Some(stream) = opening.next().await {
        held.spawn(hold(stream, Arc::clone(&pinged)));
    }
    row(
        &format!("{sockets} sockets opened and entered"),
        format!("{:.1} s", begun.elapsed().as_secs_f64()),
    );
    row("server: CPU for that", cpu(&pid).to_string());
    row(
        "server: RSS then",
        format!("{:.1} MB", memory(&pid, "VmRSS")),
    );

    let before = cpu(&pid);
    sleep(length).await;
    row(
        &format!("server: CPU in {} s of idling", length.as_secs()),
        cpu(&pid).since(before).to_string(),
    );
    row("pings answered", pinged.load(Ordering::Relaxed).to_string());
    let mut lost = 0;
    while held.try_join_next().is_some() {
        lost += 1;
    }
    row("sockets lost", lost.to_string());
    let met = late_pair(addr).await;
    row("a late pair met within", format!("{met:?}"));
    let peak = memory(&pid, "VmHWM");
    row("server: RSS peak", format!("{peak:.1} MB"));

    if lost > 0 || held.len() != sockets {
        report.fail(format!("{lost} sockets were lost"));
    }
    if met.is_none() {
        report.fail("a late pair did not meet");
    }
    if peak > args.max_mb {
        report.fail(format!("more than {} MB", args.max_mb));
    }
    report
}

/// Starts the server on any port, without a limit for one address, and reads its port from the log.
fn start(bin: Option<PathBuf>) -> (Server, SocketAddr) {
    let bin = bin.unwrap_or_else(|| env!("CARGO_BIN_EXE_edgeseed").into());
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("edgeseed.toml");
    let text = "[[channel]]\nurl = \"http://127.0.0.1:9/a/i.m3u8\"\n[signal-server]\n\
                listen = \"127.0.0.1:0\"\nmax-sockets-per-address = 0\n";
    std::fs::write(&config, text).unwrap();
    let mut child = Command::new(bin)
        .args(["signal", "--config"])
        .arg(config)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let addr = log
        .by_ref()
        .map_while(Result::ok)
        .find_map(|line| {
            let (_, url) = line.split_once("ws://")?;
            url.trim_end_matches('/').parse().ok()
        })
        .expect("the server says where it listens");
    // Whatever else it says is not to block it.
    std::thread::spawn(move || log.for_each(drop));
    (Server(child), addr)
}

/// A WebSocket that has entered, with nothing around it: ten thousand of them are in this process.
async fn open(addr: SocketAddr, channel: usize) -> TcpStream {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let hello = "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    stream.write_all(hello.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"));
    let enter = json!({"action": "enter", "channel": format!("channel {channel}")}).to_string();
    let mut frame = vec![0x81, 0x80 | u8::try_from(enter.len()).unwrap(), 0, 0, 0, 0];
    frame.extend(enter.bytes());
    stream.write_all(&frame).await.unwrap();
    let (_, accept) = frame_of(&mut stream).await.expect("an answer to enter");
    assert!(accept.starts_with(b"{\"action\":\"accept\""));
    stream
}

/// Answers pings until the socket ends, which it should not.
async fn hold(mut stream: TcpStream, pinged: Arc<AtomicUsize>) {
    while let Some((first, _)) = frame_of(&mut stream).await {
        match first {
            CLOSE => return,
            PING => {
                pinged.fetch_add(1, Ordering::Relaxed);
                if stream.write_all(&PONG).await.is_err() {
                    return;
                }
            }
            _ => {}
        }
    }
}

/// The first byte and the payload of the next frame; the server sends us no long ones.
async fn frame_of(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).await.ok()?;
    assert!(head[1] < 126, "a long frame");
    let mut payload = vec![0; head[1].into()];
    stream.read_exact(&mut payload).await.ok()?;
    Some((head[0], payload))
}

/// A box and then a viewer enter a channel; how long the viewer waits until it is sent to the box.
async fn late_pair(addr: SocketAddr) -> Option<Duration> {
    let url = format!("ws://{addr}/");
    let mut seeder = Signalling::enter(&url, "channel 0").await;
    let report = json!({"action": "level", "level": 100, "room": 20_000});
    seeder.send(report).await;
    // Those who are there already come first, and then it is known.
    seeder.next().await?;
    let begun = Instant::now();
    let mut viewer = Signalling::enter(&url, "channel 0").await;
    let parent = viewer.parent(PATIENCE).await?;
    (parent == seeder.peer_id).then(|| begun.elapsed())
}
