//! What reading costs: how much of the store is read, how often and when, and how much
//! memory is held for it.

mod common;

use cinderfs::format::Layout;
use cinderfs::image::ImageReader;
use cinderfs::store::ObjectStore;
use cinderfs::store::fault::FaultStore;
use cinderfs::store::memory::MemoryStore;
use common::cinder::{Cinder, Made};
use common::library::{Dice, MIB, Rooms, options};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::task::JoinSet;

type Store = Arc<FaultStore<MemoryStore>>;

fn new_store() -> Store {
    Arc::new(FaultStore::new(MemoryStore::new()))
}

fn rooms(store: &Store, memory: u64) -> Rooms {
    Rooms::new(
        Arc::<FaultStore<MemoryStore>>::clone(store),
        options(Layout::Swift),
        memory,
    )
}

async fn open(rooms: &Rooms, made: &Made) -> Arc<ImageReader> {
    rooms
        .open(&*rooms.find(&made.volume, &made.id).await)
        .await
        .unwrap()
}

async fn stored_bytes(store: &Store, made: &Made) -> u64 {
    let mut sum = 0;
    for name in &made.objects {
        sum += store.stat(&made.container, name).await.unwrap().size;
    }
    sum
}

fn cinder(compression: &str, object_size: usize) -> Cinder {
    Cinder {
        object_size,
        sha_block: 32 << 10,
        ..Cinder::new(Layout::Swift, compression)
    }
}

fn bytes_read(store: &Store) -> u64 {
    store.take_chunk_reads().1
}

#[tokio::test]
async fn listing_and_opening_read_no_chunk() {
    for with_sha256file in [true, false] {
        let store = new_store();
        let cinder = Cinder {
            with_sha256file,
            ..cinder("zlib", 64 << 10)
        };
        let image = Dice(1).image(1 << 20);
        let full = cinder.back_up(store.as_ref(), "v", &image, None).await;
        let child = cinder
            .back_up(store.as_ref(), "v", &image[..4096], Some(&full))
            .await;
        store.take_chunk_reads();
        let rooms = rooms(&store, MIB);
        rooms.driver.volumes().await.unwrap();
        for made in [&full, &child] {
            let reader = open(&rooms, made).await;
            reader.data_bytes().await.unwrap();
            reader.seek(0, false).await.unwrap();
            reader.seek(0, true).await.unwrap();
            assert_eq!(reader.read(u64::MAX, 10).await.unwrap(), b"");
            assert_eq!(reader.read(0, 0).await.unwrap(), b"");
        }
        assert_eq!(store.take_chunk_reads(), (0, 0));
    }
}

#[tokio::test]
async fn a_little_of_what_is_stored_as_it_is_costs_little() {
    let store = new_store();
    let cinder = Cinder {
        sha_block: 4096,
        ..cinder("none", 8 << 20)
    };
    let image = Dice(1).noise(20 << 20);
    let made = cinder.back_up(store.as_ref(), "v", &image, None).await;
    let rooms = rooms(&store, 64 * MIB);
    let reader = open(&rooms, &made).await;
    store.take_chunk_reads();
    for offset in [0, 5_000_000, (8 << 20) - 2048, (20 << 20) - 4096] {
        let read = reader.read(offset as u64, 4096).await.unwrap();
        assert!(read == image[offset..offset + 4096]);
        assert!(bytes_read(&store) <= 64 << 10);
        reader.read(offset as u64 + 100, 50).await.unwrap();
        assert_eq!(bytes_read(&store), 0);
    }
}

#[tokio::test]
async fn a_little_of_a_compressed_object_costs_that_object_at_most() {
    for compression in ["zlib", "bz2", "zstd"] {
        let store = new_store();
        let image = Dice(1).text(1 << 20);
        let made = cinder(compression, 64 << 10)
            .back_up(store.as_ref(), "v", &image, None)
            .await;
        let rooms = rooms(&store, 64 * MIB);
        let reader = open(&rooms, &made).await;
        store.take_chunk_reads();
        for index in [3, 9] {
            let read = reader.read(index * 65_536 + 10, 4096).await.unwrap();
            assert!(read == image[index as usize * 65_536 + 10..][..4096]);
            let object = &made.objects[index as usize];
            let size = store.stat(&made.container, object).await.unwrap().size;
            assert_eq!(bytes_read(&store), size);
            reader.read(index * 65_536 + 60_000, 4096).await.unwrap();
            assert_eq!(bytes_read(&store), 0);
        }
    }
}

