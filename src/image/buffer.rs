//! A chunk that is being written: in memory while there is room, else in the spool.

use crate::budget::{Budget, Permit};
use crate::driver::{ChunkData, is_zero};
use crate::error::Result;
use crate::spool;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

/// Buffers in memory grow by at least this.
const GROWTH: u64 = 4 << 20;

/// Where new buffers come from.
#[derive(Debug, Clone)]
pub struct Buffers {
    /// The program's memory.
    pub budget: Arc<Budget>,
    /// The folder for what does not fit.
    pub spool_path: PathBuf,
}

/// The data of one chunk; what was never written is zero.
#[derive(Debug)]
pub struct Buffer {
    buffers: Buffers,
    data: Data,
    /// What has been written, as sorted ranges that do not touch.
    written: Vec<(u64, u64)>,
}

#[derive(Debug)]
enum Data {
    Memory(Vec<u8>, Vec<Permit>),
    Spooled(Arc<File>),
}

impl Buffer {
    /// A buffer for a chunk, with room in memory for all of it if that can be had.
    pub fn new(buffers: &Buffers, chunk_size: u64) -> Result<Self> {
        // A fifth: one that fills, and for each of two cores one that is being
        // compressed and its result.
        let whole = (chunk_size <= buffers.budget.total() / 5)
            .then(|| buffers.budget.permit(chunk_size))
            .flatten();
        let data = match whole {
            Some(permit) => Data::Memory(Vec::with_capacity(chunk_size as usize), vec![permit]),
            None => match buffers.budget.permit(GROWTH.min(chunk_size)) {
                Some(permit) => Data::Memory(Vec::new(), vec![permit]),
                None => Data::Spooled(Arc::new(spool::file(&buffers.spool_path)?)),
            },
        };
        Ok(Self {
            buffers: buffers.clone(),
            data,
            written: Vec::new(),
        })
    }

    /// Whether a whole chunk of this size can be had in memory at once.
    pub fn fits(buffers: &Buffers, chunk_size: u64) -> bool {
        chunk_size > buffers.budget.total() / 5 || buffers.budget.permit(chunk_size).is_some()
    }

    /// A buffer with what a chunk held.
    pub fn from_data(buffers: &Buffers, chunk_size: u64, data: &ChunkData) -> Result<Self> {
        let mut buffer = Self::new(buffers, chunk_size)?;
        let length = data.len();
        let mut piece = vec![0; GROWTH.min(length) as usize];
        let mut at = 0;
        while at < length {
            let some = (piece.len() as u64).min(length - at) as usize;
            let Some(piece) = piece.get_mut(..some) else {
                break;
            };
            data.read_at(at, piece)?;
            buffer.write(at, piece)?;
            at += some as u64;
        }
        Ok(buffer)
    }

    /// Whether every byte up to `length` has been written.
    pub fn is_full(&self, length: u64) -> bool {
        matches!(self.written.as_slice(), [(0, end)] if *end >= length)
    }

