//! The tree that a user sees: names, folders, files and what operations on them mean.
//!
//! It speaks POSIX (inodes, handles, attributes) and must know neither FUSE's types nor
//! the format of a backup. Everything that a mount does is a method of [`Tree`].

mod attr;
mod control;
mod draft;
mod file;
mod folder;
mod names;
mod node;
mod writing;
mod xattr;

pub use attr::{Attr, FileKind, ROOT};
pub use control::{describe, describe_record};
pub use file::{Caching, OpenMode, Opened, Request, SetAttr};
pub use folder::DirEntry;
pub use names::{check_file_name, file_names, volume_id_of, volume_name};
pub use xattr::XattrError;

use crate::budget::Budget;
use crate::driver::{Backup, BackupDriver, Space, Timestamp};
use crate::error::{Error, Kind, Result};
use crate::image::{BlockCache, Buffers, ImageReader};
use crate::task::together;
use attr::Owner;
use draft::Draft;
use file::Handle;
use node::{Node, Nodes};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// A backend: a folder in the root.
#[derive(Debug, Clone)]
pub struct Backend {
    /// The folder's name.
    pub name: String,
    /// Short name of the driver, for who asks.
    pub kind: &'static str,
    /// What lists, reads and writes its backups.
    pub driver: Arc<dyn BackupDriver>,
}

/// What a tree needs besides backends.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The one memory budget.
    pub budget: Arc<Budget>,
    /// The folder for what does not fit into memory.
    pub spool_path: PathBuf,
    /// Who owns everything.
    pub uid: u32,
    /// The group that everything belongs to.
    pub gid: u32,
}

/// See the module's page.
pub struct Tree {
    backends: Vec<Backend>,
    settings: Settings,
    owner: Owner,
    cache: Arc<BlockCache>,
    nodes: Nodes,
    handles: Mutex<HashMap<u64, Arc<Handle>>>,
    next_handle: AtomicU64,
    /// Backups that are being written, or were until a few seconds ago.
    drafts: Mutex<Vec<Arc<Draft>>>,
    /// Folders of volumes that were made here, and hold no backup (any more).
    made: Mutex<BTreeSet<(usize, String)>>,
    /// Names in a volume's folder, for as long as its backups are the same.
    views: Mutex<HashMap<(usize, String), Arc<folder::View>>>,
    /// Open readers by inode: they know where the holes are.
    readers: Mutex<HashMap<u64, Weak<ImageReader>>>,
    /// Of which generation a backup was when it was opened last, by inode.
    generations: Mutex<HashMap<u64, u64>>,
    /// Bytes of data of backups whose metadata does not tell, by inode.
    data_bytes: Mutex<HashMap<u64, u64>>,
    /// What was refused last, in more words than an error number has.
    refusals: Mutex<VecDeque<Refusal>>,
}

/// Something that was refused.
#[derive(Debug, Clone)]
struct Refusal {
    at: Timestamp,
    reason: String,
}

/// How many refusals `status.json` tells of.
const REFUSALS: usize = 16;

