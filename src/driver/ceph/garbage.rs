//! What lies in the pool and belongs to no finished backup, and its removal.
//!
//! What somebody is writing is known by its image being open for writing; what Cinder is about
//! to write next, by its age. A head that an increment has changed which was never finished is
//! garbage where Cinder has backups in the image, too: its next one would begin with it.

use super::Shared;
use super::cinders::{is_changed, mend};
use super::delete::{clear_away, leftover, rename};
use super::image::{Image, Snap};
use super::publish::strays;
use super::summary::{Note, head_id, is_leftover as is_leftover_image, note_key, noted_backup};
use crate::driver::{Garbage, GarbageKind};
use crate::error::{Error, Kind, Result};
use crate::format::{BaseName, SnapName, leftover_image, of_volume_metadata_object};
use crate::task::patiently;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Something that was found, and how it is removed.
struct Piece {
    garbage: Garbage,
    what: What,
}

enum What {
    /// An image, with all that is in it.
    Image(String),
    /// Snapshots of a backup in an image of others, and the note on it.
    Inside {
        image: String,
        snaps: Vec<String>,
        notes: Vec<String>,
    },
    /// The head of an image of others, which was not given back.
    Head(String),
    /// A plain object.
    Object(String),
}

/// What an image says.
struct Seen {
    id: Option<String>,
    snaps: Vec<Snap>,
    notes: BTreeMap<String, String>,
    watched: bool,
    bytes: u64,
    modified: Option<SystemTime>,
}

/// What is in the images of a pool.
#[derive(Default)]
struct Found {
    pieces: Vec<Piece>,
    /// Ids of all backups that are, or are becoming, something.
    known: HashSet<String>,
    /// Volumes with an image whose backup's id only Cinder knows.
    nameless: HashSet<String>,
}

/// See [`crate::driver::BackupDriver::garbage`].
pub async fn garbage(shared: &Shared, age: Duration) -> Result<Vec<Garbage>> {
    let now = SystemTime::now();
    // What was written in the future (clocks differ) is young.
    let is_old = |garbage: &Garbage| {
        let old = |at| {
            now.duration_since(at)
                .map_or(age.is_zero(), |passed| passed >= age)
        };
        garbage.modified.is_none_or(old)
    };
    let all = search(shared, None).await?;
    let all = all.into_iter().map(|piece| piece.garbage);
    Ok(all.filter(is_old).collect())
}

/// See [`crate::driver::BackupDriver::sweep`].
pub async fn sweep(shared: &Shared, garbage: &Garbage) -> Result<bool> {
    if shared.append_only {
        let subject = match &garbage.backup_id {
            Some(id) => format!("what is left of backup {id}"),
            None => format!("what is left in {}", garbage.container),
        };
        let reason = "the backend is append_only";
        return Err(Error::new(Kind::Sealed, "delete", subject, reason));
    }
    let still = search(shared, Some(garbage)).await?;
    let Some(piece) = still.into_iter().find(|piece| piece.garbage == *garbage) else {
        return Ok(false);
    };
    match piece.what {
        What::Image(image) => sweep_image(shared, &image).await,
        What::Inside {
            image,
            snaps,
            notes,
        } => sweep_inside(shared, &image, snaps, notes).await,
        What::Head(image) => mend(shared, &image).await,
        What::Object(object) => {
            let session = &shared.session;
            let pool = session.pool().await?;
            let name = object.clone();
            let remove = move || pool.remove_object(&name);
            session
                .threads
                .run("remove the object", &object, session.deadline(), remove)
                .await?;
            Ok(true)
        }
    }
}

async fn sweep_image(shared: &Shared, image: &str) -> Result<bool> {
    let to = match BaseName::parse(image) {
        // It must not become a backup when its snapshots go.
        Some(name) => leftover(&name),
        None => image.to_owned(),
    };
    if to != image {
        rename(shared, image, &to).await?;
    }
    match clear_away(shared, &to).await {
        Ok(false) if to != image => {
            // Somebody has opened it just before, and may be about to make a backup in it.
            rename(shared, &to, image).await?;
            Ok(false)
        }
        Err(e) if e.kind() == Kind::Dependents => Ok(false),
        other => other,
    }
}

