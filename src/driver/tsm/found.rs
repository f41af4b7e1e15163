//! What the server has, as backups: the newest version of each object, with what the catalog
//! says of it.
//!
//! Must not know how any of this was asked for.

use super::catalog::{Catalog, Note};
use super::client::Mode;
use super::names::{Name, UNASSIGNED};
use super::records::Row as Record;
use super::rows::{self, Row, Size};
use super::stage::Shelf;
use crate::driver::Backup;
use crate::error::{Error, Kind};
use serde_json::json;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Class path of the Cinder driver whose backups these are.
pub const SERVICE: &str = "cinder.backup.drivers.tsm.TSMBackupDriver";
/// A backup, and the object that it is.
#[derive(Debug, Clone)]
pub struct Found {
    pub backup: Arc<Backup>,
    pub name: Name,
    /// When it was sent, as the client tells it: another one is another object.
    pub date: String,
    /// In bytes, as far as it is known.
    pub size: Size,
    /// What we know of it, if it is one of ours.
    pub note: Option<Note>,
}

/// Backups by their volumes.
pub type Shown = BTreeMap<String, Vec<Found>>;

/// What it takes to make backups of objects.
pub struct Assembly<'a> {
    pub staging: &'a Path,
    pub shelf: &'a Shelf,
    pub catalog: &'a Catalog,
    /// How often something went wrong with an object, by keys.
    pub failures: &'a HashMap<String, u64>,
    /// Of these it was said that the server will delete them.
    pub warned: &'a mut HashSet<Name>,
}

impl Assembly<'_> {
    /// All of these objects as backups, by their volumes.
    pub fn shown(mut self, objects: Vec<(Name, Row)>) -> Shown {
        let mut newest: BTreeMap<(PathBuf, bool), (Name, Row)> = BTreeMap::new();
        for (name, row) in objects {
            let key = (name.path.clone(), name.mode == Mode::Image);
            let rank = |row: &Row| (row.is_active, rows::time(&row.date), row.date.clone());
            match newest.get(&key) {
                Some((_, before)) if rank(before) >= rank(&row) => {}
                _ => drop(newest.insert(key, (name, row))),
            }
        }
        let mut shown = Shown::new();
        for (name, row) in newest.into_values() {
            self.warn_of_expiry(&name, &row);
            let record = self.catalog.rows.get(&name.id);
            let note = self
                .catalog
                .notes
                .get(&name.id)
                .filter(|note| note.path == name.path);
            let found = self.found(name, &row, note, record);
            let volume = shown.entry(found.backup.volume_id.clone()).or_default();
            if let Some(other) = volume
                .iter_mut()
                .find(|other| other.backup.id == found.backup.id)
            {
                tracing::warn!(
                    "backup {} is there twice: as {} and as {}; the one that the catalog names, or \
                     the latter, is shown",
                    found.backup.id,
                    other.name.path.display(),
                    found.name.path.display()
                );
                let named = record.and_then(|record| record.path.as_ref());
                if named != Some(&other.name.path) {
                    *other = found;
                }
                continue;
            }
            volume.push(found);
        }
        shown
    }

    /// What a scheduled backup of the node has not found under its name any more, the server
    /// deletes in time. Says so once for each.
    fn warn_of_expiry(&mut self, name: &Name, row: &Row) {
        if row.is_active || !self.warned.insert(name.clone()) {
            return;
        }
        tracing::warn!(
            "backup {} is inactive on the server, which deletes such after a time (RETONLY of its \
             management class, 60 days by default): an incremental backup of the node has looked \
             for {}; let none go over that folder",
            name.id,
            name.path.display()
        );
    }

    fn found(&self, name: Name, row: &Row, note: Option<&Note>, record: Option<&Record>) -> Found {
        let volume = name.own_volume(self.staging);
        let volume = volume
            .or_else(|| note.map(|note| note.volume_id.clone()))
            .or_else(|| record?.volume_id.clone())
            .unwrap_or_else(|| UNASSIGNED.to_owned());
        let (size, fault) = self.size(&name, row, note, record);
        let is_faulty = fault.is_some();
        let backup = Backup {
            id: name.id.clone(),
            volume_id: volume,
            parent_id: None,
            name: note
                .map(|note| note.name.clone())
                .or_else(|| record?.name.clone()),
            written_as_file: note.is_some(),
            description: match note {
                Some(note) => note.description.clone(),
                None => record.and_then(|record| record.description.clone()),
            },
            created_at: note
                .and_then(Note::created_at)
                .or_else(|| record?.created_at)
                .or_else(|| rows::time(&row.date)),
            modified: note.and_then(Note::modified),
            size,
            data_bytes: None,
            stored_bytes: None,
            generation: generation(&name, &row.date, self.failures),
            object_count: 1,
            compression: String::new(),
            depth: 0,
            service: SERVICE,
            container: String::new(),
            service_metadata: service_metadata(&name),
            fault,
        };
        Found {
            backup: Arc::new(backup),
            name,
            date: row.date.clone(),
            size: match is_faulty {
                true => row.size,
                false => Size::Exact(size),
            },
            note: note.cloned(),
        }
    }

    /// The size of an image in bytes, and why it is not known.
    fn size(
        &self,
        name: &Name,
        row: &Row,
        note: Option<&Note>,
        record: Option<&Record>,
    ) -> (u64, Option<Error>) {
        let subject = || format!("backup {}", name.id);
        if let Some(note) = note {
            let sent = note.sent().into_iter().map(|sent| sent.size);
            let mut sizes: Vec<u64> = sent.filter(|size| row.size.admits(*size)).collect();
            sizes.dedup();
            // Of several it takes the object to tell.
            let staged = || self.shelf.staged_size(name, &row.date);
            match sizes.as_slice() {
                [] => {}
                [size] => return (*size, None),
                _ => match staged().filter(|size| sizes.contains(size)) {
                    Some(size) => return (size, None),
                    None => return (0, Some(rough(&subject(), row.size))),
                },
            }
            let told = row.size;
            let reason = format!(
                "the server has {told}, and {} bytes were written",
                note.size
            );
            return (note.size, Some(Error::corrupt("read", subject(), reason)));
        }
        if let Size::Exact(size) = row.size {
            return (size, None);
        }
        let staged = self.shelf.staged_size(name, &row.date);
        let known = staged.or_else(|| record?.size);
        if let Some(size) = known.filter(|size| row.size.admits(*size)) {
            return (size, None);
        }
        (0, Some(rough(&subject(), row.size)))
    }
}

fn rough(subject: &str, size: Size) -> Error {
    let reason = format!("the server tells its size only roughly ({size})");
    Error::new(Kind::Unavailable, "read", subject, reason)
        .advise("`cinderfs verify` fetches it and finds out, and keeps it at hand")
}

/// As Cinder keeps it in its database.
pub fn service_metadata(name: &Name) -> String {
    let path = name.path.to_string_lossy();
    json!({"backup_mode": name.mode.name(), "backup_path": path}).to_string()
}

/// Another one for every object that ever was this backup, and after every failure.
pub fn generation(name: &Name, date: &str, failures: &HashMap<String, u64>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (name, date, failures.get(&name.key())).hash(&mut hasher);
    hasher.finish()
}

/// The generation of an object that was just sent.
pub fn new_generation(name: &Name, date: &str) -> u64 {
    generation(name, date, &HashMap::new())
}
