//! Who may import whom: the table of `lib.rs` and the design, held by reading the code.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Each room and the rooms that it may import. Imports go downwards only: a room may name only
/// rooms that stand above it in this list, which `the_table_goes_downwards_only` checks.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("ids", &[]),
    ("exit", &[]),
    ("logging", &[]),
    ("systemd", &[]),
    ("budget", &[]),
    ("door", &[]),
    ("metrics", &["ids"]),
    ("sibling", &["ids", "budget"]),
    ("config", &["ids", "sibling"]),
    ("cli", &[]),
    ("wire", &["ids"]),
    ("session", &["ids", "wire"]),
    ("hls", &["ids", "config"]),
    ("store", &["ids", "config", "budget", "metrics"]),
    (
        "fetch",
        &[
            "ids", "config", "budget", "metrics", "hls", "store", "sibling",
        ],
    ),
    (
        "peer",
        &[
            "ids", "config", "budget", "metrics", "wire", "session", "store", "sibling",
        ],
    ),
    ("signal", &["ids", "config", "metrics", "door"]),
    (
        "http",
        &[
            "ids", "config", "budget", "metrics", "store", "fetch", "peer", "door",
        ],
    ),
    (
        "daemon",
        &[
            "ids", "config", "budget", "metrics", "store", "sibling", "fetch", "peer", "signal",
            "http", "exit", "systemd",
        ],
    ),
    ("demo", &["config", "daemon", "exit", "http", "peer"]),
    (
        "commands",
        &[
            "cli", "config", "daemon", "demo", "exit", "fetch", "hls", "http", "ids", "signal",
            "systemd",
        ],
    ),
];

/// Rooms, and files of rooms, that decide and do nothing else.
const PURE: &[&str] = &[
    "hls",
    "session",
    "wire",
    "ids.rs",
    "peer/sdp.rs",
    "peer/clock.rs",
    "peer/link.rs",
    "store/health.rs",
    "store/index.rs",
    "sibling/proof.rs",
    "store/index",
    "signal/messages.rs",
    "signal/data.rs",
    "signal/swarm.rs",
    "signal/pairing.rs",
    "signal/member.rs",
    "signal/backoff.rs",
    "signal/rate.rs",
];

/// What a pure room does not name.
const IMPURE: &[&str] = &[
    "tokio",
    "std::net",
    "std::fs",
    "Instant::now",
    "SystemTime::now",
];

fn sources() -> BTreeMap<PathBuf, String> {
    fn walk(folder: &Path, found: &mut BTreeMap<PathBuf, String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.insert(path, text);
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut found,
    );
    found
}

fn relative(path: &Path) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    path.strip_prefix(root)
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned()
}

/// The room a file belongs to: its folder below `src/`, or its own name.
fn room(path: &Path) -> String {
    let relative = relative(path);
    let first = relative.split('/').next().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// The code without comments and without its unit tests.
fn code(path: &Path, text: &str) -> String {
    let name = path.file_name().unwrap().to_str().unwrap();
    if name.ends_with("tests.rs") {
        return String::new();
    }
    text.split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap()
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

fn imports(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let names: Vec<String> = match rest.strip_prefix('{') {
            Some(group) => group
                .split('}')
                .next()
                .unwrap()
                .split(',')
                .map(|name| name.trim().split("::").next().unwrap().to_owned())
                .collect(),
            None => vec![
                rest.chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect(),
            ],
        };
        found.extend(names.into_iter().filter(|name| !name.is_empty()));
    }
    found
}

#[test]
fn every_room_imports_only_what_the_table_allows() {
    let table: BTreeMap<&str, &[&str]> = MAY_IMPORT.iter().copied().collect();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (path, text) in sources() {
        let room = room(&path);
        if room == "lib" || room == "main" {
            continue;
        }
        let allowed = table
            .get(room.as_str())
            .unwrap_or_else(|| panic!("the table has no room {room}"));
        seen += 1;
        for import in imports(&code(&path, &text)) {
            if import != room && !allowed.contains(&import.as_str()) {
                wrong.push(format!("{} imports {import}", relative(&path)));
            }
        }
    }
    assert!(seen > 30, "only {seen} files were read");
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn the_table_goes_downwards_only() {
    let mut above = BTreeSet::new();
    for (room, allowed) in MAY_IMPORT {
        for import in *allowed {
            assert!(above.contains(import), "{room} may not import {import}");
        }
        above.insert(*room);
    }
}

#[test]
fn pure_rooms_have_no_runtime_no_sockets_and_no_clock() {
    let mut checked = BTreeSet::new();
    for (path, text) in sources() {
        let relative = relative(&path);
        let Some(pure) = PURE
            .iter()
            .find(|pure| relative == **pure || relative.starts_with(&format!("{pure}/")))
        else {
            continue;
        };
        checked.insert(*pure);
        let code = code(&path, &text);
        for word in IMPURE {
            assert!(!code.contains(word), "{relative} is pure and names {word}");
        }
    }
    assert_eq!(checked.len(), PURE.len(), "only {checked:?} were found");
}
