//! Deleting backups.
//!
//! The last backup of an image goes by giving the image another name, which happens at once;
//! what takes long comes afterwards, and what is left of it after a crash `gc` finds.

use super::Shared;
use super::failure::timed_out;
use super::image::{Image, Snap};
use super::summary::{Found, Note, note_key};
use crate::driver::Backup;
use crate::driver::dependents::refuse_if_built_on;
use crate::error::{Error, Kind, Result};
use crate::format::{BaseName, SnapName, deleted_image, volume_metadata_object};
use crate::task::patiently;
use std::sync::Arc;
use std::time::Duration;

/// What Cinder does when an image is in use.
const TRIES: u32 = 3;
const DELAY: Duration = Duration::from_secs(5);
/// Images that we have just closed are in use for a moment.
pub const CLOSING: Duration = Duration::from_secs(5);
pub const LOOK: Duration = Duration::from_millis(50);

/// A name for what is left of an image whose backups are gone.
pub fn leftover(name: &BaseName) -> String {
    deleted_image(name, &uuid::Uuid::new_v4().to_string())
}

/// See [`crate::driver::BackupDriver::delete`].
pub async fn delete(shared: &Shared, backup: &Backup) -> Result<()> {
    refuse_if_append_only(shared, backup)?;
    let mut tries = 0;
    let left = loop {
        match try_delete(shared, backup).await? {
            Done::InUse if tries < TRIES => {
                tries += 1;
                tracing::info!(
                    "backup {}: its image is in use; trying again in {} s",
                    backup.id,
                    DELAY.as_secs()
                );
                tokio::time::sleep(DELAY).await;
            }
            Done::InUse => return Err(in_use(&backup.id)),
            Done::Withdrawn => return Ok(()),
            Done::Gone(left) => break left,
        }
    };
    shared.catalog.changed(&backup.volume_id).await;
    let clear = async {
        if let Some((from, to)) = left
            && !clear_away(shared, &to).await?
        {
            // Somebody has opened it just before, and may be about to make a backup in it.
            rename(shared, &to, &from).await?;
            return Err(in_use(&backup.id));
        }
        remove_metadata(shared, &backup.id).await
    };
    let cleared = clear.await;
    shared.catalog.changed(&backup.volume_id).await;
    if let Err(e) = cleared {
        if e.kind() == Kind::Dependents {
            return Err(e);
        }
        let id = &backup.id;
        tracing::warn!("backup {id} is deleted, but parts of it are left: {e}");
    }
    Ok(())
}

fn in_use(id: &str) -> Error {
    let subject = format!("backup {id}");
    let reason = "other programs have its image open, or have had until a moment ago";
    Error::new(Kind::Dependents, "delete", subject, reason)
        .advise("see `rbd status` for who that is, and try again")
}

/// What came of a try.
enum Done {
    /// Somebody has the image open, and nothing was done.
    InUse,
    /// It is being written here, and who writes it clears it away.
    Withdrawn,
    /// The backup does not exist any more; this image is left of it: what it was called, and
    /// what it is called now.
    Gone(Option<(String, String)>),
}

/// Removes what Cinder has noted of the volume.
async fn remove_metadata(shared: &Shared, backup_id: &str) -> Result<()> {
    let session = &shared.session;
    let pool = session.pool().await?;
    let object = volume_metadata_object(backup_id);
    let name = object.clone();
    let remove = move || pool.remove_object(&name);
    session
        .threads
        .run("remove the object", &object, session.deadline(), remove)
        .await
}

fn refuse_if_append_only(shared: &Shared, backup: &Backup) -> Result<()> {
    if !shared.append_only {
        return Ok(());
    }
    let subject = format!("backup {}", backup.id);
    let reason = "the backend is append_only";
    Err(Error::new(Kind::Sealed, "delete", subject, reason))
}

/// The same for one that is still being written to.
///
/// # Errors
/// As [`delete`].
pub async fn withdraw(shared: &Shared, backup: &Backup) -> Result<()> {
    refuse_if_append_only(shared, backup)?;
    let sink = {
        let _alone = shared.writing.delete().await;
        shared.writing.sink_of(&backup.id)
    };
    match sink {
        Some(sink) => sink.withdraw().await,
        None => delete(shared, backup).await,
    }
}

/// Makes it be no backup any more.
async fn try_delete(shared: &Shared, backup: &Backup) -> Result<Done> {
    let alone = shared.writing.delete().await;
    if let Some(sink) = shared.writing.sink_of(&backup.id) {
        // It may take long until nothing is written to it.
        drop(alone);
        sink.withdraw().await?;
        return Ok(Done::Withdrawn);
    }
    let Found { place, .. } = shared.catalog.find(backup).await?;
    // What another program has built on it until now counts, too.
    let found = shared.catalog.found_now(&backup.volume_id).await?;
    let others: Vec<Arc<Backup>> = found.into_iter().map(|found| found.backup).collect();
    refuse_if_built_on(backup, &others)?;
    if let Some(child) = shared.writing.child_of(&backup.id) {
        let subject = format!("backup {}", backup.id);
        let reason = format!("backup {child}, which is being written, is built on it");
        return Err(Error::new(Kind::Dependents, "delete", subject, reason)
            .advise("wait until that is finished"));
    }
    let session = &shared.session;
    let pool = session.pool().await?;
    let image = match Image::open_writable(&pool, &place.image, session.deadline()).await {
        // It is gone already.
        Err(e) if e.kind() == Kind::NotFound => return Ok(Done::Gone(None)),
        other => other?,
    };
    let (id, image_id) = (backup.id.clone(), place.image_id.clone());
    let look_and_remove = move || {
        let left = remove_from(&image, &id, image_id.as_deref())?;
        Ok((left, image))
    };
    let run = session.threads.run(
        "delete the backup in",
        &place.image,
        session.deadline(),
        look_and_remove,
    );
    // Nobody else locks it until it is called something else.
    let (left, held) = run.await?;
    match left {
        Left::InUse => Ok(Done::InUse),
        Left::Others => Ok(Done::Gone(None)),
        Left::Nothing => {
            let Some(name) = BaseName::parse(&place.image) else {
                return Ok(Done::Gone(None));
            };
            let to = leftover(&name);
            match rename(shared, &place.image, &to).await {
                Err(e) if e.kind() == Kind::NotFound => Ok(Done::Gone(None)),
                // Who deletes in a full pool makes room. Should that be broken off, our notes
                // tell that the image is no backup any more.
                Err(e) if e.kind() == Kind::NoSpace => {
                    tracing::debug!("backup {} is deleted without more ado: {e}", backup.id);
                    drop(held);
                    match clear_away(shared, &place.image).await? {
                        true => Ok(Done::Gone(None)),
                        false => Ok(Done::InUse),
                    }
                }
                other => other.map(|()| Done::Gone(Some((place.image.clone(), to)))),
            }
        }
    }
}

