//! A token that somebody has: Cinder's `per_user`, where the token is the one of the
//! request; here it is that of the environment, or of a file.
//!
//! Must not know how tokens are made.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::super::value::{self, Wrong};
use super::build::Told;
use super::{Login, address};
use crate::error::{Error, Result};
use crate::secret::Secret;

/// No token is longer, in bytes; headers of that length are refused anyway.
const MAX_TOKEN: u64 = 32 << 10;

/// The variables that hold a token.
const TOKEN: &[&str] = &["OS_AUTH_TOKEN", "OS_TOKEN"];

/// Who we are by a token.
pub(super) fn login(told: &Told<'_>) -> Result<Login> {
    let token = match told.option("backup_swift_token_file")? {
        Some(setting) => {
            let path = setting.parse(value::path)?;
            setting.parse(|_| read(&path))?
        }
        None => told.secret_variable(TOKEN)?.ok_or_else(|| nobody(told))?,
    };
    Ok(Login::Token {
        storage_url: storage_url(told)?,
        token,
    })
}

fn nobody(told: &Told<'_>) -> Error {
    let reason = match told.scope.own("backup_swift_auth") {
        Ok(Some(_)) => "it is per_user, and nobody has logged in",
        _ => "it is not set, nor is backup_swift_user, and nobody has logged in",
    };
    told.scope.lacks(
        "backup_swift_auth",
        Wrong::new(
            reason,
            "to log in, set it to single_user, and backup_swift_auth_url, backup_swift_user and \
             backup_swift_key; or give a token in backup_swift_token_file, or OS_AUTH_TOKEN and \
             OS_STORAGE_URL in the environment",
        ),
    )
}

/// The address of the account that the token is for.
fn storage_url(told: &Told<'_>) -> Result<String> {
    let variable = told.variable(&["OS_STORAGE_URL"]);
    let of_variable = variable
        .map(|setting| setting.parse(address::address))
        .transpose()?;
    let Some(setting) = told.option("backup_swift_url")? else {
        return of_variable.ok_or_else(|| {
            told.scope.lacks(
                "backup_swift_url",
                Wrong::new(
                    "it is not set, and a token alone does not tell where Swift is",
                    "set it, or OS_STORAGE_URL in the environment, to the address of the \
                     account, such as https://swift.example/v1/AUTH_a1b2",
                ),
            )
        });
    };
    let prefix = setting.parse(address::prefix)?;
    // Cinder appends the project to whatever stands there.
    if !prefix.ends_with(['_', '/']) {
        return Ok(prefix);
    }
    match (
        told.variable_text(&["OS_PROJECT_ID", "OS_TENANT_ID"])?,
        of_variable,
    ) {
        (Some(project), _) => {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
            if !project.chars().all(is_plain) {
                return Err(Wrong::new(
                    "it is not the id of a project",
                    "see `openstack project show NAME` for the id",
                )
                .at("use", "the environment's OS_PROJECT_ID"));
            }
            Ok(format!("{prefix}{project}"))
        }
        (None, Some(whole)) if whole.starts_with(&prefix) => Ok(whole),
        (None, _) => Err(setting.refuse(Wrong::new(
            "the id of the project belongs at its end, and nothing says which",
            "set OS_PROJECT_ID in the environment, or write the whole address, such as \
             https://swift.example/v1/AUTH_a1b2",
        ))),
    }
}

/// The token in a file that nobody else may read.
fn read(path: &Path) -> Result<Secret, Wrong> {
    let name = path.display();
    let advice = || format!("write the token into {name} and run `chmod 600 {name}`");
    let failed = |error: std::io::Error| {
        let reason = format!("the file {name} cannot be read: {error}");
        Wrong::new(reason, advice())
    };
    // A pipe that nobody writes to must not keep us waiting.
    let mut how = OpenOptions::new();
    how.read(true).custom_flags(libc::O_NONBLOCK);
    let file = how.open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        let reason = format!("{name} is not a file");
        return Err(Wrong::new(reason, advice()));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(Wrong::new(
            format!("others than its owner may read the file {name}"),
            format!("run `chmod 600 {name}`"),
        ));
    }
    let mut text = String::new();
    file.take(MAX_TOKEN + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    let token = text.trim();
    let fits = !token.is_empty()
        && token.len() as u64 <= MAX_TOKEN
        && token.chars().all(|c| c.is_ascii_graphic());
    if !fits {
        let reason = format!("the file {name} does not hold a token, and nothing else");
        return Err(Wrong::new(reason, advice()));
    }
    Ok(Secret::new(token))
}
