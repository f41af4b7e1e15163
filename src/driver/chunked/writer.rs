//! A backup in the making, in Cinder's chunked format.
//!
//! A chunk of a full backup becomes one object, and of an incremental one each run of
//! blocks that are not those of its parent. Order of writing, as Cinder's: objects,
//! `_sha256file`, `_metadata` (see `publish`). A chunk that is written again before the
//! backup was ever published takes the place of the old one; afterwards its objects get
//! new numbers, and the old ones go once the metadata that names them is gone.

use super::disk_format::disk_format;
use super::encode::{Hashed, Packed, hash, pack};
use super::numbers::Numbers;
use super::parent::Parent;
use super::writing::{WritingSign, begin};
use super::{Shared, delete_objects, missing_is_fine};
use crate::codec::Codec;
use crate::driver::{Backup, BackupSink, Basis, ChunkData, Description, Sieve};
use crate::error::{Error, Kind, Result};
use crate::format::{
    BackupName, DIGEST_BYTES, LARGEST_METADATA, Layout, ObjectEntry, Timestamp, stamp,
};
use crate::spool;
use crate::store::Body;
use crate::task::blocking;
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::iter;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, MutexGuard, PoisonError};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

/// Chunks of an incremental backup are no larger: what has not changed is then known, and
/// forgotten, as soon as it has come, and the cores can share the work. It is what Cinder
/// has for Swift.
const LARGEST_INCREMENTAL: u64 = 52_428_800;
/// Metadata that names more objects than this would be too large to be read.
const MOST_CHUNKS: u64 = LARGEST_METADATA / 256;
/// Of these only some become objects; but all are kept in mind.
const MOST_INCREMENTAL_CHUNKS: u64 = 2 << 20;
/// Objects of one chunk that are stored at a time: the disk makes many small ones durable
/// in the time of one.
const PUTS: usize = 16;

/// See the module's page.
pub struct ChunkedSink {
    pub(super) shared: Arc<Shared>,
    pub(super) name: BackupName,
    pub(super) created_at: Timestamp,
    pub(super) chunk_size: u64,
    pub(super) parent: Option<Parent>,
    /// It may become a full backup, where it cannot be an incremental one.
    pub(super) may_be_full: bool,
    pub(super) state: Mutex<State>,
    /// The digests of all chunks, at fixed places: in memory they would be a gigabyte
    /// for a volume of a terabyte.
    pub(super) digests: Arc<File>,
    /// Tells others that it is being written.
    sign: std::sync::Mutex<Option<WritingSign>>,
    /// That its image is not raw is said once.
    told_format: std::sync::Once,
}

/// What is in the store of a backup in the making.
#[derive(Default)]
pub(super) struct State {
    pub(super) chunks: BTreeMap<u64, Chunk>,
    /// An object of zeros, packed once.
    zeros: Option<Arc<Packed>>,
    pub(super) numbers: Numbers,
    /// Chunks that could not be stored when it was last tried.
    pub(super) lacking: BTreeSet<u64>,
    /// It was given up to be an incremental backup.
    pub(super) on_its_own: bool,
    /// Metadata was stored, or may have been.
    pub(super) published: bool,
    /// How often it has been published.
    pub(super) generation: u64,
    /// The list of hashes that was published last.
    pub(super) list: Option<Body>,
    /// It is in the store.
    pub(super) has_list: bool,
    /// Numbers of the objects that the metadata names which was published last.
    pub(super) live: BTreeSet<u64>,
    /// Objects that only metadata which is about to be replaced names.
    pub(super) obsolete: BTreeSet<u64>,
}

impl State {
    /// Metadata is about to name objects of these numbers.
    pub(super) fn use_up(&mut self, named: &BTreeSet<u64>) {
        named
            .iter()
            .for_each(|number| self.numbers.publish(*number));
    }
}

/// Which numbers the objects of a chunk get that is stored once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Numbering {
    /// Those that it has, unless they are part of a published backup.
    Again,
    /// None that were ever given to anything.
    Fresh,
}

/// A chunk that was stored.
#[derive(Debug, Clone)]
pub(super) struct Chunk {
    /// Length of its data, in bytes.
    pub(super) length: u64,
    /// Bytes in hashed blocks that are not all zero.
    pub(super) data_bytes: u64,
    /// Its objects, in order. What none of them holds is as it is in the parent.
    pub(super) objects: Vec<ObjectEntry>,
    /// Bytes that they take in the store.
    pub(super) stored: u64,
}

