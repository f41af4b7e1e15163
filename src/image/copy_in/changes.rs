//! Of a chunk, what has changed since the parent of a new backup: told by digests of its
//! blocks, and by what the original knows itself.

use super::Copy;
use crate::driver::{ChunkData, Sieve, Sieved, digests};
use crate::error::Result;
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;

/// Runs of bytes that adjoin, and where each begins in its chunk.
#[derive(Default)]
struct Runs(Vec<(u64, Vec<u8>)>);

impl Runs {
    fn add(&mut self, at: u64, bytes: &[u8]) {
        match self.0.last_mut() {
            Some((from, run)) if *from + run.len() as u64 == at => run.extend_from_slice(bytes),
            _ => self.0.push((at, bytes.to_vec())),
        }
    }

    fn into_data(self, length: u64, digests: Vec<crate::driver::Digest>) -> ChunkData {
        let runs = self.0.into_iter();
        ChunkData::Sieved(Arc::new(Sieved {
            length,
            digests,
            runs: runs.map(|(at, run)| (at, Bytes::from(run))).collect(),
        }))
    }
}

impl Copy {
    /// What has changed of a chunk of the image. Each piece is hashed while it is in the
    /// processor's cache, and what has not changed makes room for the next one: reading and
    /// hashing is nearly all that this takes. Blocks of which the original knows that they
    /// have not changed are not even read.
    pub(super) fn read_changes(&self, sieve: &Sieve, start: u64, end: u64) -> Result<ChunkData> {
        let block = sieve.block_size.max(1);
        let step = self.original.piece().next_multiple_of(block);
        let mut piece = vec![0; step.min(end - start) as usize];
        let mut found = Vec::with_capacity((end - start).div_ceil(block) as usize);
        let mut runs = Runs::default();
        let mut at = start;
        while at < end {
            self.fail_if_stopped()?;
            let to = end.min(at + step);
            let (mut next, told) = (at, at);
            while next < to {
                let first = (next - start) / block;
                let blocks = (to - next).div_ceil(block);
                let range = |number: u64| {
                    let from = next + number * block;
                    from..to.min(from + block)
                };
                let known = |number: u64| {
                    let digest = usize::try_from(first + number).ok();
                    let digest = digest.and_then(|index| sieve.digests.get(index));
                    digest.filter(|_| self.is_unchanged(&range(number)))
                };
                if let Some(digest) = known(0) {
                    found.push(*digest);
                    next = range(0).end;
                    continue;
                }
                let read = (1..blocks).find(|number| known(*number).is_some());
                let until = read.map_or(to, |number| next + number * block);
                let Some(piece) = piece.get_mut(..(until - next) as usize) else {
                    break;
                };
                self.fill(next, piece)?;
                let blocks = piece.chunks(block as usize);
                for (digest, bytes) in digests(piece, block as usize).zip(blocks) {
                    if sieve.digests.get(found.len()) != Some(&digest) {
                        runs.add(found.len() as u64 * block, bytes);
                    }
                    found.push(digest);
                }
                next = until;
            }
            self.progress.advance((to - start) / 2 - (told - start) / 2);
            at = to;
        }
        Ok(runs.into_data(end - start, found))
    }

    /// Of a chunk of the image, the ranges of which the original does not know that they are
    /// as in the parent. `None` when it knows nothing.
    pub(super) fn read_changed_ranges(&self, start: u64, end: u64) -> Result<Option<ChunkData>> {
        let Some(changed) = self.original.changed() else {
            return Ok(None);
        };
        let first = changed.partition_point(|range| range.end <= start);
        let mut runs = Runs::default();
        for range in changed.get(first..).unwrap_or_default() {
            let (mut at, to) = (range.start.max(start), range.end.min(end));
            if at >= to {
                break;
            }
            while at < to {
                self.fail_if_stopped()?;
                let mut piece = vec![0; (to - at).min(self.original.piece()) as usize];
                self.fill(at, &mut piece)?;
                runs.add(at - start, &piece);
                at += piece.len() as u64;
            }
        }
        self.progress.advance((end - start) / 2);
        Ok(Some(runs.into_data(end - start, Vec::new())))
    }

    /// Whether the original knows that a range is as it is in the parent.
    fn is_unchanged(&self, range: &Range<u64>) -> bool {
        self.original.changed().is_some_and(|changed| {
            let index = changed.partition_point(|other| other.end <= range.start);
            changed
                .get(index)
                .is_none_or(|other| other.start >= range.end)
        })
    }

    /// A piece of the image, of which holes are not read.
    fn fill(&self, start: u64, piece: &mut [u8]) -> Result<()> {
        let end = start + piece.len() as u64;
        let mut at = start;
        while at < end {
            let data = self.original.next(at, false)?.min(end);
            let hole = if data < end {
                self.original.next(data, true)?.min(end)
            } else {
                end
            };
            let [zeros, bytes] = [at..data, data..hole]
                .map(|range| (range.start - start) as usize..(range.end - start) as usize);
            if let Some(zeros) = piece.get_mut(zeros) {
                zeros.fill(0);
            }
            if let Some(bytes) = piece.get_mut(bytes).filter(|bytes| !bytes.is_empty()) {
                self.original.read_at(data, bytes)?;
            }
            at = hole.max(at + 1);
        }
        Ok(())
    }
}
