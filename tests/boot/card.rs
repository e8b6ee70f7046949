//! A card with the image on it, and the box that it is in, under an emulator.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rand::Rng;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::support::eventually;

/// From switching it on to its pages, under emulation on a busy machine; a Raspberry Pi takes a tenth.
pub(crate) const BOOTS_WITHIN: Duration = Duration::from_secs(300);

/// The box's address, in a network that it has with this machine alone.
pub(crate) const BOX: &str = "10.0.2.15";

/// The machine's own: UEFI, which starts the boot loader that it finds on the card.
const FIRMWARE: &str = "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd";

/// What the boot loader starts, and with which options of the kernel.
pub(crate) const ENTRY: &str = "loader/entries/edgeseed.conf";

/// A card with the image on it.
pub(crate) struct Card {
    dir: TempDir,
    disk: PathBuf,
}

/// A box that is switched on. Dropped, its power is cut.
pub(crate) struct Running {
    emulator: Child,
    pub(crate) since: Instant,
    serial: PathBuf,
}

pub(crate) fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

impl Card {
    /// Writes the image to a card of this many GiB.
    pub(crate) fn new(gib: u64) -> Self {
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
    pub(crate) fn boot(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let partition = format!("{}@@4M", self.disk.display());
        command.args(["-i", &partition]);
        command
    }

    pub(crate) fn read(&self, name: &str) -> String {
        let read = self
            .boot("mcopy")
            .args([&format!("::{name}"), "-"])
            .output();
        String::from_utf8(read.unwrap().stdout).unwrap()
    }

    /// Edits a file of the boot partition, as on any PC.
    pub(crate) fn edit(&self, name: &str, text: &str) {
        let file = self.dir.path().join("edited");
        std::fs::write(&file, text).unwrap();
        run(self
            .boot("mcopy")
            .arg("-o")
            .arg(file)
            .arg(format!("::{name}")));
    }

    /// Gives the kernel one more option.
    pub(crate) fn option(&self, option: &str) {
        let entry = self.read(ENTRY);
        let more = entry.replace("\noptions ", &format!("\noptions {option} "));
        assert_ne!(entry, more);
        self.edit(ENTRY, &more);
    }

    /// Leaves of the data partition what no repair brings back: its superblock, and nothing behind it.
    pub(crate) fn spoil_data(&self) {
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
    pub(crate) fn take_key(&self) {
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
    pub(crate) async fn inside(&self, command: &str) -> String {
        eventually("a shell on the box", BOOTS_WITHIN, async || {
            let output = self.ssh(command).output().await.unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            output.status.success().then_some(said)
        })
        .await
    }

    /// Has the box, which runs, take another configuration; what became of that.
    pub(crate) async fn configure(&self, text: &str) -> Option<i32> {
        let file = self.dir.path().join("new.toml");
        std::fs::write(&file, text).unwrap();
        let file = std::fs::File::open(file).unwrap();
        let status = self.ssh("configure-box").stdin(file).status().await;
        status.unwrap().code()
    }

    pub(crate) fn switch_on(&self) -> Running {
        self.switch_on_with("")
    }

    /// With something else about its disk (`qemu-system-aarch64 -drive`).
    pub(crate) fn switch_on_with(&self, drive: &str) -> Running {
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
    pub(crate) fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.serial).unwrap_or_default()).into_owned()
    }

    /// What stands above the prompt of its screen.
    pub(crate) fn shows(&self) -> Option<String> {
        let said = self.said();
        let (above, _) = said.rsplit_once("login:")?;
        let (_, screen) = above.rsplit_once("An edgeseed box:")?;
        Some(screen.to_owned())
    }

    /// Waits for what its screen shows.
    pub(crate) async fn screen(&self, wanted: &[&str]) {
        eventually(
            &format!("{wanted:?} on the screen"),
            BOOTS_WITHIN,
            async || {
                let screen = self.shows()?;
                let all = wanted.iter().all(|wanted| screen.contains(wanted));
                all.then_some(())
            },
        )
        .await;
    }

    /// Waits for what one of its pages says.
    pub(crate) async fn page(&self, path: &str, wanted: &str) -> String {
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
