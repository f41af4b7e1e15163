//! The questions to the server that a listing is made of.

use super::super::catalog::Catalog;
use super::super::client::{Mode, advice_on};
use super::super::found::{Assembly, Shown};
use super::super::names::{DEVICES, Name, Told, is_plain, told};
use super::super::rows::Row;
use super::super::verdict::is_of_session;
use super::Listing;
use crate::error::{Error, Kind, Result};
use crate::task::blocking;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// For how long an image that was not found is not asked for again.
const ABSENCE: Duration = Duration::from_secs(600);
/// How long images may be asked for one by one, before the rest waits for the next time.
const ONE_BY_ONE: Duration = Duration::from_secs(120);

impl Listing {
    /// All backups, and why some may be missing.
    pub(super) async fn ask(&self) -> Result<(Shown, Option<Error>)> {
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
