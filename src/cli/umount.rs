//! `cinderfs umount`

use super::{Failure, usage};
use crate::error::{Error, Kind, Result};
use crate::fuse;
use clap::Args;
use std::path::{Path, PathBuf};

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
    let mounts = std::fs::read_to_string("/proc/self/mounts")
        .map_err(|e| Error::io("read", "/proc/self/mounts", &e))?;
    // A mount whose daemon is gone cannot be asked for its real path, but the folders
    // above it can.
    let folder = match (folder.parent().map(Path::canonicalize), folder.file_name()) {
        (Some(Ok(parent)), Some(name)) if name != ".." => parent.join(name),
        _ => folder,
    };
    if !is_mounted(&mounts, &folder) {
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

/// Whether the kernel's table of mounts has one of ours at `folder`.
fn is_mounted(mounts: &str, folder: &Path) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        let (Some(at), Some(kind)) = (fields.next(), fields.next()) else {
            return false;
        };
        kind == "fuse.cinderfs" && Path::new(&unescape(at)) == folder
    })
}

/// Undoes `\040` and the like.
fn unescape(field: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = field.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let code = behind.get(..3).filter(|_| *first == b'\\');
        let code = code.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = behind.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_our_mounts_only() {
        let mounts = "a /mnt/a\\040b fuse.cinderfs rw 0 0\nb /mnt/c ext4 rw 0 0\n";
        assert!(is_mounted(mounts, Path::new("/mnt/a b")));
        assert!(!is_mounted(mounts, Path::new("/mnt/c")));
        assert!(!is_mounted(mounts, Path::new("/mnt")));
    }
}
