//! What an image says of the backups in it.

use super::cinders::is_changed;
use super::cluster::Pool;
use super::failure::Deadline;
use super::image::{Image, Snap};
use super::session::Session;
use crate::driver::Backup;
use crate::error::{Error, Kind, Result};
use crate::format::{BaseName, SnapName, Timestamp, service_metadata};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Class path of the Cinder driver whose backups these are.
pub const SERVICE: &str = "cinder.backup.drivers.ceph.CephBackupDriver";
/// What our notes on a backup are kept under, with its id behind it: in the metadata of the
/// image, which Cinder ignores.
const NOTE: &str = "cinderfs.backup.";
/// An image with this note is being written, or was never finished.
const UNFINISHED: &str = "cinderfs.unfinished";

/// What our notes on a backup are kept under.
pub fn note_key(backup_id: &str) -> String {
    format!("{NOTE}{backup_id}")
}

/// The backup that a note is on, from what it is kept under.
pub fn noted_backup(key: &str) -> Option<&str> {
    key.strip_prefix(NOTE)
}

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
    pub modified: Option<i64>,
    /// Nanoseconds more than that.
    #[serde(skip_serializing_if = "is_none")]
    pub modified_nanos: u32,
    /// The backup that this one is an increment on.
    pub parent: Option<String>,
    /// Size of the image in bytes, where we have written it: that of the RBD image is larger.
    pub size: Option<u64>,
    /// The snapshot, where we have written it. There may be another one for a moment, when it
    /// is published anew: this note tells which of the two it is, and changes at once.
    pub snap: Option<String>,
    /// It is not published yet, whatever snapshots there are.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unfinished: bool,
}

impl Note {
    /// That on a backup, out of all that is noted of an image; an empty one when there is none
    /// that can be read.
    pub fn of(id: &str, image: &str, notes: &BTreeMap<String, String>) -> Self {
        let note = notes.get(&note_key(id));
        note.map_or_else(Self::default, |text| {
            serde_json::from_str(text).unwrap_or_else(|e| {
                tracing::warn!(
                    "backup {id}: our notes on it, in the image {image}, are damaged: {e}"
                );
                Self::default()
            })
        })
    }

    /// As it is kept.
    pub fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Says when a program wants it to have been modified.
    pub fn set_modified(&mut self, at: SystemTime) {
        let nanos = match at.duration_since(UNIX_EPOCH) {
            Ok(after) => after.as_nanos().cast_signed(),
            Err(before) => -before.duration().as_nanos().cast_signed(),
        };
        self.modified = i64::try_from(nanos.div_euclid(1000)).ok();
        // Less than a thousand.
        self.modified_nanos = nanos.rem_euclid(1000) as u32;
    }

    /// We have written the backup, so that Cinder builds nothing on it.
    pub fn is_ours(&self) -> bool {
        self.size.is_some()
    }

    fn modified(&self) -> Option<SystemTime> {
        let micros = self.modified?;
        let distance = Duration::from_micros(micros.unsigned_abs());
        let whole = match micros >= 0 {
            true => UNIX_EPOCH.checked_add(distance),
            false => UNIX_EPOCH.checked_sub(distance),
        };
        whole?.checked_add(Duration::from_nanos(self.modified_nanos.min(999).into()))
    }
}

fn is_none(nanos: &u32) -> bool {
    *nanos == 0
}

/// What became of the head of an image in which Cinder has backups, too.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum HeadState {
    /// It is what Cinder takes it for.
    #[default]
    Sound,
    /// It is something else, and somebody has it open.
    InUse,
    /// It is something else, and nobody sees to it.
    Left,
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

/// How often an image is looked into that changes meanwhile.
const LOOKS: u32 = 4;

/// The backups in an image, and what became of its head.
///
/// # Errors
/// `NotFound` when it is gone, and those of the cluster.
pub async fn look(
    session: &Session,
    pool: &Arc<Pool>,
    name: &BaseName,
    deadline: Deadline,
) -> Result<(Vec<Found>, HeadState)> {
    let mut looks = 1;
    let seen = loop {
        let seen = see(session, pool, name, deadline).await?;
        // One was published anew between the one question and the other.
        if !seen.is_torn() || looks >= LOOKS {
            break seen;
        }
        looks += 1;
    };
    let head = match (is_changed(&seen.notes), seen.watched) {
        (false, _) => HeadState::Sound,
        (true, true) => HeadState::InUse,
        (true, false) => HeadState::Left,
    };
    Ok((backups(name, &pool.name, &seen), head))
}

async fn see(
    session: &Session,
    pool: &Arc<Pool>,
    name: &BaseName,
    deadline: Deadline,
) -> Result<Seen> {
    const OP: &str = "look into the image";
    let title = name.image();
    let image = Image::open(pool, &title, None, deadline).await?;
    let see = move || {
        let snaps = image.snaps()?;
        let is_backup = |snap: &Snap| SnapName::parse(&snap.name).is_some();
        let is_head = !snaps.iter().any(is_backup);
        let dated = |snap: Snap| (image.snapped_at(snap.id), snap);
        let dated: Vec<_> = snaps.into_iter().map(dated).collect();
        let notes = image.notes()?;
        Ok(Seen {
            snaps: dated.into_iter().map(|(at, snap)| (snap, at)).collect(),
            id: (!image.is_old()?).then(|| image.id()).transpose()?,
            size: image.size()?,
            created_at: image.created_at(),
            watched: (is_head || is_changed(&notes)) && image.is_watched()?,
            notes,
        })
    };
    session.threads.run(OP, &title, deadline, see).await
}

