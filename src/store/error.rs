use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why the store could not do what it was asked.
#[derive(Debug)]
pub enum StoreError {
    /// The system does not let this user do it.
    Permission {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The disk or the folder failed.
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Neither `max-size` nor `min-free` leaves room, not even by deleting what is further behind
    /// the live edge.
    NoRoom {
        /// Bytes that were asked for.
        wanted: u64,
    },
    /// It is not announced: it expired, or is stored already.
    NotWanted,
    /// Another number of bytes came than was promised.
    Length {
        /// Bytes that were promised.
        expected: u64,
        /// Bytes that came.
        got: u64,
    },
    /// Other bytes came than were promised: their CRC-32C differs.
    Digest,
    /// No bytes at all came.
    Empty,
}

impl StoreError {
    pub(super) fn at(path: &Path) -> impl Fn(io::Error) -> Self + '_ {
        |source| {
            let path = path.to_owned();
            match source.kind() {
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    Self::Permission { path, source }
                }
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    Self::NoRoom { wanted: 0 }
                }
                _ => Self::Io { path, source },
            }
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Permission { path, source } => write!(
                f,
                "cannot write to {}: {source}; it has to belong to the user that edgeseed runs as",
                path.display()
            ),
            Self::Io { path, source } => {
                write!(f, "cannot use {}: {source}", path.display())
            }
            Self::NoRoom { wanted: 0 } => f.write_str("the file system is full"),
            Self::NoRoom { wanted } => write!(
                f,
                "no room for {wanted} more bytes: raise [store] max-size, or free space for min-free"
            ),
            Self::NotWanted => f.write_str("it is not wanted any more"),
            Self::Length { expected, got } => {
                write!(f, "{got} bytes came where {expected} were promised")
            }
            Self::Digest => f.write_str("the bytes are not those that were promised"),
            Self::Empty => f.write_str("no bytes came"),
        }
    }
}

impl std::error::Error for StoreError {}
