//! Which backups this process is writing, and on which parents: the one must not be built
//! upon yet, the other not be deleted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

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
pub struct Entry {
    writing: Arc<Writing>,
    backup_id: String,
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
    pub fn begin(self: &Arc<Self>, backup_id: &str, parent_id: Option<&str>) -> Entry {
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
    pub fn child_of(&self, backup_id: &str) -> Option<String> {
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
