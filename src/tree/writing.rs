//! Backups in the making: begun, joined by the same program, closed, sealed.

use super::attr::Attr;
use super::draft::{Draft, GRACE};
use super::file::{Caching, Handle, OpenMode, Opened, Request, sealed};
use super::node::Node;
use super::{Tree, lock, names};
use crate::driver::Change;
use crate::error::{Error, Kind, Result};
use crate::image::ImageWriter;
use std::sync::Arc;
use std::time::Duration;

/// How often, and at what distance, it is looked whether a file that was written is closed.
const SETTLING_LOOKS: u32 = 100;
const SETTLING_LOOK: Duration = Duration::from_millis(10);

impl Tree {
    /// Begins a new backup: a file `name` in the folder of a volume.
    ///
    /// # Errors
    /// `Exists`; `Denied` outside a volume; those of the driver.
    pub async fn create(
        self: &Arc<Self>,
        parent: u64,
        name: &str,
        request: Request,
    ) -> Result<(Attr, Opened)> {
        let Some((backend, volume, basis)) = self.nodes.get(parent)?.place_of_files() else {
            return Err(Error::new(
                Kind::Denied,
                "create",
                name,
                "backups live in the folders of volumes",
            )
            .advise("make a folder for the volume in the backend's folder first"));
        };
        self.check_new_name(backend, &volume, name).await?;
        let driver = self.driver(backend)?;
        if driver.is_incremental(basis) {
            self.settle(backend, &volume).await;
        }
        let created = driver.create(&volume, basis).await;
        let sink = created.inspect_err(|e| self.tell_refusal(e))?;
        let writer = ImageWriter::new(sink, self.buffers());
        let draft = Arc::new(Draft::new(backend, &volume, name, writer, request.program));
        {
            let mut drafts = lock(&self.drafts);
            let same = |other: &Arc<Draft>| {
                other.backend == backend
                    && other.volume == volume
                    && other.name() == name
                    && !other.is_unlinked()
            };
            if drafts.iter().any(same) {
                return Err(Error::new(
                    Kind::Exists,
                    "create",
                    name,
                    "the name is taken",
                ));
            }
            drafts.push(Arc::clone(&draft));
        }
        let node = Node::Backup(backend, volume, draft.id().to_owned());
        let ino = self.nodes.remember(node);
        let attr = self.owner.draft(ino, 0, draft.modified());
        let handle = self.keep_handle(Handle::Write(draft));
        Ok((
            attr,
            Opened {
                handle,
                caching: Caching::None,
            },
        ))
    }

    async fn check_new_name(&self, backend: usize, volume: &str, name: &str) -> Result<()> {
        names::check_file_name("create", name)?;
        if self.find_in_volume(backend, volume, name).await?.is_some() {
            return Err(Error::new(
                Kind::Exists,
                "create",
                name,
                "the name is taken",
            ));
        }
        Ok(())
    }

    /// The backup that is being written, opened once more; or `None`, and from now on it
    /// stays as it is. All under one lock, so that nobody seals what is just being opened.
    pub(super) fn join_draft(
        &self,
        backend: usize,
        volume: &str,
        id: &str,
        mode: OpenMode,
        request: Request,
    ) -> Result<Option<Arc<Draft>>> {
        let mut drafts = lock(&self.drafts);
        let this = |draft: &Arc<Draft>| {
            draft.backend == backend && draft.volume == volume && draft.id() == id
        };
        let found = drafts.iter().find(|draft| this(draft)).cloned();
        let same_program = found
            .as_ref()
            .is_some_and(|draft| request.program != 0 && request.program == draft.program);
        if mode == OpenMode::Write && !same_program {
            return Err(sealed("write to", format!("backup {id}")));
        }
        // One that was closed and is not published yet is no backup either: there would be
        // nothing to open.
        let is_unfinished = |draft: &Draft| draft.is_open() || draft.published().is_none();
        let joined = found
            .clone()
            .filter(|draft| same_program || is_unfinished(draft));
        match &joined {
            Some(draft) => draft.open(),
            None => {
                drafts.retain(|draft| !this(draft));
                if let Some(sealed) = found {
                    sealed.writer.seal();
                }
            }
        }
        Ok(joined)
    }

