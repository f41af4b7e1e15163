//! The sign that a backup is being written: a file in the folder of the store, which no
//! search of Cinder's finds.

use super::lock::{self, Marked};
use super::{FILE_MODE, PosixStore, TRIES};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Signs begin so; the backup's id follows.
pub const LOCK_PREFIX: &str = ".cinderfs-lock-";

/// Says that a backup is being written. The file goes with the last one who says so.
pub struct Sign {
    file: File,
    path: PathBuf,
}

impl Sign {
    /// Makes it at `path`; `None` where there are no locks. Blocks.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn make(store: &PosixStore, path: &Path) -> io::Result<Option<Self>> {
        for _ in 0..TRIES {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(FILE_MODE)
                .custom_flags(libc::O_NOFOLLOW)
                .open(path)?;
            match lock::mark(&file, path)? {
                Marked::Removed => continue,
                Marked::Unsupported => {
                    store.miss_locks();
                    fs::remove_file(path)?;
                    return Ok(None);
                }
                Marked::Held => {}
            }
            store.owner.give(path)?;
            let path = path.to_owned();
            return Ok(Some(Self { file, path }));
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }
}

impl Drop for Sign {
    fn drop(&mut self) {
        // When somebody else says the same, the file is his. Without success it is left
        // without a lock, which means nothing any more.
        let _ = lock::remove(&self.file, &self.path);
    }
}
