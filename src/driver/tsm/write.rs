//! A backup in the making: spooled whole, then sent by the client under a name of its own,
//! and only a backup once the server says that it has it.

use super::catalog::{self, Note, micros};
use super::client::Mode;
use super::found::{Found, SERVICE, new_generation, service_metadata};
use super::names::{DEVICES, Name};
use super::rows::{Row, Size};
use super::spool::{CHUNK, Link, Spool};
use super::stage::make_private;
use super::tsm_error;
use super::{Shared, delete_object};
use crate::driver::{Backup, BackupSink, ChunkData, Description};
use crate::error::{Error, Kind, Result};
use crate::format::Timestamp;
use crate::task::blocking;
use async_trait::async_trait;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Between two of one name, so that their dates differ: the server counts seconds.
const APART: Duration = Duration::from_millis(1100);

/// How often it is looked at whether it is still wanted.
const LOOK: Duration = Duration::from_millis(50);

/// See the module's page.
#[derive(Debug)]
pub struct SpooledSink {
    shared: Arc<Shared>,
    volume_id: String,
    /// As a file.
    file_name: Name,
    /// The device that it is an image of, and its name as that.
    device: OnceLock<(PathBuf, Name)>,
    created_at: Timestamp,
    spool: Spool,
    /// Something was stored since it was sent.
    is_changed: AtomicBool,
    /// Nobody wants it to be sent any more.
    is_broken_off: Arc<AtomicBool>,
    sent: tokio::sync::Mutex<Sent>,
}

#[derive(Debug, Default)]
struct Sent {
    /// The server may have something of that name.
    is_tried: bool,
    /// It may have something else than what was published.
    is_unsure: bool,
    published: Option<Found>,
    /// When something was sent last: what is sent in the same second has the same date.
    at: Option<Instant>,
}

impl SpooledSink {
    /// Begins a new backup of a volume.
    ///
    /// # Errors
    /// When the spool cannot be written to.
    pub(super) async fn new(shared: &Arc<Shared>, volume_id: &str) -> Result<Self> {
        let id = uuid::Uuid::new_v4().to_string();
        let options = &shared.options;
        let file_name = format!("{}-{id}", options.prefix);
        let name = Name {
            path: options.staging.join(volume_id).join(file_name),
            mode: Mode::File,
            id,
        };
        let (staging, catalog, id) = (
            options.staging.clone(),
            options.catalog.clone(),
            name.id.clone(),
        );
        let make = move || {
            make_private(&catalog).map_err(|e| {
                Error::io("make the folder", catalog.display().to_string(), &e)
                    .advise("set backup_tsm_catalog_path to a folder that may be written to")
            })?;
            Spool::new(&staging, &id)
        };
        Ok(Self {
            shared: Arc::clone(shared),
            volume_id: volume_id.to_owned(),
            file_name: name,
            device: OnceLock::new(),
            created_at: Timestamp::now(),
            spool: blocking(make).await?,
            is_changed: AtomicBool::new(true),
            is_broken_off: Arc::default(),
            sent: tokio::sync::Mutex::default(),
        })
    }

    fn name(&self) -> &Name {
        self.device.get().map_or(&self.file_name, |(_, name)| name)
    }

    fn note(&self, size: u64, description: &Description, sha256: Option<String>) -> Note {
        Note {
            id: self.file_name.id.clone(),
            volume_id: self.volume_id.clone(),
            path: self.name().path.clone(),
            mode: self.name().mode,
            name: description.name.clone(),
            description: description.description.clone(),
            created_at: Some(self.created_at.to_python()),
            modified: description.modified.and_then(micros),
            size,
            sha256,
            candidates: Vec::new(),
            is_unconfirmed: false,
            owner: Some(self.shared.client.owner()),
        }
    }

    /// What the server may have instead of what is about to be sent.
    async fn candidates(&self, sent: &Sent, note: &Note) -> Vec<catalog::Sent> {
        let newest = note.sent();
        let mut all: Vec<catalog::Sent> = Vec::new();
        let folder = self.shared.options.catalog.clone();
        let id = note.id.clone();
        // With all that was tried in vain.
        let kept = match sent.is_tried {
            true => blocking(move || Ok(catalog::note_of(&folder, &id))).await,
            false => Ok(None),
        };
        let published = sent.published.as_ref();
        let published = published.and_then(|found| found.note.clone());
        for note in kept.ok().flatten().into_iter().chain(published) {
            for one in note.sent() {
                if !all.contains(&one) && !newest.contains(&one) {
                    all.push(one);
                }
            }
        }
        all
    }

