//! What every store promises. To check another one: a line in `every_store`.

mod common;

use bytes::Bytes;
use cinderfs::error::Kind;
use cinderfs::store::memory::MemoryStore;
use cinderfs::store::posix::PosixStore;
use cinderfs::store::{Body, ObjectStore, read_whole};
use common::cinder::{get, put};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

macro_rules! every_store {
    ($($store:ident: $make:expr;)*) => {$(
        mod $store {
            use super::*;

            every_promise! { $make;
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
                shows_what_is_claimed
                has_no_leftovers_of_what_is_stored
            }
        }
    )*};
}

macro_rules! every_promise {
    ($make:expr; $($promise:ident)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $promise() {
            let (store, _folder) = $make;
            super::$promise(&store).await;
        }
    )*};
}

every_store! {
    memory: (MemoryStore::new(), ());
    posix: posix_store();
}

fn posix_store() -> (PosixStore, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (PosixStore::open(folder.path()).unwrap(), folder)
}

async fn names(store: &dyn ObjectStore, container: &str, prefix: &str) -> Vec<String> {
    let entries = store.list(container, prefix).await.unwrap();
    entries.into_iter().map(|entry| entry.name).collect()
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
    assert_eq!(store.containers("volume_").await.unwrap(), [""; 0]);
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
    assert_eq!(store.containers("volume_").await.unwrap(), ["a", "b"]);
    assert_eq!(store.containers("volume_2").await.unwrap(), ["a"]);
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
