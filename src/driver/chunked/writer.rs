//! A backup in the making, in Cinder's chunked format.
//!
//! Order of writing, as Cinder's: chunks, `_sha256file`, `_metadata`. A chunk that is
//! written again before the backup was ever published takes the place of the old one;
//! afterwards it gets a new number, and the old one goes once the metadata that names
//! it is gone.

use super::encode::{Encoded, encode};
use super::numbers::Numbers;
use super::object::{Cut, Object};
use super::{Shared, delete_objects};
use crate::codec::Codec;
use crate::driver::{Backup, BackupSink, Block, BlockKey, BlockSink, ChunkData, Description};
use crate::error::{Error, Kind, Result};
use crate::format::{
    BackupName, DIGEST_BYTES, LARGEST_METADATA, Layout, Metadata, ObjectEntry, Own, Timestamp,
    format_sha256file_head, format_sha256file_tail, push_sha256_entry, stamp,
};
use crate::spool;
use crate::store::Body;
use crate::task::blocking;
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use tokio::sync::Mutex;

/// How much of a chunk is read back at a time.
const PIECE_BYTES: u64 = 1 << 20;
/// Chunks up to this size are read back into memory, larger ones into the spool.
const LOADED_BYTES: u64 = 64 << 20;
/// Metadata that names more chunks than this would be too large to be read.
const MOST_CHUNKS: u64 = LARGEST_METADATA / 256;

/// See the module's page.
pub struct ChunkedSink {
    shared: Arc<Shared>,
    name: BackupName,
    created_at: Timestamp,
    state: Mutex<State>,
    /// The digests of all chunks, at fixed places: in memory they would be a gigabyte
    /// for a volume of a terabyte.
    digests: Arc<File>,
}

#[derive(Default)]
struct State {
    chunks: BTreeMap<u64, Chunk>,
    /// A chunk of zeros, encoded once.
    zeros: Option<Arc<Encoded>>,
    numbers: Numbers,
    /// Chunks that could not be stored when it was last tried.
    lacking: BTreeSet<u64>,
    /// Metadata was stored, or may have been.
    published: bool,
    /// How often it has been published.
    generation: u64,
    /// The list of hashes that was published last.
    list: Option<Body>,
    /// Numbers of the objects that the metadata names which was published last.
    live: BTreeSet<u64>,
    /// Objects that only metadata which is about to be replaced names.
    obsolete: BTreeSet<u64>,
}

/// A stored chunk.
#[derive(Clone)]
struct Chunk {
    entry: ObjectEntry,
    stored: u64,
    /// Bytes in hashed blocks that are not all zero.
    data_bytes: u64,
}

/// Blocks go back to the one who asked and are kept nowhere.
struct NoSink;

impl BlockSink for NoSink {
    fn get(&self, _: &BlockKey) -> Option<Block> {
        None
    }
    fn put(&self, _: BlockKey, _: Block) {}
}

