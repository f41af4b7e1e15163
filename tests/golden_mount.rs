//! Backups that real Cinder wrote, read through a mount: whole, and at random places.

mod common;

use cinderfs::budget::Budget;
use cinderfs::driver::Resources;
use cinderfs::driver::chunked::ChunkedDriver;
use cinderfs::fuse::{self, MountOptions, Mounted};
use cinderfs::store::ObjectStore;
use cinderfs::tree::{Backend, Settings};
use common::golden::{Tree, sha256};
use common::library::{Dice, options};
use common::mount::{Lab, detach, names};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

const RANDOM_READS: usize = 12;
const LONGEST_READ: u64 = 200_000;

/// Reads every backup of a tree below `backend`, a folder of a mount.
fn check_tree(tree: Tree, root: &Path, backend: &str) {
    let golden = tree.backups();
    let folder = root.join(backend);
    let mut volumes: Vec<&str> = golden.iter().map(|backup| backup.volume.as_str()).collect();
    volumes.sort_unstable();
    volumes.dedup();
    assert_eq!(names(&folder), volumes);
    for volume in &volumes {
        let listed = names(&folder.join(volume)).len();
        assert_eq!(
            listed,
            golden
                .iter()
                .filter(|backup| backup.volume == *volume)
                .count()
        );
    }
    let mut dice = Dice(77);
    for backup in golden {
        let link = root.join(".cinderfs/by-id").join(&backup.id);
        let path = root
            .join(".cinderfs/by-id")
            .join(fs::read_link(&link).unwrap());
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with(&backup.created), "{name}");
        assert!(
            name.ends_with(&format!("-{}.img", &backup.id[..8])),
            "{name}"
        );
        assert_eq!(path.metadata().unwrap().len(), backup.size, "{}", backup.id);
        // At random places first, while nothing is cached.
        let file = File::open(&path).unwrap();
        let ranges: Vec<(u64, usize)> = (0..RANDOM_READS)
            .map(|_| {
                (
                    dice.below(backup.size + 10),
                    dice.below(LONGEST_READ) as usize,
                )
            })
            .collect();
        let pieces: Vec<Vec<u8>> = ranges
            .iter()
            .map(|(offset, length)| {
                let mut piece = vec![0; *length];
                let mut filled = 0;
                while filled < *length {
                    match file
                        .read_at(&mut piece[filled..], offset + filled as u64)
                        .unwrap()
                    {
                        0 => break,
                        some => filled += some,
                    }
                }
                piece.truncate(filled);
                piece
            })
            .collect();
        let image = fs::read(&path).unwrap();
        assert_eq!(sha256(&image), backup.sha256, "{}", backup.id);
        for ((offset, length), piece) in ranges.into_iter().zip(pieces) {
            let start = (offset as usize).min(image.len());
            let end = (start + length).min(image.len());
            assert!(
                piece == image[start..end],
                "{} at {offset} for {length}",
                backup.id
            );
        }
    }
}

#[test]
fn posix_backups() {
    let lab = Lab::over(&Tree::Posix.path());
    check_tree(Tree::Posix, lab.mount().root(), "posix");
}

#[test]
fn posix_backups_in_little_memory() {
    let lab = Lab::over(&Tree::Posix.path());
    check_tree(
        Tree::Posix,
        lab.mount_with("mnt", "memory=16M").root(),
        "posix",
    );
}

#[test]
fn nfs_backups() {
    let lab = Lab::over(&Tree::Nfs.path());
    check_tree(Tree::Nfs, lab.mount().root(), "posix");
}

/// A mount in this process.
struct InProcess {
    mounted: Option<Mounted>,
    folder: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
}

impl InProcess {
    /// Shows a store as the backend `swift`.
    fn new(store: Arc<dyn ObjectStore>, tree: Tree) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let budget = Budget::new(64 << 20);
        let resources = Resources {
            budget: Arc::clone(&budget),
            spool_path: std::env::temp_dir(),
        };
        let driver = ChunkedDriver::new(store, options(tree.layout()), &resources);
        let backend = Backend {
            name: "swift".into(),
            kind: "swift",
            driver: Arc::new(driver),
        };
        let settings = Settings {
            budget,
            spool_path: std::env::temp_dir(),
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
        };
        let options = MountOptions {
            source: "test".into(),
            read_only: false,
            allow_other: false,
        };
        let tree = cinderfs::tree::Tree::new(vec![backend], settings);
        let mounted = fuse::mount(tree, folder.path(), &options, runtime.handle()).unwrap();
        mounted.wait_until_it_answers().unwrap();
        Self {
            mounted: Some(mounted),
            folder,
            _runtime: runtime,
        }
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        // The folder is removed next: what is mounted there must not go with it.
        let unmounted = self.mounted.take().map(Mounted::unmount);
        detach(self.folder.path());
        if !std::thread::panicking() {
            unmounted.unwrap().unwrap();
        }
    }
}

#[test]
fn swift_backups() {
    for tree in [Tree::Swift, Tree::OldSwift] {
        let mount = InProcess::new(Arc::new(tree.memory()), tree);
        check_tree(tree, mount.folder.path(), "swift");
    }
}
