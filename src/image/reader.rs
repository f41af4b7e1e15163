//! Reading a finished backup: blocks from the cache or from the driver, each checked
//! against what this backup says it must be before a byte of it is given out.

use super::cache::{BlockCache, Claim, Flight};
use super::prefetch::Prefetch;
use crate::driver::{Block, BlockKey, BlockSink, Content, Place, Prepared, Source};
use crate::error::{Error, Result};
use bytes::Bytes;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::Handle;

/// As many zeros as the kernel asks for at a time. They are never written to, so that all of
/// them are one page, which stays in the processor's cache.
static ZEROS: Bytes = Bytes::from_static(&[0; 1 << 20]);

/// See the module's page.
pub struct ImageReader {
    content: Arc<dyn Content>,
    cache: Arc<BlockCache>,
    prefetch: Prefetch,
    /// Reads that are answered at once come from threads that know no runtime.
    runtime: Handle,
    /// The last failure that was logged: a program that tries again and again, or a
    /// kernel that reads ahead, does not fill the log.
    logged: Mutex<Option<String>>,
}

/// A part of an image, checked.
pub enum Run {
    /// That many zeros.
    Zero(u64),
    /// These bytes.
    Data(Bytes),
}

/// The same, where it lies: of data, a part of a block.
enum Found<'a> {
    Zero(u64),
    Data(&'a Bytes, Range<usize>),
}

/// Where blocks that are at hand are looked up.
type Lookup<'a> = dyn Fn(&BlockKey) -> Option<Block> + 'a;

/// Claims that are given up when whoever made them goes away.
struct Claims<'a> {
    cache: &'a BlockCache,
    keys: Vec<BlockKey>,
}

impl Drop for Claims<'_> {
    fn drop(&mut self) {
        // Those that were put meanwhile are no claims any more.
        self.cache.give_up(&self.keys, None);
    }
}

/// Blocks that are claimed, and where in the image they were wanted.
struct Wanted {
    keys: Vec<BlockKey>,
    range: Range<u64>,
}

impl ImageReader {
    /// Reads `content` through `cache`. Call it within the runtime.
    pub fn new(content: Arc<dyn Content>, cache: &Arc<BlockCache>) -> Arc<Self> {
        Arc::new(Self {
            content,
            cache: Arc::clone(cache),
            prefetch: Prefetch::new(cache.capacity()),
            runtime: Handle::current(),
            logged: Mutex::default(),
        })
    }

    /// Size of the image in bytes.
    pub fn size(&self) -> u64 {
        self.content.size()
    }

    /// Bytes that are not known to be zero.
    ///
    /// # Errors
    /// Those of reading the list of hashes.
    pub async fn data_bytes(&self) -> Result<u64> {
        self.content.data_bytes().await.inspect_err(|e| self.log(e))
    }

    /// The first data, or hole, at or behind `offset`.
    ///
    /// # Errors
    /// Those of reading the list of hashes.
    pub async fn seek(&self, offset: u64, hole: bool) -> Result<Option<u64>> {
        self.content
            .seek(offset, hole)
            .await
            .inspect_err(|e| self.log(e))
    }

    fn clip(&self, offset: u64, length: u64) -> Range<u64> {
        let end = offset.saturating_add(length).min(self.size());
        offset.min(end)..end
    }

    /// What the cache has at once; `None` when something would have to be waited for.
    pub fn try_read(self: &Arc<Self>, offset: u64, length: u64) -> Option<Bytes> {
        let range = self.clip(offset, length);
        let data = match self.zeros(&range) {
            Some(zeros) => zeros,
            None => Bytes::from(self.assemble(&range, &|key| self.cache.get(key))?.ok()?),
        };
        self.read_ahead(&range);
        Some(data)
    }