impl ChunkedSink {
    pub(super) fn new(shared: &Arc<Shared>, volume_id: &str) -> Result<Self> {
        let created_at = Timestamp::now();
        let backup_id = uuid::Uuid::new_v4().to_string();
        let options = &shared.options;
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
            state: Mutex::default(),
        })
    }

    async fn encode(&self, data: ChunkData) -> Result<Arc<Encoded>> {
        let length = data.len();
        if let ChunkData::Zero(_) = data {
            let known = self.state.lock().await.zeros.clone();
            if let Some(known) = known.filter(|known| known.length == length) {
                return Ok(known);
            }
        }
        let is_zeros = matches!(data, ChunkData::Zero(_));
        let shared = Arc::clone(&self.shared);
        let work = move || {
            let options = &shared.options;
            let sha = options.sha_block_size;
            encode(&shared.resources, &data, sha, options.codec)
        };
        let encoded = Arc::new(blocking(work).await?);
        if is_zeros {
            self.state.lock().await.zeros = Some(Arc::clone(&encoded));
        }
        Ok(encoded)
    }

    async fn store_encoded(&self, index: u64, encoded: &Arc<Encoded>) -> Result<()> {
        let number = {
            let mut state = self.state.lock().await;
            let current = state.chunks.get(&index).map(|chunk| chunk.entry.number);
            state.numbers.take(index, current)
        };
        // The number is taken before the object is there, so that nobody else takes it.
        self.put_encoded(index, number, encoded).await?;
        let mut state = self.state.lock().await;
        let options = &self.shared.options;
        let compression = match encoded.codec {
            Codec::None => "none".to_owned(),
            _ => options.compression.to_ascii_lowercase(),
        };
        let chunk = Chunk {
            entry: ObjectEntry {
                number,
                offset: index * options.object_size,
                length: encoded.length,
                codec: encoded.codec,
                compression,
                md5: encoded.md5,
            },
            stored: encoded.body.len(),
            data_bytes: encoded.data_bytes,
        };
        state.lacking.remove(&index);
        let old = state.chunks.insert(index, chunk);
        state.obsolete.extend(old.map(|old| old.entry.number));
        state.obsolete.remove(&number);
        Ok(())
    }

    async fn put_encoded(&self, index: u64, number: u64, encoded: &Arc<Encoded>) -> Result<()> {
        let (file, at) = (Arc::clone(&self.digests), self.digest_at(index, 0));
        let kept = Arc::clone(encoded);
        blocking(move || {
            file.write_all_at(kept.digests.as_flattened(), at)
                .map_err(|e| spool::error(&e))
        })
        .await?;
        let (store, container) = (&self.shared.store, &self.name.container);
        let object = self.name.chunk(number);
        store.put(container, &object, encoded.body.clone()).await
    }

    /// Where the digest of a block of a chunk stands in the file of digests.
    fn digest_at(&self, index: u64, block: u64) -> u64 {
        let options = &self.shared.options;
        let per_chunk = options.object_size / options.sha_block_size;
        (index * per_chunk + block) * DIGEST_BYTES as u64
    }

    /// Deletes objects that nothing names any more.
    async fn delete_obsolete(&self, state: &mut State) {
        for number in std::mem::take(&mut state.obsolete) {
            let object = self.name.chunk(number);
            match self
                .shared
                .store
                .delete(&self.name.container, &object)
                .await
            {
                Err(e) if e.kind() != Kind::NotFound => {
                    // Cinder refuses to restore beside an object that metadata does not
                    // name, so this is worth a word, and another try at the next publish.
                    tracing::warn!("backup {}: {e}", self.name.backup_id);
                    state.obsolete.insert(number);
                }
                _ => {}
            }
        }
    }

    /// The `_sha256file`.
    async fn hash_list(
        &self,
        size: u64,
        description: &Description,
        generation: u64,
    ) -> Result<Body> {
        let options = &self.shared.options;
        let head = format_sha256file_head(
            &self.name,
            Some(&description.name),
            description.description.as_deref(),
            self.created_at,
            options.sha_block_size,
            generation,
        );
        let count = size.div_ceil(options.sha_block_size);
        let tail = format_sha256file_tail(&self.name, count == 0);
        let digests = Arc::clone(&self.digests);
        let shared = Arc::clone(&self.shared);
        blocking(move || {
            let file = spool::file(&shared.resources.spool_path)?;
            write_hash_list(file, &head, &digests, count, &tail).map_err(|e| spool::error(&e))
        })
        .await
    }

    fn metadata(&self, state: &State, size: u64, description: &Description) -> Metadata {
        let chunks = || state.chunks.values();
        let mut own = Own {
            file: true,
            size: Some(size),
            data_bytes: Some(chunks().map(|chunk| chunk.data_bytes).sum()),
            stored_bytes: Some(chunks().map(|chunk| chunk.stored).sum()),
            generation: state.generation,
            ..Own::default()
        };
        if let Some(modified) = description.modified {
            own.set_modified(modified);
        }
        Metadata {
            backup_name: Some(description.name.clone()),
            backup_description: description.description.clone(),
            created_at: Some(self.created_at),
            parent_id: None,
            volume_meta: None,
            objects: chunks().map(|chunk| chunk.entry.clone()).collect(),
            own,
        }
    }

    /// Stores zeros where nothing was written, and forgets what lies behind the end.
    async fn complete(&self, size: u64) -> Result<()> {
        let chunk_size = self.chunk_size();
        let count = size.div_ceil(chunk_size);
        let refuse = |kind, reason: String| {
            let subject = format!("backup {}", self.name.backup_id);
            Err(Error::new(kind, "publish", subject, reason))
        };
        if count > MOST_CHUNKS {
            let reason =
                format!("{size} bytes are more than {MOST_CHUNKS} objects of {chunk_size}");
            return refuse(Kind::TooLong, reason)
                .map_err(|e: Error| e.advise("make the objects larger"));
        }
        let mut state = self.state.lock().await;
        let behind = state.chunks.split_off(&count);
        let behind = behind.into_values().map(|chunk| chunk.entry.number);
        state.obsolete.extend(behind);
        state.lacking.split_off(&count);
        if let Some(index) = state.lacking.first() {
            return refuse(Kind::Invalid, format!("chunk {index} could not be stored"));
        }
        let mut missing = Vec::new();
        for index in 0..count {
            let expected = chunk_size.min(size - index * chunk_size);
            match state.chunks.get(&index) {
                Some(chunk) if chunk.entry.length == expected => {}
                // Zeros that were filled in here, when the image was of another size.
                Some(chunk) if chunk.data_bytes == 0 => missing.push((index, expected)),
                None => missing.push((index, expected)),
                Some(chunk) => {
                    let length = chunk.entry.length;
                    let reason = format!("chunk {index} has {length} bytes instead of {expected}");
                    return refuse(Kind::Invalid, reason);
                }
            }
        }
        drop(state);
        for (index, length) in missing {
            let encoded = self.encode(ChunkData::Zero(length)).await?;
            self.store_encoded(index, &encoded).await?;
        }
        Ok(())
    }

    /// Stores list and metadata, in this order.
    async fn list(&self, state: &mut State, list: Body, metadata: Vec<u8>) -> Result<()> {
        let (store, container) = (&self.shared.store, &self.name.container);
        let sha256file = self.name.sha256file();
        store.put(container, &sha256file, list.clone()).await?;
        store.sync(container).await?;
        let body = Body::Bytes(metadata.into());
        let chunks = state.chunks.values().map(|chunk| chunk.entry.number);
        chunks.for_each(|number| state.numbers.publish(number));
        state.published = true;
        let stored = store.put(container, &self.name.metadata(), body).await;
        if let Err(e) = stored {
            // What was published before is to be readable still.
            if let Some(before) = state.list.clone() {
                let _ = store.put(container, &sha256file, before).await;
            }
            return Err(e);
        }
        state.list = Some(list);
        // Whether the names are durable or not: this list and this metadata go together.
        state.generation += 1;
        state.live = state
            .chunks
            .values()
            .map(|chunk| chunk.entry.number)
            .collect();
        store.sync(container).await
    }

    /// A backup that was published and is not there any more was deleted by somebody
    /// else, and its chunks with it.
    async fn check_not_deleted(&self, state: &State) -> Result<()> {
        if state.generation == 0 {
            return Ok(());
        }
        let metadata = self.name.metadata();
        let stat = self
            .shared
            .store
            .stat(&self.name.container, &metadata)
            .await;
        stat.map(drop).map_err(|e| match e.kind() {
            Kind::NotFound => Error::new(
                Kind::NotFound,
                "publish",
                format!("backup {}", self.name.backup_id),
                "another program has deleted it while it was written",
            ),
            _ => e,
        })
    }
}

