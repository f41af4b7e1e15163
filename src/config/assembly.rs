//! Puts the configuration together: which sections are backends, what they are called,
//! and that no option in them is mistyped.
//!
//! Must not know the file's syntax, nor the options of any driver.

use std::path::PathBuf;

use super::environment::Environment;
use super::ini::{Document, Entry, Section};
use super::options::{self, GLOBAL, OF_CINDER, OF_DRIVER, PER_BACKEND};
use super::place::Homes;
use super::scope::{DEFAULT, OP, Scope};
use super::value::{self, Wrong};
use super::{Backend, Common, Config, Quotas, Settings, drivers};
use crate::error::{Error, Result};

/// The option that makes a section a backend.
const BACKUP_DRIVER: &str = "backup_driver";

/// The name of the only backend where no file names any.
const LOCAL: &str = "local";

/// The configuration that a file holds.
pub(super) fn of_document(document: &Document, environment: &Environment) -> Result<Config> {
    let settings = settings(document, environment)?;
    if let Some(section) = document.section(DEFAULT) {
        let is_known = |option: &str| {
            !option.starts_with("backup_")
                || OF_CINDER.contains(&option)
                || OF_DRIVER.contains(&option)
        };
        refuse_unknown(document, section, is_known)?;
    }
    // Backends take their places in the order of the file, but for [DEFAULT]'s.
    let others = document
        .sections()
        .filter(|section| section.name != DEFAULT);
    let mut backends: Vec<Backend> = Vec::new();
    for section in document.section(DEFAULT).into_iter().chain(others) {
        let Some(backend) = backend(document, section, environment)? else {
            continue;
        };
        if backends.iter().any(|other| other.name == backend.name) {
            return Err(Wrong::new(
                format!(
                    "there is a backend \"{}\" already: that of [DEFAULT], named after its driver",
                    backend.name
                ),
                "give this section another name",
            )
            .at(OP, &header(document, section)));
        }
        drivers::refuse_conflicts(&backend.driver, &backends)
            .map_err(|wrong| wrong.at(OP, &header(document, section)))?;
        backends.push(backend);
    }
    if backends.is_empty() {
        return Err(Wrong::new(
            "no section has a backup_driver, so there is no backend",
            "add to [DEFAULT] `backup_driver = cinder.backup.drivers.posix.PosixBackupDriver` and \
             `backup_posix_path = ` with the folder that holds the backups",
        )
        .at(OP, &document.whole()));
    }
    Ok(Config { settings, backends })
}

/// The configuration that a folder alone makes: defaults for all the rest.
pub(super) fn of_folder(path: PathBuf, place: &str, environment: &Environment) -> Result<Config> {
    let document = Document::default();
    let scope = Scope::new(&document, DEFAULT);
    Ok(Config {
        settings: settings(&document, environment)?,
        backends: vec![Backend {
            name: LOCAL.to_owned(),
            driver: drivers::posix_at(path, place, &scope)?,
            common: common(&scope)?,
        }],
    })
}

fn settings(document: &Document, environment: &Environment) -> Result<Settings> {
    let scope = Scope::new(document, DEFAULT);
    let memory = scope.required("memory")?;
    let spool_path = match scope.own("spool_path")? {
        Some(setting) => setting.parse(value::path)?,
        None => Homes::of(environment).spool(),
    };
    Ok(Settings {
        memory: memory.parse(value::memory)?,
        spool_path,
    })
}

/// The backend that a section makes, if it asks for a driver.
fn backend(
    document: &Document,
    section: &Section,
    environment: &Environment,
) -> Result<Option<Backend>> {
    let scope = Scope::new(document, &section.name);
    let Some(asked) = scope.own(BACKUP_DRIVER)? else {
        return Ok(None);
    };
    let is_default = section.name == DEFAULT;
    if !is_default {
        value::backend_name(&section.name)
            .map_err(|wrong| wrong.at(OP, &header(document, section)))?;
        let is_known = |option: &str| {
            [OF_CINDER, PER_BACKEND, OF_DRIVER]
                .iter()
                .any(|names| names.contains(&option))
        };
        refuse_unknown(document, section, is_known)?;
    }
    let (driver_name, driver) = drivers::build(&asked, &scope, environment)?;
    let name = if is_default {
        driver_name
    } else {
        &section.name
    };
    Ok(Some(Backend {
        name: name.to_owned(),
        driver,
        common: common(&scope)?,
    }))
}

fn common(scope: &Scope<'_>) -> Result<Common> {
    Ok(Common {
        list_ttl: scope.inherited("list_ttl")?.parse(value::seconds)?,
        append_only: scope.inherited("append_only")?.parse(value::switch)?,
        incremental: scope.inherited("incremental")?.parse(value::incremental)?,
        max_chain: scope.inherited("max_chain")?.parse(value::chain)?,
        quotas: Quotas {
            backups: scope.inherited("quota_backups")?.parse(value::limit)?,
            gigabytes: scope
                .inherited("quota_backup_gigabytes")?
                .parse(value::limit)?,
        },
    })
}

fn refuse_unknown(
    document: &Document,
    section: &Section,
    is_known: impl Fn(&str) -> bool,
) -> Result<()> {
    match section.entries().find(|entry| !is_known(&entry.option)) {
        Some(entry) => Err(unknown(document, section, entry)),
        None => Ok(()),
    }
}

fn unknown(document: &Document, section: &Section, entry: &Entry) -> Error {
    let Entry { option, line, .. } = entry;
    let wrong = if GLOBAL.contains(&option.as_str()) {
        Wrong::new(
            "it holds for the whole program, not for one backend",
            "move it to [DEFAULT]",
        )
    } else {
        let names = [OF_CINDER, PER_BACKEND, OF_DRIVER, GLOBAL].concat();
        let advice = match options::nearest(option, names.into_iter()) {
            Some(name) => format!("did you mean \"{name}\"?"),
            None => "remove it, or see cinderfs.conf(5) for the options there are".to_owned(),
        };
        Wrong::new("there is no such option", advice)
    };
    wrong.at(
        OP,
        &format!("{}, [{}] {option}", document.place(*line), section.name),
    )
}

fn header(document: &Document, section: &Section) -> String {
    format!("{}, [{}]", document.place(section.line), section.name)
}
