//! Where two backups of a volume differ, as far as the cluster tells without reading them: in
//! one image it knows what was written between two snapshots; of two images only where each
//! has data.

use super::content::RbdContent;
use super::diff::in_order;
use super::image::Snap;
use super::session::Session;
use crate::driver::Backup;
use crate::error::{Error, Kind, Result};
use std::ops::Range;
use std::sync::Arc;

/// One of the two, open.
pub struct Side<'a> {
    pub backup: &'a Backup,
    pub content: RbdContent,
    pub image_id: Option<String>,
    pub snap: Option<Snap>,
}

/// Refuses what cannot be compared.
///
/// # Errors
/// `Invalid`, and the fault of one that has one.
pub fn check(from: &Backup, to: &Backup) -> Result<()> {
    if from.volume_id != to.volume_id {
        let reason = format!("backup {} is of another volume", from.id);
        let subject = format!("backup {}", to.id);
        return Err(Error::new(Kind::Invalid, "compare", subject, reason));
    }
    let fault = from.fault.as_ref().or(to.fault.as_ref());
    fault.map_or(Ok(()), |fault| Err(fault.clone()))
}

/// See [`crate::driver::BackupDriver::changes`].
pub async fn changes(session: &Session, from: Side<'_>, to: Side<'_>) -> Result<Vec<Range<u64>>> {
    let common = from.backup.size.min(to.backup.size);
    let end = from.backup.size.max(to.backup.size);
    let is_one_image = from.image_id.is_some() && from.image_id == to.image_id;
    let mut found = match (&from.snap, &to.snap) {
        (Some(one), Some(other)) if is_one_image && one.id == other.id => Vec::new(),
        (Some(one), Some(other)) if is_one_image => {
            let (older, newer) = match one.id < other.id {
                true => (one, &to),
                false => (other, &from),
            };
            let (image, older) = (Arc::clone(&newer.content.image), older.name.clone());
            let subject = image.name.clone();
            let find = move || image.changes(&older, 0..common, false);
            let op = "find the changes of the image";
            let threads = &session.threads;
            threads.run(op, &subject, session.deadline(), find).await?
        }
        _ => {
            let all = from.content.data.iter().chain(to.content.data.iter());
            all.cloned().collect()
        }
    };
    found.push(common..end);
    // Neither may have been deleted meanwhile.
    from.content.witness.confirm().await?;
    to.content.witness.confirm().await?;
    Ok(in_order(found, end))
}
