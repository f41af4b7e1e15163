//! The record of a backup, as `cinder backup-export` gives it and `cinder backup-import`
//! takes it: which driver restores it, and what Cinder's database would know of it.

use super::time::Timestamp;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

const GIB: u64 = 1 << 30;

/// What can be known of a backup without Cinder's database.
#[derive(Debug, Clone)]
pub struct ExportedBackup<'a> {
    /// The backup's id.
    pub id: &'a str,
    /// The volume that was backed up.
    pub volume_id: &'a str,
    /// The backup that this one is an increment on.
    pub parent_id: Option<&'a str>,
    /// How many backups are built on it.
    pub dependents: u64,
    /// The user's name for it.
    pub name: Option<&'a str>,
    /// The user's words on it.
    pub description: Option<&'a str>,
    /// When it was made.
    pub created_at: Option<Timestamp>,
    /// Size of the image in bytes.
    pub size: u64,
    /// Number of its own chunks.
    pub object_count: u64,
    /// Class path of the Cinder driver that restores it.
    pub service: &'a str,
    /// Cinder's `container`.
    pub container: &'a str,
    /// Cinder's `service_metadata`.
    pub service_metadata: &'a str,
}

/// The two arguments of `cinder backup-import`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The driver.
    pub backup_service: String,
    /// All else, as JSON in base64.
    pub backup_url: String,
}

impl Record {
    /// The record of a backup.
    pub fn of(backup: &ExportedBackup<'_>) -> Self {
        Self {
            backup_service: backup.service.to_owned(),
            backup_url: STANDARD.encode(fields(backup).to_string()),
        }
    }
}

/// The columns of Cinder's table of backups. What only its database knows is null:
/// importing sets it, or does without.
fn fields(backup: &ExportedBackup<'_>) -> Value {
    let created_at = backup.created_at.map(Timestamp::to_record);
    json!({
        "id": backup.id,
        "user_id": null,
        "project_id": null,
        "volume_id": backup.volume_id,
        "host": null,
        "availability_zone": null,
        "container": backup.container,
        "parent_id": backup.parent_id,
        "status": "available",
        "fail_reason": null,
        // Volumes have whole gibibytes; none has 0.
        "size": backup.size.div_ceil(GIB).max(1),
        "display_name": backup.name,
        "display_description": backup.description,
        "service_metadata": backup.service_metadata,
        "service": backup.service,
        "object_count": backup.object_count,
        "temp_volume_id": null,
        "temp_snapshot_id": null,
        "num_dependent_backups": backup.dependents,
        "snapshot_id": null,
        "data_timestamp": created_at,
        "restore_volume_id": null,
        "metadata": {},
        "encryption_key_id": null,
        "created_at": created_at,
        "updated_at": created_at,
        "deleted_at": null,
        "deleted": false,
        "driver_info": {},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exported(size: u64) -> ExportedBackup<'static> {
        ExportedBackup {
            id: "b",
            volume_id: "v",
            parent_id: None,
            dependents: 2,
            name: Some("Ж?>"),
            description: None,
            created_at: Timestamp::parse("2026-11-21 00:01:19.5+00:00"),
            size,
            object_count: 3,
            service: "cinder.backup.drivers.posix.PosixBackupDriver",
            container: "b/b/b",
            service_metadata: "volume_v_20261121000119_backup_b",
        }
    }

    #[test]
    fn reads_back_and_counts_in_whole_gibibytes() {
        let record = Record::of(&exported(GIB + 1));
        let json = STANDARD.decode(&record.backup_url).unwrap();
        let json: Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(json["size"], 2);
        assert_eq!(json["display_name"], "Ж?>");
        assert_eq!(json["data_timestamp"], "2026-11-21T00:01:19Z");
        assert_eq!(json["num_dependent_backups"], 2);
        assert_eq!(json.as_object().unwrap().len(), 29);
        for (size, gib) in [(0, 1), (1, 1), (GIB, 1), (5 * GIB, 5)] {
            assert_eq!(fields(&exported(size))["size"], gib);
        }
    }
}
