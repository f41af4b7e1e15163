//! Files that appear under their name only when they are whole and on disk.

use super::files::make_folder;
use super::footing::Footing;
use super::lock::{self, Marked};
use super::{Body, FILE_MODE, PosixStore, TRIES};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Staged files begin so.
pub const STAGE_PREFIX: &str = ".cinderfs-stage-";
/// What is written between two signs of life, in bytes.
const PIECE: usize = 4 << 20;
/// What is sent to a server at a time: one long wait for all of it at the end would look
/// like a server that is gone.
const SYNCED: usize = 8 << 20;

/// Writes an object whole, in place of what is at `path`. Blocks.
///
/// # Errors
/// Those of the file system, and of reading the body.
pub fn write_object(
    store: &PosixStore,
    footing: &Footing,
    path: &Path,
    body: &Body,
) -> io::Result<()> {
    let (root, path) = (footing.real(&store.root), &footing.real(path));
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let make = || {
        make_folder(footing, &root, folder)?;
        stage(store, footing, folder)
    };
    let (mut file, staged) = match make() {
        // The last backup in a folder of the user's own was deleted, and the folder with it.
        Err(e) if e.kind() == io::ErrorKind::NotFound => make()?,
        other => other?,
    };
    let written = write_staged(footing, &mut file, body)
        .and_then(|()| footing.give(&staged))
        .and_then(|()| file.sync_all())
        .and_then(|()| footing.step())
        .and_then(|()| rename(&file, &staged, path));
    if written.is_err() {
        // Best effort: its name says what it is, and no prefix search finds it.
        let _ = fs::remove_file(&staged);
    }
    written
}

/// A new file in `folder`, marked as one that is being written.
fn stage(store: &PosixStore, footing: &Footing, folder: &Path) -> io::Result<(File, PathBuf)> {
    for _ in 0..TRIES {
        let staged = folder.join(format!("{STAGE_PREFIX}{}", uuid::Uuid::new_v4()));
        // NFS gives a shared lock only on what is open for reading.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&staged)?;
        match lock::mark(&file, &staged) {
            Ok(Marked::Removed) => continue,
            Ok(Marked::Unsupported) => store.miss_locks(footing),
            Ok(Marked::Held) => {}
            Err(e) => {
                let _ = fs::remove_file(&staged);
                return Err(e);
            }
        }
        return Ok((file, staged));
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

/// Renames a staged file. A server that gave no answer may have done it all the same, and
/// finds nothing to rename when it is asked again.
fn rename(file: &File, staged: &Path, path: &Path) -> io::Result<()> {
    match fs::rename(staged, path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound && lock::names(path, file)? => Ok(()),
        other => other,
    }
}

fn write_staged(footing: &Footing, file: &mut File, body: &Body) -> io::Result<()> {
    let mut unsynced = 0;
    body.pieces(|bytes| {
        for piece in bytes.chunks(PIECE) {
            footing.step()?;
            file.write_all(piece)?;
            unsynced += piece.len();
            if footing.is_remote() && unsynced >= SYNCED {
                file.sync_data()?;
                unsynced = 0;
            }
        }
        Ok(())
    })?;
    footing.step()?;
    // The umask has a say in the mode at creation; Cinder sets it afterwards, too.
    file.set_permissions(Permissions::from_mode(FILE_MODE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn what_is_staged_can_be_locked_over_nfs() {
        let folder = tempfile::tempdir().unwrap();
        let store = PosixStore::open(folder.path()).unwrap();
        let footing = Footing::local(&folder.path().metadata().unwrap());
        let (file, _) = stage(&store, &footing, &store.root).unwrap();
        // A shared lock takes the right to read there, and is EBADF without.
        file.write_all_at(b"x", 0).unwrap();
        let mut found = [0];
        file.read_exact_at(&mut found, 0).unwrap();
        assert_eq!(found, *b"x");
    }
}
