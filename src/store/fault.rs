//! A store that counts what is asked of it and fails on demand: for tests.

use super::{Body, Claim, Entry, ObjectStore, ObjectStream, Page, Select, Space, Stat};
use crate::error::{Error, Kind, Result};
use async_trait::async_trait;
use bytes::Bytes;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What the layer is told about a call that is about to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// Objects are listed.
    List,
    /// An object is asked for its size.
    Stat(String),
    /// A range of an object is read.
    Read(String, Range<u64>),
    /// An object is stored.
    Put(String),
    /// An object is removed.
    Delete(String),
    /// It is said that a backup is being written, or deleted.
    Claim(String),
}

type Rule = dyn Fn(&Call) -> Option<Kind> + Send + Sync;

/// Any store, watched. See the module's page.
pub struct FaultStore<S> {
    inner: S,
    watch: Arc<Watch>,
}

/// What fails, and what was read.
struct Watch {
    rule: Mutex<Arc<Rule>>,
    reads: AtomicU64,
    bytes_read: AtomicU64,
}

impl Watch {
    fn check(&self, op: &'static str, container: &str, call: &Call) -> Result<()> {
        let rule = Arc::clone(&self.rule.lock().unwrap_or_else(PoisonError::into_inner));
        match rule(call) {
            Some(kind) => Err(Error::new(
                kind,
                op,
                format!("{container}: {call:?}"),
                "made to fail by a test",
            )),
            None => Ok(()),
        }
    }

    fn count(&self, name: &str, bytes: &Bytes) {
        if !name.ends_with("_metadata") && !name.ends_with("_sha256file") {
            self.reads.fetch_add(1, Ordering::Relaxed);
            self.bytes_read
                .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
    }
}

/// A stream of the store's own, watched piece by piece.
struct Watched {
    inner: Box<dyn ObjectStream>,
    watch: Arc<Watch>,
    container: String,
    name: String,
    /// Where the next byte stands.
    offset: u64,
}

#[async_trait]
impl ObjectStream for Watched {
    async fn next(&mut self, want: u64) -> Result<Bytes> {
        let range = self.offset..self.offset.saturating_add(want);
        let call = Call::Read(self.name.clone(), range);
        self.watch.check("read object", &self.container, &call)?;
        let bytes = self.inner.next(want).await?;
        self.offset += bytes.len() as u64;
        self.watch.count(&self.name, &bytes);
        Ok(bytes)
    }
}

impl<S> FaultStore<S> {
    /// Watches `inner`; nothing fails yet.
    pub fn new(inner: S) -> Self {
        Self {
            inner,
            watch: Arc::new(Watch {
                rule: Mutex::new(Arc::new(|_| None)),
                reads: AtomicU64::new(0),
                bytes_read: AtomicU64::new(0),
            }),
        }
    }

    /// From now on, a call for which `rule` names a kind fails so.
    pub fn fail_when(&self, rule: impl Fn(&Call) -> Option<Kind> + Send + Sync + 'static) {
        let mut current = self
            .watch
            .rule
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(rule);
    }

    /// How often a chunk was read since the last call of this, and how many bytes of
    /// chunks that gave. Metadata and hash lists do not count.
    pub fn take_chunk_reads(&self) -> (u64, u64) {
        (
            self.watch.reads.swap(0, Ordering::Relaxed),
            self.watch.bytes_read.swap(0, Ordering::Relaxed),
        )
    }

    fn check(&self, op: &'static str, container: &str, call: &Call) -> Result<()> {
        self.watch.check(op, container, call)
    }
}

impl<S: Debug> Debug for FaultStore<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FaultStore({:?})", self.inner)
    }
}

#[async_trait]
impl<S: ObjectStore> ObjectStore for FaultStore<S> {
    async fn containers(&self, prefix: &str) -> Result<Vec<String>> {
        self.check("list", "containers", &Call::List)?;
        self.inner.containers(prefix).await
    }

    fn hidden(&self) -> Vec<String> {
        self.inner.hidden()
    }

    async fn list(&self, container: &str, prefix: &str) -> Result<Vec<Entry>> {
        self.check("list", container, &Call::List)?;
        self.inner.list(container, prefix).await
    }

    async fn page(&self, container: &str, select: Select<'_>) -> Result<Page> {
        self.check("list", container, &Call::List)?;
        self.inner.page(container, select).await
    }

    async fn stat(&self, container: &str, name: &str) -> Result<Stat> {
        self.check("find object", container, &Call::Stat(name.to_owned()))?;
        self.inner.stat(container, name).await
    }

    async fn read(&self, container: &str, name: &str, range: Range<u64>) -> Result<Bytes> {
        self.check(
            "read object",
            container,
            &Call::Read(name.to_owned(), range.clone()),
        )?;
        let bytes = self.inner.read(container, name, range).await?;
        self.watch.count(name, &bytes);
        Ok(bytes)
    }

    fn stream(&self, container: &str, name: &str, offset: u64) -> Option<Box<dyn ObjectStream>> {
        Some(Box::new(Watched {
            inner: self.inner.stream(container, name, offset)?,
            watch: Arc::clone(&self.watch),
            container: container.to_owned(),
            name: name.to_owned(),
            offset,
        }))
    }

    async fn put(&self, container: &str, name: &str, body: Body) -> Result<()> {
        self.check("store object", container, &Call::Put(name.to_owned()))?;
        self.inner.put(container, name, body).await
    }

    async fn sync(&self, container: &str) -> Result<()> {
        self.inner.sync(container).await
    }

    async fn delete(&self, container: &str, name: &str) -> Result<()> {
        self.check("delete object", container, &Call::Delete(name.to_owned()))?;
        self.inner.delete(container, name).await
    }

    async fn remove_container(&self, container: &str) -> Result<()> {
        self.inner.remove_container(container).await
    }

    async fn check_writable(&self) -> Result<()> {
        self.inner.check_writable().await
    }

    fn has_claims(&self) -> bool {
        self.inner.has_claims()
    }

    async fn claim(&self, backup_id: &str) -> Result<Claim> {
        self.check("claim", "the store", &Call::Claim(backup_id.to_owned()))?;
        self.inner.claim(backup_id).await
    }

    async fn is_claimed(&self, backup_id: &str) -> Result<bool> {
        self.inner.is_claimed(backup_id).await
    }

    async fn leftovers(&self) -> Result<Vec<(String, Entry)>> {
        self.inner.leftovers().await
    }

    fn retried(&self) -> Option<Error> {
        self.inner.retried()
    }

    async fn space(&self) -> Result<Option<Space>> {
        self.inner.space().await
    }
}
