//! Which finished backups there are, and what a listing shows of each.
//!
//! Names come from a listing of the store, which is repeated after `list_ttl`: one of
//! everything in the layout Posix, one for each volume that is asked for in the layout
//! Swift. What a metadata object says is kept for as long as the store reports the same
//! version of it.

use super::Options;
use super::chain::{assemble, circular, parent_missing};
use super::listing::{Listing, lost};
use super::summary::{Known, Summarizer};
use crate::driver::Backup;
use crate::error::{Error, Kind, Result};
use crate::format::{BackupName, Layout, Metadata};
use crate::store::{Entry, ObjectStore};
use crate::task::Queue;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Every object of a backup begins so, whatever the layout.
pub const ANY_BACKUP: &str = "volume_";
/// Metadata objects that are read at a time.
const LOOKS: usize = 16;
/// For so long a listing of Swift's may not show yet what was done.
const SETTLING: Duration = Duration::from_secs(600);

/// See the module's page.
#[derive(Debug)]
pub struct Catalog {
    summarizer: Arc<Summarizer>,
    layout: Layout,
    list_ttl: Duration,
    listing: Arc<Listing>,
    /// What is listed at a time has a lock of its own, so that nobody waits for a listing
    /// who does not need it. By volume; in the layout Posix there is one for all.
    parts: Mutex<HashMap<String, Arc<Queue<Part>>>>,
    /// The volumes of the layout Swift. Its lock may be held when that of a part is taken,
    /// not the other way round.
    folders: Queue<Folders>,
    /// Why the store could not be listed when it was last tried.
    trouble: Mutex<Option<Error>>,
}

/// The backups that are listed at a time.
#[derive(Debug, Default)]
struct Part {
    /// When the store was listed.
    listed: Option<Instant>,
    /// The names of all finished backups, by volume.
    volumes: BTreeMap<String, Vec<Listed>>,
    /// What is known of the backups of a volume since the last listing.
    backups: HashMap<String, Vec<Arc<Backup>>>,
    /// What metadata objects say.
    known: HashMap<Arc<BackupName>, Known>,
    /// When we ourselves have stored a metadata object.
    stored: HashMap<Arc<BackupName>, Instant>,
}

/// The volumes of the layout Swift.
#[derive(Debug, Default)]
struct Folders {
    /// When the store was listed.
    listed: Option<Instant>,
    volumes: BTreeSet<String>,
    /// When we ourselves have stored a backup of a volume.
    stored: HashMap<String, Instant>,
}

/// A finished backup of the listing.
#[derive(Debug, Clone)]
struct Listed {
    name: Arc<BackupName>,
    /// That of its metadata object, if the listing told it and it is still true.
    version: Option<String>,
}

impl Catalog {
    /// An empty catalogue of `store`; it is filled when it is first asked.
    pub fn new(store: &Arc<dyn ObjectStore>, options: &Options) -> Self {
        Self {
            summarizer: Arc::new(Summarizer {
                store: Arc::clone(store),
                service: options.service,
            }),
            layout: options.layout,
            list_ttl: options.list_ttl,
            listing: Arc::new(Listing::new(store)),
            parts: Mutex::default(),
            folders: Queue::default(),
            trouble: Mutex::default(),
        }
    }

    /// Why listings are older than they should be.
    pub fn trouble(&self) -> Option<Error> {
        self.lock_trouble().clone()
    }

    fn lock_trouble(&self) -> std::sync::MutexGuard<'_, Option<Error>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a listing gave, or `None` when the old one, if there is one and it was not to be
    /// forgotten, has to do for another while: a store that is down comes back.
    fn or_old<T>(&self, found: Result<T>, listed: Option<Instant>) -> Result<Option<T>> {
        let passes = |e: &Error| matches!(e.kind(), Kind::Unavailable | Kind::TimedOut);
        let trouble = found.as_ref().err().filter(|e| passes(e)).cloned();
        let was_well = std::mem::replace(&mut *self.lock_trouble(), trouble.clone()).is_none();
        match (found, trouble) {
            (Err(_), Some(e)) if listed.is_some() => {
                if was_well {
                    tracing::warn!("what was last listed is shown for now: {e}");
                }
                Ok(None)
            }
            (found, _) => found.map(Some),
        }
    }

