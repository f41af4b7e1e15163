//! The options of the driver `swift`, from what a section says and, where it is silent,
//! from the variables that OpenStack's clients take.
//!
//! Must not know who logs in with what: that is [`super::login`]'s.

use std::path::PathBuf;

use super::super::Driver;
use super::super::drivers::chunked;
use super::super::environment::Environment;
use super::super::scope::{Scope, Setting};
use super::super::value::{self, Wrong};
use super::{Containers, Swift, Trust, login};
use crate::error::Result;
use crate::secret::Secret;

/// The longest name of a container that Swift takes by default, in bytes.
const MAX_CONTAINER: usize = 256;

/// What was said, and by whom: the section, else the environment. Something empty counts
/// as not said.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told<'a> {
    pub(super) scope: &'a Scope<'a>,
    pub(super) environment: &'a Environment,
}

impl Told<'_> {
    /// What the section says, if it does.
    pub(super) fn option(&self, option: &'static str) -> Result<Option<Setting>> {
        let setting = self.scope.own(option)?;
        Ok(setting.filter(|setting| setting.set && !setting.is_empty()))
    }

    /// The same, on a single line.
    pub(super) fn text(&self, option: &'static str) -> Result<Option<String>> {
        let setting = self.option(option)?;
        setting
            .map(|setting| setting.parse(value::text))
            .transpose()
    }

    /// The first of these variables that is set.
    pub(super) fn variable(&self, names: &[&'static str]) -> Option<Setting> {
        let mut found = names
            .iter()
            .filter_map(|name| Setting::of_variable(name, self.environment));
        found.next()
    }

    /// The same, on a single line.
    pub(super) fn variable_text(&self, names: &[&'static str]) -> Result<Option<String>> {
        let setting = self.variable(names);
        setting
            .map(|setting| setting.parse(value::text))
            .transpose()
    }

    /// What the section says, else one of these variables.
    pub(super) fn either(
        &self,
        option: &'static str,
        names: &[&'static str],
    ) -> Result<Option<Setting>> {
        Ok(self.option(option)?.or_else(|| self.variable(names)))
    }

    /// The same, on a single line.
    pub(super) fn either_text(
        &self,
        option: &'static str,
        names: &[&'static str],
    ) -> Result<Option<String>> {
        let setting = self.either(option, names)?;
        setting
            .map(|setting| setting.parse(value::text))
            .transpose()
    }

    /// The same for what is secret.
    pub(super) fn secret(
        &self,
        option: &'static str,
        names: &[&'static str],
    ) -> Result<Option<Secret>> {
        match self.scope.secret(option)? {
            Some(secret) => Ok(Some(secret)),
            None => self.secret_variable(names),
        }
    }

    /// The first of these variables that is set, of those that are secret.
    pub(super) fn secret_variable(&self, names: &[&'static str]) -> Result<Option<Secret>> {
        // Of what is secret no error tells the text.
        Ok(self.variable_text(names)?.map(Secret::new))
    }
}

/// The options of the driver `swift`.
pub(in super::super) fn build(scope: &Scope<'_>, environment: &Environment) -> Result<Driver> {
    let told = Told { scope, environment };
    let container = scope
        .required("backup_swift_container")?
        .parse(container_name)?;
    let sizes = ["backup_swift_object_size", "backup_swift_block_size"];
    Ok(Driver::Swift(Box::new(Swift {
        place: scope.place(),
        containers: scope
            .required("backup_swift_containers")?
            .parse(|text| containers(text, &container))?,
        storage_policy: told
            .option("backup_swift_create_storage_policy")?
            .map(|setting| setting.parse(storage_policy))
            .transpose()?,
        retry_attempts: scope
            .required("backup_swift_retry_attempts")?
            .parse(value::attempts)?,
        retry_backoff: scope
            .required("backup_swift_retry_backoff")?
            .parse(value::seconds)?,
        request_timeout: scope.inherited("request_timeout")?.parse(value::timeout)?,
        trust: trust(&told)?,
        chunked: chunked(scope, sizes, Some(container))?,
        // The last, for it is the longest story.
        login: login::login(&told)?,
    })))
}

/// Which servers are trusted. One who says anything of it in the file has said all of it:
/// a variable must not undo a certificate that was configured.
fn trust(told: &Told<'_>) -> Result<Trust> {
    let file = told.option("backup_swift_ca_cert_file")?;
    let insecure = told.option("backup_swift_auth_insecure")?;
    if file.is_some() || insecure.is_some() {
        let insecure = insecure.map(|setting| setting.parse(value::switch));
        return Ok(Trust {
            ca_cert_file: file.map(|setting| setting.parse(value::path)).transpose()?,
            insecure: insecure.transpose()?.unwrap_or(false),
        });
    }
    let insecure = told.variable(&["OS_INSECURE"]);
    let insecure = insecure.map(|setting| setting.parse(value::switch));
    Ok(Trust {
        ca_cert_file: told
            .variable(&["OS_CACERT"])
            .map(|setting| setting.parse(path_from_here))
            .transpose()?,
        insecure: insecure.transpose()?.unwrap_or(false),
    })
}

/// A path as a variable holds it: other programs take a relative one from the working
/// folder.
fn path_from_here(text: &str) -> Result<PathBuf, Wrong> {
    std::path::absolute(value::text(text)?).map_err(|error| {
        Wrong::new(
            format!("the working folder cannot be found: {error}"),
            "write an absolute path",
        )
    })
}

/// The name of a container in Swift.
fn container_name(text: &str) -> Result<String, Wrong> {
    let name = value::text(text)?;
    // "." and ".." do not survive in an address.
    let fits = !name.is_empty()
        && name.len() <= MAX_CONTAINER
        && !name.contains('/')
        && !matches!(name.as_str(), "." | "..");
    if fits {
        return Ok(name);
    }
    Err(Wrong::new(
        format!("\"{name}\" cannot be the name of a container in Swift"),
        format!("write a name of at most {MAX_CONTAINER} bytes without \"/\""),
    ))
}

/// Where backups are looked for, with the container of new ones always among them.
fn containers(text: &str, container: &str) -> Result<Containers, Wrong> {
    let mut named = vec![container.to_owned()];
    match text.trim() {
        "all" => return Ok(Containers::All),
        "configured" => return Ok(Containers::Named(named)),
        "" => {
            return Err(Wrong::new(
                "it is empty",
                "write configured, all, or names of containers with commas between them",
            ));
        }
        list => {
            for name in list.split(',') {
                let name = container_name(name.trim())?;
                if !named.contains(&name) {
                    named.push(name);
                }
            }
        }
    }
    Ok(Containers::Named(named))
}

/// The name of a storage policy, which goes into a header.
fn storage_policy(text: &str) -> Result<String, Wrong> {
    let text = text.trim();
    if text.chars().all(|c| c.is_ascii_graphic() || c == ' ') {
        return Ok(text.to_owned());
    }
    Err(Wrong::new(
        format!("\"{}\" cannot be the name of a policy", text.escape_debug()),
        "write one of those in Swift's own configuration: letters, digits and dashes",
    ))
}
