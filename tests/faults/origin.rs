//! A live HLS origin that speaks HTTP byte by byte, so that it can get it wrong in every way.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use crate::http::{Answer, Then, Wire, read_head};
use crate::support::origin::{PLAYLIST, segment, uri};

/// Between two segments, and the media in each.
pub(crate) const DURATION: Duration = Duration::from_secs(1);
/// Segments in the playlist.
const WINDOW: u64 = 4;
/// Bytes of a segment.
pub(crate) const SIZE: usize = 100_000;
/// The number of the newest segment at the start.
const FIRST: u64 = 100;

/// What is wrong: makes a good answer a bad one.
pub(crate) type Fault = Arc<dyn Fn(&Asked, &mut Answer) + Send + Sync>;

pub(crate) fn in_everything(fault: impl Fn(&Asked, &mut Answer) + Send + Sync + 'static) -> Fault {
    Arc::new(fault)
}

pub(crate) fn in_playlists(fault: impl Fn(&Asked, &mut Answer) + Send + Sync + 'static) -> Fault {
    Arc::new(move |asked, answer| {
        if asked.sequence.is_none() {
            fault(asked, answer);
        }
    })
}

pub(crate) fn in_segments(fault: impl Fn(&Asked, &mut Answer) + Send + Sync + 'static) -> Fault {
    Arc::new(move |asked, answer| {
        if asked.sequence.is_some() {
            fault(asked, answer);
        }
    })
}

/// Whether these bytes are what a viewer may get for the segment.
pub(crate) type Right = Box<dyn Fn(&Live, &Listed, &Bytes) -> bool + Send>;

/// A running origin; gone when dropped.
pub(crate) struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

struct Shared {
    live: Mutex<Live>,
    fault: Mutex<Option<Fault>>,
    requests: Mutex<BTreeMap<String, u64>>,
    /// What is right of a segment, if not that.
    right: Mutex<Option<Right>>,
    tls: Mutex<Option<TlsAcceptor>>,
}

/// What is on the air: a run of the encoder.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Live {
    since: Instant,
    /// The number of its first segment.
    first: u64,
    /// Of another version, the same names are of other bytes.
    pub(crate) version: u64,
    /// After how many segments a name is used again, if it is.
    ring: Option<u64>,
}

/// A segment as a viewer knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) version: u64,
    pub(crate) sequence: u64,
    pub(crate) uri: String,
}

/// A request.
pub(crate) struct Asked {
    pub(crate) live: Live,
    /// `None` for the playlist.
    pub(crate) sequence: Option<u64>,
    /// How often it has been asked for, with this.
    pub(crate) times: u64,
}

