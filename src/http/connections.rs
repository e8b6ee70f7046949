//! The connections of the pages: a few, and none for long. Everybody in the LAN may open some, and nothing
//! that they do with them may cost a viewer its segments.

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

use crate::door::Door;

/// At once; a browser opens up to six. Who comes then waits until one has ended.
const MAX_CONNECTIONS: usize = 128;

/// Of one address: two browsers and more. Beyond that they are closed at once, so that one host does not keep
/// the rest of the LAN from the pages.
const MAX_OF_ADDRESS: usize = 16;

/// What a request may be long, and what is gathered of an answer: browsers write some 500 bytes. With the
/// above, some 4 MiB in all.
const BUFFER: usize = 16 * 1024;

/// How long a request may take to arrive, or the next one to begin: the status page asks every 2 s.
const HEADERS_WITHIN: Duration = Duration::from_secs(10);

/// How long a connection is used again and again.
const LIFE: Duration = Duration::from_secs(60);

/// The answer that is under way then may end within this: a segment of 10 s, or the player's script of 600 kB,
/// over the worst of Wi-Fi.
const LAST_ANSWER: Duration = Duration::from_secs(30);

/// The one at a stop within this.
const ENDING: Duration = Duration::from_secs(1);

/// After the system has given no connection, as for want of descriptors.
const AFTER_ERROR: Duration = Duration::from_millis(200);

/// Serves `app` until `stop`.
pub(super) async fn serve(listener: TcpListener, app: Router, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    let door = Door::new(MAX_CONNECTIONS, MAX_OF_ADDRESS);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, from)) => {
                    if let Ok(place) = door.enter(from.ip()) {
                        let served = connection(stream, app.clone(), stop.clone());
                        connections.spawn(async move {
                            served.await;
                            drop(place);
                        });
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
        () = sleep(LIFE) => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                _ = &mut connection => return,
                () = stop.cancelled() => {}
                () = sleep(LAST_ANSWER) => return,
            }
        }
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(ENDING, connection).await;
}
