//! What deleting takes away, what it leaves, and what it is refused for.

use crate::common::golden::Tree;
use crate::common::library::Dice;
use crate::common::mount::{
    Holder, Lab, MIB, command, errno, files_in, names, run, shell, wait_for, write,
};
use crate::common::store_check::{count, read_store};
use crate::{cat, text};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

#[test]
fn unlink_rmdir_and_rm() {
    let lab = Lab::new();
    let mount = lab.mount();
    let volume = mount.volume("v");
    write(&volume.join("a"), b"a");
    write(&volume.join("b"), b"b");
    cat(&volume.join("b"));
    assert_eq!(errno(fs::remove_dir(&volume)), libc::ENOTEMPTY);
    assert_eq!(errno(fs::remove_dir(volume.join("a"))), libc::ENOTDIR);
    assert_eq!(errno(fs::remove_file(&volume)), libc::EISDIR);
    fs::remove_file(volume.join("a")).unwrap();
    assert_eq!(errno(fs::remove_file(volume.join("a"))), libc::ENOENT);
    assert_eq!(names(&volume), ["b"]);
    fs::remove_file(volume.join("b")).unwrap();
    assert_eq!(names(&volume), [""; 0]);
    assert!(read_store(&lab.store()).is_empty());
    fs::remove_dir(&volume).unwrap();
    assert_eq!(errno(volume.metadata()), libc::ENOENT);
    assert_eq!(names(&mount.path("posix")), [""; 0]);

    fs::create_dir(&volume).unwrap();
    assert_eq!(errno(fs::create_dir(&volume)), libc::EEXIST);
    for name in ["a", "b", "c"] {
        write(&volume.join(name), name.as_bytes());
    }
    run(&mut shell(r#"rm -r "$1""#, &[&volume]));
    assert_eq!(names(&mount.path("posix")), [""; 0]);
    assert_eq!(count(&lab.store()), 0);
    // A volume without a backup does not outlive the mount.
    fs::create_dir(&volume).unwrap();
    mount.unmount();
    assert_eq!(names(&lab.mount().path("posix")), [""; 0]);
}

#[test]
fn a_file_that_is_deleted_while_it_is_open_lives_on_until_it_is_closed() {
    let lab = Lab::new();
    let mount = lab.mount();
    let path = mount.volume("v").join("a");
    let file = File::create_new(&path).unwrap();
    file.write_all_at(&Dice(1).noise(3 * MIB), 0).unwrap();
    file.sync_all().unwrap();
    assert_eq!(count(&lab.store()), 1);
    fs::remove_file(&path).unwrap();
    assert_eq!(names(&mount.volume("v")), [""; 0]);
    assert_eq!(count(&lab.store()), 0);
    // Its chunks are stored already: this reads one back and changes it.
    file.write_all_at(b"for nobody", 1000).unwrap();
    let mut read = [0; 10];
    file.read_exact_at(&mut read, 1000).unwrap();
    assert_eq!(&read, b"for nobody");
    file.set_len(2 * MIB as u64 + 5).unwrap();
    file.sync_all().unwrap();
    // Folder and name are free, though the file is there still.
    fs::remove_dir(mount.path("posix/v")).unwrap();
    assert_eq!(errno(fs::remove_dir(mount.path("posix/v"))), libc::ENOENT);
    fs::create_dir(mount.path("posix/v")).unwrap();
    write(&path, b"another");
    drop(file);
    // What is left is the other's object, list of hashes and metadata.
    wait_for("its objects go", || files_in(&lab.store()) == 3);
    assert_eq!(text(&path), "another");
    assert_eq!(read_store(&lab.store()).len(), 1);
}

#[test]
fn a_file_that_is_deleted_leaves_nothing_when_the_mount_ends_before_it_is_closed() {
    let lab = Lab::new();
    let mount = lab.mount();
    let path = mount.volume("v").join("a");
    let holder = Holder::new(&path, 3 << 20);
    run(&mut command("sync", &[&path]));
    fs::remove_file(&path).unwrap();
    assert_eq!(mount.unmount(), 0);
    drop(holder);
    assert_eq!(files_in(&lab.store()), 0);
}

#[test]
fn a_backup_that_others_build_on_cannot_be_deleted() {
    let lab = Lab::over(&Tree::Posix.path());
    let mount = lab.mount();
    let chain: Vec<_> = Tree::Posix
        .backups()
        .into_iter()
        .filter(|b| b.parent.is_some())
        .collect();
    let child = chain.first().unwrap();
    let find = |id: &str| {
        let link = mount.path(".cinderfs/by-id").join(id);
        mount
            .path(".cinderfs/by-id")
            .join(fs::read_link(link).unwrap())
    };
    let parent = find(child.parent.as_ref().unwrap());
    let before = names(parent.parent().unwrap());
    assert_eq!(errno(fs::remove_file(&parent)), libc::EBUSY);
    assert_eq!(names(parent.parent().unwrap()), before);
    assert!(lab.log().contains(&child.id), "{}", lab.log());
    // Newest first, the whole chain goes.
    let volume = parent.parent().unwrap().to_owned();
    for name in before.iter().rev() {
        fs::remove_file(volume.join(name)).unwrap();
    }
    assert_eq!(names(&volume), [""; 0]);
}
