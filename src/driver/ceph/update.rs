//! Changing what is said of a backup.

use super::Shared;
use super::delete::{CLOSING, LOOK};
use super::image::Image;
use super::summary::{Found, Note, note_key};
use crate::driver::{Backup, Change};
use crate::error::{Error, Kind, Result};
use std::sync::Arc;

/// See [`crate::driver::BackupDriver::update`].
pub async fn update(shared: &Shared, backup: &Backup, change: Change) -> Result<Arc<Backup>> {
    let _choosing = shared.writing.choose().await;
    // What is said of a backup is read and written as a whole.
    let _changing = shared.writing.change().await;
    let Found { place, .. } = shared.catalog.find(backup).await?;
    let gone = || {
        let subject = format!("backup {}", backup.id);
        let reason = "it is not in the pool any more";
        Error::new(Kind::NotFound, "change", subject, reason)
    };
    let session = &shared.session;
    let pool = session.pool().await?;
    let opened = Image::open_writable(&pool, &place.image, session.deadline()).await;
    let image = opened.map_err(|e| match e.kind() {
        Kind::NotFound => gone(),
        _ => e,
    })?;
    let id = backup.id.clone();
    let (snap, image_id) = (place.snap.clone(), place.image_id.clone());
    // One handle is ours; where we write to the image, another one, too.
    let own = 1 + usize::from(shared.writing.writes_to(&place.image));
    let rewrite = move || {
        let found = (!image.is_old()?).then(|| image.id()).transpose()?;
        let is_there = match &snap {
            Some(snap) => image.snaps()?.contains(snap),
            None => true,
        };
        if found != image_id || !is_there {
            return Ok(false);
        }
        let started = std::time::Instant::now();
        while Note::of(&id, "", &image.notes()?).is_ours() && image.watchers()? > own {
            // Who publishes it anew writes the same note.
            if started.elapsed() >= CLOSING {
                let subject = format!("backup {id}");
                let reason = "another program has its image open, and may be writing it still";
                return Err(Error::new(Kind::Dependents, "change", subject, reason)
                    .advise("see `rbd status` for who that is, and try again"));
            }
            std::thread::sleep(LOOK);
        }
        let mut note = Note::of(&id, &image.name, &image.notes()?);
        if let Some(file) = change.name {
            (note.name, note.file) = (Some(file), true);
        }
        if let Some(description) = change.description {
            note.description = description;
        }
        if let Some(modified) = change.modified {
            note.set_modified(modified);
        }
        image.note(&note_key(&id), &note.text())?;
        Ok(true)
    };
    let run = session.threads.run(
        "change the backup in",
        &place.image,
        session.deadline(),
        rewrite,
    );
    if !run.await? {
        return Err(gone());
    }
    shared.catalog.changed(&backup.volume_id).await;
    let backups = shared.catalog.backups(&backup.volume_id).await?;
    let changed = backups.into_iter().find(|found| found.id == backup.id);
    changed.ok_or_else(gone)
}
