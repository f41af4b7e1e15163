//! The options of the driver `ceph`.

use std::path::Path;
use std::time::Duration;

use super::{accept, refuse};
use crate::config::{Ceph, Driver, Striping};

/// Some lines after these begin in line 3.
const HEAD: &str = "[DEFAULT]\nbackup_driver = cinder.backup.drivers.ceph.CephBackupDriver\n";

fn with(lines: &str) -> Ceph {
    let config = accept(&format!("{HEAD}{lines}\n"));
    let Driver::Ceph(ceph) = &config.backends[0].driver else {
        panic!("{config:?}");
    };
    (**ceph).clone()
}

#[test]
fn cinders_defaults_hold() {
    let ceph = with("");
    assert_eq!(ceph.place, "cinder.conf:1, [DEFAULT]");
    assert_eq!(ceph.conf, Path::new("/etc/ceph/ceph.conf"));
    assert_eq!((&*ceph.user, &*ceph.pool), ("cinder", "backups"));
    assert_eq!(ceph.chunk_size, 128 << 20);
    assert_eq!(ceph.striping, None);
    assert!(!ceph.journals && ceph.discard_excess);
    assert_eq!(ceph.connect_timeout, Duration::from_secs(30));
    assert_eq!(ceph.request_timeout, Duration::from_secs(60));
}

#[test]
fn every_option_is_read() {
    let ceph = with(
        "backup_ceph_conf = /srv/ceph.conf\n\
         backup_ceph_user = cinder-backup\n\
         backup_ceph_pool = my backups\n\
         backup_ceph_chunk_size = 4194304\n\
         backup_ceph_stripe_unit = 65536\n\
         backup_ceph_stripe_count = 3\n\
         backup_ceph_image_journals = yes\n\
         restore_discard_excess_bytes = no\n\
         rados_connect_timeout = 5\n\
         request_timeout = 7.5",
    );
    assert_eq!(ceph.conf, Path::new("/srv/ceph.conf"));
    assert_eq!((&*ceph.user, &*ceph.pool), ("cinder-backup", "my backups"));
    assert_eq!(ceph.chunk_size, 4 << 20);
    let striping = Striping {
        unit: 65536,
        count: 3,
    };
    assert_eq!(ceph.striping, Some(striping));
    assert!(ceph.journals && !ceph.discard_excess);
    assert_eq!(ceph.connect_timeout, Duration::from_secs(5));
    assert_eq!(ceph.request_timeout, Duration::from_secs_f64(7.5));
    // What Cinder leaves to librados.
    let ceph = with("rados_connect_timeout = -1");
    assert_eq!(ceph.connect_timeout, Duration::from_secs(300));
}

#[test]
fn a_section_has_them_as_well() {
    let config = accept(
        "[volumes-of-mine]\nbackup_driver = ceph\nbackup_ceph_pool = p\n\
         rados_connect_timeout = 9\n",
    );
    assert_eq!(config.backends[0].name, "volumes-of-mine");
    assert!(matches!(&config.backends[0].driver, Driver::Ceph(ceph) if ceph.pool == "p"));
}

#[test]
fn wrong_values_are_refused() {
    for (line, reason) in [
        ("backup_ceph_conf = ceph.conf", "is not an absolute path"),
        ("backup_ceph_conf =", "it is empty"),
        ("backup_ceph_user =", "it is empty"),
        (
            "backup_ceph_user = client.cinder",
            "would be client.client.cinder",
        ),
        ("backup_ceph_pool =", "cannot be the name of a pool"),
        ("backup_ceph_pool = a/b", "cannot be the name of a pool"),
        ("backup_ceph_chunk_size = 0", "is not a number of bytes"),
        ("backup_ceph_chunk_size = 128M", "is not a number of bytes"),
        (
            "backup_ceph_stripe_unit = 65536",
            "backup_ceph_stripe_count is 0",
        ),
        (
            "backup_ceph_stripe_count = 2",
            "backup_ceph_stripe_unit is 0",
        ),
        ("backup_ceph_stripe_unit = -1", "is not a number from 0"),
        (
            "backup_ceph_stripe_unit = 1000\nbackup_ceph_stripe_count = 2",
            "cannot be cut into pieces of 1000",
        ),
        (
            "backup_ceph_image_journals = perhaps",
            "neither true nor false",
        ),
        ("restore_discard_excess_bytes = 2", "neither true nor false"),
        ("rados_connect_timeout = 0", "is no time"),
        ("rados_connect_timeout = -2", "is not a number of seconds"),
        ("request_timeout = soon", "is not a number of seconds"),
    ] {
        let message = refuse(&format!("{HEAD}{line}\n"));
        assert!(message.contains(reason), "{line}: {message}");
        assert!(message.contains("cinder.conf"), "{message}");
        let option = line.split(' ').next().unwrap();
        assert!(message.contains(option), "{message}");
    }
}
