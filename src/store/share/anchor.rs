//! Holds on to a mount: what is done below its folder is done on that share, or not at all.

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Statx, StatxFlags, statx};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Threads that may be in the kernel for a share at a time, or be lost there: enough to
/// keep a server busy, and few beside all that the program may have.
const THREADS: usize = 16;

/// A mount that was found to be the right one. While this lives, nobody can unmount it
/// but by force or lazily; and if somebody does, what is done by the paths that it gives is
/// done on the share all the same, and never in the bare folder.
#[derive(Debug)]
pub struct Anchor {
    path: PathBuf,
    root: OwnedFd,
    is: (u32, u32, u64),
    /// Who owns the folder of the share: user and group.
    pub owner: (u32, u32),
    /// Locks are seen on this machine only.
    pub has_local_locks: bool,
    /// One for each thread that may be in the kernel.
    pub threads: Arc<Semaphore>,
}

fn identity(stat: &Statx) -> (u32, u32, u64) {
    (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino)
}

/// As much as the kernel knows without asking a server.
fn look(path: &Path) -> Result<Statx, Errno> {
    // The inode may be had from the kernel's memory; its device always is.
    statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::INO)
}

/// Lets the kernel ask the server for a folder or a file, however well it remembers it:
/// what others have done there since shows afterwards.
pub fn freshen(path: &Path) {
    // A failure shows again in what is done next.
    let flags = AtFlags::STATX_FORCE_SYNC | AtFlags::SYMLINK_NOFOLLOW;
    let _ = statx(CWD, path, flags, StatxFlags::BASIC_STATS);
}

impl Anchor {
    /// Holds on to what is mounted on `path`, if that has the device number `device`
    /// (`major:minor`): `None` when something else is there by now. Blocks.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn at(path: &Path, device: &str, options: &str) -> io::Result<Option<Self>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())?;
        let stat = statx(
            &root,
            "",
            AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC,
            StatxFlags::BASIC_STATS,
        )?;
        if format!("{}:{}", stat.stx_dev_major, stat.stx_dev_minor) != device {
            return Ok(None);
        }
        let is_local = |option: &str| {
            option == "nolock" || matches!(option, "local_lock=all" | "local_lock=flock")
        };
        Ok(Some(Self {
            path: path.to_owned(),
            root,
            is: identity(&stat),
            owner: (stat.stx_uid, stat.stx_gid),
            has_local_locks: options.split(',').any(is_local),
            threads: Arc::new(Semaphore::new(THREADS)),
        }))
    }

    /// The path of what lies at `below` in the share, for as long as this lives.
    pub fn inside(&self, below: &Path) -> PathBuf {
        let root = format!("/proc/self/fd/{}/.", self.root.as_raw_fd());
        Path::new(&root).join(below)
    }

    /// Whether the folder still is that of the share, and not the bare one below it. Blocks.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn holds(&self) -> io::Result<bool> {
        Ok(identity(&look(&self.path)?) == self.is)
    }

    /// Whether the server answers for the folder of the share. Blocks.
    pub fn answers(&self) -> bool {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
        statx(&self.root, "", flags, StatxFlags::BASIC_STATS).is_ok()
    }
}
