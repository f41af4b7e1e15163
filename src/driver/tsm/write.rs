//! A backup in the making: spooled whole, then sent by the client under a name of its own,
//! and only a backup once the server says that it has it.

use super::catalog::{self, Note, Owner, micros};
use super::client::Mode;
use super::found::{Found, SERVICE, new_generation, service_metadata};
use super::names::{DEVICES, Name};
use super::part::sha256;
use super::rows::{Row, Size};
use super::stage::make_private;
use super::tsm_error;
use super::{Shared, delete_object};
use crate::driver::{Backup, BackupSink, ChunkData, Description, is_zero};
use crate::error::{Error, Result};
use crate::format::Timestamp;
use crate::task::blocking;
use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::FallocateFlags;
use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Below the folder of stages: what is being written.
pub const SPOOL: &str = ".spool";
/// How the image is cut up on its way into the spool, in bytes.
const CHUNK: u64 = 4 << 20;
/// Between two of one name, so that their dates differ: the server counts seconds.
const APART: Duration = Duration::from_millis(1100);
/// What is written at a time; so much that is zero becomes a hole.
const PIECE: usize = 256 << 10;

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
    spool: PathBuf,
    file: Arc<File>,
    /// How long the chunks are that were stored.
    lengths: Mutex<HashMap<u64, u64>>,
    /// Something was stored since it was sent.
    is_changed: AtomicBool,
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

/// A link that goes, whatever happens, and its folder if nothing else is in it.
struct Link(PathBuf);

impl Link {
    /// Makes it.
    fn new(spool: &Path, path: &Path) -> std::io::Result<Self> {
        let folder = path.parent().unwrap_or(Path::new("/"));
        // Who removes a link beside it may remove the folder.
        for _ in 0..100 {
            fs::create_dir_all(folder)?;
            match fs::hard_link(spool, path) {
                Ok(()) => return Ok(Self(path.to_owned())),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound && spool.exists() => {}
                Err(e) => return Err(e),
            }
        }
        Err(std::io::ErrorKind::ResourceBusy.into())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_file(&self.0) {
            tracing::warn!("the link {} is left: {e}", self.0.display());
        }
        if let Some(folder) = self.0.parent() {
            let _ = fs::remove_dir(folder);
        }
    }
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
        let spool = options.staging.join(SPOOL).join(&name.id);
        let (path, catalog) = (spool.clone(), options.catalog.clone());
        let make = move || {
            let folder = path.parent().unwrap_or(Path::new("/"));
            let make = || {
                use std::os::unix::fs::OpenOptionsExt;
                make_private(folder)?;
                make_private(&catalog)?;
                let mut options = File::options();
                options.read(true).write(true).create_new(true).mode(0o600);
                let file = options.open(&path)?;
                // Whoever finds it sees that somebody is at it.
                file.lock()?;
                Ok(file)
            };
            make().map_err(|e: std::io::Error| {
                Error::io("make a spool file in", folder.display().to_string(), &e)
                    .advise("set backup_tsm_staging_path to a folder that may be written to")
            })
        };
        let file = blocking(make).await?;
        Ok(Self {
            shared: Arc::clone(shared),
            volume_id: volume_id.to_owned(),
            file_name: name,
            device: OnceLock::new(),
            created_at: Timestamp::now(),
            spool,
            file: Arc::new(file),
            lengths: Mutex::default(),
            is_changed: AtomicBool::new(true),
            sent: tokio::sync::Mutex::default(),
        })
    }

    fn name(&self) -> &Name {
        self.device.get().map_or(&self.file_name, |(_, name)| name)
    }

    fn lengths(&self) -> MutexGuard<'_, HashMap<u64, u64>> {
        self.lengths.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn write(&self, start: u64, data: Option<ChunkData>, length: u64) -> Result<()> {
        self.is_changed.store(true, Ordering::SeqCst);
        let file = Arc::clone(&self.file);
        blocking(move || {
            // What was there before, and what is zero now, is a hole.
            let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&*file, punch, start, length.max(1))
                .map_err(|e| spool_error(&e.into()))?;
            let Some(data) = data.filter(|data| !matches!(data, ChunkData::Zero(_))) else {
                return Ok(());
            };
            let mut piece = vec![0; PIECE];
            let mut at = 0;
            while at < data.len() {
                let length = (data.len() - at).min(PIECE as u64);
                let Some(piece) = piece.get_mut(..length as usize) else {
                    break;
                };
                data.read_at(at, piece)?;
                if !is_zero(piece) {
                    let written = file.write_all_at(piece, start + at);
                    written.map_err(|e| spool_error(&e))?;
                }
                at += length;
            }
            Ok(())
        })
        .await
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
            owner: Some(Owner::of(&self.shared.options)),
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
        let spool = self.device.get().map_or(&self.spool, |(device, _)| device);
        let (spool, path) = (spool.clone(), self.name().path.clone());
        let link = blocking(move || {
            Link::new(&spool, &path)
                .map_err(|e| Error::io("link the spool as", path.display().to_string(), &e))
        })
        .await?;
        let client = &self.shared.client;
        let is_counted = client.back_up(&self.name().path, self.name().mode).await?;
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

fn spool_error(e: &std::io::Error) -> Error {
    Error::io("write to", "the spool of what is to be sent", e).advise(
        "make room in backup_tsm_staging_path: a backup is there as a whole before it is sent",
    )
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
        let length = data.len();
        self.write(index * CHUNK, Some(data), length.max(CHUNK))
            .await?;
        self.lengths().insert(index, length);
        Ok(())
    }

    async fn load(&self, index: u64) -> Result<Option<ChunkData>> {
        let Some(length) = self.lengths().get(&index).copied() else {
            return Ok(None);
        };
        let file = Arc::clone(&self.file);
        blocking(move || {
            // Less than a chunk.
            let mut bytes = vec![0; length as usize];
            let mut filled = 0;
            // What is behind the last byte that was written is zero.
            while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
                match file.read_at(rest, index * CHUNK + filled as u64) {
                    Ok(0) => break,
                    Ok(some) => filled += some,
                    Err(e) => return Err(spool_error(&e)),
                }
            }
            Ok(Some(ChunkData::Memory(Bytes::from(bytes))))
        })
        .await
    }

    async fn remove(&self, index: u64) -> Result<()> {
        self.lengths().remove(&index);
        self.write(index * CHUNK, None, CHUNK).await
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
        let file = Arc::clone(&self.file);
        let is_image = self.device.get().is_some();
        let sealed = blocking(move || {
            let seal = || {
                file.set_len(size)?;
                file.sync_all()?;
                sha256(&file, size).map(Some)
            };
            match is_image {
                // Reading a device once more would take as long as sending it.
                true => Ok(None),
                false => seal().map_err(|e| spool_error(&e)),
            }
        });
        let note = match sealed.await {
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
                if !both.candidates.is_empty()
                    && let Err(e) = self.keep(note).await
                {
                    tracing::warn!("{e}");
                    found.note = Some(both);
                }
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
        let _ = fs::remove_file(&self.spool);
        if sent.is_tried {
            delete_object(&self.shared, self.name()).await?;
            sent.is_tried = false;
            sent.published = None;
        }
        Ok(())
    }

    fn seal(&self) {
        let _ = fs::remove_file(&self.spool);
    }
}

impl Drop for SpooledSink {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.spool);
    }
}
