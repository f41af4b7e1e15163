//! What a real Cinder's ceph driver writes, we read: full backups and increments of volumes
//! in Ceph, backups of snapshots and of files.

use crate::common::ceph::{Ceph, Pool};
use crate::common::judge::{CINDER, Judge, Row};
use crate::common::mount::{Lab, Mount, command, names, output, run, wait_for, xattr};
use crate::model::{GIB, MIB, Model, check_equal, check_sparse, shown};
use crate::writing::{copy_in, copy_of, gc, punch, scribble, sparse};
use std::fs::{self, File};
use std::io::Write;
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

/// A volume of Cinder's in Ceph, with 9 MiB of data at its beginning.
fn volume_in<'a>(volumes: &'a Pool, lab: &Lab, judge: &mut Judge) -> (String, Model<'a>) {
    let volume = new_volume();
    let image = format!("volume-{volume}");
    let mut model = Model::new(volumes, &lab.path(""), &image, GIB, &[]);
    model.write(0..9 * MIB);
    judge.rbd_volume(&volume, &volumes.name, 1);
    (volume, model)
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

/// Lets Cinder know a backup, by its record.
fn import(mount: &Mount<'_>, judge: &mut Judge, volume: &str, name: &str) -> Row {
    let control = mount.path(".cinderfs/ceph").join(volume);
    let text = fs::read(control.join(format!("{name}.record"))).unwrap();
    judge.import(&serde_json::from_slice(&text).unwrap())
}

/// Cinder must restore a backup equal to a file, with zeros behind it: onto a file, onto a new
/// volume in Ceph, and over one that has data.
fn check_restored(lab: &Lab, judge: &mut Judge, volumes: &Pool, row: &Row, file: &Path) {
    let extend = |path: &Path| {
        let file = File::options().write(true).open(path).unwrap();
        file.set_len(GIB).unwrap();
    };
    let whole = copy_of(file, lab, "whole");
    extend(&whole);
    let restored = lab.path("restored");
    judge.restore_new(&row.id, &restored);
    extend(&restored);
    run(&mut command("cmp", &[&restored, &whole]));
    fs::remove_file(&restored).unwrap();
    for has_data in [false, true] {
        let volume = new_volume();
        let image = format!("volume-{volume}");
        let mut model = Model::new(volumes, &lab.path(""), &image, GIB, &[]);
        if has_data {
            model.write(0..3 * MIB);
            model.write(GIB - MIB..GIB);
        }
        judge.rbd_volume(&volume, &volumes.name, 1);
        judge.restore_over(&row.id, &volume);
        let path = restored.to_str().unwrap();
        volumes.rbd(&["export", "--no-progress", &image, path]);
        run(&mut command("cmp", &[&restored, &whole]));
        fs::remove_file(&restored).unwrap();
    }
}

/// Ours, full and incremental, of an image that is no whole number of gibibytes.
#[test]
fn what_we_write_cinder_restores() {
    let Some(ceph) = Ceph::shared() else { return };
    let (pool, volumes) = (ceph.pool(), ceph.pool());
    let Some((lab, mut judge)) = start(ceph, &pool, "") else {
        return;
    };
    let (mount, volume) = (lab.mount(), new_volume());
    let folder = mount.volume(&volume);
    let size = 75 * MIB + 1000;
    let data = [(0, MIB), (40 * MIB, 42 * MIB), (size - 5, size)];
    let first = sparse(&lab, "1", size, &data);
    copy_in(&first, &folder.join("first.img"));
    let second = copy_of(&first, &lab, "2");
    scribble(&second, &(100..200));
    punch(&second, &(40 * MIB..41 * MIB + 77));
    copy_in(&second, &folder.join(".incremental/second.img"));
    let parent = import(&mount, &mut judge, &volume, "first.img");
    let child = import(&mount, &mut judge, &volume, "second.img");
    assert_eq!(child.parent_id.as_ref(), Some(&parent.id));
    assert_eq!(child.display_name.as_deref(), Some("second.img"));
    assert_eq!((parent.size, child.size), (1, 1));
    check_restored(&lab, &mut judge, &volumes, &child, &second);
    check_restored(&lab, &mut judge, &volumes, &parent, &first);
    // What Cinder deletes is gone.
    judge.delete(&child.id);
    assert_eq!(names(&folder), ["first.img"]);
    judge.delete(&parent.id);
    assert!(pool.images().is_empty());
}

/// What we leave behind when we are ended at once in the middle of an increment must not become
/// a part of Cinder's next one.
#[test]
fn increments_that_were_broken_off_on_cinders_chain() {
    let Some(ceph) = Ceph::shared() else { return };
    let (pool, volumes) = (ceph.pool(), ceph.pool());
    let Some((lab, mut judge)) = start(ceph, &pool, "") else {
        return;
    };
    let (volume, mut model) = volume_in(&volumes, &lab, &mut judge);
    let full = judge.full(&volume, "full", "");
    let first = model.copy("first");
    let base = pool.images().remove(0);
    let export = || {
        let path = lab.path("head");
        let _ = fs::remove_file(&path);
        pool.rbd(&["export", "--no-progress", &base, path.to_str().unwrap()]);
        path
    };
    let is_first = |path: &Path| {
        let mut compare = command("cmp", &[path, &first]);
        output(&mut compare).status.success()
    };
    // One that is given up goes back by itself.
    let mount = lab.mount();
    let file = File::create_new(mount.volume(&volume).join(".incremental/a.img")).unwrap();
    file.write_all_at(&[7; 1 << 20], 20 * MIB).unwrap();
    fs::remove_file(mount.volume(&volume).join("a.img")).unwrap();
    drop(file);
    wait_for("it is given back", || {
        !pool.rbd(&["image-meta", "ls", &base]).contains("cinderfs") && is_first(&export())
    });
    // One that is ended does not, and is found.
    let pipe = lab.path("pipe");
    run(&mut command("mkfifo", &[&pipe]));
    let to = mount.volume(&volume).join(".incremental/lost.img");
    let mut writer = std::process::Command::new("dd")
        .args(["bs=1M", "status=none"])
        .arg(format!("if={}", pipe.display()))
        .arg(format!("of={}", to.display()))
        .spawn()
        .unwrap();
    let mut feed = File::options().write(true).open(&pipe).unwrap();
    feed.write_all(&vec![9; 64 << 20]).unwrap();
    wait_for("it has begun", || !is_first(&export()));
    mount.crash();
    drop(feed);
    writer.wait().unwrap();
    wait_for("it is garbage", || {
        gc(&lab, &[]) == [("head".into(), "found".into())]
    });
    let mount = lab.mount();
    check(&mount, &full, &first);
    wait_for("it is told", || {
        lab.log().contains("left changed by an unfinished backup")
    });
    let removed = gc(&lab, &["--delete"]);
    assert_eq!(removed, [("head".into(), "removed".into())]);
    assert_eq!(gc(&lab, &[]), []);
    assert!(is_first(&export()));
    drop(mount);
    model.write(8 * MIB..8 * MIB + 100);
    let next = judge.increment(&volume, "next", "");
    let second = model.copy("second");
    let mount = lab.mount();
    check(&mount, &full, &first);
    check(&mount, &next, &second);
    check_restored(&lab, &mut judge, &volumes, &next, &second);
}

/// Ours between those of Cinder, which does not know of it: all are right.
#[test]
fn increments_on_cinders_chain() {
    let Some(ceph) = Ceph::shared() else { return };
    let (pool, volumes) = (ceph.pool(), ceph.pool());
    let Some((lab, mut judge)) = start(ceph, &pool, "") else {
        return;
    };
    let (volume, mut model) = volume_in(&volumes, &lab, &mut judge);
    let full = judge.full(&volume, "full", "");
    let first = model.copy("first");
    let mount = lab.mount();
    let folder = mount.volume(&volume);
    // Of something that the volume never was.
    let own = copy_of(&first, &lab, "own");
    scribble(&own, &(5 * MIB..6 * MIB));
    punch(&own, &(0..MIB));
    scribble(&own, &(700 * MIB..701 * MIB));
    copy_in(&own, &folder.join(".incremental/own.img"));
    check_equal(&folder.join("own.img"), &own);
    let parent = told(&folder.join("own.img"), "parent_id");
    assert_eq!(parent.as_ref(), Some(&full.id));
    assert_eq!(pool.images().len(), 1);
    // Cinder goes on from its own.
    drop(mount);
    model.write(8 * MIB..8 * MIB + 100);
    let next = judge.increment(&volume, "next", "");
    let second = model.copy("second");
    let mount = lab.mount();
    check(&mount, &full, &first);
    check(&mount, &next, &second);
    check_equal(&folder.join("own.img"), &own);
    // And so do we.
    let last = copy_of(&second, &lab, "last");
    scribble(&last, &(300 * MIB..300 * MIB + 10));
    copy_in(&last, &folder.join(".incremental/last.img"));
    check_equal(&folder.join("last.img"), &last);
    let parent = told(&folder.join("last.img"), "parent_id");
    assert_eq!(parent.as_ref(), Some(&next.id));
    let row = import(&mount, &mut judge, &volume, "last.img");
    check_restored(&lab, &mut judge, &volumes, &row, &last);
    check_restored(&lab, &mut judge, &volumes, &next, &second);
    for name in ["last.img", "own.img"] {
        fs::remove_file(folder.join(name)).unwrap();
    }
    check(&mount, &next, &second);
    check(&mount, &full, &first);
}
