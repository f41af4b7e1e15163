//! `cinderfs backup`

use super::backends::{Wired, named_backups};
use super::disk::{Disk, DiskKind, kind_of};
use super::progress::Bar;
use super::signals::stop_at_signals;
use super::{Failure, StoreArguments, Threads, complain, log, print, split_target, usage};
use crate::config::Settings;
use crate::driver::{Backup, Basis, Description, Progress};
use crate::error::{Error, Kind, Result};
use crate::image::{Buffers, Original, copy_in};
use crate::tree::{check_file_name, describe, volume_id_of};
use clap::Args;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// What is being done, in messages.
const OP: &str = "back up";

/// Arguments of the command.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    store: StoreArguments,
    /// Store what has changed since the volume's newest backup
    #[arg(long)]
    incremental: bool,
    /// Store all of it, whatever the option `incremental` says
    #[arg(long, conflicts_with = "incremental")]
    full: bool,
    /// The backup's name; without it, that of the source
    #[arg(long)]
    name: Option<String>,
    /// Words on the backup
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Read a source that is in use as well
    #[arg(long)]
    force: bool,
    /// Memory to use, instead of what is configured
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// Show no progress and give no advice
    #[arg(short, long)]
    quiet: bool,
    /// JSON, for programs
    #[arg(long)]
    json: bool,
    /// A file or a block device
    source: PathBuf,
    /// The volume whose backup it is to be; it need not be there
    #[arg(value_name = "BACKEND/VOLUME")]
    target: String,
}

/// A backup that is to be made.
struct Plan<'a> {
    backend: &'a str,
    /// As a mount shows it.
    volume: &'a str,
    volume_id: String,
    basis: Basis,
    description: Description,
}

/// A source that may be read, and what there is to say of it.
struct Source {
    disk: Disk,
    notes: Vec<String>,
}

/// Takes a backup, and prints where it is.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let plan = plan(arguments).map_err(usage)?;
    let memory = arguments.memory.as_deref();
    let memory = memory.map(Settings::parse_memory).transpose();
    let wired = arguments.store.wire(memory.map_err(usage)?)?;
    let source = open_source(&arguments.source, arguments.force)?;
    log::start_for_command();
    let quiet = arguments.quiet || arguments.json;
    let backup = Threads::start()?.block_on(back_up(&wired, &plan, source, quiet))?;
    let Plan {
        volume,
        backend,
        description,
        ..
    } = &plan;
    let text = match arguments.json {
        true => format!("{:#}\n", describe(&backup)),
        false => format!("{backend}/{volume}/{} {}\n", description.name, backup.id),
    };
    print(&text).map_err(Failure::from)
}

fn plan(arguments: &Arguments) -> Result<Plan<'_>> {
    let target = arguments.target.as_str();
    let wrong = |reason: &str| Error::new(Kind::Invalid, "back up to", target, reason);
    let parts = split_target(target)?;
    let &[backend, volume] = parts.as_slice() else {
        return Err(wrong("it names no volume")
            .advise("give BACKEND/VOLUME, and the backup's name with --name"));
    };
    let volume_id = volume_id_of(volume);
    let volume_id = volume_id.ok_or_else(|| wrong("no volume can be called so"))?;
    let own = || arguments.source.file_name()?.to_str().map(str::to_owned);
    let name = arguments.name.clone().or_else(own).ok_or_else(|| {
        let source = arguments.source.display().to_string();
        Error::new(Kind::Invalid, OP, source, "no backup can be called so").advise("give --name")
    })?;
    check_file_name("call the backup", &name)?;
    Ok(Plan {
        backend,
        volume,
        volume_id,
        basis: match (arguments.incremental, arguments.full) {
            (true, _) => Basis::Newest,
            (_, true) => Basis::Full,
            _ => Basis::Configured,
        },
        description: Description {
            name,
            description: arguments
                .description
                .clone()
                .filter(|text| !text.is_empty()),
            modified: None,
        },
    })
}

fn open_source(path: &Path, force: bool) -> Result<Source, Failure> {
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
    Ok(Source { disk, notes })
}

async fn back_up(
    wired: &Wired,
    plan: &Plan<'_>,
    source: Source,
    quiet: bool,
) -> Result<Arc<Backup>> {
    let driver = wired.find(plan.backend)?;
    refuse_taken_name(wired, plan).await?;
    let size = source.disk.size()?;
    let bar = Arc::new(Bar::new("backing up", size, quiet));
    source.notes.iter().for_each(|note| bar.say(note));
    let says = Arc::clone(&bar);
    // Before anything is stored: a signal that comes early must not leave it behind.
    let stop = stop_at_signals(move |text| says.say(text))?;
    let sink = driver.create(&plan.volume_id, plan.basis).await?;
    let buffers = Buffers {
        budget: Arc::clone(&wired.budget),
        spool_path: wired.settings.spool_path.clone(),
    };
    let done = async {
        sink.admit_size(size)?;
        let written = last_written(&source.disk);
        let original = Original {
            file: source
                .disk
                .file
                .try_clone()
                .map_err(|e| Error::io(OP, source.disk.name(), &e))?,
            size,
            name: source.disk.name(),
        };
        let progress: Arc<dyn Progress> = bar.clone();
        let is_device = source.disk.kind == DiskKind::Device;
        if is_device && sink.take_device(&source.disk.path).await? {
            progress.advance(size);
        } else {
            copy_in(original, &sink, &buffers, &progress, &stop).await?;
        }
        refuse_other_size(&source.disk, size)?;
        if last_written(&source.disk) != written {
            let name = source.disk.name();
            bar.say(&format!("{name}: it was written to while it was read"));
        }
        sink.publish(size, &plan.description).await
    };
    match done.await {
        Ok(backup) => {
            sink.seal();
            Ok(backup)
        }
        Err(e) => {
            if let Err(left) = sink.discard().await {
                complain(&left);
            }
            Err(e)
        }
    }
}

/// A second file of a name would be shown under another one.
async fn refuse_taken_name(wired: &Wired, plan: &Plan<'_>) -> Result<()> {
    let driver = wired.find(plan.backend)?;
    let name = plan.description.name.as_str();
    // A volume need not be there.
    if driver.backups(&plan.volume_id).await?.is_empty()
        || !named_backups(driver, plan.volume).await?.contains_key(name)
    {
        return Ok(());
    }
    let subject = format!("{}/{}/{name}", plan.backend, plan.volume);
    let reason = "there is a backup of this name already";
    Err(Error::new(Kind::Exists, "make", subject, reason).advise("give another one with --name"))
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
