//! The backups that the server has: what the client finds under the names of backups, with
//! what the catalog says of it.

use super::catalog::{Catalog, Note, Row as Record};
use super::client::{Client, Mode};
use super::names::{DEVICES, Name, UNASSIGNED};
use super::rows::{self, Row, Size};
use super::stage::Shelf;
use crate::config;
use crate::driver::Backup;
use crate::error::{Error, Kind, Result};
use crate::task::{Queue, blocking};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

/// Class path of the Cinder driver whose backups these are.
pub const SERVICE: &str = "cinder.backup.drivers.tsm.TSMBackupDriver";
/// How long an answer is waited for, when something older can be shown.
const LONG: Duration = Duration::from_secs(20);
/// The same where the server has not answered lately.
const SHORT: Duration = Duration::from_secs(5);

/// For how long an image that was not found is not asked for again.
const ABSENCE: Duration = Duration::from_secs(600);

/// A backup, and the object that it is.
#[derive(Debug, Clone)]
pub struct Found {
    pub backup: Arc<Backup>,
    pub name: Name,
    /// When it was sent, as the client tells it: another one is another object.
    pub date: String,
    /// As far as the client tells it.
    pub size: Size,
    /// What we know of it, if it is one of ours.
    pub note: Option<Note>,
}

type Shown = BTreeMap<String, Vec<Found>>;

/// See the module's page.
#[derive(Debug)]
pub struct Listing {
    client: Arc<Client>,
    shelf: Arc<Shelf>,
    options: config::Tsm,
    list_ttl: Duration,
    queue: Queue<()>,
    once_by_name: Once,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    listed: Option<Instant>,
    shown: Shown,
    /// What was changed here while the server was being asked; `None`: it is not.
    edits: Option<Vec<Edit>>,
    /// Why the server could not be asked when that was last tried.
    trouble: Option<Error>,
    /// How often something went wrong with an object after a part of it was given out.
    failures: HashMap<String, u64>,
    /// Images that were not there, and when they were asked for.
    absent: HashMap<PathBuf, Instant>,
    /// Of these it was said that the server will delete them.
    warned: HashSet<Name>,
}

#[derive(Debug, Clone)]
enum Edit {
    Put(Box<Found>),
    Remove(Name),
}

impl Edit {
    fn apply(&self, shown: &mut Shown) {
        let name = match self {
            Self::Put(found) => &found.name,
            Self::Remove(name) => name,
        };
        for found in shown.values_mut() {
            found.retain(|found| found.name != *name);
        }
        if let Self::Put(found) = self {
            let volume = shown.entry(found.backup.volume_id.clone()).or_default();
            volume.push((**found).clone());
        }
        shown.retain(|_, found| !found.is_empty());
    }
}

