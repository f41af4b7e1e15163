//! What only a store of files can get wrong.

use super::*;

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
async fn has_containers_of_many_folders() {
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
async fn names_do_not_lead_out_of_the_store() {
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
async fn objects_are_plain_files_only() {
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
async fn modes_are_cinders_and_nothing_staged_is_left() {
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
async fn claims_are_seen_by_other_programs_and_end_with_theirs() {
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
async fn staged_files_are_left_over_once_nobody_writes_them() {
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
async fn what_is_being_stored_is_never_left_over() {
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
fn needs_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let error = PosixStore::open(&folder.path().join("none")).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    std::fs::write(folder.path().join("file"), "").unwrap();
    let error = PosixStore::open(&folder.path().join("file")).unwrap_err();
    assert_eq!(error.kind(), Kind::NotDirectory);
}
