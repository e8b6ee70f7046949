//! `edgeseed signal`, the signalling server alone, as a process.

use std::process::{Child, Command, Stdio};

use tokio::net::TcpStream;

use super::daemon::{BINARY, PATIENCE, free_address};
use super::eventually;

/// A running server; killed when dropped.
pub(crate) struct Server {
    child: Child,
    /// Its URL.
    pub(crate) url: String,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let address = free_address();
        let child = Command::new(BINARY)
            .args(["signal", "--listen", &address.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let url = format!("ws://{address}/");
        let server = Self { child, url };
        eventually("the server listens", PATIENCE, async || {
            TcpStream::connect(address).await.ok()
        })
        .await;
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
