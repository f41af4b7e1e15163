//! Files: opening, reading, writing, closing, and what can be set on them.

use super::attr::Attr;
use super::draft::Draft;
use super::folder::DirEntry;
use super::node::Node;
use super::{Tree, lock, not_found};
use crate::driver::{Backup, Change};
use crate::error::{Error, Kind, Result};
use crate::image::ImageReader;
use bytes::Bytes;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// The program, by its process id; 0 when it is not known.
    pub program: u32,
}

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// Reading alone.
    Read,
    /// Writing, or both.
    Write,
}

/// What a kernel may keep of a file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caching {
    /// Nothing: it changes.
    None,
    /// From now on everything, but nothing of what it has: that may be something else.
    Anew,
    /// Everything, also what it has: the content never changes.
    Keep,
}

/// An open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// The handle's number.
    pub handle: u64,
    /// What may be kept of the content.
    pub caching: Caching,
}

/// What stands behind a handle.
pub enum Handle {
    /// A finished backup, and its inode.
    Read(Arc<ImageReader>, u64),
    /// A backup that is being written, by who has this handle.
    Write(Arc<Draft>),
    /// The same, by somebody else or through another handle: this one reads.
    Follow(Arc<Draft>),
    /// A folder, as it was when it was opened.
    Folder(u64, Mutex<Arc<Vec<DirEntry>>>),
    /// A text that was made when it was opened.
    Text(Vec<u8>),
}

/// What setattr(2)'s relatives set. `None`: it stays.
#[derive(Debug, Clone, Copy, Default)]
pub struct SetAttr {
    /// A new size, by truncate or ftruncate.
    pub size: Option<u64>,
    /// A new modification time.
    pub mtime: Option<SystemTime>,
}

pub(super) fn sealed(op: &'static str, what: impl std::fmt::Display) -> Error {
    Error::new(
        Kind::Sealed,
        op,
        what.to_string(),
        "a finished backup is a record and never changes",
    )
    .advise("write a new file, or delete this one first")
}

fn is_folder(op: &'static str) -> Error {
    Error::new(Kind::IsDirectory, op, "a folder", "it is no file")
}

impl Tree {
    /// Opens a file.
    ///
    /// # Errors
    /// `Sealed` for writing to a finished backup; `Corrupt` when it cannot be read.
    pub async fn open(
        self: &Arc<Self>,
        ino: u64,
        mode: OpenMode,
        request: Request,
    ) -> Result<Opened> {
        let node = self.nodes.get(ino)?;
        let Node::Backup(backend, volume, id) = &node else {
            let text = self
                .text_of(&node)
                .await?
                .ok_or_else(|| is_folder("open"))?;
            let handle = self.keep_handle(Handle::Text(text));
            return Ok(Opened {
                handle,
                caching: Caching::None,
            });
        };
        if let Some(draft) = self.join_draft(*backend, volume, id, mode, request)? {
            let handle = self.keep_handle(match mode {
                OpenMode::Read => Handle::Follow(draft),
                OpenMode::Write => Handle::Write(draft),
            });
            return Ok(Opened {
                handle,
                caching: Caching::None,
            });
        }
        let backup = self.backup(*backend, volume, id).await?;
        let content = self
            .driver(*backend)?
            .open(&backup)
            .await
            .inspect_err(|e| tracing::error!("{e}"))?;
        let reader = ImageReader::new(content, &self.cache);
        lock(&self.readers).insert(ino, Arc::downgrade(&reader));
        // What a kernel keeps of an earlier opening may be of an earlier generation.
        let before = lock(&self.generations).insert(ino, backup.generation);
        let caching = match before == Some(backup.generation) {
            true => Caching::Keep,
            false => Caching::Anew,
        };
        let handle = self.keep_handle(Handle::Read(reader, ino));
        Ok(Opened { handle, caching })
    }

    /// Reads what is in memory; `None` when something has to be waited for.
    pub fn try_read(&self, handle: u64, offset: u64, length: u64) -> Option<Bytes> {
        match &*self.handle(handle).ok()? {
            Handle::Read(reader, _) => reader.try_read(offset, length),
            _ => None,
        }
    }

    /// Reads from an open file.
    ///
    /// # Errors
    /// `Corrupt` and those of the store.
    pub async fn read(&self, handle: u64, offset: u64, length: u64) -> Result<Vec<u8>> {
        match &*self.handle(handle)? {
            Handle::Read(reader, _) => reader.read(offset, length).await,
            Handle::Write(draft) | Handle::Follow(draft) => draft.writer.read(offset, length).await,
            Handle::Text(text) => {
                let clamp = |at: u64| usize::try_from(at).unwrap_or(text.len()).min(text.len());
                let range = clamp(offset)..clamp(offset.saturating_add(length));
                Ok(text.get(range).unwrap_or_default().to_vec())
            }
            Handle::Folder(..) => Err(is_folder("read")),
        }
    }

    /// Writes what needs no waiting; `None`, and nothing written, when it does.
    pub fn try_write(&self, handle: u64, offset: u64, bytes: &[u8]) -> Option<Result<()>> {
        match &*self.handle(handle).ok()? {
            Handle::Write(draft) => {
                let written = draft.writer.try_write(offset, bytes)?;
                draft.touch();
                Some(written.inspect_err(|e| draft.tell(e)))
            }
            _ => None,
        }
    }

    fn writable(&self, handle: u64) -> Result<Arc<Draft>> {
        match &*self.handle(handle)? {
            Handle::Write(draft) => Ok(Arc::clone(draft)),
            _ => Err(sealed("write to", "a file that is open for reading")),
        }
    }

