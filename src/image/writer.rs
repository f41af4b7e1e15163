//! Writing a new backup: bytes at any offset, in any order, gathered into chunks that
//! the driver stores while the next ones are being written.

use super::buffer::{Buffer, Buffers};
use crate::driver::{Backup, BackupSink, Description};
use crate::error::{Error, Kind, Result};
use crate::task::cores;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

/// Chunks that are open at a time: programs that write out of order do so within a few
/// megabytes, so a chunk and its neighbours are enough.
const OPEN_CHUNKS: usize = 3;
/// Offsets in files are signed.
const LARGEST_IMAGE: u64 = i64::MAX as u64;

/// See the module's page.
pub struct ImageWriter {
    sink: Arc<dyn BackupSink>,
    buffers: Buffers,
    /// Writes that need not wait come from threads that know no runtime.
    runtime: Handle,
    state: Mutex<State>,
    /// The image's size, for who asks while a write is waiting.
    size: AtomicU64,
}

#[derive(Default)]
struct State {
    size: u64,
    open: BTreeMap<u64, OpenChunk>,
    storing: JoinSet<(u64, Result<()>)>,
    storing_chunks: Vec<u64>,
    /// The lengths of the chunks that the driver has.
    stored: BTreeMap<u64, u64>,
    /// A chunk could not be stored: nothing that was written since counts.
    failure: Option<Error>,
    /// Something has been written, or cut off, since it was last published.
    changed: bool,
    ever_written: bool,
    clock: u64,
}

struct OpenChunk {
    buffer: Buffer,
    changed: bool,
    used_at: u64,
    /// It was stored before: who changes one place in it may change another, so it is
    /// not stored again at once, though nothing is missing in it.
    reopened: bool,
}

impl ImageWriter {
    /// Writes into `sink`. Call it within the runtime.
    pub fn new(sink: Arc<dyn BackupSink>, buffers: Buffers) -> Self {
        Self {
            sink,
            buffers,
            runtime: Handle::current(),
            state: Mutex::default(),
            size: AtomicU64::new(0),
        }
    }

    /// The id that the backup will have.
    pub fn backup_id(&self) -> &str {
        self.sink.backup_id()
    }

