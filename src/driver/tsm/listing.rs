//! The backups that the server has: what the client finds under the names of backups, asked
//! for when it is older than it may be.

use super::catalog::Catalog;
use super::client::{Client, Mode, advice_on};
use super::found::{Assembly, Found, Shown, generation};
use super::names::{DEVICES, Name, Told, is_plain, told};
use super::rows::Row;
use super::stage::Shelf;
use super::verdict::is_of_session;
use crate::config;
use crate::driver::Backup;
use crate::error::{Error, Kind, Result};
use crate::task::{Queue, blocking};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

/// How long an answer is waited for, when something older can be shown.
const LONG: Duration = Duration::from_secs(20);
/// The same where the server has not answered lately.
const SHORT: Duration = Duration::from_secs(5);

/// For how long an image that was not found is not asked for again.
const ABSENCE: Duration = Duration::from_secs(600);
/// How long images may be asked for one by one, before the rest waits for the next time.
const ONE_BY_ONE: Duration = Duration::from_secs(120);

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
    /// What was said of images that were asked for by their names, and when.
    by_name: HashMap<PathBuf, (Instant, Vec<Row>)>,
    /// Rows of several lines whose names were asked for: there are such.
    confirmed: HashSet<(PathBuf, Mode)>,
    /// Of these paths it was said that they are none that can be listed.
    odd: HashSet<String>,
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
            Ok((mut shown, missing)) => {
                edits.iter().for_each(|edit| edit.apply(&mut shown));
                state.shown = shown;
                state.trouble = missing;
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

    /// All backups, and why some may be missing.
    async fn ask(&self) -> Result<(Shown, Option<Error>)> {
        let folder = self.options.catalog.clone();
        let catalog = blocking(move || Catalog::read(&folder)).await?;
        let pattern = format!("{}-*", self.options.prefix);
        let staging = &self.options.staging;
        let mut objects = Vec::new();
        let own = self
            .client
            .files(&staging.join(&pattern), true, true)
            .await?;
        self.take(own, Mode::File, &mut objects).await?;
        for folder in self.folders(&catalog) {
            let rows = self
                .client
                .files(&folder.join(&pattern), false, true)
                .await?;
            self.take(rows, Mode::File, &mut objects).await?;
        }
        let missing = match self.options.lists_images {
            true => self.ask_for_images(&catalog, &mut objects).await?,
            false => None,
        };
        let (failures, mut warned) = {
            let mut state = self.lock();
            (state.failures.clone(), std::mem::take(&mut state.warned))
        };
        let shown = Assembly {
            staging: &self.options.staging,
            shelf: &self.shelf,
            catalog: &catalog,
            failures: &failures,
            warned: &mut warned,
        }
        .shown(objects);
        self.lock().warned = warned;
        Ok((shown, missing))
    }

    /// All images at once; if nothing comes of that, those that are known, one by one. Gives
    /// why some have not been asked for yet.
    async fn ask_for_images(
        &self,
        catalog: &Catalog,
        objects: &mut Vec<(Name, Row)>,
    ) -> Result<Option<Error>> {
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
        if !images.is_empty() {
            self.take(images, Mode::Image, objects).await?;
            return Ok(None);
        }
        let (start, mut later) = (Instant::now(), 0);
        for path in self.images(catalog) {
            let known = self.lock().by_name.get(&path).cloned();
            // One by one they take as long each as all together, and records outlive images.
            let is_absent =
                |(at, rows): &(Instant, Vec<Row>)| rows.is_empty() && at.elapsed() < ABSENCE;
            let rows = if known.as_ref().is_some_and(is_absent) {
                continue;
            } else if start.elapsed() >= ONE_BY_ONE {
                later += usize::from(known.is_none());
                known
            } else {
                match self.client.images(Some(&path)).await {
                    Ok(rows) => {
                        let answer = (Instant::now(), rows);
                        self.lock().by_name.insert(path, answer.clone());
                        Some(answer)
                    }
                    Err(e) if is_of_session(&e) => return Err(e),
                    // What is wrong with one hides no other.
                    Err(e) => {
                        tracing::warn!("what was last known of that image is shown: {e}");
                        known
                    }
                }
            };
            if let Some((_, rows)) = rows {
                self.take(rows, Mode::Image, objects).await?;
            }
        }
        Ok((later > 0).then(|| {
            let reason = format!(
                "{later} images that the catalog names are still to be asked for, one by one"
            );
            Error::new(Kind::TimedOut, "list", "the backups", reason)
                .advise("wait; remove the records of backups that are gone")
        }))
    }

    /// The folders in which Cinder had files of volumes, as far as anybody knows.
    fn folders(&self, catalog: &Catalog) -> BTreeSet<PathBuf> {
        let of_records = catalog.rows.values().filter(|row| row.mode == Mode::File);
        let of_records = of_records.filter_map(|row| row.path.as_deref());
        // Where the folder of stages was before.
        let of_notes = catalog
            .notes
            .values()
            .filter(|note| note.mode == Mode::File);
        let of_notes = of_notes.filter(|note| note.is_of(&self.options));
        let paths = of_records.chain(of_notes.map(|note| note.path.as_path()));
        let folders = paths
            .filter(|path| self.is_plain(path))
            .filter_map(Path::parent);
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
        let all = records.chain(notes.map(|note| note.path.clone()));
        all.filter(|path| self.is_plain(path)).collect()
    }

    /// Whether something may be asked for. A record that names what may not is skipped.
    fn is_plain(&self, path: &Path) -> bool {
        if !is_plain(path) {
            self.warn_of(&path.to_string_lossy(), "no path that a backup can have");
        }
        is_plain(path)
    }

    fn warn_of(&self, path: &str, reason: &str) {
        if self.lock().odd.insert(path.to_owned()) {
            tracing::warn!("{path:?} is not listed: it is {reason}");
        }
    }

    async fn take(&self, rows: Vec<Row>, mode: Mode, objects: &mut Vec<(Name, Row)>) -> Result<()> {
        for row in rows {
            let name = match told(&row.path, mode, &self.options.prefix) {
                Told::Backup(name) => name,
                // Perhaps it is one of ours, in a form that nobody knows.
                _ if row.is_joined => return Err(not_known(&row.path, mode)),
                Told::Odd
                    if row
                        .path
                        .contains(|c: char| c.is_control() || c.is_whitespace()) =>
                {
                    return Err(not_known(&row.path, mode));
                }
                Told::Odd => {
                    self.warn_of(&row.path, "none of Cinder's: its name has no id");
                    continue;
                }
                Told::Foreign => continue,
            };
            if row.is_joined && !self.is_there(&name).await? {
                return Err(not_known(&row.path, mode));
            }
            objects.push((name, row));
        }
        Ok(())
    }

    /// Whether a name that was put together of several lines is that of an object.
    async fn is_there(&self, name: &Name) -> Result<bool> {
        let key = (name.path.clone(), name.mode);
        if self.lock().confirmed.contains(&key) {
            return Ok(true);
        }
        let rows = self.client.versions(&name.path, name.mode).await?;
        let is_it = rows.iter().any(|row| Path::new(&row.path) == name.path);
        if is_it {
            self.lock().confirmed.insert(key);
        }
        Ok(is_it)
    }
}

fn not_known(path: &str, mode: Mode) -> Error {
    let reason = format!("{path:?} is no name that is known");
    let error = Error::new(
        Kind::Unavailable,
        "understand",
        "the list of objects",
        reason,
    );
    error.advise(advice_on(mode))
}
