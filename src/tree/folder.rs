//! Folders: what is in them, and what making, moving and removing means.

use super::attr::{Attr, FileKind};
use super::draft::Draft;
use super::file::Handle;
use super::node::{DropKind, Node};
use super::{Tree, lock, names, not_found};
use crate::driver::{Backup, Basis, Change, leaves_first};
use crate::error::{Error, Kind, Result};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// One entry of a folder.
#[derive(Debug, Clone)]
pub struct DirEntry {
    /// Its name.
    pub name: String,
    /// Its attributes.
    pub attr: Attr,
    node: Node,
}

/// The names in a volume's folder, and the backups that they were made of.
pub struct View {
    backups: Vec<Arc<Backup>>,
    names: BTreeMap<String, Arc<Backup>>,
}

/// What a name in a volume's folder stands for.
pub enum Found {
    /// A finished backup.
    Backup(Arc<Backup>),
    /// One that is being written.
    Draft(Arc<Draft>),
}

impl Found {
    fn id(&self) -> &str {
        match self {
            Self::Backup(backup) => &backup.id,
            Self::Draft(draft) => draft.id(),
        }
    }
}

impl Tree {
    /// The names of the finished backups of a volume.
    pub(super) async fn view(&self, backend: usize, volume: &str) -> Result<Arc<View>> {
        let backups = self.driver(backend)?.backups(volume).await?;
        let key = (backend, volume.to_owned());
        let mut views = lock(&self.views);
        if let Some(view) = views.get(&key)
            && view.backups.len() == backups.len()
            && view
                .backups
                .iter()
                .zip(&backups)
                .all(|(a, b)| Arc::ptr_eq(a, b))
        {
            return Ok(Arc::clone(view));
        }
        let names = names::file_names(&backups);
        let view = Arc::new(View { backups, names });
        views.insert(key, Arc::clone(&view));
        Ok(view)
    }

    /// What a name in a volume's folder stands for.
    pub(super) async fn find_in_volume(
        &self,
        backend: usize,
        volume: &str,
        name: &str,
    ) -> Result<Option<Found>> {
        let drafts = self.drafts_in(backend, volume);
        if let Some(draft) = drafts
            .iter()
            .find(|draft| !draft.is_unlinked() && draft.name() == name)
        {
            return Ok(Some(Found::Draft(Arc::clone(draft))));
        }
        let view = self.view(backend, volume).await?;
        let found = view.names.get(name).filter(|backup| {
            // One that is being written again has its name from there.
            drafts.iter().all(|draft| draft.id() != backup.id)
        });
        Ok(found.map(|backup| Found::Backup(Arc::clone(backup))))
    }

    /// Whether a backup in a volume is being written that somebody still wants.
    fn holds_drafts(&self, backend: usize, volume: &str) -> bool {
        let drafts = self.drafts_in(backend, volume);
        drafts.iter().any(|draft| !draft.is_unlinked())
    }

    async fn volume_exists(&self, backend: usize, volume: &str) -> Result<bool> {
        let made = lock(&self.made).contains(&(backend, volume.to_owned()));
        if made || self.holds_drafts(backend, volume) {
            return Ok(true);
        }
        self.driver(backend)?.has_volume(volume).await
    }

    /// Looks a name up; the kernel knows the inode from then on.
    ///
    /// # Errors
    /// `NotFound`; those of the driver.
    pub async fn lookup(&self, parent: u64, name: &str) -> Result<Attr> {
        let missing = || not_found("file", name);
        let folder = self.nodes.get(parent)?;
        let is_second_name = matches!(folder, Node::Drop(..));
        let node = match folder {
            Node::Root if name == ".cinderfs" => Node::Control,
            // File managers ask for `.hidden`, `.Trash` and the like, again and again.
            Node::Root | Node::Backend(_) if name.starts_with('.') => return Err(missing()),
            Node::Root => {
                let backend = self
                    .backends
                    .iter()
                    .position(|backend| backend.name == name);
                Node::Backend(backend.ok_or_else(missing)?)
            }
            Node::Backend(backend) => {
                let volume = names::volume_id_of(name).ok_or_else(missing)?;
                if !self.volume_exists(backend, &volume).await? {
                    return Err(missing());
                }
                Node::Volume(backend, volume)
            }
            Node::Volume(backend, volume) if let Some(kind) = DropKind::of_name(name) => {
                Node::Drop(backend, volume, kind)
            }
            // In a drop folder, too: rsync renames what it has written there.
            Node::Volume(backend, volume) | Node::Drop(backend, volume, _) => {
                let found = self.find_in_volume(backend, &volume, name).await?;
                let id = found.ok_or_else(missing)?.id().to_owned();
                Node::Backup(backend, volume, id)
            }
            control => self
                .lookup_control(&control, name)
                .await?
                .ok_or_else(missing)?,
        };
        let mut attr = self.attr_of(self.nodes.number(&node), &node).await?;
        if is_second_name {
            // It changes along with the first one, and nobody tells the kernel.
            attr.name_ttl = Duration::ZERO;
        }
        self.nodes.remember(node);
        Ok(attr)
    }

