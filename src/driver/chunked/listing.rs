//! Listings of the Swift layout, in which the chunks of all backups of all volumes lie in
//! one container, that do not page through chunks.
//!
//! A store gives names by the page, ten thousand at a time, and of a large backup all but
//! two are chunks. So the names that a page holds are folded: with the delimiter `/`,
//! all objects of a volume stand as one name. In a volume, `-0` (as chunk numbers begin)
//! makes one name of the chunks of a backup, while its metadata stands for itself:
//!
//! ```text
//! volume_V/20261121003832/az_nova_backup_B-0           one folder: chunks 1 to 9999
//! volume_V/20261121003832/az_nova_backup_B_metadata
//! volume_V/20261121003832/az_nova_backup_B_sha256file
//! ```
//!
//! (An id that begins with a whole UUID and goes on with `-0` would be lost in it. There
//! are none such.)
//!
//! Where an id or a zone holds `-0` itself, the folder is more than chunks, and is listed
//! by itself. Chunks from 10000 on stand for themselves: where a page ends among them, the
//! next begins behind them. A store that folds at single characters only is walked through
//! with that alone, which takes a request a backup.

use super::catalog::ANY_BACKUP;
use crate::driver::Backup;
use crate::error::{Error, Kind, Result};
use crate::format::{BackupName, Layout};
use crate::store::{Entry, ObjectStore, Select};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::task::JoinSet;

/// Beginnings of chunks' names behind the prefix. The longer, the less often an id or a
/// zone holds it, and the fewer chunks begin so.
const DELIMITERS: [&str; 4] = ["-0", "-00", "-000", "-0000"];
/// Digits of a chunk's number, at least.
const DIGITS: u32 = 5;
/// Names on a page, mostly.
const PAGE: u64 = 10_000;
/// Folders that are listed at a time.
const AT_ONCE: usize = 16;
/// Names on a page of a walk: metadata, list of hashes, and the first chunk of the next.
const FEW: usize = 4;

/// See the module's page.
#[derive(Debug)]
pub struct Listing {
    store: Arc<dyn ObjectStore>,
    /// The store was found to know no delimiter of two characters.
    walks: AtomicBool,
}

/// Names that begin alike.
#[derive(Debug)]
struct Place {
    container: String,
    prefix: String,
}

/// What begins so: metadata objects with their versions, and folders.
#[derive(Debug, Default)]
struct Found {
    backups: HashMap<BackupName, Option<String>>,
    folders: Vec<String>,
}

impl Listing {
    /// Lists what is in `store`.
    pub fn new(store: &Arc<dyn ObjectStore>) -> Self {
        Self {
            store: Arc::clone(store),
            walks: AtomicBool::new(false),
        }
    }

    /// Ids of all volumes of which there is an object, be it one of an unfinished backup.
    /// (Ids with a slash, which Cinder's never have, do not come out whole.)
    ///
    /// # Errors
    /// Those of the store.
    pub async fn volumes(self: &Arc<Self>) -> Result<BTreeSet<String>> {
        let mut volumes = BTreeSet::new();
        self.look_everywhere(ANY_BACKUP, "/", |_, found| {
            let ids = found.folders.iter().filter_map(|folder| {
                let id = folder.strip_prefix(ANY_BACKUP)?.strip_suffix('/')?;
                (!id.is_empty()).then(|| id.to_owned())
            });
            volumes.extend(ids);
            Vec::new()
        })
        .await?;
        Ok(volumes)
    }

