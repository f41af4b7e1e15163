//! Objects as files below a folder, as Cinder's posix driver keeps them.
//!
//! A file appears under its name only when it is whole and on disk: it is written as
//! `.cinderfs-stage-<uuid>`, a name that no prefix search of Cinder matches, synced and
//! renamed. While a backup is being written, `.cinderfs-lock-<its id>` is in the folder of
//! the store. Both kinds of files are locked by who uses them.

mod lock;
mod sign;
mod stage;

use super::{Body, Claim, Entry, ObjectStore, Space, Stat};
use crate::error::{Error, Kind, Result};
use crate::task::blocking;
use async_trait::async_trait;
use bytes::Bytes;
use sign::{LOCK_PREFIX, Sign};
use stage::{STAGE_PREFIX, write_object};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::SystemTime;

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
    owner: Owner,
    lockless: Arc<Once>,
    /// Folders that could not be looked into the last time.
    hidden: Arc<Mutex<Vec<String>>>,
}

/// Who new files and folders are given to. What root makes belongs to root, and Cinder,
/// which does not run as root, could not read it: so it gets the owner of the store.
#[derive(Debug, Clone, Copy)]
struct Owner(Option<(u32, u32)>);

impl Owner {
    fn of_store(metadata: &fs::Metadata) -> Self {
        let own = (metadata.uid(), metadata.gid());
        Self(Some(own).filter(|own| rustix::process::geteuid().is_root() && *own != (0, 0)))
    }

    fn give(self, path: &Path) -> io::Result<()> {
        match self.0 {
            Some((uid, gid)) => std::os::unix::fs::lchown(path, Some(uid), Some(gid)),
            None => Ok(()),
        }
    }
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
            owner: Owner::of_store(&metadata),
            root,
            lockless: Arc::new(Once::new()),
            hidden: Arc::default(),
        })
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
    fn is_left(&self, container: &str, name: &str) -> bool {
        let Ok(path) = self.file(container, name) else {
            return false;
        };
        lock::is_marked(&path).map_or_else(
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

    /// Says once that nobody can see what is being written.
    fn miss_locks(&self) {
        self.lockless.call_once(|| {
            tracing::warn!(
                "{} is on a file system without locks (flock): `cinderfs gc` cannot see there \
                 what is being written, and has only its age to go by",
                self.root.display()
            );
        });
    }
}

/// What a walk has found.
#[derive(Default)]
struct Walked {
    /// Folders with a file of the prefix.
    found: Vec<String>,
    /// Folders that are not ours to read.
    hidden: Vec<String>,
}

/// A walk that notes each folder with a file of that prefix. Links are not followed.
fn walk(
    folder: &Path,
    name: &str,
    depth: usize,
    prefix: &[u8],
    walked: &mut Walked,
) -> io::Result<()> {
    let mut folders = Vec::new();
    let mut holds = false;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            folders.push(entry.file_name());
        } else {
            holds |= entry.file_name().as_bytes().starts_with(prefix);
        }
    }
    if holds && !name.is_empty() {
        walked.found.push(name.to_owned());
    }
    for child in folders {
        // A name that is no text is none of Cinder's.
        let Some(child) = child.to_str() else {
            continue;
        };
        if depth == 0 || child.starts_with('.') {
            continue;
        }
        let below = if name.is_empty() {
            child.to_owned()
        } else {
            format!("{name}/{child}")
        };
        match walk(&folder.join(child), &below, depth - 1, prefix, walked) {
            // Deleted meanwhile, or not ours to read: the others still count.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            // Root's alone, in every file system of some kinds.
            Err(_) if below == "lost+found" => {}
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => walked.hidden.push(below),
            other => other?,
        }
    }
    Ok(())
}

/// The plain files in a folder whose names begin with `prefix`, sorted; none in one that
/// does not exist.
fn list_folder(folder: &Path, prefix: &str) -> io::Result<Vec<Entry>> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        // Only plain files are objects; a name that is no text is not Cinder's.
        if let Some(name) = name.to_str()
            && name.starts_with(prefix)
            && entry.file_type().is_ok_and(|kind| kind.is_file())
        {
            found.push(Entry {
                name: name.to_owned(),
                version: None,
            });
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn version(metadata: &fs::Metadata) -> String {
    format!(
        "{}-{}-{}.{:09}",
        metadata.ino(),
        metadata.size(),
        metadata.mtime(),
        metadata.mtime_nsec()
    )
}

fn open_object(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(path);
    // A link, a socket, a fifo or a device under an object's name is no object.
    let not_plain = || io::Error::new(io::ErrorKind::InvalidData, "not a plain file");
    match file {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ELOOP | libc::ENXIO)) => Err(not_plain()),
        Ok(file) if !file.metadata()?.is_file() => Err(not_plain()),
        other => other,
    }
}

