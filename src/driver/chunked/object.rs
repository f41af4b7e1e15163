//! The data of one chunk object: fetched, decoded and cut into blocks.
//!
//! An object that is stored as it is gives any range. A compressed one can only be
//! decoded from its beginning, or from a check point, onwards; who reads it takes turns,
//! and finds what the one before has decoded in the sink.

use super::digest::{digests, is_zero};
use super::stream::{Stored, Stream};
use crate::codec::{Checkpoint, Codec};
use crate::driver::{Block, BlockKey, BlockSink, Progress};
use crate::error::Result;
use crate::format::{BackupName, Digest, ObjectEntry};
use crate::store::ObjectStore;
use crate::task::{Queue, blocking};
use bytes::Bytes;
use md5::Md5;
use sha2::{Digest as _, Sha256};
use std::ops::Range;
use std::sync::{Arc, Weak};
use tokio::sync::OnceCell;

/// How much of an object that is stored as it is one request asks for: the more, the less
/// the way to the store counts.
const RANGE_BYTES: u64 = 4 << 20;
/// How much is decoded in one step, at least.
const STEP_BYTES: u64 = 512 << 10;
/// How far apart check points are, at least, and how many there are, at most.
const CHECKPOINT_BYTES: u64 = 16 << 20;
const CHECKPOINTS: u64 = 64;
/// The blocks of an object up to this size are kept while it is checked as a whole: of
/// a larger one, they would throw out everything else and then each other.
const KEEP_BYTES: u64 = 64 << 20;

/// How an object is cut: into blocks, and those into what a digest stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Bytes of a block; a multiple of `digest_size`.
    pub block_size: u32,
    /// Bytes that a digest stands for.
    pub digest_size: u32,
}

/// Blocks are at least this large, and a multiple of what a digest stands for.
pub const LEAST_BLOCK: u64 = 32 << 10;

impl Cut {
    /// For digests that stand for so many bytes each, which fit into a `u32`.
    pub fn of(digest_size: u64) -> Self {
        let digests = LEAST_BLOCK.div_ceil(digest_size.max(1));
        Self {
            block_size: (digests * digest_size) as u32,
            digest_size: digest_size as u32,
        }
    }
}

/// See the module's page.
#[derive(Debug)]
pub struct Object {
    stored: Stored,
    key: u128,
    length: u64,
    codec: Codec,
    md5: [u8; 16],
    stored_size: OnceCell<u64>,
    turn: Queue<Turn>,
}

/// What stays between two readers of a compressed object.
#[derive(Debug, Default)]
struct Turn {
    stream: Option<Stream>,
    checkpoints: Vec<Checkpoint>,
    /// What the last scan has found, for who has waited for it.
    table: Option<(Cut, Weak<[Digest]>)>,
}

impl Object {
    /// The object of `entry` in the backup `name`.
    pub fn new(store: &Arc<dyn ObjectStore>, name: &BackupName, entry: &ObjectEntry) -> Self {
        Self {
            stored: Stored::new(store, name, entry.number),
            key: key_of(name, entry),
            length: entry.length,
            codec: entry.codec,
            md5: entry.md5,
            stored_size: OnceCell::new(),
            turn: Queue::default(),
        }
    }

    fn block_key(&self, cut: Cut, number: u64) -> BlockKey {
        BlockKey {
            object: self.key,
            block_size: cut.block_size,
            digest_size: cut.digest_size,
            number,
        }
    }

    /// Blocks `range` of the object. None of them is checked against any hash yet.
    ///
    /// # Errors
    /// `Corrupt` when the object is missing, too short, too long or cannot be decoded;
    /// those of the store.
    pub async fn blocks(
        &self,
        range: Range<u64>,
        cut: Cut,
        sink: &dyn BlockSink,
    ) -> Result<Vec<(BlockKey, Block)>> {
        match self.codec {
            Codec::None => self.blocks_as_stored(range, cut, sink).await,
            _ => self.blocks_decoded(range, cut, sink).await,
        }
    }

    /// Makes sure that an object which is stored as it is has the length it must have.
    async fn check_stored_size(&self) -> Result<()> {
        let size = *self
            .stored_size
            .get_or_try_init(|| self.stored.size())
            .await?;
        if size == self.length {
            return Ok(());
        }
        let reason = format!("it has {size} bytes instead of {}", self.length);
        Err(self.stored.corrupt(reason))
    }

