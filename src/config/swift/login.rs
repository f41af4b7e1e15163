//! Who we are to Swift, from what a section and the environment say.
//!
//! The section goes before the environment, option by option; and of two ways to say one
//! thing, such as the id and the name of a project, the section's own goes first. Must not
//! know how anybody logs in.

use super::super::value::Wrong;
use super::address::{self, Version};
use super::build::Told;
use super::{Credential, Domain, Endpoint, Identity, Login, Named, token};
use crate::error::{Error, Result};

/// The domain of users and projects of whom no domain is told, as Keystone's own client
/// has it.
const DEFAULT_DOMAIN: &str = "default";

/// How we come by a token.
enum Way {
    /// Somebody gives us one.
    Token,
    /// As a user.
    User,
    /// With an application credential.
    Credential,
}

/// Who we are.
pub(super) fn login(told: &Told<'_>) -> Result<Login> {
    match way(told)? {
        Way::Token => token::login(told),
        Way::Credential => by_credential(told),
        Way::User => by_user(told),
    }
}

fn way(told: &Told<'_>) -> Result<Way> {
    let token_file = told.option("backup_swift_token_file")?;
    let credential = credential_option(told)?;
    let asked = told.option("backup_swift_auth")?;
    let single = match &asked {
        Some(setting) => Some(setting.parse(|text| match text.trim() {
            "single_user" => Ok(true),
            "per_user" => Ok(false),
            _ => Err(Wrong::new(
                format!("\"{text}\" is neither single_user nor per_user"),
                "write single_user to log in with backup_swift_user and backup_swift_key, or \
                 per_user to use a token that somebody has",
            )),
        })?),
        None => None,
    };
    if let Some(file) = &token_file {
        let other = match (&credential, single) {
            (Some(option), _) => Some(*option),
            (None, Some(true)) => Some("backup_swift_auth = single_user"),
            (None, _) => None,
        };
        if let Some(other) = other {
            return Err(file.refuse(Wrong::new(
                format!("there is {other}, too, and only one of them can log in"),
                "remove one of the two",
            )));
        }
        return Ok(Way::Token);
    }
    // Ours stand beside Cinder's in the same file: they are meant for us alone.
    if credential.is_some() {
        return Ok(Way::Credential);
    }
    let in_environment = |names| told.variable(names).is_some();
    let auth_type = told.variable_text(&["OS_AUTH_TYPE"])?;
    let auth_type = auth_type.as_deref().unwrap_or_default();
    let has_user = told.option("backup_swift_user")?.is_some();
    let has_credential =
        in_environment(CREDENTIAL_VARIABLES) && matches!(auth_type, "" | "v3applicationcredential");
    let of_variables = || match has_credential {
        true => Way::Credential,
        false => Way::User,
    };
    Ok(match single {
        Some(false) => Way::Token,
        Some(true) if has_user => Way::User,
        Some(true) => of_variables(),
        None if has_user => Way::User,
        None if matches!(auth_type, "token" | "v3token" | "v2token") => Way::Token,
        None if has_credential => Way::Credential,
        None if in_environment(&["OS_USERNAME", "OS_USER_ID", "ST_USER"])
            && in_environment(&["OS_PASSWORD", "ST_KEY"]) =>
        {
            Way::User
        }
        None => Way::Token,
    })
}

/// What an application credential is proved with.
const CREDENTIAL_SECRET: &str = "backup_swift_application_credential_secret";

/// The variables that name an application credential.
const CREDENTIAL_VARIABLES: &[&str] = &[
    "OS_APPLICATION_CREDENTIAL_ID",
    "OS_APPLICATION_CREDENTIAL_NAME",
];

