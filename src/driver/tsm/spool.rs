//! The file in which an image is put together before it is sent, and the link by which it is
//! sent: the client names objects by their paths.
//!
//! Must not know the client.

use super::growth::sha256;
use super::stage::make_private;
use crate::driver::{ChunkData, is_zero};
use crate::error::{Error, Kind, Result};
use crate::task::blocking;
use bytes::Bytes;
use rustix::fs::FallocateFlags;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Below the folder of stages: what is being written.
pub const SPOOL: &str = ".spool";
/// How the image is cut up on its way into the file, in bytes.
pub const CHUNK: u64 = 4 << 20;
/// What is written at a time; so much that is zero becomes a hole.
const PIECE: usize = 256 << 10;

/// See the module's page. The file goes when this is dropped.
#[derive(Debug)]
pub struct Spool {
    path: PathBuf,
    file: Arc<File>,
    /// How long the chunks are that were stored; `None`: one that could not be.
    chunks: Mutex<BTreeMap<u64, Option<u64>>>,
}

impl Spool {
    /// A new file in the folder of stages. Blocks.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(staging: &Path, id: &str) -> Result<Self> {
        let folder = staging.join(SPOOL);
        let path = folder.join(id);
        let make = || {
            make_private(&folder)?;
            let mut options = File::options();
            options.read(true).write(true).create_new(true).mode(0o600);
            let file = options.open(&path)?;
            // Whoever finds it sees that somebody is at it.
            file.lock()?;
            Ok(file)
        };
        let file = make().map_err(|e: std::io::Error| {
            Error::io("make a spool file in", folder.display().to_string(), &e)
                .advise("set backup_tsm_staging_path to a folder that may be written to")
        })?;
        Ok(Self {
            path,
            file: Arc::new(file),
            chunks: Mutex::default(),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn chunks(&self) -> MutexGuard<'_, BTreeMap<u64, Option<u64>>> {
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a chunk into its place.
    ///
    /// # Errors
    /// `NoSpace`, and others of the system: it is lacking then.
    pub async fn store(&self, index: u64, data: ChunkData) -> Result<()> {
        let length = data.len();
        self.chunks().insert(index, None);
        self.write(index, Some(data), length.max(CHUNK)).await?;
        self.chunks().insert(index, Some(length));
        Ok(())
    }

    /// Forgets a chunk.
    ///
    /// # Errors
    /// Those of the system: it is lacking then.
    pub async fn remove(&self, index: u64) -> Result<()> {
        self.chunks().insert(index, None);
        self.write(index, None, CHUNK).await?;
        self.chunks().remove(&index);
        Ok(())
    }

    async fn write(&self, index: u64, data: Option<ChunkData>, length: u64) -> Result<()> {
        let (file, start) = (Arc::clone(&self.file), index * CHUNK);
        blocking(move || {
            // What was there before, and what is zero now, is a hole.
            let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&*file, punch, start, length.max(1))
                .map_err(|e| failed(&e.into()))?;
            let Some(data) = data.filter(|data| !matches!(data, ChunkData::Zero(_))) else {
                return Ok(());
            };
            let mut piece = vec![0; PIECE];
            let mut at = 0;
            while at < data.len() {
                let length = (data.len() - at).min(PIECE as u64);
                let Some(piece) = piece.get_mut(..length as usize) else {
                    break;
                };
                data.read_at(at, piece)?;
                if !is_zero(piece) {
                    let written = file.write_all_at(piece, start + at);
                    written.map_err(|e| failed(&e))?;
                }
                at += length;
            }
            Ok(())
        })
        .await
    }

    /// What a chunk holds.
    ///
    /// # Errors
    /// When it could not be stored, or cannot be read.
    pub async fn load(&self, index: u64) -> Result<Option<ChunkData>> {
        let found = self.chunks().get(&index).copied();
        let length = match found {
            None => return Ok(None),
            Some(None) => return Err(self.refuse(format!("chunk {index} could not be stored"))),
            Some(Some(length)) => length,
        };
        let file = Arc::clone(&self.file);
        blocking(move || {
            // Less than a chunk.
            let mut bytes = vec![0; length as usize];
            let mut filled = 0;
            // What is behind the last byte that was written is zero.
            while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
                match file.read_at(rest, index * CHUNK + filled as u64) {
                    Ok(0) => break,
                    Ok(some) => filled += some,
                    Err(e) => return Err(failed(&e)),
                }
            }
            Ok(Some(ChunkData::Memory(Bytes::from(bytes))))
        })
        .await
    }

