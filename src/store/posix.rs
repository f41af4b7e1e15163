//! Objects as files below a folder, as Cinder's posix driver keeps them: on this machine, or
//! on a share, as its nfs and glusterfs drivers do.
//!
//! A file appears under its name only when it is whole and on disk: it is written as
//! `.cinderfs-stage-<uuid>`, a name that no prefix search of Cinder matches, synced and
//! renamed. While a backup is being written, `.cinderfs-lock-<its id>` is in the folder of
//! the store. Both kinds of files are locked by who uses them.

mod files;
mod footing;
mod lock;
mod sign;
mod stage;

use super::share::Share;
use super::{Body, Claim, Entry, ObjectStore, Space, Stat};
use crate::config;
use crate::error::{Error, Kind, Result};
use crate::task::blocking;
use async_trait::async_trait;
use bytes::Bytes;
use files::{Walked, list_folder, read_range, stat, sync_folder, walk};
use footing::Footing;
use sign::{LOCK_PREFIX, Sign};
use stage::{STAGE_PREFIX, write_object};
use std::fs;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, Once, PoisonError};

/// In place of a container, for the folder of the store itself: only signs lie there.
const ROOT: &str = "";
/// How often a file of ours is made anew when somebody takes it for a left-over.
const TRIES: u32 = 16;
/// Cinder's modes for what it makes.
const FILE_MODE: u32 = 0o660;
const FOLDER_MODE: u32 = 0o770;
/// How deep containers are looked for: Cinder's own stand three folders deep, a user's
/// may have slashes.
const DEEPEST_CONTAINER: usize = 16;

/// See the module's page.
#[derive(Debug, Clone)]
pub struct PosixStore {
    root: PathBuf,
    place: Place,
    lockless: Arc<Once>,
    /// Folders that could not be looked into the last time.
    hidden: Arc<Mutex<Vec<String>>>,
}

/// Where the folder is.
#[derive(Debug, Clone)]
enum Place {
    Here(Footing),
    Share(Arc<Share>),
}

