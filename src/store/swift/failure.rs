//! What went wrong between us and a server, in words, and whether to try again.
//!
//! Knows errors of HTTP, of TLS and of the network. Must not know what was asked for, nor
//! wait for anything.

use crate::error::{Error, Kind};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{StatusCode, Url};
use rustls::CertificateError;
use std::error::Error as StdError;
use std::io;
use std::time::{Duration, SystemTime};

/// However long a server wants us to wait.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A request that failed.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    /// For the user.
    pub error: Error,
    /// For us.
    pub again: Again,
    /// The server is there: it has said so itself.
    pub answered: bool,
}

/// Whether the same request may do better later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// No.
    Never,
    /// A connection broke that was perhaps just idle for too long.
    Soon,
    /// When the server has had time to recover.
    Backoff,
    /// The server says when.
    After(Duration),
}

/// What kept a request from being answered.
#[derive(Debug)]
enum Trouble {
    /// The server shows a certificate that we do not take.
    Untrusted(String, &'static str),
    /// TLS failed in another way.
    Tls(String),
    /// Nobody listens.
    Refused,
    /// There is no way to there.
    Unreachable,
    /// The name is not known.
    NoSuchHost,
    /// Nothing came.
    TimedOut,
    /// The connection ended too early.
    Broken(String),
    /// Something that we do not know.
    Other(String),
}

impl Failure {
    /// One that is not an answer to a request.
    pub fn new(error: Error, again: Again) -> Self {
        Self {
            error,
            again,
            answered: false,
        }
    }

    /// A request that got no answer, or not all of it.
    pub fn of_transport(op: &'static str, subject: &str, e: &reqwest::Error) -> Self {
        let host = e.url().map_or_else(|| "the server".to_owned(), host_of);
        let up = "is the server up, and its address right?";
        let (kind, again, reason, advice) = match trouble(e) {
            Trouble::Untrusted(why, advice) => (
                Kind::Unavailable,
                Again::Never,
                format!("the certificate of {host} is not trusted ({why})"),
                advice,
            ),
            Trouble::Tls(why) => (
                Kind::Unavailable,
                Again::Never,
                format!("there is no TLS connection to {host} ({why})"),
                "does the server speak https, and this version of it?",
            ),
            Trouble::Refused => (
                Kind::Unavailable,
                Again::Backoff,
                format!("nobody answers at {host} (connection refused)"),
                up,
            ),
            Trouble::Unreachable => (
                Kind::Unavailable,
                Again::Backoff,
                format!("there is no way to {host} (network or host unreachable)"),
                "is the network up, and the address right?",
            ),
            Trouble::NoSuchHost => (
                Kind::Unavailable,
                Again::Backoff,
                format!("the name of {host} is not known"),
                "is the address right, and does the name service (DNS) work?",
            ),
            Trouble::TimedOut => (
                Kind::TimedOut,
                Again::Backoff,
                format!("no answer came from {host} in time"),
                up,
            ),
            Trouble::Broken(why) => (
                Kind::Unavailable,
                Again::Soon,
                format!("the connection to {host} broke ({why})"),
                up,
            ),
            Trouble::Other(why) => (
                Kind::Unavailable,
                Again::Backoff,
                format!("{host} could not be asked ({why})"),
                up,
            ),
        };
        Self::new(Error::new(kind, op, subject, reason).advise(advice), again)
    }

