//! Signs on files that are being written: flock(2), which the kernel takes away from a
//! process that ends, however it ends.
//!
//! Who writes holds a shared lock; who wants to know whether anybody does tries for the
//! exclusive one. A file is removed only under that lock, and who has just made one looks
//! whether it is still there once it is locked: so nobody relies on a file without a name.

use crate::store::share::freshen;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

/// Who only looks has the lock for moments: how often, and after what time, a writer
/// tries again.
const TRIES: u32 = 500;
const PAUSE: Duration = Duration::from_millis(10);
/// The same for somebody else who looks: only who writes has it for longer.
const LOOKS: u32 = 4;
const LOOK_PAUSE: Duration = Duration::from_millis(1);

/// What came of trying for a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tried {
    Had,
    Refused,
    /// This file system has no locks.
    Unsupported,
}

/// What became of a file that was to be marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marked {
    /// Others see that it is being written.
    Held,
    /// Others cannot see it: this file system has no locks.
    Unsupported,
    /// Somebody took it for a left-over and removed it before it was marked.
    Removed,
}

fn judge(result: Result<(), Errno>) -> io::Result<Tried> {
    match result {
        Ok(()) => Ok(Tried::Had),
        Err(Errno::WOULDBLOCK) => Ok(Tried::Refused),
        Err(Errno::OPNOTSUPP | Errno::NOLCK | Errno::NOSYS) => Ok(Tried::Unsupported),
        Err(e) => Err(e.into()),
    }
}

fn attempt(file: &File, operation: FlockOperation) -> io::Result<Tried> {
    judge(rustix::io::retry_on_intr(|| flock(file, operation)))
}

/// Whether `path` still is the name of `file`.
///
/// # Errors
/// Those of the file system.
pub fn names(path: &Path, file: &File) -> io::Result<bool> {
    // Another machine may have removed it, and the name still be remembered here.
    path.parent().into_iter().for_each(freshen);
    let own = file.metadata()?;
    match fs::symlink_metadata(path) {
        _ if own.nlink() == 0 => Ok(false),
        Ok(found) => Ok((found.dev(), found.ino()) == (own.dev(), own.ino())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Marks `file`, which was opened at `path`, for as long as it is open. Blocks.
///
/// # Errors
/// When somebody keeps the lock and does not write, and those of the file system.
pub fn mark(file: &File, path: &Path) -> io::Result<Marked> {
    for _ in 0..TRIES {
        match attempt(file, FlockOperation::NonBlockingLockShared)? {
            Tried::Unsupported => return Ok(Marked::Unsupported),
            Tried::Had if names(path, file)? => return Ok(Marked::Held),
            Tried::Had => return Ok(Marked::Removed),
            Tried::Refused => std::thread::sleep(PAUSE),
        }
    }
    let reason = "another program keeps its lock";
    Err(io::Error::new(io::ErrorKind::ResourceBusy, reason))
}

/// Opens a file to look at its lock: over NFS, that takes the right to write.
fn open(path: &Path) -> io::Result<File> {
    let open = |write| {
        OpenOptions::new()
            .read(true)
            .write(write)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)
    };
    match open(true) {
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            open(false)
        }
        other => other,
    }
}

/// Whether anybody has marked the file; one that is not there nobody has. Where there are
/// no locks, nobody can be seen to.
///
/// # Errors
/// Those of the file system.
pub fn is_marked(path: &Path) -> io::Result<bool> {
    let file = match open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other?,
    };
    for _ in 0..LOOKS {
        let tried = attempt(&file, FlockOperation::NonBlockingLockExclusive)?;
        if tried == Tried::Had {
            // At once: a program that is just being started may hold a copy of `file`.
            attempt(&file, FlockOperation::Unlock)?;
        }
        if tried != Tried::Refused {
            return Ok(false);
        }
        std::thread::sleep(LOOK_PAUSE);
    }
    Ok(true)
}

/// Removes a file that nobody has marked.
///
/// # Errors
/// `ResourceBusy` when somebody has; those of the file system.
pub fn remove_unmarked(path: &Path) -> io::Result<()> {
    remove(&open(path)?, path)
}

/// The same for a file that is open already; a mark on that very `file` does not count.
pub fn remove(file: &File, path: &Path) -> io::Result<()> {
    let tried = attempt(file, FlockOperation::NonBlockingLockExclusive)?;
    if tried == Tried::Refused {
        let reason = "somebody is writing to it";
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, reason));
    }
    match names(path, file)? {
        true => fs::remove_file(path),
        false => Err(io::ErrorKind::NotFound.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_without_locks_is_no_failure() {
        for errno in [Errno::OPNOTSUPP, Errno::NOLCK, Errno::NOSYS] {
            assert_eq!(judge(Err(errno)).unwrap(), Tried::Unsupported);
        }
        assert_eq!(judge(Err(Errno::WOULDBLOCK)).unwrap(), Tried::Refused);
        assert!(judge(Err(Errno::IO)).is_err());
    }

    #[test]
    fn a_mark_is_seen_and_ends_with_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        assert!(!is_marked(&path).unwrap());
        let make = || {
            OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
        };
        let (one, two) = (make().unwrap(), make().unwrap());
        assert!(!is_marked(&path).unwrap());
        assert_eq!(mark(&one, &path).unwrap(), Marked::Held);
        assert_eq!(mark(&two, &path).unwrap(), Marked::Held);
        drop(one);
        assert!(is_marked(&path).unwrap());
        let busy = remove_unmarked(&path).unwrap_err();
        assert_eq!(busy.kind(), io::ErrorKind::ResourceBusy);
        drop(two);
        assert!(!is_marked(&path).unwrap());
        let three = make().unwrap();
        remove_unmarked(&path).unwrap();
        assert_eq!(mark(&three, &path).unwrap(), Marked::Removed);
        assert!(!path.exists());
    }
}
