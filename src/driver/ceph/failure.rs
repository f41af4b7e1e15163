//! What the numbers that Ceph's libraries answer with mean, and how long is waited for them.

use crate::error::{Error, Kind, Result};
use std::io;
use std::time::Duration;
use tokio::time::Instant;

/// Until when something is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    at: Instant,
    patience: Duration,
}

impl Deadline {
    /// So long from now on.
    pub fn after(patience: Duration) -> Self {
        Self {
            at: Instant::now() + patience,
            patience,
        }
    }

    /// When it is over.
    pub fn at(self) -> Instant {
        self.at
    }
}

/// Nobody has answered in time.
pub fn timed_out(op: &'static str, subject: &str, deadline: Deadline) -> Error {
    let reason = format!(
        "the cluster did not answer within {} s",
        deadline.patience.as_secs_f64()
    );
    Error::new(Kind::TimedOut, op, subject, reason)
        .advise("see `ceph -s` for what is wrong with it, or raise request_timeout")
}

/// The failure that a negative answer stands for.
pub fn failed(op: &'static str, subject: &str, code: i64) -> Error {
    let number = i32::try_from(code.unsigned_abs()).unwrap_or(libc::EIO);
    let source = io::Error::from_raw_os_error(number);
    match number {
        libc::ESHUTDOWN | libc::ENOTCONN => {
            let reason = "the cluster has cut this client off (it is on its block list, or the \
                          connection is gone)";
            Error::new(Kind::Unavailable, op, subject, reason)
        }
        libc::ETIMEDOUT => {
            let reason = "the cluster did not answer in time";
            Error::new(Kind::TimedOut, op, subject, reason)
                .advise("see `ceph -s` for what is wrong with it, or raise request_timeout")
        }
        libc::EACCES | libc::EPERM => {
            let reason =
                "the user whose key is used (backup_ceph_user, --rbd-user) may not do that";
            Error::new(Kind::Denied, op, subject, reason)
                .advise("see its capabilities: `ceph auth get client.USER`")
        }
        libc::ENOSPC | libc::EDQUOT => {
            let reason = "the pool is full, or holds as much as its quota lets it";
            Error::new(Kind::NoSpace, op, subject, reason)
                .advise("delete backups, or see `ceph df` and `ceph osd pool get-quota POOL`")
        }
        libc::EIO => {
            let reason = "the cluster cannot read what it has, or has lost it";
            Error::new(Kind::Corrupt, op, subject, reason).advise("see `ceph health detail`")
        }
        libc::EROFS => {
            let reason = "another program has locked the image, and writes to it";
            Error::new(Kind::Dependents, op, subject, reason).advise("wait until that is finished")
        }
        libc::EBUSY => {
            let reason = "other programs have the image open, or have had until a moment ago";
            Error::new(Kind::Dependents, op, subject, reason)
                .advise("see `rbd status` for who that is, and try again")
        }
        _ => Error::io(op, subject, &source),
    }
}

/// What was asked for, unless the answer stands for a failure.
pub fn check(op: &'static str, subject: &str, code: impl Into<i64>) -> Result<u64> {
    let code = code.into();
    u64::try_from(code).map_err(|_| failed(op, subject, code))
}