impl Seen {
    /// Its snapshots and its notes are not of the same moment.
    fn is_torn(&self) -> bool {
        let names = self.snaps.iter().map(|(snap, _)| snap.name.as_str());
        let names: BTreeSet<&str> = names.collect();
        let ids = names.iter().filter_map(|name| SnapName::parse(name));
        ids.into_iter().any(|name| {
            let note = Note::of(&name.backup_id, "", &self.notes);
            let noted = note.snap.filter(|_| !note.unfinished);
            noted.is_some_and(|noted| !names.contains(noted.as_str()))
        })
    }
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
        if seen.watched || is_leftover(&seen.notes) {
            return Vec::new();
        }
        let id = head_id(name, seen.id.as_deref());
        let note = Note::of(&id, &image, &seen.notes);
        let backup = Backup {
            size: seen.size,
            created_at: seen.created_at.and_then(Timestamp::from_system),
            generation: generation(&place(None)),
            ..bare(name, &id, pool, &image, &note)
        };
        return vec![Found {
            backup: Arc::new(backup),
            place: place(None),
        }];
    }
    let mut by_id: BTreeMap<&str, Vec<&Named>> = BTreeMap::new();
    for named in &snaps {
        by_id.entry(&named.0.backup_id).or_default().push(named);
    }
    let mut found: Vec<Found> = Vec::new();
    // The newest of those that Cinder has made, by then.
    let mut cinders: Option<Arc<Backup>> = None;
    for (name_of_snap, snap, at) in &snaps {
        let id = &name_of_snap.backup_id;
        let note = Note::of(id, &image, &seen.notes);
        let all = by_id.get(id.as_str()).map_or(&[][..], Vec::as_slice);
        let is_noted = |named: &&&Named| note.snap.as_ref() == Some(&named.1.name);
        let noted = all.iter().find(is_noted).copied();
        let is_shown = match noted {
            Some(noted) => noted.1.id == snap.id,
            None => all.first().is_some_and(|first| first.1.id == snap.id),
        };
        if note.unfinished || !is_shown {
            continue;
        }
        let several = match noted {
            Some(_) => 1,
            None => all.len(),
        };
        // Cinder takes the newest one of its own for the parent, and tells only its database.
        let parent = match note.is_ours() || note.parent.is_some() {
            true => note.parent.clone(),
            false => cinders.as_ref().map(|before| before.id.clone()),
        };
        let is_parent = |found: &&Found| Some(&found.backup.id) == parent.as_ref();
        let below = found.iter().find(is_parent).map(|found| &found.backup);
        let is_of_it = note.snap.as_ref().is_none_or(|noted| *noted == snap.name);
        let exact = note.size.filter(|size| is_of_it && *size <= snap.size);
        let backup = Backup {
            size: exact.unwrap_or(snap.size),
            created_at: name_of_snap
                .created_at
                .or(at.and_then(Timestamp::from_system)),
            depth: below.map_or(0, |below| below.depth.saturating_add(1)),
            parent_id: parent,
            generation: generation(&place(Some(snap.clone()))),
            fault: (several > 1).then(|| ambiguous(id, &image, several)),
            ..bare(name, id, pool, &image, &note)
        };
        let backup = Arc::new(backup);
        if !note.is_ours() {
            cinders = Some(Arc::clone(&backup));
        }
        found.push(Found {
            backup,
            place: place(Some(snap.clone())),
        });
    }
    found
}

/// Whether an image without a snapshot that is a backup is none itself: it was never finished,
/// or a backup of ours was deleted from it, which always has a snapshot.
pub fn is_leftover(notes: &BTreeMap<String, String>) -> bool {
    let is_ours = |key: &String| {
        let id = noted_backup(key);
        id.is_some_and(|id| Note::of(id, "", notes).is_ours())
    };
    notes.contains_key(UNFINISHED) || notes.keys().any(is_ours)
}

/// A snapshot that is a backup, and when it was made.
type Named = (SnapName, Snap, Option<SystemTime>);

/// What the names and our notes tell.
pub fn bare(name: &BaseName, id: &str, pool: &str, image: &str, note: &Note) -> Backup {
    Backup {
        id: id.to_owned(),
        volume_id: name.volume_id.clone(),
        modified: note.modified(),
        parent_id: note.parent.clone(),
        name: note.name.clone(),
        written_as_file: note.file,
        description: note.description.clone(),
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
pub fn head_id(name: &BaseName, image_id: Option<&str>) -> String {
    if let Some(id) = &name.backup_id {
        return id.clone();
    }
    let mut hasher = Sha256::new();
    for part in [&*name.image(), image_id.unwrap_or_default()] {
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

fn ambiguous(id: &str, image: &str, count: usize) -> Error {
    let reason = format!("it has {count} snapshots in the image {image}, where it may have one");
    Error::new(Kind::Corrupt, "read", format!("backup {id}"), reason)
        .advise("see `rbd snap ls` for them, and remove what is not the backup")
}

/// Another one for every image and snapshot that ever was a backup of the same id.
pub fn generation(place: &Place) -> u64 {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_kept_to_the_nanosecond() {
        for at in [
            UNIX_EPOCH,
            UNIX_EPOCH + Duration::new(5, 6),
            UNIX_EPOCH + Duration::new(5, 999_999_999),
            UNIX_EPOCH - Duration::new(1, 5),
        ] {
            let mut note = Note::default();
            note.set_modified(at);
            let kept: Note = serde_json::from_str(&note.text()).unwrap();
            assert_eq!(kept, note);
            assert_eq!(kept.modified(), Some(at));
        }
    }
}