    /// The bytes of a range, when all of it is known to be zero.
    fn zeros(&self, range: &Range<u64>) -> Option<Bytes> {
        let length = usize::try_from(range.end - range.start).ok()?;
        let mut at = range.start;
        while at < range.end {
            let Place { source, length } = self.content.locate(at);
            if source != Source::Zero || length == 0 {
                return None;
            }
            at = at.saturating_add(length);
        }
        (length <= ZEROS.len()).then(|| ZEROS.slice(..length))
    }

    /// The bytes at `offset`, fewer than `length` only at the end of the image.
    ///
    /// # Errors
    /// `Corrupt` for whatever is not what the backup says; those of the store.
    pub async fn read(self: &Arc<Self>, offset: u64, length: u64) -> Result<Vec<u8>> {
        let range = self.clip(offset, length);
        self.read_ahead(&range);
        self.read_checked(&range).await.inspect_err(|e| self.log(e))
    }

    async fn read_checked(&self, range: &Range<u64>) -> Result<Vec<u8>> {
        self.gather_checked(range, |blocks| self.assemble(range, blocks))
            .await
    }

    /// The same as [`ImageReader::read`], in pieces as they lie in memory, with where
    /// each begins. It reads nothing ahead, and leaves it to others to log.
    ///
    /// # Errors
    /// As [`ImageReader::read`].
    pub(super) async fn read_runs(&self, range: &Range<u64>) -> Result<Vec<(u64, Run)>> {
        self.gather_checked(range, |blocks| {
            let mut runs = Vec::new();
            let done = self.walk(range, blocks, |at, found| {
                runs.push((
                    at,
                    match found {
                        Found::Zero(length) => Run::Zero(length),
                        Found::Data(bytes, part) => Run::Data(bytes.slice(part)),
                    },
                ));
            });
            done.map(|done| done.map(|()| runs))
        })
        .await
    }