impl Origin {
    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    /// `tls`: speaks HTTPS.
    pub(crate) async fn start_with(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let live = Live {
            since: Instant::now(),
            first: FIRST,
            version: 0,
            ring: None,
        };
        let shared = Arc::new(Shared {
            live: Mutex::new(live),
            fault: Mutex::default(),
            requests: Mutex::default(),
            right: Mutex::default(),
            tls: Mutex::new(tls),
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self {
            address,
            shared,
            _task: AbortOnDropHandle::new(task),
        }
    }

    pub(crate) fn url(&self) -> String {
        self.url_at("127.0.0.1")
    }

    /// Its playlist, where it has this name.
    pub(crate) fn url_at(&self, host: &str) -> String {
        let tls = self.shared.tls.lock().unwrap().is_some();
        let scheme = if tls { "https" } else { "http" };
        format!("{scheme}://{host}:{}{PLAYLIST}", self.address.port())
    }

    /// From now on this is wrong.
    pub(crate) fn misbehave(&self, fault: Fault) {
        *self.shared.fault.lock().unwrap() = Some(fault);
    }

    /// Nothing is wrong any more.
    pub(crate) fn behave(&self) {
        *self.shared.fault.lock().unwrap() = None;
    }

    /// The encoder starts anew, with this number and other bytes under the old names.
    pub(crate) fn restart_at(&self, first: u64) {
        let mut live = self.shared.live.lock().unwrap();
        live.since = Instant::now();
        live.first = first;
        live.version += 1;
    }

    /// Each name is used again after so many segments.
    pub(crate) fn reuse_names_after(&self, ring: u64) {
        self.shared.live.lock().unwrap().ring = Some(ring);
    }

    /// Another certificate.
    pub(crate) fn present(&self, tls: TlsAcceptor) {
        *self.shared.tls.lock().unwrap() = Some(tls);
    }

    /// Something else than the bytes of the segment is right as well.
    pub(crate) fn right_is(&self, right: impl Fn(&Live, &Listed, &Bytes) -> bool + Send + 'static) {
        *self.shared.right.lock().unwrap() = Some(Box::new(right));
    }

    /// What a viewer was served has to be what the origin means by it.
    pub(crate) fn must_be_right(&self, segment: &Listed, bytes: &Bytes) {
        let live = self.live().of(segment.version);
        let right = self.shared.right.lock().unwrap();
        let is_right = match &*right {
            Some(right) => right(&live, segment, bytes),
            None => *bytes == live.bytes(segment.sequence),
        };
        assert!(is_right, "wrong bytes for {segment:?}");
    }

    pub(crate) fn live(&self) -> Live {
        *self.shared.live.lock().unwrap()
    }

    /// Requests of any one segment at most.
    pub(crate) fn most_requests_of_a_segment(&self) -> u64 {
        let requests = self.shared.requests.lock().unwrap();
        let segments = requests.iter().filter(|(path, _)| *path != PLAYLIST);
        segments.map(|(_, count)| *count).max().unwrap_or(0)
    }
}

impl Asked {
    /// Of the segment.
    pub(crate) fn number(&self) -> u64 {
        self.sequence.unwrap()
    }
}

impl Live {
    /// The same with the bytes of another version.
    pub(crate) fn of(&self, version: u64) -> Self {
        Self { version, ..*self }
    }

    /// The same with other bytes than any run of the encoder has.
    pub(crate) fn changed(&self) -> Self {
        self.of(u64::from(u32::MAX))
    }

    /// The newest segment.
    pub(crate) fn newest(&self) -> Listed {
        let passed = self.since.elapsed().as_nanos() / DURATION.as_nanos();
        self.listed(self.first + u64::try_from(passed).unwrap())
    }

    fn listed(&self, sequence: u64) -> Listed {
        let uri = match self.ring {
            Some(ring) => format!("ring_{}.ts", sequence % ring),
            None => uri(sequence),
        };
        Listed {
            version: self.version,
            sequence,
            uri,
        }
    }

    /// When the segment after this one is listed.
    pub(crate) fn next_after(&self, listed: &Listed) -> Instant {
        let later = (listed.sequence + 1).saturating_sub(self.first);
        self.since + DURATION * u32::try_from(later).unwrap()
    }

    /// For how long it has been in the playlist.
    pub(crate) fn listed_for(&self, sequence: u64) -> Duration {
        let after = u32::try_from(sequence.saturating_sub(self.first)).unwrap();
        (self.since + DURATION * after).elapsed()
    }

    pub(crate) fn bytes(&self, sequence: u64) -> Bytes {
        segment((self.version << 32) | sequence, SIZE)
    }

    /// The playlist when this is the newest segment.
    pub(crate) fn playlist(&self, newest: u64) -> String {
        let seconds = DURATION.as_secs_f64();
        let oldest = (newest + 1)
            .saturating_sub(WINDOW)
            .max(self.first.min(newest));
        let mut text = format!(
            "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:{}\n#EXT-X-MEDIA-SEQUENCE:{oldest}\n",
            seconds.ceil(),
        );
        for sequence in oldest..=newest {
            text += &format!("#EXTINF:{seconds:.3},\n{}\n", self.listed(sequence).uri);
        }
        text
    }

    /// Which segment has this address now.
    fn at(&self, path: &str) -> Option<u64> {
        let newest = self.newest().sequence;
        let oldest = newest.saturating_sub(60);
        let mut recent = (oldest..=newest).rev();
        recent.find(|sequence| path.strip_prefix("/live/") == Some(&*self.listed(*sequence).uri))
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let tls = shared.tls.lock().unwrap().clone();
            // Whoever distrusts us or goes away has nothing more to say.
            let _ = match tls {
                None => serve(stream, &shared).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => serve(stream, &shared).await,
                    Err(error) => Err(error),
                },
            };
        });
    }
}

async fn serve(mut stream: impl Wire, shared: &Shared) -> std::io::Result<()> {
    loop {
        let head = read_head(&mut stream).await?;
        let answer = shared.answer(&head);
        match answer.send(&mut stream).await? {
            Then::GoOn => {}
            Then::Close | Then::Repeat => return stream.shutdown().await,
            Then::Reset => {
                // What was sent is to arrive before the reset does.
                sleep(Duration::from_millis(50)).await;
                return socket2::SockRef::from(stream.tcp()).set_linger(Some(Duration::ZERO));
            }
            Then::Stall => std::future::pending().await,
        }
    }
}

impl Shared {
    fn answer(&self, head: &str) -> Answer {
        let path = head.split(' ').nth(1).unwrap_or_default();
        let times = {
            let mut requests = self.requests.lock().unwrap();
            let times = requests.entry(path.to_owned()).or_default();
            *times += 1;
            *times
        };
        let live = *self.live.lock().unwrap();
        let (sequence, mut answer) = if path == PLAYLIST {
            let text = live.playlist(live.newest().sequence);
            (
                None,
                Answer::ok("application/vnd.apple.mpegurl", text.into()),
            )
        } else if let Some(sequence) = live.at(path) {
            let mut whole = Answer::ok("video/mp2t", live.bytes(sequence));
            whole.more = format!("ETag: \"{}-{sequence}\"\r\n", live.version);
            (Some(sequence), whole)
        } else {
            return Answer::error("404 Not Found");
        };
        let asked = Asked {
            live,
            sequence,
            times,
        };
        answer.part(head);
        let fault = self.fault.lock().unwrap().clone();
        if let Some(fault) = fault {
            fault(&asked, &mut answer);
        }
        answer
    }
}

/// Waits until something newer than this is listed.
pub(crate) async fn newer_than(origin: &Origin, last: Option<&Listed>) -> Listed {
    loop {
        let live = origin.live();
        let newest = live.newest();
        match last {
            Some(last) if *last == newest => sleep_until(live.next_after(last)).await,
            _ => return newest,
        }
    }
}
