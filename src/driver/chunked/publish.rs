//! Publishing: the list of hashes and the metadata, which make a backup exist.

use super::writer::{Chunk, ChunkedSink, State};
use super::{delete_metadata, missing_is_fine};
use crate::driver::{Backup, Description};
use crate::error::{Error, Kind, Result};
use crate::format::{
    DIGEST_BYTES, LARGEST_METADATA, Metadata, Own, format_sha256file_head, format_sha256file_tail,
    push_sha256_entry,
};
use crate::spool;
use crate::store::Body;
use crate::task::blocking;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

impl ChunkedSink {
    /// Lists a backup all of whose chunks are stored.
    pub(super) async fn publish_complete(
        &self,
        size: u64,
        description: &Description,
    ) -> Result<Arc<Backup>> {
        let mut state = self.state.lock().await;
        let metadata = self.metadata(&state, size, description);
        let text = metadata.format(&self.name);
        if text.len() as u64 > LARGEST_METADATA {
            let subject = format!("backup {}", self.name.backup_id);
            let reason = "its metadata would be too large to be read";
            return Err(Error::new(Kind::TooLong, "publish", subject, reason)
                .advise("make the objects larger"));
        }
        let list = self.hash_list(size, description, state.generation).await?;
        if !state.published {
            // Nothing names these, and Cinder would refuse a backup that has them.
            self.delete_obsolete(&mut state).await;
        }
        self.check_not_deleted(&state).await?;
        self.check_parent(&state).await?;
        self.list(&mut state, list, text).await?;
        // Who deletes the parent looks for children before and after; who builds on it looks
        // for the parent before and after. So one of the two sees the other.
        if let Err(e) = self.check_parent(&state).await {
            delete_metadata(&self.shared, &self.name).await?;
            self.shared.catalog.removed(&self.name).await;
            return Err(e);
        }
        self.delete_obsolete(&mut state).await;
        let depth = match self.parent_of(&state) {
            Some(parent) => parent.backup.depth.saturating_add(1),
            None => {
                self.shared.writing.stand_alone(&self.name.backup_id);
                0
            }
        };
        drop(state);
        let catalog = &self.shared.catalog;
        catalog.changed(&self.name).await;
        // Made of what was stored: all is durable now, and nothing may fail any more.
        Ok(Arc::new(catalog.finished(&self.name, metadata, depth)))
    }

    async fn check_parent(&self, state: &State) -> Result<()> {
        match self.parent_of(state) {
            Some(parent) => parent.check(&self.shared, &self.name.backup_id).await,
            None => Ok(()),
        }
    }

    /// Deletes objects that nothing names any more.
    async fn delete_obsolete(&self, state: &mut State) {
        for number in std::mem::take(&mut state.obsolete) {
            let object = self.name.chunk(number);
            match self
                .shared
                .store
                .delete(&self.name.container, &object)
                .await
            {
                Err(e) if e.kind() != Kind::NotFound => {
                    // Cinder refuses to restore beside an object that metadata does not
                    // name, so this is worth a word, and another try at the next publish.
                    tracing::warn!("backup {}: {e}", self.name.backup_id);
                    state.obsolete.insert(number);
                }
                _ => {}
            }
        }
    }

    /// The `_sha256file`.
    async fn hash_list(
        &self,
        size: u64,
        description: &Description,
        generation: u64,
    ) -> Result<Body> {
        let options = &self.shared.options;
        let head = format_sha256file_head(
            &self.name,
            Some(&description.name),
            description.description.as_deref(),
            self.created_at,
            options.sha_block_size,
            generation,
        );
        let count = size.div_ceil(options.sha_block_size);
        let tail = format_sha256file_tail(&self.name, count == 0);
        let digests = Arc::clone(&self.digests);
        let shared = Arc::clone(&self.shared);
        blocking(move || {
            let file = spool::file(&shared.resources.spool_path)?;
            write_hash_list(file, &head, &digests, count, &tail).map_err(|e| spool::error(&e))
        })
        .await
    }

