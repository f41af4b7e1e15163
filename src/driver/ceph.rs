//! Cinder's ceph driver: backups are RBD images, and snapshots of them, in a pool of a Ceph
//! cluster.
//!
//! Ceph's own libraries do the work, for nothing else is safe: images have locks, object maps
//! and journals that every writer must keep. They are loaded when a backend of this driver is
//! first asked for something, so that the program needs them for nothing else. (The crate
//! `rados`, 0.1.4 being the newest, which would need none, completed no operation on objects
//! of Ceph 16.2.15, and does not read snapshots.)

mod catalog;
mod cluster;
mod completion;
mod content;
mod diff;
mod failure;
mod image;
mod library;
mod object;
mod reading;
mod session;
mod source;
mod summary;
mod threads;
mod witness;

use super::{
    Backup, BackupDriver, BackupSink, Basis, Change, Content, Garbage, Progress, Resources, Space,
    Verdict,
};
use crate::budget::Budget;
use crate::config;
use crate::error::{Error, Kind, Result};
use crate::format::volume_metadata_object;
use async_trait::async_trait;
use catalog::Catalog;
pub use cluster::Access;
use content::RbdContent;
use failure::Deadline;
use image::Image;
use lru::LruCache;
use session::Session;
pub use source::{RbdName, RbdOriginal, RbdSource};
use std::fmt::{self, Debug};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use summary::{Found, Place, key_of};
use witness::Witness;

/// So many objects of an image are asked one by one how much they hold. With more it would
/// take long, and is told by which objects there are.
const MOST_ASKED: u64 = 512;
/// The size of an object by default, in bytes.
const OBJECT: u64 = 4 << 20;
/// Without a map of its objects, an image that could have more than these counts as full of
/// data: each would have to be asked for.
const MOST_WITHOUT_MAP: u64 = 16 << 10;
/// Backups whose holes are remembered.
const MAPS_KEPT: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// The driver of Cinder's `CephBackupDriver`.
pub struct CephDriver {
    session: Arc<Session>,
    catalog: Catalog,
    request_timeout: Duration,
    incremental: config::Incremental,
    budget: Arc<Budget>,
    /// Where backups have data, by their keys: a snapshot never changes.
    maps: Mutex<LruCache<u128, Arc<[Range<u64>]>>>,
}

impl CephDriver {
    /// A driver; the cluster is asked when it is first needed.
    pub fn new(options: &config::Ceph, common: &config::Common, resources: &Resources) -> Self {
        let session = Arc::new(Session::new(Access::of(options), &options.pool));
        Self {
            catalog: Catalog::new(&session, common.list_ttl),
            session,
            request_timeout: options.request_timeout,
            incremental: common.incremental,
            budget: Arc::clone(&resources.budget),
            maps: Mutex::new(LruCache::new(MAPS_KEPT)),
        }
    }

    async fn content(&self, found: Found) -> Result<RbdContent> {
        let Found { backup, place } = found;
        let pool = self.session.pool().await?;
        let deadline = self.session.deadline();
        let snap = place.snap.as_ref().map(|snap| &*snap.name);
        let image = Image::open(&pool, &place.image, snap, deadline).await?;
        let image = Arc::new(image);
        check_identity(&image, &backup, &place)?;
        let size = image.size()?;
        let key = key_of(&pool.cluster().fsid, pool.id, &place);
        let witness = Witness::new(
            &pool,
            format!("backup {}", backup.id),
            &place,
            self.request_timeout,
        );
        let known = self.lock_maps().get(&key).cloned();
        let data = match known {
            Some(data) if place.snap.is_some() => data,
            _ => {
                let data = self.map(&image, &backup, size, deadline).await?;
                // What tells of holes may be gone with the backup, too.
                witness.confirm().await?;
                self.lock_maps().put(key, Arc::clone(&data));
                data
            }
        };
        Ok(RbdContent {
            backup_id: backup.id.clone(),
            image,
            size,
            key,
            data,
            witness,
            patience: self.request_timeout,
            budget: Arc::clone(&self.budget),
        })
    }

    fn lock_maps(&self) -> std::sync::MutexGuard<'_, LruCache<u128, Arc<[Range<u64>]>>> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where an image has data.
    async fn map(
        &self,
        image: &Arc<Image>,
        backup: &Backup,
        size: u64,
        deadline: Deadline,
    ) -> Result<Arc<[Range<u64>]>> {
        let image = Arc::clone(image);
        let find = move || match image.has_fast_diff()? || size.div_ceil(OBJECT) <= MOST_WITHOUT_MAP
        {
            true => image.differs(None, size),
            false => Ok(std::iter::once(0..size).collect()),
        };
        let subject = format!("backup {}", backup.id);
        let threads = &self.session.threads;
        let data = threads
            .run("find the holes of", &subject, deadline, find)
            .await?;
        Ok(data.into())
    }
}