    /// Tells one thing that has an inode number from those that had it before.
    pub fn generation(&self, ino: u64) -> u64 {
        self.nodes.generation(ino)
    }

    /// The kernel forgets an inode, as often as it was told of it.
    pub fn forget(&self, ino: u64, times: u64) {
        self.nodes.forget(ino, times);
    }

    /// The attributes of an inode.
    ///
    /// # Errors
    /// `NotFound` when it is gone.
    pub async fn attr(&self, ino: u64) -> Result<Attr> {
        let node = self.nodes.get(ino)?;
        self.attr_of(ino, &node).await
    }

    async fn attr_of(&self, ino: u64, node: &Node) -> Result<Attr> {
        match node {
            Node::Backup(backend, volume, id) => {
                if let Some(draft) = self.draft(*backend, volume, id) {
                    return Ok(self.draft_attr(ino, &draft));
                }
                let backup = self.backup(*backend, volume, id).await?;
                let data = self.known_data_bytes(ino, &backup).await;
                Ok(self.owner.backup(ino, &backup, data))
            }
            Node::ByIdLink(id) => {
                let target = self.link_target(id).await?;
                Ok(self.owner.link(ino, target.len() as u64))
            }
            _ => match self.text_of(node).await? {
                Some(text) => Ok(self.owner.text(ino, text.len() as u64)),
                None => Ok(self.owner.folder(ino)),
            },
        }
    }

    fn draft_attr(&self, ino: u64, draft: &Draft) -> Attr {
        match draft.finished() {
            Some(backup) => {
                let attr = self.owner.backup(ino, &backup, None);
                let as_draft = self.owner.draft(ino, attr.size, attr.mtime);
                Attr {
                    blocks: attr.blocks,
                    ..as_draft
                }
            }
            None => self.owner.draft(ino, draft.size(), draft.modified()),
        }
    }

    /// Opens a folder for listing.
    ///
    /// # Errors
    /// `NotDirectory`.
    pub async fn open_folder(&self, ino: u64) -> Result<u64> {
        let entries = Arc::new(self.entries(ino).await?);
        Ok(self.keep_handle(Handle::Folder(ino, Mutex::new(entries))))
    }

    /// The entries of an open folder; read again if `anew`, as rewinddir(3) asks for.
    ///
    /// # Errors
    /// Those of listing it.
    pub async fn folder_entries(&self, handle: u64, anew: bool) -> Result<Arc<Vec<DirEntry>>> {
        let handle = self.handle(handle)?;
        let Handle::Folder(ino, entries) = &*handle else {
            return Err(Error::new(
                Kind::NotDirectory,
                "list",
                "a file",
                "it is no folder",
            ));
        };
        if anew {
            let fresh = Arc::new(self.entries(*ino).await?);
            *lock(entries) = fresh;
        }
        Ok(Arc::clone(&lock(entries)))
    }

    /// The kernel has taken an entry of a listing, as if it had looked it up.
    pub fn remember(&self, entry: &DirEntry) {
        self.nodes.remember(entry.node.clone());
    }