    async fn keep(&self, note: Note) -> Result<()> {
        let folder = self.shared.options.catalog.clone();
        blocking(move || catalog::keep(&folder, &note)).await
    }

    /// Returns once nobody wants it any more.
    async fn broken_off(&self) -> Error {
        while !self.is_broken_off.load(Ordering::SeqCst) {
            tokio::time::sleep(LOOK).await;
        }
        let subject = format!("backup {}", self.file_name.id);
        Error::new(Kind::Unavailable, "send", subject, "it was interrupted")
    }

    /// Sends what is in the spool, and asks for it.
    async fn send(&self, size: u64, sent: &mut Sent) -> Result<String> {
        if let Some(at) = sent.at {
            tokio::time::sleep(APART.saturating_sub(at.elapsed())).await;
        }
        // What was there before is no success.
        let before: Vec<String> = match &sent.published {
            Some(found) if !sent.is_unsure => vec![found.date.clone()],
            _ if sent.is_tried => {
                let rows = self.versions().await?;
                rows.into_iter().map(|row| row.date).collect()
            }
            _ => Vec::new(),
        };
        if self.is_broken_off.load(Ordering::SeqCst) {
            return Err(self.broken_off().await);
        }
        sent.is_tried = true;
        sent.is_unsure = true;
        sent.at = Some(Instant::now());
        let done = self.send_now(size, &before).await;
        sent.at = Some(Instant::now());
        done
    }

    /// All that the server has under the name.
    async fn versions(&self) -> Result<Vec<Row>> {
        let name = self.name();
        self.shared.client.versions(&name.path, name.mode).await
    }

    async fn send_now(&self, size: u64, before: &[String]) -> Result<String> {
        let device = self.device.get().map(|(device, _)| device.as_path());
        let spool = device.unwrap_or(self.spool.path()).to_owned();
        let path = self.name().path.clone();
        let _turn = tokio::select! {
            turn = self.shared.client.turn_to_send() => turn?,
            e = self.broken_off() => return Err(e),
        };
        let link = blocking(move || Link::new(&spool, &path)).await?;
        let (client, name) = (&self.shared.client, self.name());
        let sent = client.back_up(&name.path, name.mode, &self.is_broken_off);
        let is_counted = sent.await?;
        let rows = match self.name().mode {
            Mode::File => client.files(&self.name().path, false, false).await?,
            Mode::Image => client.images(Some(&self.name().path)).await?,
        };
        drop(link);
        let is_it = |row: &Row| {
            Path::new(&row.path) == self.name().path && row.is_active && row.size.admits(size)
        };
        let missing = |reason: &str| Err(tsm_error("send", self.name(), reason));
        let Some(row) = rows.into_iter().find(is_it) else {
            return missing("dsmc says that it was sent, and the server does not have it");
        };
        if before.contains(&row.date) && !is_counted {
            return missing("the server has what was sent before, and nothing newer");
        }
        Ok(row.date)
    }

    fn found(&self, note: &Note, date: String) -> Found {
        let backup = Backup {
            id: self.file_name.id.clone(),
            volume_id: self.volume_id.clone(),
            parent_id: None,
            name: Some(note.name.clone()),
            written_as_file: true,
            description: note.description.clone(),
            created_at: Some(self.created_at),
            modified: note.modified(),
            size: note.size,
            data_bytes: None,
            stored_bytes: None,
            generation: new_generation(self.name(), &date),
            object_count: 1,
            compression: String::new(),
            depth: 0,
            service: SERVICE,
            container: String::new(),
            service_metadata: service_metadata(self.name()),
            fault: None,
        };
        Found {
            backup: Arc::new(backup),
            name: self.name().clone(),
            date,
            size: Size::Exact(note.size),
            note: Some(note.clone()),
        }
    }
}

#[async_trait]
impl BackupSink for SpooledSink {
    fn backup_id(&self) -> &str {
        &self.file_name.id
    }

    fn chunk_size(&self) -> u64 {
        CHUNK
    }

    fn admit_size(&self, _size: u64) -> Result<()> {
        Ok(())
    }

    async fn take_device(&self, device: &Path) -> Result<bool> {
        if !self.shared.options.images {
            return Ok(false);
        }
        let path = device.canonicalize();
        let path = path.map_err(|e| Error::io("find", device.display().to_string(), &e))?;
        let options = &self.shared.options;
        let id = self.file_name.id.clone();
        let name = Name {
            path: Path::new(DEVICES).join(format!("{}-{id}", options.prefix)),
            mode: Mode::Image,
            id,
        };
        let _ = self.device.set((path, name));
        Ok(true)
    }

