//! Lengths in metadata and what objects decode to come from outside: neither decides
//! how much memory is used.

mod common;

use cinderfs::codec::{Codec, Encoder};
use cinderfs::error::Kind;
use cinderfs::format::Layout;
use cinderfs::store::memory::MemoryStore;
use common::cinder::{Cinder, entry, put};
use common::library::{MIB, Rooms, options};
use serde_json::json;
use std::alloc::{GlobalAlloc, Layout as Room, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the memory in use, and what it was at most.
struct Counting;

static USED: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all is left to the system's allocator; only numbers are kept here.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, room: Room) -> *mut u8 {
        let used = USED.fetch_add(room.size(), Ordering::Relaxed) + room.size();
        MOST.fetch_max(used, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(room) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, room: Room) {
        USED.fetch_sub(room.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, room) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const MEMORY: u64 = 8 * MIB;
/// Beside the cache: a few steps of decoding, pieces of input, decoders.
const ALLOWED: usize = 40 << 20;

/// What 128 MiB of zeros become.
fn packed_zeros(codec: Codec) -> Vec<u8> {
    let total = 128 * MIB;
    let mut encoder = Encoder::new(codec, total).unwrap();
    let mut packed = Vec::new();
    let zeros = vec![0; MIB as usize];
    for _ in 0..total / MIB {
        encoder.write(&zeros, &mut packed).unwrap();
    }
    encoder.finish(&mut packed).unwrap();
    packed
}

/// Lists, opens and reads at a few places a backup whose one object claims `length`
/// bytes and really is `stored`. All of it may fail as damage, and none may take memory.
async fn explode(codec: &str, stored: &[u8], length: u64, with_sha256file: bool) {
    let store = Arc::new(MemoryStore::new());
    let cinder = Cinder {
        with_sha256file,
        ..Cinder::new(Layout::Posix, codec)
    };
    let made = cinder.back_up(store.as_ref(), "v", &[0; 4096], None).await;
    let claim = |document: &mut serde_json::Value| {
        entry(document, 0)["length"] = json!(length);
        entry(document, 0)["compression"] = json!(codec);
    };
    made.edit(store.as_ref(), claim).await;
    put(
        store.as_ref(),
        &made.container,
        &made.objects[0],
        stored.to_vec(),
    )
    .await;
    let before = USED.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let rooms = Rooms::new(store, options(Layout::Posix), MEMORY);
    let backup = rooms.find("v", &made.id).await;
    assert_eq!(backup.size, length);
    match rooms.open(&backup).await {
        Err(e) => assert_eq!(e.kind(), Kind::Corrupt),
        Ok(reader) => {
            for offset in [0, length / 2, length - 1] {
                if let Err(e) = reader.read(offset, 4096).await {
                    assert_eq!(e.kind(), Kind::Corrupt, "{e}");
                }
            }
        }
    }
    let used = MOST.load(Ordering::Relaxed) - before;
    assert!(used < ALLOWED, "{codec} of {length}: {used} bytes");
    drop(rooms.cache);
    assert_eq!(rooms.budget.used(), 0);
}

// One test: the memory is that of the process.
#[tokio::test]
async fn memory_stays_bounded_whatever_an_object_claims_or_decodes_to() {
    for (name, codec) in [
        ("zlib", Codec::Zlib),
        ("bz2", Codec::Bzip2),
        ("zstd", Codec::Zstd),
    ] {
        let packed = packed_zeros(codec);
        for length in [4096, 128 * MIB, 1 << 60] {
            for with_sha256file in [true, false] {
                explode(name, &packed, length, with_sha256file).await;
            }
        }
        explode(name, b"tiny", 1 << 60, false).await;
    }
    for length in [4096, 1 << 40, 1 << 60] {
        explode("none", b"tiny", length, false).await;
    }
    huge_lists().await;
}

/// Documents that are all structure and no content.
async fn huge_lists() {
    let store = Arc::new(MemoryStore::new());
    let made = Cinder::new(Layout::Posix, "none");
    let made = made.back_up(store.as_ref(), "v", &[7; 4096], None).await;
    let text = format!(
        "{{\"version\": \"1.0.0\", \"objects\": [{}{{}}]}}",
        "{},".repeat(10 << 20)
    );
    let length = text.len();
    put(
        store.as_ref(),
        &made.container,
        &made.metadata(),
        text.into(),
    )
    .await;
    let before = USED.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let rooms = Rooms::new(store, options(Layout::Posix), MEMORY);
    let backups = rooms.driver.backups("v").await.unwrap();
    assert_eq!(backups[0].fault.as_ref().unwrap().kind(), Kind::Corrupt);
    let used = MOST.load(Ordering::Relaxed) - before;
    assert!(
        used < length + ALLOWED,
        "{used} bytes for a document of {length}"
    );
}
