//! The image, booted under an emulator, and a viewer of it on this machine. `image/test` runs these tests, in a network
//! that is theirs alone:
//!
//! ```text
//! image/build && image/test
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::large_futures
)]

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rand::Rng;
use support::eventually;
use support::origin::{Live, Origin};
use support::viewer::{Form, Outcome, Viewer};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// From switching it on to its pages, under emulation on a busy machine; a Raspberry Pi takes a tenth.
const BOOTS_WITHIN: Duration = Duration::from_secs(300);

/// The box's address, in a network that it has with this machine alone.
const BOX: &str = "10.0.2.15";

/// The machine's own: UEFI, which starts the boot loader that it finds on the card.
const FIRMWARE: &str = "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd";

/// What the boot loader starts, and with which options of the kernel.
const ENTRY: &str = "loader/entries/edgeseed.conf";

/// A card with the image on it.
struct Card {
    dir: TempDir,
    disk: PathBuf,
}

/// A box that is switched on. Dropped, its power is cut.
struct Running {
    emulator: Child,
    since: Instant,
    serial: PathBuf,
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

impl Card {
    /// Writes the image to a card of this many GiB.
    fn new(gib: u64) -> Self {
        let image = std::env::var("EDGESEED_IMAGE").expect("image/test says where it is");
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk.img");
        run(Command::new("cp")
            .arg("--sparse=always")
            .args([Path::new(&image), &disk]));
        let card = std::fs::File::options().write(true).open(&disk).unwrap();
        card.set_len(gib << 30).unwrap();
        let card = Self { dir, disk };
        // As on a board, but that the last console, which units write to, is one that can be read here.
        let entry = card.read(ENTRY);
        let screen = " console=tty0";
        assert!(card.read("cmdline.txt").contains(screen) && entry.contains(screen));
        let entry = entry.replace(" quiet", " console=ttyAMA0,115200");
        card.edit(ENTRY, &entry);
        card
    }

    /// A command on the boot partition.
    fn boot(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let partition = format!("{}@@4M", self.disk.display());
        command.args(["-i", &partition]);
        command
    }

    fn read(&self, name: &str) -> String {
        let read = self
            .boot("mcopy")
            .args([&format!("::{name}"), "-"])
            .output();
        String::from_utf8(read.unwrap().stdout).unwrap()
    }

    /// Edits a file of the boot partition, as on any PC.
    fn edit(&self, name: &str, text: &str) {
        let file = self.dir.path().join("edited");
        std::fs::write(&file, text).unwrap();
        run(self
            .boot("mcopy")
            .arg("-o")
            .arg(file)
            .arg(format!("::{name}")));
    }

    /// Gives the kernel one more option.
    fn option(&self, option: &str) {
        let entry = self.read(ENTRY);
        let more = entry.replace("\noptions ", &format!("\noptions {option} "));
        assert_ne!(entry, more);
        self.edit(ENTRY, &more);
    }

    /// Leaves of the data partition what no repair brings back: its superblock, and nothing behind it.
    fn spoil_data(&self) {
        let table = Command::new("sfdisk").arg("-d").arg(&self.disk).output();
        let table = String::from_utf8(table.unwrap().stdout).unwrap();
        let third = table.lines().rfind(|line| line.contains("start=")).unwrap();
        let (_, start) = third.split_once("start=").unwrap();
        let (start, _) = start.split_once(',').unwrap();
        let start: u64 = start.trim().parse().unwrap();
        let card = std::fs::File::options().write(true).open(&self.disk);
        let noise: Vec<u8> = rand::rng().random_iter().take(8 << 20).collect();
        card.unwrap()
            .write_all_at(&noise, start * 512 + 4096)
            .unwrap();
    }

    /// Lets whoever has the key beside the card in by SSH.
    fn take_key(&self) {
        let key = self.dir.path().join("key");
        run(Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(&key));
        let public = std::fs::read_to_string(key.with_extension("pub")).unwrap();
        // As an editor of Windows may write it.
        self.edit("authorized_keys", &format!("\u{feff}{}\r\n", public.trim()));
    }

    fn ssh(&self, command: &str) -> tokio::process::Command {
        let mut ssh = tokio::process::Command::new("ssh");
        for option in [
            "BatchMode=yes",
            "ConnectTimeout=10",
            "LogLevel=ERROR",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
        ] {
            ssh.args(["-o", option]);
        }
        let key = self.dir.path().join("key");
        ssh.arg("-i").arg(key);
        ssh.args([&format!("root@{BOX}"), command]);
        ssh
    }

