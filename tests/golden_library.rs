//! Whatever Cinder wrote is read back to the byte: real backups of many versions, and
//! made-up ones for what those do not have.

mod common;

use cinderfs::error::Kind;
use cinderfs::format::Layout;
use cinderfs::store::ObjectStore;
use cinderfs::store::memory::MemoryStore;
use cinderfs::store::posix::PosixStore;
use common::cinder::{Cinder, Made, entry};
use common::golden::{Golden, TREES, Tree, sha256};
use common::library::{Dice, MIB, Rooms, compressed, options};
use std::sync::Arc;

/// None when `--quick` leaves the tree out.
fn rooms(tree: Tree, memory: u64) -> Option<Rooms> {
    Some(Rooms::new(tree.store()?, options(tree.layout()), memory))
}

async fn assert_reads(rooms: &Rooms, golden: &Golden) {
    let whole = rooms.read_all(&golden.volume, &golden.id).await.unwrap();
    assert_eq!(sha256(&whole), golden.sha256, "{golden:?}");
    let backup = rooms.find(&golden.volume, &golden.id).await;
    let reader = rooms.open(&backup).await.unwrap();
    let mut dice = Dice(golden.size + 1);
    let reads = match golden.tree.layout() {
        Layout::Posix => 40,
        // Each takes a request for every chunk.
        Layout::Swift => 6,
    };
    for _ in 0..reads {
        let offset = dice.below(golden.size + 10);
        let length = dice.below(40_000);
        let read = reader.read(offset, length).await.unwrap();
        let start = (offset as usize).min(whole.len());
        let end = ((offset + length) as usize).min(whole.len());
        assert_eq!(read, whole[start..end], "{offset} {length} of {golden:?}");
    }
}

#[tokio::test]
async fn every_backup_is_listed_as_the_manifest_says() {
    for tree in TREES {
        let Some(rooms) = rooms(tree, MIB) else {
            continue;
        };
        let mut expected: Vec<String> = tree.backups().into_iter().map(|b| b.volume).collect();
        expected.sort();
        expected.dedup();
        assert_eq!(rooms.driver_volumes().await, expected);
        for golden in tree.backups() {
            let backup = rooms.find(&golden.volume, &golden.id).await;
            assert!(backup.fault.is_none(), "{:?}", backup.fault);
            assert_eq!(backup.size, golden.size, "{golden:?}");
            assert_eq!(backup.parent_id, golden.parent);
            assert_eq!(backup.depth, golden.depth);
            assert_eq!(backup.container, golden.container);
            assert_eq!(backup.service_metadata, golden.prefix);
            assert_eq!(backup.created_at.unwrap().to_name(), golden.created);
            assert!(backup.compression.split(',').all(|codec| {
                codec.is_empty() || codec == "none" || codec == golden.compression
            }));
            assert!(!backup.written_as_file);
        }
    }
}

impl Rooms {
    async fn driver_volumes(&self) -> Vec<String> {
        self.driver.volumes().await.unwrap()
    }
}

