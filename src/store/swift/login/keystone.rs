//! What Keystone is asked, and what it answers.
//!
//! Knows the documents of its versions 2 and 3. Must not send any.

use super::{Final, Session, never, no_login, parse_storage_url, parse_token, renew_at};
use crate::config::{Credential, Domain, Endpoint, Identity, Named};
use crate::secret::Secret;
use crate::store::swift::failure::Failure;
use reqwest::header::HeaderValue;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// The type of service that is meant when nobody says.
const OBJECT_STORE: &str = "object-store";
/// The interface that is meant when nobody says.
const PUBLIC: &str = "public";

/// Where to log in: `auth_url` may or may not end in the version.
pub(super) fn address(auth_url: &str, version: &str, path: &str) -> String {
    let base = auth_url.trim_end_matches('/');
    let last = base.rsplit('/').next().unwrap_or_default();
    match last {
        "v2.0" | "v3" => format!("{base}/{path}"),
        _ => format!("{base}/{version}/{path}"),
    }
}

/// What version 2 is asked.
#[derive(Serialize)]
pub(super) struct V2Request(Value);

impl V2Request {
    /// For a token of a user in a tenant.
    pub(super) fn new(user: &str, password: &Secret, tenant: Option<&str>) -> Self {
        let mut auth = json!({
            "passwordCredentials": {"username": user, "password": password.expose()},
        });
        if let Some(tenant) = tenant {
            auth["tenantName"] = tenant.into();
        }
        Self(json!({ "auth": auth }))
    }
}

/// What version 3 is asked.
pub(super) fn v3_request(identity: &Identity, project: Option<&Named>) -> Value {
    let identity = match identity {
        Identity::Password { user, password } => {
            let mut user = named(user);
            user["password"] = password.expose().into();
            json!({"methods": ["password"], "password": {"user": user}})
        }
        Identity::ApplicationCredential { credential, secret } => {
            let mut credential = match credential {
                Credential::Id(id) => json!({ "id": id }),
                Credential::Name(name, user) => json!({"name": name, "user": named(user)}),
            };
            credential["secret"] = secret.expose().into();
            json!({
                "methods": ["application_credential"],
                "application_credential": credential,
            })
        }
    };
    let mut auth = json!({ "identity": identity });
    if let Some(project) = project {
        auth["scope"] = json!({ "project": named(project) });
    }
    json!({ "auth": auth })
}

fn named(named: &Named) -> Value {
    match named {
        Named::Id(id) => json!({ "id": id }),
        Named::Name(name, Domain::Id(id)) => json!({"name": name, "domain": {"id": id}}),
        Named::Name(name, Domain::Name(domain)) => {
            json!({"name": name, "domain": {"name": domain}})
        }
    }
}

#[derive(Deserialize)]
struct V3Answer {
    token: V3Token,
}

#[derive(Deserialize)]
struct V3Token {
    expires_at: Option<String>,
    issued_at: Option<String>,
    project: Option<Value>,
    #[serde(default)]
    catalog: Vec<V3Service>,
}

#[derive(Deserialize)]
struct V3Service {
    #[serde(rename = "type", default)]
    service_type: String,
    #[serde(default)]
    endpoints: Vec<V3Endpoint>,
}

#[derive(Deserialize)]
struct V3Endpoint {
    interface: String,
    region_id: Option<String>,
    region: Option<String>,
    url: String,
}

