//! Whatever a program does to a file that it writes, the backup holds what the file held.

mod common;

use cinderfs::driver::{Backup, Basis};
use cinderfs::error::Kind;
use cinderfs::format::Layout;
use cinderfs::image::ImageWriter;
use cinderfs::store::ObjectStore;
use cinderfs::store::fault::{Call, FaultStore};
use cinderfs::store::memory::MemoryStore;
use common::library::{Dice, MIB, Rooms, compressed, described, options};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

fn rooms(store: &Arc<MemoryStore>, compression: &str, object_size: u64, memory: u64) -> Rooms {
    let mut options = compressed(Layout::Posix, compression);
    options.object_size = object_size;
    Rooms::new(Arc::<MemoryStore>::clone(store), options, memory)
}

/// A file as a program sees it, beside the writer.
struct Model {
    writer: ImageWriter,
    bytes: Vec<u8>,
}

impl Model {
    async fn write(&mut self, offset: usize, bytes: &[u8]) {
        let at_once = self.writer.try_write(offset as u64, bytes);
        match at_once {
            Some(result) => result.unwrap(),
            None => self.writer.write(offset as u64, bytes).await.unwrap(),
        }
        let end = offset + bytes.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[offset..end].copy_from_slice(bytes);
    }

    async fn step(&mut self, dice: &mut Dice, reach: u64) {
        let scale = [10, 4096, 100_000, 400_000][dice.below(4) as usize];
        let length = 1 + dice.below(scale) as usize;
        let offset = match dice.below(3) {
            0 => self.bytes.len(),
            1 => dice.below(reach) as usize,
            _ => dice.below(self.bytes.len() as u64 + 1) as usize,
        };
        let end = self.bytes.len().min(offset + length);
        match dice.below(10) {
            0..6 => {
                let bytes = match dice.below(4) {
                    0 => dice.noise(length),
                    1 => vec![0; length],
                    _ => dice.text(length),
                };
                self.write(offset, &bytes).await;
            }
            6 => {
                let size = dice.below(reach) as usize;
                self.writer.truncate(size as u64).await.unwrap();
                self.bytes.resize(size, 0);
            }
            7 => {
                self.writer
                    .zero(offset as u64..(offset + length) as u64)
                    .await
                    .unwrap();
                if offset < end {
                    self.bytes[offset..end].fill(0);
                }
            }
            _ => {
                let read = self
                    .writer
                    .read(offset as u64, length as u64)
                    .await
                    .unwrap();
                assert!(read == self.bytes[offset.min(end)..end]);
            }
        }
        assert_eq!(self.writer.size(), self.bytes.len() as u64);
    }
}

async fn assert_holds(store: &Arc<MemoryStore>, backup: &Backup, bytes: &[u8]) {
    let fresh = rooms(store, "none", 4096, 64 * MIB);
    let read = fresh.read_all(&backup.volume_id, &backup.id).await.unwrap();
    assert!(read == bytes, "{} and {} bytes", read.len(), bytes.len());
    // Cinder refuses to restore beside an object that metadata does not name.
    let names = store
        .list(&backup.container, &backup.service_metadata)
        .await
        .unwrap();
    assert_eq!(names.len() as u64, backup.object_count + 2);
}

