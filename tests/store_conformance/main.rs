//! What every store promises. To check another one: a line in `every_store`.

#[path = "../common/mod.rs"]
mod common;
mod pages;
mod posix_files;

use bytes::Bytes;
use cinderfs::error::Kind;
use cinderfs::store::memory::MemoryStore;
use cinderfs::store::posix::PosixStore;
use cinderfs::store::swift::SwiftStore;
use cinderfs::store::{Body, ObjectStore, Page, Select, read_whole, stream};
use common::cinder::{get, put};
use common::library::Dice;
use common::mount::{Backend, Lab};
use common::swift::Swift;
use pages::{gives_no_page_of_nothing, gives_pages, gives_pages_that_are_folded};
use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

macro_rules! every_store {
    ($($store:ident: $make:expr;)*) => {$(
        mod $store {
            use super::*;

            every_promise! { $make, store => store.as_ref();
                gives_back_what_was_put
                clips_ranges
                says_what_is_missing
                lists_sorted_and_by_prefix
                finds_containers
                replaces_and_changes_the_version
                deletes
                removes_empty_containers_only
                stores_files
                stores_many_at_a_time
                limits_what_is_read_whole
                has_no_leftovers_of_what_is_stored
                takes_names_of_all_kinds
                gives_pages
                gives_pages_that_are_folded
                gives_no_page_of_nothing
            }

            every_promise! { $make, store => &store;
                streams
                streams_nothing_of_what_is_missing
            }
        }
    )*};
}

/// What stores promise in which others can be told that a backup is being written.
macro_rules! every_store_with_claims {
    ($($store:ident: $make:expr;)*) => {
        mod claims {
            use super::*;

            $(mod $store {
                use super::*;

                every_promise! { $make, store => store.as_ref();
                    shows_what_is_claimed
                }
            })*
        }
    };
}

macro_rules! every_promise {
    ($make:expr, $store:ident => $given:expr; $($promise:ident)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $promise() {
            let Some((store, _folder)) = $make else {
                return;
            };
            let $store: Arc<dyn ObjectStore> = Arc::new(store);
            super::$promise($given).await;
        }
    )*};
}

every_store! {
    memory: Some((MemoryStore::new(), ()));
    posix: Some(posix_store());
    swift: swift_store();
    glusterfs: glusterfs_store();
}

every_store_with_claims! {
    memory: Some((MemoryStore::new(), ()));
    posix: Some(posix_store());
    glusterfs: glusterfs_store();
}

/// An account of its own. None when `--quick` leaves it out.
fn swift_store() -> Option<(SwiftStore, ())> {
    Some((Swift::shared()?.account().store(), ()))
}

/// A share of its own. None when `--quick` leaves it out.
fn glusterfs_store() -> Option<(PosixStore, Lab)> {
    let lab = Lab::on(Backend::GlusterFs, "")?;
    Some((lab.store_on_share(), lab))
}

fn posix_store() -> (PosixStore, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (PosixStore::open(folder.path()).unwrap(), folder)
}

async fn names(store: &dyn ObjectStore, container: &str, prefix: &str) -> Vec<String> {
    let entries = store.list(container, prefix).await.unwrap();
    entries.into_iter().map(|entry| entry.name).collect()
}

/// Of the containers that the store names, those in which anything begins so.
async fn holders(store: &dyn ObjectStore, prefix: &str) -> Vec<String> {
    let mut found = store.containers(prefix).await.unwrap();
    assert!(found.is_sorted_by(|one, next| one < next), "{found:?}");
    for container in found.clone() {
        if names(store, &container, prefix).await.is_empty() {
            found.retain(|other| *other != container);
        }
    }
    found
}

