//! A whole backup at once, onto a file or a device: on all cores, every byte checked, and
//! zeros in whichever way is sure to read as zeros.

use super::reader::{ImageReader, Run};
use crate::driver::{Progress, is_zero};
use crate::error::{Error, Kind, Result};
use crate::task::{blocking, cores};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use std::fs::File;
use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::task::JoinSet;

/// How much a task reads and writes at a time.
const SLICE: u64 = 2 << 20;
/// Of what can be had from anywhere, a task takes so much.
const TASK: u64 = 16 << 20;
/// So many tasks copy that at a time: they wait for a store that may be far away.
const WAITING_TASKS: usize = 8;
/// Zeros inside of data are looked for in pieces of this size, and ranges of zeros are
/// cut to it: no page and no block of a device is then in two hands.
const PAGE: u64 = 4096;
/// Zeros to write.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
/// How many of those go into one call.
const ZEROS_AT_ONCE: usize = 16;
/// More buffers are not taken by one call: `IOV_MAX`.
const BUFFERS_AT_ONCE: usize = 1024;

/// How what is zero becomes so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zeros {
    /// By doing nothing: whatever is not written reads as zeros.
    Nothing,
    /// Its space is kept.
    Keep,
    /// Its space is given back.
    GiveBack,
}

/// Where an image is written to.
pub struct Replica {
    file: File,
    name: String,
    zeros: Zeros,
    /// Zeros inside of data need no space, either.
    sparse: bool,
    /// Ways of zeroing that the kernel knows for this file.
    can_punch: AtomicBool,
    can_zero: AtomicBool,
}

/// Writes all of an image to `replica`. When it fails, nothing is under way any more.
///
/// # Errors
/// Those of reading and writing, with the place in the image; `Unavailable` once `stop`
/// is set.
pub async fn copy_out(
    reader: &Arc<ImageReader>,
    replica: &Arc<Replica>,
    progress: &Arc<dyn Progress>,
    stop: &Arc<AtomicBool>,
) -> Result<()> {
    let failed = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    let mut at = 0;
    let mut failure = None;
    loop {
        while at < reader.size() && failure.is_none() {
            let (end, in_order) = share(reader, at);
            // One more than there are cores: each waits for its store now and then.
            if tasks.len() >= if in_order { cores() + 1 } else { WAITING_TASKS } {
                break;
            }
            let range = at..end;
            at = range.end;
            let task = Task {
                reader: Arc::clone(reader),
                replica: Arc::clone(replica),
                progress: Arc::clone(progress),
                stop: [Arc::clone(stop), Arc::clone(&failed)],
            };
            tasks.spawn(task.run(range));
        }
        match tasks.join_next().await {
            None => return failure.map_or(Ok(()), Err),
            Some(Ok(Ok(()))) => {}
            Some(Ok(Err(e))) => {
                failed.store(true, Ordering::Release);
                failure.get_or_insert(e);
            }
            Some(Err(lost)) => {
                let reason = format!("a fault of the program: {lost}");
                let error = Error::new(Kind::Unavailable, "copy", "the image", reason);
                failure.get_or_insert(error);
            }
        }
    }
}

/// The end of the range from `at` on that one task takes, and whether that can only be
/// decoded from its beginning.
fn share(reader: &ImageReader, at: u64) -> (u64, bool) {
    let mut end = at;
    while end < reader.size() {
        let (unit, in_order) = reader.content().unit(end);
        if in_order {
            // That is one task's work.
            return match end == at {
                true => (unit.end.max(at + 1), true),
                false => (end, false),
            };
        }
        end = unit.end.clamp(end + 1, (at + TASK).max(end + 1));
        if end >= at + TASK {
            break;
        }
    }
    (end, false)
}

struct Task {
    reader: Arc<ImageReader>,
    replica: Arc<Replica>,
    progress: Arc<dyn Progress>,
    stop: [Arc<AtomicBool>; 2],
}

