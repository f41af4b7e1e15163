//! Which backups are being written, and on which parents: the one must not be built upon
//! yet, the other not be deleted.
//!
//! Other processes know it by the claims of the store. Who builds claims first and then
//! looks whether the parent is being deleted; who deletes claims first and then looks
//! whether anybody builds on it. So one of the two sees the other, and neither has to undo
//! what it has done: it might be ended before it could.

use super::Shared;
use super::parent::Parent;
use crate::config::Incremental;
use crate::driver::Basis;
use crate::error::{Error, Kind, Result};
use crate::store::{Claim, ObjectStore};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// How often another parent is chosen when somebody is just deleting one.
const TRIES: u32 = 16;

/// See the module's page.
#[derive(Debug, Default)]
pub struct Writing {
    /// Parents of the backups that are being written, by their ids.
    parents: Mutex<HashMap<String, Option<String>>>,
    /// Shared while a parent is chosen, alone while a backup is deleted: a child is begun
    /// before or after that.
    choosing: RwLock<()>,
}

/// One that is being written, until this is dropped.
#[derive(Debug)]
struct Entry {
    writing: Arc<Writing>,
    backup_id: String,
}

/// Says everywhere that a backup is being written, until it is dropped.
pub struct WritingSign {
    entry: Entry,
    _claim: Claim,
    on_parent: Option<Claim>,
}

/// Says to other processes that a backup is being deleted, until it is dropped. What is
/// without its metadata is no garbage meanwhile.
pub struct DeletingSign {
    _claims: [Claim; 2],
}

/// Says to other processes that a finished backup is being changed, until it is dropped:
/// whoever deletes it meanwhile would see it come back.
pub struct ChangingSign {
    _claim: Claim,
}

/// What is claimed by who builds on a backup, or changes it.
fn child_of(backup_id: &str) -> String {
    format!("{backup_id}.child")
}

/// What is claimed by who deletes a backup, beside the backup itself.
fn end_of(backup_id: &str) -> String {
    format!("{backup_id}.end")
}

impl WritingSign {
    /// A backup is begun, while [`Writing::choose`] is held. `None` when another process is
    /// deleting its parent, or has.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn begin(
        shared: &Shared,
        backup_id: &str,
        parent: Option<&Parent>,
    ) -> Result<Option<Self>> {
        let store = &shared.store;
        let parent_id = parent.map(|parent| parent.backup.id.as_str());
        let entry = shared.writing.begin(backup_id, parent_id);
        let claim = store.claim(backup_id).await?;
        let mut on_parent = None;
        if let Some(parent) = parent {
            let id = &parent.backup.id;
            on_parent = Some(store.claim(&child_of(id)).await?);
            if store.is_claimed(id).await? {
                return Ok(None);
            }
            let (container, metadata) = (&parent.name.container, parent.name.metadata());
            match store.stat(container, &metadata).await {
                Err(e) if e.kind() == Kind::NotFound => return Ok(None),
                other => other?,
            };
        }
        Ok(Some(Self {
            entry,
            _claim: claim,
            on_parent,
        }))
    }

    /// It is built on nothing any more: what it was built on may be deleted.
    pub fn stand_alone(&mut self) {
        let Entry { writing, backup_id } = &self.entry;
        if let Some(parent) = writing.lock().get_mut(backup_id) {
            *parent = None;
        }
        self.on_parent = None;
    }
}

impl ChangingSign {
    /// A backup is to be changed, while [`Writing::choose`] is held.
    ///
    /// # Errors
    /// `NotFound` when somebody is deleting it; those of the store.
    pub async fn begin(store: &dyn ObjectStore, backup_id: &str) -> Result<Self> {
        let claim = store.claim(&child_of(backup_id)).await?;
        if store.is_claimed(&end_of(backup_id)).await? {
            let subject = format!("backup {backup_id}");
            let reason = "another program is just deleting it";
            return Err(Error::new(Kind::NotFound, "change", subject, reason));
        }
        Ok(Self { _claim: claim })
    }
}

