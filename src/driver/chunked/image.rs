//! A finished backup in Cinder's chunked format, open for reading: the chain resolved
//! into extents, and every block checked before it counts.

use super::digest::zero_digest_of;
use super::hashlist::HashList;
use super::object::{Cut, Object, key_of};
use crate::driver::{Block, BlockKey, BlockSink, Content, Place, Source};
use crate::error::{Error, Result};
use crate::format::{BackupName, Digest, Extent, ObjectEntry};
use crate::store::ObjectStore;
use async_trait::async_trait;
use lru::LruCache;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Blocks of the cache are at least this large, and a multiple of the hashed blocks.
const LEAST_BLOCK: u64 = 32 << 10;
/// Hashed blocks larger than this are not used: a single one would fill the memory.
const LARGEST_HASHED: u64 = 16 << 20;
/// How much of an object that is stored as it is one task fetches.
const UNIT_BYTES: u64 = 1 << 20;
/// Objects whose decoder, check points or digests are kept for who reads them next.
const OBJECTS_KEPT: NonZeroUsize = NonZeroUsize::new(32).unwrap();
const TABLES_KEPT: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// The open objects of a driver, shared by all its backups.
#[derive(Debug)]
pub struct OpenObjects(Mutex<LruCache<u128, Arc<Object>>>);

impl Default for OpenObjects {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(OBJECTS_KEPT)))
    }
}

/// One object of the image, of whichever backup in the chain.
#[derive(Debug)]
pub struct Part {
    /// The backup that it belongs to.
    pub name: Arc<BackupName>,
    /// What its metadata says of it.
    pub entry: ObjectEntry,
}

/// See the module's page.
pub struct ChunkedImage {
    backup_id: String,
    size: u64,
    store: Arc<dyn ObjectStore>,
    objects: Arc<OpenObjects>,
    parts: Vec<Part>,
    extents: Vec<Extent>,
    hashes: Option<HashList>,
    /// For objects that the list of hashes cannot vouch for: the digests of their
    /// blocks, once their md5 was found right.
    tables: Mutex<LruCache<usize, Arc<[Digest]>>>,
}

impl ChunkedImage {
    /// The image of `size` bytes that `extents` of `parts` make up.
    pub fn new(
        backup_id: &str,
        size: u64,
        store: &Arc<dyn ObjectStore>,
        objects: &Arc<OpenObjects>,
        parts: Vec<Part>,
        extents: Vec<Extent>,
        hashes: Option<HashList>,
    ) -> Self {
        Self {
            backup_id: backup_id.to_owned(),
            size,
            store: Arc::clone(store),
            objects: Arc::clone(objects),
            parts,
            extents,
            hashes: hashes.filter(|list| list.block_size() <= LARGEST_HASHED),
            tables: Mutex::new(LruCache::new(TABLES_KEPT)),
        }
    }

    /// The extent that holds `offset`, or the first one behind it.
    fn extent_at(&self, offset: u64) -> Option<&Extent> {
        let index = self.extents.partition_point(|extent| extent.end <= offset);
        self.extents.get(index)
    }

    /// The list of hashes, if it can vouch for an object: one whose ends lie where
    /// blocks of the image do.
    fn list_for(&self, part: &Part) -> Option<&HashList> {
        let list = self.hashes.as_ref()?;
        let end = part.entry.offset + part.entry.length;
        let fits = part.entry.offset % list.block_size() == 0
            && (end % list.block_size() == 0 || end >= self.size);
        fits.then_some(list)
    }

    fn cut_of(&self, part: &Part) -> Cut {
        let digest_size = self
            .list_for(part)
            .map_or(LEAST_BLOCK, HashList::block_size);
        let blocks = LEAST_BLOCK.div_ceil(digest_size);
        // Both are at most LARGEST_HASHED.
        Cut {
            block_size: (blocks * digest_size) as u32,
            digest_size: digest_size as u32,
        }
    }

    fn object(&self, part: &Part) -> Arc<Object> {
        let key = key_of(&part.name, part.entry.number);
        let mut open = self
            .objects
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let make = || Arc::new(Object::new(&self.store, &part.name, &part.entry));
        Arc::clone(open.get_or_insert(key, make))
    }

