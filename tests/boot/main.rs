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

mod card;
#[path = "../support/mod.rs"]
mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use card::{BOOTS_WITHIN, BOX, Card, ENTRY, Running, run};
use rand::Rng;
use support::eventually;
use support::origin::{Live, Origin};
use support::viewer::{Form, Outcome, Viewer};
use tokio::time::sleep;

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

/// An access point that turns it away is on its screen, until its password is right.
async fn says_that_it_is_turned_away(card: &Card, running: &Running) {
    let wifi = |password: &str, more: &str| {
        format!("country=DE\nnetwork={{\nssid=\"the net\"\npsk=\"{password}\"\n{more}}}\n")
    };
    let settings = |password: &str| {
        let wifi = wifi(password, "");
        let boot = "/boot/firmware";
        format!(
            "mount -o remount,rw {boot} && printf %s '{wifi}' >{boot}/wpa_supplicant.conf && mount -o remount,ro {boot}"
        )
    };
    card.inside(&settings("a wrong one")).await;
    // Two adapters that the kernel makes up: the box's, and the access point.
    let access_point = wifi(
        "the right one",
        "mode=2\nfrequency=2412\nkey_mgmt=WPA-PSK\n",
    );
    let on_air = "wpa_supplicant -B -i wlan1 -c /run/access-point.conf";
    card.inside(&format!(
        "modprobe mac80211_hwsim && printf %s '{access_point}' >/run/access-point.conf && {on_air}"
    ))
    .await;
    let turned_away = r#"turned away, ssid="the net", reason=WRONG_KEY"#;
    running.screen(&[turned_away]).await;
    card.inside(&settings("the right one")).await;
    card.inside("systemctl restart wpa_supplicant@wlan0").await;
    eventually("it is off the screen", BOOTS_WITHIN, async || {
        running
            .shows()
            .is_some_and(|screen| !screen.contains("Wi-Fi"))
            .then_some(())
    })
    .await;
    let joined = card.inside("cat /sys/class/net/wlan0/carrier").await;
    assert_eq!(joined, "1\n");
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
            says_that_it_is_turned_away(&card, &running).await;
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
