//! Names, trailers, and what is found in the folder: all of it blocking.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::disk::{Disk, DiskFile};
use super::{Segment, StoreError};
use crate::ids::{ChannelName, MediaSequence, SegmentUri};

const MAGIC: &[u8; 8] = b"EDGESEG2";
/// The length of the JSON, its CRC-32C, and the magic.
const TAIL: usize = 4 + 4 + MAGIC.len();
/// A URI and an address of 4 KiB each with every byte escaped, and the numbers.
const MAX_JSON: usize = 64 << 10;
const SEGMENT: &str = "seg";
const PART: &str = "part";

/// What stands behind the body in a segment's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Trailer {
    pub(super) uri: SegmentUri,
    pub(super) sequence: MediaSequence,
    pub(super) rendition: u16,
    /// The address of the playlist that the rendition stands for.
    pub(super) playlist: String,
    /// Where the body begins in the resource, and its length there; `None` if it is all of it.
    pub(super) range: Option<(u64, u64)>,
    /// Bytes of the body.
    pub(super) length: u64,
    /// Of the body.
    pub(super) crc32c: u32,
}

impl Trailer {
    pub(super) fn encode(&self) -> io::Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec(self)?;
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(MAGIC);
        Ok(bytes)
    }

    /// Bytes that a trailer with these texts has at most, whatever its numbers are.
    pub(super) fn max_len(uri: &SegmentUri, playlist: &str) -> u64 {
        let largest = Self {
            uri: uri.clone(),
            sequence: MediaSequence(u64::MAX),
            rendition: u16::MAX,
            playlist: playlist.to_owned(),
            range: Some((u64::MAX, u64::MAX)),
            length: u64::MAX,
            crc32c: u32::MAX,
        };
        largest.encode().map_or(0, |bytes| bytes.len() as u64)
    }

    /// Reads the trailer of a file of `total` bytes; `None` if it has none, or is not what was
    /// written.
    fn read(file: &DiskFile, total: u64) -> io::Result<Option<Self>> {
        let Some(before_tail) = total.checked_sub(TAIL as u64) else {
            return Ok(None);
        };
        let tail = file.read(before_tail, TAIL)?;
        let Ok([l0, l1, l2, l3, c0, c1, c2, c3, magic @ ..]) = <[u8; TAIL]>::try_from(tail) else {
            return Ok(None);
        };
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let crc = u32::from_le_bytes([c0, c1, c2, c3]);
        let body = before_tail.checked_sub(length.into());
        let (Some(body), true) = (body, &magic == MAGIC && length as usize <= MAX_JSON) else {
            return Ok(None);
        };
        let json = file.read(body, length as usize)?;
        if crc32c::crc32c(&json) != crc {
            return Ok(None);
        }
        let trailer: Option<Self> = serde_json::from_slice(&json).ok();
        Ok(trailer.filter(|trailer| trailer.length > 0 && trailer.length == body))
    }
}

/// A file that is deleted unless it is [`kept`](Self::keep): whoever drops it, on whatever
/// thread, leaves nothing behind.
#[derive(Debug)]
pub(super) struct PartFile {
    file: Arc<DiskFile>,
    disk: Disk,
    path: PathBuf,
    kept: bool,
}

impl PartFile {
    /// Creates `<path>.part`, for what is to become `path`.
    pub(super) fn create(disk: &Disk, path: &Path) -> Result<Self, StoreError> {
        let part = path.with_extension(PART);
        let file = disk.create(&part).or_else(|error| match part.parent() {
            // Somebody wiped the cache while we run: it is theirs to wipe.
            Some(folder) if error.kind() == io::ErrorKind::NotFound => {
                disk.make_folder(folder)?;
                disk.create(&part)
            }
            _ => Err(error),
        });
        Ok(Self {
            file: Arc::new(file.map_err(StoreError::at(&part))?),
            disk: disk.clone(),
            path: part,
            kept: false,
        })
    }

    pub(super) fn file(&self) -> &Arc<DiskFile> {
        &self.file
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.append(bytes).map_err(StoreError::at(&self.path))
    }

    /// Reads the first `len` bytes back.
    pub(super) fn read_back(&self, len: usize) -> Result<Vec<u8>, StoreError> {
        self.file.read(0, len).map_err(StoreError::at(&self.path))
    }

    /// Adds the trailer and gives it its name.
    pub(super) fn keep(&mut self, path: &Path, trailer: &Trailer) -> Result<Segment, StoreError> {
        let encoded = trailer.encode().map_err(StoreError::at(path))?;
        self.append(&encoded)?;
        let (bytes, written) = self.file.about().map_err(StoreError::at(path))?;
        self.disk
            .rename(&self.path, path)
            .map_err(StoreError::at(path))?;
        self.kept = true;
        Ok(Segment::in_file(
            path.to_owned(),
            bytes,
            trailer.clone(),
            written,
        ))
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let bytes = self.file.about().map_or(0, |(bytes, _)| bytes);
        // The disk remembers it.
        let _ = self.disk.remove(&self.path, bytes);
    }
}

