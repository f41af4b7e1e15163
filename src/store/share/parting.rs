//! The end of the program, while a server of NFS is silent.
//!
//! What is still open when a process ends is closed by the kernel, and the lock of such a file
//! is given back to its server first. At that time no signal interrupts it any more: the
//! process would stand there until the server answers. A thread that closes a file before
//! ends with the process, wherever it stands.

use crate::mountinfo;
use std::collections::HashSet;
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// Closes all files on shares of NFS, and waits no longer than `moment` for that: only what a
/// silent server holds takes longer, and that does not keep the program any more. To be called
/// last of all: whoever reads or writes such a file afterwards finds nothing. Blocks.
pub fn close_files_of_shares(moment: Duration) {
    let Ok(files) = files() else {
        return;
    };
    if files.is_empty() {
        return;
    }
    let until = Instant::now() + moment;
    let (say, hear) = channel();
    let mut closing = 0;
    for file in files {
        let say = say.clone();
        let close = move || {
            replace(file);
            // Nobody hears it who does not wait any more.
            let _ = say.send(());
        };
        closing += usize::from(std::thread::Builder::new().spawn(close).is_ok());
    }
    for _ in 0..closing {
        let left = until.saturating_duration_since(Instant::now());
        if hear.recv_timeout(left).is_err() {
            tracing::warn!("the end of the program waits no longer for a server of NFS");
            return;
        }
    }
}

/// What this process has open on shares of NFS. No server is asked.
fn files() -> crate::error::Result<Vec<RawFd>> {
    let is_nfs = |mount: &mountinfo::Mount| matches!(mount.kind.as_str(), "nfs" | "nfs4");
    let mounts = mountinfo::mounts()?.into_iter();
    let mounts: HashSet<u64> = mounts.filter(is_nfs).map(|mount| mount.id).collect();
    if mounts.is_empty() {
        return Ok(Vec::new());
    }
    let files = mountinfo::open_files()?.into_iter();
    let on_shares = files.filter(|(_, mount)| mounts.contains(mount));
    Ok(on_shares.map(|(file, _)| file).collect())
}

/// Closes a file that somebody may have still, who then has one that holds nothing.
fn replace(file: RawFd) {
    let Ok(nothing) = File::options().read(true).write(true).open("/dev/null") else {
        return;
    };
    // SAFETY: both numbers are those of open files: nothing else than what is said here
    // closes files by now. The number stays in use, so that who has it still can do no harm to
    // another file; there is no memory involved.
    unsafe { libc::dup3(nothing.as_raw_fd(), file, libc::O_CLOEXEC) };
}
