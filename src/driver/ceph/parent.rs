//! What an incremental backup is built on: which backup that is, and the image that both are
//! to be snapshots of, open for writing.

use super::Shared;
use super::cinders::begin_change;
use super::failure::Deadline;
use super::head::Head;
use super::image::Image;
use super::summary::Found;
use super::target::Target;
use super::witness::leads_to;
use super::writing::Sign;
use crate::config::Incremental;
use crate::driver::dependents::no_parent;
use crate::driver::{Backup, Basis};
use crate::error::{Error, Kind, Result};
use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

/// Why a backup is not fit for the moment.
const IN_USE: &str = "is still being written, or being deleted";
/// A program that was ended at once counts as one that uses its images for half a minute.
const DYING: Duration = Duration::from_secs(35);
/// How long is waited before it is looked again whether an image is in use, at least and at
/// most.
const LOOK: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(1)];

/// A parent, and where the backup that is built on it is to be written.
pub struct Ground {
    pub parent: Arc<Backup>,
    pub target: Target,
}

/// Chooses a parent, where there is to be one, and opens its image.
///
/// # Errors
/// `Invalid` when there must be one and none is fit; `Dependents` while another program
/// writes to the image; those of the cluster.
pub async fn begin(
    shared: &Arc<Shared>,
    backup_id: &str,
    volume_id: &str,
    basis: Basis,
) -> Result<(Option<Ground>, Sign)> {
    let alone = |ground: Option<Ground>| {
        let sign = shared.writing.begin(backup_id, None, None);
        let sign = sign.ok_or_else(|| taken(volume_id))?;
        Ok((ground, sign))
    };
    let is_configured = basis == Basis::Configured;
    let wants_parent = match basis {
        Basis::Full => false,
        Basis::Newest => true,
        Basis::Configured => shared.incremental == Incremental::Auto,
    };
    if !wants_parent {
        return alone(None);
    }
    let (parent, sign) = {
        let _choosing = shared.writing.choose().await;
        let parent = match newest(shared, volume_id).await {
            Err(e) if e.kind() == Kind::Invalid && is_configured => {
                tracing::debug!("a full backup is made: {e}");
                return alone(None);
            }
            other => other?,
        };
        let most = shared.max_chain.filter(|_| is_configured);
        if most.is_some_and(|most| parent.backup.depth >= most) {
            return alone(None);
        }
        let base = Some(&*parent.place.image);
        let sign = shared
            .writing
            .begin(backup_id, Some(&parent.backup.id), base);
        (parent, sign.ok_or_else(|| taken(volume_id))?)
    };
    match open(shared, volume_id, &parent).await {
        Ok(target) => {
            let parent = parent.backup;
            Ok((Some(Ground { parent, target }), sign))
        }
        Err(e) if matches!(e.kind(), Kind::Dependents | Kind::Invalid) && is_configured => {
            tracing::info!("a full backup is made: {e}");
            sign.stand_alone();
            Ok((None, sign))
        }
        Err(e) => Err(e),
    }
}

fn deleted(parent: &str, image: &str) -> Error {
    let reason = format!("its parent {parent} was deleted from the image {image}");
    Error::new(Kind::Unavailable, "write", "a backup", reason).advise("write it once more")
}

fn without_lock(image: &str) -> Error {
    let reason = "it was made without exclusive-lock, and Cinder could write to it meanwhile";
    let subject = format!("the image {image} incrementally");
    Error::new(Kind::Invalid, "write to", subject, reason).advise(
        "make a full backup, or `rbd feature enable POOL/IMAGE exclusive-lock` for that image",
    )
}

fn taken(volume_id: &str) -> Error {
    let subject = format!("volume {volume_id} incrementally");
    let reason = "another backup of it is being written to the same image";
    Error::new(Kind::Dependents, "back up", subject, reason)
        .advise("wait until that is finished, or make a full backup")
}

