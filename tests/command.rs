//! The command line from outside: what it says and with which code it ends (README, "Commands").

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{ChildStderr, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::daemon::{BINARY, Daemon, Setup, free_address};
use support::origin::{Live, Origin};

const USAGE: i32 = 64;
const UNAVAILABLE: i32 = 69;
const PERMISSION: i32 = 77;
const CONFIG: i32 = 78;

/// A command that ends on its own; killed with a panic when it does not.
fn edgeseed(args: &[&str]) -> Output {
    let mut child = Command::new(BINARY)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            let output = child.wait_with_output().unwrap();
            panic!("{args:?} does not end:\n{}", stderr(&output));
        }
        std::thread::sleep(support::LOOK_EVERY);
    }
    child.wait_with_output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Addresses and a folder that are free, for a daemon that is meant to fail at one of them.
struct Places {
    http: SocketAddr,
    signal: SocketAddr,
    udp_port: u16,
    store: String,
    dir: tempfile::TempDir,
}

impl Places {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            http: free_address(),
            signal: free_address(),
            udp_port: free_address().port(),
            store: dir.path().join("store").to_str().unwrap().to_owned(),
            dir,
        }
    }

    fn write(&self) -> String {
        let text = format!(
            "[[channel]]\nurl = \"http://127.0.0.1:9/live/index.m3u8\"\n\
             [signal-server]\nlisten = \"{}\"\n[http]\nlisten = \"{}\"\n\
             [peer]\nudp-port = {}\n[store]\ndir = \"{}\"\n",
            self.signal, self.http, self.udp_port, self.store
        );
        write(self.dir.path(), &text)
    }

    /// Runs the daemon, which must end with this code and say these words.
    fn run_fails(&self, code: i32, words: &[&str]) {
        let output = edgeseed(&["run", "--config", &self.write()]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{said}");
        for word in words {
            assert!(said.contains(word), "no {word:?} in: {said}");
        }
        assert!(!said.contains("panicked"), "{said}");
    }
}