#[tokio::test]
async fn a_large_compressed_object_is_decoded_only_up_to_what_is_read() {
    let store = new_store();
    let image = Dice(1).text(64 << 20);
    let made = cinder("zlib", 64 << 20)
        .back_up(store.as_ref(), "v", &image, None)
        .await;
    let whole = stored_bytes(&store, &made).await;
    assert!(whole > 12 * MIB);
    let rooms = rooms(&store, 2 * MIB);
    let reader = open(&rooms, &made).await;
    store.take_chunk_reads();
    let read = async |offset: u64| {
        let read = reader.read(offset, 4096).await.unwrap();
        assert!(read == image[offset as usize..][..4096], "{offset}");
        bytes_read(&store)
    };
    assert!(read(0).await <= MIB);
    assert!(read(10 * MIB).await < whole / 4);
    // On from where the last reader stopped.
    assert!(read(12 * MIB).await <= whole / 8);
    assert!(read(50 * MIB).await < whole);
    // Back, and the cache is too small to have it: from the last check point before.
    let back = read(33 * MIB).await;
    assert!(0 < back && back <= whole / 8, "{back} of {whole}");
    let back = read(20 * MIB).await;
    assert!(0 < back && back <= whole / 6, "{back} of {whole}");
    // The end is checked, too.
    assert!(read(64 * MIB - 4096).await < whole);
}

