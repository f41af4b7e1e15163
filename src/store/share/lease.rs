//! What was mounted by us is unmounted by us.

use super::program::{self, Ran};
use crate::mountinfo::{Mount, mounted_on};
use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

/// The longest that umount(8) may take: the program waits for it when it ends.
const LONGEST_UNMOUNT: Duration = Duration::from_secs(10);

/// A mount of ours. It is unmounted when this is dropped, unless somebody uses it.
#[derive(Debug)]
pub struct Lease {
    path: PathBuf,
    id: u64,
}

impl Lease {
    /// One on a mount that we have made.
    pub fn of(mount: &Mount) -> Self {
        Self {
            path: mount.folder.clone(),
            id: mount.id,
        }
    }

    /// Whether it is mounted still.
    pub fn stands(&self) -> bool {
        let found = mounted_on(&self.path);
        found.is_ok_and(|mount| mount.is_some_and(|mount| mount.id == self.id))
    }

    /// It is another one's now.
    pub fn give_away(self) {
        std::mem::forget(self);
    }

    /// Unmounts it: one that is `dead` whoever uses it, for nobody can; else unless
    /// somebody does. Blocks.
    pub fn end(&self, dead: bool) {
        if !self.stands() {
            return;
        }
        let path = self.path.display();
        let mut arguments = vec![self.path.as_os_str()];
        if dead {
            arguments.insert(0, OsStr::new("-l"));
        }
        let ran = program::run("umount", &arguments, LONGEST_UNMOUNT, || false);
        match ran {
            Ok(Ran {
                status: Some(status),
                ..
            }) if status.success() => tracing::info!("unmounted {path}"),
            Ok(Ran { said, .. }) if said.contains("busy") => {
                tracing::info!("{path} stays mounted: somebody uses it");
            }
            Ok(Ran { said, .. }) => tracing::warn!("{path} stays mounted: umount(8): {said}"),
            Err(e) => tracing::warn!("{path} stays mounted: umount(8) cannot be run: {e}"),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.end(false);
    }
}
