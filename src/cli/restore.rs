//! `cinderfs restore`

use super::backends::{Wired, find_backup};
use super::disk::{Disk, DiskKind, kind_of};
use super::progress::Bar;
use super::signals::stop_at_signals;
use super::source::rbd_name;
use super::{Failure, StoreArguments, Threads, log, print, split_file, usage};
use crate::config::Settings;
use crate::driver::{Content, Progress};
use crate::error::{Error, Kind, Result};
use crate::image::{BlockCache, ImageReader, Replica, Zeros, copy_out};
use crate::task::blocking;
use clap::Args;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use serde_json::json;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is being done, in messages.
const OP: &str = "restore to";
/// Blocks of stat(2) are of this size, whatever those of the file system are.
const STAT_BLOCK: u64 = 512;

/// Arguments of the command.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    store: StoreArguments,
    /// Take no space for what is zero
    #[arg(long)]
    sparse: bool,
    /// Memory to use, instead of what is configured
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// Show no progress and give no advice
    #[arg(short, long)]
    quiet: bool,
    /// JSON, for programs
    #[arg(long)]
    json: bool,
    /// The backup, as a mount shows it
    #[arg(value_name = "BACKEND/VOLUME/FILE")]
    source: String,
    /// A file, which need not be there, or a block device
    dest: PathBuf,
}

/// Writes a backup to a file or a device. When it succeeds, all of it is durable.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let memory = arguments.memory.as_deref();
    let memory = memory.map(Settings::parse_memory).transpose();
    let wired = arguments.store.wire(memory.map_err(usage)?)?;
    let source = split_file(&arguments.source)?;
    refuse_rbd(&arguments.dest).map_err(usage)?;
    let kind = kind_of(OP, &arguments.dest)?;
    log::start_for_command();
    let runtime = Threads::start()?;
    let (id, size) = runtime.block_on(restore(&wired, source, kind, arguments))?;
    let dest = arguments.dest.display().to_string();
    match arguments.json {
        true => {
            let told = json!({"backup_id": id, "dest": dest, "size": size});
            print(&format!("{told:#}\n")).map_err(Failure::from)
        }
        false => Ok(()),
    }
}

/// It is not asked for often enough: other programs do it.
fn refuse_rbd(dest: &Path) -> Result<()> {
    if rbd_name(dest)?.is_none() {
        return Ok(());
    }
    let reason = "it is not restored to RBD images directly";
    let subject = dest.display().to_string();
    Err(Error::new(Kind::Unsupported, OP, subject, reason).advise(
        "import it from a mount, with `rbd import FILE POOL/IMAGE`, or with `qemu-img convert \
         -n` into an image that is there",
    ))
}

async fn restore(
    wired: &Wired,
    source: [&str; 3],
    kind: Option<DiskKind>,
    arguments: &Arguments,
) -> Result<(String, u64)> {
    let (backup, _) = find_backup(wired, source).await?;
    let driver = wired.find(source[0])?;
    // All that can be found wrong is, before a byte is written.
    let content = driver.open(&backup).await?;
    let size = content.size();
    let dest = Dest::open(wired, arguments, kind)?;
    let zeros = match dest.prepare(content.as_ref(), arguments.sparse).await {
        Ok(zeros) => zeros,
        Err(e) => {
            dest.forget();
            return Err(e);
        }
    };
    let quiet = arguments.quiet || arguments.json;
    let bar = Arc::new(Bar::new("restoring", size, quiet));
    if let Some(note) = dest.rest(size)?.filter(|_| !quiet) {
        bar.say(&note);
    }
    let says = Arc::clone(&bar);
    let stop = stop_at_signals(move |text| says.say(text))?;
    let done = async {
        let file = dest.disk.file.try_clone();
        let file = file.map_err(|e| Error::io(OP, dest.disk.name(), &e))?;
        let replica = Replica::new(file, &dest.disk.name(), zeros, arguments.sparse);
        let replica = Arc::new(replica);
        let cache = BlockCache::new(&wired.budget);
        let reader = ImageReader::new(content, &cache);
        let progress: Arc<dyn Progress> = bar.clone();
        copy_out(&reader, &replica, &progress, &stop).await?;
        blocking(move || replica.sync()).await?;
        dest.sync_folder()
    };
    done.await.map_err(|e: Error| {
        let whole = format!("{} to {}", arguments.source, dest.disk.name());
        let advice = format!(
            "{} is incomplete: do not use it before the same restore has succeeded",
            dest.disk.name()
        );
        Error::new(e.kind(), "restore", whole, e).advise(advice)
    })?;
    Ok((backup.id.clone(), size))
}

/// What is restored to, opened and found fit for it.
struct Dest {
    disk: Disk,
    /// It was not there before.
    is_new: bool,
}

