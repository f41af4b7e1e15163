//! What an incremental backup is built on: which backup that is, and what has changed
//! since. Only its list of hashes is read, none of its objects.

use super::Shared;
use super::hashlist::HashList;
use super::image::ChunkedImage;
use crate::driver::Backup;
use crate::driver::dependents::no_parent;
use crate::error::{Error, Kind, Result};
use crate::format::{BackupName, Digest};
use std::cmp::Reverse;
use std::iter;
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::OnceCell;

/// Why a backup is not fit for the moment.
const IN_USE: &str = "is still being written, or being deleted";

/// See the module's page.
pub struct Parent {
    /// The backup itself.
    pub backup: Arc<Backup>,
    /// Where it lies.
    pub name: Arc<BackupName>,
    hashes: HashList,
    /// That of the list of hashes, which is written anew along with the image.
    version: String,
    image: OnceCell<ChunkedImage>,
}

impl Parent {
    /// The newest backup of a volume that is fit to be a parent, as Cinder chooses it.
    ///
    /// # Errors
    /// `Invalid` when none is fit; those of the store.
    pub async fn newest(shared: &Shared, volume_id: &str) -> Result<Self> {
        // What another program has just written counts, too.
        let mut backups = shared.catalog.backups_now(volume_id).await?;
        // Of two that are of the same second, the one that is built on the other is newer.
        backups.sort_by_key(|backup| Reverse((backup.created_at, backup.depth)));
        let mut reasons = Vec::new();
        let mut advice = "make a full backup";
        for backup in backups {
            match Self::of(shared, &backup).await? {
                Ok(parent) => {
                    if !reasons.is_empty() {
                        let passed = reasons.join("; ");
                        tracing::warn!("backup {} becomes a parent: {passed}", backup.id);
                    }
                    return Ok(parent);
                }
                Err(reason) => {
                    if reason == IN_USE {
                        advice = "wait until it is finished, which takes ten seconds from the \
                                  last close, or make a full backup";
                    }
                    reasons.push(format!("{} {reason}", backup.id));
                }
            }
        }
        Err(no_parent(volume_id, reasons, advice))
    }

    /// A backup as a parent, or why it cannot be one.
    async fn of(shared: &Shared, backup: &Arc<Backup>) -> Result<Result<Self, String>> {
        let id = &backup.id;
        if let Some(fault) = &backup.fault {
            return Ok(Err(format!("is damaged ({fault})")));
        }
        if shared.writing.holds(id) || shared.store.is_claimed(id).await? {
            return Ok(Err(IN_USE.to_owned()));
        }
        let name = match shared.catalog.name_of(backup).await {
            Err(e) if e.kind() == Kind::NotFound => return Ok(Err("is gone".to_owned())),
            other => other?,
        };
        let no_list = || Ok(Err("has no list of hashes that can be used".to_owned()));
        // Before it is read: what is written later has another version.
        let version = match shared.store.stat(&name.container, &name.sha256file()).await {
            Err(e) if e.kind() == Kind::NotFound => return no_list(),
            other => other?.version,
        };
        let hashes = match shared.hashes_of(&name, Some(backup.generation)).await? {
            Some(hashes) => hashes,
            None => return no_list(),
        };
        let own = shared.options.sha_block_size;
        if hashes.block_size() != own {
            let theirs = hashes.block_size();
            return Ok(Err(format!(
                "has hashes of blocks of {theirs} bytes, and backup_sha_block_size_bytes is {own}"
            )));
        }
        if let Err(e) = hashes.check_count(backup.size) {
            return Ok(Err(format!("is damaged ({e})")));
        }
        Ok(Ok(Self {
            backup: Arc::clone(backup),
            name,
            hashes,
            version,
            image: OnceCell::new(),
        }))
    }

    /// Why `child` cannot be built on it any more: it is not there, or not what `child` was
    /// compared with. `None` when all is well.
    ///
    /// # Errors
    /// Those of the store, which tell neither.
    pub async fn loss(&self, shared: &Shared, child: &str) -> Result<Option<Error>> {
        let store = &shared.store;
        let container = &self.name.container;
        for object in [self.name.metadata(), self.name.sha256file()] {
            match store.stat(container, &object).await {
                Err(e) if e.kind() == Kind::NotFound => {
                    return Ok(Some(self.lost(child, "deleted")));
                }
                Err(e) => return Err(e),
                Ok(stat) if object == self.name.sha256file() && stat.version != self.version => {
                    return Ok(Some(self.lost(child, "written anew")));
                }
                Ok(_) => {}
            }
        }
        Ok(None)
    }

    fn lost(&self, child: &str, how: &str) -> Error {
        let reason = format!(
            "its parent {} was {how} while it was written",
            self.backup.id
        );
        Error::new(
            Kind::Unavailable,
            "write",
            format!("backup {child}"),
            reason,
        )
        .advise("write it once more")
    }

    /// Its image, for who has to read back what was not changed.
    ///
    /// # Errors
    /// As [`Shared::image`].
    pub async fn image(&self, shared: &Shared) -> Result<&ChunkedImage> {
        let open = || shared.image(&self.backup);
        self.image.get_or_try_init(open).await
    }

    /// The digests of `count` of its blocks, from block `first` on; fewer at its end. `None`
    /// when that part of its list cannot be read.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn digests(&self, first: u64, count: u64) -> Result<Option<Vec<Digest>>> {
        let _held = match self.hashes.load(first..first + count).await {
            Err(e) if e.kind() == Kind::Corrupt => return Ok(None),
            other => other?,
        };
        let known = (first..first + count).map_while(|index| self.hashes.peek(index));
        Ok(Some(known.collect()))
    }

    /// The runs of blocks of `child`, from block `first` on, whose digests are not those of
    /// the parent: as numbers of blocks, counted from `first`.
    ///
    /// # Errors
    /// `Unavailable` when the parent is gone; those of reading its list.
    pub async fn changes(
        &self,
        child: &str,
        first: u64,
        digests: &[Digest],
    ) -> Result<Vec<Range<u64>>> {
        let count = digests.len() as u64;
        let _held = match self.hashes.load(first..first + count).await {
            Ok(held) => held,
            // Whatever the blocks were: to store them is right.
            Err(e) if e.kind() == Kind::Corrupt => {
                tracing::warn!("backup {child} holds more than what has changed: {e}");
                return Ok(iter::once(0..count).filter(|all| !all.is_empty()).collect());
            }
            Err(e) if e.kind() == Kind::NotFound => return Err(self.lost(child, "deleted")),
            Err(e) => return Err(e),
        };
        let mut runs: Vec<Range<u64>> = Vec::new();
        for (number, digest) in (0..).zip(digests) {
            // Behind its end, everything has changed.
            if self.hashes.peek(first + number) == Some(*digest) {
                continue;
            }
            match runs.last_mut() {
                Some(run) if run.end == number => run.end += 1,
                _ => runs.push(number..number + 1),
            }
        }
        Ok(runs)
    }
}