async fn play(seed: u64, object_size: u64, memory: u64) {
    let mut dice = Dice(seed);
    let compression = ["none", "zlib", "zstd", "bz2"][dice.below(4) as usize];
    let store = Arc::new(MemoryStore::new());
    let rooms = rooms(&store, compression, object_size, memory);
    let mut model = Model {
        writer: rooms.writer("v").await,
        bytes: Vec::new(),
    };
    // One that stays open while the backup is published again and again.
    for _ in 0..4 {
        for _ in 0..dice.below(25) {
            model.step(&mut dice, 3 * MIB / 2).await;
            assert!(rooms.budget.used() <= rooms.budget.total());
        }
        let published = model
            .writer
            .publish(&described("a"), true)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(published.size, model.bytes.len() as u64);
        assert_holds(&store, &published, &model.bytes).await;
        let here = rooms.read_all("v", &published.id).await.unwrap();
        assert!(here == model.bytes, "seed {seed}");
        assert!(
            model
                .writer
                .publish(&described("a"), false)
                .await
                .unwrap()
                .is_none()
        );
    }
    drop((model, rooms.cache));
    assert_eq!(rooms.budget.used(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_backup_holds_what_the_file_held_with_much_memory() {
    for seed in 1..15 {
        for object_size in [32 << 10, 100 << 10, MIB] {
            play(seed, object_size, 64 * MIB).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_backup_holds_what_the_file_held_with_little_memory() {
    for seed in 1..10 {
        for (object_size, memory) in [
            (32 << 10, 0),
            (32 << 10, 200 << 10),
            (MIB, 0),
            (MIB, 3 * MIB),
        ] {
            play(1000 + seed, object_size, memory).await;
        }
    }
}

#[tokio::test]
async fn a_long_part_of_a_stored_chunk_becomes_zero() {
    let store = Arc::new(MemoryStore::new());
    let rooms = rooms(&store, "zlib", 4 * MIB, 64 * MIB);
    let mut bytes = Dice(1).noise(8 << 20);
    let writer = rooms.writer("v").await;
    writer.write(0, &bytes).await.unwrap();
    writer.zero(100..3 * MIB + 100).await.unwrap();
    bytes[100..(3 << 20) + 100].fill(0);
    let backup = writer
        .publish(&described("a"), false)
        .await
        .unwrap()
        .unwrap();
    assert_holds(&store, &backup, &bytes).await;
}

#[tokio::test]
async fn zeros_that_were_filled_in_follow_the_size() {
    let store = Arc::new(MemoryStore::new());
    let rooms = rooms(&store, "zlib", 64 << 10, 64 * MIB);
    let writer = rooms.writer("v").await;
    for size in [10, 100_000, 70_000, 0, 65_536, 1] {
        writer.truncate(size).await.unwrap();
        let backup = writer
            .publish(&described("a"), false)
            .await
            .unwrap()
            .unwrap();
        assert_eq!((backup.size, backup.data_bytes), (size, Some(0)));
        assert_holds(&store, &backup, &vec![0; size as usize]).await;
    }
}

#[tokio::test]
async fn a_chunk_that_comes_back_is_not_taken_for_what_was_there() {
    let store = Arc::new(MemoryStore::new());
    for compression in ["none", "zlib"] {
        let rooms = rooms(&store, compression, 32 << 10, 64 * MIB);
        let writer = rooms.writer("v").await;
        let mut dice = Dice(9);
        let mut bytes = Vec::new();
        for length in [100_000, 40_000, 100_000, 99_000] {
            writer.truncate(20_000).await.unwrap();
            bytes.truncate(20_000);
            let more = dice.text(length - bytes.len());
            writer.write(bytes.len() as u64, &more).await.unwrap();
            bytes.extend(more);
            let backup = writer
                .publish(&described("a"), false)
                .await
                .unwrap()
                .unwrap();
            assert!(rooms.read_all("v", &backup.id).await.unwrap() == bytes);
            assert_holds(&store, &backup, &bytes).await;
        }
    }
}

#[tokio::test]
async fn small_writes_into_a_stored_chunk_store_it_once() {
    let store = Arc::new(FaultStore::new(MemoryStore::new()));
    let puts = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&puts);
    store.fail_when(move |call| {
        counted.fetch_add(u64::from(matches!(call, Call::Put(_))), Ordering::Relaxed);
        None
    });
    let rooms = Rooms::new(store, options(Layout::Posix), 64 * MIB);
    let writer = rooms.writer("v").await;
    let mut bytes = Dice(4).text(65_536);
    writer.write(0, &bytes).await.unwrap();
    for at in (0..60_000).step_by(1000) {
        writer.write(at as u64, b"change").await.unwrap();
        bytes[at..at + 6].copy_from_slice(b"change");
    }
    let backup = writer
        .publish(&described("a"), false)
        .await
        .unwrap()
        .unwrap();
    assert!(rooms.read_all("v", &backup.id).await.unwrap() == bytes);
    // The chunk when it was full, the chunk as it is, list and metadata.
    assert_eq!(puts.load(Ordering::Relaxed), 4);
}

#[test]
fn writes_and_reads_at_once_need_no_runtime_of_their_own() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = Arc::new(MemoryStore::new());
    let rooms = rooms(&store, "zlib", 32 << 10, 64 * MIB);
    let writer = runtime.block_on(rooms.writer("v"));
    let bytes = Dice(3).text(32 << 10);
    writer.try_write(0, &bytes).unwrap().unwrap();
    let backup = runtime
        .block_on(writer.publish(&described("a"), false))
        .unwrap()
        .unwrap();
    let reader = runtime.block_on(rooms.open(&backup)).unwrap();
    assert_eq!(reader.try_read(0, 10), None);
    assert!(runtime.block_on(reader.read(0, MIB)).unwrap() == bytes);
    for _ in 0..20 {
        assert!(reader.try_read(0, MIB).unwrap() == bytes);
    }
}

#[tokio::test]
async fn an_image_that_no_metadata_could_describe_is_refused_at_once() {
    let store = Arc::new(MemoryStore::new());
    let rooms = rooms(&store, "zlib", 32 << 10, 64 * MIB);
    let writer = rooms.writer("v").await;
    writer.write(0, b"x").await.unwrap();
    writer.truncate(i64::MAX as u64).await.unwrap();
    let error = writer.publish(&described("a"), false).await.unwrap_err();
    assert_eq!(error.kind(), Kind::TooLong);
    assert!(error.to_string().contains("larger"), "{error}");
    for offset in [i64::MAX as u64, u64::MAX] {
        assert!(writer.try_write(offset, b"x").is_none());
        assert_eq!(
            writer.write(offset, b"x").await.unwrap_err().kind(),
            Kind::NoSpace
        );
    }
    assert_eq!(
        writer.truncate(u64::MAX).await.unwrap_err().kind(),
        Kind::NoSpace
    );
    writer.truncate(1).await.unwrap();
    let backup = writer
        .publish(&described("a"), false)
        .await
        .unwrap()
        .unwrap();
    assert_holds(&store, &backup, b"x").await;
}

#[tokio::test]
async fn a_failure_of_the_store_reaches_the_writer_and_lists_nothing() {
    for ending in ["-00001", "-00003", "_sha256file", "_metadata"] {
        for kind in [
            Kind::NoSpace,
            Kind::Unavailable,
            Kind::TimedOut,
            Kind::Denied,
        ] {
            let store = Arc::new(FaultStore::new(MemoryStore::new()));
            let fault = Arc::clone(&store);
            let rooms = Rooms::new(store, options(Layout::Swift), 64 * MIB);
            fault.fail_when(move |call| match call {
                Call::Put(name) if name.ends_with(ending) => Some(kind),
                _ => None,
            });
            let writer = rooms.writer("v").await;
            let bytes = Dice(2).text(300_000);
            let mut failed = false;
            for (number, piece) in bytes.chunks(10_000).enumerate() {
                let written = writer.write(number as u64 * 10_000, piece).await;
                failed |= written.is_err_and(|e| e.kind() == kind);
            }
            let published = writer.publish(&described("a"), false).await;
            assert_eq!(published.unwrap_err().kind(), kind);
            assert!(failed || !ending.starts_with('-') || ending == "-00003");
            assert_eq!(rooms.driver.backups("v").await.unwrap().len(), 0);
            fault.fail_when(|_| None);
            let again = writer.publish(&described("a"), false).await;
            match ending.starts_with('-') {
                // What could not be stored is lost, and nothing hides that.
                true => assert_eq!(again.unwrap_err().kind(), kind),
                false => {
                    let backup = again.unwrap().unwrap();
                    assert!(rooms.read_all("v", &backup.id).await.unwrap() == bytes);
                }
            }
            writer.discard().await.unwrap();
            assert_eq!(fault.containers("").await.unwrap(), [""; 0]);
        }
    }
}

#[tokio::test]
async fn a_failure_to_publish_again_leaves_what_was_published() {
    for ending in ["-00002", "-00004", "_sha256file", "_metadata"] {
        let store = Arc::new(FaultStore::new(MemoryStore::new()));
        let fault = Arc::clone(&store);
        let rooms = Rooms::new(store, options(Layout::Swift), 64 * MIB);
        let writer = rooms.writer("v").await;
        let bytes = Dice(2).text(100_000);
        writer.write(0, &bytes).await.unwrap();
        let backup = writer
            .publish(&described("a"), false)
            .await
            .unwrap()
            .unwrap();
        fault.fail_when(move |call| match call {
            Call::Put(name) if name.ends_with(ending) => Some(Kind::NoSpace),
            _ => None,
        });
        let more = Dice(3).text(200_000);
        let written = writer.write(10_000, &more).await;
        let published = writer.publish(&described("a"), false).await;
        if ending != "-00002" {
            let error = written.err().or(published.err()).unwrap();
            assert_eq!(error.kind(), Kind::NoSpace);
            assert!(
                rooms.read_all("v", &backup.id).await.unwrap() == bytes,
                "{ending}"
            );
        } else {
            // A number that was published is never written to again.
            published.unwrap();
        }
    }
}

#[tokio::test]
async fn what_was_published_survives_an_end_amid_publishing_again() {
    let store = Arc::new(FaultStore::new(MemoryStore::new()));
    let mut options = compressed(Layout::Posix, "zlib");
    options.object_size = MIB;
    let new = |store: &Arc<FaultStore<MemoryStore>>| {
        Rooms::new(
            Arc::<FaultStore<MemoryStore>>::clone(store),
            options.clone(),
            64 * MIB,
        )
    };
    let rooms = new(&store);
    let writer = rooms.writer("v").await;
    let mut image = Dice(7).text(3 << 20);
    writer.write(0, &image).await.unwrap();
    let first = writer
        .publish(&described("a"), true)
        .await
        .unwrap()
        .unwrap();
    // The new list of hashes is the last thing that is written.
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    store.fail_when(move |call| {
        let ends = matches!(call, Call::Put(name) if name.ends_with("_metadata"));
        (over.fetch_or(ends, Ordering::Relaxed) || ends).then_some(Kind::Unavailable)
    });
    writer.write(1 << 20, &[7; 100_000]).await.unwrap();
    writer.publish(&described("a"), true).await.unwrap_err();
    store.fail_when(|_| None);
    let read = new(&store).read_all("v", &first.id).await.unwrap();
    assert!(read == image);
    // And it can still be published.
    image[1 << 20..][..100_000].fill(7);
    let again = writer
        .publish(&described("a"), true)
        .await
        .unwrap()
        .unwrap();
    let read = new(&store).read_all("v", &again.id).await.unwrap();
    assert!(read == image);
}

/// Cinder takes any list of hashes for that of the metadata beside it, and builds on it.
#[tokio::test]
async fn whenever_publishing_again_ends_no_list_of_hashes_is_of_another_publication() {
    let (mut without, mut old, mut new) = (0, 0, 0);
    for last in 0.. {
        let store = Arc::new(FaultStore::new(MemoryStore::new()));
        let shared = Arc::<FaultStore<MemoryStore>>::clone(&store);
        let rooms = Rooms::new(shared, options(Layout::Posix), 64 * MIB);
        let writer = rooms.writer("v").await;
        let image = Dice(7).text(200_000);
        writer.write(0, &image).await.unwrap();
        let backup = writer.publish(&described("a"), true).await;
        let backup = backup.unwrap().unwrap();
        // The program ends after so many changes.
        let changes = AtomicU64::new(0);
        store.fail_when(move |call| {
            let is_change = matches!(call, Call::Put(_) | Call::Delete(_));
            let before = changes.fetch_add(u64::from(is_change), Ordering::Relaxed);
            (before + u64::from(is_change) > last).then_some(Kind::Unavailable)
        });
        let mut other = image.clone();
        other[70_000] ^= 1;
        let written = writer.write(70_000, &other[70_000..70_001]).await;
        let published = writer.publish(&described("a"), true).await;
        let ended = written.and(published.map(drop)).is_err();
        store.fail_when(|_| None);
        let generation = async |object: &str| {
            let name = format!("{}{object}", backup.service_metadata);
            let text = store.read(&backup.container, &name, 0..u64::MAX).await;
            let text: serde_json::Value = serde_json::from_slice(&text.ok()?).unwrap();
            Some(text["cinderfs"]["generation"].as_u64().unwrap_or(0))
        };
        let own = generation("_metadata").await.unwrap();
        match generation("_sha256file").await {
            Some(of_list) => assert_eq!(of_list, own, "after {last} changes"),
            None => without += 1,
        }
        let expected = if own == 0 { &image } else { &other };
        let shared = Arc::<FaultStore<MemoryStore>>::clone(&store);
        let later = Rooms::new(shared, options(Layout::Posix), 64 * MIB);
        assert!(later.read_all("v", &backup.id).await.unwrap() == *expected);
        (old, new) = (old + u64::from(own == 0), new + u64::from(own > 0));
        if !ended {
            break;
        }
    }
    assert!(
        without >= 2 && old >= 2 && new >= 2,
        "{without} {old} {new}"
    );
}

#[tokio::test]
async fn a_chunk_that_the_spool_could_not_take_is_never_published_as_zeros() {
    use cinderfs::budget::Budget;
    use cinderfs::image::Buffers;
    let store = Arc::new(MemoryStore::new());
    let rooms = rooms(&store, "none", 8 * MIB, 64 * MIB);
    let sink = rooms.driver.create("v", Basis::Full).await.unwrap();
    // Room for a beginning in memory, and a spool that is no folder.
    let buffers = Buffers {
        budget: Budget::new(20 * MIB),
        spool_path: "/dev/null/spool".into(),
    };
    let writer = ImageWriter::new(sink, buffers);
    writer.write(0, &vec![b'A'; 1 << 20]).await.unwrap();
    let failed = writer.write(5 << 20, &vec![b'A'; 1 << 20]).await;
    failed.unwrap_err();
    for _ in 0..2 {
        writer.publish(&described("a"), true).await.unwrap_err();
    }
    assert!(rooms.driver.backups("v").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_publication_that_fails_leaves_the_one_before_fit_for_cinder() {
    let store = Arc::new(FaultStore::new(MemoryStore::new()));
    let mut options = compressed(Layout::Posix, "none");
    options.object_size = MIB;
    let shared = Arc::<FaultStore<MemoryStore>>::clone(&store);
    let rooms = Rooms::new(shared, options, 64 * MIB);
    let writer = rooms.writer("v").await;
    let image = Dice(3).noise(2 << 20);
    writer.write(0, &image).await.unwrap();
    let backup = writer
        .publish(&described("a"), true)
        .await
        .unwrap()
        .unwrap();
    writer.write(1 << 20, &[1; 2 << 20]).await.unwrap();
    let no_space = |call: &Call| {
        matches!(call, Call::Put(name) if name.ends_with("_sha256file")).then_some(Kind::NoSpace)
    };
    store.fail_when(no_space);
    writer.publish(&described("a"), true).await.unwrap_err();
    store.fail_when(|_| None);
    writer.revert().await.unwrap();
    let listed = store
        .list(&backup.container, &backup.service_metadata)
        .await
        .unwrap();
    assert_eq!(listed.len(), 2 + 2);
    assert!(rooms.read_all("v", &backup.id).await.unwrap() == image);
    writer.publish(&described("a"), true).await.unwrap_err();
}
