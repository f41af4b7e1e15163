//! The options of the driver `tsm`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{accept, refuse};
use crate::config::{Driver, Tsm};

/// Some lines after these begin in line 3.
const HEAD: &str = "[DEFAULT]\nbackup_driver = cinder.backup.drivers.tsm.TSMBackupDriver\n";

fn with(lines: &str) -> Tsm {
    let config = accept(&format!("{HEAD}{lines}\n"));
    let Driver::Tsm(tsm) = &config.backends[0].driver else {
        panic!("{config:?}");
    };
    (**tsm).clone()
}

#[test]
fn cinders_defaults_hold() {
    let tsm = with("");
    assert_eq!(tsm.place, "cinder.conf:1, [DEFAULT]");
    assert_eq!((&*tsm.prefix, tsm.compression), ("backup", true));
    // Cinder's default is "password", which is nobody's.
    assert_eq!(tsm.password, None);
    assert_eq!(tsm.dsmc, Path::new("dsmc"));
    assert_eq!((tsm.option_file, tsm.server_name), (None, None));
    assert_eq!(tsm.staging, Path::new("/var/lib/cinder/backup_tsm"));
    assert_eq!(
        tsm.catalog,
        Path::new("/var/lib/cinder/backup_tsm/.catalog")
    );
    assert_eq!(tsm.staging_limit, None);
    assert_eq!(tsm.session_timeout, Duration::from_secs(120));
    assert_eq!(tsm.mount_timeout, Duration::from_secs(1800));
    assert!(!tsm.images && !tsm.legacy_commands && tsm.lists_images);
    assert!(tsm.folders.is_empty());
}

#[test]
fn every_option_is_read() {
    let tsm = with(
        "backup_tsm_volume_prefix = volume_backup\n\
         backup_tsm_password = hunter2\n\
         backup_tsm_compression = no\n\
         backup_tsm_dsmc_path = /opt/tsm/dsmc\n\
         backup_tsm_option_file = /etc/tsm/dsm.opt\n\
         backup_tsm_server_name = SP1\n\
         backup_tsm_staging_path = /srv/tsm/\n\
         backup_tsm_staging_limit = 500GiB\n\
         backup_tsm_session_timeout = 7.5\n\
         backup_tsm_mount_timeout = 3600\n\
         backup_tsm_mode = image\n\
         backup_tsm_legacy_commands = yes\n\
         backup_tsm_list_images = no\n\
         backup_tsm_catalog_path = /srv/records\n\
         backup_tsm_folders = /mnt/a, /mnt/b/",
    );
    assert_eq!((&*tsm.prefix, tsm.compression), ("volume_backup", false));
    assert_eq!(tsm.password.unwrap().expose(), "hunter2");
    assert_eq!(tsm.dsmc, Path::new("/opt/tsm/dsmc"));
    assert_eq!(tsm.option_file, Some(PathBuf::from("/etc/tsm/dsm.opt")));
    assert_eq!(tsm.server_name.as_deref(), Some("SP1"));
    assert_eq!(tsm.staging, Path::new("/srv/tsm"));
    assert_eq!(tsm.staging_limit, Some(500 << 30));
    assert_eq!(tsm.session_timeout, Duration::from_secs_f64(7.5));
    assert_eq!(tsm.mount_timeout, Duration::from_secs(3600));
    assert!(tsm.images && tsm.legacy_commands && !tsm.lists_images);
    assert_eq!(tsm.catalog, Path::new("/srv/records"));
    assert_eq!(tsm.folders, [Path::new("/mnt/a"), Path::new("/mnt/b")]);
}

#[test]
fn wrong_values_are_refused() {
    for (line, reason) in [
        ("backup_tsm_volume_prefix =", "cannot begin with"),
        ("backup_tsm_volume_prefix = a/b", "cannot begin with"),
        ("backup_tsm_volume_prefix = a*", "cannot begin with"),
        ("backup_tsm_compression = perhaps", "neither true nor false"),
        ("backup_tsm_dsmc_path =", "it is empty"),
        ("backup_tsm_dsmc_path = bin/dsmc", "is not an absolute path"),
        (
            "backup_tsm_option_file = dsm.opt",
            "is not an absolute path",
        ),
        ("backup_tsm_staging_path = tsm", "is not an absolute path"),
        ("backup_tsm_staging_path = /srv/{tsm}", "for a pattern"),
        (
            "backup_tsm_staging_limit = much",
            "is not a number of bytes",
        ),
        ("backup_tsm_session_timeout = 0", "is no time"),
        (
            "backup_tsm_mount_timeout = -1",
            "is not a number of seconds",
        ),
        ("backup_tsm_mode = tape", "neither file nor image"),
        ("backup_tsm_legacy_commands = 2", "neither true nor false"),
        (
            "backup_tsm_catalog_path = records",
            "is not an absolute path",
        ),
        ("backup_tsm_folders = /a, b", "is not an absolute path"),
        ("backup_tsm_folder = /a", "backup_tsm_folders"),
    ] {
        let message = refuse(&format!("{HEAD}{line}\n"));
        assert!(message.contains(reason), "{line}: {message}");
        assert!(message.contains("cinder.conf"), "{message}");
        let option = line.split(' ').next().unwrap();
        assert!(message.contains(option), "{message}");
    }
    let message = refuse(&format!(
        "{HEAD}backup_tsm_password = hunter2\nbackup_tsm_mode = x\n"
    ));
    assert!(!message.contains("hunter2"));
}
