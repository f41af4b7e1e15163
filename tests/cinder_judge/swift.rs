//! The same on a real Swift: all of it with version 1 of logging in, and what logs in at
//! other times with Keystone.

use crate::building::{check_growth, check_nothing_changed, check_turns};
use crate::case::{CODECS, Case, Format, Ground, check_shown, lab, least, mib, new_volume};
use crate::common::judge::CINDER;
use crate::deleting::{check_cinder_deletes, check_we_delete};
use crate::image::{Edit, KIB, MIB, edited, image};
use crate::reading::check_chains;
use crate::recovering::check_records;
use crate::writing::{check_chain, check_full, check_large, check_names};

/// Runs a check on an account of its own, where there are servers.
fn on_swift(check: impl FnOnce(&Ground)) {
    if let Some(ground) = Ground::swift() {
        check(&ground);
    }
}

/// The same with a project of Keystone's.
fn on_keystone(check: impl FnOnce(&Ground)) {
    if let Some(ground) = Ground::keystone() {
        check(&ground);
    }
}

/// Cinder alone: what it writes to these servers it restores.
fn check_cinder(ground: &Ground) {
    let lab = lab(ground, mib("zlib"));
    let Some(mut case) = Case::new(ground, &lab, CINDER) else {
        return;
    };
    let volume = new_volume();
    let full = image(61, 2 * MIB + 5);
    let next = edited(&full, &[Edit::Data(5..6), Edit::Zeros(MIB..MIB + 9)]);
    case.volume(&volume, &full);
    let parent = case.judge.full(&volume, "full", "");
    assert_eq!(parent.container, "volumebackups");
    case.volume(&volume, &next);
    let child = case.judge.increment(&volume, "next", "");
    for row in [&parent, &child] {
        assert!(case.objects(&row.id).len() >= 3);
    }
    let records = [&parent, &child].map(|row| case.judge.export(&row.id));
    case.replace_judge(CINDER);
    for record in &records {
        case.judge.import(record);
    }
    case.check_restored(&parent.id, &full);
    case.check_restored(&child.id, &next);
    case.judge.delete(&child.id);
    case.judge.delete(&parent.id);
    assert_eq!(case.stored(), []);
}

#[test]
fn cinder_restores_its_own() {
    on_swift(check_cinder);
}

#[test]
fn cinder_restores_its_own_by_keystone() {
    on_keystone(check_cinder);
}

#[test]
fn full_backups_of_every_codec() {
    on_swift(|ground| check_full(ground, 71, &CODECS.map(mib), &[3 * MIB + 123_457]));
}

#[test]
fn full_backups_by_keystone() {
    on_keystone(|ground| check_full(ground, 72, &[mib("zlib")], &[0, 3 * MIB + 1]));
}

#[test]
fn objects_of_32_kib_and_lengths_around_one() {
    let lengths = [0, 1, 32 * KIB - 1, 32 * KIB, 32 * KIB + 1, 300_001];
    on_swift(|ground| check_full(ground, 73, &["zlib", "none"].map(least), &lengths));
}

#[test]
fn objects_of_52428800() {
    on_swift(check_large);
}

#[test]
fn chains() {
    let formats = [mib("bz2"), mib("none"), mib("gzip"), mib("zstd")];
    on_swift(|ground| check_chain(ground, 74, &formats));
}

#[test]
fn chains_by_keystone() {
    on_keystone(|ground| check_chain(ground, 75, &[mib("zlib")]));
}

#[test]
fn names_in_any_language() {
    on_swift(check_names);
}

#[test]
fn cinders_chains_of_every_codec() {
    let odd = Format {
        compression: "zstd",
        object_size: 96 * KIB,
    };
    let mut formats = CODECS.map(mib).to_vec();
    formats.push(odd);
    on_swift(|ground| check_chains(ground, &formats, 2 * MIB + 123_457));
}

#[test]
fn cinders_chains_by_keystone() {
    on_keystone(|ground| check_chains(ground, &[mib("zlib")], 2 * MIB + 77));
}

#[test]
fn cinders_chains_with_large_objects() {
    let large = Format {
        compression: "zlib",
        object_size: 52_428_800,
    };
    on_swift(|ground| check_chains(ground, &[large], 60 * MIB + 5));
}

#[test]
fn each_builds_on_the_other() {
    on_swift(|ground| check_turns(ground, 76, &[true, false, false]));
    on_swift(|ground| check_turns(ground, 77, &[false, true, true]));
    on_swift(|ground| check_turns(ground, 78, &[true, false, true, false]));
}

#[test]
fn each_builds_on_the_other_by_keystone() {
    on_keystone(|ground| check_turns(ground, 79, &[false, true, false]));
}

#[test]
fn nothing_changed() {
    on_swift(check_nothing_changed);
}

#[test]
fn growth_on_cinders() {
    on_swift(check_growth);
}

#[test]
fn cinder_deletes_ours() {
    on_swift(check_cinder_deletes);
}

#[test]
fn we_delete_cinders() {
    on_swift(check_we_delete);
}

#[test]
fn we_delete_cinders_by_keystone() {
    on_keystone(check_we_delete);
}

#[test]
fn a_new_cinder_restores_all_by_our_records() {
    on_swift(check_records);
}

/// A container that a user of Cinder's has chosen.
#[test]
fn containers_of_users() {
    on_swift(|ground| {
        let lab = lab(ground, mib("zlib"));
        let Some(mut case) = Case::new(ground, &lab, CINDER) else {
            return;
        };
        let volume = new_volume();
        let full = image(80, MIB + 5);
        let next = edited(&full, &[Edit::Data(5..6)]);
        case.volume(&volume, &full);
        let parent = case.judge.full_into(&volume, "not the usual one");
        assert_eq!(parent.container, "not the usual one");
        case.volume(&volume, &next);
        let child = case.judge.increment(&volume, "next", "");
        assert_eq!(child.container, "volumebackups");
        let mount = lab.mount();
        check_shown(&mount, &parent.id, &full);
        check_shown(&mount, &child.id, &next);
    });
}
