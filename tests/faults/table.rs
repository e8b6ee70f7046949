//! `docs/faults.md`: what is promised for each fault. The tests take the words of the log from there.

// `tests/conformance.rs` uses another part of it than the tests of the faults.
#![allow(dead_code)]

use std::path::Path;

/// A row of the table.
#[derive(Debug, Default)]
pub(crate) struct Row {
    /// In the words of whoever asked for it.
    pub(crate) fault: String,
    /// The channel's name in the test.
    pub(crate) channel: String,
    /// How it was made, what viewers saw, and how it ended.
    pub(crate) prose: [String; 3],
    /// The lines of the log; `…` stands for anything.
    pub(crate) log: Vec<String>,
    /// File and function.
    pub(crate) test: String,
}

/// What stands in the log cell when there is nothing in the log.
const NOTHING: &str = "nothing";

pub(crate) fn rows() -> Vec<Row> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/faults.md");
    let text = std::fs::read_to_string(path).unwrap();
    let cells = text
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
        .map(|line| line.split(" | ").map(str::to_owned).collect::<Vec<_>>())
        .filter(|cells| cells[0] != "fault");
    let plain = |text: &str| text.trim_matches('`').to_owned();
    let rows = cells.map(|cells| {
        let [fault, channel, made, viewers, log, recovery, test] =
            <[String; 7]>::try_from(cells).unwrap();
        let log = log.split("<br>").filter(|line| *line != NOTHING);
        Row {
            fault,
            channel: plain(&channel),
            prose: [made, viewers, recovery],
            log: log.map(plain).collect(),
            test: plain(&test),
        }
    });
    rows.collect()
}
