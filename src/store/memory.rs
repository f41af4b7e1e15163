//! Objects in memory: for tests.

use super::{Body, Claim, Entry, ObjectStore, Space, Stat};
use crate::error::{Error, Kind, Result};
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// See the module's page.
#[derive(Debug, Default)]
pub struct MemoryStore {
    containers: Mutex<Containers>,
    /// The version of the object that was stored last: none is ever used again.
    version: AtomicU64,
    claims: Arc<Claims>,
}

/// How many hold a claim, by the id of the backup.
#[derive(Debug, Default)]
struct Claims(Mutex<HashMap<String, usize>>);

impl Claims {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes one away again.
struct Held(Arc<Claims>, String);

impl Drop for Held {
    fn drop(&mut self) {
        let mut claims = self.0.lock();
        if let Some(count) = claims.get_mut(&self.1) {
            *count -= 1;
        }
        claims.retain(|_, count| *count > 0);
    }
}

type Containers = BTreeMap<String, BTreeMap<String, Object>>;

#[derive(Debug)]
struct Object {
    bytes: Bytes,
    version: u64,
    modified: SystemTime,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Containers> {
        self.containers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn missing(op: &'static str, container: &str, name: &str) -> Error {
    Error::new(
        Kind::NotFound,
        op,
        format!("{container}/{name}"),
        "no such object",
    )
}

#[async_trait]
impl ObjectStore for MemoryStore {
    async fn containers(&self, prefix: &str) -> Result<Vec<String>> {
        let containers = self.lock();
        let holds = |objects: &BTreeMap<String, Object>| {
            objects
                .range(prefix.to_owned()..)
                .next()
                .is_some_and(|(name, _)| name.starts_with(prefix))
        };
        Ok(containers
            .iter()
            .filter(|(_, objects)| holds(objects))
            .map(|(name, _)| name.clone())
            .collect())
    }

    async fn list(&self, container: &str, prefix: &str) -> Result<Vec<Entry>> {
        let containers = self.lock();
        let Some(objects) = containers.get(container) else {
            return Ok(Vec::new());
        };
        Ok(objects
            .range(prefix.to_owned()..)
            .take_while(|(name, _)| name.starts_with(prefix))
            .map(|(name, object)| Entry {
                name: name.clone(),
                version: Some(object.version.to_string()),
            })
            .collect())
    }

    async fn stat(&self, container: &str, name: &str) -> Result<Stat> {
        let containers = self.lock();
        let object = containers
            .get(container)
            .and_then(|objects| objects.get(name));
        let object = object.ok_or_else(|| missing("find object", container, name))?;
        Ok(Stat {
            size: object.bytes.len() as u64,
            version: object.version.to_string(),
            modified: object.modified,
        })
    }

    async fn read(&self, container: &str, name: &str, range: Range<u64>) -> Result<Bytes> {
        let containers = self.lock();
        let object = containers
            .get(container)
            .and_then(|objects| objects.get(name));
        let object = object.ok_or_else(|| missing("read object", container, name))?;
        let length = object.bytes.len();
        let clamp = |at: u64| usize::try_from(at).unwrap_or(length).min(length);
        let start = clamp(range.start);
        Ok(object.bytes.slice(start..clamp(range.end).max(start)))
    }

    async fn put(&self, container: &str, name: &str, body: Body) -> Result<()> {
        let mut bytes = Vec::new();
        body.pieces(|piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })
        .map_err(|e| Error::io("store object", format!("{container}/{name}"), &e))?;
        let mut containers = self.lock();
        let objects = containers.entry(container.to_owned()).or_default();
        let version = self.version.fetch_add(1, Ordering::Relaxed) + 1;
        objects.insert(
            name.to_owned(),
            Object {
                bytes: bytes.into(),
                version,
                modified: SystemTime::now(),
            },
        );
        Ok(())
    }

    async fn sync(&self, _container: &str) -> Result<()> {
        Ok(())
    }

    async fn delete(&self, container: &str, name: &str) -> Result<()> {
        let mut containers = self.lock();
        let removed = containers
            .get_mut(container)
            .and_then(|objects| objects.remove(name));
        removed
            .map(drop)
            .ok_or_else(|| missing("delete object", container, name))
    }

    async fn remove_container(&self, container: &str) -> Result<()> {
        let mut containers = self.lock();
        if containers.get(container).is_some_and(BTreeMap::is_empty) {
            containers.remove(container);
        }
        Ok(())
    }

    fn has_claims(&self) -> bool {
        true
    }

    async fn claim(&self, backup_id: &str) -> Result<Claim> {
        *self.claims.lock().entry(backup_id.to_owned()).or_default() += 1;
        let claims = Arc::clone(&self.claims);
        Ok(Claim::holding(Held(claims, backup_id.to_owned())))
    }

    async fn is_claimed(&self, backup_id: &str) -> Result<bool> {
        Ok(self.claims.lock().contains_key(backup_id))
    }

    async fn space(&self) -> Result<Option<Space>> {
        Ok(None)
    }
}
