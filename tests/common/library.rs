//! The library put together as the program does it: drivers over stores, readers and
//! writers over drivers.

use cinderfs::budget::Budget;
use cinderfs::codec::Codec;
use cinderfs::config::Incremental;
use cinderfs::driver::chunked::{ChunkedDriver, Options};
use cinderfs::driver::{Backup, BackupDriver, Basis, Description, Resources};
use cinderfs::error::Result;
use cinderfs::format::Layout;
use cinderfs::image::{BlockCache, Buffers, ImageReader, ImageWriter};
use cinderfs::store::ObjectStore;
use std::sync::Arc;
use std::time::Duration;

pub const MIB: u64 = 1 << 20;

/// A listing that is never old enough: every question goes to the store.
pub const NO_TTL: Duration = Duration::ZERO;

pub fn options(layout: Layout) -> Options {
    Options {
        service: "cinder.backup.drivers.posix.PosixBackupDriver",
        layout,
        container: None,
        object_size: 64 << 10,
        sha_block_size: 4 << 10,
        codec: Codec::Zlib,
        compression: "zlib".into(),
        list_ttl: NO_TTL,
        append_only: false,
        incremental: Incremental::Never,
        max_chain: None,
    }
}

pub fn compressed(layout: Layout, compression: &str) -> Options {
    Options {
        codec: Codec::from_option(compression).unwrap(),
        compression: compression.into(),
        ..options(layout)
    }
}

/// One program's worth of rooms, over one store.
pub struct Rooms {
    pub driver: Arc<dyn BackupDriver>,
    pub budget: Arc<Budget>,
    pub cache: Arc<BlockCache>,
}

impl Rooms {
    pub fn new(store: Arc<dyn ObjectStore>, options: Options, memory: u64) -> Self {
        Self::with(memory, |resources| {
            Arc::new(ChunkedDriver::new(store, options, resources))
        })
    }

    /// Over a driver that is made of what it is given.
    pub fn with(memory: u64, make: impl FnOnce(&Resources) -> Arc<dyn BackupDriver>) -> Self {
        let budget = Budget::new(memory);
        let resources = Resources {
            budget: Arc::clone(&budget),
            spool_path: std::env::temp_dir(),
        };
        Self {
            driver: make(&resources),
            cache: BlockCache::new(&budget),
            budget,
        }
    }

    pub async fn find(&self, volume: &str, id: &str) -> Arc<Backup> {
        let backups = self.driver.backups(volume).await.unwrap();
        let found = backups.into_iter().find(|backup| backup.id == id);
        found.unwrap_or_else(|| panic!("{id} is not listed"))
    }

    pub async fn open(&self, backup: &Backup) -> Result<Arc<ImageReader>> {
        Ok(ImageReader::new(
            self.driver.open(backup).await?,
            &self.cache,
        ))
    }

    pub async fn read_all(&self, volume: &str, id: &str) -> Result<Vec<u8>> {
        let backup = self.find(volume, id).await;
        let reader = self.open(&backup).await?;
        assert_eq!(reader.size(), backup.size);
        reader.read(0, u64::MAX).await
    }

    pub async fn writer(&self, volume: &str) -> ImageWriter {
        let sink = self.driver.create(volume, Basis::Full).await.unwrap();
        let buffers = Buffers {
            budget: Arc::clone(&self.budget),
            spool_path: std::env::temp_dir(),
        };
        ImageWriter::new(sink, buffers)
    }

    /// A backup of `data`, written from its beginning to its end.
    pub async fn write(&self, volume: &str, data: &[u8]) -> Arc<Backup> {
        let writer = self.writer(volume).await;
        for (number, piece) in data.chunks(50_000).enumerate() {
            writer.write(number as u64 * 50_000, piece).await.unwrap();
        }
        writer
            .publish(&described("a"), true)
            .await
            .unwrap()
            .unwrap()
    }
}

pub fn described(name: &str) -> Description {
    Description {
        name: name.into(),
        description: None,
        modified: None,
    }
}

/// Numbers that look random and are the same in every run.
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        // xorshift64*: good enough to hit odd places.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// Bytes that no codec makes smaller.
    pub fn noise(&mut self, length: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&(self.next() << 8).to_le_bytes()[1..7]);
        }
        bytes.truncate(length);
        bytes
    }

    /// Text: every codec makes it smaller.
    pub fn text(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 16);
        while bytes.len() < length {
            bytes.extend_from_slice(format!("line {:06}\n", self.below(1_000_000)).as_bytes());
        }
        bytes.truncate(length);
        bytes
    }

    /// An image like those of disks: text, noise and zeros in runs.
    pub fn image(&mut self, length: usize) -> Vec<u8> {
        let mut image = Vec::with_capacity(length);
        while image.len() < length {
            let run = (1 + self.below(40_000) as usize).min(length - image.len());
            match self.below(3) {
                0 => image.extend(self.text(run)),
                1 => image.extend(self.noise(run)),
                _ => image.resize(image.len() + run, 0),
            }
        }
        image
    }
}
