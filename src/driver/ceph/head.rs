//! The head of an image that is being written: made what it is to be by changing only what
//! differs from what it is.

use super::failure::Deadline;
use super::image::{Image, Snap};
use super::session::Session;
use crate::driver::is_zero;
use crate::error::{Error, Kind, Result};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::{Mutex, Semaphore};
use tokio::task::{JoinError, JoinSet};

/// What differs is found in blocks of so many bytes, as `rbd import` finds zeros.
const BLOCK: usize = 4096;
/// How much is compared, read or written at a time: no object is larger by default.
const PIECE: u64 = 4 << 20;
/// Operations on one image that are under way at a time.
const FLYING: usize = 32;
/// Ranges that are made zero at a time.
const CLEARING: usize = 8;
/// Cinder's volumes, and so the images of their backups, have whole gibibytes.
const GIB: u64 = 1 << 30;

/// The size that an image gets for a backup of `size` bytes: as Cinder would make it, so that
/// Cinder restores it as one of its own.
pub fn whole_size(size: u64) -> u64 {
    size.div_ceil(GIB).max(1).saturating_mul(GIB)
}

/// See the module's page.
pub struct Head {
    pub(super) image: Arc<Image>,
    session: Arc<Session>,
    /// Size of the image, in bytes.
    size: Mutex<u64>,
    flying: Arc<Semaphore>,
}

impl Head {
    /// That of an image that is open for writing.
    pub fn new(session: &Arc<Session>, image: Arc<Image>, size: u64) -> Arc<Self> {
        Arc::new(Self {
            image,
            session: Arc::clone(session),
            size: Mutex::new(size),
            flying: Arc::new(Semaphore::new(FLYING)),
        })
    }

    fn deadline(&self) -> Deadline {
        self.session.deadline()
    }

