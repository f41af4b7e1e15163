//! Opening a finished backup: its chain, its objects and its list of hashes, resolved once.

use super::Shared;
use super::hashlist::HashList;
use super::image::{ChunkedImage, Part};
use super::summary::read_metadata_text;
use crate::driver::Backup;
use crate::error::{Error, Kind, Result};
use crate::format::{BackupName, Layer, Metadata, resolve};

impl Shared {
    /// The image of a backup.
    ///
    /// # Errors
    /// `Corrupt` when its chain, its metadata or its list of hashes make no sense; those
    /// of the store.
    pub(super) async fn image(&self, backup: &Backup) -> Result<ChunkedImage> {
        if let Some(fault) = &backup.fault {
            return Err(fault.clone());
        }
        let within = |e: Error| e.within(format!("backup {}", backup.id));
        let chain = self.catalog.chain(backup).await?;
        let (mut parts, mut layers) = (Vec::new(), Vec::new());
        // Of the backup itself: it is the first in its chain.
        let mut generation = None;
        for name in &chain {
            let metadata = self.read_metadata(name).await.map_err(within)?;
            generation.get_or_insert(metadata.own.generation);
            layers.push(
                (parts.len()..)
                    .zip(&metadata.objects)
                    .map(|(object, entry)| Layer {
                        object,
                        offset: entry.offset,
                        length: entry.length,
                    })
                    .collect(),
            );
            let own = metadata.objects.into_iter();
            parts.extend(own.map(|entry| Part::new(name, entry)));
        }
        let extents = resolve(layers, backup.size);
        let hashes = match chain.first() {
            Some(newest) => self.hashes_of(newest, generation).await.map_err(within)?,
            None => None,
        };
        if let Some(list) = &hashes {
            list.check_count(backup.size)?;
        }
        Ok(ChunkedImage::new(
            &backup.id,
            backup.size,
            &self.store,
            &self.objects,
            parts,
            extents,
            hashes,
        ))
    }

    /// The list of hashes of a backup, if it has one that can be used. Without, every
    /// object is checked against its md5, so a broken list is no reason to refuse data.
    pub(super) async fn hashes_of(
        &self,
        name: &BackupName,
        generation: Option<u64>,
    ) -> Result<Option<HashList>> {
        let backup = &name.backup_id;
        match HashList::open(&self.store, name).await {
            Err(e) if e.kind() == Kind::Corrupt => {
                tracing::warn!("backup {backup} is checked by its objects' md5: {e}");
                Ok(None)
            }
            Ok(Some(list)) if !generation.is_some_and(|own| list.is_of_generation(own)) => {
                tracing::warn!(
                    "backup {backup} is checked by its objects' md5: its list of hashes was \
                     written for a publication of it that was never finished"
                );
                Ok(None)
            }
            other => other,
        }
    }

    pub(super) async fn read_metadata(&self, name: &BackupName) -> Result<Metadata> {
        Metadata::parse(name, &read_metadata_text(self.store.as_ref(), name).await?)
    }
}
