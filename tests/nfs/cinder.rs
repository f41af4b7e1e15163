//! Cinder's own driver for NFS, which mounts the share by itself, and ours, both ways.

use crate::common::judge::{CINDER, Judge, Row};
use crate::common::mount::{Lab, MIB, command, is_mounted, run};
use crate::common::nfs::{Kind, Nfs};
use crate::share_cases::{VOLUME, cat, copy, noise, of};
use std::fs;
use std::path::{Path, PathBuf};

const OPTIONS: &str = "backup_file_size = 1048576\nlist_ttl = 0\n";
/// The volume of which Cinder makes backups first.
const CINDERS: &str = "5f0c2b1e-8b1f-4c58-a1a4-0c6f5f1f2a02";

/// An image, and what becomes of it: twice.
fn images(seed: u64) -> [Vec<u8>; 3] {
    let full = noise(seed, MIB + MIB / 2);
    let mut next = full.clone();
    next[MIB - 9..MIB + 9].fill(0);
    let mut last = next.clone();
    last[70_000..90_000].copy_from_slice(&noise(seed + 1, 20_000));
    [full, next, last]
}

/// The path of a backup in the mount.
fn shown(mount: &Path, row: &Row) -> PathBuf {
    let link = mount.join(".cinderfs/by-id").join(&row.id);
    fs::canonicalize(&link).unwrap_or_else(|e| panic!("{}: {e}", link.display()))
}

/// What Cinder makes of a backup on a new volume. It leaves zeros at the end out.
fn restored(lab: &Lab, judge: &mut Judge, row: &Row, length: usize) -> Vec<u8> {
    let path = lab.path(&format!("restored-{}", row.id));
    judge.restore_new(&row.id, &path);
    let mut restored = fs::read(path).unwrap();
    if restored.len() < length {
        restored.resize(length, 0);
    }
    restored
}

/// Chains of three, of which one is full: Cinder's with our third on them, and ours with a
/// third of Cinder's.
#[test]
#[ignore = "runs in a virtual machine"]
fn cinder_restores_ours_and_we_show_cinders() {
    let nfs = Nfs::start(Kind::Kernel);
    let lab = Lab::on_share(&nfs, OPTIONS);
    assert!(!is_mounted(&lab.mount_point()));
    let mut judge = Judge::start(CINDER, &lab.config()).unwrap();
    assert!(is_mounted(&lab.mount_point()));

    // Cinder begins.
    let theirs = images(31);
    let file = lab.source("volume", &theirs[0]);
    judge.volume(CINDERS, &file, 1);
    let mut rows = vec![judge.full(CINDERS, "full", "")];
    fs::write(&file, &theirs[1]).unwrap();
    rows.push(judge.increment(CINDERS, "next", ""));
    // So do we, where Cinder has mounted, and there is no other mount.
    let ours = images(41);
    let mount = lab.mount();
    let ours_are = [(".full", "full"), (".incremental", "next")];
    for ((folder, name), image) in ours_are.iter().zip(&ours) {
        let source = lab.source("source", image);
        copy(&source, &of(&mount, folder).join(name)).unwrap();
    }
    // And each goes on with the other's.
    let source = lab.source("source", &theirs[2]);
    let folder = mount.volume(CINDERS);
    copy(&source, &folder.join(".incremental/last")).unwrap();
    for (row, image) in rows.iter().zip(&theirs) {
        let shown = cat(&shown(mount.root(), row)).unwrap();
        assert!(shown == *image, "{} differs", row.id);
    }
    let record = |volume: &str, name: &str| {
        let path = format!(".cinderfs/{}/{volume}/{name}.record", lab.backend());
        serde_json::from_slice(&cat(&mount.path(&path)).unwrap()).unwrap()
    };
    rows.push(judge.import(&record(CINDERS, "last")));
    let mut ours_rows: Vec<Row> = ours_are
        .iter()
        .map(|(_, name)| judge.import(&record(VOLUME, name)))
        .collect();
    let file = lab.source("other-volume", &ours[2]);
    judge.volume(VOLUME, &file, 1);
    ours_rows.push(judge.increment(VOLUME, "last", ""));

    for (rows, images) in [(&rows, &theirs), (&ours_rows, &ours)] {
        for ((row, parent), image) in rows.iter().zip([None, Some(0), Some(1)]).zip(images) {
            let parent = parent.map(|parent: usize| rows[parent].id.clone());
            assert_eq!(row.parent_id, parent);
            let made = restored(&lab, &mut judge, row, image.len());
            assert!(made == *image, "{} restored by Cinder differs", row.id);
            let read = cat(&shown(mount.root(), row)).unwrap();
            assert!(read == *image, "{} read through the mount differs", row.id);
        }
    }
    assert_eq!(mount.unmount(), 0);
    // It is Cinder's.
    assert!(is_mounted(&lab.mount_point()));
    let config = lab.config();
    run(&mut lab.cinderfs(&["verify", "--config", config.to_str().unwrap()]));
    drop(judge);
    run(&mut command("umount", &[lab.mount_point()]));
}
