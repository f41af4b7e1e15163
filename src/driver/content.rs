//! The bytes of one finished backup, as a driver gives them: in blocks that backups of
//! one chain share.

use crate::error::Result;
use crate::format::Digest;
use async_trait::async_trait;
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;

/// Names a block of decoded data, the same for all backups that share its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockKey {
    /// The object, as a hash of all that names it.
    pub object: u128,
    /// Size of the blocks into which it is cut, in bytes.
    pub block_size: u32,
    /// How many bytes of a block each of its digests stands for.
    pub digest_size: u32,
    /// Number of the block in the object.
    pub number: u64,
}

impl BlockKey {
    /// Of content that has no hashes: a block stands for itself.
    pub fn without_digests(object: u128, block_size: u32, number: u64) -> Self {
        Self {
            object,
            block_size,
            digest_size: block_size,
            number,
        }
    }
}

/// Decoded data of one block, with what is needed to check it against any backup's
/// list of hashes. It is not checked yet: [`Content::admits`] does that, each time.
#[derive(Debug, Clone)]
pub struct Block {
    /// The data; shorter than the block size at the end of an object.
    pub bytes: Bytes,
    /// sha256 of each [`BlockKey::digest_size`] bytes of it; the last may be shorter.
    pub digests: Arc<[Digest]>,
}

/// Where the data at some offset of an image comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Known to be zero.
    Zero,
    /// What tells has to be loaded first; after [`Content::prepare`]: nothing holds it.
    Unknown,
    /// A block, from this offset in it.
    Block(BlockKey, u32),
}

/// A run of an image that comes from one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Where it comes from.
    pub source: Source,
    /// How long the run is, in bytes; never 0 within the image.
    pub length: u64,
}

/// Takes blocks as they are decoded, and knows those that were.
pub trait BlockSink: Send + Sync {
    /// A block that is at hand.
    fn get(&self, key: &BlockKey) -> Option<Block>;
    /// Keeps a block, if there is room, and gives it to all who wait for it.
    fn put(&self, key: BlockKey, block: Block);
}

/// Nothing is kept.
impl BlockSink for () {
    fn get(&self, _: &BlockKey) -> Option<Block> {
        None
    }
    fn put(&self, _: BlockKey, _: Block) {}
}

/// What [`Content::prepare`] has loaded: it stays at hand for as long as this lives.
#[derive(Default)]
pub struct Prepared {
    _held: Vec<Arc<dyn Send + Sync>>,
}

impl Prepared {
    /// Holds on to `parts`.
    pub fn holding(parts: Vec<Arc<dyn Send + Sync>>) -> Self {
        Self { _held: parts }
    }
}

/// A finished backup that is open for reading. Content never changes.
#[async_trait]
pub trait Content: Send + Sync {
    /// Size of the image in bytes.
    fn size(&self) -> u64;

    /// Where the byte at `offset` comes from, without waiting for anything.
    fn locate(&self, offset: u64) -> Place;

    /// Whether `block`, found at `offset` of the image by [`Content::locate`], holds
    /// what this backup says it must. `None` when what tells has to be loaded first.
    fn admits(&self, offset: u64, place: &Place, block: &Block) -> Option<bool>;

    /// Loads whatever [`Content::locate`] and [`Content::admits`] need to answer for a
    /// range of the image, while the result is held. Blocks that had to be decoded for
    /// that go to `sink`.
    async fn prepare(&self, range: Range<u64>, sink: &dyn BlockSink) -> Result<Prepared>;

    /// Fetches and decodes the blocks of a range of the image that `sink` does not have
    /// yet, and gives all of the range's blocks back; others that had to be decoded on
    /// the way go to `sink` as well.
    async fn fetch(
        &self,
        range: Range<u64>,
        sink: &dyn BlockSink,
    ) -> Result<Vec<(BlockKey, Block)>>;

    /// The range around `offset` that is best fetched by one task, and whether its
    /// parts can only be had one after the other (a compressed object).
    fn unit(&self, offset: u64) -> (Range<u64>, bool);

    /// The first byte at or behind `offset` that is data (or hole, if `hole`); the size
    /// of the image counts as the beginning of a hole. `None`: there is no more data.
    async fn seek(&self, offset: u64, hole: bool) -> Result<Option<u64>>;

    /// Bytes of the image that are not known to be zero.
    async fn data_bytes(&self) -> Result<u64>;

    /// The failure of a range whose blocks are not admitted, naming backup, object and
    /// cause.
    fn damage(&self, offset: u64) -> crate::error::Error;
}
