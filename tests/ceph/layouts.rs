//! Every layout that a Cinder has left in a pool, made by hand, is shown as what it is.

use crate::common::ceph::Ceph;
use crate::common::mount::{Lab, errno, names, wait_for, xattr};
use crate::model::{GIB, MIB, Model, VOLUME, backup, check_equal, check_sparse, shown, snap};
use std::fs::{self, File};
use std::path::Path;

fn told(path: &Path, name: &str) -> Option<String> {
    let value = xattr(path, &format!("user.cinder.{name}")).ok()?;
    Some(String::from_utf8(value).unwrap())
}

fn full(number: u32) -> String {
    format!("volume-{VOLUME}.backup.{}", backup(number))
}

/// A full backup and increments on it, of an image that grows and shrinks.
#[test]
fn a_chain_in_one_image() {
    let Some(ceph) = Ceph::shared() else { return };
    let pool = ceph.pool();
    let lab = Lab::on_ceph(&pool, "list_ttl = 0\n");
    let mut model = Model::new(
        &pool,
        lab.path("").as_path(),
        &full(1),
        64 * MIB + 4096,
        &[],
    );
    model.write(0..100_000);
    model.write(21 * MIB + 5..22 * MIB);
    let first = model.snap(&snap(1, 0));
    model.write(50_000..60_000);
    model.discard(&(20 * MIB..24 * MIB));
    let second = model.snap(&snap(2, 1));
    model.resize(96 * MIB);
    model.write(90 * MIB..90 * MIB + 12_345);
    let third = model.snap(&snap(3, 2));
    // No backup, and no part of any.
    pool.rbd(&[
        "snap",
        "create",
        &format!("{}@mine", full(1)),
        "--no-progress",
    ]);
    model.resize(10 * MIB + 512);
    let fourth = model.snap(&snap(4, 3));
    // What a failed increment has left in the head is in no backup.
    model.write(0..10 * MIB);

    let mount = lab.mount();
    let volume = mount.path("ceph").join(VOLUME);
    assert_eq!(
        names(&volume),
        [
            "20261121T121600Z-backup-00000001.img",
            "20261121T121601Z-backup-00000002.img",
            "20261121T121602Z-backup-00000003.img",
            "20261121T121603Z-backup-00000004.img",
        ]
    );
    for (number, file) in [(1, first), (2, second), (3, third), (4, fourth)] {
        let path = shown(&mount, &backup(number));
        check_sparse(&path, &file);
        let parent = (number > 1).then(|| backup(number - 1));
        assert_eq!(told(&path, "parent_id"), parent);
        assert_eq!(told(&path, "depth").unwrap(), (number - 1).to_string());
        assert_eq!(told(&path, "volume_id").unwrap(), VOLUME);
        assert_eq!(told(&path, "container").unwrap(), pool.name);
        let service = "cinder.backup.drivers.ceph.CephBackupDriver";
        assert_eq!(told(&path, "service").unwrap(), service);
    }
    // What is new shows, what is gone is not shown any more.
    model.snap(&snap(5, 4));
    pool.rbd(&[
        "snap",
        "rm",
        &format!("{}@{}", full(1), snap(2, 1)),
        "--no-progress",
    ]);
    assert_eq!(
        names(&volume),
        [
            "20261121T121600Z-backup-00000001.img",
            "20261121T121602Z-backup-00000003.img",
            "20261121T121603Z-backup-00000004.img",
            "20261121T121604Z-backup-00000005.img",
        ]
    );
}

