//! Limits on how much a backend may hold, whatever its driver: Cinder's quotas, but for
//! a backend where Cinder has them for a project.
//!
//! Images count as Cinder counts them, in whole GiB, and those that are being written
//! with what is known of them by now.

use super::{
    Backup, BackupDriver, BackupSink, Basis, Change, ChunkData, Content, Description, Garbage,
    Progress, Sieve, Space, Verdict,
};
use crate::config::Quotas;
use crate::error::{Error, Kind, Result};
use async_trait::async_trait;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const GIB: u64 = 1 << 30;

/// A driver whose backend may hold so much and no more.
#[derive(Debug)]
pub struct LimitedDriver {
    inner: Arc<dyn BackupDriver>,
    ledger: Arc<Ledger>,
}

/// What is used, and by what.
#[derive(Debug)]
struct Ledger {
    quotas: Quotas,
    uses: Mutex<Uses>,
}

#[derive(Debug, Default)]
struct Uses {
    /// Finished backups, when they were counted last, and what was added since.
    finished: u64,
    gigabytes: u64,
    /// Those that are being written, by numbers of ours.
    writing: HashMap<u64, Writing>,
    next: u64,
    /// How many of those have ended.
    ended: u64,
}

#[derive(Debug, Default)]
struct Writing {
    backup_id: Option<String>,
    gigabytes: u64,
    published: bool,
}

/// The place of a backup that is being written.
#[derive(Debug)]
struct Place {
    ledger: Arc<Ledger>,
    number: u64,
}

