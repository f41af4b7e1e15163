//! What may be deleted, and in what order.

use crate::common::library::Dice;
use crate::common::mount::{
    Holder, Lab, command, errno, fail, files_in, names, on_every_backend, run, shell, wait_for,
    write,
};
use crate::common::store_check::count;
use crate::{SMALL, VOLUME, attribute, cp, depth, id, images, lab, parent, refusals};
use std::fs;
use std::path::Path;

on_every_backend! { SMALL;
    leaves_go_first
    rm_of_a_volume_takes_it_all_in_one_go
    a_fork_is_deleted_from_its_ends
    a_parent_stays_while_its_child_is_open
}

fn leaves_go_first(lab: &Lab) {
    let (first, second) = images(lab, 1);
    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    cp(&first, &volume.join("a"));
    cp(&first, &volume.join(".incremental/b"));
    cp(&second, &volume.join(".incremental/c"));
    for (name, child) in [("a", "b"), ("b", "c")] {
        for path in [volume.join(name), volume.join(".full").join(name)] {
            assert_eq!(errno(fs::remove_file(path)), libc::EBUSY);
        }
        let child = id(&volume.join(child));
        assert!(lab.log().contains(&child) && refusals(&mount).contains(&child));
    }
    assert_eq!(names(&volume), ["a", "b", "c"]);
    for name in ["c", "b", "a"] {
        fs::remove_file(volume.join(".incremental").join(name)).unwrap();
    }
    assert_eq!(files_in(&lab.store()), 0);
}

