//! What depends on the chain of a backup: how large its image is, how many others it is
//! built on, and whether it can be read at all.

use super::summary::{Summarized, Summarizer, Summary};
use crate::driver::Backup;
use crate::error::{Error, Result};
use crate::format::BackupName;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// The backups of a volume, sizes and depths among what is told of them.
pub fn assemble(
    summarizer: &Summarizer,
    summaries: &[(Arc<BackupName>, Summarized)],
) -> Vec<Arc<Backup>> {
    let by_id: HashMap<&str, &Summarized> = summaries
        .iter()
        .map(|(name, summary)| (name.backup_id.as_str(), summary))
        .collect();
    let finish = |(name, summary): &(Arc<BackupName>, Summarized)| {
        let summary = match summary {
            Ok(summary) => summary,
            Err(fault) => {
                let mut backup = summarizer.bare(name);
                backup.fault = Some(fault.clone());
                return Arc::new(backup);
            }
        };
        let mut backup = summary.backup.clone();
        match measure(summary, &by_id) {
            Ok((size, depth)) => (backup.size, backup.depth) = (size, depth),
            Err(fault) => {
                backup.size = summary.size.unwrap_or(summary.end);
                backup.fault = Some(fault);
            }
        }
        Arc::new(backup)
    };
    summaries.iter().map(finish).collect()
}

/// Size of the image, and how many backups it is built on.
fn measure(summary: &Summary, by_id: &HashMap<&str, &Summarized>) -> Result<(u64, u32)> {
    let mut ends = vec![summary.end];
    let mut seen = HashSet::from([summary.backup.id.as_str()]);
    let mut layer = summary;
    while let Some(parent) = &layer.backup.parent_id {
        if !seen.insert(parent) {
            return Err(circular(&summary.backup));
        }
        layer = match by_id.get(parent.as_str()) {
            None => return Err(parent_missing(&summary.backup, parent)),
            Some(Err(fault)) => {
                return Err(Error::new(
                    fault.kind(),
                    "read",
                    format!("backup {}", summary.backup.id),
                    format!("its parent {parent} cannot be read: {fault}"),
                ));
            }
            Some(Ok(layer)) => layer,
        };
        // What was noted for a parent is exact; it may be longer than what we see here.
        ends.push(layer.size.unwrap_or(layer.end));
    }
    let depth = u32::try_from(ends.len() - 1).unwrap_or(u32::MAX);
    Ok((
        summary
            .size
            .unwrap_or_else(|| size_of(&ends, summary.hashed)),
        depth,
    ))
}

/// Cinder's metadata does not tell the size of an image. The end of the last chunk does,
/// unless the image is shorter than its parent: then the number of hashes says how many
/// blocks there are, and the newest layer that has the last of them, how long that is.
/// (Who opens a backup whose hashes do not fit its size is told so.)
/// `ends` are those of the layers, the newest first.
fn size_of(ends: &[u64], hashed: Option<(u64, u64)>) -> u64 {
    let longest = ends.iter().copied().max().unwrap_or(0);
    let Some((block, count)) = hashed else {
        return longest;
    };
    let most = block.saturating_mul(count);
    if ends.first().is_some_and(|own| *own > most) {
        return longest;
    }
    let last = most.saturating_sub(block);
    let holds_last = ends.iter().find(|end| **end > last);
    holds_last.map_or(longest, |end| most.min(*end))
}

/// The failure of a backup that is built on itself.
pub fn circular(backup: &Backup) -> Error {
    Error::corrupt(
        "read",
        format!("backup {}", backup.id),
        "its chain of parents leads back to itself",
    )
}

/// The failure of a backup one of whose parents is gone.
pub fn parent_missing(backup: &Backup, parent: &str) -> Error {
    Error::corrupt(
        "read",
        format!("backup {}", backup.id),
        format!("its parent {parent} is not in the store"),
    )
}
