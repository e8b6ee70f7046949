//! What integration tests and benches share: an origin, a viewer, and the daemon as a process.
//! All black-box: nothing here uses the crate's own code, only what the outside can see.

// Each test program is built with all of this and uses a part; a broken helper has to panic.
// Printing is how a test reports, and the stack's futures are as large as they are.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::large_futures
)]

pub(crate) mod daemon;
pub(crate) mod foreign;
pub(crate) mod origin;
pub(crate) mod relay;
pub(crate) mod server;
pub(crate) mod sibling;
pub(crate) mod signalling;
pub(crate) mod tap;
pub(crate) mod viewer;

use std::time::Duration;

use tokio::time::Instant;

/// Where origins and viewers are: on the loopback interface, unless the box is on another machine.
pub(crate) fn here() -> String {
    std::env::var("EDGESEED_TEST_ADDRESS").unwrap_or_else(|_| "127.0.0.1".to_owned())
}

/// How often something is looked at that cannot be waited for.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until `look` sees something, and returns it; panics with `what` when that takes longer
/// than `within`.
pub(crate) async fn eventually<T>(
    what: &str,
    within: Duration,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