async fn sweep_inside(
    shared: &Shared,
    image: &str,
    snaps: Vec<String>,
    notes: Vec<String>,
) -> Result<bool> {
    let session = &shared.session;
    let pool = session.pool().await?;
    let opened = Image::open_writable(&pool, image, session.deadline()).await?;
    let remove = move || {
        if opened.watchers()? > 1 {
            return Ok(false);
        }
        for snap in &snaps {
            opened.remove_snap(snap)?;
        }
        for note in &notes {
            opened.forget_note(note)?;
        }
        Ok(true)
    };
    let op = "remove what is left over in the image";
    let run = session.threads.run(op, image, session.deadline(), remove);
    run.await
}

/// All that is garbage now; of `only`'s volume, if that is told.
async fn search(shared: &Shared, only: Option<&Garbage>) -> Result<Vec<Piece>> {
    let pool = &shared.session.pool_name().to_owned();
    let mut found = Found::default();
    for (image, _) in shared.catalog.images_now().await? {
        let (name, is_leftover) = match (BaseName::parse(&image), leftover_image(&image)) {
            (Some(name), _) => (name, false),
            (None, Some(name)) => (name, true),
            (None, None) => continue,
        };
        let seen = match look(shared, &image).await {
            // It was removed since.
            Err(e) if e.kind() == Kind::NotFound => continue,
            other => other?,
        };
        found.take(pool, &image, &name, is_leftover, seen);
    }
    let wants_objects = only.is_none_or(|only| {
        let mut objects = only.objects.iter();
        objects.any(|object| of_volume_metadata_object(object).is_some())
    });
    if wants_objects {
        objects(shared, &mut found).await?;
    }
    Ok(found.pieces)
}

async fn look(shared: &Shared, image: &str) -> Result<Seen> {
    let session = &shared.session;
    let pool = session.pool().await?;
    let opened = Image::open(&pool, image, None, session.deadline()).await?;
    let see = move || {
        let size = opened.size()?;
        let data = match opened.has_fast_diff()? {
            true => opened.data(size, true)?,
            false => Vec::new(),
        };
        Ok(Seen {
            id: (!opened.is_old()?).then(|| opened.id()).transpose()?,
            snaps: opened.snaps()?,
            notes: opened.notes()?,
            watched: opened.is_watched()?,
            bytes: data.iter().map(|range| range.end - range.start).sum(),
            modified: opened.modified_at().max(opened.created_at()),
        })
    };
    let run = session
        .threads
        .run("look into the image", image, session.deadline(), see);
    run.await
}

