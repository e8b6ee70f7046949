//! Files that are right, and what is said of those that are not.

use super::sections::DEFAULT_WINDOW;
use super::*;

const COMPLETE: &str = r#"
[[channel]]
url = "https://cdn.example.com/news/index.m3u8?token=1"
[signal]
url = "wss://tracker.example.com/ws"
"#;

fn mistakes(text: &str) -> Vec<String> {
    Config::parse(text)
        .unwrap_err()
        .into_iter()
        .map(|m| format!("{}|{}|{}", m.line, m.key, m.message))
        .collect()
}

#[test]
fn one_channel_and_one_signal_are_a_complete_file() {
    let config = Config::parse(COMPLETE).unwrap();
    let channel = &config.channels[0];
    assert_eq!(channel.name.as_str(), "news");
    assert_eq!(
        channel.id.as_str(),
        "https://cdn.example.com/news/index.m3u8"
    );
    assert_eq!(channel.variants, Variants::Highest);
    assert_eq!(config.peer, PeerConfig::default());
    assert_eq!(config.store, StoreConfig::default());
}

#[test]
fn a_channels_id_is_what_a_page_can_write_without_the_password_or_the_token_of_the_url() {
    let text = COMPLETE.replace("https://", "https://name:word@");
    let config = Config::parse(&text).unwrap();
    assert_eq!(
        config.channels[0].id.as_str(),
        "https://cdn.example.com/news/index.m3u8"
    );
}

#[test]
fn the_sample_that_is_shipped_says_what_the_defaults_are() {
    let sample = Config::parse(include_str!("../../edgeseed.example.toml")).unwrap();
    assert_eq!(sample.channels.len(), 1);
    assert_eq!(sample.channels[0].window, DEFAULT_WINDOW);
    assert_eq!(sample.channels[0].matching, Matching::Exact);
    assert_eq!(sample.peer, PeerConfig::default());
    assert_eq!(sample.store, StoreConfig::default());
    assert_eq!(sample.memory, MemoryConfig::default());
    assert_eq!(sample.http, HttpConfig::default());
}

#[test]
fn every_mistake_is_named_by_line_and_key() {
    let found = mistakes(
        "[[channel]]\nurl = \"ftp://x/y\"\nwindow = \"soon\"\n[signal]\nurl = 5\n[peer]\nmax-peers = 0\nmaxpeers = 3\n",
    );
    assert_eq!(found.len(), 5, "{found:#?}");
    assert!(found[0].starts_with("2|channel.url|"), "{}", found[0]);
    assert!(found[1].starts_with("3|channel.window|"), "{}", found[1]);
    assert!(found[2].starts_with("5|signal.url|"), "{}", found[2]);
    assert!(found[3].starts_with("7|peer.max-peers|"), "{}", found[3]);
    assert!(
        found[4].starts_with("8|peer.maxpeers|unknown key"),
        "{}",
        found[4]
    );
}

#[test]
fn a_file_that_is_not_toml_is_told_where() {
    let found = mistakes("[[channel]]\nurl = \"unclosed\n");
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("2||"), "{}", found[0]);
}

#[test]
fn an_unknown_section_is_a_mistake() {
    let found = mistakes(&format!("{COMPLETE}[sotre]\ndir = \"/tmp\"\n"));
    assert_eq!(found.len(), 1);
    assert!(found[0].contains("|sotre|unknown section"), "{}", found[0]);
}

#[test]
fn without_a_channel_or_a_server_the_file_says_what_to_add() {
    assert!(mistakes("").iter().any(|m| m.contains("[[channel]]")));
    let found = mistakes("[[channel]]\nurl = \"http://o/a/i.m3u8\"\n");
    assert!(found[0].contains("[signal]"), "{found:?}");
}

#[test]
fn being_the_signalling_server_makes_signal_optional() {
    let config = Config::parse(
        "[[channel]]\nurl = \"http://o/a/i.m3u8\"\n[signal-server]\nlisten = \"0.0.0.0:12035\"\n",
    )
    .unwrap();
    assert_eq!(config.signal, SignalConfig::Own);
}