    async fn blocks_as_stored(
        &self,
        range: Range<u64>,
        cut: Cut,
        sink: &dyn BlockSink,
    ) -> Result<Vec<(BlockKey, Block)>> {
        let mut blocks = Vec::new();
        let mut at = range.start;
        while at < range.end {
            if let Some(block) = sink.get(&self.block_key(cut, at)) {
                blocks.push((self.block_key(cut, at), block));
                at += 1;
                continue;
            }
            let most = (RANGE_BYTES / u64::from(cut.block_size)).max(1);
            let mut end = at + 1;
            while end < range.end.min(at + most) && sink.get(&self.block_key(cut, end)).is_none() {
                end += 1;
            }
            let first = at * u64::from(cut.block_size);
            let last = (end * u64::from(cut.block_size)).min(self.length);
            // At the same time: each may take a way to the store and back.
            let read = self.stored.read(first..last);
            let (checked, data) = tokio::join!(self.check_stored_size(), read);
            checked?;
            let data = data?;
            if data.len() as u64 != last.saturating_sub(first) {
                return Err(self.stored.corrupt("it became shorter while it was read"));
            }
            let cut_up = blocking(move || Ok(cut_blocks(&data, cut))).await?;
            for (number, block) in (at..).zip(cut_up) {
                let key = self.block_key(cut, number);
                sink.put(key, block.clone());
                blocks.push((key, block));
            }
            at = end;
        }
        Ok(blocks)
    }

    async fn blocks_decoded(
        &self,
        range: Range<u64>,
        cut: Cut,
        sink: &dyn BlockSink,
    ) -> Result<Vec<(BlockKey, Block)>> {
        let mut turn = self.turn.turn().await?;
        let decoded = self.decode(&mut turn, range, cut, sink).await;
        turn.note(decoded)
    }

    async fn decode(
        &self,
        turn: &mut Turn,
        range: Range<u64>,
        cut: Cut,
        sink: &dyn BlockSink,
    ) -> Result<Vec<(BlockKey, Block)>> {
        let mut blocks = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let key = self.block_key(cut, at);
            if let Some(block) = sink.get(&key) {
                blocks.push((key, block));
                at += 1;
                continue;
            }
            let stream = self.stream_to(turn, at, cut).await?;
            let first = stream.position();
            let step = step_bytes(cut).min(self.length.saturating_sub(first));
            let cut_up = move |data: &[u8]| cut_blocks(data, cut);
            let (stream, cut_up) = stream.decode(&self.stored, step, cut_up).await?;
            if stream.position() >= self.length {
                stream.end(&self.stored).await?;
            } else {
                note_checkpoint(&mut turn.checkpoints, &stream, self.length);
                turn.stream = Some(stream);
            }
            for (number, block) in (first / u64::from(cut.block_size)..).zip(cut_up) {
                let key = self.block_key(cut, number);
                sink.put(key, block.clone());
                if number == at && at < range.end {
                    blocks.push((key, block));
                    at += 1;
                }
            }
        }
        Ok(blocks)
    }

    /// A stream that stands at a block's beginning, at or before block `number`: the one
    /// that was left there, one from a check point or a new one, whichever is nearest.
    async fn stream_to(&self, turn: &mut Turn, number: u64, cut: Cut) -> Result<Stream> {
        let block_size = u64::from(cut.block_size);
        let target = number * block_size;
        let nearest = turn
            .checkpoints
            .iter()
            .rev()
            .find(|checkpoint| checkpoint.output_offset() <= target);
        let from = nearest.map_or(0, Checkpoint::output_offset);
        if let Some(left) = turn.stream.take_if(|left| {
            let position = left.position();
            from <= position && position <= target && position % block_size == 0
        }) {
            return Ok(left);
        }
        let stream = Stream::new(&self.stored, self.codec, nearest)?;
        // A check point lies where the codec has one; what is decoded up to the next
        // block is dropped.
        let skipped = from.next_multiple_of(block_size) - from;
        Ok(stream.decode(&self.stored, skipped, |_| ()).await?.0)
    }

    /// Reads the object whole and checks its md5, for backups that have no list of
    /// hashes; gives the digests that such a list would have held, and to `keep` before
    /// anybody else can begin to read the object for them. `progress` is told of decoded
    /// bytes.
    ///
    /// # Errors
    /// As [`Object::blocks`], and `Corrupt` when the md5 is wrong.
    pub async fn scan(
        &self,
        cut: Cut,
        sink: &dyn BlockSink,
        keep: &(dyn Fn(&Arc<[Digest]>) + Sync),
        progress: &dyn Progress,
    ) -> Result<Arc<[Digest]>> {
        if self.codec == Codec::None {
            self.check_stored_size().await?;
        }
        let mut turn = self.turn.turn().await?;
        if let Some((known, table)) = &turn.table
            && *known == cut
            && let Some(table) = table.upgrade()
        {
            return Ok(table);
        }
        let scanned = self.scan_now(&mut turn, cut, sink, progress).await;
        let table = turn.note(scanned)?;
        turn.table = Some((cut, Arc::downgrade(&table)));
        keep(&table);
        Ok(table)
    }

    async fn scan_now(
        &self,
        turn: &mut Turn,
        cut: Cut,
        sink: &dyn BlockSink,
        progress: &dyn Progress,
    ) -> Result<Arc<[Digest]>> {
        let mut found: Vec<Digest> = Vec::new();
        let mut sum = Md5::new();
        let mut stream = Stream::new(&self.stored, self.codec, None)?;
        while stream.position() < self.length {
            let first = stream.position() / u64::from(cut.block_size);
            let step = step_bytes(cut).min(self.length - stream.position());
            let cut_up;
            (stream, (cut_up, sum)) = stream
                .decode(&self.stored, step, move |data| {
                    sum.update(data);
                    (cut_blocks(data, cut), sum)
                })
                .await?;
            progress.advance(step);
            if self.codec != Codec::None {
                note_checkpoint(&mut turn.checkpoints, &stream, self.length);
            }
            for (number, block) in (first..).zip(cut_up) {
                found.extend(block.digests.iter());
                if self.length <= KEEP_BYTES {
                    sink.put(self.block_key(cut, number), block);
                }
            }
        }
        stream.end(&self.stored).await?;
        // Of the data since Liberty, of the stored bytes before.
        if <[u8; 16]>::from(sum.finalize()) != self.md5 && !self.stored_md5_fits().await? {
            return Err(self.stored.corrupt("its md5 is wrong"));
        }
        Ok(found.into())
    }

    async fn stored_md5_fits(&self) -> Result<bool> {
        if self.codec == Codec::None {
            return Ok(false);
        }
        let mut sum = Md5::new();
        let mut source = self.stored.from(0);
        loop {
            let piece = source.next(&self.stored).await?;
            if piece.is_empty() {
                return Ok(<[u8; 16]>::from(sum.finalize()) == self.md5);
            }
            sum = blocking(move || {
                sum.update(&piece);
                Ok(sum)
            })
            .await?;
        }
    }
}