    /// What a command says on the box, as soon as it says so.
    async fn inside(&self, command: &str) -> String {
        eventually("a shell on the box", BOOTS_WITHIN, async || {
            let output = self.ssh(command).output().await.unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            output.status.success().then_some(said)
        })
        .await
    }

    /// Has the box, which runs, take another configuration; what became of that.
    async fn configure(&self, text: &str) -> Option<i32> {
        let file = self.dir.path().join("new.toml");
        std::fs::write(&file, text).unwrap();
        let file = std::fs::File::open(file).unwrap();
        let status = self.ssh("configure-box").stdin(file).status().await;
        status.unwrap().code()
    }

    fn switch_on(&self) -> Running {
        self.switch_on_with("")
    }

    /// With something else about its disk (`qemu-system-aarch64 -drive`).
    fn switch_on_with(&self, drive: &str) -> Running {
        let serial = self.dir.path().join("serial.log");
        let emulator = Command::new("qemu-system-aarch64")
            .args([
                "-M",
                "virt",
                "-cpu",
                "cortex-a72",
                "-smp",
                "2",
                "-m",
                "1024",
            ])
            .args(["-bios", FIRMWARE])
            .args([
                "-drive",
                &format!(
                    "if=none,id=card,format=raw,file={}{drive}",
                    self.disk.display()
                ),
            ])
            .args([
                "-device",
                "virtio-blk-pci,drive=card,bootindex=0",
                "-netdev",
                "tap,id=net,ifname=box,script=no,downscript=no",
            ])
            .args([
                "-device",
                "virtio-net-pci,netdev=net,romfile=",
                "-device",
                "virtio-rng-pci",
            ])
            .args(["-display", "none", "-monitor", "none"])
            .args(["-serial", &format!("file:{}", serial.display())])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Running {
            emulator,
            since: Instant::now(),
            serial,
        }
    }
}

impl Running {
    fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.serial).unwrap_or_default()).into_owned()
    }

    /// What stands above the prompt of its screen, once that stands there.
    async fn screen(&self, wanted: &[&str]) {
        eventually(
            &format!("{wanted:?} on the screen"),
            BOOTS_WITHIN,
            async || {
                let said = self.said();
                let (above, _) = said.rsplit_once("login:")?;
                let (_, screen) = above.rsplit_once("An edgeseed box:")?;
                let all = wanted.iter().all(|wanted| screen.contains(wanted));
                all.then_some(())
            },
        )
        .await;
    }

    /// Waits for what one of its pages says.
    async fn page(&self, path: &str, wanted: &str) -> String {
        let url = format!("http://{BOX}:8080{path}");
        let client = reqwest::Client::builder().timeout(Duration::from_secs(5));
        let client = client.no_proxy().build().unwrap();
        let deadline = Instant::now() + BOOTS_WITHIN;
        loop {
            if let Ok(answer) = client.get(&url).send().await
                && let Ok(text) = answer.text().await
                && text.contains(wanted)
            {
                return text;
            }
            assert!(
                Instant::now() < deadline,
                "no {wanted:?} at {url}:\n{}",
                self.said()
            );
            sleep(Duration::from_millis(500)).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.emulator.kill();
        let _ = self.emulator.wait();
    }
}

fn configuration(origin: &Origin) -> String {
    let url = origin.url();
    format!("[[channel]]\nurl = {url:?}\n[signal-server]\nlisten = \"0.0.0.0:12035\"\n")
}

/// Asks the network for the address of `edgeseed.local`, as any machine in it does (RFC 6762).
async fn answers_to_its_name() {
    const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
    const NAME: &[u8] = b"\x08edgeseed\x05local\x00\x00\x01";
    // Neither asked nor answered by name compression: 12 bytes of header with one question, and IN.
    let question = [b"\0\0\0\0\0\x01\0\0\0\0\0\0", NAME, b"\0\x01"].concat();
    let here: Ipv4Addr = std::env::var("EDGESEED_TEST_ADDRESS")
        .unwrap()
        .parse()
        .unwrap();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket
        .bind(&SocketAddr::from(([0, 0, 0, 0], 5353)).into())
        .unwrap();
    socket.join_multicast_v4(&GROUP, &here).unwrap();
    socket.set_multicast_if_v4(&here).unwrap();
    let socket = tokio::net::UdpSocket::from_std(socket.into()).unwrap();
    let address: Ipv4Addr = BOX.parse().unwrap();
    eventually("an answer for edgeseed.local", BOOTS_WITHIN, async || {
        let group = (GROUP, 5353);
        socket.send_to(&question, group).await.unwrap();
        let mut answer = [0; 1500];
        let received = tokio::time::timeout(Duration::from_secs(2), async {
            loop {
                let (length, from) = socket.recv_from(&mut answer).await.unwrap();
                if from.ip() == address {
                    return length;
                }
            }
        });
        let length = received.await.ok()?;
        let has = |what: &[u8]| {
            answer[..length]
                .windows(what.len())
                .any(|part| part == what)
        };
        (has(NAME) && has(&address.octets())).then_some(())
    })
    .await;
}