impl PosixStore {
    /// A store below `root`, a folder that exists.
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory` or `Denied` when it cannot be used.
    pub fn open(root: &Path) -> Result<Self> {
        let subject = || format!("store {}", root.display());
        let root = fs::canonicalize(root).map_err(|e| Error::io("open", subject(), &e))?;
        fs::read_dir(&root).map_err(|e| Error::io("open", subject(), &e))?;
        let metadata = root
            .metadata()
            .map_err(|e| Error::io("open", subject(), &e))?;
        Ok(Self {
            place: Place::Here(Footing::local(&metadata)),
            root,
            lockless: Arc::new(Once::new()),
            hidden: Arc::default(),
        })
    }

    /// A store on a share, which is mounted when it is first asked for something.
    pub fn on_share(options: &config::Share) -> Self {
        let share = Share::new(options.clone());
        Self {
            root: share.path().to_owned(),
            place: Place::Share(Arc::new(share)),
            lockless: Arc::new(Once::new()),
            hidden: Arc::default(),
        }
    }

    /// Runs `job` where it may block.
    async fn run<T: Send + 'static>(
        &self,
        job: impl Fn(&Footing) -> Result<T> + Send + Sync + 'static,
    ) -> Result<T> {
        self.change(None, job).await
    }

    /// The same for what changes the file of that path: one at a time does.
    async fn change<T: Send + 'static>(
        &self,
        path: Option<&Path>,
        job: impl Fn(&Footing) -> Result<T> + Send + Sync + 'static,
    ) -> Result<T> {
        match &self.place {
            Place::Here(footing) => {
                let footing = footing.clone();
                blocking(move || job(&footing)).await
            }
            Place::Share(share) => {
                let root = self.root.clone();
                let on = move |anchor: &_, pulse: &_| job(&Footing::remote(anchor, &root, pulse));
                share.run(path, on).await
            }
        }
    }

    fn share(&self) -> Option<&Arc<Share>> {
        match &self.place {
            Place::Here(_) => None,
            Place::Share(share) => Some(share),
        }
    }

    /// The folder of a container. Names come from outside: none leads out of the store.
    fn folder(&self, container: &str) -> Result<PathBuf> {
        let is_plain = |part| matches!(part, Component::Normal(_));
        if container.is_empty()
            || container.contains('\0')
            || !Path::new(container).components().all(is_plain)
        {
            return Err(Error::new(
                Kind::Invalid,
                "use container",
                container.escape_debug().to_string(),
                "it would lead out of the store",
            ));
        }
        Ok(self.root.join(container))
    }

    fn file(&self, container: &str, name: &str) -> Result<PathBuf> {
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
            return Err(Error::new(
                Kind::Invalid,
                "use object",
                name.escape_debug().to_string(),
                "it would lead out of its container",
            ));
        }
        if container == ROOT && name.starts_with(LOCK_PREFIX) {
            return Ok(self.root.join(name));
        }
        Ok(self.folder(container)?.join(name))
    }

    /// The file that says that a backup is being written.
    fn sign_of(&self, backup_id: &str) -> Result<PathBuf> {
        self.file(ROOT, &format!("{LOCK_PREFIX}{backup_id}"))
    }

    /// Whether nobody uses a staged file or a sign. One that cannot be looked at is somebody
    /// else's.
    fn is_left(&self, footing: &Footing, container: &str, name: &str) -> bool {
        let Ok(path) = self.file(container, name) else {
            return false;
        };
        lock::is_marked(&footing.real(&path)).map_or_else(
            |e| {
                tracing::warn!("cannot tell whether {} is in use: {e}", path.display());
                false
            },
            |marked| !marked,
        )
    }

    /// Keeps what could not be looked into, and says so when it is not what it was.
    fn keep_hidden(&self, hidden: Vec<String>) {
        let mut kept = self.hidden.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(first) = hidden.first().filter(|_| *kept != hidden) {
            let root = self.root.display();
            let more = match hidden.len() {
                1 => String::new(),
                all => format!(" and {} more folders", all - 1),
            };
            tracing::warn!(
                "backups in {root}/{first}{more} are not listed: permission denied; do it as the \
                 owner of the store"
            );
        }
        *kept = hidden;
    }

    /// Says once that nobody can see what is being written, or nobody elsewhere.
    fn miss_locks(&self, footing: &Footing) {
        let (where_to, by_whom) = match footing.has_shared_locks() {
            true => ("without locks (flock)", ""),
            false => (
                "whose locks no other machine sees (its mount options say nolock or local_lock)",
                " by others",
            ),
        };
        self.lockless.call_once(|| {
            tracing::warn!(
                "{} is on a file system {where_to}: `cinderfs gc` cannot see there what is being \
                 written{by_whom}, and has only its age to go by; let one program write and \
                 delete at a time",
                self.root.display()
            );
        });
    }
}

#[async_trait]
impl ObjectStore for PosixStore {
    async fn containers(&self, prefix: &str) -> Result<Vec<String>> {
        let (store, prefix) = (self.clone(), prefix.to_owned());
        self.run(move |footing| {
            let (root, prefix) = (footing.real(&store.root), prefix.as_bytes());
            let mut walked = Walked::default();
            walk(footing, &root, "", DEEPEST_CONTAINER, prefix, &mut walked)
                .map_err(|e| Error::io("list", store.root.display().to_string(), &e))?;
            let Walked {
                mut found,
                mut hidden,
            } = walked;
            hidden.sort_unstable();
            store.keep_hidden(hidden);
            found.sort_unstable();
            Ok(found)
        })
        .await
    }

    fn hidden(&self) -> Vec<String> {
        let kept = self.hidden.lock().unwrap_or_else(PoisonError::into_inner);
        kept.clone()
    }

    async fn list(&self, container: &str, prefix: &str) -> Result<Vec<Entry>> {
        let (folder, prefix) = (self.folder(container)?, prefix.to_owned());
        self.run(move |footing| {
            list_folder(footing, &footing.real(&folder), &prefix)
                .map_err(|e| Error::io("list", folder.display().to_string(), &e))
        })
        .await
    }

    async fn stat(&self, container: &str, name: &str) -> Result<Stat> {
        let path = self.file(container, name)?;
        self.run(move |footing| stat(footing, &path)).await
    }

    async fn read(&self, container: &str, name: &str, range: Range<u64>) -> Result<Bytes> {
        let path = self.file(container, name)?;
        self.run(move |footing| {
            read_range(footing, &footing.real(&path), &range)
                .map_err(|e| Error::io("read object", path.display().to_string(), &e))
        })
        .await
    }

    async fn read_newest(&self, container: &str, name: &str, range: Range<u64>) -> Result<Bytes> {
        let path = self.file(container, name)?;
        self.run(move |footing| {
            path.parent()
                .iter()
                .for_each(|folder| footing.freshen(&footing.real(folder)));
            read_range(footing, &footing.real(&path), &range)
                .map_err(|e| Error::io("read object", path.display().to_string(), &e))
        })
        .await
    }

    async fn put(&self, container: &str, name: &str, body: Body) -> Result<()> {
        let (store, path) = (self.clone(), self.file(container, name)?);
        self.change(Some(&path.clone()), move |footing| {
            write_object(&store, footing, &path, &body)
                .map_err(|e| Error::io("store object", path.display().to_string(), &e))
        })
        .await
    }

    async fn sync(&self, container: &str) -> Result<()> {
        let (root, folder) = (self.root.clone(), self.folder(container)?);
        self.run(move |footing| {
            // The folders above, too: another program may have made them just now.
            for folder in folder
                .ancestors()
                .take_while(|folder| folder.starts_with(&root))
            {
                sync_folder(&footing.real(folder))
                    .and_then(|()| footing.step())
                    .map_err(|e| Error::io("sync", folder.display().to_string(), &e))?;
            }
            Ok(())
        })
        .await
    }

    async fn delete(&self, container: &str, name: &str) -> Result<()> {
        let path = self.file(container, name)?;
        let may_be_in_use = name.starts_with(STAGE_PREFIX) || name.starts_with(LOCK_PREFIX);
        self.change(Some(&path.clone()), move |footing| {
            let real = footing.real(&path);
            let removed = match may_be_in_use {
                true => lock::remove_unmarked(&real),
                false => fs::remove_file(&real),
            };
            removed.map_err(|e| Error::io("delete object", path.display().to_string(), &e))
        })
        .await
    }

    async fn remove_container(&self, container: &str) -> Result<()> {
        let folder = self.folder(container)?;
        self.run(move |footing| match fs::remove_dir(footing.real(&folder)) {
            Err(e)
                if !matches!(
                    e.raw_os_error(),
                    Some(libc::ENOTEMPTY | libc::EEXIST | libc::ENOENT | libc::EBUSY)
                ) =>
            {
                Err(Error::io("remove folder", folder.display().to_string(), &e))
            }
            _ => Ok(()),
        })
        .await
    }

    async fn check_writable(&self) -> Result<()> {
        let root = self.root.clone();
        self.run(move |footing| {
            use rustix::fs::Access;
            let access =
                rustix::fs::access(footing.real(&root), Access::WRITE_OK | Access::EXEC_OK);
            access.map_err(|e| Error::io("write to", root.display().to_string(), &e.into()))
        })
        .await
    }

    fn has_claims(&self) -> bool {
        true
    }

    async fn claim(&self, backup_id: &str) -> Result<Claim> {
        let (store, path) = (self.clone(), self.sign_of(backup_id)?);
        self.run(move |footing| {
            let sign = Sign::make(&store, footing, &path)
                .map_err(|e| Error::io("make", path.display().to_string(), &e))?;
            Ok(sign.map_or_else(Claim::default, Claim::holding))
        })
        .await
    }

    async fn is_claimed(&self, backup_id: &str) -> Result<bool> {
        let (root, path) = (self.root.clone(), self.sign_of(backup_id)?);
        // One of ours that has just been dropped is gone first.
        self.change(Some(&path.clone()), move |footing| {
            footing.freshen(&footing.real(&root));
            lock::is_marked(&footing.real(&path))
                .map_err(|e| Error::io("look at", path.display().to_string(), &e))
        })
        .await
    }

    async fn leftovers(&self) -> Result<Vec<(String, Entry)>> {
        let mut found = Vec::new();
        for container in self.containers(STAGE_PREFIX).await? {
            for entry in self.list(&container, STAGE_PREFIX).await? {
                found.push((container.clone(), entry));
            }
        }
        let store = self.clone();
        self.run(move |footing| {
            let signs = list_folder(footing, &footing.real(&store.root), LOCK_PREFIX)
                .map_err(|e| Error::io("list", store.root.display().to_string(), &e))?;
            let signs = signs.into_iter().map(|entry| (ROOT.to_owned(), entry));
            let mut left: Vec<_> = found.iter().cloned().chain(signs).collect();
            left.retain(|(container, entry)| store.is_left(footing, container, &entry.name));
            Ok(left)
        })
        .await
    }

    fn retried(&self) -> Option<Error> {
        self.share()?.trouble()
    }

    async fn space(&self) -> Result<Option<Space>> {
        let root = self.root.clone();
        self.run(move |footing| {
            let stat = rustix::fs::statvfs(footing.real(&root))
                .map_err(|e| Error::io("ask the size of", root.display().to_string(), &e.into()))?;
            Ok(Some(Space {
                total: stat.f_blocks.saturating_mul(stat.f_frsize),
                free: stat.f_bavail.saturating_mul(stat.f_frsize),
                files: None,
            }))
        })
        .await
    }
}