impl Chunk {
    /// Numbers of its objects.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        self.objects.iter().map(|object| object.number)
    }
}

impl ChunkedSink {
    /// Begins a backup of a volume.
    ///
    /// # Errors
    /// `Invalid` when it cannot be built on anything and must; those of the store.
    pub(super) async fn new(shared: &Arc<Shared>, volume_id: &str, basis: Basis) -> Result<Self> {
        let options = &shared.options;
        let backup_id = new_id();
        let (parent, sign) = begin(shared, &backup_id, volume_id, basis).await?;
        let before = parent.as_ref().and_then(|parent| parent.backup.created_at);
        let created_at = Timestamp::now_after(before);
        let stamp = stamp(created_at);
        let name = match options.layout {
            Layout::Posix => {
                BackupName::new_posix(options.container.as_deref(), volume_id, &backup_id, &stamp)?
            }
            Layout::Swift => {
                let container = options.container.as_deref().unwrap_or("volumebackups");
                BackupName::new_swift(container, "nova", volume_id, &backup_id, &stamp)
            }
        };
        Ok(Self {
            digests: Arc::new(spool::file(&shared.resources.spool_path)?),
            shared: Arc::clone(shared),
            name,
            created_at,
            chunk_size: match parent {
                Some(_) => incremental_chunk(options.object_size, options.sha_block_size),
                None => options.object_size,
            },
            parent,
            may_be_full: basis == Basis::Configured,
            state: Mutex::default(),
            sign: std::sync::Mutex::new(Some(sign)),
            told_format: std::sync::Once::new(),
        })
    }

    /// Others may have built on it.
    fn refuse_if_sealed(&self) -> Result<()> {
        if self.sign().is_some() {
            return Ok(());
        }
        let subject = format!("backup {}", self.name.backup_id);
        let reason = "a finished backup is a record and never changes";
        Err(Error::new(Kind::Sealed, "write to", subject, reason))
    }

    fn sign(&self) -> MutexGuard<'_, Option<WritingSign>> {
        self.sign.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stand_alone(&self) {
        if let Some(sign) = self.sign().as_mut() {
            sign.stand_alone();
        }
    }

    /// The parent, as long as it is to have one.
    pub(super) fn parent_of(&self, state: &State) -> Option<&Parent> {
        self.parent.as_ref().filter(|_| !state.on_its_own)
    }

    async fn parent_now(&self) -> Option<&Parent> {
        self.parent_of(&*self.state.lock().await)
    }

    /// Stores a chunk: whatever of it is not as in `parent`.
    async fn store_data(
        &self,
        index: u64,
        data: ChunkData,
        parent: Option<&Parent>,
        numbering: Numbering,
    ) -> Result<()> {
        let sha = self.shared.options.sha_block_size;
        let length = data.len();
        self.warn_if_not_raw(index, &data);
        let (data, hashed) = blocking(move || {
            let hashed = hash(&data, sha)?;
            Ok((data, hashed))
        })
        .await?;
        let runs: Vec<Range<u64>> = match (parent, &data) {
            // Found when it was read.
            (Some(_), ChunkData::Sieved(sieved)) => {
                let range = |(start, bytes): &(u64, Bytes)| *start..start + bytes.len() as u64;
                sieved.runs.iter().map(range).collect()
            }
            (Some(parent), _) => {
                let first = index * (self.chunk_size / sha);
                let id = &self.name.backup_id;
                let runs = parent.changes(id, first, &hashed.digests).await?;
                let bytes = |run: Range<u64>| run.start * sha..(run.end * sha).min(length);
                runs.into_iter().map(bytes).collect()
            }
            (None, _) => iter::once(0..length).collect(),
        };
        let numbers = {
            let mut state = self.state.lock().await;
            let state = &mut *state;
            let current = state.chunks.get(&index).map(|chunk| chunk.numbers());
            let current: Vec<u64> = current.into_iter().flatten().collect();
            // Taken before the objects are there, so that nobody else takes them.
            let numbers = match numbering {
                Numbering::Fresh => state.numbers.take(index, runs.len(), &[], None),
                Numbering::Again => {
                    let preferred = parent.is_none().then_some(index + 1);
                    state.numbers.take(index, runs.len(), &current, preferred)
                }
            };
            // Should they not all be stored, those that are belong to nothing.
            let new = numbers.iter().filter(|number| !current.contains(number));
            state.obsolete.extend(new);
            numbers
        };
        self.keep_digests(index, &hashed).await?;
        let runs = numbers.iter().copied().zip(runs).collect();
        let stored = self.store_runs(index, data, runs).await?;
        let mut state = self.state.lock().await;
        state.lacking.remove(&index);
        let chunk = Chunk {
            length,
            data_bytes: hashed.data_bytes,
            stored: stored.iter().map(|(_, stored)| stored).sum(),
            objects: stored.into_iter().map(|(entry, _)| entry).collect(),
        };
        if let Some(old) = state.chunks.insert(index, chunk) {
            state.obsolete.extend(old.numbers());
        }
        numbers.iter().for_each(|number| {
            state.obsolete.remove(number);
        });
        Ok(())
    }

