//! What every store promises. To check another one: a line in `every_store`.

mod common;

use bytes::Bytes;
use cinderfs::error::Kind;
use cinderfs::store::memory::MemoryStore;
use cinderfs::store::posix::PosixStore;
use cinderfs::store::swift::SwiftStore;
use cinderfs::store::{Body, ObjectStore, Page, Select, read_whole, stream};
use common::cinder::{get, put};
use common::library::Dice;
use common::swift::Swift;
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
}

every_store_with_claims! {
    memory: Some((MemoryStore::new(), ()));
    posix: Some(posix_store());
}

/// An account of its own. None when `--quick` leaves it out.
fn swift_store() -> Option<(SwiftStore, ())> {
    Some((Swift::shared()?.account().store(), ()))
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

/// All pages of a listing, one after the other. Each but the last must be of that length.
async fn pages(store: &dyn ObjectStore, container: &str, select: Select<'_>) -> Vec<Page> {
    let mut pages: Vec<Page> = Vec::new();
    loop {
        let before = pages.last().and_then(|page| page.next.as_deref());
        let after = before.or(select.after);
        let page = store.page(container, Select { after, ..select }).await;
        let page = page.unwrap();
        let lines = lines(&page);
        assert!(lines.is_sorted_by(|one, next| one < next), "{page:?}");
        assert!(page.entries.is_sorted_by(|one, next| one.name < next.name));
        assert!(page.folders.is_sorted_by(|one, next| one < next));
        assert!(
            lines
                .iter()
                .all(|line| after.is_none_or(|after| line.as_str() > after))
        );
        if let Some(most) = select.most {
            assert!(lines.len() <= most, "{page:?}");
        }
        if let Some(next) = &page.next {
            assert_eq!(Some(next), lines.last());
            assert!(
                select.most.is_none_or(|most| lines.len() == most),
                "{page:?}"
            );
        }
        let is_last = page.next.is_none();
        pages.push(page);
        if is_last {
            return pages;
        }
    }
}

fn lines(page: &Page) -> Vec<String> {
    let entries = page.entries.iter().map(|entry| &entry.name);
    let mut lines: Vec<String> = entries.chain(&page.folders).cloned().collect();
    lines.sort_unstable();
    lines
}

/// The lines of a listing as they must be, worked out in another way.
fn expected_lines(all: &[String], select: Select<'_>) -> (Vec<String>, Vec<String>) {
    let (mut entries, mut folders) = (BTreeSet::new(), BTreeSet::new());
    for name in all {
        let Some(behind) = name.strip_prefix(select.prefix) else {
            continue;
        };
        let split = select
            .delimiter
            .and_then(|by| Some((by, behind.split_once(by)?.0)));
        let (set, line) = match split {
            Some((by, head)) => (&mut folders, format!("{}{head}{by}", select.prefix)),
            None => (&mut entries, name.clone()),
        };
        if select.after.is_none_or(|after| line.as_str() > after) {
            set.insert(line);
        }
    }
    (entries.into_iter().collect(), folders.into_iter().collect())
}

async fn check_pages(store: &dyn ObjectStore, all: &[String], select: Select<'_>) {
    let pages = pages(store, "c", select).await;
    let (entries, folders) = expected_lines(all, select);
    let told = || pages.iter().flat_map(|page| &page.entries);
    let named: Vec<String> = told().map(|entry| entry.name.clone()).collect();
    assert_eq!(named, entries, "{select:?}");
    let folded: Vec<String> = pages.iter().flat_map(|page| page.folders.clone()).collect();
    assert_eq!(folded, folders, "{select:?}");
    // The versions are those of the listing of all.
    let listed = store.list("c", select.prefix).await.unwrap();
    assert!(told().all(|entry| listed.contains(entry)), "{select:?}");
    let count = entries.len() + folders.len();
    if let Some(most) = select.most {
        // A page that is full may be the last or not: that only the next one tells.
        let least = count.div_ceil(most).max(1);
        assert!(
            (least..=count / most + 1).contains(&pages.len()),
            "{select:?}"
        );
    }
}

async fn gives_pages(store: &dyn ObjectStore) {
    let mut all: Vec<String> = ODD.into_iter().map(str::to_owned).collect();
    all.extend((0..7).map(|number| format!("volume_{number}")));
    for name in &all {
        put(store, "c", name, name.as_bytes().to_vec()).await;
    }
    all.sort_unstable();
    for prefix in ["", "volume_", "100%", "日", "e", "none"] {
        for most in [None, Some(1), Some(2), Some(7), Some(100)] {
            let select = Select {
                prefix,
                most,
                ..Select::default()
            };
            check_pages(store, &all, select).await;
        }
    }
    // Behind every name, and behind names that are not there.
    let more = ["", "volume_3x", "\u{10ffff}", "vol", "日次"].map(str::to_owned);
    for after in all.iter().chain(&more) {
        for prefix in ["", "volume_"] {
            let select = Select {
                prefix,
                after: Some(after),
                most: Some(20),
                ..Select::default()
            };
            check_pages(store, &all, select).await;
        }
    }
}

async fn gives_pages_that_are_folded(store: &dyn ObjectStore) {
    let mut all: Vec<String> = Vec::new();
    for volume in ["a", "b b", "ж", "a-0-0"] {
        for time in ["1", "2"] {
            let backup = format!("volume_{volume}_{time}_backup");
            all.extend([1, 2, 3].map(|number| format!("{backup}-{number:05}")));
            all.extend(["_metadata", "_sha256file"].map(|end| format!("{backup}{end}")));
        }
    }
    all.extend(["other", "x-0", "-0"].map(str::to_owned));
    for name in &all {
        put(store, "c", name, name.as_bytes().to_vec()).await;
    }
    all.sort_unstable();
    for delimiter in ["_", "-0", "-00", "ж", " ", "_backup-", "none"] {
        for prefix in [
            "",
            "volume_",
            "volume_a",
            "volume_ж_",
            "volume_b b_1_backup",
            "-0",
        ] {
            for most in [None, Some(1), Some(3), Some(100)] {
                let select = Select {
                    prefix,
                    delimiter: Some(delimiter),
                    most,
                    ..Select::default()
                };
                check_pages(store, &all, select).await;
            }
        }
        for after in [
            "volume_a_1_backup-0",
            "volume_a_1_backup-00002",
            "volume_b",
            "x-0",
        ] {
            let select = Select {
                prefix: "",
                delimiter: Some(delimiter),
                after: Some(after),
                most: None,
            };
            let page = store.page("c", select).await.unwrap();
            assert_eq!(page.next, None);
            let (entries, folders) = expected_lines(&all, select);
            let named: Vec<String> = page.entries.into_iter().map(|entry| entry.name).collect();
            assert_eq!(named, entries, "{select:?}");
            // One that holds names on both sides may be there or not.
            let on_both = |folder: &String| {
                let mut within = all.iter().filter(|name| name.starts_with(folder.as_str()));
                folder.as_str() <= after && within.any(|name| name.as_str() > after)
            };
            let mut folded = page.folders;
            folded.retain(|folder| !on_both(folder));
            assert_eq!(folded, folders, "{select:?}");
        }
    }
}

async fn gives_no_page_of_nothing(store: &dyn ObjectStore) {
    put(store, "c", "o", b"x".to_vec()).await;
    let select = Select {
        delimiter: Some("-0"),
        most: Some(3),
        ..Select::default()
    };
    assert_eq!(store.page("none", select).await.unwrap(), Page::default());
    let select = Select {
        prefix: "x",
        ..select
    };
    assert_eq!(store.page("c", select).await.unwrap(), Page::default());
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

// What only a store of files can get wrong.

use std::future::Future;

fn files_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files_below(&entry.path()));
        } else {
            found.push(entry.file_name().into_string().unwrap());
        }
    }
    found
}

