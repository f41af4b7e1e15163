//! A backup in the making: chunks go straight to the head of an image, of which publishing
//! makes a snapshot.
//!
//! Whatever is stored is compared with what the head holds, and what differs is written: so
//! an increment takes no more than what has changed, whatever an earlier attempt has left in
//! the head. Lists of hashes, which the chunked drivers compare with, would save reading the
//! parent; but Cinder's backups have none here, and nothing would say that one of ours is
//! still that of the head, which others write to, too.

use super::Shared;
use super::image::Snap;
use super::parent::begin;
use super::target::Target;
use super::writing::Sign;
use crate::driver::{Backup, BackupSink, Basis, ChunkData, Description};
use crate::error::{Error, Kind, Result};
use crate::format::{BaseName, Timestamp};
use crate::task::blocking;
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};
use tokio::sync::Mutex;

/// See the module's page.
pub struct RbdSink {
    pub(super) shared: Arc<Shared>,
    /// What an image of its own is called.
    pub(super) name: BaseName,
    pub(super) backup_id: String,
    pub(super) created_at: Timestamp,
    parent: Option<Arc<Backup>>,
    /// It may become a full backup, where it cannot be an incremental one.
    may_be_full: bool,
    /// It was given up to be an incremental backup.
    on_its_own: AtomicBool,
    pub(super) state: Mutex<State>,
    /// `None` once nothing more is written.
    pub(super) target: StdMutex<Option<Target>>,
    /// Tells others that it is being written.
    sign: StdMutex<Option<Sign>>,
}

/// What has been written of a backup in the making.
#[derive(Default)]
pub(super) struct State {
    /// The lengths of the chunks that were stored.
    chunks: BTreeMap<u64, u64>,
    /// Chunks that could not be stored when it was last tried.
    lacking: BTreeSet<u64>,
    /// Chunks that may hold data of ours, stored or not.
    touched: BTreeSet<u64>,
    /// How often it was tried to publish it.
    pub(super) attempts: i64,
    /// What was published last.
    pub(super) published: Option<Published>,
    /// A snapshot was asked for, and may be made yet.
    pub(super) may_come_late: bool,
    /// It is being removed.
    pub(super) is_discarded: bool,
    /// The head was given back what others have in it: it is not that of this backup now.
    pub(super) is_away: bool,
    /// Somebody has deleted it while it was written.
    pub(super) is_withdrawn: bool,
}

/// What was published of a backup.
pub(super) struct Published {
    pub(super) snap: Snap,
    /// Size of the image, in bytes.
    pub(super) size: u64,
}

impl RbdSink {
    /// Begins a backup of a volume.
    ///
    /// # Errors
    /// `Invalid` when it cannot be built on anything and must; those of the cluster.
    pub async fn new(shared: &Arc<Shared>, volume_id: &str, basis: Basis) -> Result<Arc<Self>> {
        let backup_id = uuid::Uuid::new_v4().to_string();
        let name = BaseName {
            volume_id: volume_id.to_owned(),
            backup_id: Some(backup_id.clone()),
        };
        let (ground, sign) = begin(shared, &backup_id, volume_id, basis).await?;
        let (parent, target) = match ground {
            Some(ground) => (Some(ground.parent), ground.target),
            None => (None, Target::new(shared, &name).await?),
        };
        let before = parent.as_ref().and_then(|parent| parent.created_at);
        let sink = Arc::new(Self {
            shared: Arc::clone(shared),
            name,
            backup_id,
            created_at: Timestamp::now_after(before),
            parent,
            may_be_full: basis == Basis::Configured,
            on_its_own: AtomicBool::new(false),
            state: Mutex::default(),
            target: StdMutex::new(Some(target)),
            sign: StdMutex::new(None),
        });
        sign.name(&sink);
        *sink.sign() = Some(sign);
        Ok(sink)
    }

    fn sign(&self) -> MutexGuard<'_, Option<Sign>> {
        self.sign.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lock_target(&self) -> MutexGuard<'_, Option<Target>> {
        self.target.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The image that it is written to.
    ///
    /// # Errors
    /// `Sealed` when it is not being written any more.
    pub(super) fn target(&self) -> Result<Target> {
        self.lock_target().clone().ok_or_else(|| {
            let subject = format!("backup {}", self.backup_id);
            let reason = "a finished backup is a record and never changes";
            Error::new(Kind::Sealed, "write to", subject, reason)
        })
    }

