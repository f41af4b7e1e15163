//! A backup in the making, in Cinder's chunked format.
//!
//! Order of writing, as Cinder's: chunks, `_sha256file`, `_metadata`. A chunk that is
//! written again before the backup was ever published takes the place of the old one;
//! afterwards it gets a new number, and the old one goes once the metadata that names
//! it is gone.

use super::digest::{digests, zero_digest_of};
use super::object::{Cut, Object};
use super::{Shared, delete_objects};
use crate::codec::{Codec, Encoder, compress};
use crate::driver::{Backup, BackupSink, Block, BlockKey, BlockSink, ChunkData, Description};
use crate::error::{Error, Kind, Result};
use crate::format::{
    BackupName, DIGEST_BYTES, Digest, Layout, Metadata, ObjectEntry, Own, Timestamp,
    format_sha256file_head, format_sha256file_tail, push_sha256_entry, stamp,
};
use crate::spool;
use crate::store::Body;
use crate::task::blocking;
use async_trait::async_trait;
use bytes::Bytes;
use md5::Md5;
use sha2::Digest as _;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use tokio::sync::Mutex;

/// How much of a spooled chunk is in memory at a time.
const PIECE_BYTES: usize = 1 << 20;
/// Chunks up to this size are read back into memory, larger ones into the spool.
const LOADED_BYTES: u64 = 64 << 20;

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
    published: bool,
    /// Objects that only metadata which is about to be replaced names.
    obsolete: Vec<u64>,
}

/// A stored chunk.
#[derive(Clone)]
struct Chunk {
    entry: ObjectEntry,
    stored: u64,
    /// Bytes in hashed blocks that are not all zero.
    data_bytes: u64,
}

/// A chunk ready to be stored.
struct Encoded {
    body: Body,
    codec: Codec,
    md5: [u8; 16],
    digests: Vec<Digest>,
    data_bytes: u64,
    length: u64,
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

    /// Number of the object for a chunk: Cinder's own, chunk after chunk, unless a
    /// published backup still needs the object of that number.
    fn number_for(state: &State, index: u64) -> u64 {
        let last = state
            .chunks
            .values()
            .map(|chunk| chunk.entry.number)
            .max()
            .unwrap_or(0);
        let last = last.max(state.obsolete.iter().copied().max().unwrap_or(0));
        let taken = |number: u64| {
            state.obsolete.contains(&number)
                || state
                    .chunks
                    .values()
                    .any(|chunk| chunk.entry.number == number)
        };
        match state.chunks.get(&index).map(|chunk| chunk.entry.number) {
            Some(number) if !state.published => number,
            Some(_) => last + 1,
            None if taken(index + 1) => last + 1,
            None => index + 1,
        }
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
        let encoded = Arc::new(blocking(move || encode(&shared, &data)).await?);
        if is_zeros {
            self.state.lock().await.zeros = Some(Arc::clone(&encoded));
        }
        Ok(encoded)
    }

