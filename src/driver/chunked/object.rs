//! The data of one chunk object: fetched, decoded and cut into blocks.
//!
//! An object that is stored as it is gives any range. A compressed one can only be
//! decoded from its beginning, or from a check point, onwards; who reads it takes turns,
//! and finds what the one before has decoded in the sink.

use super::digest::digests;
use crate::codec::{Checkpoint, Codec, Decoder};
use crate::driver::{Block, BlockKey, BlockSink};
use crate::error::{Error, Kind, Result};
use crate::format::{BackupName, Digest, ObjectEntry};
use crate::store::ObjectStore;
use crate::task::blocking;
use bytes::Bytes;
use md5::Md5;
use sha2::{Digest as _, Sha256};
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::{Mutex, OnceCell};

/// How much of a stored object is read at a time.
const FEED_BYTES: u64 = 1 << 20;
/// How much is decoded in one step, at least.
const STEP_BYTES: u64 = 512 << 10;
/// How far apart check points are, at least, and how many there are, at most.
const CHECKPOINT_BYTES: u64 = 16 << 20;
const CHECKPOINTS: u64 = 64;
/// The blocks of an object up to this size are kept while it is checked as a whole.
const KEEP_BYTES: u64 = 64 << 20;

/// How an object is cut: into blocks, and those into what a digest stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Bytes of a block; a multiple of `digest_size`.
    pub block_size: u32,
    /// Bytes that a digest stands for.
    pub digest_size: u32,
}

/// See the module's page.
#[derive(Debug)]
pub struct Object {
    store: Arc<dyn ObjectStore>,
    backup_id: String,
    container: String,
    name: String,
    key: u128,
    length: u64,
    codec: Codec,
    md5: [u8; 16],
    stored: OnceCell<u64>,
    turn: Mutex<Turn>,
}

/// What stays between two readers of a compressed object.
#[derive(Debug, Default)]
struct Turn {
    decoding: Option<Decoding>,
    checkpoints: Vec<Checkpoint>,
}

struct Decoding {
    decoder: Decoder,
    /// What has been read and not decoded yet.
    input: Bytes,
    /// Where in the stored object the next piece begins.
    next: u64,
}

impl std::fmt::Debug for Decoding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Decoding at {}", self.decoder.position())
    }
}

