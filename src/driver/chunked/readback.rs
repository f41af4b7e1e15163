//! Reading back what a backup in the making holds, for a program that changes it again.

use super::digest::digests;
use super::image::ChunkedImage;
use super::object::{Cut, Object};
use super::writer::{Chunk, ChunkedSink};
use crate::driver::{Block, BlockKey, BlockSink, ChunkData, Content, Source};
use crate::error::{Error, Result};
use crate::format::{DIGEST_BYTES, ObjectEntry};
use crate::spool;
use std::collections::HashMap;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// How much of a chunk is read back at a time.
const PIECE_BYTES: u64 = 1 << 20;
/// Chunks up to this size are read back into memory, larger ones into the spool.
const LOADED_BYTES: u64 = 64 << 20;

/// Blocks go back to the one who asked and are kept nowhere.
struct NoSink;

impl BlockSink for NoSink {
    fn get(&self, _: &BlockKey) -> Option<Block> {
        None
    }
    fn put(&self, _: BlockKey, _: Block) {}
}

impl ChunkedSink {
    /// The data of chunk `index`, if it was ever stored.
    ///
    /// # Errors
    /// `Corrupt` when it is not what was stored; those of store and spool.
    pub(super) async fn read_back(&self, index: u64) -> Result<Option<ChunkData>> {
        let chunk = self.state.lock().await.chunks.get(&index).cloned();
        let Some(chunk) = chunk else { return Ok(None) };
        let sha = self.shared.options.sha_block_size;
        let length = chunk.length;
        let resources = &self.shared.resources;
        let spool = match length > LOADED_BYTES.min(resources.budget.total() / 4) {
            true => Some(Arc::new(spool::file(&resources.spool_path)?)),
            false => None,
        };
        let mut memory = Vec::with_capacity(if spool.is_some() { 0 } else { length as usize });
        // One for each, so that the next piece goes on where the last one ended.
        let objects: Vec<(&ObjectEntry, Object)> = chunk
            .objects
            .iter()
            .map(|entry| (entry, Object::new(&self.shared.store, &self.name, entry)))
            .collect();
        let step = PIECE_BYTES.next_multiple_of(sha);
        let mut at = 0;
        while at < length {
            let end = length.min(at + step);
            let piece = self.read_piece(index, &chunk, &objects, at..end).await?;
            self.check(index, at / sha, &piece)?;
            match &spool {
                Some(file) => file
                    .write_all_at(&piece, at)
                    .map_err(|e| spool::error(&e))?,
                None => memory.extend_from_slice(&piece),
            }
            at = end;
        }
        Ok(Some(match spool {
            Some(file) => ChunkData::Spooled(file, length),
            None => ChunkData::Memory(memory.into()),
        }))
    }

    /// A piece of a chunk: what its objects hold, and between them what the parent has.
    async fn read_piece(
        &self,
        index: u64,
        chunk: &Chunk,
        objects: &[(&ObjectEntry, Object)],
        range: Range<u64>,
    ) -> Result<Vec<u8>> {
        let start = index * self.chunk_size;
        let mut bytes = Vec::with_capacity((range.end - range.start) as usize);
        let mut at = range.start;
        for (entry, object) in objects {
            let own = entry.offset - start..entry.offset - start + entry.length;
            let (from, to) = (own.start.max(at), own.end.min(range.end));
            if from >= to {
                continue;
            }
            self.read_parent(start + at..start + from, &mut bytes)
                .await?;
            self.read_object(object, from - own.start..to - own.start, &mut bytes)
                .await?;
            at = to;
        }
        let rest = range.end.min(chunk.length);
        self.read_parent(start + at..start + rest, &mut bytes)
            .await?;
        Ok(bytes)
    }

    /// A range of an object, which begins at a block.
    async fn read_object(
        &self,
        object: &Object,
        range: Range<u64>,
        bytes: &mut Vec<u8>,
    ) -> Result<()> {
        let sha = self.shared.options.sha_block_size;
        let cut = Cut {
            block_size: sha as u32,
            digest_size: sha as u32,
        };
        let numbers = range.start / sha..range.end.div_ceil(sha);
        for (_, block) in object.blocks(numbers, cut, &NoSink).await? {
            bytes.extend_from_slice(&block.bytes);
        }
        Ok(())
    }

    async fn read_parent(&self, range: Range<u64>, bytes: &mut Vec<u8>) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let Some(parent) = &self.parent else {
            let subject = format!("backup {}", self.name.backup_id);
            return Err(Error::corrupt(
                "read back",
                subject,
                "a part of it is missing",
            ));
        };
        let image = parent.image(&self.shared).await?;
        read_image(image, range, bytes).await
    }

    /// What is read back must be what was stored: `piece` begins with block `first`.
    fn check(&self, index: u64, first: u64, piece: &[u8]) -> Result<()> {
        let sha = self.shared.options.sha_block_size;
        let blocks = piece.len().div_ceil(sha as usize);
        let mut stored = vec![0; blocks * DIGEST_BYTES];
        self.digests
            .read_exact_at(&mut stored, self.digest_at(index, first))
            .map_err(|e| spool::error(&e))?;
        let found = digests(piece, sha as usize);
        if found.eq(stored.as_chunks::<DIGEST_BYTES>().0.iter().copied()) {
            return Ok(());
        }
        Err(Error::corrupt(
            "read back",
            format!("chunk {index} of backup {}", self.name.backup_id),
            "it is not what was stored",
        ))
    }
}

/// Appends a range of an image to `bytes`. Whether it is right is for the caller to check.
async fn read_image(image: &ChunkedImage, range: Range<u64>, bytes: &mut Vec<u8>) -> Result<()> {
    let _prepared = image.prepare(range.clone(), &NoSink).await?;
    let blocks: HashMap<BlockKey, Block> = image
        .fetch(range.clone(), &NoSink)
        .await?
        .into_iter()
        .collect();
    let mut at = range.start;
    while at < range.end {
        let place = image.locate(at);
        let length = place.length.min(range.end - at) as usize;
        let piece = match place.source {
            Source::Zero => {
                bytes.resize(bytes.len() + length, 0);
                None
            }
            Source::Block(key, within) => {
                let start = within as usize;
                let block = blocks.get(&key);
                let piece = block.and_then(|block| block.bytes.get(start..start + length));
                Some(piece.ok_or_else(|| image.damage(at))?)
            }
            Source::Unknown => return Err(image.damage(at)),
        };
        bytes.extend_from_slice(piece.unwrap_or_default());
        at += length.max(1) as u64;
    }
    Ok(())
}
