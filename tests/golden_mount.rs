//! Backups that real Cinder wrote, read through a mount: whole, and at random places.

mod common;

use common::glusterfs::Gluster;
use common::golden::{Golden, Tree, copy_tree, sha256};
use common::library::Dice;
use common::mount::{Lab, names, run, xattr};
use common::share::Mounted;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

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
        check_attributes(&backup, &path);
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

fn check_attributes(backup: &Golden, path: &Path) {
    let told = |name: &str| {
        let value = xattr(path, &format!("user.cinder.{name}"));
        value.map(|value| String::from_utf8(value).unwrap())
    };
    let parent = backup.parent.clone().ok_or(libc::ENODATA);
    assert_eq!(told("parent_id"), parent);
    for (name, value) in [
        ("backup_id", backup.id.as_str()),
        ("volume_id", &backup.volume),
        ("container", &backup.container),
        ("depth", &backup.depth.to_string()),
    ] {
        assert_eq!(told(name).as_deref(), Ok(value), "{name} of {}", backup.id);
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

/// The same in a share that we mount.
#[test]
fn backups_on_glusterfs() {
    let Some(gluster) = Gluster::shared() else {
        return;
    };
    let lab = Lab::on_share(gluster, "");
    let by_hand = Mounted::new("glusterfs", &lab.share().name, "");
    copy_tree(&Tree::Nfs.path(), by_hand.root());
    by_hand.unmount().unwrap();
    check_tree(Tree::Nfs, lab.mount().root(), "glusterfs");
    check_verify(&lab, Tree::Nfs);
}

/// Those of real Swifts, new ones and such as the first Cinders wrote.
#[test]
fn swift_backups() {
    for tree in [Tree::Swift, Tree::OldSwift] {
        let Some(account) = tree.account() else {
            return;
        };
        let lab = Lab::on_swift(account, "");
        check_tree(tree, lab.mount().root(), "swift");
        check_verify(&lab, tree);
    }
}

/// The command finds nothing wrong, and nothing that is left over.
fn check_verify(lab: &Lab, tree: Tree) {
    let config = lab.config();
    let ask = |command: &str| {
        let arguments = [command, "--json", "--config", config.to_str().unwrap()];
        let text = run(&mut lab.cinderfs(&arguments));
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    };
    let told = ask("verify");
    let rows = told["backups"].as_array().unwrap();
    let golden = tree.backups();
    assert_eq!(rows.len(), golden.len());
    for backup in golden {
        let mut of_backup = rows.iter().filter(|row| row["backup_id"] == *backup.id);
        let row = of_backup.next().unwrap();
        assert_eq!(row["ok"], true, "{row:#}");
        assert_eq!(row["problems"], serde_json::json!([]));
        assert_eq!(row["size"], backup.size);
        // Before Liberty there were no lists of hashes.
        assert_eq!(row["only_md5"], tree == Tree::OldSwift);
    }
    assert_eq!(ask("gc")["garbage"], serde_json::json!([]));
}