    /// Whether the hashes of image blocks `range` say that they are all zero; `None`
    /// when they are not at hand.
    fn hashed_zero(&self, list: &HashList, range: Range<u64>) -> Option<bool> {
        for index in range {
            let start = index * list.block_size();
            let length = list.block_size().min(self.size.saturating_sub(start));
            if list.peek(index)? != zero_digest_of(length) {
                return Some(false);
            }
        }
        Some(true)
    }

    /// The extents that touch a range, each clipped to it.
    fn extents_in(&self, range: Range<u64>) -> impl Iterator<Item = Extent> + '_ {
        let first = self
            .extents
            .partition_point(|extent| extent.end <= range.start);
        let from = self.extents.get(first..).unwrap_or_default();
        from.iter()
            .take_while(move |extent| extent.start < range.end)
            .map(move |extent| {
                let skipped = range.start.saturating_sub(extent.start);
                Extent {
                    start: extent.start + skipped,
                    end: extent.end.min(range.end),
                    object: extent.object,
                    object_offset: extent.object_offset + skipped,
                }
            })
    }

    fn part(&self, extent: &Extent) -> Result<&Part> {
        let missing =
            || Error::corrupt("read", format!("backup {}", self.backup_id), "no such part");
        self.parts.get(extent.object).ok_or_else(missing)
    }

    fn table(&self, object: usize) -> Option<Arc<[Digest]>> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.get(&object).cloned()
    }
}

#[async_trait]
impl Content for ChunkedImage {
    fn size(&self) -> u64 {
        self.size
    }

    fn locate(&self, offset: u64) -> Place {
        let extent = self.extent_at(offset);
        let Some(extent) = extent.filter(|extent| extent.start <= offset) else {
            // No object holds anything here: only the list of hashes can say that this
            // is zero, and it is asked block by block.
            let end = extent.map_or(self.size, |next| next.start);
            let Some(list) = &self.hashes else {
                return Place {
                    source: Source::Unknown,
                    length: end - offset,
                };
            };
            let index = offset / list.block_size();
            let end = end.min((index + 1) * list.block_size());
            let source = match self.hashed_zero(list, index..index + 1) {
                Some(true) => Source::Zero,
                _ => Source::Unknown,
            };
            return Place {
                source,
                length: end.saturating_sub(offset),
            };
        };
        let Some(part) = self.parts.get(extent.object) else {
            return Place {
                source: Source::Unknown,
                length: extent.end - offset,
            };
        };
        let cut = self.cut_of(part);
        let within = extent.object_offset + (offset - extent.start);
        let number = within / u64::from(cut.block_size);
        let block_start = number * u64::from(cut.block_size);
        let block_end = block_start + u64::from(cut.block_size);
        let length = (block_end - within).min(extent.end - offset);
        if let Some(list) = self.list_for(part) {
            let first = offset / list.block_size();
            let last = (offset + length - 1) / list.block_size();
            match self.hashed_zero(list, first..last + 1) {
                Some(true) => {
                    return Place {
                        source: Source::Zero,
                        length,
                    };
                }
                None => {
                    return Place {
                        source: Source::Unknown,
                        length,
                    };
                }
                Some(false) => {}
            }
        }
        let key = BlockKey {
            object: key_of(&part.name, part.entry.number),
            block_size: cut.block_size,
            digest_size: cut.digest_size,
            number,
        };
        let source = Source::Block(key, (within - block_start) as u32);
        Place { source, length }
    }

    fn admits(&self, offset: u64, place: &Place, block: &Block) -> Option<bool> {
        let Source::Block(key, within) = place.source else {
            return Some(false);
        };
        let extent = self.extent_at(offset)?;
        let part = self.parts.get(extent.object)?;
        let size = u64::from(key.digest_size);
        let (first, last) = (
            u64::from(within) / size,
            (u64::from(within) + place.length - 1) / size,
        );
        let list = self.list_for(part);
        let table = if list.is_none() {
            Some(self.table(extent.object)?)
        } else {
            None
        };
        // Where in the image, or in the object's table, the block's first digest stands.
        let block_start = key.number * u64::from(key.block_size);
        for digest in first..=last {
            let expected = match (list, &table) {
                (Some(list), _) => list.peek((part.entry.offset + block_start) / size + digest)?,
                (None, Some(table)) => {
                    let index = usize::try_from(block_start / size + digest).ok()?;
                    *table.get(index)?
                }
                (None, None) => return Some(false),
            };
            if block.digests.get(digest as usize) != Some(&expected) {
                return Some(false);
            }
        }
        let needed = u64::from(within) + place.length;
        Some(block.bytes.len() as u64 >= needed)
    }