/// Full backups without snapshots: of files, and of snapshots of volumes.
#[test]
fn heads_of_images() {
    let Some(ceph) = Ceph::shared() else { return };
    let pool = ceph.pool();
    let lab = Lab::on_ceph(&pool, "list_ttl = 0\n");
    let folder = lab.path("");
    let mut file = Model::new(&pool, &folder, &full(7), GIB, &[]);
    file.write(700 * MIB..700 * MIB + 1);
    let base = format!("volume-{VOLUME}.backup.base");
    let mut base = Model::new(&pool, &folder, &base, 5 * MIB, &[]);
    base.write(MIB..2 * MIB);
    let empty = Model::new(&pool, &folder, "volume-v.backup.0-0", 0, &[]);
    let mount = lab.mount();
    let volume = mount.path("ceph").join(VOLUME);
    assert_eq!(names(&volume).len(), 2);
    check_sparse(&shown(&mount, &backup(7)), &file.file);
    let of_snapshot = names(&volume)
        .into_iter()
        .find(|name| !name.ends_with("-backup-00000007.img"))
        .unwrap();
    check_equal(&volume.join(&of_snapshot), &base.file);
    check_equal(&shown(&mount, "0-0"), &empty.file);
    // Its id is ours, and stays the same.
    let id = told(&volume.join(&of_snapshot), "backup_id").unwrap();
    assert_eq!(mount.unmount(), 0);
    let mount = lab.mount();
    check_equal(&shown(&mount, &id), &base.file);
    assert!(names(&volume).contains(&of_snapshot));
}

/// Somebody is writing it: that is no backup yet.
#[test]
fn images_that_are_being_written() {
    let Some(ceph) = Ceph::shared() else { return };
    let pool = ceph.pool();
    let lab = Lab::on_ceph(&pool, "list_ttl = 0\n");
    let model = Model::new(&pool, &lab.path(""), &full(1), MIB, &[]);
    let holder = pool.hold(&model.image);
    let mount = lab.mount();
    let volume = mount.path("ceph").join(VOLUME);
    assert_eq!(names(&volume), [""; 0]);
    drop(holder);
    assert_eq!(names(&volume).len(), 1);
    let snapped = model.snap(&snap(1, 0));
    // The next one is being written there; this one is finished.
    let _holder = pool.hold(&model.image);
    check_equal(&shown(&mount, &backup(1)), &snapped);
}

/// Features and formats, of old Cinders and of other options.
#[test]
fn every_kind_of_image() {
    let Some(ceph) = Ceph::shared() else { return };
    let pool = ceph.pool();
    let lab = Lab::on_ceph(&pool, "");
    let folder = lab.path("");
    let kinds: [&[&str]; 6] = [
        &["--image-feature", "layering"],
        &["--image-feature", "layering,exclusive-lock,journaling"],
        &["--stripe-unit", "65536", "--stripe-count", "3"],
        &[
            "--image-feature",
            "layering",
            "--stripe-unit",
            "4096",
            "--stripe-count",
            "16",
        ],
        &["--object-size", "64K"],
        &["--object-size", "32M"],
    ];
    let mut made = Vec::new();
    for (number, options) in (1..).zip(kinds) {
        let mut model = Model::new(&pool, &folder, &full(number), 24 * MIB + 512, options);
        model.write(3 * MIB..7 * MIB + 11);
        model.write(24 * MIB..24 * MIB + 512);
        let first = model.snap(&snap(number, number));
        model.write(4 * MIB..4 * MIB + 70_000);
        model.discard(&(0..4 * MIB));
        let second = model.snap(&snap(number + 100, number + 20));
        made.push((number, first));
        made.push((number + 100, second));
    }
    let mount = lab.mount();
    for (number, file) in made {
        let path = shown(&mount, &backup(number));
        check_equal(&path, &file);
    }
}