#[tokio::test]
async fn posix_has_containers_of_many_folders() {
    let (store, folder) = posix_store();
    for container in ["14/55/1455", "14/56/1456", "own", "own/below", ".hidden/x"] {
        put(&store, container, "volume_1", b"x".to_vec()).await;
        store.sync(container).await.unwrap();
    }
    let found = store.containers("volume_").await.unwrap();
    assert_eq!(found, ["14/55/1455", "14/56/1456", "own", "own/below"]);
    store.delete("14/55/1455", "volume_1").await.unwrap();
    store.remove_container("14/55/1455").await.unwrap();
    assert!(!folder.path().join("14/55/1455").exists());
}

#[tokio::test]
async fn posix_names_do_not_lead_out_of_the_store() {
    let outer = tempfile::tempdir().unwrap();
    std::fs::write(outer.path().join("secret"), "s").unwrap();
    let root = outer.path().join("root");
    std::fs::create_dir_all(root.join("c")).unwrap();
    let store = PosixStore::open(&root).unwrap();
    for (container, name) in [
        ("..", "secret"),
        ("c/../..", "secret"),
        ("c", "../../secret"),
        ("c", ".."),
        ("c", "."),
        ("c", ""),
        ("c", "a/b"),
        ("c", "nul\0"),
        ("c\0", "o"),
        ("", "o"),
        ("/", "o"),
        ("/etc", "passwd"),
        ("./c", "o"),
    ] {
        let body = || Body::Bytes(Bytes::from_static(b"x"));
        for error in [
            store.read(container, name, 0..1).await.unwrap_err(),
            store.stat(container, name).await.unwrap_err(),
            store.put(container, name, body()).await.unwrap_err(),
            store.delete(container, name).await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), Kind::Invalid, "{container:?} {name:?}");
        }
    }
    assert_eq!(
        store.list("..", "").await.unwrap_err().kind(),
        Kind::Invalid
    );
    assert_eq!(store.sync("..").await.unwrap_err().kind(), Kind::Invalid);
    let error = store.remove_container("c/..").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert_eq!(files_below(outer.path()), ["secret"]);
}

