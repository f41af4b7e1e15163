//! An image that is open at a snapshot, as what a backup is made of.

use super::super::failure::Deadline;
use super::super::image::{Image, Snap};
use super::super::witness::Witness;
use crate::driver::Original;
use crate::error::Result;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::runtime::Handle;

/// How much is read at a time: an object, by default.
const PIECE_BYTES: u64 = 4 << 20;

/// See the module's page.
pub struct RbdOriginal {
    pub(super) image: Arc<Image>,
    /// What messages call it.
    pub(super) name: String,
    /// In bytes.
    pub(super) size: u64,
    /// Where it has data, in order and not adjoining.
    pub(super) data: Vec<Range<u64>>,
    /// What differs from the parent of the backup, where that is known.
    pub(super) changed: Option<Vec<Range<u64>>>,
    /// Why it is not known what has changed, where that was to be known.
    pub(super) note: Option<String>,
    /// The snapshot that was made for it.
    pub(super) own: Option<String>,
    pub(super) witness: Witness,
    /// So many bytes have been read.
    pub(super) read: AtomicU64,
    /// Who reads has a thread, and no runtime.
    pub(super) runtime: Handle,
}

impl RbdOriginal {
    /// Why it is not known what has changed, where that was to be known.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// So many bytes have been read.
    pub fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// That all that was read until now is what the snapshot has.
    ///
    /// # Errors
    /// `Unavailable` when it was removed meanwhile, and those of the cluster.
    pub async fn confirm(&self) -> Result<()> {
        self.witness.confirm().await
    }

    /// The snapshot that was made for it.
    pub(super) fn own(&self) -> Option<&str> {
        self.own.as_deref()
    }

    /// The snapshots that there were when it was opened.
    pub(super) fn snaps(&self) -> Vec<Snap> {
        self.image.snaps().unwrap_or_default()
    }
}

impl Original for RbdOriginal {
    fn size(&self) -> u64 {
        self.size
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn piece(&self) -> u64 {
        PIECE_BYTES
    }

    fn next(&self, at: u64, hole: bool) -> Result<u64> {
        let index = self.data.partition_point(|range| range.end <= at);
        let data = self.data.get(index);
        Ok(match (data, hole) {
            (Some(data), true) if data.start <= at => data.end,
            (_, true) => at,
            (Some(data), false) => data.start.max(at),
            (None, false) => self.size,
        }
        .min(self.size))
    }

    fn read_at(&self, at: u64, target: &mut [u8]) -> Result<()> {
        let range = at..at + target.len() as u64;
        let deadline = Deadline::after(self.witness.patience());
        let read = self.image.read(range, target.len(), deadline);
        let read = self.runtime.block_on(read)?;
        for (target, read) in target.chunks_mut(target.len().max(1)).zip(&read) {
            target.copy_from_slice(read);
        }
        self.read.fetch_add(target.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn changed(&self) -> Option<&[Range<u64>]> {
        self.changed.as_deref()
    }
}