fn write(dir: &Path, text: &str) -> String {
    let path = dir.join("edgeseed.toml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn check_is_content_with_a_good_file() {
    let output = edgeseed(&["check", "--config", &Places::new().write()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn check_names_file_line_and_key_of_every_mistake() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(
        dir.path(),
        "[[channel]]\nurl = \"ftp://o/i.m3u8\"\nwindow = 5\n[signal]\nurl = \"http://s/\"\n\
         [peer]\nmax-peers = 0\nmax-pears = 3\n[store]\nmax-size = \"big\"\n[strore]\n",
    );
    for command in ["check", "run"] {
        let output = edgeseed(&[command, "--config", &path]);
        assert_eq!(output.status.code(), Some(CONFIG), "{command}");
        let said = stderr(&output) + &stdout(&output);
        for place in [
            ":2: channel.url: ",
            ":3: channel.window: ",
            ":5: signal.url: ",
            ":7: peer.max-peers: ",
            ":8: peer.max-pears: ",
            ":10: store.max-size: ",
            ":11: strore: ",
        ] {
            assert!(
                said.contains(&format!("{path}{place}")),
                "{command}: no {place} in\n{said}"
            );
        }
    }
}

#[test]
fn check_looks_into_the_files_that_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(
        dir.path(),
        "[[channel]]\nurl = \"http://o/live/i.m3u8\"\n\
         [signal]\nurl = \"wss://s/\"\nca = \"/nowhere/ca.pem\"\n",
    );
    let output = edgeseed(&["check", "--config", &path]);
    assert_eq!(output.status.code(), Some(CONFIG));
    let said = stderr(&output);
    let place = format!("{path}:5: signal.ca: /nowhere/ca.pem cannot be read");
    assert!(said.contains(&place), "{said}");
}

#[test]
fn a_file_that_is_not_there_is_a_configuration_mistake() {
    for command in ["check", "run"] {
        let output = edgeseed(&[command, "--config", "/nowhere/edgeseed.toml"]);
        assert_eq!(output.status.code(), Some(CONFIG), "{command}");
        assert!(
            stderr(&output).contains("/nowhere/edgeseed.toml"),
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    for args in [
        &["rum"][..],
        &["run", "--colour"],
        &["check", "--config"],
        &["probe"],
    ] {
        let output = edgeseed(args);
        assert_eq!(
            output.status.code(),
            Some(USAGE),
            "{args:?}: {}",
            stderr(&output)
        );
        assert!(
            stderr(&output).contains("--help"),
            "{args:?}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn version_and_help_are_answers_not_errors() {
    let version = edgeseed(&["--version"]);
    assert_eq!(version.status.code(), Some(0));
    assert_eq!(
        stdout(&version).trim(),
        concat!("edgeseed ", env!("CARGO_PKG_VERSION"))
    );
    let help = edgeseed(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    for command in ["run", "check", "demo", "signal", "status", "probe"] {
        assert!(
            stdout(&help).contains(&format!("\n  {command} ")),
            "{}",
            stdout(&help)
        );
    }
}

#[test]
fn a_taken_http_address_is_named() {
    let places = Places::new();
    let _taken = TcpListener::bind(places.http).unwrap();
    places.run_fails(UNAVAILABLE, &[&places.http.to_string(), "[http] listen"]);
}

#[test]
fn a_taken_signalling_address_is_named() {
    let places = Places::new();
    let _taken = TcpListener::bind(places.signal).unwrap();
    places.run_fails(
        UNAVAILABLE,
        &[&places.signal.to_string(), "[signal-server] listen"],
    );
}

#[test]
fn a_taken_udp_port_is_named() {
    let places = Places::new();
    let _taken = UdpSocket::bind(("0.0.0.0", places.udp_port)).unwrap();
    places.run_fails(
        UNAVAILABLE,
        &[&places.udp_port.to_string(), "[peer] udp-port"],
    );
}

#[test]
fn an_address_of_another_machine_is_named() {
    let mut places = Places::new();
    places.http = "192.0.2.1:8080".parse().unwrap();
    places.run_fails(UNAVAILABLE, &["192.0.2.1:8080", "[http] listen"]);
}

#[test]
fn a_store_that_cannot_be_written_is_named() {
    let mut places = Places::new();
    // Where not even root may make a folder.
    places.store = "/sys/edgeseed".into();
    places.run_fails(PERMISSION, &["/sys/edgeseed"]);
}

#[test]
fn a_file_where_the_store_should_be_is_named() {
    let mut places = Places::new();
    let file = places.dir.path().join("file");
    std::fs::write(&file, "not a folder").unwrap();
    places.store = file.to_str().unwrap().to_owned();
    places.run_fails(PERMISSION, &[&places.store]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "not a folder");
}

#[tokio::test]
async fn a_box_with_nothing_to_finish_stops_at_once_with_0() {
    let origin = Origin::start(Live::default()).await;
    let daemon = Daemon::start(Setup::channel("news", origin.url())).await;
    let ended = daemon.stop().await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.after < Duration::from_secs(3), "{:?}", ended.after);
    assert!(!ended.stderr.contains("ERROR"), "{}", ended.stderr);
}

#[tokio::test]
async fn names_that_are_not_served_are_told_in_the_status_and_once_in_the_log() {
    let master = "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=2\nhigh/index.m3u8\n\
                  #EXT-X-STREAM-INF:BANDWIDTH=1\nlow/index.m3u8\n";
    let media = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nseg_1.ts\n#EXTINF:1,\nseg_2.ts\n";
    let pages = axum::Router::new()
        .route(
            "/master.m3u8",
            axum::routing::get(move || async move { master }),
        )
        .route(
            "/{variant}/index.m3u8",
            axum::routing::get(move || async move { media }),
        )
        .fallback(|| async { "a segment" });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/master.m3u8", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, pages).await });

    let daemon = Daemon::start(Setup::channel("news", url)).await;
    let channel = &daemon.status().await["channels"][0];
    assert_eq!(channel["ambiguous"]["segments"], 2, "{channel}");
    let at = daemon.pages();
    let table = tokio::task::spawn_blocking(move || edgeseed(&["status", "--url", &at]));
    let table = stdout(&table.await.unwrap());
    assert!(table.contains("2 segments are not served"), "{table}");
    let log = daemon.stop().await.stderr;
    assert_eq!(
        log.matches("give the files of each rendition").count(),
        1,
        "{log}"
    );
}

/// Writes a new certificate and its key into this folder.
fn renew(dir: &Path) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(dir.join("chain.pem"), made.cert.pem()).unwrap();
    std::fs::write(dir.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
}

/// What a process writes to its standard error, line by line.
type Lines = std::io::Lines<BufReader<ChildStderr>>;

/// Reads on until a line has these words.
fn until(lines: &mut Lines, words: &str) {
    let mut said = lines.map_while(Result::ok);
    assert!(
        said.any(|line| line.contains(words)),
        "{words:?} is not said"
    );
}

#[test]
fn what_is_wrong_with_a_configuration_is_shown_where_the_pages_would_be() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("edgeseed.toml");
    std::fs::write(&path, "[peer]\nmax-peers = \"many\"\n").unwrap();
    let address = free_address();
    let mut child = Command::new(BINARY)
        .args(["check", "--config", path.to_str().unwrap()])
        .args(["--listen", &address.to_string()])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut page = loop {
        match TcpStream::connect(address) {
            Ok(page) => break page,
            Err(_) => assert!(Instant::now() < deadline, "nobody listens"),
        }
    };
    page.write_all(b"GET / HTTP/1.1\r\nHost: box\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    page.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("edgeseed.toml:2"), "{answer}");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(78));
}

#[test]
fn a_page_that_is_loaded_for_ever_does_not_keep_a_new_configuration_from_its_store() {
    let places = Places::new();
    let path = places.write();
    let mut child = Command::new(BINARY)
        .args(["run", "--config", &path])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    until(&mut lines, "pages at");
    let mut page = TcpStream::connect(places.http).unwrap();
    page.write_all(b"GET /watch HT").unwrap();
    let more = std::fs::read_to_string(&path).unwrap() + "[memory]\nmax-buffers = \"20MiB\"\n";
    std::fs::write(&path, more).unwrap();
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    until(&mut lines, "pages at");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    lines.for_each(drop);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    drop(page);
}

#[test]
fn a_hangup_brings_a_renewed_certificate_and_nothing_that_is_broken() {
    for command in ["run", "signal"] {
        let places = Places::new();
        let dir = places.dir.path();
        renew(dir);
        let path = places.write();
        let with_tls = std::fs::read_to_string(&path).unwrap().replace(
            "[signal-server]\n",
            &format!(
                "[signal-server]\ncertificate = {0:?}\nkey = {1:?}\n",
                dir.join("chain.pem"),
                dir.join("key.pem")
            ),
        );
        std::fs::write(&path, &with_tls).unwrap();
        let mut child = Command::new(BINARY)
            .args([command, "--config", &path])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let tell = |signal| kill_process(Pid::from_child(&child), signal).unwrap();
        let started = if command == "run" {
            "pages at"
        } else {
            "signalling at"
        };
        until(&mut lines, started);
        tell(Signal::HUP);
        until(&mut lines, "has not changed");
        std::fs::write(dir.join("chain.pem"), "half of").unwrap();
        tell(Signal::HUP);
        until(&mut lines, "the old configuration stays in force");
        std::fs::write(&path, "nonsense").unwrap();
        tell(Signal::HUP);
        until(&mut lines, "the old configuration stays in force");
        std::fs::write(&path, &with_tls).unwrap();
        renew(dir);
        tell(Signal::HUP);
        until(&mut lines, "is read again");
        until(&mut lines, started);
        tell(Signal::TERM);
        lines.for_each(drop);
        assert_eq!(child.wait().unwrap().code(), Some(0), "{command}");
    }
}
