//! A finished backup in Cinder's chunked format, open for reading: the chain resolved
//! into extents, and every block checked before it counts.

use super::hashlist::HashList;
use super::object::{Cut, LEAST_BLOCK, Object, key_of};
use super::shelf::Shelf;
use crate::codec::Codec;
use crate::driver::{Block, BlockKey, BlockSink, Content, Place, Prepared, Source};
use crate::error::{Error, Result};
use crate::format::{BackupName, Digest, Extent, ObjectEntry, zero_digest};
use crate::store::ObjectStore;
use async_trait::async_trait;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Hashed blocks larger than this are not used: a single one would fill the memory.
pub const LARGEST_HASHED: u64 = 16 << 20;
/// How much of an object that is stored as it is one task fetches.
const UNIT_BYTES: u64 = 2 << 20;
/// Objects whose decoder and check points are kept for who reads them next.
const OBJECTS_KEPT: u64 = 16;
/// How many digests of objects without a list of hashes are kept: 64 MiB of them, which
/// cover 64 GiB of data.
const DIGESTS_KEPT: u64 = 2 << 20;

/// The open objects of a driver, shared by all its backups.
#[derive(Debug)]
pub struct OpenObjects {
    objects: Mutex<Shelf<u128, Object>>,
    /// For objects that no list of hashes can vouch for: the digests of their blocks,
    /// once their md5 was found right.
    tables: Mutex<Shelf<(u128, u32), [Digest]>>,
}

