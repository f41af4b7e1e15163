//! Each builds on what the other wrote.

use crate::case::{Case, Ground, To, check_shown, lab, least, mib, new_volume, next_second};
use crate::common::judge::CINDER;
use crate::image::{Edit, MIB, edited, image};

/// What happens to the volume before each backup. Cinder refuses growth, and an image that
/// is shorter than the list of hashes of its parent is fine with it.
fn edits(turn: usize) -> Vec<Edit> {
    let at = turn * 150_000;
    vec![
        Edit::Data(at..at + 50_000),
        Edit::Zeros(at + 200_000..at + 290_000),
        Edit::Data(2 * MIB + turn..2 * MIB + turn + 1),
    ]
}

/// Backups of one volume by turns: ours where `ours` is true, each on top of the one
/// before. All of them are restored by Cinder and shown by us.
pub fn check_turns(ground: &Ground, seed: u64, ours: &[bool]) {
    let formats = [mib("zlib"), least("zstd"), mib("none"), mib("bz2")];
    let lab = lab(ground, formats[0]);
    let Some(mut case) = Case::new(ground, &lab, CINDER) else {
        return;
    };
    let volume = new_volume();
    let mut image = image(seed, 3 * MIB + 12_345);
    let mut made: Vec<(String, Vec<u8>)> = Vec::new();
    for (turn, is_ours) in ours.iter().enumerate() {
        if turn > 0 {
            image = edited(&image, &edits(turn));
            next_second();
        }
        case.configure(formats[turn % formats.len()]);
        case.volume(&volume, &image);
        let name = turn.to_string();
        let row = match (is_ours, turn) {
            (true, _) => {
                let to = if turn == 0 {
                    To::Volume
                } else {
                    To::Incremental
                };
                let mount = lab.mount();
                case.copy(&mount, &volume, to, &name, &image);
                case.import(&volume, &name)
            }
            (false, 0) => case.judge.full(&volume, &name, ""),
            (false, _) => case.judge.increment(&volume, &name, ""),
        };
        assert_eq!(row.parent_id, made.last().map(|(id, _)| id.clone()));
        made.push((row.id, image.clone()));
    }
    let mount = lab.mount();
    for (id, image) in &made {
        check_shown(&mount, id, image);
        case.check_restored(id, image);
    }
}

#[test]
fn cinder_on_ours() {
    check_turns(&Ground::Posix, 21, &[true, false, false]);
}

#[test]
fn ours_on_cinders() {
    check_turns(&Ground::Posix, 22, &[false, true, true]);
}

#[test]
fn by_turns() {
    check_turns(&Ground::Posix, 23, &[true, false, true, false, true, false]);
    check_turns(&Ground::Posix, 24, &[false, false, true, true, false]);
}

/// When nothing has changed, neither stores an object, and both restore it.
pub fn check_nothing_changed(ground: &Ground) {
    let lab = lab(ground, mib("zlib"));
    let Some(mut case) = Case::new(ground, &lab, CINDER) else {
        return;
    };
    let volume = new_volume();
    let image = image(25, 2 * MIB + 1);
    case.volume(&volume, &image);
    let mount = lab.mount();
    case.copy(&mount, &volume, To::Volume, "full", &image);
    case.import(&volume, "full");
    next_second();
    let theirs = case.judge.increment(&volume, "theirs", "");
    next_second();
    case.copy(&mount, &volume, To::Incremental, "ours", &image);
    let ours = case.import(&volume, "ours");
    assert_eq!(ours.parent_id.as_ref(), Some(&theirs.id));
    for row in [theirs, ours] {
        assert_eq!(row.object_count, 0);
        assert_eq!(case.metadata(&row.id)["objects"], serde_json::json!([]));
        check_shown(&mount, &row.id, &image);
        case.check_restored(&row.id, &image);
    }
}

/// Ours on Cinder's may be longer than their parent, which Cinder's own never are.
pub fn check_growth(ground: &Ground) {
    let lab = lab(ground, mib("zlib"));
    let Some(mut case) = Case::new(ground, &lab, CINDER) else {
        return;
    };
    let volume = new_volume();
    let first = image(26, MIB + 40_000);
    let grown = edited(&first, &[Edit::Growth(2 * MIB)]);
    case.volume(&volume, &first);
    case.judge.full(&volume, "full", "");
    next_second();
    let mount = lab.mount();
    case.copy(&mount, &volume, To::Incremental, "grown", &grown);
    let row = case.import(&volume, "grown");
    case.check_restored(&row.id, &grown);
    // Cinder goes on from there.
    next_second();
    let last = edited(&grown, &[Edit::Zeros(MIB..2 * MIB)]);
    case.volume(&volume, &last);
    let on_top = case.judge.increment(&volume, "on top", "");
    assert_eq!(on_top.parent_id, Some(row.id));
    case.check_restored(&on_top.id, &last);
    check_shown(&mount, &on_top.id, &last);
}

#[test]
fn nothing_changed() {
    check_nothing_changed(&Ground::Posix);
}

#[test]
fn growth_on_cinders() {
    check_growth(&Ground::Posix);
}