    /// What `put_together` makes of the blocks of a range, if all of them are right.
    async fn gather_checked<T>(
        &self,
        range: &Range<u64>,
        put_together: impl Fn(&Lookup<'_>) -> Option<Result<T, u64>>,
    ) -> Result<T> {
        let mut bad_at = range.start;
        // Perhaps only what lay in memory was bad: then it is taken from the store again.
        for _ in 0..2 {
            let mut blocks = HashMap::new();
            let _prepared = self.gather(range.clone(), &mut blocks).await?;
            match put_together(&|key| blocks.get(key).cloned()) {
                Some(Ok(data)) => return Ok(data),
                Some(Err(at)) => bad_at = at,
                None => {}
            }
            for key in blocks.keys() {
                self.cache.remove(key);
            }
        }
        Err(self.content.damage(bad_at))
    }

    /// Puts a range together from `blocks`. `None` when one is missing, `Some(Err(at))`
    /// when what is at `at` is not what this backup says.
    fn assemble(&self, range: &Range<u64>, blocks: &Lookup<'_>) -> Option<Result<Vec<u8>, u64>> {
        let length = usize::try_from(range.end - range.start).ok()?;
        let mut data = Vec::with_capacity(length);
        let done = self.walk(range, blocks, |_, found| match found {
            Found::Zero(length) => data.resize(data.len() + length as usize, 0),
            Found::Data(bytes, part) => {
                data.extend_from_slice(bytes.get(part).unwrap_or_default());
            }
        })?;
        Some(done.map(|()| data))
    }

    /// Calls `take` with all that a range is made of, in order, each checked before. The
    /// results are those of [`ImageReader::assemble`].
    fn walk(
        &self,
        range: &Range<u64>,
        blocks: &Lookup<'_>,
        mut take: impl FnMut(u64, Found<'_>),
    ) -> Option<Result<(), u64>> {
        let mut at = range.start;
        while at < range.end {
            let mut place = self.content.locate(at);
            place.length = place.length.min(range.end - at);
            if place.length == 0 {
                return Some(Err(at));
            }
            match place.source {
                Source::Zero => take(at, Found::Zero(place.length)),
                // After `prepare`, what is still unknown is held by no object.
                Source::Unknown => return Some(Err(at)),
                Source::Block(key, within) => {
                    let block = blocks(&key)?;
                    match self.content.admits(at, &place, &block) {
                        Some(true) => {}
                        Some(false) => return Some(Err(at)),
                        None => return None,
                    }
                    let start = within as usize;
                    let part = start..start + place.length as usize;
                    if part.end > block.bytes.len() {
                        return None;
                    }
                    take(at, Found::Data(&block.bytes, part));
                }
            }
            at += place.length;
        }
        Some(Ok(()))
    }

    /// Makes all blocks of a range available in `blocks`. While the result is held, each
    /// of them can be checked.
    async fn gather(
        &self,
        range: Range<u64>,
        blocks: &mut HashMap<BlockKey, Block>,
    ) -> Result<Prepared> {
        let sink = self.cache.as_ref();
        let prepared = self.content.prepare(range.clone(), sink).await?;
        loop {
            let mut claims = Claims {
                cache: &self.cache,
                keys: Vec::new(),
            };
            let mut mine: Vec<Wanted> = Vec::new();
            let mut waits: Vec<(BlockKey, Arc<Flight>)> = Vec::new();
            let mut at = range.start;
            while at < range.end {
                let Place { source, length } = self.content.locate(at);
                let end = at.saturating_add(length.max(1)).min(range.end);
                if let Source::Block(key, _) = source
                    && !blocks.contains_key(&key)
                    && !claims.keys.contains(&key)
                {
                    match self.cache.claim(&key) {
                        Claim::Hit(block) => {
                            blocks.insert(key, block);
                        }
                        Claim::Wait(flight) => waits.push((key, flight)),
                        Claim::Mine => {
                            claims.keys.push(key);
                            mine.push(Wanted {
                                keys: vec![key],
                                range: at..end,
                            });
                        }
                    }
                }
                at = end;
            }
            for Wanted { keys, range } in runs(mine) {
                match self.content.fetch(range, sink).await {
                    Ok(fetched) => blocks.extend(fetched),
                    Err(e) => {
                        // Who waits for another run's blocks is not told of this failure.
                        self.cache.give_up(&keys, Some(&e));
                        return Err(e);
                    }
                }
            }
            drop(claims);
            let mut again = false;
            for (key, flight) in waits {
                match flight.land().await {
                    Ok(block) => {
                        blocks.insert(key, block);
                    }
                    Err(Some(e)) => return Err(e),
                    Err(None) => again = true,
                }
            }
            if !again {
                return Ok(prepared);
            }
        }
    }

    /// Decodes a range into the cache, for nobody in particular.
    pub(super) async fn warm(&self, range: Range<u64>) -> Result<()> {
        self.gather(range, &mut HashMap::new()).await.map(drop)
    }

    pub(super) fn content(&self) -> &dyn Content {
        self.content.as_ref()
    }

    fn read_ahead(self: &Arc<Self>, range: &Range<u64>) {
        self.prefetch.note(range);
        self.prefetch.run(self);
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    pub(super) fn prefetch(&self) -> &Prefetch {
        &self.prefetch
    }

    fn log(&self, error: &Error) {
        let text = error.to_string();
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.as_ref() != Some(&text) {
            tracing::error!("{text}");
            *logged = Some(text);
        }
    }
}

/// Adjoining ranges of one object, each to be fetched in one go.
fn runs(wanted: Vec<Wanted>) -> Vec<Wanted> {
    let mut runs: Vec<Wanted> = Vec::new();
    for next in wanted {
        let same = |run: &Wanted| run.keys.first().map(|key| key.object);
        match runs.last_mut() {
            Some(run) if run.range.end == next.range.start && same(run) == same(&next) => {
                run.range.end = next.range.end;
                run.keys.extend(next.keys);
            }
            _ => runs.push(next),
        }
    }
    runs
}