#[derive(Deserialize)]
struct V2Answer {
    access: V2Access,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct V2Access {
    token: V2Token,
    #[serde(default)]
    service_catalog: Vec<V2Service>,
}

#[derive(Deserialize)]
struct V2Token {
    id: String,
    expires: Option<String>,
    issued_at: Option<String>,
    tenant: Option<Value>,
}

#[derive(Deserialize)]
struct V2Service {
    #[serde(rename = "type", default)]
    service_type: String,
    #[serde(default)]
    endpoints: Vec<V2Endpoint>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct V2Endpoint {
    region: Option<String>,
    #[serde(rename = "publicURL")]
    public: Option<String>,
    #[serde(rename = "internalURL")]
    internal: Option<String>,
    #[serde(rename = "adminURL")]
    admin: Option<String>,
}

/// A service that a catalogue offers.
struct Offer {
    service_type: String,
    interface: &'static str,
    region: Option<String>,
    url: String,
}

/// What version 3 answers.
pub(super) fn of_v3(
    token: Option<&HeaderValue>,
    body: &[u8],
    auth_url: &str,
    endpoint: &Endpoint,
    began: Instant,
) -> Result<Session, Failure> {
    let V3Answer { token: answer } = parse(body, auth_url)?;
    let interface_of = |name: &str| {
        let known = ["public", "internal", "admin"];
        known.into_iter().find(|known| *known == name)
    };
    let offers = answer.catalog.into_iter().flat_map(|service| {
        let V3Service {
            service_type,
            endpoints,
        } = service;
        endpoints.into_iter().filter_map(move |endpoint| {
            Some(Offer {
                service_type: service_type.clone(),
                interface: interface_of(&endpoint.interface)?,
                region: endpoint.region_id.or(endpoint.region),
                url: endpoint.url,
            })
        })
    });
    let life = life(answer.issued_at.as_deref(), answer.expires_at.as_deref());
    Ok(Session {
        token: parse_token(token, auth_url)?,
        storage_url: choose(
            &offers.collect::<Vec<_>>(),
            answer.project.is_some(),
            auth_url,
            endpoint,
        )?,
        renew_at: renew_at(began, life),
    })
}

/// What version 2 answers.
pub(super) fn of_v2(
    body: &[u8],
    auth_url: &str,
    endpoint: &Endpoint,
    began: Instant,
) -> Result<Session, Failure> {
    let V2Answer { access } = parse(body, auth_url)?;
    let mut offers = Vec::new();
    for service in access.service_catalog {
        for endpoint in service.endpoints {
            let urls = [
                ("public", endpoint.public),
                ("internal", endpoint.internal),
                ("admin", endpoint.admin),
            ];
            for (interface, url) in urls {
                offers.extend(url.map(|url| Offer {
                    service_type: service.service_type.clone(),
                    interface,
                    region: endpoint.region.clone(),
                    url,
                }));
            }
        }
    }
    let V2Token {
        id,
        expires,
        issued_at,
        tenant,
    } = access.token;
    let token = HeaderValue::from_str(&id).ok();
    Ok(Session {
        token: parse_token(token.as_ref(), auth_url)?,
        storage_url: choose(&offers, tenant.is_some(), auth_url, endpoint)?,
        renew_at: renew_at(began, life(issued_at.as_deref(), expires.as_deref())),
    })
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8], auth_url: &str) -> Result<T, Final> {
    // What is wrong with it is not said in serde's words: they repeat what stands there.
    serde_json::from_slice(body).map_err(|e| {
        let reason = format!(
            "the answer is not that of Keystone (line {}, column {})",
            e.line(),
            e.column()
        );
        no_login(auth_url, reason)
    })
}

/// How long a token lives, by the clock of the server alone.
fn life(issued: Option<&str>, expires: Option<&str>) -> Option<Duration> {
    let time = |text: &str| text.parse::<jiff::Timestamp>().ok();
    let life = time(expires?)?.duration_since(time(issued?)?);
    Duration::try_from(life).ok()
}

/// The address of the object store that is meant.
fn choose(
    offers: &[Offer],
    has_project: bool,
    auth_url: &str,
    endpoint: &Endpoint,
) -> Result<reqwest::Url, Final> {
    if let Some(url) = &endpoint.storage_url {
        return parse_storage_url(url, auth_url);
    }
    let service_type = endpoint.service_type.as_deref().unwrap_or(OBJECT_STORE);
    let interface = endpoint.interface.as_deref().unwrap_or(PUBLIC);
    if !has_project {
        return Err(never(auth_url, "the user is logged in, but to no project")
            .advise("set backup_swift_project to the project that the backups are in"));
    }
    let of_type: Vec<&Offer> = offers
        .iter()
        .filter(|offer| offer.service_type == service_type)
        .collect();
    let all = |found: BTreeSet<&str>| found.into_iter().collect::<Vec<_>>().join(", ");
    if of_type.is_empty() {
        let types = offers.iter().map(|offer| offer.service_type.as_str());
        let reason = format!(
            "Keystone's catalogue lists no service of the type {service_type} (it has: {})",
            all(types.collect())
        );
        return Err(never(auth_url, reason).advise(
            "is there a Swift? If it has another type, set swift_catalog_info, such as \
             object-store:swift:publicURL",
        ));
    }
    let of_interface: Vec<&Offer> = of_type
        .iter()
        .filter(|offer| offer.interface == interface)
        .copied()
        .collect();
    if of_interface.is_empty() {
        let interfaces = of_type.iter().map(|offer| offer.interface);
        let reason = format!(
            "Keystone's catalogue lists no {interface} endpoint of {service_type} (it has: {})",
            all(interfaces.collect())
        );
        return Err(never(auth_url, reason)
            .advise("set swift_catalog_info, such as object-store:swift:publicURL"));
    }
    let Some(region) = endpoint.region.as_deref() else {
        let first = of_interface.first().map(|offer| offer.url.as_str());
        return parse_storage_url(first.unwrap_or_default(), auth_url);
    };
    let found = of_interface
        .iter()
        .find(|offer| offer.region.as_deref() == Some(region));
    match found {
        Some(offer) => parse_storage_url(&offer.url, auth_url),
        None => {
            let regions = of_interface.iter().filter_map(|o| o.region.as_deref());
            let reason = format!("there is no {service_type} in the region \"{region}\"");
            let advice = format!(
                "set backup_swift_region_name to one of: {}",
                all(regions.collect())
            );
            Err(never(auth_url, reason).advise(&advice))
        }
    }
}