async fn gives_back_what_was_put(store: &dyn ObjectStore) {
    for (name, bytes) in [
        ("one", b"x".to_vec()),
        ("täglich ☃", vec![7; 3 << 20]),
        ("empty", Vec::new()),
    ] {
        put(store, "c", name, bytes.clone()).await;
        assert_eq!(
            store.stat("c", name).await.unwrap().size,
            bytes.len() as u64
        );
        assert!(get(store, "c", name).await == bytes);
    }
    store.sync("c").await.unwrap();
}

async fn clips_ranges(store: &dyn ObjectStore) {
    put(store, "c", "o", (0..100).collect()).await;
    for (range, expected) in [
        (0..0, 0..0),
        (0..1, 0..1),
        (10..20, 10..20),
        (90..200, 90..100),
        (100..101, 0..0),
        (200..300, 0..0),
        (u64::MAX - 1..u64::MAX, 0..0),
        (99..u64::MAX, 99..100),
    ] {
        let read = store.read("c", "o", range.clone()).await.unwrap();
        let expected: Vec<u8> = expected.collect();
        assert_eq!(read, expected, "{range:?}");
    }
}

async fn says_what_is_missing(store: &dyn ObjectStore) {
    put(store, "c", "there", b"x".to_vec()).await;
    for (container, name) in [("c", "gone"), ("none", "there")] {
        let errors = [
            store.stat(container, name).await.unwrap_err(),
            store.read(container, name, 0..1).await.unwrap_err(),
            store.delete(container, name).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), Kind::NotFound);
            assert!(error.to_string().contains(name), "{error}");
        }
    }
    assert_eq!(names(store, "none", "").await, [""; 0]);
    assert_eq!(holders(store, "volume_").await, [""; 0]);
    store.remove_container("none").await.unwrap();
}

async fn lists_sorted_and_by_prefix(store: &dyn ObjectStore) {
    for name in [
        "volume_b-2",
        "volume_b-10",
        "volume_b",
        "volume_a",
        "other",
        "volume_ä",
    ] {
        put(store, "c", name, b"x".to_vec()).await;
    }
    put(store, "d", "volume_z", b"x".to_vec()).await;
    assert_eq!(
        names(store, "c", "volume_b").await,
        ["volume_b", "volume_b-10", "volume_b-2"]
    );
    assert_eq!(
        names(store, "c", "").await,
        [
            "other",
            "volume_a",
            "volume_b",
            "volume_b-10",
            "volume_b-2",
            "volume_ä"
        ]
    );
    assert_eq!(names(store, "c", "x").await, [""; 0]);
    for entry in store.list("c", "").await.unwrap() {
        let stat = store.stat("c", &entry.name).await.unwrap();
        assert!(entry.version.is_none_or(|version| version == stat.version));
    }
}

async fn finds_containers(store: &dyn ObjectStore) {
    put(store, "b", "volume_1", b"x".to_vec()).await;
    put(store, "a", "volume_1", b"x".to_vec()).await;
    put(store, "a", "volume_2", b"x".to_vec()).await;
    put(store, "c", "other", b"x".to_vec()).await;
    assert_eq!(holders(store, "volume_").await, ["a", "b"]);
    assert_eq!(holders(store, "volume_2").await, ["a"]);
    assert_eq!(holders(store, "").await, ["a", "b", "c"]);
}

async fn replaces_and_changes_the_version(store: &dyn ObjectStore) {
    let mut versions = Vec::new();
    for length in [10, 5, 50] {
        put(store, "c", "o", vec![1; length]).await;
        assert_eq!(get(store, "c", "o").await, vec![1; length]);
        versions.push(store.stat("c", "o").await.unwrap().version);
    }
    assert_eq!(versions[2], store.stat("c", "o").await.unwrap().version);
    store.delete("c", "o").await.unwrap();
    put(store, "c", "o", vec![1; 9]).await;
    versions.push(store.stat("c", "o").await.unwrap().version);
    versions.sort();
    versions.dedup();
    assert_eq!(versions.len(), 4);
}

