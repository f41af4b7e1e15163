//! What another program deletes while we read it ends in an error: never in zeros, and never
//! in the data of another backup. And what others have in use is not deleted.

use crate::common::ceph::Ceph;
use crate::common::mount::{Lab, Mount, command, errno, names, output, wait_for};
use crate::model::{GIB, MIB, Model, VOLUME, backup, check_equal, shown, snap};
use crate::writing::{check_empty, copy_in, sparse};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

fn full() -> String {
    format!("volume-{VOLUME}.backup.{}", backup(1))
}

/// Opens a backup and reads its beginning.
fn open(mount: &Mount<'_>, number: u32) -> File {
    let file = File::open(shown(mount, &backup(number))).unwrap();
    file.read_exact_at(&mut [0; 4096], 0).unwrap();
    file
}

/// No part of it may be read as anything but what it was.
fn check_gone(file: &File, expected: &std::path::Path, size: u64) {
    let expected = File::open(expected).unwrap();
    let mut failed = 0;
    for at in (0..size).step_by(1 << 20) {
        let (mut found, mut right) = (vec![0; 4096], vec![0; 4096]);
        expected.read_exact_at(&mut right, at).unwrap();
        match errno(file.read_exact_at(&mut found, at)) {
            0 => assert!(found == right, "wrong bytes at {at}"),
            libc::EIO => failed += 1,
            other => panic!("errno {other}"),
        }
    }
    assert!(failed > 0);
}

#[test]
fn a_snapshot() {
    let Some(ceph) = Ceph::shared() else { return };
    let pool = ceph.pool();
    let lab = Lab::on_ceph(&pool, "");
    let size = 64 * MIB;
    let mut model = Model::new(&pool, &lab.path(""), &full(), size, &[]);
    model.write(0..size);
    let first = model.snap(&snap(1, 0));
    model.write(0..size);
    model.snap(&snap(2, 1));
    let mount = lab.mount();
    let file = open(&mount, 1);
    let name = format!("{}@{}", full(), snap(1, 0));
    pool.rbd(&["snap", "rm", &name, "--no-progress"]);
    check_gone(&file, &first, size);
    assert!(lab.log().contains("it was deleted while it was read"));
}

#[test]
fn an_image() {
    let Some(ceph) = Ceph::shared() else { return };
    let pool = ceph.pool();
    let lab = Lab::on_ceph(&pool, "");
    let size = 64 * MIB;
    let mut model = Model::new(&pool, &lab.path(""), &full(), size, &[]);
    model.write(0..size);
    let mount = lab.mount();
    let file = open(&mount, 1);
    pool.rbd(&["rm", &full(), "--no-progress"]);
    check_gone(&file, &model.file, size);
}

/// A new image of the same name is not the one that was listed.
#[test]
fn an_image_that_is_made_anew() {
    let Some(ceph) = Ceph::shared() else { return };
    let pool = ceph.pool();
    let lab = Lab::on_ceph(&pool, "list_ttl = 2\n");
    let size = 16 * MIB;
    let mut model = Model::new(&pool, &lab.path(""), &full(), size, &[]);
    model.write(0..size);
    let mount = lab.mount();
    let file = open(&mount, 1);
    pool.rbd(&["rm", &full(), "--no-progress"]);
    let mut other = Model::new(&pool, &lab.path("spool"), &full(), size, &[]);
    other.write(0..4 * MIB);
    let expected = other.copy("new");
    // Whoever has it open keeps what was; who opens it gets what is.
    drop(file);
    // Its second may be another one, and with it its name.
    let link = mount.path(".cinderfs/by-id").join(backup(1));
    wait_for("the new one", || {
        output(&mut command("cmp", &[&link, &expected]))
            .status
            .success()
    });
}

/// Cinder tries three times more, five seconds apart, and so do we.
#[test]
fn images_in_use() {
    let Some(ceph) = Ceph::shared() else { return };
    let pool = ceph.pool();
    let lab = Lab::on_ceph(&pool, "");
    let file = sparse(&lab, "file", 3 * MIB, &[(0, MIB)]);
    copy_in(&file, &lab.mount().volume(VOLUME).join("a.img"));
    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    let backup = volume.join("a.img");
    let holder = pool.hold(&pool.images()[0]);
    assert_eq!(errno(fs::remove_file(&backup)), libc::EBUSY);
    assert_eq!(lab.log().matches("trying again in 5 s").count(), 3);
    assert!(lab.log().contains("rbd status"), "{}", lab.log());
    assert_eq!(names(&volume), ["a.img"]);
    check_equal(&backup, &file);
    std::thread::scope(|scope| {
        let removed = scope.spawn(|| fs::remove_file(&backup));
        let tries = || lab.log().matches("trying again in 5 s").count();
        wait_for("it is tried again", || tries() > 3);
        drop(holder);
        removed.join().unwrap().unwrap();
    });
    assert_eq!(names(&volume), [""; 0]);
    check_empty(&pool);
}

/// Those of the backend; what goes beyond them leaves nothing behind.
#[test]
fn quotas() {
    let Some(ceph) = Ceph::shared() else { return };
    let pool = ceph.pool();
    let lab = Lab::on_ceph(&pool, "quota_backups = 2\n");
    let file = sparse(&lab, "file", 3 * MIB, &[(0, MIB)]);
    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    copy_in(&file, &volume.join("a.img"));
    copy_in(&file, &volume.join(".incremental/b.img"));
    for folder in ["", ".full", ".incremental"] {
        let made = File::create_new(volume.join(folder).join("c.img"));
        assert_eq!(errno(made), libc::EDQUOT);
    }
    assert_eq!(pool.images().len(), 1);
    fs::remove_file(volume.join("b.img")).unwrap();
    copy_in(&file, &volume.join(".incremental/c.img"));
    check_equal(&volume.join("c.img"), &file);
    drop(mount);

    lab.configure("quota_backup_gigabytes = 1\n");
    let mount = lab.mount();
    let large = sparse(&lab, "large", GIB, &[(0, 40 * MIB)]);
    let copied = output(command("cp", &[&large]).arg(volume.join(".full/large.img")));
    let said = String::from_utf8_lossy(&copied.stderr).into_owned();
    assert!(said.contains("Disk quota exceeded"), "{said}");
    assert_eq!(names(&mount.volume(VOLUME)), ["a.img", "c.img"]);
    wait_for("the rest is cleared away", || pool.images().len() == 1);
    check_equal(&volume.join("c.img"), &file);
}
