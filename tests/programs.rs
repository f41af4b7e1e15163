//! Every program that people back up and restore with, on a real mount. Each must make
//! exactly one backup, which reads back equal, has the right name and time, and is what
//! Cinder would have written.

mod common;

use common::golden::sha256;
use common::library::Dice;
use common::mount::{
    Lab, MIB, Mount, command, fail, is_root_for, names, output, run, shell, wait_for,
};
use common::store_check::{Expected, SMALL_ZLIB, Stored, check_only, read_store};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

const VOLUME: &str = "74dd5d66-dcfa-5747-ab91-724c9e4956b0";
const NAME: &str = "disk.img";
/// Long ago, and not at a full second.
const LONG_AGO: &str = "2019-03-04 05:06:07.123456789 UTC";
const LONG_AGO_SECONDS: i64 = 1_551_675_967;
const LONG_AGO_NANOS: i64 = 123_456_789;

/// Where a backup's time comes from.
#[derive(Clone, Copy)]
enum Time {
    /// When it was written.
    Now,
    /// The source's.
    Kept,
    /// The source's, but for what is below a second.
    KeptSeconds,
}

/// An image that ends within a block, a chunk and a page.
fn image(lab: &Lab, seed: u64) -> PathBuf {
    image_of(lab, &Dice(seed).image(3 * MIB + 123_457))
}

fn image_of(lab: &Lab, data: &[u8]) -> PathBuf {
    let source = lab.source("source.img", data);
    run(&mut command(
        "touch",
        &[Path::new("-d"), Path::new(LONG_AGO), &source],
    ));
    source
}

/// A source with long holes, as disks of virtual machines have them.
fn sparse_image(lab: &Lab, seed: u64) -> PathBuf {
    let source = lab.path("source.img");
    let file = File::create(&source).unwrap();
    let mut dice = Dice(seed);
    file.set_len(9 * MIB as u64 + 777).unwrap();
    for at in [0, 2 * MIB + 4096, 6 * MIB - 8192] {
        file.write_all_at(&dice.image(200_000), at as u64).unwrap();
    }
    drop(file);
    run(&mut command(
        "touch",
        &[Path::new("-d"), Path::new(LONG_AGO), &source],
    ));
    source
}

/// Writes `source` with a script (`$1` is the source, `$2` the target) and checks all
/// that must hold then, at once, and again in another mount.
fn check_script(lab: &Lab, source: &Path, script: &str, time: Time) -> Stored {
    check_script_as(lab, source, script, time, SMALL_ZLIB)
}

fn check_script_as(
    lab: &Lab,
    source: &Path,
    script: &str,
    time: Time,
    expected: Expected<'_>,
) -> Stored {
    let start = SystemTime::now();
    let mount = lab.mount();
    let target = mount.volume(VOLUME).join(NAME);
    run(&mut shell(script, &[source, &target]));
    if source.metadata().unwrap().len() == 0 {
        // close(2) of an empty file cannot know that nothing will come; the kernel tells
        // a little later.
        let folder = mount.volume(VOLUME);
        wait_for("the empty backup", || !names(&folder).is_empty());
    }
    let stored = check_backup(lab, &mount, source, expected);
    assert_eq!(mount.unmount(), 0);
    let mount = lab.mount();
    let target = mount.volume(VOLUME).join(NAME);
    check_listed(&mount, source);
    check_time(source, &target, time, start);
    assert_eq!(target.metadata().unwrap().mode() & 0o7777, 0o440);
    stored
}

fn check_backup(lab: &Lab, mount: &Mount<'_>, source: &Path, expected: Expected<'_>) -> Stored {
    let stored = check_only(&lab.store(), expected, source);
    assert_eq!(stored.name.as_deref(), Some(NAME));
    assert_eq!(stored.volume, VOLUME);
    check_listed(mount, source);
    stored
}

fn check_listed(mount: &Mount<'_>, source: &Path) {
    let volume = mount.volume(VOLUME);
    assert_eq!(names(&volume), [NAME]);
    let target = volume.join(NAME);
    assert_eq!(
        target.metadata().unwrap().len(),
        source.metadata().unwrap().len()
    );
    run(&mut command("cmp", &[source, &target]));
}

