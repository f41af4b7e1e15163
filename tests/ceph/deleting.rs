//! What another program deletes while we read it ends in an error: never in zeros, and never
//! in the data of another backup.

use crate::common::ceph::Ceph;
use crate::common::mount::{Lab, Mount, command, errno, output, wait_for};
use crate::model::{MIB, Model, VOLUME, backup, shown, snap};
use std::fs::File;
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
