//! What a backup driver is: it lists the backups of one backend, opens them for
//! reading, takes new ones and removes old ones.
//!
//! A driver knows Cinder's way of keeping backups in one kind of store. It must not
//! know file names, inodes or anything else of the tree that a user sees. To add one:
//! a module here and a line in [`build`].

mod ceph;
mod check;
pub mod chunked;
mod content;
mod dependents;
mod original;
mod quota;
mod record;
mod sink;
mod tsm;

pub use ceph::{Access as RbdAccess, RbdName, RbdOriginal, RbdSource};
pub use check::{Garbage, GarbageKind, Progress, Verdict};
pub use chunked::{digests, is_zero};
pub use content::{Block, BlockKey, BlockSink, Content, Place, Prepared, Source};
pub use original::Original;
pub use sink::{BackupSink, ChunkData, Description, Sieve, Sieved};

use crate::budget::Budget;
use crate::config;
use crate::error::{Error, Result};
pub use crate::format::{Digest, Record, Timestamp};
pub use crate::store::Space;
use async_trait::async_trait;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt::Debug;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// One finished backup, as a listing knows it.
#[derive(Debug, Clone)]
pub struct Backup {
    /// The backup's id.
    pub id: String,
    /// The volume that was backed up.
    pub volume_id: String,
    /// The backup that this one is an increment on.
    pub parent_id: Option<String>,
    /// The user's name for it.
    pub name: Option<String>,
    /// The name is that of the file which was written: it is shown as it is.
    pub written_as_file: bool,
    /// The user's words on it.
    pub description: Option<String>,
    /// When it was made.
    pub created_at: Option<Timestamp>,
    /// Modification time, where a program set one.
    pub modified: Option<SystemTime>,
    /// Size of the whole image in bytes.
    pub size: u64,
    /// Bytes of the image that are not known to be zero; `None` until that is known.
    pub data_bytes: Option<u64>,
    /// Bytes that its own objects take in the store, where that is known.
    pub stored_bytes: Option<u64>,
    /// How often its content was replaced by whoever wrote it: only of one generation is
    /// it always the same.
    pub generation: u64,
    /// Number of its own chunks.
    pub object_count: u64,
    /// The codecs of its chunks, as Cinder spells them, joined by commas.
    pub compression: String,
    /// How many backups it is built on: 0 for a full one.
    pub depth: u32,
    /// Class path of the Cinder driver that restores it.
    pub service: &'static str,
    /// Cinder's `container`.
    pub container: String,
    /// Cinder's `service_metadata`.
    pub service_metadata: String,
    /// Why it cannot be read, when it cannot: it is listed all the same.
    pub fault: Option<Error>,
}

impl Backup {
    /// What a file system shows as the time of last modification.
    pub fn modified_at(&self) -> SystemTime {
        self.modified
            .or(self.created_at.map(Timestamp::to_system))
            .unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

/// What can be changed of a finished backup. `None` leaves it as it is.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// A new name, that of a file.
    pub name: Option<String>,
    /// A new description; the inner `None` removes it.
    pub description: Option<Option<String>>,
    /// A new modification time.
    pub modified: Option<SystemTime>,
}

/// What a new backup is built on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// What the backend's option `incremental` says.
    Configured,
    /// Nothing: a full backup.
    Full,
    /// The newest backup of the volume that is fit to be a parent.
    Newest,
}

/// One backend.
#[async_trait]
pub trait BackupDriver: Send + Sync + Debug {
    /// Ids of all volumes that have a finished backup, sorted. Where it would cost too much
    /// to find out, there may be some among them that have none: objects of a backup that
    /// was never finished, or that somebody has just deleted.
    async fn volumes(&self) -> Result<Vec<String>>;

    /// Whether there is a volume of that id, as [`BackupDriver::volumes`] would list it.
    async fn has_volume(&self, volume_id: &str) -> Result<bool> {
        let volumes = self.volumes().await?;
        Ok(volumes.iter().any(|known| known == volume_id))
    }

    /// What has gone wrong with the store and is tried again just now.
    fn retried(&self) -> Option<Error> {
        None
    }

    /// The finished backups of a volume, in no particular order. May be as old as the
    /// backend's `list_ttl`, but what this driver itself changed shows at once.
    async fn backups(&self, volume_id: &str) -> Result<Vec<Arc<Backup>>>;

    /// Places in the store that we may not look into: backups there were missing from the
    /// last listing.
    fn hidden(&self) -> Vec<String>;

    /// Why listings are older than they should be: the store cannot be asked now.
    fn trouble(&self) -> Option<Error>;

    /// What Cinder knew of the volume, as it noted that beside the backup, where it is not a
    /// part of its metadata.
    ///
    /// # Errors
    /// Those of the store.
    async fn volume_metadata(&self, _backup: &Backup) -> Result<Option<String>> {
        Ok(None)
    }