fn gigabytes(size: u64) -> u64 {
    size.div_ceil(GIB)
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, Uses> {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one backup more.
    fn reserve(self: &Arc<Self>, volume_id: &str) -> Result<Place> {
        let mut uses = self.lock();
        let backups = uses.finished + uses.writing.len() as u64;
        let subject = || format!("volume {volume_id}");
        if let Some(most) = self.quotas.backups.filter(|most| backups >= *most) {
            let reason = format!("there are {backups} backups, and the quota is {most}");
            return Err(Error::new(Kind::Quota, "back up", subject(), reason)
                .advise("delete some, or raise quota_backups"));
        }
        let gigabytes = uses.all_gigabytes();
        if let Some(most) = self.quotas.gigabytes.filter(|most| gigabytes >= *most) {
            let reason = format!("{gigabytes} GiB are used, and the quota is {most}");
            return Err(Error::new(Kind::Quota, "back up", subject(), reason)
                .advise("delete some, or raise quota_backup_gigabytes"));
        }
        let number = uses.next;
        uses.next += 1;
        uses.writing.insert(number, Writing::default());
        drop(uses);
        Ok(Place {
            ledger: Arc::clone(self),
            number,
        })
    }
}

impl Uses {
    fn all_gigabytes(&self) -> u64 {
        let writing: u64 = self.writing.values().map(|one| one.gigabytes).sum();
        self.gigabytes.saturating_add(writing)
    }
}

impl Place {
    fn change(&self, change: impl FnOnce(&mut Writing)) {
        if let Some(writing) = self.ledger.lock().writing.get_mut(&self.number) {
            change(writing);
        }
    }

    /// The image is now of `size` bytes, or will be.
    fn admit(&self, size: u64) -> Result<()> {
        let mut uses = self.ledger.lock();
        let all = uses.all_gigabytes();
        let Some(own) = uses.writing.get_mut(&self.number) else {
            return Ok(());
        };
        let others = all.saturating_sub(own.gigabytes);
        let wanted = gigabytes(size);
        match self.ledger.quotas.gigabytes {
            Some(most) if others.saturating_add(wanted) > most => {
                let reason = format!(
                    "it needs {wanted} GiB beside {others} GiB of others, and the quota is {most}"
                );
                let subject = own.backup_id.clone().unwrap_or_default();
                Err(
                    Error::new(Kind::Quota, "write", format!("backup {subject}"), reason)
                        .advise("delete other backups, or raise quota_backup_gigabytes"),
                )
            }
            _ => {
                own.gigabytes = wanted;
                Ok(())
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut uses = self.ledger.lock();
        uses.ended += 1;
        if let Some(writing) = uses.writing.remove(&self.number)
            && writing.published
        {
            uses.finished += 1;
            uses.gigabytes += writing.gigabytes;
        }
    }
}

impl LimitedDriver {
    /// Limits a driver, if there is any limit.
    pub fn wrap(inner: Arc<dyn BackupDriver>, quotas: Quotas) -> Arc<dyn BackupDriver> {
        if quotas == Quotas::default() {
            return inner;
        }
        let uses = Mutex::default();
        Arc::new(Self {
            inner,
            ledger: Arc::new(Ledger { quotas, uses }),
        })
    }

    /// Counts what is there.
    async fn count(&self) -> Result<()> {
        loop {
            let ended = self.ledger.lock().ended;
            let mut all = Vec::new();
            for volume in self.inner.volumes().await? {
                all.extend(self.inner.backups(&volume).await?);
            }
            let mut uses = self.ledger.lock();
            if uses.ended != ended {
                // One that has ended since may be in neither.
                continue;
            }
            all.retain(|backup| {
                let is_it = |one: &Writing| one.backup_id.as_ref() == Some(&backup.id);
                !uses.writing.values().any(is_it)
            });
            uses.finished = all.len() as u64;
            uses.gigabytes = all.iter().map(|backup| gigabytes(backup.size)).sum();
            return Ok(());
        }
    }
}

#[async_trait]
impl BackupDriver for LimitedDriver {
    async fn volumes(&self) -> Result<Vec<String>> {
        self.inner.volumes().await
    }

    async fn has_volume(&self, volume_id: &str) -> Result<bool> {
        self.inner.has_volume(volume_id).await
    }

    fn retried(&self) -> Option<Error> {
        self.inner.retried()
    }

    async fn backups(&self, volume_id: &str) -> Result<Vec<Arc<Backup>>> {
        self.inner.backups(volume_id).await
    }

    fn hidden(&self) -> Vec<String> {
        self.inner.hidden()
    }

    fn trouble(&self) -> Option<Error> {
        self.inner.trouble()
    }

    async fn volume_metadata(&self, backup: &Backup) -> Result<Option<String>> {
        self.inner.volume_metadata(backup).await
    }

    async fn open(&self, backup: &Backup) -> Result<Arc<dyn Content>> {
        self.inner.open(backup).await
    }

    fn is_incremental(&self, basis: Basis) -> bool {
        self.inner.is_incremental(basis)
    }

    async fn create(&self, volume_id: &str, basis: Basis) -> Result<Arc<dyn BackupSink>> {
        self.count().await?;
        let place = self.ledger.reserve(volume_id)?;
        let inner = self.inner.create(volume_id, basis).await?;
        let backup_id = Some(inner.backup_id().to_owned());
        place.change(|writing| writing.backup_id = backup_id);
        Ok(Arc::new(LimitedSink {
            inner,
            place: Mutex::new(Some(place)),
        }))
    }

    async fn update(&self, backup: &Backup, change: Change) -> Result<Arc<Backup>> {
        self.inner.update(backup, change).await
    }

    async fn delete(&self, backup: &Backup) -> Result<()> {
        self.inner.delete(backup).await?;
        // One that is being written may need the room.
        if let Err(e) = self.count().await {
            tracing::warn!("what is used of the quota is counted later: {e}");
        }
        Ok(())
    }

    async fn withdraw(&self, backup: &Backup) -> Result<()> {
        self.inner.withdraw(backup).await
    }

    async fn space(&self) -> Result<Option<Space>> {
        let store = self.inner.space().await?;
        self.count().await?;
        let uses = self.ledger.lock();
        let Quotas { backups, gigabytes } = self.ledger.quotas;
        let files = backups.map(|most| {
            let used = uses.finished + uses.writing.len() as u64;
            (most, most.saturating_sub(used))
        });
        let limited = gigabytes.map(|most| {
            let free = most.saturating_sub(uses.all_gigabytes());
            (most.saturating_mul(GIB), free.saturating_mul(GIB))
        });
        Ok(match (limited, store) {
            (None, store) => store.map(|store| Space { files, ..store }),
            (Some((total, free)), store) => {
                let most = store.map_or(u64::MAX, |store| store.free);
                Some(Space {
                    total,
                    free: free.min(most),
                    files,
                })
            }
        })
    }

    async fn verify(
        &self,
        backup: &Backup,
        percent: u8,
        progress: &dyn Progress,
    ) -> Result<Verdict> {
        self.inner.verify(backup, percent, progress).await
    }

    async fn garbage(&self, age: Duration) -> Result<Vec<Garbage>> {
        self.inner.garbage(age).await
    }

    async fn sweep(&self, garbage: &Garbage) -> Result<bool> {
        self.inner.sweep(garbage).await
    }

    async fn changes(&self, from: &Backup, to: &Backup) -> Result<Vec<Range<u64>>> {
        self.inner.changes(from, to).await
    }
}

/// A backup in the making that has a place within the limits.
struct LimitedSink {
    inner: Arc<dyn BackupSink>,
    place: Mutex<Option<Place>>,
}

impl LimitedSink {
    fn place(&self) -> MutexGuard<'_, Option<Place>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl BackupSink for LimitedSink {
    fn backup_id(&self) -> &str {
        self.inner.backup_id()
    }

    fn chunk_size(&self) -> u64 {
        self.inner.chunk_size()
    }

    fn admit_size(&self, size: u64) -> Result<()> {
        self.inner.admit_size(size)?;
        self.place()
            .as_ref()
            .map_or(Ok(()), |place| place.admit(size))
    }

    async fn take_device(&self, device: &Path) -> Result<bool> {
        self.inner.take_device(device).await
    }

    fn parent_id(&self) -> Option<String> {
        self.inner.parent_id()
    }

    fn takes_changed_ranges(&self) -> bool {
        self.inner.takes_changed_ranges()
    }

    async fn sieve(&self, index: u64) -> Result<Option<Sieve>> {
        self.inner.sieve(index).await
    }

    async fn store(&self, index: u64, data: ChunkData) -> Result<()> {
        self.inner.store(index, data).await
    }

    async fn load(&self, index: u64) -> Result<Option<ChunkData>> {
        self.inner.load(index).await
    }

    async fn remove(&self, index: u64) -> Result<()> {
        self.inner.remove(index).await
    }

    async fn publish(&self, size: u64, description: &Description) -> Result<Arc<Backup>> {
        self.admit_size(size)?;
        let backup = self.inner.publish(size, description).await?;
        if let Some(place) = &*self.place() {
            place.change(|writing| writing.published = true);
        }
        Ok(backup)
    }

    async fn revert(&self) -> Result<()> {
        self.inner.revert().await
    }

    async fn discard(&self) -> Result<()> {
        self.inner.discard().await?;
        if let Some(place) = &*self.place() {
            place.change(|writing| writing.published = false);
        }
        self.seal();
        Ok(())
    }

    fn seal(&self) {
        self.inner.seal();
        let place = self.place().take();
        drop(place);
    }

    fn break_off(&self) {
        self.inner.break_off();
    }
}