    async fn keep_digests(&self, index: u64, hashed: &Hashed) -> Result<()> {
        let (file, at) = (Arc::clone(&self.digests), self.digest_at(index, 0));
        let digests = hashed.digests.as_flattened().to_vec();
        blocking(move || {
            file.write_all_at(&digests, at)
                .map_err(|e| spool::error(&e))
        })
        .await
    }

    /// Stores ranges of a chunk as objects of these numbers. Gives for each its entry, and
    /// how much it takes in the store.
    /// It is kept byte for byte, whatever it is.
    fn warn_if_not_raw(&self, index: u64, data: &ChunkData) {
        let Some(format) = (index == 0).then(|| disk_format(data)).flatten() else {
            return;
        };
        self.told_format.call_once(|| {
            tracing::warn!(
                "backup {} of volume {}: the image is a {format} file, and is kept as it is, byte \
                 for byte; but Cinder expects a raw one, and would put the file itself onto a \
                 volume: convert it first (qemu-img convert -O raw) if Cinder is to restore it",
                self.name.backup_id,
                self.name.volume_id
            );
        });
    }

    async fn store_runs(
        &self,
        index: u64,
        data: ChunkData,
        runs: Vec<(u64, Range<u64>)>,
    ) -> Result<Vec<(ObjectEntry, u64)>> {
        let mut stored = Vec::with_capacity(runs.len());
        let mut puts: JoinSet<Result<()>> = JoinSet::new();
        let mut outcome = Ok(());
        for (number, run) in runs {
            let packed = match self.pack(&data, run).await {
                Ok(packed) => packed,
                Err(e) => {
                    outcome = Err(e);
                    break;
                }
            };
            stored.push((self.entry(index, number, &packed), packed.body.len()));
            let (store, container) = (Arc::clone(&self.shared.store), self.name.container.clone());
            let (object, body) = (self.name.chunk(number), packed.body.clone());
            puts.spawn(async move { store.put(&container, &object, body).await });
            while puts.len() >= PUTS && outcome.is_ok() {
                outcome = join_put(&mut puts).await;
            }
            if outcome.is_err() {
                break;
            }
        }
        // After a failure, too: none may land when its number stands for another object, or
        // when all was cleared away.
        while !puts.is_empty() {
            let put = join_put(&mut puts).await;
            outcome = outcome.and(put);
        }
        outcome.map(|()| stored)
    }

    fn entry(&self, index: u64, number: u64, packed: &Packed) -> ObjectEntry {
        let compression = match packed.codec {
            Codec::None => "none".to_owned(),
            _ => self.shared.options.compression.to_ascii_lowercase(),
        };
        ObjectEntry {
            number,
            offset: index * self.chunk_size + packed.offset,
            length: packed.length,
            codec: packed.codec,
            compression,
            md5: packed.md5,
        }
    }

    async fn pack(&self, data: &ChunkData, run: Range<u64>) -> Result<Arc<Packed>> {
        let is_zeros = matches!(data, ChunkData::Zero(_)) && run.start == 0;
        if is_zeros {
            let known = self.state.lock().await.zeros.clone();
            if let Some(known) = known.filter(|known| known.length == run.end) {
                return Ok(known);
            }
        }
        let (shared, data) = (Arc::clone(&self.shared), data.clone());
        let work = move || pack(&shared.resources, &data, run, shared.options.codec);
        let packed = Arc::new(blocking(work).await?);
        if is_zeros {
            self.state.lock().await.zeros = Some(Arc::clone(&packed));
        }
        Ok(packed)
    }