    /// A request that was answered with a status that is not that of success.
    pub fn of_status(
        op: &'static str,
        subject: &str,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Self {
        let later = || match retry_after(headers) {
            Some(wait) => Again::After(wait),
            None => Again::Backoff,
        };
        let (kind, again, reason, advice) = match status.as_u16() {
            401 => (
                Kind::Denied,
                Again::Never,
                "the server does not take our login",
                Some("has the token ended, or is it of another server?"),
            ),
            403 => (
                Kind::Denied,
                Again::Never,
                "the server does not let us",
                Some(
                    "the user that logs in needs the right to do this in the project or container",
                ),
            ),
            404 | 410 => (Kind::NotFound, Again::Never, "it is not there", None),
            408 => (
                Kind::Unavailable,
                later(),
                "the server waited for us too long",
                None,
            ),
            409 | 423 => (
                Kind::Unavailable,
                later(),
                "somebody else is changing it, or has just done so",
                Some("are the clocks of the servers right?"),
            ),
            412 => (
                Kind::Invalid,
                Again::Never,
                "the server does not take this name or this condition",
                None,
            ),
            413 => (
                Kind::Quota,
                Again::Never,
                "it is more than a quota of the account or container leaves, or than the server \
                 takes in one object",
                Some("remove something, or have the quota raised"),
            ),
            414 => (Kind::TooLong, Again::Never, "the name is too long", None),
            416 => (
                Kind::Invalid,
                Again::Never,
                "there is nothing at this place of it",
                None,
            ),
            422 => (
                Kind::Unavailable,
                Again::Backoff,
                "what arrived at the server was not what was sent",
                None,
            ),
            // Swift's own number for the second.
            429 | 498 => (
                Kind::Unavailable,
                later(),
                "the server is asked for too much at once",
                None,
            ),
            405 | 501 | 505 => (
                Kind::Unsupported,
                Again::Never,
                "the server cannot do this",
                Some("is the address that of a Swift?"),
            ),
            507 => (
                Kind::NoSpace,
                Again::Never,
                "there is no room left in the store",
                None,
            ),
            500.. => (
                Kind::Unavailable,
                later(),
                "the server has a fault of its own",
                Some("its log tells more"),
            ),
            300..400 => (
                Kind::Unavailable,
                Again::Never,
                "the server sends us elsewhere, where we do not go with a token",
                Some("write the address that it really has"),
            ),
            400..500 => (
                Kind::Invalid,
                Again::Never,
                "the server does not understand this",
                Some("is the address that of a Swift?"),
            ),
            _ => (
                Kind::Unavailable,
                Again::Backoff,
                "the answer makes no sense",
                Some("is the address that of a Swift?"),
            ),
        };
        let error = Error::new(kind, op, subject, format!("{reason} ({status})"));
        Self {
            error: match advice {
                Some(advice) => error.advise(advice),
                None => error,
            },
            again,
            answered: true,
        }
    }
}

/// Why something failed, without where: addresses stand in what is around it, and some
/// hold what is nobody's business.
pub(super) fn reason_of(e: &(dyn StdError + 'static)) -> String {
    match links(e).last() {
        Some(innermost) => innermost.to_string(),
        None => e.to_string(),
    }
}

/// The host that was asked.
fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or("the server");
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// How long the server wants to be left alone.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let until = httpdate::parse_http_date(text).ok()?;
            // Now, or a moment ago by our own clock, is no wait at all.
            until.duration_since(SystemTime::now()).ok()?
        }
    };
    Some(wait.min(LONGEST_WAIT))
}

/// An error, what it comes from, what that comes from, and so on.
fn links<'a>(
    e: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(e), |&e| {
        // What an error of input and output was made of is not its source: only the source
        // of that is.
        let inner = e.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        match inner {
            Some(inner) => Some(inner as &(dyn StdError + 'static)),
            None => e.source(),
        }
    })
}

fn trouble(e: &reqwest::Error) -> Trouble {
    if let Some(tls) = links(e).find_map(|e| e.downcast_ref::<rustls::Error>()) {
        return match tls {
            rustls::Error::InvalidCertificate(why) => {
                let (why, advice) = words_for(why);
                Trouble::Untrusted(why, advice)
            }
            other if e.is_connect() => Trouble::Tls(other.to_string()),
            // It worked before.
            other => Trouble::Broken(other.to_string()),
        };
    }
    if e.is_timeout() {
        return Trouble::TimedOut;
    }
    let number = links(e).find_map(|e| Some(e.downcast_ref::<io::Error>()?.kind()));
    match number {
        Some(io::ErrorKind::ConnectionRefused) => Trouble::Refused,
        Some(io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable) => {
            Trouble::Unreachable
        }
        Some(io::ErrorKind::TimedOut) => Trouble::TimedOut,
        _ if e.is_dns() => Trouble::NoSuchHost,
        _ if e.is_connect() => Trouble::Other(reason_of(e)),
        _ if e.is_request() || e.is_body() || e.is_decode() => Trouble::Broken(reason_of(e)),
        _ => Trouble::Other(reason_of(e)),
    }
}

/// What is wrong with a certificate, and what to do about it.
fn words_for(why: &CertificateError) -> (String, &'static str) {
    let (what, advice) = match why {
        CertificateError::UnknownIssuer => (
            "it is signed by an unknown authority",
            "name the certificate of its authority in backup_swift_ca_cert_file",
        ),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => (
            "it has expired",
            "have it renewed; or is the clock of this machine wrong?",
        ),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            ("it is not valid yet", "is the clock of this machine right?")
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => (
            "it is that of another name",
            "use the address with the name that the certificate is for",
        ),
        other => {
            let advice = "have the server given another, or see backup_swift_ca_cert_file";
            return (other.to_string(), advice);
        }
    };
    (what.to_owned(), advice)
}

#[cfg(test)]
mod tests;
