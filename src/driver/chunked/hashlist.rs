//! The hashes of an image's blocks, read from its `_sha256file` a page at a time.

use super::shelf::Shelf;
use crate::error::{Error, Kind, Result};
use crate::format::{
    BackupName, Digest, HashListHeader, HashListTail, format_sha256file_tail, from_hex,
    parse_sha256_entries, to_hex,
};
use crate::store::{ObjectStore, Stat, read_whole};
use serde::Deserialize;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Hashes on a page: 128 KiB of them, and 288 KiB of text.
const PAGE: u64 = 4096;
/// Pages kept of one list: 4 MiB, which cover 4 GiB of an image at Cinder's block size.
const PAGES_KEPT: u64 = 32;
/// How much is read to find the list in the file: ids, a name of 255 characters and
/// a description of as many, each up to twelve bytes, stand before it. A description
/// that was not Cinder's may be longer.
const HEAD_BYTES: u64 = 8 << 10;
const LONGEST_HEAD: u64 = 1 << 20;
const TAIL_BYTES: u64 = 8 << 10;
/// A list that Cinder's `json.dumps` did not write is parsed whole, up to this size.
const LARGEST_FOREIGN: u64 = 16 << 20;

/// See the module's page.
#[derive(Debug)]
pub struct HashList {
    store: Arc<dyn ObjectStore>,
    name: BackupName,
    /// That of the object, while this is in use.
    version: String,
    found: Found,
    pages: Mutex<Shelf<u64, Vec<Digest>>>,
}

/// What a `_sha256file` was found to be.
#[derive(Debug)]
struct Found {
    /// Bytes that each hash stands for.
    block_size: u64,
    /// Number of hashes.
    count: u64,
    /// How often the backup had been published before; `None` where that is not told.
    generation: Option<u64>,
    text: Text,
}

#[derive(Debug)]
enum Text {
    /// Entries stand at a fixed distance from the first one on.
    Regular { first: u64, stride: u64 },
    /// The whole list, from a file that another program wrote.
    Whole(Vec<Digest>),
}

#[derive(Deserialize)]
struct Foreign {
    chunk_size: u64,
    sha256s: Vec<String>,
}

impl HashList {
    /// Opens the list of a backup; `None` when it has none.
    ///
    /// # Errors
    /// `Corrupt` when it is none; those of the store.
    pub async fn open(store: &Arc<dyn ObjectStore>, name: &BackupName) -> Result<Option<Self>> {
        let object = name.sha256file();
        let Stat { size, version, .. } = match store.stat(&name.container, &object).await {
            Err(e) if e.kind() == Kind::NotFound => return Ok(None),
            other => other?,
        };
        let read = |range| store.read_of(&name.container, &object, range, &version);
        let tail_at = size.saturating_sub(TAIL_BYTES);
        let tail = read(tail_at..size).await?;
        let mut found = None;
        for length in [HEAD_BYTES, LONGEST_HEAD] {
            let head = read(0..length).await?;
            found = regular(&head, &tail, tail_at);
            if found.is_some() || size <= length {
                break;
            }
        }
        let found = match found {
            Some(found) => found,
            None => foreign(store.as_ref(), name).await?,
        };
        Ok(Some(Self {
            store: Arc::clone(store),
            name: name.clone(),
            version,
            found,
            pages: Mutex::new(Shelf::new(PAGES_KEPT)),
        }))
    }

    /// What block size and number of blocks a backup's list tells, without opening it: its
    /// beginning and its length do, where it is written as Cinder writes it. `None` when
    /// the backup has none.
    ///
    /// # Errors
    /// As [`HashList::open`].
    pub async fn measure(
        store: &Arc<dyn ObjectStore>,
        name: &BackupName,
    ) -> Result<Option<(u64, u64)>> {
        let object = name.sha256file();
        let head = store.read_sized(&name.container, &object, 0..HEAD_BYTES);
        let (head, size) = match head.await {
            Err(e) if e.kind() == Kind::NotFound => return Ok(None),
            other => other?,
        };
        let tail = format_sha256file_tail(name, false).len() as u64;
        let header = HashListHeader::parse(&head);
        if let Some(header) = header
            && let Some(count) = header.count_in(size, tail)
        {
            return Ok(Some((header.block_size, count)));
        }
        let list = Self::open(store, name).await?;
        Ok(list.map(|list| (list.block_size(), list.count())))
    }

    /// Bytes that each hash stands for (all but the last).
    pub fn block_size(&self) -> u64 {
        self.found.block_size
    }

    /// Number of hashes.
    pub fn count(&self) -> u64 {
        self.found.count
    }

