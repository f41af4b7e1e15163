//! Cinder's TSM driver, which Cinder had until 18.0.0: backups are objects of IBM Storage
//! Protect (Spectrum Protect, Tivoli Storage Manager), each the whole image of a volume.
//!
//! IBM's own client, `dsmc`, does the work: the library that IBM has for programs cannot read
//! what that client has backed up. It has no form of output for programs, and cannot fetch a
//! part of an object: so its words are judged with suspicion, and objects are staged.

mod catalog;
mod client;
mod command;
mod content;
mod evidence;
mod found;
mod garbage;
mod gate;
mod growth;
mod left;
mod listing;
mod names;
mod option_file;
mod part;
mod records;
mod rows;
mod spool;
mod stage;
mod verdict;
mod write;

use super::{
    Backup, BackupDriver, BackupSink, Basis, Change, Content, Garbage, Progress, Space, Verdict,
};
use crate::config;
use crate::error::{Error, Kind, Result};
use crate::task::blocking;
use async_trait::async_trait;
use catalog::Note;
use client::Client;
use content::StagedContent;
use found::Found;
use listing::Listing;
use names::Name;
use part::Part;
use rows::Row;
use stage::Shelf;
use std::fmt::{self, Debug};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use write::SpooledSink;

/// What all parts of the driver share.
#[derive(Debug)]
struct Shared {
    options: config::Tsm,
    client: Arc<Client>,
    shelf: Arc<Shelf>,
    listing: Arc<Listing>,
}

/// The driver of Cinder's `TSMBackupDriver`.
pub struct TsmDriver {
    shared: Arc<Shared>,
    append_only: bool,
}

impl TsmDriver {
    /// A driver; the client is run when it is first needed.
    pub fn new(options: &config::Tsm, common: &config::Common) -> Self {
        let client = Arc::new(Client::new(options));
        let shelf = Shelf::new(&client, options);
        let listing = Listing::new(&client, &shelf, options, common.list_ttl);
        shelf.tell(&listing);
        Self {
            shared: Arc::new(Shared {
                options: options.clone(),
                client,
                shelf,
                listing,
            }),
            append_only: common.append_only,
        }
    }

    fn refuse_deletion(&self, subject: String) -> Result<()> {
        match self.append_only {
            false => Ok(()),
            true => {
                let reason = "append_only is set: backups can be added, not deleted";
                Err(Error::new(Kind::Sealed, "delete", subject, reason))
            }
        }
    }

    /// Whether the server has anything of that name.
    async fn has(&self, name: &Name) -> Result<bool> {
        let versions = self.shared.client.versions(&name.path, name.mode);
        Ok(!versions.await?.is_empty())
    }

    /// Whether nobody needs what belongs to that name, if there is one: the server has nothing
    /// there, and has told of others beside it, or was never known to have it.
    async fn is_gone(&self, name: Option<&Name>) -> Result<bool> {
        let Some(name) = name else { return Ok(true) };
        if self.has(name).await? {
            return Ok(false);
        }
        let (shared, of) = (Arc::clone(&self.shared), name.clone());
        let is_unsent = blocking(move || Ok(garbage::is_unsent(&shared, &of))).await?;
        Ok(is_unsent || self.shared.listing.is_certain(name).await?)
    }

    /// Where a backup is that may have been deleted since it was listed.
    async fn find(&self, backup: &Backup) -> Result<Found> {
        let found = self.shared.listing.find(backup)?;
        let (folder, id) = (self.shared.options.catalog.clone(), backup.id.clone());
        let has_note = blocking(move || Ok(catalog::note_of(&folder, &id).is_some()));
        // With an object its note goes, and seldom without it.
        if found.note.is_some() && !has_note.await? && !self.has(&found.name).await? {
            return Err(listing::gone(backup));
        }
        Ok(found)
    }

    async fn remove(&self, backup: &Backup) -> Result<()> {
        let found = self.shared.listing.find(backup)?;
        delete_object(&self.shared, &found.name, true).await
    }
}

/// Looks at all that an object is. Gives its size in bytes.
async fn check_whole(part: &Arc<Part>, backup: &Backup) -> Result<u64> {
    let (file, size) = part.whole().await?;
    // It may have been here for long.
    part.check(&file, size).await?;
    if backup.fault.is_none() && backup.size != size {
        let reason = format!("it has {size} bytes, and is shown with {}", backup.size);
        return Err(Error::corrupt("read", part.subject(), reason));
    }
    Ok(size)
}

