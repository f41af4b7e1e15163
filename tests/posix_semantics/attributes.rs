//! What a file has beside its data: times, mode and owner, extended attributes; and statfs.

use crate::cat;
use crate::common::mount::{Lab, MIB, command, fail, run, set_xattr, shell, write, xattr};
use crate::common::store_check::read_store;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, SystemTime};

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
