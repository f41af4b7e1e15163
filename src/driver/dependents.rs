//! What is built on what: what must stay for that, and what cannot be built.

use super::Backup;
use crate::error::{Error, Kind, Result};
use std::sync::Arc;

/// How many unfit backups are named to the user.
const REASONS: usize = 3;

/// Refuses to delete what another backup is built on, or may be: one whose metadata
/// cannot be read does not tell.
///
/// # Errors
/// `Dependents`.
pub fn refuse_if_built_on(backup: &Backup, others: &[Arc<Backup>]) -> Result<()> {
    let refuse = |reason: String, advice: &str| {
        let subject = format!("backup {}", backup.id);
        Err(Error::new(Kind::Dependents, "delete", subject, reason).advise(advice))
    };
    let children: Vec<&str> = others
        .iter()
        .filter(|other| other.parent_id.as_ref() == Some(&backup.id))
        .map(|other| other.id.as_str())
        .collect();
    if !children.is_empty() {
        let children = children.join(", ");
        return refuse(
            format!("incremental backups are built on it: {children}"),
            "delete those first",
        );
    }
    let is_silent = |other: &&Arc<Backup>| {
        other.fault.is_some() && other.parent_id.is_none() && other.id != backup.id
    };
    match others.iter().find(is_silent) {
        Some(silent) if backup.fault.is_none() => refuse(
            format!("backup {} is damaged and may be built on it", silent.id),
            "repair or delete that one first",
        ),
        _ => Ok(()),
    }
}

/// That there is nothing to build an increment on: what keeps each backup of the volume from
/// it, of which the first few are told.
pub fn no_parent(volume_id: &str, mut reasons: Vec<String>, advice: &'static str) -> Error {
    let reason = match reasons.len() {
        0 => "the volume has no backup that it could be built on".to_owned(),
        count => {
            reasons.truncate(REASONS);
            let more = match count - reasons.len() {
                0 => String::new(),
                more => format!(" (and {more} more)"),
            };
            format!("no backup can be its parent: {}{more}", reasons.join("; "))
        }
    };
    let subject = format!("volume {volume_id} incrementally");
    Error::new(Kind::Invalid, "back up", subject, reason).advise(advice)
}
