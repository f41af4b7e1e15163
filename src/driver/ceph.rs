//! Cinder's ceph driver: backups are RBD images, and snapshots of them, in a pool of a Ceph
//! cluster.
//!
//! Ceph's own libraries do the work, for nothing else is safe: images have locks, object maps
//! and journals that every writer must keep. They are loaded when a backend of this driver is
//! first asked for something, so that the program needs them for nothing else. (The crate
//! `rados`, 0.1.4 being the newest, which would need none, completed no operation on objects
//! of Ceph 16.2.15, and does not read snapshots.)

mod catalog;
mod changes;
mod cinders;
mod cluster;
mod completion;
mod content;
mod delete;
mod diff;
mod failure;
mod garbage;
mod head;
mod image;
mod library;
mod object;
mod parent;
mod publish;
mod reading;
mod session;
mod source;
mod summary;
mod target;
mod threads;
mod update;
mod verify;
mod witness;
mod write;
mod writer;
mod writing;

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
use changes::Side;
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
use write::Making;
use writer::RbdSink;
use writing::Writing;

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

/// What is written at a time, in bytes, at least and at most: a chunk is kept in memory
/// until it is stored.
const CHUNKS: [u64; 2] = [64 << 10, 8 << 20];

/// What a driver and its backups in the making both need.
struct Shared {
    session: Arc<Session>,
    catalog: Arc<Catalog>,
    writing: Arc<Writing>,
    making: Making,
    /// How much is stored at a time, in bytes.
    chunk_size: u64,
    /// What becomes of a new backup of which nobody says what it is to be.
    incremental: config::Incremental,
    /// How many backups such a one may be built on.
    max_chain: Option<u32>,
    /// Nothing may be deleted.
    append_only: bool,
}

/// Cinder's is larger than we need, and may be any number.
fn chunk_size(configured: u64) -> u64 {
    let [least, most] = CHUNKS;
    configured.clamp(least, most) / 4096 * 4096
}

/// The driver of Cinder's `CephBackupDriver`.
pub struct CephDriver {
    shared: Arc<Shared>,
    request_timeout: Duration,
    budget: Arc<Budget>,
    /// Where backups have data, by their keys: a snapshot never changes.
    maps: Mutex<LruCache<u128, Arc<[Range<u64>]>>>,
}

impl CephDriver {
    /// A driver; the cluster is asked when it is first needed.
    pub fn new(options: &config::Ceph, common: &config::Common, resources: &Resources) -> Self {
        let session = Arc::new(Session::new(Access::of(options), &options.pool));
        let catalog = Arc::new(Catalog::new(&session, common.list_ttl));
        let shared = Shared {
            session,
            catalog,
            writing: Arc::default(),
            making: Making {
                striping: options.striping,
                journals: options.journals,
            },
            chunk_size: chunk_size(options.chunk_size),
            incremental: common.incremental,
            max_chain: common.max_chain,
            append_only: common.append_only,
        };
        Self {
            shared: Arc::new(shared),
            request_timeout: options.request_timeout,
            budget: Arc::clone(&resources.budget),
            maps: Mutex::new(LruCache::new(MAPS_KEPT)),
        }
    }

    async fn content(&self, found: Found) -> Result<RbdContent> {
        let Found { backup, place } = found;
        let pool = self.shared.session.pool().await?;
        let deadline = self.shared.session.deadline();
        let snap = place.snap.as_ref().map(|snap| &*snap.name);
        let image = Image::open(&pool, &place.image, snap, deadline).await?;
        let image = Arc::new(image);
        check_identity(&image, &backup, &place)?;
        // That of the image may be rounded up.
        let size = backup.size;
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

    async fn side<'a>(&self, backup: &'a Backup) -> Result<Side<'a>> {
        let found = self.shared.catalog.find(backup).await?;
        let (snap, image_id) = (found.place.snap.clone(), found.place.image_id.clone());
        Ok(Side {
            backup,
            content: self.content(found).await?,
            image_id,
            snap,
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
        let threads = &self.shared.session.threads;
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
    if id == place.image_id && snap == place.snap && image.size()? >= backup.size {
        return Ok(());
    }
    let subject = format!("backup {}", backup.id);
    let reason = format!("the image {} has changed since it was listed", place.image);
    Err(Error::new(Kind::Unavailable, "open", subject, reason).advise("try again"))
}

impl Debug for CephDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "CephDriver over the pool {}",
            self.shared.session.pool_name()
        )
    }
}

