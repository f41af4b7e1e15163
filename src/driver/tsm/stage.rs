//! The shelf of what was fetched: whole objects, as files with a note beside each, the least
//! recently used of which make room for others. It survives the program.

use super::catalog;
use super::client::{Client, Mode};
use super::found::Found;
use super::left;
use super::listing::Listing;
use super::names::Name;
use super::part::Part;
use super::rows::Size;
use crate::config;
use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, SystemTime};

/// Below the folder of stages.
pub const FOLDER: &str = ".staged";
/// A whole object.
const WHOLE: &str = "img";
/// One that is being fetched.
pub const ARRIVING: &str = "part";
/// The note on a whole one. Without it, a file counts for nothing.
const NOTE: &str = "json";
/// Who fetches an object holds a lock on this.
pub const LOCK: &str = "lock";

/// What is said of a whole object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    id: String,
    path: PathBuf,
    mode: Mode,
    /// As the client told it.
    date: String,
    /// In bytes.
    size: u64,
    /// Of all of it, in hexadecimal digits, if it was looked at.
    #[serde(default)]
    sha256: Option<String>,
    /// When its file was last touched, as the kernel counts it: nobody has since.
    touched: (i64, i64),
}

/// A whole object that is on the shelf.
#[derive(Debug)]
pub(super) struct Whole {
    pub path: PathBuf,
    /// In bytes.
    pub size: u64,
    /// Of all of it, if it was looked at.
    pub sha256: Option<String>,
}

/// See the module's page.
#[derive(Debug)]
pub struct Shelf {
    pub(super) client: Arc<Client>,
    pub(super) patience: Duration,
    folder: PathBuf,
    limit: Option<u64>,
    parts: Mutex<Parts>,
    /// Who is told of what has become of objects.
    listing: OnceLock<Weak<Listing>>,
}

#[derive(Debug, Default)]
struct Parts {
    /// By their keys.
    known: HashMap<String, Arc<Part>>,
    /// Room that is kept for what is arriving, in bytes, by the files that it comes into.
    reserved: HashMap<PathBuf, u64>,
    next: u64,
}

impl Shelf {
    /// The shelf in the folder of stages; nothing is looked at yet.
    pub fn new(client: &Arc<Client>, options: &config::Tsm) -> Arc<Self> {
        Arc::new(Self {
            client: Arc::clone(client),
            patience: options.mount_timeout,
            folder: options.staging.join(FOLDER),
            limit: options.staging_limit,
            parts: Mutex::default(),
            listing: OnceLock::new(),
        })
    }

    /// Names the one who is told of what has become of objects.
    pub fn tell(&self, listing: &Arc<Listing>) {
        let _ = self.listing.set(Arc::downgrade(listing));
    }