/// What names an object, among all objects of all backends: the backup's id is part of
/// the prefix, and unique. Cinder or we ourselves may write another object under an old
/// name: then metadata says something else of it.
pub fn key_of(name: &BackupName, entry: &ObjectEntry) -> u128 {
    let hash = Sha256::new()
        .chain_update(&name.container)
        .chain_update([0])
        .chain_update(&name.prefix)
        .chain_update([0])
        .chain_update(entry.number.to_le_bytes())
        .chain_update(entry.length.to_le_bytes())
        .chain_update(entry.md5)
        .chain_update(&entry.compression)
        .finalize();
    let mut key = [0; 16];
    key.copy_from_slice(&hash[..16]);
    u128::from_le_bytes(key)
}

/// Decoding goes in steps that end where blocks do.
fn step_bytes(cut: Cut) -> u64 {
    let block = u64::from(cut.block_size);
    STEP_BYTES.next_multiple_of(block)
}

fn cut_blocks(data: &[u8], cut: Cut) -> Vec<Block> {
    // Many blocks are zero, and those need no memory of their own.
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let bytes_of = |piece: &[u8]| match ZEROS.get(..piece.len()) {
        Some(zeros) if is_zero(piece) => Bytes::from_static(zeros),
        // A copy: a slice would keep all of `data` alive for one block in the cache.
        _ => Bytes::copy_from_slice(piece),
    };
    data.chunks((cut.block_size as usize).max(1))
        .map(|piece| Block {
            bytes: bytes_of(piece),
            digests: digests(piece, cut.digest_size as usize).collect(),
        })
        .collect()
}

fn note_checkpoint(checkpoints: &mut Vec<Checkpoint>, stream: &Stream, length: u64) {
    let distance = CHECKPOINT_BYTES.max(length / CHECKPOINTS);
    let last = checkpoints.last().map_or(0, Checkpoint::output_offset);
    if stream.position() >= last.saturating_add(distance)
        && let Some(checkpoint) = stream.checkpoint()
        && checkpoint.output_offset() > last
    {
        checkpoints.push(checkpoint);
    }
}