    /// Runs a call on the image that blocks.
    ///
    /// # Errors
    /// Those of the call; `TimedOut`.
    pub async fn run<T: Send + 'static>(
        &self,
        op: &'static str,
        call: impl FnOnce(&Image) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let image = Arc::clone(&self.image);
        let threads = &self.session.threads;
        let call = move || call(&image);
        let name = &self.image.name;
        threads.run(op, name, self.deadline(), call).await
    }

    /// Gives the image another size.
    ///
    /// # Errors
    /// Those of the cluster.
    pub async fn resize(&self, wanted: u64) -> Result<()> {
        let mut size = self.size.lock().await;
        if *size == wanted {
            return Ok(());
        }
        self.run("resize the image", move |image| image.resize(wanted))
            .await?;
        *size = wanted;
        Ok(())
    }

    /// Makes room for an image of `end` bytes. Nobody knows how large it will become: it
    /// grows by doubling, which costs nothing, and is cut to size when it is published.
    async fn make_room(&self, end: u64) -> Result<()> {
        let mut size = self.size.lock().await;
        if end <= *size {
            return Ok(());
        }
        let wanted = whole_size(end.max(size.saturating_mul(2)));
        self.run("resize the image", move |image| image.resize(wanted))
            .await?;
        *size = wanted;
        Ok(())
    }

    /// What is at a range. What lies behind the end is zero.
    ///
    /// # Errors
    /// Those of the cluster.
    pub async fn read(self: &Arc<Self>, range: Range<u64>) -> Result<Vec<u8>> {
        let size = *self.size.lock().await;
        let length = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(0);
        let mut data = Vec::with_capacity(length);
        let there = range.start.min(size)..range.end.min(size);
        for piece in pieces(&there) {
            let _permit = self.flying.acquire().await;
            data.extend(self.image.read_whole(piece, self.deadline()).await?);
        }
        data.resize(length, 0);
        Ok(data)
    }

    /// Makes what begins at `offset` equal to `data`. `is_blank`: all of it is known to be
    /// zero now. Durable when it returns.
    ///
    /// # Errors
    /// `NoSpace`; those of the cluster. Nothing is under way any more then, but for what has
    /// not been answered in time.
    pub async fn put(self: &Arc<Self>, offset: u64, data: Bytes, is_blank: bool) -> Result<()> {
        let range = offset..offset.saturating_add(data.len() as u64);
        if is_blank && is_zero(&data) {
            return Ok(());
        }
        self.make_room(range.end).await?;
        let mut tasks = JoinSet::new();
        for piece in pieces(&range) {
            let within = (piece.start - offset) as usize..(piece.end - offset) as usize;
            let (head, data) = (Arc::clone(self), data.slice(within));
            tasks.spawn(async move { head.put_piece(piece.start, data, is_blank).await });
        }
        all(tasks).await
    }

    async fn put_piece(self: Arc<Self>, offset: u64, data: Bytes, is_blank: bool) -> Result<()> {
        let range = offset..offset + data.len() as u64;
        let before = match is_blank {
            true => None,
            false => Some(self.read(range).await?),
        };
        let mut tasks = JoinSet::new();
        for (run, becomes_zero) in differing(&data, before.as_deref()) {
            let at = offset + run.start as u64;
            let head = Arc::clone(&self);
            let permit = Arc::clone(&self.flying).acquire_owned().await;
            let bytes = data.slice(run);
            tasks.spawn(async move {
                let _permit = permit;
                match becomes_zero {
                    true => head.wipe(at, bytes).await,
                    false => head.image.write(at, bytes, head.deadline()).await,
                }
            });
        }
        all(tasks).await
    }

    /// Makes zero what `zeros` are as long as.
    async fn wipe(&self, offset: u64, zeros: Bytes) -> Result<()> {
        let range = offset..offset + zeros.len() as u64;
        self.image.discard(range.clone(), self.deadline()).await?;
        // How small a part the cluster gives up is a matter of its configuration, and of that
        // of the pool: what it keeps stays as it was, and nothing says so.
        let left = self.image.read_whole(range, self.deadline()).await?;
        match is_zero(&left) {
            true => Ok(()),
            false => self.image.write(offset, zeros, self.deadline()).await,
        }
    }

    /// Makes a range zero, as far as it is within the image.
    ///
    /// # Errors
    /// As [`Head::put`].
    pub async fn clear(self: &Arc<Self>, range: Range<u64>) -> Result<()> {
        let size = *self.size.lock().await;
        let range = range.start.min(size)..range.end.min(size);
        for piece in pieces(&range) {
            let length = usize::try_from(piece.end - piece.start).unwrap_or(0);
            let zeros = Bytes::from(vec![0; length]);
            self.put(piece.start, zeros, false).await?;
        }
        Ok(())
    }

    /// The same for several ranges, some at a time.
    ///
    /// # Errors
    /// As [`Head::put`].
    pub async fn clear_all(
        self: &Arc<Self>,
        ranges: impl IntoIterator<Item = Range<u64>>,
    ) -> Result<()> {
        let mut tasks = JoinSet::new();
        let mut outcome = Ok(());
        for range in ranges {
            while tasks.len() >= CLEARING
                && let Some(joined) = tasks.join_next().await
            {
                outcome = outcome.and(joined.unwrap_or_else(lost));
            }
            if outcome.is_err() {
                break;
            }
            let head = Arc::clone(self);
            tasks.spawn(async move { head.clear(range).await });
        }
        outcome.and(all(tasks).await)
    }

    /// Waits until all that was written is durable.
    ///
    /// # Errors
    /// Those of the cluster.
    pub async fn flush(&self) -> Result<()> {
        self.image.flush(self.deadline()).await
    }

    /// Where there may be data: all else is known to be zero.
    ///
    /// # Errors
    /// Those of the cluster.
    pub async fn data(&self) -> Result<Vec<Range<u64>>> {
        let size = *self.size.lock().await;
        let find = move |image: &Image| match image.has_fast_diff()? {
            true => image.data(size, true),
            false => Ok(std::iter::once(0..size).collect()),
        };
        self.run("find the holes of the image", find).await
    }

    /// Makes all of it what it was at a snapshot; `name` is what the image is called now.
    ///
    /// # Errors
    /// As [`Head::put`]; `NotFound`.
    pub async fn go_back_to(self: &Arc<Self>, name: &str, snap: &Snap) -> Result<()> {
        let pool = Arc::clone(&self.image.pool);
        let opened = Image::open(&pool, name, Some(&snap.name), self.deadline()).await?;
        let before = Arc::new(opened);
        self.resize(snap.size).await?;
        let (snap_name, size) = (snap.name.clone(), snap.size);
        let find = move |image: &Image| {
            let whole_objects = image.has_fast_diff()?;
            image.changes(&snap_name, 0..size, whole_objects)
        };
        let changed = self.run("find the changes of the image", find).await?;
        for piece in changed.iter().flat_map(pieces) {
            let data = before.read_whole(piece.clone(), self.deadline()).await?;
            self.put(piece.start, data.into(), false).await?;
        }
        self.flush().await?;
        // What is read of a snapshot that is being deleted is not what it was.
        let still = Image::open(&pool, name, Some(&snap.name), self.deadline()).await?;
        let (subject, snap) = (name.to_owned(), snap.clone());
        let look = move || match still.snaps()?.contains(&snap) {
            true => Ok(()),
            false => {
                let reason = format!("its snapshot {} was deleted", snap.name);
                Err(Error::new(Kind::NotFound, "go back in", subject, reason))
            }
        };
        let threads = &self.session.threads;
        let op = "list the snapshots of the image";
        threads.run(op, name, self.deadline(), look).await
    }
}

