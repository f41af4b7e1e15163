//! `cinderfs backup`: what it takes, what it refuses, and what it leaves behind when it
//! does not finish.

mod common;

use common::device::{LoopDevice, Mounted};
use common::library::Dice;
use common::mount::{
    Backend, CINDERFS, Lab, MIB, SMALL_OBJECTS, command, detach, fail, is_root_for, kill, names,
    output, run, wait_for,
};
use common::store_check::{Expected, SMALL_ZLIB, check_only, read_store};
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
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

fn back_up(lab: &Lab, source: &Path, more: &[&str]) -> Command {
    let mut arguments = vec!["backup"];
    arguments.extend(more);
    let volume = format!("{}/v", lab.backend());
    arguments.extend([source.to_str().unwrap(), &volume]);
    ask(lab, &arguments)
}

/// A backup that must be refused with all of `words`, and leave nothing.
fn check_refused(lab: &Lab, command: &mut Command, code: i32, words: &[&str]) {
    let (found, said) = fail(command);
    for word in words {
        assert!(said.contains(word), "no {word:?} in: {said}");
    }
    assert_eq!(found, code, "{said}");
    assert!(said.starts_with("cinderfs: cannot "), "{said}");
    check_nothing_left(lab);
}

fn check_nothing_left(lab: &Lab) {
    let script = r#"find "$1" "$2" -type f"#;
    let paths = [lab.store(), lab.path("spool")];
    assert_eq!(run(&mut common::mount::shell(script, &paths)), "");
    assert_eq!(run(&mut ask(lab, &["ls", "posix"])), "");
}

/// The only backup of the store, checked against its source.
fn check(lab: &Lab, source: &Path, expected: Expected<'_>) {
    let stored = check_only(&lab.store(), expected, source);
    assert_eq!(stored.volume, "v");
    assert_eq!(names(&lab.path("spool")), [""; 0]);
}

/// A program that runs by itself, and not below another one.
fn spawn(lab: &Lab, source: &Path) -> Child {
    let mut command = Command::new(CINDERFS);
    command.arg("backup").arg("--config").arg(lab.config());
    command
        .arg(source)
        .arg("posix/v")
        .env("HOME", lab.path("home"));
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// So many chunks that storing them takes a while.
fn long_source(lab: &Lab, length: u64) -> PathBuf {
    let source = lab.path("source.img");
    File::create(&source).unwrap().set_len(length).unwrap();
    source
}

fn has_objects(lab: &Lab) -> bool {
    let script = r#"find "$1" -type f -name 'volume_*' | head -1"#;
    !run(&mut common::mount::shell(script, &[lab.store()])).is_empty()
}

#[test]
fn a_file_of_any_length() {
    check_lengths(Backend::Posix);
}

#[test]
fn a_file_of_any_length_into_a_swift() {
    check_lengths(Backend::Swift);
}

fn check_lengths(backend: Backend) {
    for length in [0, 1, MIB - 1, MIB, MIB + 1, 5 * MIB + 12_345] {
        let Some(lab) = Lab::on(backend, SMALL_OBJECTS) else {
            return;
        };
        let folder = format!("{}/v", lab.backend());
        let source = lab.source("disk.img", &Dice(7).image(length));
        let said = run(&mut back_up(&lab, &source, &[]));
        check(&lab, &source, SMALL_ZLIB);
        let id = read_store(&lab.store())[0].id.clone();
        assert_eq!(said, format!("{folder}/disk.img {id}\n"));
        assert_eq!(run(&mut ask(&lab, &["ls", &folder])), "disk.img\n");
        let mount = lab.mount();
        let shown = mount.path(&folder).join("disk.img");
        run(&mut command("cmp", &[&source, &shown]));
    }
}

#[test]
fn what_it_prints_and_what_is_said_of_the_backup() {
    let lab = Lab::new();
    let source = lab.source("disk.img", &Dice(8).image(MIB));
    let more = [
        "--json",
        "--name",
        "monday",
        "--description",
        "before Ж",
        "--full",
    ];
    let told = run(&mut back_up(&lab, &source, &more));
    assert_eq!(
        told,
        run(&mut ask(&lab, &["show", "--json", "posix/v/monday"]))
    );
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["description"], "before Ж");
    assert_eq!(told["volume_id"], "v");
    check(&lab, &source, SMALL_ZLIB);
    // A name that is taken is not shown twice.
    let (code, said) = fail(&mut back_up(&lab, &source, &["--name", "monday"]));
    assert_eq!(code, 1);
    assert!(
        said.contains("posix/v/monday") && said.contains("--name"),
        "{said}"
    );
    assert_eq!(read_store(&lab.store()).len(), 1);
    run(&mut back_up(&lab, &source, &[]));
    assert_eq!(
        run(&mut ask(&lab, &["ls", "posix/v"])),
        "disk.img\nmonday\n"
    );
}

