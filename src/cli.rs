//! The commands: a file each. This room wires all the others; only `main` calls it.

mod backends;
mod backup;
mod daemon;
mod diff;
mod disk;
mod gc;
mod log;
mod ls;
mod mount;
mod options;
mod progress;
mod record;
mod restore;
mod rm;
mod show;
mod signals;
mod source;
mod umount;
mod verify;

use crate::error::{Error, Kind, Result};
use crate::store::close_files_of_shares;
use crate::task::settle;
use clap::{Args, Parser, Subcommand};
use std::ops::Deref;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::runtime::Runtime;

/// It failed, or something is wrong.
const EXIT_FAILED: u8 = 1;
/// The command line, the configuration or what it names is wrong.
const EXIT_USAGE: u8 = 2;
/// Threads that may block at a time. Each share may lose some of them to a server that is
/// gone, and the others must go on; they are made when they are needed.
const MOST_BLOCKING: usize = 2048;
/// How long tasks may take to end with the program.
const LAST_TASKS: Duration = Duration::from_secs(5);
/// How long what is cleared away in the end usually takes.
const LAST_SIGNS: Duration = Duration::from_secs(2);
/// The same for calls that should not be interrupted: longer than clients of GlusterFS
/// wait for a silent server unless they are told otherwise (42 s).
const LAST_CALLS: Duration = Duration::from_secs(60);
/// And for closing what is open on shares.
const LAST_FILES: Duration = Duration::from_secs(1);

/// OpenStack Cinder's volume backups as files.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the backups of all backends below a folder
    Mount(mount::Arguments),
    /// End a mount
    Umount(umount::Arguments),
    /// List backends, volumes or backups, without a mount
    Ls(ls::Arguments),
    /// Tell all that is known of a backup, without a mount
    Show(show::Arguments),
    /// Back a file, a block device or an RBD image up, without a mount
    Backup(backup::Arguments),
    /// Put a backup onto a file or a block device, without a mount
    Restore(restore::Arguments),
    /// Delete backups, without a mount
    Rm(rm::Arguments),
    /// Print a backup's record for `cinder backup-import`, without a mount
    Record(record::Arguments),
    /// Check all that there is to check of backups, without a mount
    Verify(verify::Arguments),
    /// Find what belongs to no backup, and remove it, without a mount
    Gc(gc::Arguments),
    /// Tell where two backups of a volume differ, without reading them
    Diff(diff::Arguments),
}

/// Which backends there are.
#[derive(Debug, Clone, Default, Args)]
#[group(multiple = false)]
struct StoreArguments {
    /// Cinder's configuration file, or one like it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One store, without a file: a path, posix:PATH or file:///PATH
    #[arg(long, value_name = "STORE")]
    store: Option<String>,
}

/// A failure, and whether it is the user's who asked.
struct Failure {
    error: Error,
    usage: bool,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            error,
            usage: false,
        }
    }
}

/// Marks an error as one of the command line or the configuration.
fn usage(error: Error) -> Failure {
    Failure { error, usage: true }
}

/// Fits the allocator to a cache of blocks that one thread makes and another one frees.
///
/// One heap for all threads: what is freed stays behind in each of many heaps, and was
/// measured at a quarter of the memory budget. And no page goes back to the kernel with
/// each buffer of a megabyte, to be cleared and mapped again for the next one, which was
/// a fifth of the time that a read took.
#[cfg(target_env = "gnu")]
fn fit_allocator() {
    const HEAPS: libc::c_int = 1;
    const FROM_KERNEL_BYTES: libc::c_int = 8 << 20;
    const FREE_AT_TOP_BYTES: libc::c_int = 32 << 20;
    // SAFETY: plain settings of the allocator, made before there are other threads.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, HEAPS);
        libc::mallopt(libc::M_MMAP_THRESHOLD, FROM_KERNEL_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, FREE_AT_TOP_BYTES);
    }
}

#[cfg(not(target_env = "gnu"))]
fn fit_allocator() {}

/// Runs the command line that the program was called with.
pub fn run() -> ExitCode {
    fit_allocator();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { EXIT_USAGE } else { 0 });
        }
    };
    let done = match cli.command {
        Command::Mount(arguments) => mount::run(arguments),
        Command::Umount(arguments) => umount::run(&arguments),
        Command::Ls(arguments) => ls::run(&arguments),
        Command::Show(arguments) => show::run(&arguments),
        Command::Backup(arguments) => backup::run(&arguments),
        Command::Restore(arguments) => restore::run(&arguments),
        Command::Rm(arguments) => rm::run(&arguments),
        Command::Record(arguments) => record::run(&arguments),
        Command::Verify(arguments) => return exit_code(verify::run(&arguments)),
        Command::Gc(arguments) => return exit_code(gc::run(&arguments)),
        Command::Diff(arguments) => diff::run(&arguments),
    };
    exit_code(done.map(|()| true))
}

/// How the program ends: `false` when a command has said itself what is wrong.
fn exit_code(done: Result<bool, Failure>) -> ExitCode {
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_FAILED),
        Err(Failure { error, usage }) => {
            complain(&error);
            ExitCode::from(if usage { EXIT_USAGE } else { EXIT_FAILED })
        }
    }
}

/// Says on standard error that something failed.
fn complain(error: &Error) {
    say(&format!("cinderfs: {error}"));
}

/// Writes a line to standard error. That nobody can hear it must not end the work.
fn say(text: &str) {
    use std::io::Write;
    drop(writeln!(std::io::stderr(), "{text}"));
}

/// The threads that everything asynchronous runs on. When this is dropped, what still runs
/// there may end, but a store that hangs does not hold the program.
struct Threads(Option<Runtime>);

impl Threads {
    fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(crate::task::cores().clamp(2, 8))
            .max_blocking_threads(MOST_BLOCKING)
            .enable_all()
            .build()
            .map_err(|e| Error::io("start", "the program's threads", &e))?;
        Ok(Self(Some(runtime)))
    }
}

impl Deref for Threads {
    type Target = Runtime;

    fn deref(&self) -> &Runtime {
        self.0.as_ref().expect("only drop takes it")
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_timeout(LAST_TASKS);
            settle(LAST_SIGNS, LAST_CALLS);
            close_files_of_shares(LAST_FILES);
        }
    }
}

/// Writes to standard output. A reader that has seen enough (`| head`) is no failure.
fn print(text: &str) -> Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(e) => Err(Error::io("write to", "standard output", &e)),
        Ok(()) => Ok(()),
    }
}

/// `BACKEND[/VOLUME[/FILE]]`, cut at its slashes.
fn split_target(target: &str) -> Result<Vec<&str>> {
    let parts: Vec<&str> = target.trim_matches('/').split('/').collect();
    if parts.len() > 3 || parts.iter().any(|part| part.is_empty()) {
        let reason = "it is not of the form BACKEND/VOLUME/FILE";
        return Err(Error::new(Kind::Invalid, "look up", target, reason)
            .advise("see `cinderfs ls` for what there is"));
    }
    Ok(parts)
}

/// `BACKEND/VOLUME/FILE`, and nothing else.
fn split_file(target: &str) -> Result<[&str; 3], Failure> {
    let parts = split_target(target).map_err(usage)?;
    parts.try_into().map_err(|_| {
        let reason = "it names no backup";
        let error = Error::new(Kind::Invalid, "look up", target, reason);
        usage(error.advise("give BACKEND/VOLUME/FILE"))
    })
}
