//! Real servers of NFS, inside the virtual machine: the kernel's own, and nfs-ganesha, which
//! is a process, and so can stand still as a machine does that nobody can reach.
//!
//! There is one at a time: they have the same ports, which clients know.

use super::machine;
use super::mount::{kill, open_to_all};
use super::programs::{run, shell, wait_for};
use super::share::{FileServer, Mounted, NewShare};
use std::fmt::Write;
use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// nfsd, of the kernel that is the client as well.
    Kernel,
    Ganesha,
}

/// How a share is exported, where it matters, and how the program is told to mount it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Clients' root is nobody here.
    pub root_squash: bool,
    /// `backup_mount_options`, if any.
    pub mount: &'static str,
}

/// A server of one share, until it is dropped. It knows NFS of the versions 3 and 4.0 to 4.2;
/// ganesha no locks of version 3, whose service would be where that of the client is, nor
/// locks of those that had some before it was stopped.
pub struct Nfs {
    kind: Kind,
    options: Options,
    folder: tempfile::TempDir,
    /// What stands for the share in what clients remember of files.
    number: AtomicU16,
    /// How many folders for tests it has.
    shares: AtomicUsize,
}

/// What all servers need beside, for as long as the machine runs. Clients need it for locks
/// of version 3. Locks are not granted at first, for those that had some before may come
/// back: for 3 seconds with version 3.
const PROVIDE: &str = r#"
    [[ ! -e /run/nfs-is-provided ]] || exit 0
    mkdir -p /run/rpcbind /var/lib/nfs/nfsdcld
    touch /etc/exports
    modprobe nfsd && modprobe lockd || exit 1
    echo 3 >/proc/sys/fs/nfs/nlm_timeout && echo 3 >/proc/sys/fs/nfs/nlm_grace_period || exit 1
    mount -t rpc_pipefs sunrpc /var/lib/nfs/rpc_pipefs &&
        mount -t nfsd nfsd /proc/fs/nfsd && rpcbind && nfsdcld && rpc.statd --no-notify &&
        touch /run/nfs-is-provided
"#;

impl Nfs {
    pub fn start(kind: Kind) -> Self {
        Self::with(kind, Options::default())
    }

    /// One of the kernel's, which the program mounts with those options.
    pub fn mounted_with(mount: &'static str) -> Self {
        let options = Options {
            mount,
            ..Options::default()
        };
        Self::with(Kind::Kernel, options)
    }

    pub fn with(kind: Kind, options: Options) -> Self {
        assert!(machine::is_inside(), "this runs in a virtual machine only");
        run(&mut shell::<&str>(PROVIDE, &[]));
        let folder = tempfile::tempdir().unwrap();
        open_to_all(folder.path());
        let server = Self {
            kind,
            options,
            folder,
            number: AtomicU16::new(7),
            shares: AtomicUsize::new(0),
        };
        for name in ["root/export", "recovery"] {
            fs::create_dir_all(server.path(name)).unwrap();
        }
        // Whoever clients' root is here may write.
        fs::set_permissions(server.export(), fs::Permissions::from_mode(0o777)).unwrap();
        server.go_on();
        if kind == Kind::Kernel {
            // Nobody has locks of this one yet that may come back. It fails when the server
            // has found that by itself.
            let _ = fs::write("/proc/fs/nfsd/v4_end_grace", "Y");
        }
        server
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// As in `backup_share`, for all versions.
    pub fn share(&self) -> &'static str {
        "127.0.0.1:/export"
    }

    /// The folder that clients see.
    pub fn export(&self) -> PathBuf {
        self.path("root/export")
    }

    /// Mounts it as anybody does, with those options of mount(8).
    pub fn mount(&self, options: &str) -> Mounted {
        Mounted::new("nfs", self.share(), options)
    }

    /// Ends it at once, if it runs. Nobody answers any more.
    pub fn stop(&self) {
        match self.kind {
            Kind::Kernel => {
                run(&mut shell::<&str>("rpc.nfsd 0; exportfs -ua", &[]));
                if let Some(pid) = pid_of("rpc.mountd") {
                    kill(pid, libc::SIGTERM);
                }
                wait_for("mountd ends", || pid_of("rpc.mountd").is_none());
            }
            Kind::Ganesha => {
                if let Some(pid) = pid_of("ganesha.nfsd") {
                    kill(pid, libc::SIGKILL);
                    wait_for("ganesha ends", || pid_of("ganesha.nfsd").is_none());
                }
            }
        }
    }

    /// Starts it again, after [`Self::stop`]: with the same files, which clients still know.
    pub fn go_on(&self) {
        match self.kind {
            Kind::Kernel => self.start_kernel(),
            Kind::Ganesha => self.start_ganesha(),
        }
    }

    /// Ends it, and starts it with the same files, which clients do not know any more: what
    /// they have open is stale (ESTALE).
    pub fn forget(&self) {
        self.stop();
        self.number.fetch_add(1, Ordering::Relaxed);
        self.go_on();
    }

    /// Lets it stand still, while its machine goes on: what is sent to it arrives, and
    /// clients of version 4 wait for ever, even with `soft`.
    pub fn pause(&self) {
        assert_eq!(self.kind, Kind::Ganesha, "a kernel cannot stop itself");
        kill(pid_of("ganesha.nfsd").unwrap(), libc::SIGSTOP);
    }

