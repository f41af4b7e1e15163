//! A disk that fills up in mid-write: the program that writes hears ENOSPC, nothing of the
//! backup is listed, no other is touched, and what is left over goes away.

use crate::alone;
use crate::common::library::Dice;
use crate::common::mount::{
    Lab, MIB, Mount, close, command, errno, fail, files_in, is_root_for, names, run, shell,
    wait_for, write,
};
use crate::common::store_check::{Stored, read_store};
use serde_json::json;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

const DISK: usize = 24 * MIB;
const EARLIER: usize = 4 * MIB;

/// Mounts a small disk.
fn small_disk(at: &Path, size: usize) {
    let options = format!("size={size}");
    let words = [
        "-t",
        "tmpfs",
        "-o",
        options.as_str(),
        "tmpfs",
        at.to_str().unwrap(),
    ];
    run(&mut command("mount", &words));
}

/// Takes all room on a disk but for `rest` bytes.
fn fill(disk: &Path, rest: u64) {
    let stat = rustix::fs::statvfs(disk).unwrap();
    let free = stat.f_bavail * stat.f_frsize;
    fs::write(disk.join("filler"), vec![1; (free - rest) as usize]).unwrap();
}

fn empty(disk: &Path) {
    fs::remove_file(disk.join("filler")).unwrap();
}

fn ask(lab: &Lab, arguments: &[&str]) -> Command {
    let config = lab.config();
    let mut all = vec![arguments[0], "--json", "--config", config.to_str().unwrap()];
    all.extend(&arguments[1..]);
    lab.cinderfs(&all)
}

fn told(lab: &Lab, arguments: &[&str]) -> serde_json::Value {
    serde_json::from_str(&run(&mut ask(lab, arguments))).unwrap()
}

/// The store after gc: nothing is wrong, nothing is left over, and Cinder restores it all.
fn check_clean(lab: &Lab, backups: usize) {
    told(lab, &["gc", "--older-than", "0", "--delete"]);
    let verified = told(lab, &["verify"]);
    assert_eq!(
        verified["summary"],
        json!({"checked": backups, "damaged": 0, "failed": 0})
    );
    assert_eq!(
        told(lab, &["gc", "--older-than", "0"])["garbage"],
        json!([])
    );
    let stored = read_store(&lab.store());
    assert_eq!(stored.len(), backups);
    let files = |backup: &Stored| backup.objects.len() + 2;
    assert_eq!(
        files_in(&lab.store()),
        stored.iter().map(files).sum::<usize>()
    );
}

/// What failed is cleared away without any gc, though a moment after the program was told:
/// only the backup whose image has [`EARLIER`] bytes is there.
fn wait_until_cleared(lab: &Lab, object: usize) {
    let objects = EARLIER.div_ceil(object);
    wait_for("what failed is cleared away", || {
        let found = r#"find "$1" -type f ! -name '.cinderfs-lock-*' | wc -l"#;
        let found = run(&mut shell(found, &[lab.store()]));
        found.trim() == (objects + 2).to_string()
    });
}

/// A mount over a small disk, with a backup on it.
struct Place<'a> {
    mount: Mount<'a>,
    lab: &'a Lab,
    earlier: Vec<u8>,
}

impl<'a> Place<'a> {
    fn new(lab: &'a Lab) -> Self {
        small_disk(&lab.store(), DISK);
        let mount = lab.mount();
        let earlier = Dice(1).noise(EARLIER);
        write(&mount.volume("v").join("earlier"), &earlier);
        Self {
            mount,
            lab,
            earlier,
        }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.mount.volume("v").join(name)
    }

    /// Only the earlier backup is there, as it was, and a smaller one finds room.
    fn check(self) {
        wait_until_cleared(self.lab, MIB);
        let listed = |mount: &Mount<'_>, expected: &[&str]| {
            assert_eq!(names(&mount.volume("v")), expected);
            let found = fs::read(mount.volume("v").join("earlier")).unwrap();
            assert!(found == self.earlier);
        };
        listed(&self.mount, &["earlier"]);
        assert_eq!(self.mount.unmount(), 0);
        check_clean(self.lab, 1);
        let mount = self.lab.mount();
        let smaller = Dice(7).noise(2 * MIB + 5);
        write(&mount.volume("v").join("smaller"), &smaller);
        assert_eq!(mount.unmount(), 0);
        let mount = self.lab.mount();
        listed(&mount, &["earlier", "smaller"]);
        assert!(fs::read(mount.volume("v").join("smaller")).unwrap() == smaller);
        assert_eq!(mount.unmount(), 0);
        check_clean(self.lab, 2);
    }
}

#[test]
fn a_store_that_fills_up_is_told_at_write() {
    if !is_root_for("a small disk of its own") {
        return;
    }
    let _alone = alone();
    for folder in [".full", ".incremental"] {
        for program in ["dd", "cp"] {
            let lab = Lab::new();
            let place = Place::new(&lab);
            let target = place.path(folder).join("new");
            let source = lab.source("source", &Dice(5).noise(DISK));
            let (from, to) = (source.to_str().unwrap(), target.to_str().unwrap());
            let (_, said) = fail(&mut match program {
                "dd" => command(
                    "dd",
                    &[format!("if={from}"), format!("of={to}"), "bs=1M".into()],
                ),
                _ => command("cp", &[from, to]),
            });
            assert!(said.contains("No space left on device"), "{said}");
            place.check();
        }
    }
}

