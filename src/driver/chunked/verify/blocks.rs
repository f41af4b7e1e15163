//! Every object of a chain read whole, and every block of the image compared with what
//! the list of hashes says.

use super::Part;
use super::credit::{Credit, Share};
use crate::driver::Verdict;
use crate::driver::chunked::Shared;
use crate::driver::chunked::digest::{digests, zero_digest_of};
use crate::driver::chunked::hashlist::HashList;
use crate::driver::chunked::object::{Cut, Object, key_of};
use crate::error::Result;
use crate::format::{Digest, Extent};
use crate::task::{blocking, cores, together};
use std::collections::HashSet;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a backup is made of, and what was found of it.
pub struct Inspection<'a> {
    shared: &'a Shared,
    parts: Vec<Part>,
    /// The image, as [`crate::format::resolve`] gives it.
    extents: Vec<Extent>,
    /// The extents of each part.
    shown: Vec<Vec<Extent>>,
    list: Option<HashList>,
    cut: Cut,
    credit: &'a Credit<'a>,
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    verdict: Verdict,
    /// Objects that were read and found right.
    right: HashSet<usize>,
}

/// Blocks that are not what they should be.
#[derive(Default)]
struct Wrong {
    first: u64,
    count: u64,
}

impl Wrong {
    fn add(&mut self, index: u64) {
        if self.count == 0 {
            self.first = index;
        }
        self.count += 1;
    }

    /// `None` when there are none.
    fn tell(&self, whose: &str, block_size: u64, what: &str) -> Option<String> {
        let at = self.first * block_size;
        match self.count {
            0 => None,
            1 => Some(format!(
                "{whose}: block {} of the image, at byte {at}, {what}",
                self.first
            )),
            count => Some(format!(
                "{whose}: {count} blocks of the image, the first of them block {} at byte {at}, {what}",
                self.first
            )),
        }
    }
}

const MISMATCH: &str = "not what its sha256 in the list of hashes says";

impl<'a> Inspection<'a> {
    /// `extents` of `parts` make up the image; `cut` has the digests of `list`.
    pub fn new(
        shared: &'a Shared,
        parts: Vec<Part>,
        extents: Vec<Extent>,
        list: Option<HashList>,
        cut: Cut,
        credit: &'a Credit<'a>,
    ) -> Self {
        let mut shown: Vec<Vec<Extent>> = Vec::new();
        shown.resize_with(parts.len(), Vec::new);
        for extent in &extents {
            if let Some(of_part) = shown.get_mut(extent.object) {
                of_part.push(*extent);
            }
        }
        Self {
            shared,
            parts,
            extents,
            shown,
            list,
            cut,
            credit,
            found: Mutex::default(),
        }
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn problem(&self, problem: String) {
        self.found().verdict.problems.push(problem);
    }

    /// What was found.
    pub fn into_verdict(self) -> Verdict {
        let found = self.found.into_inner();
        found.unwrap_or_else(PoisonError::into_inner).verdict
    }

    /// Reads these parts whole, on all cores.
    pub async fn check_objects(&self, parts: &[usize]) {
        let next = AtomicUsize::new(0);
        together((0..cores().min(parts.len())).map(|_| async {
            while let Some(index) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.check_object(*index).await;
            }
        }))
        .await;
    }

    async fn check_object(&self, index: usize) {
        let (Some(part), Some(shown)) = (self.parts.get(index), self.shown.get(index)) else {
            return;
        };
        let visible = shown.iter().map(|extent| extent.end - extent.start).sum();
        let share = Share::new(self.credit, visible, part.entry.length);
        let digests = self.digests_of(part, &share).await;
        share.finish();
        {
            let mut found = self.found();
            found.verdict.objects += 1;
            found.verdict.bytes += part.entry.length;
        }
        let digests = match digests {
            Ok(digests) => digests,
            Err(e) => return self.problem(e.to_string()),
        };
        if let Some(list) = &self.list
            && let Err(e) = self.compare(part, shown, list, &digests).await
        {
            self.problem(e.to_string());
        }
        self.found().right.insert(index);
    }

