//! What an image says of the backups in it.

use super::cluster::Pool;
use super::failure::Deadline;
use super::image::{Image, Snap};
use super::session::Session;
use crate::driver::Backup;
use crate::error::{Error, Kind, Result};
use crate::format::{BaseName, SnapName, Timestamp, service_metadata};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Class path of the Cinder driver whose backups these are.
pub const SERVICE: &str = "cinder.backup.drivers.ceph.CephBackupDriver";
/// What our notes on a backup are kept under, with its id behind it: in the metadata of the
/// image, which Cinder ignores.
const NOTE: &str = "cinderfs.backup.";
/// An image with this note is being written, or was never finished.
const UNFINISHED: &str = "cinderfs.unfinished";

/// Where a backup is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The name of its image.
    pub image: String,
    /// The id of that; `None` for an image of the first format.
    pub image_id: Option<String>,
    /// Its snapshot; the image's head without.
    pub snap: Option<Snap>,
}

/// A backup, and where it is.
#[derive(Debug, Clone)]
pub struct Found {
    pub backup: Arc<Backup>,
    pub place: Place,
}

/// What cinderfs knows of a backup that neither Cinder nor Ceph has a place for.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Note {
    /// The user's name for it.
    pub name: Option<String>,
    /// The name is that of the file which was written.
    pub file: bool,
    /// The user's words on it.
    pub description: Option<String>,
    /// Modification time, where a program set one: microseconds since 1970.
    pub modified: Option<u64>,
    /// The backup that this one is an increment on.
    pub parent: Option<String>,
}

impl Note {
    fn modified(&self) -> Option<SystemTime> {
        UNIX_EPOCH.checked_add(Duration::from_micros(self.modified?))
    }
}

/// What an image is, read at one time.
#[derive(Debug)]
struct Seen {
    id: Option<String>,
    size: u64,
    created_at: Option<SystemTime>,
    /// With when they were made.
    snaps: Vec<(Snap, Option<SystemTime>)>,
    notes: BTreeMap<String, String>,
    /// Somebody is writing to it.
    watched: bool,
}

/// The backups in an image.
///
/// # Errors
/// `NotFound` when it is gone, and those of the cluster.
pub async fn look(
    session: &Session,
    pool: &Arc<Pool>,
    name: &BaseName,
    deadline: Deadline,
) -> Result<Vec<Found>> {
    const OP: &str = "look into the image";
    let title = name.image();
    let image = Image::open(pool, &title, None, deadline).await?;
    let see = move || {
        let snaps = image.snaps()?;
        let is_backup = |snap: &Snap| SnapName::parse(&snap.name).is_some();
        let is_head = !snaps.iter().any(is_backup);
        let dated = |snap: Snap| (image.snapped_at(snap.id), snap);
        let dated = snaps.into_iter().map(dated);
        Ok(Seen {
            snaps: dated.map(|(at, snap)| (snap, at)).collect(),
            id: (!image.is_old()?).then(|| image.id()).transpose()?,
            size: image.size()?,
            created_at: image.created_at(),
            notes: image.notes()?,
            watched: is_head && image.is_watched()?,
        })
    };
    let seen = session.threads.run(OP, &title, deadline, see).await?;
    Ok(backups(name, &pool.name, &seen))
}