    /// Writes `bytes` at `offset` of the chunk.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let end = offset + bytes.len() as u64;
        self.make_room(end)?;
        match &mut self.data {
            Data::Memory(data, _) => {
                let (start, end) = (offset as usize, end as usize);
                if start == data.len() {
                    data.extend_from_slice(bytes);
                } else {
                    if data.len() < end {
                        data.resize(end, 0);
                    }
                    if let Some(target) = data.get_mut(start..end) {
                        target.copy_from_slice(bytes);
                    }
                }
            }
            Data::Spooled(file) => file
                .write_all_at(bytes, offset)
                .map_err(|e| spool::error(&e))?,
        }
        note(&mut self.written, offset, end);
        Ok(())
    }

    /// Reads from `offset`; what was never written is zero.
    pub fn read(&self, offset: u64, target: &mut [u8]) -> Result<()> {
        target.fill(0);
        match &self.data {
            Data::Memory(data, _) => {
                let from = data.get(offset as usize..).unwrap_or_default();
                let some = from.len().min(target.len());
                if let (Some(target), Some(from)) = (target.get_mut(..some), from.get(..some)) {
                    target.copy_from_slice(from);
                }
            }
            Data::Spooled(file) => {
                let mut filled = 0;
                while let Some(rest) = target.get_mut(filled..).filter(|rest| !rest.is_empty()) {
                    let read = file.read_at(rest, offset + filled as u64);
                    match read.map_err(|e| spool::error(&e))? {
                        0 => break,
                        some => filled += some,
                    }
                }
            }
        }
        Ok(())
    }

    /// Forgets all behind `length`.
    pub fn truncate(&mut self, length: u64) -> Result<()> {
        match &mut self.data {
            Data::Memory(data, _) => data.truncate(length as usize),
            Data::Spooled(file) => {
                let now = file.metadata().map_err(|e| spool::error(&e))?.len();
                file.set_len(now.min(length))
                    .map_err(|e| spool::error(&e))?;
            }
        }
        self.written.retain(|(start, _)| *start < length);
        if let Some(last) = self.written.last_mut() {
            last.1 = last.1.min(length);
        }
        Ok(())
    }

    /// The chunk's data, exactly `length` bytes, and the right to the memory it takes.
    pub fn into_data(mut self, length: u64) -> Result<(ChunkData, Vec<Permit>)> {
        self.truncate(length)?;
        if let Data::Memory(data, _) = &self.data
            && is_zero(data)
        {
            return Ok((ChunkData::Zero(length), Vec::new()));
        }
        self.make_room(length)?;
        match self.data {
            Data::Memory(mut data, permits) => {
                data.resize(length as usize, 0);
                Ok((ChunkData::Memory(data.into()), permits))
            }
            Data::Spooled(file) => {
                file.set_len(length).map_err(|e| spool::error(&e))?;
                Ok((ChunkData::Spooled(file, length), Vec::new()))
            }
        }
    }

    /// Sees to it that the chunk can be `end` bytes long.
    fn make_room(&mut self, end: u64) -> Result<()> {
        let Data::Memory(data, permits) = &mut self.data else {
            return Ok(());
        };
        let has: u64 = permits.iter().map(Permit::bytes).sum();
        if end <= has {
            return Ok(());
        }
        // Twice as much, so that growing costs no more than writing.
        let more = (end - has).max(has).max(GROWTH);
        let within_share = has + more <= self.buffers.budget.total() / 4;
        if within_share && let Some(permit) = self.buffers.budget.permit(more) {
            permits.push(permit);
            data.reserve_exact((has + more) as usize - data.len());
            return Ok(());
        }
        let file = spool::file(&self.buffers.spool_path)?;
        file.write_all_at(data, 0).map_err(|e| spool::error(&e))?;
        self.data = Data::Spooled(Arc::new(file));
        Ok(())
    }
}

/// Adds a range to sorted ranges that do not touch.
fn note(written: &mut Vec<(u64, u64)>, start: u64, end: u64) {
    if start == end {
        return;
    }
    let first = written.partition_point(|(_, known_end)| *known_end < start);
    let behind = written.partition_point(|(known_start, _)| *known_start <= end);
    let merged = written.get(first..behind).unwrap_or_default();
    let start = merged.first().map_or(start, |(known, _)| start.min(*known));
    let end = merged.last().map_or(end, |(_, known)| end.max(*known));
    written.splice(first..behind, [(start, end)]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn buffers(total: u64) -> Buffers {
        Buffers {
            budget: Budget::new(total),
            spool_path: std::env::temp_dir(),
        }
    }

    #[test]
    fn ranges_merge() {
        let mut written = Vec::new();
        for (start, end) in [(10, 20), (30, 40), (20, 30), (5, 5), (0, 10)] {
            note(&mut written, start, end);
        }
        assert_eq!(written, [(0, 40)]);
        note(&mut written, 50, 60);
        assert_eq!(written, [(0, 40), (50, 60)]);
    }

    proptest! {
        #[test]
        fn same_as_plain_bytes_in_memory_and_in_the_spool(
            writes in prop::collection::vec((0u64..900, 1usize..100, 1u8..), 0..20),
            in_memory: bool, length in 0u64..1000,
        ) {
            let buffers = buffers(if in_memory { 100 << 20 } else { 0 });
            let mut buffer = Buffer::new(&buffers, 1000).unwrap();
            let mut plain = vec![0u8; 1000];
            for (offset, len, fill) in writes {
                let bytes = vec![fill; len];
                buffer.write(offset, &bytes).unwrap();
                plain[offset as usize..offset as usize + len].copy_from_slice(&bytes);
            }
            let mut read = vec![9; 1000];
            buffer.read(0, &mut read).unwrap();
            prop_assert_eq!(&read, &plain);
            let (data, _permits) = buffer.into_data(length).unwrap();
            let mut read = vec![9; length as usize];
            data.read_at(0, &mut read).unwrap();
            prop_assert_eq!(&read[..], &plain[..length as usize]);
        }
    }
}