impl DeletingSign {
    /// A backup is to be deleted, while [`Writing::delete`] is held.
    ///
    /// # Errors
    /// `Dependents` when one that is being written is built on it; those of the store.
    pub async fn begin(shared: &Shared, backup_id: &str) -> Result<Self> {
        let refuse = |reason: String| {
            let subject = format!("backup {backup_id}");
            let error = Error::new(Kind::Dependents, "delete", subject, reason);
            Err(error.advise("wait until that is finished"))
        };
        if let Some(child) = shared.writing.child_of(backup_id) {
            let reason = format!("backup {child}, which is being written, is built on it");
            return refuse(reason);
        }
        let store = &shared.store;
        let mut claims = [Claim::default(), Claim::default()];
        for (claim, name) in claims.iter_mut().zip([backup_id, &end_of(backup_id)]) {
            *claim = match store.claim(name).await {
                // Who deletes in a full store makes room. Nobody begins anything there that
                // would have to see this.
                Err(e) if matches!(e.kind(), Kind::NoSpace | Kind::Quota) => {
                    tracing::debug!("backup {backup_id} is deleted without a sign: {e}");
                    Claim::default()
                }
                other => other?,
            };
        }
        if store.is_claimed(&child_of(backup_id)).await? {
            let reason = "a backup that another program is writing is built on it, or another \
                          program is changing it";
            return refuse(reason.to_owned());
        }
        Ok(Self { _claims: claims })
    }
}

impl Writing {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Option<String>>> {
        self.parents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// While this is held, nothing is deleted, and a parent may be chosen.
    pub async fn choose(&self) -> RwLockReadGuard<'_, ()> {
        self.choosing.read().await
    }

    /// While this is held, nobody chooses a parent, and a backup may be deleted.
    pub async fn delete(&self) -> RwLockWriteGuard<'_, ()> {
        self.choosing.write().await
    }

    /// A backup is begun.
    fn begin(self: &Arc<Self>, backup_id: &str, parent_id: Option<&str>) -> Entry {
        let parent = parent_id.map(str::to_owned);
        self.lock().insert(backup_id.to_owned(), parent);
        Entry {
            writing: Arc::clone(self),
            backup_id: backup_id.to_owned(),
        }
    }

    /// Whether this backup is being written.
    pub fn holds(&self, backup_id: &str) -> bool {
        self.lock().contains_key(backup_id)
    }

    /// One that is being written and built on this backup.
    fn child_of(&self, backup_id: &str) -> Option<String> {
        let parents = self.lock();
        let mut children = parents
            .iter()
            .filter(|(_, parent)| parent.as_deref() == Some(backup_id));
        children.next().map(|(child, _)| child.clone())
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.writing.lock().remove(&self.backup_id);
    }
}

/// Chooses a parent, where there is to be one, and says that it is built on.
///
/// # Errors
/// `Invalid` when there must be one and none is fit; those of the store.
pub async fn begin(
    shared: &Shared,
    backup_id: &str,
    volume_id: &str,
    basis: Basis,
) -> Result<(Option<Parent>, WritingSign)> {
    let _choosing = shared.writing.choose().await;
    for _ in 0..TRIES {
        let parent = match basis {
            Basis::Full => None,
            Basis::Newest => Some(Parent::newest(shared, volume_id).await?),
            Basis::Configured => match shared.options.incremental {
                Incremental::Never => None,
                Incremental::Auto => parent_if_fit(shared, volume_id).await?,
            },
        };
        if let Some(sign) = WritingSign::begin(shared, backup_id, parent.as_ref()).await? {
            return Ok((parent, sign));
        }
    }
    let subject = format!("volume {volume_id} incrementally");
    let reason = "each backup that it could be built on was just being deleted";
    Err(Error::new(Kind::Unavailable, "back up", subject, reason).advise("try again"))
}

/// The parent that the option `incremental = auto` finds.
async fn parent_if_fit(shared: &Shared, volume_id: &str) -> Result<Option<Parent>> {
    match Parent::newest(shared, volume_id).await {
        Ok(parent) => {
            let most = shared.options.max_chain;
            Ok(Some(parent).filter(|parent| most.is_none_or(|most| parent.backup.depth < most)))
        }
        Err(e) if e.kind() == Kind::Invalid => {
            tracing::debug!("a full backup is made: {e}");
            Ok(None)
        }
        Err(e) => Err(e),
    }
}
