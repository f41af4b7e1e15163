//! Clusters that are not there, do not answer, or do not let us: a clear message, an error at
//! the deadline, other backends untouched, and all is well again when the cluster is.

use crate::common::ceph::{Ceph, Part, Pool};
use crate::common::mount::{
    CINDERFS, Lab, command, errno, fail, is_root_for, kill, names, output, run, wait_for,
};
use crate::model::{MIB, Model, VOLUME, backup, check_equal, drop_caches, shown, snap, status};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Short times, and nothing remembered for long.
const IMPATIENT: &str = "list_ttl = 0\nrados_connect_timeout = 2\nrequest_timeout = 3\n";

fn full() -> String {
    format!("volume-{VOLUME}.backup.{}", backup(1))
}

/// One backup in a pool, and the file that it is equal to.
fn one_backup(pool: &Pool, lab: &Lab, size: u64) -> PathBuf {
    let mut model = Model::new(pool, &lab.path(""), &full(), size, &[]);
    model.write(0..size);
    model.snap(&snap(1, 0))
}

/// A second section with a store in a folder, which must work whatever becomes of the first.
fn with_another(lab: &Lab, options: &str) -> String {
    format!(
        "{options}[other]\nbackup_driver = posix\nbackup_posix_path = {}\n",
        lab.path("store").display()
    )
}

/// What the mount says is wrong with its first backend; `None` when nothing is.
fn complaint(mount: &crate::common::mount::Mount<'_>) -> Option<String> {
    let status = status(mount);
    let error = status["backends"][0]["error"].as_str();
    error.map(str::to_owned)
}

#[test]
fn clusters_that_do_not_let_us_in() {
    let Some(ceph) = Ceph::shared() else { return };
    let pool = ceph.pool();
    let lab = Lab::on_ceph(&pool, "");
    let file = one_backup(&pool, &lab, MIB);
    let wrong_key = "AQAcqD5kAAAAABAAz2g2kTUZ8gPVYMJnC9RjKw==";
    let wrong = ceph.conf_with_key("cinder", wrong_key);
    let missing = lab.path("missing.conf");
    let line = |conf: &Path| format!("backup_ceph_conf = {}\n", conf.display());
    let cases = [
        (
            line(&wrong),
            "does not take client.cinder with the key it has",
        ),
        (line(&missing), "it cannot be read"),
        (
            "backup_ceph_user = nobody\n".into(),
            "no keyring with a key of client.nobody",
        ),
        (
            "backup_ceph_pool = missing\n".into(),
            "there is no such pool",
        ),
    ];
    for (line, said) in cases {
        // The later of two lines holds.
        lab.configure(&with_another(&lab, &format!("{IMPATIENT}{line}")));
        let mount = lab.mount();
        let listed = errno(
            fs::read_dir(mount.path("ceph")).and_then(|mut all| all.next().transpose().map(drop)),
        );
        assert!(matches!(listed, libc::EIO | libc::EACCES), "{listed}");
        let complaint = complaint(&mount).unwrap();
        assert!(complaint.contains(said), "{complaint}");
        assert!(!complaint.contains(wrong_key));
        assert_eq!(names(&mount.path("other")), [""; 0]);
        fs::create_dir(mount.path("other/v")).unwrap();
        assert_eq!(names(mount.root()), ["ceph", "other"]);
        let (_, stderr) = fail(&mut lab.cinderfs(&[
            "ls".as_ref(),
            "--config".as_ref(),
            lab.config().as_os_str(),
            "ceph".as_ref(),
        ]));
        assert!(stderr.contains(said), "{stderr}");
    }
    // What was missing is made, and used without anything more.
    lab.configure(&format!(
        "{IMPATIENT}backup_ceph_pool = late-{}\n",
        pool.name
    ));
    let mount = lab.mount();
    assert!(complaint(&mount).is_some());
    let late = format!("late-{}", pool.name);
    ceph.admin(&["pool", &late]);
    wait_for("the pool", || complaint(&mount).is_none());
    drop(mount);
    // One that was removed is no empty one.
    let mount = lab.mount();
    assert_eq!(names(&mount.path("ceph")), [""; 0]);
    ceph.admin(&["remove-pool", &late]);
    let said = complaint(&mount).unwrap();
    assert!(
        said.contains("it was removed") || said.contains("no such pool"),
        "{said}"
    );
    drop(mount);
    lab.configure("");
    check_equal(&shown(&lab.mount(), &backup(1)), &file);
}

#[test]
fn users_who_may_only_read() {
    let Some(ceph) = Ceph::shared() else { return };
    let pool = ceph.pool();
    let lab = Lab::on_ceph(&pool, "");
    let file = one_backup(&pool, &lab, 9 * MIB);
    let head = format!("volume-{VOLUME}.backup.{}", backup(2));
    let mut head = Model::new(&pool, &lab.path(""), &head, MIB, &[]);
    head.write(0..MIB);
    let conf = ceph.user("looker", "profile rbd-read-only", "profile rbd-read-only");
    lab.configure(&format!(
        "backup_ceph_user = looker\nbackup_ceph_conf = {}\n",
        conf.display()
    ));
    let mount = lab.mount();
    check_equal(&shown(&mount, &backup(1)), &file);
    check_equal(&shown(&mount, &backup(2)), &head.file);
}

