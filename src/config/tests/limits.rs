//! Incremental backups, and how much there may be.

use super::{accept, refuse, refuse_line};
use crate::config::{Incremental, Quotas};

#[test]
fn incremental_backups_and_quotas_are_off_by_default() {
    let common = &accept("[DEFAULT]\nbackup_driver = posix\n").backends[0].common;
    assert_eq!(common.incremental, Incremental::Never);
    assert_eq!(common.max_chain, None);
    assert_eq!(common.quotas, Quotas::default());
    assert_eq!(
        (common.quotas.backups, common.quotas.gigabytes),
        (None, None)
    );
}

#[test]
fn options_of_incremental_backups() {
    let with = |line: &str| {
        let text = format!("[DEFAULT]\nbackup_driver = posix\n{line}\n");
        let common = &accept(&text).backends[0].common;
        (common.incremental, common.max_chain)
    };
    for (line, expected) in [
        ("incremental = never", (Incremental::Never, None)),
        ("incremental = auto", (Incremental::Auto, None)),
        ("incremental = AUTO", (Incremental::Auto, None)),
        ("incremental : \"Never\"", (Incremental::Never, None)),
        ("max_chain = 0", (Incremental::Never, None)),
        ("max_chain = 1", (Incremental::Never, Some(1))),
        (
            "max_chain = 4294967295",
            (Incremental::Never, Some(u32::MAX)),
        ),
        (
            "max_chain = 7\nincremental = auto",
            (Incremental::Auto, Some(7)),
        ),
    ] {
        assert_eq!(with(line), expected, "{line}");
    }
    for line in [
        "incremental =",
        "incremental = always",
        "incremental = true",
        "incremental = auto never",
        "max_chain =",
        "max_chain = -1",
        "max_chain = 1.5",
        "max_chain = 4294967296",
        "max_chain = none",
    ] {
        let message = refuse_line(line);
        assert!(
            message.contains(line.split(' ').next().unwrap()),
            "{message}"
        );
        let advises = ["never", "plain digits"];
        assert!(
            advises.iter().any(|words| message.contains(words)),
            "{message}"
        );
    }
    let section = "[x]\nbackup_driver = posix\n";
    for (mistyped, right) in [
        ("incrementel = auto", "incremental"),
        ("max_chian = 3", "max_chain"),
    ] {
        let message = refuse(&format!("{section}{mistyped}\n"));
        assert!(message.contains(right), "{message}");
    }
}

#[test]
fn quotas_are_cinders() {
    let with = |line: &str| {
        let text = format!("[DEFAULT]\nbackup_driver = posix\n{line}\n");
        accept(&text).backends[0].common.quotas
    };
    let quotas = |backups, gigabytes| Quotas { backups, gigabytes };
    for (line, expected) in [
        ("quota_backups = 10", quotas(Some(10), None)),
        ("quota_backups = 0", quotas(Some(0), None)),
        ("quota_backups = -1", quotas(None, None)),
        ("quota_backup_gigabytes = 1000", quotas(None, Some(1000))),
        ("quota_backup_gigabytes = 0", quotas(None, Some(0))),
        ("quota_backup_gigabytes = -1", quotas(None, None)),
        (
            "quota_backups = 3\nquota_backup_gigabytes = 18446744073709551615",
            quotas(Some(3), Some(u64::MAX)),
        ),
    ] {
        assert_eq!(with(line), expected, "{line}");
    }
    for option in ["quota_backups", "quota_backup_gigabytes"] {
        for value in ["", "-2", "ten", "1.5", "10 GiB", "18446744073709551616"] {
            let message = refuse_line(&format!("{option} = {value}"));
            assert!(
                message.contains(option) && message.contains("-1"),
                "{message}"
            );
        }
    }
}

#[test]
fn options_of_increments_and_quotas_are_inherited() {
    let config = accept(
        "[DEFAULT]\nincremental = auto\nmax_chain = 5\nquota_backups = 7\n\
         quota_backup_gigabytes = 70\n\
         [a]\nbackup_driver = posix\n\
         [b]\nbackup_driver = posix\nincremental = never\nmax_chain = 0\n\
         quota_backups = -1\nquota_backup_gigabytes = 9\n",
    );
    let found: Vec<_> = config
        .backends
        .iter()
        .map(|backend| {
            let common = &backend.common;
            (common.incremental, common.max_chain, common.quotas)
        })
        .collect();
    let quotas = |backups, gigabytes| Quotas { backups, gigabytes };
    assert_eq!(
        found,
        [
            (Incremental::Auto, Some(5), quotas(Some(7), Some(70))),
            (Incremental::Never, None, quotas(None, Some(9))),
        ]
    );
}
