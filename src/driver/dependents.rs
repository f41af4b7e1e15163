//! What must stay, for others are built on it.

use super::Backup;
use crate::error::{Error, Kind, Result};
use std::sync::Arc;

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
