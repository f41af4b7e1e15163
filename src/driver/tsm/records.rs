//! The records that `cinder backup-export` gave, and rows of Cinder's database as JSON.
//!
//! Pure.

use super::client::Mode;
use crate::format::Timestamp;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use std::path::PathBuf;

/// What Cinder knew of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub id: String,
    pub volume_id: Option<String>,
    pub name: Option<String>,
    pub description: Option<String>,
    pub created_at: Option<Timestamp>,
    /// Of the volume, in bytes: whole GiB.
    pub size: Option<u64>,
    /// Where it is; without, Cinder takes it for an image of a device.
    pub path: Option<PathBuf>,
    pub mode: Mode,
}

/// The records in a text: JSON, JSON in lines, or the table that a command prints.
pub fn rows_in(text: &str) -> Vec<Row> {
    let mut found = Vec::new();
    if let Ok(value) = serde_json::from_str::<Value>(text) {
        collect(&value, &mut found);
        return found;
    }
    let mut url = String::new();
    for line in text.lines() {
        if let Ok(value) = serde_json::from_str::<Value>(line) {
            collect(&value, &mut found);
        }
        // `| backup_url | eyJ... |`, which may go on in rows without a name.
        let mut cells = line.split('|').map(str::trim).skip(1);
        if let (Some(name), Some(value)) = (cells.next(), cells.next()) {
            match name {
                "backup_url" | "backup_metadata" => url = value.to_owned(),
                "" if !url.is_empty() => url.push_str(value),
                _ => {}
            }
        }
    }
    if let Some(value) = decode(&url) {
        collect(&value, &mut found);
    }
    found
}

fn decode(url: &str) -> Option<Value> {
    let bytes = STANDARD.decode(url.trim()).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn collect(value: &Value, found: &mut Vec<Row>) {
    match value {
        Value::Array(all) => all.iter().for_each(|one| collect(one, found)),
        Value::Object(fields) => {
            for name in ["backup_url", "backup_metadata"] {
                let url = fields.get(name).and_then(Value::as_str);
                if let Some(inner) = url.and_then(decode) {
                    return collect(&inner, found);
                }
            }
            for name in ["backup-record", "backup", "backups"] {
                if let Some(inner) = fields.get(name) {
                    return collect(inner, found);
                }
            }
            found.extend(row(value));
        }
        _ => {}
    }
}

/// Cinder keeps the rows of what it has deleted.
fn is_deleted(fields: &Value) -> bool {
    let is_set = match fields.get("deleted") {
        Some(Value::Bool(is_set)) => *is_set,
        Some(Value::Number(number)) => number.as_i64() != Some(0),
        Some(Value::String(text)) => !matches!(text.as_str(), "" | "0" | "false" | "False"),
        _ => false,
    };
    is_set || fields.get("status").and_then(Value::as_str) == Some("deleted")
}

fn row(fields: &Value) -> Option<Row> {
    let text = |names: &[&str]| {
        let found = names.iter().find_map(|name| fields.get(*name)?.as_str());
        found.filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let id = text(&["id"])?;
    // Of another driver's backups there may be records as well.
    let is_tsm = |service: String| {
        let service = service.to_ascii_lowercase();
        service.ends_with("tsm") || service.ends_with("tsmbackupdriver")
    };
    if text(&["service"]).is_some_and(|service| !is_tsm(service)) || is_deleted(fields) {
        return None;
    }
    let service = fields.get("service_metadata");
    let service = service.and_then(|service| match service {
        Value::String(text) => serde_json::from_str(text).ok(),
        other => Some(other.clone()),
    });
    let told = |name: &str| Some(service.as_ref()?.get(name)?.as_str()?.to_owned());
    let mode = match told("backup_mode").as_deref() {
        Some("file") => Mode::File,
        _ => Mode::Image,
    };
    let size = fields.get("size").and_then(|size| match size {
        Value::String(text) => text.parse().ok(),
        other => other.as_u64(),
    });
    let created_at = text(&["data_timestamp", "created_at"]);
    Some(Row {
        id,
        volume_id: text(&["volume_id"]),
        name: text(&["display_name", "name"]),
        description: text(&["display_description", "description"]),
        created_at: created_at.as_deref().and_then(Timestamp::parse),
        size: size.and_then(|gib: u64| gib.checked_mul(1 << 30)),
        path: told("backup_path").map(PathBuf::from),
        mode,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::path::Path;

    fn fields() -> Value {
        json!({
            "id": "b", "volume_id": "v", "display_name": "monday", "size": 2,
            "display_description": null, "created_at": "2026-11-21T00:00:00Z",
            "service_metadata": "{\"backup_mode\": \"file\", \"backup_path\": \"/mnt/x/backup-b\"}",
        })
    }

    #[test]
    fn every_form_of_a_record_is_read() {
        let url = STANDARD.encode(fields().to_string());
        let table = format!(
            "+---+---+\n| Property | Value |\n+---+---+\n| backup_service | x |\n| backup_url | {} |\n|  | {} |\n+---+\n",
            &url[..40],
            &url[40..]
        );
        let record = json!({"backup_service": "x", "backup_url": url});
        for text in [
            fields().to_string(),
            json!([fields()]).to_string(),
            json!({"backup-record": record}).to_string(),
            json!({"backups": [fields()]}).to_string(),
            format!("{}\n{}\n", json!({"other": 1}), fields()),
            record.to_string(),
            table,
        ] {
            let found = rows_in(&text);
            assert_eq!(found.len(), 1, "{text}");
            assert_eq!(found[0].volume_id.as_deref(), Some("v"));
            assert_eq!(found[0].path.as_deref(), Some(Path::new("/mnt/x/backup-b")));
            assert_eq!((found[0].mode, found[0].size), (Mode::File, Some(2 << 30)));
        }
        assert!(rows_in("nothing of the kind").is_empty());
        let mut other = fields();
        other["service"] = json!("cinder.backup.drivers.ceph.CephBackupDriver");
        assert!(rows_in(&other.to_string()).is_empty());
        other["service"] = json!("cinder.backup.drivers.tsmith.Other");
        assert!(rows_in(&other.to_string()).is_empty());
        for service in [
            "cinder.backup.drivers.tsm.TSMBackupDriver",
            "cinder.backup.drivers.tsm",
        ] {
            other["service"] = json!(service);
            assert_eq!(rows_in(&other.to_string()).len(), 1, "{service}");
        }
        for deleted in [
            json!({"deleted": true}),
            json!({"deleted": 1}),
            json!({"deleted": "1"}),
            json!({"status": "deleted"}),
        ] {
            let mut gone = fields();
            let more = deleted.as_object().unwrap().clone();
            gone.as_object_mut().unwrap().extend(more);
            assert!(rows_in(&gone.to_string()).is_empty(), "{deleted}");
        }
        // What a driver before modes has written.
        let old = rows_in(&json!({"id": "b", "service_metadata": null}).to_string());
        assert_eq!((old[0].mode, &old[0].path), (Mode::Image, &None));
    }
}
