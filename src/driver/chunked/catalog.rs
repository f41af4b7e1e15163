//! Which finished backups there are, and what a listing shows of each.
//!
//! Names come from a listing of the store, which is repeated after `list_ttl`. What a
//! metadata object says is kept for as long as the store reports the same version of it.

use super::Options;
use super::summary::{Known, Summarized, Summarizer, Summary};
use crate::driver::Backup;
use crate::error::{Error, Kind, Result};
use crate::format::{BackupName, Layout, Metadata};
use crate::store::ObjectStore;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

/// Every object of a backup begins so, whatever the layout.
pub const ANY_BACKUP: &str = "volume_";
/// Metadata objects that are read at a time.
const LOOKS: usize = 16;

/// See the module's page.
#[derive(Debug)]
pub struct Catalog {
    summarizer: Arc<Summarizer>,
    layout: Layout,
    list_ttl: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When the store was listed.
    listed: Option<Instant>,
    /// The names of all finished backups, by volume.
    volumes: BTreeMap<String, Vec<Listed>>,
    /// What is known of the backups of a volume since the last listing.
    backups: HashMap<String, Vec<Arc<Backup>>>,
    /// What metadata objects say.
    known: HashMap<Arc<BackupName>, Known>,
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
            state: Mutex::default(),
        }
    }

    /// Ids of all volumes that have a backup.
    pub async fn volumes(&self) -> Result<Vec<String>> {
        let mut state = self.state.lock().await;
        self.refresh(&mut state).await?;
        let held = state.volumes.iter().filter(|(_, names)| !names.is_empty());
        Ok(held.map(|(volume, _)| volume.clone()).collect())
    }

    /// The backups of a volume.
    pub async fn backups(&self, volume_id: &str) -> Result<Vec<Arc<Backup>>> {
        let mut state = self.state.lock().await;
        self.refresh(&mut state).await?;
        self.backups_of(&mut state, volume_id).await
    }

    /// One backup, as it is now.
    pub async fn backup(&self, name: &BackupName) -> Result<Arc<Backup>> {
        let mut state = self.state.lock().await;
        let backups = self.backups_of(&mut state, &name.volume_id).await?;
        let found = backups
            .into_iter()
            .find(|b| b.service_metadata == name.prefix);
        found.ok_or_else(|| gone(&name.backup_id))
    }

    /// Where a backup lies.
    pub async fn name_of(&self, backup: &Backup) -> Result<Arc<BackupName>> {
        let state = self.state.lock().await;
        find(&state, backup)
            .cloned()
            .ok_or_else(|| gone(&backup.id))
    }

    /// A backup and all that it is built on, the newest first.
    pub async fn chain(&self, backup: &Backup) -> Result<Vec<Arc<BackupName>>> {
        let mut state = self.state.lock().await;
        let backups = self.backups_of(&mut state, &backup.volume_id).await?;
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
            chain.push(
                find(&state, layer)
                    .cloned()
                    .ok_or_else(|| gone(&layer.id))?,
            );
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
        let mut state = self.state.lock().await;
        state.known.remove(name);
        state.backups.remove(&name.volume_id);
        let listed = state.volumes.entry(name.volume_id.clone()).or_default();
        match listed.iter_mut().find(|listed| *listed.name == *name) {
            Some(listed) => listed.version = None,
            None => listed.push(Listed {
                name: Arc::new(name.clone()),
                version: None,
            }),
        }
    }

    /// A backup was deleted.
    pub async fn removed(&self, name: &BackupName) {
        let mut state = self.state.lock().await;
        state.known.remove(name);
        state.backups.remove(&name.volume_id);
        if let Some(listed) = state.volumes.get_mut(&name.volume_id) {
            listed.retain(|listed| *listed.name != *name);
        }
    }

    /// The next question is answered from the store, however young the listing is.
    pub async fn forget_listing(&self) {
        self.state.lock().await.listed = None;
    }

    async fn refresh(&self, state: &mut State) -> Result<()> {
        if state.listed.is_some_and(|at| at.elapsed() < self.list_ttl) {
            return Ok(());
        }
        let mut volumes: BTreeMap<String, Vec<Listed>> = BTreeMap::new();
        let mut all = HashSet::new();
        let store = &self.summarizer.store;
        for container in store.containers(ANY_BACKUP).await? {
            for entry in store.list(&container, ANY_BACKUP).await? {
                let Some(name) = BackupName::of_metadata(self.layout, &container, &entry.name)
                else {
                    continue;
                };
                let name = Arc::new(name);
                all.insert(Arc::clone(&name));
                let volume = volumes.entry(name.volume_id.clone()).or_default();
                volume.push(Listed {
                    name,
                    version: entry.version,
                });
            }
        }
        state.known.retain(|name, _| all.contains(name));
        state.volumes = volumes;
        state.backups.clear();
        state.listed = Some(Instant::now());
        Ok(())
    }

    async fn backups_of(&self, state: &mut State, volume_id: &str) -> Result<Vec<Arc<Backup>>> {
        if let Some(known) = state.backups.get(volume_id) {
            return Ok(known.clone());
        }
        let listed = state.volumes.get(volume_id).cloned().unwrap_or_default();
        let mut summaries = Vec::with_capacity(listed.len());
        let mut looks = JoinSet::new();
        let mut waiting = listed.into_iter();
        let mut passing = false;
        loop {
            while looks.len() < LOOKS
                && let Some(Listed { name, version }) = waiting.next()
            {
                let known = state.known.get(&name).cloned();
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
                Err(e) if e.kind() != Kind::Corrupt => passing = true,
                _ => drop(state.known.insert(name, known)),
            }
        }
        summaries.sort_by(|(one, _), (other, _)| one.prefix.cmp(&other.prefix));
        let backups = self.assemble(&summaries);
        if !passing {
            state.backups.insert(volume_id.to_owned(), backups.clone());
        }
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

    /// Sizes and depths depend on the chain, so they come when all is known.
    fn assemble(&self, summaries: &[(Arc<BackupName>, Summarized)]) -> Vec<Arc<Backup>> {
        let by_id: HashMap<&str, &Summarized> = summaries
            .iter()
            .map(|(name, summary)| (name.backup_id.as_str(), summary))
            .collect();
        let finish = |(name, summary): &(Arc<BackupName>, Summarized)| {
            let summary = match summary {
                Ok(summary) => summary,
                Err(fault) => {
                    let mut backup = self.summarizer.bare(name);
                    backup.fault = Some(fault.clone());
                    return Arc::new(backup);
                }
            };
            let mut backup = summary.backup.clone();
            match measure(summary, &by_id) {
                Ok((size, depth)) => (backup.size, backup.depth) = (size, depth),
                Err(fault) => {
                    backup.size = summary.size.unwrap_or(summary.end);
                    backup.fault = Some(fault);
                }
            }
            Arc::new(backup)
        };
        summaries.iter().map(finish).collect()
    }
}

