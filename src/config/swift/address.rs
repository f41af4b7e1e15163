//! Addresses of the servers that are asked, and of what version they are.
//!
//! Must not know users or tokens.

use reqwest::Url;

use super::super::scope::Setting;
use super::super::value::{self, Wrong};
use super::build::Told;
use crate::error::Result;

/// The way to log in, as Cinder counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// Swift's own.
    V1,
    /// Keystone's second.
    V2,
    /// Keystone's third.
    V3,
}

impl Version {
    fn parse(text: &str) -> Result<Self, Wrong> {
        match text.trim().trim_start_matches('v') {
            "1" | "1.0" => Ok(Self::V1),
            "2" | "2.0" => Ok(Self::V2),
            "3" | "3.0" => Ok(Self::V3),
            _ => Err(Wrong::new(
                format!("\"{}\" is no version of a login", text.escape_debug()),
                "write 1 for Swift's own way, 2 or 3 for Keystone",
            )),
        }
    }

    /// That of an address which ends in it.
    fn of_address(address: &str) -> Option<Self> {
        match address.trim_end_matches('/').rsplit('/').next()? {
            "v1" | "v1.0" => Some(Self::V1),
            "v2" | "v2.0" => Some(Self::V2),
            "v3" => Some(Self::V3),
            _ => None,
        }
    }
}

/// Where a user logs in, and how.
pub(super) fn of_user(told: &Told<'_>) -> Result<(String, Version)> {
    let asked = told.option("backup_swift_auth_version")?;
    let names: &[&'static str] = match &asked {
        Some(setting) if setting.parse(Version::parse)? == Version::V1 => &["ST_AUTH"],
        Some(_) => &["OS_AUTH_URL"],
        None => &["OS_AUTH_URL", "ST_AUTH"],
    };
    let url = told.either("backup_swift_auth_url", names)?;
    let url = url.ok_or_else(|| {
        told.scope.lacks(
            "backup_swift_auth_url",
            Wrong::new(
                "it is not set, and it is needed to log in to Swift",
                format!(
                    "set it, or {} in the environment, to the address of Keystone, such as \
                     https://keystone.example:5000/v3, or of Swift's own login, such as \
                     https://swift.example/auth/v1.0",
                    names.join(" or ")
                ),
            ),
        )
    })?;
    with_version(told, &url, Version::V1)
}

/// Where Keystone is, and of what version.
pub(super) fn of_keystone(told: &Told<'_>) -> Result<(String, Version)> {
    let url = told.either("backup_swift_auth_url", &["OS_AUTH_URL"])?;
    let url = url.ok_or_else(|| {
        told.scope.lacks(
            "backup_swift_auth_url",
            Wrong::new(
                "it is not set, and an application credential needs it",
                "set it, or OS_AUTH_URL in the environment, to the address of Keystone, such as \
                 https://keystone.example:5000/v3",
            ),
        )
    })?;
    with_version(told, &url, Version::V3)
}

/// An address with its version: the one that is asked for, else the one in which the
/// address ends, else `default`.
fn with_version(told: &Told<'_>, url: &Setting, default: Version) -> Result<(String, Version)> {
    let address = url.parse(address)?;
    let of_address = Version::of_address(&address);
    if let Some(setting) = told.option("backup_swift_auth_version")? {
        let asked = setting.parse(Version::parse)?;
        if of_address.is_some_and(|found| found != asked) {
            return Err(setting.refuse(Wrong::new(
                format!("it is not the version of the address {address}"),
                "change the one or the other",
            )));
        }
        return Ok((address, asked));
    }
    // The variable tells the version of the address in the environment, not of the file's.
    let of_variable = match url.option {
        "OS_AUTH_URL" => {
            let asked = told.variable(&["OS_IDENTITY_API_VERSION"]);
            let asked = asked.map(|setting| setting.parse(Version::parse));
            // Such an address is always Keystone's, and of its versions the third is left.
            Some(asked.transpose()?.unwrap_or(Version::V3))
        }
        _ => None,
    };
    let version = of_address.or(of_variable).unwrap_or(default);
    Ok((address, version))
}

/// An address of http or https, without a slash at its end.
pub(super) fn address(text: &str) -> Result<String, Wrong> {
    Ok(prefix(text)?.trim_end_matches('/').to_owned())
}

/// An address of http or https that something may be appended to, as it was written.
pub(super) fn prefix(text: &str) -> Result<String, Wrong> {
    const ADVICE: &str = "write it as in https://swift.example:8080/v1";
    let text = value::text(text.trim())?;
    // The text may hold a password where addresses may have one.
    if text.contains('@') {
        return Err(Wrong::new(
            "there is an \"@\" in the address, and users and passwords do not belong there",
            ADVICE,
        ));
    }
    let wrong = |reason: &str| Wrong::new(format!("\"{text}\" {reason}"), ADVICE);
    let url = Url::parse(&text).map_err(|error| wrong(&format!("is not an address: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("is not an address of http or https"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("has a \"?\" or \"#\", which no such address has"));
    }
    Ok(text)
}

/// `public`, `internal` or `admin`, from that or from `publicURL` and the like.
pub(super) fn interface(text: &str) -> Result<String, Wrong> {
    let name = text.trim().trim_end_matches("URL");
    match name {
        "public" | "internal" | "admin" => Ok(name.to_owned()),
        _ => Err(Wrong::new(
            format!("\"{}\" is no interface of a service", text.escape_debug()),
            "write publicURL, internalURL or adminURL",
        )),
    }
}
