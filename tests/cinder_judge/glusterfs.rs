//! The same on a real GlusterFS: the way to it is other, what is there is as on a folder.

use crate::building::check_turns;
use crate::case::{Case, Ground, lab, least, mib, new_volume};
use crate::common::judge::CINDER;
use crate::common::mount::is_mounted;
use crate::deleting::{check_cinder_deletes, check_we_delete};
use crate::image::MIB;
use crate::reading::check_chains;
use crate::recovering::check_records;
use crate::writing::check_chain;

/// Runs a check on a share of its own, where there is a server.
fn on_glusterfs(check: impl FnOnce(&Ground)) {
    if let Some(ground) = Ground::glusterfs() {
        check(&ground);
    }
}

/// What we find mounted is Cinder's, and stays.
#[test]
fn cinder_mounts_where_we_do() {
    on_glusterfs(|ground| {
        let lab = lab(ground, mib("zlib"));
        assert!(!lab.mount_point().exists());
        let Some(case) = Case::new(ground, &lab, CINDER) else {
            return;
        };
        assert!(is_mounted(&lab.mount_point()));
        let mount = lab.mount();
        mount.volume(&new_volume());
        assert_eq!(mount.unmount(), 0);
        assert!(is_mounted(&lab.mount_point()));
        drop(case);
    });
}

#[test]
fn chains() {
    on_glusterfs(|ground| check_chain(ground, 91, &[mib("zlib")]));
}

#[test]
fn cinders_chains() {
    let formats = [mib("zlib"), least("none")];
    on_glusterfs(|ground| check_chains(ground, &formats, MIB + 77));
}

#[test]
fn each_builds_on_the_other() {
    on_glusterfs(|ground| check_turns(ground, 92, &[true, false, true, false]));
}

#[test]
fn cinder_deletes_ours() {
    on_glusterfs(check_cinder_deletes);
}

#[test]
fn we_delete_cinders() {
    on_glusterfs(check_we_delete);
}

#[test]
fn a_new_cinder_restores_all_by_our_records() {
    on_glusterfs(check_records);
}
