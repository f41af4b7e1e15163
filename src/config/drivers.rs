//! The drivers that Cinder has, and the typed options of those that are built in.
//!
//! To add one: a variant of [`Driver`], the function that builds it (in a file of its own
//! when it is more than a few lines), and its line in [`DRIVERS`]. Must not know the file's syntax, nor what a driver does with its options.

use std::path::PathBuf;

use super::environment::Environment;
use super::options;
use super::scope::{Scope, Setting};
use super::value::{self, Wrong};
use super::{Backend, Chunked, Driver, Posix, ceph, share, swift, tsm};
use crate::error::Result;

/// Makes the options of a driver from what a section says.
type Build = fn(&Scope<'_>, &Environment) -> Result<Driver>;

/// A driver of Cinder's.
struct DriverEntry {
    /// Its short name: the last part of its module's path.
    name: &'static str,
    class: &'static str,
    build: Option<Build>,
}

/// Every driver of Cinder's, a line each; without a function it is not built in.
const DRIVERS: &[DriverEntry] = &[
    entry("posix", "PosixBackupDriver", Some(posix)),
    entry("nfs", "NFSBackupDriver", Some(share::nfs)),
    entry("glusterfs", "GlusterfsBackupDriver", Some(share::glusterfs)),
    entry("swift", "SwiftBackupDriver", Some(swift::build)),
    entry("ceph", "CephBackupDriver", Some(ceph::build)),
    entry("tsm", "TSMBackupDriver", Some(tsm::build)),
    entry("s3", "S3BackupDriver", None),
    entry("gcs", "GoogleBackupDriver", None),
];

/// The path of the package that holds Cinder's drivers, with the dot after it.
const PACKAGE: &str = "cinder.backup.drivers.";

const fn entry(name: &'static str, class: &'static str, build: Option<Build>) -> DriverEntry {
    DriverEntry { name, class, build }
}

/// The driver that a section asks for.
///
/// `setting` is its `backup_driver`: the path of the class, or of the module, or the
/// short name.
pub(super) fn build(
    setting: &Setting,
    scope: &Scope<'_>,
    environment: &Environment,
) -> Result<(&'static str, Driver)> {
    let (name, build) = setting.parse(find)?;
    Ok((name, build(scope, environment)?))
}

/// That a driver has nothing that only one of them may have together with another backend's.
pub(super) fn refuse_conflicts(driver: &Driver, others: &[Backend]) -> Result<(), Wrong> {
    match driver {
        Driver::Tsm(options) => options.refuse_shared_folders(others),
        _ => Ok(()),
    }
}

/// The options of `posix` for a folder, with what `scope` says of the rest.
pub(super) fn posix_at(path: PathBuf, place: &str, scope: &Scope<'_>) -> Result<Driver> {
    Ok(Driver::Posix(Posix {
        path,
        place: place.to_owned(),
        chunked: chunked_files(scope)?,
    }))
}

/// How the drivers that keep files cut backups.
pub(super) fn chunked_files(scope: &Scope<'_>) -> Result<Chunked> {
    let container = scope.own("backup_container")?;
    let container = container
        .map(|setting| setting.parse(value::container))
        .transpose()?;
    let sizes = ["backup_file_size", "backup_sha_block_size_bytes"];
    chunked(scope, sizes, container)
}

fn find(text: &str) -> Result<(&'static str, Build), Wrong> {
    let in_package = text.strip_prefix(PACKAGE).unwrap_or(text);
    let found = DRIVERS.iter().find(|driver| {
        let class = in_package
            .strip_prefix(driver.name)
            .and_then(|rest| rest.strip_prefix('.'));
        in_package == driver.name || class == Some(driver.class)
    });
    let usable = || {
        let names = DRIVERS.iter().filter(|driver| driver.build.is_some());
        let names: Vec<_> = names.map(|driver| driver.name).collect();
        names.join(", ")
    };
    match found {
        Some(DriverEntry {
            name,
            build: Some(build),
            ..
        }) => Ok((name, *build)),
        Some(DriverEntry { name, .. }) => Err(Wrong::new(
            format!("Cinder's driver \"{name}\" is not built into this program"),
            format!("it has: {}", usable()),
        )),
        None => {
            let near = options::nearest(in_package, DRIVERS.iter().map(|driver| driver.name));
            let hint = near
                .map(|name| format!("did you mean \"{name}\"? "))
                .unwrap_or_default();
            Err(Wrong::new(
                format!("there is no driver \"{text}\""),
                format!(
                    "{hint}write the path of its class or module, or its short name, one of: {}",
                    usable()
                ),
            ))
        }
    }
}

fn posix(scope: &Scope<'_>, _environment: &Environment) -> Result<Driver> {
    let setting = scope.required("backup_posix_path")?;
    posix_at(setting.parse(value::path)?, &setting.place, scope)
}

/// How backups are cut and compressed; every driver has names of its own for the sizes of
/// an object and of a block.
pub(super) fn chunked(
    scope: &Scope<'_>,
    [object, block]: [&'static str; 2],
    container: Option<String>,
) -> Result<Chunked> {
    let object = scope.required(object)?;
    let block = scope.required(block)?;
    let object_size = object.parse(value::object_size)?;
    let sha_block_size = block.parse(value::sha_block_size)?;
    if !object_size.is_multiple_of(sha_block_size) {
        // Whichever of the two the user wrote is the one to look at.
        let blamed = if object.set { &object } else { &block };
        let below = object_size - object_size % sha_block_size;
        let fitting = if below > 0 { below } else { sha_block_size };
        return Err(blamed.refuse(Wrong::new(
            format!("{object} is not a multiple of {block}"),
            format!("a {} of {fitting} is", object.option),
        )));
    }
    Ok(Chunked {
        object_size,
        sha_block_size,
        compression: scope
            .required("backup_compression_algorithm")?
            .parse(value::codec)?,
        container,
    })
}
