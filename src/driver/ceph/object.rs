//! Plain objects of a pool: what they hold, and what they are asked.

use super::cluster::{Pool, c_text};
use super::completion::{Maker, Outcome, begin, end};
use super::failure::{Deadline, check};
use super::library::Library;
use crate::error::{Error, Result};
use std::ffi::{CStr, CString};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// No object that we read whole is larger.
const LARGEST_OBJECT: usize = 16 << 20;

/// What is known of an object without reading it.
#[derive(Debug, Clone, Copy)]
pub struct ObjectStat {
    /// Another one after each change.
    pub version: u64,
    /// In bytes.
    pub size: u64,
    /// When it was written, to the second.
    pub modified: Option<SystemTime>,
}

impl Pool {
    /// The version of an object, which is another one after each change of it.
    ///
    /// # Errors
    /// `NotFound`, and those of the cluster.
    pub async fn version(self: &Arc<Self>, object: &str, deadline: Deadline) -> Result<u64> {
        Ok(self.stat(object, deadline).await?.version)
    }

    /// What is known of an object without reading it.
    ///
    /// # Errors
    /// As [`Pool::version`].
    pub async fn stat(self: &Arc<Self>, object: &str, deadline: Deadline) -> Result<ObjectStat> {
        const OP: &str = "look at the object";
        struct Stat {
            pool: Arc<Pool>,
            name: CString,
            size: u64,
            modified: libc::time_t,
        }
        let stat = Stat {
            pool: Arc::clone(self),
            name: c_text(OP, object)?,
            size: 0,
            modified: 0,
        };
        let library = self.library();
        // SAFETY: the name and what is written to are in the payload, which keeps the pool
        // alive as well.
        let begun = unsafe {
            begin(
                library,
                Maker::Rados,
                stat,
                |_, outcome, stat| {
                    drop(stat.pool);
                    (outcome, stat.size, stat.modified)
                },
                |completion, stat: *mut Stat| {
                    let (size, modified) = (&raw mut (*stat).size, &raw mut (*stat).modified);
                    let Stat { pool, name, .. } = &*stat;
                    let (pool, name) = (pool.handle(), name.as_ptr());
                    (library.rados.rados_aio_stat)(pool, name, completion, size, modified)
                },
            )
        };
        let (Outcome { code, version }, size, modified) = end(OP, object, deadline, begun).await?;
        check(OP, object, code)?;
        let since = u64::try_from(modified).ok().map(Duration::from_secs);
        Ok(ObjectStat {
            version,
            size,
            modified: since.and_then(|since| UNIX_EPOCH.checked_add(since)),
        })
    }

    /// All that is in an object.
    ///
    /// # Errors
    /// `NotFound`, `Corrupt` when it is larger than anything that we expect, and those of the
    /// cluster.
    pub async fn read(self: &Arc<Self>, object: &str, deadline: Deadline) -> Result<Vec<u8>> {
        const OP: &str = "read the object";
        const STEP: usize = 1 << 20;
        let mut data = Vec::new();
        loop {
            let piece = self
                .read_part(OP, object, data.len() as u64, STEP, deadline)
                .await?;
            let is_last = piece.len() < STEP;
            data.extend(piece);
            if is_last {
                return Ok(data);
            }
            if data.len() >= LARGEST_OBJECT {
                return Err(Error::corrupt(
                    OP,
                    object,
                    "it is larger than anything that it can be",
                ));
            }
        }
    }

    async fn read_part(
        self: &Arc<Self>,
        op: &'static str,
        object: &str,
        offset: u64,
        length: usize,
        deadline: Deadline,
    ) -> Result<Vec<u8>> {
        let request = Request::new(self, op, object, length)?;
        let library = self.library();
        // SAFETY: the name and the buffer are owned by the payload, which keeps the pool
        // alive as well.
        let begun = unsafe {
            begin(
                library,
                Maker::Rados,
                request,
                Request::finish,
                |completion, request| {
                    let Request { pool, name, buffer } = &mut *request;
                    let (pool, name) = (pool.handle(), name.as_ptr());
                    let buffer = buffer.as_mut_ptr().cast();
                    (library.rados.rados_aio_read)(pool, name, completion, buffer, length, offset)
                },
            )
        };
        let (code, data) = end(op, object, deadline, begun).await?;
        check(op, object, code)?;
        Ok(data)
    }

    /// What a method of a class of objects answers, of at most `length` bytes.
    ///
    /// # Errors
    /// `NotFound`, and those of the cluster.
    pub async fn call(
        self: &Arc<Self>,
        object: &str,
        [class, method]: [&'static CStr; 2],
        input: &[u8],
        length: usize,
        deadline: Deadline,
    ) -> Result<Vec<u8>> {
        const OP: &str = "ask the object";
        let request = Request::new(self, OP, object, length)?;
        let library = self.library();
        // SAFETY: as for reading; the input is copied before the call returns, and the names
        // of class and method are static.
        let begun = unsafe {
            begin(
                library,
                Maker::Rados,
                request,
                Request::finish,
                |completion, request| {
                    let Request { pool, name, buffer } = &mut *request;
                    let (pool, name) = (pool.handle(), name.as_ptr());
                    let buffer = buffer.as_mut_ptr().cast();
                    (library.rados.rados_aio_exec)(
                        pool,
                        name,
                        completion,
                        class.as_ptr(),
                        method.as_ptr(),
                        input.as_ptr().cast(),
                        input.len(),
                        buffer,
                        length,
                    )
                },
            )
        };
        let (code, data) = end(OP, object, deadline, begun).await?;
        check(OP, object, code)?;
        Ok(data)
    }
}

/// What an operation on an object uses.
struct Request {
    /// Kept alive until the end.
    pool: Arc<Pool>,
    name: CString,
    buffer: Vec<u8>,
}

impl Request {
    fn new(pool: &Arc<Pool>, op: &'static str, object: &str, length: usize) -> Result<Self> {
        Ok(Self {
            pool: Arc::clone(pool),
            name: c_text(op, object)?,
            buffer: vec![0; length],
        })
    }

    /// The code, and as much of the buffer as was written.
    fn finish(_: &'static Library, outcome: Outcome, request: Self) -> (i64, Vec<u8>) {
        let mut data = request.buffer;
        data.truncate(usize::try_from(outcome.code).unwrap_or(0));
        drop(request.pool);
        (outcome.code, data)
    }
}
