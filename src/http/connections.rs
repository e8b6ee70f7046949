//! The connections of the pages: a few, and none for long. Everybody in the LAN may open some, and nothing
//! that they do with them may cost a viewer its segments.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::pin;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// At once; a browser opens up to six. Who comes then waits until one has ended.
const MAX_CONNECTIONS: usize = 128;

/// Of one address: two browsers and more. Beyond that they are closed at once, so that nobody keeps the rest
/// of the LAN from the pages. This machine's own may be a proxy that asks for all of them.
const MAX_OF_ADDRESS: usize = 16;

/// What a request may be long, and what is gathered of an answer: browsers write some 500 bytes. With the
/// above, some 4 MiB in all.
const BUFFER: usize = 16 * 1024;

/// How long a request may take to arrive, or the next one to begin: the status page asks every 2 s.
const HEADERS_WITHIN: Duration = Duration::from_secs(10);

/// How long a connection is used again and again, or an answer may take: the player's script, 600 kB, over
/// the worst of Wi-Fi.
const LIFE: Duration = Duration::from_secs(60);

/// What is under way then, or at a stop, may end within this.
const ENDING: Duration = Duration::from_secs(1);

/// After the system has given no connection, as for want of descriptors.
const AFTER_ERROR: Duration = Duration::from_millis(200);

/// Serves `app` until `stop`.
pub(super) async fn serve(listener: TcpListener, app: Router, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    let mut addresses = HashMap::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = connections.join_next_with_id() => {
                let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                addresses.remove(&id);
            }
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, from)) => {
                    if is_taken(from.ip(), addresses.values()) {
                        let served = connection(stream, app.clone(), stop.clone());
                        addresses.insert(connections.spawn(served).id(), from.ip());
                    }
                }
                Err(error) => {
                    log::debug!("no connection for the pages: {error}");
                    sleep(AFTER_ERROR).await;
                }
            },
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

fn is_taken<'a>(from: IpAddr, connected: impl Iterator<Item = &'a IpAddr>) -> bool {
    from.is_loopback() || connected.filter(|address| **address == from).count() < MAX_OF_ADDRESS
}

async fn connection(stream: TcpStream, app: Router, stop: CancellationToken) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_WITHIN)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
    pin!(connection);
    tokio::select! {
        // Whatever was wrong with it, it is the other end's concern.
        _ = &mut connection => return,
        () = stop.cancelled() => {}
        () = sleep(LIFE) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(ENDING, connection).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_does_not_take_every_connection_and_this_machine_may() {
        let [greedy, other, own] =
            ["192.168.0.7", "192.168.0.8", "127.0.0.1"].map(|text| text.parse().unwrap());
        let connected = [vec![greedy; MAX_OF_ADDRESS], vec![own; MAX_OF_ADDRESS]].concat();
        assert!(is_taken(greedy, connected[1..].iter()));
        assert!(!is_taken(greedy, connected.iter()));
        assert!(is_taken(other, connected.iter()));
        assert!(is_taken(own, connected.iter()));
    }
}
