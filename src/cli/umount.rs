//! `cinderfs umount`

use super::{Failure, usage};
use crate::error::{Error, Kind};
use crate::fuse;
use crate::mountinfo::{Mount, mounts};
use clap::Args;
use std::path::{Path, PathBuf};

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
    // A mount whose daemon is gone cannot be asked for its real path, but the folders
    // above it can.
    let folder = match (folder.parent().map(Path::canonicalize), folder.file_name()) {
        (Some(Ok(parent)), Some(name)) if name != ".." => parent.join(name),
        _ => folder,
    };
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