    /// The parent, as long as it is to have one.
    pub(super) fn parent(&self) -> Option<&Arc<Backup>> {
        let is_alone = self.on_its_own.load(Ordering::Relaxed);
        self.parent.as_ref().filter(|_| !is_alone)
    }

    fn chunk(&self, index: u64) -> Range<u64> {
        let start = index.saturating_mul(self.shared.chunk_size);
        start..start.saturating_add(self.shared.chunk_size)
    }

    /// Makes the head that of this backup again, if it was given back to others.
    async fn come_back(&self, state: &mut State) -> Result<Target> {
        let mut target = self.target()?;
        if let Some(published) = state.published.as_ref().filter(|_| state.is_away) {
            let snap = &published.snap;
            if !target.is_own {
                let note = super::cinders::begin_change;
                let op = "write the metadata of the image";
                target.head.run(op, note).await?;
            }
            target.head.go_back_to(&target.image, snap).await?;
            target.set_data(target.head.data().await?);
            *self.lock_target() = Some(target.clone());
            state.is_away = false;
        }
        Ok(target)
    }

    /// Makes a chunk of the head what it is to be, with zeros behind the data.
    async fn write(&self, target: &Target, index: u64, data: ChunkData, blank: bool) -> Result<()> {
        let range = self.chunk(index);
        let end = range.start.saturating_add(data.len());
        let rest = match data {
            ChunkData::Zero(_) => range,
            // Whatever else is in it is there, for the head began as the parent.
            ChunkData::Sieved(sieved) => {
                for (at, run) in &sieved.runs {
                    let at = range.start.saturating_add(*at);
                    target.head.put(at, run.clone(), false).await?;
                }
                end..range.end
            }
            data => {
                let bytes = bytes_of(data).await?;
                target.head.put(range.start, bytes, blank).await?;
                end..range.end
            }
        };
        match blank {
            true => Ok(()),
            false => target.head.clear(rest).await,
        }
    }

    /// Makes zero what was never stored, and forgets what lies behind the end. Gives the
    /// image with all of it.
    pub(super) async fn complete(&self, state: &mut State, size: u64) -> Result<Target> {
        let target = self.come_back(state).await?;
        let chunk_size = self.shared.chunk_size;
        let count = size.div_ceil(chunk_size);
        state.chunks.split_off(&count);
        state.lacking.split_off(&count);
        let refuse = |reason: String| {
            let subject = format!("backup {}", self.backup_id);
            Err(Error::new(Kind::Invalid, "publish", subject, reason))
        };
        if let Some(index) = state.lacking.first() {
            return refuse(format!("chunk {index} could not be stored"));
        }
        for (index, length) in &state.chunks {
            let expected = chunk_size.min(size - index * chunk_size);
            if *length != expected {
                return refuse(format!(
                    "chunk {index} has {length} bytes instead of {expected}"
                ));
            }
        }
        let parent = self.parent().map(|parent| parent.size);
        let target = match parent.filter(|parent| size < *parent) {
            Some(parent) => self.give_up_parent(state, &target, size, parent).await?,
            None => target,
        };
        target.head.resize(super::head::whole_size(size)).await?;
        let touched = state.touched.iter().copied();
        let blanks: BTreeSet<u64> = touched
            .chain(target.chunks_with_data(chunk_size))
            .filter(|index| !state.chunks.contains_key(index))
            .collect();
        let blanks = blanks.into_iter().map(|index| self.chunk(index));
        target.head.clear_all(blanks).await?;
        Ok(target)
    }

    /// An image that is shorter than its parent's is no increment on it, as with the other
    /// drivers. What was stored goes to an image of its own.
    async fn give_up_parent(
        &self,
        state: &mut State,
        from: &Target,
        size: u64,
        parent: u64,
    ) -> Result<Target> {
        if !self.may_be_full || state.published.is_some() {
            let subject = format!("backup {} incrementally", self.backup_id);
            let published = match state.published {
                Some(_) => ", and it was published as an increment on that before",
                None => "",
            };
            let reason =
                format!("the image has {size} bytes, and that of its parent {parent}{published}");
            return Err(
                Error::new(Kind::Invalid, "publish", subject, reason).advise("make a full backup")
            );
        }
        tracing::info!(
            "backup {} becomes a full one: its image has {size} bytes, and that of its parent \
             {parent}",
            self.backup_id
        );
        let target = Target::new(&self.shared, &self.name).await?;
        for (index, length) in &state.chunks {
            let start = index * self.shared.chunk_size;
            let data = from.head.read(start..start + length).await?;
            target.head.put(start, data.into(), true).await?;
        }
        self.leave(from, state).await;
        state.is_away = false;
        state.touched = state.chunks.keys().copied().collect();
        self.on_its_own.store(true, Ordering::Relaxed);
        *self.lock_target() = Some(target.clone());
        Ok(target)
    }

