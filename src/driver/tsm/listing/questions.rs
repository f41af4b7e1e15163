//! The questions to the server that a listing is made of.

use super::super::catalog::Catalog;
use super::super::client::{Mode, advice_on};
use super::super::found::{Assembly, Found, Shown};
use super::super::names::{DEVICES, Name, Told, is_plain, told};
use super::super::rows::Row;
use super::super::verdict::is_of_session;
use super::Listing;
use crate::error::{Error, Kind, Result};
use crate::task::blocking;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// For how long an image that was not found is not asked for again.
const ABSENCE: Duration = Duration::from_secs(600);
/// How long objects may be asked for one by one, before the rest waits for the next time.
const ONE_BY_ONE: Duration = Duration::from_secs(120);

/// What has come of all questions.
#[derive(Debug)]
pub(super) struct Answer {
    pub shown: Shown,
    /// Why something may be missing.
    pub lacking: Option<Error>,
    unanswered: HashSet<Unanswered>,
}

/// What nobody knows anything new of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Unanswered {
    /// Files in this folder, or this one.
    Folder(PathBuf),
    /// An image.
    Image(PathBuf),
    Images,
}

/// What was heard so far.
#[derive(Debug)]
struct Heard {
    start: Instant,
    objects: Vec<(Name, Row)>,
    lacking: Option<Error>,
    /// Something in an answer was not understood.
    is_odd: bool,
    unanswered: HashSet<Unanswered>,
}

impl Heard {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            objects: Vec::new(),
            lacking: None,
            is_odd: false,
            unanswered: HashSet::new(),
        }
    }

    fn lack(&mut self, e: Error) {
        self.lacking.get_or_insert(e);
    }

    /// Nothing has come of one question, which hides nothing else.
    fn fail(&mut self, of: Unanswered, e: Error) {
        self.unanswered.insert(of);
        self.lack(e);
    }

    /// A row means nothing that is known, which hides no other.
    fn miss(&mut self, e: Error) {
        self.is_odd = true;
        self.lack(e);
    }
}

impl Unanswered {
    fn of(path: &str, mode: Mode) -> Self {
        match mode {
            Mode::File => Self::Folder(path.into()),
            Mode::Image => Self::Image(path.into()),
        }
    }
}

impl Answer {
    /// What was known of that of which nothing new was heard stands.
    pub fn keep_unanswered(&mut self, before: &Shown) {
        for found in before.values().flatten() {
            let volume = self.shown.get(&found.backup.volume_id);
            let is_same = |other: &Found| other.backup.id == found.backup.id;
            let is_known = volume.is_some_and(|volume| volume.iter().any(is_same));
            if !is_known && is_unanswered(&self.unanswered, &found.name) {
                let volume = self.shown.entry(found.backup.volume_id.clone());
                volume.or_default().push(found.clone());
            }
        }
    }
}

/// Whether nothing was heard of an object because a question was not answered.
pub(super) fn is_unanswered(all: &HashSet<Unanswered>, name: &Name) -> bool {
    match name.mode {
        Mode::File => {
            let mut above = name.path.ancestors();
            above.any(|folder| all.contains(&Unanswered::Folder(folder.to_owned())))
        }
        Mode::Image => {
            all.contains(&Unanswered::Images) || all.contains(&Unanswered::Image(name.path.clone()))
        }
    }
}

impl Listing {
    /// All backups, and why some may be missing.
    pub(super) async fn ask(&self) -> Result<Answer> {
        let folder = self.options.catalog.clone();
        let catalog = blocking(move || Catalog::read(&folder)).await?;
        let pattern = format!("{}-*", self.options.prefix);
        let staging = &self.options.staging;
        let mut heard = Heard::new();
        let own = self
            .client
            .files(&staging.join(&pattern), true, true)
            .await?;
        self.take(own, Mode::File, &mut heard).await?;
        for (folder, deep) in self.folders(&catalog) {
            match self.client.files(&folder.join(&pattern), deep, true).await {
                Ok(rows) => self.take(rows, Mode::File, &mut heard).await?,
                Err(e) if is_of_session(&e) => return Err(e),
                Err(e) => heard.fail(Unanswered::Folder(folder), e),
            }
        }
        if self.options.lists_images {
            self.ask_for_images(&catalog, &mut heard).await?;
        }
        if let Some(e) = heard
            .lacking
            .take_if(|_| heard.is_odd && heard.objects.is_empty())
        {
            return Err(e);
        }
        let names = heard.objects.iter().map(|(name, _)| name);
        let names: HashSet<Name> = names.cloned().collect();
        if let Some(e) = self.absence(&catalog, &names, &heard.unanswered).await? {
            heard.lack(e);
        }
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
        .shown(heard.objects);
        self.lock().warned = warned;
        Ok(Answer {
            shown,
            lacking: heard.lacking,
            unanswered: heard.unanswered,
        })
    }

