//! What is known of backups beside their objects: the records that `cinder backup-export`
//! gave, rows of Cinder's database as JSON, and notes of our own on what we have written.
//!
//! Losing it loses names, not data. Must not know the client.

use super::client::Mode;
use super::names::is_id;
use super::stage::make_private;
use crate::config;
use crate::error::{Error, Kind, Result};
use crate::format::Timestamp;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What the names of our own notes end in.
const SUFFIX: &str = ".cinderfs.json";
/// No record is longer, in bytes; a folder of them may hold other things.
const LARGEST: u64 = 64 << 20;

/// What one of our own backups is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    pub id: String,
    pub volume_id: String,
    pub path: PathBuf,
    pub mode: Mode,
    /// The name of the file that was written.
    pub name: String,
    pub description: Option<String>,
    /// As in the records that Cinder exports.
    pub created_at: Option<String>,
    /// Modification time, where a program set one: microseconds since 1970.
    pub modified: Option<u64>,
    /// Size of the image in bytes.
    pub size: u64,
    /// Of the whole image, in hexadecimal digits.
    pub sha256: Option<String>,
    /// What was sent before under the same name, until it is known that the server has the
    /// newer one: it may have either.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<Sent>,
    /// Whose it is, where several backends share a catalog; `None`: nobody knows.
    #[serde(default)]
    pub owner: Option<Owner>,
}

/// What was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// In bytes.
    pub size: u64,
    /// Of all of it, in hexadecimal digits, where it is known.
    pub sha256: Option<String>,
}

/// A backend, as far as its options tell it from others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub prefix: String,
    /// The stanza of the client's options.
    pub server_name: Option<String>,
    pub option_file: Option<PathBuf>,
}

impl Owner {
    /// The backend of these options.
    pub fn of(options: &config::Tsm) -> Self {
        Self {
            prefix: options.prefix.clone(),
            server_name: options.server_name.clone(),
            option_file: options.option_file.clone(),
        }
    }
}

impl Note {
    /// Whether it is that of a backup of this backend, for all that is known.
    pub fn is_of(&self, options: &config::Tsm) -> bool {
        self.owner.as_ref() == Some(&Owner::of(options))
    }

    /// All that the server may have under its name, the newest first.
    pub fn sent(&self) -> Vec<Sent> {
        let newest = Sent {
            size: self.size,
            sha256: self.sha256.clone(),
        };
        let mut sent = vec![newest];
        sent.extend(self.candidates.iter().cloned());
        sent
    }

    /// When it was last modified, where a program set that.
    pub fn modified(&self) -> Option<SystemTime> {
        UNIX_EPOCH.checked_add(Duration::from_micros(self.modified?))
    }

    /// When it was made.
    pub fn created_at(&self) -> Option<Timestamp> {
        Timestamp::parse(self.created_at.as_deref()?)
    }
}

/// A time, as a note keeps it.
pub fn micros(at: SystemTime) -> Option<u64> {
    let since = at.duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(since.as_micros()).ok()
}

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

/// All of it, at one time.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    pub notes: HashMap<String, Note>,
    pub rows: HashMap<String, Row>,
}

impl Catalog {
    /// Reads a folder; one that is not there holds nothing. What cannot be read is told of.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn read(folder: &Path) -> Result<Self> {
        let mut catalog = Self::default();
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(catalog),
            Err(e) => return Err(failed("read", folder, &e)),
        };
        for entry in entries {
            let entry = entry.map_err(|e| failed("read", folder, &e))?;
            let name = entry.file_name();
            let stat = entry.metadata().map_err(|e| failed("read", folder, &e))?;
            if name.as_encoded_bytes().starts_with(b".") || !stat.is_file() || stat.len() > LARGEST
            {
                continue;
            }
            let path = entry.path();
            if let Err(e) = catalog.take(&path) {
                tracing::warn!("{e}");
            }
        }
        Ok(catalog)
    }

    fn take(&mut self, path: &Path) -> Result<()> {
        let text = fs::read(path).map_err(|e| failed("read", path, &e))?;
        let odd = |reason: &str| {
            let path = path.display().to_string();
            Error::corrupt("read the record", path, reason)
        };
        if path.to_string_lossy().ends_with(SUFFIX) {
            let note: Note =
                serde_json::from_slice(&text).map_err(|e| odd(&format!("it is damaged: {e}")))?;
            if !is_id(&note.id) || path.file_name() != path_of(Path::new(""), &note.id).file_name()
            {
                return Err(odd("it is named after another backup"));
            }
            self.notes.insert(note.id.clone(), note);
            return Ok(());
        }
        let found = rows_in(&String::from_utf8_lossy(&text));
        if found.is_empty() {
            return Err(odd("it holds no record of a backup"));
        }
        for row in found {
            self.rows.insert(row.id.clone(), row);
        }
        Ok(())
    }
}