#[test]
fn a_ca_of_ones_own_is_read_and_what_is_wrong_with_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ca.pem");
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::default();
    let certificate = params.self_signed(&key).unwrap();
    let ca = format!("{COMPLETE}ca = {path:?}\n");
    let says = |text: &str, words: &str| {
        let found = mistakes(text);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("6|signal.ca|"), "{found:?}");
        assert!(found[0].contains(words), "{found:?}");
    };
    says(&ca, "cannot be read");
    let write = |text: &str| std::fs::write(&path, text).unwrap();
    write(&key.serialize_pem());
    says(&ca, "has no certificate in it");
    write("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    says(&ca, "cannot be used");
    write(&certificate.pem());
    says(&ca.replace("wss:", "ws:"), "without a wss:// url");
    let config = Config::parse(&format!("{ca}token = \"t\"\n")).unwrap();
    let SignalConfig::Server { ca, token, .. } = config.signal else {
        panic!("{:?}", config.signal);
    };
    assert_eq!(ca, [certificate.der().clone()]);
    assert_eq!(token.as_deref(), Some("t"));
}

#[test]
fn names_are_matched_exactly_unless_told_otherwise() {
    let matching = |line: &str| {
        let text = COMPLETE.replace("[signal]", &format!("{line}\n[signal]"));
        Config::parse(&text).map(|config| config.channels[0].matching)
    };
    assert_eq!(matching("").unwrap(), Matching::Exact);
    assert_eq!(matching("match = \"path\"").unwrap(), Matching::Path);
    let refused = matching("match = \"name\"").unwrap_err();
    assert_eq!(refused[0].key, "channel.match");
    for (uri, path) in [("a/1.ts?t=1?2", "a/1.ts"), ("1.ts", "1.ts"), ("?x", "")] {
        assert_eq!(Matching::Path.name(uri), path);
        assert_eq!(Matching::Exact.name(uri), uri);
    }
}

#[test]
fn a_certificate_and_its_key_come_together() {
    let server =
        |keys: &str| format!("{COMPLETE}[signal-server]\nlisten = \"0.0.0.0:12035\"\n{keys}");
    let both = "certificate = \"/etc/c.pem\"\nkey = \"/etc/k.pem\"\ntoken = \"t\"\n";
    let config = Config::parse(&server(both)).unwrap().signal_server.unwrap();
    assert_eq!(config.tls.unwrap().key, PathBuf::from("/etc/k.pem"));
    assert_eq!(config.token.as_deref(), Some("t"));
    for (keys, expected) in [
        (
            "certificate = \"/etc/c.pem\"\n",
            "signal-server.key|is missing",
        ),
        (
            "key = \"/etc/k.pem\"\n",
            "signal-server.certificate|is missing",
        ),
        ("token = \"\"\n", "signal-server.token|is empty"),
        (
            "max-sockets-per-address = -1\n",
            "signal-server.max-sockets",
        ),
    ] {
        let found = mistakes(&server(keys));
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].contains(expected), "{}", found[0]);
    }
}

#[test]
fn two_channels_of_one_name_or_id_are_a_mistake() {
    let two = "[[channel]]\nurl = \"http://a/x/i.m3u8\"\n[[channel]]\nurl = \"http://b/x/i.m3u8\"\n[signal]\nurl = \"ws://s/\"\n";
    assert!(
        mistakes(two)[0].contains("channel.name"),
        "{:?}",
        mistakes(two)
    );
    let two = "[[channel]]\nurl = \"http://a/x/i.m3u8?1\"\n[[channel]]\nname = \"y\"\nurl = \"http://a/x/i.m3u8?2\"\n[signal]\nurl = \"ws://s/\"\n";
    assert!(
        mistakes(two)[0].contains("channel.id"),
        "{:?}",
        mistakes(two)
    );
}

