//! What all viewers of a box share: its link, and its cores.

use std::time::Duration;

use super::support::origin::Live;
use super::support::viewer::{Outcome, Viewer};
use super::{AT_ONCE, gets, origin_and_box, origin_and_box_with, process};

#[tokio::test]
async fn no_more_is_sent_than_allowed_and_who_would_get_it_too_late_is_told_at_once() {
    // 1 MB a second, and segments of 700 kB: two of them get there within 2 s.
    let live = Live {
        segment_size: 700_000,
        segment_duration: Duration::from_secs(60),
        window: 1,
    };
    let limit = "[peer]\nudp-port = 0\nmax-upload = \"8Mbit/s\"\n";
    let (origin, daemon) = origin_and_box_with(live, limit).await;
    let newest = origin.newest();
    let stored = r#"edgeseed_store_segments{channel="news"}"#;
    daemon.until_metric(stored, 1.0).await;
    let mut viewers = Vec::new();
    for _ in 0..4 {
        viewers.push(Viewer::join(&daemon.signal, &origin.url()).await);
    }
    let asked = viewers
        .iter_mut()
        .map(|viewer| viewer.request(newest))
        .collect::<Vec<_>>();
    let outcomes = futures_util::future::join_all(asked).await;
    let (mut served, mut lacked) = (Vec::new(), Vec::new());
    for outcome in outcomes {
        match outcome {
            Outcome::Segment { bytes, elapsed } => {
                assert!(bytes == origin.segment(newest));
                served.push(elapsed);
            }
            Outcome::Lack { elapsed } => lacked.push(elapsed),
            Outcome::Timeout => panic!("an answer is missing"),
        }
    }
    served.sort();
    assert_eq!(
        (served.len(), lacked.len()),
        (2, 2),
        "{served:?}, {lacked:?}"
    );
    assert!(
        lacked.iter().all(|elapsed| *elapsed < AT_ONCE),
        "{lacked:?}"
    );
    // One after the other and not side by side; both are over when 1.4 MB have passed.
    assert!(served[0] < Duration::from_millis(1050), "{served:?}");
    let both = Duration::from_millis(1300)..Duration::from_secs(2);
    assert!(both.contains(&served[1]), "{served:?}");
}

#[tokio::test]
async fn viewers_are_dealt_out_to_the_cores_and_all_are_served_listed_and_let_go() {
    const VIEWERS: usize = 32;
    let (origin, daemon) = origin_and_box().await;
    let mut viewers = Vec::new();
    for _ in 0..VIEWERS {
        viewers.push(Viewer::join(&daemon.signal, &origin.url()).await);
    }
    for viewer in &mut viewers {
        gets(viewer, &origin, origin.newest()).await;
    }
    assert_eq!(daemon.metric("edgeseed_peers").await, VIEWERS as f64);
    let status = daemon.status().await;
    let peers = status["peers"].as_array().unwrap();
    assert_eq!(peers.len(), VIEWERS);
    assert!(peers.iter().all(|peer| peer["segments"] == 1), "{peers:?}");
    let used = cpu_of_threads(daemon.pid(), "viewers");
    let cores = std::thread::available_parallelism().unwrap().get();
    assert_eq!(used.len(), cores.min(4));
    // Chance has dealt them out: that one core has less than a tenth of them is one in a million.
    let most = used.iter().copied().fold(0.0, f64::max);
    assert!(used.iter().all(|used| *used > most / 10.0), "{used:?} s");
    for viewer in &viewers {
        viewer.send_text(r#"{"event":"CLOSE"}"#).await;
    }
    daemon.until_metric("edgeseed_peers", 0.0).await;
}

/// Seconds of processor time that each thread of this name has had.
fn cpu_of_threads(pid: u32, name: &str) -> Vec<f64> {
    let tasks = format!("/proc/{pid}/task");
    let threads = std::fs::read_dir(&tasks).unwrap();
    let ids = threads.map(|thread| thread.unwrap().file_name().into_string().unwrap());
    let comm = |id: &str| std::fs::read_to_string(format!("{tasks}/{id}/comm")).unwrap();
    ids.filter(|id| comm(id).trim() == name)
        .map(|id| process::cpu(&format!("{pid}/task/{id}")).total())
        .collect()
}
