//! `.full` and `.incremental`: what is found there, and what may be done.

use crate::common::mount::{
    Holder, Lab, command, errno, fail, names, on_every_backend, run, set_xattr, shell, write,
};
use crate::common::store_check::read_store;
use crate::{EXPECTED, SMALL, VOLUME, cp, depth, id, images, lab, parent, refusals, stored};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};

on_every_backend! { SMALL;
    a_file_becomes_what_its_folder_says
}

fn a_file_becomes_what_its_folder_says(lab: &Lab) {
    let (first, second) = images(lab, 1);
    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    cp(&first, &volume.join("plain"));
    cp(&second, &volume.join(".incremental/child"));
    cp(&first, &volume.join(".full/full"));
    cp(&first, &volume.join(".incremental/same"));
    assert_eq!(names(&volume), ["child", "full", "plain", "same"]);
    for name in ["plain", "full"] {
        stored(lab, name).check(EXPECTED, &first);
        assert_eq!(
            (parent(&volume.join(name)), depth(&volume.join(name))),
            (None, 0)
        );
    }
    stored(lab, "child").check_on(EXPECTED, &first, &second);
    assert_eq!(
        parent(&volume.join("child")),
        Some(id(&volume.join("plain")))
    );
    assert_eq!(depth(&volume.join("child")), 1);
    let same = stored(lab, "same");
    same.check_on(EXPECTED, &first, &first);
    assert_eq!(same.objects.len(), 0);
    assert_eq!(same.parent(), Some(id(&volume.join("full")).as_str()));
    for (name, source) in [("plain", &first), ("child", &second), ("same", &first)] {
        for folder in ["", ".full", ".incremental"] {
            run(&mut command(
                "cmp",
                &[source, &volume.join(folder).join(name)],
            ));
        }
    }
    let inode = |path: &str| volume.join(path).metadata().unwrap().ino();
    assert_eq!(inode("child"), inode(".full/child"));
    // All of it is there for the next one, too.
    assert_eq!(mount.unmount(), 0);
    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    run(&mut command("cmp", &[&second, &volume.join("child")]));
    assert_eq!(depth(&volume.join("child")), 1);
}

