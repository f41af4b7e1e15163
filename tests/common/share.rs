//! File servers, and shares of theirs mounted by hand in a folder of their own.

use super::mount::{detach, is_mounted, kill};
use super::programs::{command, output};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A server of files that is real, and that a test may harm.
pub trait FileServer: Sync {
    /// The type for mount(8), which also is the name of the driver.
    fn kind(&self) -> &'static str;

    /// A folder that nobody else has.
    fn new_share(&self) -> NewShare;

    /// The name of a share that there is not.
    fn no_share(&self) -> String;

    /// Within so many seconds it does whatever nothing holds up.
    fn patience(&self) -> u32 {
        3
    }

    /// The lines of Cinder's that name the driver, a share, and where shares are mounted.
    fn lines(&self, share: &str, base: &Path) -> String;

    /// Ends what serves the files, as a machine that is gone.
    fn stop(&self);

    /// Starts it again. Whoever has mounted a share finds it within seconds.
    fn go_on(&self);

    /// Lets it stand still: who asks it waits.
    fn pause(&self);

    fn resume(&self);
}

/// A share that a server has made.
#[derive(Debug, Clone)]
pub struct NewShare {
    /// As mount(8) takes it.
    pub name: String,
    /// The folder in which the server keeps what is in it, to be looked at only.
    pub folder: PathBuf,
}

/// A mount, until it is dropped. Its server may be gone by then.
pub struct Mounted {
    /// Removed by ourselves: nothing may look for files in what is mounted there still.
    folder: PathBuf,
}

impl Mounted {
    /// `mount -t kind -o options share FOLDER`; what mount(8) says if it fails.
    pub fn try_new(kind: &str, share: &str, options: &str) -> Result<Self, String> {
        let mounted = Self {
            folder: tempfile::tempdir().unwrap().keep(),
        };
        let mut arguments = vec!["-t", kind];
        if !options.is_empty() {
            arguments.extend(["-o", options]);
        }
        let mut arguments: Vec<&OsStr> = arguments.into_iter().map(OsStr::new).collect();
        arguments.extend([OsStr::new(share), mounted.folder.as_os_str()]);
        let output = output(&mut command("mount", &arguments));
        if output.status.success() {
            return Ok(mounted);
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    pub fn new(kind: &str, share: &str, options: &str) -> Self {
        let mounted = Self::try_new(kind, share, options);
        mounted.unwrap_or_else(|said| panic!("cannot mount {share}: {said}"))
    }

    pub fn root(&self) -> &Path {
        &self.folder
    }

    /// A path below the mount.
    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.join(path)
    }

    /// Unmounts it as a user does, and gives what umount(8) says if it fails.
    pub fn unmount(self) -> Result<(), String> {
        let output = output(&mut command("umount", &[&self.folder]));
        if output.status.success() {
            return Ok(());
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if is_mounted(&self.folder) {
            // It would flush what it has, and wait for the server, for ever perhaps.
            let mut umount = command("timeout", &["-k", "1", "10", "umount"].map(OsStr::new));
            let _ = umount.arg(&self.folder).output();
            forget(&self.folder);
        }
        let _ = fs::remove_dir(&self.folder);
    }
}

/// Takes a mount of a share away, whatever its server does, and what its client keeps.
pub fn forget(folder: &Path) {
    detach(folder);
    end_client_of(folder);
    let name = folder.display().to_string().replace('/', "-");
    let name = name.trim_start_matches('-');
    let _ = fs::remove_file(format!("/var/log/glusterfs/{name}.log"));
}

/// Ends the process that serves a mount of GlusterFS, which a server that does not answer
/// would hold.
fn end_client_of(folder: &Path) {
    let client = || {
        let entries = fs::read_dir("/proc").unwrap();
        let mut pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.find(|pid: &u32| {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<&str> = line.trim_end_matches('\0').split('\0').collect();
            words[0].ends_with("glusterfs") && words.last() == Some(&&*folder.to_string_lossy())
        })
    };
    for signal in [libc::SIGTERM, libc::SIGKILL] {
        for _ in 0..100 {
            let Some(pid) = client() else {
                return;
            };
            kill(pid, signal);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
