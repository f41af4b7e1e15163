//! The real program on a real mount: temporary folders, the daemon, and commands that
//! run against it. Whatever a test does, nothing stays mounted.

mod lab;

pub use super::calls::*;
pub use super::programs::*;
pub use lab::*;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

/// The program.
pub const CINDERFS: &str = env!("CARGO_BIN_EXE_cinderfs");

pub const MIB: usize = 1 << 20;

/// A mount whose daemon is a child of ours.
pub struct Mount<'a> {
    lab: &'a Lab,
    folder: PathBuf,
    child: Child,
}

impl Mount<'_> {
    fn said(&mut self) -> String {
        let said = self.child.stderr.take().map(io::read_to_string);
        let said = said.and_then(Result::ok).unwrap_or_default();
        format!("{said}{}", self.lab.log())
    }

    /// A path below the mount.
    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.join(path)
    }

    pub fn root(&self) -> &Path {
        &self.folder
    }

    /// The folder of a volume, which is made when it is not there.
    pub fn volume(&self, volume: &str) -> PathBuf {
        let path = self.folder.join(self.lab.backend()).join(volume);
        if !path.exists() {
            fs::create_dir(&path).unwrap();
        }
        path
    }

    /// The daemon's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it in the usual way, and gives its exit code.
    pub fn unmount(self) -> i32 {
        self.end_by(libc::SIGTERM)
    }

    /// Ends it by a signal, and gives its exit code.
    pub fn end_by(mut self, signal: i32) -> i32 {
        kill(self.child.id(), signal);
        let code = self.wait();
        assert!(!is_mounted(&self.folder), "it is mounted still");
        code
    }

    /// Waits until it has ended by itself, and gives its exit code.
    pub fn wait(&mut self) -> i32 {
        let child = &mut self.child;
        wait_for("the daemon ends", || child.try_wait().unwrap().is_some());
        let status = self.child.wait().unwrap();
        status
            .code()
            .unwrap_or_else(|| panic!("the daemon: {status}\n{}", self.lab.log()))
    }

    /// Whether the daemon has ended.
    pub fn is_over(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// As a machine that loses power: the daemon is gone at once, and nothing is told.
    pub fn crash(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        detach(&self.folder);
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        if let Ok(Some(status)) = self.child.try_wait() {
            detach(&self.folder);
            if std::thread::panicking() {
                eprintln!("the daemon has ended: {status}\n{}", self.said());
            }
            return;
        }
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.lab.log());
            detach(&self.folder);
            let _ = self.child.kill();
        } else {
            kill(self.child.id(), libc::SIGTERM);
        }
        let start = std::time::Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if start.elapsed() > Duration::from_secs(20) {
                detach(&self.folder);
                let _ = self.child.kill();
                let _ = self.child.wait();
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        detach(&self.folder);
    }
}

pub fn kill(pid: u32, signal: i32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    let signal = rustix::process::Signal::from_named_raw(signal).unwrap();
    let _ = rustix::process::kill_process(pid, signal);
}

/// Whether anything is mounted there.
pub fn is_mounted(folder: &Path) -> bool {
    let at = folder.display().to_string().replace(' ', "\\040");
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    mounts
        .lines()
        .any(|line| line.split(' ').nth(1) == Some(at.as_str()))
}

/// Takes whatever is mounted there away, used or not.
pub fn detach(folder: &Path) {
    for _ in 0..8 {
        if !is_mounted(folder) {
            return;
        }
        if rustix::mount::unmount(folder, rustix::mount::UnmountFlags::DETACH).is_err() {
            let _ = Command::new("fusermount3")
                .arg("-uz")
                .arg("--")
                .arg(folder)
                .output();
        }
    }
}