impl Found {
    fn take(&mut self, pool: &str, image: &str, name: &BaseName, is_leftover: bool, seen: Seen) {
        let ids = seen
            .snaps
            .iter()
            .filter_map(|snap| SnapName::parse(&snap.name));
        let ids: BTreeSet<String> = ids.map(|name| name.backup_id).collect();
        let is_head = ids.is_empty();
        if !is_leftover {
            self.known.extend(ids.iter().cloned());
            self.known.extend(name.backup_id.clone());
            if is_head && name.backup_id.is_none() {
                self.nameless.insert(name.volume_id.clone());
            }
        }
        if seen.watched {
            return;
        }
        let garbage = |kind, id: Option<String>, objects| Garbage {
            kind,
            volume_id: Some(name.volume_id.clone()),
            backup_id: id,
            container: pool.to_owned(),
            objects,
            bytes: 0,
            modified: seen.modified,
        };
        let is_hidden = |id: &String| Note::of(id, image, &seen.notes).unfinished;
        let is_unfinished = is_leftover
            || is_head && is_leftover_image(&seen.notes)
            || !is_head && ids.iter().all(is_hidden);
        if is_unfinished {
            let objects = vec![image.to_owned()];
            self.pieces.push(Piece {
                garbage: Garbage {
                    bytes: seen.bytes,
                    ..garbage(GarbageKind::Unfinished, name.backup_id.clone(), objects)
                },
                what: What::Image(image.to_owned()),
            });
            return;
        }
        let head = is_head.then(|| head_id(name, seen.id.as_deref()));
        let noted = seen.notes.keys().filter_map(|key| noted_backup(key));
        let noted: BTreeSet<String> = noted.map(str::to_owned).collect();
        for id in ids.union(&noted) {
            let (mut snaps, mut notes) = (Vec::new(), Vec::new());
            if ids.contains(id) {
                let all = strays(id, &seen.snaps, &seen.notes);
                snaps.extend(all.into_iter().map(|snap| snap.name));
            }
            if is_hidden(id) || !ids.contains(id) && head.as_ref() != Some(id) {
                notes.push(note_key(id));
            }
            if snaps.is_empty() && notes.is_empty() {
                continue;
            }
            let kind = match ids.contains(id) && !is_hidden(id) {
                true => GarbageKind::Stray,
                false => GarbageKind::Unfinished,
            };
            let of_snaps = snaps.iter().map(|snap| format!("{image}@{snap}"));
            let of_notes = notes.iter().map(|note| format!("{image}: {note}"));
            let objects = of_snaps.chain(of_notes).collect();
            self.pieces.push(Piece {
                garbage: garbage(kind, Some(id.clone()), objects),
                what: What::Inside {
                    image: image.to_owned(),
                    snaps,
                    notes,
                },
            });
        }
        if is_changed(&seen.notes) {
            self.pieces.push(Piece {
                garbage: garbage(GarbageKind::Head, None, vec![image.to_owned()]),
                what: What::Head(image.to_owned()),
            });
        }
    }
}

/// What Cinder has noted of the volumes of backups that are not there.
async fn objects(shared: &Shared, found: &mut Found) -> Result<()> {
    const OP: &str = "list the objects of the pool";
    let session = &shared.session;
    let pool = session.pool().await?;
    let within = Arc::clone(&pool);
    let list = move |pulse: &crate::task::Pulse| {
        within.objects(
            |name| of_volume_metadata_object(name).is_some(),
            || drop(pulse.beat()),
        )
    };
    let listed = patiently(session.patience(), list).await;
    let late = || super::failure::timed_out(OP, session.pool_name(), session.deadline());
    for object in listed.unwrap_or_else(|| Err(late()))? {
        let id = of_volume_metadata_object(&object).unwrap_or_default();
        if found.known.contains(id) {
            continue;
        }
        let gone = |e: &Error| e.kind() == Kind::NotFound;
        let (text, stat) = (
            pool.read(&object, session.deadline()).await,
            pool.stat(&object, session.deadline()).await,
        );
        let (text, stat) = match (text, stat) {
            (Err(e), _) | (_, Err(e)) if gone(&e) => continue,
            (text, stat) => (text?, stat?),
        };
        // Of an image that is called `base` only Cinder knows which backup is in it.
        let volume = volume_of(&text);
        let is_orphan = volume
            .as_ref()
            .is_some_and(|volume| !found.nameless.contains(volume));
        if !is_orphan {
            continue;
        }
        found.pieces.push(Piece {
            garbage: Garbage {
                kind: GarbageKind::Unfinished,
                volume_id: volume,
                backup_id: Some(id.to_owned()),
                container: pool.name.clone(),
                objects: vec![object.clone()],
                bytes: stat.size,
                modified: stat.modified,
            },
            what: What::Object(object),
        });
    }
    Ok(())
}

/// The volume that Cinder tells of.
fn volume_of(text: &[u8]) -> Option<String> {
    let document: serde_json::Value = serde_json::from_slice(text).ok()?;
    let id = document.get("volume-base-metadata")?.get("id")?;
    id.as_str().map(str::to_owned)
}