    /// Ids of all volumes that have a backup. In the layout Swift, one that has only
    /// objects of unfinished backups is among them.
    pub async fn volumes(&self) -> Result<Vec<String>> {
        match self.layout {
            Layout::Posix => {
                let part = self.part_of("");
                let mut part = part.turn().await?;
                let refreshed = self.refresh(&mut part, "").await;
                part.note(refreshed)?;
                let held = part.volumes.iter().filter(|(_, names)| !names.is_empty());
                Ok(held.map(|(volume, _)| volume.clone()).collect())
            }
            Layout::Swift => {
                let mut folders = self.folders.turn().await?;
                let refreshed = self.refresh_folders(&mut folders).await;
                folders.note(refreshed)?;
                Ok(folders.volumes.iter().cloned().collect())
            }
        }
    }

    /// Whether there is such a volume. Of one that had backups a moment ago these are
    /// listed, in the layout Swift: who asks wants to see them next, and then need not wait
    /// for two listings.
    pub async fn has_volume(&self, volume_id: &str) -> Result<bool> {
        let holds = |part: &Part| {
            part.volumes
                .get(volume_id)
                .is_some_and(|all| !all.is_empty())
        };
        let part = self.lock_parts().get(volume_id).map(Arc::clone);
        if let Some(part) = part {
            let mut part = part.turn().await?;
            if holds(&part) {
                let refreshed = self.refresh(&mut part, volume_id).await;
                part.note(refreshed)?;
                if holds(&part) {
                    return Ok(true);
                }
            }
        }
        let volumes = self.volumes().await?;
        Ok(volumes.iter().any(|known| known == volume_id))
    }

    /// The backups of a volume.
    pub async fn backups(&self, volume_id: &str) -> Result<Vec<Arc<Backup>>> {
        let part = self.part_of(volume_id);
        let mut part = part.turn().await?;
        let refreshed = self.refresh(&mut part, volume_id).await;
        part.note(refreshed)?;
        self.backups_of(&mut part, volume_id).await
    }

    /// The same, from the store as it is now: an older listing does not do.
    pub async fn backups_now(&self, volume_id: &str) -> Result<Vec<Arc<Backup>>> {
        let part = self.part_of(volume_id);
        let mut part = part.value().await;
        let found = self.list(&mut part, volume_id).await;
        let found = self.or_old(found, None)?;
        self.take_listing(&mut part, found.unwrap_or_default());
        self.backups_of(&mut part, volume_id).await
    }

    /// One backup, as it is now.
    pub async fn backup(&self, name: &BackupName) -> Result<Arc<Backup>> {
        let part = self.part_of(&name.volume_id);
        let mut part = part.turn().await?;
        let backups = self.backups_of(&mut part, &name.volume_id).await?;
        let found = backups
            .into_iter()
            .find(|b| b.service_metadata == name.prefix);
        found.ok_or_else(|| gone(&name.backup_id))
    }

    /// Where a backup lies.
    pub async fn name_of(&self, backup: &Backup) -> Result<Arc<BackupName>> {
        let part = self.part_of(&backup.volume_id);
        let part = part.value().await;
        find(&part, backup).cloned().ok_or_else(|| gone(&backup.id))
    }

    /// A backup and all that it is built on, the newest first.
    pub async fn chain(&self, backup: &Backup) -> Result<Vec<Arc<BackupName>>> {
        let part = self.part_of(&backup.volume_id);
        let mut part = part.turn().await?;
        let backups = self.backups_of(&mut part, &backup.volume_id).await?;
        let by_id: HashMap<&str, &Arc<Backup>> = backups
            .iter()
            .map(|backup| (backup.id.as_str(), backup))
            .collect();
        let mut chain = Vec::new();
        let mut next = Some(backup);
        let mut seen = HashSet::new();
        while let Some(layer) = next {
            if !seen.insert(layer.id.clone()) {
                return Err(circular(backup));
            }
            chain.push(find(&part, layer).cloned().ok_or_else(|| gone(&layer.id))?);
            next = match &layer.parent_id {
                None => None,
                Some(parent) => {
                    let found = by_id.get(parent.as_str());
                    Some(found.ok_or_else(|| parent_missing(backup, parent))?)
                }
            };
        }
        Ok(chain)
    }

