//! Going to the background: the program starts itself once more, and waits until that
//! one says that its mount answers.
//!
//! A new process, and not a fork: threads do not survive a fork, and libraries may have
//! started some.

use crate::error::{Error, Kind, Result};
use std::env;
use std::fs::File;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

/// Tells the second process that it is the one.
const CHILD: &str = "_CINDERFS_IN_BACKGROUND";
/// What it writes when the mount answers.
const READY: &[u8] = b"ready\n";

/// Whether this is the process in the background.
pub fn is_child() -> bool {
    env::var_os(CHILD).is_some()
}

/// Starts this command again, in the background. Returns when the mount answers.
///
/// # Errors
/// When it ended instead; it has said why on standard error.
pub fn start_in_background() -> Result<()> {
    let program = env::current_exe().map_err(|e| Error::io("find", "this program", &e))?;
    let mut child = Command::new(program)
        .args(env::args_os().skip(1))
        .env(CHILD, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| Error::io("start", "this program in the background", &e))?;
    let mut said = Vec::new();
    if let Some(out) = child.stdout.take() {
        let _ = out.take(READY.len() as u64).read_to_end(&mut said);
    }
    if said == READY {
        return Ok(());
    }
    let status = child
        .wait()
        .map_err(|e| Error::io("wait for", "the mount", &e))?;
    // Its own words are on standard error already; its exit code becomes ours.
    match status.code() {
        Some(code) => std::process::exit(code),
        None => Err(Error::new(
            Kind::Unavailable,
            "mount",
            "in the background",
            status,
        )),
    }
}

/// The second process, seen from inside.
pub struct Ready;

impl Ready {
    /// Tells the first process, if there is one, that the mount answers, and lets go of
    /// its terminal and pipes: who waits for their end would wait for ours.
    pub fn tell() {
        if !is_child() {
            return;
        }
        let mut out = std::io::stdout();
        let _ = out.write_all(READY).and_then(|()| out.flush());
        let _ = rustix::process::setsid();
        let _ = env::set_current_dir("/");
        if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
            let _ = rustix::stdio::dup2_stdin(&null);
            let _ = rustix::stdio::dup2_stdout(&null);
            let _ = rustix::stdio::dup2_stderr(&null);
        }
    }
}
