//! The real `edgeseed run` as a child process, with a configuration and a store of its own.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::UnixDatagram;
use tokio::time::Instant;

use super::eventually;

/// How long the box may take to start, to stop once it has nothing to send, or to find a server again that is back
/// (30 s at most, src/signal/backoff.rs).
pub(crate) const PATIENCE: Duration = Duration::from_secs(45);

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_edgeseed");

/// What a box is told; the rest of its configuration is the default.
#[derive(Default)]
pub(crate) struct Setup {
    /// Names and playlists of its channels.
    pub(crate) channels: Vec<(&'static str, String)>,
    /// Further sections: `[peer]`, `[memory]`.
    pub(crate) more: String,
    /// The URL of a signalling server that is not the box's own.
    pub(crate) signal: Option<String>,
    /// `[store] min-free`, if not very little.
    pub(crate) min_free: Option<&'static str>,
    /// `[store] max-size`, if not the default.
    pub(crate) max_size: Option<String>,
    /// Further keys of that `[signal]`.
    pub(crate) signal_keys: String,
    /// Another binary than the one under test.
    pub(crate) binary: Option<PathBuf>,
}

impl Setup {
    pub(crate) fn channel(name: &'static str, url: String) -> Self {
        Self {
            channels: vec![(name, url)],
            ..Self::default()
        }
    }

    pub(crate) fn and_channel(mut self, name: &'static str, url: String) -> Self {
        self.channels.push((name, url));
        self
    }

    pub(crate) fn with(mut self, more: &str) -> Self {
        self.more += more;
        self
    }

    pub(crate) fn at(mut self, signal: &str) -> Self {
        self.signal = Some(signal.to_owned());
        self
    }

    /// Trusts the CAs in this file, and no others.
    pub(crate) fn trusting(mut self, ca: &Path) -> Self {
        self.signal_keys += &format!("ca = \"{}\"\n", ca.display());
        self
    }

    /// The file: its own signalling server unless told otherwise, everything on the loopback
    /// interface.
    fn toml(&self, http: SocketAddr, signal: SocketAddr, store: &Path) -> String {
        let channels: String = self
            .channels
            .iter()
            .map(|(name, url)| format!("[[channel]]\nname = \"{name}\"\nurl = \"{url}\"\n"))
            .collect();
        let peer = if self.more.contains("[peer]") {
            ""
        } else {
            "[peer]\nudp-port = 0\n"
        };
        let signal = match &self.signal {
            Some(url) => format!("[signal]\nurl = \"{url}\"\n{}", self.signal_keys),
            None => format!("[signal-server]\nlisten = \"{signal}\"\n"),
        };
        let max_size = self.max_size.iter();
        let max_size: String = max_size
            .map(|size| format!("max-size = \"{size}\"\n"))
            .collect();
        format!(
            "{channels}{signal}[http]\nlisten = \"{http}\"\n\
             [store]\ndir = \"{}\"\nmin-free = \"{}\"\n{max_size}{peer}{}",
            store.display(),
            self.min_free.unwrap_or("16MiB"),
            self.more,
        )
    }
}

/// A running box; killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    stderr: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
    http: SocketAddr,
    /// The signalling server's URL.
    pub(crate) signal: String,
    client: reqwest::Client,
    binary: PathBuf,
    // Outlives the process.
    dir: Option<TempDir>,
}

/// A box that does not run, with all that is on its disk.
pub(crate) struct Stopped {
    binary: PathBuf,
    dir: TempDir,
    http: SocketAddr,
    signal: String,
}

impl Stopped {
    /// One that never ran.
    pub(crate) fn fresh(setup: &Setup) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (http, signal) = (free_address(), free_address());
        let config = setup.toml(http, signal, &dir.path().join("store"));
        std::fs::write(dir.path().join("edgeseed.toml"), config).unwrap();
        let own_server = || format!("ws://{signal}/");
        Self {
            binary: setup.binary.clone().unwrap_or_else(|| BINARY.into()),
            dir,
            http,
            signal: setup.signal.clone().unwrap_or_else(own_server),
        }
    }

    /// Its store's folder.
    pub(crate) fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// Starts it. Also gives how long that took, up to what systemd waits for.
    pub(crate) async fn start(self) -> (Daemon, Duration) {
        let notify = self.dir.path().join("notify");
        // An earlier start may have left it.
        let _ = std::fs::remove_file(&notify);
        let socket = UnixDatagram::bind(&notify).unwrap();
        let start = Instant::now();
        let mut daemon = Daemon::spawn(self.binary, self.dir, self.http, self.signal);
        let ready = async {
            let mut said = [0; 4096];
            loop {
                let length = socket.recv(&mut said).await.unwrap();
                if said[..length].starts_with(b"READY=1") {
                    return start.elapsed();
                }
            }
        };
        let ready = tokio::time::timeout(PATIENCE, ready).await;
        daemon.must_live();
        (daemon, ready.expect("the box is ready"))
    }
}

/// How a box ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stderr: String,
    pub(crate) after: Duration,
}

impl Daemon {
    /// Starts a box and waits until `/healthz` says ok.
    pub(crate) async fn start(setup: Setup) -> Self {
        let mut daemon = Self::launch(&setup);
        daemon.until_healthy().await;
        daemon
    }