#[test]
fn a_store_that_is_full_is_told_at_fsync_and_at_close() {
    if !is_root_for("a small disk of its own") {
        return;
    }
    let _alone = alone();
    for folder in [".full", ".incremental"] {
        for sync in [true, false] {
            let lab = Lab::new();
            let place = Place::new(&lab);
            fill(&lab.store(), 64 << 10);
            let mut image = place.earlier.clone();
            let change = Dice(3).noise(MIB / 2);
            image[..change.len()].copy_from_slice(&change);
            let file = File::create_new(place.path(folder).join("new")).unwrap();
            // As much as is not stored before it is asked for; the incremental one has only
            // that to store.
            let written = if folder == ".full" { &change } else { &image };
            let mut refused = errno(file.write_all_at(written, 0));
            if sync && refused == 0 {
                refused = errno(file.sync_all());
                assert_eq!(refused, libc::ENOSPC);
            }
            // Nothing of it is forgiven later.
            assert_eq!(
                errno(close(file)),
                libc::ENOSPC,
                "{folder}, {sync}, {refused}"
            );
            assert_eq!(names(&place.mount.volume("v")), ["earlier"]);
            empty(&lab.store());
            place.check();
        }
    }
}

/// What was published is what remains when nothing more can be.
#[test]
fn a_store_that_fills_up_after_an_fsync_keeps_what_that_made_durable() {
    if !is_root_for("a small disk of its own") {
        return;
    }
    let _alone = alone();
    let lab = Lab::new();
    let Place { mount, earlier, .. } = Place::new(&lab);
    let path = mount.volume("v").join("new");
    let before = Dice(9).noise(3 * MIB);
    let file = File::create_new(&path).unwrap();
    file.write_all_at(&before, 0).unwrap();
    file.sync_all().unwrap();
    fill(&lab.store(), 1 << 20);
    let after = Dice(11).noise(3 * MIB);
    let _ = file.write_all_at(&after, 0);
    assert_eq!(errno(file.sync_all()), libc::ENOSPC);
    assert_eq!(errno(close(file)), libc::ENOSPC);
    // The kernel tells of the last close a moment later; until then the same program sees
    // what it has written.
    wait_for("it is as it was published", || fs::read(&path).is_ok());
    let check = |mount: &Mount<'_>| {
        assert_eq!(names(&mount.volume("v")), ["earlier", "new"]);
        assert!(fs::read(mount.volume("v").join("new")).unwrap() == before);
        assert!(fs::read(mount.volume("v").join("earlier")).unwrap() == earlier);
    };
    check(&mount);
    // Names are in the metadata, and that finds no room, either.
    fill_up(&lab.store());
    let renamed = fs::rename(&path, path.with_file_name("other"));
    assert_eq!(errno(renamed), libc::ENOSPC);
    check(&mount);
    // But room can be made.
    fs::remove_file(&path).unwrap();
    assert_eq!(mount.unmount(), 0);
    let mount = lab.mount();
    assert_eq!(names(&mount.volume("v")), ["earlier"]);
    assert_eq!(mount.unmount(), 0);
    for filler in ["filler", "rest"] {
        fs::remove_file(lab.store().join(filler)).unwrap();
    }
    check_clean(&lab, 1);
}

/// Takes the very last byte.
fn fill_up(disk: &Path) {
    let file = File::create(disk.join("rest")).unwrap();
    let mut at = 0;
    while file.write_all_at(&[1; 4096], at).is_ok() {
        at += 4096;
    }
}

#[test]
fn a_spool_that_fills_up_is_told() {
    if !is_root_for("a small disk of its own") {
        return;
    }
    let _alone = alone();
    // No object fits into the memory, so all goes by way of the spool.
    let lab = Lab::with("backup_file_size = 33554432\nmemory = 16MiB\n");
    let mount = lab.mount();
    let earlier = Dice(1).noise(EARLIER);
    write(&mount.volume("v").join("earlier"), &earlier);
    small_disk(&lab.path("spool"), 8 * MIB);
    for folder in [".full", ".incremental"] {
        let source = lab.source("source", &Dice(5).noise(40 * MIB));
        let target = mount.volume("v").join(folder).join("new");
        let (_, said) = fail(&mut command(
            "dd",
            &[
                format!("if={}", source.display()),
                format!("of={}", target.display()),
                "bs=1M".into(),
            ],
        ));
        assert!(said.contains("No space left on device"), "{said}");
        assert_eq!(names(&mount.volume("v")), ["earlier"]);
        wait_until_cleared(&lab, 32 * MIB);
    }
    assert!(lab.log().contains("set spool_path to a folder with room"));
    let smaller = Dice(7).noise(MIB);
    write(&mount.volume("v").join("smaller"), &smaller);
    assert_eq!(mount.unmount(), 0);
    let mount = lab.mount();
    assert!(fs::read(mount.volume("v").join("smaller")).unwrap() == smaller);
    assert!(fs::read(mount.volume("v").join("earlier")).unwrap() == earlier);
    assert_eq!(mount.unmount(), 0);
    check_clean(&lab, 2);
}
