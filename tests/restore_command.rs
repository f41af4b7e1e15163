//! `cinderfs restore`: onto what it writes, what it refuses before it writes anything,
//! and what is there when it did not finish.

mod common;

use common::device::{LoopDevice, Mounted};
use common::golden::{Tree, sha256};
use common::library::Dice;
use common::mount::{
    Backend, CINDERFS, Lab, MIB, command, detach, fail, is_root_for, kill, names, output, run,
    shell, wait_for,
};
use serde_json::Value;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const USAGE: i32 = 2;

/// The program with `arguments`, the first of which is the command.
fn ask(lab: &Lab, arguments: &[&str]) -> Command {
    let mut all = vec![arguments[0].to_owned(), "--config".into()];
    all.push(lab.config().display().to_string());
    all.extend(arguments[1..].iter().map(|&word| word.to_owned()));
    lab.cinderfs(&all)
}

/// Restores the backup `disk.img` of the volume `v`.
fn restore(lab: &Lab, dest: &Path, more: &[&str]) -> Command {
    let mut arguments = vec!["restore"];
    arguments.extend(more);
    let source = format!("{}/v/disk.img", lab.backend());
    arguments.extend([source.as_str(), dest.to_str().unwrap()]);
    ask(lab, &arguments)
}

/// A laboratory with a backup of `image`.
fn lab_with(options: &str, image: &[u8]) -> Lab {
    lab_on(Backend::Posix, options, image).unwrap()
}

/// The same on any backend. None when `--quick` leaves it out.
fn lab_on(backend: Backend, options: &str, image: &[u8]) -> Option<Lab> {
    let lab = Lab::on(backend, options)?;
    let source = lab.source("disk.img", image);
    let volume = format!("{}/v", lab.backend());
    run(&mut ask(
        &lab,
        &["backup", source.to_str().unwrap(), &volume],
    ));
    Some(lab)
}

/// Data, long zeros, and zeros within data; it ends within a sector.
fn image() -> Vec<u8> {
    let mut image = Dice(21).image(9 * MIB + 123);
    image[2 * MIB..5 * MIB].fill(0);
    image[6 * MIB + 100..6 * MIB + 9000].fill(0);
    image
}

const SMALL: &str = "backup_file_size = 1048576\n";

/// A restore that must be refused with all of `words`.
fn check_refused(command: &mut Command, code: i32, words: &[&str]) {
    let (found, said) = fail(command);
    for word in words {
        assert!(said.contains(word), "no {word:?} in: {said}");
    }
    assert_eq!(found, code, "{said}");
    assert!(said.starts_with("cinderfs: cannot restore to "), "{said}");
    assert!(!said.contains("incomplete"), "{said}");
}

fn stored_bytes(path: &Path) -> u64 {
    path.metadata().unwrap().blocks() * 512
}

#[test]
fn what_cinder_wrote_to_a_new_file() {
    let lab = Lab::over(&Tree::Posix.path());
    for backup in Tree::Posix.backups() {
        let rows = run(&mut ask(
            &lab,
            &["ls", "--json", &format!("posix/{}", backup.volume)],
        ));
        let rows: Vec<Value> = serde_json::from_str(&rows).unwrap();
        let row = rows
            .iter()
            .find(|row| row["backup_id"] == *backup.id)
            .unwrap();
        let source = format!("posix/{}/{}", backup.volume, row["file"].as_str().unwrap());
        for sparse in [false, true] {
            let dest = lab.path(&format!("{sparse}-{}", backup.id));
            let mut arguments = vec!["restore", "--json"];
            arguments.extend(sparse.then_some("--sparse"));
            arguments.extend([source.as_str(), dest.to_str().unwrap()]);
            let told: Value = serde_json::from_str(&run(&mut ask(&lab, &arguments))).unwrap();
            assert_eq!(told["backup_id"], *backup.id);
            assert_eq!(told["size"], backup.size);
            assert_eq!(
                sha256(&fs::read(&dest).unwrap()),
                backup.sha256,
                "{}",
                backup.id
            );
            if !sparse {
                assert!(stored_bytes(&dest) >= backup.size);
            }
        }
    }
}

#[test]
fn space_is_taken_for_all_or_only_for_data() {
    check_space(Backend::Posix);
}

#[test]
fn space_is_taken_for_all_or_only_for_data_of_a_swift() {
    check_space(Backend::Swift);
}

