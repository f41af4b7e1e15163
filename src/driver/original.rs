//! What a new backup is made of: a whole image, which is read once.

use crate::error::Result;
use std::ops::Range;

/// An image that is there to be backed up. Its calls block.
pub trait Original: Send + Sync {
    /// Size in bytes.
    fn size(&self) -> u64;

    /// What messages call it.
    fn name(&self) -> &str;

    /// How much of it is best read at a time, in bytes.
    fn piece(&self) -> u64;

    /// Where the next data, or hole, begins, at or behind `at`: the end of the image when
    /// there is none. What cannot tell has no holes.
    ///
    /// # Errors
    /// Those of the system.
    fn next(&self, at: u64, hole: bool) -> Result<u64>;

    /// Fills `target` with what begins at `at`.
    ///
    /// # Errors
    /// Those of reading it; `Unavailable` when it has become shorter.
    fn read_at(&self, at: u64, target: &mut [u8]) -> Result<()>;

    /// Where it may differ from the parent of the backup that is made of it: in order, and
    /// not adjoining. All else is as it is there, byte for byte. `None` when that is not known.
    fn changed(&self) -> Option<&[Range<u64>]> {
        None
    }
}
