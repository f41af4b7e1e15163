//! A laboratory: temporary folders, a configuration over a store, and the daemons and
//! commands that are started with it.

use super::super::ceph::Pool;
use super::super::dsmc::Dsmc;
use super::super::glusterfs::Gluster;
use super::super::golden::Tree;
use super::super::share::{self, FileServer, NewShare};
use super::super::swift::{Account, Swift};
use super::*;

use cinderfs::config::{self, Config};
use cinderfs::format::{Layout, to_hex};
use cinderfs::store::posix::PosixStore;
use md5::{Digest, Md5};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::Instant;

/// Temporary folders for a store, its configuration, mounts, and sources.
pub struct Lab {
    root: tempfile::TempDir,
    /// Of the only backend; its name is the driver's.
    driver: &'static str,
    ground: Ground,
    /// Lines of the configuration that are always there.
    lines: String,
}

/// Where a store is.
#[derive(Debug)]
enum Ground {
    /// In the folder `store`.
    Here,
    Account(Account),
    Share(NewShare),
}

/// What there is to keep backups in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    Posix,
    Swift,
    GlusterFs,
}

/// Tests with a laboratory of their own, over every kind of backend: functions that take
/// one, with these options.
macro_rules! on_every_backend {
    ($options:expr; $($test:ident)*) => {
        mod posix {
            use super::*;

            $(#[test]
            fn $test() {
                super::$test(&Lab::with($options));
            })*
        }

        mod swift {
            use super::*;

            $(#[test]
            fn $test() {
                let swift = crate::common::mount::Backend::Swift;
                if let Some(lab) = Lab::on(swift, $options) {
                    super::$test(&lab);
                }
            })*
        }
    };
}
pub(crate) use on_every_backend;

/// As `Lab::new` has it.
pub const SMALL_OBJECTS: &str = "backup_file_size = 1048576\n";

impl Lab {
    /// Small objects, so that small files have several: 1 MiB with zlib.
    pub fn new() -> Self {
        Self::with(SMALL_OBJECTS)
    }

    /// Over a folder, or a new account or share of a server that all tests of this program
    /// have in common. None when `--quick` leaves that out.
    pub fn on(backend: Backend, options: &str) -> Option<Self> {
        match backend {
            Backend::Posix => Some(Self::with(options)),
            Backend::Swift => Some(Self::on_swift(&Swift::shared()?.account(), options)),
            Backend::GlusterFs => Some(Self::on_share(Gluster::shared()?, options)),
        }
    }

    /// With further lines for the only section; the backend is named `posix`.
    pub fn with(options: &str) -> Self {
        let mut lab = Self::empty("posix");
        lab.lines = format!(
            "backup_driver = cinder.backup.drivers.posix.PosixBackupDriver\n\
             backup_posix_path = {}\n",
            lab.store().display()
        );
        lab.configure(options);
        lab
    }

    /// The same on an account of Swift's; the backend is named `swift`.
    pub fn on_swift(account: &Account, options: &str) -> Self {
        let mut lab = Self::empty("swift");
        lab.lines = format!(
            "backup_driver = cinder.backup.drivers.swift.SwiftBackupDriver\n{}",
            account.lines()
        );
        lab.ground = Ground::Account(account.clone());
        lab.configure(options);
        lab
    }

    /// The same in a pool of Ceph's; the backend is named `ceph`.
    pub fn on_ceph(pool: &Pool, options: &str) -> Self {
        let mut lab = Self::empty("ceph");
        lab.lines = format!(
            "backup_driver = cinder.backup.drivers.ceph.CephBackupDriver\n{}",
            pool.lines()
        );
        lab.configure(options);
        lab
    }

    /// The same on the emulator of `dsmc`, in the folder `tsm`; the backend is named `tsm`.
    pub fn on_tsm(options: &str) -> (Self, Dsmc) {
        let mut lab = Self::empty("tsm");
        let dsmc = Dsmc::new(&lab.path("tsm"));
        lab.lines = format!(
            "backup_driver = cinder.backup.drivers.tsm.TSMBackupDriver\n\
             backup_tsm_dsmc_path = {}\nbackup_tsm_staging_path = {}\n",
            dsmc.program().display(),
            lab.path("staging").display()
        );
        lab.configure(options);
        (lab, dsmc)
    }

    /// The same on a new share, which is mounted below the folder `base`; the backend is
    /// named as its driver.
    pub fn on_share(server: &dyn FileServer, options: &str) -> Self {
        Self::on_that_share(server, &server.new_share(), options)
    }

