//! Cinder's chunked drivers: posix and, over other stores, nfs, glusterfs and swift.
//!
//! A volume is cut into objects, each compressed by itself; metadata says which object
//! holds what, and a list of hashes what every block must be.

mod catalog;
mod chain;
mod changes;
mod digest;
mod disk_format;
mod encode;
mod garbage;
mod hashlist;
mod image;
mod listing;
mod numbers;
mod object;
mod open;
mod parent;
mod publish;
mod readback;
mod shelf;
mod stream;
mod summary;
mod verify;
mod writer;
mod writing;

use super::dependents::refuse_if_built_on;
use super::{
    Backup, BackupDriver, BackupSink, Basis, Change, Content, Garbage, Progress, Resources, Space,
    Verdict,
};
use crate::codec::Codec;
use crate::config;
use crate::error::{Error, Kind, Result};
use crate::format::{BackupName, Layout, Metadata};
use crate::store::{ObjectStore, posix::PosixStore, swift::SwiftStore};
use async_trait::async_trait;
use bytes::Bytes;
use catalog::Catalog;
pub use digest::{digests, is_zero};
use image::OpenObjects;
use std::collections::BTreeSet;
use std::fmt::{self, Debug};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use summary::read_metadata_text;
use tokio::task::JoinSet;
use writer::ChunkedSink;
use writing::{ChangingSign, DeletingSign, Writing};

/// Objects that are removed at a time.
const DELETIONS: usize = 16;

/// How a chunked driver keeps what it writes, and how it reads.
#[derive(Debug, Clone)]
pub struct Options {
    /// Class path of the Cinder driver whose backups these are.
    pub service: &'static str,
    /// How containers and objects are named.
    pub layout: Layout,
    /// The container of new backups, where the layout's own choice is overridden.
    pub container: Option<String>,
    /// Bytes of the volume in each object.
    pub object_size: u64,
    /// Bytes of the volume that each hash stands for.
    pub sha_block_size: u64,
    /// How new objects are compressed.
    pub codec: Codec,
    /// The codec as configured: Cinder notes that spelling.
    pub compression: String,
    /// How old a listing may be.
    pub list_ttl: Duration,
    /// Nothing may be deleted.
    pub append_only: bool,
    /// What becomes of a new backup of which nobody says what it is to be.
    pub incremental: config::Incremental,
    /// How many backups such a one may be built on.
    pub max_chain: Option<u32>,
}

/// A chunked driver over any store.
pub struct ChunkedDriver {
    shared: Arc<Shared>,
}

/// What a driver and its backups in the making both need.
struct Shared {
    store: Arc<dyn ObjectStore>,
    options: Options,
    resources: Resources,
    catalog: Catalog,
    objects: Arc<OpenObjects>,
    writing: Arc<Writing>,
    scans: Arc<verify::Scans>,
}

/// The driver of Cinder's `PosixBackupDriver`.
///
/// # Errors
/// When the folder is missing or cannot be read.
pub fn posix(
    options: &config::Posix,
    common: &config::Common,
    resources: &Resources,
) -> Result<ChunkedDriver> {
    let store = PosixStore::open(&options.path).map_err(|e| {
        e.within(&options.place)
            .advise("name a folder that is there and that you may read")
    })?;
    let service = "cinder.backup.drivers.posix.PosixBackupDriver";
    let options = Options::new(service, Layout::Posix, &options.chunked, common)?;
    Ok(ChunkedDriver::new(Arc::new(store), options, resources))
}

