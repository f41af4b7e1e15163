//! What must be true of one file.

use std::time::{Duration, Instant};

/// A program may open what it has closed for writing again for ten seconds. Around that
/// either answer is right.
const SURELY_OPEN: Duration = Duration::from_secs(7);
const SURELY_SEALED: Duration = Duration::from_secs(14);

/// A file, as it must be.
#[derive(Default)]
pub struct ModelFile {
    pub data: Vec<u8>,
    pub ever_written: bool,
    /// It is listed: it was closed or synced with something in it, or closed for good.
    pub published: bool,
    pub unlinked: bool,
    /// Its volume.
    pub volume: &'static str,
    /// What it is built on.
    pub parent: Option<Parent>,
    /// What utimens set.
    pub mtime: Option<(i64, i64)>,
    /// The last close; `None` in a file that was there when the store was mounted.
    pub closed: Option<Instant>,
    pub handles: usize,
}

/// A file that another one is built on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parent {
    pub id: usize,
    /// Of its image.
    pub size: usize,
    /// The file becomes a full backup, if it is smaller than that when it is published.
    pub is_wished: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reopens {
    Yes,
    No,
    Perhaps,
}

impl ModelFile {
    pub fn reopens(&self) -> Reopens {
        match self.closed {
            _ if self.handles > 0 => Reopens::Yes,
            None => Reopens::No,
            Some(closed) if closed.elapsed() < SURELY_OPEN => Reopens::Yes,
            Some(closed) if closed.elapsed() > SURELY_SEALED => Reopens::No,
            Some(_) => Reopens::Perhaps,
        }
    }

    /// It can be no increment as it is now.
    pub fn is_too_small(&self) -> bool {
        let parent = self.parent.filter(|parent| !parent.is_wished);
        !self.unlinked && parent.is_some_and(|parent| self.data.len() < parent.size)
    }

    /// It is made a backup, if it can be one.
    pub fn publish(&mut self) {
        // Of what is deleted nothing is made any more.
        if self.unlinked || self.is_too_small() {
            return;
        }
        self.published = true;
        // From here on it stands on its own, however it grows.
        self.parent = self.parent.filter(|parent| self.data.len() >= parent.size);
    }

    /// A flush makes a backup of it, unless nothing was ever written.
    pub fn flush(&mut self) {
        if self.ever_written || !self.data.is_empty() {
            self.publish();
        }
    }

    pub fn write(&mut self, at: usize, bytes: &[u8]) {
        if self.data.len() < at + bytes.len() {
            self.data.resize(at + bytes.len(), 0);
        }
        self.data[at..at + bytes.len()].copy_from_slice(bytes);
        self.ever_written = true;
        self.mtime = None;
    }
}
