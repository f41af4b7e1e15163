//! The drivers `nfs` and `glusterfs`.

use super::{accept, refuse};
use crate::config::{Driver, Share, ShareKind};
use std::path::Path;
use std::time::Duration;

fn only(text: &str) -> Share {
    let config = accept(text);
    let Driver::Share(share) = &config.backends[0].driver else {
        panic!("{config:?}");
    };
    Share::clone(share)
}

fn nfs(lines: &str) -> String {
    let class = "cinder.backup.drivers.nfs.NFSBackupDriver";
    format!("[DEFAULT]\nbackup_driver = {class}\n{lines}\n")
}

fn glusterfs(lines: &str) -> String {
    let class = "cinder.backup.drivers.glusterfs.GlusterfsBackupDriver";
    format!("[DEFAULT]\nbackup_driver = {class}\n{lines}\n")
}

#[test]
fn a_share_is_mounted_where_cinder_does_by_default() {
    let share = only(&nfs("backup_share = nas.example:/backups"));
    assert_eq!(share.kind, ShareKind::Nfs);
    assert_eq!(share.share, "nas.example:/backups");
    // Of os-brick: hashlib.md5(b"nas.example:/backups").hexdigest()
    let expected = "/var/lib/cinder/backup_mount/aba6cb8783527b2d90a7dd2270b95ddf";
    assert_eq!(share.mount_point, Path::new(expected));
    assert_eq!(share.mount_options, None);
    assert_eq!(share.attempts, 3);
    assert_eq!(share.request_timeout, Duration::from_secs(60));
    assert_eq!(share.chunked.object_size, 1_999_994_880);
    let share = only(&glusterfs("glusterfs_backup_share = 1.2.3.4:backup_vol"));
    assert_eq!(share.kind, ShareKind::GlusterFs);
    let base = Path::new("/var/lib/cinder/backup_mount");
    assert_eq!(share.mount_point.parent(), Some(base));
    assert_eq!(share.attempts, 1);
}

#[test]
fn every_option_of_a_share_is_read() {
    let share = only(&nfs("backup_share = [fd00::1]:/b\n\
         state_path = /state\n\
         backup_mount_point_base = $state_path/mounts\n\
         backup_mount_options = vers=4.1,soft\n\
         backup_mount_attempts = 7\n\
         request_timeout = 2.5\n\
         backup_file_size = 65536\n\
         backup_container = team"));
    assert_eq!(share.share, "[fd00::1]:/b");
    assert_eq!(share.mount_point.parent(), Some(Path::new("/state/mounts")));
    assert_eq!(share.mount_options.as_deref(), Some("vers=4.1,soft"));
    assert_eq!(share.attempts, 7);
    assert_eq!(share.request_timeout, Duration::from_millis(2500));
    assert_eq!(share.chunked.object_size, 65536);
    assert_eq!(share.chunked.container.as_deref(), Some("team"));
    let share = only(&glusterfs(
        "glusterfs_backup_share = h:/v\nglusterfs_backup_mount_point = /m",
    ));
    assert_eq!(share.mount_point.parent(), Some(Path::new("/m")));
}

#[test]
fn what_is_no_share_is_refused() {
    for share in [
        "",
        "nas",
        "nas:",
        ":/b",
        "/b",
        "nas:b",
        "-o:/b",
        "fd00::1:/b",
        "nas\u{7}:/b",
    ] {
        let message = refuse(&nfs(&format!("backup_share = {share}")));
        assert!(
            message.contains("cinder.conf:3, [DEFAULT] backup_share"),
            "{message}"
        );
    }
    for share in ["", "nas", "nas:", "nas:/", ":vol", "-x:vol"] {
        let message = refuse(&glusterfs(&format!("glusterfs_backup_share = {share}")));
        assert!(
            message.contains("[DEFAULT] glusterfs_backup_share"),
            "{message}"
        );
        assert!(message.contains("host:volume"), "{message}");
    }
    let message = refuse(&nfs(""));
    assert!(
        message.contains("backup_share: it is not set; set it"),
        "{message}"
    );
    let message = refuse(&nfs("backup_share = a:/b\nbackup_mount_attempts = 0"));
    assert!(message.contains("write 1 or more"), "{message}");
    let message = refuse(&nfs("backup_share = a:/b\nbackup_mount_point_base = here"));
    assert!(message.contains("not an absolute path"), "{message}");
}