    /// The digests of an object that is what its metadata says.
    async fn digests_of(&self, part: &Part, share: &Share<'_>) -> Result<Arc<[Digest]>> {
        let shared = self.shared;
        let (container, object) = (&part.name.container, part.object());
        let key = (key_of(&part.name, &part.entry), self.cut.digest_size);
        // Without an answer it is read: that fails as it should.
        let stat = shared.store.stat(container, &object).await;
        let version = stat.ok().map(|stat| stat.version);
        let scans = Arc::clone(&shared.scans);
        if let Some(version) = version.clone()
            && let Some(known) = blocking(move || Ok(scans.get(key, &version))).await?
        {
            return known.map(Into::into);
        }
        let object = Object::new(&shared.store, &part.name, &part.entry);
        let found = object.scan(self.cut, &(), &|_| (), share).await;
        if let Some(version) = version {
            let (scans, found) = (Arc::clone(&shared.scans), found.clone());
            let spool_path = shared.resources.spool_path.clone();
            blocking(move || {
                scans.put(&spool_path, key, version, &found);
                Ok(())
            })
            .await?;
        }
        found
    }

    /// Compares all blocks that lie in one of a part's extents.
    async fn compare(
        &self,
        part: &Part,
        shown: &[Extent],
        list: &HashList,
        digests: &[Digest],
    ) -> Result<()> {
        let size = list.block_size();
        let image = self.extents.last().map_or(0, |last| last.end);
        let mut wrong = Wrong::default();
        for extent in shown {
            let mut index = extent.start / size;
            while index * size < extent.end {
                let (page, first) = list.page_of(index).await?;
                let from = usize::try_from(index - first).unwrap_or(usize::MAX);
                let entries = page.get(from..).unwrap_or_default();
                if entries.is_empty() {
                    break;
                }
                for expected in entries {
                    if index * size >= extent.end {
                        break;
                    }
                    let block = index * size..((index + 1) * size).min(image);
                    if let Some(digest) = whole_digest(extent, part.entry.length, &block, size)
                        && digests.get(digest) != Some(expected)
                    {
                        wrong.add(index);
                    }
                    index += 1;
                }
            }
        }
        let whose = format!("object {} of backup {}", part.object(), part.name.backup_id);
        if let Some(problem) = wrong.tell(&whose, size, MISMATCH) {
            self.problem(problem);
        }
        Ok(())
    }

    /// Checks what no single object holds: ranges of the image that none holds at all,
    /// and blocks that are put together from several objects.
    pub async fn check_rest(&self, size: u64) {
        let Some(list) = &self.list else {
            for gap in gaps(&self.extents, size) {
                self.problem(format!(
                    "no object of its chain holds the {} bytes at {} of the image",
                    gap.end - gap.start,
                    gap.start
                ));
            }
            return;
        };
        if let Err(e) = self.check_between(list, size).await {
            self.problem(e.to_string());
        }
    }

    async fn check_between(&self, list: &HashList, image: u64) -> Result<()> {
        let size = list.block_size();
        let (mut unheld, mut wrong) = (Wrong::default(), Wrong::default());
        let mut index = 0;
        while index * size < image {
            let block = index * size..((index + 1) * size).min(image);
            let at = self
                .extents
                .partition_point(|extent| extent.end <= block.start);
            let extent = self.extents.get(at);
            if let Some(extent) = extent
                && let Some(part) = self.parts.get(extent.object)
                && whole_digest(extent, part.entry.length, &block, size).is_some()
            {
                // All blocks of which it holds every byte were compared; its last one may
                // be no such block.
                index = (extent.end / size).max(index + 1);
                continue;
            }
            let (page, first) = list.page_of(index).await?;
            let entry = usize::try_from(index - first).unwrap_or(usize::MAX);
            let expected = page.get(entry);
            if extent.is_none_or(|extent| extent.start >= block.end) {
                if expected != Some(&zero_digest_of(block.end - block.start)) {
                    unheld.add(index);
                }
            } else if let Some(data) = self.assemble(&block).await?
                && digests(&data, data.len()).next().as_ref() != expected
            {
                wrong.add(index);
            }
            index += 1;
        }
        let whose = "its chain";
        let nobody = "held by no object, and not zero by the list of hashes";
        let problems = [
            unheld.tell(whose, size, nobody),
            wrong.tell(whose, size, MISMATCH),
        ];
        problems
            .into_iter()
            .flatten()
            .for_each(|problem| self.problem(problem));
        Ok(())
    }