impl Listing {
    /// Nothing is listed yet.
    pub fn new(
        client: &Arc<Client>,
        shelf: &Arc<Shelf>,
        options: &config::Tsm,
        list_ttl: Duration,
    ) -> Arc<Self> {
        Arc::new(Self {
            client: Arc::clone(client),
            shelf: Arc::clone(shelf),
            options: options.clone(),
            list_ttl,
            queue: Queue::default(),
            once_by_name: Once::new(),
            state: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why listings are older than they should be.
    pub fn trouble(&self) -> Option<Error> {
        self.lock().trouble.clone()
    }

    /// Ids of all volumes that have a backup.
    pub async fn volumes(self: &Arc<Self>) -> Result<Vec<String>> {
        self.refreshed().await?;
        Ok(self.lock().shown.keys().cloned().collect())
    }

    /// The backups of a volume.
    pub async fn backups(self: &Arc<Self>, volume_id: &str) -> Result<Vec<Arc<Backup>>> {
        self.refreshed().await?;
        let state = self.lock();
        let found = state.shown.get(volume_id).into_iter().flatten();
        Ok(found.map(|found| Arc::clone(&found.backup)).collect())
    }

    /// Where a backup is.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn find(&self, backup: &Backup) -> Result<Found> {
        let state = self.lock();
        let volume = state.shown.get(&backup.volume_id);
        let found = volume.into_iter().flatten().find(|found| {
            found.backup.id == backup.id && found.backup.service_metadata == backup.service_metadata
        });
        found.cloned().ok_or_else(|| {
            let subject = format!("backup {}", backup.id);
            let reason = "the server does not have it any more";
            Error::new(Kind::NotFound, "find", subject, reason)
        })
    }

    /// Names of all objects that were found last.
    pub fn names(&self) -> HashSet<Name> {
        let state = self.lock();
        let all = state.shown.values().flatten();
        all.map(|found| found.name.clone()).collect()
    }

    /// What was changed here shows at once.
    pub fn put(&self, found: Found) {
        self.edit(Edit::Put(Box::new(found)));
    }

    /// The same for what was deleted.
    pub fn remove(&self, name: &Name) {
        self.edit(Edit::Remove(name.clone()));
    }

    fn edit(&self, edit: Edit) {
        let mut state = self.lock();
        edit.apply(&mut state.shown);
        if let Some(edits) = &mut state.edits {
            edits.push(edit);
        }
    }

    /// What was given out of an object may not have been what it is: nobody shall keep it.
    pub fn distrust(&self, name: &Name) {
        let mut state = self.lock();
        *state.failures.entry(name.key()).or_default() += 1;
        let failures = state.failures.clone();
        for found in state.shown.values_mut().flatten() {
            if found.name == *name {
                let mut backup = Backup::clone(&found.backup);
                backup.generation = generation(name, &found.date, &failures);
                found.backup = Arc::new(backup);
            }
        }
    }

    /// What is staged may tell what the client does not. It is looked at next time.
    pub fn expire(&self) {
        self.lock().listed = None;
    }

    fn is_fresh(&self) -> bool {
        let listed = self.lock().listed;
        listed.is_some_and(|at| at.elapsed() < self.list_ttl)
    }

    async fn refreshed(self: &Arc<Self>) -> Result<()> {
        if self.is_fresh() {
            return Ok(());
        }
        let (has_older, is_troubled) = {
            let state = self.lock();
            (state.listed.is_some(), state.trouble.is_some())
        };
        let listing = Arc::clone(self);
        // It goes on when nobody waits any more.
        let asked = tokio::spawn(async move {
            let mut turn = listing.queue.turn().await?;
            if listing.is_fresh() {
                return Ok(());
            }
            let refreshed = listing.refresh().await;
            turn.note(refreshed)
        });
        let patience = if is_troubled { SHORT } else { LONG };
        let ended = match has_older {
            false => asked.await,
            true => match tokio::time::timeout(patience, asked).await {
                Ok(ended) => ended,
                Err(_) => {
                    let reason = "dsmc has not answered yet, and is waited for";
                    let late = Error::new(Kind::TimedOut, "list", "the backups", reason);
                    self.lock().trouble.get_or_insert(late);
                    return Ok(());
                }
            },
        };
        ended.unwrap_or_else(|e| {
            let reason = format!("a fault of the program: {e}");
            Err(Error::new(Kind::Unavailable, "list", "the backups", reason))
        })
    }

    async fn refresh(&self) -> Result<()> {
        self.lock().edits = Some(Vec::new());
        let asked = self.ask().await;
        let mut state = self.lock();
        let edits = state.edits.take().unwrap_or_default();
        match asked {
            Ok(mut shown) => {
                edits.iter().for_each(|edit| edit.apply(&mut shown));
                state.shown = shown;
                state.trouble = None;
                state.listed = Some(Instant::now());
                Ok(())
            }
            Err(e) => {
                let was_well = state.trouble.replace(e.clone()).is_none();
                if state.listed.is_none() {
                    return Err(e);
                }
                if was_well {
                    tracing::warn!("what was last listed is shown for now: {e}");
                }
                state.listed = Some(Instant::now());
                Ok(())
            }
        }
    }

    async fn ask(&self) -> Result<Shown> {
        let folder = self.options.catalog.clone();
        let catalog = blocking(move || Catalog::read(&folder)).await?;
        let pattern = format!("{}-*", self.options.prefix);
        let staging = &self.options.staging;
        let mut objects = Vec::new();
        let own = self
            .client
            .files(&staging.join(&pattern), true, true)
            .await?;
        self.take(own, Mode::File, &mut objects)?;
        for folder in self.folders(&catalog) {
            let rows = self
                .client
                .files(&folder.join(&pattern), false, true)
                .await?;
            self.take(rows, Mode::File, &mut objects)?;
        }
        let images = match self.client.images(None).await {
            Ok(rows) => rows,
            // Perhaps it has to be told which.
            Err(e) if e.kind() == Kind::Unsupported => {
                self.once_by_name.call_once(|| {
                    tracing::warn!("only those images are listed that the catalog knows: {e}");
                });
                Vec::new()
            }
            Err(e) => return Err(e),
        };
        self.take(images, Mode::Image, &mut objects)?;
        for path in self.images(&catalog) {
            let is_known = |(name, _): &(Name, Row)| name.mode == Mode::Image && name.path == path;
            if objects.iter().any(is_known) || self.is_absent(&path) {
                continue;
            }
            let rows = self.client.images(Some(&path)).await?;
            if rows.is_empty() {
                self.lock().absent.insert(path, Instant::now());
            }
            self.take(rows, Mode::Image, &mut objects)?;
        }
        Ok(self.assemble(&catalog, objects))
    }

    /// Whether an image was not there when it was asked for lately. That takes as long as all
    /// of them together, and records outlive images.
    fn is_absent(&self, path: &Path) -> bool {
        let state = self.lock();
        let since = state.absent.get(path);
        since.is_some_and(|since| since.elapsed() < ABSENCE)
    }

    /// The folders in which Cinder had files of volumes, as far as anybody knows.
    fn folders(&self, catalog: &Catalog) -> BTreeSet<PathBuf> {
        let of_records = catalog.rows.values().filter(|row| row.mode == Mode::File);
        let folders = of_records.filter_map(|row| row.path.as_deref()?.parent());
        let told = self.options.folders.iter().map(PathBuf::as_path);
        let all = told.chain(folders);
        // What is below the folder of stages is asked for already.
        let others = all.filter(|folder| !folder.starts_with(&self.options.staging));
        others.map(Path::to_owned).collect()
    }

    /// The images that the catalog knows.
    fn images(&self, catalog: &Catalog) -> BTreeSet<PathBuf> {
        let records = catalog.rows.values().filter(|row| row.mode == Mode::Image);
        let records = records.map(|row| {
            let made = || format!("{DEVICES}/{}-{}", self.options.prefix, row.id).into();
            row.path.clone().unwrap_or_else(made)
        });
        let notes = catalog
            .notes
            .values()
            .filter(|note| note.mode == Mode::Image);
        records.chain(notes.map(|note| note.path.clone())).collect()
    }

    fn take(&self, rows: Vec<Row>, mode: Mode, objects: &mut Vec<(Name, Row)>) -> Result<()> {
        for row in rows {
            match Name::parse(&row.path, mode, &self.options.prefix) {
                Some(name) => objects.push((name, row)),
                // Perhaps it is one of ours, in a form that nobody knows.
                None if row.is_joined => {
                    let reason = format!("\"{}\" is no name that is known", row.path);
                    let subject = "the list of objects";
                    return Err(Error::new(Kind::Unavailable, "understand", subject, reason)
                        .advise("tests/tsm-conformance.sh shows what this client says; please report it"));
                }
                None => {}
            }
        }
        Ok(())
    }

    fn assemble(&self, catalog: &Catalog, objects: Vec<(Name, Row)>) -> Shown {
        let mut newest: BTreeMap<(PathBuf, bool), (Name, Row)> = BTreeMap::new();
        for (name, row) in objects {
            let key = (name.path.clone(), name.mode == Mode::Image);
            let rank = |row: &Row| (row.is_active, rows::time(&row.date), row.date.clone());
            match newest.get(&key) {
                Some((_, before)) if rank(before) >= rank(&row) => {}
                _ => drop(newest.insert(key, (name, row))),
            }
        }
        let failures = self.lock().failures.clone();
        let mut shown = Shown::new();
        for (name, row) in newest.into_values() {
            self.warn_of_expiry(&name, &row);
            let record = catalog.rows.get(&name.id);
            let note = catalog
                .notes
                .get(&name.id)
                .filter(|note| note.path == name.path);
            let found = self.found(name, &row, note, record, &failures);
            let volume = shown.entry(found.backup.volume_id.clone()).or_default();
            if let Some(other) = volume
                .iter_mut()
                .find(|other| other.backup.id == found.backup.id)
            {
                tracing::warn!(
                    "backup {} is there twice: as {} and as {}; the one that the catalog names, or \
                     the latter, is shown",
                    found.backup.id,
                    other.name.path.display(),
                    found.name.path.display()
                );
                let named = record.and_then(|record| record.path.as_ref());
                if named != Some(&other.name.path) {
                    *other = found;
                }
                continue;
            }
            volume.push(found);
        }
        shown
    }

    /// What a scheduled backup of the node has not found under its name any more, the server
    /// deletes in time. Says so once for each.
    fn warn_of_expiry(&self, name: &Name, row: &Row) {
        if row.is_active || !self.lock().warned.insert(name.clone()) {
            return;
        }
        tracing::warn!(
            "backup {} is inactive on the server, which deletes such after a time (RETONLY of its \
             management class, 60 days by default): an incremental backup of the node has looked \
             for {}; let none go over that folder",
            name.id,
            name.path.display()
        );
    }

    fn found(
        &self,
        name: Name,
        row: &Row,
        note: Option<&Note>,
        record: Option<&Record>,
        failures: &HashMap<String, u64>,
    ) -> Found {
        let volume = name.own_volume(&self.options.staging);
        let volume = volume
            .or_else(|| note.map(|note| note.volume_id.clone()))
            .or_else(|| record?.volume_id.clone())
            .unwrap_or_else(|| UNASSIGNED.to_owned());
        let (size, fault) = self.size(&name, row, note, record);
        let backup = Backup {
            id: name.id.clone(),
            volume_id: volume,
            parent_id: None,
            name: note
                .map(|note| note.name.clone())
                .or_else(|| record?.name.clone()),
            written_as_file: note.is_some(),
            description: match note {
                Some(note) => note.description.clone(),
                None => record.and_then(|record| record.description.clone()),
            },
            created_at: note
                .and_then(Note::created_at)
                .or_else(|| record?.created_at)
                .or_else(|| rows::time(&row.date)),
            modified: note.and_then(Note::modified),
            size,
            data_bytes: None,
            stored_bytes: None,
            generation: generation(&name, &row.date, failures),
            object_count: 1,
            compression: String::new(),
            depth: 0,
            service: SERVICE,
            container: String::new(),
            service_metadata: service_metadata(&name),
            fault,
        };
        Found {
            backup: Arc::new(backup),
            name,
            date: row.date.clone(),
            size: row.size,
            note: note.cloned(),
        }
    }

    /// The size of an image in bytes, and why it is not known.
    fn size(
        &self,
        name: &Name,
        row: &Row,
        note: Option<&Note>,
        record: Option<&Record>,
    ) -> (u64, Option<Error>) {
        let subject = || format!("backup {}", name.id);
        if let Some(note) = note {
            if row.size.admits(note.size) {
                return (note.size, None);
            }
            let told = row.size;
            let reason = format!(
                "the server has {told}, and {} bytes were written",
                note.size
            );
            return (note.size, Some(Error::corrupt("read", subject(), reason)));
        }
        if let Size::Exact(size) = row.size {
            return (size, None);
        }
        let staged = self.shelf.staged_size(name, &row.date);
        let known = staged.or_else(|| record?.size);
        if let Some(size) = known.filter(|size| row.size.admits(*size)) {
            return (size, None);
        }
        let reason = format!("the server tells its size only roughly ({})", row.size);
        let error = Error::new(Kind::Unavailable, "read", subject(), reason)
            .advise("`cinderfs verify` fetches it and finds out, and keeps it at hand");
        (0, Some(error))
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(size) => write!(f, "{size} bytes"),
            Self::About(least, most) => write!(f, "{least} to {most} bytes"),
        }
    }
}

/// As Cinder keeps it in its database.
pub fn service_metadata(name: &Name) -> String {
    let path = name.path.to_string_lossy();
    json!({"backup_mode": name.mode.name(), "backup_path": path}).to_string()
}

/// Another one for every object that ever was this backup, and after every failure.
fn generation(name: &Name, date: &str, failures: &HashMap<String, u64>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (name, date, failures.get(&name.key())).hash(&mut hasher);
    hasher.finish()
}

/// The generation of an object that was just sent.
pub fn new_generation(name: &Name, date: &str) -> u64 {
    generation(name, date, &HashMap::new())
}
