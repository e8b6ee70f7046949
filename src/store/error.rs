use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why the store could not do what it was asked.
#[derive(Debug)]
pub enum StoreError {
    /// Another process has the folder.
    InUse(PathBuf),
    /// The disk or the folder failed.
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Less is free on the file system than `min-free` leaves to others.
    NotFree {
        /// The store's folder.
        dir: PathBuf,
        /// Bytes that are free.
        free: u64,
        /// Bytes that are to be left.
        min_free: u64,
    },
    /// `max-size` and `min-free` leave no room, unless by deleting what is nearer to the live edge.
    NoRoom {
        /// Bytes that were asked for.
        wanted: u64,
    },
    /// The disk cannot be written to, and memory holds what is nearer to the live edge.
    NoMemory,
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
        |source| Self::Io {
            path: path.to_owned(),
            source,
        }
    }

    /// Whether it is the folder that is not what it should be, which is for the operator to mend,
    /// rather than the disk that fails, which it may do at any time.
    pub(super) fn is_the_operators(&self) -> bool {
        use io::ErrorKind::{AlreadyExists, NotADirectory, NotFound, PermissionDenied};
        let folder = [AlreadyExists, NotADirectory, NotFound, PermissionDenied];
        match self {
            Self::Io { source, .. } => folder.contains(&source.kind()),
            other => matches!(other, Self::InUse(_)),
        }
    }

    /// Whether the disk did it, and memory may do instead.
    pub(super) fn is_the_disks(&self) -> bool {
        matches!(
            self,
            Self::Io { .. } | Self::NotFree { .. } | Self::InUse(_)
        )
    }

    /// Whether this process lacks something, descriptors for one, which says nothing about the disk or
    /// the file.
    pub(super) fn is_about_us(&self) -> bool {
        use rustix::io::Errno;
        let lacks = [Errno::MFILE, Errno::NFILE, Errno::NOMEM].map(|errno| errno.raw_os_error());
        let Self::Io { source, .. } = self else {
            return false;
        };
        source
            .raw_os_error()
            .is_some_and(|errno| lacks.contains(&errno))
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: &u64| bytes >> 20;
        match self {
            Self::InUse(dir) => write!(
                f,
                "{} is the store of another edgeseed that is running: stop that one, or give this \
                 one another [store] dir",
                dir.display()
            ),
            Self::Io { path, source } => match source.kind() {
                io::ErrorKind::PermissionDenied => write!(
                    f,
                    "cannot use {}: {source}; it has to belong to the user that edgeseed runs \
                     as",
                    path.display()
                ),
                _ => write!(f, "cannot use {}: {source}", path.display()),
            },
            Self::NotFree {
                dir,
                free,
                min_free,
            } => write!(
                f,
                "{} MiB are free at {}, and [store] min-free leaves {} MiB to others: free space, \
                 or lower min-free",
                mib(free),
                dir.display(),
                mib(min_free)
            ),
            Self::NoRoom { wanted } => write!(
                f,
                "no room for {wanted} more bytes: raise [store] max-size, or free space for min-free"
            ),
            Self::NoMemory => f.write_str("no room in memory, and the disk cannot be written to"),
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
