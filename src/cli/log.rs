//! The log: lines on standard error in the foreground, in a file in the background.

use crate::error::{Error, Result};
use std::fs::OpenOptions;
use std::io::IsTerminal;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use tracing_subscriber::EnvFilter;

/// Chooses what is logged, in the syntax of tracing's filters.
const VARIABLE: &str = "CINDERFS_LOG";
/// fuser warns of every request that a file system leaves to its default, and takes an
/// answer that nobody waits for any more (a killed program, an unmount) for an error.
const DEFAULT_FILTER: &str = "info,fuser=error,fuser::reply=off";

/// What commands have to say beside the error with which they end.
const COMMAND_FILTER: &str = "warn";

/// Logs to standard error, for a command that ends: only what went wrong.
pub fn start_for_command() {
    let filter =
        EnvFilter::try_from_env(VARIABLE).unwrap_or_else(|_| EnvFilter::new(COMMAND_FILTER));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time();
    drop(builder.with_writer(std::io::stderr).try_init());
}

/// Logs to `file`, or to standard error.
///
/// # Errors
/// When the file cannot be written.
pub fn start(file: Option<&Path>) -> Result<()> {
    let filter =
        EnvFilter::try_from_env(VARIABLE).unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    // A line that cannot be written (a full disk, a pipe that nobody reads any more) is lost,
    // and nothing else is: the subscriber's complaint of it would be a panic.
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .log_internal_errors(false);
    // A second start (there is none in the program) would leave the first in place.
    match file {
        None => drop(builder.with_writer(std::io::stderr).try_init()),
        Some(path) => {
            if let Some(folder) = path.parent() {
                let _ = std::fs::create_dir_all(folder);
            }
            // Names of volumes and backups are nobody else's business.
            let file = OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o600)
                .open(path);
            let file = file.map_err(|e| {
                Error::io("write the log", path.display().to_string(), &e)
                    .advise("name another file with -o log=FILE")
            })?;
            drop(
                builder
                    .with_ansi(false)
                    .with_writer(Mutex::new(file))
                    .try_init(),
            );
        }
    }
    Ok(())
}

/// Logs faults of the program, too. One in a thread that takes requests from the kernel
/// ends it: who waits for the answer could not even be killed, and an error is better.
pub fn watch_for_faults() {
    /// Threads that answer the kernel; fuser names them so.
    const ANSWERING: &str = "fuser";
    std::panic::set_hook(Box::new(|fault| {
        let what = fault.to_string().replace('\n', " ");
        tracing::error!("a fault of the program, please report it: {what}");
        if std::thread::current()
            .name()
            .is_some_and(|name| name.starts_with(ANSWERING))
        {
            std::process::abort();
        }
    }));
}

/// Where a daemon in the background logs to when nothing else is said.
pub fn default_file() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return "/var/log/cinderfs.log".into();
    }
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let state = absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .unwrap_or_else(|| "/var/tmp".into());
    state.join("cinderfs/cinderfs.log")
}