    /// The finished backups of a volume, with the versions of their metadata where the
    /// store's listing tells them. `known` are some of them, from before.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn backups(
        self: &Arc<Self>,
        volume_id: &str,
        known: &[&Backup],
    ) -> Result<HashMap<BackupName, Option<String>>> {
        let delimiter = delimiter_for(volume_id, known);
        let mut backups = HashMap::new();
        self.look_everywhere(&folder_of(volume_id), delimiter, |place, found| {
            let own = found.backups.into_iter();
            backups.extend(own.filter(|(name, _)| name.volume_id == volume_id));
            let is_more = |folder: &String| {
                let is_within = folder.len() > place.prefix.len();
                is_within && folder.starts_with(&place.prefix) && !is_chunks(place, folder)
            };
            found.folders.into_iter().filter(is_more).collect()
        })
        .await?;
        Ok(backups)
    }

    /// Lists what begins with `prefix` in all containers; `take` gives what is to be
    /// listed in the same container besides.
    async fn look_everywhere(
        self: &Arc<Self>,
        prefix: &str,
        delimiter: &'static str,
        mut take: impl FnMut(&Place, Found) -> Vec<String>,
    ) -> Result<()> {
        let containers = self.store.containers(ANY_BACKUP).await?;
        let place = |container| Place {
            container,
            prefix: prefix.to_owned(),
        };
        let mut waiting: Vec<Place> = containers.into_iter().map(place).collect();
        let mut looks = JoinSet::new();
        loop {
            while looks.len() < AT_ONCE
                && let Some(place) = waiting.pop()
            {
                let listing = Arc::clone(self);
                looks.spawn(async move {
                    let found = listing.look(&place, delimiter).await;
                    (place, found)
                });
            }
            let Some(joined) = looks.join_next().await else {
                return Ok(());
            };
            let (place, found) = joined.map_err(lost)?;
            for prefix in take(&place, found?) {
                let container = place.container.clone();
                waiting.push(Place { container, prefix });
            }
        }
    }

    async fn look(&self, place: &Place, delimiter: &str) -> Result<Found> {
        if delimiter.len() > 1 {
            if self.walks.load(Ordering::Relaxed) {
                return self.walk(place).await;
            }
            match self.fold(place, delimiter).await {
                Err(e) if e.kind() == Kind::Unsupported => {
                    tracing::debug!("listings take a request for every backup: {e}");
                    self.walks.store(true, Ordering::Relaxed);
                    return self.walk(place).await;
                }
                other => return other,
            }
        }
        self.fold(place, delimiter).await
    }

    /// By pages on which names are folded.
    async fn fold(&self, place: &Place, delimiter: &str) -> Result<Found> {
        let mut found = Found::default();
        let mut after = None;
        loop {
            let select = Select {
                prefix: &place.prefix,
                delimiter: Some(delimiter),
                after: after.as_deref(),
                most: None,
            };
            let page = self.store.page(&place.container, select).await?;
            found.take(place, page.entries);
            found.folders.extend(page.folders);
            match page.next {
                None => return Ok(found),
                Some(last) => after = Some(behind(place, after, last)?.0),
            }
        }
    }

    /// By pages that are so short that few chunks are on each.
    async fn walk(&self, place: &Place) -> Result<Found> {
        let mut found = Found::default();
        let mut after = None;
        let mut most = FEW;
        loop {
            let select = Select {
                prefix: &place.prefix,
                delimiter: None,
                after: after.as_deref(),
                most: Some(most),
            };
            let page = self.store.page(&place.container, select).await?;
            found.take(place, page.entries);
            let Some(last) = page.next else {
                return Ok(found);
            };
            let (next, skips) = behind(place, after, last)?;
            after = Some(next);
            // What cannot be skipped is at least not gone through in small steps.
            most = match skips {
                true => FEW,
                false => (2 * most).min(PAGE as usize),
            };
        }
    }
}

impl Found {
    fn take(&mut self, place: &Place, entries: Vec<Entry>) {
        for Entry { name, version } in entries {
            let name = BackupName::of_metadata(Layout::Swift, &place.container, &name);
            self.backups.extend(name.map(|name| (name, version)));
        }
    }
}

/// What all names of a volume begin with.
fn folder_of(volume_id: &str) -> String {
    format!("{ANY_BACKUP}{volume_id}/")
}

fn is_chunks(place: &Place, folder: &str) -> bool {
    BackupName::of_chunks(Layout::Swift, &place.container, folder).is_some()
}

/// Where to go on behind a page that ends with `last`, and whether that skips chunks.
///
/// # Errors
/// `Unavailable` when a listing does not go on: it would never end.
fn behind(place: &Place, before: Option<String>, last: String) -> Result<(String, bool)> {
    let chunks = BackupName::of_chunks(Layout::Swift, &place.container, &last);
    let skips = chunks.is_some();
    let next = chunks.map_or(last, |name| name.behind_chunks());
    if before.is_some_and(|before| next <= before) {
        let subject = format!("{} in {}", place.prefix, place.container);
        let reason = "the store gives the same page again and again";
        return Err(Error::new(Kind::Unavailable, "list", subject, reason));
    }
    Ok((next, skips))
}

/// The delimiter with which a listing of these backups takes the fewest requests: one for
/// every place where it folds too early, and one for every page of names that it does not
/// fold. Of a backup that has no end of those, a page is seen and the rest is skipped.
fn delimiter_for(volume_id: &str, known: &[&Backup]) -> &'static str {
    let folder = folder_of(volume_id);
    let cost = |delimiter: &str| -> u64 {
        let zeros = delimiter.len() as u32 - 1;
        let folded = 10_u64.pow(DIGITS - zeros) - 1;
        let of_one = |backup: &&Backup| {
            let name = backup.service_metadata.strip_prefix(&folder);
            let early = name.map_or(0, |name| name.matches(delimiter).count() as u64);
            early * PAGE + backup.object_count.saturating_sub(folded).min(PAGE)
        };
        known.iter().map(of_one).sum()
    };
    // The first of those that cost the same.
    let best = DELIMITERS
        .into_iter()
        .min_by_key(|delimiter| cost(delimiter));
    best.unwrap_or("-0")
}

/// The failure of a task that did not end by itself.
pub fn lost(e: tokio::task::JoinError) -> Error {
    let reason = format!("a fault of the program: {e}");
    Error::new(Kind::Unavailable, "list", "backups", reason)
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub mod watched;
