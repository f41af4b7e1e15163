//! The options of the driver `ceph`: where the cluster is, who we are to it, how new images
//! are made, and how patient we are.
//!
//! Must not know how any of this is used.

use super::environment::Environment;
use super::ini::Document;
use super::scope::{DEFAULT, Scope, Setting};
use super::value::{self, Wrong};
use super::{Driver, value::text};
use crate::error::Result;
use std::path::PathBuf;
use std::time::Duration;

/// The size of the objects of the images that Cinder makes, in bytes: librbd's default.
const OBJECT_SIZE: u64 = 4 << 20;
/// What librados waits by itself.
const OWN_TIMEOUT: Duration = Duration::from_secs(300);

/// Options of the driver `ceph`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ceph {
    /// Where this backend is configured: file, line and section, for messages.
    pub place: String,
    /// Ceph's own configuration file: an absolute path.
    pub conf: PathBuf,
    /// The user, without `client.`.
    pub user: String,
    /// The pool that holds the backups.
    pub pool: String,
    /// How much Cinder copies at a time, in bytes.
    pub chunk_size: u64,
    /// How new images are striped; `None`: not at all.
    pub striping: Option<Striping>,
    /// New images keep a journal, so that they can be mirrored.
    pub journals: bool,
    /// What lies behind the end of a backup is made zero when it is restored.
    pub discard_excess: bool,
    /// How long to wait for a monitor.
    pub connect_timeout: Duration,
    /// The longest that anything that is asked of the cluster may take.
    pub request_timeout: Duration,
}

impl Ceph {
    /// What holds where nothing is configured.
    ///
    /// # Errors
    /// None, as long as the defaults are right.
    pub fn defaults() -> Result<Self> {
        of_scope(&Scope::new(&Document::default(), DEFAULT))
    }
}

/// How data goes round the objects of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Striping {
    /// So many bytes go into one object before the next one has its turn.
    pub unit: u64,
    /// Among so many objects.
    pub count: u64,
}

/// The options of the driver `ceph`.
pub(super) fn build(scope: &Scope<'_>, _environment: &Environment) -> Result<Driver> {
    Ok(Driver::Ceph(Box::new(of_scope(scope)?)))
}

fn of_scope(scope: &Scope<'_>) -> Result<Ceph> {
    Ok(Ceph {
        place: scope.place(),
        conf: scope.required("backup_ceph_conf")?.parse(value::path)?,
        user: scope.required("backup_ceph_user")?.parse(user)?,
        pool: scope.required("backup_ceph_pool")?.parse(pool)?,
        chunk_size: scope
            .required("backup_ceph_chunk_size")?
            .parse(value::object_size)?,
        striping: striping(
            &scope.required("backup_ceph_stripe_unit")?,
            &scope.required("backup_ceph_stripe_count")?,
        )?,
        journals: scope
            .required("backup_ceph_image_journals")?
            .parse(value::switch)?,
        discard_excess: scope
            .required("restore_discard_excess_bytes")?
            .parse(value::switch)?,
        connect_timeout: scope
            .required("rados_connect_timeout")?
            .parse(connect_timeout)?,
        request_timeout: scope.inherited("request_timeout")?.parse(value::timeout)?,
    })
}

/// Both, or neither, as librbd wants it.
fn striping(unit: &Setting, count: &Setting) -> Result<Option<Striping>> {
    let striping = Striping {
        unit: unit.parse(number)?,
        count: count.parse(number)?,
    };
    match striping {
        Striping { unit: 0, count: 0 } => return Ok(None),
        Striping { unit: 0, .. } => {
            let reason = format!("{count} is set, and {} is 0", unit.option);
            return Err(unit.refuse(Wrong::new(reason, "set both, or neither")));
        }
        Striping { count: 0, .. } => {
            let reason = format!("{unit} is set, and {} is 0", count.option);
            return Err(count.refuse(Wrong::new(reason, "set both, or neither")));
        }
        _ => {}
    }
    if !OBJECT_SIZE.is_multiple_of(striping.unit) {
        return Err(unit.refuse(Wrong::new(
            format!(
                "objects of {OBJECT_SIZE} bytes cannot be cut into pieces of {}",
                striping.unit
            ),
            "write a power of two such as 65536",
        )));
    }
    Ok(Some(striping))
}

fn number(text: &str) -> Result<u64, Wrong> {
    text.trim()
        .parse()
        .ok()
        .filter(|number| u32::try_from(*number).is_ok())
        .ok_or_else(|| {
            Wrong::new(
                format!("\"{text}\" is not a number from 0 to {}", u32::MAX),
                "write plain digits",
            )
        })
}

fn user(name: &str) -> Result<String, Wrong> {
    let name = text(name)?;
    if name.is_empty() {
        return Err(Wrong::new(
            "it is empty",
            "write the name of a user of Ceph",
        ));
    }
    if name.starts_with("client.") {
        return Err(Wrong::new(
            format!("\"{name}\" would be client.{name}"),
            "leave \"client.\" out, as Cinder does",
        ));
    }
    Ok(name)
}

fn pool(name: &str) -> Result<String, Wrong> {
    let name = text(name)?;
    if name.is_empty() || name.contains('/') {
        return Err(Wrong::new(
            format!("\"{name}\" cannot be the name of a pool"),
            "write the name of the pool that holds the backups",
        ));
    }
    Ok(name)
}

/// Cinder's -1 leaves it to librados.
fn connect_timeout(text: &str) -> Result<Duration, Wrong> {
    match text.trim() {
        "-1" => Ok(OWN_TIMEOUT),
        text => value::timeout(text),
    }
}
