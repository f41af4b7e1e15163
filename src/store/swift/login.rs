//! Logs in: gets a token and the address of the account, once.
//!
//! Knows the three ways of doing so that Cinder has, and the token that somebody else got.
//! Must not wait, try again, or know what the token is for.

mod keystone;

use super::failure::{Again, Failure};
use crate::config::{self, Login};
use crate::error::{Error, Kind};
use crate::secret::Secret;
use bytes::BytesMut;
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Client, RequestBuilder, StatusCode, Url};
use std::time::{Duration, Instant};

/// What is done, for errors.
const OP: &str = "log in to";
/// The largest answer that makes sense, in bytes: catalogues are long, but not that long.
const LARGEST_ANSWER: usize = 8 << 20;
/// So long before its end a token is still good for a request.
const MARGIN: Duration = Duration::from_secs(60);

/// What one needs to use an account.
#[derive(Debug)]
pub(super) struct Session {
    /// Goes along with every request.
    pub token: Secret,
    /// The address of the account.
    pub storage_url: Url,
    /// When to log in again, a while before the token ends.
    pub renew_at: Option<Instant>,
}

/// Tries to log in, once.
///
/// # Errors
/// Of kind `Denied` when the server does not know us, else `Unavailable` or `TimedOut`:
/// never of one that would say something of an object.
pub(super) async fn log_in(client: &Client, login: &Login) -> Result<Session, Failure> {
    match login {
        Login::Token { storage_url, token } => Ok(Session {
            token: token.clone(),
            storage_url: parse_storage_url(storage_url, storage_url)?,
            renew_at: None,
        }),
        Login::V1 {
            auth_url,
            user,
            key,
        } => of_swift(client, auth_url, user, key).await,
        Login::V2 {
            auth_url,
            user,
            password,
            tenant,
            endpoint,
        } => {
            let request = keystone::V2Request::new(user, password, tenant.as_deref());
            let url = keystone::address(auth_url, "v2.0", "tokens");
            let began = Instant::now();
            let answer = ask_keystone(client, auth_url, url, &request, false).await?;
            keystone::of_v2(&answer.body, auth_url, endpoint, began)
        }
        Login::V3 {
            auth_url,
            identity,
            project,
            endpoint,
        } => {
            let request = keystone::v3_request(identity, project.as_ref());
            let url = keystone::address(auth_url, "v3", "auth/tokens");
            let is_password = matches!(identity, config::Identity::Password { .. });
            let began = Instant::now();
            let answer = ask_keystone(client, auth_url, url, &request, !is_password).await?;
            let token = answer.headers.get("X-Subject-Token");
            keystone::of_v3(token, &answer.body, auth_url, endpoint, began)
        }
    }
}

/// Swift's own way.
async fn of_swift(
    client: &Client,
    auth_url: &str,
    user: &str,
    key: &Secret,
) -> Result<Session, Failure> {
    let header = |option: &str, text: &str| {
        let mut value = HeaderValue::from_bytes(text.as_bytes()).map_err(|_| {
            let reason = format!("{option} holds characters that no header may hold");
            never(auth_url, reason).advise("take them out")
        })?;
        value.set_sensitive(true);
        Ok::<_, Final>(value)
    };
    let request = client
        .get(auth_url)
        .header("X-Auth-User", header("backup_swift_user", user)?)
        .header("X-Auth-Key", header("backup_swift_key", key.expose())?);
    let began = Instant::now();
    let answer = send(auth_url, request).await?;
    if !answer.status.is_success() {
        let reason = "wrong user or key";
        let advice = "see backup_swift_user, which is ACCOUNT:USER in most, and backup_swift_key";
        return Err(refused(auth_url, &answer, reason, advice));
    }
    of_v1(&answer.headers, auth_url, began)
}

/// What Swift's own login answers.
fn of_v1(headers: &HeaderMap, auth_url: &str, began: Instant) -> Result<Session, Failure> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    let Some(storage_url) = text("X-Storage-Url") else {
        return Err(no_login(auth_url, "the answer names no account (X-Storage-Url)").into());
    };
    let token = headers
        .get("X-Storage-Token")
        .or_else(|| headers.get("X-Auth-Token"));
    let life = text("X-Auth-Token-Expires").and_then(|life| life.trim().parse().ok());
    Ok(Session {
        token: parse_token(token, auth_url)?,
        storage_url: parse_storage_url(storage_url, auth_url)?,
        renew_at: renew_at(began, life.map(Duration::from_secs)),
    })
}

/// An answer.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: BytesMut,
}

