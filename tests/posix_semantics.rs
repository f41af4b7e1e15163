//! What each operation of a file system means on a mount, and which error refuses what
//! a backup cannot do.

mod common;

use common::golden::Tree;
use common::library::Dice;
use common::mount::{
    Holder, Lab, MIB, Mount, USER, command, errno, fail, is_mounted, is_root_for, kill, names,
    open_to_all, run, seek, set_xattr, shell, shell_as_user, wait_for, write, xattr,
};
use common::store_check::{SMALL_ZLIB, count, read_store};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How many files there are below a folder.
fn files_in(folder: &Path) -> usize {
    let found = run(&mut shell(r#"find "$1" -type f | wc -l"#, &[folder]));
    found.trim().parse().unwrap()
}

/// Reads a file as another program would, which seals it.
fn cat(path: &Path) -> Vec<u8> {
    let output = common::mount::output(&mut command("cat", &[path]));
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

fn text(path: &Path) -> String {
    String::from_utf8(cat(path)).unwrap()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn rename_within_a_volume() {
    let lab = Lab::new();
    let mount = lab.mount();
    let volume = mount.volume("v");
    let (a, b, c) = (volume.join("a"), volume.join("b"), volume.join("c"));
    write(&a, b"of a");
    write(&b, b"of b");
    fs::rename(&a, &c).unwrap();
    assert_eq!(names(&volume), ["b", "c"]);
    assert_eq!(text(&c), "of a");
    // The same again, now that it is a record.
    fs::rename(&c, &a).unwrap();
    assert_eq!(names(&volume), ["a", "b"]);
    fs::rename(&a, &a).unwrap();
    assert_eq!(errno(fs::rename(&a, &b)), libc::EEXIST);
    assert_eq!(errno(fs::rename(volume.join("x"), &c)), libc::ENOENT);
    assert_eq!(errno(fs::rename(&a, volume.join(".full"))), libc::EINVAL);
    assert_eq!(
        errno(fs::rename(&a, volume.join("n".repeat(256)))),
        libc::ENAMETOOLONG
    );
    let other = mount.volume("w");
    assert_eq!(errno(fs::rename(&a, other.join("a"))), libc::EXDEV);
    assert_eq!(
        errno(fs::rename(&volume, mount.path("posix/x"))),
        libc::EXDEV
    );
    assert_eq!(errno(fs::rename(&a, mount.path("posix/a"))), libc::EXDEV);
    assert_eq!((text(&a), text(&b)), ("of a".into(), "of b".into()));
    let stored = read_store(&lab.store());
    let mut found: Vec<_> = stored
        .iter()
        .map(|backup| backup.name.clone().unwrap())
        .collect();
    found.sort_unstable();
    assert_eq!(found, ["a", "b"]);
    mount.unmount();
    let mount = lab.mount();
    assert_eq!(names(&mount.volume("v")), ["a", "b"]);
    assert_eq!(text(&mount.volume("v").join("a")), "of a");
}

#[test]
fn rename_while_it_is_written() {
    let lab = Lab::new();
    let mount = lab.mount();
    let volume = mount.volume("v");
    let mut file = File::create(volume.join("part")).unwrap();
    file.write_all(b"one, ").unwrap();
    fs::rename(volume.join("part"), volume.join("whole")).unwrap();
    file.write_all(b"two").unwrap();
    drop(file);
    assert_eq!(names(&volume), ["whole"]);
    assert_eq!(text(&volume.join("whole")), "one, two");
    assert_eq!(errno(File::open(volume.join("part"))), libc::ENOENT);
}

#[test]
fn times_can_be_set() {
    let lab = Lab::new();
    let mount = lab.mount();
    let volume = mount.volume("v");
    write(&volume.join("a"), b"a");
    let sets = [
        ("1960-01-02 03:04:05.5 UTC", -315_521_755),
        ("1970-01-01 00:00:00 UTC", 0),
        ("2038-01-20 00:00:00.000000001 UTC", 2_147_558_400),
        ("2400-02-29 12:00:00 UTC", 13_574_606_400),
    ];
    for (text, seconds) in sets {
        for seal in [false, true] {
            run(&mut shell(
                r#"touch -d "$2" "$1""#,
                &[volume.join("a").as_os_str(), text.as_ref()],
            ));
            assert_eq!(
                volume.join("a").metadata().unwrap().mtime(),
                seconds,
                "{text}"
            );
            if seal {
                cat(&volume.join("a"));
            }
        }
    }
    let before = SystemTime::now() - Duration::from_secs(1);
    run(&mut shell(r#"touch "$1""#, &[volume.join("a")]));
    assert!(volume.join("a").metadata().unwrap().modified().unwrap() >= before);
    run(&mut shell(
        r#"touch -d @77 "$1"; touch -a "$1""#,
        &[volume.join("a")],
    ));
    assert_eq!(volume.join("a").metadata().unwrap().mtime(), 77);
    // A write is later than any time that was set before it.
    let before = SystemTime::now() - Duration::from_secs(2);
    let script = r#"exec 3>"$1"; echo 1 >&3; touch -d @5 "$1"; echo 2 >&3"#;
    run(&mut shell(script, &[volume.join("b")]));
    assert!(volume.join("b").metadata().unwrap().modified().unwrap() >= before);
    // Folders have no time of their own, but cp -a and rsync set one.
    run(&mut shell(r#"touch -d @88 "$1""#, &[&volume]));
    mount.unmount();
    let mount = lab.mount();
    assert_eq!(mount.volume("v").join("a").metadata().unwrap().mtime(), 77);
}

/// The protocol's library may panic at the earliest time there is. Who asked must get an
/// error then and not wait for ever, and the log must say why.
#[test]
fn a_fault_in_the_protocol_ends_the_mount_and_hangs_nobody() {
    let lab = Lab::new();
    let mut mount = lab.mount();
    let path = mount.volume("v").join("a");
    write(&path, b"a");
    let times = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_OMIT,
        },
        last_modification: rustix::fs::Timespec {
            tv_sec: i64::MIN,
            tv_nsec: 5,
        },
    };
    let flags = rustix::fs::AtFlags::empty();
    let set = rustix::fs::utimensat(rustix::fs::CWD, &path, &times, flags);
    // With overflow checks it panics; without them the time is as good as any.
    if set.is_err() {
        wait_for("the daemon is gone", || mount.is_over());
        assert!(
            lab.log().contains("a fault of the program"),
            "{}",
            lab.log()
        );
    }
    drop(mount);
    assert_eq!(text(&lab.mount().volume("v").join("a")), "a");
}

#[test]
fn modes_and_owners_are_accepted_and_not_kept() {
    let lab = Lab::new();
    let mount = lab.mount();
    let path = mount.volume("v").join("a");
    write(&path, b"a");
    let me = (
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    for _ in 0..2 {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::chown(&path, Some(me.0), Some(me.1)).unwrap();
        cat(&path);
    }
    let stat = path.metadata().unwrap();
    assert_eq!(stat.mode() & 0o7777, 0o440);
    assert_eq!(stat.nlink(), 1);
    assert_eq!((stat.uid(), stat.gid()), me);
}

#[test]
fn unlink_rmdir_and_rm() {
    let lab = Lab::new();
    let mount = lab.mount();
    let volume = mount.volume("v");
    write(&volume.join("a"), b"a");
    write(&volume.join("b"), b"b");
    cat(&volume.join("b"));
    assert_eq!(errno(fs::remove_dir(&volume)), libc::ENOTEMPTY);
    assert_eq!(errno(fs::remove_dir(volume.join("a"))), libc::ENOTDIR);
    assert_eq!(errno(fs::remove_file(&volume)), libc::EISDIR);
    fs::remove_file(volume.join("a")).unwrap();
    assert_eq!(errno(fs::remove_file(volume.join("a"))), libc::ENOENT);
    assert_eq!(names(&volume), ["b"]);
    fs::remove_file(volume.join("b")).unwrap();
    assert_eq!(names(&volume), [""; 0]);
    assert!(read_store(&lab.store()).is_empty());
    fs::remove_dir(&volume).unwrap();
    assert_eq!(errno(volume.metadata()), libc::ENOENT);
    assert_eq!(names(&mount.path("posix")), [""; 0]);

    fs::create_dir(&volume).unwrap();
    assert_eq!(errno(fs::create_dir(&volume)), libc::EEXIST);
    for name in ["a", "b", "c"] {
        write(&volume.join(name), name.as_bytes());
    }
    run(&mut shell(r#"rm -r "$1""#, &[&volume]));
    assert_eq!(names(&mount.path("posix")), [""; 0]);
    assert_eq!(count(&lab.store()), 0);
    // A volume without a backup does not outlive the mount.
    fs::create_dir(&volume).unwrap();
    mount.unmount();
    assert_eq!(names(&lab.mount().path("posix")), [""; 0]);
}

#[test]
fn a_file_that_is_deleted_while_it_is_open_lives_on_until_it_is_closed() {
    let lab = Lab::new();
    let mount = lab.mount();
    let path = mount.volume("v").join("a");
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    file.write_all_at(&Dice(1).noise(3 * MIB), 0).unwrap();
    file.sync_all().unwrap();
    assert_eq!(count(&lab.store()), 1);
    fs::remove_file(&path).unwrap();
    assert_eq!(names(&mount.volume("v")), [""; 0]);
    assert_eq!(count(&lab.store()), 0);
    // Its chunks are stored already: this reads one back and changes it.
    file.write_all_at(b"for nobody", 1000).unwrap();
    let mut read = [0; 10];
    file.read_exact_at(&mut read, 1000).unwrap();
    assert_eq!(&read, b"for nobody");
    file.set_len(2 * MIB as u64 + 5).unwrap();
    file.sync_all().unwrap();
    // Folder and name are free, though the file is there still.
    fs::remove_dir(mount.path("posix/v")).unwrap();
    assert_eq!(errno(fs::remove_dir(mount.path("posix/v"))), libc::ENOENT);
    fs::create_dir(mount.path("posix/v")).unwrap();
    write(&path, b"another");
    drop(file);
    // What is left is the other's object, list of hashes and metadata.
    wait_for("its objects go", || files_in(&lab.store()) == 3);
    assert_eq!(text(&path), "another");
    assert_eq!(read_store(&lab.store()).len(), 1);
}

#[test]
fn a_file_that_is_deleted_leaves_nothing_when_the_mount_ends_before_it_is_closed() {
    let lab = Lab::new();
    let mount = lab.mount();
    let path = mount.volume("v").join("a");
    let holder = Holder::new(&path, 3 << 20);
    run(&mut command("sync", &[&path]));
    fs::remove_file(&path).unwrap();
    assert_eq!(mount.unmount(), 0);
    drop(holder);
    assert_eq!(files_in(&lab.store()), 0);
}

#[test]
fn a_backup_that_others_build_on_cannot_be_deleted() {
    let lab = Lab::over(&Tree::Posix.path());
    let mount = lab.mount();
    let chain: Vec<_> = Tree::Posix
        .backups()
        .into_iter()
        .filter(|b| b.parent.is_some())
        .collect();
    let child = chain.first().unwrap();
    let find = |id: &str| {
        let link = mount.path(".cinderfs/by-id").join(id);
        mount
            .path(".cinderfs/by-id")
            .join(fs::read_link(link).unwrap())
    };
    let parent = find(child.parent.as_ref().unwrap());
    let before = names(parent.parent().unwrap());
    assert_eq!(errno(fs::remove_file(&parent)), libc::EBUSY);
    assert_eq!(names(parent.parent().unwrap()), before);
    assert!(lab.log().contains(&child.id), "{}", lab.log());
    // Newest first, the whole chain goes.
    let volume = parent.parent().unwrap().to_owned();
    for name in before.iter().rev() {
        fs::remove_file(volume.join(name)).unwrap();
    }
    assert_eq!(names(&volume), [""; 0]);
}

/// What a record refuses writers with. The mode keeps all but the superuser out already.
const REFUSED: [i32; 2] = [libc::EPERM, libc::EACCES];

#[test]
fn a_finished_backup_is_sealed() {
    let lab = Lab::new();
    let mut mount = lab.mount();
    let path = mount.volume("v").join("a");
    write(&path, b"sealed");
    for round in 0..3 {
        let refuses = |options: &OpenOptions| {
            let number = errno(options.open(&path));
            assert!(
                REFUSED.contains(&number),
                "{options:?} in round {round}: {number}"
            );
        };
        refuses(OpenOptions::new().write(true));
        refuses(OpenOptions::new().append(true));
        refuses(OpenOptions::new().read(true).write(true));
        refuses(OpenOptions::new().write(true).truncate(true));
        assert_eq!(
            errno(OpenOptions::new().write(true).create_new(true).open(&path)),
            libc::EEXIST
        );
        let (_, said) = fail(&mut shell(r#"truncate -s 1 "$1""#, &[&path]));
        assert!(
            said.contains("not permitted") || said.contains("denied"),
            "{said}"
        );
        let (_, said) = fail(&mut shell(r#"echo x >> "$1""#, &[&path]));
        assert!(
            said.contains("not permitted") || said.contains("denied"),
            "{said}"
        );
        match round {
            // Sealed by a reader.
            0 => assert_eq!(text(&path), "sealed"),
            1 => {
                mount.unmount();
                mount = lab.mount();
            }
            _ => {}
        }
    }
    assert_eq!(text(&path), "sealed");
}

#[test]
fn one_program_may_go_on_with_what_it_just_closed() {
    let lab = Lab::new();
    let mount = lab.mount();
    let path = mount.volume("v").join("a");
    fs::write(&path, b"first").unwrap();
    assert_eq!(count(&lab.store()), 1);
    let mut again = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    again.seek(SeekFrom::End(0)).unwrap();
    again.write_all(b", second").unwrap();
    drop(again);
    let mut again = OpenOptions::new().append(true).open(&path).unwrap();
    again.write_all(b", third").unwrap();
    drop(again);
    assert_eq!(fs::read(&path).unwrap(), b"first, second, third");
    fs::write(&path, b"anew").unwrap();
    assert_eq!(text(&path), "anew");
    let source = lab.source("expected", b"anew");
    let stored = read_store(&lab.store());
    assert_eq!(stored.len(), 1);
    stored[0].check(SMALL_ZLIB, &source);
    let refused = errno(OpenOptions::new().write(true).open(&path));
    assert!(REFUSED.contains(&refused), "{refused}");
}

#[test]
fn what_is_written_can_be_read_at_once() {
    let lab = Lab::new();
    let mount = lab.mount();
    let path = mount.volume("v").join("a");
    let data = Dice(3).image(2 * MIB + 100);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    file.write_all(&data).unwrap();
    assert_eq!(file.metadata().unwrap().len(), data.len() as u64);
    assert_eq!(path.metadata().unwrap().len(), data.len() as u64);
    let mut read = vec![0; data.len()];
    file.read_exact_at(&mut read, 0).unwrap();
    assert!(read == data);
    file.seek(SeekFrom::Start(5)).unwrap();
    file.write_all(b"changed").unwrap();
    drop(file);
    assert_eq!(cat(&path)[5..12], *b"changed");
}

#[test]
fn who_reads_what_is_being_written_finishes_nothing() {
    let lab = Lab::new();
    let mount = lab.mount();
    let path = mount.volume("v").join("a");
    let length = MIB + 100;
    let holder = Holder::new(&path, length as u64);
    assert!(cat(&path) == vec![b' '; length]);
    assert_eq!(names(&mount.volume("v")), [""; 0]);
    assert_eq!(count(&lab.store()), 0);
    run(&mut command("sync", &[&path]));
    assert_eq!(count(&lab.store()), 1);
    holder.close();
    assert_eq!(names(&mount.volume("v")), ["a"]);
    assert!(cat(&path) == vec![b' '; length]);
}

#[test]
fn nothing_but_volumes_and_backups_can_be_made() {
    let lab = Lab::new();
    let mount = lab.mount();
    let volume = mount.volume("v");
    let denied = [libc::EACCES, libc::EPERM];
    for folder in [mount.path(""), mount.path("posix"), mount.path(".cinderfs")] {
        assert!(
            denied.contains(&errno(File::create(folder.join("x")))),
            "{folder:?}"
        );
    }
    for folder in [mount.path("x"), volume.join("x"), mount.path(".cinderfs/x")] {
        assert!(
            denied.contains(&errno(fs::create_dir(&folder))),
            "{folder:?}"
        );
    }
    write(&volume.join("a"), b"a");
    assert!(denied.contains(&errno(fs::hard_link(volume.join("a"), volume.join("b")))));
    assert!(denied.contains(&errno(symlink("a", volume.join("b")))));
    fail(&mut command("mkfifo", &[volume.join("b")]));
    assert!(denied.contains(&errno(fs::remove_dir(mount.path("posix")))));
    assert!(denied.contains(&errno(fs::remove_file(mount.path(".cinderfs/status.json")))));
    assert!(denied.contains(&errno(fs::rename(
        mount.path(".cinderfs/metrics"),
        mount.path(".cinderfs/x")
    ))));
    assert_eq!(names(&volume), ["a"]);
    assert_eq!(names(mount.root()), ["posix"]);
}

#[test]
fn dot_names_are_unknown_and_dot_folders_unlisted() {
    let lab = Lab::new();
    let mount = lab.mount();
    let volume = mount.volume("v");
    write(&volume.join("a"), b"a");
    for folder in [mount.root().to_owned(), mount.path("posix"), volume.clone()] {
        for name in [".hidden", ".Trash", ".Trash-0", "autorun.inf", ".git"] {
            assert_eq!(
                errno(folder.join(name).symlink_metadata()),
                libc::ENOENT,
                "{name}"
            );
        }
    }
    assert_eq!(names(mount.root()), ["posix"]);
    assert_eq!(names(&mount.path("posix")), ["v"]);
    assert_eq!(names(&volume), ["a"]);
    assert!(mount.path(".cinderfs").metadata().unwrap().is_dir());
    assert_eq!(errno(fs::create_dir(mount.path("posix/.x"))), libc::EINVAL);
    // A backup may have a name with a dot: rsync writes to one.
    write(&volume.join(".a.img.Xy12"), b"dot");
    assert_eq!(text(&volume.join(".a.img.Xy12")), "dot");
}

#[test]
fn the_control_folder() {
    let lab = Lab::new();
    let mount = lab.mount();
    let path = mount.volume("v/1".replace('/', "%2F").as_str()).join("x");
    assert!(!path.exists());
    let volume = mount.volume("volume one");
    write(&volume.join("a.img"), b"some data");
    let id = String::from_utf8(xattr(&volume.join("a.img"), "user.cinder.backup_id").unwrap());
    let id = id.unwrap();
    let control = mount.path(".cinderfs");
    assert_eq!(
        names(&control),
        ["by-id", "metrics", "posix", "status.json"]
    );
    let status = json(&control.join("status.json"));
    assert_eq!(status["backends"][0]["name"], "posix");
    assert_eq!(status["backends"][0]["state"], "available");
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    let metrics = fs::read_to_string(control.join("metrics")).unwrap();
    assert!(
        metrics.contains("cinderfs_memory_budget_bytes 268435456\n"),
        "{metrics}"
    );
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.split_once(' ').unwrap();
        assert!(
            name.starts_with("cinderfs_") && value.parse::<f64>().is_ok(),
            "{line}"
        );
    }
    assert_eq!(names(&control.join("by-id")), [id.as_str()]);
    let link = fs::read_link(control.join("by-id").join(&id)).unwrap();
    assert_eq!(link, Path::new("../../posix/volume one/a.img"));
    assert_eq!(
        fs::read(control.join("by-id").join(&id)).unwrap(),
        b"some data"
    );
    let length = control
        .join("by-id")
        .join(&id)
        .symlink_metadata()
        .unwrap()
        .len();
    assert_eq!(length, link.as_os_str().len() as u64);
    assert_eq!(
        errno(fs::read_link(control.join("by-id/none"))),
        libc::ENOENT
    );
    assert_eq!(names(&control.join("posix/volume one")), ["a.img.json"]);
    let sidecar = json(&control.join("posix/volume one/a.img.json"));
    assert_eq!(sidecar["backup_id"], id.as_str());
    assert_eq!(sidecar["size"], 9);
    assert_eq!(sidecar["name"], "a.img");
    assert_eq!(sidecar["error"], Value::Null);
    // A file that is being written shows in the status.
    let mut open = File::create(volume.join("b.img")).unwrap();
    open.write_all(b"half").unwrap();
    let status = json(&control.join("status.json"));
    assert_eq!(status["writing"][0]["name"], "b.img");
    assert_eq!(status["writing"][0]["size"], 4);
    drop(open);
}

#[test]
fn statfs_tells_the_room_in_the_store() {
    let lab = Lab::new();
    let mount = lab.mount();
    let volume = mount.volume("v");
    let store = rustix::fs::statvfs(lab.store()).unwrap();
    let blocks = store.f_blocks * store.f_frsize;
    for path in [mount.root(), &volume] {
        let shown = rustix::fs::statvfs(path).unwrap();
        assert_eq!(shown.f_namemax, 255);
        let total = shown.f_blocks * shown.f_frsize;
        assert!(
            total <= blocks && total + 4096 > blocks,
            "{total} of {blocks}"
        );
        assert!(shown.f_bavail <= shown.f_blocks && shown.f_bavail > 0);
    }
    run(&mut command("df", &[mount.root()]));
}

#[test]
fn extended_attributes() {
    let lab = Lab::new();
    let mount = lab.mount();
    let path = mount.volume("v").join("a.img");
    write(&path, &vec![7; 2 * MIB]);
    for round in 0..2 {
        let get = |key: &str| {
            let value = xattr(&path, &format!("user.cinder.{key}"));
            value.map(|value| String::from_utf8(value).unwrap())
        };
        assert_eq!(get("volume_id").unwrap(), "v");
        assert_eq!(get("name").unwrap(), "a.img");
        assert_eq!(get("object_count").unwrap(), "2");
        assert_eq!(get("compression").unwrap(), "zlib");
        assert_eq!(get("depth").unwrap(), "0");
        assert_eq!(
            get("service").unwrap(),
            "cinder.backup.drivers.posix.PosixBackupDriver"
        );
        let id = get("backup_id").unwrap();
        assert_eq!(
            get("container").unwrap(),
            format!("{}/{}/{id}", &id[..2], &id[2..4])
        );
        assert!(get("stored_bytes").unwrap().parse::<u64>().unwrap() < MIB as u64);
        assert_eq!(get("parent_id"), Err(libc::ENODATA));
        assert_eq!(get("description"), Err(libc::ENODATA));
        assert_eq!(get("nothing"), Err(libc::ENODATA));
        assert_eq!(xattr(&path, "user.other"), Err(libc::ENODATA));

        if round == 1 && !rustix::process::geteuid().is_root() {
            // The kernel wants the mode to allow writing, and that of a record does not.
            assert_eq!(
                set_xattr(&path, "user.cinder.description", b"x"),
                libc::EACCES
            );
            return;
        }
        assert_eq!(
            set_xattr(&path, "user.cinder.description", "täglich ☃".as_bytes()),
            0
        );
        assert_eq!(get("description").unwrap(), "täglich ☃");
        assert_eq!(
            read_store(&lab.store())[0].description.as_deref(),
            Some("täglich ☃")
        );
        let list = run(&mut shell(r#"getfattr -m - "$1" 2>/dev/null"#, &[&path]));
        let listed: Vec<&str> = list
            .lines()
            .filter(|line| line.starts_with("user."))
            .collect();
        assert_eq!(listed.len(), 11, "{list}");
        assert_eq!(
            set_xattr(&path, "user.cinder.description", b"\xff"),
            libc::EINVAL
        );
        assert_eq!(
            set_xattr(&path, "user.cinder.backup_id", b"x"),
            libc::EOPNOTSUPP
        );
        run(&mut shell(
            r#"setfattr -x user.cinder.description "$1""#,
            &[&path],
        ));
        assert_eq!(get("description"), Err(libc::ENODATA));
        fail(&mut shell(r#"setfattr -x user.none "$1""#, &[&path]));
        if round == 0 {
            // Of a new file others are taken, and not kept, for cp -p sets some.
            assert_eq!(set_xattr(&path, "user.other", b"x"), 0);
            assert_eq!(xattr(&path, "user.other"), Err(libc::ENODATA));
            cat(&path);
        } else {
            assert_eq!(set_xattr(&path, "user.other", b"x"), libc::EOPNOTSUPP);
        }
    }
}

#[test]
fn file_names_of_all_kinds() {
    let long = "n".repeat(255);
    let long_utf8 = "ü".repeat(127);
    let wanted = [
        "a b",
        " lead",
        "trail ",
        "new\nline",
        "tab\t",
        "quote'\"`",
        "$HOME",
        "*?[x]",
        "-rf",
        "\\",
        "%41%",
        "täglich",
        "日本語",
        "старый",
        "عربى",
        "हिन्दी",
        "🐧👩‍👩‍👧",
        "e\u{301}",
        "\u{1}\u{7f}",
        "a:b",
        "...",
        ".x",
        &long,
        &long_utf8,
    ];
    let lab = Lab::new();
    let mount = lab.mount();
    for volume in [
        "v",
        "volume with space",
        "100%25",
        "日本",
        "-v",
        "volume_",
        "x_backup_y",
    ] {
        let volume = mount.volume(volume);
        for name in wanted {
            write(&volume.join(name), name.as_bytes());
        }
    }
    let volumes = names(&mount.path("posix"));
    mount.unmount();
    let mount = lab.mount();
    assert_eq!(names(&mount.path("posix")), volumes);
    let mut sorted = wanted.map(str::to_owned);
    sorted.sort_unstable();
    for volume in volumes {
        let volume = mount.path("posix").join(volume);
        assert_eq!(names(&volume), sorted);
        for name in wanted {
            assert_eq!(fs::read(volume.join(name)).unwrap(), name.as_bytes());
        }
    }
    let stored = read_store(&lab.store());
    assert_eq!(stored.len(), 7 * wanted.len());
}

#[test]
fn names_that_cannot_be() {
    let lab = Lab::new();
    let mount = lab.mount();
    let volume = mount.volume("v");
    let bad = |bytes: &[u8]| volume.join(OsStr::from_bytes(bytes));
    assert_eq!(errno(File::create(bad(b"a\xff"))), libc::EINVAL);
    assert_eq!(errno(File::create(bad(&[b'n'; 256]))), libc::ENAMETOOLONG);
    assert_eq!(errno(File::create(bad(".full".as_bytes()))), libc::EINVAL);
    for volume in ["new\nline", "100%", "%41", "%2"] {
        let made = fs::create_dir(mount.path("posix").join(volume));
        assert_eq!(errno(made), libc::EINVAL, "{volume:?}");
    }
    // The object's name would be too long, or lead elsewhere.
    let long = mount.volume(&"v".repeat(200));
    assert_eq!(errno(File::create(long.join("a"))), libc::ENAMETOOLONG);
    let slash = mount.volume("a%2Fb");
    assert_eq!(errno(File::create(slash.join("a"))), libc::EINVAL);
    assert!(lab.log().contains("too long"), "{}", lab.log());
    assert_eq!(names(&volume), [""; 0]);
    assert_eq!(count(&lab.store()), 0);
}

/// Where data is, in blocks of 32 KiB.
const LAYOUT: [(u64, u64, bool); 5] = [
    (0, 3, true),
    (3, 64, false),
    (64, 65, true),
    (65, 100, false),
    (100, 101, true),
];
const BLOCK: u64 = 32_768;

fn holey_image() -> Vec<u8> {
    let mut image = Vec::new();
    let mut dice = Dice(5);
    for (start, end, data) in LAYOUT {
        let length = ((end - start) * BLOCK) as usize;
        if data {
            image.extend(dice.noise(length));
        } else {
            image.resize(image.len() + length, 0);
        }
    }
    image.truncate(image.len() - 1000);
    image
}

#[test]
fn holes_are_found_and_shown() {
    let lab = Lab::new();
    let image = holey_image();
    let size = image.len() as u64;
    let mut mount = lab.mount();
    let path = mount.volume("v").join("a");
    write(&path, &image);
    for _ in 0..2 {
        assert!(cat(&path) == image);
        let file = File::open(&path).unwrap();
        for (start, end, data) in LAYOUT {
            let next = (end * BLOCK).min(size);
            for at in [start * BLOCK, start * BLOCK + 1, end * BLOCK - 1001] {
                let (same, other) = (Ok(at), Ok(next));
                let found = (seek(&file, at, false), seek(&file, at, true));
                let expected = if data { (same, other) } else { (other, same) };
                assert_eq!(found, expected, "at {at}");
            }
        }
        for at in [size, size + 1, 1 << 40] {
            assert_eq!(seek(&file, at, false), Err(libc::ENXIO));
            assert_eq!(seek(&file, at, true), Err(libc::ENXIO));
        }
        let stat = file.metadata().unwrap();
        assert_eq!(stat.blocks(), (5 * BLOCK - 1000).div_ceil(512));
        // cp looks for holes where there are fewer blocks than bytes.
        let copy = lab.path("copy");
        let _ = fs::remove_file(&copy);
        run(&mut command("cp", &[&path, &copy]));
        assert!(fs::read(&copy).unwrap() == image);
        assert!(copy.metadata().unwrap().blocks() * 512 <= 6 * BLOCK);
        mount.unmount();
        mount = lab.mount();
    }
}

/// Backups of Cinder's do not tell where their holes are until they are read.
#[test]
fn holes_of_backups_that_cinder_made() {
    let lab = Lab::over(&Tree::Posix.path());
    let mount = lab.mount();
    for volume in names(&mount.path("posix")) {
        let volume = mount.path("posix").join(volume);
        for name in names(&volume) {
            let file = File::open(volume.join(&name)).unwrap();
            let size = file.metadata().unwrap().len();
            let image = fs::read(volume.join(&name)).unwrap();
            let mut at = 0;
            while at < size {
                let Ok(data) = seek(&file, at, false) else {
                    assert!(image[at as usize..].iter().all(|byte| *byte == 0));
                    break;
                };
                assert!(
                    image[at as usize..data as usize]
                        .iter()
                        .all(|byte| *byte == 0)
                );
                at = seek(&file, data, true).unwrap();
                assert!(at > data && at <= size);
            }
            assert!(file.metadata().unwrap().blocks() <= size.div_ceil(512));
        }
    }
}

/// Everything below a folder: path, inode, kind.
fn inodes(folder: &Path, found: &mut BTreeMap<PathBuf, u64>) {
    for name in names(folder) {
        let path = folder.join(name);
        let stat = path.symlink_metadata().unwrap();
        if stat.is_dir() {
            inodes(&path, found);
        } else {
            assert_eq!(
                (stat.nlink(), stat.mode() & 0o7777),
                (1, 0o440),
                "{}",
                path.display()
            );
        }
        found.insert(path, stat.ino());
    }
}

#[test]
fn names_and_inodes_stay_across_mounts() {
    let lab = Lab::over(&Tree::Posix.path());
    let mount = lab.mount();
    write(&mount.volume("v").join("a"), b"a");
    cat(&mount.volume("v").join("a"));
    let mut first = BTreeMap::new();
    inodes(mount.root(), &mut first);
    mount.unmount();
    let mount = lab.mount();
    let mut second = BTreeMap::new();
    inodes(mount.root(), &mut second);
    assert_eq!(first, second);
    let mut numbers: Vec<u64> = first.values().copied().collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), first.len());
    // A listing says the same as a stat.
    for entry in fs::read_dir(mount.path("posix")).unwrap() {
        let entry = entry.unwrap();
        use std::os::unix::fs::DirEntryExt;
        assert_eq!(entry.ino(), second[&entry.path()]);
    }
}

#[test]
fn what_was_closed_survives_a_crash_and_nothing_else_shows() {
    let lab = Lab::new();
    let mount = lab.mount();
    let volume = mount.volume("v");
    let image = Dice(9).image(2 * MIB + 5);
    write(&volume.join("closed"), &image);
    // What is not closed when the power fails.
    let open = Holder::new(&volume.join("open"), 3 << 20);
    let synced = Holder::new(&volume.join("synced"), 100);
    run(&mut command("sync", &[volume.join("synced")]));
    mount.crash();
    drop((open, synced));
    let mount = lab.mount();
    assert_eq!(names(&mount.volume("v")), ["closed", "synced"]);
    assert!(fs::read(mount.volume("v").join("closed")).unwrap() == image);
    assert_eq!(
        fs::read(mount.volume("v").join("synced")).unwrap(),
        [b' '; 100]
    );
    // The name of the lost one is free.
    write(&mount.volume("v").join("open"), b"again");
}

#[test]
fn another_mount_sees_what_changes() {
    let lab = Lab::with("backup_file_size = 1048576\nlist_ttl = 0\n");
    let one = lab.mount();
    let two = lab.mount_with("two", "");
    let volume = two.path("posix/v");
    assert!(!volume.exists());
    write(&one.volume("v").join("a"), b"data");
    wait_for("the backup shows in the other mount", || {
        volume.join("a").exists()
    });
    assert_eq!(fs::read(volume.join("a")).unwrap(), b"data");
    fs::rename(one.volume("v").join("a"), one.volume("v").join("b")).unwrap();
    wait_for("its new name shows", || volume.join("b").exists());
    wait_for("its old one does not", || !volume.join("a").exists());
    fs::remove_file(one.volume("v").join("b")).unwrap();
    wait_for("it is gone", || !volume.join("b").exists());
    write(&two.volume("v").join("c"), b"from the other");
    wait_for("and back", || one.volume("v").join("c").exists());
}

#[test]
fn signals_end_the_mount_and_keep_what_is_written() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let lab = Lab::new();
        let mount = lab.mount();
        let volume = mount.volume("v");
        let open = Holder::new(&volume.join("a"), 100_000);
        let untouched = Holder::new(&volume.join("b"), 0);
        assert_eq!(mount.end_by(signal), 0);
        drop((open, untouched));
        let mount = lab.mount();
        assert_eq!(names(&mount.volume("v")), ["a"]);
        assert_eq!(
            fs::read(mount.volume("v").join("a")).unwrap(),
            vec![b' '; 100_000]
        );
    }
}

#[test]
fn an_unmount_by_others_ends_the_program() {
    let lab = Lab::new();
    let mut mount = lab.mount();
    write(&mount.volume("v").join("a"), b"a");
    run(&mut lab.cinderfs(&["umount".as_ref(), mount.root()]));
    assert!(!is_mounted(mount.root()));
    assert_eq!(mount.wait(), 0);
}

#[test]
fn a_backup_without_metadata_does_not_exist() {
    let lab = Lab::over(&Tree::Posix.path());
    let victim = Tree::Posix
        .backups()
        .into_iter()
        .find(|b| b.parent.is_none())
        .unwrap();
    let mount = lab.mount();
    let volume = mount.path("posix").join(&victim.volume);
    let before = names(&volume);
    mount.unmount();
    let metadata = format!("{}/{}_metadata", victim.container, victim.prefix);
    fs::remove_file(lab.store().join(metadata)).unwrap();
    let mount = lab.mount();
    let link = mount.path(".cinderfs/by-id").join(&victim.id);
    assert_eq!(errno(link.symlink_metadata()), libc::ENOENT);
    assert!(!volume.exists() || names(&volume).len() == before.len() - 1);
}

#[test]
fn read_only_mounts() {
    let lab = Lab::new();
    let mount = lab.mount();
    write(&mount.volume("v").join("a"), b"a");
    mount.unmount();
    let mount = lab.mount_with("mnt", "ro");
    let volume = mount.path("posix/v");
    assert_eq!(fs::read(volume.join("a")).unwrap(), b"a");
    assert_eq!(errno(File::create(volume.join("b"))), libc::EROFS);
    assert_eq!(errno(fs::create_dir(mount.path("posix/w"))), libc::EROFS);
    assert_eq!(errno(fs::remove_file(volume.join("a"))), libc::EROFS);
    assert_eq!(
        errno(fs::rename(volume.join("a"), volume.join("b"))),
        libc::EROFS
    );
    assert_eq!(
        set_xattr(&volume.join("a"), "user.cinder.description", b"x"),
        libc::EROFS
    );
}

/// A file mapped into memory, for reading, or for writing as well.
struct Map {
    start: *mut libc::c_void,
    length: usize,
}

impl Map {
    fn new(file: &File, writable: bool) -> Self {
        let length = file.metadata().unwrap().len() as usize;
        let protection = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
        // SAFETY: the kernel chooses the address; nothing of ours lies there.
        let start = unsafe {
            let (shared, none) = (libc::MAP_SHARED, std::ptr::null_mut());
            libc::mmap(none, length, protection, shared, file.as_raw_fd(), 0)
        };
        assert_ne!(
            start,
            libc::MAP_FAILED,
            "{}",
            std::io::Error::last_os_error()
        );
        Self { start, length }
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: mapped until it is dropped, and the file is not made shorter meanwhile.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast(), self.length) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: it is what was mapped, and no slice of it outlives it.
        unsafe { libc::munmap(self.start, self.length) };
    }
}

#[test]
fn files_can_be_mapped() {
    let lab = Lab::new();
    let mount = lab.mount();
    let path = mount.volume("v").join("a");
    let mut image = holey_image();
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    file.write_all_at(&image, 0).unwrap();
    let mut map = Map::new(&file, true);
    map.bytes()[5000..5005].copy_from_slice(b"hello");
    image[5000..5005].copy_from_slice(b"hello");
    drop((map, file));
    assert!(cat(&path) == image);
    let file = File::open(&path).unwrap();
    assert!(*Map::new(&file, false).bytes() == image);
}

#[test]
fn an_ordinary_user_can_do_it_all() {
    if !is_root_for("becoming another user") {
        return;
    }
    let device = Path::new("/dev/fuse").metadata().unwrap().mode();
    assert_eq!(
        device & 0o666,
        0o666,
        "an ordinary user cannot mount: chmod 0666 /dev/fuse"
    );
    let lab = Lab::new();
    let source = lab.source("source.img", &Dice(70).image(2 * MIB + 17));
    let mount = lab.mount_as_user("");
    let volume = mount.path("posix/v");
    let as_user = |script: &str| shell_as_user(USER, script, &[source.as_path(), &volume]);
    run(&mut as_user(
        r#"mkdir "$2" && cp -p "$1" "$2/a" && cmp "$1" "$2/a""#,
    ));
    run(&mut as_user(
        r#"rsync -a "$1" "$2/b" && cmp "$1" "$2/b" && mv "$2/b" "$2/c""#,
    ));
    run(&mut as_user(
        r#"test "$(stat -c %U:%a "$2/a")" = nobody:440 && touch -d @5 "$2/a""#,
    ));
    run(&mut as_user(r#"test "$(stat -c %Y "$2/a")" = 5"#));
    let (_, said) = fail(&mut as_user(r#"echo x >> "$2/a""#));
    assert!(said.contains("Permission denied"), "{said}");
    run(&mut as_user(r#"rm -f "$2/c" && test "$(ls "$2")" = a"#));
    // Not even root may look into it.
    assert_eq!(errno(fs::read_dir(mount.root())), libc::EACCES);
    assert_eq!(mount.unmount(), 0);
    let stored = read_store(&lab.store());
    assert_eq!(stored.len(), 1);
    stored[0].check(SMALL_ZLIB, &source);
    let mount = lab.mount_as_user("ro");
    let (_, said) = fail(&mut shell_as_user(
        USER,
        r#"echo x > "$1/b""#,
        &[mount.path("posix/v")],
    ));
    assert!(said.contains("Read-only file system"), "{said}");
    run(&mut shell_as_user(
        USER,
        r#""$1" umount "$2""#,
        &[lab.path("cinderfs"), mount.path("")],
    ));
    assert!(!is_mounted(mount.root()));
}

#[test]
fn others_look_inside_only_where_they_may() {
    if !is_root_for("becoming another user") {
        return;
    }
    let lab = Lab::new();
    open_to_all(&lab.path(""));
    let look = |mount: &Mount<'_>, group: &str| {
        let output = common::mount::output(&mut shell_as_user(
            group,
            r#"cat "$1/posix/v/a""#,
            &[mount.root()],
        ));
        (output.status.success(), output.stdout)
    };
    let mount = lab.mount();
    write(&mount.volume("v").join("a"), b"a");
    cat(&mount.volume("v").join("a"));
    assert!(!look(&mount, "0").0);
    mount.unmount();
    let mount = lab.mount_with("mnt", "allow_other");
    // The group may read, as the mode says; others may not.
    assert_eq!(look(&mount, "0"), (true, b"a".to_vec()));
    assert!(!look(&mount, USER).0);
    let write_as_group = r#"echo x > "$1/posix/v/b""#;
    fail(&mut shell_as_user("0", write_as_group, &[mount.root()]));
}

#[test]
fn a_reader_is_not_disturbed_by_a_rename() {
    let lab = Lab::new();
    let mount = lab.mount();
    let volume = mount.volume("v");
    let image = Dice(80).image(3 * MIB);
    write(&volume.join("a"), &image);
    cat(&volume.join("a"));
    let mut file = File::open(volume.join("a")).unwrap();
    let mut read = vec![0; MIB];
    file.read_exact(&mut read).unwrap();
    fs::rename(volume.join("a"), volume.join("b")).unwrap();
    file.read_to_end(&mut read).unwrap();
    assert!(read == image);
}

#[test]
fn many_volumes_and_backups_are_listed_whole() {
    let lab = Lab::with("backup_compression_algorithm = none\n");
    let mount = lab.mount();
    let script = r#"for v in $(seq -w 30); do mkdir "$1/posix/volume-$v"; done
        for n in $(seq -w 120); do echo $n > "$1/posix/volume-01/backup-number-$n-of-many"; done"#;
    run(&mut shell(script, &[mount.root()]));
    assert_eq!(names(&mount.path("posix")).len(), 30);
    assert_eq!(names(&mount.path("posix/volume-01")).len(), 120);
    let long = run(&mut shell(
        r#"ls -l "$1/posix/volume-01" | grep -c backup-number"#,
        &[mount.root()],
    ));
    assert_eq!(long.trim(), "120");
    kill(mount.pid(), libc::SIGTERM);
}

/// `sudo dd if=DEVICE > FILE`: the file is open already when another user writes to it,
/// and that user closes it, too.
#[test]
fn a_program_of_another_user_may_write_to_what_it_was_given() {
    if !is_root_for("a program of another user") {
        return;
    }
    let lab = Lab::new();
    let mount = lab.mount();
    let path = mount.volume("v").join("a");
    let script = r#"setpriv --reuid 65534 --clear-groups dd bs=4k if=/dev/zero count=9 > "$1""#;
    run(&mut shell(script, &[&path]));
    assert_eq!(fs::read(&path).unwrap(), vec![0; 9 * 4096]);
}

#[test]
fn what_is_written_through_a_mapping_after_the_last_close_is_kept() {
    let lab = Lab::new();
    let mount = lab.mount();
    let path = mount.volume("v").join("a");
    let script = r#"
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.write(file, b"a" * 8192)
at = libc.mmap(None, 8192, 3, 1, file, 0)
assert at != ctypes.c_void_p(-1).value, os.strerror(ctypes.get_errno())
os.close(file)
ctypes.memset(at, ord("b"), 4096)
assert libc.munmap(at, 8192) == 0
"#;
    run(std::process::Command::new("python3")
        .arg("-c")
        .arg(script)
        .arg(&path));
    let mut expected = vec![b'b'; 4096];
    expected.resize(8192, b'a');
    // The kernel writes the mapping back when it likes, and tells nobody.
    wait_for("the mapping is written back", || {
        fs::read(&path).is_ok_and(|read| read == expected)
    });
    mount.unmount();
    let mount = lab.mount();
    assert_eq!(fs::read(mount.volume("v").join("a")).unwrap(), expected);
}
