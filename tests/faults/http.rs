//! HTTP as an origin says it, byte by byte.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_rustls::server::TlsStream;

/// An answer, byte by byte.
#[derive(Clone)]
pub(crate) struct Answer {
    /// `200 OK`
    pub(crate) status: &'static str,
    /// `Content-Type`
    pub(crate) kind: &'static str,
    /// `Content-Length`; without one the end of the connection is that of the body.
    pub(crate) length: Option<usize>,
    /// Further lines of the head.
    pub(crate) more: String,
    pub(crate) body: Bytes,
    /// Before the first byte.
    pub(crate) wait: Duration,
    /// Bytes per second of the body.
    pub(crate) pace: Option<usize>,
    /// After the body.
    pub(crate) then: Then,
}

/// What becomes of the connection after the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// The next request.
    GoOn,
    /// Its end.
    Close,
    /// A TCP RST.
    Reset,
    /// Silence.
    Stall,
    /// The body, again and again.
    Repeat,
}

impl Answer {
    pub(crate) fn ok(kind: &'static str, body: Bytes) -> Self {
        Self {
            status: "200 OK",
            kind,
            length: Some(body.len()),
            more: String::new(),
            body,
            wait: Duration::ZERO,
            pace: None,
            then: Then::GoOn,
        }
    }

    /// What a hotel or a provider puts in place of everything until somebody has signed in.
    pub(crate) fn sign_in(kind: &'static str) -> Self {
        let page = "<!DOCTYPE html><html><body>Please log in</body></html>";
        Self::ok(kind, page.into())
    }

    pub(crate) fn error(status: &'static str) -> Self {
        Self {
            status,
            ..Self::ok("text/plain", status.into())
        }
    }

    /// Sends half of the body that it promises.
    pub(crate) fn half(&mut self, then: Then) {
        self.body.truncate(self.body.len() / 2);
        self.then = then;
    }

    pub(crate) async fn send(&self, to: &mut dyn Wire) -> std::io::Result<Then> {
        sleep(self.wait).await;
        let mut head = format!(
            "HTTP/1.1 {}\r\nContent-Type: {}\r\nAccess-Control-Allow-Origin: *\r\n{}",
            self.status, self.kind, self.more
        );
        match self.length {
            Some(length) => head += &format!("Content-Length: {length}\r\n\r\n"),
            None => head += "Connection: close\r\n\r\n",
        }
        to.write_all(head.as_bytes()).await?;
        loop {
            match self.pace {
                Some(pace) => {
                    for part in self.body.chunks(pace / 20) {
                        to.write_all(part).await?;
                        sleep(Duration::from_millis(50)).await;
                    }
                }
                None => to.write_all(&self.body).await?,
            }
            if self.then != Then::Repeat {
                break;
            }
        }
        to.flush().await?;
        match self.length {
            None if self.then == Then::GoOn => Ok(Then::Close),
            _ => Ok(self.then),
        }
    }
}

/// A connection of either kind.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {
    fn tcp(&self) -> &TcpStream;
}

impl Wire for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Wire for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

pub(crate) async fn read_head(stream: &mut impl Wire) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

impl Answer {
    /// What `Range: bytes=N-` asks for, if what `If-Range` names is what there is.
    pub(crate) fn part(&mut self, head: &str) {
        let line = |name: &str| {
            let mut lines = head.lines();
            lines.find_map(|line| {
                let (key, value) = line.split_once(": ")?;
                key.eq_ignore_ascii_case(name).then_some(value)
            })
        };
        let start = line("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
        let Some(start) = start.and_then(|start| start.parse::<usize>().ok()) else {
            return;
        };
        if line("if-range").is_some_and(|tag| self.more.contains(tag)) {
            let total = self.body.len();
            if start >= total {
                *self = Self::error("416 Range Not Satisfiable");
                return;
            }
            self.more += &format!("Content-Range: bytes {start}-{}/{total}\r\n", total - 1);
            self.status = "206 Partial Content";
            self.body = self.body.slice(start..);
            self.length = Some(total - start);
        }
    }
}

pub(crate) fn gzip(plain: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap().into()
}
