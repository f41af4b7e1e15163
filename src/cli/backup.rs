//! `cinderfs backup`

use super::backends::{Wired, named_backups};
use super::progress::Bar;
use super::signals::stop_at_signals;
use super::source::{RbdArguments, Source, rbd_name};
use super::{Failure, StoreArguments, Threads, complain, log, print, split_target, usage};
use crate::config::Settings;
use crate::driver::{Backup, Basis, Description, Progress, RbdName};
use crate::error::{Error, Kind, Result};
use crate::image::{Buffers, copy_in};
use crate::tree::{check_file_name, describe, volume_id_of};
use clap::Args;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::Notify;

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
    #[command(flatten)]
    rbd: RbdArguments,
    /// A file, a block device, or an RBD image: rbd:POOL/IMAGE[@SNAPSHOT]
    source: PathBuf,
    /// The volume whose backup it is to be; it need not be there. BACKEND alone does for an
    /// RBD image that Cinder has called volume-UUID
    #[arg(value_name = "BACKEND/VOLUME")]
    target: String,
}

/// A backup that is to be made.
struct Plan<'a> {
    backend: &'a str,
    /// As a mount shows it.
    volume: String,
    volume_id: String,
    basis: Basis,
    description: Description,
}

/// Takes a backup, and prints where it is.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let plan = plan(arguments).map_err(usage)?;
    let memory = arguments.memory.as_deref();
    let memory = memory.map(Settings::parse_memory).transpose();
    let wired = arguments.store.wire(memory.map_err(usage)?)?;
    let cluster = wired.cluster_beside(plan.backend);
    let source = Source::open(&arguments.source, arguments.force, &arguments.rbd, cluster)?;
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
    let rbd = rbd_name(&arguments.source)?;
    arguments.rbd.check(&arguments.source)?;
    let own_volume = rbd.as_ref().and_then(RbdName::volume_id);
    let (backend, volume) = match (parts.as_slice(), own_volume) {
        (&[backend, volume], _) => (backend, volume.to_owned()),
        // Cinder's own name for the image of a volume.
        (&[backend], Some(volume)) => (backend, volume.to_owned()),
        _ => {
            return Err(wrong("it names no volume")
                .advise("give BACKEND/VOLUME, and the backup's name with --name"));
        }
    };
    let volume_id = volume_id_of(&volume);
    let volume_id = volume_id.ok_or_else(|| wrong("no volume can be called so"))?;
    let own = || match &rbd {
        Some(rbd) => Some(rbd.file_name()),
        None => arguments.source.file_name()?.to_str().map(str::to_owned),
    };
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

async fn back_up(
    wired: &Wired,
    plan: &Plan<'_>,
    source: Source,
    quiet: bool,
) -> Result<Arc<Backup>> {
    let driver = wired.find(plan.backend)?;
    refuse_taken_name(wired, plan).await?;
    let size = source.size().await?;
    let earlier = driver.backups(&plan.volume_id).await?;
    let bar = Arc::new(Bar::new("backing up", size, quiet));
    let says = Arc::clone(&bar);
    // Before anything is stored: a signal that comes early must not leave it behind.
    let asked = Arc::new(Notify::new());
    let asks = Arc::clone(&asked);
    let stop = stop_at_signals(move |text| {
        says.say(text);
        asks.notify_one();
    })?;
    let sink = driver.create(&plan.volume_id, plan.basis).await?;
    let buffers = Buffers {
        budget: Arc::clone(&wired.budget),
        spool_path: wired.settings.spool_path.clone(),
    };
    let mut reading = None;
    let done = async {
        sink.admit_size(size)?;
        let (read, original) = source.begin(&*sink, &earlier, &bar).await?;
        let read = &*reading.insert(read);
        let size = original.size();
        sink.admit_size(size)?;
        let progress: Arc<dyn Progress> = bar.clone();
        match source.device() {
            Some(device) if sink.take_device(device).await? => progress.advance(size),
            _ => copy_in(original, &sink, &buffers, &progress, &stop).await?,
        }
        read.check(&bar).await?;
        let mut published = sink.publish(size, &plan.description);
        // All of it may only be sent now.
        tokio::select! {
            published = &mut published => return published,
            () = asked.notified() => sink.break_off(),
        }
        published.await
    };
    let done = done.await;
    match (&done, &reading) {
        (Ok(_), Some(reading)) => reading.keep(&earlier).await,
        (Err(_), Some(reading)) => reading.give_up().await,
        (_, None) => {}
    }
    match done {
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
        || !named_backups(driver, &plan.volume)
            .await?
            .contains_key(name)
    {
        return Ok(());
    }
    let subject = format!("{}/{}/{name}", plan.backend, plan.volume);
    let reason = "there is a backup of this name already";
    Err(Error::new(Kind::Exists, "make", subject, reason).advise("give another one with --name"))
}
