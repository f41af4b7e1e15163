//! The configuration: Cinder's own file, or a store named on the command line, turned
//! into typed and checked options, one set per backend.
//!
//! `ini` reads the syntax (oslo.config's), `options` lists the names and defaults,
//! `scope` finds the value of an option and says where it stands, `value` turns text
//! into numbers, paths and names, `drivers` builds the options of each driver, `share`,
//! `swift`, `ceph` and `tsm` those of these, `environment` looks variables up, `assembly` puts it
//! all together, `place`
//! knows what holds without a file.
//!
//! Every mistake of the user ends in one error that names the file with the line, the
//! section, the option, what is wrong with it and what is allowed.
//!
//! This room must not know any other, and it must not look into a store: whether a
//! folder exists and may be written to is for its driver to say.

mod assembly;
mod ceph;
mod drivers;
mod environment;
mod ini;
mod options;
mod place;
mod scope;
mod share;
mod swift;
mod tsm;
mod value;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::Result;
pub use ceph::{Ceph, Striping};
use environment::Environment;
use ini::Document;
pub use share::{Share, ShareKind};
pub use swift::{Containers, Credential, Domain, Endpoint, Identity, Login, Named, Swift, Trust};
pub use tsm::Tsm;

/// All that is configured. There is at least one backend, and no two share a name.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// What holds for the whole program.
    pub settings: Settings,
    /// The backends, in the order of the file; that of `[DEFAULT]` comes first.
    pub backends: Vec<Backend>,
}

/// What holds for the whole program.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// What cache, prefetch and writers may hold together, in bytes.
    pub memory: u64,
    /// The folder for what does not fit into memory and for what is kept across mounts.
    pub spool_path: PathBuf,
}

/// One backup store: a folder in the root of the mount.
#[derive(Debug, Clone, PartialEq)]
pub struct Backend {
    /// Its name, fit to be the name of a folder and not beginning with a dot.
    pub name: String,
    /// How its store is reached.
    pub driver: Driver,
    /// What every backend has, whatever its driver.
    pub common: Common,
}

/// Options that every backend has, whatever its driver.
#[derive(Debug, Clone, PartialEq)]
pub struct Common {
    /// For how long a listing of the store is taken for true.
    pub list_ttl: Duration,
    /// Whether backups may be added, but not deleted.
    pub append_only: bool,
    /// What a file that is written straight into the folder of a volume becomes.
    pub incremental: Incremental,
    /// The most backups that may be built one on the other, on a full one, before
    /// [`Incremental::Auto`] begins with a full one again.
    pub max_chain: Option<u32>,
    /// How much there may be.
    pub quotas: Quotas,
}

/// When a new backup is an incremental one, if nobody says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incremental {
    /// Never, as with Cinder.
    Never,
    /// Whenever there is a backup that it can be built on.
    Auto,
}

/// How much a backend may hold; `None`: as much as there is room for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quotas {
    /// The number of backups.
    pub backups: Option<u64>,
    /// The sizes of their images together, each rounded up to whole GiB.
    pub gigabytes: Option<u64>,
}

/// The driver of a backend, with its options.
#[derive(Debug, Clone, PartialEq)]
pub enum Driver {
    /// A folder of this machine.
    Posix(Posix),
    /// A folder of another machine, which is mounted here.
    Share(Box<Share>),
    /// A Swift object store.
    Swift(Box<Swift>),
    /// A pool of a Ceph cluster.
    Ceph(Box<Ceph>),
    /// IBM Storage Protect, by its client.
    Tsm(Box<Tsm>),
}

/// Options of the driver `posix`.
#[derive(Debug, Clone, PartialEq)]
pub struct Posix {
    /// The folder that holds the store: an absolute path.
    pub path: PathBuf,
    /// Where that was said: file, line, section and option, for messages.
    pub place: String,
    /// How backups are cut into objects.
    pub chunked: Chunked,
}

/// Options of every driver that stores a backup as a row of objects.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunked {
    /// How much of the volume one object holds, in bytes; a multiple of the next.
    pub object_size: u64,
    /// The unit in which changes are found, in bytes.
    pub sha_block_size: u64,
    /// The codec, as it is spelled in the file but in lower case, for it goes into the
    /// metadata of each backup in this spelling.
    pub compression: String,
    /// The container for new backups; without one the driver makes a name for each.
    pub container: Option<String>,
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// `NotFound` or `Denied` when it cannot be read, else `Invalid`.
    pub fn load(path: &Path) -> Result<Self> {
        let document = Document::read(path)?;
        let config = assembly::of_document(&document, &Environment::of_program())?;
        let is_used =
            |backend: &Backend| matches!(backend.driver, Driver::Swift(_) | Driver::Tsm(_));
        if config.backends.iter().any(is_used)
            && let Some(warning) = document.exposed(options::SECRET)
        {
            tracing::warn!("{warning}");
        }
        Ok(config)
    }

    /// Takes a store as the command line names it: a path, `posix:PATH` or
    /// `file:///PATH`. It becomes the only backend, `local`, with Cinder's defaults.
    ///
    /// # Errors
    /// `Invalid` when it is none of these.
    pub fn from_store(spec: &str) -> Result<Self> {
        assembly::of_folder(
            place::parse_store(spec)?,
            "--store",
            &Environment::of_program(),
        )
    }

    /// What holds without any file: the only backend is `local`, in
    /// `$XDG_DATA_HOME/cinderfs`, else `~/.local/share/cinderfs`. Its folder need not
    /// exist yet.
    ///
    /// # Errors
    /// `Invalid` when neither variable says where that is.
    pub fn default_local() -> Result<Self> {
        let environment = Environment::of_program();
        let folder = place::Homes::of(&environment).local_store()?;
        assembly::of_folder(folder, "the default store", &environment)
    }
}

impl Settings {
    /// Reads an amount of memory: bytes, or a number with K, M, G, KiB, MiB or GiB. For
    /// the mount option `memory`, which stands above the file.
    ///
    /// # Errors
    /// `Invalid`.
    pub fn parse_memory(text: &str) -> Result<u64> {
        value::memory(text).map_err(|wrong| wrong.at("use option", "memory"))
    }
}
