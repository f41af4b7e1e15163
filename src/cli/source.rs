//! What `cinderfs backup` reads: a file, a block device, or an RBD image.

use super::disk::{Disk, DiskKind, kind_of};
use super::progress::Bar;
use super::{Failure, usage};
use crate::config;
use crate::driver::{Backup, BackupSink, Original, RbdAccess, RbdName, RbdOriginal, RbdSource};
use crate::error::{Error, Kind, Result};
use crate::image::OriginalFile;
use clap::Args;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// What is being done, in messages.
const OP: &str = "back up";

/// How the cluster of an RBD image is reached.
#[derive(Debug, Args)]
pub struct RbdArguments {
    /// Ceph's configuration file, for a source rbd:...; without it, that of the backend if it
    /// is in Ceph, or of the only one that is, else /etc/ceph/ceph.conf
    #[arg(long, value_name = "FILE")]
    rbd_conf: Option<PathBuf>,
    /// Ceph's user, without "client.", for a source rbd:...; without it, that of the backend
    /// if it is in Ceph, or of the only one that is, else cinder
    #[arg(long, value_name = "NAME")]
    rbd_user: Option<String>,
}

/// A source that may be read.
pub enum Source {
    /// A file or a device, and what there is to say of it.
    Disk(Disk, Vec<String>),
    /// An image in Ceph.
    Rbd(RbdSource),
}

/// The same while it is read.
pub enum Reading<'a> {
    /// A file or a device, its size, and when it was last written to.
    Disk(&'a Disk, u64, Option<SystemTime>),
    /// An image in Ceph.
    Rbd(&'a RbdSource, Arc<RbdOriginal>),
}

impl RbdArguments {
    /// Refuses what is of no use.
    ///
    /// # Errors
    /// `Invalid` when the source is no RBD image.
    pub fn check(&self, source: &Path) -> Result<()> {
        let option = match (&self.rbd_conf, &self.rbd_user) {
            _ if rbd_name(source)?.is_some() => return Ok(()),
            (Some(_), _) => "--rbd-conf",
            (_, Some(_)) => "--rbd-user",
            _ => return Ok(()),
        };
        let reason = "it is for a source rbd:POOL/IMAGE";
        Err(Error::new(Kind::Invalid, "use option", option, reason))
    }

    fn access(&self, backend: Option<&RbdAccess>) -> Result<RbdAccess> {
        let mut access = match backend {
            Some(access) => access.clone(),
            None => RbdAccess::of(&config::Ceph::defaults()?),
        };
        access.conf = self.rbd_conf.clone().unwrap_or(access.conf);
        access.user = self.rbd_user.clone().unwrap_or(access.user);
        Ok(access)
    }
}

/// What a source is called, if it is an RBD image.
///
/// # Errors
/// `Invalid` for half a name.
pub fn rbd_name(source: &Path) -> Result<Option<RbdName>> {
    source.to_str().and_then(RbdName::parse).transpose()
}

impl Source {
    /// Opens it. `force` reads what is in use as well.
    ///
    /// # Errors
    /// `NotFound`, and `Dependents` for what is in use.
    pub fn open(
        path: &Path,
        force: bool,
        rbd: &RbdArguments,
        backend: Option<&RbdAccess>,
    ) -> Result<Self, Failure> {
        match rbd_name(path).map_err(usage)? {
            Some(name) => Ok(Self::Rbd(RbdSource::new(rbd.access(backend)?, name))),
            None => open_disk(path, force),
        }
    }

    /// The block device that it is, if it is one.
    pub fn device(&self) -> Option<&Path> {
        match self {
            Self::Disk(disk, _) if disk.kind == DiskKind::Device => Some(&disk.path),
            _ => None,
        }
    }

    /// Its size now, in bytes.
    ///
    /// # Errors
    /// Those of the system or the cluster.
    pub async fn size(&self) -> Result<u64> {
        match self {
            Self::Disk(disk, _) => disk.size(),
            Self::Rbd(source) => source.size().await,
        }
    }

    /// Begins to read it for the backup that `sink` makes, which may be built on one of
    /// `earlier`.
    ///
    /// # Errors
    /// Those of the system or the cluster.
    pub async fn begin<'a>(
        &'a self,
        sink: &dyn BackupSink,
        earlier: &[Arc<Backup>],
        bar: &Bar,
    ) -> Result<(Reading<'a>, Arc<dyn Original>)> {
        match self {
            Self::Disk(disk, notes) => {
                notes.iter().for_each(|note| bar.say(note));
                let (size, written) = (disk.size()?, last_written(disk));
                let file = disk.file.try_clone();
                let original = OriginalFile {
                    file: file.map_err(|e| Error::io(OP, disk.name(), &e))?,
                    size,
                    name: disk.name(),
                };
                Ok((Reading::Disk(disk, size, written), Arc::new(original)))
            }
            Self::Rbd(source) => {
                let parent = sink.parent_id();
                let parent = earlier.iter().find(|one| Some(&one.id) == parent.as_ref());
                let original = source
                    .open(sink.backup_id(), parent.map(|one| &**one))
                    .await?;
                let original = Arc::new(original);
                if let Some(note) = original.note() {
                    let name = source.name();
                    bar.say(&format!(
                        "{name}: {note}; all of its data is read and compared"
                    ));
                }
                Ok((Reading::Rbd(source, Arc::clone(&original)), original))
            }
        }
    }
}

