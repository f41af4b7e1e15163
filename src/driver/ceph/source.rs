//! An RBD image that is backed up: read at a snapshot, only where it has data, and, for an
//! incremental backup, only where it has changed since the snapshot that the parent was made
//! from.
//!
//! As Cinder does, who gives no snapshot gets one of the backup's name, which stays until the
//! next backup has been made: that one goes by what has changed since. It is called as Cinder
//! calls its own, so that Cinder removes it when it deletes the volume; how many digits its
//! time has tells the two apart, and only ours are removed here.

mod name;
mod original;
mod snapshot;

pub use name::RbdName;
pub use original::RbdOriginal;

use super::cluster::{Access, Pool};
use super::diff::in_order;
use super::failure::Deadline;
use super::image::{Image, Snap};
use super::session::Session;
use super::summary::Place;
use super::witness::Witness;
use crate::driver::Backup;
use crate::error::{Error, Kind, Result};
use crate::format::{SnapName, is_our_source_snapshot, source_snapshot};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};
use tokio::runtime::Handle;

/// What is being done, in messages.
const OP: &str = "back up";
/// For each so many bytes of an image, its cluster may take `request_timeout` once more to
/// tell where it has data.
const TOLD_AT_A_TIME: u64 = 64 << 30;
/// Why it is not known what has changed in a clone.
const UNTOLD: &str = "it is a clone, and no map of its objects (fast-diff) tells what has changed";

/// See the module's page.
#[derive(Debug)]
pub struct RbdSource {
    session: Arc<Session>,
    name: RbdName,
    /// For messages.
    user: String,
    patience: Duration,
}

impl RbdSource {
    /// An image; its cluster is asked when it is first needed.
    pub fn new(access: Access, name: RbdName) -> Self {
        Self {
            patience: access.request_timeout,
            user: access.user.clone(),
            session: Arc::new(Session::new(access, &name.pool)),
            name,
        }
    }

    /// What it is called.
    pub fn name(&self) -> &RbdName {
        &self.name
    }

    /// Its size now, in bytes.
    ///
    /// # Errors
    /// `NotFound`, and those of the cluster.
    pub async fn size(&self) -> Result<u64> {
        let pool = self.session.pool().await?;
        self.image(&pool, self.name.snap.as_deref()).await?.size()
    }

    async fn image(&self, pool: &Arc<Pool>, snap: Option<&str>) -> Result<Image> {
        let name = self.name.image.as_str();
        let missing = |reason: &str, advice: String| {
            Error::new(Kind::NotFound, OP, self.name.to_string(), reason).advise(advice)
        };
        let opened = Image::open(pool, name, snap, self.session.deadline()).await;
        let is_missing = |e: &Error| e.kind() == Kind::NotFound;
        match opened {
            Err(e) if is_missing(&e) && snap.is_none() => {
                let pool = &self.name.pool;
                let reason = format!("there is no image {name} in the pool {pool}");
                Err(missing(&reason, format!("see `rbd ls {pool}`")))
            }
            Err(e) if is_missing(&e) => {
                // It may be that there is no image at all.
                Box::pin(self.image(pool, None)).await?;
                let whole = format!("{}/{name}", self.name.pool);
                let reason = "it has no such snapshot";
                Err(missing(reason, format!("see `rbd snap ls {whole}`")))
            }
            opened => opened,
        }
    }

    /// Opens it for a backup of that id, which is to be an increment on `parent`: at the
    /// snapshot that it is named with, or at a new one.
    ///
    /// # Errors
    /// `Denied` when a snapshot has to be taken and may not, and those of the cluster. Then no
    /// snapshot is left.
    pub async fn open(&self, backup_id: &str, parent: Option<&Backup>) -> Result<RbdOriginal> {
        let pool = self.session.pool().await?;
        let (snap, own) = match &self.name.snap {
            Some(snap) => (snap.clone(), None),
            None => {
                let snap = source_snapshot(backup_id, SystemTime::now());
                self.take_snapshot(&pool, &snap).await?;
                (snap.clone(), Some(snap))
            }
        };
        let opened = self.open_at(&pool, &snap, parent, own.clone()).await;
        if let (Err(_), Some(own)) = (&opened, own) {
            self.forget(&own).await;
        }
        opened
    }

    async fn open_at(
        &self,
        pool: &Arc<Pool>,
        snap: &str,
        parent: Option<&Backup>,
        own: Option<String>,
    ) -> Result<RbdOriginal> {
        let image = Arc::new(self.image(pool, Some(snap)).await?);
        let snaps = image.snaps()?;
        let at = snaps.iter().find(|found| found.name == snap).cloned();
        let at = at.ok_or_else(|| {
            let reason = "its snapshot was removed just now";
            Error::new(Kind::Unavailable, OP, self.name.to_string(), reason)
        })?;
        let place = Place {
            image: self.name.image.clone(),
            image_id: (!image.is_old()?).then(|| image.id()).transpose()?,
            snap: Some(at.clone()),
        };
        let (since, note) = match parent.map(|parent| base(&snaps, &at, parent)) {
            None => (None, None),
            Some(Ok(since)) => (Some(since), None),
            Some(Err(reason)) => (None, Some(reason)),
        };
        let (since, note) = match since {
            None => (None, note),
            Some(since) => match self.telling(pool, &image, &snaps, &since, &at).await? {
                None => (None, Some(UNTOLD.to_owned())),
                Some(telling) => (Some((since, telling)), None),
            },
        };
        let size = image.size()?;
        let looked = Arc::clone(&image);
        let look = move || {
            let data = looked.differs(None, size)?;
            let changed = since.map(|(since, telling)| changes(&looked, &since, telling, size));
            Ok((data, changed.transpose()?))
        };
        let times = u32::try_from(size / TOLD_AT_A_TIME).unwrap_or(u32::MAX);
        let patience = self.patience.saturating_mul(times.saturating_add(1));
        let subject = self.name.to_string();
        let deadline = Deadline::after(patience);
        let threads = &self.session.threads;
        let (data, changed) = threads
            .run("find the holes of", &subject, deadline, look)
            .await?;
        Ok(RbdOriginal {
            witness: Witness::new(pool, subject.clone(), &place, self.patience),
            image,
            name: subject,
            size,
            data,
            changed,
            note,
            own,
            read: AtomicU64::new(0),
            runtime: Handle::current(),
        })
    }

