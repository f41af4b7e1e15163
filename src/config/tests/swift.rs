//! The options of the driver `swift`, but for who logs in.

use std::path::Path;
use std::time::Duration;

use super::{environment, parse_in};
use crate::config::{Backend, Containers, Driver, Swift, Trust};
use crate::error::{Kind, Result};

/// A backend with somebody who can log in, and some lines more; they begin in line 6.
const LOGIN: &str = "[DEFAULT]\n\
    backup_driver = cinder.backup.drivers.swift.SwiftBackupDriver\n\
    backup_swift_auth_url = http://swift.example/auth/v1.0\n\
    backup_swift_user = test:tester\n\
    backup_swift_key = testing\n";

pub(super) fn swift_in(text: &str, variables: &[(&str, &str)]) -> Result<Swift> {
    let config = parse_in(text, variables)?;
    let [backend] = config.backends.as_slice() else {
        panic!("{config:?}");
    };
    Ok(options(backend).clone())
}

fn options(backend: &Backend) -> &Swift {
    let Driver::Swift(swift) = &backend.driver else {
        panic!("{backend:?}");
    };
    swift
}

fn with(lines: &str) -> Swift {
    let text = format!("{LOGIN}{lines}\n");
    swift_in(&text, &[]).unwrap_or_else(|error| panic!("{lines}\n{error}"))
}

fn named(containers: &[&str]) -> Containers {
    Containers::Named(containers.iter().map(|name| (*name).to_owned()).collect())
}

#[test]
fn cinders_defaults_hold() {
    let swift = with("");
    assert_eq!(swift.place, "cinder.conf:1, [DEFAULT]");
    assert_eq!(swift.chunked.object_size, 52_428_800);
    assert_eq!(swift.chunked.sha_block_size, 32_768);
    assert_eq!(swift.chunked.compression, "zlib");
    assert_eq!(swift.chunked.container.as_deref(), Some("volumebackups"));
    assert_eq!(swift.containers, named(&["volumebackups"]));
    assert_eq!(swift.storage_policy, None);
    assert_eq!(swift.retry_attempts, 3);
    assert_eq!(swift.retry_backoff, Duration::from_secs(2));
    assert_eq!(swift.request_timeout, Duration::from_secs(60));
    assert_eq!(swift.trust, Trust::default());
}

#[test]
fn every_option_is_read() {
    let swift = with(
        "backup_swift_object_size = 131072\n\
         backup_swift_block_size = 65536\n\
         backup_compression_algorithm = ZSTD\n\
         backup_swift_container = nightly backups\n\
         backup_swift_containers = customers, nightly backups,größer\n\
         backup_swift_create_storage_policy = silver\n\
         backup_swift_retry_attempts = 7\n\
         backup_swift_retry_backoff = 0.5\n\
         request_timeout = 12.5\n\
         backup_swift_ca_cert_file = /etc/ssl/ca.pem\n\
         backup_swift_auth_insecure = yes",
    );
    assert_eq!(swift.chunked.object_size, 131_072);
    assert_eq!(swift.chunked.sha_block_size, 65_536);
    assert_eq!(swift.chunked.compression, "zstd");
    assert_eq!(swift.chunked.container.as_deref(), Some("nightly backups"));
    let containers = named(&["nightly backups", "customers", "größer"]);
    assert_eq!(swift.containers, containers);
    assert_eq!(swift.storage_policy.as_deref(), Some("silver"));
    assert_eq!(swift.retry_attempts, 7);
    assert_eq!(swift.retry_backoff, Duration::from_millis(500));
    assert_eq!(swift.request_timeout, Duration::from_millis(12_500));
    let trust = Trust {
        ca_cert_file: Some("/etc/ssl/ca.pem".into()),
        insecure: true,
    };
    assert_eq!(swift.trust, trust);
    let all = with("backup_swift_containers = all");
    assert_eq!(all.containers, Containers::All);
    // As with Cinder, an empty name of a policy is none.
    let none = with("backup_swift_create_storage_policy =");
    assert_eq!(none.storage_policy, None);
    with(
        "backup_swift_service_auth = true\nbackup_swift_enable_progress_timer = false\n\
         keystone_catalog_info = identity:Identity Service:publicURL",
    );
}