    pub(super) async fn close_draft(self: &Arc<Self>, draft: &Arc<Draft>) {
        let Some(close) = draft.close() else { return };
        // Bytes may have come after the last flush, from a mapping; and the flush of an
        // empty file could not know that nothing would come.
        let was_published = draft.published().is_some();
        let failed = draft.publish_closed(close, !was_published).await.err();
        if let Some(e) = &failed {
            let (id, name) = (draft.id(), draft.name());
            if !was_published {
                tracing::error!("backup {id} ({name}) is lost: {e}");
                draft.unlink();
            } else {
                match draft.writer.revert().await {
                    Ok(()) => tracing::error!(
                        "backup {id} ({name}) stays as it was published before: {e}"
                    ),
                    Err(left) => tracing::error!(
                        "backup {id} ({name}) was published before, and what was written since \
                         is lost: {e}; and parts of that may be left: {left}"
                    ),
                }
            }
        }
        if draft.is_unlinked() {
            return self.abandon(draft).await;
        }
        if failed.is_some() {
            // Its program cannot go on with it, but it can read what there is.
            return self.seal(draft);
        }
        let (tree, draft) = (Arc::downgrade(self), Arc::clone(draft));
        tokio::spawn(async move {
            tokio::time::sleep(GRACE).await;
            if let Some(tree) = tree.upgrade()
                && draft.is_closed_since(close)
            {
                tree.seal(&draft);
            }
        });
    }

    /// Clears away what was written of a backup that nobody wants any more.
    pub(super) async fn abandon(&self, draft: &Arc<Draft>) {
        if let Err(e) = draft.writer.discard().await {
            tracing::warn!("parts of the abandoned backup {} are left: {e}", draft.id());
        }
        self.seal(draft);
    }

    /// From now on the backup is a record like any other, unless it is open again.
    fn seal(&self, draft: &Arc<Draft>) {
        let mut drafts = lock(&self.drafts);
        if !draft.is_open() {
            drafts.retain(|other| !Arc::ptr_eq(other, draft));
            draft.writer.seal();
        }
    }

    /// Backups of a volume that are written, but still wait for their program to come
    /// back, stay as they are from now on: so that another one can be built on them. The
    /// kernel tells of the last close a moment after the program was told that all is well.
    async fn settle(&self, backend: usize, volume: &str) {
        // For all of them together: some may stay open for as long as they like.
        let mut looks = SETTLING_LOOKS;
        for draft in self.drafts_in(backend, volume) {
            while looks > 0 && draft.is_closing().await {
                tokio::time::sleep(SETTLING_LOOK).await;
                looks -= 1;
            }
            if draft.published().is_some() && !draft.writer.is_changed().await {
                self.seal(&draft);
            }
        }
    }

    /// Changes what is said of a backup that is being written. What was published of it
    /// is changed at once: `rsync` says it after it has closed the file.
    pub(super) async fn change_draft(&self, draft: &Draft, change: Change) -> Result<()> {
        let _exclusive = draft.exclusive().await;
        let before = draft.description();
        let wanted = change.clone();
        draft.describe(|description| {
            if let Some(name) = wanted.name {
                description.name = name;
            }
            if let Some(words) = wanted.description {
                description.description = words;
            }
            if let Some(modified) = wanted.modified {
                description.modified = Some(modified);
            }
        });
        let Some(published) = draft.published() else {
            return Ok(());
        };
        match self.driver(draft.backend)?.update(&published, change).await {
            Ok(backup) => {
                draft.set_published(backup);
                Ok(())
            }
            Err(e) => {
                draft.describe(|description| *description = before);
                Err(e)
            }
        }
    }
}
