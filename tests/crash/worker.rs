//! A program that makes, renames and deletes backups on a mount, and writes into the
//! ledger before each call what it begins, and after it what was reported.

use crate::VOLUMES;
use crate::common::library::Dice;
use crate::common::mount::{close, wait_for};
use crate::ledger::{Image, Ledger, Listed};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// As long as an image may be, and a piece of it that is written at once.
const LARGEST: u64 = 2_000_000;
const PIECE: u64 = 300_000;
/// So many backups in a volume are enough.
pub const CROWDED: usize = 5;

/// The daemon is gone.
pub struct Killed;

/// See the module's page.
pub struct Worker<'a> {
    pub ledger: &'a Mutex<Ledger>,
    pub dice: Dice,
    /// The folder of the backend.
    pub root: PathBuf,
    /// The daemon is being killed.
    pub over: &'a AtomicBool,
}

/// A file that is being written, and what is in it by now.
struct Open {
    number: u64,
    path: PathBuf,
    file: File,
    data: Vec<u8>,
}

/// An image like `base`, of `least` bytes or more.
pub fn any_image(dice: &mut Dice, base: Option<&Vec<u8>>, least: usize) -> Vec<u8> {
    let size = least.max(1 + dice.below(LARGEST) as usize);
    let mut image = base.cloned().unwrap_or_default();
    if image.is_empty() || dice.below(8) == 0 {
        image = dice.image(size);
    }
    image.resize(size, 0);
    for _ in 0..dice.below(6) {
        let at = dice.below(size as u64) as usize;
        let length = (1 + dice.below(100_000) as usize).min(size - at);
        let piece = dice.image(length);
        image[at..at + length].copy_from_slice(&piece);
    }
    image
}

