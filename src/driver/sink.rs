//! A backup in the making, as a driver takes it: chunk by chunk, in any order.

use super::Backup;
use crate::error::{Error, Result};
use crate::format::Digest;
use async_trait::async_trait;
use bytes::Bytes;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

/// The data of a chunk.
#[derive(Debug, Clone)]
pub enum ChunkData {
    /// That many zero bytes.
    Zero(u64),
    /// Bytes in memory.
    Memory(Bytes),
    /// The first bytes of a spool file, that many.
    Spooled(Arc<File>, u64),
    /// What a [`Sieve`] has left of it.
    Sieved(Arc<Sieved>),
}

/// What tells which blocks of a chunk have changed, so that who reads them need not keep
/// the others.
#[derive(Debug, Clone)]
pub struct Sieve {
    /// Size of a block in bytes; the last one of the image may be shorter.
    pub block_size: u64,
    /// The digests of the blocks as they were, from the chunk's first on. A block behind
    /// them has changed.
    pub digests: Vec<Digest>,
}

/// A chunk of which only the changed blocks are left.
#[derive(Debug)]
pub struct Sieved {
    /// Length of the whole chunk, in bytes.
    pub length: u64,
    /// The digests of all of its blocks, as they are; none where they were not asked for
    /// ([`BackupSink::takes_changed_ranges`]).
    pub digests: Vec<Digest>,
    /// Runs of what has changed, as long as can be: where each begins in the chunk, and what
    /// is in it.
    pub runs: Vec<(u64, Bytes)>,
}

impl Sieved {
    /// A part of what is left.
    pub fn part(&self, range: &Range<u64>) -> Option<Bytes> {
        let index = self
            .runs
            .partition_point(|(start, _)| *start <= range.start);
        let (start, bytes) = self.runs.get(index.checked_sub(1)?)?;
        let within = range.start - start..range.end.checked_sub(*start)?;
        let fits = within.start <= within.end && within.end <= bytes.len() as u64;
        fits.then(|| bytes.slice(within.start as usize..within.end as usize))
    }
}

impl ChunkData {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Zero(length) | Self::Spooled(_, length) => *length,
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Sieved(sieved) => sieved.length,
        }
    }

    /// Whether there are no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `target` from `offset` on; all of it must lie within the chunk. Blocks.
    ///
    /// # Errors
    /// Those of reading the spool file.
    pub fn read_at(&self, offset: u64, target: &mut [u8]) -> Result<()> {
        match self {
            Self::Zero(_) => target.fill(0),
            Self::Memory(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let end = start.saturating_add(target.len());
                let Some(from) = bytes.get(start..end) else {
                    return Err(Error::corrupt("read", "a chunk buffer", "beyond its end"));
                };
                target.copy_from_slice(from);
            }
            Self::Sieved(sieved) => {
                let range = offset..offset.saturating_add(target.len() as u64);
                let Some(from) = sieved.part(&range) else {
                    return Err(Error::corrupt(
                        "read",
                        "a chunk buffer",
                        "it has not changed",
                    ));
                };
                target.copy_from_slice(&from);
            }
            Self::Spooled(file, _) => file
                .read_exact_at(target, offset)
                .map_err(|e| Error::io("read", "the spool", &e))?,
        }
        Ok(())
    }
}

/// What a user says of a backup.
#[derive(Debug, Clone)]
pub struct Description {
    /// The name of the file that was written.
    pub name: String,
    /// The user's words.
    pub description: Option<String>,
    /// Modification time, where a program set one.
    pub modified: Option<SystemTime>,
}

/// A backup that is being written. Chunks may be stored at the same time, but no two
/// calls for the same chunk.
#[async_trait]
pub trait BackupSink: Send + Sync {
    /// The id that the backup will have.
    fn backup_id(&self) -> &str;

    /// Size of every chunk but the last, in bytes. Chunk `i` begins at `i` times that.
    fn chunk_size(&self) -> u64;

    /// The backup that this one is an increment on, as far as is known by now.
    fn parent_id(&self) -> Option<String> {
        None
    }

    /// Whether a chunk may be stored as [`ChunkData::Sieved`] without digests: only its runs
    /// may differ from what the parent has there, and may begin and end anywhere. It needs a
    /// parent, and is then asked for no sieve.
    fn takes_changed_ranges(&self) -> bool {
        false
    }

    /// Whether the image may be of `size` bytes, as far as is known by now.
    ///
    /// # Errors
    /// `Quota`, `NoSpace`.
    fn admit_size(&self, size: u64) -> Result<()>;

    /// Takes all of a block device as it is, where the driver has a way of its own to do
    /// that. `false`: it has none, and what is on it is to be stored.
    ///
    /// # Errors
    /// When it has one, and it cannot be used.
    async fn take_device(&self, _device: &Path) -> Result<bool> {
        Ok(false)
    }

    /// What tells which blocks of chunk `index` have changed, where not all of them are to
    /// be stored.
    ///
    /// # Errors
    /// Those of the store.
    async fn sieve(&self, _index: u64) -> Result<Option<Sieve>> {
        Ok(None)
    }

    /// Stores chunk `index`, in place of what it held. Durable when it returns, though
    /// no part of a listed backup before [`BackupSink::publish`].
    async fn store(&self, index: u64, data: ChunkData) -> Result<()>;

    /// What chunk `index` holds: what was stored last. Chunks that never were hold
    /// nothing.
    async fn load(&self, index: u64) -> Result<Option<ChunkData>>;

    /// Forgets chunk `index`.
    async fn remove(&self, index: u64) -> Result<()>;

    /// Makes an image of `size` bytes out of the chunks (those that were never stored
    /// are zeros, and the last one must be as long as `size` says) and lists it as a
    /// finished backup. When it returns, all of it is durable. It may be called again
    /// after further changes.
    async fn publish(&self, size: u64, description: &Description) -> Result<Arc<Backup>>;

    /// Removes what was stored since the last [`BackupSink::publish`], and nothing else:
    /// Cinder refuses to restore a backup beside which it finds a chunk too many.
    async fn revert(&self) -> Result<()>;

    /// Removes everything that was stored, published or not.
    async fn discard(&self) -> Result<()>;

    /// Nothing more will be stored: others may build on what was published.
    fn seal(&self);

    /// Nobody wants what is being published any more, or will be: where that takes long, it
    /// fails soon, and can be discarded. Elsewhere it goes on.
    fn break_off(&self) {}
}
