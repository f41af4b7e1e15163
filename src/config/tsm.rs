//! The options of the driver `tsm`: how IBM's client is run, where images are staged, and
//! what says of Cinder's own backups whose they are.
//!
//! Must not know how any of this is used.

use super::environment::Environment;
use super::scope::Scope;
use super::value::{self, Wrong, text};
use super::{Backend, Driver};
use crate::error::Result;
use crate::secret::Secret;
use std::path::PathBuf;
use std::time::Duration;

/// Below the folder of stages, what we know of backups of our own, unless another is named.
const CATALOG: &str = ".catalog";

/// Options of the driver `tsm`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tsm {
    /// Where this backend is configured: file, line and section, for messages.
    pub place: String,
    /// What the names of objects begin with.
    pub prefix: String,
    /// The password of the node, where the client does not keep it itself.
    pub password: Option<Secret>,
    /// The client compresses what it sends.
    pub compression: bool,
    /// The client: a path, or a name that is looked for in `PATH`.
    /// A script in its place must end with `exec`: only the process that was started, and
    /// not one that it started, is certain to end with this program.
    pub dsmc: PathBuf,
    /// Its option file, instead of the one that it finds by itself.
    pub option_file: Option<PathBuf>,
    /// The stanza of its dsm.sys.
    pub server_name: Option<String>,
    /// The folder for what is on its way in either direction.
    pub staging: PathBuf,
    /// How much of what was fetched is kept there, in bytes; `None`: what there is room for.
    pub staging_limit: Option<u64>,
    /// The longest that a question may take.
    pub session_timeout: Duration,
    /// The longest that nothing may come of a transfer: a tape may have to be mounted.
    pub mount_timeout: Duration,
    /// Devices are backed up as images.
    pub images: bool,
    /// Images are looked for.
    pub lists_images: bool,
    /// Files are sent by the command that Cinder's driver gave.
    pub legacy_commands: bool,
    /// The folder of records, and of notes on backups of our own.
    pub catalog: PathBuf,
    /// Folders in which Cinder had the files of volumes.
    pub folders: Vec<PathBuf>,
}

impl Tsm {
    /// What one backend has in its folders is nothing that another could know.
    pub(super) fn refuse_shared_folders(&self, others: &[Backend]) -> Result<(), Wrong> {
        let real = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
        for other in others {
            let Driver::Tsm(theirs) = &other.driver else {
                continue;
            };
            for (option, ours, theirs) in [
                ("backup_tsm_staging_path", &self.staging, &theirs.staging),
                ("backup_tsm_catalog_path", &self.catalog, &theirs.catalog),
            ] {
                if real(ours) == real(theirs) {
                    let (ours, name) = (ours.display(), &other.name);
                    return Err(Wrong::new(
                        format!("{option} is {ours} here and for the backend \"{name}\""),
                        "give each backend a folder of its own",
                    ));
                }
            }
        }
        Ok(())
    }
}

