//! Clusters that do not take what is written, or not now: what is said is clear, nothing hangs,
//! and nothing that was there is lost.

use crate::common::ceph::{Ceph, Part};
use crate::common::mount::{Lab, command, errno, fail, names, output, run, shell, wait_for};
use crate::model::{MIB, VOLUME, check_equal};
use crate::writing::{check_empty, copy_in, gc, scribble, sparse};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command};

#[test]
fn users_who_may_not_write() {
    let Some(ceph) = Ceph::shared() else { return };
    let pool = ceph.pool();
    let lab = Lab::on_ceph(&pool, "");
    let file = sparse(&lab, "file", 5 * MIB, &[(0, MIB)]);
    copy_in(&file, &lab.mount().volume(VOLUME).join("a.img"));
    let conf = ceph.user("reader", "profile rbd-read-only", "profile rbd-read-only");
    let lines = format!(
        "backup_ceph_user = reader\nbackup_ceph_conf = {}\n",
        conf.display()
    );
    lab.configure(&lines);
    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    for folder in ["", ".incremental/"] {
        let made = File::create_new(volume.join(format!("{folder}b.img")));
        assert_eq!(errno(made), libc::EACCES);
    }
    assert!(lab.log().contains("may not do that"), "{}", lab.log());
    assert_eq!(errno(fs::remove_file(volume.join("a.img"))), libc::EACCES);
    let renamed = fs::rename(volume.join("a.img"), volume.join("c.img"));
    assert_eq!(errno(renamed), libc::EACCES);
    assert_eq!(names(&volume), ["a.img"]);
    check_equal(&volume.join("a.img"), &file);
}

#[test]
fn clusters_that_are_full() {
    let Some(ceph) = Ceph::start() else { return };
    let pool = ceph.pool();
    let lab = Lab::on_ceph(&pool, "request_timeout = 20\n");
    let file = sparse(&lab, "file", 60 * MIB, &[(0, 40 * MIB)]);
    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    copy_in(&file, &volume.join("a.img"));
    for folder in [".full", ".incremental"] {
        let other = sparse(&lab, "other", 60 * MIB, &[(0, 60 * MIB)]);
        let begun = File::create_new(volume.join(folder).join("begun.img")).unwrap();
        begun.set_len(60 * MIB).unwrap();
        begun.write_all_at(&[3; 1000], 0).unwrap();
        // Whenever a program is started here, this is published.
        ceph.admin(&["full", "0.00001"]);
        let written = fs::read(&other).unwrap();
        let failed = begun
            .write_all_at(&written, 0)
            .and_then(|()| begun.sync_all());
        assert_eq!(errno(failed), libc::ENOSPC);
        drop(begun);
        if folder == ".full" {
            let made = File::create_new(volume.join(folder).join("b.img"));
            assert_eq!(errno(made), libc::ENOSPC);
        }
        check_equal(&volume.join("a.img"), &file);
        // It stays as it was, and can be deleted.
        assert_eq!(names(&volume), ["a.img", "begun.img"]);
        let kept = fs::read(volume.join("begun.img")).unwrap();
        let is_right = |(at, byte): (usize, &u8)| *byte == if at < 1000 { 3 } else { 0 };
        assert!(kept.iter().enumerate().all(is_right));
        fs::remove_file(volume.join("begun.img")).unwrap();
        ceph.admin(&["full", "0.95"]);
        copy_in(&other, &volume.join(folder).join("c.img"));
        check_equal(&volume.join("c.img"), &other);
        check_equal(&volume.join("a.img"), &file);
        // Deleting makes room, so it must go when there is none.
        ceph.admin(&["full", "0.00001"]);
        fs::remove_file(volume.join("c.img")).unwrap();
        if folder == ".incremental" {
            fs::remove_file(volume.join("a.img")).unwrap();
            assert_eq!(names(&volume), [""; 0]);
        }
        ceph.admin(&["full", "0.95"]);
    }
    // What could not be removed is found.
    wait_for("nothing is left over", || {
        gc(&lab, &["--delete"]).is_empty()
    });
    assert_eq!(pool.images(), [""; 0]);
    check_empty(&pool);
}

