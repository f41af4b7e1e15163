//! Which backups this program is writing, and on which parents: the one must not be built
//! upon yet, the other not be deleted. Other programs see that an image is in use, for it is
//! open for writing.

use super::writer::RbdSink;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::{
    Mutex as AsyncMutex, MutexGuard as AsyncGuard, RwLock, RwLockReadGuard, RwLockWriteGuard,
};

/// See the module's page.
#[derive(Default)]
pub struct Writing {
    entries: Mutex<HashMap<String, Entry>>,
    /// Shared while a parent is chosen, alone while a backup is deleted: a child is begun
    /// before or after that.
    choosing: RwLock<()>,
    /// One change of what is said of backups at a time.
    changing: AsyncMutex<()>,
}

struct Entry {
    parent: Option<String>,
    /// The image whose head it is written to, where others are in it, too.
    base: Option<String>,
    sink: Weak<RbdSink>,
}

/// Says that a backup is being written, until it is dropped.
pub struct Sign {
    writing: Arc<Writing>,
    backup_id: String,
}

impl Writing {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// While this is held, nothing is deleted, and a parent may be chosen.
    pub async fn choose(&self) -> RwLockReadGuard<'_, ()> {
        self.choosing.read().await
    }

    /// While this is held, nobody chooses a parent, and a backup may be deleted.
    pub async fn delete(&self) -> RwLockWriteGuard<'_, ()> {
        self.choosing.write().await
    }

    /// While this is held, nobody else changes what is said of backups.
    pub async fn change(&self) -> AsyncGuard<'_, ()> {
        self.changing.lock().await
    }

    /// A backup is begun. `None` when another one is being written to the same image.
    pub fn begin(
        self: &Arc<Self>,
        backup_id: &str,
        parent: Option<&str>,
        base: Option<&str>,
    ) -> Option<Sign> {
        let mut entries = self.lock();
        let is_taken = |entry: &Entry| base.is_some() && entry.base.as_deref() == base;
        if entries.values().any(is_taken) {
            return None;
        }
        let entry = Entry {
            parent: parent.map(str::to_owned),
            base: base.map(str::to_owned),
            sink: Weak::new(),
        };
        entries.insert(backup_id.to_owned(), entry);
        Some(Sign {
            writing: Arc::clone(self),
            backup_id: backup_id.to_owned(),
        })
    }

    /// Who writes this backup, if somebody does.
    pub fn sink_of(&self, backup_id: &str) -> Option<Arc<RbdSink>> {
        self.lock().get(backup_id)?.sink.upgrade()
    }

    /// Whether this backup is being written.
    pub fn holds(&self, backup_id: &str) -> bool {
        self.lock().contains_key(backup_id)
    }

    /// Whether somebody writes to the head of this image, of which others are part.
    pub fn holds_base(&self, image: &str) -> bool {
        let is_it = |entry: &Entry| entry.base.as_deref() == Some(image);
        self.lock().values().any(is_it)
    }

    /// Whether somebody here has this image open for writing.
    pub fn writes_to(&self, image: &str) -> bool {
        let sinks = self.lock();
        let sinks: Vec<_> = sinks.values().map(|entry| entry.sink.clone()).collect();
        // Not while the entries are locked: the last one to have a sink removes its entry.
        let mut sinks = sinks.iter().filter_map(Weak::upgrade);
        sinks.any(|sink| sink.target().is_ok_and(|target| target.image == image))
    }

    /// One that is being written and built on this backup.
    pub fn child_of(&self, backup_id: &str) -> Option<String> {
        let entries = self.lock();
        let mut children = entries
            .iter()
            .filter(|(_, entry)| entry.parent.as_deref() == Some(backup_id));
        children.next().map(|(child, _)| child.clone())
    }
}

impl Sign {
    /// This is who writes it.
    pub fn name(&self, sink: &Arc<RbdSink>) {
        if let Some(entry) = self.writing.lock().get_mut(&self.backup_id) {
            entry.sink = Arc::downgrade(sink);
        }
    }

    /// It is built on nothing any more, and in an image of its own.
    pub fn stand_alone(&self) {
        if let Some(entry) = self.writing.lock().get_mut(&self.backup_id) {
            (entry.parent, entry.base) = (None, None);
        }
    }
}

impl Drop for Sign {
    fn drop(&mut self) {
        self.writing.lock().remove(&self.backup_id);
    }
}
