//! What crashes leave in a pool, made by hand: it shows nowhere, is found, and is removed; and
//! what only looks like it stays.

use crate::common::ceph::Ceph;
use crate::common::mount::{Lab, errno, names};
use crate::model::{MIB, Model, VOLUME, backup, check_equal, shown, snap};
use crate::writing::{copy_in, gc, snaps, sparse, told, verify};
use std::fs::File;

/// Cinder would write to such an image while we do: nothing is built on it.
#[test]
fn images_without_locks_get_no_increments() {
    let Some(ceph) = Ceph::shared() else { return };
    let pool = ceph.pool();
    let lab = Lab::on_ceph(&pool, "incremental = auto\n");
    let image = format!("volume-{VOLUME}.backup.{}", backup(1));
    let options = ["--image-feature", "layering"];
    let mut model = Model::new(&pool, &lab.path(""), &image, 16 * MIB, &options);
    model.write(0..MIB);
    let first = model.snap(&snap(1, 0));
    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    let made = File::create_new(volume.join(".incremental/a.img"));
    assert_eq!(errno(made), libc::EINVAL);
    assert!(lab.log().contains("rbd feature enable"), "{}", lab.log());
    // Where it may be a full one, it becomes one.
    copy_in(&first, &volume.join("b.img"));
    check_equal(&volume.join("b.img"), &first);
    assert_eq!(pool.images().len(), 2);
    assert!(!pool.rbd(&["image-meta", "ls", &image]).contains("cinderfs"));
    check_equal(&shown(&mount, &backup(1)), &first);
}

#[test]
fn left_overs_of_every_kind() {
    let Some(ceph) = Ceph::shared() else { return };
    let pool = ceph.pool();
    let lab = Lab::on_ceph(&pool, "list_ttl = 0\n");
    let file = sparse(&lab, "file", 3 * MIB, &[(0, MIB)]);
    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    copy_in(&file, &volume.join("a.img"));
    copy_in(&file, &volume.join(".incremental/b.img"));
    let id = told(&volume.join("a.img"), "backup_id").unwrap();
    assert_eq!(mount.unmount(), 0);
    let image = format!("volume-{VOLUME}.backup.{id}");
    let before = snaps(&pool, &image);
    let make = |snap: &str| {
        pool.rbd(&[
            "snap",
            "create",
            &format!("{image}@{snap}"),
            "--no-progress",
        ]);
    };
    let note = |id: &str, text: &str| {
        let key = format!("cinderfs.backup.{id}");
        pool.rbd(&["image-meta", "set", &image, &key, text]);
    };
    // Of an increment that was not published, of one that was published anew, of nothing.
    make(&snap(1, 0));
    note(&backup(1), r#"{"unfinished": true, "size": 5}"#);
    make(&format!("backup.{id}.snap.1795263361.5"));
    note(&backup(2), r#"{"size": 5}"#);
    // Of full ones that were not finished, or deleted.
    let begun = format!("cinderfs.writing.volume-{VOLUME}.backup.{}", backup(3));
    let deleted = format!("cinderfs.deleted.0-0.volume-{VOLUME}.backup.base");
    let emptied = format!("volume-{VOLUME}.backup.{}", backup(4));
    for left in [&begun, &deleted, &emptied] {
        pool.rbd(&["create", left, "--size", "1G"]);
    }
    let key = format!("cinderfs.backup.{}", backup(4));
    pool.rbd(&["image-meta", "set", &emptied, &key, r#"{"size": 5}"#]);
    // What Cinder knew of volumes: of a backup that is gone, of one that is there, and
    // something that only Cinder could tell.
    let metadata = format!(r#"{{"volume-base-metadata": {{"id": "{VOLUME}"}}}}"#);
    let known = lab.source("known", metadata.as_bytes());
    let unknown = lab.source("unknown", b"?");
    for (id, file) in [
        (backup(5), &known),
        (id.clone(), &known),
        (backup(6), &unknown),
    ] {
        let object = format!("backup.{id}.meta");
        pool.rados(&["put", &object, file.to_str().unwrap()]);
    }

    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    assert_eq!(names(&volume), ["a.img", "b.img"]);
    check_equal(&volume.join("a.img"), &file);
    check_equal(&volume.join("b.img"), &file);
    let found = gc(&lab, &[]);
    assert_eq!(found.len(), 7, "{found:?}");
    let strays = found.iter().filter(|(kind, _)| kind == "stray");
    assert_eq!(strays.count(), 1, "{found:?}");
    // What somebody has open may be being written.
    let held = pool.hold(&begun);
    let removed = gc(&lab, &["--delete"]);
    assert_eq!(removed.len(), 6, "{removed:?}");
    assert!(
        removed.iter().all(|(_, state)| state == "removed"),
        "{removed:?}"
    );
    drop(held);
    assert_eq!(
        gc(&lab, &["--delete"]),
        [("unfinished".into(), "removed".into())]
    );
    assert_eq!(gc(&lab, &[]), []);
    assert_eq!(pool.images(), std::slice::from_ref(&image));
    assert_eq!(snaps(&pool, &image), before);
    let objects = pool.rados(&["ls"]);
    for (id, is_there) in [(backup(5), false), (id, true), (backup(6), true)] {
        let object = format!("backup.{id}.meta");
        assert_eq!(objects.lines().any(|name| name == object), is_there);
    }
    check_equal(&volume.join("a.img"), &file);
    check_equal(&volume.join("b.img"), &file);
    let told = verify(&lab, true);
    assert!(told.to_string().contains(r#""only_read":true"#), "{told}");
}