/// The path of a segment's file. `tag` keeps files apart that have the same number.
pub(super) fn path_of(folder: &Path, rendition: u16, sequence: MediaSequence, tag: u32) -> PathBuf {
    folder.join(format!("{rendition}-{sequence}-{tag:08x}.{SEGMENT}"))
}

/// Whether a file is named as [`path_of`] names one.
fn is_ours(path: &Path) -> bool {
    let stem = path.file_stem().and_then(OsStr::to_str).unwrap_or_default();
    let mut parts = stem.split('-');
    let mut number = |radix| u64::from_str_radix(parts.next()?, radix).ok();
    let named = number(10).is_some() && number(10).is_some() && number(16).is_some();
    named && parts.next().is_none()
}

/// Makes the folders, and proves that they can be written to.
pub(super) fn prepare(disk: &Disk, dir: &Path, channels: &[ChannelName]) -> Result<(), StoreError> {
    for channel in channels {
        let folder = dir.join(channel.as_str());
        disk.make_folder(&folder).map_err(StoreError::at(&folder))?;
        // Permission bits do not tell of a read-only mount or a full disk: try.
        PartFile::create(disk, &folder.join("probe"))?.append(b"probe")?;
    }
    Ok(())
}

/// Looks through the folders for segments whose trailers are sound; what is before them is not read.
/// Deletes what cannot be a segment of these channels, and what is of channels that are not
/// configured any more. Ends early where `go_on` says so.
pub(super) fn scan(
    disk: &Disk,
    dir: &Path,
    channels: &[ChannelName],
    go_on: impl Fn() -> bool,
) -> Vec<(ChannelName, Segment)> {
    let mut found = Vec::new();
    for channel in channels {
        let folder = dir.join(channel.as_str());
        let files = |extension| {
            let listed = disk.files(&folder, extension);
            listed.unwrap_or_else(|error| {
                log::warn!("cannot look into {}: {error}", folder.display());
                Vec::new()
            })
        };
        for part in files(PART) {
            delete(disk, &part);
        }
        // One of two files for the same number is older.
        let mut newest: BTreeMap<_, Segment> = BTreeMap::new();
        for path in files(SEGMENT) {
            if !go_on() {
                return found;
            }
            let Some(segment) = look_at(disk, &path) else {
                log::warn!("{} is not whole, deleted", path.display());
                delete(disk, &path);
                continue;
            };
            let key = (segment.rendition(), segment.sequence());
            let older = match newest.get(&key) {
                Some(other) if other.stored_at() > segment.stored_at() => Some(segment),
                _ => newest.insert(key, segment),
            };
            if let Some(path) = older.as_ref().and_then(Segment::path) {
                delete(disk, path);
            }
        }
        let segments = newest.into_values();
        found.extend(segments.map(|segment| (channel.clone(), segment)));
    }
    remove_others(disk, dir, channels);
    found
}

/// Removes what was stored for channels that are not configured any more. Their folders may hold
/// what is not ours: only what is named like a file of ours goes.
fn remove_others(disk: &Disk, dir: &Path, channels: &[ChannelName]) {
    for folder in disk.folders(dir).unwrap_or_default() {
        let name = folder.file_name();
        if channels.iter().any(|c| name == Some(c.as_str().as_ref())) {
            continue;
        }
        let files = [SEGMENT, PART].map(|extension| disk.files(&folder, extension));
        let mut ours: Vec<PathBuf> = files.into_iter().flatten().flatten().collect();
        ours.retain(|path| is_ours(path));
        for path in &ours {
            delete(disk, path);
        }
        if !ours.is_empty() {
            // Not empty if somebody else put something there: theirs to keep.
            let _ = disk.remove_folder(&folder);
        }
    }
}

fn delete(disk: &Disk, path: &Path) {
    let about = disk.open(path).and_then(|file| file.about());
    if let Err(error) = disk.remove(path, about.map_or(0, |(bytes, _)| bytes)) {
        log::warn!("cannot delete {}: {error}", path.display());
    }
}

/// The segment in a file, by its trailer.
fn look_at(disk: &Disk, path: &Path) -> Option<Segment> {
    let file = disk.open(path).ok()?;
    let (bytes, written) = file.about().ok()?;
    let trailer = Trailer::read(&file, bytes).ok()??;
    Some(Segment::in_file(path.to_owned(), bytes, trailer, written))
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