#[async_trait]
impl BackupSink for ChunkedSink {
    fn backup_id(&self) -> &str {
        &self.name.backup_id
    }

    fn chunk_size(&self) -> u64 {
        self.shared.options.object_size
    }

    fn admit_size(&self, _size: u64) -> Result<()> {
        Ok(())
    }

    async fn store(&self, index: u64, data: ChunkData) -> Result<()> {
        let stored = match self.encode(data).await {
            Ok(encoded) => self.store_encoded(index, &encoded).await,
            Err(e) => Err(e),
        };
        if stored.is_err() {
            self.state.lock().await.lacking.insert(index);
        }
        stored
    }

    async fn load(&self, index: u64) -> Result<Option<ChunkData>> {
        let chunk = self.state.lock().await.chunks.get(&index).cloned();
        let Some(chunk) = chunk else { return Ok(None) };
        let sha = self.shared.options.sha_block_size;
        let cut = Cut {
            block_size: sha as u32,
            digest_size: sha as u32,
        };
        let object = Object::new(&self.shared.store, &self.name, &chunk.entry);
        let length = chunk.entry.length;
        let resources = &self.shared.resources;
        let spool = match length > LOADED_BYTES.min(resources.budget.total() / 4) {
            true => Some(Arc::new(spool::file(&resources.spool_path)?)),
            false => None,
        };
        let mut memory = Vec::with_capacity(if spool.is_some() { 0 } else { length as usize });
        let count = length.div_ceil(sha);
        let mut at = 0;
        while at < count {
            let end = count.min(at + (PIECE_BYTES / sha).max(1));
            let blocks = object.blocks(at..end, cut, &NoSink).await?;
            self.check(index, at, &blocks)?;
            for (number, (_, block)) in (at..).zip(&blocks) {
                match &spool {
                    Some(file) => file
                        .write_all_at(&block.bytes, number * sha)
                        .map_err(|e| spool::error(&e))?,
                    None => memory.extend_from_slice(&block.bytes),
                }
            }
            at = end;
        }
        Ok(Some(match spool {
            Some(file) => ChunkData::Spooled(file, length),
            None => ChunkData::Memory(memory.into()),
        }))
    }

