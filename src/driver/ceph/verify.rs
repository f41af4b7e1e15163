//! Checks of a backup all that there is to check: that its image and its snapshot are what
//! they are said to be, and that the cluster can read all of its data. Neither Cinder nor RBD
//! keeps hashes: what the cluster's own checksums do not find, nothing finds.

use super::content::RbdContent;
use super::failure::Deadline;
use super::image::{FAST_DIFF_INVALID, Image};
use super::summary::Note;
use crate::driver::{Backup, Progress, Verdict};
use crate::error::{Error, Kind, Result};
use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// How much is read at a time: no object is larger by default.
const PIECE: u64 = 4 << 20;
/// So many pieces are read at a time.
const READS: usize = 8;

/// See [`crate::driver::BackupDriver::verify`]; `content` is the backup, open.
pub async fn verify(
    content: &RbdContent,
    backup: &Backup,
    percent: u8,
    progress: &dyn Progress,
    patience: Duration,
) -> Result<Verdict> {
    let mut problems = BTreeSet::new();
    let pieces = sample(pieces(&content.data), percent);
    let objects = pieces.len() as u64;
    let mut waiting = pieces.into_iter();
    let mut reads = JoinSet::new();
    let (mut bytes, mut told) = (0, 0);
    loop {
        while reads.len() < READS
            && let Some(piece) = waiting.next()
        {
            let image = Arc::clone(&content.image);
            reads.spawn(async move {
                let read = image
                    .read_whole(piece.clone(), Deadline::after(patience))
                    .await;
                (piece, read.map(drop))
            });
        }
        let Some(joined) = reads.join_next().await else {
            break;
        };
        let (piece, read) = joined.map_err(|lost| {
            let reason = format!("a fault of the program: {lost}");
            Error::new(Kind::Unavailable, "check", &backup.id, reason)
        })?;
        let length = piece.end - piece.start;
        bytes += length;
        let step = length.min(backup.size.saturating_sub(told));
        told += step;
        progress.advance(step);
        match read {
            Err(e) if e.kind() == Kind::Corrupt => {
                let Range { start, end } = piece;
                problems.insert(format!("bytes {start} to {end} of it cannot be read: {e}"));
            }
            other => other?,
        }
    }
    // What was read is that of the backup only if it is still there.
    content.witness.confirm().await?;
    progress.advance(backup.size.saturating_sub(told));
    Ok(Verdict {
        objects,
        bytes,
        only_read: true,
        problems: problems.into_iter().collect(),
        ..Verdict::default()
    })
}

/// What is wrong with an image, open at its backup, though it can be read. Blocks.
///
/// # Errors
/// Those of the cluster.
pub fn inspect(image: &Image, backup_id: &str) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    let (size, name) = (image.size()?, &image.name);
    let note = Note::of(backup_id, name, &image.notes()?);
    if let Some(noted) = note.size.filter(|noted| *noted > size) {
        problems.push(format!(
            "it should have {noted} bytes, and its image {name} has {size}"
        ));
    }
    let flags = image.flags()?;
    for (flag, what) in [
        (OBJECT_MAP_INVALID, "objects"),
        (FAST_DIFF_INVALID, "changes"),
    ] {
        if flags & flag != 0 {
            problems.push(format!(
                "the map of the {what} of its image {name} is marked as wrong; `rbd object-map \
                 rebuild` makes a new one"
            ));
        }
    }
    Ok(problems)
}

/// `RBD_FLAG_OBJECT_MAP_INVALID`
const OBJECT_MAP_INVALID: u64 = 1 << 0;

fn pieces(data: &[Range<u64>]) -> Vec<Range<u64>> {
    let cut = |range: &Range<u64>| {
        let Range { start, end } = *range;
        let first = start / PIECE;
        let numbers = first..end.div_ceil(PIECE);
        numbers.map(move |number| (number * PIECE).max(start)..((number + 1) * PIECE).min(end))
    };
    data.iter().flat_map(cut).collect()
}

/// That many percent of some pieces, at random, and at least one.
fn sample(mut pieces: Vec<Range<u64>>, percent: u8) -> Vec<Range<u64>> {
    if percent >= 100 {
        return pieces;
    }
    let dice = RandomState::new();
    let wanted = (pieces.len() * usize::from(percent)).div_ceil(100).max(1);
    pieces.sort_by_cached_key(|piece| dice.hash_one(piece));
    pieces.truncate(wanted);
    pieces.sort_unstable_by_key(|piece| piece.start);
    pieces
}