/// Size of the image, and how many backups it is built on.
fn measure(summary: &Summary, by_id: &HashMap<&str, &Summarized>) -> Result<(u64, u32)> {
    let mut ends = vec![summary.end];
    let mut seen = HashSet::from([summary.backup.id.as_str()]);
    let mut layer = summary;
    while let Some(parent) = &layer.backup.parent_id {
        if !seen.insert(parent) {
            return Err(circular(&summary.backup));
        }
        layer = match by_id.get(parent.as_str()) {
            None => return Err(parent_missing(&summary.backup, parent)),
            Some(Err(fault)) => {
                return Err(Error::new(
                    fault.kind(),
                    "read",
                    format!("backup {}", summary.backup.id),
                    format!("its parent {parent} cannot be read: {fault}"),
                ));
            }
            Some(Ok(layer)) => layer,
        };
        // What was noted for a parent is exact; it may be longer than what we see here.
        ends.push(layer.size.unwrap_or(layer.end));
    }
    let depth = u32::try_from(ends.len() - 1).unwrap_or(u32::MAX);
    Ok((
        summary
            .size
            .unwrap_or_else(|| size_of(&ends, summary.hashed)),
        depth,
    ))
}

/// Cinder's metadata does not tell the size of an image. The end of the last chunk does,
/// unless the image is shorter than its parent: then the number of hashes says how many
/// blocks there are, and the newest layer that has the last of them, how long that is.
/// (Who opens a backup whose hashes do not fit its size is told so.)
/// `ends` are those of the layers, the newest first.
fn size_of(ends: &[u64], hashed: Option<(u64, u64)>) -> u64 {
    let longest = ends.iter().copied().max().unwrap_or(0);
    let Some((block, count)) = hashed else {
        return longest;
    };
    let most = block.saturating_mul(count);
    if ends.first().is_some_and(|own| *own > most) {
        return longest;
    }
    let last = most.saturating_sub(block);
    let holds_last = ends.iter().find(|end| **end > last);
    holds_last.map_or(longest, |end| most.min(*end))
}

fn find<'a>(state: &'a State, backup: &Backup) -> Option<&'a Arc<BackupName>> {
    let listed = state.volumes.get(&backup.volume_id)?;
    let mut names = listed.iter().map(|listed| &listed.name);
    names.find(|name| name.prefix == backup.service_metadata && name.container == backup.container)
}

fn lost(e: tokio::task::JoinError) -> Error {
    let reason = format!("a fault of the program: {e}");
    Error::new(Kind::Unavailable, "list", "backups", reason)
}

fn gone(id: &str) -> Error {
    Error::new(
        Kind::NotFound,
        "find",
        format!("backup {id}"),
        "it is not in the store any more",
    )
}

fn circular(backup: &Backup) -> Error {
    Error::corrupt(
        "read",
        format!("backup {}", backup.id),
        "its chain of parents leads back to itself",
    )
}

fn parent_missing(backup: &Backup, parent: &str) -> Error {
    Error::corrupt(
        "read",
        format!("backup {}", backup.id),
        format!("its parent {parent} is not in the store"),
    )
}
