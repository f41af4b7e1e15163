//! The tree that a mount shows: what is listed, what can be made where, and its inodes.

use crate::common::golden::Tree;
use crate::common::mount::{Lab, command, errno, fail, kill, names, run, shell, write};
use crate::{cat, text};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

#[test]
fn nothing_but_volumes_and_backups_can_be_made() {
    let lab = Lab::new();
    let mount = lab.mount();
    let volume = mount.volume("v");
    let denied = [libc::EACCES, libc::EPERM];
    for folder in [mount.path(""), mount.path("posix"), mount.path(".cinderfs")] {
        assert!(
            denied.contains(&errno(File::create(folder.join("x")))),
            "{folder:?}"
        );
    }
    for folder in [mount.path("x"), volume.join("x"), mount.path(".cinderfs/x")] {
        assert!(
            denied.contains(&errno(fs::create_dir(&folder))),
            "{folder:?}"
        );
    }
    write(&volume.join("a"), b"a");
    assert!(denied.contains(&errno(fs::hard_link(volume.join("a"), volume.join("b")))));
    assert!(denied.contains(&errno(symlink("a", volume.join("b")))));
    fail(&mut command("mkfifo", &[volume.join("b")]));
    assert!(denied.contains(&errno(fs::remove_dir(mount.path("posix")))));
    assert!(denied.contains(&errno(fs::remove_file(mount.path(".cinderfs/status.json")))));
    assert!(denied.contains(&errno(fs::rename(
        mount.path(".cinderfs/metrics"),
        mount.path(".cinderfs/x")
    ))));
    assert_eq!(names(&volume), ["a"]);
    assert_eq!(names(mount.root()), ["posix"]);
}

#[test]
fn dot_names_are_unknown_and_dot_folders_unlisted() {
    let lab = Lab::new();
    let mount = lab.mount();
    let volume = mount.volume("v");
    write(&volume.join("a"), b"a");
    for folder in [mount.root().to_owned(), mount.path("posix"), volume.clone()] {
        for name in [".hidden", ".Trash", ".Trash-0", "autorun.inf", ".git"] {
            assert_eq!(
                errno(folder.join(name).symlink_metadata()),
                libc::ENOENT,
                "{name}"
            );
        }
    }
    assert_eq!(names(mount.root()), ["posix"]);
    assert_eq!(names(&mount.path("posix")), ["v"]);
    assert_eq!(names(&volume), ["a"]);
    assert!(mount.path(".cinderfs").metadata().unwrap().is_dir());
    assert_eq!(errno(fs::create_dir(mount.path("posix/.x"))), libc::EINVAL);
    // A backup may have a name with a dot: rsync writes to one.
    write(&volume.join(".a.img.Xy12"), b"dot");
    assert_eq!(text(&volume.join(".a.img.Xy12")), "dot");
}

#[test]
fn many_volumes_and_backups_are_listed_whole() {
    let lab = Lab::with("backup_compression_algorithm = none\n");
    let mount = lab.mount();
    let script = r#"for v in $(seq -w 30); do mkdir "$1/posix/volume-$v"; done
        for n in $(seq -w 120); do echo $n > "$1/posix/volume-01/backup-number-$n-of-many"; done"#;
    run(&mut shell(script, &[mount.root()]));
    assert_eq!(names(&mount.path("posix")).len(), 30);
    assert_eq!(names(&mount.path("posix/volume-01")).len(), 120);
    let long = run(&mut shell(
        r#"ls -l "$1/posix/volume-01" | grep -c backup-number"#,
        &[mount.root()],
    ));
    assert_eq!(long.trim(), "120");
    kill(mount.pid(), libc::SIGTERM);
}

/// Everything below a folder: path, inode, kind.
fn inodes(folder: &Path, found: &mut BTreeMap<PathBuf, u64>) {
    for name in names(folder) {
        let path = folder.join(name);
        let stat = path.symlink_metadata().unwrap();
        if stat.is_dir() {
            inodes(&path, found);
        } else {
            assert_eq!(
                (stat.nlink(), stat.mode() & 0o7777),
                (1, 0o440),
                "{}",
                path.display()
            );
        }
        found.insert(path, stat.ino());
    }
}

#[test]
fn names_and_inodes_stay_across_mounts() {
    let lab = Lab::over(&Tree::Posix.path());
    let mount = lab.mount();
    write(&mount.volume("v").join("a"), b"a");
    cat(&mount.volume("v").join("a"));
    let mut first = BTreeMap::new();
    inodes(mount.root(), &mut first);
    mount.unmount();
    let mount = lab.mount();
    let mut second = BTreeMap::new();
    inodes(mount.root(), &mut second);
    assert_eq!(first, second);
    let mut numbers: Vec<u64> = first.values().copied().collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), first.len());
    // A listing says the same as a stat.
    for entry in fs::read_dir(mount.path("posix")).unwrap() {
        let entry = entry.unwrap();
        use std::os::unix::fs::DirEntryExt;
        assert_eq!(entry.ino(), second[&entry.path()]);
    }
}

#[test]
fn a_backup_without_metadata_does_not_exist() {
    let lab = Lab::over(&Tree::Posix.path());
    let victim = Tree::Posix
        .backups()
        .into_iter()
        .find(|b| b.parent.is_none())
        .unwrap();
    let mount = lab.mount();
    let volume = mount.path("posix").join(&victim.volume);
    let before = names(&volume);
    mount.unmount();
    let metadata = format!("{}/{}_metadata", victim.container, victim.prefix);
    fs::remove_file(lab.store().join(metadata)).unwrap();
    let mount = lab.mount();
    let link = mount.path(".cinderfs/by-id").join(&victim.id);
    assert_eq!(errno(link.symlink_metadata()), libc::ENOENT);
    assert!(!volume.exists() || names(&volume).len() == before.len() - 1);
}
