//! [`fuser::Filesystem`] for a [`Tree`]: each request becomes a task of the runtime,
//! which replies when it is done. What needs no waiting is answered at once.

use super::errno::errno_of;
use super::translate::{
    BLOCK, attr_of, kind_of, open_flags, program_of, reply_attr, reply_empty, reply_entry,
    reply_xattr, text, time_of, xattr_errno,
};
use crate::error::Kind;
use crate::tree::{OpenMode, SetAttr, Tree};
use fuser::{
    Errno, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use std::ffi::OsStr;
use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::runtime::Handle;

/// Requests that the kernel may have under way: its own readers' and its read-ahead.
const MAX_BACKGROUND: u16 = 64;
/// The largest read or write of a program that is passed on whole.
const MAX_WRITE: u32 = 1 << 20;

/// See the module's page.
pub struct Adapter {
    tree: Arc<Tree>,
    runtime: Handle,
}

impl Adapter {
    /// Answers for `tree`, with tasks on `runtime`.
    pub fn new(tree: Arc<Tree>, runtime: Handle) -> Self {
        Self { tree, runtime }
    }

    fn spawn<F: Future<Output = ()> + Send + 'static>(&self, task: F) {
        self.runtime.spawn(task);
    }
}

/// Clones the tree, takes the names as text (or replies with the error), and runs the
/// rest as a task.
macro_rules! task {
    ($self:ident, $reply:ident, |$tree:ident $(, $name:ident)*| $body:expr) => {{
        $(let $name = match text($name) {
            Ok(name) => name,
            Err(e) => return $reply.error(errno_of(&e)),
        };)*
        let $tree = Arc::clone(&$self.tree);
        $self.spawn(async move { $body });
    }};
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Without any one of these, all works, but slower.
        for wish in [
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
            InitFlags::FUSE_ASYNC_DIO,
        ] {
            let _ = config.add_capabilities(wish);
        }
        let _ = config.set_max_write(MAX_WRITE);
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        task!(self, reply, |tree, name| reply_entry(
            &tree,
            reply,
            &tree.lookup(parent.0, &name).await
        ));
    }

    fn forget(&self, _request: &Request, ino: INodeNo, times: u64) {
        self.tree.forget(ino.0, times);
    }

    fn getattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        task!(self, reply, |tree| reply_attr(
            reply,
            &tree.attr(ino.0).await
        ));
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        // The kernel sends the time along with a new size, though no program set one.
        let mtime = mtime.filter(|_| size.is_none()).map(time_of);
        let who = program_of(request);
        task!(self, reply, |tree| {
            let set = SetAttr { size, mtime };
            let handle = handle.map(|handle| handle.0);
            reply_attr(reply, &tree.set_attr(ino.0, handle, set, who).await);
        });
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        task!(self, reply, |tree| match tree.read_link(ino.0).await {
            Ok(target) => reply.data(target.as_bytes()),
            Err(e) => reply.error(errno_of(&e)),
        });
    }

    fn mknod(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _device: u32,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EPERM);
    }

    fn mkdir(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        task!(self, reply, |tree, name| {
            reply_entry(&tree, reply, &tree.make_folder(parent.0, &name).await);
        });
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        task!(self, reply, |tree, name| reply_empty(
            reply,
            &tree.unlink(parent.0, &name).await
        ));
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        task!(self, reply, |tree, name| {
            reply_empty(reply, &tree.remove_folder(parent.0, &name).await);
        });
    }

    fn symlink(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _target: &Path,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EPERM);
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        // A backup is never replaced, so RENAME_NOREPLACE asks for nothing more.
        if !(flags - RenameFlags::RENAME_NOREPLACE).is_empty() {
            return reply.error(Errno::EINVAL);
        }
        task!(self, reply, |tree, name, new_name| {
            let result = tree
                .rename((parent.0, &name), (new_parent.0, &new_name))
                .await;
            reply_empty(reply, &result);
        });
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let mode = match flags.acc_mode() {
            fuser::OpenAccMode::O_RDONLY => OpenMode::Read,
            fuser::OpenAccMode::O_WRONLY | fuser::OpenAccMode::O_RDWR => OpenMode::Write,
        };
        let who = program_of(request);
        task!(
            self,
            reply,
            |tree| match tree.open(ino.0, mode, who).await {
                Ok(opened) => reply.opened(FileHandle(opened.handle), open_flags(&opened)),
                Err(e) => reply.error(errno_of(&e)),
            }
        );
    }

    fn read(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        // Reading on may start tasks.
        let _in_runtime = self.runtime.enter();
        if let Some(data) = self.tree.try_read(handle.0, offset, u64::from(size)) {
            return reply.data(&data);
        }
        task!(self, reply, |tree| {
            match tree.read(handle.0, offset, u64::from(size)).await {
                Ok(data) => reply.data(&data),
                Err(e) => reply.error(errno_of(&e)),
            }
        });
    }

    fn write(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let length = data.len() as u32;
        // A full chunk starts a task.
        let _in_runtime = self.runtime.enter();
        match self.tree.try_write(handle.0, offset, data) {
            Some(Ok(())) => return reply.written(length),
            Some(Err(e)) => return reply.error(errno_of(&e)),
            None => {}
        }
        let data = data.to_vec();
        task!(self, reply, |tree| {
            match tree.write(handle.0, offset, &data).await {
                Ok(()) => reply.written(length),
                Err(e) => reply.error(errno_of(&e)),
            }
        });
    }

    fn flush(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        task!(self, reply, |tree| reply_empty(
            reply,
            &tree.flush(handle.0, false).await
        ));
    }

    fn release(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        task!(self, reply, |tree| {
            tree.release(handle.0).await;
            reply.ok();
        });
    }

    fn fsync(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        task!(self, reply, |tree| reply_empty(
            reply,
            &tree.flush(handle.0, true).await
        ));
    }

    fn opendir(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        task!(self, reply, |tree| match tree.open_folder(ino.0).await {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(e) => {
                tracing::warn!("{e}");
                reply.error(errno_of(&e));
            }
        });
    }

    fn readdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        task!(self, reply, |tree| {
            let entries = match tree.folder_entries(handle.0, offset == 0).await {
                Ok(entries) => entries,
                Err(e) => return reply.error(errno_of(&e)),
            };
            let dots = [".", ".."].map(|dot| (ino.0, FileType::Directory, dot));
            let named = entries
                .iter()
                .map(|entry| (entry.attr.ino, kind_of(entry.kind()), entry.name.as_str()));
            let all = dots.into_iter().chain(named).zip(1u64..);
            for ((number, kind, name), next) in all.skip(offset as usize) {
                if reply.add(INodeNo(number), next, kind, name) {
                    break;
                }
            }
            reply.ok();
        });
    }

    fn readdirplus(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        task!(self, reply, |tree| {
            let entries = match tree.folder_entries(handle.0, offset == 0).await {
                Ok(entries) => entries,
                Err(e) => return reply.error(errno_of(&e)),
            };
            let own = match tree.attr(ino.0).await {
                Ok(own) => own,
                Err(e) => return reply.error(errno_of(&e)),
            };
            // The kernel takes no lookup of the dots.
            let dots = [".", ".."].map(|dot| (None, &own, dot));
            let named = entries
                .iter()
                .map(|entry| (Some(entry), &entry.attr, entry.name.as_str()));
            let all = dots.into_iter().chain(named).zip(1u64..);
            for ((entry, attr, name), next) in all.skip(offset as usize) {
                let full = reply.add(
                    INodeNo(attr.ino),
                    next,
                    name,
                    &attr.ttl,
                    &attr_of(attr),
                    Generation(tree.generation(attr.ino)),
                );
                if full {
                    break;
                }
                if let Some(entry) = entry {
                    tree.remember(entry);
                }
            }
            reply.ok();
        });
    }

    fn releasedir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        task!(self, reply, |tree| {
            tree.release(handle.0).await;
            reply.ok();
        });
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        // What is in a folder was durable when it came there.
        reply.ok();
    }

    fn statfs(&self, _request: &Request, ino: INodeNo, reply: ReplyStatfs) {
        task!(self, reply, |tree| match tree.space(ino.0).await {
            Ok(space) => {
                let (total, free) = space.map_or((0, 0), |space| (space.total, space.free));
                let (total, free) = (total / BLOCK, free / BLOCK);
                let (files, left) = space.and_then(|space| space.files).unwrap_or_default();
                reply.statfs(
                    total,
                    free,
                    free,
                    files,
                    left,
                    BLOCK as u32,
                    255,
                    BLOCK as u32,
                );
            }
            Err(e) => reply.error(errno_of(&e)),
        });
    }

    fn setxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let value = value.to_vec();
        task!(self, reply, |tree, name| {
            match tree.set_xattr(ino.0, &name, Some(&value)).await {
                Ok(()) => reply.ok(),
                Err(e) => reply.error(xattr_errno(&e)),
            }
        });
    }

    fn getxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        task!(
            self,
            reply,
            |tree, name| match tree.xattr(ino.0, &name).await {
                Ok(value) => reply_xattr(reply, size, &value),
                Err(e) => reply.error(xattr_errno(&e)),
            }
        );
    }

    fn listxattr(&self, _request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        task!(self, reply, |tree| match tree.xattr_names(ino.0).await {
            Ok(names) => reply_xattr(reply, size, &names),
            Err(e) => reply.error(errno_of(&e)),
        });
    }

    fn removexattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        task!(
            self,
            reply,
            |tree, name| match tree.set_xattr(ino.0, &name, None).await {
                Ok(()) => reply.ok(),
                Err(e) => reply.error(xattr_errno(&e)),
            }
        );
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let who = program_of(request);
        task!(
            self,
            reply,
            |tree, name| match tree.create(parent.0, &name, who).await {
                Ok((attr, opened)) => reply.created(
                    &attr.ttl,
                    &attr_of(&attr),
                    Generation(0),
                    FileHandle(opened.handle),
                    open_flags(&opened),
                ),
                Err(e) => {
                    tracing::warn!("{e}");
                    reply.error(errno_of(&e));
                }
            }
        );
    }

    fn fallocate(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        const KEEP_SIZE: i32 = libc::FALLOC_FL_KEEP_SIZE;
        const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE;
        const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
        let Some(end) = offset.checked_add(length) else {
            return reply.error(Errno::EFBIG);
        };
        let (punch, grow) = match mode {
            0 => (false, true),
            KEEP_SIZE => (false, false),
            _ if mode == PUNCH | KEEP_SIZE || mode == ZERO | KEEP_SIZE => (true, false),
            ZERO => (true, true),
            _ => return reply.error(Errno::EOPNOTSUPP),
        };
        task!(self, reply, |tree| {
            reply_empty(reply, &tree.zero(handle.0, offset..end, punch, grow).await);
        });
    }

    fn lseek(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let (Ok(offset), libc::SEEK_DATA | libc::SEEK_HOLE) = (u64::try_from(offset), whence)
        else {
            return reply.error(Errno::EINVAL);
        };
        task!(self, reply, |tree| {
            match tree.seek(handle.0, offset, whence == libc::SEEK_HOLE).await {
                Ok(found) => reply.offset(found.cast_signed()),
                Err(e) if e.kind() == Kind::NotFound => reply.error(Errno::ENXIO),
                Err(e) => reply.error(errno_of(&e)),
            }
        });
    }
}
