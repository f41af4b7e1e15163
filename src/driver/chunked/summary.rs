//! What a listing needs of a backup's metadata object.

use super::hashlist::HashList;
use crate::driver::Backup;
use crate::error::{Error, Kind, Result};
use crate::format::{BackupName, LARGEST_METADATA, Metadata};
use crate::store::{ObjectStore, read_whole};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What is known of a backup, and of which version of its metadata object.
#[derive(Debug, Clone)]
pub struct Known {
    /// As the store reported it.
    pub version: String,
    /// What the object says, or what is wrong with it.
    pub summary: Summarized,
}

/// What a metadata object says, or what is wrong with it.
pub type Summarized = Result<Arc<Summary>, Error>;

/// What a listing needs of a metadata document.
#[derive(Debug)]
pub struct Summary {
    /// All but what depends on the chain.
    pub backup: Backup,
    /// The end of its own last chunk.
    pub end: u64,
    /// The exact size of the image, where we noted it.
    pub size: Option<u64>,
    /// Size and number of the hashed blocks, for an incremental backup of Cinder's.
    pub hashed: Option<(u64, u64)>,
}

/// Reads metadata objects.
#[derive(Debug)]
pub struct Summarizer {
    /// Where they lie.
    pub store: Arc<dyn ObjectStore>,
    /// Class path of the Cinder driver whose backups these are.
    pub service: &'static str,
}

/// The text of a backup's metadata.
pub async fn read_metadata_text(store: &dyn ObjectStore, name: &BackupName) -> Result<Bytes> {
    read_whole(store, &name.container, &name.metadata(), LARGEST_METADATA).await
}

impl Summarizer {
    /// What the metadata object says now, of which a listing has told `version`, or
    /// nothing; `known` is what it said before.
    ///
    /// # Errors
    /// `NotFound` when it is gone; that it cannot be read is an answer.
    pub async fn look(
        &self,
        name: &BackupName,
        version: Option<String>,
        known: Option<Known>,
    ) -> Result<Known> {
        let version = match version {
            Some(version) => version,
            None => match self.store.stat(&name.container, &name.metadata()).await {
                Ok(stat) => stat.version,
                Err(e) if e.kind() == Kind::NotFound => return Err(e),
                Err(e) => {
                    tracing::error!("backup {} cannot be read: {e}", name.backup_id);
                    let version = String::new();
                    return Ok(Known {
                        version,
                        summary: Err(e),
                    });
                }
            },
        };
        if let Some(known) = known.filter(|known| known.version == version) {
            return Ok(known);
        }
        let read = async {
            let text = read_metadata_text(self.store.as_ref(), name).await?;
            self.summarize(name, Metadata::parse(name, &text)?).await
        };
        let summary = match read.await {
            Ok(summary) => Ok(Arc::new(summary)),
            Err(e) if e.kind() == Kind::NotFound => return Err(e),
            // One object that cannot be read does not hide the others.
            Err(e) => {
                tracing::error!("backup {} cannot be read: {e}", name.backup_id);
                Err(e)
            }
        };
        Ok(Known { version, summary })
    }

    async fn summarize(&self, name: &BackupName, metadata: Metadata) -> Result<Summary> {
        let hashed = match (&metadata.parent_id, metadata.own.size) {
            (Some(_), None) => match HashList::measure(&self.store, name).await {
                Ok(hashed) => hashed,
                // Who opens the backup is told; those that build on it do not need it.
                Err(e) if e.kind() == Kind::Corrupt => None,
                Err(e) => return Err(e),
            },
            _ => None,
        };
        Ok(Summary {
            end: metadata.end(),
            size: metadata.own.size,
            hashed,
            backup: self.describe(name, metadata),
        })
    }

    /// What metadata tells of a backup: all but what depends on its chain.
    pub fn describe(&self, name: &BackupName, metadata: Metadata) -> Backup {
        let codecs: BTreeSet<&str> = metadata
            .objects
            .iter()
            .map(|object| object.compression.as_str())
            .collect();
        let bare = self.bare(name);
        Backup {
            compression: codecs.into_iter().collect::<Vec<_>>().join(","),
            object_count: metadata.objects.len() as u64,
            data_bytes: metadata.own.data_bytes,
            stored_bytes: metadata.own.stored_bytes,
            generation: metadata.own.generation,
            modified: metadata.own.modified(),
            written_as_file: metadata.own.file,
            created_at: metadata.created_at.or(bare.created_at),
            parent_id: metadata.parent_id,
            name: metadata.backup_name,
            description: metadata.backup_description,
            ..bare
        }
    }

    /// What a backup's name alone tells.
    pub fn bare(&self, name: &BackupName) -> Backup {
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
            generation: 0,
            object_count: 0,
            compression: String::new(),
            depth: 0,
            service: self.service,
            container: name.container.clone(),
            service_metadata: name.prefix.clone(),
            fault: None,
        }
    }
}
