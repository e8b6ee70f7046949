//! What a power cut makes of files that were not synced.

use std::fs;
use std::path::Path;

/// The ways in which a file may be torn.
pub(crate) const TEARS: usize = 9;

/// Tears one file of the channel in one of these ways.
pub(crate) fn tear(dir: &Path, file: usize, how: usize) {
    let files = super::files(dir);
    let Some(path) = files.get(file % files.len().max(1)) else {
        return;
    };
    let mut bytes = fs::read(path).unwrap();
    let (length, half) = (bytes.len(), bytes.len() / 2);
    match how % TEARS {
        // The length was written, the data was not, or only in part.
        0 => bytes.fill(0),
        1 => bytes[half..].fill(0),
        2 => bytes[..half].fill(0),
        // The data was written, the length was not.
        3 => bytes.truncate(half),
        4 => bytes.truncate(length.saturating_sub(1)),
        5 => bytes.clear(),
        // A cell of the flash went bad, in the body and in the trailer.
        6 => bytes.iter_mut().skip(half).take(1).for_each(|b| *b ^= 0x10),
        7 => bytes
            .iter_mut()
            .rev()
            .skip(40)
            .take(1)
            .for_each(|b| *b ^= 1),
        // The name was not written.
        _ => {
            let old = path.with_extension(match path.extension() {
                Some(part) if part == "part" => "seg",
                _ => "part",
            });
            fs::rename(path, old).unwrap();
            return;
        }
    }
    fs::write(path, bytes).unwrap();
}