    /// It is published in an image of its own: it is built on nothing any more.
    pub(super) fn stand_alone(&self, state: &mut State) {
        state.is_away = false;
        if let Some(sign) = self.sign().as_ref() {
            sign.stand_alone();
        }
    }
}

/// All of a chunk, in memory: chunks are small here.
async fn bytes_of(data: ChunkData) -> Result<Bytes> {
    if let ChunkData::Memory(bytes) = data {
        return Ok(bytes);
    }
    let read = move || {
        let mut bytes = vec![0; usize::try_from(data.len()).unwrap_or(0)];
        data.read_at(0, &mut bytes)?;
        Ok(bytes.into())
    };
    blocking(read).await
}

#[async_trait]
impl BackupSink for RbdSink {
    fn backup_id(&self) -> &str {
        &self.backup_id
    }

    fn chunk_size(&self) -> u64 {
        self.shared.chunk_size
    }

    fn parent_id(&self) -> Option<String> {
        self.parent().map(|parent| parent.id.clone())
    }

    fn takes_changed_ranges(&self) -> bool {
        self.parent().is_some()
    }

    fn admit_size(&self, _size: u64) -> Result<()> {
        Ok(())
    }

    async fn store(&self, index: u64, data: ChunkData) -> Result<()> {
        let (target, blank) = {
            let mut state = self.state.lock().await;
            let target = self.come_back(&mut state).await?;
            let may_hold = target.may_hold(&self.chunk(index));
            let blank = !may_hold && !state.touched.contains(&index);
            if !(blank && matches!(data, ChunkData::Zero(_))) {
                state.touched.insert(index);
            }
            (target, blank)
        };
        let length = data.len();
        let written = self.write(&target, index, data, blank).await;
        let mut state = self.state.lock().await;
        match &written {
            Ok(()) => {
                state.lacking.remove(&index);
                state.chunks.insert(index, length);
            }
            Err(_) => {
                state.lacking.insert(index);
            }
        }
        written
    }

    async fn load(&self, index: u64) -> Result<Option<ChunkData>> {
        let (target, length) = {
            let mut state = self.state.lock().await;
            let target = self.come_back(&mut state).await?;
            (target, state.chunks.get(&index).copied())
        };
        let Some(length) = length else {
            return Ok(None);
        };
        let start = self.chunk(index).start;
        let data = target.head.read(start..start + length).await?;
        Ok(Some(ChunkData::Memory(data.into())))
    }

    async fn remove(&self, index: u64) -> Result<()> {
        let mut state = self.state.lock().await;
        state.lacking.remove(&index);
        // It is made zero when that is published.
        state.chunks.remove(&index);
        Ok(())
    }

    async fn publish(&self, size: u64, description: &Description) -> Result<Arc<Backup>> {
        let mut state = self.state.lock().await;
        let target = self.complete(&mut state, size).await?;
        self.publish_complete(&mut state, target, size, description)
            .await
    }

    async fn revert(&self) -> Result<()> {
        let mut state = self.state.lock().await;
        let Some(Published { snap, size }) = &state.published else {
            return Ok(());
        };
        let target = self.target()?;
        self.clear_strays(&target, snap, *size).await?;
        if target.is_own {
            target.head.go_back_to(&target.image, snap).await?;
        } else {
            self.leave(&target, &mut state).await;
        }
        Ok(())
    }

    async fn discard(&self) -> Result<()> {
        let mut state = self.state.lock().await;
        let target = self.lock_target().take();
        let discarded = match target {
            Some(target) => self.discard_all(&mut state, target).await,
            None => Ok(()),
        };
        self.shared.catalog.changed(&self.name.volume_id).await;
        self.seal();
        discarded
    }

    fn seal(&self) {
        let (target, sign) = (self.lock_target().take(), self.sign().take());
        // In this order: who looks whether it is being written may build on it at once.
        drop(target);
        drop(sign);
    }
}
