//! Holds on to a mount: what is done below its folder is done on that share, or not at all.

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Statx, StatxFlags, statx};
use rustix::io::Errno;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long the end of a mount is waited for.
const CLOSING: Duration = Duration::from_millis(500);

/// A mount that was found to be the right one. While this lives, nobody can unmount it
/// but by force or lazily; and if somebody does, what is done by the paths that it gives is
/// done on the share all the same, and never in the bare folder.
#[derive(Debug)]
pub struct Anchor {
    path: PathBuf,
    root: ManuallyDrop<OwnedFd>,
    is: (u32, u32, u64),
    /// Who owns the folder of the share: user and group.
    pub owner: (u32, u32),
    /// Locks are seen on this machine only.
    pub has_local_locks: bool,
    /// When the server has last let something go on.
    alive: Mutex<Option<Instant>>,
}

/// To close it may be to end the mount, when that was taken away, and then takes as long as
/// the server likes: somebody else does it, and is waited for only for a moment.
impl Drop for Anchor {
    fn drop(&mut self) {
        // SAFETY: it is taken once, here, and nobody can use it afterwards.
        let root = unsafe { ManuallyDrop::take(&mut self.root) };
        let (say, hear) = channel();
        let close = move || {
            drop(root);
            let _ = say.send(());
        };
        // Without a thread it was dropped with what it should have done.
        if std::thread::Builder::new().spawn(close).is_ok() {
            let _ = hear.recv_timeout(CLOSING);
        }
    }
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
    // A failure shows again in what is done next. The folder of a share is a link here.
    let flags = AtFlags::STATX_FORCE_SYNC;
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
            root: ManuallyDrop::new(root),
            is: identity(&stat),
            owner: (stat.stx_uid, stat.stx_gid),
            has_local_locks: options.split(',').any(is_local),
            alive: Mutex::default(),
        }))
    }

    /// Something has gone on.
    pub fn touch(&self) {
        let mut alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        *alive = Some(Instant::now());
    }

    /// When something has last gone on.
    pub fn alive(&self) -> Option<Instant> {
        *self.alive.lock().unwrap_or_else(PoisonError::into_inner)
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
        statx(&*self.root, "", flags, StatxFlags::BASIC_STATS).is_ok()
    }
}