    /// Opens a backup for reading: its chain is resolved here, once.
    async fn open(&self, backup: &Backup) -> Result<Arc<dyn Content>>;

    /// Whether a new backup on that basis may be built on one that is there.
    fn is_incremental(&self, basis: Basis) -> bool;

    /// Begins a new backup of a volume.
    ///
    /// # Errors
    /// `Invalid` for [`Basis::Newest`] when no backup is fit to be a parent, `Quota`,
    /// and those of the store.
    async fn create(&self, volume_id: &str, basis: Basis) -> Result<Arc<dyn BackupSink>>;

    /// Changes name, description or time of a backup, and gives it as it is then.
    async fn update(&self, backup: &Backup, change: Change) -> Result<Arc<Backup>>;

    /// Deletes a backup. `Dependents` while others build on it.
    async fn delete(&self, backup: &Backup) -> Result<()>;

    /// The same for one that is still being written to: it does not exist any more, but
    /// its [`BackupSink`] has its chunks until it discards them.
    async fn withdraw(&self, backup: &Backup) -> Result<()>;

    /// How much room there is, where the store can tell.
    async fn space(&self) -> Result<Option<Space>>;

    /// Checks all that can be checked of a backup, or of that many percent of its
    /// objects, taken at random. What is wrong with it is an answer. `progress` is told
    /// of as many bytes as its image has.
    ///
    /// # Errors
    /// Those of a store that cannot be asked.
    async fn verify(
        &self,
        backup: &Backup,
        percent: u8,
        progress: &dyn Progress,
    ) -> Result<Verdict>;

    /// What lies in the store, belongs to no finished backup, was not written to for at
    /// least `age`, and is not being written.
    async fn garbage(&self, age: Duration) -> Result<Vec<Garbage>>;

    /// Removes what [`BackupDriver::garbage`] has found, if it still is that. `false`: it
    /// is not, and nothing was removed.
    ///
    /// # Errors
    /// `Sealed` where nothing may be deleted; those of the store.
    async fn sweep(&self, garbage: &Garbage) -> Result<bool>;

    /// The ranges in which the image of `to` differs from that of `from`, in order and
    /// not adjoining, told without reading either: a range may be larger than what really
    /// differs, never smaller. Where one of them is longer, all that the other lacks
    /// differs.
    ///
    /// # Errors
    /// `Unsupported` when that cannot be told, `Invalid` for backups of two volumes, and
    /// the fault of a backup that has one.
    async fn changes(&self, from: &Backup, to: &Backup) -> Result<Vec<Range<u64>>>;
}

/// Sorts backups of a volume so that each comes before those that it is built on, and one
/// that does not tell what it is built on before all whose chains can be read.
pub fn leaves_first<T>(items: &mut [T], backup: impl Fn(&T) -> &Backup) {
    let parents: HashMap<String, Option<String>> = items
        .iter()
        .map(&backup)
        .map(|backup| (backup.id.clone(), backup.parent_id.clone()))
        .collect();
    let ancestors = |id: &str| {
        let (mut count, mut next) = (0usize, Some(id));
        while let Some(parent) = next.and_then(|id| parents.get(id)?.as_deref())
            && count < parents.len()
        {
            (count, next) = (count + 1, Some(parent));
        }
        count
    };
    items.sort_by_cached_key(|item| {
        let backup = backup(item);
        // What is built on one that cannot be read cannot be read either.
        let rank = match (&backup.fault, &backup.parent_id) {
            (Some(_), Some(_)) => 0,
            (Some(_), None) => 1,
            (None, _) => 2,
        };
        (rank, Reverse(ancestors(&backup.id)))
    });
}

/// What every driver is given to work with.
#[derive(Debug, Clone)]
pub struct Resources {
    /// The one memory budget.
    pub budget: Arc<Budget>,
    /// The folder for what does not fit into memory.
    pub spool_path: PathBuf,
}

/// The driver of a configured backend.
///
/// # Errors
/// When its store cannot be used as configured.
pub fn build(backend: &config::Backend, resources: &Resources) -> Result<Arc<dyn BackupDriver>> {
    let common = &backend.common;
    let driver: Arc<dyn BackupDriver> = match &backend.driver {
        config::Driver::Posix(options) => Arc::new(chunked::posix(options, common, resources)?),
        config::Driver::Share(options) => Arc::new(chunked::share(options, common, resources)?),
        config::Driver::Swift(options) => Arc::new(chunked::swift(options, common, resources)?),
        config::Driver::Ceph(options) => {
            Arc::new(ceph::CephDriver::new(options, common, resources))
        }
        config::Driver::Tsm(options) => Arc::new(tsm::TsmDriver::new(options, common)),
    };
    Ok(quota::LimitedDriver::wrap(driver, backend.common.quotas))
}
