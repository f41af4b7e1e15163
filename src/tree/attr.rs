//! What stat(2) tells.

use crate::driver::Backup;
use std::time::{Duration, SystemTime};

/// Inode of the tree's root.
pub const ROOT: u64 = 1;

/// How long a kernel may take a name or an attribute for true. Short, because other
/// programs may change the store; long enough for `ls -l` to ask once.
const TTL: Duration = Duration::from_secs(1);

/// Backups are records: their owner reads them.
const BACKUP_MODE: u16 = 0o440;
/// While it is written, its owner may open it for writing again.
const DRAFT_MODE: u16 = 0o640;
const FOLDER_MODE: u16 = 0o750;

/// What kind of inode it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A folder.
    Folder,
    /// A plain file.
    File,
    /// A symbolic link.
    Link,
}

/// The attributes of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// Inode number.
    pub ino: u64,
    /// What it is.
    pub kind: FileKind,
    /// Size in bytes.
    pub size: u64,
    /// Units of 512 bytes that are data and not holes.
    pub blocks: u64,
    /// Time of last modification.
    pub mtime: SystemTime,
    /// Permission bits.
    pub mode: u16,
    /// Number of links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// How long the attributes may be taken for true.
    pub ttl: Duration,
    /// How long the name may be.
    pub name_ttl: Duration,
}

/// Who owns everything in the tree.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

impl Owner {
    fn attr(self, ino: u64, kind: FileKind, mode: u16, size: u64, mtime: SystemTime) -> Attr {
        Attr {
            ino,
            kind,
            size,
            blocks: size.div_ceil(512),
            mtime,
            mode,
            nlink: if kind == FileKind::Folder { 2 } else { 1 },
            uid: self.uid,
            gid: self.gid,
            ttl: TTL,
            name_ttl: TTL,
        }
    }

    /// Of a folder.
    pub fn folder(self, ino: u64) -> Attr {
        Attr {
            blocks: 0,
            ..self.attr(
                ino,
                FileKind::Folder,
                FOLDER_MODE,
                0,
                SystemTime::UNIX_EPOCH,
            )
        }
    }

    /// Of a small text that is made when it is read.
    pub fn text(self, ino: u64, size: u64) -> Attr {
        Attr {
            // It may be another one at any time.
            ttl: Duration::ZERO,
            ..self.attr(ino, FileKind::File, BACKUP_MODE, size, SystemTime::now())
        }
    }

    /// Of a symbolic link.
    pub fn link(self, ino: u64, length: u64) -> Attr {
        self.attr(ino, FileKind::Link, 0o777, length, SystemTime::UNIX_EPOCH)
    }

    /// Of a finished backup; `data_bytes` is what is known of its holes.
    pub fn backup(self, ino: u64, backup: &Backup, data_bytes: Option<u64>) -> Attr {
        let size = backup.size;
        let data = backup.data_bytes.or(data_bytes);
        let attr = self.attr(ino, FileKind::File, BACKUP_MODE, size, backup.modified_at());
        Attr {
            blocks: data.unwrap_or(size).min(size).div_ceil(512),
            // Where the holes are is found out when it is opened: ask again then. What cannot
            // be read may be known by then, too, and of another size.
            ttl: if backup.fault.is_none() && (data.is_some() || size == 0) {
                TTL
            } else {
                Duration::ZERO
            },
            ..attr
        }
    }

    /// Of a backup that is being written.
    pub fn draft(self, ino: u64, size: u64, mtime: SystemTime) -> Attr {
        Attr {
            ttl: Duration::ZERO,
            // It may be gone once it is closed, and nobody tells the kernel.
            name_ttl: Duration::ZERO,
            ..self.attr(ino, FileKind::File, DRAFT_MODE, size, mtime)
        }
    }
}
