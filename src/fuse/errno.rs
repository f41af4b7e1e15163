//! The one table of error numbers.

use crate::error::{Error, Kind};
use fuser::Errno;

/// The error number that a program sees.
pub fn errno_of(error: &Error) -> Errno {
    match error.kind() {
        Kind::NotFound => Errno::ENOENT,
        Kind::Exists => Errno::EEXIST,
        Kind::Denied => Errno::EACCES,
        Kind::ReadOnly => Errno::EROFS,
        Kind::Sealed => Errno::EPERM,
        Kind::Dependents => Errno::EBUSY,
        Kind::Corrupt | Kind::Unavailable | Kind::TimedOut => Errno::EIO,
        Kind::NoSpace => Errno::ENOSPC,
        Kind::Quota => Errno::EDQUOT,
        Kind::Unsupported => Errno::EOPNOTSUPP,
        Kind::Invalid => Errno::EINVAL,
        Kind::NotEmpty => Errno::ENOTEMPTY,
        Kind::NotDirectory => Errno::ENOTDIR,
        Kind::IsDirectory => Errno::EISDIR,
        Kind::CrossDevice => Errno::EXDEV,
        Kind::TooLong => Errno::ENAMETOOLONG,
    }
}