#[async_trait]
impl BackupDriver for CephDriver {
    async fn volumes(&self) -> Result<Vec<String>> {
        self.shared.catalog.volumes().await
    }

    async fn backups(&self, volume_id: &str) -> Result<Vec<Arc<Backup>>> {
        self.shared.catalog.backups(volume_id).await
    }

    fn hidden(&self) -> Vec<String> {
        Vec::new()
    }

    fn trouble(&self) -> Option<Error> {
        self.shared.catalog.trouble()
    }

    async fn open(&self, backup: &Backup) -> Result<Arc<dyn Content>> {
        if let Some(fault) = &backup.fault {
            return Err(fault.clone());
        }
        let found = self.shared.catalog.find(backup).await?;
        Ok(Arc::new(self.content(found).await?))
    }

    async fn volume_metadata(&self, backup: &Backup) -> Result<Option<String>> {
        let pool = self.shared.session.pool().await?;
        let object = volume_metadata_object(&backup.id);
        match pool.read(&object, self.shared.session.deadline()).await {
            Ok(text) => Ok(Some(String::from_utf8_lossy(&text).into_owned())),
            Err(e) if e.kind() == Kind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn is_incremental(&self, basis: Basis) -> bool {
        match basis {
            Basis::Full => false,
            Basis::Newest => true,
            Basis::Configured => self.shared.incremental == config::Incremental::Auto,
        }
    }

    async fn create(&self, volume_id: &str, basis: Basis) -> Result<Arc<dyn BackupSink>> {
        Ok(RbdSink::new(&self.shared, volume_id, basis).await?)
    }

    async fn update(&self, backup: &Backup, change: Change) -> Result<Arc<Backup>> {
        update::update(&self.shared, backup, change).await
    }

    async fn delete(&self, backup: &Backup) -> Result<()> {
        delete::delete(&self.shared, backup).await
    }

    async fn withdraw(&self, backup: &Backup) -> Result<()> {
        delete::withdraw(&self.shared, backup).await
    }

    async fn space(&self) -> Result<Option<Space>> {
        let pool = self.shared.session.pool().await?;
        let deadline = self.shared.session.deadline();
        let ask = move || pool.cluster().space();
        let threads = &self.shared.session.threads;
        let space = threads
            .run("ask for the room in", "the cluster", deadline, ask)
            .await?;
        Ok(Some(space))
    }

    async fn verify(
        &self,
        backup: &Backup,
        percent: u8,
        progress: &dyn Progress,
    ) -> Result<Verdict> {
        if let Some(fault) = &backup.fault {
            progress.advance(backup.size);
            return Ok(Verdict {
                problems: vec![fault.to_string()],
                only_read: true,
                ..Verdict::default()
            });
        }
        let found = self.shared.catalog.find(backup).await?;
        let content = self.content(found).await?;
        let (image, id) = (Arc::clone(&content.image), backup.id.clone());
        let subject = format!("backup {id}");
        let inspect = move || verify::inspect(&image, &id);
        let deadline = self.shared.session.deadline();
        let threads = &self.shared.session.threads;
        let seen = threads.run("check", &subject, deadline, inspect).await?;
        let patience = self.request_timeout;
        let mut verdict = verify::verify(&content, backup, percent, progress, patience).await?;
        verdict.problems.splice(0..0, seen);
        Ok(verdict)
    }

    async fn garbage(&self, age: Duration) -> Result<Vec<Garbage>> {
        garbage::garbage(&self.shared, age).await
    }

    async fn sweep(&self, garbage: &Garbage) -> Result<bool> {
        garbage::sweep(&self.shared, garbage).await
    }

    async fn changes(&self, from: &Backup, to: &Backup) -> Result<Vec<Range<u64>>> {
        changes::check(from, to)?;
        let (from, to) = (self.side(from).await?, self.side(to).await?);
        changes::changes(&self.shared.session, from, to).await
    }
}