#[test]
fn drop_folders_are_found_and_never_listed() {
    let lab = lab("");
    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    write(&volume.join("a"), b"a");
    write(&volume.join(".incremental/b"), b"ab");
    for folder in [".full", ".incremental"] {
        let path = volume.join(folder);
        assert!(path.is_dir());
        assert_eq!(names(&path), [""; 0]);
        assert_eq!(errno(fs::create_dir(&path)), libc::EEXIST);
        assert_eq!(errno(fs::create_dir(path.join("x"))), libc::EACCES);
        assert_eq!(errno(fs::remove_dir(&path)), libc::EACCES);
        assert_eq!(errno(fs::rename(&path, volume.join("x"))), libc::EXDEV);
        for other in [".full", ".incremental", ".cinderfs", "missing"] {
            assert_eq!(errno(path.join(other).metadata()), libc::ENOENT);
        }
        // Elsewhere there is none.
        assert_eq!(
            errno(mount.path("posix").join(folder).metadata()),
            libc::ENOENT
        );
        assert_eq!(errno(mount.path(folder).metadata()), libc::ENOENT);
        assert_ne!(errno(File::create_new(&path)), 0);
        assert_ne!(errno(fs::rename(volume.join("a"), &path)), 0);
    }
    let find = run(&mut shell(
        r#"find "$1" -type f -printf '%P\n' | sort"#,
        &[mount.root()],
    ));
    assert_eq!(find, format!("posix/{VOLUME}/a\nposix/{VOLUME}/b\n"));
    for (number, copy) in [
        r#"cp -r "$1" "$2""#,
        r#"rsync -a "$1/" "$2""#,
        r#"cp -a "$1" "$2""#,
    ]
    .into_iter()
    .enumerate()
    {
        let target = lab.path(&format!("copy{number}"));
        run(&mut shell(copy, &[&volume, &target]));
        let listed = run(&mut shell(r#"ls -A "$1""#, &[&target]));
        assert_eq!(listed, "a\nb\n");
    }
    assert_eq!(names(&volume), ["a", "b"]);
    assert_eq!(read_store(&lab.store()).len(), 2);
}

#[test]
fn names_are_the_volumes() {
    let lab = lab("");
    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    write(&volume.join("a"), b"a");
    for folder in ["", ".full", ".incremental"] {
        assert_eq!(
            errno(File::create_new(volume.join(folder).join("a"))),
            libc::EEXIST
        );
    }
    // Moving within the volume is renaming, whatever it is.
    fs::rename(volume.join("a"), volume.join(".incremental/b")).unwrap();
    fs::rename(volume.join(".incremental/b"), volume.join(".full/c")).unwrap();
    fs::rename(volume.join(".full/c"), volume.join("d")).unwrap();
    assert_eq!(names(&volume), ["d"]);
    assert_eq!(parent(&volume.join("d")), None);
    write(&volume.join(".full/e"), b"e");
    assert_eq!(
        errno(fs::rename(volume.join(".full/e"), volume.join("d"))),
        libc::EEXIST
    );
    let other = mount.volume("other");
    assert_eq!(
        errno(fs::rename(volume.join("d"), other.join(".full/d"))),
        libc::EXDEV
    );
    assert_eq!(
        errno(fs::rename(volume.join(".full/d"), other.join("d"))),
        libc::EXDEV
    );
    fs::remove_file(volume.join(".full/e")).unwrap();
    // By mv, too, which copies where it must: to what the folder says.
    run(&mut command(
        "mv",
        &[volume.join("d"), volume.join(".full/x")],
    ));
    run(&mut command(
        "mv",
        &[volume.join("x"), other.join(".full/x")],
    ));
    assert_eq!(
        (names(&volume), names(&other)),
        (vec![], vec!["x".to_owned()])
    );
}

/// The kernel does not know that two names are one.
#[test]
fn a_name_in_a_drop_folder_follows_that_in_the_volume() {
    let lab = lab("");
    let (first, second) = images(&lab, 3);
    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    cp(&first, &volume.join("base"));
    for folder in [".full", ".incremental"] {
        let (name, other) = (volume.join("x"), volume.join(folder).join("x"));
        for source in [&first, &second] {
            cp(source, &other);
            for path in [&name, &other] {
                run(&mut command("cmp", &[source, path]));
                assert_eq!(
                    path.metadata().unwrap().len(),
                    source.metadata().unwrap().len()
                );
            }
            fs::rename(&name, volume.join("y")).unwrap();
            assert_eq!(errno(other.metadata()), libc::ENOENT);
            cp(source, &other);
            fs::remove_file(&name).unwrap();
            assert_eq!(errno(other.metadata()), libc::ENOENT);
            fs::remove_file(volume.join("y")).unwrap();
        }
    }
}

#[test]
fn without_a_parent_there_is_no_increment() {
    let lab = lab("");
    let (first, second) = images(&lab, 4);
    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    let refused = |why: &str| {
        let target = volume.join(".incremental/x");
        assert_eq!(errno(File::create_new(&target)), libc::EINVAL);
        let (_, said) = fail(&mut command("cp", &[&first, &target]));
        assert!(said.contains("Invalid argument"), "{said}");
        assert!(
            lab.log().contains(why) && refusals(&mount).contains(why),
            "{}",
            lab.log()
        );
        assert_eq!(errno(volume.join("x").metadata()), libc::ENOENT);
    };
    refused("no backup that it could be built on");
    // That of another volume is none.
    cp(&first, &mount.volume("other").join("a"));
    refused("no backup that it could be built on");
    // One that is being written.
    let holder = Holder::new(&volume.join("held"), 100);
    refused("no backup that it could be built on");
    run(&mut command("sync", &[volume.join("held")]));
    refused("is still being written");
    refused("wait until it is finished");
    holder.close();
    cp(&second, &volume.join(".incremental/x"));
    assert_eq!(parent(&volume.join("x")), Some(id(&volume.join("held"))));
    assert_eq!(mount.unmount(), 0);
    // Another size of blocks.
    lab.configure("backup_file_size = 262144\nbackup_sha_block_size_bytes = 8192\n");
    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    let target = volume.join(".incremental/y");
    assert_eq!(errno(File::create_new(&target)), libc::EINVAL);
    assert!(refusals(&mount).contains("backup_sha_block_size_bytes is 8192"));
    // Without any list of hashes.
    assert_eq!(mount.unmount(), 0);
    lab.configure(crate::SMALL);
    run(&mut shell(
        r#"find "$1" -name '*_sha256file' -delete"#,
        &[&lab.store()],
    ));
    let mount = lab.mount();
    let target = mount.volume(VOLUME).join(".incremental/y");
    assert_eq!(errno(File::create_new(&target)), libc::EINVAL);
    assert!(refusals(&mount).contains("no list of hashes"));
    run(&mut command(
        "cmp",
        &[&second, &mount.volume(VOLUME).join("x")],
    ));
}

#[test]
fn a_smaller_image_fails_when_it_is_closed() {
    let lab = lab("");
    let (first, second) = images(&lab, 5);
    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    cp(&second, &volume.join("base"));
    let target = volume.join(".incremental/x");
    for script in [
        r#"cp "$1" "$2""#,
        r#"dd if="$1" of="$2" bs=64k status=none"#,
        r#"dd if="$1" of="$2" bs=64k conv=fsync status=none"#,
        r#"rsync --inplace "$1" "$2""#,
    ] {
        let (_, said) = fail(&mut shell(script, &[&first, &target]));
        assert!(said.contains("Invalid argument"), "{said}");
        let gone = || errno(volume.join("x").metadata()) == libc::ENOENT;
        crate::common::mount::wait_for("it goes", gone);
        assert_eq!(names(&volume), ["base"]);
    }
    assert!(
        lab.log().contains("that of its parent 1270001"),
        "{}",
        lab.log()
    );
    let left = || read_store_is_whole(&lab) == 1;
    crate::common::mount::wait_for("its objects go", left);
    // It may grow before it is closed; whoever asks too early is told so.
    let file = File::create_new(&target).unwrap();
    file.write_all_at(b"begin", 0).unwrap();
    assert_eq!(errno(file.sync_all()), libc::EINVAL);
    file.set_len(1_270_000).unwrap();
    assert_eq!(errno(file.sync_all()), libc::EINVAL);
    file.set_len(1_270_001).unwrap();
    file.sync_all().unwrap();
    drop(file);
    let mut image = vec![0; 1_270_001];
    image[..5].copy_from_slice(b"begin");
    stored(&lab, "x").check_on(EXPECTED, &second, &lab.source("x", &image));
}

/// How many backups there are; 0 as long as anything else lies in the store.
fn read_store_is_whole(lab: &crate::common::mount::Lab) -> usize {
    let files = crate::common::mount::files_in(&lab.store());
    let whole = std::panic::catch_unwind(|| read_store(&lab.store()));
    let Ok(all) = whole else { return 0 };
    let expected: usize = all.iter().map(|one| one.objects.len() + 2).sum();
    if files == expected { all.len() } else { 0 }
}

#[test]
fn what_is_seen_of_an_increment_that_is_open() {
    let lab = lab("");
    let (first, _) = images(&lab, 6);
    let data = fs::read(&first).unwrap();
    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    cp(&first, &volume.join("base"));
    let path = volume.join(".incremental/x");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    file.write_all_at(&data, 0).unwrap();
    assert_eq!(path.metadata().unwrap().len(), data.len() as u64);
    assert_eq!(
        volume.join("x").metadata().unwrap().len(),
        data.len() as u64
    );
    file.sync_all().unwrap();
    assert_eq!(names(&volume), ["base", "x"]);
    assert_eq!(parent(&volume.join("x")), Some(id(&volume.join("base"))));
    // What was stored, most of it not here but in the parent, is read back and changed.
    let mut image = data.clone();
    for at in [0, 262_143, 700_000] {
        file.write_all_at(b"changed", at).unwrap();
        image[at as usize..at as usize + 7].copy_from_slice(b"changed");
    }
    let mut read = vec![0; data.len()];
    file.read_exact_at(&mut read, 0).unwrap();
    assert!(read == image);
    assert_eq!(
        set_xattr(&volume.join("x"), "user.cinder.description", b"words"),
        0
    );
    drop(file);
    let source = lab.source("expected", &image);
    stored(&lab, "x").check_on(EXPECTED, &first, &source);
    assert_eq!(stored(&lab, "x").description.as_deref(), Some("words"));
    run(&mut command("cmp", &[&source, &volume.join("x")]));
}

/// The kernel is not told that a name is gone.
#[test]
fn what_went_when_it_was_closed_has_no_name_any_more() {
    let lab = lab("");
    let mount = lab.mount();
    let (volume, other) = (mount.volume(VOLUME), mount.volume("other"));
    write(&volume.join("base"), &[b'x'; 10_000]);
    let holder = Holder::new(&volume.join(".incremental/x"), 10);
    assert_eq!(volume.join("x").metadata().unwrap().len(), 10);
    holder.close();
    let gone = || errno(volume.join("x").metadata()) == libc::ENOENT;
    crate::common::mount::wait_for("it goes", gone);
    let moved = fs::rename(volume.join("x"), other.join("x"));
    assert_eq!(errno(moved), libc::ENOENT);
    write(&volume.join("x"), b"another");
    run(&mut command(
        "cmp",
        &[volume.join("x"), lab.source("another", b"another")],
    ));
}
