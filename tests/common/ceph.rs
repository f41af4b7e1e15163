//! Real Ceph clusters, pools of theirs for each test, and what a test does in them past the
//! program: with rbd(8), rados(8) and as an administrator.

use super::programs::{command, run};
use super::server::{Origin, Program, Server};
use serde_json::Value;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

const CEPH: Program = Program {
    name: "ceph",
    origin: Origin::PyPi("16.2.15"),
};

/// A cluster with one monitor and one object store. `tests/services/ceph/serve.py` tells its
/// users.
pub struct Ceph {
    pub server: Server,
    /// How many pools were made for tests.
    pools: AtomicUsize,
}

/// One of the processes of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Monitor,
    ObjectStore,
    /// It does not run unless it is started.
    Manager,
}

/// A pool that no other test has.
#[derive(Debug, Clone)]
pub struct Pool {
    conf: PathBuf,
    pub name: String,
}

/// A program that has an image open for writing.
pub struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        // It ends with its input.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

impl Ceph {
    /// None when it is not installed and `--quick` leaves it out.
    pub fn start() -> Option<Self> {
        Some(Self {
            server: Server::start(CEPH, Vec::new())?,
            pools: AtomicUsize::new(0),
        })
    }

    /// The one that all tests of this program share. They leave its processes alone.
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Ceph>> = OnceLock::new();
        SHARED.get_or_init(Self::start).as_ref()
    }

    /// Its configuration file.
    pub fn conf(&self) -> PathBuf {
        self.server.said("conf").into()
    }

    /// Where a Python of another program finds the modules of Ceph.
    pub fn modules(&self) -> PathBuf {
        let folder = CEPH.python().unwrap();
        folder.parent().unwrap().parent().unwrap().join("modules")
    }

    /// A new pool.
    pub fn pool(&self) -> Pool {
        let number = 1 + self.pools.fetch_add(1, Ordering::Relaxed);
        let name = format!("test{number}");
        self.admin(&["pool", &name]);
        Pool {
            conf: self.conf(),
            name,
        }
    }

    /// What `tests/services/ceph/admin.py` does. Gives what it prints.
    pub fn admin(&self, arguments: &[&str]) -> String {
        run(&mut admin(&self.conf(), arguments))
    }

    /// Makes a user with these capabilities, and a configuration file that finds its key.
    pub fn user(&self, name: &str, mon: &str, osd: &str) -> PathBuf {
        let key = self.admin(&["user", name, mon, osd]);
        self.conf_with_key(name, key.trim())
    }

    /// A configuration file by which that user has that key.
    pub fn conf_with_key(&self, user: &str, key: &str) -> PathBuf {
        let folder = self.server.folder();
        let keyring = folder.join(format!("{user}.of-a-test"));
        std::fs::write(&keyring, format!("[client.{user}]\n\tkey = {key}\n")).unwrap();
        let text = std::fs::read_to_string(self.conf()).unwrap();
        let own = format!("[client.{user}]\nkeyring = {}\n", keyring.display());
        let conf = folder.join(format!("{user}.conf"));
        std::fs::write(&conf, format!("{text}\n{own}")).unwrap();
        conf
    }

    /// Ends a process of it at once. Its data stay.
    pub fn stop(&self, part: Part) {
        self.control("stop", part);
    }

    /// Starts it again, and waits until all answers that can.
    pub fn go_on(&self, part: Part) {
        self.control("start", part);
    }

    /// The number of a process that runs.
    pub fn pid(&self, part: Part) -> u32 {
        // Nothing is started that runs already.
        let pids = self.control("start", part);
        pids[part.name()].as_u64().unwrap().try_into().unwrap()
    }

    fn control(&self, verb: &str, part: Part) -> Value {
        // An address is short; the folder's own name may be long.
        let path = Path::new(self.server.said("control"));
        let mut stream = UnixStream::connect(path).unwrap();
        writeln!(stream, "{verb} {}", part.name()).unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{verb} {part:?}: {e}"))
    }
}

fn admin(conf: &Path, arguments: &[&str]) -> Command {
    let program = CEPH.folder().join("admin.py");
    let mut all = vec![program.as_os_str(), conf.as_os_str()];
    all.extend(arguments.iter().map(OsStr::new));
    command(CEPH.python().unwrap(), &all)
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Monitor => "mon",
            Self::ObjectStore => "osd",
            Self::Manager => "mgr",
        }
    }
}

impl Pool {
    /// The configuration file of its cluster.
    pub fn conf(&self) -> &Path {
        &self.conf
    }

    /// What a backend's section says of it.
    pub fn lines(&self) -> String {
        let conf = self.conf.display();
        format!(
            "backup_ceph_conf = {conf}\nbackup_ceph_pool = {}\n",
            self.name
        )
    }

    /// As Cinder's user, rbd(8) with these arguments; names of images need no pool.
    pub fn rbd_command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        self.client("rbd", arguments)
    }

    /// The same, which must succeed. Gives what it prints.
    pub fn rbd<S: AsRef<OsStr>>(&self, arguments: &[S]) -> String {
        run(&mut self.rbd_command(arguments))
    }

    /// rados(8), in the same way.
    pub fn rados<S: AsRef<OsStr>>(&self, arguments: &[S]) -> String {
        run(&mut self.client("rados", arguments))
    }

    /// The names of all images.
    pub fn images(&self) -> Vec<String> {
        self.rbd(&["ls"]).lines().map(str::to_owned).collect()
    }

    /// Writes into an image.
    pub fn write(&self, image: &str, offset: u64, data: &[u8]) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, data).unwrap();
        let (offset, path) = (offset.to_string(), file.path().to_str().unwrap());
        let arguments = ["write", &self.name, image, &offset, path];
        run(&mut admin(&self.conf, &arguments));
    }

    /// Makes a part of an image zero.
    pub fn discard(&self, image: &str, range: &Range<u64>) {
        let (offset, length) = (
            range.start.to_string(),
            (range.end - range.start).to_string(),
        );
        let arguments = ["discard", &self.name, image, &offset, &length];
        run(&mut admin(&self.conf, &arguments));
    }

    /// Has an image open for writing, until the child is dropped.
    pub fn hold(&self, image: &str) -> Holder {
        let mut command = admin(&self.conf, &["hold", &self.name, image]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = child.stdout.as_mut().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        assert_eq!(line, "open\n");
        Holder(child)
    }

    fn client<S: AsRef<OsStr>>(&self, program: &str, arguments: &[S]) -> Command {
        let mut command = command(program, &[OsStr::new("--conf"), self.conf.as_os_str()]);
        command.args(["--id", "cinder", "--pool", &self.name]);
        command.args(arguments);
        command
    }
}
