//! `edgeseed status`: ask a running daemon, print a table.

use serde_json::Value;
use url::Url;

use super::{Failure, say};
use crate::fetch::OriginClient;

/// Bytes of a status that are read: some 300 for each viewer, so thousands of viewers.
const MAX_STATUS: usize = 4 << 20;

pub(super) async fn print(base: &Url, json: bool) -> Result<(), Failure> {
    let url = base
        .join("/api/status")
        .map_err(|error| Failure::NotADaemon(format!("{base}: {error}")))?;
    let client = OriginClient::new().map_err(Failure::Fetch)?;
    let text = client
        .text(&url, MAX_STATUS)
        .await
        .map_err(Failure::Fetch)?;
    let status: Value = serde_json::from_str(&text)
        .map_err(|_| Failure::NotADaemon(format!("{url} answers with something else")))?;
    if json {
        say(&text);
    } else {
        for line in table(&status) {
            say(&line);
        }
    }
    Ok(())
}

fn table(status: &Value) -> Vec<String> {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".into(),
        other => other.to_string(),
    };
    let megabytes = |value: &Value| format!("{:.1} MB", value.as_f64().unwrap_or(0.0) / 1e6);
    let mut lines = vec![format!(
        "edgeseed {}, up {} s, {}, memory {}",
        text(&status["version"]),
        status["uptime_seconds"],
        if status["healthy"] == Value::Bool(true) {
            "all is well"
        } else {
            "needs attention"
        },
        megabytes(&status["memory"]["resident_bytes"]),
    )];
    let store = &status["store"];
    let written = store["written_bytes"].as_f64().unwrap_or(0.0);
    let hours = status["uptime_seconds"].as_f64().unwrap_or(0.0) / 3600.0;
    lines.push(format!(
        "store {} of {}, written {} since the start ({} an hour), in memory {}",
        megabytes(&store["bytes"]),
        megabytes(&store["max_bytes"]),
        megabytes(&store["written_bytes"]),
        megabytes(&Value::from(written / hours.max(1.0 / 60.0))),
        megabytes(&store["memory_bytes"]),
    ));
    for problem in status["problems"].as_array().into_iter().flatten() {
        lines.push(format!("  ! {}", text(problem)));
    }
    lines.push(format!(
        "{:<20} {:<9} {:>8} {:>10} {:>7} {:>11} {:>11} {:>7} {:>6} {:>5}",
        "CHANNEL",
        "STATE",
        "SEGMENTS",
        "NEWEST",
        "BEHIND",
        "FROM ORIGIN",
        "TO VIEWERS",
        "HIT",
        "HELD",
        "LACK"
    ));
    for channel in status["channels"].as_array().into_iter().flatten() {
        lines.push(format!(
            "{:<20} {:<9} {:>8} {:>10} {:>5.1} s {:>11} {:>11} {:>7} {:>6} {:>5}",
            text(&channel["name"]),
            text(&channel["prefetch"]["state"]),
            text(&channel["segments"]),
            text(&channel["newest"]),
            channel["lag_seconds"].as_f64().unwrap_or(0.0),
            megabytes(&channel["origin_bytes"]),
            megabytes(&channel["served_p2p_bytes"]),
            text(&channel["requests_hit"]),
            text(&channel["requests_held"]),
            text(&channel["requests_lack"]),
        ));
        let ambiguous = &channel["ambiguous"];
        if !ambiguous.is_null() {
            lines.push(format!(
                "  ! {} segments are not served: names such as {} stand for different segments in \
                 different playlists",
                text(&ambiguous["segments"]),
                text(&ambiguous["example"]),
            ));
        }
    }
    let peers = status["peers"].as_array().map_or(&[][..], Vec::as_slice);
    let siblings = peers.iter().filter(|peer| peer["sibling"] == true).count();
    lines.push(match siblings {
        0 => format!("{} viewers", peers.len()),
        _ => format!(
            "{} viewers, {siblings} sibling boxes",
            peers.len() - siblings
        ),
    });
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_line_for_each_channel_and_problem() {
        let lines = table(&serde_json::json!({
            "version": "1", "uptime_seconds": 5, "healthy": false,
            "problems": ["channel news: no such host"],
            "memory": {"resident_bytes": 7_000_000},
            "store": {"bytes": 5_000_000, "max_bytes": 9_000_000, "written_bytes": 60_000_000,
                      "memory_bytes": 0},
            "channels": [{"name": "news", "prefetch": {"state": "failing"}, "newest": null,
                          "ambiguous": {"segments": 3, "example": "1.ts"}}],
            "peers": [{}, {}],
        }));
        assert!(lines[0].contains("needs attention") && lines[0].contains("7.0 MB"));
        let store = "store 5.0 MB of 9.0 MB, written 60.0 MB since the start (3600.0 MB an hour)";
        assert!(lines[1].starts_with(store), "{}", lines[1]);
        assert!(lines[2].contains("no such host"));
        assert!(lines[4].starts_with("news") && lines[4].contains("failing"));
        assert!(lines[5].contains("3 segments are not served: names such as 1.ts"));
        assert_eq!(lines[6], "2 viewers");
    }
}
