//! `docs/conformance.md` and `docs/faults.md` are complete, and every test that they name exists.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "faults/table.rs"]
mod faults;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The messages of the protocol, as the table names them, and who has to do with each.
const MESSAGES: &[(&str, &[&str])] = &[
    ("KEEPALIVE", &["holder", "receiver"]),
    ("KEEPALIVE-ACK", &["holder", "receiver"]),
    ("REQUEST", &["holder", "receiver"]),
    ("BINARY", &["holder", "receiver"]),
    ("LACK", &["holder", "receiver"]),
    ("CLOSE", &["holder", "receiver"]),
    ("ERROR", &["holder", "receiver"]),
    ("enter", &["peer", "server"]),
    ("accept", &["peer", "server"]),
    ("leave", &["peer", "server"]),
    ("signal", &["peer", "server"]),
    ("dc_opened", &["peer", "server"]),
    ("dc_failed", &["peer", "server"]),
    ("dc_closed", &["peer", "server"]),
    ("level", &["peer", "server"]),
    ("connect", &["peer", "server"]),
    ("reject", &["peer", "server"]),
    // Our server asks nobody to drop anybody.
    ("disconnect", &["peer"]),
    ("parents", &["peer", "server"]),
    // What only others send.
    ("get_parents", &["server"]),
    ("level without action", &["server"]),
    ("statistics", &["server"]),
    ("anything else", &["holder", "peer", "server"]),
    ("ids", &["peer"]),
    ("data as a string", &["peer"]),
    ("offer", &["peer"]),
    ("offer of 2018", &["peer"]),
    ("unsolicited offer", &["peer"]),
    ("candidate", &["peer"]),
    ("second channel", &["peer"]),
    ("four entries of one page", &["peer", "server"]),
    ("end without a word", &["peer", "server"]),
    ("restart of the box", &["peer"]),
    ("loss of the server", &["peer"]),
];

/// The faults of origins, as they were asked for.
const FAULTS: &[&str] = &[
    "slow",
    "stalled",
    "reset mid-body",
    "wrong length",
    "wrong type",
    "404 then 200",
    "500 storm",
    "redirect loop",
    "huge playlist",
    "changed bytes under the same name",
    "playlist going backwards",
    "TLS expired",
    "DNS gone",
];

struct Row {
    message: String,
    role: String,
    tests: Vec<String>,
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn rows() -> Vec<Row> {
    let text = read("docs/conformance.md");
    let cells = text
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
        .map(|line| line.split(" | ").map(str::to_owned).collect::<Vec<_>>())
        .filter(|cells| cells[0] != "message");
    cells
        .map(|cells| {
            let [message, role, does, bad, tests] = <[String; 5]>::try_from(cells).unwrap();
            assert!(!does.is_empty() && !bad.is_empty(), "{message}, {role}");
            let tests = tests
                .split("<br>")
                .map(|test| test.trim_matches('`').to_owned());
            Row {
                message,
                role,
                tests: tests.collect(),
            }
        })
        .collect()
}

#[test]
fn every_message_has_one_row_for_each_of_its_roles_and_nothing_else_has() {
    let expected: Vec<(&str, &str)> = MESSAGES
        .iter()
        .flat_map(|(message, roles)| roles.iter().map(|role| (*message, *role)))
        .collect();
    let rows = rows();
    let mut found: Vec<(&str, &str)> = rows
        .iter()
        .map(|row| (row.message.as_str(), row.role.as_str()))
        .collect();
    for row in &expected {
        assert!(found.contains(row), "{row:?} has no row");
    }
    found.sort_unstable();
    // "anything else" stands in both tables.
    assert!(found.is_sorted_by(|one, other| one < other), "twice");
    assert_eq!(found.len(), expected.len(), "a row for an unknown message");
}

#[test]
fn every_row_names_tests_that_exist() {
    let mut missing = BTreeSet::new();
    for row in rows() {
        for test in row.tests {
            let is_there = exists(&test);
            if !is_there {
                missing.insert(format!("{}, {}: {test}", row.message, row.role));
            }
        }
    }
    assert!(missing.is_empty(), "no such test: {missing:#?}");
}

#[test]
fn every_fault_has_a_row_whose_test_exists_and_runs_its_channel() {
    let rows = faults::rows();
    for fault in FAULTS {
        assert!(rows.iter().any(|row| row.fault == *fault), "{fault}");
    }
    let mut channels = BTreeSet::new();
    for row in &rows {
        assert!(FAULTS.contains(&row.fault.as_str()), "{row:?}");
        assert!(row.prose.iter().all(|prose| !prose.is_empty()), "{row:?}");
        assert!(channels.insert(&row.channel), "twice: {row:?}");
        assert!(exists(&row.test), "no such test: {row:?}");
        let (file, _) = row.test.split_once("::").unwrap();
        let channel = format!("\"{}\"", row.channel);
        assert!(read(file).contains(&channel), "not in its test: {row:?}");
    }
}

/// Whether there is such a `file::test`.
fn exists(test: &str) -> bool {
    test.split_once("::").is_some_and(|(file, name)| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        path.is_file() && has_test(&read(file), name)
    })
}

/// Whether a function of this name follows a test attribute, which an ignored one does not do at once.
fn has_test(source: &str, name: &str) -> bool {
    ["#[tokio::test]\nasync fn ", "#[test]\nfn "]
        .iter()
        .any(|test| source.contains(&format!("{test}{name}(")))
}