#[test]
fn mistakes() {
    let lab = Lab::new();
    let source = lab.source("disk.img", b"data");
    let text = source.to_str().unwrap();
    for (target, code, word) in [
        ("posix", USAGE, "BACKEND/VOLUME"),
        ("posix/v/name", USAGE, "--name"),
        ("posix/%zz", USAGE, "no volume"),
        ("other/v", 1, "there are: posix"),
    ] {
        check_refused(
            &lab,
            &mut ask(&lab, &["backup", text, target]),
            code,
            &[word],
        );
    }
    for name in ["", "a/b", "..", ".full"] {
        let words = ["call the backup"];
        check_refused(
            &lab,
            &mut back_up(&lab, &source, &["--name", name]),
            USAGE,
            &words,
        );
    }
    let words = ["lots"];
    check_refused(
        &lab,
        &mut back_up(&lab, &source, &["--memory", "lots"]),
        USAGE,
        &words,
    );
    let both = ["--full", "--incremental"];
    assert_eq!(fail(&mut back_up(&lab, &source, &both)).0, USAGE);
}

#[test]
fn sources_that_hold_no_image() {
    let lab = Lab::new();
    let missing = lab.path("missing");
    check_refused(
        &lab,
        &mut back_up(&lab, &missing, &[]),
        1,
        &["missing", "No such file"],
    );
    let advice = "give a file or a block device";
    let refuse = |path: &Path, what| {
        check_refused(&lab, &mut back_up(&lab, path, &[]), USAGE, &[what, advice]);
    };
    refuse(&lab.path("home"), "a directory");
    refuse(Path::new("/dev/zero"), "a character device");
    let pipe = lab.path("pipe");
    run(&mut command("mkfifo", &[&pipe]));
    refuse(&pipe, "a pipe");
    let socket = lab.path("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    refuse(&socket, "a socket");
}

/// What takes no memory and no time is not read.
#[test]
fn holes_of_a_source_of_a_tebibyte_are_not_read() {
    let lab = Lab::with(
        "backup_file_size = 536870912\nbackup_sha_block_size_bytes = 16777216\n\
         backup_compression_algorithm = zstd\n",
    );
    let source = lab.path("disk.img");
    let file = File::create(&source).unwrap();
    let size = (1u64 << 40) + 777;
    file.set_len(size).unwrap();
    let data = Dice(9).noise(300_000);
    let places = [0, (5 << 30) - 100_000, 700 << 30, size - 300_000];
    for at in places {
        file.write_all_at(&data, at).unwrap();
    }
    let told = run(&mut back_up(&lab, &source, &["--json"]));
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["size"], size);
    // Of the blocks that are hashed, five or six hold something.
    assert!(
        told["data_bytes"].as_u64().unwrap() <= 6 * (16 << 20),
        "{told}"
    );
    assert_eq!(told["object_count"], size.div_ceil(512 << 20));
    let copy = lab.path("copy.img");
    let arguments = [
        "restore",
        "--sparse",
        "posix/v/disk.img",
        copy.to_str().unwrap(),
    ];
    run(&mut ask(&lab, &arguments));
    let copy = File::open(&copy).unwrap();
    assert_eq!(copy.metadata().unwrap().len(), size);
    let mut at = 0;
    for place in places {
        let found = common::mount::seek(&copy, at, false).unwrap();
        assert_eq!(found, place / 4096 * 4096);
        let mut read = vec![0; data.len()];
        copy.read_exact_at(&mut read, place).unwrap();
        assert!(read == data);
        at = (place + 300_000).next_multiple_of(4096);
    }
}

/// Chunks that do not fit into memory go by way of the spool, and come out the same.
#[test]
fn objects_larger_than_the_memory() {
    for memory in ["16MiB", "31MiB", "40MiB", "100MiB"] {
        let lab = Lab::with(&format!("backup_file_size = 16777216\nmemory = {memory}\n"));
        let mut data = Dice(10).image(50 * MIB + 1234);
        data[9 * MIB..33 * MIB].fill(0);
        let source = lab.source("disk.img", &data);
        run(&mut back_up(&lab, &source, &[]));
        let expected = Expected {
            object_size: 16 << 20,
            compression: "zlib",
        };
        check(&lab, &source, expected);
    }
}