#[tokio::test]
async fn posix_objects_are_plain_files_only() {
    let (store, folder) = posix_store();
    let outside = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(outside.path(), "secret").unwrap();
    let container = folder.path().join("c");
    std::fs::create_dir(&container).unwrap();
    symlink(outside.path(), container.join("volume_link")).unwrap();
    symlink("/etc", folder.path().join("linked")).unwrap();
    std::fs::create_dir(container.join("volume_folder")).unwrap();
    std::os::unix::net::UnixListener::bind(container.join("volume_socket")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        container.join("volume_fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    for name in [
        "volume_link",
        "volume_folder",
        "volume_fifo",
        "volume_socket",
    ] {
        let errors = [
            store.read("c", name, 0..1).await.unwrap_err(),
            store.stat("c", name).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), Kind::Corrupt, "{name}: {error}");
        }
    }
    assert_eq!(names(&store, "c", "").await, [""; 0]);
    let found = store.containers("").await.unwrap();
    assert!(
        !found.iter().any(|name| name.starts_with("linked")),
        "{found:?}"
    );
    // Storing replaces the link and not what it leads to.
    put(&store, "c", "volume_link", b"new".to_vec()).await;
    assert_eq!(get(&store, "c", "volume_link").await, b"new");
    assert_eq!(std::fs::read(outside.path()).unwrap(), b"secret");
}

#[tokio::test]
async fn posix_modes_are_cinders_and_nothing_staged_is_left() {
    // The umask belongs to the process, and the other tests do not look at modes.
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let (store, folder) = posix_store();
    put(&store, "14/55/x", "volume_1", b"x".to_vec()).await;
    put(&store, "14/55/x", "volume_1", b"y".to_vec()).await;
    rustix::process::umask(before);
    let mode = |path: &str| {
        let metadata = std::fs::metadata(folder.path().join(path)).unwrap();
        metadata.permissions().mode() & 0o7777
    };
    assert_eq!(mode("14/55/x/volume_1"), 0o660);
    assert_eq!(mode("14/55/x"), 0o770);
    // A name that is too long fails after its file was staged.
    let long = "v".repeat(300);
    let body = Body::Bytes(Bytes::from_static(b"x"));
    let error = store.put("14/55/x", &long, body).await.unwrap_err();
    assert_eq!(error.kind(), Kind::TooLong);
    assert_eq!(files_below(folder.path()), ["volume_1"]);
}

/// Another program that holds a lock on a file until it is killed.
struct Locker(std::process::Child);