    async fn prepare(&self, range: Range<u64>) -> Result<()> {
        let Some(list) = &self.hashes else {
            return Ok(());
        };
        let first = range.start / list.block_size();
        list.load(first..range.end.div_ceil(list.block_size()))
            .await
    }

    async fn fetch(
        &self,
        range: Range<u64>,
        sink: &dyn BlockSink,
    ) -> Result<Vec<(BlockKey, Block)>> {
        let mut blocks = Vec::new();
        for extent in self.extents_in(range) {
            let part = self.part(&extent)?;
            let cut = self.cut_of(part);
            let object = self.object(part);
            if self.list_for(part).is_none() && self.table(extent.object).is_none() {
                let table = object.scan(cut, sink).await?;
                let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
                tables.put(extent.object, table);
            }
            let block_size = u64::from(cut.block_size);
            let end = extent.object_offset + (extent.end - extent.start);
            let numbers = extent.object_offset / block_size..end.div_ceil(block_size);
            blocks.extend(object.blocks(numbers, cut, sink).await?);
        }
        Ok(blocks)
    }

    fn unit(&self, offset: u64) -> (Range<u64>, bool) {
        let Some(extent) = self.extent_at(offset) else {
            return (offset..self.size, false);
        };
        if offset < extent.start {
            return (offset..extent.start, false);
        }
        let in_order = self
            .parts
            .get(extent.object)
            .is_some_and(|part| part.entry.codec != crate::codec::Codec::None);
        if in_order {
            return (extent.start..extent.end, true);
        }
        let end = (offset / UNIT_BYTES + 1) * UNIT_BYTES;
        (offset..end.min(extent.end), false)
    }

    async fn seek(&self, offset: u64, hole: bool) -> Result<Option<u64>> {
        if offset >= self.size {
            return Ok(None);
        }
        let Some(list) = &self.hashes else {
            return Ok(Some(if hole { self.size } else { offset }));
        };
        let mut index = offset / list.block_size();
        while index < list.count() {
            list.load(index..index + 1).await?;
            if self
                .hashed_zero(list, index..index + 1)
                .is_some_and(|zero| zero == hole)
            {
                return Ok(Some(offset.max(index * list.block_size())));
            }
            index += 1;
        }
        Ok(hole.then_some(self.size))
    }

    async fn data_bytes(&self) -> Result<u64> {
        let Some(list) = &self.hashes else {
            return Ok(self.size);
        };
        let mut data = self.size;
        let zero = zero_digest_of(list.block_size());
        for page in 0..list.pages() {
            let zeros = list
                .page(page)
                .await?
                .iter()
                .filter(|digest| **digest == zero)
                .count();
            data = data.saturating_sub(zeros as u64 * list.block_size());
        }
        // The last block may be short, and has another hash then.
        let tail = self.size % list.block_size();
        if tail > 0 && list.peek(list.count().saturating_sub(1)) == Some(zero_digest_of(tail)) {
            data = data.saturating_sub(tail);
        }
        Ok(data)
    }

    fn damage(&self, offset: u64) -> Error {
        let backup = format!("backup {}", self.backup_id);
        let extent = self
            .extent_at(offset)
            .filter(|extent| extent.start <= offset);
        let Some(part) = extent.and_then(|extent| self.parts.get(extent.object)) else {
            let reason = format!("no object of its chain holds the data at {offset}");
            return Error::corrupt("read", backup, reason);
        };
        let reason = match self.list_for(part) {
            Some(list) => list.mismatch(offset / list.block_size()),
            None => "its data does not have the md5 that the metadata says".into(),
        };
        Error::corrupt(
            "read",
            backup,
            format!("object {}: {reason}", part.name.chunk(part.entry.number)),
        )
    }
}