#[test]
fn an_image_of_qemus_own_format_is_warned_of() {
    let lab = Lab::new();
    let source = lab.path("disk.qcow2");
    let make = [
        "create",
        "-q",
        "-f",
        "qcow2",
        source.to_str().unwrap(),
        "4M",
    ];
    run(&mut command("qemu-img", &make));
    let done = output(&mut back_up(&lab, &source, &[]));
    assert!(done.status.success());
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(
        said.contains("qcow2") && said.contains("byte for byte"),
        "{said}"
    );
    check(&lab, &source, SMALL_ZLIB);
}

#[test]
fn a_block_device() {
    if !is_root_for("a loop device") {
        return;
    }
    let lab = Lab::new();
    let disk = lab.source("disk", &Dice(11).image(9 * MIB));
    let device = LoopDevice::over(&disk, &[]);
    let mut described = back_up(&lab, device.path(), &["--name", "disk"]);
    assert_eq!(output(&mut described).stderr, b"");
    check(&lab, &disk, SMALL_ZLIB);
}

#[test]
fn a_device_in_use_is_refused_without_force() {
    if !is_root_for("a loop device") {
        return;
    }
    let lab = Lab::new();
    let disk = lab.path("disk");
    File::create(&disk).unwrap().set_len(16 << 20).unwrap();
    run(&mut command("mkfs.ext4", &["-q", disk.to_str().unwrap()]));
    let device = LoopDevice::over(&disk, &[]);
    {
        let folder = lab.path("a folder");
        let mounted = Mounted::with("ro,noload", device.path(), &folder);
        let at = format!("it is mounted on {}", mounted.path().display());
        let words = [device.text(), &at, "snapshot", "--force"];
        check_refused(&lab, &mut back_up(&lab, device.path(), &[]), 1, &words);
        // The file below it is as much in use.
        let on = format!("it is in use by {}, which is mounted on", device.text());
        let words = [disk.to_str().unwrap(), &on, "--force"];
        check_refused(&lab, &mut back_up(&lab, &disk, &[]), 1, &words);
        for source in [device.path(), &disk] {
            let done = output(&mut back_up(&lab, source, &["--force", "--name", "it"]));
            let said = String::from_utf8(done.stderr).unwrap();
            assert!(done.status.success(), "{said}");
            assert!(said.contains("it may change while it is read"), "{said}");
            check(&lab, &disk, SMALL_ZLIB);
            run(&mut ask(&lab, &["rm", "posix/v/it"]));
        }
    }
    // No file system, but somebody else's.
    let mut exclusive = OpenOptions::new();
    exclusive.read(true).custom_flags(libc::O_EXCL);
    let mut holder = None;
    wait_for("the file system lets go", || {
        holder = exclusive.open(device.path()).ok();
        holder.is_some()
    });
    let words = [device.text(), "opened it exclusively", "--force"];
    check_refused(&lab, &mut back_up(&lab, device.path(), &[]), 1, &words);
    run(&mut back_up(&lab, device.path(), &["--force"]));
}

#[test]
fn a_file_below_a_loop_device_that_cannot_be_written_to_is_not_in_use() {
    if !is_root_for("a loop device") {
        return;
    }
    let lab = Lab::new();
    let disk = lab.source("disk", &Dice(12).image(2 * MIB));
    let writable = LoopDevice::over(&disk, &[]);
    let words = ["it is in use by", writable.text(), "--force"];
    check_refused(&lab, &mut back_up(&lab, &disk, &[]), 1, &words);
    drop(writable);
    let _read_only = LoopDevice::over(&disk, &["-r"]);
    run(&mut back_up(&lab, &disk, &[]));
    check(&lab, &disk, SMALL_ZLIB);
}

#[test]
fn a_source_whose_size_changes_is_no_backup() {
    for by in [-5_000_000i64, 1] {
        let lab = Lab::new();
        let source = long_source(&lab, 3 << 30);
        let child = spawn(&lab, &source);
        wait_for("objects", || has_objects(&lab));
        let file = OpenOptions::new().write(true).open(&source).unwrap();
        file.set_len((3u64 << 30).checked_add_signed(by).unwrap())
            .unwrap();
        let done = child.wait_with_output().unwrap();
        let said = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(1), "{said}");
        assert!(said.contains("its size changed"), "{said}");
        check_nothing_left(&lab);
    }
}

#[test]
fn one_that_is_interrupted_leaves_nothing() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let lab = Lab::new();
        // Much more than is stored by then.
        let source = long_source(&lab, 1 << 40);
        let child = spawn(&lab, &source);
        wait_for("objects", || has_objects(&lab));
        kill(child.id(), signal);
        let done = child.wait_with_output().unwrap();
        let said = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(1), "{said}");
        assert!(said.contains("interrupted"), "{said}");
        assert_eq!(done.stdout, b"");
        check_nothing_left(&lab);
    }
}

