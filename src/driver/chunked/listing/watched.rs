//! A store whose listings behave as Swift's may: paged, late, and folding or not.

use crate::error::{Error, Kind, Result};
use crate::store::memory::MemoryStore;
use crate::store::{Body, Entry, ObjectStore, Page, Select, Space, Stat};
use async_trait::async_trait;
use bytes::Bytes;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Semaphore;

/// Objects in memory, of which listings tell late.
#[derive(Debug, Default)]
struct Late {
    inner: MemoryStore,
    /// What listings show instead of what is there.
    shown: Mutex<Option<Vec<Entry>>>,
}

/// How listings go.
#[derive(Debug, Clone)]
pub struct Ways {
    /// Names on a page.
    pub most: usize,
    /// Whether it folds at more than one character.
    pub folds: bool,
    /// Every page is said to end where it began.
    pub is_stuck: bool,
    /// Pages of this prefix wait until they are let through.
    pub held_up: &'static str,
}

impl Default for Ways {
    fn default() -> Self {
        Self {
            most: 10_000,
            folds: true,
            is_stuck: false,
            held_up: "nothing",
        }
    }
}

/// See the module's page.
#[derive(Debug)]
pub struct Watched {
    late: Late,
    ways: Ways,
    /// Those who wait and who may go on.
    pub waiting: Semaphore,
    pub may_go: Semaphore,
    pages: AtomicU64,
    looks: AtomicU64,
}

pub const CONTAINER: &str = "volumebackups";

impl Watched {
    pub fn new(ways: Ways) -> Self {
        Self {
            late: Late::default(),
            ways,
            waiting: Semaphore::new(0),
            may_go: Semaphore::new(0),
            pages: AtomicU64::new(0),
            looks: AtomicU64::new(0),
        }
    }

    pub async fn fill<S: AsRef<str>>(&self, names: impl IntoIterator<Item = S>) {
        for name in names {
            let body = Body::Bytes(Bytes::new());
            let put = self.late.inner.put(CONTAINER, name.as_ref(), body);
            put.await.unwrap();
        }
    }

    /// Pages asked for since the last call of this.
    pub fn take_pages(&self) -> u64 {
        self.pages.swap(0, Ordering::Relaxed)
    }

    /// Objects that were asked for since the last call of this.
    pub fn take_looks(&self) -> u64 {
        self.looks.swap(0, Ordering::Relaxed)
    }

    /// What a listing shows now is what it shows until [`Watched::settle`].
    pub async fn freeze(&self) {
        let now = self.late.inner.list(CONTAINER, "").await.unwrap();
        *self.late.shown.lock().unwrap() = Some(now);
    }

    pub fn settle(&self) {
        *self.late.shown.lock().unwrap() = None;
    }
}

#[async_trait]
impl ObjectStore for Late {
    async fn containers(&self, prefix: &str) -> Result<Vec<String>> {
        self.inner.containers(prefix).await
    }

    async fn list(&self, container: &str, prefix: &str) -> Result<Vec<Entry>> {
        if let Some(shown) = &*self.shown.lock().unwrap() {
            let all = shown.iter().filter(|entry| entry.name.starts_with(prefix));
            return Ok(all.cloned().collect());
        }
        self.inner.list(container, prefix).await
    }

    async fn stat(&self, container: &str, name: &str) -> Result<Stat> {
        self.inner.stat(container, name).await
    }

    async fn read(&self, container: &str, name: &str, range: Range<u64>) -> Result<Bytes> {
        self.inner.read(container, name, range).await
    }

    async fn put(&self, container: &str, name: &str, body: Body) -> Result<()> {
        self.inner.put(container, name, body).await
    }

    async fn sync(&self, container: &str) -> Result<()> {
        self.inner.sync(container).await
    }

    async fn delete(&self, container: &str, name: &str) -> Result<()> {
        self.inner.delete(container, name).await
    }

    async fn remove_container(&self, _container: &str) -> Result<()> {
        Ok(())
    }

    async fn space(&self) -> Result<Option<Space>> {
        Ok(None)
    }
}

#[async_trait]
impl ObjectStore for Watched {
    async fn containers(&self, _prefix: &str) -> Result<Vec<String>> {
        Ok(vec![CONTAINER.to_owned()])
    }

    async fn list(&self, container: &str, prefix: &str) -> Result<Vec<Entry>> {
        let most = self.ways.most as u64;
        let found = self.late.list(container, prefix).await?;
        let pages = (found.len() as u64).div_ceil(most).max(1);
        self.pages.fetch_add(pages, Ordering::Relaxed);
        Ok(found)
    }

    async fn page(&self, container: &str, select: Select<'_>) -> Result<Page> {
        self.pages.fetch_add(1, Ordering::Relaxed);
        if select.prefix == self.ways.held_up {
            self.waiting.add_permits(1);
            self.may_go.acquire().await.unwrap().forget();
        }
        if !self.ways.folds && select.delimiter.is_some_and(|text| text.len() > 1) {
            let reason = "only one character";
            return Err(Error::new(Kind::Unsupported, "list", container, reason));
        }
        let most = select.most.unwrap_or(self.ways.most).min(self.ways.most);
        let select = Select {
            most: Some(most),
            ..select
        };
        let mut page = self.late.page(container, select).await?;
        if self.ways.is_stuck {
            page.next = Some(select.prefix.to_owned());
        }
        Ok(page)
    }

    async fn stat(&self, container: &str, name: &str) -> Result<Stat> {
        self.looks.fetch_add(1, Ordering::Relaxed);
        self.late.stat(container, name).await
    }

    async fn read(&self, container: &str, name: &str, range: Range<u64>) -> Result<Bytes> {
        self.looks.fetch_add(1, Ordering::Relaxed);
        self.late.read(container, name, range).await
    }

    async fn put(&self, container: &str, name: &str, body: Body) -> Result<()> {
        self.late.put(container, name, body).await
    }

    async fn sync(&self, container: &str) -> Result<()> {
        self.late.sync(container).await
    }

    async fn delete(&self, container: &str, name: &str) -> Result<()> {
        self.late.delete(container, name).await
    }

    async fn remove_container(&self, container: &str) -> Result<()> {
        self.late.remove_container(container).await
    }

    async fn space(&self) -> Result<Option<Space>> {
        Ok(None)
    }
}
