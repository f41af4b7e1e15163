//! `cinderfs mount`

use super::backends::{self, Wired};
use super::daemon::{self, Ready};
use super::options::MountArguments;
use super::signals::Signals;
use super::{Failure, StoreArguments, Threads, log, usage};
use crate::driver::BackupDriver;
use crate::error::{Error, Kind, Result};
use crate::fuse::{self, MountOptions, Mounted};
use crate::tree::Tree;
use clap::Args;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// How often it is looked whether somebody else has unmounted.
const LOOK: Duration = Duration::from_millis(200);
/// How long a backend may take to answer before it is said that it does not.
const FIRST_LOOK: Duration = Duration::from_secs(3);
/// How long the threads of the mount may take to end when it is gone. They do not, if
/// somebody has a file open there still.
const LAST_USERS: Duration = Duration::from_secs(2);

/// Arguments of the command.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    store: StoreArguments,
    /// Mount options, with commas between them
    #[arg(short = 'o', value_name = "OPTIONS")]
    options: Vec<String>,
    /// Stay in the foreground and log to standard error
    #[arg(long)]
    foreground: bool,
    /// Where the tree shall be
    dir: PathBuf,
}

/// Mounts, and goes to the background when the mount answers.
pub fn run(mut arguments: Arguments) -> Result<(), Failure> {
    let options = MountArguments::parse(&arguments.options).map_err(usage)?;
    if let Some(config) = &options.config {
        if arguments.store.config.is_some() || arguments.store.store.is_some() {
            let reason = "the store was named on the command line, too";
            let error = Error::new(Kind::Invalid, "use option", "config", reason);
            return Err(usage(error.advise("give one of them")));
        }
        arguments.store.config = Some(config.clone());
    }
    let is_parent = !arguments.foreground && !daemon::is_child();
    if !is_parent {
        let log_file = match (&options.log, arguments.foreground) {
            (Some(file), _) => Some(file.clone()),
            (None, false) => Some(log::default_file()),
            (None, true) => None,
        };
        // Before the configuration is read: there may be something to say of it.
        log::start(log_file.as_deref())?;
        log::watch_for_faults();
    }
    let wired = arguments.store.wire(options.memory)?;
    let folder = check_folder(&arguments.dir, &options, &wired).map_err(usage)?;
    if is_parent {
        return daemon::start_in_background().map_err(Failure::from);
    }
    serve(wired, &folder, &options).map_err(Failure::from)
}

/// The folder to mount on: there, empty, and apart from every store.
fn check_folder(dir: &Path, options: &MountArguments, wired: &Wired) -> Result<PathBuf> {
    let subject = || dir.display().to_string();
    let unusable = |e: std::io::Error| {
        let error = Error::io("mount on", subject(), &e);
        match e.raw_os_error() {
            Some(libc::ENOENT) => error.advise("make the folder first"),
            Some(libc::ENOTCONN) => error.advise(
                "a mount whose program has ended is still there: `cinderfs umount` it first",
            ),
            _ => error,
        }
    };
    let folder = dir.canonicalize().map_err(unusable)?;
    let refuse = |reason: &str| Error::new(Kind::Invalid, "mount on", subject(), reason);
    for store in &wired.folders {
        if store.starts_with(&folder) {
            return Err(refuse(&format!("the store {} lies in it", store.display()))
                .advise("mount on a folder of its own"));
        }
        if folder.starts_with(store) {
            return Err(refuse(&format!("it lies in the store {}", store.display()))
                .advise("mount on a folder outside the store"));
        }
    }
    // A spool file would be made by way of the mount that waits for it.
    let spool = &wired.settings.spool_path;
    if spool
        .canonicalize()
        .as_ref()
        .unwrap_or(spool)
        .starts_with(&folder)
    {
        return Err(refuse(&format!("the spool {} lies in it", spool.display()))
            .advise("mount elsewhere, or set spool_path"));
    }
    let mut entries = folder.read_dir().map_err(unusable)?;
    if entries.next().is_some() && !options.nonempty {
        return Err(refuse("the folder is not empty")
            .advise("mount on an empty one, or hide what is in it with -o nonempty"));
    }
    Ok(folder)
}

fn serve(wired: Wired, folder: &Path, options: &MountArguments) -> Result<()> {
    let mount_options = MountOptions {
        source: wired.source.clone(),
        read_only: options.read_only,
        allow_other: options.allow_other,
    };
    let runtime = Threads::start()?;
    let drivers: Vec<_> = wired
        .backends
        .iter()
        .map(|backend| (backend.name.clone(), Arc::clone(&backend.driver)))
        .collect();
    let tree = backends::tree(wired);
    // Before the mount is there: a signal that comes early must not leave it behind.
    let signals = runtime.block_on(async { Signals::listen() })?;
    let mounted = fuse::mount(Arc::clone(&tree), folder, &mount_options, runtime.handle())?;
    let done = match mounted.wait_until_it_answers() {
        Ok(()) => {
            tracing::info!("mounted on {}", folder.display());
            runtime.block_on(tell_unavailable(drivers));
            Ready::tell();
            runtime.block_on(wait_for_end(signals, &mounted));
            Ok(())
        }
        Err(e) => Err(e),
    };
    let unmounted = mounted.unmount();
    runtime.block_on(tree.finish());
    drop(runtime);
    let_go(tree);
    tracing::info!("ended");
    done.and(unmounted)
}

/// Drops the tree, and with it what the backends have mounted: here, and not on a thread of
/// the mount that is about to end, for the program ends after this.
fn let_go(mut tree: Arc<Tree>) {
    let start = Instant::now();
    while let Err(shared) = Arc::try_unwrap(tree) {
        if start.elapsed() > LAST_USERS {
            tracing::debug!("a thread of the mount has not ended");
            return;
        }
        tree = shared;
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Says which backends cannot be used now, while somebody may be listening. They are shown
/// all the same: a store that is down comes back.
async fn tell_unavailable(drivers: Vec<(String, Arc<dyn BackupDriver>)>) {
    let mut looks = JoinSet::new();
    for (name, driver) in drivers {
        looks.spawn(async move {
            match tokio::time::timeout(FIRST_LOOK, driver.volumes()).await {
                Ok(Ok(_)) => None,
                Ok(Err(e)) => Some(format!("backend {name} cannot be used now: {e}")),
                Err(_) => {
                    let why = driver.retried().map(|e| format!(": {e}"));
                    Some(format!(
                        "backend {name} has not answered in {} s, and is asked again when it is \
                         used{}",
                        FIRST_LOOK.as_secs(),
                        why.unwrap_or_default()
                    ))
                }
            }
        });
    }
    while let Some(look) = looks.join_next().await {
        if let Ok(Some(trouble)) = look {
            tracing::error!("{trouble}");
            // The log of the background is a file.
            if daemon::is_child() {
                eprintln!("cinderfs: {trouble}");
            }
        }
    }
}

/// Returns when a signal asks for the end, or when somebody else has unmounted.
async fn wait_for_end(mut signals: Signals, mounted: &Mounted) {
    loop {
        tokio::select! {
            () = signals.any() => return,
            () = tokio::time::sleep(LOOK) => {
                if mounted.is_over() {
                    return;
                }
            }
        }
    }
}
