//! What a real Cinder's ceph driver writes, we read: full backups and increments of volumes
//! in Ceph, backups of snapshots and of files.

use crate::common::ceph::{Ceph, Pool};
use crate::common::judge::{CINDER, Judge, Row};
use crate::common::mount::{Lab, Mount, xattr};
use crate::model::{GIB, MIB, Model, check_equal, check_sparse, shown};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

fn told(path: &Path, name: &str) -> Option<String> {
    let value = xattr(path, &format!("user.cinder.{name}")).ok()?;
    Some(String::from_utf8(value).unwrap())
}

/// A backup must be shown equal to a file, and told of as Cinder's database has it.
fn check(mount: &Mount<'_>, row: &Row, file: &Path) {
    let path = shown(mount, &row.id);
    check_equal(&path, file);
    assert_eq!(told(&path, "volume_id").as_ref(), Some(&row.volume_id));
    assert_eq!(told(&path, "container").as_ref(), Some(&row.container));
    assert_eq!(told(&path, "parent_id"), row.parent_id);
    let control = mount.path(".cinderfs/ceph").join(&row.volume_id);
    let name = path.file_name().unwrap().to_str().unwrap();
    let text = fs::read_to_string(control.join(format!("{name}.json"))).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["size"], row.size * GIB);
    let of_volume = &json["volume_metadata"]["volume-base-metadata"];
    assert_eq!(of_volume["id"], row.volume_id.as_str());
    if !row.service_metadata.is_empty() {
        assert_eq!(json["service_metadata"], row.service_metadata.as_str());
    }
}

/// A Cinder, a pool for its backups and one for its volumes.
fn start(ceph: &Ceph, pool: &Pool, options: &str) -> Option<(Lab, Judge)> {
    let lab = Lab::on_ceph(pool, &format!("list_ttl = 0\n{options}"));
    let judge = Judge::start_with(CINDER, &lab.config(), &ceph.modules())?;
    Some((lab, judge))
}

fn new_volume() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Lets Cinder write a chain of a volume in Ceph.
fn check_chain(options: &str) {
    let Some(ceph) = Ceph::shared() else { return };
    let (pool, volumes) = (ceph.pool(), ceph.pool());
    let Some((lab, mut judge)) = start(ceph, &pool, options) else {
        return;
    };
    let volume = new_volume();
    let image = format!("volume-{volume}");
    let mut model = Model::new(&volumes, &lab.path(""), &image, GIB, &[]);
    model.write(0..3 * MIB);
    model.write(500 * MIB + 7..501 * MIB);
    model.write(GIB - 4096..GIB);
    judge.rbd_volume(&volume, &volumes.name, 1);
    let mut made = vec![(judge.full(&volume, "full", ""), model.copy("1"))];
    let mount = lab.mount();
    model.write(MIB..MIB + 100);
    model.discard(&(500 * MIB..504 * MIB));
    made.push((judge.increment(&volume, "second", ""), model.copy("2")));
    made.push((judge.increment(&volume, "unchanged", ""), model.copy("3")));
    model.write(800 * MIB..801 * MIB);
    made.push((judge.increment(&volume, "last", ""), model.copy("4")));
    // Another image.
    made.push((judge.full(&volume, "full again", ""), model.copy("5")));
    model.write(0..1);
    made.push((judge.increment(&volume, "on that", ""), model.copy("6")));
    for (row, file) in &made {
        check(&mount, row, file);
        if options.is_empty() {
            check_sparse(&shown(&mount, &row.id), file);
        }
    }
    // Cinder deletes from the end, and what it has deleted is gone.
    let (row, _) = made.remove(3);
    judge.delete(&row.id);
    assert!(!mount.path(".cinderfs/by-id").join(&row.id).exists());
    for (row, file) in &made {
        check(&mount, row, file);
    }
}

#[test]
fn chains_of_volumes_in_ceph() {
    check_chain("");
}

#[test]
fn striped_images_with_journals() {
    check_chain(
        "backup_ceph_stripe_unit = 65536\nbackup_ceph_stripe_count = 4\n\
         backup_ceph_image_journals = true\n",
    );
}

#[test]
fn backups_of_files_and_of_snapshots() {
    let Some(ceph) = Ceph::shared() else { return };
    let pool = ceph.pool();
    let Some((lab, mut judge)) = start(ceph, &pool, "backup_ceph_chunk_size = 4194304\n") else {
        return;
    };
    let source = lab.path("source");
    let file = File::create(&source).unwrap();
    let data: Vec<u8> = (0..9 * MIB).map(|at| (at % 251) as u8).collect();
    file.write_all_at(&data, 0).unwrap();
    // Cinder fails with a file that is shorter than its volume.
    file.set_len(GIB).unwrap();
    let volume = new_volume();
    judge.volume(&volume, &source, 1);
    let of_file = judge.full(&volume, "of a file", "");
    let of_snapshot = judge.full_of_snapshot(&volume);
    assert_eq!(
        (&*of_file.service_metadata, &*of_snapshot.service_metadata),
        ("", "")
    );
    let mount = lab.mount();
    check(&mount, &of_file, &source);
    // Its id is in Cinder's database alone.
    let folder = mount.path("ceph").join(&volume);
    let other = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| told(path, "backup_id").as_ref() != Some(&of_file.id))
        .unwrap();
    check_equal(&other, &source);
    assert!(told(&other, "parent_id").is_none());
    judge.delete(&of_file.id);
    judge.delete(&of_snapshot.id);
    assert!(pool.images().is_empty());
    assert!(!folder.exists());
}