impl Task {
    async fn run(self, range: Range<u64>) -> Result<()> {
        let mut at = range.start;
        let mut zeros = at..at;
        while at < range.end {
            if self.stop.iter().any(|stop| stop.load(Ordering::Acquire)) {
                let reason = "it was interrupted";
                let name = self.replica.name.clone();
                return Err(Error::new(Kind::Unavailable, "write", name, reason));
            }
            let slice = at..range.end.min((at / SLICE + 1) * SLICE);
            at = slice.end;
            let length = slice.end - slice.start;
            let whole = |e: Error| {
                let place = format!("bytes {} to {} of the image", slice.start, slice.end);
                Error::new(e.kind(), "copy", place, e)
            };
            let runs = self.reader.read_runs(&slice).await.map_err(whole)?;
            // Zeros behind zeros are not worth a change of threads: of an image of a
            // terabyte, most slices are such.
            let is_zero = runs.iter().all(|(_, run)| matches!(run, Run::Zero(_)));
            if is_zero && zeros.end == slice.start {
                zeros.end = slice.end;
            } else {
                let replica = Arc::clone(&self.replica);
                let put = move || replica.put(runs, zeros);
                zeros = blocking(put).await.map_err(whole)?;
            }
            self.progress.advance(length);
        }
        let replica = Arc::clone(&self.replica);
        blocking(move || replica.zero(zeros)).await
    }
}

impl Replica {
    /// The file, called `name` in messages.
    pub fn new(file: File, name: &str, zeros: Zeros, sparse: bool) -> Self {
        Self {
            file,
            name: name.to_owned(),
            zeros,
            sparse,
            can_punch: AtomicBool::new(zeros == Zeros::GiveBack),
            can_zero: AtomicBool::new(zeros != Zeros::Nothing),
        }
    }

    /// Makes all that was written durable.
    ///
    /// # Errors
    /// When any of it could not be written after all.
    pub fn sync(&self) -> Result<()> {
        self.file
            .sync_all()
            .map_err(|e| Error::io("sync", &self.name, &e))
    }

    /// Writes runs of an image. `zeros` are still to be made, and what is given back is:
    /// long ranges are made in one go.
    fn put(&self, runs: Vec<(u64, Run)>, mut zeros: Range<u64>) -> Result<Range<u64>> {
        let mut pages = Vec::with_capacity(runs.len());
        for (at, run) in &runs {
            match run {
                Run::Zero(length) => pages.push((*at, Page::Zero(*length))),
                Run::Data(bytes) if !self.sparse => pages.push((*at, Page::Data(bytes))),
                Run::Data(bytes) => pages.extend(cut(*at, bytes)),
            }
        }
        let mut data: Vec<&[u8]> = Vec::new();
        let mut data_at = 0;
        for (at, page) in pages {
            match page {
                Page::Data(bytes) => {
                    if data.is_empty() {
                        data_at = at;
                    }
                    data.push(bytes);
                    continue;
                }
                Page::Zero(length) if zeros.end == at => zeros.end += length,
                Page::Zero(length) => {
                    self.zero(std::mem::replace(&mut zeros, at..at + length))?;
                }
            }
            self.write(data_at, &std::mem::take(&mut data))?;
        }
        self.write(data_at, &data)?;
        Ok(zeros)
    }

    /// Writes what adjoins.
    fn write(&self, mut at: u64, data: &[&[u8]]) -> Result<()> {
        for some in data.chunks(BUFFERS_AT_ONCE) {
            let mut slices: Vec<IoSlice<'_>> = some.iter().map(|s| IoSlice::new(s)).collect();
            let mut rest = slices.as_mut_slice();
            while !rest.is_empty() {
                match rustix::io::pwritev(&self.file, rest, at) {
                    Ok(0) => return Err(self.failed(at, Errno::IO)),
                    Ok(written) => {
                        at += written as u64;
                        IoSlice::advance_slices(&mut rest, written);
                    }
                    Err(Errno::INTR) => {}
                    Err(e) => return Err(self.failed(at, e)),
                }
            }
        }
        Ok(())
    }

    /// Makes a range read as zeros.
    fn zero(&self, range: Range<u64>) -> Result<()> {
        if self.zeros == Zeros::Nothing || range.is_empty() {
            return Ok(());
        }
        // Neither calls that deal in whole blocks nor a neighbour's page are hurt so.
        let start = range.start.next_multiple_of(PAGE).min(range.end);
        let end = (range.end / PAGE * PAGE).max(start);
        self.write_zeros(range.start..start)?;
        self.zero_pages(start..end)?;
        self.write_zeros(end..range.end)
    }