/// The driver of Cinder's `NFSBackupDriver` and of its `GlusterfsBackupDriver`. Whether the
/// share can be mounted shows when it is first asked for something.
///
/// # Errors
/// `Invalid` when it cannot be used as configured.
pub fn share(
    options: &config::Share,
    common: &config::Common,
    resources: &Resources,
) -> Result<ChunkedDriver> {
    let service = match options.kind {
        config::ShareKind::Nfs => "cinder.backup.drivers.nfs.NFSBackupDriver",
        config::ShareKind::GlusterFs => "cinder.backup.drivers.glusterfs.GlusterfsBackupDriver",
    };
    let store = PosixStore::on_share(options);
    let options = Options::new(service, Layout::Posix, &options.chunked, common)?;
    Ok(ChunkedDriver::new(Arc::new(store), options, resources))
}

/// The driver of Cinder's `SwiftBackupDriver`. Whether the store can be reached shows when
/// it is first asked for something: it may be down, and come back.
///
/// # Errors
/// `Invalid` when it cannot be used as configured.
pub fn swift(
    options: &config::Swift,
    common: &config::Common,
    resources: &Resources,
) -> Result<ChunkedDriver> {
    let service = "cinder.backup.drivers.swift.SwiftBackupDriver";
    let store = SwiftStore::new(options).map_err(|e| e.within(&options.place))?;
    let options = Options::new(service, Layout::Swift, &options.chunked, common)?;
    Ok(ChunkedDriver::new(Arc::new(store), options, resources))
}

impl Options {
    fn new(
        service: &'static str,
        layout: Layout,
        chunked: &config::Chunked,
        common: &config::Common,
    ) -> Result<Self> {
        let compression = chunked.compression.clone();
        let codec = Codec::from_option(&compression).ok_or_else(|| {
            let op = "use backup_compression_algorithm";
            Error::new(Kind::Invalid, op, compression.clone(), "unknown codec")
        })?;
        Ok(Self {
            service,
            layout,
            container: chunked.container.clone(),
            object_size: chunked.object_size,
            sha_block_size: chunked.sha_block_size,
            codec,
            compression,
            list_ttl: common.list_ttl,
            append_only: common.append_only,
            incremental: common.incremental,
            max_chain: common.max_chain,
        })
    }
}

impl ChunkedDriver {
    /// A driver that keeps backups in `store`.
    pub fn new(store: Arc<dyn ObjectStore>, options: Options, resources: &Resources) -> Self {
        let catalog = Catalog::new(&store, &options);
        Self {
            shared: Arc::new(Shared {
                store,
                options,
                resources: resources.clone(),
                catalog,
                objects: Arc::default(),
                writing: Arc::default(),
                scans: Arc::default(),
            }),
        }
    }

    /// From here on a backup does not exist any more, unless others are built on it.
    /// Gives its name, and the numbers of the objects that its metadata has named.
    async fn withdraw_named(
        &self,
        backup: &Backup,
    ) -> Result<(Arc<BackupName>, DeletingSign, Vec<u64>)> {
        let _alone = self.shared.writing.delete().await;
        let (name, sign) = self.begin_deleting(backup).await?;
        let text = self.delete_unless_built_on(backup, &name).await?;
        let metadata = text.and_then(|text| Metadata::parse(&name, &text));
        let objects = metadata.map_or_else(|_| Vec::new(), |metadata| metadata.objects);
        let numbers = objects.iter().map(|entry| entry.number).collect();
        Ok((name, sign, numbers))
    }

    /// The name of a backup that may be deleted, and the sign that it is being.
    async fn begin_deleting(&self, backup: &Backup) -> Result<(Arc<BackupName>, DeletingSign)> {
        self.refuse_if_append_only(backup)?;
        let catalog = &self.shared.catalog;
        let name = catalog.name_of(backup).await?;
        let sign = DeletingSign::begin(&self.shared, &backup.id).await;
        // Only now: what another program has built on it until then counts, too.
        let others = catalog.backups_now(&backup.volume_id).await?;
        refuse_if_built_on(backup, &others)?;
        self.refuse_if_hidden(backup)?;
        Ok((name, sign?))
    }

