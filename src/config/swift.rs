//! The options of the driver `swift`: where the store is, who we are to it, and how
//! patient we are with it.
//!
//! Must not know how any of this is sent.

mod address;
mod build;
mod login;
mod token;

use super::Chunked;
use crate::secret::Secret;
use std::path::PathBuf;
use std::time::Duration;

pub(super) use build::build;

/// Options of the driver `swift`.
#[derive(Debug, Clone, PartialEq)]
pub struct Swift {
    /// Where this backend is configured: file, line and section, for messages.
    pub place: String,
    /// Who we are, and who knows.
    pub login: Login,
    /// The containers in which backups are looked for. New ones go into the container of
    /// `chunked`, which there always is.
    pub containers: Containers,
    /// The policy of containers that we make; the store's own default without.
    pub storage_policy: Option<String>,
    /// How often a request that failed for a passing reason is sent once more.
    pub retry_attempts: u32,
    /// How long to wait before the first time; twice as long before each one after that.
    pub retry_backoff: Duration,
    /// The longest that a request may take, with all its repetitions.
    pub request_timeout: Duration,
    /// Which servers are taken for what they say they are.
    pub trust: Trust,
    /// How backups are cut into objects.
    pub chunked: Chunked,
}

/// Which servers are taken for what they say they are, over TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// A file with the certificates (PEM) of the authorities that are trusted; without,
    /// those of the system.
    pub ca_cert_file: Option<PathBuf>,
    /// Whatever certificate a server shows is good enough.
    pub insecure: bool,
}

/// Where backups are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Containers {
    /// In these.
    Named(Vec<String>),
    /// In every container of the account.
    All,
}

/// Who we are, and who knows.
#[derive(Debug, Clone, PartialEq)]
pub enum Login {
    /// Somebody has logged in for us (`per_user`).
    Token {
        /// The address of the account, as in `https://swift.example/v1/AUTH_a1b2`.
        storage_url: String,
        /// What was given to them.
        token: Secret,
    },
    /// Swift's own way (TempAuth, swauth, RADOS Gateway).
    V1 {
        /// As in `https://swift.example/auth/v1.0`.
        auth_url: String,
        /// As in `account:user`.
        user: String,
        /// The key of that user.
        key: Secret,
    },
    /// Keystone's second version, which is gone since Queens.
    V2 {
        /// As in `https://keystone.example:5000/v2.0`.
        auth_url: String,
        /// Name of the user.
        user: String,
        /// The user's password.
        password: Secret,
        /// Name of the tenant, a project of today.
        tenant: Option<String>,
        /// Which of its object stores.
        endpoint: Endpoint,
    },
    /// Keystone's third version.
    V3 {
        /// As in `https://keystone.example:5000/v3`.
        auth_url: String,
        /// Who we are.
        identity: Identity,
        /// The project that we want to work in: none for an application credential,
        /// which is of one project, and for users that have a default project.
        project: Option<Named>,
        /// Which of its object stores.
        endpoint: Endpoint,
    },
}

/// Who we are to Keystone.
#[derive(Debug, Clone, PartialEq)]
pub enum Identity {
    /// A user.
    Password {
        /// The user.
        user: Named,
        /// Their password.
        password: Secret,
    },
    /// Something that a user made for a program.
    ApplicationCredential {
        /// By its id, or by its name and the user who made it.
        credential: Credential,
        /// What was shown once, when it was made.
        secret: Secret,
    },
}

/// Which application credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// The one of this id.
    Id(String),
    /// The one of this name that this user has made.
    Name(String, Named),
}

/// A user or a project of Keystone's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// The one of this id.
    Id(String),
    /// The one of this name in a domain.
    Name(String, Domain),
}

/// A domain of Keystone's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Domain {
    /// The one of this id.
    Id(String),
    /// The one of this name.
    Name(String),
}

/// Which of the object stores that a catalogue lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// The type of the service; without, `object-store`.
    pub service_type: Option<String>,
    /// That of this region; without, the first.
    pub region: Option<String>,
    /// `public`, `internal` or `admin`; without, `public`.
    pub interface: Option<String>,
    /// Its address, whatever the catalogue says.
    pub storage_url: Option<String>,
}
