//! Which finished backups there are, and what a listing shows of each.
//!
//! Names come from a listing of the store, which is repeated after `list_ttl`. What a
//! metadata object says is kept for as long as the store reports the same version of it.

use super::Options;
use super::hashlist::HashList;
use crate::driver::Backup;
use crate::error::{Error, Kind, Result};
use crate::format::{BackupName, LARGEST_METADATA, Layout, Metadata};
use crate::store::{ObjectStore, read_whole};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// Every object of a backup begins so, whatever the layout.
const ANY_BACKUP: &str = "volume_";

/// See the module's page.
#[derive(Debug)]
pub struct Catalog {
    store: Arc<dyn ObjectStore>,
    service: &'static str,
    layout: Layout,
    list_ttl: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When the store was listed.
    listed: Option<Instant>,
    /// The names of all finished backups, by volume.
    volumes: BTreeMap<String, Vec<Arc<BackupName>>>,
    /// What is known of the backups of a volume since the last listing.
    backups: HashMap<String, Vec<Arc<Backup>>>,
    /// What metadata objects say.
    known: HashMap<Arc<BackupName>, Known>,
}

#[derive(Debug, Clone)]
struct Known {
    version: String,
    summary: Result<Arc<Summary>, Error>,
}

/// What a listing needs of a metadata document.
#[derive(Debug)]
struct Summary {
    backup: Backup,
    /// The end of its own last chunk.
    end: u64,
    /// The exact size of the image, where we noted it.
    size: Option<u64>,
    /// Size and number of the hashed blocks, for an incremental backup of Cinder's.
    hashed: Option<(u64, u64)>,
}

/// The text of a backup's metadata.
pub async fn read_metadata_text(store: &dyn ObjectStore, name: &BackupName) -> Result<Bytes> {
    read_whole(store, &name.container, &name.metadata(), LARGEST_METADATA).await
}