    /// Size of the image so far, in bytes.
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// Cuts a range of the image into chunk number, offset in it and length.
    fn pieces(&self, offset: u64, length: u64) -> impl Iterator<Item = (u64, u64, usize)> + use<> {
        let chunk_size = self.sink.chunk_size();
        let end = offset + length;
        let mut at = offset;
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let within = at % chunk_size;
            let some = (chunk_size - within).min(end - at);
            let piece = (at / chunk_size, within, some as usize);
            at += some;
            Some(piece)
        })
    }

    fn check_range(offset: u64, length: u64) -> Result<()> {
        match offset.checked_add(length) {
            Some(end) if end <= LARGEST_IMAGE => Ok(()),
            _ => Err(Error::new(
                Kind::NoSpace,
                "write",
                "the image",
                "it would be too large",
            )),
        }
    }

    /// Whether the image may grow to `size`.
    fn admit(&self, state: &State, size: u64) -> Result<()> {
        match size <= state.size {
            true => Ok(()),
            false => self.sink.admit_size(size),
        }
    }

    /// Writes at once, if nothing has to be waited for; else `None`, and nothing was
    /// written.
    pub fn try_write(&self, offset: u64, bytes: &[u8]) -> Option<Result<()>> {
        let mut state = self.state.try_lock().ok()?;
        let length = bytes.len() as u64;
        if state.failure.is_some()
            || Self::check_range(offset, length).is_err()
            || self.admit(&state, offset + length).is_err()
        {
            return None;
        }
        self.reap_finished(&mut state);
        let mut pieces = self.pieces(offset, bytes.len() as u64);
        let (index, within, length) = pieces.next()?;
        if pieces.next().is_some() {
            return None;
        }
        let chunk_size = self.sink.chunk_size();
        // A write that may complete its chunk needs a free place to store it.
        if within + length as u64 == chunk_size && state.storing_chunks.len() >= cores() {
            return None;
        }
        if !state.open.contains_key(&index) {
            let simple = !state.storing_chunks.contains(&index)
                && !state.stored.contains_key(&index)
                && state.open.len() < OPEN_CHUNKS
                && Buffer::fits(&self.buffers, chunk_size);
            if !simple {
                return None;
            }
        }
        let written = self.open_new(&mut state, index).and_then(|()| {
            self.write_open(&mut state, index, within, bytes)?;
            self.grow(&mut state, offset + bytes.len() as u64);
            Ok(())
        });
        Some(Self::remember(&mut state, written))
    }

    /// Writes `bytes` at `offset`.
    ///
    /// # Errors
    /// Of this write, or of an earlier one whose chunk could not be stored.
    pub async fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        Self::check_range(offset, bytes.len() as u64)?;
        let mut state = self.state.lock().await;
        let written = self.write_locked(&mut state, offset, bytes).await;
        Self::remember(&mut state, written)
    }

    /// A change that failed may be half made: from then on nothing is published, so that
    /// no program is told of success that it has not had.
    fn remember(state: &mut State, changed: Result<()>) -> Result<()> {
        if let Err(e) = &changed {
            state.failure.get_or_insert_with(|| e.clone());
        }
        changed
    }

    async fn write_locked(&self, state: &mut State, offset: u64, bytes: &[u8]) -> Result<()> {
        self.admit(state, offset + bytes.len() as u64)?;
        let mut rest = bytes;
        for (index, within, length) in self.pieces(offset, bytes.len() as u64) {
            let Some((piece, behind)) = rest.split_at_checked(length) else {
                break;
            };
            rest = behind;
            self.open_chunk(state, index).await?;
            while state.storing_chunks.len() >= cores() {
                self.reap_one(state).await;
            }
            self.fail_if_failed(state)?;
            self.write_open(state, index, within, piece)?;
            self.grow(state, offset + (bytes.len() - rest.len()) as u64);
        }
        Ok(())
    }

    /// Reads what has been written so far; fewer bytes only at the end.
    ///
    /// # Errors
    /// Those of reading a chunk back.
    pub async fn read(&self, offset: u64, length: u64) -> Result<Vec<u8>> {
        let mut state = self.state.lock().await;
        let end = offset.saturating_add(length).min(state.size);
        let mut data = vec![0; usize::try_from(end.saturating_sub(offset)).unwrap_or(0)];
        let mut rest = data.as_mut_slice();
        for (index, within, length) in self.pieces(offset, rest.len() as u64) {
            let Some((piece, behind)) = rest.split_at_mut_checked(length) else {
                break;
            };
            rest = behind;
            let known = state.open.contains_key(&index)
                || state.stored.contains_key(&index)
                || state.storing_chunks.contains(&index);
            if known {
                self.open_chunk(&mut state, index).await?;
                if let Some(chunk) = state.open.get(&index) {
                    chunk.buffer.read(within, piece)?;
                }
            }
        }
        Ok(data)
    }

    /// Makes a range zero; the size of the image stays.
    ///
    /// # Errors
    /// As [`ImageWriter::write`].
    pub async fn zero(&self, range: Range<u64>) -> Result<()> {
        let mut state = self.state.lock().await;
        let zeroed = self.zero_locked(&mut state, range).await;
        Self::remember(&mut state, zeroed)
    }

    async fn zero_locked(&self, state: &mut State, range: Range<u64>) -> Result<()> {
        let end = range.end.min(state.size);
        let chunk_size = self.sink.chunk_size();
        for (index, within, length) in self.pieces(range.start, end.saturating_sub(range.start)) {
            self.wait_for(state, index).await?;
            let is_whole = within == 0
                && (length as u64 == chunk_size
                    || index * chunk_size + length as u64 == end && end == state.size);
            if is_whole {
                self.drop_chunk(state, index).await?;
            } else if state.open.contains_key(&index) || state.stored.contains_key(&index) {
                let zeros = vec![0; length.min(1 << 20)];
                let mut at = 0;
                while at < length {
                    let some = zeros.len().min(length - at);
                    let Some(zeros) = zeros.get(..some) else {
                        break;
                    };
                    // The piece before may have completed the chunk, and closed it.
                    self.open_chunk(state, index).await?;
                    self.write_open(state, index, within + at as u64, zeros)?;
                    at += some;
                }
            }
        }
        state.changed = true;
        Ok(())
    }

    /// Cuts the image off, or lets it end in zeros, at `size`.
    ///
    /// # Errors
    /// As [`ImageWriter::write`].
    pub async fn truncate(&self, size: u64) -> Result<()> {
        Self::check_range(size, 0)?;
        let mut state = self.state.lock().await;
        let cut = self.truncate_locked(&mut state, size).await;
        Self::remember(&mut state, cut)
    }

    async fn truncate_locked(&self, state: &mut State, size: u64) -> Result<()> {
        self.admit(state, size)?;
        if size < state.size {
            let chunk_size = self.sink.chunk_size();
            self.store_all(state).await?;
            let kept = size.div_ceil(chunk_size);
            let behind: Vec<u64> = state
                .open
                .range(kept..)
                .map(|(index, _)| *index)
                .chain(state.stored.range(kept..).map(|(index, _)| *index))
                .collect();
            for index in behind {
                self.drop_chunk(state, index).await?;
            }
            let within = size % chunk_size;
            let last = size / chunk_size;
            if within > 0
                && state
                    .stored
                    .get(&last)
                    .is_some_and(|length| *length > within)
            {
                self.open_chunk(state, last).await?;
                if let Some(chunk) = state.open.get_mut(&last) {
                    chunk.buffer.truncate(within)?;
                    chunk.changed = true;
                }
            }
        }
        state.changed |= size != state.size;
        state.size = size;
        self.size.store(size, Ordering::Release);
        Ok(())
    }

    /// Whether anything was ever written, or a size set.
    pub async fn is_untouched(&self) -> bool {
        let state = self.state.lock().await;
        !state.ever_written && state.size == 0
    }

    /// Whether anything was written, or cut off, since it was last published.
    pub async fn is_changed(&self) -> bool {
        self.state.lock().await.changed
    }

    /// Makes all that was written a finished, durable backup. `None` when nothing has
    /// changed since the last time.
    ///
    /// # Errors
    /// Those of storing it; the backup is then as it was published before, or not there.
    pub async fn publish(
        &self,
        description: &Description,
        even_unchanged: bool,
    ) -> Result<Option<Arc<Backup>>> {
        self.publish_if(description, even_unchanged, || true).await
    }

    /// The same, unless `is_due`, which is asked while nothing is being written, says no.
    ///
    /// # Errors
    /// As [`ImageWriter::publish`].
    pub async fn publish_if(
        &self,
        description: &Description,
        even_unchanged: bool,
        is_due: impl FnOnce() -> bool,
    ) -> Result<Option<Arc<Backup>>> {
        let mut state = self.state.lock().await;
        if !is_due() {
            return Ok(None);
        }
        self.fail_if_failed(&state)?;
        if !state.changed && !even_unchanged {
            return Ok(None);
        }
        self.fit_lengths(&mut state).await?;
        self.store_all(&mut state).await?;
        let backup = self.sink.publish(state.size, description).await?;
        state.changed = false;
        Ok(Some(backup))
    }

    /// Goes back to what was published last: removes what was stored since.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn revert(&self) -> Result<()> {
        let mut state = self.state.lock().await;
        state.open.clear();
        while !state.storing_chunks.is_empty() {
            self.reap_one(&mut state).await;
        }
        let reason = "what was written since it was published last could not be stored";
        let error = Error::new(Kind::Unavailable, "publish", "the backup", reason);
        state.failure.get_or_insert(error);
        self.sink.revert().await
    }

    /// Removes all of it from the store.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn discard(&self) -> Result<()> {
        let mut state = self.state.lock().await;
        state.open.clear();
        while !state.storing_chunks.is_empty() {
            self.reap_one(&mut state).await;
        }
        state.stored.clear();
        self.sink.discard().await
    }

    /// Nothing more will be written.
    pub fn seal(&self) {
        self.sink.seal();
    }

    fn fail_if_failed(&self, state: &State) -> Result<()> {
        state.failure.clone().map_or(Ok(()), Err)
    }

    fn grow(&self, state: &mut State, end: u64) {
        state.changed = true;
        state.ever_written = true;
        state.size = state.size.max(end);
        self.size.store(state.size, Ordering::Release);
    }

    /// The length that a chunk must have, as the image is now.
    fn length_of(&self, state: &State, index: u64) -> u64 {
        let chunk_size = self.sink.chunk_size();
        chunk_size.min(state.size.saturating_sub(index * chunk_size))
    }

    fn open_new(&self, state: &mut State, index: u64) -> Result<()> {
        state.clock += 1;
        let now = state.clock;
        if let Some(chunk) = state.open.get_mut(&index) {
            chunk.used_at = now;
            return Ok(());
        }
        let buffer = Buffer::new(&self.buffers, self.sink.chunk_size())?;
        state.open.insert(
            index,
            OpenChunk {
                buffer,
                changed: false,
                used_at: now,
                reopened: false,
            },
        );
        Ok(())
    }

    /// Opens a chunk, with what it held before.
    async fn open_chunk(&self, state: &mut State, index: u64) -> Result<()> {
        if !state.open.contains_key(&index) {
            self.wait_for(state, index).await?;
            while state.open.len() >= OPEN_CHUNKS {
                self.close_oldest(state).await?;
            }
            let chunk_size = self.sink.chunk_size();
            // Memory that chunks of our own will soon give back is worth waiting for.
            while !Buffer::fits(&self.buffers, chunk_size) && !state.storing_chunks.is_empty() {
                self.reap_one(state).await;
            }
            if state.stored.contains_key(&index)
                && let Some(data) = self.sink.load(index).await?
            {
                let buffer = Buffer::from_data(&self.buffers, chunk_size, &data)?;
                state.open.insert(
                    index,
                    OpenChunk {
                        buffer,
                        changed: false,
                        used_at: 0,
                        reopened: true,
                    },
                );
            }
        }
        self.open_new(state, index)
    }

    fn write_open(&self, state: &mut State, index: u64, within: u64, bytes: &[u8]) -> Result<()> {
        let chunk_size = self.sink.chunk_size();
        if let Some(chunk) = state.open.get_mut(&index) {
            chunk.buffer.write(within, bytes)?;
            chunk.changed = true;
            if !chunk.reopened && chunk.buffer.is_full(chunk_size) {
                self.begin_storing(state, index, chunk_size)?;
            }
        }
        Ok(())
    }

    /// Hands an open chunk to the driver.
    fn begin_storing(&self, state: &mut State, index: u64, length: u64) -> Result<()> {
        let Some(chunk) = state.open.remove(&index) else {
            return Ok(());
        };
        if !chunk.changed {
            return Ok(());
        }
        let (data, permits) = match chunk.buffer.into_data(length) {
            Ok(data) => data,
            // The chunk is gone, and must not be taken for one that was never written.
            Err(e) => return Self::remember(state, Err(e)),
        };
        let sink = Arc::clone(&self.sink);
        state.storing_chunks.push(index);
        state.stored.insert(index, length);
        let store = async move {
            let result = sink.store(index, data).await;
            drop(permits);
            (index, result)
        };
        state.storing.spawn_on(store, &self.runtime);
        Ok(())
    }

    async fn close_oldest(&self, state: &mut State) -> Result<()> {
        let oldest = state.open.iter().min_by_key(|(_, chunk)| chunk.used_at);
        let Some(index) = oldest.map(|(index, _)| *index) else {
            return Ok(());
        };
        while state.storing_chunks.len() >= cores() {
            self.reap_one(state).await;
        }
        let length = self.length_of(state, index);
        self.begin_storing(state, index, length)
    }

    fn landed(state: &mut State, index: u64, result: Result<()>) {
        state.storing_chunks.retain(|storing| *storing != index);
        if let Err(e) = result {
            state.stored.remove(&index);
            state.failure.get_or_insert(e);
        }
    }

    fn reap_finished(&self, state: &mut State) {
        while let Some(joined) = state.storing.try_join_next() {
            Self::reap(state, joined.map_err(|lost| lost.to_string()));
        }
    }

    async fn reap_one(&self, state: &mut State) {
        let joined = state.storing.join_next().await;
        let joined = joined.unwrap_or_else(|| Ok((u64::MAX, Ok(()))));
        Self::reap(state, joined.map_err(|lost| lost.to_string()));
    }

    /// A task that stored a chunk has ended, or was lost by a fault of the program. Which
    /// chunk was lost is not known, so all that have no task any more are.
    fn reap(state: &mut State, joined: Result<(u64, Result<()>), String>) {
        match joined {
            Ok((index, result)) => Self::landed(state, index, result),
            Err(lost) => {
                let reason = format!("a fault of the program: {lost}");
                let error = Error::new(Kind::Unavailable, "store", "a chunk", reason);
                state.failure.get_or_insert(error);
            }
        }
        if state.storing.is_empty() && !state.storing_chunks.is_empty() {
            let error = Error::new(Kind::Unavailable, "store", "a chunk", "its task was lost");
            state.failure.get_or_insert(error);
            state.storing_chunks.clear();
        }
    }

    async fn wait_for(&self, state: &mut State, index: u64) -> Result<()> {
        while state.storing_chunks.contains(&index) {
            self.reap_one(state).await;
        }
        self.fail_if_failed(state)
    }

    async fn drop_chunk(&self, state: &mut State, index: u64) -> Result<()> {
        self.wait_for(state, index).await?;
        state.open.remove(&index);
        if state.stored.remove(&index).is_some() {
            self.sink.remove(index).await?;
        }
        Ok(())
    }

    /// The chunk that was the last one when it was stored may not be it any more.
    async fn fit_lengths(&self, state: &mut State) -> Result<()> {
        let wrong: Vec<u64> = state
            .stored
            .iter()
            .filter(|(index, length)| **length != self.length_of(state, **index))
            .map(|(index, _)| *index)
            .collect();
        for index in wrong {
            self.open_chunk(state, index).await?;
            if let Some(chunk) = state.open.get_mut(&index) {
                chunk.changed = true;
            }
        }
        Ok(())
    }

    /// Stores all open chunks, and waits until all are stored.
    async fn store_all(&self, state: &mut State) -> Result<()> {
        while !state.open.is_empty() {
            self.close_oldest(state).await?;
        }
        while !state.storing_chunks.is_empty() {
            self.reap_one(state).await;
        }
        self.fail_if_failed(state)
    }
}
