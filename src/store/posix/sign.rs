//! The sign that a backup is being written: a file in the folder of the store, which no
//! search of Cinder's finds.

use super::footing::Footing;
use super::lock::{self, Marked};
use super::{FILE_MODE, PosixStore, TRIES};
use crate::store::share::Share;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Signs begin so; the backup's id follows.
pub const LOCK_PREFIX: &str = ".cinderfs-lock-";

/// Says that a backup is being written. The file goes with the last one who says so.
pub struct Sign {
    /// Until it is dropped.
    held: Option<Held>,
    share: Option<Arc<Share>>,
}

struct Held {
    file: File,
    /// The path of the store.
    shown: PathBuf,
    footing: Footing,
}

impl Sign {
    /// Makes it at `path`; `None` where there are no locks. Blocks.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn make(store: &PosixStore, footing: &Footing, shown: &Path) -> io::Result<Option<Self>> {
        let path = &footing.real(shown);
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
                    store.miss_locks(footing);
                    fs::remove_file(path)?;
                    return Ok(None);
                }
                Marked::Held if !footing.has_shared_locks() => store.miss_locks(footing),
                Marked::Held => {}
            }
            if let Err(e) = footing.give(path) {
                // Best effort: without a lock it means nothing.
                let _ = lock::remove(&file, path);
                return Err(e);
            }
            return Ok(Some(Self {
                held: Some(Held {
                    file,
                    shown: shown.to_owned(),
                    footing: footing.clone(),
                }),
                share: store.share().cloned(),
            }));
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }
}

impl Drop for Sign {
    fn drop(&mut self) {
        let Some(held) = self.held.take() else {
            return;
        };
        let name = held.shown.clone();
        let remove = move || {
            // When somebody else says the same, the file is his. Without success it is left
            // without a lock, which means nothing any more.
            let _ = lock::remove(&held.file, &held.footing.real(&held.shown));
        };
        match &self.share {
            // Even to close it may take as long as its server likes.
            Some(share) => share.leave(&name, remove),
            None => remove(),
        }
    }
}
