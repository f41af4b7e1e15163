//! One object on its way to the shelf: fetched once for all who read it, and read while it
//! is still arriving where that is safe.

use super::catalog::Sent;
use super::found::Found;
use super::growth::{Growth, open_plain, sha256};
use super::left;
use super::listing::Listing;
use super::names::Name;
use super::rows::Size;
use super::stage::{ARRIVING, LOCK, Shelf, make_private, most};
use crate::error::{Error, Kind, Result};
use crate::task::blocking;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use uuid::Uuid;

/// How often it is looked at how much has arrived.
const LOOK: Duration = Duration::from_millis(50);
/// How often it is looked at whether another process has fetched it.
const LOOK_AT_OTHERS: Duration = Duration::from_millis(200);
/// With nothing arriving for so long, somebody may want to know why.
const QUIET: Duration = Duration::from_secs(3);

/// See the module's page.
#[derive(Debug)]
pub struct Part {
    pub name: Name,
    /// When it was sent, as the client tells it.
    pub date: String,
    size: Size,
    /// What it must be one of, if it is one of ours.
    sent: Vec<Sent>,
    /// Tells it from other attempts to fetch the same object.
    pub serial: u64,
    shelf: Weak<Shelf>,
    listing: Weak<Listing>,
    is_started: AtomicBool,
    /// It was not fetched: an earlier one was, and kept.
    was_here: AtomicBool,
    /// Others are fetched before it.
    is_queued: AtomicBool,
    /// When something has arrived last.
    moved: Mutex<Option<Instant>>,
    state: watch::Sender<State>,
}

#[derive(Debug, Clone)]
enum State {
    /// Of what has arrived, so many bytes stay as they are.
    Arriving(Option<(Arc<File>, u64)>),
    /// All is here, and checked, in so many bytes.
    Whole(Arc<File>, u64),
    Failed(Error),
}

impl Part {
    /// Nothing is fetched before somebody reads.
    pub(super) fn new(shelf: &Arc<Shelf>, found: &Found, serial: u64) -> Arc<Self> {
        Arc::new(Self {
            name: found.name.clone(),
            date: found.date.clone(),
            size: found.size,
            sent: sent(found),
            serial,
            was_here: AtomicBool::new(false),
            is_queued: AtomicBool::new(false),
            shelf: Arc::downgrade(shelf),
            listing: shelf.listing(),
            is_started: AtomicBool::new(false),
            moved: Mutex::default(),
            state: watch::Sender::new(State::Arriving(None)),
        })
    }

    /// Whether it would be fetched in just the same way once more.
    pub(super) fn is_of(&self, found: &Found) -> bool {
        self.date == found.date && self.size == found.size && self.sent == sent(found)
    }

    /// Whether it was fetched before anybody wanted it this time.
    pub fn was_here(&self) -> bool {
        self.was_here.load(Ordering::SeqCst)
    }

    /// What messages call it.
    pub fn subject(&self) -> String {
        format!("backup {}", self.name.id)
    }

    /// Whether it could not be fetched: what was read of it must not be used any more.
    pub fn has_failed(&self) -> bool {
        matches!(&*self.state.borrow(), State::Failed(_))
    }

    /// Whether it is being fetched.
    pub fn is_arriving(&self) -> bool {
        self.is_started.load(Ordering::SeqCst)
            && matches!(&*self.state.borrow(), State::Arriving(_))
    }

    /// That nothing has arrived for a while, though somebody waits for it.
    pub fn waiting(&self) -> Option<Error> {
        if !self.is_arriving() || self.is_queued.load(Ordering::SeqCst) {
            return None;
        }
        let moved = *self.moved.lock().unwrap_or_else(PoisonError::into_inner);
        let quiet = moved?.elapsed();
        let reason = format!(
            "nothing has come from the server for {} s: a tape may have to be mounted",
            quiet.as_secs()
        );
        (quiet >= QUIET).then(|| Error::new(Kind::TimedOut, "read", self.subject(), reason))
    }