    /// From here on a backup does not exist any more, unless another program has built on
    /// it a moment ago: where a store has no claims, only that shows it. Gives the text of
    /// its metadata, if that could be read.
    async fn delete_unless_built_on(
        &self,
        backup: &Backup,
        name: &BackupName,
    ) -> Result<Result<Bytes>> {
        let Shared { store, catalog, .. } = &*self.shared;
        let text = read_metadata_text(store.as_ref(), name).await;
        delete_metadata(&self.shared, name).await?;
        let others = catalog.backups_now(&backup.volume_id).await;
        let refused = others.and_then(|others| refuse_if_built_on(backup, &others));
        catalog.removed(name).await;
        if let (Err(_), Ok(text)) = (&refused, &text) {
            let body = crate::store::Body::Bytes(text.clone());
            store.put(&name.container, &name.metadata(), body).await?;
            store.sync(&name.container).await?;
            catalog.changed(name).await;
        }
        refused.map(|()| text)
    }

    /// Where we may not look, there may be backups that are built on it.
    fn refuse_if_hidden(&self, backup: &Backup) -> Result<()> {
        let hidden = self.shared.store.hidden();
        let Some(first) = hidden.first() else {
            return Ok(());
        };
        let reason = format!("what lies in {first} may be built on it, and may not be read");
        let subject = format!("backup {}", backup.id);
        let error = Error::new(Kind::Denied, "delete", subject, reason);
        Err(error.advise("do it as the owner of the store"))
    }

    fn refuse_if_append_only(&self, backup: &Backup) -> Result<()> {
        if !self.shared.options.append_only {
            return Ok(());
        }
        Err(Error::new(
            Kind::Sealed,
            "delete",
            format!("backup {}", backup.id),
            "the backend is append_only",
        ))
    }
}

impl Debug for ChunkedDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChunkedDriver over {:?}", self.shared.store)
    }
}

#[async_trait]
impl BackupDriver for ChunkedDriver {
    async fn volumes(&self) -> Result<Vec<String>> {
        self.shared.catalog.volumes().await
    }

    async fn has_volume(&self, volume_id: &str) -> Result<bool> {
        self.shared.catalog.has_volume(volume_id).await
    }

    fn retried(&self) -> Option<Error> {
        self.shared.store.retried()
    }

    async fn backups(&self, volume_id: &str) -> Result<Vec<Arc<Backup>>> {
        self.shared.catalog.backups(volume_id).await
    }

    fn hidden(&self) -> Vec<String> {
        self.shared.store.hidden()
    }

    fn trouble(&self) -> Option<Error> {
        self.shared.catalog.trouble()
    }

    async fn open(&self, backup: &Backup) -> Result<Arc<dyn Content>> {
        Ok(Arc::new(self.shared.image(backup).await?))
    }

    fn is_incremental(&self, basis: Basis) -> bool {
        match basis {
            Basis::Full => false,
            Basis::Newest => true,
            Basis::Configured => self.shared.options.incremental == config::Incremental::Auto,
        }
    }

    async fn create(&self, volume_id: &str, basis: Basis) -> Result<Arc<dyn BackupSink>> {
        self.shared.store.check_writable().await?;
        let sink = ChunkedSink::new(&self.shared, volume_id, basis).await?;
        Ok(Arc::new(sink))
    }

    async fn update(&self, backup: &Backup, change: Change) -> Result<Arc<Backup>> {
        let shared = &self.shared;
        let _choosing = shared.writing.choose().await;
        let name = shared.catalog.name_of(backup).await?;
        let _sign = ChangingSign::begin(shared.store.as_ref(), &backup.id).await?;
        let text = read_metadata_text(shared.store.as_ref(), &name).await?;
        let mut metadata = Metadata::parse(&name, &text)?;
        if let Some(file) = change.name {
            metadata.backup_name = Some(file);
            metadata.own.file = true;
        }
        if let Some(description) = change.description {
            metadata.backup_description = description;
        }
        if let Some(modified) = change.modified {
            metadata.own.set_modified(modified);
        }
        let text = metadata.rewrite(&name, &text)?;
        let body = crate::store::Body::Bytes(text.into());
        shared
            .store
            .put(&name.container, &name.metadata(), body)
            .await?;
        shared.store.sync(&name.container).await?;
        shared.catalog.changed(&name).await;
        shared.catalog.backup(&name).await
    }

