//! The kernel's table of mounts.

use crate::error::{Error, Result};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

const TABLE: &str = "/proc/self/mountinfo";

/// A line of the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Mount {
    /// `major:minor` of the file system's device.
    pub device: String,
    /// The folder that it is mounted on.
    pub folder: PathBuf,
    /// The kind of file system.
    pub kind: String,
    /// What was mounted, as whoever did it called it.
    pub source: PathBuf,
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
    let device = fields.nth(2)?;
    let folder = fields.nth(1)?;
    fields.find(|field| *field == b"-")?;
    let (kind, source) = (fields.next()?, fields.next()?);
    Some(Mount {
        device: String::from_utf8(device.to_vec()).ok()?,
        folder: unescape(folder),
        kind: String::from_utf8(kind.to_vec()).ok()?,
        source: unescape(source),
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
        let line = b"36 35 98:0 /a /mnt/a\\040b rw,noatime master:1 x:2 - ext3 /dev/root rw";
        let expected = Mount {
            device: "98:0".into(),
            folder: "/mnt/a b".into(),
            kind: "ext3".into(),
            source: "/dev/root".into(),
        };
        assert_eq!(parse(line), Some(expected));
        for bad in [&b""[..], b"36 35", b"36 35 98:0 / /mnt rw ext3 a b"] {
            assert_eq!(parse(bad), None);
        }
        assert!(
            mounts()
                .unwrap()
                .iter()
                .any(|mount| mount.folder.as_os_str() == "/proc")
        );
    }
}