#[test]
fn other_images_are_left_alone() {
    let Some(ceph) = Ceph::shared() else { return };
    let pool = ceph.pool();
    let lab = Lab::on_ceph(&pool, "");
    for image in [
        "other",
        "volume-a",
        "volume-a.backup.",
        "volume-.backup.base",
        "a.backup.base",
    ] {
        pool.rbd(&["create", image, "--size", "1M"]);
    }
    let mount = lab.mount();
    assert_eq!(names(&mount.path("ceph")), [""; 0]);
    // Nor are they in the way of anything.
    let folder = mount.path("ceph").join("a");
    fs::create_dir(&folder).unwrap();
    drop(File::create(folder.join("new")).unwrap());
    wait_for("it is there", || pool.images().len() == 6);
    fs::remove_file(folder.join("new")).unwrap();
    wait_for("it is gone", || pool.images().len() == 5);
    // What cannot be the name of an image is no volume here.
    let odd = mount.path("ceph").join("a@b");
    fs::create_dir(&odd).unwrap();
    assert_eq!(errno(File::create(odd.join("new"))), libc::EINVAL);
}

/// A backup has one snapshot: with two, nobody knows which.
#[test]
fn two_snapshots_of_one_backup() {
    let Some(ceph) = Ceph::shared() else { return };
    let pool = ceph.pool();
    let lab = Lab::on_ceph(&pool, "");
    let model = Model::new(&pool, &lab.path(""), &full(1), MIB, &[]);
    model.snap(&snap(1, 0));
    model.snap(&snap(1, 1));
    let other = model.snap(&snap(2, 2));
    let mount = lab.mount();
    let path = shown(&mount, &backup(1));
    assert_eq!(errno(fs::read(&path)), libc::EIO);
    let control = mount.path(".cinderfs/ceph").join(VOLUME);
    let file = path.file_name().unwrap().to_str().unwrap();
    let text = fs::read_to_string(control.join(format!("{file}.json"))).unwrap();
    assert!(text.contains("it has 2 snapshots in the image"), "{text}");
    assert!(!control.join(format!("{file}.record")).exists());
    check_equal(&shown(&mount, &backup(2)), &other);
}

/// Names of ours, and what Cinder knew of the volume.
#[test]
fn notes_and_metadata() {
    let Some(ceph) = Ceph::shared() else { return };
    let pool = ceph.pool();
    let lab = Lab::on_ceph(&pool, "list_ttl = 0\n");
    let model = Model::new(&pool, &lab.path(""), &full(1), MIB, &[]);
    let first = model.snap(&snap(1, 0));
    model.snap(&snap(2, 1));
    let mount = lab.mount();
    let volume = mount.path("ceph").join(VOLUME);
    assert_eq!(names(&volume).len(), 2);
    let key = format!("cinderfs.backup.{}", backup(1));
    let note = r#"{"name": "Monday Ж.img", "file": true, "description": "mine",
                   "modified": 1600000000000000, "parent": "someone"}"#;
    pool.rbd(&["image-meta", "set", &model.image, &key, note]);
    let damaged = format!("cinderfs.backup.{}", backup(2));
    pool.rbd(&["image-meta", "set", &model.image, &damaged, "{"]);
    pool.rbd(&["image-meta", "set", &model.image, "other", "else"]);
    let named = volume.join("Monday Ж.img");
    check_equal(&named, &first);
    assert_eq!(names(&volume).len(), 2);
    assert_eq!(told(&named, "description").unwrap(), "mine");
    assert_eq!(told(&named, "parent_id").unwrap(), "someone");
    let modified = fs::metadata(&named).unwrap().modified().unwrap();
    let since = modified.duration_since(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(since.as_secs(), 1_600_000_000);

    let metadata = r#"{"version": 2, "volume-base-metadata": {"display_name": "Ж"}}"#;
    let file = lab.source("meta", metadata.as_bytes());
    let object = format!("backup.{}.meta", backup(1));
    pool.rados(&["put", &object, file.to_str().unwrap()]);
    let control = mount.path(".cinderfs/ceph").join(VOLUME);
    let text = fs::read_to_string(control.join("Monday Ж.img.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        json["volume_metadata"]["volume-base-metadata"]["display_name"],
        "Ж"
    );
    assert_eq!(json["name"], "Monday Ж.img");
}