async fn deletes(store: &dyn ObjectStore) {
    put(store, "c", "a", b"x".to_vec()).await;
    put(store, "c", "b", b"x".to_vec()).await;
    store.delete("c", "a").await.unwrap();
    assert_eq!(names(store, "c", "").await, ["b"]);
    assert_eq!(
        store.delete("c", "a").await.unwrap_err().kind(),
        Kind::NotFound
    );
}

async fn removes_empty_containers_only(store: &dyn ObjectStore) {
    put(store, "c", "volume_", b"x".to_vec()).await;
    store.remove_container("c").await.unwrap();
    assert_eq!(get(store, "c", "volume_").await, b"x");
    store.delete("c", "volume_").await.unwrap();
    store.remove_container("c").await.unwrap();
    store.remove_container("c").await.unwrap();
    put(store, "c", "volume_", b"y".to_vec()).await;
    assert_eq!(get(store, "c", "volume_").await, b"y");
}

async fn stores_files(store: &dyn ObjectStore) {
    let mut file = tempfile::tempfile().unwrap();
    let bytes: Vec<u8> = (0..3_000_000u32).map(|i| (i / 7) as u8).collect();
    file.write_all(&bytes).unwrap();
    let file = Arc::new(file);
    for length in [0, 1, 1 << 20, 2_500_000] {
        let file = Arc::clone(&file);
        let body = Body::File { file, length };
        assert_eq!(body.len(), length);
        store.put("c", "f", body).await.unwrap();
        assert!(get(store, "c", "f").await == bytes[..length as usize]);
    }
    // A file that is shorter than it should be is not stored, and what was there stays.
    let body = Body::File {
        file,
        length: 4_000_000,
    };
    store.put("c", "f", body).await.unwrap_err();
    assert_eq!(store.stat("c", "f").await.unwrap().size, 2_500_000);
    assert_eq!(names(store, "c", "").await, ["f"]);
}

