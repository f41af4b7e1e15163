//! Between fuser's types and the tree's: names, attributes, times and replies.

use super::errno::errno_of;
use crate::error::{Error, Kind, Result};
use crate::tree::{Attr, Caching, FileKind, Opened, Request as Who, Tree, XattrError};
use fuser::{
    Errno, FileAttr, FileType, FopenFlags, Generation, INodeNo, ReplyAttr, ReplyEmpty, ReplyEntry,
    ReplyXattr, Request, TimeOrNow,
};
use std::ffi::OsStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Unit of statfs(2) and of programs' buffers, in bytes.
pub const BLOCK: u64 = 4096;

/// Names in the tree are text, because a backup's name is: others cannot be there.
pub fn text(name: &OsStr) -> Result<String> {
    let name = name.to_str().map(str::to_owned);
    name.ok_or_else(|| Error::new(Kind::Invalid, "use", "a name", "it is not valid UTF-8"))
}

pub fn attr_of(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: attr.blocks,
        atime: attr.mtime,
        mtime: attr.mtime,
        ctime: attr.mtime,
        crtime: attr.mtime,
        kind: kind_of(attr.kind),
        perm: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: BLOCK as u32,
        flags: 0,
    }
}

pub fn kind_of(kind: FileKind) -> FileType {
    match kind {
        FileKind::Folder => FileType::Directory,
        FileKind::File => FileType::RegularFile,
        FileKind::Link => FileType::Symlink,
    }
}

pub fn open_flags(opened: &Opened) -> FopenFlags {
    match opened.caching {
        Caching::None => FopenFlags::FOPEN_DIRECT_IO,
        Caching::Anew => FopenFlags::empty(),
        Caching::Keep => FopenFlags::FOPEN_KEEP_CACHE,
    }
}

/// The process that a thread belongs to: the kernel names the thread.
pub fn program_of(request: &Request) -> Who {
    let thread = request.pid();
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    let program = line.and_then(|id| id.trim().parse().ok()).unwrap_or(thread);
    Who { program }
}

pub fn time_of(time: TimeOrNow) -> SystemTime {
    match time {
        TimeOrNow::SpecificTime(at) => match UNIX_EPOCH.duration_since(at) {
            // fuser 0.18 takes the nanoseconds of a time before 1970 away, and they have
            // to be added.
            Ok(before) => at + 2 * Duration::from_nanos(before.subsec_nanos().into()),
            Err(_) => at,
        },
        TimeOrNow::Now => SystemTime::now(),
    }
}

pub fn xattr_errno(error: &XattrError) -> Errno {
    match error {
        XattrError::Missing => Errno::ENODATA,
        XattrError::Refused => Errno::EOPNOTSUPP,
        XattrError::Failed(error) => errno_of(error),
    }
}

/// Two steps of every attribute reply: how long it is, or all of it.
pub fn reply_xattr(reply: ReplyXattr, size: u32, value: &[u8]) {
    match u32::try_from(value.len()) {
        Ok(length) if size == 0 => reply.size(length),
        Ok(length) if length <= size => reply.data(value),
        _ => reply.error(Errno::ERANGE),
    }
}

pub fn reply_entry(tree: &Tree, reply: ReplyEntry, result: &Result<Attr>) {
    match result {
        Ok(attr) => {
            let generation = Generation(tree.generation(attr.ino));
            reply.entry_with_ttls(&attr.ttl, &attr.name_ttl, &attr_of(attr), generation);
        }
        Err(e) => reply.error(errno_of(e)),
    }
}

pub fn reply_attr(reply: ReplyAttr, result: &Result<Attr>) {
    match result {
        Ok(attr) => reply.attr(&attr.ttl, &attr_of(attr)),
        Err(e) => reply.error(errno_of(e)),
    }
}

pub fn reply_empty(reply: ReplyEmpty, result: &Result<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(errno_of(e)),
    }
}
