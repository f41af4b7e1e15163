//! What is damaged is refused, and said to be; what is not is read all the same. What
//! only failed for a moment is not held against it.

#[path = "../common/mod.rs"]
mod common;

mod failures;
mod hash_lists;
mod metadata;
mod objects;

use cinderfs::error::{Error, Kind};
use cinderfs::format::Layout;
use cinderfs::store::fault::FaultStore;
use cinderfs::store::memory::MemoryStore;
use common::cinder::{Cinder, Made};
use common::library::{Dice, MIB, Rooms, options};
use std::sync::Arc;

pub const CODECS: [&str; 4] = ["none", "zlib", "bz2", "zstd"];
pub const OBJECT: usize = 32 << 10;

/// A full backup, one built on it and one of another volume.
pub struct Scene {
    pub store: Arc<FaultStore<MemoryStore>>,
    pub full: Made,
    pub child: Made,
    pub other: Made,
}

impl Scene {
    pub async fn new(compression: &str, with_sha256file: bool) -> Self {
        let store = Arc::new(FaultStore::new(MemoryStore::new()));
        let cinder = Cinder {
            with_sha256file,
            ..Cinder::new(Layout::Swift, compression)
        };
        let mut image = Dice(1).text(5 * OBJECT);
        let full = cinder.back_up(store.as_ref(), "v", &image, None).await;
        // All of the second object, and a part of the fourth.
        let text = Dice(2).text(OBJECT);
        image.splice(OBJECT..2 * OBJECT, text).for_each(drop);
        image[3 * OBJECT + 5000] ^= 1;
        let child = cinder
            .back_up(store.as_ref(), "v", &image, Some(&full))
            .await;
        let other = cinder.back_up(store.as_ref(), "w", &image, None).await;
        Self {
            store,
            full,
            child,
            other,
        }
    }

    pub fn rooms(&self) -> Rooms {
        let store = Arc::<FaultStore<MemoryStore>>::clone(&self.store);
        Rooms::new(store, options(Layout::Swift), 16 * MIB)
    }

    pub async fn read(&self, made: &Made, range: std::ops::Range<usize>) -> Result<(), Error> {
        let rooms = self.rooms();
        let reader = rooms
            .open(&*rooms.find(&made.volume, &made.id).await)
            .await?;
        let length = range.len() as u64;
        let read = reader.read(range.start as u64, length).await?;
        assert!(read == made.image[range]);
        Ok(())
    }

    /// Object `index` of the full backup is damaged, and nothing else.
    pub async fn assert_damaged(&self, index: usize, what: &str) {
        for at in 0..5 {
            let range = at * OBJECT..(at + 1) * OBJECT;
            let read = self.read(&self.full, range.clone()).await;
            match at == index {
                false => read.unwrap(),
                true => {
                    assert!(read.is_err(), "{what}");
                    assert_names(&read.unwrap_err(), &self.full, index, what);
                }
            }
        }
        let read = self.read(&self.full, 0..5 * OBJECT).await;
        assert_names(&read.unwrap_err(), &self.full, index, what);
        // The child does not see the second object.
        let read = self.read(&self.child, 0..5 * OBJECT).await;
        match index == 1 {
            true => read.unwrap(),
            false => assert_eq!(read.unwrap_err().kind(), Kind::Corrupt),
        }
        self.read(&self.other, 0..5 * OBJECT).await.unwrap();
    }

    pub async fn assert_unreadable(&self, made: &Made, what: &str) {
        let rooms = self.rooms();
        let backup = rooms.find(&made.volume, &made.id).await;
        let error = rooms.driver.open(&backup).await.err().unwrap();
        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
        assert!(error.to_string().contains(&made.id), "{error}");
        assert!(error.to_string().contains(what), "{error}, not {what}");
    }
}

pub fn assert_names(error: &Error, made: &Made, index: usize, what: &str) {
    assert_eq!(error.kind(), Kind::Corrupt, "{what}: {error}");
    let text = error.to_string();
    assert!(text.contains(&made.id), "{what}: {text}");
    assert!(text.contains(&made.objects[index]), "{what}: {text}");
}