fn check_space(backend: Backend) {
    let image = image();
    let Some(lab) = lab_on(backend, SMALL, &image) else {
        return;
    };
    for (more, least, most) in [
        (&[][..], image.len(), image.len() + MIB),
        // Three mebibytes of zeros, and what lies in the image here and there.
        (&["--sparse"], MIB, image.len() - 3 * MIB),
    ] {
        let new = lab.path("new");
        // What was there before is gone, whether it was longer or shorter.
        for old in [None, Some(20 * MIB), Some(MIB), Some(0)] {
            let _ = fs::remove_file(&new);
            if let Some(old) = old {
                fs::write(&new, vec![0xff; old]).unwrap();
            }
            assert_eq!(output(&mut restore(&lab, &new, more)).stderr, b"");
            assert!(fs::read(&new).unwrap() == image, "{more:?} over {old:?}");
            let stored = stored_bytes(&new);
            assert!(
                (least as u64..=most as u64).contains(&stored),
                "{stored} {more:?} {old:?}"
            );
        }
    }
}

#[test]
fn images_of_any_length() {
    for length in [0, 1, 511, 4096, MIB - 1, MIB + 1] {
        let image = Dice(22).image(length);
        let lab = lab_with(SMALL, &image);
        for more in [&[][..], &["--sparse"]] {
            let dest = lab.path("dest");
            for old in [None, Some(2 * MIB)] {
                let _ = fs::remove_file(&dest);
                if let Some(old) = old {
                    fs::write(&dest, vec![0xff; old]).unwrap();
                }
                run(&mut restore(&lab, &dest, more));
                assert!(fs::read(&dest).unwrap() == image);
            }
        }
    }
}

#[test]
fn devices_that_hold_old_data() {
    if !is_root_for("a loop device") {
        return;
    }
    let image = image();
    let lab = lab_with(SMALL, &image);
    let size = image.len();
    for more in [&[][..], &["--sparse"]] {
        let disk = lab.path("disk");
        let device = LoopDevice::filled(&disk, 12 * MIB, 0xff);
        let done = output(&mut restore(&lab, device.path(), more));
        assert!(done.status.success());
        let said = String::from_utf8(done.stderr).unwrap();
        let note = format!("from byte {size} to {}, stays as it is", 12 * MIB);
        assert!(
            said.contains(device.text()) && said.contains(&note),
            "{said}"
        );
        let mut found = Vec::new();
        File::open(device.path())
            .unwrap()
            .read_to_end(&mut found)
            .unwrap();
        assert!(found[..size] == image, "{more:?}");
        assert!(found[size..].iter().all(|byte| *byte == 0xff), "{more:?}");
        drop(device);
        // It is durable: in the file as well.
        assert!(fs::read(&disk).unwrap() == found);
        assert_eq!(stored_bytes(&disk) < 10 * MIB as u64, !more.is_empty());
    }
    // One that is just as long has nothing to be said of.
    let image = &image[..8 * MIB];
    let lab = lab_with(SMALL, image);
    let device = LoopDevice::filled(&lab.path("disk"), image.len(), 0xff);
    assert_eq!(output(&mut restore(&lab, device.path(), &[])).stderr, b"");
    assert!(fs::read(device.path()).unwrap() == image);
}

#[test]
fn devices_that_must_not_be_written_to() {
    if !is_root_for("a loop device") {
        return;
    }
    let lab = lab_with(SMALL, &image());
    let disk = lab.path("disk");
    let unchanged = |before: &[u8]| assert!(fs::read(&disk).unwrap() == before);
    {
        let device = LoopDevice::filled(&disk, 9 * MIB, 0xff);
        let words = [device.text(), "9437184", "9437307"];
        check_refused(&mut restore(&lab, device.path(), &[]), 1, &words);
        unchanged(&[0xff; 9 * MIB]);
    }
    fs::write(&disk, vec![0xee; 12 * MIB]).unwrap();
    {
        let device = LoopDevice::over(&disk, &["-r"]);
        let words = [device.text(), "read-only"];
        check_refused(&mut restore(&lab, device.path(), &[]), 1, &words);
        unchanged(&[0xee; 12 * MIB]);
    }
    {
        let device = LoopDevice::over(&disk, &[]);
        let mut exclusive = OpenOptions::new();
        exclusive.read(true).custom_flags(libc::O_EXCL);
        let holder = exclusive.open(device.path()).unwrap();
        let words = [device.text(), "opened it exclusively"];
        check_refused(&mut restore(&lab, device.path(), &[]), 1, &words);
        drop(holder);
        // The file below a loop device is as much in use.
        let words = [
            disk.to_str().unwrap(),
            "in use by",
            device.text(),
            "losetup -d",
        ];
        check_refused(&mut restore(&lab, &disk, &[]), 1, &words);
        unchanged(&[0xee; 12 * MIB]);
    }
    run(&mut command(
        "mkfs.ext4",
        &["-q", "-F", disk.to_str().unwrap()],
    ));
    let device = LoopDevice::over(&disk, &[]);
    let mounted = Mounted::with("ro,noload", device.path(), &lab.path("a folder"));
    let before = fs::read(&disk).unwrap();
    let at = format!("it is mounted on {}", mounted.path().display());
    check_refused(
        &mut restore(&lab, device.path(), &[]),
        1,
        &[&at, "unmount it"],
    );
    unchanged(&before);
}