    /// A backup was published, or its metadata rewritten.
    pub async fn changed(&self, name: &BackupName) {
        let part = self.part_of(&name.volume_id);
        let mut part = part.value().await;
        part.known.remove(name);
        part.backups.remove(&name.volume_id);
        let shared = Arc::new(name.clone());
        let listed = part.volumes.entry(name.volume_id.clone()).or_default();
        match listed.iter_mut().find(|listed| *listed.name == *name) {
            Some(listed) => listed.version = None,
            None => listed.push(Listed {
                name: Arc::clone(&shared),
                version: None,
            }),
        }
        if self.layout == Layout::Swift {
            part.stored.insert(shared, Instant::now());
            drop(part);
            let mut folders = self.folders.value().await;
            folders.volumes.insert(name.volume_id.clone());
            let stored = &mut folders.stored;
            stored.insert(name.volume_id.clone(), Instant::now());
        }
    }

    /// A backup was deleted.
    pub async fn removed(&self, name: &BackupName) {
        let part = self.part_of(&name.volume_id);
        let mut part = part.value().await;
        part.known.remove(name);
        part.stored.remove(name);
        part.backups.remove(&name.volume_id);
        let is_empty = match part.volumes.get_mut(&name.volume_id) {
            Some(listed) => {
                listed.retain(|listed| *listed.name != *name);
                listed.is_empty()
            }
            // The volume was listed since, and it was the last one.
            None => part.listed.is_some(),
        };
        if is_empty && self.layout == Layout::Swift {
            drop(part);
            let mut folders = self.folders.value().await;
            folders.volumes.remove(&name.volume_id);
            folders.stored.remove(&name.volume_id);
        }
    }

    /// The next question is answered from the store, however young the listing is.
    pub async fn forget_listing(&self) {
        let parts: Vec<_> = self.lock_parts().values().cloned().collect();
        for part in parts {
            part.value().await.listed = None;
        }
        self.folders.value().await.listed = None;
    }