#[test]
fn sizes_and_durations_are_read_with_their_units() {
    let config = Config::parse(&format!(
        "{COMPLETE}[peer]\nrequest-hold = \"1.6s\"\npacket-size = \"16KiB\"\n[store]\nmax-size = \"1GiB\"\n"
    ))
    .unwrap();
    assert_eq!(config.peer.request_hold, Duration::from_millis(1600));
    assert_eq!(config.peer.packet_size, 16 << 10);
    assert_eq!(config.store.max_size, 1 << 30);
}

#[test]
fn what_is_shown_of_a_url_to_all_of_the_lan_is_not_its_token() {
    for url in ["htps://cdn/x.m3u8?token=hush", "//me:hush@cdn/x.m3u8"] {
        let found = mistakes(&format!("[[channel]]\nurl = {url:?}\n"));
        assert!(found[0].contains("the playlist's address"), "{}", found[0]);
        assert!(!found.concat().contains("hush"), "{found:?}");
    }
    let channel =
        |name| format!("[[channel]]\nurl = \"http://me:hush@cdn/x.m3u8\"\nname = {name:?}\n");
    let found = mistakes(&(channel("one") + &channel("two") + "[signal]\nurl = \"ws://s/\"\n"));
    assert!(found[0].contains("that of another channel"), "{found:?}");
    assert!(!found.concat().contains("hush"), "{found:?}");
}

#[test]
fn a_number_without_a_unit_is_not_a_duration() {
    let found = mistakes(&format!("{COMPLETE}[peer]\nrequest-hold = \"16\"\n"));
    assert!(found[0].contains("peer.request-hold"), "{}", found[0]);
    let found = mistakes(&format!("{COMPLETE}[peer]\nrequest-hold = \"16s\"\n"));
    assert!(
        found[0].ends_with("is out of bounds: from 0s to 10s"),
        "{}",
        found[0]
    );
}

#[test]
fn two_parts_of_the_box_cannot_listen_at_one_address() {
    let text = |listen| format!("{COMPLETE}[signal-server]\nlisten = {listen:?}\n");
    for listen in ["0.0.0.0:8080", "127.0.0.1:8080", "[::]:8080"] {
        let mistake = format!(
            "6|signal-server.listen|is {listen}, and [http] listen is 0.0.0.0:8080: give it another port"
        );
        assert_eq!(mistakes(&text(listen)), [mistake]);
    }
    for listen in ["0.0.0.0:8081", "[::1]:8080"] {
        assert!(Config::parse(&text(listen)).is_ok());
    }
}

#[test]
fn a_device_is_no_configuration() {
    let error = Config::load("/dev/zero".as_ref()).unwrap_err().to_string();
    assert!(error.contains("more than 4 MiB"), "{error}");
}

#[test]
fn what_editors_of_other_systems_do_to_a_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("edgeseed.toml");
    let error = || Config::load(&path).unwrap_err().to_string();
    std::fs::write(dir.path().join("edgeseed.toml.txt"), COMPLETE).unwrap();
    assert!(
        error().contains("edgeseed.toml.txt: rename it to edgeseed.toml"),
        "{}",
        error()
    );
    // As on a flashed box.
    let link = dir.path().join("link.toml");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let linked = Config::load(&link).unwrap_err().to_string();
    assert!(linked.contains("rename it to edgeseed.toml"), "{linked}");
    std::fs::write(&path, b"\xff\xfe[\0").unwrap();
    assert!(error().contains("save it as UTF-8"), "{}", error());
    std::fs::write(&path, COMPLETE.replace("ws\"", "ws")).unwrap();
    assert!(
        error().contains("toml:5: the quotation mark"),
        "{}",
        error()
    );
    std::fs::write(&path, format!("\u{feff}{}", COMPLETE.replace('\n', "\r\n"))).unwrap();
    assert!(Config::load(&path).is_ok());
}
