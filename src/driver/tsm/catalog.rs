//! What is known of backups beside their objects: the records that `cinder backup-export`
//! gave, rows of Cinder's database as JSON, and notes of our own on what we have written.
//!
//! Losing it loses names, not data. Must not know the client.

use super::client::Mode;
use super::names::is_id;
use super::records::{Row, rows_in};
use super::stage::make_private;
use crate::config;
use crate::error::{Error, Kind, Result};
use crate::format::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What the names of our own notes end in.
const SUFFIX: &str = ".cinderfs.json";
/// Who changes notes holds a lock on this.
const LOCK: &str = ".lock";
/// How long that is waited for: a note is small.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is looked at whether it is free.
const LOOK: Duration = Duration::from_millis(5);
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
    /// The server has never been known to have it: it is on its way, or was.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_unconfirmed: bool,
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
    /// As which node the server knows it, where the client says so.
    #[serde(default)]
    pub node: Option<String>,
}

impl Owner {
    /// The backend of these options, which the server knows as this node.
    pub fn of(options: &config::Tsm, node: Option<String>) -> Self {
        Self {
            prefix: options.prefix.clone(),
            server_name: options.server_name.clone(),
            option_file: options.option_file.clone(),
            node,
        }
    }
}

impl Note {
    /// Whether it is that of a backup of this backend, for all that is known.
    pub fn is_of(&self, owner: &Owner) -> bool {
        self.owner.as_ref() == Some(owner)
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
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let stat = match entry.metadata() {
                Ok(stat) => stat,
                // Somebody has removed it just now.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => return Err(failed("read", folder, &e)),
            };
            if !stat.is_file() || stat.len() > LARGEST {
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
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(failed("read", path, &e)),
        };
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
    let _lock = lock(folder).map_err(|e| failed("write a note into", folder, &e))?;
    keep_locked(folder, note)
}

/// Changes a note as it is now, whatever was last known of it. Gives `None` when there is none
/// (any more).
///
/// # Errors
/// When the folder cannot be written to.
pub fn amend(folder: &Path, id: &str, change: impl FnOnce(&mut Note)) -> Result<Option<Note>> {
    let _lock = lock(folder).map_err(|e| failed("write a note into", folder, &e))?;
    let Some(mut note) = note_of(folder, id) else {
        return Ok(None);
    };
    change(&mut note);
    keep_locked(folder, &note)?;
    Ok(Some(note))
}

/// The right to change notes, also for other programs, until this is dropped.
fn lock(folder: &Path) -> std::io::Result<fs::File> {
    make_private(folder)?;
    let mut options = fs::File::options();
    let file = options.create(true).truncate(false).write(true);
    let file = file.open(folder.join(LOCK))?;
    let start = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::WouldBlock) if start.elapsed() < PATIENCE => {
                std::thread::sleep(LOOK);
            }
            Err(fs::TryLockError::WouldBlock) => return Err(std::io::ErrorKind::TimedOut.into()),
            Err(fs::TryLockError::Error(e)) => return Err(e),
        }
    }
}

fn keep_locked(folder: &Path, note: &Note) -> Result<()> {
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
    // A folder of records may be anybody's.
    if !path_of(folder, id).exists() {
        return Ok(());
    }
    let _lock = lock(folder).map_err(|e| failed("remove a note from", folder, &e))?;
    match fs::remove_file(path_of(folder, id)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(failed("remove a note from", folder, &e))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const ID: &str = "14557733-15c7-5293-a026-e4123a3b50c9";

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
            is_unconfirmed: false,
            owner: None,
        };
        keep(folder.path(), &note).unwrap();
        fs::write(folder.path().join("bad.cinderfs.json"), "{").unwrap();
        // One that would lead elsewhere.
        let mut other = serde_json::to_value(&note).unwrap();
        other["id"] = json!("../n");
        fs::write(folder.path().join("n.cinderfs.json"), other.to_string()).unwrap();
        fs::write(folder.path().join("record"), r#"{"id": "b"}"#).unwrap();
        let read = Catalog::read(folder.path()).unwrap();
        assert_eq!(read.notes[ID], note);
        assert!(read.rows.contains_key("b"));
        // Another program has written since it was last read.
        keep(folder.path(), &Note { size: 2, ..note }).unwrap();
        let amended = amend(folder.path(), ID, |note| note.modified = Some(8)).unwrap();
        let amended = amended.unwrap();
        assert_eq!((amended.size, amended.modified), (2, Some(8)));
        assert_eq!(note_of(folder.path(), ID), Some(amended));
        forget(folder.path(), ID).unwrap();
        forget(folder.path(), ID).unwrap();
        assert_eq!(amend(folder.path(), ID, |_| ()).unwrap(), None);
        assert!(Catalog::read(folder.path()).unwrap().notes.is_empty());
        assert!(
            Catalog::read(Path::new("/nowhere/at/all"))
                .unwrap()
                .rows
                .is_empty()
        );
    }
}
