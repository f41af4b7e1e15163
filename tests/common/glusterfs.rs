//! Real GlusterFS servers of one volume of one brick, and what a test does to them past
//! the program: mounts of its own, and bricks that end, or stand still.

use super::mount::kill;
use super::programs::{command, run, wait_for};
use super::server::{Origin, Program, Server};
use super::share::{FileServer, Mounted, NewShare};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

const GLUSTERFS: Program = Program {
    name: "glusterfs",
    origin: Origin::Debian("glusterd", "glusterfs-server"),
};

/// A GlusterFS. `tests/services/glusterfs/serve.py` tells what it has.
pub struct Gluster {
    pub server: Server,
    /// How many of its folders for tests are taken.
    shares: AtomicUsize,
}

impl Gluster {
    /// None when it is not installed, or we are not root, and `--quick` leaves it out.
    pub fn start() -> Option<Self> {
        Some(Self {
            server: Server::start(GLUSTERFS, Vec::new())?,
            shares: AtomicUsize::new(0),
        })
    }

    /// The one that all tests of this program share. Its brick is not theirs to stop.
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Gluster>> = OnceLock::new();
        SHARED.get_or_init(Self::start).as_ref()
    }

    /// As in `glusterfs_backup_share`: `127.0.0.2:/vol`.
    pub fn share(&self) -> &str {
        self.server.said("share")
    }

    /// Mounts it as anybody does.
    pub fn mount(&self) -> Mounted {
        let log = self.server.folder().join("mount.log");
        let options = format!("log-file={}", log.display());
        Mounted::new("glusterfs", self.share(), &options)
    }

    /// The folder in which the brick keeps what is in the volume.
    pub fn brick(&self) -> PathBuf {
        self.server.said("brick").into()
    }

    /// The process that serves the data; another one after each [`Self::heal`].
    pub fn brick_pid(&self) -> Option<u32> {
        let path = self.server.said("brick_pidfile");
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    }

    /// Ends the process that serves the data, as a machine that is gone.
    pub fn kill_brick(&self) {
        let pid = self.brick_pid().expect("there is no brick");
        kill(pid, libc::SIGKILL);
        wait_for("the brick ends", || {
            state(pid).is_none_or(|state| state == 'Z')
        });
    }

    /// Starts it again. Whoever has mounted the volume finds it within seconds.
    pub fn heal(&self) {
        self.ask(&["volume", "start", self.server.said("volume"), "force"]);
        let runs = || self.brick_pid().and_then(state);
        wait_for("the brick starts", || {
            runs().is_some_and(|state| state != 'Z')
        });
    }

    /// Lets the process that serves the data stand still: who asks it waits.
    pub fn pause_brick(&self) {
        let pid = self.brick_pid().expect("there is no brick");
        kill(pid, libc::SIGSTOP);
        wait_for("the brick stands still", || state(pid) == Some('T'));
    }

    pub fn resume_brick(&self) {
        kill(self.brick_pid().expect("there is no brick"), libc::SIGCONT);
    }

    /// Sets an option of the volume, as `network.ping-timeout`: how many seconds (42) a
    /// client waits for a server that says nothing, before what it asked for fails.
    pub fn set(&self, option: &str, value: &str) {
        let volume = self.server.said("volume");
        self.ask(&["volume", "set", volume, option, value]);
    }

    /// The command line of the administrator.
    fn ask(&self, words: &[&str]) {
        let cli = self.server.info["cli"].as_array().unwrap();
        let mut all: Vec<&str> = cli.iter().map(|word| word.as_str().unwrap()).collect();
        all.extend(words);
        run(&mut command(all[0], &all[1..]));
    }
}

impl FileServer for Gluster {
    fn kind(&self) -> &'static str {
        "glusterfs"
    }

    fn new_share(&self) -> NewShare {
        let number = self.shares.fetch_add(1, Ordering::Relaxed);
        let name = format!("test{number}");
        // Not in the brick: GlusterFS would know nothing of it.
        let mounted = self.mount();
        std::fs::create_dir(mounted.path(&name)).unwrap();
        mounted.unmount().unwrap();
        NewShare {
            folder: self.brick().join(&name),
            name: format!("{}/{name}", self.share()),
        }
    }

    fn no_share(&self) -> String {
        format!("{}:/none", self.server.said("address"))
    }

    fn lines(&self, share: &str, base: &Path) -> String {
        format!(
            "backup_driver = cinder.backup.drivers.glusterfs.GlusterfsBackupDriver\n\
             glusterfs_backup_share = {share}\nglusterfs_backup_mount_point = {}\n",
            base.display()
        )
    }

    fn stop(&self) {
        self.kill_brick();
    }

    fn go_on(&self) {
        self.heal();
    }

    fn pause(&self) {
        self.pause_brick();
    }

    fn resume(&self) {
        self.resume_brick();
    }
}

/// The state of a process: `T` for one that stands still, `Z` for one that has ended.
fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}