#[tokio::test]
async fn every_backup_reads_with_much_and_with_little_memory() {
    for memory in [0, 64 << 10, MIB, 64 * MIB] {
        for tree in TREES {
            let is_far = tree.layout() == Layout::Swift;
            if is_far && ![0, 64 * MIB].contains(&memory) {
                continue;
            }
            let Some(rooms) = rooms(tree, memory) else {
                continue;
            };
            for golden in tree.backups() {
                assert_reads(&rooms, &golden).await;
            }
            assert!(rooms.budget.used() <= memory);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_backup_reads_for_many_at_a_time() {
    for tree in TREES {
        let Some(rooms) = rooms(tree, MIB).map(Arc::new) else {
            continue;
        };
        let mut readers = tokio::task::JoinSet::new();
        for golden in tree.backups() {
            for _ in 0..3 {
                let (rooms, golden) = (Arc::clone(&rooms), golden.clone());
                readers.spawn(async move { assert_reads(&rooms, &golden).await });
            }
        }
        while let Some(joined) = readers.join_next().await {
            joined.unwrap();
        }
    }
}

#[tokio::test]
async fn reads_by_md5_where_the_list_of_hashes_is_gone() {
    for tree in [Tree::Posix, Tree::Nfs] {
        let copy = tree.copy();
        for golden in tree.backups() {
            let name = format!("{}_sha256file", golden.prefix);
            std::fs::remove_file(copy.path().join(&golden.container).join(name)).unwrap();
        }
        for memory in [64 << 10, 64 * MIB] {
            let store = Arc::new(PosixStore::open(copy.path()).unwrap());
            let rooms = Rooms::new(store, options(tree.layout()), memory);
            for golden in tree.backups() {
                assert_reads(&rooms, &golden).await;
            }
        }
    }
}

async fn assert_made(store: &Arc<MemoryStore>, layout: Layout, made: &[&Made]) {
    let store: Arc<dyn ObjectStore> = Arc::<MemoryStore>::clone(store);
    for memory in [64 << 10, 64 * MIB] {
        let rooms = Rooms::new(Arc::clone(&store), options(layout), memory);
        for made in made {
            let backup = rooms.find(&made.volume, &made.id).await;
            assert!(backup.fault.is_none(), "{:?}", backup.fault);
            assert_eq!(backup.size, made.image.len() as u64);
            assert_eq!(backup.container, made.container);
            let read = rooms.read_all(&made.volume, &made.id).await.unwrap();
            assert!(read == made.image, "{}", made.volume);
        }
    }
}

#[tokio::test]
async fn containers_of_the_user_with_slashes() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(PosixStore::open(folder.path()).unwrap());
    let cinder = Cinder {
        container: Some("my/own backups/ж".into()),
        ..Cinder::new(Layout::Posix, "zlib")
    };
    let image = Dice(1).image(150_001);
    let one = cinder.back_up(store.as_ref(), "v", &image, None).await;
    let two = cinder
        .back_up(store.as_ref(), "v", &image[..9000], None)
        .await;
    let rooms = Rooms::new(store, options(Layout::Posix), MIB);
    for made in [&one, &two] {
        assert_eq!(rooms.find("v", &made.id).await.container, made.container);
        assert!(rooms.read_all("v", &made.id).await.unwrap() == made.image);
    }
}

#[tokio::test]
async fn both_readings_of_md5() {
    for compression in ["none", "zlib", "bz2", "zstd"] {
        for md5_of_stored in [false, true] {
            for with_sha256file in [false, true] {
                let store = Arc::new(MemoryStore::new());
                let cinder = Cinder {
                    md5_of_stored,
                    with_sha256file,
                    ..Cinder::new(Layout::Swift, compression)
                };
                let image = Dice(2).image(200_000);
                let made = cinder.back_up(store.as_ref(), "v", &image, None).await;
                assert_made(&store, Layout::Swift, &[&made]).await;
            }
        }
    }
}

#[tokio::test]
async fn every_spelling_of_a_codec() {
    for compression in [
        "NONE", "None", "zlib", "ZLIB", "gzip", "GZip", "bz2", "BZ2", "bzip2", "Bzip2", "zstd",
        "ZSTD",
    ] {
        let store = Arc::new(MemoryStore::new());
        let cinder = Cinder::new(Layout::Posix, compression);
        let image = Dice(3).text(100_000);
        let made = cinder.back_up(store.as_ref(), "v", &image, None).await;
        // Where nothing is compressed, Cinder's own spelling stands.
        if compression.eq_ignore_ascii_case("none") {
            let spell = |document: &mut _| entry(document, 0)["compression"] = compression.into();
            made.edit(store.as_ref(), spell).await;
        }
        assert_made(&store, Layout::Posix, &[&made]).await;
    }
}

/// What a volume may go through between backups.
fn change(dice: &mut Dice, image: &mut Vec<u8>, grow: bool) {
    for _ in 0..dice.below(6) {
        let at = dice.below(image.len() as u64) as usize;
        let end = image.len().min(at + 1 + dice.below(30_000) as usize);
        match dice.below(3) {
            0 => image[at..end].fill(0),
            1 => image.splice(at..end, dice.noise(end - at)).for_each(drop),
            _ => image.splice(at..end, dice.text(end - at)).for_each(drop),
        }
    }
    if grow {
        let more = dice.below(50_000) as usize;
        let tail = dice.image(more);
        image.extend(tail);
    }
}

#[tokio::test]
async fn chains_whose_layers_differ_in_all_that_may_differ() {
    for seed in 1..30 {
        let mut dice = Dice(seed);
        let store = Arc::new(MemoryStore::new());
        let length = dice.below(200_000) as usize;
        let mut image = dice.image(length);
        let mut chain: Vec<Made> = Vec::new();
        let with_sha256file = seed % 3 > 0;
        let grow = dice.below(2) == 1;
        for _ in 0..2 + dice.below(4) {
            let compression = ["none", "zlib", "bz2", "zstd"][dice.below(4) as usize];
            let cinder = Cinder {
                object_size: (1 + dice.below(20) as usize) * 4096,
                with_sha256file: true,
                ..Cinder::new(Layout::Swift, compression)
            };
            let made = cinder
                .back_up(store.as_ref(), "v", &image, chain.last())
                .await;
            chain.push(made);
            change(&mut dice, &mut image, grow);
        }
        if !with_sha256file {
            for made in &chain {
                store
                    .delete(&made.container, &made.sha256file())
                    .await
                    .unwrap();
            }
        }
        // One cache for all of them, the newest first and then in order.
        let chain: Vec<&Made> = chain.iter().rev().chain(&chain).collect();
        assert_made(&store, Layout::Swift, &chain).await;
    }
}

#[tokio::test]
async fn a_child_that_is_shorter_than_its_parent() {
    let parent_image = Dice(5).image(150_000);
    for length in [0, 1, 4096, 4097, 32_768, 100_000, 131_072, 149_999] {
        for compression in ["none", "zlib"] {
            let store = Arc::new(MemoryStore::new());
            let cinder = Cinder::new(Layout::Posix, compression);
            let parent = cinder
                .back_up(store.as_ref(), "v", &parent_image, None)
                .await;
            let mut image = parent_image[..length].to_vec();
            if let Some(byte) = image.last_mut() {
                *byte ^= 1;
            }
            let child = cinder
                .back_up(store.as_ref(), "v", &image, Some(&parent))
                .await;
            let same = &parent_image[..length];
            let cut = cinder
                .back_up(store.as_ref(), "v", same, Some(&parent))
                .await;
            assert_made(&store, Layout::Posix, &[&parent, &child, &cut]).await;
        }
    }
}

#[tokio::test]
async fn nothing_changed_nothing_there_and_one_byte() {
    let store = Arc::new(MemoryStore::new());
    let cinder = Cinder::new(Layout::Posix, "zlib");
    let image = Dice(6).image(100_000);
    let full = cinder.back_up(store.as_ref(), "same", &image, None).await;
    let same = cinder
        .back_up(store.as_ref(), "same", &image, Some(&full))
        .await;
    let again = cinder
        .back_up(store.as_ref(), "same", &image, Some(&same))
        .await;
    assert!(same.objects.is_empty() && again.objects.is_empty());
    let empty = cinder.back_up(store.as_ref(), "empty", b"", None).await;
    let still = cinder
        .back_up(store.as_ref(), "empty", b"", Some(&empty))
        .await;
    let grown = cinder
        .back_up(store.as_ref(), "empty", b"x", Some(&still))
        .await;
    let all = [&full, &same, &again, &empty, &still, &grown];
    assert_made(&store, Layout::Posix, &all).await;
}

#[tokio::test]
async fn names_and_volumes_in_any_language() {
    for name in [
        "täglich",
        "日次 バックアップ",
        "يومي",
        "😀",
        "a/b\n\t\"'\\",
        "",
    ] {
        for layout in [Layout::Posix, Layout::Swift] {
            let store = Arc::new(MemoryStore::new());
            let cinder = Cinder {
                name: Some(name.into()),
                ..Cinder::new(layout, "zlib")
            };
            let volume = if layout == Layout::Posix {
                "диск_1_backup_]"
            } else {
                "диск"
            };
            let image = Dice(7).image(60_000);
            let full = cinder.back_up(store.as_ref(), volume, &image, None).await;
            let mut image = image.clone();
            image[0] ^= 1;
            let child = cinder
                .back_up(store.as_ref(), volume, &image, Some(&full))
                .await;
            assert_made(&store, layout, &[&full, &child]).await;
            let rooms = Rooms::new(store, options(layout), MIB);
            let backup = rooms.find(volume, &child.id).await;
            assert_eq!(backup.name.as_deref(), Some(name));
        }
    }
}

#[tokio::test]
async fn what_no_object_holds_is_zero_only_if_a_hash_says_so() {
    for with_sha256file in [true, false] {
        let store = Arc::new(MemoryStore::new());
        let cinder = Cinder {
            with_sha256file,
            ..Cinder::new(Layout::Posix, "none")
        };
        let mut image = Dice(8).noise(131_072);
        image[32_768..65_536].fill(0);
        let made = cinder.back_up(store.as_ref(), "v", &image, None).await;
        for index in [1, 1] {
            // First the zeros, then a chunk that holds something.
            let drop_it = |document: &mut serde_json::Value| {
                document["objects"].as_array_mut().unwrap().remove(index);
            };
            made.edit(store.as_ref(), drop_it).await;
        }
        let rooms = Rooms::new(store, compressed(Layout::Posix, "none"), MIB);
        let reader = rooms.open(&*rooms.find("v", &made.id).await).await.unwrap();
        assert!(reader.read(0, 32_768).await.unwrap() == image[..32_768]);
        assert!(reader.read(98_304, 32_768).await.unwrap() == image[98_304..]);
        let zeros = reader.read(32_768, 32_768).await;
        match with_sha256file {
            true => assert!(zeros.unwrap() == image[32_768..65_536]),
            false => assert_eq!(zeros.unwrap_err().kind(), Kind::Corrupt),
        }
        let lost = reader.read(65_536, 4096).await.unwrap_err();
        assert_eq!(lost.kind(), Kind::Corrupt);
        assert!(lost.to_string().contains(&made.id), "{lost}");
    }
}
