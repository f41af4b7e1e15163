//! The one error type of the program.
//!
//! An [`Error`] says what kind of failure it is (which alone decides the errno that a
//! program sees), what was being done, to what, why it failed, and, where there is
//! something to do about it, what. It is cheap to clone, because one failed fetch is
//! told to every reader that waits for it.
//!
//! This module must not know any room of the program.

use std::fmt;
use std::io;
use std::sync::Arc;

/// What kind of failure it is. Each kind has exactly one errno (`fuse::errno`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// There is no such object, backup or volume.
    NotFound,
    /// The name is taken.
    Exists,
    /// The store, or the permissions of a file, do not let us.
    Denied,
    /// The backend is read-only.
    ReadOnly,
    /// A finished backup is a record: it cannot be written to.
    Sealed,
    /// Other backups are built on this one.
    Dependents,
    /// What the store holds is damaged; it is never served.
    Corrupt,
    /// The store cannot be reached, or failed in a way that may pass.
    Unavailable,
    /// The store did not answer before the deadline.
    TimedOut,
    /// No space is left in the store or in the spool.
    NoSpace,
    /// A quota would be exceeded.
    Quota,
    /// This backend cannot do this.
    Unsupported,
    /// The request makes no sense, or a configured value is wrong.
    Invalid,
    /// The folder holds something.
    NotEmpty,
    /// A folder was needed and this is a file.
    NotDirectory,
    /// A file was needed and this is a folder.
    IsDirectory,
    /// A rename that would cross volumes or backends; programs then copy.
    CrossDevice,
    /// A name or an image that is too long for what has to hold it.
    TooLong,
}

/// The result of everything that can fail in this program.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure: kind, operation, subject, reason and advice. See the module's page.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: Kind,
    op: &'static str,
    subject: String,
    reason: String,
    advice: Option<String>,
}

impl Error {
    /// A failure of `op` (a verb phrase, "read object") on `subject`, because of `reason`.
    pub fn new(
        kind: Kind,
        op: &'static str,
        subject: impl Into<String>,
        reason: impl fmt::Display,
    ) -> Self {
        Self(Arc::new(Inner {
            kind,
            op,
            subject: subject.into(),
            reason: reason.to_string(),
            advice: None,
        }))
    }

    /// The same for a failed system call; the kind follows from the error's number.
    pub fn io(op: &'static str, subject: impl Into<String>, source: &io::Error) -> Self {
        Self::new(kind_of_io(source), op, subject, source)
    }

    /// A damaged object, file or document.
    pub fn corrupt(
        op: &'static str,
        subject: impl Into<String>,
        reason: impl fmt::Display,
    ) -> Self {
        Self::new(Kind::Corrupt, op, subject, reason)
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub fn advise(self, advice: impl Into<String>) -> Self {
        self.map(|inner| inner.advice = Some(advice.into()))
    }

    /// Names a larger thing that the failing one is a part of: "backup X: <subject>".
    #[must_use]
    pub fn within(self, whole: impl fmt::Display) -> Self {
        self.map(|inner| inner.subject = format!("{whole}: {}", inner.subject))
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// What failed, without the operation: for machine-readable places.
    pub fn reason(&self) -> &str {
        &self.0.reason
    }

    fn map(self, change: impl FnOnce(&mut Inner)) -> Self {
        let mut inner = Arc::try_unwrap(self.0).unwrap_or_else(|shared| Inner {
            kind: shared.kind,
            op: shared.op,
            subject: shared.subject.clone(),
            reason: shared.reason.clone(),
            advice: shared.advice.clone(),
        });
        change(&mut inner);
        Self(Arc::new(inner))
    }
}

fn kind_of_io(source: &io::Error) -> Kind {
    match source.raw_os_error() {
        Some(libc::ENOENT) => Kind::NotFound,
        Some(libc::EEXIST) => Kind::Exists,
        Some(libc::EACCES | libc::EPERM) => Kind::Denied,
        Some(libc::EROFS) => Kind::ReadOnly,
        Some(libc::ENOSPC | libc::EFBIG) => Kind::NoSpace,
        Some(libc::EDQUOT) => Kind::Quota,
        Some(libc::ETIMEDOUT) => Kind::TimedOut,
        Some(libc::ENAMETOOLONG) => Kind::TooLong,
        Some(libc::ENOTEMPTY) => Kind::NotEmpty,
        Some(libc::ENOTDIR) => Kind::NotDirectory,
        Some(libc::EISDIR) => Kind::IsDirectory,
        Some(libc::EOPNOTSUPP) => Kind::Unsupported,
        Some(libc::EINVAL) => Kind::Invalid,
        _ => match source.kind() {
            io::ErrorKind::NotFound => Kind::NotFound,
            io::ErrorKind::PermissionDenied => Kind::Denied,
            io::ErrorKind::TimedOut => Kind::TimedOut,
            io::ErrorKind::ResourceBusy => Kind::Dependents,
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Kind::Corrupt,
            _ => Kind::Unavailable,
        },
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner {
            op,
            subject,
            reason,
            advice,
            ..
        } = &*self.0;
        write!(f, "cannot {op} {subject}: {reason}")?;
        match advice {
            Some(advice) => write!(f, "; {advice}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_one_sentence() {
        let error = Error::corrupt("read object", "a-00001", "md5 does not match")
            .within("backup 1234")
            .advise("run `cinderfs verify`");
        assert_eq!(
            error.to_string(),
            "cannot read object backup 1234: a-00001: md5 does not match; run `cinderfs verify`"
        );
        assert_eq!(error.kind(), Kind::Corrupt);
    }

    #[test]
    fn kind_follows_from_the_error_number() {
        for (number, kind) in [
            (libc::ENOENT, Kind::NotFound),
            (libc::EACCES, Kind::Denied),
            (libc::ENOSPC, Kind::NoSpace),
            (libc::EIO, Kind::Unavailable),
        ] {
            let source = io::Error::from_raw_os_error(number);
            assert_eq!(Error::io("open", "x", &source).kind(), kind);
        }
    }
}
