//! What the store stands on: a folder of this machine, or one of a share.

use crate::store::share::{self, Anchor};
use crate::task::Pulse;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What one request stands on.
#[derive(Debug, Clone)]
pub struct Footing {
    owner: Owner,
    pulse: Pulse,
    on: Option<On>,
}

/// The share.
#[derive(Debug, Clone)]
struct On {
    anchor: Arc<Anchor>,
    /// Where its users see it.
    shown: PathBuf,
}

/// Who new files and folders are given to. What root makes belongs to root, and Cinder,
/// which does not run as root, could not read it: so it gets the owner of the store.
#[derive(Debug, Clone, Copy)]
struct Owner(Option<(u32, u32)>);

impl Owner {
    fn of_store(own: (u32, u32)) -> Self {
        Self(Some(own).filter(|own| rustix::process::geteuid().is_root() && *own != (0, 0)))
    }
}

impl Footing {
    /// On a folder of this machine, whose owner is known.
    pub fn local(folder: &fs::Metadata) -> Self {
        Self {
            owner: Owner::of_store((folder.uid(), folder.gid())),
            pulse: Pulse::endless(),
            on: None,
        }
    }

    /// On a share that is mounted on `shown`.
    pub fn remote(anchor: &Arc<Anchor>, shown: &Path, pulse: &Pulse) -> Self {
        Self {
            owner: Owner::of_store(anchor.owner),
            pulse: pulse.clone(),
            on: Some(On {
                anchor: Arc::clone(anchor),
                shown: shown.to_owned(),
            }),
        }
    }

    /// The path by which the file of that path is to be used: on a share, one that leads
    /// there even when the mount is taken away meanwhile. Good for as long as this lives.
    pub fn real(&self, path: &Path) -> PathBuf {
        match &self.on {
            Some(On { anchor, shown }) => match path.strip_prefix(shown) {
                Ok(below) => anchor.inside(below),
                Err(_) => path.to_owned(),
            },
            None => path.to_owned(),
        }
    }

    /// Whether others see the locks that are held here.
    pub fn has_shared_locks(&self) -> bool {
        let on = self.on.as_ref();
        !on.is_some_and(|on| on.anchor.has_local_locks)
    }

    /// A step was made, or one is next that cannot be taken back.
    ///
    /// # Errors
    /// When nobody waits for the request any more.
    pub fn step(&self) -> io::Result<()> {
        if let Some(on) = &self.on {
            // Even where nobody waits any more: the server answers.
            on.anchor.touch();
        }
        self.pulse.beat()
    }

    /// Whether what is written must reach the disk piece by piece: one long wait for all
    /// of it would look like a server that is gone.
    pub fn is_remote(&self) -> bool {
        self.on.is_some()
    }

    /// Sees to it that what others have done in `folder` shows.
    pub fn freshen(&self, folder: &Path) {
        if self.on.is_some() {
            share::freshen(folder);
        }
    }

    /// Gives a new file or folder to who owns the store.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn give(&self, path: &Path) -> io::Result<()> {
        let Owner(Some((uid, gid))) = self.owner else {
            return Ok(());
        };
        std::os::unix::fs::lchown(path, Some(uid), Some(gid)).map_err(|e| match e.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput if self.is_remote() => {
                let reason = format!(
                    "the server does not let us give files to user {uid} and group {gid}, who own \
                     the share: {e}"
                );
                io::Error::new(io::ErrorKind::PermissionDenied, reason)
            }
            _ => e,
        })
    }
}