/// The option that asks for an application credential.
fn credential_option(told: &Told<'_>) -> Result<Option<&'static str>> {
    for option in [
        "backup_swift_application_credential_id",
        "backup_swift_application_credential_name",
    ] {
        if told.option(option)?.is_some() {
            return Ok(Some(option));
        }
    }
    let secret = told.scope.secret(CREDENTIAL_SECRET)?;
    Ok(secret.map(|_| CREDENTIAL_SECRET))
}

fn by_credential(told: &Told<'_>) -> Result<Login> {
    let (auth_url, version) = address::of_keystone(told)?;
    if version != Version::V3 {
        let place = "backup_swift_auth_version";
        return Err(told.scope.lacks(
            place,
            Wrong::new(
                "application credentials need version 3 of Keystone's interface, and it is not",
                "set it to 3, and backup_swift_auth_url to an address of that version",
            ),
        ));
    }
    let (id, name) = (
        told.text("backup_swift_application_credential_id")?,
        told.text("backup_swift_application_credential_name")?,
    );
    let (id, name) = match (id, name) {
        (None, None) => (
            told.variable_text(&["OS_APPLICATION_CREDENTIAL_ID"])?,
            told.variable_text(&["OS_APPLICATION_CREDENTIAL_NAME"])?,
        ),
        found => found,
    };
    let credential = match (id, name) {
        (Some(id), _) => Credential::Id(id),
        (None, Some(name)) => Credential::Name(name, user(told)?),
        (None, None) => {
            let option = "backup_swift_application_credential_id";
            return Err(needs(told, option, "OS_APPLICATION_CREDENTIAL_ID"));
        }
    };
    let variable = "OS_APPLICATION_CREDENTIAL_SECRET";
    let secret = told.secret(CREDENTIAL_SECRET, &[variable])?;
    Ok(Login::V3 {
        auth_url,
        identity: Identity::ApplicationCredential {
            credential,
            secret: secret.ok_or_else(|| needs(told, CREDENTIAL_SECRET, variable))?,
        },
        // It is of one project; Keystone refuses to be told which.
        project: None,
        endpoint: endpoint(told)?,
    })
}

fn by_user(told: &Told<'_>) -> Result<Login> {
    let (auth_url, version) = address::of_user(told)?;
    let key = |variable| {
        let option = "backup_swift_key";
        let secret = told.secret(option, &[variable])?;
        secret.ok_or_else(|| needs(told, option, variable))
    };
    Ok(match version {
        Version::V1 => Login::V1 {
            auth_url,
            user: told
                .either_text("backup_swift_user", &["ST_USER"])?
                .ok_or_else(|| needs(told, "backup_swift_user", "ST_USER"))?,
            key: key("ST_KEY")?,
        },
        Version::V2 => {
            let (tenant, user) = tenant_and_user(told)?;
            let user = match user {
                Some(user) => user,
                None => told
                    .variable_text(&["OS_USERNAME"])?
                    .ok_or_else(|| needs(told, "backup_swift_user", "OS_USERNAME"))?,
            };
            let tenant = match tenant {
                Some(tenant) => Some(tenant),
                None => told.variable_text(&["OS_TENANT_NAME", "OS_PROJECT_NAME"])?,
            };
            Login::V2 {
                auth_url,
                user,
                password: key("OS_PASSWORD")?,
                // Without one, the token that Keystone gives is good for nothing.
                tenant: Some(
                    tenant.ok_or_else(|| needs(told, "backup_swift_tenant", "OS_TENANT_NAME"))?,
                ),
                endpoint: endpoint(told)?,
            }
        }
        Version::V3 => Login::V3 {
            auth_url,
            identity: Identity::Password {
                user: user(told)?,
                password: key("OS_PASSWORD")?,
            },
            project: project(told)?,
            endpoint: endpoint(told)?,
        },
    })
}

/// The tenant and the user that the section names. Swift's client takes `TENANT:USER` as
/// the user as well.
fn tenant_and_user(told: &Told<'_>) -> Result<(Option<String>, Option<String>)> {
    let user = told.text("backup_swift_user")?;
    let tenant = match told.text("backup_swift_tenant")? {
        Some(tenant) => Some(tenant),
        None => told.text("backup_swift_project")?,
    };
    if let (None, Some(both)) = (&tenant, &user)
        && let Some((tenant, user)) = both.split_once(':')
    {
        return Ok((Some(tenant.to_owned()), Some(user.to_owned())));
    }
    Ok((tenant, user))
}

/// The user, as version 3 knows users.
fn user(told: &Told<'_>) -> Result<Named> {
    let domain = || {
        domain(
            told,
            "backup_swift_user_domain",
            ["OS_USER_DOMAIN_ID", "OS_USER_DOMAIN_NAME"],
        )
    };
    if let (_, Some(name)) = tenant_and_user(told)? {
        return Ok(Named::Name(name, domain()?));
    }
    if let Some(id) = told.variable_text(&["OS_USER_ID"])? {
        return Ok(Named::Id(id));
    }
    let name = told
        .variable_text(&["OS_USERNAME"])?
        .ok_or_else(|| needs(told, "backup_swift_user", "OS_USERNAME"))?;
    Ok(Named::Name(name, domain()?))
}

/// The project, as version 3 knows projects.
fn project(told: &Told<'_>) -> Result<Option<Named>> {
    let domain = || {
        domain(
            told,
            "backup_swift_project_domain",
            ["OS_PROJECT_DOMAIN_ID", "OS_PROJECT_DOMAIN_NAME"],
        )
    };
    let name = match told.text("backup_swift_project")? {
        Some(project) => Some(project),
        None => tenant_and_user(told)?.0,
    };
    if let Some(name) = name {
        return Ok(Some(Named::Name(name, domain()?)));
    }
    if let Some(id) = told.variable_text(&["OS_PROJECT_ID", "OS_TENANT_ID"])? {
        return Ok(Some(Named::Id(id)));
    }
    let name = told.variable_text(&["OS_PROJECT_NAME", "OS_TENANT_NAME"])?;
    name.map(|name| Ok(Named::Name(name, domain()?)))
        .transpose()
}

fn domain(told: &Told<'_>, option: &'static str, [id, name]: [&'static str; 2]) -> Result<Domain> {
    if let Some(name) = told.text(option)? {
        return Ok(Domain::Name(name));
    }
    if let Some(id) = told.variable_text(&[id])? {
        return Ok(Domain::Id(id));
    }
    let name = told.variable_text(&[name])?;
    Ok(name.map_or_else(|| Domain::Id(DEFAULT_DOMAIN.to_owned()), Domain::Name))
}

/// Which object store of the catalogue.
fn endpoint(told: &Told<'_>) -> Result<Endpoint> {
    let info = told.scope.required("swift_catalog_info")?;
    let (service_type, interface) = info.parse(|text| {
        let parts: Vec<&str> = text.trim().split(':').collect();
        match parts.as_slice() {
            [service_type, _, interface] if !service_type.is_empty() => {
                Ok(((*service_type).to_owned(), address::interface(interface)?))
            }
            _ => Err(Wrong::new(
                format!("\"{}\" is not TYPE:NAME:INTERFACE", text.escape_debug()),
                "write for example object-store:swift:internalURL",
            )),
        }
    })?;
    let variable = match info.set {
        true => None,
        false => told.variable(&["OS_INTERFACE", "OS_ENDPOINT_TYPE"]),
    };
    let interface = match variable {
        Some(setting) => setting.parse(address::interface)?,
        None => interface,
    };
    // The address of an account belongs to the one who logs in: one that is left from
    // somebody else's session must not send the section's user there.
    let is_ours = told.option("backup_swift_user")?.is_none() && credential_option(told)?.is_none();
    let storage_url = match is_ours {
        true => told.variable(&["OS_STORAGE_URL"]),
        false => None,
    };
    Ok(Endpoint {
        service_type: Some(service_type),
        region: told.either_text("backup_swift_region_name", &["OS_REGION_NAME"])?,
        interface: Some(interface),
        storage_url: storage_url
            .map(|setting| setting.parse(address::address))
            .transpose()?,
    })
}

/// The error for an option that neither file nor environment set.
fn needs(told: &Told<'_>, option: &str, variable: &str) -> Error {
    told.scope.lacks(
        option,
        Wrong::new(
            "it is not set, and it is needed to log in to Swift",
            format!("set it, or {variable} in the environment"),
        ),
    )
}
