//! A mount as a whole: what is kept when it ends or crashes, what another one of the same
//! store sees, and one that only reads.

use crate::common::library::Dice;
use crate::common::mount::{
    Holder, Lab, MIB, command, errno, is_mounted, names, run, set_xattr, wait_for, write,
};
use crate::text;
use std::fs::{self, File};

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
