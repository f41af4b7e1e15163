//! A backup of the server's, open for reading: blocks of the object on the shelf, which is
//! fetched when the first of them is wanted.

use super::part::Part;
use crate::driver::{Block, BlockKey, BlockSink, Content, Place, Prepared, Source};
use crate::error::{Error, Result};
use crate::format::Digest;
use async_trait::async_trait;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// What is cached and found at a time, in bytes.
const BLOCK: u32 = 256 << 10;
/// How much one task fetches.
const UNIT: u64 = 2 << 20;

/// See the module's page.
#[derive(Debug)]
pub struct StagedContent {
    part: Arc<Part>,
    size: u64,
    /// What tells its blocks from those of others, and from those of an earlier attempt.
    key: u128,
    patience: Duration,
}

impl StagedContent {
    /// A backup of `size` bytes. A reader waits no longer than `patience`.
    pub fn new(part: Arc<Part>, size: u64, patience: Duration) -> Self {
        let name = &part.name;
        let text = format!(
            "{}\0{}\0{}\0{}",
            name.mode.name(),
            name.path.display(),
            part.date,
            part.serial
        );
        let digest: [u8; 32] = Sha256::digest(text).into();
        let key = digest.first_chunk::<16>().unwrap_or(&[0; 16]);
        Self {
            size,
            key: u128::from_le_bytes(*key),
            patience,
            part,
        }
    }

    fn block_key(&self, number: u64) -> BlockKey {
        BlockKey::without_digests(self.key, BLOCK, number)
    }
}

#[async_trait]
impl Content for StagedContent {
    fn size(&self) -> u64 {
        self.size
    }

    fn locate(&self, offset: u64) -> Place {
        let block = u64::from(BLOCK);
        let number = offset / block;
        let end = ((number + 1) * block).min(self.size);
        // Less than a block.
        let within = (offset % block) as u32;
        Place {
            source: Source::Block(self.block_key(number), within),
            length: end.saturating_sub(offset),
        }
    }

    fn admits(&self, _offset: u64, place: &Place, block: &Block) -> Option<bool> {
        let Source::Block(_, within) = place.source else {
            return Some(false);
        };
        let is_there = block.bytes.len() as u64 >= u64::from(within) + place.length;
        // What has come of an object that could not be fetched as a whole may be anything.
        Some(is_there && !self.part.has_failed())
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
        let no_digests: Arc<[Digest]> = Arc::new([]);
        let mut blocks = Vec::new();
        for number in range.start / block..range.end.min(self.size).div_ceil(block) {
            let key = self.block_key(number);
            if let Some(known) = sink.get(&key).filter(|_| !self.part.has_failed()) {
                blocks.push((key, known));
                continue;
            }
            let of = number * block..((number + 1) * block).min(self.size);
            let fetched = Block {
                bytes: Bytes::from(self.part.read(of, self.patience).await?),
                digests: Arc::clone(&no_digests),
            };
            sink.put(key, fetched.clone());
            blocks.push((key, fetched));
        }
        Ok(blocks)
    }

    fn unit(&self, offset: u64) -> (Range<u64>, bool) {
        let end = (offset / UNIT + 1) * UNIT;
        (offset..end.min(self.size), false)
    }

    async fn seek(&self, offset: u64, hole: bool) -> Result<Option<u64>> {
        // Where holes are is not known before all of it is here.
        Ok((offset < self.size).then_some(if hole { self.size } else { offset }))
    }

    async fn data_bytes(&self) -> Result<u64> {
        Ok(self.size)
    }

    fn damage(&self, offset: u64) -> Error {
        let reason = format!("what was fetched does not give what it has at {offset}");
        Error::corrupt("read", self.part.subject(), reason)
    }
}