/// Chains and trees of all shapes.
fn rm_of_a_volume_takes_it_all_in_one_go(lab: &Lab) {
    lab.configure(&format!("{SMALL}incremental = auto\n"));
    let mut mount = lab.mount();
    let seeds = if lab.is_on_swift() { 2..=2 } else { 1..=4 };
    for seed in seeds {
        let mut dice = Dice(seed);
        let volume = mount.volume(VOLUME);
        let source = lab.source("s", &dice.text(100_000));
        for number in 0..30 {
            // Names in any order: listings are sorted by them.
            let name = format!("{:06}-{number}", dice.below(1_000_000));
            let path = match dice.below(6) {
                0 => volume.join(".full").join(name),
                1 => {
                    // A child that is no leaf's: its own parent is held back by a second.
                    write(
                        &volume.join(".full").join(format!("{name}.base")),
                        &dice.text(5000),
                    );
                    volume.join(".incremental").join(name)
                }
                _ => volume.join(name),
            };
            cp(&source, &path);
        }
        assert!(
            names(&volume)
                .iter()
                .any(|name| depth(&volume.join(name)) > 1)
        );
        if seed.is_multiple_of(2) {
            assert_eq!(mount.unmount(), 0);
            mount = lab.mount();
        }
        let volume = mount.volume(VOLUME);
        run(&mut shell(r#"rm -r "$1""#, &[&volume]));
        assert_eq!(names(&mount.path(lab.backend())), [""; 0]);
        assert_eq!(files_in(&lab.store()), 0);
    }
}

fn a_fork_is_deleted_from_its_ends(lab: &Lab) {
    let (first, second) = images(lab, 2);
    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    cp(&first, &volume.join("base"));
    let one = Holder::new(&volume.join(".incremental/one"), 0);
    let two = Holder::new(&volume.join(".incremental/two"), 0);
    drop((one, two));
    // Both were empty, and so smaller than their parent.
    wait_for("they go", || {
        errno(volume.join("two").metadata()) == libc::ENOENT
    });
    let script = r#"exec 3>"$2/.incremental/one" 4>"$2/.incremental/two"
                    cat "$1" >&3; cat "$1" >&4"#;
    run(&mut shell(script, &[&second, &volume]));
    wait_for("both are closed", || names(&volume).len() == 3);
    let base = id(&volume.join("base"));
    for name in ["one", "two"] {
        assert_eq!(parent(&volume.join(name)), Some(base.clone()));
        run(&mut command("cmp", &[&second, &volume.join(name)]));
    }
    assert_eq!(errno(fs::remove_file(volume.join("base"))), libc::EBUSY);
    fs::remove_file(volume.join("one")).unwrap();
    assert_eq!(errno(fs::remove_file(volume.join("base"))), libc::EBUSY);
    run(&mut command("cmp", &[&second, &volume.join("two")]));
    fs::remove_file(volume.join("two")).unwrap();
    fs::remove_file(volume.join("base")).unwrap();
    assert_eq!(files_in(&lab.store()), 0);
}

fn a_parent_stays_while_its_child_is_open(lab: &Lab) {
    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    write(&volume.join("base"), b"base");
    let holder = Holder::new(&volume.join(".incremental/x"), 10_000);
    let (_, said) = fail(&mut command(
        "rm",
        &["-f".as_ref(), volume.join("base").as_path()],
    ));
    assert!(said.contains("Device or resource busy"), "{said}");
    assert!(refusals(&mount).contains("which is being written"));
    // Deleted while it is open, it needs its parent still.
    fs::remove_file(volume.join("x")).unwrap();
    assert_eq!(errno(fs::remove_file(volume.join("base"))), libc::EBUSY);
    holder.close();
    wait_for("the parent is free", || {
        fs::remove_file(volume.join("base")).is_ok()
    });
    wait_for("nothing is left", || files_in(&lab.store()) == 0);
}

/// Another mount of the same store knows who writes what; Cinder does not.
#[test]
fn a_parent_that_goes_meanwhile() {
    let lab = lab("list_ttl = 0\n");
    let (first, second) = images(&lab, 3);
    let (mount, other) = (lab.mount(), lab.mount_with("other", ""));
    let volume = mount.volume(VOLUME);
    cp(&first, &volume.join("base"));
    run(&mut command("cmp", &[&first, &volume.join("base")]));
    // In a program of its own, whose descriptors no other test closes.
    let script = r#"
import errno, os, shutil, sys
source, target, there, container = sys.argv[1:]
file = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
os.write(file, open(source, "rb").read())
try:
    os.remove(there)
except OSError as e:
    assert e.errno == errno.EBUSY, e
else:
    assert False, "the other mount has deleted it"
shutil.rmtree(container)
for call in os.fsync, os.close:
    try:
        call(file)
    except OSError as e:
        assert e.errno == errno.EIO, e
    else:
        assert False, call
"#;
    let base = attribute(&volume.join("base"), "container").unwrap();
    let (target, there) = (
        volume.join(".incremental/x"),
        other.volume(VOLUME).join("base"),
    );
    let container = lab.store().join(base);
    let arguments = [
        Path::new("-c"),
        Path::new(script),
        &second,
        &target,
        &there,
        &container,
    ];
    run(&mut command("python3", &arguments));
    wait_for("nothing is left", || files_in(&lab.store()) == 0);
    assert!(lab.log().contains("deleted while it was written"));
    wait_for("it goes", || {
        errno(volume.join("x").metadata()) == libc::ENOENT
    });
}

/// One that another mount is still writing is no parent, and one that it has finished is.
#[test]
fn two_mounts_of_one_store() {
    let lab = lab("list_ttl = 0\n");
    let (first, second) = images(&lab, 4);
    let (mount, other) = (lab.mount(), lab.mount_with("other", ""));
    let volume = mount.volume(VOLUME);
    cp(&first, &volume.join("base"));
    run(&mut command("cmp", &[&first, &volume.join("base")]));
    let holder = Holder::new(&volume.join("held"), 100_000);
    run(&mut command("sync", &[volume.join("held")]));
    let there = other.path("posix").join(VOLUME);
    assert_eq!(names(&there), ["base", "held"]);
    cp(&second, &there.join(".incremental/x"));
    assert_eq!(parent(&there.join("x")), Some(id(&volume.join("base"))));
    holder.close();
    run(&mut command("cat", &[volume.join("held")]));
    // Of these two the one that was begun last is the newest.
    cp(&second, &there.join(".incremental/y"));
    assert_eq!(parent(&there.join("y")), Some(id(&there.join("x"))));
    run(&mut command("cmp", &[&second, &volume.join("y")]));
    assert_eq!(errno(fs::remove_file(volume.join("x"))), libc::EBUSY);
    for name in ["y", "x", "base", "held"] {
        fs::remove_file(there.join(name)).unwrap();
    }
    assert_eq!(count(&lab.store()), 0);
}

#[test]
fn what_may_only_grow_keeps_all() {
    let lab = lab("append_only = true\nincremental = auto\n");
    let (first, second) = images(&lab, 5);
    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    cp(&first, &volume.join("a"));
    cp(&second, &volume.join("b"));
    for name in ["a", "b", ".full/a", ".incremental/b"] {
        assert_eq!(errno(fs::remove_file(volume.join(name))), libc::EPERM);
    }
    fail(&mut shell(r#"rm -rf "$1""#, &[&volume]));
    assert!(refusals(&mount).contains("append_only"));
    assert_eq!(names(&volume), ["a", "b"]);
    run(&mut command("cmp", &[&second, &volume.join("b")]));
    // While it is open it is listed already.
    let holder = Holder::new(&volume.join("c"), 10);
    run(&mut command("sync", &[volume.join("c")]));
    assert_eq!(errno(fs::remove_file(volume.join("c"))), libc::EPERM);
    holder.close();
    assert_eq!(names(&volume), ["a", "b", "c"]);
}
