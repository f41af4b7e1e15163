//! Images of volumes, and how they change from one backup to the next.

use crate::common::library::Dice;
use std::ops::Range;

pub const KIB: usize = 1 << 10;
pub const MIB: usize = 1 << 20;

/// An image that looks like a disk's: text, noise and zeros in runs.
pub fn image(seed: u64, length: usize) -> Vec<u8> {
    Dice(seed).image(length)
}

/// What happens to a volume between two backups.
#[derive(Debug, Clone)]
pub enum Edit {
    /// New data there.
    Data(Range<usize>),
    /// Zeros over what was there.
    Zeros(Range<usize>),
    /// That many bytes more at the end.
    Growth(usize),
    /// That many bytes fewer.
    Shrinking(usize),
}

/// The image after these edits.
pub fn edited(image: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut edited = image.to_vec();
    // Other data for each image, so that no two edits cancel out.
    let mut dice = Dice(image.len() as u64 + u64::from(image[0]) + 77);
    for edit in edits {
        match edit {
            Edit::Data(range) => edited[range.clone()].copy_from_slice(&dice.noise(range.len())),
            Edit::Zeros(range) => edited[range.clone()].fill(0),
            Edit::Growth(length) => edited.extend(dice.image(*length)),
            Edit::Shrinking(length) => edited.truncate(edited.len() - length),
        }
    }
    edited
}