/// Cuts a range where objects of the usual size begin.
fn pieces(range: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
    let Range { mut start, end } = *range;
    std::iter::from_fn(move || {
        let piece = start..end.min((start / PIECE + 1).saturating_mul(PIECE));
        start = piece.end;
        (piece.start < piece.end).then_some(piece)
    })
}

/// The runs of blocks that are not as they were (which is zero where that is not told), and
/// whether they become zero.
fn differing(data: &[u8], before: Option<&[u8]>) -> Vec<(Range<usize>, bool)> {
    let mut runs: Vec<(Range<usize>, bool)> = Vec::new();
    for (number, block) in data.chunks(BLOCK).enumerate() {
        let range = number * BLOCK..number * BLOCK + block.len();
        let becomes_zero = is_zero(block);
        let is_same = match before {
            None => becomes_zero,
            Some(before) => before.get(range.clone()) == Some(block),
        };
        match runs.last_mut() {
            _ if is_same => {}
            Some((run, zero)) if run.end == range.start && *zero == becomes_zero => {
                run.end = range.end;
            }
            _ => runs.push((range, becomes_zero)),
        }
    }
    runs
}

/// Waits for all, whatever becomes of each.
async fn all(mut tasks: JoinSet<Result<()>>) -> Result<()> {
    let mut outcome = Ok(());
    while let Some(joined) = tasks.join_next().await {
        outcome = outcome.and(joined.unwrap_or_else(lost));
    }
    outcome
}

fn lost(e: JoinError) -> Result<()> {
    let reason = format!("a fault of the program: {e}");
    let subject = "a part of the image";
    Err(Error::new(Kind::Unavailable, "store", subject, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs() {
        let mut data = vec![1; 3 * BLOCK];
        data.resize(5 * BLOCK, 0);
        data.resize(5 * BLOCK + 7, 2);
        let (written, zero) = (false, true);
        assert_eq!(
            differing(&data, None),
            [(0..3 * BLOCK, written), (5 * BLOCK..5 * BLOCK + 7, written)]
        );
        let mut before = data.clone();
        assert_eq!(differing(&data, Some(&before)), []);
        before[BLOCK] = 9;
        before[4 * BLOCK] = 9;
        before[5 * BLOCK] = 0;
        assert_eq!(
            differing(&data, Some(&before)),
            [
                (BLOCK..2 * BLOCK, written),
                (4 * BLOCK..5 * BLOCK, zero),
                (5 * BLOCK..5 * BLOCK + 7, written)
            ]
        );
    }

    #[test]
    fn pieces_end_where_objects_do() {
        let all = |range| pieces(&range).collect::<Vec<_>>();
        assert_eq!(all(5..5), [0..0; 0]);
        assert_eq!(all(5..PIECE), std::array::from_fn::<_, 1, _>(|_| 5..PIECE));
        assert_eq!(
            all(PIECE - 1..2 * PIECE + 1),
            [PIECE - 1..PIECE, PIECE..2 * PIECE, 2 * PIECE..2 * PIECE + 1]
        );
    }

    #[test]
    fn images_have_whole_gibibytes() {
        for (size, whole) in [(0, 1), (1, 1), (GIB, 1), (GIB + 1, 2)] {
            assert_eq!(whole_size(size), whole * GIB);
        }
    }
}
