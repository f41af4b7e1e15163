//! How much a backend may hold.

use crate::common::mount::{Holder, command, errno, fail, names, run, shell, wait_for, write};
use crate::common::store_check::count;
use crate::{VOLUME, cp, images, lab, refusals};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

const GIB: u64 = 1 << 30;

/// Total and free of df(1): of bytes, or of files.
fn df(what: &str, path: &Path) -> (u64, u64) {
    let columns = match what {
        "bytes" => "--output=size,avail",
        _ => "--output=itotal,iavail",
    };
    let text = run(&mut command(
        "df",
        &["-B1".as_ref(), columns.as_ref(), path.as_os_str()],
    ));
    let mut numbers = text.lines().nth(1).unwrap().split_whitespace();
    let mut next = || numbers.next().unwrap().parse().unwrap();
    (next(), next())
}

#[test]
fn the_number_of_backups() {
    let lab = lab("quota_backups = 3\n");
    let (first, second) = images(&lab, 1);
    let mut mount = lab.mount();
    let volume = mount.volume(VOLUME);
    assert_eq!(df("files", &volume), (3, 3));
    cp(&first, &volume.join("a"));
    cp(&second, &volume.join(".incremental/b"));
    assert_eq!(df("files", &volume), (3, 1));
    // One that is being written counts, and one that was not even published does not stay.
    let holder = Holder::new(&mount.volume("other").join("c"), 10);
    assert_eq!(df("files", &volume), (3, 0));
    for folder in ["", ".full", ".incremental"] {
        let path = volume.join(folder).join("d");
        assert_eq!(errno(File::create_new(&path)), libc::EDQUOT);
    }
    let (_, said) = fail(&mut command("cp", &[&first, &volume.join("d")]));
    assert!(said.contains("Disk quota exceeded"), "{said}");
    assert!(refusals(&mount).contains("there are 3 backups, and the quota is 3"));
    assert!(lab.log().contains("raise quota_backups"), "{}", lab.log());
    fs::remove_file(mount.volume("other").join("c")).unwrap();
    holder.close();
    wait_for("its place is free", || df("files", &volume) == (3, 1));
    cp(&second, &volume.join("d"));
    for _ in 0..2 {
        let volume = mount.volume(VOLUME);
        assert_eq!(df("files", &volume), (3, 0));
        assert_eq!(errno(File::create_new(volume.join("e"))), libc::EDQUOT);
        assert_eq!(mount.unmount(), 0);
        mount = lab.mount();
    }
    let volume = mount.volume(VOLUME);
    fs::remove_file(volume.join("d")).unwrap();
    assert_eq!(df("files", &volume), (3, 1));
    write(&volume.join("e"), b"e");
    assert_eq!(errno(File::create_new(volume.join("f"))), libc::EDQUOT);
    run(&mut shell(r#"rm -r "$1""#, &[&volume]));
    assert_eq!(df("files", mount.root()), (3, 3));
    assert_eq!(count(&lab.store()), 0);
}

#[test]
fn nothing_at_all() {
    for quota in ["quota_backups = 0\n", "quota_backup_gigabytes = 0\n"] {
        let lab = lab(quota);
        let mount = lab.mount();
        let volume = mount.volume(VOLUME);
        assert_eq!(errno(File::create_new(volume.join("a"))), libc::EDQUOT);
        assert_eq!(names(&volume), [""; 0]);
    }
}

#[test]
fn the_sizes_of_images() {
    let lab = lab("quota_backup_gigabytes = 3\n");
    let (first, _) = images(&lab, 2);
    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    let free = |gib: u64| {
        let (total, free) = df("bytes", &volume);
        assert_eq!(total, 3 * GIB);
        // Or what the disk has, if that is less.
        assert!(free <= gib * GIB, "{free} of {gib} GiB are free");
    };
    free(3);
    // A megabyte counts as a whole one, an increment like any other.
    cp(&first, &volume.join("a"));
    cp(&first, &volume.join(".incremental/b"));
    free(1);
    // Known when the size is set, and when it is written.
    // In programs of their own, whose descriptors no other test closes.
    let gone = |name: &str| errno(volume.join(name).metadata()) == libc::ENOENT;
    let script = r#"
import errno, os, sys
file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_EXCL)
def refused(call, *arguments):
    try:
        call(*arguments)
    except OSError as e:
        assert e.errno == errno.EDQUOT, e
    else:
        assert False, "it was not refused"
if sys.argv[2] == "set":
    os.ftruncate(file, 1 << 30)
    refused(os.ftruncate, file, (1 << 30) + 1)
else:
    os.pwrite(file, b"one", 0)
    refused(os.pwrite, file, b"two", 1 << 30)
refused(os.fsync, file)
refused(os.close, file)
"#;
    for (name, how) in [("c", "set"), ("e", "write")] {
        let path = volume.join(name);
        let arguments = [
            "-c".as_ref(),
            script.as_ref(),
            path.as_os_str(),
            how.as_ref(),
        ];
        run(&mut command("python3", &arguments));
        wait_for("it goes", || gone(name));
        wait_for("its place is free", || df("bytes", &volume).1 > 0);
    }
    let (_, said) = fail(&mut shell(r#"truncate -s 2G "$1/f""#, &[&volume]));
    assert!(said.contains("Disk quota exceeded"), "{said}");
    let (_, said) = fail(&mut shell(
        r#"dd if=/dev/zero of="$1/g" bs=1 count=1 seek=1G status=none"#,
        &[&volume],
    ));
    assert!(said.contains("Disk quota exceeded"), "{said}");
    wait_for("both go", || gone("f") && gone("g"));
    wait_for("their place is free", || df("bytes", &volume).1 > 0);
    assert_eq!(names(&volume), ["a", "b"]);
    assert_eq!(count(&lab.store()), 2);
    // Full to the last, and free again.
    run(&mut shell(r#"truncate -s 1G "$1/.full/h""#, &[&volume]));
    free(0);
    assert_eq!(errno(File::create_new(volume.join("i"))), libc::EDQUOT);
    assert!(refusals(&mount).contains("3 GiB are used"));
    fs::remove_file(volume.join("h")).unwrap();
    free(1);
    cp(&first, &volume.join("i"));
}

/// What is deleted while a file is written makes room for it.
#[test]
fn room_that_becomes_free_meanwhile() {
    let lab = lab("quota_backup_gigabytes = 2\n");
    let (first, _) = images(&lab, 3);
    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    cp(&first, &volume.join("a"));
    let file = File::create_new(volume.join("b")).unwrap();
    file.write_all_at(b"one", 0).unwrap();
    fs::remove_file(volume.join("a")).unwrap();
    file.write_all_at(b"two", 2 * GIB - 3).unwrap();
    drop(file);
    assert_eq!(volume.join("b").metadata().unwrap().len(), 2 * GIB);
    let quota = errno(File::create_new(volume.join("c")));
    assert_eq!(quota, libc::EDQUOT);
}

#[test]
fn each_backend_has_its_own() {
    let lab = lab("quota_backups = 1\n");
    let second = lab.path("second");
    fs::create_dir(&second).unwrap();
    lab.configure(&format!(
        "quota_backups = 1\n[more]\nbackup_driver = posix\nbackup_posix_path = {}\n\
         quota_backups = 2\n",
        second.display()
    ));
    let mount = lab.mount();
    write(&mount.volume(VOLUME).join("a"), b"a");
    let more = mount.path("more").join("v");
    fs::create_dir(&more).unwrap();
    write(&more.join("a"), b"a");
    write(&more.join("b"), b"b");
    assert_eq!(errno(File::create_new(more.join("c"))), libc::EDQUOT);
    assert_eq!(
        errno(File::create_new(mount.volume(VOLUME).join("b"))),
        libc::EDQUOT
    );
    assert_eq!(
        (df("files", &more), df("files", &mount.path("posix"))),
        ((2, 0), (1, 0))
    );
}