    fn zero_pages(&self, pages: Range<u64>) -> Result<()> {
        if pages.is_empty() {
            return Ok(());
        }
        // Of a device, too, the kernel sees to it that what is punched reads as zeros, or
        // fails. It writes zeros itself where the device cannot do better.
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let zero = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        for (flags, known) in [(punch, &self.can_punch), (zero, &self.can_zero)] {
            if !known.load(Ordering::Relaxed) {
                continue;
            }
            let length = pages.end - pages.start;
            match rustix::fs::fallocate(&self.file, flags, pages.start, length) {
                Ok(()) => return Ok(()),
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::NODEV) => {
                    known.store(false, Ordering::Relaxed);
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(self.failed(pages.start, e)),
            }
        }
        self.write_zeros(pages)
    }

    fn write_zeros(&self, range: Range<u64>) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let mut data = Vec::with_capacity(ZEROS_AT_ONCE);
            let mut end = at;
            while data.len() < ZEROS_AT_ONCE && end < range.end {
                let length = (range.end - end).min(ZEROS.len() as u64);
                data.extend(ZEROS.get(..length as usize));
                end += length;
            }
            self.write(at, &data)?;
            at = end;
        }
        Ok(())
    }

    fn failed(&self, at: u64, e: Errno) -> Error {
        Error::io("write", format!("{} at {at}", self.name), &e.into())
    }
}

/// What is to be written at some place.
enum Page<'a> {
    Zero(u64),
    Data(&'a [u8]),
}

/// Cuts the bytes at an offset of the image where its pages end, and looks for zeros.
fn cut(at: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, Page<'_>)> {
    let mut next = at;
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = (PAGE - next % PAGE).min(rest.len() as u64);
        let (piece, behind) = rest.split_at_checked(length as usize)?;
        let at = next;
        (next, rest) = (at + length, behind);
        match piece {
            [] => None,
            zeros if is_zero(zeros) => Some((at, Page::Zero(length))),
            data => Some((at, Page::Data(data))),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;
    use std::io::Read;
    use std::os::unix::fs::FileExt;

    /// Of whatever is in the runs, and was in the file, the file holds the runs.
    fn check(runs: &[(bool, usize)], zeros: Zeros, sparse: bool, old: u8) {
        let mut file = tempfile::tempfile().unwrap();
        let mut expected = Vec::new();
        let mut given = Vec::new();
        for (number, (is_data, length)) in runs.iter().enumerate() {
            let at = expected.len() as u64;
            match is_data {
                true => {
                    let mut bytes = vec![number as u8 + 1; *length];
                    // Zeros inside of data.
                    bytes.iter_mut().skip(100).take(10_000).for_each(|b| *b = 0);
                    expected.extend(&bytes);
                    given.push((at, Run::Data(Bytes::from(bytes))));
                }
                false => {
                    expected.resize(expected.len() + length, 0);
                    given.push((at, Run::Zero(*length as u64)));
                }
            }
        }
        file.write_all_at(&vec![old; expected.len()], 0).unwrap();
        let replica = Replica::new(file.try_clone().unwrap(), "it", zeros, sparse);
        let mut rest = 0..0;
        let half = given.len() / 2;
        let behind = given.split_off(half);
        for some in [given, behind] {
            rest = replica.put(some, rest).unwrap();
        }
        replica.zero(rest).unwrap();
        let mut found = Vec::new();
        file.read_to_end(&mut found).unwrap();
        assert!(found == expected);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_file_holds_the_runs(
            runs in prop::collection::vec((any::<bool>(), 1usize..40_000), 0..12),
            sparse: bool, give_back: bool,
        ) {
            let zeros = if give_back { Zeros::GiveBack } else { Zeros::Keep };
            check(&runs, zeros, sparse, 0xff);
            check(&runs, Zeros::Nothing, sparse, 0);
        }
    }

    #[test]
    fn zeros_are_written_where_nothing_else_makes_them() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[0xff; 3 << 20], 0).unwrap();
        let replica = Replica::new(file.try_clone().unwrap(), "it", Zeros::Keep, false);
        replica.can_zero.store(false, Ordering::Relaxed);
        replica.zero(5..(3 << 20) - 7).unwrap();
        let mut found = vec![0; 3 << 20];
        file.read_exact_at(&mut found, 0).unwrap();
        assert!(found[5..(3 << 20) - 7].iter().all(|byte| *byte == 0));
        assert!(
            found[..5]
                .iter()
                .chain(&found[(3 << 20) - 7..])
                .all(|b| *b == 0xff)
        );
    }
}