    fn metadata(&self, state: &State, size: u64, description: &Description) -> Metadata {
        let chunks = || state.chunks.values();
        let objects = chunks().flat_map(|chunk| &chunk.objects);
        let mut own = Own {
            file: true,
            size: Some(size),
            data_bytes: Some(chunks().map(|chunk| chunk.data_bytes).sum()),
            stored_bytes: Some(chunks().map(|chunk| chunk.stored).sum()),
            generation: state.generation,
            ..Own::default()
        };
        let parent = self.parent_of(state);
        if let Some(modified) = description.modified {
            own.set_modified(modified);
        }
        Metadata {
            backup_name: Some(description.name.clone()),
            backup_description: description.description.clone(),
            created_at: Some(self.created_at),
            parent_id: parent.map(|parent| parent.backup.id.clone()),
            volume_meta: None,
            objects: objects.cloned().collect(),
            own,
        }
    }

    /// Stores list and metadata. The first time in this order: the metadata makes the backup
    /// exist. Anew, there is no list for a moment: Cinder takes any list for that of the
    /// metadata beside it, and builds incremental backups on it that would be wrong.
    async fn list(&self, state: &mut State, list: Body, metadata: Vec<u8>) -> Result<()> {
        let (store, container) = (&self.shared.store, &self.name.container);
        let sha256file = self.name.sha256file();
        let anew = state.generation > 0;
        match anew {
            true => missing_is_fine(store.delete(container, &sha256file).await)?,
            false => store.put(container, &sha256file, list.clone()).await?,
        }
        let named: BTreeSet<u64> = state.chunks.values().flat_map(Chunk::numbers).collect();
        let stored = async {
            store.sync(container).await?;
            named
                .iter()
                .for_each(|number| state.numbers.publish(*number));
            state.published = true;
            let body = Body::Bytes(metadata.into());
            store.put(container, &self.name.metadata(), body).await
        };
        if let Err(e) = stored.await {
            // It is as it was published before. It can be read without the list, but
            // nothing be built on it.
            if let Some(before) = state.list.clone() {
                let _ = store.put(container, &sha256file, before).await;
            }
            return Err(e);
        }
        // Whether the names are durable or not: from here on it is what this metadata says.
        state.generation += 1;
        state.live = named;
        if anew {
            state.list = None;
            store.sync(container).await?;
            store.put(container, &sha256file, list.clone()).await?;
        }
        state.list = Some(list);
        store.sync(container).await
    }

    /// A backup that was published and is not there any more was deleted by somebody
    /// else, and its chunks with it.
    async fn check_not_deleted(&self, state: &State) -> Result<()> {
        if state.generation == 0 {
            return Ok(());
        }
        let metadata = self.name.metadata();
        let stat = self
            .shared
            .store
            .stat(&self.name.container, &metadata)
            .await;
        stat.map(drop).map_err(|e| match e.kind() {
            Kind::NotFound => Error::new(
                Kind::NotFound,
                "publish",
                format!("backup {}", self.name.backup_id),
                "another program has deleted it while it was written",
            ),
            _ => e,
        })
    }
}

/// Writes the text of a list of `count` hashes, taken from the file `digests`.
fn write_hash_list(
    file: File,
    head: &[u8],
    digests: &File,
    count: u64,
    tail: &[u8],
) -> std::io::Result<Body> {
    const PAGE: u64 = 4096;
    let mut file = std::io::BufWriter::new(file);
    file.write_all(head)?;
    let mut page = vec![0; PAGE as usize * DIGEST_BYTES];
    for first in (0..count).step_by(PAGE as usize) {
        page.resize((count - first).min(PAGE) as usize * DIGEST_BYTES, 0);
        digests.read_exact_at(&mut page, first * DIGEST_BYTES as u64)?;
        let mut text = Vec::with_capacity(PAGE as usize * 72);
        for (number, digest) in (first..).zip(page.as_chunks::<DIGEST_BYTES>().0) {
            push_sha256_entry(&mut text, number == 0, digest);
        }
        file.write_all(&text)?;
    }
    file.write_all(tail)?;
    let file = file
        .into_inner()
        .map_err(std::io::IntoInnerError::into_error)?;
    Ok(Body::File {
        length: file.metadata()?.len(),
        file: Arc::new(file),
    })
}