    async fn entries(&self, ino: u64) -> Result<Vec<DirEntry>> {
        let node = self.nodes.get(ino)?;
        let mut entries = Vec::new();
        let mut folder = |name: String, node: Node| {
            let attr = self.owner.folder(self.nodes.number(&node));
            entries.push(DirEntry { name, attr, node });
        };
        match &node {
            Node::Root => {
                for (index, backend) in self.backends.iter().enumerate() {
                    folder(backend.name.clone(), Node::Backend(index));
                }
            }
            Node::Backend(backend) => {
                for volume in self.volumes_in(*backend).await? {
                    folder(names::volume_name(&volume), Node::Volume(*backend, volume));
                }
            }
            // What is in it is in the folder above.
            Node::Drop(..) => {}
            Node::Volume(backend, volume) => {
                let mut listed = self.listed_in(*backend, volume).await?;
                // `rm -r` deletes in this order, and nothing that others are built on.
                leaves_first(&mut listed, |(_, backup)| backup);
                for (name, backup) in listed {
                    let node = Node::Backup(*backend, volume.clone(), backup.id.clone());
                    let ino = self.nodes.number(&node);
                    let known = lock(&self.data_bytes).get(&ino).copied();
                    let attr = match self.draft(*backend, volume, &backup.id) {
                        Some(draft) => self.draft_attr(ino, &draft),
                        None => self.owner.backup(ino, &backup, known),
                    };
                    entries.push(DirEntry { name, attr, node });
                }
            }
            control => {
                for (name, node) in self.control_entries(control).await? {
                    let attr = self.attr_of(self.nodes.number(&node), &node).await?;
                    entries.push(DirEntry { name, attr, node });
                }
            }
        }
        Ok(entries)
    }

    /// The volumes of a backend: those that hold backups and those that were made here.
    pub(super) async fn volumes_in(&self, backend: usize) -> Result<Vec<String>> {
        let mut volumes = self.driver(backend)?.volumes().await?;
        let made: Vec<String> = lock(&self.made)
            .iter()
            .filter(|(of, _)| *of == backend)
            .map(|(_, volume)| volume.clone())
            .collect();
        volumes.extend(made);
        volumes.sort_unstable();
        volumes.dedup();
        Ok(volumes)
    }

    /// The finished backups of a volume, under the names that they have now.
    pub(super) async fn listed_in(
        &self,
        backend: usize,
        volume: &str,
    ) -> Result<Vec<(String, Arc<Backup>)>> {
        let view = self.view(backend, volume).await?;
        Ok(view
            .names
            .iter()
            .map(|(name, backup)| (name.clone(), Arc::clone(backup)))
            .collect())
    }

    /// Makes the folder of a new volume. It lasts once it holds a backup.
    ///
    /// # Errors
    /// `Exists`, `Invalid`, `Denied` where no volume can be.
    pub async fn make_folder(&self, parent: u64, name: &str) -> Result<Attr> {
        let Node::Backend(backend) = self.nodes.get(parent)? else {
            return Err(Error::new(
                Kind::Denied,
                "make folder",
                name,
                "folders are volumes, and those stand in the folder of a backend",
            ));
        };
        let Some(volume) = names::volume_id_of(name).filter(|_| !name.starts_with('.')) else {
            let reason = "no volume can have this name";
            return Err(Error::new(
                Kind::Invalid,
                "make folder",
                name.escape_debug().to_string(),
                reason,
            ));
        };
        if self.volume_exists(backend, &volume).await? {
            return Err(Error::new(
                Kind::Exists,
                "make folder",
                name,
                "the volume is there",
            ));
        }
        lock(&self.made).insert((backend, volume.clone()));
        Ok(self
            .owner
            .folder(self.nodes.remember(Node::Volume(backend, volume))))
    }

    /// Removes the folder of a volume that holds nothing.
    ///
    /// # Errors
    /// `NotEmpty`, `NotFound`, `Denied` for anything that is no volume.
    pub async fn remove_folder(&self, parent: u64, name: &str) -> Result<()> {
        let Node::Backend(backend) = self.nodes.get(parent)? else {
            let reason = "only the folders of volumes can be removed";
            return Err(Error::new(Kind::Denied, "remove folder", name, reason));
        };
        let volume = names::volume_id_of(name).ok_or_else(|| not_found("volume", name))?;
        if !self.volume_exists(backend, &volume).await? {
            return Err(not_found("volume", name));
        }
        let holds_drafts = self.holds_drafts(backend, &volume);
        if holds_drafts || !self.driver(backend)?.backups(&volume).await?.is_empty() {
            return Err(Error::new(
                Kind::NotEmpty,
                "remove folder",
                name,
                "it holds backups",
            ));
        }
        lock(&self.made).remove(&(backend, volume.clone()));
        lock(&self.views).remove(&(backend, volume.clone()));
        self.nodes.retire(&Node::Volume(backend, volume));
        Ok(())
    }

