//! What checking a whole store finds: damage in backups, and things that belong to none.

use std::time::SystemTime;

/// Is told how far long work has come. Calls come from many threads.
pub trait Progress: Send + Sync {
    /// That many bytes more are done.
    fn advance(&self, bytes: u64);
}

/// Nobody wants to know.
impl Progress for () {
    fn advance(&self, _bytes: u64) {}
}

/// What was found of one backup when all there is to check was checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Number of objects, its own and those of its chain, whose data was looked at.
    pub objects: u64,
    /// How much that is, decoded, in bytes.
    pub bytes: u64,
    /// It has no list of hashes: each object was compared with its md5, and nothing says
    /// that all of them make up the image that was backed up.
    pub only_md5: bool,
    /// There are no hashes of it at all: all that is known is that the store can read its data.
    pub only_read: bool,
    /// What is wrong, a sentence each; empty when nothing is.
    pub problems: Vec<String>,
}

/// Why something in a store belongs to no finished backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum GarbageKind {
    /// Parts of a backup that was never finished, or whose deletion was not.
    Unfinished,
    /// Beside a finished backup, under its name, and no part of it: Cinder refuses to
    /// restore that backup.
    Stray,
    /// Half-written, under a name that only the store itself knows.
    Staged,
    /// What an unfinished backup has left where Cinder would build its next one on it.
    Head,
}

/// Something in a store that belongs to no finished backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Garbage {
    /// What it is.
    pub kind: GarbageKind,
    /// The volume, where the names tell.
    pub volume_id: Option<String>,
    /// The backup that it is left of, or beside, where the names tell.
    pub backup_id: Option<String>,
    /// The container that it lies in.
    pub container: String,
    /// Names of the objects.
    pub objects: Vec<String>,
    /// What they take, in bytes.
    pub bytes: u64,
    /// When the youngest of them was written, where that is known.
    pub modified: Option<SystemTime>,
}
