//! Cinder 22.0.0 up to, and not including, 29.0.0 leaves zeros out when it restores an
//! incremental backup onto a new volume, and so keeps what the backups below it had there
//! (bug 2162961). What it writes is right, and we read it right.

use crate::case::{Case, Ground, To, check_shown, lab, mib, new_volume, next_second};
use crate::common::judge::{CINDER, CINDER_BEFORE};
use crate::common::library::Dice;
use crate::image::{Edit, MIB, edited};

#[test]
fn what_cinder_28_restores_wrongly_we_read_right() {
    let lab = lab(&Ground::Posix, mib("zlib"));
    let Some(mut case) = Case::new(&Ground::Posix, &lab, CINDER_BEFORE) else {
        return;
    };
    let volume = new_volume();
    let full = Dice(51).noise(4 * MIB + 9);
    let zeroed = edited(&full, &[Edit::Zeros(MIB..3 * MIB), Edit::Data(5..6)]);
    case.volume(&volume, &full);
    let parent = case.judge.full(&volume, "full", "");
    case.volume(&volume, &zeroed);
    let child = case.judge.increment(&volume, "zeroed", "");

    let mount = lab.mount();
    check_shown(&mount, &parent.id, &full);
    check_shown(&mount, &child.id, &zeroed);

    let restored = case.restored(&child.id, zeroed.len());
    assert!(
        restored != zeroed,
        "this Cinder is not the one with the bug"
    );
    assert!(restored[MIB..3 * MIB] == full[MIB..3 * MIB], "stale data");
    let both = |range: std::ops::Range<usize>| restored[range.clone()] == zeroed[range];
    assert!(
        both(0..MIB) && both(3 * MIB..zeroed.len()),
        "right elsewhere"
    );

    // It is that Cinder, and not the backups: the next one restores them right, and those
    // that we write on top of them.
    next_second();
    let last = edited(&zeroed, &[Edit::Zeros(0..MIB)]);
    case.copy(&mount, &volume, To::Incremental, "ours", &last);
    let records = [&parent, &child].map(|row| case.judge.export(&row.id));
    case.replace_judge(CINDER);
    for record in records {
        case.judge.import(&record);
    }
    case.check_restored(&child.id, &zeroed);
    let ours = case.import(&volume, "ours");
    assert_eq!(ours.parent_id, Some(child.id));
    case.check_restored(&ours.id, &last);
}