    async fn until_healthy(&mut self) {
        let healthy = format!("http://{}/healthz", self.http);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let said = match self.client.get(&healthy).send().await {
                Ok(answer) if answer.status().is_success() => return,
                Ok(answer) => answer.text().await.unwrap_or_default(),
                Err(error) => error.to_string(),
            };
            self.must_live();
            assert!(
                Instant::now() < deadline,
                "not healthy: {said}\n{}",
                self.stderr()
            );
            tokio::time::sleep(super::LOOK_EVERY).await;
        }
    }

    /// Starts a box that will not be healthy, and waits until it answers.
    pub(crate) async fn start_ailing(setup: Setup) -> Self {
        let mut daemon = Self::launch(&setup);
        eventually("the box answers", PATIENCE, async || {
            daemon.must_live();
            daemon.get("/healthz").await
        })
        .await;
        daemon
    }

    fn launch(setup: &Setup) -> Self {
        let Stopped {
            binary,
            dir,
            http,
            signal,
        } = Stopped::fresh(setup);
        Self::spawn(binary, dir, http, signal)
    }

    fn spawn(binary: PathBuf, dir: TempDir, http: SocketAddr, signal: String) -> Self {
        let mut child = Command::new(&binary)
            .args(["run", "--config"])
            .arg(dir.path().join("edgeseed.toml"))
            .env("NOTIFY_SOCKET", dir.path().join("notify"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = Arc::new(Mutex::new(String::new()));
        let reader = Some(collect(&mut child, Arc::clone(&stderr)));
        Self {
            child,
            stderr,
            reader,
            http,
            signal,
            client: client(),
            binary,
            dir: Some(dir),
        }
    }

    /// Stops the box and starts it again, over the same configuration and store.
    pub(crate) async fn restart(mut self) -> Self {
        let (binary, dir) = (self.binary.clone(), self.dir.take().unwrap());
        let (http, signal) = (self.http, self.signal.clone());
        self.stop().await;
        let mut daemon = Self::spawn(binary, dir, http, signal);
        daemon.until_healthy().await;
        daemon
    }

    /// Kills it, as the kernel does when memory is short.
    pub(crate) fn kill(mut self) -> Stopped {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        Stopped {
            binary: self.binary.clone(),
            dir: self.dir.take().unwrap(),
            http: self.http,
            signal: self.signal.clone(),
        }
    }

    fn must_live(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("the box ended with {status}:\n{}", self.stderr());
        }
    }

    /// Its store's folder.
    pub(crate) fn store(&self) -> PathBuf {
        self.dir.as_ref().unwrap().path().join("store")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub(crate) fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// Where its pages are.
    pub(crate) fn pages(&self) -> String {
        format!("http://{}", self.http)
    }

    /// The body of one of its pages, whatever the status; `None` when it does not answer.
    pub(crate) async fn get(&self, path: &str) -> Option<String> {
        let answer = self
            .client
            .get(format!("http://{}{path}", self.http))
            .send()
            .await
            .ok()?;
        answer.text().await.ok()
    }

    pub(crate) async fn status(&self) -> Value {
        let text = self.get("/api/status").await.expect("the box answers");
        serde_json::from_str(&text).expect("the status is JSON")
    }

    /// `problems` of the status, one a line.
    pub(crate) async fn problems(&self) -> String {
        let status = self.status().await;
        let problems = status["problems"].as_array().unwrap();
        problems
            .iter()
            .map(|line| line.as_str().unwrap().to_owned() + "\n")
            .collect()
    }

    /// A number of `/metrics`, named with its labels as it is written there.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").await.expect("the box answers");
        let metrics: HashMap<&str, &str> = text
            .lines()
            .filter_map(|line| line.rsplit_once(' '))
            .collect();
        metrics
            .get(name)
            .unwrap_or_else(|| panic!("no {name} in\n{text}"))
            .parse()
            .unwrap()
    }

    /// Waits until a number of `/metrics` has this value.
    pub(crate) async fn until_metric(&self, name: &str, value: f64) {
        eventually(&format!("{name} is {value}"), PATIENCE, async || {
            // Counts are small whole numbers, exact in an f64.
            (self.metric(name).await == value).then_some(())
        })
        .await;
    }

    /// Stops the whole process, as a network that is away does to its channels, or has it go on.
    pub(crate) fn freeze(&self, frozen: bool) {
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).unwrap();
    }

    /// Waits for the end of a box that was told to stop.
    pub(crate) async fn ended(mut self) -> Ended {
        let start = Instant::now();
        let status = eventually("the box stops", PATIENCE, async || {
            self.child.try_wait().unwrap()
        })
        .await;
        let after = start.elapsed();
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        Ended {
            code: status.code(),
            stderr: self.stderr(),
            after,
        }
    }

    pub(crate) async fn stop(self) -> Ended {
        self.terminate();
        self.ended().await
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the box wrote:\n{}---", self.stderr());
        }
    }
}

fn collect(child: &mut Child, into: Arc<Mutex<String>>) -> JoinHandle<()> {
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            *into.lock().unwrap() += &(line + "\n");
        }
    })
}

fn client() -> reqwest::Client {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // The client wants one even for plain HTTP.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    reqwest::Client::builder()
        .no_proxy()
        // A box that was stopped for a while closes a connection that was kept just when it is used.
        .pool_max_idle_per_host(0)
        .timeout(Duration::from_secs(5))
        .build()
        .unwrap()
}

/// A loopback address whose port is free for TCP and UDP, below those that the kernel gives to
/// others (`ip_local_port_range` starts at 32768), and never given twice by this process.
pub(crate) fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let offset = u16::try_from(std::process::id() % 100).unwrap() * 100;
    loop {
        let port = 20_000 + (offset + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(("0.0.0.0", port)).is_ok() {
            return address;
        }
    }
}