#[test]
fn sections_inherit_the_timeout_alone() {
    let config = parse_in(
        "[DEFAULT]\nbackup_swift_object_size = 65536\nrequest_timeout = 9\n\
         backup_swift_containers = all\nbackup_swift_key = other\n\
         [far]\nbackup_driver = swift\nbackup_swift_auth_url = http://s/auth/v1.0\n\
         backup_swift_user = u\nbackup_swift_key = k\n\
         [near]\nbackup_driver = swift\nbackup_swift_auth_url = http://s/auth/v1.0\n\
         backup_swift_user = u\nbackup_swift_key = k\nrequest_timeout = 2\n",
        &[],
    )
    .unwrap();
    let [far, near] = config.backends.as_slice() else {
        panic!("{config:?}");
    };
    assert_eq!((far.name.as_str(), near.name.as_str()), ("far", "near"));
    let (far, near) = (options(far), options(near));
    assert_eq!(far.request_timeout, Duration::from_secs(9));
    assert_eq!(near.request_timeout, Duration::from_secs(2));
    assert_eq!(far.chunked.object_size, 52_428_800);
    assert_eq!(far.containers, named(&["volumebackups"]));
    assert_eq!(far.place, "cinder.conf:6, [far]");
    let message = parse_in(
        "[DEFAULT]\nbackup_swift_key = other\n[x]\nbackup_driver = swift\n\
         backup_swift_auth_url = http://s/auth/v1.0\nbackup_swift_user = u\n",
        &[],
    )
    .unwrap_err()
    .to_string();
    assert!(
        message.contains("cinder.conf:3, [x] backup_swift_key: it is not set"),
        "{message}"
    );
}

#[test]
fn bad_values_name_place_and_remedy() {
    for (line, parts) in [
        (
            "backup_swift_object_size = 100000",
            &[
                "100000 is not a multiple of backup_swift_block_size 32768",
                "98304",
            ][..],
        ),
        ("backup_swift_block_size = 0", &["\"0\""]),
        ("backup_swift_container =", &["\"\"", "at most 256 bytes"]),
        (
            "backup_swift_container = a/b",
            &["\"a/b\"", "without \"/\""],
        ),
        ("backup_swift_container = ..", &["\"..\""]),
        ("backup_swift_containers =", &["empty", "configured, all"]),
        ("backup_swift_containers = a,,b", &["\"\""]),
        ("backup_swift_containers = a, b/c", &["\"b/c\""]),
        ("backup_swift_retry_attempts = -1", &["\"-1\"", "0 to 1000"]),
        ("backup_swift_retry_attempts = many", &["\"many\""]),
        ("backup_swift_retry_backoff = -2", &["\"-2\"", "seconds"]),
        ("request_timeout = 0", &["no time", "such as 60"]),
        ("request_timeout = -1", &["\"-1\""]),
        (
            "backup_swift_ca_cert_file = ca.pem",
            &["\"ca.pem\" is not an absolute path"],
        ),
        ("backup_swift_auth_insecure = perhaps", &["\"perhaps\""]),
        (
            "backup_swift_create_storage_policy = größer",
            &["\"größer\"", "letters"],
        ),
        ("backup_compression_algorithm = lz4", &["codec \"lz4\""]),
    ] {
        let error = swift_in(&format!("{LOGIN}{line}\n"), &[]).expect_err(line);
        assert_eq!(error.kind(), Kind::Invalid, "{error}");
        let message = error.to_string();
        let option = line.split(' ').next().unwrap();
        let place = format!("cinder.conf:6, [DEFAULT] {option}: ");
        assert!(message.contains(&place), "{message}");
        for part in parts {
            assert!(message.contains(part), "{message}");
        }
    }
    let message = swift_in(&format!("{LOGIN}backup_swift_continers = all\n"), &[])
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("did you mean \"backup_swift_container"),
        "{message}"
    );
}

#[test]
fn a_variable_does_not_undo_what_the_file_trusts() {
    let variables = [("OS_CACERT", "/env/ca.pem"), ("OS_INSECURE", "true")];
    let trust = |lines: &str| {
        let text = format!("{LOGIN}{lines}\n");
        swift_in(&text, &variables).unwrap().trust
    };
    let of_variables = trust("");
    assert_eq!(
        of_variables.ca_cert_file.as_deref(),
        Some(Path::new("/env/ca.pem"))
    );
    assert!(of_variables.insecure);
    let of_file = trust("backup_swift_ca_cert_file = /file/ca.pem");
    assert_eq!(
        of_file.ca_cert_file.as_deref(),
        Some(Path::new("/file/ca.pem"))
    );
    assert!(!of_file.insecure);
    assert_eq!(
        trust("backup_swift_auth_insecure = false"),
        Trust::default()
    );
    let here = std::env::current_dir().unwrap();
    let relative = swift_in(LOGIN, &[("OS_CACERT", "ca.pem")]).unwrap();
    assert_eq!(relative.trust.ca_cert_file, Some(here.join("ca.pem")));
    let error = swift_in(LOGIN, &[("OS_INSECURE", "perhaps")]).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("the environment's OS_INSECURE: \"perhaps\""),
        "{message}"
    );
}

#[test]
fn variables_that_are_empty_are_not_set() {
    let environment = environment(&[("OS_REGION_NAME", ""), ("OS_USERNAME", "ada")]);
    assert_eq!(environment.text("OS_REGION_NAME"), None);
    assert_eq!(environment.text("OS_USERNAME").as_deref(), Some("ada"));
}