    async fn store_encoded(&self, index: u64, encoded: &Arc<Encoded>) -> Result<()> {
        let options = &self.shared.options;
        let per_chunk = options.object_size / options.sha_block_size;
        let (file, at) = (
            Arc::clone(&self.digests),
            index * per_chunk * DIGEST_BYTES as u64,
        );
        let kept = Arc::clone(encoded);
        blocking(move || {
            file.write_all_at(kept.digests.as_flattened(), at)
                .map_err(|e| spool::error(&e))
        })
        .await?;
        let number = Self::number_for(&*self.state.lock().await, index);
        let compression = match encoded.codec {
            Codec::None => "none".to_owned(),
            _ => options.compression.clone(),
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
        // The number is taken before the object is there, so that nobody else takes it.
        let mut state = self.state.lock().await;
        let old = state.chunks.insert(index, chunk);
        if let Some(old) = old.filter(|old| old.entry.number != number) {
            state.obsolete.push(old.entry.number);
        }
        drop(state);
        let object = self.name.chunk(number);
        self.shared
            .store
            .put(&self.name.container, &object, encoded.body.clone())
            .await
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
                    state.obsolete.push(number);
                }
                _ => {}
            }
        }
    }

    fn hash_list(&self, size: u64, description: &Description) -> Result<Body> {
        let options = &self.shared.options;
        let count = size.div_ceil(options.sha_block_size);
        let mut file = std::io::BufWriter::new(spool::file(&self.shared.resources.spool_path)?);
        let head = format_sha256file_head(
            &self.name,
            Some(&description.name),
            description.description.as_deref(),
            self.created_at,
            options.sha_block_size,
        );
        let mut write = |text: &[u8]| file.write_all(text).map_err(|e| spool::error(&e));
        write(&head)?;
        let mut page = vec![0; 4096 * DIGEST_BYTES];
        let mut index = 0;
        while index < count {
            let some = (count - index).min(4096) as usize;
            let Some(page) = page.get_mut(..some * DIGEST_BYTES) else {
                break;
            };
            let at = index * DIGEST_BYTES as u64;
            self.digests
                .read_exact_at(page, at)
                .map_err(|e| spool::error(&e))?;
            let mut text = Vec::with_capacity(some * 72);
            let (entries, _) = page.as_chunks::<DIGEST_BYTES>();
            for (number, digest) in (index..).zip(entries) {
                push_sha256_entry(&mut text, number == 0, digest);
            }
            write(&text)?;
            index += some as u64;
        }
        write(&format_sha256file_tail(&self.name, count == 0))?;
        let file = file.into_inner().map_err(|e| spool::error(e.error()))?;
        let length = file.metadata().map_err(|e| spool::error(&e))?.len();
        Ok(Body::File {
            file: Arc::new(file),
            length,
        })
    }

    fn metadata(&self, state: &State, size: u64, description: &Description) -> Metadata {
        let chunks = || state.chunks.values();
        let mut own = Own {
            file: true,
            size: Some(size),
            data_bytes: Some(chunks().map(|chunk| chunk.data_bytes).sum()),
            stored_bytes: Some(chunks().map(|chunk| chunk.stored).sum()),
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
        let mut state = self.state.lock().await;
        let behind = state.chunks.split_off(&count);
        state
            .obsolete
            .extend(behind.into_values().map(|chunk| chunk.entry.number));
        let missing: Vec<u64> = (0..count)
            .filter(|index| !state.chunks.contains_key(index))
            .collect();
        drop(state);
        for index in missing {
            let length = chunk_size.min(size - index * chunk_size);
            let encoded = self.encode(ChunkData::Zero(length)).await?;
            self.store_encoded(index, &encoded).await?;
        }
        let state = self.state.lock().await;
        for (index, chunk) in &state.chunks {
            let expected = chunk_size.min(size - index * chunk_size);
            if chunk.entry.length != expected {
                let reason = format!(
                    "chunk {index} has {} bytes instead of {expected}",
                    chunk.entry.length
                );
                let subject = format!("backup {}", self.name.backup_id);
                return Err(Error::new(Kind::Invalid, "publish", subject, reason));
            }
        }
        Ok(())
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

    async fn store(&self, index: u64, data: ChunkData) -> Result<()> {
        let encoded = self.encode(data).await?;
        self.store_encoded(index, &encoded).await
    }

    async fn load(&self, index: u64) -> Result<Option<ChunkData>> {
        let chunk = self.state.lock().await.chunks.get(&index).cloned();
        let Some(chunk) = chunk else { return Ok(None) };
        let sha = self.shared.options.sha_block_size as u32;
        let cut = Cut {
            block_size: sha,
            digest_size: sha,
        };
        let object = Object::new(&self.shared.store, &self.name, &chunk.entry);
        let length = chunk.entry.length;
        let spool = match length > LOADED_BYTES {
            true => Some(Arc::new(spool::file(&self.shared.resources.spool_path)?)),
            false => None,
        };
        let mut memory = Vec::with_capacity(if spool.is_some() { 0 } else { length as usize });
        let per_piece = (PIECE_BYTES as u64 / u64::from(sha)).max(1);
        let count = length.div_ceil(u64::from(sha));
        let mut at = 0;
        while at < count {
            let end = count.min(at + per_piece);
            let blocks = object.blocks(at..end, cut, &NoSink).await?;
            self.check(index, at, &blocks)?;
            for (number, (_, block)) in (at..).zip(&blocks) {
                match &spool {
                    Some(file) => file
                        .write_all_at(&block.bytes, number * u64::from(sha))
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
        if let Some(chunk) = state.chunks.remove(&index) {
            state.obsolete.push(chunk.entry.number);
        }
        Ok(())
    }

    async fn publish(&self, size: u64, description: &Description) -> Result<Arc<Backup>> {
        self.complete(size).await?;
        let (store, container) = (&self.shared.store, &self.name.container);
        let list = self.hash_list(size, description)?;
        store.put(container, &self.name.sha256file(), list).await?;
        let mut state = self.state.lock().await;
        if !state.published {
            // Nothing names these, and Cinder would refuse a backup that has them.
            self.delete_obsolete(&mut state).await;
        }
        store.sync(container).await?;
        let text = self.metadata(&state, size, description).format(&self.name);
        store
            .put(container, &self.name.metadata(), Body::Bytes(text.into()))
            .await?;
        store.sync(container).await?;
        state.published = true;
        self.delete_obsolete(&mut state).await;
        drop(state);
        self.shared.catalog.changed(&self.name).await;
        self.shared.catalog.backup(&self.name).await
    }

    async fn discard(&self) -> Result<()> {
        delete_objects(&self.shared, &self.name).await?;
        self.shared.catalog.removed(&self.name).await;
        Ok(())
    }
}

impl ChunkedSink {
    /// What is read back must be what was stored.
    fn check(&self, index: u64, first: u64, blocks: &[(BlockKey, Block)]) -> Result<()> {
        let options = &self.shared.options;
        let per_chunk = options.object_size / options.sha_block_size;
        let at = (index * per_chunk + first) * DIGEST_BYTES as u64;
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

/// Hashes and compresses a chunk. Computes, and blocks.
fn encode(shared: &Shared, data: &ChunkData) -> Result<Encoded> {
    let sha = shared.options.sha_block_size as usize;
    let codec = shared.options.codec;
    // The result needs at most as much memory as the chunk; without room for that, it
    // is compressed piece by piece, which is slower.
    let permit = match data {
        ChunkData::Memory(bytes) => shared.resources.budget.permit(bytes.len() as u64),
        _ => None,
    };
    match (data, permit) {
        (ChunkData::Memory(bytes), Some(_permit)) => {
            let digests: Vec<Digest> = digests(bytes, sha).collect();
            let md5 = Md5::digest(bytes).into();
            let (codec, body) = match compress(codec, bytes)? {
                Some(packed) => (codec, Bytes::from(packed)),
                None => (Codec::None, bytes.clone()),
            };
            Ok(Encoded {
                data_bytes: data_bytes(&digests, bytes.len() as u64, sha as u64),
                body: Body::Bytes(body),
                codec,
                md5,
                digests,
                length: bytes.len() as u64,
            })
        }
        _ => encode_spooled(shared, data, sha, codec),
    }
}

/// The same, a piece at a time, into a spool file.
fn encode_spooled(shared: &Shared, data: &ChunkData, sha: usize, codec: Codec) -> Result<Encoded> {
    let length = data.len();
    let mut md5 = Md5::new();
    let mut list = Vec::new();
    let mut piece = vec![
        0;
        PIECE_BYTES
            .next_multiple_of(sha.max(1))
            .min(length as usize)
    ];
    let mut packed_file = spool::file(&shared.resources.spool_path)?;
    let mut encoder = match codec {
        Codec::None => None,
        _ => Some(Encoder::new(codec, length)?),
    };
    let (mut at, mut packed_length) = (0, 0);
    let mut packed = Vec::new();
    while at < length {
        let some = (piece.len() as u64).min(length - at) as usize;
        let Some(piece) = piece.get_mut(..some) else {
            break;
        };
        data.read_at(at, piece)?;
        md5.update(&*piece);
        list.extend(digests(piece, sha));
        if let Some(encoder) = &mut encoder {
            encoder.write(piece, &mut packed)?;
            packed_file
                .write_all(&packed)
                .map_err(|e| spool::error(&e))?;
            packed_length += packed.len() as u64;
            packed.clear();
        }
        at += some as u64;
        if packed_length >= length {
            encoder = None;
        }
    }
    let mut codec = codec;
    if let Some(encoder) = encoder {
        encoder.finish(&mut packed)?;
        packed_file
            .write_all(&packed)
            .map_err(|e| spool::error(&e))?;
        packed_length += packed.len() as u64;
    }
    let body = if codec != Codec::None && packed_length < length {
        Body::File {
            file: Arc::new(packed_file),
            length: packed_length,
        }
    } else {
        codec = Codec::None;
        plain_body(data, packed_file)?
    };
    Ok(Encoded {
        body,
        codec,
        md5: md5.finalize().into(),
        data_bytes: data_bytes(&list, length, sha as u64),
        digests: list,
        length,
    })
}

/// A chunk as it is. Zeros become a hole in `file`.
fn plain_body(data: &ChunkData, file: File) -> Result<Body> {
    Ok(match data {
        ChunkData::Memory(bytes) => Body::Bytes(bytes.clone()),
        ChunkData::Spooled(file, length) => Body::File {
            file: Arc::clone(file),
            length: *length,
        },
        ChunkData::Zero(length) => {
            let sized = file.set_len(0).and_then(|()| file.set_len(*length));
            sized.map_err(|e| spool::error(&e))?;
            Body::File {
                file: Arc::new(file),
                length: *length,
            }
        }
    })
}

/// Bytes in blocks whose digest is not that of zeros.
fn data_bytes(digests: &[Digest], length: u64, sha: u64) -> u64 {
    let zero = zero_digest_of(sha);
    let tail = length % sha;
    let mut data = length;
    for (index, digest) in (0..).zip(digests) {
        let is_tail = tail > 0 && (index + 1) * sha > length;
        if is_tail && *digest == zero_digest_of(tail) {
            data -= tail;
        } else if !is_tail && *digest == zero {
            data -= sha;
        }
    }
    data
}