    fn lock_parts(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Queue<Part>>>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn part_of(&self, volume_id: &str) -> Arc<Queue<Part>> {
        let key = match self.layout {
            Layout::Posix => "",
            Layout::Swift => volume_id,
        };
        let mut parts = self.lock_parts();
        if let Some(part) = parts.get(key) {
            return Arc::clone(part);
        }
        Arc::clone(parts.entry(key.to_owned()).or_default())
    }

    fn is_fresh(&self, listed: Option<Instant>) -> bool {
        listed.is_some_and(|at| at.elapsed() < self.list_ttl)
    }

    async fn refresh_folders(&self, folders: &mut Folders) -> Result<()> {
        if self.is_fresh(folders.listed) {
            return Ok(());
        }
        let found = self.listing.volumes().await;
        let Some(mut volumes) = self.or_old(found, folders.listed)? else {
            folders.listed = Some(Instant::now());
            return Ok(());
        };
        folders.stored.retain(|_, at| at.elapsed() < SETTLING);
        for volume in folders.stored.keys() {
            // What we have just stored may not be listed yet, or be deleted.
            if !volumes.contains(volume)
                && !self.backups(volume).await.is_ok_and(|held| held.is_empty())
            {
                volumes.insert(volume.clone());
            }
        }
        folders.volumes = volumes;
        folders.listed = Some(Instant::now());
        Ok(())
    }

    async fn refresh(&self, part: &mut Part, volume_id: &str) -> Result<()> {
        if self.is_fresh(part.listed) {
            return Ok(());
        }
        let found = self.list(part, volume_id).await;
        match self.or_old(found, part.listed)? {
            Some(found) => self.take_listing(part, found),
            None => part.listed = Some(Instant::now()),
        }
        Ok(())
    }

    async fn list(&self, part: &mut Part, volume_id: &str) -> Result<Vec<Listed>> {
        match self.layout {
            Layout::Posix => self.list_all().await,
            Layout::Swift => self.list_volume(part, volume_id).await,
        }
    }

    fn take_listing(&self, part: &mut Part, found: Vec<Listed>) {
        let all: HashSet<&Arc<BackupName>> = found.iter().map(|listed| &listed.name).collect();
        part.known.retain(|name, _| all.contains(name));
        part.volumes.clear();
        for listed in found {
            let volume = listed.name.volume_id.clone();
            part.volumes.entry(volume).or_default().push(listed);
        }
        part.backups.clear();
        part.listed = Some(Instant::now());
    }

    async fn list_all(&self) -> Result<Vec<Listed>> {
        let store = &self.summarizer.store;
        let mut found = Vec::new();
        for container in store.containers(ANY_BACKUP).await? {
            for Entry { name, version } in store.list(&container, ANY_BACKUP).await? {
                let name = BackupName::of_metadata(self.layout, &container, &name);
                found.extend(name.map(Arc::new).map(|name| Listed { name, version }));
            }
        }
        Ok(found)
    }

    /// Swift's listings tell late what was done, and old ones may come after new ones.
    /// What we have stored ourselves counts until then, if a look at it says so.
    async fn list_volume(&self, part: &mut Part, volume_id: &str) -> Result<Vec<Listed>> {
        let known = part.known.values();
        let known = known.filter_map(|known| known.summary.as_ref().ok());
        let known: Vec<&Backup> = known.map(|summary| &summary.backup).collect();
        let mut found = self.listing.backups(volume_id, &known).await?;
        part.stored.retain(|_, at| at.elapsed() < SETTLING);
        for name in part.stored.keys() {
            let version = found.entry(BackupName::clone(name)).or_default();
            let is_as_known = |known: &Known| Some(&known.version) == version.as_ref();
            if !part.known.get(name).is_some_and(is_as_known) {
                *version = None;
            }
        }
        let listed = |(name, version)| Listed {
            name: Arc::new(name),
            version,
        };
        Ok(found.into_iter().map(listed).collect())
    }

    async fn backups_of(&self, part: &mut Part, volume_id: &str) -> Result<Vec<Arc<Backup>>> {
        if let Some(known) = part.backups.get(volume_id) {
            return Ok(known.clone());
        }
        let listed = part.volumes.get(volume_id).cloned().unwrap_or_default();
        let mut summaries = Vec::with_capacity(listed.len());
        let mut looks = JoinSet::new();
        let mut waiting = listed.into_iter();
        // Those that nobody has answered.
        let mut unanswered = 0;
        let mut last = None;
        loop {
            while looks.len() < LOOKS
                && unanswered < LOOKS
                && let Some(Listed { name, version }) = waiting.next()
            {
                let known = part.known.get(&name).cloned();
                let summarizer = Arc::clone(&self.summarizer);
                looks.spawn(async move {
                    let looked = summarizer.look(&name, version, known).await;
                    (name, looked)
                });
            }
            let Some(joined) = looks.join_next().await else {
                break;
            };
            let (name, looked) = joined.map_err(lost)?;
            let known = match looked {
                // Deleted by somebody else since the listing.
                Err(e) if e.kind() == Kind::NotFound => continue,
                other => other?,
            };
            summaries.push((Arc::clone(&name), known.summary.clone()));
            // A failure may pass while the version stays the same; damage does not.
            match &known.summary {
                Err(e) if e.kind() != Kind::Corrupt => {
                    last = Some(e.clone());
                    let is_silent = matches!(e.kind(), Kind::Unavailable | Kind::TimedOut);
                    unanswered += usize::from(is_silent);
                }
                _ => drop(part.known.insert(name, known)),
            }
        }
        // Each of a thousand would take until its deadline.
        if let Some(e) = last {
            let rest = waiting.map(|listed| (listed.name, Err(e.clone())));
            summaries.extend(rest);
        }
        summaries.sort_by(|(one, _), (other, _)| one.prefix.cmp(&other.prefix));
        let backups = assemble(&self.summarizer, &summaries);
        // What could not be read, too, until the next listing: each question would wait for it
        // again.
        part.backups.insert(volume_id.to_owned(), backups.clone());
        Ok(backups)
    }

    /// A backup that was just published, as its metadata describes it.
    pub fn finished(&self, name: &BackupName, metadata: Metadata, depth: u32) -> Backup {
        let size = metadata.own.size.unwrap_or_else(|| metadata.end());
        Backup {
            size,
            depth,
            ..self.summarizer.describe(name, metadata)
        }
    }
}

fn find<'a>(part: &'a Part, backup: &Backup) -> Option<&'a Arc<BackupName>> {
    let listed = part.volumes.get(&backup.volume_id)?;
    let mut names = listed.iter().map(|listed| &listed.name);
    names.find(|name| name.prefix == backup.service_metadata && name.container == backup.container)
}

fn gone(id: &str) -> Error {
    Error::new(
        Kind::NotFound,
        "find",
        format!("backup {id}"),
        "it is not in the store any more",
    )
}

#[cfg(test)]
mod tests;