fn read_range(path: &Path, range: &Range<u64>) -> io::Result<Bytes> {
    let file = open_object(path)?;
    let end = range.end.min(file.metadata()?.len());
    let mut bytes = vec![0; usize::try_from(end.saturating_sub(range.start)).unwrap_or(0)];
    file.read_exact_at(&mut bytes, range.start)?;
    Ok(bytes.into())
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes a container's folder as Cinder does: parents by the umask, the last one 0770.
/// Each new name is made durable.
fn make_folder(root: &Path, folder: &Path, owner: Owner) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent()
        && parent != root
        && !parent.is_dir()
    {
        make_parents(root, parent, owner)?;
    }
    match fs::create_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        other => other?,
    }
    owner.give(folder)?;
    fs::set_permissions(folder, Permissions::from_mode(FOLDER_MODE))?;
    folder.parent().map_or(Ok(()), sync_folder)
}

fn make_parents(root: &Path, folder: &Path, owner: Owner) -> io::Result<()> {
    if folder == root || folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        make_parents(root, parent, owner)?;
    }
    match fs::create_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        other => other?,
    }
    owner.give(folder)?;
    folder.parent().map_or(Ok(()), sync_folder)
}

#[async_trait]
impl ObjectStore for PosixStore {
    async fn containers(&self, prefix: &str) -> Result<Vec<String>> {
        let (store, prefix) = (self.clone(), prefix.to_owned());
        blocking(move || {
            let (root, prefix) = (&store.root, prefix.as_bytes());
            let mut walked = Walked::default();
            walk(root, "", DEEPEST_CONTAINER, prefix, &mut walked)
                .map_err(|e| Error::io("list", root.display().to_string(), &e))?;
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
        blocking(move || {
            list_folder(&folder, &prefix)
                .map_err(|e| Error::io("list", folder.display().to_string(), &e))
        })
        .await
    }

    async fn stat(&self, container: &str, name: &str) -> Result<Stat> {
        let path = self.file(container, name)?;
        blocking(move || {
            let metadata = fs::symlink_metadata(&path)
                .map_err(|e| Error::io("find object", path.display().to_string(), &e))?;
            if !metadata.is_file() {
                let subject = path.display().to_string();
                return Err(Error::corrupt("find object", subject, "not a plain file"));
            }
            Ok(Stat {
                size: metadata.len(),
                version: version(&metadata),
                modified: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
            })
        })
        .await
    }

    async fn read(&self, container: &str, name: &str, range: Range<u64>) -> Result<Bytes> {
        let path = self.file(container, name)?;
        blocking(move || {
            read_range(&path, &range)
                .map_err(|e| Error::io("read object", path.display().to_string(), &e))
        })
        .await
    }

    async fn put(&self, container: &str, name: &str, body: Body) -> Result<()> {
        let (store, path) = (self.clone(), self.file(container, name)?);
        blocking(move || {
            write_object(&store, &path, &body)
                .map_err(|e| Error::io("store object", path.display().to_string(), &e))
        })
        .await
    }

    async fn sync(&self, container: &str) -> Result<()> {
        let (root, folder) = (self.root.clone(), self.folder(container)?);
        blocking(move || {
            // The folders above, too: another program may have made them just now.
            for folder in folder
                .ancestors()
                .take_while(|folder| folder.starts_with(&root))
            {
                sync_folder(folder)
                    .map_err(|e| Error::io("sync", folder.display().to_string(), &e))?;
            }
            Ok(())
        })
        .await
    }

    async fn delete(&self, container: &str, name: &str) -> Result<()> {
        let path = self.file(container, name)?;
        let may_be_in_use = name.starts_with(STAGE_PREFIX) || name.starts_with(LOCK_PREFIX);
        blocking(move || {
            let removed = match may_be_in_use {
                true => lock::remove_unmarked(&path),
                false => fs::remove_file(&path),
            };
            removed.map_err(|e| Error::io("delete object", path.display().to_string(), &e))
        })
        .await
    }

    async fn remove_container(&self, container: &str) -> Result<()> {
        let folder = self.folder(container)?;
        blocking(move || match fs::remove_dir(&folder) {
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
        blocking(move || {
            use rustix::fs::Access;
            let access = rustix::fs::access(&root, Access::WRITE_OK | Access::EXEC_OK);
            access.map_err(|e| Error::io("write to", root.display().to_string(), &e.into()))
        })
        .await
    }

    fn has_claims(&self) -> bool {
        true
    }

    async fn claim(&self, backup_id: &str) -> Result<Claim> {
        let (store, path) = (self.clone(), self.sign_of(backup_id)?);
        blocking(move || {
            let sign = Sign::make(&store, &path)
                .map_err(|e| Error::io("make", path.display().to_string(), &e))?;
            Ok(sign.map_or_else(Claim::default, Claim::holding))
        })
        .await
    }

    async fn is_claimed(&self, backup_id: &str) -> Result<bool> {
        let path = self.sign_of(backup_id)?;
        blocking(move || {
            lock::is_marked(&path).map_err(|e| Error::io("look at", path.display().to_string(), &e))
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
        blocking(move || {
            let signs = list_folder(&store.root, LOCK_PREFIX)
                .map_err(|e| Error::io("list", store.root.display().to_string(), &e))?;
            found.extend(signs.into_iter().map(|entry| (ROOT.to_owned(), entry)));
            found.retain(|(container, entry)| store.is_left(container, &entry.name));
            Ok(found)
        })
        .await
    }

    async fn space(&self) -> Result<Option<Space>> {
        let root = self.root.clone();
        blocking(move || {
            let stat = rustix::fs::statvfs(&root)
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