impl Dest {
    fn open(wired: &Wired, arguments: &Arguments, kind: Option<DiskKind>) -> Result<Self> {
        let path = &arguments.dest;
        refuse_stores(wired, path)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(kind.is_none());
        let disk = Disk::open(
            OP,
            path,
            kind.unwrap_or(DiskKind::File),
            &mut options,
            false,
        );
        let disk = disk.map_err(|e| match e.kind() {
            Kind::Dependents => e.advise("unmount it, or end the program that uses it"),
            _ => e,
        })?;
        disk.refuse_loop(OP, false)
            .map_err(|e| e.advise("free it with `losetup -d`"))?;
        if disk.is_read_only()? {
            let reason = "the device is read-only";
            return Err(Error::new(Kind::ReadOnly, OP, disk.name(), reason));
        }
        Ok(Self {
            disk,
            is_new: kind.is_none(),
        })
    }

    /// Makes room for an image, and gives how its zeros are to be made. No byte of what
    /// was there is touched when it fails.
    ///
    /// # Errors
    /// `NoSpace` and `Quota`; those of reading the list of hashes.
    async fn prepare(&self, content: &dyn Content, sparse: bool) -> Result<Zeros> {
        let (size, has) = (content.size(), self.disk.size()?);
        let all = if sparse { Zeros::GiveBack } else { Zeros::Keep };
        if self.disk.kind == DiskKind::Device {
            return match has < size {
                true => Err(self.no_space(&format!("it has {has} bytes, the image has {size}"))),
                false => Ok(all),
            };
        }
        let is_allocated = if sparse {
            self.check_space(content.data_bytes().await?)?;
            true
        } else {
            self.allocate(has, size)?
        };
        // What was longer is cut, and what was shorter goes on with zeros.
        let file = &self.disk.file;
        file.set_len(size).map_err(|e| match e.raw_os_error() {
            Some(libc::EFBIG) => self.no_space("its file system takes no file so large"),
            _ => Error::io(OP, self.disk.name(), &e),
        })?;
        Ok(match has == 0 && is_allocated {
            true => Zeros::Nothing,
            false => all,
        })
    }

    /// Takes space for all of a file; `false` when the file system cannot do that, but
    /// says that it has it.
    fn allocate(&self, has: u64, size: u64) -> Result<bool> {
        if size == 0 {
            return Ok(true);
        }
        let file = &self.disk.file;
        match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, size) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV) => {
                self.check_space(size).map(|()| false)
            }
            Err(e) => {
                // Gives back what was taken behind the end.
                let _ = file.set_len(has);
                Err(match e {
                    Errno::NOSPC => self.no_space(&format!("there is no room for {size} bytes")),
                    Errno::FBIG => self.no_space("its file system takes no file so large"),
                    e => Error::io(OP, self.disk.name(), &e.into()),
                })
            }
        }
    }

    /// Refuses a file system that has no room for so much of a file.
    fn check_space(&self, needed: u64) -> Result<()> {
        let failed = |e: std::io::Error| Error::io(OP, self.disk.name(), &e);
        let space = rustix::fs::fstatvfs(&self.disk.file).map_err(|e| failed(e.into()))?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        let own = self.disk.file.metadata().map_err(failed)?.blocks() * STAT_BLOCK;
        if free.saturating_add(own) >= needed {
            return Ok(());
        }
        Err(self.no_space(&format!(
            "there is room for {free} bytes, and {needed} are needed"
        )))
    }

    fn no_space(&self, reason: &str) -> Error {
        Error::new(Kind::NoSpace, OP, self.disk.name(), reason)
    }

    /// What there is to say of what lies behind the image's end.
    fn rest(&self, size: u64) -> Result<Option<String>> {
        let has = self.disk.size()?;
        let name = self.disk.name();
        Ok((has > size).then(|| {
            format!("{name}: what lies behind the image, from byte {size} to {has}, stays as it is")
        }))
    }

    /// Removes a file that was made for nothing.
    fn forget(&self) {
        if self.is_new {
            let _ = fs::remove_file(&self.disk.path);
        }
    }

    /// Makes the name of a new file durable.
    fn sync_folder(&self) -> Result<()> {
        if !self.is_new {
            return Ok(());
        }
        let folder = match self.disk.path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|e| Error::io("sync", folder.display().to_string(), &e))
    }
}

/// An image on top of an object would be the end of a backup.
fn refuse_stores(wired: &Wired, path: &Path) -> Result<()> {
    // A file that is not there yet has a folder that is.
    let real = path.canonicalize().or_else(|_| {
        let absolute = std::path::absolute(path)?;
        absolute.parent().unwrap_or(&absolute).canonicalize()
    });
    let Ok(real) = real else { return Ok(()) };
    let mut stores = wired.folders.iter();
    match stores.find(|store| real.starts_with(store)) {
        None => Ok(()),
        Some(store) => {
            let reason = format!("it lies in the store {}", store.display());
            Err(Error::new(
                Kind::Invalid,
                OP,
                path.display().to_string(),
                reason,
            ))
        }
    }
}