async fn stores_many_at_a_time(store: &dyn ObjectStore) {
    let puts = (0..20).map(|i| async move {
        put(store, "deep", &format!("volume_{i:02}"), vec![i; 10_000]).await;
    });
    let mut puts: Vec<_> = puts.map(Box::pin).collect();
    std::future::poll_fn(|context| {
        puts.retain_mut(|put| put.as_mut().poll(context).is_pending());
        match puts.is_empty() {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    for i in 0..20 {
        assert_eq!(
            get(store, "deep", &format!("volume_{i:02}")).await,
            vec![i; 10_000]
        );
    }
    assert_eq!(names(store, "deep", "").await.len(), 20);
}

async fn limits_what_is_read_whole(store: &dyn ObjectStore) {
    put(store, "c", "o", vec![1; 100]).await;
    assert_eq!(read_whole(store, "c", "o", 100).await.unwrap().len(), 100);
    let error = read_whole(store, "c", "o", 99).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
}

async fn shows_what_is_claimed(store: &dyn ObjectStore) {
    assert!(!store.is_claimed("one").await.unwrap());
    let one = store.claim("one").await.unwrap();
    let again = store.claim("one").await.unwrap();
    assert!(store.is_claimed("one").await.unwrap());
    assert!(!store.is_claimed("two").await.unwrap());
    drop(one);
    assert!(store.is_claimed("one").await.unwrap());
    assert_eq!(store.leftovers().await.unwrap(), []);
    drop(again);
    assert!(!store.is_claimed("one").await.unwrap());
    assert_eq!(store.leftovers().await.unwrap(), []);
}

async fn has_no_leftovers_of_what_is_stored(store: &dyn ObjectStore) {
    put(store, "c", "volume_1", b"x".to_vec()).await;
    put(store, "c", ".hidden", b"x".to_vec()).await;
    assert_eq!(store.leftovers().await.unwrap(), []);
    let before = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
    let stat = store.stat("c", "volume_1").await.unwrap();
    assert!(stat.modified > before);
}

/// Names that are odd in one way or another, none of which holds a slash.
const ODD: [&str; 24] = [
    "a b",
    " leading and trailing ",
    "100%",
    "%2F%00",
    "a?b=c&d=e#f",
    "semi;colon,comma",
    "plus+minus-",
    "quote\"'`",
    "back\\slash",
    "<tag>&amp;",
    "tab\tline\nreturn\r",
    "\u{7f}\u{1}",
    "täglich",
    "日次 バックアップ",
    "يومي",
    "😀",
    "e\u{301}",
    "é",
    "...",
    "..x",
    "~",
    "*?[a]",
    "{}|^",
    "-00001",
];

async fn takes_names_of_all_kinds(store: &dyn ObjectStore) {
    for name in ODD {
        put(store, "c", name, name.as_bytes().to_vec()).await;
    }
    let sorted = |names: &[&str]| {
        let mut names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        names.sort_unstable();
        names
    };
    assert_eq!(names(store, "c", "").await, sorted(&ODD));
    for (number, name) in ODD.into_iter().enumerate() {
        assert_eq!(get(store, "c", name).await, name.as_bytes(), "{name:?}");
        let stat = store.stat("c", name).await.unwrap();
        assert_eq!(stat.size, name.len() as u64, "{name:?}");
        assert!(names(store, "c", name).await.contains(&name.to_owned()));
        let container = format!("container of {name}");
        put(store, &container, name, Vec::new()).await;
        assert!(holders(store, name).await.contains(&container), "{name:?}");
        store.delete("c", name).await.unwrap();
        assert_eq!(
            names(store, "c", "").await,
            sorted(&ODD[number + 1..]),
            "{name:?}"
        );
    }
}

async fn streams(store: &Arc<dyn ObjectStore>) {
    let whole = Dice(5).noise(300_001);
    put(store.as_ref(), "c", "o", whole.clone()).await;
    put(store.as_ref(), "c", "empty", Vec::new()).await;
    put(store.as_ref(), "täglich ☃", "100%?", whole.clone()).await;
    let length = whole.len();
    for (container, name, offset, want) in [
        ("c", "o", 0, 1 << 20),
        ("c", "o", 0, 300_001),
        ("c", "o", 0, 1000),
        ("c", "o", 1, 65_536),
        ("c", "o", 299_990, 7),
        ("c", "o", 300_000, 7),
        ("c", "o", 300_001, 7),
        ("c", "o", 300_002, 7),
        ("c", "o", u64::MAX - 1, 7),
        ("c", "o", 299_990, u64::MAX),
        ("täglich ☃", "100%?", 150_000, 100_000),
    ] {
        let mut read = Vec::new();
        let mut stream = stream(store, container, name, offset);
        loop {
            let piece = stream.next(want).await.unwrap();
            if piece.is_empty() {
                break;
            }
            read.extend_from_slice(&piece);
        }
        let from = usize::try_from(offset).unwrap().min(length);
        assert!(read == whole[from..], "{name} from {offset} by {want}");
        // Its end stays its end.
        assert!(stream.next(want).await.unwrap().is_empty());
    }
    for offset in [0, 1] {
        let mut stream = stream(store, "c", "empty", offset);
        assert!(stream.next(10).await.unwrap().is_empty());
        assert!(stream.next(10).await.unwrap().is_empty());
    }
}

async fn streams_nothing_of_what_is_missing(store: &Arc<dyn ObjectStore>) {
    put(store.as_ref(), "c", "there", b"x".to_vec()).await;
    for (container, name) in [("c", "gone"), ("none", "there")] {
        for offset in [0, 5] {
            let mut stream = stream(store, container, name, offset);
            for _ in 0..2 {
                let error = stream.next(10).await.unwrap_err();
                assert_eq!(error.kind(), Kind::NotFound);
                assert!(error.to_string().contains(name), "{error}");
            }
        }
    }
}