/// What is left in an image of which a backup was taken.
enum Left {
    /// All: somebody has it open.
    InUse,
    /// Other backups.
    Others,
    /// Nothing that anybody wants. It was not touched yet.
    Nothing,
}

fn remove_from(image: &Image, id: &str, image_id: Option<&str>) -> Result<Left> {
    let found = (!image.is_old()?).then(|| image.id()).transpose()?;
    if found.as_deref() != image_id {
        // It is gone already, and this is a new one of that name.
        return Ok(Left::Others);
    }
    if image.watchers()? > 1 {
        return Ok(Left::InUse);
    }
    match image.lock() {
        Err(e) if e.kind() == Kind::Dependents => return Ok(Left::InUse),
        // In a full pool, and in images without locks, that nobody has it open has to do.
        Err(e) if matches!(e.kind(), Kind::Unsupported | Kind::NoSpace) => {}
        other => other?,
    }
    if image.watchers()? > 1 {
        return Ok(Left::InUse);
    }
    let (snaps, notes) = (image.snaps()?, image.notes()?);
    let of = |snap: &Snap| SnapName::parse(&snap.name).map(|name| name.backup_id);
    let is_other = |snap: &&Snap| {
        of(snap).is_some_and(|other| other != id && !Note::of(&other, "", &notes).unfinished)
    };
    if snaps.iter().any(|snap| is_other(&snap)) {
        for snap in snaps.iter().filter(|snap| of(snap).as_deref() == Some(id)) {
            match image.remove_snap(&snap.name) {
                Err(e) if e.kind() == Kind::Dependents => return Ok(Left::InUse),
                other => other?,
            }
        }
        image.forget_note(&note_key(id))?;
        return Ok(Left::Others);
    }
    let foreign: Vec<&str> = snaps
        .iter()
        .filter(|snap| of(snap).is_none())
        .map(|snap| snap.name.as_str())
        .collect();
    if !foreign.is_empty() {
        let reason = format!(
            "its image {} has other snapshots: {}",
            image.name,
            foreign.join(", ")
        );
        let subject = format!("backup {id}");
        return Err(Error::new(Kind::Dependents, "delete", subject, reason)
            .advise("remove those first, with `rbd snap rm`"));
    }
    Ok(Left::Nothing)
}

/// Gives an image another name.
///
/// # Errors
/// `NotFound`; those of the cluster.
pub async fn rename(shared: &Shared, from: &str, to: &str) -> Result<()> {
    let session = &shared.session;
    let pool = session.pool().await?;
    let (old, new) = (from.to_owned(), to.to_owned());
    let rename = move || pool.rename_image(&old, &new);
    session
        .threads
        .run("rename the image", from, session.deadline(), rename)
        .await
}

/// Removes an image that no backup is in, with its snapshots. It may take as long as it goes
/// on. `false`: somebody has it open, and nothing was done.
///
/// # Errors
/// `Dependents` when somebody has opened it meanwhile; those of the cluster.
pub async fn clear_away(shared: &Shared, name: &str) -> Result<bool> {
    let session = &shared.session;
    let pool = session.pool().await?;
    let mut image = match Image::open_writable(&pool, name, session.deadline()).await {
        Err(e) if e.kind() == Kind::NotFound => return Ok(true),
        other => other?,
    };
    let started = tokio::time::Instant::now();
    loop {
        let clear = move || {
            if image.watchers()? > 1 {
                return Ok(Some(image));
            }
            for snap in image.snaps()? {
                image.remove_snap(&snap.name)?;
            }
            Ok(None)
        };
        let op = "remove the snapshots of the image";
        let run = session.threads.run(op, name, session.deadline(), clear);
        let Some(still) = run.await? else { break };
        if started.elapsed() >= CLOSING {
            return Ok(false);
        }
        image = still;
        tokio::time::sleep(LOOK).await;
    }
    let started = tokio::time::Instant::now();
    loop {
        let (within, image) = (Arc::clone(&pool), name.to_owned());
        let remove = move |pulse: &crate::task::Pulse| {
            within.remove_image(&image, || {
                let _ = pulse.beat();
            })
        };
        let removed = patiently(session.patience(), remove).await;
        let late = || timed_out("remove the image", name, session.deadline());
        match removed.unwrap_or_else(|| Err(late())) {
            Err(e) if e.kind() == Kind::NotFound => return Ok(true),
            Err(e) if e.kind() == Kind::Dependents && started.elapsed() < CLOSING => {
                tokio::time::sleep(LOOK).await;
            }
            other => return other.map(|()| true),
        }
    }
}
