//! Names, trailers, and what is found in the folder: all of it blocking.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

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

/// A file that is to become a segment's.
#[derive(Debug)]
pub(super) struct PartFile {
    file: Arc<DiskFile>,
    disk: Disk,
    path: PathBuf,
}

impl PartFile {
    /// Creates `<path>.part`, for what is to become `path`. Calls `wiped` if the folder had to be made:
    /// somebody wiped the cache while we run, which is theirs to wipe.
    pub(super) fn create(
        disk: &Disk,
        path: &Path,
        wiped: impl FnOnce(),
    ) -> Result<Self, StoreError> {
        let part = path.with_extension(PART);
        let file = disk.create(&part).or_else(|error| match part.parent() {
            Some(folder) if error.kind() == io::ErrorKind::NotFound => {
                disk.make_folder(folder)?;
                wiped();
                disk.create(&part)
            }
            _ => Err(error),
        });
        Ok(Self {
            file: Arc::new(file.map_err(StoreError::at(&part))?),
            disk: disk.clone(),
            path: part,
        })
    }

    pub(super) fn file(&self) -> &Arc<DiskFile> {
        &self.file
    }

    pub(super) fn append(&self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.append(bytes).map_err(StoreError::at(&self.path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads bytes back.
    pub(super) fn read_back(&self, at: u64, len: usize) -> Result<Vec<u8>, StoreError> {
        self.file.read(at, len).map_err(StoreError::at(&self.path))
    }

    /// Adds the trailer and gives it its name.
    pub(super) fn keep(&self, path: &Path, trailer: &Trailer) -> Result<Segment, StoreError> {
        let encoded = trailer.encode().map_err(StoreError::at(path))?;
        self.append(&encoded)?;
        let (bytes, written) = self.file.about().map_err(StoreError::at(path))?;
        self.disk
            .rename(&self.path, path)
            .map_err(StoreError::at(path))?;
        Ok(Segment::in_file(
            path.to_owned(),
            bytes,
            trailer.clone(),
            written,
        ))
    }
}

/// What a file is named after that one run of the store writes: no other file has that name.
#[derive(Debug)]
pub(super) struct Names {
    run: u32,
    files: AtomicU32,
}

impl Names {
    /// Those of a new run.
    pub(super) fn new() -> Self {
        Self {
            run: rand::random(),
            files: AtomicU32::new(0),
        }
    }

    pub(super) fn next(&self, rendition: u16, sequence: MediaSequence) -> String {
        let (run, file) = (self.run, self.files.fetch_add(1, Ordering::Relaxed));
        format!("{rendition}-{sequence}-{run:08x}{file:08x}.{SEGMENT}")
    }

    /// Whether it is this run that wrote it.
    fn is_of_this_run(&self, path: &Path) -> bool {
        let name = path.file_stem().and_then(OsStr::to_str).unwrap_or_default();
        let tag = name.rsplit('-').next().unwrap_or_default();
        tag.starts_with(&format!("{:08x}", self.run))
    }
}

/// Whether a file is named as [`Names`] does it.
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
        let probe = PartFile::create(disk, &folder.join("probe"), || {})?;
        let written = probe.append(b"probe");
        disk.remove(&probe.path)
            .map_err(StoreError::at(&probe.path))?;
        written?;
    }
    Ok(())
}

/// What was found in a channel's folder.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) segments: Vec<Segment>,
    /// Files that are of no use, and their bytes.
    pub(super) useless: Vec<(PathBuf, u64)>,
}

/// Looks through a channel's folder for segments whose trailers are sound; what is before them is not
/// read, nor is what this run wrote. Ends early where `go_on` says so.
///
/// # Errors
/// If the folder cannot be listed.
pub(super) fn scan(
    disk: &Disk,
    folder: &Path,
    names: &Names,
    go_on: impl Fn() -> bool,
) -> Result<Scan, StoreError> {
    let mut found = Scan::default();
    let files = |extension| {
        let files = disk.files(folder, extension);
        let mut files = files.map_err(StoreError::at(folder))?;
        files.retain(|path| !names.is_of_this_run(path));
        Ok(files)
    };
    let size = |path: &Path| path.metadata().map_or(0, |about| about.len());
    for part in files(PART)? {
        let bytes = size(&part);
        found.useless.push((part, bytes));
    }
    // One of two files for the same number is older.
    let mut newest: BTreeMap<_, Segment> = BTreeMap::new();
    for path in files(SEGMENT)? {
        if !go_on() {
            return Ok(Scan::default());
        }
        let segment = match look_at(disk, &path) {
            Ok(Some(segment)) => segment,
            Err(error) if error.is_about_us() => continue,
            Ok(None) | Err(_) => {
                found.useless.push((path.clone(), size(&path)));
                continue;
            }
        };
        let key = (segment.rendition(), segment.sequence());
        let older = match newest.get(&key) {
            Some(other) if other.stored_at() > segment.stored_at() => Some(segment),
            _ => newest.insert(key, segment),
        };
        if let Some((path, bytes)) = older.and_then(|o| Some((o.path()?.to_owned(), o.occupied())))
        {
            found.useless.push((path, bytes));
        }
    }
    found.segments = newest.into_values().collect();
    Ok(found)
}

/// Removes what was stored for channels that are not configured any more. Their folders may hold
/// what is not ours: only what is named like a file of ours goes.
pub(super) fn remove_others(disk: &Disk, dir: &Path, channels: &[ChannelName]) {
    for folder in disk.folders(dir).unwrap_or_default() {
        let name = folder.file_name();
        if channels.iter().any(|c| name == Some(c.as_str().as_ref())) {
            continue;
        }
        let files = [SEGMENT, PART].map(|extension| disk.files(&folder, extension));
        let mut ours: Vec<PathBuf> = files.into_iter().flatten().flatten().collect();
        ours.retain(|path| is_ours(path));
        for path in &ours {
            if let Err(error) = disk.remove(path) {
                log::warn!("cannot delete {}: {error}", path.display());
            }
        }
        if !ours.is_empty() {
            // Not empty if somebody else put something there: theirs to keep.
            let _ = disk.remove_folder(&folder);
        }
    }
}

/// The segment in a file, by its trailer; `None` if that is not sound.
fn look_at(disk: &Disk, path: &Path) -> Result<Option<Segment>, StoreError> {
    let read = || {
        let file = disk.open(path)?;
        let (bytes, written) = file.about()?;
        Ok((bytes, written, Trailer::read(&file, bytes)?))
    };
    let (bytes, written, trailer) = read().map_err(StoreError::at(path))?;
    Ok(trailer.map(|trailer| Segment::in_file(path.to_owned(), bytes, trailer, written)))
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