    fn move_on(&self) {
        *self.moved.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Fetches it, unless it is here or on its way.
    fn start(self: &Arc<Self>) -> Result<()> {
        if self.is_started.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let ended = || {
            Error::new(
                Kind::Unavailable,
                "read",
                self.subject(),
                "the program ends",
            )
        };
        let shelf = self.shelf.upgrade().ok_or_else(ended)?;
        self.move_on();
        let part = Arc::clone(self);
        tokio::spawn(async move {
            match part.arrive(&shelf).await {
                Ok((file, size)) => {
                    shelf.touch(&part.name.key());
                    part.state.send_replace(State::Whole(file, size));
                    if !matches!(part.size, Size::Exact(_))
                        && let Some(listing) = part.listing.upgrade()
                    {
                        listing.expire();
                    }
                }
                Err(e) => {
                    let e = e.within(part.subject());
                    tracing::error!("{e}");
                    part.state.send_replace(State::Failed(e));
                    // Somebody may have a part of it.
                    if let Some(listing) = part.listing.upgrade() {
                        listing.distrust(&part.name);
                    }
                }
            }
        });
        Ok(())
    }

    /// The bytes of a range that lies within the object.
    ///
    /// # Errors
    /// `TimedOut` when they have not arrived in time, `NoSpace`, and whatever else keeps it
    /// from being fetched.
    pub async fn read(self: &Arc<Self>, range: Range<u64>, patience: Duration) -> Result<Vec<u8>> {
        let until = tokio::time::Instant::now() + patience;
        let file = loop {
            // Who comes later sees each change from then on.
            let mut changes = self.state.subscribe();
            self.start()?;
            match &*changes.borrow_and_update() {
                State::Whole(file, _) => break Arc::clone(file),
                State::Arriving(Some((file, safe))) if range.end <= *safe => {
                    break Arc::clone(file);
                }
                State::Failed(e) => return Err(e.clone()),
                State::Arriving(_) => {}
            }
            if tokio::time::timeout_at(until, changes.changed())
                .await
                .is_err()
            {
                return Err(self.timed_out(range.start, patience));
            }
        };
        let subject = self.subject();
        blocking(move || {
            let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
            let mut bytes = vec![0; length];
            let read = file.read_exact_at(&mut bytes, range.start);
            read.map_err(|e| Error::io("read what was fetched of", subject, &e))?;
            Ok(bytes)
        })
        .await
    }

    fn timed_out(&self, at: u64, patience: Duration) -> Error {
        let reason = format!(
            "what is at {at} has not come from the server within {} s; it is still being fetched",
            patience.as_secs_f64()
        );
        Error::new(Kind::TimedOut, "read", self.subject(), reason)
            .advise("try again later, or raise backup_tsm_mount_timeout")
    }

    /// Waits until all of it is here and checked. Gives its size in bytes.
    ///
    /// # Errors
    /// Whatever keeps it from being fetched.
    pub async fn whole(self: &Arc<Self>) -> Result<(Arc<File>, u64)> {
        loop {
            let mut changes = self.state.subscribe();
            self.start()?;
            match &*changes.borrow_and_update() {
                State::Whole(file, size) => return Ok((Arc::clone(file), *size)),
                State::Failed(e) => return Err(e.clone()),
                State::Arriving(_) => {}
            }
            if changes.changed().await.is_err() {
                let reason = "the program ends";
                return Err(Error::new(
                    Kind::Unavailable,
                    "read",
                    self.subject(),
                    reason,
                ));
            }
        }
    }

    /// Of all that is read, what must be so. Gives its sha256, if that tells.
    ///
    /// # Errors
    /// `Corrupt`.
    pub async fn check(&self, file: &Arc<File>, size: u64) -> Result<Option<String>> {
        if self.admits(size, None) {
            return Ok(None);
        }
        let file = Arc::clone(file);
        let found = blocking(move || {
            sha256(&file, size).map_err(|e| Error::io("read", "what was fetched", &e))
        })
        .await?;
        if self.admits(size, Some(&found)) {
            return Ok(Some(found));
        }
        let reason = "its sha256 is not that of what was written";
        Err(Error::corrupt("read", self.subject(), reason))
    }

    /// Whether it may be of that size and sha256; without the latter, whether that does not
    /// tell.
    fn admits(&self, size: u64, sha256: Option<&str>) -> bool {
        let is_it = |sent: &Sent| {
            let wanted = sent.sha256.as_deref();
            sent.size == size && (wanted.is_none() || wanted == sha256)
        };
        self.size.admits(size) && (self.sent.is_empty() || self.sent.iter().any(is_it))
    }

    /// What is on the shelf, if it is this.
    fn on_shelf(&self, shelf: &Shelf) -> Option<(PathBuf, u64)> {
        let whole = shelf.whole(&self.name, &self.date)?;
        let is_it = self.admits(whole.size, whole.sha256.as_deref());
        is_it.then_some((whole.path, whole.size))
    }

    async fn arrive(&self, shelf: &Arc<Shelf>) -> Result<(Arc<File>, u64)> {
        let key = self.name.key();
        let Some(_lock) = self.lock(shelf, &key).await? else {
            return self.here(shelf);
        };
        self.is_queued.store(true, Ordering::SeqCst);
        let turn = shelf.client.turn_to_fetch().await;
        self.is_queued.store(false, Ordering::SeqCst);
        let _turn = turn?;
        // One of its own for each attempt: a client that has outlived its program, or cannot
        // be ended, may still be writing to another.
        let path = shelf.path(&format!("{key}.{}", Uuid::new_v4().simple()), ARRIVING);
        let room = {
            let (shelf, key, path) = (Arc::clone(shelf), key.clone(), path.clone());
            let size = most(self.size);
            blocking(move || {
                // What a program that was ended has left. Nobody else has the lock.
                left::remove_parts(shelf.folder(), &key);
                shelf.reserve(&path, size)
            })
            .await?
        };
        let _part = Removed(path.clone());
        let fetched = self.fetch(shelf, &path).await;
        if fetched.is_err() && shelf.free().is_ok_and(|free| free < 1 << 20) {
            let reason = "there is no room where it is staged";
            return Err(Error::new(Kind::NoSpace, "stage", self.subject(), reason)
                .advise("make room, or set backup_tsm_staging_path to a folder with more"));
        }
        fetched?;
        let failed = |e: &io::Error| Error::io("read what was fetched of", self.subject(), e);
        let file = Arc::new(open_plain(&path).map_err(|e| {
            let reason = format!("dsmc says that it is restored, and there is no file: {e}");
            Error::new(Kind::Unavailable, "fetch", self.subject(), reason)
        })?);
        let size = file.metadata().map_err(|e| failed(&e))?.len();
        if !self.size.admits(size) {
            let reason = format!("{size} bytes have come, and it has {}", self.size);
            return Err(Error::corrupt("fetch", self.subject(), reason));
        }
        let sha256 = self.check(&file, size).await?;
        let (shelf, name, date) = (Arc::clone(shelf), self.name.clone(), self.date.clone());
        blocking(move || shelf.keep(&path, &name, &date, size, sha256)).await?;
        drop(room);
        Ok((file, size))
    }

    /// What is here already.
    fn here(&self, shelf: &Shelf) -> Result<(Arc<File>, u64)> {
        let gone = || {
            let reason = "it was on the shelf, and is gone";
            Error::new(Kind::Unavailable, "read", self.subject(), reason).advise("try again")
        };
        let (path, size) = self.on_shelf(shelf).ok_or_else(gone)?;
        let file = open_plain(&path).map_err(|_| gone())?;
        self.was_here.store(true, Ordering::SeqCst);
        Ok((Arc::new(file), size))
    }

    /// The right to fetch it; `None` when it is here. Another process may be about to.
    async fn lock(&self, shelf: &Shelf, key: &str) -> Result<Option<File>> {
        let until = Instant::now() + shelf.patience;
        make_private(shelf.folder()).map_err(|e| shelf.failed("make the folder", &e))?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(shelf.path(key, LOCK))
            .map_err(|e| shelf.failed("use", &e))?;
        loop {
            let is_ours = match lock.try_lock() {
                Ok(()) => true,
                Err(fs::TryLockError::WouldBlock) => false,
                Err(fs::TryLockError::Error(e)) => return Err(shelf.failed("lock a file in", &e)),
            };
            if self.on_shelf(shelf).is_some() {
                return Ok(None);
            }
            if is_ours {
                return Ok(Some(lock));
            }
            if Instant::now() >= until {
                let reason = "another cinderfs is fetching it, and has not ended";
                return Err(Error::new(Kind::TimedOut, "fetch", self.subject(), reason));
            }
            tokio::time::sleep(LOOK_AT_OTHERS).await;
        }
    }

    /// Lets the client fetch it, and readers have what has arrived.
    async fn fetch(&self, shelf: &Shelf, path: &Path) -> Result<()> {
        let restore = shelf.client.restore(&self.name.path, self.name.mode, path);
        let mut restore = std::pin::pin!(restore);
        let mut growth = Growth::default();
        self.move_on();
        loop {
            tokio::select! {
                done = &mut restore => return done,
                () = tokio::time::sleep(LOOK) => {}
            }
            let has_moved = growth.look(path, self.size);
            if has_moved {
                self.move_on();
            }
            if let Some(safe) = growth.safe() {
                self.state.send_replace(State::Arriving(Some(safe)));
            } else if growth.is_odd {
                self.state.send_replace(State::Arriving(None));
            }
        }
    }
}

fn sent(found: &Found) -> Vec<Sent> {
    found
        .note
        .as_ref()
        .map_or_else(Vec::new, |note| note.sent())
}

/// A file that is removed, unless it has another name by then.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
