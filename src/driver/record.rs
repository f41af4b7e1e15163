//! The record of a backup for `cinder backup-import`, out of what a listing knows.

use super::Backup;
use crate::error::Result;
use crate::format::{ExportedBackup, Record};
use std::sync::Arc;

impl Backup {
    /// Its record, where `others` are the backups of its volume.
    ///
    /// # Errors
    /// What is wrong with a backup that cannot be read: nobody shall import it.
    pub fn record(&self, others: &[Arc<Self>]) -> Result<Record> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        let own = Some(self.id.as_str());
        let dependents = others.iter().filter(|b| b.parent_id.as_deref() == own);
        Ok(Record::of(&ExportedBackup {
            id: &self.id,
            volume_id: &self.volume_id,
            parent_id: self.parent_id.as_deref(),
            dependents: dependents.count() as u64,
            name: self.name.as_deref(),
            description: self.description.as_deref(),
            created_at: self.created_at,
            size: self.size,
            object_count: self.object_count,
            service: self.service,
            container: &self.container,
            service_metadata: &self.service_metadata,
        }))
    }
}