/// Deletes all versions of an object, and asks whether they are gone. If it `is_listed`, it is
/// not enough that the server has nothing of that name.
async fn delete_object(shared: &Shared, name: &Name, is_listed: bool) -> Result<()> {
    let client = &shared.client;
    let told = client.delete(&name.path, name.mode).await?;
    if let Some(left) = client.versions(&name.path, name.mode).await?.first() {
        return Err(still_there(name, left));
    }
    if is_listed && told == verdict::Verdict::Nothing && !shared.listing.is_certain(name).await? {
        return Err(doubtful(name));
    }
    shared.listing.remove(name);
    shared.shelf.forget(&name.key());
    let (folder, id) = (shared.options.catalog.clone(), name.id.clone());
    if let Err(e) = blocking(move || catalog::forget(&folder, &id)).await {
        tracing::warn!("{e}");
    }
    Ok(())
}

/// The server has nothing of a name that it has told of.
fn doubtful(name: &Name) -> Error {
    let subject = format!("backup {}", name.id);
    let reason = "the server was asked for it, and says that it has nothing there";
    Error::new(Kind::Unavailable, "delete", subject, reason).advise(evidence::ADVICE)
}

/// What is left where nothing should be, whatever it is called.
fn still_there(name: &Name, left: &Row) -> Error {
    let subject = format!("backup {}", name.id);
    if std::path::Path::new(&left.path) == name.path {
        let reason = "dsmc has ended as if it were deleted, and the server has it still";
        return Error::new(Kind::Denied, "delete", subject, reason).advise(
            "the node may need the server's leave to delete backups (`update node NAME \
             backdelete=yes`)",
        );
    }
    let reason = format!(
        "whether it is gone is not understood: asked for it, dsmc tells of \"{}\"",
        left.path
    );
    Error::new(Kind::Unavailable, "delete", subject, reason).advise(client::advice_on(name.mode))
}

fn tsm_error(op: &'static str, name: &Name, reason: &str) -> Error {
    let subject = format!("backup {}", name.id);
    Error::new(Kind::Unavailable, op, subject, reason).advise("see the client's dsmerror.log")
}

fn unsupported<T>(op: &'static str, subject: String, reason: &str, advice: &str) -> Result<T> {
    Err(Error::new(Kind::Unsupported, op, subject, reason).advise(advice))
}

impl Debug for TsmDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TsmDriver by {}", self.shared.options.dsmc.display())
    }
}

#[async_trait]
impl BackupDriver for TsmDriver {
    async fn volumes(&self) -> Result<Vec<String>> {
        self.shared.listing.volumes().await
    }

    fn retried(&self) -> Option<Error> {
        let waiting = self.shared.shelf.waiting();
        waiting.or_else(|| self.shared.client.waiting())
    }

    async fn backups(&self, volume_id: &str) -> Result<Vec<Arc<Backup>>> {
        self.shared.listing.backups(volume_id).await
    }

    fn hidden(&self) -> Vec<String> {
        Vec::new()
    }

    fn trouble(&self) -> Option<Error> {
        self.shared.listing.trouble()
    }

    async fn open(&self, backup: &Backup) -> Result<Arc<dyn Content>> {
        if let Some(fault) = &backup.fault {
            return Err(fault.clone());
        }
        let found = self.find(backup).await?;
        let part = self.shared.shelf.part(&found);
        let patience = self.shared.options.mount_timeout;
        Ok(Arc::new(StagedContent::new(part, backup.size, patience)))
    }

    fn is_incremental(&self, _basis: Basis) -> bool {
        false
    }

    async fn create(&self, volume_id: &str, basis: Basis) -> Result<Arc<dyn BackupSink>> {
        if basis == Basis::Newest {
            return unsupported(
                "back up",
                format!("volume {volume_id}"),
                "IBM's client sends whole objects: there are no incremental backups",
                "write a full one",
            );
        }
        names::check_volume(volume_id)?;
        Ok(Arc::new(SpooledSink::new(&self.shared, volume_id).await?))
    }

