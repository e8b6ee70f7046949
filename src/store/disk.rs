//! Every operation on files: the one place that touches the disk, so that a test can make any one
//! of them fail.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustix::buffer::spare_capacity;
use rustix::fs::{Advice, FlockOperation};
use rustix::io::Errno;

/// The kinds of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Making a folder.
    MakeFolder,
    /// Locking the store's folder.
    Lock,
    /// Reading the names in a folder.
    List,
    /// Creating a file.
    Create,
    /// Opening a file for reading.
    Open,
    /// Reading a part of a file.
    Read,
    /// Appending to a file.
    Write,
    /// Giving a file its name.
    Rename,
    /// Deleting a file or a folder.
    Remove,
}

/// How an operation goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What the system says, as a number of errno(3).
    pub errno: i32,
    /// Half of what was to be written is written before it says so.
    pub partly: bool,
}

/// Asked before each operation.
type Faults = dyn Fn(Operation) -> Option<Fault> + Send + Sync;

/// The disk. Clones are the same one.
#[derive(Clone, Default)]
pub struct Disk {
    faults: Option<Arc<Faults>>,
}

/// An open file.
#[derive(Debug)]
pub(super) struct DiskFile {
    file: File,
    disk: Disk,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faulty = self.faults.is_some();
        f.debug_struct("Disk").field("faulty", &faulty).finish()
    }
}

impl Disk {
    /// A disk whose operations fail where `faults` says so; for tests.
    pub fn with_faults(
        faults: impl Fn(Operation) -> Option<Fault> + Send + Sync + 'static,
    ) -> Self {
        Self {
            faults: Some(Arc::new(faults)),
        }
    }

    fn fault(&self, operation: Operation) -> Option<Fault> {
        self.faults.as_ref().and_then(|faults| faults(operation))
    }

    fn check(&self, operation: Operation) -> io::Result<()> {
        match self.fault(operation) {
            Some(fault) => Err(io::Error::from_raw_os_error(fault.errno)),
            None => Ok(()),
        }
    }

    pub(super) fn make_folder(&self, path: &Path) -> io::Result<()> {
        self.check(Operation::MakeFolder)?;
        fs::create_dir_all(path)
    }

    /// Takes the folder for as long as the file is open; `None` if another process, or another
    /// store of this one, has it. The lock is the kernel's: it ends with the process, however that
    /// ends, and needs no file.
    pub(super) fn lock(&self, folder: &Path) -> io::Result<Option<File>> {
        self.check(Operation::Lock)?;
        let file = File::open(folder)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether this path still is that open folder, and not another one in its place.
    pub(super) fn is_at(&self, folder: &File, path: &Path) -> bool {
        let id = |about: fs::Metadata| (about.dev(), about.ino());
        let (open, there) = (folder.metadata().map(id), fs::metadata(path).map(id));
        matches!((open, there), (Ok(open), Ok(there)) if open == there)
    }

    /// The regular files of a folder that have this extension. Opening anything else, a FIFO for
    /// one, may wait for ever.
    pub(super) fn files(&self, folder: &Path, extension: &str) -> io::Result<Vec<PathBuf>> {
        let ours = |path: &PathBuf| path.extension() == Some(OsStr::new(extension));
        let entries = self.list(folder)?;
        let files = entries
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
            .map(|entry| entry.path());
        Ok(files.filter(ours).collect())
    }

    /// The folders in a folder.
    pub(super) fn folders(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        let entries = self.list(folder)?;
        let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        Ok(folders.map(|entry| entry.path()).collect())
    }

    fn list(&self, folder: &Path) -> io::Result<impl Iterator<Item = fs::DirEntry> + use<>> {
        self.check(Operation::List)?;
        Ok(fs::read_dir(folder)?.flatten())
    }

    /// Creates a file for writing, and for reading back.
    pub(super) fn create(&self, path: &Path) -> io::Result<DiskFile> {
        self.check(Operation::Create)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        let file = options.open(path)?;
        let disk = self.clone();
        Ok(DiskFile { file, disk })
    }

    pub(super) fn open(&self, path: &Path) -> io::Result<DiskFile> {
        self.check(Operation::Open)?;
        let file = File::open(path)?;
        // All of it will be read, and soon: whoever reads it should not have to wait for each part. It
        // is no loss if the kernel does not take the hint.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::WillNeed);
        let disk = self.clone();
        Ok(DiskFile { file, disk })
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.check(Operation::Rename)?;
        fs::rename(from, to)
    }

    /// Deletes a file; that it is gone already is fine.
    pub(super) fn remove(&self, path: &Path) -> io::Result<()> {
        self.check(Operation::Remove)?;
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Deletes a folder if it is empty.
    pub(super) fn remove_folder(&self, path: &Path) -> io::Result<()> {
        self.check(Operation::Remove)?;
        fs::remove_dir(path)
    }

    /// Bytes that the file system of `dir` has free for us; `None` if it does not say.
    pub(super) fn free_bytes(&self, dir: &Path) -> Option<u64> {
        let stat = rustix::fs::statvfs(dir).ok()?;
        Some(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

impl DiskFile {
    pub(super) fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let Some(fault) = self.disk.fault(Operation::Write) else {
            return (&self.file).write_all(bytes);
        };
        if fault.partly {
            let half = bytes.len() / 2;
            (&self.file).write_all(bytes.get(..half).unwrap_or_default())?;
        }
        Err(io::Error::from_raw_os_error(fault.errno))
    }

    /// `len` bytes from `at`.
    ///
    /// # Errors
    /// What the disk says; [`io::ErrorKind::UnexpectedEof`] where the file ends before.
    pub(super) fn read(&self, at: u64, len: usize) -> io::Result<Vec<u8>> {
        self.disk.check(Operation::Read)?;
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let at = at + bytes.len() as u64;
            match rustix::io::pread(&self.file, spare_capacity(&mut bytes), at) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // An allocation may be larger than what was asked for.
        bytes.truncate(len);
        Ok(bytes)
    }

    /// Its length in bytes, and when it was last written.
    pub(super) fn about(&self) -> io::Result<(u64, SystemTime)> {
        let about = self.file.metadata()?;
        Ok((about.len(), about.modified()?))
    }
}