pub fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Worker<'_> {
    /// Works until the daemon is gone.
    pub fn work(&mut self) {
        while self.step().is_ok() {}
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(self.ledger)
    }

    /// What a call said, unless it was that the daemon is gone. Any other error is one that
    /// it gave: it lives, and to give up here would close a file in mid-write, and so
    /// publish what the ledger knows nothing of.
    fn heard<T>(&self, what: &str, result: io::Result<T>) -> Result<Result<T, i32>, Killed> {
        let number = result
            .as_ref()
            .err()
            .map(|e| e.raw_os_error().unwrap_or(-1));
        self.ledger()
            .tell(format!("{what}: {}", number.unwrap_or(0)));
        match result {
            Ok(done) => Ok(Ok(done)),
            Err(e) if self.is_gone(&e) => {
                wait_for("the kill", || self.over.load(Ordering::SeqCst));
                Err(Killed)
            }
            Err(e) => Ok(Err(e.raw_os_error().unwrap_or(-1))),
        }
    }

    /// Whether a call failed because the daemon is gone.
    fn is_gone(&self, error: &io::Error) -> bool {
        let is_end = |number| matches!(number, libc::ENOTCONN | libc::ECONNABORTED);
        match error.raw_os_error() {
            // The kernel's word for a request that was killed while it was read. No cache
            // answers what is asked then.
            Some(libc::EIO) => {
                rustix::fs::statvfs(&self.root).is_err_and(|e| is_end(e.raw_os_error()))
            }
            number => number.is_some_and(is_end),
        }
    }

    /// The same for a call that must succeed.
    fn done<T>(&self, what: &str, result: io::Result<T>) -> Result<T, Killed> {
        let heard = self.heard(what, result)?;
        Ok(heard.unwrap_or_else(|number| panic!("{what}: error {number}")))
    }

    fn step(&mut self) -> Result<(), Killed> {
        let volume = VOLUMES[self.dice.below(VOLUMES.len() as u64) as usize];
        let crowded = self.ledger().of_volume(volume).count() >= CROWDED;
        match self.dice.below(16) {
            0..8 if !crowded => self.back_up(volume),
            0..11 => self.delete(volume),
            11..13 => self.rename(volume),
            13 => self.set_time(volume),
            _ => self.read(volume),
        }
    }

    /// A finished backup that nobody else works on; the newest is the likeliest.
    fn take(&mut self, volume: &str) -> Option<(u64, PathBuf)> {
        let back = self.dice.below(4) * self.dice.below(2);
        let mut ledger = self.ledger();
        let idle = ledger.idle(volume);
        let number = *idle.iter().rev().nth(back as usize).or(idle.last())?;
        let record = ledger.get(number);
        record.busy = true;
        let path = self.root.join(volume).join(&record.names[0]);
        Some((number, path))
    }

    fn delete(&mut self, volume: &str) -> Result<(), Killed> {
        let Some((number, path)) = self.take(volume) else {
            return Ok(());
        };
        self.unlink(number, &path)
    }

    fn unlink(&mut self, number: u64, path: &Path) -> Result<(), Killed> {
        let before = std::mem::replace(&mut self.ledger().get(number).listed, Listed::Perhaps);
        self.ledger().counts.deleting_killed += 1;
        let heard = self.heard(&format!("unlink {number}"), fs::remove_file(path))?;
        let mut ledger = self.ledger();
        ledger.counts.deleting_killed -= 1;
        match heard {
            Ok(()) => {
                ledger.forget(number);
                ledger.counts.deleted += 1;
            }
            Err(libc::EBUSY) => {
                let record = ledger.get(number);
                (record.listed, record.busy) = (before, false);
                let volume = record.volume;
                assert!(
                    ledger.may_be_parent(volume, number),
                    "nothing is built on {number}"
                );
                ledger.counts.refused += 1;
            }
            Err(e) => panic!("unlink {number}: error {e}"),
        }
        Ok(())
    }

    fn rename(&mut self, volume: &str) -> Result<(), Killed> {
        let Some((number, path)) = self.take(volume) else {
            return Ok(());
        };
        let new = self.ledger().new_name();
        self.ledger().get(number).names.push(new.clone());
        self.ledger().counts.renaming_killed += 1;
        let renamed = fs::rename(&path, path.with_file_name(&new));
        self.done(&format!("rename {number} to {new}"), renamed)?;
        let mut ledger = self.ledger();
        ledger.counts.renaming_killed -= 1;
        ledger.counts.renamed += 1;
        let record = ledger.get(number);
        (record.names, record.busy) = (vec![new], false);
        Ok(())
    }

    fn set_time(&mut self, volume: &str) -> Result<(), Killed> {
        let Some((number, path)) = self.take(volume) else {
            return Ok(());
        };
        let nanoseconds = |tv_nsec| Timespec {
            tv_sec: 1_000_000_000,
            tv_nsec,
        };
        let times = Timestamps {
            last_access: nanoseconds(UTIME_OMIT),
            last_modification: nanoseconds(1),
        };
        let set = rustix::fs::utimensat(CWD, &path, &times, AtFlags::empty());
        self.done(&format!("utimens {number}"), set.map_err(Into::into))?;
        self.ledger().get(number).busy = false;
        Ok(())
    }

    fn read(&mut self, volume: &str) -> Result<(), Killed> {
        let Some((number, path)) = self.take(volume) else {
            return Ok(());
        };
        let bytes = self.done(&format!("read {number}"), fs::read(path))?;
        let mut ledger = self.ledger();
        let record = ledger.get(number);
        assert!(*record.images[0] == bytes, "content of {record:?}");
        record.busy = false;
        Ok(())
    }

    fn back_up(&mut self, volume: &'static str) -> Result<(), Killed> {
        let folder = ["", ".full", ".incremental"][self.dice.below(3) as usize];
        let incremental = folder == ".incremental";
        let newest = self.ledger().newest(volume);
        let mut target = any_image(&mut self.dice, newest.as_deref(), 1);
        let (number, name) = self.ledger().begin(volume, target.len(), incremental);
        let path = self.root.join(volume).join(&name);
        let new = self.root.join(volume).join(folder).join(&name);
        let made = File::create_new(new);
        let made = self.heard(&format!("create {number} in {volume}/{folder}"), made)?;
        let file = match made {
            Ok(file) => file,
            // Nothing is fit to be its parent.
            Err(libc::EINVAL) if incremental => {
                self.ledger().forget(number);
                return Ok(());
            }
            Err(e) => panic!("create {number}: error {e}"),
        };
        if incremental {
            // No shorter than its parent, which is among these from now on.
            let mut ledger = self.ledger();
            target.resize(ledger.longest(volume), 0);
            ledger.get(number).size = target.len();
        }
        let mut open = Open {
            file,
            path,
            number,
            data: Vec::new(),
        };
        if incremental || self.dice.below(4) == 0 {
            self.done("set size", open.file.set_len(target.len() as u64))?;
            open.data.resize(target.len(), 0);
        }
        if !self.write_all(&mut open, &target)? {
            return Ok(());
        }
        let (number, path) = (open.number, open.path.clone());
        let mut data = self.close(open)?;
        // As qemu-img does: the same program opens it again, and goes on.
        while self.dice.below(3) == 0 {
            let reopened = OpenOptions::new().write(true).open(&path);
            let file = match self.heard(&format!("reopen {number}"), reopened)? {
                Ok(file) => file,
                // Another one was built on it.
                Err(libc::EPERM) => break,
                Err(e) => panic!("reopen {number}: error {e}"),
            };
            let mut open = Open {
                file,
                path: path.clone(),
                number,
                data,
            };
            self.change(&mut open)?;
            data = self.close(open)?;
        }
        self.ledger().get(number).busy = false;
        Ok(())
    }

    /// Writes all of an image in pieces, in this order or that. `false` when the file was
    /// deleted meanwhile.
    fn write_all(&mut self, open: &mut Open, target: &[u8]) -> Result<bool, Killed> {
        let mut starts = Vec::new();
        let mut at = 0;
        while at < target.len() {
            let length = 1 + self.dice.below(PIECE) as usize;
            starts.push(at..(at + length).min(target.len()));
            at += length;
        }
        match self.dice.below(4) {
            0 => starts.reverse(),
            1 => starts.sort_by_key(|range| range.start % 7),
            _ => {}
        }
        for range in starts {
            let piece = &target[range.clone()];
            if piece.iter().all(|byte| *byte == 0) && range.end < target.len() {
                // A hole.
                continue;
            }
            self.write(open, range.start, piece)?;
            match self.dice.below(24) {
                0 | 1 => self.sync(open)?,
                2 if self.dice.below(3) == 0 => {
                    self.unlink(open.number, &open.path)?;
                    // Goes on with what nobody can see any more.
                    self.heard("write", open.file.write_all_at(piece, 0))?.ok();
                    return Ok(false);
                }
                _ => {}
            }
        }
        Ok(true)
    }

    fn write(&self, open: &mut Open, at: usize, piece: &[u8]) -> Result<(), Killed> {
        let what = format!("write {} at {at}, {} bytes", open.number, piece.len());
        self.done(&what, open.file.write_all_at(piece, at as u64))?;
        let end = at + piece.len();
        if open.data.len() < end {
            open.data.resize(end, 0);
        }
        open.data[at..end].copy_from_slice(piece);
        Ok(())
    }

    /// Goes on with what was published.
    fn change(&mut self, open: &mut Open) -> Result<(), Killed> {
        for _ in 0..self.dice.below(4) {
            let size = open.data.len() as u64;
            let at = self.dice.below(size) as usize;
            let length = (1 + self.dice.below(PIECE) as usize).min(open.data.len() - at);
            let piece = self.dice.image(length);
            self.write(open, at, &piece)?;
            if self.dice.below(3) == 0 {
                self.sync(open)?;
            }
        }
        Ok(())
    }

    /// What an open file holds so far is published: by fsync, or by a close of a copy.
    fn sync(&mut self, open: &Open) -> Result<(), Killed> {
        let by_close = self.dice.below(3) == 0;
        let sync = || match by_close {
            true => close(open.file.try_clone()?),
            false => open.file.sync_all(),
        };
        self.publish("sync", open.number, &Arc::new(open.data.clone()), sync)
    }

    fn close(&self, open: Open) -> Result<Vec<u8>, Killed> {
        let image = Arc::new(open.data);
        self.publish("close", open.number, &image, || close(open.file))?;
        Ok(image.to_vec())
    }

    fn publish(
        &self,
        what: &str,
        number: u64,
        image: &Image,
        publish: impl FnOnce() -> io::Result<()>,
    ) -> Result<(), Killed> {
        self.ledger().publish(number, image);
        self.ledger().counts.publishing_killed += 1;
        self.done(
            &format!("{what} {number}, {} bytes", image.len()),
            publish(),
        )?;
        let mut ledger = self.ledger();
        ledger.counts.publishing_killed -= 1;
        ledger.published(number, image);
        Ok(())
    }
}