/// The newest backup of a volume that is fit to be a parent, as Cinder chooses it.
async fn newest(shared: &Shared, volume_id: &str) -> Result<Found> {
    // What another program has just written counts, too.
    let mut found = shared.catalog.found_now(volume_id).await?;
    // Of two that are of the same moment, the one that is built on the other is newer.
    found.sort_by_key(|found| Reverse((found.backup.created_at, found.backup.depth)));
    let mut reasons = Vec::new();
    let mut advice = "make a full backup";
    for found in found {
        let Some(reason) = unfit(shared, &found) else {
            if !reasons.is_empty() {
                let passed = reasons.join("; ");
                tracing::warn!("backup {} becomes a parent: {passed}", found.backup.id);
            }
            return Ok(found);
        };
        if reason == IN_USE {
            advice = "wait until it is finished, which takes ten seconds from the last close, or \
                      make a full backup";
        }
        reasons.push(format!("{} {reason}", found.backup.id));
    }
    Err(no_parent(volume_id, reasons, advice))
}

/// Why a backup cannot be a parent.
fn unfit(shared: &Shared, found: &Found) -> Option<String> {
    let Found { backup, place } = found;
    if let Some(fault) = &backup.fault {
        return Some(format!("is damaged ({fault})"));
    }
    if shared.writing.holds(&backup.id) || shared.writing.holds_base(&place.image) {
        return Some(IN_USE.to_owned());
    }
    match place.snap {
        Some(_) => None,
        None => Some("is an image without a snapshot, as of a volume outside Ceph".to_owned()),
    }
}

/// Opens the parent's image for writing, and locks it. Nobody else may have it open: Cinder
/// would give the lock away in the middle of what it writes.
async fn open(shared: &Arc<Shared>, volume_id: &str, parent: &Found) -> Result<Target> {
    let session = &shared.session;
    let pool = session.pool().await?;
    let name = &parent.place.image;
    let patience = session.patience().min(DYING);
    let until = Deadline::after(patience);
    let busy = || {
        let subject = format!("volume {volume_id} incrementally");
        let reason = format!(
            "another program has the image {name} open for writing, or was ended while it had"
        );
        Error::new(Kind::Dependents, "back up", subject, reason)
            .advise("see `rbd status` for who that is; try again, or make a full backup")
    };
    let mut pause = LOOK[0];
    loop {
        // Only to look: who waits must not keep others waiting.
        let image = Image::open(&pool, name, None, session.deadline()).await?;
        let look = move || image.is_watched();
        let run = session
            .threads
            .run("see who uses the image", name, session.deadline(), look);
        if !run.await? {
            let image = Image::open_writable(&pool, name, session.deadline()).await?;
            let snap = parent.place.snap.clone();
            let id = parent.place.image_id.clone();
            let (backup, label) = (parent.backup.id.clone(), name.clone());
            let take = move || {
                if image.watchers()? > 1 {
                    return Ok(None);
                }
                match image.lock() {
                    // Cinder does not look whether somebody has it open: only a lock keeps it out.
                    Err(e) if e.kind() == Kind::Unsupported => return Err(without_lock(&label)),
                    Err(e) if e.kind() == Kind::Dependents => return Ok(None),
                    other => other?,
                }
                let snaps = image.snaps()?;
                let is_there = snap.is_some_and(|snap| snaps.contains(&snap));
                let found = (!image.is_old()?).then(|| image.id()).transpose()?;
                if !is_there || found != id {
                    return Err(deleted(&backup, &label));
                }
                begin_change(&image)?;
                let size = image.size()?;
                Ok(Some((image, size)))
            };
            let run = session
                .threads
                .run("lock the image", name, session.deadline(), take);
            if let Some((image, size)) = run.await? {
                // Who has deleted its last backup meanwhile has given it another name.
                let id = parent.place.image_id.as_deref();
                if !leads_to(&pool, name, id, session.deadline()).await? {
                    return Err(deleted(&parent.backup.id, name));
                }
                let head = Head::new(session, Arc::new(image), size);
                // An attempt that was not finished may have left something else there.
                if let Some(snap) = &parent.place.snap {
                    head.go_back_to(name, snap).await?;
                }
                let image_id = parent.place.image_id.clone();
                let data = head.data().await?;
                return Ok(Target::of_others(head, name, image_id, data));
            }
        }
        if tokio::time::timeout_at(until.at(), tokio::time::sleep(pause))
            .await
            .is_err()
        {
            return Err(busy());
        }
        pause = (pause * 2).min(LOOK[1]);
    }
}