fn check_time(source: &Path, target: &Path, time: Time, start: SystemTime) {
    let target = target.metadata().unwrap();
    match time {
        Time::Now => {
            // `created_at` has whole seconds.
            let since = start - Duration::from_secs(2);
            let modified = target.modified().unwrap();
            assert!(
                modified >= since && modified <= SystemTime::now(),
                "{modified:?}"
            );
        }
        Time::Kept => {
            assert_eq!(source.metadata().unwrap().mtime(), LONG_AGO_SECONDS);
            assert_eq!(
                (target.mtime(), target.mtime_nsec()),
                (LONG_AGO_SECONDS, LONG_AGO_NANOS)
            );
        }
        Time::KeptSeconds => assert_eq!(target.mtime(), LONG_AGO_SECONDS),
    }
}

#[test]
fn cp() {
    let lab = Lab::new();
    let stored = check_script(&lab, &image(&lab, 1), r#"cp "$1" "$2""#, Time::Now);
    assert!(stored.is_numbered_in_order(), "{:?}", stored.objects);
}

#[test]
fn cp_of_a_sparse_file() {
    let lab = Lab::new();
    check_script(
        &lab,
        &sparse_image(&lab, 2),
        r#"cp --sparse=auto "$1" "$2""#,
        Time::Now,
    );
}

#[test]
fn cp_that_makes_holes() {
    let lab = Lab::new();
    check_script(
        &lab,
        &sparse_image(&lab, 3),
        r#"cp --sparse=always "$1" "$2""#,
        Time::Now,
    );
}

#[test]
fn cp_that_keeps_time_and_mode() {
    let lab = Lab::new();
    check_script(&lab, &image(&lab, 4), r#"cp -p "$1" "$2""#, Time::Kept);
}

#[test]
fn cp_that_keeps_everything() {
    let lab = Lab::new();
    let source = image(&lab, 5);
    run(&mut shell(
        r#"setfattr -n user.note -v text "$1"; chmod 751 "$1""#,
        &[&source],
    ));
    check_script(&lab, &source, r#"cp -a "$1" "$2""#, Time::Kept);
}

#[test]
fn dd_in_small_blocks() {
    let lab = Lab::new();
    check_script(
        &lab,
        &image(&lab, 6),
        r#"dd if="$1" of="$2" bs=4k status=none"#,
        Time::Now,
    );
}

#[test]
fn dd_in_large_blocks_with_fsync() {
    let lab = Lab::new();
    let script = r#"dd if="$1" of="$2" bs=1M conv=fsync status=none"#;
    check_script(&lab, &image(&lab, 7), script, Time::Now);
}

#[test]
fn dd_that_leaves_zeros_out() {
    let lab = Lab::new();
    let script = r#"dd if="$1" of="$2" bs=64k conv=sparse status=none"#;
    check_script(&lab, &sparse_image(&lab, 8), script, Time::Now);
}

#[test]
fn dd_that_writes_around_the_page_cache() {
    let lab = Lab::new();
    let source = image_of(&lab, &Dice(9).image(3 * MIB + 4096));
    let script = r#"dd if="$1" of="$2" bs=64k oflag=direct conv=fsync status=none"#;
    check_script(&lab, &source, script, Time::Now);
}

#[test]
fn cat() {
    let lab = Lab::new();
    check_script(&lab, &image(&lab, 10), r#"cat "$1" > "$2""#, Time::Now);
}

#[test]
fn tar() {
    let lab = Lab::new();
    let source = image(&lab, 11);
    let script = r#"cd "$(dirname "$1")" && cp -p "$1" disk.img && tar -cf a.tar disk.img &&
                    tar -xf a.tar -C "$(dirname "$2")""#;
    check_script(&lab, &source, script, Time::KeptSeconds);
}

#[test]
fn tar_of_a_sparse_file() {
    let lab = Lab::new();
    let source = sparse_image(&lab, 12);
    let script = r#"cd "$(dirname "$1")" && cp -p "$1" disk.img && tar -Scf a.tar disk.img &&
                    tar -xf a.tar -C "$(dirname "$2")""#;
    check_script(&lab, &source, script, Time::KeptSeconds);
}

#[test]
fn rsync() {
    let lab = Lab::new();
    check_script(&lab, &image(&lab, 13), r#"rsync -a "$1" "$2""#, Time::Kept);
}

#[test]
fn rsync_in_place() {
    let lab = Lab::new();
    check_script(
        &lab,
        &image(&lab, 14),
        r#"rsync -a --inplace "$1" "$2""#,
        Time::Kept,
    );
}

#[test]
fn rsync_that_makes_holes() {
    let lab = Lab::new();
    check_script(
        &lab,
        &sparse_image(&lab, 15),
        r#"rsync -aS "$1" "$2""#,
        Time::Kept,
    );
}

#[test]
fn rsync_of_what_is_there_already_does_nothing() {
    let lab = Lab::new();
    let source = image(&lab, 16);
    let twice = r#"rsync -a "$1" "$2" && test -z "$(rsync -ai "$1" "$2" | grep '^>f')""#;
    check_script(&lab, &source, twice, Time::Kept);
}

#[test]
fn qemu_img_convert() {
    let lab = Lab::new();
    let source = sparse_image(&lab, 17);
    // A raw image has whole sectors.
    run(&mut command(
        "truncate",
        &["-s", "%4096", source.to_str().unwrap()],
    ));
    let script = r#"qemu-img convert -f raw -O qcow2 "$1" "$1.qcow2" &&
                    qemu-img convert -O raw "$1.qcow2" "$2""#;
    check_script(&lab, &source, script, Time::Now);
}

#[test]
fn qemu_img_convert_out_of_order_on_several_coroutines() {
    let lab = Lab::new();
    let source = image_of(&lab, &Dice(18).image(5 * MIB));
    let script = r#"qemu-img convert -f raw -O qcow2 "$1" "$1.qcow2" &&
                    qemu-img convert -W -m 8 -O raw "$1.qcow2" "$2""#;
    check_script(&lab, &source, script, Time::Now);
}

#[test]
fn qemu_img_looks_at_a_backup() {
    let lab = Lab::new();
    let source = image_of(&lab, &Dice(19).image(2 * MIB));
    let mount = lab.mount();
    let target = mount.volume(VOLUME).join(NAME);
    run(&mut command("cp", &[&source, &target]));
    let info = run(&mut shell(
        r#"qemu-img info -U --output=json "$1""#,
        &[&target],
    ));
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["format"], "raw");
    assert_eq!(info["virtual-size"], 2 * MIB);
    run(&mut shell(
        r#"qemu-img compare -f raw -F raw "$1" "$2""#,
        &[&source, &target],
    ));
    let out = r#"qemu-img convert -f raw -O qcow2 "$2" "$1.q" && qemu-img compare "$1" "$1.q""#;
    run(&mut shell(out, &[&source, &target]));
}

#[test]
fn a_shell_that_appends_through_one_descriptor() {
    let lab = Lab::new();
    let script = r#"exec 3>"$2"; for i in $(seq 300); do echo "line $i" >&3; done; exec 3>&-"#;
    let source = lab.path("source.img");
    let text: String = (1..=300).map(|i| format!("line {i}\n")).collect();
    fs::write(&source, text).unwrap();
    check_script(&lab, &source, script, Time::Now);
}

#[test]
fn a_shell_that_appends_across_chunks() {
    let lab = Lab::new();
    let source = image(&lab, 20);
    let script = r#"exec 3>"$2"; for i in $(seq 0 40); do
                        dd if="$1" bs=100000 skip=$i count=1 status=none >&3; done"#;
    check_script(&lab, &source, script, Time::Now);
}

#[test]
fn an_empty_file_and_one_of_a_byte() {
    for data in [&b""[..], b"x"] {
        let lab = Lab::new();
        let source = image_of(&lab, data);
        let stored = check_script(&lab, &source, r#"cp "$1" "$2""#, Time::Now);
        assert_eq!(stored.objects.len(), data.len());
    }
}

#[test]
fn touch_makes_an_empty_backup() {
    let lab = Lab::new();
    let source = image_of(&lab, b"");
    check_script(
        &lab,
        &source,
        r#"touch -d '2019-03-04 05:06:07.123456789 UTC' "$2""#,
        Time::Kept,
    );
}

#[test]
fn truncate_makes_zeros() {
    let lab = Lab::new();
    let source = image_of(&lab, &vec![0; 5 * MIB + 5]);
    check_script(&lab, &source, r#"truncate -s 5242885 "$2""#, Time::Now);
}

#[test]
fn fallocate_makes_zeros() {
    let lab = Lab::new();
    let source = image_of(&lab, &vec![0; 2 * MIB + 5]);
    check_script(&lab, &source, r#"fallocate -l 2097157 "$2""#, Time::Now);
}

#[test]
fn every_codec() {
    for (option, noted) in [
        ("zlib", "zlib"),
        ("gzip", "gzip"),
        ("bz2", "bz2"),
        ("bzip2", "bzip2"),
        ("ZSTD", "zstd"),
        ("none", "none"),
        ("off", "none"),
    ] {
        let lab = Lab::with(&format!(
            "backup_file_size = 1048576\nbackup_compression_algorithm = {option}\n"
        ));
        let expected = Expected {
            object_size: MIB as u64,
            compression: noted,
        };
        let mut data = Dice(30).text(MIB);
        data.extend(Dice(31).noise(MIB));
        data.extend(vec![0; MIB / 2]);
        let source = image_of(&lab, &data);
        let stored = check_script_as(&lab, &source, r#"cp "$1" "$2""#, Time::Now, expected);
        let used: Vec<&str> = stored
            .objects
            .iter()
            .map(|o| o.compression.as_str())
            .collect();
        // Noise does not shrink.
        assert_eq!(used, [noted, "none", noted], "{option}");
    }
}

#[test]
fn object_and_block_sizes() {
    for (object, block) in [
        (32_768u64, 32_768),
        (4096, 4096),
        (65_536, 512),
        (3 << 20, 1 << 20),
    ] {
        let lab = Lab::with(&format!(
            "backup_file_size = {object}\nbackup_sha_block_size_bytes = {block}\n"
        ));
        let expected = Expected {
            object_size: object,
            compression: "zlib",
        };
        let source = image_of(&lab, &Dice(object).image(700_001));
        let stored = check_script_as(&lab, &source, r#"cp "$1" "$2""#, Time::Now, expected);
        assert_eq!(stored.sha_block, block);
        assert_eq!(stored.objects.len() as u64, 700_001u64.div_ceil(object));
    }
}

/// Cinder's default object is larger than the memory that the program may use.
#[test]
fn a_sparse_file_of_3_gib_with_objects_of_default_size() {
    const DEFAULT_OBJECT: u64 = 1_999_994_880;
    let lab = Lab::with("memory = 64MiB\n");
    let source = lab.path("source.img");
    let file = File::create(&source).unwrap();
    file.set_len(3 << 30).unwrap();
    let mut dice = Dice(33);
    for at in [0, 1 << 30, DEFAULT_OBJECT - 100_000, (3 << 30) - 300_000] {
        file.write_all_at(&dice.image(300_000), at).unwrap();
    }
    drop(file);
    let mount = lab.mount();
    let target = mount.volume(VOLUME).join(NAME);
    run(&mut command("cp", &[&source, &target]));
    let expected = Expected {
        object_size: DEFAULT_OBJECT,
        compression: "zlib",
    };
    let stored = check_only(&lab.store(), expected, &source);
    assert_eq!(stored.objects.len(), 2);
    let in_store: u64 = stored.objects.iter().map(|object| object.stored).sum();
    assert!(
        in_store < 20 * MIB as u64,
        "{in_store} bytes for a file of holes"
    );
    // It goes out again as it came: with holes.
    let copy = lab.path("copy.img");
    run(&mut command("cp", &[&target, &copy]));
    assert!(copy.metadata().unwrap().blocks() * 512 < 16 * MIB as u64);
    run(&mut shell(
        r#"qemu-img compare -f raw -F raw "$1" "$2""#,
        &[&source, &copy],
    ));
}

#[test]
fn mv_across_volumes_copies() {
    let lab = Lab::new();
    let source = image(&lab, 40);
    let mount = lab.mount();
    let from = mount.volume("11111111-aaaa").join(NAME);
    let to = mount.volume(VOLUME).join(NAME);
    run(&mut command("cp", &[&source, &from]));
    run(&mut command("mv", &[&from, &to]));
    assert!(!from.exists());
    check_backup(&lab, &mount, &source, SMALL_ZLIB);
}

#[test]
fn mv_into_and_out_of_the_mount() {
    let lab = Lab::new();
    let source = image(&lab, 41);
    let (moved, back) = (lab.path("moved.img"), lab.path("back.img"));
    run(&mut command(
        "cp",
        &["-p".as_ref(), source.as_path(), &moved],
    ));
    let mount = lab.mount();
    let target = mount.volume(VOLUME).join(NAME);
    run(&mut command("mv", &[&moved, &target]));
    check_backup(&lab, &mount, &source, SMALL_ZLIB);
    run(&mut command("mv", &[&target, &back]));
    run(&mut command("cmp", &[&source, &back]));
    check_time(&source, &back, Time::Kept, SystemTime::now());
    assert!(read_store(&lab.store()).is_empty());
}

#[test]
fn install_and_a_second_cp_over_it() {
    let lab = Lab::new();
    let source = image(&lab, 42);
    let mount = lab.mount();
    let target = mount.volume(VOLUME).join(NAME);
    run(&mut shell(
        r#"install -m 644 "$1" "$2""#,
        &[&source, &target],
    ));
    check_backup(&lab, &mount, &source, SMALL_ZLIB);
    // A backup is a record: it is not written over.
    let (_, said) = fail(&mut command("cp", &[&source, &target]));
    let refused = ["Operation not permitted", "Permission denied"];
    assert!(refused.iter().any(|words| said.contains(words)), "{said}");
    check_backup(&lab, &mount, &source, SMALL_ZLIB);
    run(&mut shell(
        r#"cp --remove-destination "$1" "$2""#,
        &[&source, &target],
    ));
    check_backup(&lab, &mount, &source, SMALL_ZLIB);
}

#[test]
fn many_files_at_once() {
    let lab = Lab::new();
    let mount = lab.mount();
    let folder = lab.path("sources");
    fs::create_dir(&folder).unwrap();
    for number in 0..8 {
        let data = Dice(50 + number).image(MIB + 1000 * number as usize);
        fs::write(folder.join(format!("{number}.img")), data).unwrap();
    }
    let volume = mount.volume(VOLUME);
    let script = r#"cd "$1" && ls | xargs -P 8 -I@ cp @ "$2"/@"#;
    run(&mut shell(script, &[&folder, &volume]));
    run(&mut command("diff", &[Path::new("-r"), &folder, &volume]));
    for backup in read_store(&lab.store()) {
        backup.check(SMALL_ZLIB, &folder.join(backup.name.as_ref().unwrap()));
    }
    // A whole volume, and a tree of volumes, go out at once, and dots stay behind.
    let out = lab.path("out");
    run(&mut command("cp", &[Path::new("-r"), mount.root(), &out]));
    run(&mut command("diff", &[Path::new("-r"), mount.root(), &out]));
    assert_eq!(names(&out), ["posix"]);
    assert_eq!(names(&out.join("posix")), [VOLUME]);
    let found = run(&mut shell(r#"find "$1" -type f | wc -l"#, &[mount.root()]));
    assert_eq!(found.trim(), "8");
    let synced = lab.path("synced");
    run(&mut shell(
        r#"rsync -a "$1/" "$2""#,
        &[mount.root(), &synced],
    ));
    run(&mut command("diff", &[Path::new("-r"), &out, &synced]));
}

/// Takes a loop mount away, however the test ends.
struct LoopMount(PathBuf);

impl Drop for LoopMount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).output();
    }
}

/// Frees a loop device.
struct LoopDevice(String);

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).output();
    }
}

#[test]
fn a_real_disk_image_goes_in_and_out_and_is_mounted_from_the_mount() {
    if !is_root_for("a loop mount") {
        return;
    }
    let lab = Lab::new();
    let tree = lab.path("tree");
    fs::create_dir_all(tree.join("etc")).unwrap();
    fs::write(tree.join("etc/motd"), "hello\n").unwrap();
    fs::write(tree.join("noise"), Dice(60).noise(2 * MIB)).unwrap();
    let source = lab.path("source.img");
    let make = r#"mkfs.ext4 -q -d "$1" "$2" 24M"#;
    run(&mut shell(make, &[&tree, &source]));
    let mount = lab.mount();
    let target = mount.volume(VOLUME).join(NAME);
    run(&mut command("cp", &[&source, &target]));
    check_backup(&lab, &mount, &source, SMALL_ZLIB);
    let copy = lab.path("copy.img");
    run(&mut command("cp", &[&target, &copy]));
    assert_eq!(
        sha256(&fs::read(&copy).unwrap()),
        sha256(&fs::read(&source).unwrap())
    );
    let at = lab.path("loop");
    fs::create_dir(&at).unwrap();
    {
        run(&mut shell(r#"mount -o loop,ro "$1" "$2""#, &[&target, &at]));
        let _mounted = LoopMount(at.clone());
        run(&mut shell(
            r#"diff -r --exclude=lost+found "$1" "$2""#,
            &[&tree, &at],
        ));
    }
    // The device is let go of a little later than the mount.
    let busy = || output(&mut shell(r#"losetup -j "$1""#, &[&target])).stdout;
    wait_for("the loop device is free", || busy().is_empty());
    {
        let device = run(&mut shell(r#"losetup -r -f --show "$1""#, &[&target]));
        let device = LoopDevice(device.trim().to_owned());
        run(&mut shell(
            r#"cmp "$1" "$2""#,
            &[source.as_path(), Path::new(&device.0)],
        ));
    }
    wait_for("the loop device is free", || busy().is_empty());
    assert_eq!(mount.unmount(), 0);
}
