//! `cinderfs umount`

use super::{Failure, usage};
use crate::error::{Error, Kind};
use crate::fuse;
use crate::mountinfo::{Mount, as_listed, mounts};
use clap::Args;
use std::path::PathBuf;

/// What the kernel calls our file systems.
const OURS: &str = "fuse.cinderfs";

/// Arguments of the command.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The folder that was mounted on
    dir: PathBuf,
}

/// Ends a mount. What was closed is durable, so nothing has to be waited for.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let folder = std::path::absolute(&arguments.dir)
        .map_err(|e| Error::io("find", arguments.dir.display().to_string(), &e))?;
    let folder = as_listed(&folder);
    let is_ours = |mount: &Mount| mount.kind == OURS && mount.folder == folder;
    if !mounts()?.iter().any(is_ours) {
        let reason = "nothing of cinderfs is mounted there";
        let error = Error::new(
            Kind::Invalid,
            "unmount",
            folder.display().to_string(),
            reason,
        );
        return Err(usage(
            error.advise("`findmnt -t fuse.cinderfs` lists its mounts"),
        ));
    }
    fuse::unmount(&folder, false).map_err(Failure::from)
}