    /// The data of a block, put together from several objects; `None` when one of them is
    /// damaged, which has been told.
    async fn assemble(&self, block: &Range<u64>) -> Result<Option<Vec<u8>>> {
        let mut data = vec![0; usize::try_from(block.end - block.start).unwrap_or(0)];
        let first = self
            .extents
            .partition_point(|extent| extent.end <= block.start);
        let from = self.extents.get(first..).unwrap_or_default();
        for extent in from.iter().take_while(|extent| extent.start < block.end) {
            let Some(part) = self.parts.get(extent.object) else {
                return Ok(None);
            };
            if !self.found().right.contains(&extent.object) {
                return Ok(None);
            }
            let (start, end) = (extent.start.max(block.start), extent.end.min(block.end));
            let within = extent.object_offset + (start - extent.start);
            let cut = u64::from(self.cut.block_size);
            let numbers = within / cut..(within + (end - start)).div_ceil(cut);
            let object = Object::new(&self.shared.store, &part.name, &part.entry);
            let mut bytes = Vec::new();
            for (_, piece) in object.blocks(numbers.clone(), self.cut, &()).await? {
                bytes.extend_from_slice(&piece.bytes);
            }
            let skipped = (within - numbers.start * cut) as usize;
            let length = (end - start) as usize;
            let at = (start - block.start) as usize;
            if let (Some(source), Some(target)) = (
                bytes.get(skipped..skipped + length),
                data.get_mut(at..at + length),
            ) {
                target.copy_from_slice(source);
            }
        }
        Ok(Some(data))
    }
}

/// Which of an object's digests, of `size` bytes each, is that of a block of the image;
/// `None` when none is, because the extent holds only a part of the block or the object's
/// digests lie otherwise.
fn whole_digest(extent: &Extent, length: u64, block: &Range<u64>, size: u64) -> Option<usize> {
    if block.start < extent.start || block.end > extent.end {
        return None;
    }
    let within = extent.object_offset + (block.start - extent.start);
    let held = length.saturating_sub(within).min(size);
    if !within.is_multiple_of(size) || held != block.end - block.start {
        return None;
    }
    usize::try_from(within / size).ok()
}

/// The ranges of an image that no extent holds.
fn gaps(extents: &[Extent], size: u64) -> Vec<Range<u64>> {
    let mut found = Vec::new();
    let mut at = 0;
    for extent in extents {
        if extent.start > at {
            found.push(at..extent.start);
        }
        at = extent.end;
    }
    if size > at {
        found.push(at..size);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_compared_only_with_digests_of_just_them() {
        let extent = |start, end, object_offset| Extent {
            start,
            end,
            object: 0,
            object_offset,
        };
        for (extent, length, block, expected) in [
            (extent(0, 100, 0), 100, 20..30, Some(2)),
            (extent(0, 95, 0), 95, 90..95, Some(9)),
            // The object goes on behind the image's end.
            (extent(0, 95, 0), 100, 90..95, None),
            // The image goes on behind the object's.
            (extent(0, 95, 0), 95, 90..100, None),
            (extent(40, 60, 10), 30, 50..60, Some(2)),
            (extent(40, 60, 10), 30, 30..40, None),
            (extent(45, 60, 0), 15, 50..60, None),
        ] {
            assert_eq!(
                whole_digest(&extent, length, &block, 10),
                expected,
                "{block:?}"
            );
        }
        let held = [extent(10, 20, 0), extent(20, 30, 0), extent(40, 50, 0)];
        assert_eq!(gaps(&held, 60), [0..10, 30..40, 50..60]);
        assert_eq!(gaps(&[], 0), []);
    }
}