    async fn store(&self, index: u64, data: ChunkData) -> Result<()> {
        self.is_changed.store(true, Ordering::SeqCst);
        self.spool.store(index, data).await
    }

    async fn load(&self, index: u64) -> Result<Option<ChunkData>> {
        self.spool.load(index).await
    }

    async fn remove(&self, index: u64) -> Result<()> {
        self.is_changed.store(true, Ordering::SeqCst);
        self.spool.remove(index).await
    }

    async fn publish(&self, size: u64, description: &Description) -> Result<Arc<Backup>> {
        let mut sent = self.sent.lock().await;
        let before = sent.published.clone();
        let is_changed = self.is_changed.load(Ordering::SeqCst);
        if let Some(found) = before
            .as_ref()
            .filter(|found| !is_changed && found.backup.size == size)
        {
            let sha256 = found.note.as_ref().and_then(|note| note.sha256.clone());
            let note = self.note(size, description, sha256);
            self.keep(note.clone()).await?;
            let found = self.found(&note, found.date.clone());
            self.shared.listing.put(found.clone());
            sent.published = Some(found.clone());
            return Ok(found.backup);
        }
        self.is_changed.store(false, Ordering::SeqCst);
        let sealed = match self.device.get() {
            // Reading a device once more would take as long as sending it.
            Some(_) => Ok(None),
            None => tokio::select! {
                sealed = self.spool.complete(size) => sealed.map(Some),
                e = self.broken_off() => Err(e),
            },
        };
        let note = match sealed {
            Ok(sha256) => self.note(size, description, sha256),
            Err(e) => {
                self.is_changed.store(true, Ordering::SeqCst);
                return Err(e);
            }
        };
        // First, so that what the server has never lacks its name; and with what it may have
        // had, for until it says what it has now it may be either.
        let both = Note {
            candidates: self.candidates(&sent, &note).await,
            is_unconfirmed: sent.published.is_none(),
            ..note.clone()
        };
        let done = async {
            self.keep(both.clone()).await?;
            self.send(size, &mut sent).await
        };
        match done.await {
            Ok(date) => {
                sent.is_unsure = false;
                let mut found = self.found(&note, date);
                if both != note
                    && let Err(e) = self.keep(note).await
                {
                    tracing::warn!("{e}");
                    found.note = Some(both);
                }
                self.shared.listing.see(self.name()).await;
                self.shared.shelf.forget(&self.name().key());
                self.shared.listing.put(found.clone());
                sent.published = Some(found.clone());
                Ok(found.backup)
            }
            Err(e) => {
                self.is_changed.store(true, Ordering::SeqCst);
                // The note stays: it goes with the object, once that is known to be gone.
                if let Some(found) = &sent.published {
                    let note = Some(both);
                    let found = Found {
                        note,
                        ..found.clone()
                    };
                    self.shared.listing.put(found);
                }
                Err(e)
            }
        }
    }

    async fn revert(&self) -> Result<()> {
        let mut sent = self.sent.lock().await;
        let Some(found) = sent.published.clone().filter(|_| sent.is_unsure) else {
            return Ok(());
        };
        // What was sent since, if the server has it, stands in for what was published.
        let rows = self.versions().await?;
        let is_it = |row: &Row| row.is_active && row.date == found.date;
        if !rows.iter().any(is_it) || rows.iter().filter(|row| row.is_active).count() != 1 {
            self.shared.listing.expire();
            let reason = "the server has something else than what was published before";
            return Err(tsm_error("revert", self.name(), reason));
        }
        if let Some(note) = found.note.clone() {
            self.keep(note).await?;
        }
        sent.is_unsure = false;
        self.shared.listing.put(found);
        Ok(())
    }

    async fn discard(&self) -> Result<()> {
        let mut sent = self.sent.lock().await;
        self.spool.clear();
        self.is_changed.store(true, Ordering::SeqCst);
        if sent.is_tried {
            let is_listed = sent.published.is_some();
            delete_object(&self.shared, self.name(), is_listed).await?;
            sent.is_tried = false;
            sent.published = None;
        }
        Ok(())
    }

    fn seal(&self) {
        self.spool.unlink();
    }

    fn break_off(&self) {
        self.is_broken_off.store(true, Ordering::SeqCst);
    }
}