    /// How the library tells what has changed between two snapshots; `None` when what it
    /// says is not to be relied on.
    async fn telling(
        &self,
        pool: &Arc<Pool>,
        image: &Image,
        snaps: &[Snap],
        since: &Snap,
        at: &Snap,
    ) -> Result<Option<Telling>> {
        let before = self.image(pool, Some(&since.name)).await?;
        // It may have become independent of its parent since.
        if before.overlap()?.max(image.overlap()?) == 0 {
            return Ok(Some(Telling::Exact));
        }
        let mut has_fast_diff = before.has_fast_diff()? && image.has_fast_diff()?;
        // One snapshot whose map is not valid, and the library goes without the maps.
        for snap in snaps.iter().filter(|s| since.id < s.id && s.id < at.id) {
            let between = self.image(pool, Some(&snap.name)).await?;
            has_fast_diff &= between.has_fast_diff()?;
        }
        Ok(has_fast_diff.then_some(Telling::WholeObjects))
    }

    /// The backup of `original` is complete: what is of use for the next one stays, and the
    /// snapshots of ours go that were of use for earlier ones, which `is_earlier` tells by
    /// their ids. What cannot be removed is said, and no failure.
    pub async fn keep(&self, original: &RbdOriginal, is_earlier: impl Fn(&str) -> bool) {
        let Some(own) = original.own() else {
            return;
        };
        let mut left = Vec::new();
        for Snap { name, .. } in original.snaps() {
            let parsed = SnapName::parse(&name).filter(|_| is_our_source_snapshot(&name));
            match parsed {
                Some(parsed) if name != own && is_earlier(&parsed.backup_id) => {
                    self.forget(&name).await;
                }
                Some(_) if name != own => left.push(name),
                _ => {}
            }
        }
        // They may be those of backups in another store: nobody but the user knows.
        if !left.is_empty() {
            let RbdName { pool, image, .. } = &self.name;
            tracing::warn!(
                "left on {pool}/{image} by backups that are gone, or are another backend's: {}; \
                 remove what is not needed with `rbd snap rm {pool}/{image}@NAME`",
                left.join(", ")
            );
        }
    }

    /// The backup of `original` has failed.
    pub async fn give_up(&self, original: &RbdOriginal) {
        if let Some(own) = original.own() {
            self.forget(own).await;
        }
    }

    async fn forget(&self, snap: &str) {
        if let Err(e) = self.remove_snapshot(snap).await {
            tracing::warn!("{e}; remove the snapshot with `rbd snap rm {}@{snap}`", {
                let RbdName { pool, image, .. } = &self.name;
                format!("{pool}/{image}")
            });
        }
    }
}

/// How the library tells what has changed between two snapshots.
#[derive(Debug, Clone, Copy)]
enum Telling {
    /// The parts of objects.
    Exact,
    /// The objects, of a clone. Of an object of which the clone had nothing, and all of which
    /// was discarded, libraries older than Ceph 16 do not tell that it no longer shows what
    /// the parent has, when they are asked for its parts.
    WholeObjects,
}

/// The snapshot that a backup was made from; or why what it has cannot be told by it.
fn base(snaps: &[Snap], at: &Snap, parent: &Backup) -> Result<Snap, String> {
    let is_it = |snap: &&Snap| {
        SnapName::parse(&snap.name).is_some_and(|parsed| parsed.backup_id == parent.id)
    };
    let found: Vec<&Snap> = snaps.iter().filter(is_it).collect();
    let parent_id = &parent.id;
    match found.as_slice() {
        [] => Err(format!(
            "it has no snapshot of backup {parent_id}, which this one is an increment on"
        )),
        [snap] if snap.id >= at.id => Err(format!(
            "its snapshot of backup {parent_id} is not older than {}",
            at.name
        )),
        [snap] if snap.size != parent.size => Err(format!(
            "its snapshot of backup {parent_id} has {} bytes, the backup has {}",
            snap.size, parent.size
        )),
        [snap] => Ok((*snap).clone()),
        _ => Err(format!(
            "it has several snapshots of backup {parent_id}, which this one is an increment on"
        )),
    }
}

/// Where an image differs from an earlier snapshot. What only one of the two has does, and
/// so does the last byte when they do not end at the same place: blocks that end there are
/// not of the same length.
fn changes(image: &Image, since: &Snap, telling: Telling, size: u64) -> Result<Vec<Range<u64>>> {
    let mut changed = match telling {
        Telling::Exact => image.differs(Some(&since.name), size)?,
        Telling::WholeObjects => image.changes(&since.name, 0..size, true)?,
    };
    if since.size != size {
        changed.push(since.size.min(size).saturating_sub(1)..size);
    }
    Ok(in_order(changed, size))
}