impl Locker {
    fn new(file: &Path) -> Self {
        let mut flock = std::process::Command::new("flock");
        let mut child = flock
            .args(["--shared", "--no-fork"])
            .arg(file)
            .args(["sh", "-c", "echo locked; exec sleep 1000"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 7];
        let out = child.stdout.as_mut().unwrap();
        std::io::Read::read_exact(out, &mut said).unwrap();
        assert_eq!(&said, b"locked\n");
        Self(child)
    }

    fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Locker {
    fn drop(&mut self) {
        self.end();
    }
}

#[tokio::test]
async fn posix_claims_are_seen_by_other_programs_and_end_with_theirs() {
    let (store, folder) = posix_store();
    let other = PosixStore::open(folder.path()).unwrap();
    let claim = store.claim("1455").await.unwrap();
    let sign = folder.path().join(".cinderfs-lock-1455");
    assert!(sign.is_file() && other.is_claimed("1455").await.unwrap());
    let error = other.delete("", ".cinderfs-lock-1455").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Dependents, "{error}");
    let tried = std::process::Command::new("flock")
        .args(["--nonblock", sign.to_str().unwrap(), "true"])
        .status();
    assert!(!tried.unwrap().success());
    drop(claim);
    assert!(!sign.exists());
    // One of another program's, which is killed.
    let locker = Locker::new(&sign);
    assert!(store.is_claimed("1455").await.unwrap());
    assert_eq!(store.leftovers().await.unwrap(), []);
    // What both have, the first to end leaves to the other.
    drop(store.claim("1455").await.unwrap());
    assert!(sign.is_file() && store.is_claimed("1455").await.unwrap());
    locker.kill();
    assert!(!store.is_claimed("1455").await.unwrap());
    let left = store.leftovers().await.unwrap();
    let [(container, entry)] = left.as_slice() else {
        panic!("{left:?}");
    };
    assert_eq!(
        (container.as_str(), entry.name.as_str()),
        ("", ".cinderfs-lock-1455")
    );
    assert_eq!(store.stat(container, &entry.name).await.unwrap().size, 0);
    store.delete(container, &entry.name).await.unwrap();
    assert!(!sign.exists());
    // A claim on what was left takes it over.
    std::fs::write(&sign, "").unwrap();
    let claim = store.claim("1455").await.unwrap();
    assert!(other.is_claimed("1455").await.unwrap());
    drop(claim);
    assert!(!sign.exists());
}

#[tokio::test]
async fn posix_staged_files_are_left_over_once_nobody_writes_them() {
    let (store, folder) = posix_store();
    put(&store, "14/55/x", "volume_1", b"x".to_vec()).await;
    let staged = folder.path().join("14/55/x/.cinderfs-stage-1");
    let foreign = folder.path().join("14/55/x/.stage-of-another");
    std::fs::write(&staged, "half").unwrap();
    std::fs::write(&foreign, "x").unwrap();
    let locker = Locker::new(&staged);
    assert_eq!(store.leftovers().await.unwrap(), []);
    let error = store
        .delete("14/55/x", ".cinderfs-stage-1")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Dependents, "{error}");
    assert!(staged.exists());
    locker.kill();
    let left = store.leftovers().await.unwrap();
    let [(container, entry)] = left.as_slice() else {
        panic!("{left:?}");
    };
    assert_eq!(
        (container.as_str(), entry.name.as_str()),
        ("14/55/x", ".cinderfs-stage-1")
    );
    store.delete(container, &entry.name).await.unwrap();
    assert_eq!(store.leftovers().await.unwrap(), []);
    assert!(!staged.exists() && foreign.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn posix_what_is_being_stored_is_never_left_over() {
    let (store, folder) = posix_store();
    let other = PosixStore::open(folder.path()).unwrap();
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_over = Arc::clone(&over);
    // Somebody removes all left-overs, all the time.
    let sweeper = tokio::spawn(async move {
        while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
            for (container, entry) in other.leftovers().await.unwrap() {
                let _ = other.delete(&container, &entry.name).await;
            }
        }
    });
    for i in 0..300 {
        let claim = store.claim("1455").await.unwrap();
        put(&store, "c", &format!("volume_{i:03}"), vec![7; 20_000]).await;
        assert!(store.is_claimed("1455").await.unwrap());
        drop(claim);
    }
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    sweeper.await.unwrap();
    assert_eq!(names(&store, "c", "").await.len(), 300);
    assert_eq!(files_below(folder.path()).len(), 300);
}

#[test]
fn posix_needs_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let error = PosixStore::open(&folder.path().join("none")).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    std::fs::write(folder.path().join("file"), "").unwrap();
    let error = PosixStore::open(&folder.path().join("file")).unwrap_err();
    assert_eq!(error.kind(), Kind::NotDirectory);
}