#[test]
fn what_is_no_file_and_what_is_not_there() {
    let lab = lab_with(SMALL, b"data");
    let advice = "give a file or a block device";
    check_refused(
        &mut restore(&lab, &lab.path("home"), &[]),
        USAGE,
        &["a directory", advice],
    );
    let null = Path::new("/dev/null");
    check_refused(
        &mut restore(&lab, null, &[]),
        USAGE,
        &["a character device", advice],
    );
    let nowhere = lab.path("no/where");
    check_refused(
        &mut restore(&lab, &nowhere, &[]),
        1,
        &["no/where", "No such file"],
    );
    // Objects are not for images, new or old.
    let object = run(&mut shell(r#"find "$1" -name '*-00001'"#, &[lab.store()]));
    let object = Path::new(object.trim());
    let before = fs::read(object).unwrap();
    for dest in [object, &lab.store().join("new")] {
        check_refused(&mut restore(&lab, dest, &[]), 1, &["it lies in the store"]);
    }
    assert_eq!(fs::read(object).unwrap(), before);
    assert!(!lab.store().join("new").exists());
    for (source, code) in [("posix/v", USAGE), ("posix/v/no", 1), ("posix/w/no", 1)] {
        let dest = lab.path("dest");
        let arguments = ["restore", source, dest.to_str().unwrap()];
        assert_eq!(fail(&mut ask(&lab, &arguments)).0, code);
        assert!(!dest.exists());
    }
}

/// A small file system that is taken away with the test.
struct Small(PathBuf);

impl Small {
    fn new(lab: &Lab) -> Self {
        let folder = lab.path("small");
        fs::create_dir(&folder).unwrap();
        let at = folder.display().to_string();
        let tmpfs = ["-t", "tmpfs", "-o", "size=8m", "none", at.as_str()];
        run(&mut command("mount", &tmpfs));
        Self(folder)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        detach(&self.0);
    }
}

#[test]
fn file_systems_without_room() {
    if !is_root_for("a small file system") {
        return;
    }
    let mut image = Dice(23).noise(12 * MIB);
    let lab = lab_with(SMALL, &image);
    let small = Small::new(&lab);
    let (new, old) = (small.0.join("new"), small.0.join("old"));
    fs::write(&old, vec![0xff; MIB]).unwrap();
    for more in [&[][..], &["--sparse"]] {
        for dest in [&new, &old] {
            check_refused(&mut restore(&lab, dest, more), 1, &["room"]);
        }
        assert_eq!(names(&small.0), ["old"]);
        assert!(fs::read(&old).unwrap() == vec![0xff; MIB]);
        assert_eq!(stored_bytes(&old), MIB as u64);
    }
    // With holes there is room.
    image[4 * MIB..].fill(0);
    let lab = lab_with(SMALL, &image);
    check_refused(&mut restore(&lab, &new, &[]), 1, &["room"]);
    for dest in [&new, &old] {
        run(&mut restore(&lab, dest, &["--sparse"]));
        assert!(fs::read(dest).unwrap() == image);
        fs::remove_file(dest).unwrap();
    }
    let at = small.0.to_str().unwrap();
    run(&mut command("mount", &["-o", "remount,ro", at]));
    check_refused(
        &mut restore(&lab, &new, &["--sparse"]),
        1,
        &["Read-only file system"],
    );
}

#[test]
fn a_damaged_backup_says_what_is_wrong_and_that_the_copy_is_not_whole() {
    let image = Dice(24).noise(6 * MIB);
    let lab = lab_with(SMALL, &image);
    let found = run(&mut shell(r#"find "$1" -name '*-00004'"#, &[lab.store()]));
    let object = PathBuf::from(found.trim());
    let name = object.file_name().unwrap().to_str().unwrap();
    let whole = fs::read(&object).unwrap();
    let mut damaged = whole.clone();
    damaged[700_000] ^= 1;
    fs::write(&object, damaged).unwrap();
    let dest = lab.path("dest");
    let (code, said) = fail(&mut restore(&lab, &dest, &[]));
    assert_eq!(code, 1);
    let place = format!("at byte {}", (3 * MIB + 700_000) / 32_768 * 32_768);
    for word in [name, &place, "dest is incomplete", "posix/v/disk.img"] {
        assert!(said.contains(word), "no {word:?} in: {said}");
    }
    assert!(dest.exists());
    fs::write(&object, whole).unwrap();
    run(&mut restore(&lab, &dest, &[]));
    assert!(fs::read(&dest).unwrap() == image);
    // One that cannot be opened at all touches nothing.
    let found = run(&mut shell(
        r#"find "$1" -name '*_metadata'"#,
        &[lab.store()],
    ));
    fs::write(found.trim(), "no JSON").unwrap();
    let listed = run(&mut ask(&lab, &["ls", "posix/v"]));
    let source = format!("posix/v/{}", listed.trim());
    let (code, said) = fail(&mut ask(
        &lab,
        &["restore", &source, dest.to_str().unwrap()],
    ));
    assert_eq!(code, 1);
    assert!(
        said.contains("metadata") && !said.contains("incomplete"),
        "{said}"
    );
    assert!(fs::read(&dest).unwrap() == image);
}

fn spawn(lab: &Lab, dest: &Path, more: &[&str]) -> Child {
    let mut command = Command::new(CINDERFS);
    command
        .arg("restore")
        .args(more)
        .arg("--config")
        .arg(lab.config());
    command
        .arg("posix/v/disk.img")
        .arg(dest)
        .env("HOME", lab.path("home"));
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Restores are broken off while they write, by whatever means, and done again.
#[test]
fn one_that_was_broken_off_is_run_again() {
    let image = Dice(25).noise(300 * MIB);
    let lab = lab_with(
        "backup_file_size = 4194304\nbackup_compression_algorithm = none\n",
        &image,
    );
    let dest = lab.path("dest");
    for signal in [libc::SIGKILL, libc::SIGINT, libc::SIGTERM] {
        let _ = fs::remove_file(&dest);
        let child = spawn(&lab, &dest, &["--sparse"]);
        let has_begun = || dest.metadata().is_ok_and(|stat| stat.blocks() > 0);
        wait_for("it writes", has_begun);
        kill(child.id(), signal);
        let done = child.wait_with_output().unwrap();
        let said = String::from_utf8(done.stderr).unwrap();
        assert!(!done.status.success(), "signal {signal}: {said}");
        if signal != libc::SIGKILL {
            assert_eq!(done.status.code(), Some(1));
            assert!(
                said.contains("interrupted") && said.contains("is incomplete"),
                "{said}"
            );
        }
        run(&mut restore(&lab, &dest, &[]));
        let written = File::open(&dest).unwrap();
        let mut found = vec![0; image.len()];
        written.read_exact_at(&mut found, 0).unwrap();
        assert_eq!(written.metadata().unwrap().len(), image.len() as u64);
        assert!(found == image, "after signal {signal}");
    }
}

#[test]
fn progress_is_shown_on_a_terminal_only() {
    let lab = lab_with(SMALL, &Dice(26).image(20 * MIB));
    let on_a_terminal = |more: &str| {
        let line = format!(
            "{CINDERFS} restore --config {} {more} posix/v/disk.img {}",
            lab.config().display(),
            lab.path("dest").display()
        );
        run(&mut command("script", &["-qec", &line, "/dev/null"]))
    };
    assert!(on_a_terminal("").contains("restoring ["));
    assert!(!on_a_terminal("--quiet").contains("restoring"));
    assert!(!on_a_terminal("--json").contains("restoring"));
    assert_eq!(
        output(&mut restore(&lab, &lab.path("dest"), &[])).stderr,
        b""
    );
}