impl Reading<'_> {
    /// What was read is all of it, and all of one time; or `bar` says how it is not.
    ///
    /// # Errors
    /// `Unavailable` when it is gone, or of another size.
    pub async fn check(&self, bar: &Bar) -> Result<()> {
        match self {
            Self::Disk(disk, size, written) => {
                refuse_other_size(disk, *size)?;
                if last_written(disk) != *written {
                    let name = disk.name();
                    bar.say(&format!("{name}: it was written to while it was read"));
                }
                Ok(())
            }
            Self::Rbd(source, original) => {
                original.confirm().await?;
                tracing::info!(
                    "{}: {} of {} bytes were read; of the others it was known what they are",
                    source.name(),
                    original.bytes_read(),
                    original.size()
                );
                Ok(())
            }
        }
    }

    /// The backup is complete. Those of `earlier` need nothing of the source any more.
    pub async fn keep(&self, earlier: &[Arc<Backup>]) {
        if let Self::Rbd(source, original) = self {
            let is_earlier = |id: &str| earlier.iter().any(|one| one.id == id);
            source.keep(original, is_earlier).await;
        }
    }

    /// The backup has failed.
    pub async fn give_up(&self) {
        if let Self::Rbd(source, original) = self {
            source.give_up(original).await;
        }
    }
}

fn open_disk(path: &Path, force: bool) -> Result<Source, Failure> {
    const ADVICE: &str = "back up a snapshot of it, or give --force to read it as it is";
    let kind = kind_of(OP, path)?.ok_or_else(|| {
        let reason = "No such file or directory";
        Error::new(Kind::NotFound, OP, path.display().to_string(), reason)
    })?;
    let mut notes = Vec::new();
    let mut forgive = |e: Error| match e.kind() {
        Kind::Dependents if force => {
            let reason = e.reason();
            notes.push(format!(
                "{}: {reason}; it may change while it is read",
                path.display()
            ));
            Ok(())
        }
        Kind::Dependents => Err(e.advise(ADVICE)),
        _ => Err(e),
    };
    let open = |shared| Disk::open(OP, path, kind, OpenOptions::new().read(true), shared);
    let disk = match open(false) {
        Ok(disk) => disk,
        Err(e) => {
            forgive(e)?;
            open(true)?
        }
    };
    if let Err(e) = disk.refuse_loop(OP, true) {
        forgive(e)?;
    }
    Ok(Source::Disk(disk, notes))
}

fn refuse_other_size(disk: &Disk, size: u64) -> Result<()> {
    let now = disk.size()?;
    if now == size {
        return Ok(());
    }
    let reason = format!("its size changed from {size} to {now} bytes while it was read");
    Err(Error::new(Kind::Unavailable, OP, disk.name(), reason)
        .advise("back up a snapshot of it, or try again"))
}

/// When a file was last written to; devices do not tell.
fn last_written(disk: &Disk) -> Option<SystemTime> {
    let stat = disk.file.metadata().ok()?;
    stat.is_file().then(|| stat.modified().ok()).flatten()
}