impl Catalog {
    /// An empty catalogue of `store`; it is filled when it is first asked.
    pub fn new(store: &Arc<dyn ObjectStore>, options: &Options) -> Self {
        Self {
            store: Arc::clone(store),
            service: options.service,
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
        let names = state.volumes.entry(name.volume_id.clone()).or_default();
        if !names.iter().any(|known| **known == *name) {
            names.push(Arc::new(name.clone()));
        }
    }

    /// A backup was deleted.
    pub async fn removed(&self, name: &BackupName) {
        let mut state = self.state.lock().await;
        state.known.remove(name);
        state.backups.remove(&name.volume_id);
        if let Some(names) = state.volumes.get_mut(&name.volume_id) {
            names.retain(|known| **known != *name);
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
        let mut volumes: BTreeMap<String, Vec<Arc<BackupName>>> = BTreeMap::new();
        let mut all = HashSet::new();
        for container in self.store.containers(ANY_BACKUP).await? {
            for entry in self.store.list(&container, ANY_BACKUP).await? {
                let Some(name) = BackupName::of_metadata(self.layout, &container, &entry.name)
                else {
                    continue;
                };
                let name = Arc::new(name);
                all.insert(Arc::clone(&name));
                volumes
                    .entry(name.volume_id.clone())
                    .or_default()
                    .push(name);
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
        let names = state.volumes.get(volume_id).cloned().unwrap_or_default();
        let mut summaries = Vec::with_capacity(names.len());
        for name in &names {
            let known = match self.summary(state.known.get(name), name).await {
                // Deleted by somebody else since the listing.
                Err(e) if e.kind() == Kind::NotFound => continue,
                other => other?,
            };
            summaries.push((Arc::clone(name), known.summary.clone()));
            state.known.insert(Arc::clone(name), known);
        }
        let backups = self.assemble(&summaries);
        state.backups.insert(volume_id.to_owned(), backups.clone());
        Ok(backups)
    }

    /// What the metadata object says now; `known` is what it said before.
    async fn summary(&self, known: Option<&Known>, name: &BackupName) -> Result<Known> {
        let version = self
            .store
            .stat(&name.container, &name.metadata())
            .await?
            .version;
        if let Some(known) = known.filter(|known| known.version == version) {
            return Ok(known.clone());
        }
        let read = async {
            let text = read_metadata_text(self.store.as_ref(), name).await?;
            self.summarize(name, Metadata::parse(name, &text)?).await
        };
        let summary = match read.await {
            Ok(summary) => Ok(Arc::new(summary)),
            // Only what is wrong with the document itself is remembered.
            Err(e) if e.kind() == Kind::Corrupt => {
                tracing::error!("backup {} cannot be read: {e}", name.backup_id);
                Err(e)
            }
            Err(e) => return Err(e),
        };
        Ok(Known { version, summary })
    }

    async fn summarize(&self, name: &BackupName, metadata: Metadata) -> Result<Summary> {
        let hashed = match (&metadata.parent_id, metadata.own.size) {
            (Some(_), None) => HashList::open(&self.store, name)
                .await?
                .map(|list| (list.block_size(), list.count())),
            _ => None,
        };
        let end = metadata.end();
        let codecs: BTreeSet<&str> = metadata
            .objects
            .iter()
            .map(|object| object.compression.as_str())
            .collect();
        let mut backup = self.bare(name);
        backup.compression = codecs.into_iter().collect::<Vec<_>>().join(",");
        backup.object_count = metadata.objects.len() as u64;
        backup.data_bytes = metadata.own.data_bytes;
        backup.stored_bytes = metadata.own.stored_bytes;
        backup.modified = metadata.own.modified();
        backup.written_as_file = metadata.own.file;
        backup.created_at = metadata.created_at.or(backup.created_at);
        backup.parent_id = metadata.parent_id;
        backup.name = metadata.backup_name;
        backup.description = metadata.backup_description;
        Ok(Summary {
            backup,
            end,
            size: metadata.own.size,
            hashed,
        })
    }

    /// What a backup's name alone tells.
    fn bare(&self, name: &BackupName) -> Backup {
        Backup {
            id: name.backup_id.clone(),
            volume_id: name.volume_id.clone(),
            parent_id: None,
            name: None,
            written_as_file: false,
            description: None,
            created_at: name.stamped_at(),
            modified: None,
            size: 0,
            data_bytes: None,
            stored_bytes: None,
            object_count: 0,
            compression: String::new(),
            depth: 0,
            service: self.service,
            container: name.container.clone(),
            service_metadata: name.prefix.clone(),
            fault: None,
        }
    }

    /// Sizes and depths depend on the chain, so they come when all is known.
    fn assemble(
        &self,
        summaries: &[(Arc<BackupName>, Result<Arc<Summary>, Error>)],
    ) -> Vec<Arc<Backup>> {
        let by_id: HashMap<&str, &Result<Arc<Summary>, Error>> = summaries
            .iter()
            .map(|(name, summary)| (name.backup_id.as_str(), summary))
            .collect();
        let finish = |(name, summary): &(Arc<BackupName>, Result<Arc<Summary>, Error>)| {
            let summary = match summary {
                Ok(summary) => summary,
                Err(fault) => {
                    let mut backup = self.bare(name);
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
fn measure(
    summary: &Summary,
    by_id: &HashMap<&str, &Result<Arc<Summary>, Error>>,
) -> Result<(u64, u32)> {
    let mut end = summary.end;
    let mut depth = 0;
    let mut seen = HashSet::from([summary.backup.id.as_str()]);
    let mut layer = summary;
    while let Some(parent) = &layer.backup.parent_id {
        if !seen.insert(parent) {
            return Err(circular(&summary.backup));
        }
        layer = match by_id.get(parent.as_str()) {
            None => return Err(parent_missing(&summary.backup, parent)),
            Some(Err(fault)) => {
                return Err(Error::corrupt(
                    "read",
                    format!("backup {}", summary.backup.id),
                    format!("its parent {parent} is damaged: {fault}"),
                ));
            }
            Some(Ok(layer)) => layer,
        };
        // What was noted for a parent is exact; it may be longer than what we see here.
        end = end.max(layer.size.unwrap_or(layer.end));
        depth += 1;
    }
    if let Some(size) = summary.size {
        return Ok((size, depth));
    }
    Ok((size_by_hashes(end, summary), depth))
}

/// Cinder's metadata does not tell the size of an image; the last chunk's end does,
/// unless the image is shorter than its parent, which the number of hashes shows.
fn size_by_hashes(end: u64, summary: &Summary) -> u64 {
    let Some((block, count)) = summary.hashed else {
        return end;
    };
    let most = block.saturating_mul(count);
    let fits = |size: u64| size <= most && size > most.saturating_sub(block);
    if end <= most {
        end
    } else if fits(summary.end) {
        summary.end
    } else {
        most
    }
}

fn find<'a>(state: &'a State, backup: &Backup) -> Option<&'a Arc<BackupName>> {
    let names = state.volumes.get(&backup.volume_id)?;
    names
        .iter()
        .find(|name| name.prefix == backup.service_metadata && name.container == backup.container)
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
