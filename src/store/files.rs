//! Names, trailers, and what is done with files: all of it blocking.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Segment, StoreError};
use crate::ids::{ChannelName, MediaSequence, SegmentUri};

const MAGIC: &[u8; 8] = b"EDGESEG1";
/// The length of the JSON, and the magic.
const TAIL: usize = 4 + MAGIC.len();
/// A URI of 4 KiB with every byte escaped, and the numbers.
const MAX_JSON: usize = 32 << 10;
/// Where the addresses of the renditions' playlists are noted. A folder without it is not ours.
const SOURCES: &str = "sources";
const SEGMENT: &str = "seg";
const PART: &str = "part";
/// How long a start may take to read back what is stored: about 300 MB from an SD card, several
/// times the window of a few channels. What is not verified by then is deleted: it is a cache.
const VERIFY_FOR: Duration = Duration::from_secs(10);

/// What stands behind the body in a segment's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Trailer {
    pub(super) uri: SegmentUri,
    pub(super) sequence: MediaSequence,
    pub(super) rendition: u16,
    /// Bytes of the body.
    pub(super) length: u64,
    /// Of the body.
    pub(super) crc32c: u32,
}

impl Trailer {
    pub(super) fn encode(&self) -> io::Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec(self)?;
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(MAGIC);
        Ok(bytes)
    }

    /// Reads the trailer of a file; `None` if it has none or the lengths do not add up.
    fn read(file: &mut File) -> io::Result<Option<Self>> {
        let total = file.metadata()?.len();
        let mut tail = [0; TAIL];
        if total < TAIL as u64 {
            return Ok(None);
        }
        file.seek(SeekFrom::End(-(TAIL as i64)))?;
        file.read_exact(&mut tail)?;
        let [a, b, c, d, magic @ ..] = tail;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        let with_tail = (length + TAIL) as u64;
        if &magic != MAGIC || length > MAX_JSON || with_tail > total {
            return Ok(None);
        }
        file.seek(SeekFrom::Start(total - with_tail))?;
        let mut json = vec![0; length];
        file.read_exact(&mut json)?;
        let trailer: Option<Self> = serde_json::from_slice(&json).ok();
        Ok(trailer.filter(|trailer| trailer.length > 0 && trailer.length == total - with_tail))
    }
}

/// A file that is deleted unless it is [`kept`](Self::keep): whoever drops it, on whatever
/// thread, leaves nothing behind.
#[derive(Debug)]
pub(super) struct PartFile {
    file: File,
    path: PathBuf,
    kept: bool,
}

impl PartFile {
    /// Creates `<path>.part`, for what is to become `path`.
    pub(super) fn create(path: &Path) -> Result<Self, StoreError> {
        let part = path.with_extension(PART);
        let open = || {
            let mut options = OpenOptions::new();
            // Read as well: the mapping is made from the same handle.
            options.read(true).write(true).create(true).truncate(true);
            options.open(&part)
        };
        let file = open().or_else(|error| match (error.kind(), part.parent()) {
            // Somebody wiped the cache while we run: it is theirs to wipe.
            (io::ErrorKind::NotFound, Some(folder)) => {
                fs::create_dir_all(folder)?;
                open()
            }
            _ => Err(error),
        });
        Ok(Self {
            file: file.map_err(StoreError::at(&part))?,
            path: part,
            kept: false,
        })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file
            .write_all(bytes)
            .map_err(StoreError::at(&self.path))
    }

    /// Gives it its name and maps it.
    pub(super) fn keep(mut self, path: PathBuf, trailer: Trailer) -> Result<Segment, StoreError> {
        fs::rename(&self.path, &path).map_err(StoreError::at(&path))?;
        self.kept = true;
        Segment::map(&self.file, path.clone(), trailer).map_err(|error| {
            unlink(&path);
            StoreError::at(&path)(error)
        })
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        if !self.kept {
            unlink(&self.path);
        }
    }
}

/// The path of a segment's file. `tag` keeps files apart that have the same number.
pub(super) fn path_of(folder: &Path, rendition: u16, sequence: MediaSequence, tag: u32) -> PathBuf {
    folder.join(format!("{rendition}-{sequence}-{tag:08x}.{SEGMENT}"))
}

