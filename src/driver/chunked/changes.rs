//! Where two backups of a volume differ, by their lists of hashes.

use super::Shared;
use super::hashlist::HashList;
use crate::driver::Backup;
use crate::error::{Error, Kind, Result};
use std::ops::Range;

/// See [`crate::driver::BackupDriver::changes`].
pub async fn changes(shared: &Shared, from: &Backup, to: &Backup) -> Result<Vec<Range<u64>>> {
    if from.volume_id != to.volume_id {
        let reason = format!("backup {} is of another volume", from.id);
        return Err(refuse(Kind::Invalid, to, reason));
    }
    let (old, new) = (open(shared, from).await?, open(shared, to).await?);
    let size = new.block_size();
    if old.block_size() != size {
        let reason = format!(
            "its hashes stand for {size} bytes each, those of backup {} for {}",
            from.id,
            old.block_size()
        );
        return Err(refuse(Kind::Unsupported, to, reason));
    }
    let end = from.size.max(to.size);
    // Of blocks that are not of the same length, the hashes say nothing.
    let same = if from.size == to.size {
        old.count()
    } else {
        from.size.min(to.size) / size
    };
    let mut found: Vec<Range<u64>> = Vec::new();
    let mut add = |range: Range<u64>| match found.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => found.push(range),
    };
    let mut index = 0;
    while index < same {
        let (old_page, first) = old.page_of(index).await?;
        let (new_page, _) = new.page_of(index).await?;
        let skipped = usize::try_from(index - first).unwrap_or(usize::MAX);
        let pairs = old_page.iter().zip(new_page.iter()).skip(skipped);
        let before = index;
        for (at, (old, new)) in (before..same).zip(pairs) {
            if old != new {
                add(at * size..((at + 1) * size).min(end));
            }
            index = at + 1;
        }
        if index == before {
            let reason = format!("its list of hashes ends before block {index}");
            return Err(refuse(Kind::Corrupt, to, reason));
        }
    }
    if from.size != to.size {
        add(same * size..end);
    }
    Ok(found)
}

async fn open(shared: &Shared, backup: &Backup) -> Result<HashList> {
    if let Some(fault) = &backup.fault {
        return Err(fault.clone());
    }
    let name = shared.catalog.name_of(backup).await?;
    let list = HashList::open(&shared.store, &name).await?;
    let Some(list) = list else {
        let reason = "it has no list of hashes (_sha256file)";
        return Err(refuse(Kind::Unsupported, backup, reason.into()));
    };
    if !list.is_of_generation(backup.generation) {
        let reason = "its list of hashes is that of a publication which was never finished";
        return Err(refuse(Kind::Unsupported, backup, reason.into()));
    }
    if list.count() != backup.size.div_ceil(list.block_size()) {
        let reason = format!(
            "its list has {} hashes of {} bytes for an image of {}",
            list.count(),
            list.block_size(),
            backup.size
        );
        return Err(refuse(Kind::Corrupt, backup, reason));
    }
    Ok(list)
}

fn refuse(kind: Kind, backup: &Backup, reason: String) -> Error {
    Error::new(kind, "compare", format!("backup {}", backup.id), reason)
}
