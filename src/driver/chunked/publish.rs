//! Publishing: the list of hashes and the metadata, which make a backup exist.

use super::summary::read_metadata_text;
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
use bytes::Bytes;
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
        if let Some(loss) = self.loss_of_parent(&state).await? {
            return Err(loss);
        }
        let anew = state.generation > 0;
        self.list(&mut state, list, text).await?;
        // Who deletes the parent looks for children before and after; who builds on it looks
        // for the parent before and after. So one of the two sees the other, unless listings
        // are late, as those of Swift may be.
        match self.loss_of_parent(&state).await {
            Ok(None) => {}
            Ok(Some(loss)) if anew => return Err(loss),
            Ok(Some(loss)) => {
                delete_metadata(&self.shared, &self.name).await?;
                self.shared.catalog.removed(&self.name).await;
                return Err(loss);
            }
            // All is stored, and the parent was there a moment ago, which others know.
            Err(e) => tracing::warn!("backup {}: {e}", self.name.backup_id),
        }
        self.delete_obsolete(&mut state).await;
        let depth = match self.parent_of(&state) {
            Some(parent) => parent.backup.depth.saturating_add(1),
            None => {
                self.stand_alone();
                0
            }
        };
        drop(state);
        let catalog = &self.shared.catalog;
        catalog.changed(&self.name).await;
        // Made of what was stored: all is durable now, and nothing may fail any more.
        Ok(Arc::new(catalog.finished(&self.name, metadata, depth)))
    }

    async fn loss_of_parent(&self, state: &State) -> Result<Option<Error>> {
        match self.parent_of(state) {
            Some(parent) => parent.loss(&self.shared, &self.name.backup_id).await,
            None => Ok(None),
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

    /// Stores list and metadata.
    async fn list(&self, state: &mut State, list: Body, metadata: Vec<u8>) -> Result<()> {
        let named: BTreeSet<u64> = state.chunks.values().flat_map(Chunk::numbers).collect();
        let metadata = Bytes::from(metadata);
        match state.generation {
            0 => self.list_first(state, &list, metadata, &named).await?,
            _ => self.list_anew(state, &list, metadata, &named).await?,
        }
        state.list = Some(list);
        state.live = named;
        self.shared.store.sync(&self.name.container).await
    }

    /// In Cinder's order: the metadata makes the backup exist.
    async fn list_first(
        &self,
        state: &mut State,
        list: &Body,
        metadata: Bytes,
        named: &BTreeSet<u64>,
    ) -> Result<()> {
        let (store, container) = (&self.shared.store, &self.name.container);
        store
            .put(container, &self.name.sha256file(), list.clone())
            .await?;
        store.sync(container).await?;
        state.use_up(named);
        state.published = true;
        let body = Body::Bytes(metadata);
        store.put(container, &self.name.metadata(), body).await?;
        // Whether the names are durable or not: this list and this metadata go together.
        state.generation += 1;
        state.has_list = true;
        Ok(())
    }

    /// There is no list for a moment. Cinder takes any list for that of the metadata beside
    /// it: with one of another publication, an incremental backup of its would be wrong.
    async fn list_anew(
        &self,
        state: &mut State,
        list: &Body,
        metadata: Bytes,
        named: &BTreeSet<u64>,
    ) -> Result<()> {
        let (store, container) = (&self.shared.store, &self.name.container);
        let sha256file = self.name.sha256file();
        let before = read_metadata_text(store.as_ref(), &self.name).await?;
        state.has_list = false;
        state.use_up(named);
        // That number is never used again, whatever comes of this.
        state.generation += 1;
        let stored = async {
            missing_is_fine(store.delete(container, &sha256file).await)?;
            store.sync(container).await?;
            let body = Body::Bytes(metadata.clone());
            store.put(container, &self.name.metadata(), body).await?;
            store.sync(container).await?;
            store.put(container, &sha256file, list.clone()).await
        };
        if let Err(e) = stored.await {
            self.go_back(state, list, (before, metadata), named, &e)
                .await;
            return Err(e);
        }
        state.has_list = true;
        Ok(())
    }

    /// After a failure the backup is to be what it was before, if that can be had.
    async fn go_back(
        &self,
        state: &mut State,
        list: &Body,
        (before, after): (Bytes, Bytes),
        named: &BTreeSet<u64>,
        failure: &Error,
    ) {
        let (store, container) = (&self.shared.store, &self.name.container);
        let object = self.name.metadata();
        let is_before = |text: &Result<Bytes>| text.as_ref().is_ok_and(|text| *text == before);
        let mut found = read_metadata_text(store.as_ref(), &self.name).await;
        // A store that gave no answer may have stored it all the same, in a copy that is not
        // the one just read, and that will count as the newest. What is stored now is newer.
        let is_unsure = matches!(failure.kind(), Kind::Unavailable | Kind::TimedOut);
        // Where nothing was changed, nothing needs room.
        if is_unsure || !is_before(&found) {
            let body = Body::Bytes(before.clone());
            let stored = store.put(container, &object, body).await;
            found = match stored {
                Err(e) if is_unsure => Err(e),
                _ => read_metadata_text(store.as_ref(), &self.name).await,
            };
        }
        if is_before(&found) {
            let _ = self.put_list_back(state).await;
            return;
        }
        if found.is_ok_and(|text| text == after) {
            state.live = named.clone();
            state.list = Some(list.clone());
        } else {
            // Nobody knows which: all objects stay, and no list.
            tracing::error!(
                "backup {}: it is not known which of two publications is in the store, so the \
                 objects of both stay: {failure}",
                self.name.backup_id
            );
            state.live.extend(named);
            state.list = None;
        }
    }

    /// Stores the list that goes with the metadata, should it be missing: the backup can be
    /// read without, but nothing be built on it.
    pub(super) async fn put_list_back(&self, state: &mut State) -> Result<()> {
        let Some(list) = state.list.clone().filter(|_| !state.has_list) else {
            return Ok(());
        };
        let (store, container) = (&self.shared.store, &self.name.container);
        store.put(container, &self.name.sha256file(), list).await?;
        state.has_list = true;
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