    /// All images at once; if nothing comes of that, those that are known, one by one.
    async fn ask_for_images(&self, catalog: &Catalog, heard: &mut Heard) -> Result<()> {
        let images = match self.client.images(None).await {
            Ok(rows) => rows,
            // Perhaps it has to be told which.
            Err(e) if e.kind() == Kind::Unsupported => {
                self.once_by_name.call_once(|| {
                    tracing::warn!("only those images are listed that the catalog knows: {e}");
                });
                Vec::new()
            }
            Err(e) if is_of_session(&e) => return Err(e),
            Err(e) => {
                heard.fail(Unanswered::Images, e);
                return Ok(());
            }
        };
        if !images.is_empty() {
            return self.take(images, Mode::Image, heard).await;
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
                if known.is_none() {
                    later += 1;
                    heard.unanswered.insert(Unanswered::Image(path));
                }
                known
            } else {
                match self.client.images(Some(&path)).await {
                    Ok(rows) => {
                        let answer = (Instant::now(), rows);
                        self.lock().by_name.insert(path, answer.clone());
                        Some(answer)
                    }
                    Err(e) if is_of_session(&e) => return Err(e),
                    // What is wrong with one hides no other. What was known of it is shown.
                    Err(e) => {
                        heard.fail(Unanswered::Image(path), e);
                        known
                    }
                }
            };
            if let Some((_, rows)) = rows {
                self.take(rows, Mode::Image, heard).await?;
            }
        }
        if later > 0 {
            let reason = format!(
                "{later} images that the catalog names are still to be asked for, one by one"
            );
            let error = Error::new(Kind::TimedOut, "list", "the backups", reason);
            heard.lack(error.advise("wait; remove the records of backups that are gone"));
        }
        Ok(())
    }

    /// The folders in which Cinder had files of volumes, as far as anybody knows.
    /// Of those that are configured, also what is below them: the folder of stages may have
    /// been there.
    fn folders(&self, catalog: &Catalog) -> BTreeMap<PathBuf, bool> {
        let of_records = catalog.rows.values().filter(|row| row.mode == Mode::File);
        let of_records = of_records.filter_map(|row| row.path.as_deref());
        let owner = self.client.owner();
        // Where the folder of stages was before.
        let of_notes = catalog
            .notes
            .values()
            .filter(|note| note.mode == Mode::File);
        let of_notes = of_notes.filter(|note| note.is_of(&owner));
        let paths = of_records.chain(of_notes.map(|note| note.path.as_path()));
        let folders = paths
            .filter(|path| self.is_plain(path))
            .filter_map(Path::parent);
        let told = &self.options.folders;
        let is_told = |folder: &Path| told.iter().any(|told| folder.starts_with(told));
        let all = folders.filter(|folder| !is_told(folder));
        let all = all.map(|folder| (folder.to_owned(), false));
        let all = all.chain(told.iter().map(|folder| (folder.clone(), true)));
        // What is below the folder of stages is asked for already.
        all.filter(|(folder, _)| !folder.starts_with(&self.options.staging))
            .collect()
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

    pub(super) fn warn_of(&self, path: &str, reason: &str) {
        if self.lock().odd.insert(path.to_owned()) {
            tracing::warn!("{path:?} is not listed: it is {reason}");
        }
    }

    async fn take(&self, rows: Vec<Row>, mode: Mode, heard: &mut Heard) -> Result<()> {
        for row in rows {
            let told = told(&row.path, mode, &self.options.prefix);
            let is_own = |name: &Name| name.own_volume(&self.options.staging).is_some();
            // Names of ours have nothing in them that can be lost where a row wraps.
            let is_sure = !row.is_joined || matches!(&told, Told::Backup(name) if is_own(name));
            if !is_sure {
                match self.is_there(&row.path, mode, heard.start).await {
                    Ok(true) => {}
                    // Perhaps it is one of ours, in a form that nobody knows.
                    Ok(false) => {
                        heard.miss(not_known(&row.path, mode));
                        continue;
                    }
                    Err(e) if is_of_session(&e) => return Err(e),
                    Err(e) => {
                        heard.unanswered.insert(Unanswered::of(&row.path, mode));
                        heard.miss(e);
                        continue;
                    }
                }
            }
            let is_odd = |c: char| c.is_control() || c.is_whitespace();
            match told {
                Told::Backup(name) => heard.objects.push((name, row)),
                Told::Odd if row.path.contains(is_odd) => {
                    heard.miss(not_known(&row.path, mode));
                }
                Told::Odd => self.warn_of(&row.path, "none of Cinder's: its name has no id"),
                Told::Foreign => {}
            }
        }
        Ok(())
    }

    /// Whether a name that was put together of several lines is that of an object.
    async fn is_there(&self, path: &str, mode: Mode, start: Instant) -> Result<bool> {
        let key = (PathBuf::from(path), mode);
        if self.lock().confirmed.contains(&key) {
            return Ok(true);
        }
        if start.elapsed() >= ONE_BY_ONE {
            let reason = "some names that the client wraps are still to be asked for, one by one";
            let error = Error::new(Kind::Unavailable, "list", "the backups", reason);
            return Err(error.advise("wait"));
        }
        let rows = self.client.versions(&key.0, mode).await?;
        let is_it = rows.iter().any(|row| row.path == path);
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