    pub(super) fn listing(&self) -> Weak<Listing> {
        self.listing.get().cloned().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The folder that all of it is in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn path(&self, key: &str, kind: &str) -> PathBuf {
        self.folder.join(format!("{key}.{kind}"))
    }

    /// The object as it is on the shelf, or will be: nothing is fetched yet.
    pub fn part(self: &Arc<Self>, found: &Found) -> Arc<Part> {
        let mut parts = self.lock();
        // Nobody uses these.
        parts
            .known
            .retain(|_, part| Arc::strong_count(part) > 1 || part.is_arriving());
        let key = found.name.key();
        if let Some(part) = parts.known.get(&key)
            && part.is_of(found)
            && !part.has_failed()
        {
            return Arc::clone(part);
        }
        parts.next += 1;
        let part = Part::new(self, found, parts.next);
        parts.known.insert(key, Arc::clone(&part));
        part
    }

    /// Objects that are arriving, of which nothing has come for a while.
    pub fn waiting(&self) -> Option<Error> {
        let parts = self.lock();
        parts.known.values().find_map(|part| part.waiting())
    }

    /// The size of an object, if all of it is here.
    pub fn staged_size(&self, name: &Name, date: &str) -> Option<u64> {
        self.whole(name, date).map(|whole| whole.size)
    }

    /// A whole object.
    pub(super) fn whole(&self, name: &Name, date: &str) -> Option<Whole> {
        let key = name.key();
        let text = fs::read(self.path(&key, NOTE)).ok()?;
        let note: Note = serde_json::from_slice(&text).ok()?;
        let path = self.path(&key, WHOLE);
        let is_it = note.path == name.path && note.mode == name.mode && note.date == date;
        let stat = fs::symlink_metadata(&path)
            .ok()
            .filter(fs::Metadata::is_file)?;
        let is_whole = stat.len() == note.size && touched(&stat) == note.touched;
        (is_it && is_whole).then_some(Whole {
            path,
            size: note.size,
            sha256: note.sha256,
        })
    }

    /// All of it has arrived, and is as it should be: it is here from now on.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub(super) fn keep(
        &self,
        arrived: &Path,
        name: &Name,
        date: &str,
        size: u64,
        sha256: Option<String>,
    ) -> Result<PathBuf> {
        let key = name.key();
        let mut note = Note {
            id: name.id.clone(),
            path: name.path.clone(),
            mode: name.mode,
            date: date.to_owned(),
            size,
            sha256,
            touched: (0, 0),
        };
        let whole = self.path(&key, WHOLE);
        let mut keep = || {
            File::open(arrived)?.sync_all()?;
            fs::rename(arrived, &whole)?;
            note.touched = touched(&fs::symlink_metadata(&whole)?);
            let text = serde_json::to_vec_pretty(&note).unwrap_or_default();
            catalog::write(&self.path(&key, NOTE), &text)
        };
        keep().map_err(|e| self.failed("keep", &e))?;
        Ok(whole)
    }

    /// It was used: others go first.
    pub(super) fn touch(&self, key: &str) {
        let touch = || {
            File::options()
                .write(true)
                .open(self.path(key, NOTE))?
                .set_modified(SystemTime::now())
        };
        if let Err(e) = touch() {
            tracing::debug!("{}: {e}", self.path(key, NOTE).display());
        }
    }

    /// Removes an object from the shelf. Who has it open keeps it.
    pub fn forget(&self, key: &str) {
        for kind in [NOTE, WHOLE] {
            let _ = fs::remove_file(self.path(key, kind));
        }
        self.lock().known.remove(key);
    }

    pub(super) fn failed(&self, op: &'static str, e: &std::io::Error) -> Error {
        Error::io(op, self.folder.display().to_string(), e)
            .advise("set backup_tsm_staging_path to a folder with room that may be written to")
    }

    /// Keeps room for an object that is about to arrive in a file, until this is dropped.
    ///
    /// # Errors
    /// `NoSpace`.
    pub(super) fn reserve(self: &Arc<Self>, into: &Path, size: u64) -> Result<Room> {
        make_private(&self.folder).map_err(|e| self.failed("make the folder", &e))?;
        if let Some(limit) = self.limit.filter(|limit| size > *limit) {
            let reason = format!(
                "backup_tsm_staging_limit is {limit}, and an object has to fit in as a whole"
            );
            let subject = format!("{size} bytes");
            return Err(Error::new(Kind::NoSpace, "stage", subject, reason).advise("raise it"));
        }
        let mut parts = self.lock();
        let mut is_swept = false;
        loop {
            let others: u64 = parts.reserved.values().sum();
            let kept = self.kept()?;
            let used = others + kept.iter().map(|kept| kept.size).sum::<u64>();
            let missing_of_limit = self
                .limit
                .map_or(0, |limit| (used + size).saturating_sub(limit));
            let free = self.free()?;
            // What others have not used yet of their room is still free.
            let arrived: u64 = parts.reserved.keys().map(|path| taken(path)).sum();
            let missing = (size + others.saturating_sub(arrived)).saturating_sub(free);
            if missing_of_limit == 0 && missing == 0 {
                break;
            }
            if missing > 0 && !std::mem::replace(&mut is_swept, true) {
                left::make_room(&self.folder);
                continue;
            }
            let in_use = |key: &str| {
                let part = parts.known.get(key);
                part.is_some_and(|part| Arc::strong_count(part) > 1)
            };
            let can_go: Vec<&Kept> = kept.iter().filter(|kept| !in_use(&kept.key)).collect();
            let of_limit: u64 = can_go.iter().map(|kept| kept.size).sum();
            let of_room: u64 = can_go.iter().map(|kept| kept.taken).sum();
            // Nothing goes in vain.
            let is_enough = missing_of_limit <= of_limit && missing <= of_room;
            let Some(oldest) = can_go.first().filter(|_| is_enough) else {
                return Err(self.no_room(size, missing, free, used - of_limit));
            };
            tracing::debug!("{} makes room", oldest.key);
            for kind in [NOTE, WHOLE] {
                let path = self.path(&oldest.key, kind);
                fs::remove_file(path).or_else(|e| match e.kind() {
                    std::io::ErrorKind::NotFound => Ok(()),
                    _ => Err(self.failed("make room in", &e)),
                })?;
            }
        }
        parts.reserved.insert(into.to_owned(), size);
        Ok(Room {
            shelf: Arc::clone(self),
            path: into.to_owned(),
        })
    }