    /// Makes sure that it has a hash for every block of an image of `size` bytes.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn check_count(&self, size: u64) -> Result<()> {
        let (count, block) = (self.count(), self.block_size());
        if count == size.div_ceil(block) {
            return Ok(());
        }
        let reason = format!("it has {count} hashes of {block} bytes for an image of {size}");
        Err(Error::corrupt("use", self.name.sha256file(), reason))
    }

    /// Whether the list was written for that publication of the backup.
    pub fn is_of_generation(&self, generation: u64) -> bool {
        self.found.generation.is_none_or(|own| own == generation)
    }

    /// The hash of block `index`, if it is at hand.
    pub fn peek(&self, index: u64) -> Option<Digest> {
        match &self.found.text {
            Text::Whole(list) => list.get(usize::try_from(index).ok()?).copied(),
            Text::Regular { .. } => {
                let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
                pages
                    .get(&(index / PAGE))?
                    .get((index % PAGE) as usize)
                    .copied()
            }
        }
    }

    /// Makes the hashes of a range of blocks available to [`HashList::peek`], for at
    /// least as long as the result is held.
    ///
    /// # Errors
    /// `Corrupt` when an entry is no hash; those of the store.
    pub async fn load(&self, blocks: Range<u64>) -> Result<Vec<Arc<Vec<Digest>>>> {
        let end = blocks.end.min(self.found.count);
        let mut held = Vec::new();
        if matches!(self.found.text, Text::Whole(_)) || blocks.start >= end {
            return Ok(held);
        }
        for page in blocks.start / PAGE..=(end - 1) / PAGE {
            held.push(self.page(page).await?);
        }
        Ok(held)
    }

    /// The page that holds block `index`, and the number of the first block on it.
    ///
    /// # Errors
    /// As [`HashList::load`].
    pub async fn page_of(&self, index: u64) -> Result<(Arc<Vec<Digest>>, u64)> {
        let page = index / PAGE;
        Ok((self.page(page).await?, page * PAGE))
    }

    async fn page(&self, page: u64) -> Result<Arc<Vec<Digest>>> {
        let (first, stride) = match &self.found.text {
            Text::Regular { first, stride } => (*first, *stride),
            Text::Whole(list) => {
                let from = list
                    .chunks(PAGE as usize)
                    .nth(usize::try_from(page).unwrap_or(usize::MAX));
                return Ok(Arc::new(from.unwrap_or_default().to_vec()));
            }
        };
        let known = self
            .pages
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&page);
        if let Some(known) = known {
            return Ok(known);
        }
        let from = page * PAGE;
        let count = PAGE.min(self.found.count.saturating_sub(from));
        let at = first + from * stride;
        // The last entry has no next one: read up to its closing quote.
        let end = at + count.saturating_sub(1) * stride + 66;
        let object = self.name.sha256file();
        // Of a list that was published anew, zeros would stand for data.
        let container = &self.name.container;
        let read = self
            .store
            .read_of(container, &object, at..end, &self.version);
        let text = read.await?;
        let digests = parse_sha256_entries(&text, stride, count as usize).ok_or_else(|| {
            let reason = format!(
                "an entry among hashes {from} to {} is no sha256",
                from + count
            );
            Error::corrupt("read", self.name.sha256file(), reason)
        })?;
        let digests = Arc::new(digests);
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        pages.put(page, Arc::clone(&digests), 1);
        Ok(digests)
    }

    /// What to say when block `index` is not what its hash says.
    pub fn mismatch(&self, index: u64) -> String {
        let expected = self
            .peek(index)
            .map_or_else(|| "?".into(), |digest| to_hex(&digest));
        let at = index.saturating_mul(self.block_size());
        format!(
            "block {index} of the image (at byte {at}) does not have the sha256 {expected} of \
             the backup's list"
        )
    }
}

fn regular(head: &[u8], tail: &[u8], tail_at: u64) -> Option<Found> {
    let header = HashListHeader::parse(head)?;
    let count = match HashListTail::parse(tail, tail_at) {
        None => (header.stride == 0).then_some(0)?,
        Some(tail) if header.stride == 0 => (tail.last == header.first).then_some(1)?,
        Some(tail) => {
            let distance = tail.last.checked_sub(header.first)?;
            (distance % header.stride == 0).then_some(distance / header.stride + 1)?
        }
    };
    let text = Text::Regular {
        first: header.first,
        stride: header.stride,
    };
    Some(Found {
        block_size: header.block_size,
        count,
        generation: Some(header.generation),
        text,
    })
}

async fn foreign(store: &dyn ObjectStore, name: &BackupName) -> Result<Found> {
    let corrupt = |reason: String| Error::corrupt("read", name.sha256file(), reason);
    let text = read_whole(store, &name.container, &name.sha256file(), LARGEST_FOREIGN).await?;
    let list: Foreign = serde_json::from_slice(&text).map_err(|e| corrupt(e.to_string()))?;
    if list.chunk_size == 0 {
        return Err(corrupt("chunk_size is 0".into()));
    }
    let digests: Option<Vec<Digest>> = list
        .sha256s
        .iter()
        .map(|hex| from_hex(hex.as_bytes()))
        .collect();
    let digests = digests.ok_or_else(|| corrupt("an entry is no sha256".into()))?;
    Ok(Found {
        block_size: list.chunk_size,
        count: digests.len() as u64,
        generation: None,
        text: Text::Whole(digests),
    })
}
