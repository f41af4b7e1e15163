//! From arguments to backends.

use super::{Failure, StoreArguments, usage};
use crate::budget::Budget;
use crate::config::{self, Config};
use crate::driver::{self, Backup, BackupDriver, RbdAccess, Resources};
use crate::error::{Error, Kind, Result};
use crate::mountinfo::as_listed;
use crate::tree::{self, Backend, file_names, volume_id_of};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

/// What the arguments name, read and checked.
pub struct Wired {
    /// All backends, their stores opened.
    pub backends: Vec<Backend>,
    /// What holds for the whole program.
    pub settings: config::Settings,
    /// The one memory budget.
    pub budget: Arc<Budget>,
    /// Folders in which backends keep their objects, as paths without links.
    pub folders: Vec<PathBuf>,
    /// How the clusters of backends in Ceph are reached, by the names of these.
    clusters: HashMap<String, RbdAccess>,
    /// What mount(8) shows as the source.
    pub source: String,
}

impl Wired {
    /// How the cluster is reached that an RBD image lies in which is backed up to a backend:
    /// its own, or, when it is not in Ceph, that of the only one that is.
    pub fn cluster_beside(&self, backend: &str) -> Option<&RbdAccess> {
        let mut clusters = self.clusters.values();
        let only = clusters.next().filter(|_| clusters.next().is_none());
        self.clusters.get(backend).or(only)
    }
}

impl StoreArguments {
    fn load(&self) -> Result<(Config, String)> {
        match (&self.config, &self.store) {
            (Some(file), _) => Ok((Config::load(file)?, file.display().to_string())),
            (None, Some(store)) => Ok((Config::from_store(store)?, store.clone())),
            (None, None) => {
                let config = Config::default_local()?;
                make_default_store(&config)?;
                Ok((config, "cinderfs".into()))
            }
        }
    }

    /// The backends that the arguments name. `memory` overrides the configured budget.
    pub fn wire(&self, memory: Option<u64>) -> Result<Wired, Failure> {
        let (config, source) = self.load().map_err(usage)?;
        let budget = Budget::new(memory.unwrap_or(config.settings.memory));
        let resources = Resources {
            budget: Arc::clone(&budget),
            spool_path: config.settings.spool_path.clone(),
        };
        let mut backends = Vec::new();
        let mut folders = Vec::new();
        let mut clusters = HashMap::new();
        for backend in &config.backends {
            let kind = match &backend.driver {
                config::Driver::Posix(options) => {
                    folders.extend(options.path.canonicalize());
                    "posix"
                }
                config::Driver::Share(options) => {
                    folders.push(as_listed(&options.mount_point));
                    options.kind.name()
                }
                config::Driver::Swift(_) => "swift",
                config::Driver::Ceph(options) => {
                    clusters.insert(backend.name.clone(), RbdAccess::of(options));
                    "ceph"
                }
                config::Driver::Tsm(options) => {
                    folders.extend(options.staging.canonicalize());
                    "tsm"
                }
            };
            backends.push(Backend {
                name: backend.name.clone(),
                kind,
                driver: driver::build(backend, &resources).map_err(usage)?,
            });
        }
        Ok(Wired {
            backends,
            settings: config.settings,
            budget,
            folders,
            clusters,
            source,
        })
    }
}

/// The store that is used when none is named is made when it is missing.
fn make_default_store(config: &Config) -> Result<()> {
    for backend in &config.backends {
        let config::Driver::Posix(options) = &backend.driver else {
            continue;
        };
        std::fs::create_dir_all(&options.path)
            .map_err(|e| Error::io("make the folder", options.path.display().to_string(), &e))?;
    }
    Ok(())
}

impl Wired {
    /// The backend of this name.
    pub fn find(&self, name: &str) -> Result<&dyn BackupDriver> {
        let found = self.backends.iter().find(|backend| backend.name == name);
        let names: Vec<&str> = self
            .backends
            .iter()
            .map(|backend| backend.name.as_str())
            .collect();
        found.map(|backend| backend.driver.as_ref()).ok_or_else(|| {
            Error::new(
                Kind::NotFound,
                "find",
                format!("backend {name}"),
                "there is none",
            )
            .advise(format!("there are: {}", names.join(", ")))
        })
    }
}

/// The backups of a volume under the names that a mount shows.
///
/// # Errors
/// `NotFound` when the volume has none.
pub async fn named_backups(
    driver: &dyn BackupDriver,
    volume: &str,
) -> Result<BTreeMap<String, Arc<Backup>>> {
    let missing = || {
        Error::new(
            Kind::NotFound,
            "find",
            format!("volume {volume}"),
            "it has no backup here",
        )
        .advise("see `cinderfs ls BACKEND` for the volumes that have")
    };
    let id = volume_id_of(volume).ok_or_else(missing)?;
    let backups = driver.backups(&id).await?;
    if backups.is_empty() {
        return Err(missing());
    }
    Ok(file_names(&backups))
}

/// A backup, by the names of backend, volume and file that a mount shows, with all the
/// backups of its volume.
///
/// # Errors
/// `NotFound`.
pub async fn find_backup(
    wired: &Wired,
    [backend, volume, file]: [&str; 3],
) -> Result<(Arc<Backup>, BTreeMap<String, Arc<Backup>>)> {
    let named = named_backups(wired.find(backend)?, volume).await?;
    let backup = named.get(file).cloned();
    let backup = backup.ok_or_else(|| no_such_file(backend, volume, file))?;
    Ok((backup, named))
}

/// No backup is shown under that name.
pub fn no_such_file(backend: &str, volume: &str, file: &str) -> Error {
    let subject = format!("{backend}/{volume}/{file}");
    Error::new(Kind::NotFound, "find", subject, "there is no such backup").advise(format!(
        "see `cinderfs ls {backend}/{volume}` for those that there are"
    ))
}

/// The tree over the backends, owned by who runs this.
pub fn tree(wired: Wired) -> Arc<tree::Tree> {
    let settings = tree::Settings {
        budget: wired.budget,
        spool_path: wired.settings.spool_path,
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
    };
    tree::Tree::new(wired.backends, settings)
}