/// What is open must be what was listed: an image that was removed and made anew under the
/// same name is another one.
fn check_identity(image: &Image, backup: &Backup, place: &Place) -> Result<()> {
    let id = (!image.is_old()?).then(|| image.id()).transpose()?;
    let snap = match &place.snap {
        Some(snap) => image.snaps()?.into_iter().find(|found| found.id == snap.id),
        None => None,
    };
    if id == place.image_id && snap == place.snap && image.size()? == backup.size {
        return Ok(());
    }
    let subject = format!("backup {}", backup.id);
    let reason = format!("the image {} has changed since it was listed", place.image);
    Err(Error::new(Kind::Unavailable, "open", subject, reason).advise("try again"))
}

fn unsupported<T>(op: &'static str, subject: impl Into<String>) -> Result<T> {
    let reason = "backends of the driver ceph can only be read for now";
    Err(Error::new(Kind::Unsupported, op, subject, reason)
        .advise("do it with Cinder, or with another backend"))
}

impl Debug for CephDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CephDriver over the pool {}", self.session.pool_name())
    }
}

#[async_trait]
impl BackupDriver for CephDriver {
    async fn volumes(&self) -> Result<Vec<String>> {
        self.catalog.volumes().await
    }

    async fn backups(&self, volume_id: &str) -> Result<Vec<Arc<Backup>>> {
        self.catalog.backups(volume_id).await
    }

    fn hidden(&self) -> Vec<String> {
        Vec::new()
    }

    fn trouble(&self) -> Option<Error> {
        self.catalog.trouble()
    }

    async fn open(&self, backup: &Backup) -> Result<Arc<dyn Content>> {
        if let Some(fault) = &backup.fault {
            return Err(fault.clone());
        }
        let found = self.catalog.find(backup).await?;
        Ok(Arc::new(self.content(found).await?))
    }

    async fn volume_metadata(&self, backup: &Backup) -> Result<Option<String>> {
        let pool = self.session.pool().await?;
        let object = volume_metadata_object(&backup.id);
        match pool.read(&object, self.session.deadline()).await {
            Ok(text) => Ok(Some(String::from_utf8_lossy(&text).into_owned())),
            Err(e) if e.kind() == Kind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn is_incremental(&self, basis: Basis) -> bool {
        match basis {
            Basis::Full => false,
            Basis::Newest => true,
            Basis::Configured => self.incremental == config::Incremental::Auto,
        }
    }

    async fn create(&self, volume_id: &str, _basis: Basis) -> Result<Arc<dyn BackupSink>> {
        unsupported("back up", format!("volume {volume_id}"))
    }

    async fn update(&self, backup: &Backup, _change: Change) -> Result<Arc<Backup>> {
        unsupported("change", format!("backup {}", backup.id))
    }

    async fn delete(&self, backup: &Backup) -> Result<()> {
        unsupported("delete", format!("backup {}", backup.id))
    }

    async fn withdraw(&self, backup: &Backup) -> Result<()> {
        unsupported("delete", format!("backup {}", backup.id))
    }

    async fn space(&self) -> Result<Option<Space>> {
        let pool = self.session.pool().await?;
        let deadline = self.session.deadline();
        let ask = move || pool.cluster().space();
        let threads = &self.session.threads;
        let space = threads
            .run("ask for the room in", "the cluster", deadline, ask)
            .await?;
        Ok(Some(space))
    }

    async fn verify(
        &self,
        backup: &Backup,
        _percent: u8,
        _progress: &dyn Progress,
    ) -> Result<Verdict> {
        unsupported("check", format!("backup {}", backup.id))
    }

    async fn garbage(&self, _age: Duration) -> Result<Vec<Garbage>> {
        unsupported("look for left-overs in", self.session.pool_name())
    }

    async fn sweep(&self, _garbage: &Garbage) -> Result<bool> {
        unsupported("remove left-overs from", self.session.pool_name())
    }

    async fn changes(&self, _from: &Backup, to: &Backup) -> Result<Vec<Range<u64>>> {
        unsupported("compare", format!("backup {}", to.id))
    }
}