#[test]
fn a_monitor_that_is_down_at_the_start() {
    let Some(ceph) = Ceph::start() else { return };
    let pool = ceph.pool();
    let lab = Lab::on_ceph(&pool, "");
    let file = one_backup(&pool, &lab, 5 * MIB);
    lab.configure(&with_another(&lab, IMPATIENT));
    ceph.stop(Part::Monitor);
    let mount = lab.mount();
    assert_eq!(
        errno(
            fs::read_dir(mount.path("ceph"))
                .and_then(|mut all| { all.next().transpose().map(drop) })
        ),
        libc::EIO
    );
    let said = complaint(&mount).unwrap();
    assert!(said.contains("no monitor answered within 2 s"), "{said}");
    assert_eq!(names(&mount.path("other")), [""; 0]);
    ceph.go_on(Part::Monitor);
    wait_for("the cluster", || complaint(&mount).is_none());
    check_equal(&shown(&mount, &backup(1)), &file);
}

/// Ended, and not answering: both are found out at the deadline.
#[test]
fn an_object_store_that_is_gone() {
    let Some(ceph) = Ceph::start() else { return };
    let pool = ceph.pool();
    let lab = Lab::on_ceph(&pool, IMPATIENT);
    // What is far behind what was read has not been read ahead, however long the store takes
    // to be gone.
    let file = one_backup(&pool, &lab, 256 * MIB);
    for hangs in [false, true] {
        let mount = lab.mount();
        let path = shown(&mount, &backup(1));
        let open = File::open(&path).unwrap();
        let volume = path.parent().unwrap().to_owned();
        let before = names(&volume);
        open.read_exact_at(&mut [0; 4096], 0).unwrap();
        let pid = ceph.pid(Part::ObjectStore);
        if hangs {
            kill(pid, libc::SIGSTOP);
        } else {
            ceph.stop(Part::ObjectStore);
        }
        assert_eq!(
            errno(open.read_exact_at(&mut [0; 4096], 250 * MIB)),
            libc::EIO
        );
        let said = complaint(&mount).unwrap();
        assert!(said.contains("did not answer"), "{said}");
        // What was known is shown.
        assert_eq!(names(&volume), before);
        if hangs {
            kill(pid, libc::SIGCONT);
            // Ceph 16 sometimes lets a daemon that has the only copy, and was held for longer
            // than its lease, wait for ever: no client gets an answer (its operations are
            // "delayed") until the cluster looks at it anew.
            ceph.admin(&["down"]);
        } else {
            ceph.go_on(Part::ObjectStore);
        }
        wait_for("the cluster", || complaint(&mount).is_none());
        wait_for("the data", || {
            output(&mut command("cmp", &[&path, &file]))
                .status
                .success()
        });
        check_equal(&path, &file);
        let code = mount.unmount();
        assert_eq!(code, 0);
    }
}

/// With the patience of the defaults nobody notices.
#[test]
fn an_object_store_that_dies_in_mid_restore() {
    let Some(ceph) = Ceph::start() else { return };
    let pool = ceph.pool();
    let lab = Lab::on_ceph(&pool, "");
    let file = one_backup(&pool, &lab, 256 * MIB);
    let mount = lab.mount();
    let path = shown(&mount, &backup(1));
    for _ in 0..2 {
        drop_caches();
        let copy = lab.path("copy");
        let mut cp = std::process::Command::new("cp")
            .arg(&path)
            .arg(&copy)
            .spawn()
            .unwrap();
        wait_for("it has begun", || {
            fs::metadata(&copy).is_ok_and(|copy| copy.len() > 0)
        });
        ceph.stop(Part::ObjectStore);
        ceph.go_on(Part::ObjectStore);
        assert!(cp.wait().unwrap().success());
        run(&mut command("cmp", &[&copy, &file]));
        fs::remove_file(copy).unwrap();
    }
    let restored = lab.path("restored");
    let name = path.file_name().unwrap().to_str().unwrap();
    run(&mut lab.cinderfs(&[
        "restore".as_ref(),
        "--config".as_ref(),
        lab.config().as_os_str(),
        format!("ceph/{VOLUME}/{name}").as_ref(),
        restored.as_os_str(),
    ]));
    run(&mut command("cmp", &[&restored, &file]));
}

/// The program needs the libraries for backends of this driver alone, and says where they
/// come from.
#[test]
fn machines_without_the_libraries() {
    if !is_root_for("hiding a library") {
        return;
    }
    let needed = run(&mut command("ldd", &[CINDERFS]));
    assert!(
        !needed.contains("rados") && !needed.contains("rbd"),
        "{needed}"
    );
    let lab = Lab::with("");
    let ceph = "[ceph]\nbackup_driver = ceph\nbackup_ceph_conf = /nonexistent\n";
    lab.configure(ceph);
    for library in ["librados.so.2", "librbd.so.1"] {
        // Nobody else sees what is hidden; where there is none, nothing need be.
        let script = r#"ldconfig -p | sed -n "s/.*$1.* => //p" | sort -u | while read -r file; do
                mount --bind /dev/null "$file" || exit 9
            done
            HOME=$4 "$2" ls --config "$3" "$5""#;
        let ls = |backend: &str| {
            let (config, home) = (lab.config(), lab.path("home"));
            let mut unshare = command("unshare", &["--mount", "bash", "-c", script, "bash"]);
            unshare.args([library, CINDERFS]).args([config, home]);
            unshare.arg(backend);
            unshare
        };
        let (_, said) = fail(&mut ls("ceph"));
        let package = library.replace(".so.", "");
        assert!(said.contains("install the package that has it"), "{said}");
        assert!(said.contains(&package), "{said}");
        run(&mut ls("posix"));
    }
}
