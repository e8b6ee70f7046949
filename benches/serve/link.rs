//! A bad link between holder and viewers: each viewer's datagrams go through a pair of sockets that
//! lose, delay, reorder and queue them by a seeded chance. Whoever answers an offer names a socket of
//! the link for its own.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use tokio::net::UdpSocket;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until};

/// What a link does to the datagrams of each direction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conditions {
    /// The share of datagrams that is lost.
    loss: f64,
    /// How many are lost in a row, on average.
    burst: f64,
    /// How long each takes.
    delay: Duration,
    /// How much longer, at most; who overtakes whom is left to chance.
    jitter: Duration,
    /// Bits per second, and how many bytes wait for that before more are lost.
    rate: Option<(f64, usize)>,
    /// Every second on average, nothing passes for so long.
    silence: Duration,
}

impl Conditions {
    pub(crate) fn lossy() -> Self {
        Self {
            loss: 0.01,
            burst: 1.0,
            delay: Duration::from_millis(10),
            jitter: Duration::ZERO,
            rate: None,
            silence: Duration::ZERO,
        }
    }

    pub(crate) fn bursty() -> Self {
        Self {
            loss: 0.05,
            burst: 8.0,
            ..Self::lossy()
        }
    }

    pub(crate) fn wifi() -> Self {
        Self {
            loss: 0.003,
            burst: 2.0,
            delay: Duration::from_micros(1500),
            jitter: Duration::from_micros(2500),
            rate: Some((100e6, 256 << 10)),
            silence: Duration::from_millis(60),
        }
    }
}

/// Where little is sent, a burst of losses ends by this time.
const LONGEST_BURST: Duration = Duration::from_millis(50);

struct Link {
    conditions: Conditions,
    seed: AtomicU64,
    runtime: Handle,
}

static LINK: OnceLock<Link> = OnceLock::new();

/// From now on every answer leads over a link like this.
pub(crate) fn install(conditions: Conditions, seed: u64) {
    let link = Link {
        conditions,
        seed: AtomicU64::new(seed),
        runtime: Handle::current(),
    };
    assert!(LINK.set(link).is_ok(), "there is one link");
}

/// What the signalling server does to what it relays: with a link in between, an offer has no
/// addresses, and an answer has that of the link.
pub(crate) fn alter(data: &mut Value) {
    let Some(link) = LINK.get() else {
        return;
    };
    let Some(sdp) = data["sdp"].as_str() else {
        return;
    };
    let is_answer = data["type"] == "answer";
    let (candidates, mut lines): (Vec<&str>, Vec<&str>) = sdp
        .lines()
        .partition(|line| line.starts_with("a=candidate:"));
    let candidate = is_answer.then(|| {
        let host = candidates.iter().find(|line| line.contains(" typ host"));
        let mut fields: Vec<String> = host
            .expect("an answer with a host candidate")
            .split(' ')
            .map(str::to_owned)
            .collect();
        let holder = format!("{}:{}", fields[4], fields[5]).parse().unwrap();
        let entrance = link.open(holder);
        fields[4] = entrance.ip().to_string();
        fields[5] = entrance.port().to_string();
        fields.join(" ")
    });
    lines.retain(|line| *line != "a=end-of-candidates");
    lines.extend(candidate.as_deref());
    data["sdp"] = Value::from(lines.join("\r\n") + "\r\n");
}

impl Link {
    /// Opens a pair of sockets; gives the address that stands for the holder's.
    fn open(&self, holder: SocketAddr) -> SocketAddr {
        let bind = || {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        };
        let (entrance, exit) = (bind(), bind());
        let address = entrance.local_addr().unwrap();
        let seed = self.seed.fetch_add(2, Ordering::Relaxed);
        let conditions = self.conditions;
        // `alter` is called within the runtime of the signalling server.
        self.runtime.spawn(async move {
            let entrance = Arc::new(UdpSocket::from_std(entrance).unwrap());
            let exit = Arc::new(UdpSocket::from_std(exit).unwrap());
            let viewer = Arc::new(Mutex::new(None));
            let up = Direction::new(conditions, seed);
            let down = Direction::new(conditions, seed + 1);
            let of_viewer = Arc::clone(&viewer);
            tokio::join!(
                up.run(
                    Arc::clone(&entrance),
                    Arc::clone(&exit),
                    move |from| *of_viewer.lock().unwrap() = Some(from),
                    move || Some(holder)
                ),
                down.run(exit, entrance, |_| (), move || *viewer.lock().unwrap()),
            );
        });
        address
    }
}

/// One direction of a link.
struct Direction {
    conditions: Conditions,
    chance: StdRng,
    losing_since: Option<Instant>,
    silent_until: Option<Instant>,
    /// When the last datagram has left the queue.
    free_at: Instant,
    /// By when they arrive, and in which order they came.
    under_way: BinaryHeap<Reverse<(Instant, u64, Vec<u8>)>>,
    count: u64,
}

impl Direction {
    fn new(conditions: Conditions, seed: u64) -> Self {
        Self {
            conditions,
            chance: StdRng::seed_from_u64(seed),
            losing_since: None,
            silent_until: None,
            free_at: Instant::now(),
            under_way: BinaryHeap::new(),
            count: 0,
        }
    }

    async fn run(
        mut self,
        from: Arc<UdpSocket>,
        to: Arc<UdpSocket>,
        seen: impl Fn(SocketAddr),
        destination: impl Fn() -> Option<SocketAddr>,
    ) {
        let mut buffer = [0; 65_536];
        loop {
            let next = self.under_way.peek().map(|Reverse((at, ..))| *at);
            tokio::select! {
                received = from.recv_from(&mut buffer) => {
                    let (length, sender) = received.unwrap();
                    seen(sender);
                    self.take(Instant::now(), &buffer[..length]);
                }
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                    while let Some(Reverse((at, ..))) = self.under_way.peek()
                        && *at <= Instant::now()
                    {
                        let Some(Reverse((.., bytes))) = self.under_way.pop() else { break };
                        if let Some(destination) = destination() {
                            // Who has gone is gone.
                            let _ = to.send_to(&bytes, destination).await;
                        }
                    }
                }
            }
        }
    }

    fn take(&mut self, now: Instant, bytes: &[u8]) {
        let Conditions {
            loss,
            burst,
            delay,
            jitter,
            rate,
            silence,
        } = self.conditions;
        // Gilbert and Elliott: as many are lost as `loss` says, `burst` in a row.
        let turn = match self.losing_since {
            Some(since) if now > since + LONGEST_BURST => 1.0,
            Some(_) => 1.0 / burst,
            None => loss / (burst * (1.0 - loss)),
        };
        if self.chance.random_bool(turn.min(1.0)) {
            self.losing_since = self.losing_since.is_none().then_some(now);
        }
        if self.losing_since.is_some() {
            return;
        }
        let start = self.free_at.max(now);
        if let Some((rate, queue)) = rate {
            let waiting = (start - now).as_secs_f64() * rate / 8.0;
            if waiting > queue as f64 {
                return;
            }
            self.free_at = start + Duration::from_secs_f64(bytes.len() as f64 * 8.0 / rate);
            // Once a second, judged by the datagrams of a full link.
            if !silence.is_zero() && self.chance.random_bool(1200.0 * 8.0 / rate) {
                self.silent_until = Some(now + silence);
            }
        }
        let passes = self.silent_until.map_or(start, |until| until.max(start));
        let at = passes + delay + jitter.mul_f64(self.chance.random());
        self.count += 1;
        self.under_way
            .push(Reverse((at, self.count, bytes.to_vec())));
    }
}