    /// Deletes a backup.
    ///
    /// # Errors
    /// `Dependents` while others are built on it; those of the driver.
    pub async fn unlink(&self, parent: u64, name: &str) -> Result<()> {
        let Some((backend, volume, _)) = self.nodes.get(parent)?.place_of_files() else {
            let reason = "only backups can be deleted";
            return Err(Error::new(Kind::Denied, "delete", name, reason));
        };
        let found = self.find_in_volume(backend, &volume, name).await?;
        let deleted = match found.ok_or_else(|| not_found("file", name))? {
            Found::Backup(backup) => self.driver(backend)?.delete(&backup).await,
            Found::Draft(draft) => self.unlink_draft(&draft).await,
        };
        deleted.inspect_err(|e| self.tell_refusal(e))?;
        // `rm -r` goes on to remove the folder, and finds it.
        lock(&self.made).insert((backend, volume));
        Ok(())
    }

    async fn unlink_draft(&self, draft: &Arc<Draft>) -> Result<()> {
        let _exclusive = draft.exclusive().await;
        if let Some(backup) = draft.published() {
            let driver = self.driver(draft.backend)?;
            match draft.is_open() {
                true => driver.withdraw(&backup).await?,
                false => driver.delete(&backup).await?,
            }
        }
        draft.unlink();
        if !draft.is_open() {
            // It may have been closed since it was withdrawn.
            self.abandon(draft).await;
        }
        Ok(())
    }

    /// Renames a backup in its volume.
    ///
    /// # Errors
    /// `CrossDevice` for another folder, so that programs copy; `Exists`: a backup is
    /// never replaced by another.
    pub async fn rename(&self, from: (u64, &str), to: (u64, &str)) -> Result<()> {
        let (source, target) = (self.nodes.get(from.0)?, self.nodes.get(to.0)?);
        let place = |node: &Node| {
            let (backend, volume, _) = node.place_of_files()?;
            Some((backend, volume))
        };
        let (source_place, target_place) = (place(&source), place(&target));
        let is_folder = matches!(source, Node::Root | Node::Backend(_))
            || matches!(source, Node::Volume(..)) && DropKind::of_name(from.1).is_some();
        if source_place != target_place || is_folder {
            let reason = "a backup stays in its volume, and a volume keeps its id";
            return Err(Error::new(Kind::CrossDevice, "rename", from.1, reason));
        }
        let Some((backend, volume)) = source_place else {
            return Err(Error::new(
                Kind::Denied,
                "rename",
                from.1,
                "it is no backup",
            ));
        };
        let found = self.find_in_volume(backend, &volume, from.1).await?;
        let found = found.ok_or_else(|| not_found("file", from.1))?;
        if from.1 == to.1 {
            return Ok(());
        }
        let refused = self.check_rename_target(backend, &volume, to.1).await;
        refused.inspect_err(|e| tracing::warn!("{e}"))?;
        let change = Change {
            name: Some(to.1.to_owned()),
            ..Change::default()
        };
        match found {
            Found::Draft(draft) => self.change_draft(&draft, change).await,
            Found::Backup(backup) => self
                .driver(backend)?
                .update(&backup, change)
                .await
                .map(drop),
        }
    }

    async fn check_rename_target(&self, backend: usize, volume: &str, name: &str) -> Result<()> {
        names::check_file_name("rename to", name)?;
        if self.find_in_volume(backend, volume, name).await?.is_some() {
            let reason = "that is another backup, and one is never replaced by another";
            return Err(Error::new(Kind::Exists, "rename to", name, reason)
                .advise("delete it first, or choose another name"));
        }
        Ok(())
    }
}

impl Node {
    /// The volume whose backups are the files in this folder, and what a new file becomes.
    pub(super) fn place_of_files(&self) -> Option<(usize, String, Basis)> {
        match self {
            Self::Volume(backend, volume) => Some((*backend, volume.clone(), Basis::Configured)),
            Self::Drop(backend, volume, DropKind::Full) => {
                Some((*backend, volume.clone(), Basis::Full))
            }
            Self::Drop(backend, volume, DropKind::Incremental) => {
                Some((*backend, volume.clone(), Basis::Newest))
            }
            _ => None,
        }
    }
}

impl DirEntry {
    /// The entry's kind.
    pub fn kind(&self) -> FileKind {
        self.attr.kind
    }
}