    /// The same on a share that others may have as well.
    pub fn on_that_share(server: &dyn FileServer, share: &NewShare, options: &str) -> Self {
        let mut lab = Self::empty(server.kind());
        lab.lines = server.lines(&share.name, &lab.path("base"));
        lab.ground = Ground::Share(share.clone());
        lab.configure(options);
        lab
    }

    /// The share that it is on.
    pub fn share(&self) -> &NewShare {
        match &self.ground {
            Ground::Share(share) => share,
            other => panic!("{other:?} is no share"),
        }
    }

    /// The share as a store of the library's, which mounts it by itself.
    pub fn store_on_share(&self) -> PosixStore {
        let config = Config::load(&self.config()).unwrap();
        match &config.backends[0].driver {
            config::Driver::Share(options) => PosixStore::on_share(options),
            other => panic!("{other:?} is no share"),
        }
    }

    /// Where the share is mounted: the same path as Cinder's.
    pub fn mount_point(&self) -> PathBuf {
        let name = to_hex(&Md5::digest(&self.share().name));
        self.path("base").join(name)
    }

    fn empty(driver: &'static str) -> Self {
        let lab = Self {
            root: tempfile::tempdir().unwrap(),
            driver,
            ground: Ground::Here,
            lines: String::new(),
        };
        for folder in ["store", "mnt", "spool", "home"] {
            fs::create_dir(lab.path(folder)).unwrap();
        }
        lab
    }

    /// Over a copy of a golden tree. None when `--quick` leaves it out.
    pub fn over_tree(tree: Tree) -> Option<Self> {
        match tree.layout() {
            Layout::Posix => Some(Self::over(&tree.path())),
            Layout::Swift => {
                let account = Swift::shared()?.account();
                account.client().load(&tree.path());
                Some(Self::on_swift(&account, ""))
            }
        }
    }

    /// Over a copy of a tree of files.
    pub fn over(tree: &Path) -> Self {
        let lab = Self::new();
        super::super::golden::copy_tree(tree, &lab.store());
        lab
    }

    /// Writes the configuration anew. The sizes have the names that they have with posix.
    pub fn configure(&self, options: &str) {
        let options = match self.ground {
            Ground::Here | Ground::Share(_) => options.to_owned(),
            Ground::Account(_) => options
                .replace("backup_file_size", "backup_swift_object_size")
                .replace("backup_sha_block_size_bytes", "backup_swift_block_size"),
        };
        let text = format!(
            "[DEFAULT]\n{}spool_path = {}\n{options}",
            self.lines,
            self.path("spool").display(),
        );
        fs::write(self.config(), text).unwrap();
        if self.driver == "swift" {
            // There is a key in it.
            fs::set_permissions(self.config(), fs::Permissions::from_mode(0o600)).unwrap();
        }
    }

    /// The name of the only backend.
    pub fn backend(&self) -> &str {
        self.driver
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// The store; a copy of it as it is now, if it is not in a folder. That of a share is to
    /// be looked at only.
    pub fn store(&self) -> PathBuf {
        let folder = self.path("store");
        match &self.ground {
            Ground::Here => {}
            Ground::Account(account) => {
                fs::remove_dir_all(&folder).unwrap();
                fs::create_dir(&folder).unwrap();
                account.client().fetch(&folder);
            }
            Ground::Share(share) => return share.folder.clone(),
        }
        folder
    }

    /// Puts something else in the place of an object, which is named by its path below
    /// [`Self::store`], or removes it.
    pub fn set_object(&self, path: &Path, content: Option<&[u8]>) {
        let Ground::Account(account) = &self.ground else {
            match content {
                Some(content) => fs::write(path, content).unwrap(),
                None => fs::remove_file(path).unwrap(),
            }
            return;
        };
        let name = path.strip_prefix(self.path("store")).unwrap();
        let (container, name) = name.to_str().unwrap().split_once('/').unwrap();
        match content {
            Some(content) => account.client().put(container, name, content),
            None => account.client().delete(container, name),
        }
    }

    pub fn is_on_swift(&self) -> bool {
        matches!(self.ground, Ground::Account(_))
    }

    /// Waits until a Swift has done what a program that is gone had asked for.
    pub fn settle(&self) {
        let Ground::Account(account) = &self.ground else {
            return;
        };
        let client = account.client();
        let listed = || {
            let containers = client.containers().into_iter();
            let names = containers.map(|container| client.list(&container, ""));
            names.collect::<Vec<_>>()
        };
        let mut before = listed();
        wait_for("nothing changes any more", || {
            std::thread::sleep(Duration::from_millis(100));
            let now = listed();
            let is_same = now == before;
            before = now;
            is_same
        });
    }

    pub fn config(&self) -> PathBuf {
        self.path("cinderfs.conf")
    }

    /// The log of all mounts so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// A file outside the mount.
    pub fn source(&self, name: &str, data: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, data).unwrap();
        path
    }

