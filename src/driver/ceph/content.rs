//! A backup in an RBD image, open for reading: blocks of the image, and where it has data.

use super::image::Image;
use super::witness::Witness;
use crate::budget::Budget;
use crate::driver::{Block, BlockKey, BlockSink, Content, Place, Prepared, Source, is_zero};
use crate::error::{Error, Result};
use crate::format::Digest;
use async_trait::async_trait;
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::failure::Deadline;

/// What is cached and found at a time, in bytes: a small read fetches no more.
const BLOCK: u32 = 256 << 10;
/// A block of zeros, which all share.
static ZEROS: Bytes = Bytes::from_static(&[0; BLOCK as usize]);
/// How much one task fetches.
const UNIT: u64 = 2 << 20;
/// How much is asked of the library at a time: no object is larger by default.
const PIECE: u64 = 4 << 20;

/// See the module's page.
#[derive(Debug)]
pub struct RbdContent {
    pub(super) backup_id: String,
    pub(super) image: Arc<Image>,
    pub(super) size: u64,
    /// What tells its blocks from those of others.
    pub(super) key: u128,
    /// Ranges that hold data, in order and not adjoining; all else is zero.
    pub(super) data: Arc<[Range<u64>]>,
    pub(super) witness: Witness,
    /// How long a read may take.
    pub(super) patience: Duration,
    /// The program's memory.
    pub(super) budget: Arc<Budget>,
}

impl RbdContent {
    /// The range of data that holds `offset`, or the first one behind it.
    fn data_at(&self, offset: u64) -> Option<&Range<u64>> {
        let index = self.data.partition_point(|range| range.end <= offset);
        self.data.get(index)
    }

    /// The numbers of the blocks of a range that have data, in runs that adjoin.
    fn runs(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let block = u64::from(BLOCK);
        let first = self.data.partition_point(|data| data.end <= range.start);
        let mut runs: Vec<Range<u64>> = Vec::new();
        for data in self.data.get(first..).unwrap_or_default() {
            let (start, end) = (data.start.max(range.start), data.end.min(range.end));
            if start >= end {
                break;
            }
            let numbers = start / block..end.div_ceil(block);
            match runs.last_mut() {
                Some(last) if numbers.start <= last.end => last.end = last.end.max(numbers.end),
                _ => runs.push(numbers),
            }
        }
        runs
    }

    fn block_key(&self, number: u64) -> BlockKey {
        BlockKey::without_digests(self.key, BLOCK, number)
    }
}

#[async_trait]
impl Content for RbdContent {
    fn size(&self) -> u64 {
        self.size
    }

    fn locate(&self, offset: u64) -> Place {
        let data = self.data_at(offset);
        let Some(data) = data.filter(|data| data.start <= offset) else {
            let end = data.map_or(self.size, |next| next.start);
            return Place {
                source: Source::Zero,
                length: end.saturating_sub(offset),
            };
        };
        let block = u64::from(BLOCK);
        let number = offset / block;
        let end = ((number + 1) * block).min(data.end);
        // Less than a block.
        let within = (offset % block) as u32;
        Place {
            source: Source::Block(self.block_key(number), within),
            length: end - offset,
        }
    }

    fn admits(&self, _offset: u64, place: &Place, block: &Block) -> Option<bool> {
        let Source::Block(_, within) = place.source else {
            return Some(false);
        };
        // The cluster has checked it against checksums of its own.
        Some(block.bytes.len() as u64 >= u64::from(within) + place.length)
    }

    async fn prepare(&self, _range: Range<u64>, _sink: &dyn BlockSink) -> Result<Prepared> {
        Ok(Prepared::default())
    }

    async fn fetch(
        &self,
        range: Range<u64>,
        sink: &dyn BlockSink,
    ) -> Result<Vec<(BlockKey, Block)>> {
        let block = u64::from(BLOCK);
        let deadline = Deadline::after(self.patience);
        let mut blocks = Vec::new();
        let mut fetched = Vec::new();
        // What is under way is in memory twice: as the library has got it, and as we get it.
        // Without room for it, it has to be all the same.
        let under_way = self.budget.permit(2 * (range.end - range.start));
        for run in self.runs(&range) {
            let mut number = run.start;
            while number < run.end {
                if let Some(known) = sink.get(&self.block_key(number)) {
                    blocks.push((self.block_key(number), known));
                    number += 1;
                    continue;
                }
                let mut end = number + 1;
                while end < run.end
                    && (end - number) * block < PIECE
                    && sink.get(&self.block_key(end)).is_none()
                {
                    end += 1;
                }
                let piece = number * block..(end * block).min(self.size);
                let read = self.image.read(piece, BLOCK as usize, deadline).await?;
                fetched.extend((number..end).zip(read));
                number = end;
            }
        }
        if fetched.is_empty() {
            return Ok(blocks);
        }
        self.witness.confirm().await?;
        drop(under_way);
        let no_digests: Arc<[Digest]> = Arc::new([]);
        for (number, bytes) in fetched {
            let key = self.block_key(number);
            let bytes = match is_zero(&bytes) {
                // Within objects, holes are not told of.
                true => ZEROS.slice(..bytes.len()),
                false => Bytes::from(bytes),
            };
            let block = Block {
                bytes,
                digests: Arc::clone(&no_digests),
            };
            sink.put(key, block.clone());
            blocks.push((key, block));
        }
        Ok(blocks)
    }

    fn unit(&self, offset: u64) -> (Range<u64>, bool) {
        let Some(data) = self.data_at(offset) else {
            return (offset..self.size, false);
        };
        if offset < data.start {
            return (offset..data.start, false);
        }
        let end = (offset / UNIT + 1) * UNIT;
        (offset..end.min(data.end), false)
    }

    async fn seek(&self, offset: u64, hole: bool) -> Result<Option<u64>> {
        if offset >= self.size {
            return Ok(None);
        }
        let data = self.data_at(offset);
        let at_data = data.is_some_and(|data| data.start <= offset);
        Ok(match (hole, at_data) {
            (true, true) => data.map(|data| data.end),
            (true, false) | (false, true) => Some(offset),
            (false, false) => data.map(|data| data.start),
        })
    }

    async fn data_bytes(&self) -> Result<u64> {
        Ok(self.data.iter().map(|range| range.end - range.start).sum())
    }

    fn damage(&self, offset: u64) -> Error {
        let reason = format!("its image does not give what it has at {offset}");
        Error::corrupt("read", format!("backup {}", self.backup_id), reason)
    }
}