/// What none of the maps in a tree can be left half-changed by.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tree {
    /// A tree over `backends`, none of whose names is twice there.
    pub fn new(backends: Vec<Backend>, settings: Settings) -> Arc<Self> {
        Arc::new(Self {
            owner: Owner {
                uid: settings.uid,
                gid: settings.gid,
            },
            cache: BlockCache::new(&settings.budget),
            backends,
            settings,
            nodes: Nodes::new(),
            handles: Mutex::default(),
            next_handle: AtomicU64::new(1),
            drafts: Mutex::default(),
            made: Mutex::default(),
            views: Mutex::default(),
            readers: Mutex::default(),
            generations: Mutex::default(),
            data_bytes: Mutex::default(),
            refusals: Mutex::default(),
        })
    }

    fn backend(&self, index: usize) -> Result<&Backend> {
        let missing = || not_found("backend", &index.to_string());
        self.backends.get(index).ok_or_else(missing)
    }

    fn driver(&self, index: usize) -> Result<&dyn BackupDriver> {
        Ok(self.backend(index)?.driver.as_ref())
    }

    fn buffers(&self) -> Buffers {
        Buffers {
            budget: Arc::clone(&self.settings.budget),
            spool_path: self.settings.spool_path.clone(),
        }
    }

    fn keep_handle(&self, handle: Handle) -> u64 {
        let number = self.next_handle.fetch_add(1, Ordering::Relaxed);
        lock(&self.handles).insert(number, Arc::new(handle));
        number
    }

    fn handle(&self, number: u64) -> Result<Arc<Handle>> {
        let unknown = || Error::new(Kind::Invalid, "use", "a file handle", "it is not open");
        lock(&self.handles)
            .get(&number)
            .cloned()
            .ok_or_else(unknown)
    }

    fn draft(&self, backend: usize, volume: &str, backup_id: &str) -> Option<Arc<Draft>> {
        lock(&self.drafts)
            .iter()
            .find(|draft| {
                draft.backend == backend && draft.volume == volume && draft.id() == backup_id
            })
            .cloned()
    }

    fn drafts_in(&self, backend: usize, volume: &str) -> Vec<Arc<Draft>> {
        let drafts = lock(&self.drafts);
        let here = |draft: &&Arc<Draft>| draft.backend == backend && draft.volume == volume;
        drafts.iter().filter(here).cloned().collect()
    }

    /// Tells why something was refused: the program sees a number alone.
    fn tell_refusal(&self, error: &Error) {
        tracing::warn!("{error}");
        let mut refusals = lock(&self.refusals);
        if refusals.len() >= REFUSALS {
            refusals.pop_front();
        }
        refusals.push_back(Refusal {
            at: Timestamp::now(),
            reason: error.to_string(),
        });
    }

    /// A backup by its id.
    async fn backup(&self, backend: usize, volume: &str, id: &str) -> Result<Arc<Backup>> {
        let backups = self.driver(backend)?.backups(volume).await?;
        let found = backups.into_iter().find(|backup| backup.id == id);
        found.ok_or_else(|| not_found("backup", id))
    }

    /// Room in the backend that an inode belongs to, or in the one that has the least.
    pub async fn space(&self, ino: u64) -> Result<Option<Space>> {
        if let Some(backend) = self.nodes.get(ino)?.backend() {
            return self.driver(backend)?.space().await;
        }
        let mut spaces = vec![None; self.backends.len()];
        let looks = self.backends.iter().zip(&mut spaces);
        together(looks.map(|(backend, told)| async move {
            // One that is down must not hide the others.
            *told = backend.driver.space().await.ok().flatten();
        }))
        .await;
        Ok(spaces.into_iter().flatten().min_by_key(|space| space.free))
    }

    /// Makes finished backups of all that is being written, as far as it is written, and
    /// clears away what was deleted meanwhile: nothing comes from the kernel any more.
    pub async fn finish(&self) {
        let drafts = lock(&self.drafts).clone();
        for draft in drafts {
            if draft.is_unlinked() {
                self.abandon(&draft).await;
                continue;
            }
            if draft.is_open() && !draft.writer.is_untouched().await {
                tracing::warn!(
                    "backup {} ({}) is still open; it is kept as far as it is written",
                    draft.id(),
                    draft.name()
                );
            }
            // An empty file that was closed is a backup; one that is open may become one.
            if let Err(e) = draft.publish(!draft.is_open()).await {
                tracing::error!("backup {} ({}) is lost: {e}", draft.id(), draft.name());
            }
            // Others need not wait until the program has ended, and find nothing to remove.
            draft.writer.seal();
        }
    }
}

fn not_found(what: &'static str, which: &str) -> Error {
    Error::new(
        Kind::NotFound,
        "find",
        format!("{what} {which}"),
        "there is none",
    )
}

impl Node {
    fn backend(&self) -> Option<usize> {
        match self {
            Self::Backend(backend)
            | Self::Volume(backend, _)
            | Self::Drop(backend, _, _)
            | Self::Backup(backend, _, _)
            | Self::ControlBackend(backend)
            | Self::ControlVolume(backend, _)
            | Self::Sidecar(backend, _, _)
            | Self::Record(backend, _, _) => Some(*backend),
            Self::Root
            | Self::Control
            | Self::Status
            | Self::Metrics
            | Self::ById
            | Self::ByIdLink(_) => None,
        }
    }
}
