//! What objects were found to hold when they were read whole, kept for the next backups
//! of their volume, so that an object of a long chain is read once. In a spool file: for
//! a volume of a terabyte it is a gigabyte.

use crate::error::{Error, Kind, Result};
use crate::format::{DIGEST_BYTES, Digest};
use crate::spool;
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// See the module's page.
#[derive(Debug, Default)]
pub struct Scans {
    volume: Mutex<Volume>,
}

#[derive(Debug, Default)]
struct Volume {
    id: String,
    file: Option<File>,
    end: u64,
    known: HashMap<Key, Known>,
}

/// The object, and the bytes that each digest stands for.
type Key = (u128, u32);

#[derive(Debug)]
struct Known {
    /// Of the object in the store: another one is not known.
    version: String,
    /// Where its digests stand in the file and how many there are, or what is wrong.
    found: Result<(u64, usize)>,
}

impl Scans {
    fn lock(&self) -> MutexGuard<'_, Volume> {
        self.volume.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on it is about that volume: what is kept of another one goes.
    pub fn begin(&self, volume_id: &str) {
        let mut volume = self.lock();
        if volume.id != volume_id {
            *volume = Volume {
                id: volume_id.to_owned(),
                ..Volume::default()
            };
        }
    }

    /// What is known of an object. Blocks.
    pub fn get(&self, key: Key, version: &str) -> Option<Result<Vec<Digest>>> {
        let volume = self.lock();
        let known = volume
            .known
            .get(&key)
            .filter(|known| known.version == version)?;
        let (at, count) = match &known.found {
            Ok(found) => *found,
            Err(e) => return Some(Err(e.clone())),
        };
        let mut bytes = vec![0; count * DIGEST_BYTES];
        let file = volume.file.as_ref()?;
        file.read_exact_at(&mut bytes, at).ok()?;
        Some(Ok(bytes.as_chunks::<DIGEST_BYTES>().0.to_vec()))
    }

    /// Keeps what was found of an object; without room in `spool_path`, nothing. Blocks.
    pub fn put(
        &self,
        spool_path: &Path,
        key: Key,
        version: String,
        found: &Result<impl AsRef<[Digest]>>,
    ) {
        let mut volume = self.lock();
        let found = match found {
            Ok(digests) => match volume.write(spool_path, digests.as_ref()) {
                Ok(found) => Ok(found),
                Err(e) => return tracing::debug!("what was read is not kept: {e}"),
            },
            Err(e) if e.kind() == Kind::Corrupt => Err(e.clone()),
            // It may be better the next time.
            Err(_) => return,
        };
        volume.known.insert(key, Known { version, found });
    }
}

impl Volume {
    fn write(&mut self, spool_path: &Path, digests: &[Digest]) -> Result<(u64, usize), Error> {
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(spool::file(spool_path)?),
        };
        let bytes = digests.as_flattened();
        file.write_all_at(bytes, self.end)
            .map_err(|e| spool::error(&e))?;
        let at = self.end;
        self.end += bytes.len() as u64;
        Ok((at, digests.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_was_found_of_one_volume() {
        let scans = Scans::default();
        let spool = std::env::temp_dir();
        scans.begin("v");
        let put = |key, found: Result<Vec<Digest>>| scans.put(&spool, (key, 1), "a".into(), &found);
        put(1, Ok(vec![[1; 32], [2; 32]]));
        put(2, Ok(vec![]));
        put(3, Err(Error::corrupt("read", "x", "y")));
        put(4, Err(Error::new(Kind::Unavailable, "read", "x", "y")));
        scans.begin("v");
        let get = |key, version: &str| scans.get((key, 1), version);
        assert_eq!(get(1, "a").unwrap().unwrap(), [[1; 32], [2; 32]]);
        assert_eq!(get(2, "a").unwrap().unwrap(), [[0; 32]; 0]);
        assert_eq!(get(3, "a").unwrap().unwrap_err().kind(), Kind::Corrupt);
        assert!(get(4, "a").is_none() && get(1, "b").is_none());
        assert!(scans.get((1, 2), "a").is_none());
        scans.begin("w");
        assert!(get(1, "a").is_none());
    }
}
