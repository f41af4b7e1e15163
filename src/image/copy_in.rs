//! A whole image at once, from wherever it is into a backup: on all cores, within
//! the memory budget, and without reading its holes.

mod changes;

use super::buffer::Buffers;
use crate::budget::Permit;
use crate::driver::{BackupSink, ChunkData, Original, Progress, is_zero};
use crate::error::{Error, Kind, Result};
use crate::spool;
use crate::task::{blocking, cores};
use bytes::Bytes;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::task::JoinSet;

/// What all tasks of a copy share.
struct Copy {
    original: Arc<dyn Original>,
    sink: Arc<dyn BackupSink>,
    buffers: Buffers,
    progress: Arc<dyn Progress>,
    stop: Arc<AtomicBool>,
    /// Memory for chunks; without, they go by way of the spool.
    pool: Option<Arc<Pool>>,
}

/// Hands all of `original` to `sink`. When it fails, nothing is under way any more.
///
/// # Errors
/// Those of reading it and of storing the chunks; `Unavailable` once `stop` is set.
pub async fn copy_in(
    original: Arc<dyn Original>,
    sink: &Arc<dyn BackupSink>,
    buffers: &Buffers,
    progress: &Arc<dyn Progress>,
    stop: &Arc<AtomicBool>,
) -> Result<()> {
    let (size, chunk_size) = (original.size(), sink.chunk_size().max(1));
    let (pool, at_once) = Pool::new(buffers, chunk_size.min(size));
    let copy = Arc::new(Copy {
        original,
        sink: Arc::clone(sink),
        buffers: buffers.clone(),
        progress: Arc::clone(progress),
        stop: Arc::clone(stop),
        pool: pool.map(Arc::new),
    });
    let mut tasks = JoinSet::new();
    let mut chunks = 0..size.div_ceil(chunk_size);
    let mut failure = None;
    loop {
        while tasks.len() < at_once
            && failure.is_none()
            && let Some(index) = chunks.next()
        {
            let start = index * chunk_size;
            let copy = Arc::clone(&copy);
            tasks.spawn(copy.chunk(index, start, size.min(start + chunk_size)));
        }
        match tasks.join_next().await {
            None => return failure.map_or(Ok(()), Err),
            Some(Ok(Ok(()))) => {}
            Some(Ok(Err(e))) => drop(failure.get_or_insert(e)),
            Some(Err(lost)) => {
                let reason = format!("a fault of the program: {lost}");
                let error = Error::new(Kind::Unavailable, "store", "a chunk", reason);
                failure.get_or_insert(error);
            }
        }
    }
}

impl Copy {
    async fn chunk(self: Arc<Self>, index: u64, start: u64, end: u64) -> Result<()> {
        let sieve = match &self.pool {
            Some(_) => self.sink.sieve(index).await?,
            None => None,
        };
        let in_ranges = self.pool.is_some() && self.sink.takes_changed_ranges();
        let copy = Arc::clone(&self);
        let read = move || {
            if let Some(sieve) = sieve {
                return copy.read_changes(&sieve, start, end);
            }
            let ranges = match in_ranges {
                true => copy.read_changed_ranges(start, end)?,
                false => None,
            };
            ranges.map_or_else(|| copy.read(start, end), Ok)
        };
        let data = blocking(read).await?;
        self.fail_if_stopped()?;
        self.sink.store(index, data).await?;
        // Half of each byte's work is reading it, and half is storing it: so the bar
        // moves on while a large chunk is compressed, and is full when all is done.
        self.progress.advance((end - start).div_ceil(2));
        Ok(())
    }

    fn fail_if_stopped(&self) -> Result<()> {
        match self.stop.load(Ordering::Acquire) {
            false => Ok(()),
            true => {
                let reason = "it was interrupted";
                let name = self.original.name();
                Err(Error::new(Kind::Unavailable, "read", name, reason))
            }
        }
    }

    /// A chunk of the image.
    fn read(&self, start: u64, end: u64) -> Result<ChunkData> {
        let read = match (&self.pool, self.original.next(start, false)?) {
            (_, first) if first >= end => {
                self.progress.advance((end - start) / 2);
                return Ok(ChunkData::Zero(end - start));
            }
            (Some(pool), _) => self.read_to_memory(pool, start, end)?,
            (None, _) => self.read_to_spool(start, end)?,
        };
        // What rounding has left out.
        Ok(read.unwrap_or(ChunkData::Zero(end - start)))
    }