impl Object {
    /// The object of `entry` in the backup `name`.
    pub fn new(store: &Arc<dyn ObjectStore>, name: &BackupName, entry: &ObjectEntry) -> Self {
        Self {
            store: Arc::clone(store),
            backup_id: name.backup_id.clone(),
            container: name.container.clone(),
            name: name.chunk(entry.number),
            key: key_of(name, entry.number),
            length: entry.length,
            codec: entry.codec,
            md5: entry.md5,
            stored: OnceCell::new(),
            turn: Mutex::default(),
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

    fn corrupt(&self, reason: impl std::fmt::Display) -> Error {
        Error::corrupt(
            "read object",
            format!("{} of backup {}", self.name, self.backup_id),
            reason,
        )
    }

    /// A codec does not know what it decodes, nor a store what for.
    fn name_it(&self, error: Error) -> Error {
        // An object that metadata names and that is not there is damage, not absence.
        if error.kind() == Kind::NotFound {
            return self.corrupt("the object is missing");
        }
        error.within(format!("{} of backup {}", self.name, self.backup_id))
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let read = self.store.read(&self.container, &self.name, range).await;
        read.map_err(|e| self.name_it(e))
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
    async fn check_stored_length(&self) -> Result<()> {
        let stored = self
            .stored
            .get_or_try_init(|| async {
                let stat = self.store.stat(&self.container, &self.name).await;
                stat.map(|stat| stat.size).map_err(|e| self.name_it(e))
            })
            .await?;
        if *stored == self.length {
            return Ok(());
        }
        Err(self.corrupt(format!("it has {stored} bytes instead of {}", self.length)))
    }

    async fn blocks_as_stored(
        &self,
        range: Range<u64>,
        cut: Cut,
        sink: &dyn BlockSink,
    ) -> Result<Vec<(BlockKey, Block)>> {
        self.check_stored_length().await?;
        let mut blocks = Vec::new();
        let mut at = range.start;
        while at < range.end {
            if let Some(block) = sink.get(&self.block_key(cut, at)) {
                blocks.push((self.block_key(cut, at), block));
                at += 1;
                continue;
            }
            let most = (FEED_BYTES / u64::from(cut.block_size)).max(1);
            let mut end = at + 1;
            while end < range.end.min(at + most) && sink.get(&self.block_key(cut, end)).is_none() {
                end += 1;
            }
            let first = at * u64::from(cut.block_size);
            let last = (end * u64::from(cut.block_size)).min(self.length);
            let data = self.read(first..last).await?;
            if data.len() as u64 != last.saturating_sub(first) {
                return Err(self.corrupt("it became shorter while it was read"));
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
        let mut turn = self.turn.lock().await;
        let mut blocks = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let key = self.block_key(cut, at);
            if let Some(block) = sink.get(&key) {
                blocks.push((key, block));
                at += 1;
                continue;
            }
            let mut decoding = self.start_decoding(&mut turn, at, cut).await?;
            // On failure the decoder is gone with its state: the next one starts anew.
            let first = decoding.decoder.position();
            let step = step_bytes(cut);
            let data;
            (decoding, data) = self.decode(decoding, step.min(self.length - first)).await?;
            if decoding.decoder.position() == self.length {
                self.end_decoding(decoding).await?;
            } else {
                note_checkpoint(&mut turn.checkpoints, &decoding.decoder, self.length);
                turn.decoding = Some(decoding);
            }
            let cut_up = blocking(move || Ok(cut_blocks(&data, cut))).await?;
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

    /// A decoder that stands at a block's beginning, at or before block `number`: the one
    /// that was left there, one from a check point or a new one, whichever is nearest.
    async fn start_decoding(&self, turn: &mut Turn, number: u64, cut: Cut) -> Result<Decoding> {
        let block_size = u64::from(cut.block_size);
        let target = number * block_size;
        let nearest = turn
            .checkpoints
            .iter()
            .rev()
            .find(|checkpoint| checkpoint.output_offset() <= target);
        let from = nearest.map_or(0, Checkpoint::output_offset);
        if let Some(left) = turn.decoding.take_if(|left| {
            let position = left.decoder.position();
            from <= position && position <= target && position % block_size == 0
        }) {
            return Ok(left);
        }
        let decoder = match nearest {
            Some(checkpoint) => Decoder::resume(checkpoint),
            None => Decoder::new(self.codec),
        };
        let decoding = Decoding {
            next: nearest.map_or(0, Checkpoint::input_offset),
            input: Bytes::new(),
            decoder: decoder.map_err(|e| self.name_it(e))?,
        };
        // A check point lies where the codec has one; what is decoded up to the next
        // block is dropped.
        let skipped = from.next_multiple_of(block_size) - from;
        Ok(self.decode(decoding, skipped).await?.0)
    }

    /// Decodes exactly `length` bytes.
    async fn decode(&self, mut decoding: Decoding, length: u64) -> Result<(Decoding, Vec<u8>)> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let mut data = Vec::new();
        loop {
            (decoding, data) = blocking(move || {
                decode_some(&mut decoding, &mut data, length)?;
                Ok((decoding, data))
            })
            .await
            .map_err(|e| self.name_it(e))?;
            if data.len() == length {
                return Ok((decoding, data));
            }
            // At the end of one stream of several there may be no input left, either.
            let more = decoding.input.is_empty() && self.feed(&mut decoding).await?;
            if !more {
                let position = decoding.decoder.position();
                let reason = format!("it ends after {position} of {} bytes of data", self.length);
                return Err(self.corrupt(reason));
            }
        }
    }

    /// Reads the next piece of the stored object; `false` at its end.
    async fn feed(&self, decoding: &mut Decoding) -> Result<bool> {
        let piece = self.read(decoding.next..decoding.next + FEED_BYTES).await?;
        decoding.next += piece.len() as u64;
        decoding.input = piece;
        Ok(!decoding.input.is_empty())
    }

    /// Makes sure that an object whose data has been decoded to its full length really
    /// ends there: that no data and no stored bytes follow, and that the codec's own
    /// check sum, which stands last, is right.
    async fn end_decoding(&self, mut decoding: Decoding) -> Result<()> {
        loop {
            let mut more = [0];
            let progress = decoding
                .decoder
                .decode(&decoding.input, &mut more)
                .map_err(|e| self.name_it(e))?;
            if progress.produced > 0 {
                let reason = format!("it holds more than its {} bytes of data", self.length);
                return Err(self.corrupt(reason));
            }
            decoding.input = decoding.input.slice(progress.consumed..);
            let more = !decoding.input.is_empty() || self.feed(&mut decoding).await?;
            if !more {
                return decoding.decoder.finish().map_err(|e| self.name_it(e));
            }
            if progress.ended {
                return Err(self.corrupt("it goes on behind the end of its data"));
            }
        }
    }

    /// Reads the object whole and checks its md5, for backups that have no list of
    /// hashes; gives the digests that such a list would have held.
    ///
    /// # Errors
    /// As [`Object::blocks`], and `Corrupt` when the md5 is wrong.
    pub async fn scan(&self, cut: Cut, sink: &dyn BlockSink) -> Result<Arc<[Digest]>> {
        if self.codec == Codec::None {
            self.check_stored_length().await?;
        }
        // Alone: nobody needs to decode the object beside this.
        let _turn = self.turn.lock().await;
        let mut kept = Some(Vec::new()).filter(|_| self.length <= KEEP_BYTES);
        let mut found: Vec<Digest> = Vec::new();
        let mut sums = Some((Md5::new(), Md5::new()));
        let mut decoding = Decoding {
            decoder: Decoder::new(self.codec)?,
            input: Bytes::new(),
            next: 0,
        };
        let mut position = 0;
        while position < self.length {
            let step = step_bytes(cut).min(self.length - position);
            let data;
            (decoding, data) = self.decode(decoding, step).await?;
            position += step;
            let Some((mut plain, stored)) = sums.take() else {
                break;
            };
            let (cut_up, plain) = blocking(move || {
                plain.update(&data);
                Ok((cut_blocks(&data, cut), plain))
            })
            .await?;
            sums = Some((plain, stored));
            found.extend(cut_up.iter().flat_map(|block| block.digests.iter()));
            if let Some(kept) = &mut kept {
                kept.extend(cut_up);
            }
        }
        self.end_decoding(decoding).await?;
        let Some((plain, stored)) = sums else {
            return Err(self.corrupt("it could not be hashed"));
        };
        // Of the data since Liberty, of the stored bytes before.
        if <[u8; 16]>::from(plain.finalize()) != self.md5 && !self.stored_md5_fits(stored).await? {
            return Err(self.corrupt("its md5 is wrong"));
        }
        for (number, block) in (0..).zip(kept.into_iter().flatten()) {
            sink.put(self.block_key(cut, number), block);
        }
        Ok(found.into())
    }

    async fn stored_md5_fits(&self, mut sum: Md5) -> Result<bool> {
        let mut at = 0;
        loop {
            let piece = self.read(at..at + FEED_BYTES).await?;
            if piece.is_empty() {
                return Ok(<[u8; 16]>::from(sum.finalize()) == self.md5);
            }
            at += piece.len() as u64;
            sum = blocking(move || {
                sum.update(&piece);
                Ok(sum)
            })
            .await?;
        }
    }
}

/// What names an object, among all objects of all backends: the backup's id is part of
/// the prefix, and unique.
pub fn key_of(name: &BackupName, number: u64) -> u128 {
    let hash = Sha256::new()
        .chain_update(&name.container)
        .chain_update([0])
        .chain_update(&name.prefix)
        .chain_update(number.to_le_bytes())
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
    data.chunks((cut.block_size as usize).max(1))
        .map(|piece| Block {
            // A copy: a slice would keep all of `data` alive for one block in the cache.
            bytes: Bytes::copy_from_slice(piece),
            digests: digests(piece, cut.digest_size as usize).collect(),
        })
        .collect()
}

/// Decodes until `data` has `length` bytes, or all of the input is used that can be.
fn decode_some(decoding: &mut Decoding, data: &mut Vec<u8>, length: usize) -> Result<()> {
    let mut filled = data.len();
    data.resize(length, 0);
    while let Some(space) = data.get_mut(filled..).filter(|space| !space.is_empty()) {
        // Called without input, too: a codec may hold back what it has decoded.
        let progress = decoding.decoder.decode(&decoding.input, space)?;
        decoding.input = decoding.input.slice(progress.consumed..);
        filled += progress.produced;
        if progress.ended || progress.produced == 0 && decoding.input.is_empty() {
            break;
        }
    }
    data.truncate(filled);
    Ok(())
}

fn note_checkpoint(checkpoints: &mut Vec<Checkpoint>, decoder: &Decoder, length: u64) {
    let distance = CHECKPOINT_BYTES.max(length / CHECKPOINTS);
    let last = checkpoints.last().map_or(0, Checkpoint::output_offset);
    if decoder.position() >= last.saturating_add(distance)
        && let Some(checkpoint) = decoder.checkpoint()
    {
        checkpoints.push(checkpoint);
    }
}
