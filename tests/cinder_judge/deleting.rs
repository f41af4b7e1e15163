//! Each deletes what the other wrote, and leaves nothing behind.

use crate::case::{Case, Ground, Object, To, lab, mib, new_volume, next_second, path_of};
use crate::common::judge::CINDER;
use crate::common::mount::{command, errno, names, run};
use crate::image::{Edit, MIB, edited, image};
use serde_json::json;
use std::fs;

const NOTHING: [Object; 0] = [];

pub fn check_cinder_deletes(ground: &Ground) {
    let lab = lab(ground, mib("zlib"));
    let Some(mut case) = Case::new(ground, &lab, CINDER) else {
        return;
    };
    let (mount, volume) = (lab.mount(), new_volume());
    let full = image(31, 2 * MIB + 1);
    let next = edited(&full, &[Edit::Data(5..6)]);
    case.copy(&mount, &volume, To::Volume, "full", &full);
    case.copy(&mount, &volume, To::Incremental, "next", &next);
    case.copy(&mount, &volume, To::Volume, "other", &full);
    let [full, next] = ["full", "next"].map(|name| case.import(&volume, name));
    let delete = json!({"op": "delete", "backup": full.id});
    let refused = case.judge.refuse(delete);
    assert_eq!(refused.error, "InvalidBackup", "{}", refused.message);

    assert_eq!(case.objects(&next.id).len(), 3);
    case.judge.delete(&next.id);
    assert_eq!(case.objects(&next.id), NOTHING);
    assert_eq!(names(&mount.volume(&volume)), ["full", "other"]);
    case.judge.delete(&full.id);
    assert_eq!(case.objects(&full.id), NOTHING);
    assert_eq!(names(&mount.volume(&volume)), ["other"]);

    // With a backup of Cinder's on top of it, too.
    let other = case.import(&volume, "other");
    case.volume(&volume, &next_image());
    next_second();
    let theirs = case.judge.increment(&volume, "theirs", "");
    assert_eq!(theirs.parent_id.as_ref(), Some(&other.id));
    case.judge.delete(&theirs.id);
    case.judge.delete(&other.id);
    mount.unmount();
    assert_eq!(case.stored(), NOTHING);
    assert!(case.judge.list().is_empty());
}

fn next_image() -> Vec<u8> {
    image(32, MIB)
}

pub fn check_we_delete(ground: &Ground) {
    let lab = lab(ground, mib("zlib"));
    let Some(mut case) = Case::new(ground, &lab, CINDER) else {
        return;
    };
    let (mount, volume) = (lab.mount(), new_volume());
    let full = image(33, 2 * MIB + 1);
    let next = edited(&full, &[Edit::Data(5..6)]);
    case.volume(&volume, &full);
    let parent = case.judge.full(&volume, "full", "");
    case.volume(&volume, &next);
    let child = case.judge.increment(&volume, "next", "");
    next_second();
    let last = edited(&next, &[Edit::Zeros(0..MIB)]);
    case.copy(&mount, &volume, To::Incremental, "ours", &last);

    for (row, on_top) in [(&parent, "Cinder's"), (&child, "ours")] {
        let refused = errno(fs::remove_file(path_of(&mount, &row.id)));
        assert_eq!(refused, libc::EBUSY, "{on_top} is on top of it");
    }
    run(&mut command("rm", &[mount.volume(&volume).join("ours")]));
    for row in [&child, &parent] {
        assert!(case.objects(&row.id).len() >= 3);
        run(&mut command("rm", &[path_of(&mount, &row.id)]));
        assert_eq!(case.objects(&row.id), NOTHING);
    }
    mount.unmount();
    assert_eq!(case.stored(), NOTHING);
    // What Cinder still has in its database it can delete in its turn.
    for row in [&child, &parent] {
        case.judge.delete(&row.id);
    }
    assert!(case.judge.list().is_empty());
}

#[test]
fn cinder_deletes_ours() {
    check_cinder_deletes(&Ground::Posix);
}

#[test]
fn we_delete_cinders() {
    check_we_delete(&Ground::Posix);
}