    pub fn resume(&self) {
        kill(pid_of("ganesha.nfsd").unwrap(), libc::SIGCONT);
    }

    /// Takes the network away: what anybody sends is lost, and nobody is told.
    pub fn cut_off(&self) {
        let script = "tc qdisc add dev lo root netem loss 100%";
        run(&mut shell::<&str>(script, &[]));
    }

    pub fn reconnect(&self) {
        run(&mut shell::<&str>("tc qdisc del dev lo root", &[]));
    }

    fn start_kernel(&self) {
        let squash = if self.options.root_squash {
            "root_squash"
        } else {
            "no_root_squash"
        };
        let number = self.number.load(Ordering::Relaxed);
        let options = format!("rw,{squash},insecure,no_subtree_check,fsid={number}");
        // Leases of 10 seconds, the shortest that there are.
        let script = r#"
            printf '[exports]\nrootdir=%s\n' "$1" >/etc/nfs.conf
            echo 10 >/proc/fs/nfsd/nfsv4leasetime && echo 10 >/proc/fs/nfsd/nfsv4gracetime &&
                exportfs -o "$2" '*:/export' && rpc.mountd && rpc.nfsd 4
        "#;
        let root = self.path("root");
        run(&mut shell(script, &[root.to_str().unwrap(), &options]));
    }

    fn start_ganesha(&self) {
        let squash = if self.options.root_squash {
            "Root_Squash"
        } else {
            "No_Root_Squash"
        };
        let number = self.number.load(Ordering::Relaxed);
        let (export, recovery) = (self.export(), self.path("recovery"));
        let mut text = String::new();
        let _ = write!(
            text,
            "NFS_CORE_PARAM {{ Protocols = 3,4; Bind_addr = 127.0.0.1; Enable_RQUOTA = false;\n\
               Enable_NLM = false; mount_path_pseudo = true; fsid_device = true; }}\n\
             NFSv4 {{ Lease_Lifetime = 10; Graceless = true; Only_Numeric_Owners = true;\n\
               RecoveryBackend = fs; RecoveryRoot = {recovery}; }}\n\
             NFS_KRB5 {{ Active_krb5 = false; }}\n\
             LOG {{ Default_Log_Level = EVENT; }}\n\
             EXPORT {{ Export_Id = {number}; Path = {export}; Pseudo = /export; Protocols = 3,4;\n\
               Access_Type = RW; Squash = {squash}; Anonymous_uid = 65534;\n\
               Anonymous_gid = 65534; Sectype = sys; PrivilegedPort = false;\n\
               Transports = TCP; FSAL {{ Name = VFS; }} }}\n",
            recovery = recovery.display(),
            export = export.display(),
        );
        let configuration = self.path("ganesha.conf");
        fs::write(&configuration, text).unwrap();
        let script = r#"
            mkdir -p /run/ganesha
            ganesha.nfsd -f "$1" -L "$2" -p "$3"
        "#;
        let log = self.path("ganesha.log");
        run(&mut shell(
            script,
            &[&configuration, &log, &self.path("ganesha.pid")],
        ));
        wait_for("ganesha answers", || {
            TcpStream::connect(("127.0.0.1", 2049)).is_ok()
        });
    }
}

impl FileServer for Nfs {
    fn kind(&self) -> &'static str {
        "nfs"
    }

    fn new_share(&self) -> NewShare {
        let number = self.shares.fetch_add(1, Ordering::Relaxed);
        let name = format!("test{number}");
        let folder = self.export().join(&name);
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
        NewShare {
            folder,
            name: format!("{}/{name}", self.share()),
        }
    }

    fn no_share(&self) -> String {
        format!("{}/none", self.share())
    }

    /// The machine is slow.
    fn patience(&self) -> u32 {
        10
    }

    fn lines(&self, share: &str, base: &Path) -> String {
        let mut lines = format!(
            "backup_driver = cinder.backup.drivers.nfs.NFSBackupDriver\n\
             backup_share = {share}\nbackup_mount_point_base = {}\n",
            base.display()
        );
        if !self.options.mount.is_empty() {
            let _ = writeln!(lines, "backup_mount_options = {}", self.options.mount);
        }
        lines
    }

    fn stop(&self) {
        self.stop();
    }

    fn go_on(&self) {
        self.go_on();
    }

    /// Of a kernel's, which cannot stop itself, nothing arrives any more instead.
    fn pause(&self) {
        match self.kind {
            Kind::Kernel => self.cut_off(),
            Kind::Ganesha => self.pause(),
        }
    }

    fn resume(&self) {
        match self.kind {
            Kind::Kernel => self.reconnect(),
            Kind::Ganesha => self.resume(),
        }
    }
}

impl Drop for Nfs {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.path("ganesha.log")).unwrap_or_default();
            eprintln!("{log}");
        }
        // Perhaps it is cut off.
        let reconnect = "tc qdisc del dev lo root 2>/dev/null; true";
        run(&mut shell::<&str>(reconnect, &[]));
        self.stop();
    }
}

fn pid_of(program: &str) -> Option<u32> {
    let found = super::programs::output(&mut shell(r#"pidof "$1""#, &[program]));
    let said = String::from_utf8(found.stdout).ok()?;
    said.split_whitespace().next()?.parse().ok()
}
