//! Names of hosts: what the system's resolver says of them, and while it says nothing, what it said
//! last. An origin does not move as often as a name server is out of reach, and serving stale
//! addresses is what resolvers do themselves then (RFC 8767).

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::net::lookup_host;
use tokio::time::{Instant, timeout};

use super::voice::Voice;

/// How long to wait for an answer: less than for a connection, so that what is missing can be told.
const ANSWER: Duration = Duration::from_secs(3);
/// The same where the last answer will do as well: a viewer's REQUEST is held for 1.6 s.
const FRESH_ANSWER: Duration = Duration::from_millis(500);
/// How long the last answer is taken without asking, once there was no other.
const PAUSE: Duration = Duration::from_secs(5);
/// Until when an answer will do where there is no newer one. A connection may have been kept for
/// hours since; RFC 8767 has a day or more.
const USABLE: Duration = Duration::from_secs(24 * 3600);
/// Hosts of one box: its channels' and those that their playlists name.
const MAX_HOSTS: usize = 256;

/// The system's resolver, with a memory; clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Names(Arc<Mutex<HashMap<String, Known>>>);

#[derive(Debug)]
struct Known {
    addresses: Vec<SocketAddr>,
    at: Instant,
    failed: Option<Instant>,
    voice: Voice,
}

impl Names {
    async fn find(&self, host: &str) -> Result<Vec<SocketAddr>, io::Error> {
        let last = self.last(host);
        let patience = match last {
            Some((addresses, true)) => return Ok(addresses),
            Some((_, false)) => FRESH_ANSWER,
            None => ANSWER,
        };
        let (names, asked) = (self.clone(), host.to_owned());
        // To its end, also if nobody waits for it any more: a late answer serves the next one.
        let lookup = tokio::spawn(async move {
            let found = lookup_host((asked.as_str(), 0)).await.map(Vec::from_iter);
            if let Ok(addresses) = &found {
                names.learn(&asked, addresses);
            }
            found
        });
        let found = match timeout(patience, lookup).await {
            Ok(Ok(found)) => found,
            Ok(Err(stopped)) => Err(io::Error::other(stopped)),
            Err(_) => Err(io::Error::other("the name server does not answer")),
        };
        found.or_else(|error| self.make_do(host, &error).ok_or(error))
    }

    /// What it said last, if that will still do, and whether it has failed to say more just now.
    fn last(&self, host: &str) -> Option<(Vec<SocketAddr>, bool)> {
        let known = self.known();
        let known = known.get(host)?;
        let failed = known.failed.is_some_and(|at| at.elapsed() < PAUSE);
        (known.at.elapsed() < USABLE).then(|| (known.addresses.clone(), failed))
    }

    fn learn(&self, host: &str, addresses: &[SocketAddr]) {
        let (now, mut all) = (Instant::now(), self.known());
        if all.len() >= MAX_HOSTS && !all.contains_key(host) {
            all.clear();
        }
        let known = all.entry(host.to_owned()).or_insert_with(|| Known {
            addresses: Vec::new(),
            at: now,
            failed: None,
            voice: Voice::default(),
        });
        known.addresses = addresses.to_vec();
        known.at = now;
        known.failed = None;
        if let Some(after) = known.voice.works(now) {
            log::info!("{host} can be resolved again after {} s", after.as_secs());
        }
    }

    fn make_do(&self, host: &str, error: &io::Error) -> Option<Vec<SocketAddr>> {
        let (last, _) = self.last(host)?;
        let (now, mut all) = (Instant::now(), self.known());
        let known = all.get_mut(host)?;
        known.failed = Some(now);
        if known.voice.fails(now) {
            log::warn!("{host} cannot be resolved ({error}): goes on with the addresses it had");
        }
        Some(last)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        let names = self.clone();
        Box::pin(async move {
            let addresses = names.find(name.as_str()).await?;
            let addresses: Addrs = Box::new(addresses.into_iter());
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_will_do_for_an_hour() {
        let (names, address) = (Names::default(), SocketAddr::from(([127, 0, 0, 1], 0)));
        assert_eq!(names.last("origin"), None);
        names.learn("origin", &[address]);
        assert_eq!(names.last("origin"), Some((vec![address], false)));
        tokio::time::advance(USABLE).await;
        assert_eq!(names.last("origin"), None);
    }

    #[tokio::test]
    async fn there_is_an_end_to_what_is_remembered() {
        let names = Names::default();
        for host in 0..2 * MAX_HOSTS {
            names.learn(&host.to_string(), &[]);
        }
        assert!(names.known().len() <= MAX_HOSTS);
    }
}