async fn ask_keystone(
    client: &Client,
    auth_url: &str,
    url: String,
    request: &impl serde::Serialize,
    is_credential: bool,
) -> Result<Answer, Failure> {
    let body = serde_json::to_vec(request).map_err(|e| never(auth_url, e))?;
    let request = client
        .post(url)
        .header(reqwest::header::CONTENT_TYPE, "application/json")
        .header(reqwest::header::ACCEPT, "application/json")
        .body(body);
    let answer = send(auth_url, request).await?;
    if answer.status.is_success() {
        return Ok(answer);
    }
    let (reason, advice) = match is_credential {
        true => (
            "wrong application credential or secret, or it has ended",
            "see backup_swift_application_credential_id and \
             backup_swift_application_credential_secret",
        ),
        false => (
            "wrong user, password or domain, or no right in the project",
            "see backup_swift_user, backup_swift_key, backup_swift_user_domain and \
             backup_swift_project",
        ),
    };
    Err(refused(auth_url, &answer, reason, advice))
}

/// Sends a request and takes the answer, of whatever status it is.
async fn send(auth_url: &str, request: RequestBuilder) -> Result<Answer, Failure> {
    let failed = |e: reqwest::Error| {
        let failure = Failure::of_transport(OP, auth_url, &e);
        match (failure.again, e.is_dns()) {
            (Again::Never, _) | (_, true) => failure,
            _ => Failure {
                error: failure
                    .error
                    .advise("is the server up, and backup_swift_auth_url right?"),
                ..failure
            },
        }
    };
    let mut response = request.send().await.map_err(failed)?;
    let mut body = BytesMut::new();
    while let Some(piece) = response.chunk().await.map_err(failed)? {
        body.extend_from_slice(&piece);
        if body.len() > LARGEST_ANSWER {
            return Err(no_login(auth_url, "the answer is far too long").into());
        }
    }
    Ok(Answer {
        status: response.status(),
        headers: response.headers().clone(),
        body,
    })
}

/// The failure for a status that is not that of success. What else the server says is not
/// repeated: of a request that it does not like Keystone repeats parts.
fn refused(auth_url: &str, answer: &Answer, reason: &str, advice: &str) -> Failure {
    let status = answer.status;
    match status.as_u16() {
        401 => {
            let reason = format!("{reason} ({status})");
            let error = Error::new(Kind::Denied, OP, auth_url, reason).advise(advice);
            Failure::new(error, Again::Never)
        }
        403 => {
            let reason = format!("the server knows who we are and does not let us in ({status})");
            let error = Error::new(Kind::Denied, OP, auth_url, reason);
            Failure::new(error.advise("ask those who run it"), Again::Never)
        }
        408 | 429 | 498 | 500 | 502..505 => {
            Failure::of_status(OP, auth_url, status, &answer.headers)
        }
        _ => no_login(auth_url, format!("that is no answer to a login ({status})")).into(),
    }
}

/// A server that answers, but not as one where one can log in.
fn no_login(auth_url: &str, reason: impl std::fmt::Display) -> Final {
    never(auth_url, reason).advise("are backup_swift_auth_url and backup_swift_auth_version right?")
}

/// A failure that will not pass by itself.
struct Final(Error);

impl Final {
    fn advise(self, advice: &str) -> Self {
        Self(self.0.advise(advice))
    }
}

impl From<Final> for Failure {
    fn from(failure: Final) -> Self {
        Self::new(failure.0, Again::Never)
    }
}

fn never(auth_url: &str, reason: impl std::fmt::Display) -> Final {
    Final(Error::new(Kind::Unavailable, OP, auth_url, reason))
}

fn parse_token(token: Option<&HeaderValue>, auth_url: &str) -> Result<Secret, Final> {
    let text = token.and_then(|token| token.to_str().ok());
    let text = text.filter(|text| !text.is_empty());
    text.map(Secret::new)
        .ok_or_else(|| no_login(auth_url, "the answer holds no token"))
}

/// The address of an account, as a server tells it.
fn parse_storage_url(text: &str, auth_url: &str) -> Result<Url, Final> {
    let wrong = |what: &str| {
        let reason = format!(
            "the address of the account that it tells, \"{}\", {what}",
            text.escape_debug()
        );
        never(auth_url, reason).advise("see the configuration of the server, or of its catalogue")
    };
    let url = Url::parse(text).map_err(|e| wrong(&format!("is none ({e})")))?;
    match url.scheme() {
        "http" | "https" => Ok(url),
        _ => Err(wrong("is not one of http or https")),
    }
}

/// When to log in again, for a token that was asked for then and lives so long. Whose life
/// is not known is used until it is refused.
fn renew_at(began: Instant, life: Option<Duration>) -> Option<Instant> {
    let life = life.filter(|life| !life.is_zero())?;
    let wait = (life - life / 4).max(life.saturating_sub(MARGIN));
    began.checked_add(wait)
}

#[cfg(test)]
mod tests;