    /// Where the digest of a block of a chunk stands in the file of digests.
    pub(super) fn digest_at(&self, index: u64, block: u64) -> u64 {
        let per_chunk = self.chunk_size / self.shared.options.sha_block_size;
        (index * per_chunk + block) * DIGEST_BYTES as u64
    }

    /// Stores zeros where nothing was written, and forgets what lies behind the end.
    async fn complete(&self, size: u64) -> Result<()> {
        let count = size.div_ceil(self.chunk_size);
        self.check_chunks(count, size)?;
        let mut state = self.state.lock().await;
        let behind = state.chunks.split_off(&count);
        let behind = behind.values().flat_map(Chunk::numbers);
        state.obsolete.extend(behind);
        state.lacking.split_off(&count);
        let refuse = |reason: String| {
            let subject = format!("backup {}", self.name.backup_id);
            Err(Error::new(Kind::Invalid, "publish", subject, reason))
        };
        if let Some(index) = state.lacking.first() {
            return refuse(format!("chunk {index} could not be stored"));
        }
        let mut missing = Vec::new();
        for index in 0..count {
            let expected = self.chunk_size.min(size - index * self.chunk_size);
            match state.chunks.get(&index) {
                Some(chunk) if chunk.length == expected => {}
                // Zeros that were filled in here, when the image was of another size.
                Some(chunk) if chunk.data_bytes == 0 => missing.push((index, expected)),
                None => missing.push((index, expected)),
                Some(chunk) => {
                    let length = chunk.length;
                    return refuse(format!(
                        "chunk {index} has {length} bytes instead of {expected}"
                    ));
                }
            }
        }
        let parent = self.parent_of(&state).map(|parent| parent.backup.size);
        drop(state);
        if let Some(parent) = parent.filter(|parent| size < *parent) {
            self.give_up_parent(size, parent).await?;
        }
        let parent = self.parent_now().await;
        for (index, length) in missing {
            let zeros = ChunkData::Zero(length);
            self.store_data(index, zeros, parent, Numbering::Again)
                .await?;
        }
        Ok(())
    }

    fn check_chunks(&self, count: u64, size: u64) -> Result<()> {
        let most = match self.parent {
            Some(_) => MOST_INCREMENTAL_CHUNKS,
            None => MOST_CHUNKS,
        };
        if count <= most {
            return Ok(());
        }
        let subject = format!("backup {}", self.name.backup_id);
        let chunk = self.chunk_size;
        let reason = format!("{size} bytes are more than {most} objects of {chunk}");
        Err(Error::new(Kind::TooLong, "publish", subject, reason).advise("make the objects larger"))
    }

    /// An image that is shorter than its parent's cannot be built on it: Cinder would
    /// restore what lies behind its end. What was not changed is fetched, and stored here.
    async fn give_up_parent(&self, size: u64, parent: u64) -> Result<()> {
        if !self.may_be_full {
            let subject = format!("backup {} incrementally", self.name.backup_id);
            let reason = format!("the image has {size} bytes, and that of its parent {parent}");
            return Err(
                Error::new(Kind::Invalid, "publish", subject, reason).advise("make a full backup")
            );
        }
        tracing::info!(
            "backup {} becomes a full one: its image has {size} bytes, and that of its parent \
             {parent}",
            self.name.backup_id
        );
        let stored: Vec<u64> = {
            let state = self.state.lock().await;
            state.chunks.keys().copied().collect()
        };
        for index in stored {
            if let Some(data) = self.read_back(index).await? {
                // What is there stays right until all of it is replaced.
                self.store_data(index, data, None, Numbering::Fresh).await?;
            }
        }
        self.state.lock().await.on_its_own = true;
        Ok(())
    }
}

/// A random id, and one in which nothing looks like the beginning of a chunk's number:
/// listings of the layout Swift then need no second look at it.
fn new_id() -> String {
    loop {
        let id = uuid::Uuid::new_v4().to_string();
        if !id.contains("-0") {
            return id;
        }
    }
}