/// Deletes a file. That it is gone already is fine; that it cannot be deleted is noted, for it
/// takes room until the next start.
pub(super) fn unlink(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            log::warn!("cannot delete {}: {error}", path.display());
        }
        _ => {}
    }
}

/// Bytes that the file system of `dir` has free for us; `None` if it does not say.
pub(super) fn free_bytes(dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Runs blocking work off the async workers.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // The runtime is stopping.
        Err(_) => Err(StoreError::NotWanted),
    }
}

/// Makes the folders, proves that they can be written to, and removes those of channels that are
/// not configured any more.
pub(super) fn prepare(dir: &Path, channels: &[ChannelName]) -> Result<(), StoreError> {
    for channel in channels {
        let folder = dir.join(channel.as_str());
        fs::create_dir_all(&folder).map_err(StoreError::at(&folder))?;
        // Permission bits do not tell of a read-only mount or a full disk: try.
        let probe = PartFile::create(&folder.join("probe"))?;
        drop(probe);
    }
    for entry in fs::read_dir(dir).map_err(StoreError::at(dir))?.flatten() {
        let name = entry.file_name();
        let configured = channels.iter().any(|channel| name == channel.as_str());
        let folder = entry.path();
        if !configured && folder.join(SOURCES).is_file() {
            for path in files_of(&folder, &[SEGMENT, PART]) {
                unlink(&path);
            }
            unlink(&folder.join(SOURCES));
            // Not empty if somebody else put something there: theirs to keep.
            let _ = fs::remove_dir(&folder);
        }
    }
    Ok(())
}

/// Notes where the segments of a folder come from; whether it is what was noted before.
pub(super) fn note_sources(folder: &Path, text: &str) -> Result<bool, StoreError> {
    let path = folder.join(SOURCES);
    let same = |noted: Vec<u8>| noted == text.as_bytes();
    if path.is_file() && fs::read(&path).is_ok_and(same) {
        return Ok(true);
    }
    // Before the new note is there: a crash in between costs segments, and mixes none.
    for path in files_of(folder, &[SEGMENT]) {
        unlink(&path);
    }
    let mut part = PartFile::create(&path)?;
    part.write(text.as_bytes())?;
    fs::rename(&part.path, &path).map_err(StoreError::at(&path))?;
    part.kept = true;
    Ok(false)
}

/// Every whole segment of these channels. Everything else that looks like one is deleted.
pub(super) fn recover(
    dir: &Path,
    channels: &[ChannelName],
) -> Result<Vec<(ChannelName, Segment)>, StoreError> {
    let deadline = Instant::now() + VERIFY_FOR;
    let mut whole = Vec::new();
    for channel in channels {
        let folder = dir.join(channel.as_str());
        for part in files_of(&folder, &[PART]) {
            unlink(&part);
        }
        // Newest first: that is what viewers want, should the time run out. One of two files for
        // the same number is older.
        let mut newest = BTreeMap::new();
        for path in files_of(&folder, &[SEGMENT]) {
            let Some(segment) = open(&path) else {
                log::warn!("{} is not whole, deleted", path.display());
                unlink(&path);
                continue;
            };
            let key = (segment.sequence(), segment.rendition());
            let older = match newest.get(&key) {
                Some(other) if stored_after(other, &segment) => Some(segment),
                _ => newest.insert(key, segment),
            };
            if let Some(older) = older {
                unlink(older.path());
            }
        }
        for segment in newest.into_values().rev() {
            if Instant::now() < deadline && segment.verify() {
                whole.push((channel.clone(), segment));
            } else {
                log::warn!("{} is not verified, deleted", segment.path().display());
                unlink(segment.path());
            }
        }
    }
    Ok(whole)
}

fn stored_after(one: &Segment, other: &Segment) -> bool {
    one.stored_at() > other.stored_at()
}

fn open(path: &Path) -> Option<Segment> {
    let mut file = File::open(path).ok()?;
    let trailer = Trailer::read(&mut file).ok()??;
    Segment::map(&file, path.to_owned(), trailer).ok()
}

fn files_of(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    // Opening anything else, a FIFO for one, may wait for ever.
    let files = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    let paths = files.map(|entry| entry.path());
    let ours = |path: &PathBuf| {
        let extension = path.extension().and_then(OsStr::to_str);
        extension.is_some_and(|extension| extensions.contains(&extension))
    };
    paths.filter(ours).collect()
}