/// The backups that an image holds.
fn backups(name: &BaseName, pool: &str, seen: &Seen) -> Vec<Found> {
    let image = name.image();
    let place = |snap: Option<Snap>| Place {
        image: image.clone(),
        image_id: seen.id.clone(),
        snap,
    };
    let named = |(snap, at): &(Snap, Option<SystemTime>)| {
        let name = SnapName::parse(&snap.name)?;
        Some((name, snap.clone(), *at))
    };
    let snaps: Vec<_> = seen.snaps.iter().filter_map(named).collect();
    if snaps.is_empty() {
        // One that is being written is no backup yet.
        if seen.watched || seen.notes.contains_key(UNFINISHED) {
            return Vec::new();
        }
        let backup = Backup {
            size: seen.size,
            created_at: seen.created_at.and_then(Timestamp::from_system),
            generation: generation(&place(None)),
            ..bare(name, &head_id(name, seen), pool, &image, &seen.notes)
        };
        return vec![Found {
            backup: Arc::new(backup),
            place: place(None),
        }];
    }
    let mut count: HashMap<&str, u32> = HashMap::new();
    for (name, ..) in &snaps {
        *count.entry(&name.backup_id).or_default() += 1;
    }
    let mut found: Vec<Found> = Vec::new();
    for (snap_name, snap, at) in &snaps {
        let id = &snap_name.backup_id;
        let before = found.last().map(|found| &*found.backup);
        if found.iter().any(|found| found.backup.id == *id) {
            continue;
        }
        let bare = bare(name, id, pool, &image, &seen.notes);
        let several = count.get(id.as_str()).copied().unwrap_or(0);
        let backup = Backup {
            size: snap.size,
            created_at: snap_name.created_at.or(at.and_then(Timestamp::from_system)),
            // Cinder takes the newest one for the parent, and tells only its database.
            parent_id: bare
                .parent_id
                .clone()
                .or(before.map(|before| before.id.clone())),
            depth: u32::try_from(found.len()).unwrap_or(u32::MAX),
            generation: generation(&place(Some(snap.clone()))),
            fault: (several > 1).then(|| ambiguous(id, &image, several)),
            ..bare
        };
        found.push(Found {
            backup: Arc::new(backup),
            place: place(Some(snap.clone())),
        });
    }
    found
}

/// What the names and our notes tell.
fn bare(
    name: &BaseName,
    id: &str,
    pool: &str,
    image: &str,
    notes: &BTreeMap<String, String>,
) -> Backup {
    let note = notes.get(&format!("{NOTE}{id}"));
    let note: Note = note.map_or_else(Note::default, |text| {
        serde_json::from_str(text).unwrap_or_else(|e| {
            tracing::warn!("backup {id}: our notes on it, in the image {image}, are damaged: {e}");
            Note::default()
        })
    });
    Backup {
        id: id.to_owned(),
        volume_id: name.volume_id.clone(),
        modified: note.modified(),
        parent_id: note.parent,
        name: note.name,
        written_as_file: note.file,
        description: note.description,
        created_at: None,
        size: 0,
        data_bytes: None,
        stored_bytes: None,
        generation: 0,
        object_count: 0,
        compression: String::new(),
        depth: 0,
        service: SERVICE,
        container: pool.to_owned(),
        service_metadata: service_metadata(image),
        fault: None,
    }
}

/// The id of the only backup of an image. That of a snapshot of a volume is in Cinder's
/// database alone: such a one gets an id of ours, which is always the same.
fn head_id(name: &BaseName, seen: &Seen) -> String {
    if let Some(id) = &name.backup_id {
        return id.clone();
    }
    let mut hasher = Sha256::new();
    for part in [&name.image(), seen.id.as_deref().unwrap_or_default()] {
        hasher.update(part);
        hasher.update([0]);
    }
    let digest: [u8; 32] = hasher.finalize().into();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(digest.first_chunk::<16>().unwrap_or(&[0; 16]));
    uuid::Builder::from_custom_bytes(bytes)
        .into_uuid()
        .to_string()
}

fn ambiguous(id: &str, image: &str, count: u32) -> Error {
    let reason = format!("it has {count} snapshots in the image {image}, where it may have one");
    Error::new(Kind::Corrupt, "read", format!("backup {id}"), reason)
        .advise("see `rbd snap ls` for them, and remove what is not the backup")
}

/// Another one for every image and snapshot that ever was a backup of the same id.
fn generation(place: &Place) -> u64 {
    let key = key_of("", 0, place).to_le_bytes();
    key.first_chunk::<8>()
        .copied()
        .map_or(0, u64::from_le_bytes)
}

/// What tells the content of a backup from that of every other one.
pub fn key_of(fsid: &str, pool: i64, place: &Place) -> u128 {
    let mut hasher = Sha256::new();
    let snap = place.snap.as_ref().map_or(u64::MAX, |snap| snap.id);
    let id = place.image_id.as_ref().unwrap_or(&place.image);
    for part in [fsid, &pool.to_string(), id, &snap.to_string()] {
        hasher.update(part);
        hasher.update([0]);
    }
    let digest: [u8; 32] = hasher.finalize().into();
    u128::from_le_bytes(*digest.first_chunk::<16>().unwrap_or(&[0; 16]))
}