/// The options of the driver `tsm`.
pub(super) fn build(scope: &Scope<'_>, _environment: &Environment) -> Result<Driver> {
    let staging = scope.required("backup_tsm_staging_path")?.parse(folder)?;
    let option = |name| -> Result<Option<_>> {
        // What is empty is not set.
        Ok(scope.own(name)?.filter(|setting| !setting.is_empty()))
    };
    let catalog = match option("backup_tsm_catalog_path")? {
        Some(setting) => setting.parse(value::path)?,
        None => staging.join(CATALOG),
    };
    Ok(Driver::Tsm(Box::new(Tsm {
        place: scope.place(),
        prefix: scope.required("backup_tsm_volume_prefix")?.parse(prefix)?,
        password: scope.secret("backup_tsm_password")?,
        compression: scope
            .required("backup_tsm_compression")?
            .parse(value::switch)?,
        dsmc: scope.required("backup_tsm_dsmc_path")?.parse(program)?,
        option_file: match option("backup_tsm_option_file")? {
            Some(setting) => Some(setting.parse(value::path)?),
            None => None,
        },
        server_name: match option("backup_tsm_server_name")? {
            Some(setting) => Some(setting.parse(text)?),
            None => None,
        },
        staging,
        staging_limit: scope.required("backup_tsm_staging_limit")?.parse(amount)?,
        session_timeout: scope
            .required("backup_tsm_session_timeout")?
            .parse(value::timeout)?,
        mount_timeout: scope
            .required("backup_tsm_mount_timeout")?
            .parse(value::timeout)?,
        images: scope.required("backup_tsm_mode")?.parse(mode)?,
        lists_images: scope
            .required("backup_tsm_list_images")?
            .parse(value::switch)?,
        legacy_commands: scope
            .required("backup_tsm_legacy_commands")?
            .parse(value::switch)?,
        catalog,
        folders: match option("backup_tsm_folders")? {
            Some(setting) => setting.parse(folders)?,
            None => Vec::new(),
        },
    })))
}

/// A path that the client takes for itself: it reads some characters as patterns.
fn folder(text: &str) -> Result<PathBuf, Wrong> {
    if text.contains(['*', '?', '[', ']', '{', '}', '"', '\'']) {
        return Err(Wrong::new(
            format!("the client would take \"{text}\" for a pattern"),
            "take a path without any of * ? [ ] { } and quotation marks",
        ));
    }
    // A slash at the end would stand twice in the names of objects.
    let trimmed = text.trim_end_matches('/');
    value::path(if trimmed.is_empty() { text } else { trimmed })
}

fn folders(text: &str) -> Result<Vec<PathBuf>, Wrong> {
    let parts = text.split(',').map(str::trim);
    parts.filter(|part| !part.is_empty()).map(folder).collect()
}

fn program(name: &str) -> Result<PathBuf, Wrong> {
    match text(name)? {
        name if name.is_empty() => Err(Wrong::new("it is empty", "write dsmc, or its path")),
        name if name.contains('/') => value::path(&name),
        name => Ok(name.into()),
    }
}

fn prefix(name: &str) -> Result<String, Wrong> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || name.starts_with(['-', '.']) || !name.chars().all(fits) {
        return Err(Wrong::new(
            format!("the names of files cannot begin with \"{name}\""),
            "write letters, digits and underscores, such as backup",
        ));
    }
    Ok(name.to_owned())
}

fn mode(text: &str) -> Result<bool, Wrong> {
    match text.trim().to_ascii_lowercase().as_str() {
        "file" => Ok(false),
        "image" => Ok(true),
        _ => Err(Wrong::new(
            format!("\"{text}\" is neither file nor image"),
            "write file, or image to back devices up as images",
        )),
    }
}

/// Bytes, with a unit or without; `None`, written as 0, for no limit.
fn amount(text: &str) -> Result<Option<u64>, Wrong> {
    let trimmed = text.trim();
    let end = trimmed.find(|c: char| !c.is_ascii_digit());
    let (digits, unit) = trimmed.split_at(end.unwrap_or(trimmed.len()));
    let shift = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" => Some(0),
        "k" | "kib" => Some(10),
        "m" | "mib" => Some(20),
        "g" | "gib" => Some(30),
        "t" | "tib" => Some(40),
        _ => None,
    };
    let bytes = digits.parse::<u64>().ok().zip(shift);
    let bytes = bytes.and_then(|(number, shift)| number.checked_mul(1 << shift));
    let bytes = bytes.ok_or_else(|| {
        Wrong::new(
            format!("\"{text}\" is not a number of bytes"),
            "write bytes, or a number with K, M, G, T, KiB, MiB, GiB or TiB, such as 500GiB, or 0 \
             for no limit",
        )
    })?;
    Ok(Some(bytes).filter(|bytes| *bytes > 0))
}
