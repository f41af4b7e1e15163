//! Files that are being fetched, or were: how much of one stays as it is, and what is in it.

use super::rows::Size;
use crate::format::to_hex;
use sha2::{Digest as _, Sha256};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

/// What can be told of a file that somebody else is writing.
#[derive(Debug, Default)]
pub struct Growth {
    file: Option<(Arc<File>, u64)>,
    /// How long it was when it was looked at last.
    length: u64,
    blocks: u64,
    /// What was there the last time but one, if it has grown since.
    safe: u64,
    /// It is not written from its beginning to its end.
    pub is_odd: bool,
}

impl Growth {
    /// Looks at it once more. Whether anything has come since.
    pub fn look(&mut self, path: &Path, size: Size) -> bool {
        let Ok(stat) = fs::metadata(path) else {
            return false;
        };
        let has_moved = stat.len() != self.length || stat.blocks() != self.blocks;
        self.blocks = stat.blocks();
        let is_same = self.file.as_ref().is_none_or(|(_, ino)| *ino == stat.ino());
        // Another file, one that was cut off, or one that has its size from the beginning.
        let Size::Exact(all) = size else {
            self.is_odd = true;
            return has_moved;
        };
        let had = self.length;
        self.length = stat.len();
        if !is_same || stat.len() < had || had == 0 && stat.len() >= all {
            self.is_odd = true;
        }
        if self.is_odd {
            return has_moved;
        }
        if self.file.is_none() {
            self.file = open_plain(path)
                .ok()
                .map(|file| (Arc::new(file), stat.ino()));
        }
        if had > 0 && had < all && stat.len() > had {
            self.safe = had;
        }
        has_moved
    }

    /// The file, and how many bytes of it stay as they are.
    pub fn safe(&self) -> Option<(Arc<File>, u64)> {
        let (file, _) = self.file.as_ref()?;
        (!self.is_odd && self.safe > 0).then(|| (Arc::clone(file), self.safe))
    }
}

/// Opens a regular file, and follows no link to one.
pub fn open_plain(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    // A pipe must not be waited for.
    options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.read(true).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is no regular file")),
    }
}

/// The sha256 of the first bytes of a file, in hexadecimal digits. Blocks.
pub fn sha256(file: &File, size: u64) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut piece = vec![0; 1 << 20];
    let mut at = 0;
    while at < size {
        let length = (size - at).min(piece.len() as u64);
        let Some(piece) = piece.get_mut(..length as usize) else {
            break;
        };
        file.read_exact_at(piece, at)?;
        hasher.update(&*piece);
        at += length;
    }
    Ok(to_hex(&hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn only_what_was_seen_growing_is_safe() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("part");
        let size = Size::Exact(100);
        let safe = |growth: &Growth| growth.safe().map(|(_, safe)| safe);
        let mut growth = Growth::default();
        assert!(!growth.look(&path, size));
        let mut file = File::create(&path).unwrap();
        assert_eq!((growth.look(&path, size), safe(&growth)), (false, None));
        file.write_all(&[1; 30]).unwrap();
        growth.look(&path, size);
        assert_eq!(safe(&growth), None);
        file.write_all(&[1; 30]).unwrap();
        growth.look(&path, size);
        assert_eq!(safe(&growth), Some(30));
        // Nobody knows what it is that is cut off.
        file.set_len(40).unwrap();
        growth.look(&path, size);
        assert_eq!(safe(&growth), None);
        file.set_len(90).unwrap();
        growth.look(&path, size);
        assert_eq!(safe(&growth), None);

        // One that has its size from the beginning.
        let mut growth = Growth::default();
        file.set_len(100).unwrap();
        growth.look(&path, size);
        growth.look(&path, size);
        assert_eq!(safe(&growth), None);
        // One whose size nobody knows.
        let mut growth = Growth::default();
        file.set_len(1).unwrap();
        growth.look(&path, Size::About(50, 100));
        file.set_len(20).unwrap();
        growth.look(&path, Size::About(50, 100));
        assert_eq!(safe(&growth), None);
    }
}
