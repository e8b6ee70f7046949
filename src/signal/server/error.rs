//! Why the server cannot start, in words for the operator.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why the server cannot start.
#[derive(Debug)]
pub enum SignalError {
    /// Somebody else listens there.
    AddressInUse {
        /// The address.
        addr: SocketAddr,
    },
    /// The address is none of this machine's.
    AddressNotAvailable {
        /// The address.
        addr: SocketAddr,
    },
    /// The port is privileged.
    Permission {
        /// The address.
        addr: SocketAddr,
    },
    /// A file of the certificate cannot be read.
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file of the certificate is not what it should be.
    Certificate {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Anything else.
    Listen {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
}

impl fmt::Display for SignalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddressInUse { addr } => write!(
                f,
                "the signalling server cannot listen on {addr}: another program does; stop that \
                 one, or choose another port in [signal-server] listen"
            ),
            Self::AddressNotAvailable { addr } => write!(
                f,
                "the signalling server cannot listen on {addr}: this machine has no such address; \
                 use 0.0.0.0:{port} for all of its addresses in [signal-server] listen",
                port = addr.port()
            ),
            Self::Permission { addr } => write!(
                f,
                "the signalling server may not listen on {addr}: choose a port from 1024 on in \
                 [signal-server] listen, or grant CAP_NET_BIND_SERVICE"
            ),
            Self::Unreadable { path, source } => write!(
                f,
                "the signalling server cannot read {}: {source}; it is named in [signal-server] \
                 certificate or key",
                path.display()
            ),
            Self::Certificate { path, problem } => write!(
                f,
                "the signalling server cannot use {}: {problem}",
                path.display()
            ),
            Self::Listen { addr, source } => {
                write!(f, "the signalling server cannot listen on {addr}: {source}")
            }
        }
    }
}

impl std::error::Error for SignalError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Listen { source, .. } | Self::Unreadable { source, .. } => Some(source),
            _ => None,
        }
    }
}