    fn read_to_memory(&self, pool: &Arc<Pool>, start: u64, end: u64) -> Result<Option<ChunkData>> {
        let mut lent = pool.lend((end - start) as usize);
        let mut zeros_from = 0;
        self.pieces(start, end, |at, length| {
            let from = (at - start) as usize;
            let to = from + length as usize;
            if let Some(hole) = lent.bytes.get_mut(zeros_from..from) {
                hole.fill(0);
            }
            zeros_from = to;
            match lent.bytes.get_mut(from..to) {
                Some(target) => self.original.read_at(at, target),
                None => Ok(()),
            }
        })?;
        let length = lent.length;
        if let Some(hole) = lent.bytes.get_mut(zeros_from..length) {
            hole.fill(0);
        }
        let is_data = !is_zero(lent.as_ref());
        Ok(is_data.then(|| ChunkData::Memory(Bytes::from_owner(lent))))
    }

    fn read_to_spool(&self, start: u64, end: u64) -> Result<Option<ChunkData>> {
        let file = spool::file(&self.buffers.spool_path)?;
        file.set_len(end - start).map_err(|e| spool::error(&e))?;
        let mut piece = vec![0; self.original.piece().min(end - start) as usize];
        let mut is_data = false;
        self.pieces(start, end, |at, length| {
            let Some(piece) = piece.get_mut(..length as usize) else {
                return Ok(());
            };
            self.original.read_at(at, piece)?;
            if is_zero(piece) {
                return Ok(());
            }
            is_data = true;
            file.write_all_at(piece, at - start)
                .map_err(|e| spool::error(&e))
        })?;
        Ok(is_data.then(|| ChunkData::Spooled(Arc::new(file), end - start)))
    }

    /// Calls `read` for each piece of the data between `start` and `end`, in order, and
    /// not for holes.
    fn pieces(
        &self,
        start: u64,
        end: u64,
        mut read: impl FnMut(u64, u64) -> Result<()>,
    ) -> Result<()> {
        let (mut at, mut told) = (start, start);
        loop {
            at = self.original.next(at, false)?;
            if at >= end {
                break;
            }
            let hole = self.original.next(at, true)?.min(end);
            while at < hole {
                self.fail_if_stopped()?;
                let length = self.original.piece().min(hole - at);
                read(at, length)?;
                at += length;
                self.progress.advance(at / 2 - told / 2);
                told = at;
            }
        }
        // With the rest that is told of once it is stored, this makes all of it.
        let (read, all) = (told / 2 - start / 2, (end - start) / 2);
        self.progress.advance(all.saturating_sub(read));
        Ok(())
    }
}

/// Memory for chunks that is used over and over: fresh memory costs a tenth of what
/// hashing it does.
struct Pool {
    chunk: usize,
    free: Mutex<Vec<Vec<u8>>>,
    _permit: Permit,
}

/// A chunk's memory, which goes back to the pool.
struct Lent {
    bytes: Vec<u8>,
    length: usize,
    pool: Arc<Pool>,
}

impl Pool {
    /// For chunks of that many bytes, and how many may be under way at a time.
    fn new(buffers: &Buffers, chunk: u64) -> (Option<Self>, usize) {
        let chunk = chunk.max(1);
        // Each that is being compressed needs the same again, and one is being read.
        let fit = buffers.budget.total() / chunk;
        let at_once = fit.div_ceil(2).clamp(1, cores() as u64 + 1);
        let pool = (fit >= 2)
            .then(|| buffers.budget.permit(at_once * chunk))
            .flatten()
            .map(|permit| Self {
                chunk: chunk as usize,
                free: Mutex::default(),
                _permit: permit,
            });
        match pool {
            Some(pool) => (Some(pool), at_once as usize),
            None => (None, cores()),
        }
    }

    fn free(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Memory for a chunk of `length` bytes; what is in it is of no meaning.
    fn lend(self: &Arc<Self>, length: usize) -> Lent {
        let free = self.free().pop();
        Lent {
            bytes: free.unwrap_or_else(|| vec![0; self.chunk]),
            length: length.min(self.chunk),
            pool: Arc::clone(self),
        }
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        self.pool.free().push(bytes);
    }
}