#[test]
fn one_that_is_killed_is_not_listed() {
    let lab = Lab::new();
    let source = long_source(&lab, 1 << 40);
    let mut child = spawn(&lab, &source);
    wait_for("objects", || has_objects(&lab));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(run(&mut ask(&lab, &["ls", "posix"])), "");
    let metadata = r#"find "$1" -name '*_metadata'"#;
    assert_eq!(run(&mut common::mount::shell(metadata, &[lab.store()])), "");
    // What it left is in nobody's way.
    let source = lab.source("disk.img", &Dice(16).image(MIB));
    run(&mut back_up(&lab, &source, &[]));
    assert_eq!(run(&mut ask(&lab, &["ls", "posix/v"])), "disk.img\n");
}

/// Takes away what is mounted on the store.
struct SmallStore<'a>(&'a Lab);

impl Drop for SmallStore<'_> {
    fn drop(&mut self) {
        detach(&self.0.store());
    }
}

#[test]
fn a_store_without_room() {
    if !is_root_for("a small file system") {
        return;
    }
    let lab = Lab::new();
    let store = lab.store().display().to_string();
    let tmpfs = ["-t", "tmpfs", "-o", "size=6m", "none", &store];
    run(&mut command("mount", &tmpfs));
    let _small = SmallStore(&lab);
    let source = lab.source("disk.img", &Dice(13).noise(12 * MIB));
    check_refused(
        &lab,
        &mut back_up(&lab, &source, &[]),
        1,
        &["No space left"],
    );
    // What has room is stored.
    let source = lab.source("disk.img", &Dice(13).noise(2 * MIB));
    run(&mut back_up(&lab, &source, &[]));
}

/// What a terminal shows: of the program's words, only what is on standard error.
fn on_a_terminal(lab: &Lab, source: &Path, more: &str) -> String {
    let line = format!(
        "{CINDERFS} backup --config {} {more} {} posix/v",
        lab.config().display(),
        source.display()
    );
    run(&mut command("script", &["-qec", &line, "/dev/null"]))
}

#[test]
fn progress_is_shown_on_a_terminal_only() {
    let lab = Lab::new();
    let source = lab.source("disk.img", &Dice(14).image(40 * MIB));
    assert!(on_a_terminal(&lab, &source, "--name a").contains("backing up ["));
    for option in ["--quiet --name b", "--json --name c"] {
        assert!(!on_a_terminal(&lab, &source, option).contains("backing up"));
    }
    let done = output(&mut back_up(&lab, &source, &[]));
    assert!(done.status.success());
    assert_eq!(done.stderr, b"");
}

#[test]
fn what_has_changed_since_the_newest_backup() {
    let lab = Lab::new();
    let mut image = Dice(15).image(5 * MIB + 77);
    let source = lab.source("disk.img", &image);
    let more = ["--incremental", "--json", "--name"];
    let made = |name: &str| -> Value {
        let told = run(&mut back_up(&lab, &source, &[&more[..], &[name]].concat()));
        serde_json::from_str(&told).unwrap()
    };
    // There is nothing to build on yet.
    let refused = &mut back_up(&lab, &source, &["--incremental"]);
    check_refused(&lab, refused, 1, &["v"]);
    run(&mut back_up(&lab, &source, &[]));
    let full = run(&mut ask(&lab, &["show", "--json", "posix/v/disk.img"]));
    let full: Value = serde_json::from_str(&full).unwrap();
    let unchanged = made("unchanged");
    assert_eq!(unchanged["parent_id"], full["backup_id"]);
    assert_eq!(unchanged["object_count"], 0);
    // A hole where data was, and data elsewhere.
    image[MIB..2 * MIB].fill(0);
    image[3 * MIB + 5] ^= 1;
    lab.source("disk.img", &image);
    let file = OpenOptions::new().write(true).open(&source).unwrap();
    let punch = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, punch, MIB as u64, MIB as u64).unwrap();
    let changed = made("changed");
    assert_eq!(changed["parent_id"], unchanged["backup_id"]);
    assert_eq!(changed["depth"], 2);
    let copy = lab.path("copy.img");
    let arguments = ["restore", "posix/v/changed", copy.to_str().unwrap()];
    run(&mut ask(&lab, &arguments));
    run(&mut command("cmp", &[&source, &copy]));
    let (code, said) = fail(&mut ask(&lab, &["rm", "posix/v/disk.img"]));
    assert_eq!(code, 1);
    assert!(
        said.contains(unchanged["backup_id"].as_str().unwrap()),
        "{said}"
    );
    let all = [
        "rm",
        "posix/v/disk.img",
        "posix/v/changed",
        "posix/v/unchanged",
    ];
    run(&mut ask(&lab, &all));
    check_nothing_left(&lab);
}