    async fn delete(&self, backup: &Backup) -> Result<()> {
        let shared = &self.shared;
        let (name, _sign, numbers) = self.withdraw_named(backup).await?;
        let deleted = delete_objects(shared, &name, &numbers).await;
        // A listing of the volumes may have seen what was left of it until now.
        shared.catalog.removed(&name).await;
        deleted
    }

    async fn withdraw(&self, backup: &Backup) -> Result<()> {
        self.withdraw_named(backup).await.map(drop)
    }

    async fn space(&self) -> Result<Option<Space>> {
        self.shared.store.space().await
    }

    async fn verify(
        &self,
        backup: &Backup,
        percent: u8,
        progress: &dyn Progress,
    ) -> Result<Verdict> {
        verify::verify(&self.shared, backup, percent, progress).await
    }

    async fn garbage(&self, age: Duration) -> Result<Vec<Garbage>> {
        garbage::garbage(&self.shared, age).await
    }

    async fn sweep(&self, garbage: &Garbage) -> Result<bool> {
        garbage::sweep(&self.shared, garbage).await
    }

    async fn changes(&self, from: &Backup, to: &Backup) -> Result<Vec<Range<u64>>> {
        changes::changes(&self.shared, from, to).await
    }
}

fn missing_is_fine(result: Result<()>) -> Result<()> {
    match result {
        Err(e) if e.kind() == Kind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes the object that makes a backup exist.
async fn delete_metadata(shared: &Shared, name: &BackupName) -> Result<()> {
    let store = &shared.store;
    missing_is_fine(store.delete(&name.container, &name.metadata()).await)?;
    missing_is_fine(store.sync(&name.container).await)
}

/// Removes all objects of a backup, the one that makes it exist first: what is left
/// after a crash is then no backup, and `gc` finds it. A listing may not show all of them
/// yet: `numbers` are those of chunks that it has, or had.
async fn delete_objects(shared: &Shared, name: &BackupName, numbers: &[u64]) -> Result<()> {
    delete_metadata(shared, name).await?;
    let clear = async {
        let store = &shared.store;
        let listed = store.list(&name.container, &name.prefix).await?;
        let mut objects: BTreeSet<String> = listed.into_iter().map(|entry| entry.name).collect();
        objects.extend(numbers.iter().map(|number| name.chunk(*number)));
        objects.insert(name.sha256file());
        delete_all(store, &name.container, objects).await?;
        store.remove_container(&name.container).await
    };
    if let Err(e) = clear.await {
        tracing::warn!(
            "backup {} is deleted, but parts of it are left: {e}",
            name.backup_id
        );
    }
    Ok(())
}

/// Removes objects, several at a time: over a network, each takes a moment. One that
/// cannot be removed does not keep the others.
async fn delete_all(
    store: &Arc<dyn ObjectStore>,
    container: &str,
    objects: BTreeSet<String>,
) -> Result<()> {
    let mut waiting = objects.into_iter();
    let mut deletions = JoinSet::new();
    let mut result = Ok(());
    loop {
        while deletions.len() < DELETIONS
            && let Some(object) = waiting.next()
        {
            let (store, container) = (Arc::clone(store), container.to_owned());
            deletions.spawn(async move { store.delete(&container, &object).await });
        }
        match deletions.join_next().await {
            None => return result,
            Some(Ok(deleted)) => result = result.and(missing_is_fine(deleted)),
            Some(Err(e)) => result = result.and(Err(listing::lost(e))),
        }
    }
}