    /// The program, with folders of its own for all that it might keep for a user.
    pub fn cinderfs<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = command(CINDERFS, arguments);
        self.shelter(&mut command);
        command
    }

    /// The program itself, in the background, with all that it says.
    pub fn start_command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Child {
        let mut command = Command::new(CINDERFS);
        self.shelter(&mut command);
        command.args(arguments).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    fn shelter(&self, command: &mut Command) {
        command
            .env("HOME", self.path("home"))
            .current_dir(self.root.path());
        for variable in [
            "XDG_DATA_HOME",
            "XDG_STATE_HOME",
            "XDG_CACHE_HOME",
            "CINDERFS_LOG",
        ] {
            command.env_remove(variable);
        }
    }

    /// Mounts on `mnt`.
    pub fn mount(&self) -> Mount<'_> {
        self.mount_with("mnt", "")
    }

    /// Mounts on another folder, with further mount options.
    pub fn mount_with(&self, folder: &str, options: &str) -> Mount<'_> {
        self.start(Command::new(CINDERFS), folder, options)
    }

    /// Mounts as an ordinary user, who then owns the store.
    pub fn mount_as_user(&self, options: &str) -> Mount<'_> {
        // Where the program was built may not be the user's to look into.
        let program = self.path("cinderfs");
        fs::copy(CINDERFS, &program).unwrap();
        open_to_all(self.root.path());
        run(&mut shell(
            r#"chown -R "$1:$1" "$2""#,
            &[USER, self.root.path().to_str().unwrap()],
        ));
        let mut command = Command::new("setpriv");
        command.args(as_user(USER)).arg(program);
        self.start(command, "mnt", options)
    }

    fn start(&self, mut program: Command, folder: &str, options: &str) -> Mount<'_> {
        let folder = self.path(folder);
        let _ = fs::create_dir(&folder);
        let answers = |log: &str| log.matches("mounted on").count();
        let before = answers(&self.log());
        program
            .args(["mount", "--foreground", "--config"])
            .arg(self.config());
        program
            .arg("-o")
            .arg(format!("log={},{options}", self.path("log").display()));
        program
            .arg(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        self.shelter(&mut program);
        let child = program.spawn().unwrap();
        let mut mount = Mount {
            lab: self,
            folder,
            child,
        };
        let start = Instant::now();
        // Its log, and not a stat: that of a mount that hangs would hang as well.
        while answers(&self.log()) == before {
            if let Some(status) = mount.child.try_wait().unwrap() {
                panic!("cinderfs did not mount: {status}\n{}", mount.said());
            }
            assert!(start.elapsed() < PATIENCE, "cinderfs does not answer");
            std::thread::sleep(Duration::from_millis(5));
        }
        mount
    }

    /// The process in the background that serves `folder`.
    pub fn daemon_of(&self, folder: &Path) -> Option<u32> {
        let serves = |pid: u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut words = line.split(|byte| *byte == 0);
            words.next() == Some(CINDERFS.as_bytes())
                && words.any(|word| word == folder.as_os_str().as_bytes())
        };
        let entries = fs::read_dir("/proc").unwrap();
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.into_iter().find(|pid| serves(*pid))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Ground::Share(_) = &self.ground {
            share::forget(&self.mount_point());
        }
        // A mount that was left here would be emptied along with the folder.
        for line in fs::read_to_string("/proc/self/mounts")
            .unwrap_or_default()
            .lines()
        {
            let at = line.split(' ').nth(1).unwrap_or_default();
            let Some(at) = at
                .replace("\\040", " ")
                .strip_prefix('/')
                .map(|at| format!("/{at}"))
            else {
                continue;
            };
            if Path::new(&at).starts_with(self.root.path()) {
                if let Some(pid) = self.daemon_of(Path::new(&at)) {
                    kill(pid, libc::SIGTERM);
                }
                share::forget(Path::new(&at));
            }
        }
    }
}