/// A chain in which every object is seen whole or not at all.
async fn layered(store: &Store, cinder: &Cinder, text: bool) -> (Vec<Made>, u64) {
    let mut dice = Dice(3);
    let size = cinder.object_size;
    let mut fresh = |length| {
        if text {
            dice.text(length)
        } else {
            dice.noise(length)
        }
    };
    let mut image = fresh(20 * size);
    let mut chain: Vec<Made> = Vec::new();
    for step in 0..3 {
        if step > 0 {
            for index in [step, 5, 10 + step] {
                let piece = fresh(size);
                image
                    .splice(index * size..(index + 1) * size, piece)
                    .for_each(drop);
            }
        }
        let made = cinder
            .back_up(store.as_ref(), "v", &image, chain.last())
            .await;
        chain.push(made);
    }
    let mut seen = 0;
    for (made, hidden) in [
        (&chain[0], vec![1, 2, 5, 11, 12]),
        (&chain[1], vec![1]),
        (&chain[2], vec![]),
    ] {
        for (index, name) in made.objects.iter().enumerate() {
            if !hidden.contains(&index) {
                seen += store.stat(&made.container, name).await.unwrap().size;
            }
        }
    }
    (chain, seen)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_pass_reads_every_visible_byte_once_and_nothing_else() {
    for compression in ["none", "zlib", "zstd", "bz2"] {
        for with_sha256file in [true, false] {
            for object_size in [64 << 10, 256 << 10] {
                let store = new_store();
                let mut cinder = cinder(compression, object_size);
                let (chain, seen) = layered(&store, &cinder, compression != "none").await;
                cinder.with_sha256file = with_sha256file;
                if !with_sha256file {
                    for made in &chain {
                        store
                            .delete(&made.container, &made.sha256file())
                            .await
                            .unwrap();
                    }
                }
                let rooms = rooms(&store, 64 * MIB);
                let newest = &chain[2];
                let reader = open(&rooms, newest).await;
                store.take_chunk_reads();
                for offset in (0..newest.image.len()).step_by(100_000) {
                    let read = reader.read(offset as u64, 100_000).await.unwrap();
                    assert!(read[..] == newest.image[offset..][..read.len()]);
                }
                assert_eq!(bytes_read(&store), seen, "{compression} {with_sha256file}");
                // The older ones: only what the newest hides.
                for made in &chain[..2] {
                    let reader = open(&rooms, made).await;
                    assert!(reader.read(0, u64::MAX).await.unwrap() == made.image);
                }
                let all = stored_bytes(&store, &chain[0]).await
                    + stored_bytes(&store, &chain[1]).await
                    + stored_bytes(&store, &chain[2]).await;
                assert_eq!(bytes_read(&store), all - seen);
                for made in &chain {
                    let reader = open(&rooms, made).await;
                    assert!(reader.read(0, u64::MAX).await.unwrap() == made.image);
                }
                assert_eq!(bytes_read(&store), 0);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_readers_of_one_range_fetch_it_once() {
    for compression in ["none", "zlib"] {
        for with_sha256file in [true, false] {
            for _ in 0..20 {
                let store = new_store();
                let cinder = Cinder {
                    with_sha256file,
                    ..cinder(compression, 256 << 10)
                };
                let image = match compression {
                    "none" => Dice(1).noise(1 << 20),
                    _ => Dice(1).text(1 << 20),
                };
                let made = cinder.back_up(store.as_ref(), "v", &image, None).await;
                let rooms = rooms(&store, 64 * MIB);
                store.take_chunk_reads();
                let mut reads = JoinSet::new();
                let image = Arc::new(image);
                // Some of one handle, some of their own.
                let shared = open(&rooms, &made).await;
                for number in 0..8 {
                    let reader = match number % 2 {
                        0 => Arc::clone(&shared),
                        _ => open(&rooms, &made).await,
                    };
                    let image = Arc::clone(&image);
                    reads.spawn(async move {
                        assert!(reader.read(0, MIB).await.unwrap() == *image);
                    });
                }
                while let Some(read) = reads.join_next().await {
                    read.unwrap();
                }
                assert_eq!(bytes_read(&store), stored_bytes(&store, &made).await);
            }
        }
    }
}

#[tokio::test]
async fn known_zeros_are_not_fetched() {
    for compression in ["none", "zlib"] {
        let store = new_store();
        let mut image = vec![0; 1_000_000];
        image[500_000..600_000].fill(7);
        let made = cinder(compression, 64 << 10)
            .back_up(store.as_ref(), "v", &image, None)
            .await;
        let rooms = rooms(&store, 64 * MIB);
        let reader = open(&rooms, &made).await;
        store.take_chunk_reads();
        assert!(reader.read(0, 491_520).await.unwrap() == image[..491_520]);
        assert!(reader.read(622_592, 500_000).await.unwrap() == image[622_592..]);
        assert_eq!(store.take_chunk_reads(), (0, 0));
        assert_eq!(reader.data_bytes().await.unwrap(), 131_072);
        for (offset, hole, expected) in [
            (0, false, Some(491_520)),
            (0, true, Some(0)),
            (500_000, false, Some(500_000)),
            (500_000, true, Some(622_592)),
            (622_591, true, Some(622_592)),
            (700_000, true, Some(700_000)),
            (700_000, false, None),
            (999_999, true, Some(999_999)),
            (1_000_000, true, None),
            (u64::MAX, false, None),
        ] {
            assert_eq!(
                reader.seek(offset, hole).await.unwrap(),
                expected,
                "{offset} {hole}"
            );
        }
        assert!(reader.read(0, MIB).await.unwrap() == image);
    }
}

#[tokio::test]
async fn without_hashes_all_is_data() {
    let store = new_store();
    let cinder = Cinder {
        with_sha256file: false,
        ..cinder("zlib", 64 << 10)
    };
    let made = cinder
        .back_up(store.as_ref(), "v", &[0; 100_000], None)
        .await;
    let rooms = rooms(&store, MIB);
    let reader = open(&rooms, &made).await;
    assert_eq!(reader.seek(5, false).await.unwrap(), Some(5));
    assert_eq!(reader.seek(5, true).await.unwrap(), Some(100_000));
    assert_eq!(reader.data_bytes().await.unwrap(), 100_000);
}

/// More pages of hashes than are kept are in use at a time: none may be taken away
/// before the blocks that it vouches for were checked.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_of_many_places_do_not_take_each_others_hashes_away() {
    let store = new_store();
    let cinder = Cinder {
        sha_block: 64,
        ..cinder("zlib", 64 << 10)
    };
    let image = Arc::new(Dice(1).text(24 << 20));
    let made = cinder.back_up(store.as_ref(), "v", &image, None).await;
    let rooms = rooms(&store, 64 << 10);
    let reader = open(&rooms, &made).await;
    for _ in 0..3 {
        let mut reads = JoinSet::new();
        for at in 0..92 {
            let (reader, image) = (Arc::clone(&reader), Arc::clone(&image));
            reads.spawn(async move {
                let offset = at * (256 << 10) + 1000;
                let read = reader.read(offset as u64, 4096).await.unwrap();
                assert!(read == image[offset..][..4096]);
            });
        }
        while let Some(read) = reads.join_next().await {
            read.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_budget_is_kept_while_many_read_and_write() {
    for memory in [256 << 10, 3 * MIB, 40 * MIB] {
        let store = new_store();
        let image = Arc::new(Dice(1).image(6 << 20));
        let made = cinder("zlib", 512 << 10)
            .back_up(store.as_ref(), "v", &image, None)
            .await;
        let rooms = Arc::new(rooms(&store, memory));
        let over = Arc::new(AtomicBool::new(false));
        let mut work = JoinSet::new();
        for seed in 1..9 {
            let (rooms, image, over) = (Arc::clone(&rooms), Arc::clone(&image), Arc::clone(&over));
            let reader = open(&rooms, &made).await;
            work.spawn(async move {
                let mut dice = Dice(seed);
                let sequential = seed % 2 == 0;
                for step in 0..60 {
                    let offset = match sequential {
                        true => step * 100_000,
                        false => dice.below(6 << 20) as usize,
                    };
                    let read = reader.read(offset as u64, 100_000).await.unwrap();
                    assert!(read[..] == image[offset..][..read.len()]);
                    over.fetch_or(rooms.budget.used() > memory, Ordering::Relaxed);
                }
            });
        }
        for seed in 1..4 {
            let (rooms, over) = (Arc::clone(&rooms), Arc::clone(&over));
            work.spawn(async move {
                let image = Dice(seed).image(2 << 20);
                let volume = format!("w{seed}");
                let backup = rooms.write(&volume, &image).await;
                over.fetch_or(rooms.budget.used() > memory, Ordering::Relaxed);
                assert!(rooms.read_all(&volume, &backup.id).await.unwrap() == image);
            });
        }
        while let Some(done) = work.join_next().await {
            done.unwrap();
        }
        assert!(!over.load(Ordering::Relaxed));
        // What reads ahead still holds on to the cache for a moment.
        let rooms = Arc::into_inner(rooms).unwrap();
        let (budget, cache) = (rooms.budget, rooms.cache);
        while Arc::strong_count(&cache) > 1 {
            tokio::task::yield_now().await;
        }
        drop(cache);
        assert_eq!(budget.used(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_reader_that_goes_away_leaves_nobody_waiting() {
    let store = new_store();
    let image = Arc::new(Dice(1).text(8 << 20));
    let made = cinder("zlib", 1 << 20)
        .back_up(store.as_ref(), "v", &image, None)
        .await;
    for round in 0..30 {
        let rooms = rooms(&store, 64 * MIB);
        let reader = open(&rooms, &made).await;
        let mut reads = JoinSet::new();
        for _ in 0..4 {
            let reader = Arc::clone(&reader);
            reads.spawn(async move { reader.read(0, 4 * MIB).await.map(drop) });
        }
        for _ in 0..round % 7 {
            tokio::task::yield_now().await;
        }
        reads.abort_all();
        let read = reader.read(0, 4 * MIB).await.unwrap();
        assert!(read == image[..4 << 20]);
    }
}