/// A viewer on this machine gets the newest segments, byte for byte.
async fn serves(origin: &Origin) {
    let server = format!("ws://{BOX}:12035/");
    let viewer = eventually("a channel to the box", BOOTS_WITHIN, async || {
        Viewer::try_join(&server, &origin.url(), Form::Today)
            .await
            .ok()
    });
    let mut viewer = viewer.await;
    for _ in 0..3 {
        let sequence = origin.newest();
        let segment = eventually("a segment", Duration::from_secs(60), async || match viewer
            .request(sequence)
            .await
        {
            Outcome::Segment { bytes, .. } => Some(bytes),
            _ => None,
        });
        assert!(segment.await == origin.segment(sequence));
    }
}

fn live() -> Live {
    Live {
        segment_duration: Duration::from_secs(4),
        segment_size: 500_000,
        ..Live::default()
    }
}

/// What the data partition's script said.
fn data(said: &str) -> Vec<&str> {
    let lines = said.lines().filter_map(|line| line.split_once("]: data: "));
    lines.map(|(_, what)| what.trim()).collect()
}

/// A box of which nothing is right but that it boots: it says so, and where.
async fn says_what_is_wrong(card: &Card, origin: &Origin) {
    let mistake = configuration(origin) + "[peer]\nmax-peers = \"many\"\n";
    card.edit("edgeseed.toml", &mistake);
    let network = card
        .read("network.network")
        .replace("#Address=192.168.1.50/24", &format!("Address={BOX}/24"))
        .replace("#Gateway=", "Gatway=")
        .replace("DHCP=yes\n", "");
    card.edit("network.network", &network);
    // A password of Wi-Fi has eight characters at the least. The adapter is one that the kernel makes up.
    let wifi = card.read("wpa_supplicant.conf.example");
    let wifi = wifi.replace("its password", "short");
    card.edit("wpa_supplicant.conf", &wifi);
    let entry = card.read(ENTRY);
    card.option("modules_load=mac80211_hwsim");
    let running = card.switch_on();
    let shown = running.page("/", "does not serve").await;
    println!(
        "boot 0: {:.1} s: {shown}",
        running.since.elapsed().as_secs_f64()
    );
    assert!(shown.contains("edgeseed.toml:6"), "{shown}");
    let of_network = "network.network on BOOT, line ";
    let of_file = "\n/etc/edgeseed/edgeseed.toml:6";
    let of_wifi = "Invalid passphrase length 5";
    let wanted = [of_file, of_network, "Gatway", of_wifi, BOX];
    running.screen(&wanted).await;
    eventually("all units have started", BOOTS_WITHIN, async || {
        let said = running.said();
        let reached = said
            .lines()
            .any(|line| line.contains("Reached target") && line.contains("multi-user"));
        reached.then_some(())
    })
    .await;
    let shell = tokio::net::TcpStream::connect((BOX, 22)).await;
    assert!(shell.is_err(), "there is no SSH without a key");
    let said = running.said();
    println!("{:?}", data(&said));
    assert!(
        said.contains("sectors now") && said.contains("there is none"),
        "{said}"
    );
    drop(running);
    card.edit(ENTRY, &entry);
    run(card.boot("mdel").arg("::wpa_supplicant.conf"));
}

/// A box that serves takes a right configuration from afar, and no other.
async fn is_configured_from_afar(card: &Card, origin: &Origin) {
    let right = configuration(origin);
    let wrong = format!("{right}[peer]\nmax-peers = 0\n");
    // It may serve before there is SSH.
    card.inside("true").await;
    assert_eq!(card.configure(&wrong).await, Some(78));
    assert_eq!(card.configure("").await, Some(78));
    let file = "cat /etc/edgeseed/edgeseed.toml";
    assert_eq!(card.inside(file).await, right);
    let other = format!("{right}# Another one.\n");
    assert_eq!(card.configure(&other).await, Some(0));
    let mounted = format!("{file}; findmnt -n -o OPTIONS /boot/firmware | cut -c -3");
    assert_eq!(card.inside(&mounted).await, format!("{other}ro,\n"));
    let failed = "systemctl is-active edgeseed; systemctl --failed --plain --no-legend";
    assert_eq!(card.inside(failed).await, "active\n");
}