impl Default for OpenObjects {
    fn default() -> Self {
        Self {
            objects: Mutex::new(Shelf::new(OBJECTS_KEPT)),
            tables: Mutex::new(Shelf::new(DIGESTS_KEPT)),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One object of the image, of whichever backup in the chain.
#[derive(Debug)]
pub struct Part {
    name: Arc<BackupName>,
    entry: ObjectEntry,
    key: u128,
    /// Whether the image's list of hashes can vouch for all of it that is seen.
    listed: bool,
}

impl Part {
    /// The object of `entry` in the backup `name`.
    pub fn new(name: &Arc<BackupName>, entry: ObjectEntry) -> Self {
        Self {
            key: key_of(name, &entry),
            name: Arc::clone(name),
            entry,
            listed: true,
        }
    }
}

/// The image's list of hashes, and what it says of zeros.
#[derive(Debug)]
struct Hashes {
    list: HashList,
    zero: Digest,
    /// That of the last block, which may be shorter.
    last_zero: Digest,
}

impl Hashes {
    fn new(list: HashList, size: u64) -> Self {
        let tail = size % list.block_size();
        let zero = zero_digest(list.block_size());
        Self {
            last_zero: if tail > 0 { zero_digest(tail) } else { zero },
            zero,
            list,
        }
    }

    fn is_zero(&self, index: u64, digest: &Digest) -> bool {
        if index + 1 == self.list.count() {
            *digest == self.last_zero
        } else {
            *digest == self.zero
        }
    }

    /// Whether a range of the image is zero; `None` when what tells is not at hand.
    fn says_zero(&self, range: &Range<u64>) -> Option<bool> {
        let block = self.list.block_size();
        for index in range.start / block..range.end.div_ceil(block) {
            if !self.is_zero(index, &self.list.peek(index)?) {
                return Some(false);
            }
        }
        Some(true)
    }
}

/// See the module's page.
pub struct ChunkedImage {
    backup_id: String,
    size: u64,
    store: Arc<dyn ObjectStore>,
    objects: Arc<OpenObjects>,
    parts: Vec<Part>,
    extents: Vec<Extent>,
    hashes: Option<Hashes>,
}

impl ChunkedImage {
    /// The image of `size` bytes that `extents` of `parts` make up.
    pub fn new(
        backup_id: &str,
        size: u64,
        store: &Arc<dyn ObjectStore>,
        objects: &Arc<OpenObjects>,
        mut parts: Vec<Part>,
        extents: Vec<Extent>,
        hashes: Option<HashList>,
    ) -> Self {
        let hashes = hashes.filter(|list| list.block_size() <= LARGEST_HASHED);
        let block = hashes.as_ref().map_or(1, HashList::block_size);
        for extent in &extents {
            if let Some(part) = parts.get_mut(extent.object) {
                let data_end = part.entry.offset + part.entry.length;
                let ends_well = extent.end % block == 0 || extent.end == size && data_end == size;
                let fits = part.entry.offset % block == 0 && extent.start % block == 0 && ends_well;
                part.listed &= fits && hashes.is_some();
            }
        }
        Self {
            backup_id: backup_id.to_owned(),
            size,
            store: Arc::clone(store),
            objects: Arc::clone(objects),
            parts,
            extents,
            hashes: hashes.map(|list| Hashes::new(list, size)),
        }
    }

    /// The extent that holds `offset`, or the first one behind it.
    fn extent_at(&self, offset: u64) -> Option<&Extent> {
        let index = self.extents.partition_point(|extent| extent.end <= offset);
        self.extents.get(index)
    }

    /// The list of hashes, if it can vouch for an object.
    fn hashes_for(&self, part: &Part) -> Option<&Hashes> {
        self.hashes.as_ref().filter(|_| part.listed)
    }

    fn cut_of(&self, part: &Part) -> Cut {
        let digest_size = self
            .hashes_for(part)
            .map_or(LEAST_BLOCK, |hashes| hashes.list.block_size());
        // At most LARGEST_HASHED.
        Cut::of(digest_size)
    }

    fn object(&self, part: &Part) -> Arc<Object> {
        let mut open = lock(&self.objects.objects);
        if let Some(object) = open.get(&part.key) {
            return object;
        }
        let object = Arc::new(Object::new(&self.store, &part.name, &part.entry));
        open.put(part.key, Arc::clone(&object), 1);
        object
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

    fn table(&self, part: &Part, cut: Cut) -> Option<Arc<[Digest]>> {
        lock(&self.objects.tables).get(&(part.key, cut.digest_size))
    }

    /// The digests of an object's blocks, which is read whole for them if need be.
    async fn scanned(&self, part: &Part, sink: &dyn BlockSink) -> Result<Arc<[Digest]>> {
        let cut = self.cut_of(part);
        if let Some(known) = self.table(part, cut) {
            return Ok(known);
        }
        let keep = |table: &Arc<[Digest]>| {
            let key = (part.key, cut.digest_size);
            lock(&self.objects.tables).put(key, Arc::clone(table), table.len() as u64);
        };
        self.object(part).scan(cut, sink, &keep, &()).await
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
            let Some(hashes) = &self.hashes else {
                return Place {
                    source: Source::Unknown,
                    length: end.saturating_sub(offset),
                };
            };
            let block = hashes.list.block_size();
            let end = end.min((offset / block + 1).saturating_mul(block));
            let source = match hashes.says_zero(&(offset..offset + 1)) {
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
        let key = BlockKey {
            object: part.key,
            block_size: cut.block_size,
            digest_size: cut.digest_size,
            number,
        };
        let zero = match self.hashes_for(part) {
            Some(hashes) => hashes.says_zero(&(offset..offset + length)),
            None => Some(false),
        };
        let source = match zero {
            Some(true) => Source::Zero,
            Some(false) => Source::Block(key, (within - block_start) as u32),
            None => Source::Unknown,
        };
        Place { source, length }
    }

    fn admits(&self, offset: u64, place: &Place, block: &Block) -> Option<bool> {
        let Source::Block(key, within) = place.source else {
            return Some(false);
        };
        let extent = self.extent_at(offset)?;
        let part = self.parts.get(extent.object)?;
        let size = u64::from(key.digest_size);
        let needed = u64::from(within) + place.length;
        if (block.bytes.len() as u64) < needed {
            return Some(false);
        }
        let hashes = self.hashes_for(part);
        let table = match hashes {
            Some(_) => None,
            None => Some(self.table(part, self.cut_of(part))?),
        };
        // Number of the block's first digest in the object.
        let first = key.number * u64::from(key.block_size) / size;
        for digest in u64::from(within) / size..=(needed - 1) / size {
            let expected = match (hashes, &table) {
                (Some(hashes), _) => hashes
                    .list
                    .peek(part.entry.offset / size + first + digest)?,
                (None, Some(table)) => *table.get(usize::try_from(first + digest).ok()?)?,
                (None, None) => return Some(false),
            };
            if block.digests.get(digest as usize) != Some(&expected) {
                return Some(false);
            }
        }
        Some(true)
    }

    async fn prepare(&self, range: Range<u64>, sink: &dyn BlockSink) -> Result<Prepared> {
        let mut held: Vec<Arc<dyn Send + Sync>> = Vec::new();
        if let Some(Hashes { list, .. }) = &self.hashes {
            let blocks = range.start / list.block_size()..range.end.div_ceil(list.block_size());
            for page in list.load(blocks).await? {
                held.push(page);
            }
        }
        for extent in self.extents_in(range) {
            let part = self.part(&extent)?;
            if self.hashes_for(part).is_none() {
                held.push(Arc::new(self.scanned(part, sink).await?));
            }
        }
        Ok(Prepared::holding(held))
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
            let block_size = u64::from(cut.block_size);
            let end = extent.object_offset + (extent.end - extent.start);
            let numbers = extent.object_offset / block_size..end.div_ceil(block_size);
            blocks.extend(self.object(part).blocks(numbers, cut, sink).await?);
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
        // All that a compressed object held in the image before others took parts of it:
        // what lies between them is decoded on the way.
        if let Some(part) = self.parts.get(extent.object)
            && part.entry.codec != Codec::None
        {
            let end = (part.entry.offset + part.entry.length).min(self.size);
            return (extent.start..end.max(extent.end), true);
        }
        let end = (offset / UNIT_BYTES + 1) * UNIT_BYTES;
        (offset..end.min(extent.end), false)
    }

    async fn seek(&self, offset: u64, hole: bool) -> Result<Option<u64>> {
        if offset >= self.size {
            return Ok(None);
        }
        let Some(hashes) = &self.hashes else {
            return Ok(Some(if hole { self.size } else { offset }));
        };
        let block = hashes.list.block_size();
        let mut index = offset / block;
        while index < hashes.list.count() {
            let (page, first) = hashes.list.page_of(index).await?;
            let from = usize::try_from(index - first).unwrap_or(usize::MAX);
            for digest in page.get(from..).unwrap_or_default() {
                if hashes.is_zero(index, digest) == hole {
                    return Ok(Some(offset.max(index * block)));
                }
                index += 1;
            }
            if page.len() <= from {
                break;
            }
        }
        Ok(hole.then_some(self.size))
    }

    async fn data_bytes(&self) -> Result<u64> {
        let Some(hashes) = &self.hashes else {
            return Ok(self.size);
        };
        let block = hashes.list.block_size();
        let (mut index, mut data) = (0, 0);
        while index < hashes.list.count() {
            let (page, _) = hashes.list.page_of(index).await?;
            if page.is_empty() {
                break;
            }
            for digest in page.iter() {
                if !hashes.is_zero(index, digest) {
                    data += block.min(self.size - index * block);
                }
                index += 1;
            }
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
        let reason = match self.hashes_for(part) {
            Some(hashes) => hashes.list.mismatch(offset / hashes.list.block_size()),
            None => "its data does not have the md5 that the metadata says".into(),
        };
        Error::corrupt(
            "read",
            backup,
            format!("object {}: {reason}", part.name.chunk(part.entry.number)),
        )
    }
}