/// What pools hold is counted now and then: until it shows, more is taken.
#[test]
fn pools_with_a_quota() {
    let Some(ceph) = Ceph::start() else { return };
    ceph.go_on(Part::Manager);
    let pool = ceph.pool();
    let lab = Lab::on_ceph(&pool, "request_timeout = 20\n");
    let file = sparse(&lab, "file", 60 * MIB, &[(0, 30 * MIB)]);
    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    copy_in(&file, &volume.join("a.img"));
    for folder in [".full", ".incremental"] {
        let begun = File::create_new(volume.join(folder).join("b.img")).unwrap();
        begun.set_len(60 * MIB).unwrap();
        // Whenever a program is started here, this is published.
        ceph.admin(&["quota", &pool.name, "1000000"]);
        let data = vec![3; 30 << 20];
        let failed = begun.write_all_at(&data, 0).and_then(|()| begun.sync_all());
        assert_eq!(errno(failed), libc::ENOSPC);
        drop(begun);
        assert_eq!(
            errno(File::create_new(volume.join(".full/c.img"))),
            libc::ENOSPC
        );
        assert!(lab.log().contains("as its quota lets it"), "{}", lab.log());
        assert_eq!(names(&volume), ["a.img", "b.img"]);
        check_equal(&volume.join("a.img"), &file);
        assert_eq!(
            run(&mut shell(
                r#"tr -d '\0' < "$1" | wc -c"#,
                &[volume.join("b.img")]
            )),
            "0\n"
        );
        fs::remove_file(volume.join("b.img")).unwrap();
        ceph.admin(&["quota", &pool.name, "0"]);
    }
    copy_in(&file, &volume.join(".incremental/b.img"));
    check_equal(&volume.join("b.img"), &file);
    // Deleting makes room.
    ceph.admin(&["quota", &pool.name, "1000000"]);
    for name in ["b.img", "a.img"] {
        fs::remove_file(volume.join(name)).unwrap();
    }
    assert_eq!(names(&volume), [""; 0]);
    ceph.admin(&["quota", &pool.name, "0"]);
    wait_for("nothing is left over", || {
        gc(&lab, &["--delete"]).is_empty()
    });
    check_empty(&pool);
}

fn start_copying(from: &std::path::Path, to: &std::path::Path) -> Child {
    Command::new("cp").arg(from).arg(to).spawn().unwrap()
}

/// With the patience of the defaults nobody notices.
#[test]
fn processes_that_die_in_mid_backup() {
    let Some(ceph) = Ceph::start() else { return };
    let pool = ceph.pool();
    let lab = Lab::on_ceph(&pool, "");
    let file = sparse(&lab, "file", 256 * MIB, &[(0, 256 * MIB)]);
    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    for (part, folder) in [
        (Part::ObjectStore, ".full"),
        (Part::ObjectStore, ".incremental"),
        (Part::Monitor, ".incremental"),
    ] {
        scribble(&file, &(0..100 * MIB));
        let name = format!("{}.img", names(&volume).len());
        let mut copying = start_copying(&file, &volume.join(folder).join(&name));
        std::thread::sleep(std::time::Duration::from_millis(300));
        ceph.stop(part);
        ceph.go_on(part);
        assert!(copying.wait().unwrap().success());
        check_equal(&volume.join(&name), &file);
    }
}

/// When nobody answers for too long, the writer hears it, and what was there stays.
#[test]
fn an_object_store_that_stays_away() {
    let Some(ceph) = Ceph::start() else { return };
    let pool = ceph.pool();
    let lab = Lab::on_ceph(&pool, "request_timeout = 3\nlist_ttl = 0\n");
    let file = sparse(&lab, "file", 64 * MIB, &[(0, 64 * MIB)]);
    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    copy_in(&file, &volume.join("a.img"));
    let begun = File::create_new(volume.join(".full/b.img")).unwrap();
    begun.write_all_at(&[3; 1000], 0).unwrap();
    ceph.stop(Part::ObjectStore);
    assert_eq!(errno(begun.sync_all()), libc::EIO);
    assert_eq!(errno(File::create_new(volume.join("c.img"))), libc::EIO);
    assert_eq!(errno(fs::remove_file(volume.join("a.img"))), libc::EIO);
    assert!(lab.log().contains("did not answer"));
    drop(begun);
    ceph.go_on(Part::ObjectStore);
    wait_for("the cluster", || {
        let told = crate::model::status(&mount);
        told["backends"][0]["error"].is_null()
    });
    assert_eq!(names(&volume), ["a.img"]);
    check_equal(&volume.join("a.img"), &file);
    // For a while the image may count as in use by what was not answered.
    let to = volume.join(".incremental/d.img");
    wait_for("its image is free", || {
        output(&mut command("cp", &[&file, &to])).status.success()
    });
    check_equal(&volume.join("d.img"), &file);
    let (_, said) = fail(&mut command("cp", &[&file, &volume.join("d.img")]));
    assert!(said.contains("not permitted"), "{said}");
}