/// A board without a clock waits a minute for the time, and then does without.
async fn serves_without_a_clock(card: &Card, origin: &Origin) {
    let entry = card.read(ENTRY);
    // The emulator's, and its firmware's.
    card.option("initcall_blacklist=pl031_driver_init,efi_rtc_driver_init");
    let running = card.switch_on();
    running.page("/healthz", "ok\n").await;
    let up = running.since.elapsed().as_secs_f64();
    serves(origin).await;
    let said = card.inside("ls /dev | grep -c rtc; date +%Y").await;
    println!("without a clock: pages after {up:.1} s: {said:?}");
    let (clocks, year) = said.trim().split_once('\n').unwrap();
    assert!(
        clocks == "0" && year.parse::<u32>().unwrap() >= 2026,
        "{said}"
    );
    drop(running);
    card.edit(ENTRY, &entry);
}

/// A card that takes no writes: memory has to do.
async fn serves_from_memory(card: &Card, origin: &Origin) {
    let running = card.switch_on_with(",readonly=on");
    running.page("/healthz", "ok\n").await;
    serves(origin).await;
    let stored = running.page("/metrics", "edgeseed_store_bytes ").await;
    let line = stored
        .lines()
        .find(|line| line.starts_with("edgeseed_store_bytes "));
    let said = running.said();
    println!("a card that takes no writes: {:?}, {line:?}", data(&said));
    assert!(data(&said).iter().any(|what| what.contains("in memory")));
    assert!(line.is_some_and(|line| !line.ends_with(" 0")), "{stored}");
}

#[tokio::test]
#[ignore = "needs an image: image/test"]
async fn a_box_says_what_is_wrong_is_mended_and_serves_after_each_power_cut() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cuts: u32 = std::env::var("CUTS").map_or(1, |cuts| cuts.parse().unwrap());
    let origin = Origin::start(live()).await;
    let card = Card::new(2);
    let network = card.read("network.network");
    says_what_is_wrong(&card, &origin).await;

    // Mended files and a power cycle are enough.
    card.edit("edgeseed.toml", &configuration(&origin));
    card.edit("network.network", &network);
    card.take_key();
    if cuts > 0 {
        serves_without_a_clock(&card, &origin).await;
        serves_from_memory(&card, &origin).await;
    }
    for boot in 1..=cuts + 1 {
        let spoilt = cuts > 0 && boot > cuts;
        if spoilt {
            card.spoil_data();
        }
        let running = card.switch_on();
        running.page("/healthz", "ok\n").await;
        let up = running.since.elapsed();
        serves(&origin).await;
        if boot == 1 {
            answers_to_its_name().await;
        }
        let served = running.since.elapsed();
        let said = running.said();
        let data = data(&said);
        println!(
            "boot {boot}: pages after {:.1} s, segments after {:.1} s: {data:?}",
            up.as_secs_f64(),
            served.as_secs_f64()
        );
        // A cut may have the file system made anew, but not be given up.
        let told = |words: &str| data.iter().any(|what| what.contains(words));
        assert!(told("for the store") && !told("in memory"), "{said}");
        assert!(!told("sectors now") && !told("there is none"), "{said}");
        assert!(!spoilt || told("it is beyond repair"), "{said}");
        if boot > cuts {
            is_configured_from_afar(&card, &origin).await;
            if cuts > 1 {
                let blame = "systemd-analyze; systemd-analyze blame | head";
                let chain = "systemd-analyze critical-chain edgeseed.service";
                println!("{}\n{}", card.inside(blame).await, card.inside(chain).await);
            }
            break;
        }
        // Each time while it serves, and every other time while it boots as well.
        let wait = Duration::from_millis(rand::rng().random_range(0..20_000));
        sleep(wait).await;
        drop(running);
        if boot % 2 == 0 {
            let running = card.switch_on();
            let wait = Duration::from_millis(rand::rng().random_range(0..40_000));
            sleep(wait).await;
            drop(running);
            println!(
                "       cut {:.1} s after it was switched on",
                wait.as_secs_f64()
            );
        }
    }
}
