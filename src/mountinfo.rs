//! The kernel's table of mounts. To read it asks no file system anything, so it never hangs.
//!
//! This module must not know any room of the program.

use crate::error::{Error, Result};
use std::ffi::OsString;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

const TABLE: &str = "/proc/self/mountinfo";
const OPEN_FILES: &str = "/proc/self/fdinfo";

/// A line of the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its number, which statx(2) calls `stx_mnt_id`.
    pub id: u64,
    /// `major:minor` of the file system's device.
    pub device: String,
    /// Which folder of the file system is mounted: `/` for all of it.
    pub root: PathBuf,
    /// The folder that it is mounted on.
    pub folder: PathBuf,
    /// The kind of file system.
    pub kind: String,
    /// What was mounted, as whoever did it called it.
    pub source: PathBuf,
    /// Options of the file system, with commas between them.
    pub options: String,
}

/// What is mounted on `folder`, a path without links: the last that was mounted there.
///
/// # Errors
/// When there is no `/proc`.
pub fn mounted_on(folder: &Path) -> Result<Option<Mount>> {
    let on_folder = |mount: &Mount| mount.folder == folder;
    Ok(mounts()?.into_iter().rfind(on_folder))
}

/// All files that this process has open: their numbers, and the number of the mount that each
/// is on. They are not looked at themselves.
///
/// # Errors
/// When there is no `/proc`.
pub fn open_files() -> Result<Vec<(RawFd, u64)>> {
    let failed = |e| Error::io("list", OPEN_FILES, &e);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(OPEN_FILES).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // That of this listing is gone by the next one.
        let Ok(text) = std::fs::read_to_string(entry.path()) else {
            continue;
        };
        let mount = text.lines().find_map(|line| line.strip_prefix("mnt_id:"));
        let number = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        if let (Some(number), Some(Ok(mount))) = (number, mount.map(|id| id.trim().parse())) {
            found.push((number, mount));
        }
    }
    Ok(found)
}

/// The path of a mount as the table has it: without links. It is not looked at itself, but
/// the folders above it are: who served it may be gone.
pub fn as_listed(folder: &Path) -> PathBuf {
    match (folder.parent().map(Path::canonicalize), folder.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => folder.to_owned(),
    }
}

/// All mounts.
///
/// # Errors
/// When there is no `/proc`.
pub fn mounts() -> Result<Vec<Mount>> {
    let table = std::fs::read(TABLE).map_err(|e| Error::io("read", TABLE, &e))?;
    Ok(table
        .split(|byte| *byte == b'\n')
        .filter_map(parse)
        .collect())
}

/// `36 35 98:0 /root /folder options optional... - kind source options`
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = fields.next()?;
    let device = fields.nth(1)?;
    let (root, folder) = (fields.next()?, fields.next()?);
    fields.find(|field| *field == b"-")?;
    let (kind, source) = (fields.next()?, fields.next()?);
    let options = fields.next().unwrap_or_default();
    Some(Mount {
        id: std::str::from_utf8(id).ok()?.parse().ok()?,
        device: String::from_utf8(device.to_vec()).ok()?,
        root: unescape(root),
        folder: unescape(folder),
        kind: String::from_utf8(kind.to_vec()).ok()?,
        source: unescape(source),
        options: String::from_utf8_lossy(options).into_owned(),
    })
}

/// Undoes `\040` and the like.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = field;
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
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_lines_of_proc_5() {
        let line = b"36 35 98:0 /a /mnt/a\\040b rw,noatime master:1 x:2 - ext3 /dev/root rw,errors=continue";
        let expected = Mount {
            id: 36,
            device: "98:0".into(),
            root: "/a".into(),
            folder: "/mnt/a b".into(),
            kind: "ext3".into(),
            source: "/dev/root".into(),
            options: "rw,errors=continue".into(),
        };
        assert_eq!(parse(line), Some(expected));
        for bad in [&b""[..], b"36 35", b"36 35 98:0 / /mnt rw ext3 a b"] {
            assert_eq!(parse(bad), None);
        }
        let proc = mounted_on(Path::new("/proc")).unwrap().unwrap();
        assert_eq!(proc.kind, "proc");
        assert_eq!(mounted_on(Path::new("/proc/none")).unwrap(), None);
        let file = std::fs::File::open("/proc/mounts").unwrap();
        let open = (std::os::fd::AsRawFd::as_raw_fd(&file), proc.id);
        assert!(open_files().unwrap().contains(&open));
    }
}