    async fn remove(&self, index: u64) -> Result<()> {
        let mut state = self.state.lock().await;
        state.lacking.remove(&index);
        let old = state.chunks.remove(&index);
        state.obsolete.extend(old.map(|old| old.entry.number));
        Ok(())
    }

    async fn publish(&self, size: u64, description: &Description) -> Result<Arc<Backup>> {
        self.complete(size).await?;
        let mut state = self.state.lock().await;
        let metadata = self.metadata(&state, size, description);
        let text = metadata.format(&self.name);
        if text.len() as u64 > LARGEST_METADATA {
            let subject = format!("backup {}", self.name.backup_id);
            let reason = "its metadata would be too large to be read";
            return Err(Error::new(Kind::TooLong, "publish", subject, reason)
                .advise("make the objects larger"));
        }
        let list = self.hash_list(size, description, state.generation).await?;
        if !state.published {
            // Nothing names these, and Cinder would refuse a backup that has them.
            self.delete_obsolete(&mut state).await;
        }
        self.check_not_deleted(&state).await?;
        self.list(&mut state, list, text).await?;
        self.delete_obsolete(&mut state).await;
        drop(state);
        self.shared.catalog.changed(&self.name).await;
        // Made of what was stored: all is durable now, and nothing may fail any more.
        Ok(Arc::new(self.shared.catalog.finished(&self.name, metadata)))
    }

    async fn revert(&self) -> Result<()> {
        let state = self.state.lock().await;
        let (store, container) = (&self.shared.store, &self.name.container);
        for number in state
            .numbers
            .given()
            .filter(|number| !state.live.contains(number))
        {
            super::missing_is_fine(store.delete(container, &self.name.chunk(number)).await)?;
        }
        super::missing_is_fine(store.sync(container).await)
    }

    async fn discard(&self) -> Result<()> {
        delete_objects(&self.shared, &self.name).await?;
        self.shared.catalog.removed(&self.name).await;
        Ok(())
    }

    fn seal(&self) {}
}

impl ChunkedSink {
    /// What is read back must be what was stored.
    fn check(&self, index: u64, first: u64, blocks: &[(BlockKey, Block)]) -> Result<()> {
        let at = self.digest_at(index, first);
        let mut stored = vec![0; blocks.len() * DIGEST_BYTES];
        self.digests
            .read_exact_at(&mut stored, at)
            .map_err(|e| spool::error(&e))?;
        let found = blocks.iter().flat_map(|(_, block)| block.digests.iter());
        if found.eq(stored.as_chunks::<DIGEST_BYTES>().0) {
            return Ok(());
        }
        Err(Error::corrupt(
            "read back",
            format!("chunk {index} of backup {}", self.name.backup_id),
            "it is not what was stored",
        ))
    }
}

/// Writes the text of a list of `count` hashes, taken from the file `digests`.
fn write_hash_list(
    file: File,
    head: &[u8],
    digests: &File,
    count: u64,
    tail: &[u8],
) -> std::io::Result<Body> {
    const PAGE: u64 = 4096;
    let mut file = std::io::BufWriter::new(file);
    file.write_all(head)?;
    let mut page = vec![0; PAGE as usize * DIGEST_BYTES];
    for first in (0..count).step_by(PAGE as usize) {
        page.resize((count - first).min(PAGE) as usize * DIGEST_BYTES, 0);
        digests.read_exact_at(&mut page, first * DIGEST_BYTES as u64)?;
        let mut text = Vec::with_capacity(PAGE as usize * 72);
        for (number, digest) in (first..).zip(page.as_chunks::<DIGEST_BYTES>().0) {
            push_sha256_entry(&mut text, number == 0, digest);
        }
        file.write_all(&text)?;
    }
    file.write_all(tail)?;
    let file = file
        .into_inner()
        .map_err(std::io::IntoInnerError::into_error)?;
    Ok(Body::File {
        length: file.metadata()?.len(),
        file: Arc::new(file),
    })
}