/// Size of the chunks of an incremental backup: that of an object, or the largest part of
/// it that has no more than [`LARGEST_INCREMENTAL`] bytes, so that the borders of objects
/// are borders of chunks.
fn incremental_chunk(object_size: u64, sha: u64) -> u64 {
    if object_size <= LARGEST_INCREMENTAL {
        return object_size;
    }
    let blocks = object_size / sha;
    let most = (LARGEST_INCREMENTAL / sha).max(1);
    let fitting = (most / 2..=most)
        .rev()
        .find(|some| blocks.is_multiple_of(*some));
    fitting.unwrap_or(most) * sha
}

async fn join_put(puts: &mut JoinSet<Result<()>>) -> Result<()> {
    match puts.join_next().await {
        None => Ok(()),
        Some(Ok(put)) => put,
        Some(Err(lost)) => {
            let reason = format!("a fault of the program: {lost}");
            Err(Error::new(Kind::Unavailable, "store", "an object", reason))
        }
    }
}

#[async_trait]
impl BackupSink for ChunkedSink {
    fn backup_id(&self) -> &str {
        &self.name.backup_id
    }

    fn chunk_size(&self) -> u64 {
        self.chunk_size
    }

    fn parent_id(&self) -> Option<String> {
        let parent = self.parent.as_ref();
        parent.map(|parent| parent.backup.id.clone())
    }

    fn admit_size(&self, _size: u64) -> Result<()> {
        Ok(())
    }

    async fn sieve(&self, index: u64) -> Result<Option<Sieve>> {
        let Some(parent) = self.parent_now().await else {
            return Ok(None);
        };
        let block_size = self.shared.options.sha_block_size;
        let count = self.chunk_size / block_size;
        let digests = parent.digests(index * count, count).await?;
        Ok(digests.map(|digests| Sieve {
            block_size,
            digests,
        }))
    }

    async fn store(&self, index: u64, data: ChunkData) -> Result<()> {
        self.refuse_if_sealed()?;
        let parent = self.parent_now().await;
        let stored = self.store_data(index, data, parent, Numbering::Again).await;
        if stored.is_err() {
            self.state.lock().await.lacking.insert(index);
        }
        stored
    }

    async fn load(&self, index: u64) -> Result<Option<ChunkData>> {
        self.read_back(index).await
    }

    async fn remove(&self, index: u64) -> Result<()> {
        let mut state = self.state.lock().await;
        state.lacking.remove(&index);
        if let Some(old) = state.chunks.remove(&index) {
            state.obsolete.extend(old.numbers());
        }
        Ok(())
    }

    async fn publish(&self, size: u64, description: &Description) -> Result<Arc<Backup>> {
        self.refuse_if_sealed()?;
        self.complete(size).await?;
        self.publish_complete(size, description).await
    }

    async fn revert(&self) -> Result<()> {
        let mut state = self.state.lock().await;
        let (store, container) = (&self.shared.store, &self.name.container);
        let given = state.numbers.given();
        for number in given.filter(|number| !state.live.contains(number)) {
            missing_is_fine(store.delete(container, &self.name.chunk(number)).await)?;
        }
        missing_is_fine(store.sync(container).await)?;
        // Now there is room for it.
        self.put_list_back(&mut state).await
    }

    async fn discard(&self) -> Result<()> {
        let given: Vec<u64> = self.state.lock().await.numbers.given().collect();
        delete_objects(&self.shared, &self.name, &given).await?;
        self.shared.catalog.removed(&self.name).await;
        self.seal();
        Ok(())
    }

    fn seal(&self) {
        let sign = self.sign().take();
        drop(sign);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_of_incremental_backups_fit_into_objects() {
        let sha = 32768;
        assert_eq!(incremental_chunk(sha, sha), sha);
        assert_eq!(incremental_chunk(52_428_800, sha), 52_428_800);
        // Cinder's default for posix, cut in 39.
        assert_eq!(incremental_chunk(1_999_994_880, sha), 1_999_994_880 / 39);
        // A prime number of blocks.
        assert_eq!(incremental_chunk(104_729 * sha, sha), 1600 * sha);
        // One block is more than that.
        assert_eq!(incremental_chunk(1 << 30, 1 << 30), 1 << 30);
    }
}