    async fn update(&self, backup: &Backup, change: Change) -> Result<Arc<Backup>> {
        let subject = || format!("backup {}", backup.id);
        if change.name.is_some() {
            return unsupported(
                "rename",
                subject(),
                "an object keeps the name that it was sent by",
                "give the name before it is closed (rsync: --inplace)",
            );
        }
        let found = self.find(backup).await?;
        if found.note.is_none() {
            return unsupported(
                "change",
                subject(),
                "what is said of it is in Cinder's records alone",
                "change the record",
            );
        }
        let (folder, id) = (self.shared.options.catalog.clone(), backup.id.clone());
        // Another program may have sent something else under its name since it was listed.
        let amend = move || {
            catalog::amend(&folder, &id, |note| {
                if let Some(words) = change.description {
                    note.description = words;
                }
                if let Some(modified) = change.modified {
                    note.modified = catalog::micros(modified);
                }
            })
        };
        let note = blocking(amend)
            .await?
            .ok_or_else(|| listing::gone(backup))?;
        let changed = Arc::new(Backup {
            description: note.description.clone(),
            modified: note.modified(),
            ..Backup::clone(backup)
        });
        let has_more = found.note.as_ref().map(Note::sent) != Some(note.sent());
        self.shared.listing.put(Found {
            backup: Arc::clone(&changed),
            note: Some(note),
            ..found
        });
        if has_more {
            self.shared.listing.expire();
        }
        Ok(changed)
    }

    async fn delete(&self, backup: &Backup) -> Result<()> {
        self.refuse_deletion(format!("backup {}", backup.id))?;
        self.remove(backup).await
    }

    async fn withdraw(&self, backup: &Backup) -> Result<()> {
        self.refuse_deletion(format!("backup {}", backup.id))?;
        self.remove(backup).await
    }

    async fn space(&self) -> Result<Option<Space>> {
        Ok(None)
    }

    async fn verify(
        &self,
        backup: &Backup,
        _percent: u8,
        progress: &dyn Progress,
    ) -> Result<Verdict> {
        let found = self.shared.listing.find(backup)?;
        let mut verdict = Verdict {
            objects: 1,
            ..Verdict::default()
        };
        if let Some(fault) = backup.fault.as_ref().filter(|e| e.kind() == Kind::Corrupt) {
            verdict.problems.push(fault.to_string());
            return Ok(verdict);
        }
        let part = self.shared.shelf.part(&found);
        let mut checked = check_whole(&part, backup).await;
        if part.was_here() && checked.as_ref().is_err_and(|e| e.kind() == Kind::Corrupt) {
            // That is the shelf's damage, and perhaps not the server's.
            self.shared.shelf.forget(&found.name.key());
            drop(part);
            let part = self.shared.shelf.part(&found);
            checked = check_whole(&part, backup).await;
        }
        match checked {
            Ok(size) => {
                verdict.bytes = size;
                progress.advance(size);
            }
            Err(e) if e.kind() == Kind::Corrupt => verdict.problems.push(Error::to_string(&e)),
            Err(e) => return Err(e),
        }
        Ok(verdict)
    }

    async fn garbage(&self, age: Duration) -> Result<Vec<Garbage>> {
        self.shared.listing.volumes().await?;
        if let Some(e) = self.shared.listing.outage() {
            return Err(e);
        }
        let (shared, objects) = (Arc::clone(&self.shared), self.shared.listing.names());
        let suspects = blocking(move || garbage::find(&shared, age, &objects)).await?;
        let mut garbage = Vec::new();
        for (one, name) in suspects {
            if self.is_gone(name.as_ref()).await? {
                garbage.push(one);
            }
        }
        Ok(garbage)
    }

    async fn sweep(&self, garbage: &Garbage) -> Result<bool> {
        self.refuse_deletion(garbage.container.clone())?;
        let (shared, objects) = (Arc::clone(&self.shared), self.shared.listing.names());
        let garbage = garbage.clone();
        let (of, left) = (Arc::clone(&shared), garbage.clone());
        let name = blocking(move || garbage::noted(&of, &left)).await?;
        if !self.is_gone(name.as_ref()).await? {
            return Ok(false);
        }
        blocking(move || garbage::sweep(&shared, &garbage, &objects)).await
    }

    async fn changes(&self, _from: &Backup, to: &Backup) -> Result<Vec<Range<u64>>> {
        unsupported(
            "compare",
            format!("backup {}", to.id),
            "the server tells nothing of what is in an object",
            "restore both, and compare them with cmp(1)",
        )
    }
}