    fn no_room(&self, size: u64, missing: u64, free: u64, in_use: u64) -> Error {
        let (reason, advice) = match missing {
            0 => (
                format!("others that are in use take {in_use} bytes of backup_tsm_staging_limit"),
                "wait until they are closed, or raise it",
            ),
            _ => (
                format!(
                    "{free} bytes are free in {}, and too little there can go",
                    self.folder.display()
                ),
                "make room (`cinderfs gc --delete` removes what programs that were ended have \
                 left), or set backup_tsm_staging_path to a folder with more",
            ),
        };
        Error::new(Kind::NoSpace, "stage", format!("{size} bytes"), reason).advise(advice)
    }

    /// Bytes that are free where the shelf is.
    pub(super) fn free(&self) -> Result<u64> {
        let stat = rustix::fs::statvfs(&self.folder);
        let stat = stat.map_err(|e| self.failed("look at", &e.into()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// What is here, the least recently used first.
    fn kept(&self) -> Result<Vec<Kept>> {
        let mut kept = Vec::new();
        let entries = fs::read_dir(&self.folder).map_err(|e| self.failed("look at", &e))?;
        for entry in entries.flatten() {
            let path = entry.path();
            let key = path.file_stem().and_then(|stem| stem.to_str());
            let (Some(key), Ok(stat)) = (key, entry.metadata()) else {
                continue;
            };
            if path.extension().is_some_and(|extension| extension == WHOLE) {
                let note = fs::metadata(self.path(key, NOTE));
                kept.push(Kept {
                    key: key.to_owned(),
                    size: stat.len(),
                    taken: taken(&path),
                    // One without a note is of no use to anybody.
                    used: note.and_then(|note| note.modified()).ok(),
                });
            }
        }
        kept.sort_by_key(|kept| kept.used);
        Ok(kept)
    }
}

/// Bytes that a file takes where it is.
fn taken(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::symlink_metadata(path).map_or(0, |stat| stat.blocks().saturating_mul(512))
}

fn touched(stat: &fs::Metadata) -> (i64, i64) {
    use std::os::unix::fs::MetadataExt;
    (stat.ctime(), stat.ctime_nsec())
}

/// Makes a folder into which nobody else may look: what is in it is somebody's disk.
pub fn make_private(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(folder)
}

#[derive(Debug)]
struct Kept {
    key: String,
    size: u64,
    /// What it takes where it is, in bytes.
    taken: u64,
    used: Option<SystemTime>,
}

/// Room that is kept.
#[derive(Debug)]
pub struct Room {
    shelf: Arc<Shelf>,
    path: PathBuf,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shelf.lock().reserved.remove(&self.path);
    }
}

/// What an object takes, for who makes room: all that it may be.
pub fn most(size: Size) -> u64 {
    match size {
        Size::Exact(size) | Size::About(_, size) => size,
    }
}
