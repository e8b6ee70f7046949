//! `edgeseed signal`, the signalling server alone, as a process.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use tokio::net::TcpStream;

use super::daemon::{BINARY, PATIENCE, free_address};
use super::eventually;

/// A running server; killed when dropped.
pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
    /// Its URL.
    pub(crate) url: String,
}

/// Where a server was that has been killed.
pub(crate) struct Gone(SocketAddr);

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_at(free_address()).await
    }

    async fn start_at(address: SocketAddr) -> Self {
        let child = Command::new(BINARY)
            .args(["signal", "--listen", &address.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let url = format!("ws://{address}/");
        let server = Self {
            child,
            address,
            url,
        };
        eventually("the server listens", PATIENCE, async || {
            TcpStream::connect(address).await.ok()
        })
        .await;
        server
    }

    /// Ends it from one moment to the next.
    pub(crate) fn kill(self) -> Gone {
        Gone(self.address)
    }
}

impl Gone {
    /// Starts another one at the same address.
    pub(crate) async fn start_again(self) -> Server {
        Server::start_at(self.0).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
