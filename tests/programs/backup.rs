//! The images that the programs write, and all that must hold of the backup that each makes.

use crate::common::library::Dice;
use crate::common::mount::{Lab, MIB, Mount, command, names, run, shell, wait_for};
use crate::common::store_check::{Expected, SMALL_ZLIB, Stored, check_only};
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

pub const VOLUME: &str = "74dd5d66-dcfa-5747-ab91-724c9e4956b0";
pub const NAME: &str = "disk.img";
/// Long ago, and not at a full second.
const LONG_AGO: &str = "2019-03-04 05:06:07.123456789 UTC";
const LONG_AGO_SECONDS: i64 = 1_551_675_967;
const LONG_AGO_NANOS: i64 = 123_456_789;

/// Where a backup's time comes from.
#[derive(Clone, Copy)]
pub enum Time {
    /// When it was written.
    Now,
    /// The source's.
    Kept,
    /// The source's, but for what is below a second.
    KeptSeconds,
}

/// An image that ends within a block, a chunk and a page.
pub fn image(lab: &Lab, seed: u64) -> PathBuf {
    image_of(lab, &Dice(seed).image(3 * MIB + 123_457))
}

pub fn image_of(lab: &Lab, data: &[u8]) -> PathBuf {
    let source = lab.source("source.img", data);
    run(&mut command(
        "touch",
        &[Path::new("-d"), Path::new(LONG_AGO), &source],
    ));
    source
}

/// A source with long holes, as disks of virtual machines have them.
pub fn sparse_image(lab: &Lab, seed: u64) -> PathBuf {
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
pub fn check_script(lab: &Lab, source: &Path, script: &str, time: Time) -> Stored {
    check_script_as(lab, source, script, time, SMALL_ZLIB)
}

pub fn check_script_as(
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

pub fn check_backup(lab: &Lab, mount: &Mount<'_>, source: &Path, expected: Expected<'_>) -> Stored {
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

pub fn check_time(source: &Path, target: &Path, time: Time, start: SystemTime) {
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
