//! The options of Cinder's drivers `nfs` and `glusterfs`: posix on a share that mount(8)
//! mounts.
//!
//! Must not know the file's syntax, nor what a driver does with its options.

use super::environment::Environment;
use super::scope::{Scope, Setting};
use super::value::{self, Wrong};
use super::{Chunked, Driver, drivers};
use crate::error::Result;
use md5::{Digest, Md5};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Options of a driver that keeps backups in a folder of another machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Share {
    /// How it is mounted.
    pub kind: ShareKind,
    /// What is mounted, as mount(8) takes it: `host:/path`, `host:volume`.
    pub share: String,
    /// Where: an absolute path, the same as Cinder's.
    pub mount_point: PathBuf,
    /// Options for mount(8), with commas between them.
    pub mount_options: Option<String>,
    /// How often it is tried to mount before that counts as failed; at least once.
    pub attempts: u32,
    /// For how long the server may give no sign of life before a request counts as failed.
    pub request_timeout: Duration,
    /// Where the share was named: file, line, section and option, for messages.
    pub place: String,
    /// How backups are cut into objects.
    pub chunked: Chunked,
}

/// How a share is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShareKind {
    /// By the kernel's client of NFS.
    Nfs,
    /// By GlusterFS, in user space.
    GlusterFs,
}

impl ShareKind {
    /// The type of the file system, as mount(8) takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nfs => "nfs",
            Self::GlusterFs => "glusterfs",
        }
    }
}

/// Cinder's driver `nfs`.
pub(super) fn nfs(scope: &Scope<'_>, _environment: &Environment) -> Result<Driver> {
    let share = scope.required("backup_share")?;
    let base = scope.required("backup_mount_point_base")?;
    let options = scope.own("backup_mount_options")?;
    let attempts = scope.required("backup_mount_attempts")?;
    build(
        scope,
        ShareKind::Nfs,
        &share,
        &base,
        options
            .map(|setting| setting.parse(mount_options))
            .transpose()?
            .flatten(),
        attempts.parse(attempts_at_all)?,
    )
}

/// Cinder's driver `glusterfs`.
pub(super) fn glusterfs(scope: &Scope<'_>, _environment: &Environment) -> Result<Driver> {
    let share = scope.required("glusterfs_backup_share")?;
    let base = scope.required("glusterfs_backup_mount_point")?;
    build(scope, ShareKind::GlusterFs, &share, &base, None, 1)
}

fn build(
    scope: &Scope<'_>,
    kind: ShareKind,
    share: &Setting,
    base: &Setting,
    mount_options: Option<String>,
    attempts: u32,
) -> Result<Driver> {
    let place = share.place.clone();
    let share = share.parse(match kind {
        ShareKind::Nfs => nfs_share,
        ShareKind::GlusterFs => glusterfs_share,
    })?;
    Ok(Driver::Share(Box::new(Share {
        kind,
        mount_point: mount_point(&base.parse(value::path)?, &share),
        share,
        mount_options,
        attempts,
        request_timeout: scope.inherited("request_timeout")?.parse(value::timeout)?,
        place,
        chunked: drivers::chunked_files(scope)?,
    })))
}

/// Where Cinder (os-brick's `RemoteFsClient`) mounts a share.
fn mount_point(base: &Path, share: &str) -> PathBuf {
    let digest = u128::from_be_bytes(Md5::digest(share).into());
    base.join(format!("{digest:032x}"))
}

/// `host:/path`, `address:/path` or `[address of version 6]:/path`.
fn nfs_share(text: &str) -> Result<String, Wrong> {
    share(text, "host:/path or \"[address]:/path\"", |host, path| {
        path.starts_with('/')
            && (!host.contains(':') || host.starts_with('[') && host.ends_with(']'))
    })
}

/// `host:volume` or `host:/volume`, maybe with a folder of the volume.
fn glusterfs_share(text: &str) -> Result<String, Wrong> {
    share(text, "host:volume", |_, volume| {
        !volume.trim_matches('/').is_empty()
    })
}

/// A share, if `fits` says so of its host and of the rest.
fn share(text: &str, form: &str, fits: impl FnOnce(&str, &str) -> bool) -> Result<String, Wrong> {
    let text = value::text(text)?;
    // What follows the last colon of an address of version 6 is a part of it.
    let parts = match text.split_once(":/") {
        Some((host, _)) => text.get(host.len() + 1..).map(|rest| (host, rest)),
        None => text.rsplit_once(':'),
    };
    match parts {
        // mount(8) would take the first for an option.
        Some((host, rest)) if !host.is_empty() && !host.starts_with('-') && fits(host, rest) => {
            Ok(text)
        }
        _ => Err(Wrong::new(
            format!("\"{text}\" is not a share"),
            format!("write {form}"),
        )),
    }
}

/// What stands behind `-o` of mount(8).
fn mount_options(text: &str) -> Result<Option<String>, Wrong> {
    Ok(Some(value::text(text)?).filter(|text| !text.is_empty()))
}

/// How often something is tried, which is once at least.
fn attempts_at_all(text: &str) -> Result<u32, Wrong> {
    match value::attempts(text)? {
        0 => Err(Wrong::new("0 attempts are none", "write 1 or more")),
        attempts => Ok(attempts),
    }
}