fn failed(op: &'static str, path: &Path, e: &std::io::Error) -> Error {
    Error::io(op, path.display().to_string(), e)
        .advise("backup_tsm_catalog_path is a folder of records, and of notes of our own")
}

/// Where the note on a backup is.
pub fn path_of(folder: &Path, id: &str) -> PathBuf {
    folder.join(format!("{id}{SUFFIX}"))
}

/// The note on a backup, if there is one that can be read. Blocks.
pub fn note_of(folder: &Path, id: &str) -> Option<Note> {
    let text = fs::read(path_of(folder, id)).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Keeps a note, durably, in place of the one before.
///
/// # Errors
/// When the folder cannot be written to.
pub fn keep(folder: &Path, note: &Note) -> Result<()> {
    let text = serde_json::to_vec_pretty(note)
        .map_err(|e| Error::new(Kind::Invalid, "write", "a note", e))?;
    write(&path_of(folder, &note.id), &text).map_err(|e| failed("write a note into", folder, &e))
}

/// Writes a file in one go, durably.
pub fn write(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    make_private(folder)?;
    let mut file = tempfile::Builder::new()
        .prefix(".new-")
        .tempfile_in(folder)?;
    file.write_all(text)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    fs::File::open(folder)?.sync_all()
}

/// Removes a note, if it is there.
///
/// # Errors
/// When the folder cannot be written to.
pub fn forget(folder: &Path, id: &str) -> Result<()> {
    match fs::remove_file(path_of(folder, id)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(failed("remove a note from", folder, &e))
        }
        _ => Ok(()),
    }
}

/// The records in a text: JSON, JSON in lines, or the table that a command prints.
fn rows_in(text: &str) -> Vec<Row> {
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

    const ID: &str = "14557733-15c7-5293-a026-e4123a3b50c9";

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

    #[test]
    fn notes_are_kept_and_forgotten_and_damage_hides_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let note = Note {
            id: ID.into(),
            volume_id: "v".into(),
            path: "/s/v/backup-n".into(),
            mode: Mode::File,
            name: "a.img".into(),
            description: None,
            created_at: None,
            modified: Some(7),
            size: 1,
            sha256: None,
            candidates: Vec::new(),
            owner: None,
        };
        keep(folder.path(), &note).unwrap();
        fs::write(folder.path().join("bad.cinderfs.json"), "{").unwrap();
        // One that would lead elsewhere.
        let mut other = serde_json::to_value(&note).unwrap();
        other["id"] = json!("../n");
        fs::write(folder.path().join("n.cinderfs.json"), other.to_string()).unwrap();
        fs::write(folder.path().join("record"), fields().to_string()).unwrap();
        let read = Catalog::read(folder.path()).unwrap();
        assert_eq!(read.notes[ID], note);
        assert!(read.rows.contains_key("b"));
        forget(folder.path(), ID).unwrap();
        forget(folder.path(), ID).unwrap();
        assert!(Catalog::read(folder.path()).unwrap().notes.is_empty());
        assert!(
            Catalog::read(Path::new("/nowhere/at/all"))
                .unwrap()
                .rows
                .is_empty()
        );
    }
}