    /// Writes to an open file.
    ///
    /// # Errors
    /// Of this write, or of an earlier one whose chunk could not be stored.
    pub async fn write(&self, handle: u64, offset: u64, bytes: &[u8]) -> Result<()> {
        let draft = self.writable(handle)?;
        draft.touch();
        let written = draft.writer.write(offset, bytes).await;
        written.inspect_err(|e| draft.tell(e))
    }

    /// Makes a range of an open file zero, and the file longer if it ends behind it and
    /// `grow` says so.
    ///
    /// # Errors
    /// As [`Tree::write`].
    pub async fn zero(
        &self,
        handle: u64,
        range: Range<u64>,
        punch: bool,
        grow: bool,
    ) -> Result<()> {
        let draft = self.writable(handle)?;
        draft.touch();
        let zero = async {
            if grow && range.end > draft.size() {
                draft.writer.truncate(range.end).await?;
            }
            match punch {
                true => draft.writer.zero(range).await,
                false => Ok(()),
            }
        };
        zero.await.inspect_err(|e| draft.tell(e))
    }

    /// A program closes its descriptor, or asks for what it wrote to be durable (`sync`).
    ///
    /// # Errors
    /// Whatever kept the backup from being stored.
    pub async fn flush(&self, handle: u64, sync: bool) -> Result<()> {
        let handle = self.handle(handle)?;
        let draft = match &*handle {
            Handle::Write(draft) => draft,
            // Who only reads finishes nothing by closing; sync(1) opens for reading, too.
            Handle::Follow(draft) if sync => draft,
            _ => return Ok(()),
        };
        let published = draft.publish(sync).await;
        published.inspect_err(|e| draft.tell(e))
    }

    /// The last descriptor of a handle is gone. Nobody can be told of a failure any more.
    pub async fn release(self: &Arc<Self>, handle: u64) {
        let Some(handle) = lock(&self.handles).remove(&handle) else {
            return;
        };
        match &*handle {
            Handle::Write(draft) | Handle::Follow(draft) => self.close_draft(draft).await,
            Handle::Read(_, ino) => {
                let mut readers = lock(&self.readers);
                if readers
                    .get(ino)
                    .is_some_and(|reader| reader.strong_count() <= 1)
                {
                    readers.remove(ino);
                }
            }
            Handle::Folder(..) | Handle::Text(_) => {}
        }
    }

    /// Sets size or time of a file.
    ///
    /// # Errors
    /// `Sealed` for the size of a finished backup; those of the driver.
    pub async fn set_attr(
        &self,
        ino: u64,
        handle: Option<u64>,
        set: SetAttr,
        request: Request,
    ) -> Result<Attr> {
        let Node::Backup(backend, volume, id) = self.nodes.get(ino)? else {
            // Modes and times of folders are accepted and not kept: `cp -a` sets them.
            return self.attr(ino).await;
        };
        let draft = self.draft(backend, &volume, &id);
        if let Some(size) = set.size {
            let by_handle = handle.and_then(|handle| self.writable(handle).ok());
            let draft = by_handle.or_else(|| {
                draft
                    .clone()
                    .filter(|draft| request.program != 0 && draft.program == request.program)
            });
            let draft = draft.ok_or_else(|| sealed("truncate", format!("backup {id}")))?;
            let cut = draft.writer.truncate(size).await;
            cut.inspect_err(|e| draft.tell(e))?;
            draft.touch();
            if !draft.is_open() {
                draft.publish(true).await?;
            }
        }
        if let Some(mtime) = set.mtime {
            let change = Change {
                modified: Some(mtime),
                ..Change::default()
            };
            self.change(backend, &volume, &id, change).await?;
        }
        self.attr(ino).await
    }

    /// Changes what is said of a backup, whether it is finished or still being written.
    pub(super) async fn change(
        &self,
        backend: usize,
        volume: &str,
        id: &str,
        change: Change,
    ) -> Result<()> {
        if let Some(draft) = self.draft(backend, volume, id) {
            return self.change_draft(&draft, change).await;
        }
        let backup = self.backup(backend, volume, id).await?;
        self.driver(backend)?.update(&backup, change).await?;
        Ok(())
    }

    /// The first data, or hole, at or behind `offset` of an open file.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn seek(&self, handle: u64, offset: u64, hole: bool) -> Result<u64> {
        let none = || not_found("data", "behind the end");
        match &*self.handle(handle)? {
            Handle::Read(reader, _) => reader.seek(offset, hole).await?.ok_or_else(none),
            Handle::Write(draft) | Handle::Follow(draft) => {
                let size = draft.size();
                (offset < size)
                    .then_some(if hole { size } else { offset })
                    .ok_or_else(none)
            }
            Handle::Text(text) => {
                let size = text.len() as u64;
                (offset < size)
                    .then_some(if hole { size } else { offset })
                    .ok_or_else(none)
            }
            Handle::Folder(..) => Err(is_folder("seek in")),
        }
    }

    /// How many bytes of a backup are data, where finding out costs nothing much: it is
    /// known, or the backup is open.
    pub(super) async fn known_data_bytes(&self, ino: u64, backup: &Backup) -> Option<u64> {
        if let Some(known) = backup
            .data_bytes
            .or_else(|| lock(&self.data_bytes).get(&ino).copied())
        {
            return Some(known);
        }
        let reader = lock(&self.readers)
            .get(&ino)
            .and_then(std::sync::Weak::upgrade)?;
        let found = reader.data_bytes().await.ok()?;
        lock(&self.data_bytes).insert(ino, found);
        Some(found)
    }
}