    /// Makes an image of that size of it, durably: chunks that were never stored are zeros,
    /// and those behind its end are forgotten. Gives its sha256 in hexadecimal digits.
    ///
    /// # Errors
    /// `Invalid` when a chunk is lacking or too short; those of the system.
    pub async fn complete(&self, size: u64) -> Result<String> {
        self.check(size)?;
        let file = Arc::clone(&self.file);
        blocking(move || {
            let seal = || {
                file.set_len(size)?;
                file.sync_all()?;
                sha256(&file, size)
            };
            seal().map_err(|e| failed(&e))
        })
        .await
    }

    fn check(&self, size: u64) -> Result<()> {
        let mut chunks = self.chunks();
        chunks.split_off(&size.div_ceil(CHUNK));
        for (index, length) in &*chunks {
            let Some(length) = length else {
                return Err(self.refuse(format!("chunk {index} could not be stored")));
            };
            let expected = CHUNK.min(size - index * CHUNK);
            if *length != expected {
                let reason = format!("chunk {index} has {length} bytes instead of {expected}");
                return Err(self.refuse(reason));
            }
        }
        Ok(())
    }

    fn refuse(&self, reason: String) -> Error {
        let id = self.path.file_name().unwrap_or_default().display();
        Error::new(Kind::Invalid, "publish", format!("backup {id}"), reason)
    }

    /// Nobody needs what is in it any more.
    pub fn clear(&self) {
        self.unlink();
        self.chunks().clear();
        // Others need the room now, and it may be open for a while.
        if let Err(e) = self.file.set_len(0) {
            tracing::debug!("{}: {e}", self.path.display());
        }
    }

    /// Nothing more will be put into it.
    pub fn unlink(&self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.unlink();
    }
}

fn failed(e: &std::io::Error) -> Error {
    Error::io("write to", "the spool of what is to be sent", e).advise(
        "make room in backup_tsm_staging_path: a backup is there as a whole before it is sent",
    )
}

/// A link that goes, whatever happens, and its folder if nothing else is in it.
#[derive(Debug)]
pub struct Link(PathBuf);

impl Link {
    /// Makes it. Blocks.
    ///
    /// # Errors
    /// Those of the system.
    pub fn new(spool: &Path, path: &Path) -> Result<Self> {
        let make = || {
            let folder = path.parent().unwrap_or(Path::new("/"));
            // Who removes a link beside it may remove the folder.
            for _ in 0..100 {
                fs::create_dir_all(folder)?;
                match fs::hard_link(spool, path) {
                    Ok(()) => return Ok(Self(path.to_owned())),
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound && spool.exists() => {}
                    Err(e) => return Err(e),
                }
            }
            Err(std::io::ErrorKind::ResourceBusy.into())
        };
        make().map_err(|e| Error::io("link the spool as", path.display().to_string(), &e))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_file(&self.0) {
            tracing::warn!("the link {} is left: {e}", self.0.display());
        }
        if let Some(folder) = self.0.parent() {
            let _ = fs::remove_dir(folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(bytes: &[u8]) -> ChunkData {
        ChunkData::Memory(Bytes::copy_from_slice(bytes))
    }

    #[tokio::test]
    async fn what_could_not_be_stored_is_no_part_of_an_image() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::new(folder.path(), "b").unwrap();
        spool.store(0, chunk(&[1; 100])).await.unwrap();
        // It ends before its end.
        let short = Arc::new(tempfile::tempfile().unwrap());
        let lost = spool.store(0, ChunkData::Spooled(short, 100)).await;
        assert!(lost.is_err());
        assert!(spool.load(0).await.is_err());
        let error = spool.complete(100).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        spool.store(0, chunk(&[2; 100])).await.unwrap();
        assert_eq!(spool.complete(101).await.unwrap_err().kind(), Kind::Invalid);
        spool.complete(100).await.unwrap();
        assert_eq!(fs::read(spool.path()).unwrap(), [2; 100]);
        // What is behind the end is forgotten, and zero when it comes back.
        spool.complete(0).await.unwrap();
        spool.complete(50).await.unwrap();
        assert_eq!(fs::read(spool.path()).unwrap(), [0; 50]);
        spool.clear();
        assert!(!spool.path().exists());
    }
}
