//! How much the box has to give in each channel, for the schedulers of signalling servers.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use crate::config::PeerConfig;
use crate::fetch::ChannelStatus;
use crate::metrics::{ChannelMetrics, Metrics};
use crate::signal::client::Load;

/// How often it is looked at. What matters soon is whether there is room: a viewer that is sent to a
/// full box in between is told so, and asks elsewhere.
const EVERY: Duration = Duration::from_secs(1);

/// One channel that is looked at.
pub(super) struct Channel {
    numbers: Arc<ChannelMetrics>,
    status: watch::Receiver<ChannelStatus>,
    load: watch::Sender<Load>,
}

/// A channel to be looked at, and where its load will be.
pub(super) fn channel(
    config: &PeerConfig,
    numbers: Arc<ChannelMetrics>,
    status: watch::Receiver<ChannelStatus>,
) -> (Channel, watch::Receiver<Load>) {
    let (load, loads) = watch::channel(load(config, 0, 0, 0));
    let channel = Channel {
        numbers,
        status,
        load,
    };
    (channel, loads)
}

/// Looks at all channels until `stop`.
pub(super) async fn report(
    channels: Vec<Channel>,
    config: PeerConfig,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let mut ticks = interval(EVERY);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        for channel in &channels {
            let segments = channel.numbers.store_segments.get();
            let playlists = channel.status.borrow().playlists.len();
            let now = load(&config, segments, playlists, metrics.peers.get());
            channel.load.send_if_modified(|load| {
                let changed = *load != now;
                *load = now;
                changed
            });
        }
    }
}

/// The level is the mean number of segments held of each followed playlist, so that a box that follows
/// five variants is not taken for one that has five times as much of any; and never less than what is
/// configured.
fn load(config: &PeerConfig, segments: i64, playlists: usize, peers: i64) -> Load {
    let mean = segments as f64 / playlists.max(1) as f64;
    let peers = usize::try_from(peers).unwrap_or(0);
    Load {
        level: mean.max(config.level),
        room: u32::try_from(config.max_peers.saturating_sub(peers)).unwrap_or(u32::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_is_the_mean_of_what_is_held_and_at_least_the_configured_one() {
        let config = PeerConfig {
            level: 10.0,
            max_peers: 4,
            ..PeerConfig::default()
        };
        let level = |segments, playlists| load(&config, segments, playlists, 0).level;
        assert_eq!(level(0, 0), 10.0, "nothing is followed yet");
        assert_eq!(level(9, 1), 10.0);
        assert_eq!(level(60, 2), 30.0);
        let room = |peers| load(&config, 0, 1, peers).room;
        assert_eq!([room(0), room(3), room(4), room(9)], [4, 1, 0, 0]);
    }
}
