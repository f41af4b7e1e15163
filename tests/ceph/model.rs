//! What an image must hold: a sparse file beside it, to which the same is done.

use crate::common::ceph::Pool;
use crate::common::mount::{command, run, seek, shell};
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

/// A volume's id.
pub const VOLUME: &str = "74dd5d66-dcfa-5747-ab91-724c9e4956b0";

/// The id of backup `number`.
pub fn backup(number: u32) -> String {
    format!("{number:08x}-15c7-5293-a026-e4123a3b50c9")
}

/// The name of a snapshot that is backup `number`, made in that second of 2026-11-21 12:16.
pub fn snap(number: u32, second: u32) -> String {
    format!(
        "backup.{}.snap.{}.25",
        backup(number),
        1_795_263_360 + second
    )
}

/// An image in a pool, and a file that is equal to it.
pub struct Model<'a> {
    pool: &'a Pool,
    pub image: String,
    pub file: PathBuf,
    seed: u64,
}

impl<'a> Model<'a> {
    /// Makes the image, all zero. The file is in that folder.
    pub fn new(pool: &'a Pool, folder: &Path, image: &str, size: u64, options: &[&str]) -> Self {
        let bytes = format!("{size}B");
        let mut arguments = vec!["create", image, "--size", &bytes];
        arguments.extend(options);
        pool.rbd(&arguments);
        let file = folder.join(image);
        File::create(&file).unwrap().set_len(size).unwrap();
        let seed = image.bytes().map(u64::from).sum();
        Self {
            pool,
            image: image.to_owned(),
            file,
            seed,
        }
    }

    /// A clone of it as it is now, in the same pool.
    pub fn clone_as(&self, image: &str) -> Self {
        let snap = format!("{}@parent-of-{image}", self.image);
        for words in [
            &["snap", "create", "--no-progress"][..],
            &["snap", "protect"],
        ] {
            self.pool.rbd(&[words, &[snap.as_str()]].concat());
        }
        // What it becomes does not go by `--pool`.
        let pool = self.pool.name.as_str();
        self.pool.rbd(&["clone", "--dest-pool", pool, &snap, image]);
        let file = self.file.with_file_name(image);
        run(command("cp", &["--sparse=always"])
            .arg(&self.file)
            .arg(&file));
        Self {
            pool: self.pool,
            image: image.to_owned(),
            file,
            seed: self.seed + 1000,
        }
    }

    /// Writes random bytes into both.
    pub fn write(&mut self, range: Range<u64>) {
        let length = usize::try_from(range.end - range.start).unwrap();
        self.seed += 1;
        let mut random = fastrand::Rng::with_seed(self.seed);
        let mut data = vec![0; length];
        random.fill(&mut data);
        self.pool.write(&self.image, range.start, &data);
        let file = File::options().write(true).open(&self.file).unwrap();
        file.write_all_at(&data, range.start).unwrap();
    }

    /// Makes both zero there.
    pub fn discard(&mut self, range: &Range<u64>) {
        self.pool.discard(&self.image, range);
        let length = (range.end - range.start).to_string();
        let offset = range.start.to_string();
        let arguments = ["--punch-hole", "--offset", &offset, "--length", &length];
        let mut punch = command("fallocate", &arguments);
        run(punch.arg(&self.file));
    }

    pub fn resize(&self, size: u64) {
        let bytes = format!("{size}B");
        self.pool.rbd(&[
            "resize",
            &self.image,
            "--size",
            &bytes,
            "--allow-shrink",
            "--no-progress",
        ]);
        let file = File::options().write(true).open(&self.file).unwrap();
        file.set_len(size).unwrap();
    }

    /// Makes a snapshot. Gives a copy of the file as it is now.
    pub fn snap(&self, name: &str) -> PathBuf {
        let full = format!("{}@{name}", self.image);
        self.pool.rbd(&["snap", "create", &full, "--no-progress"]);
        self.copy(name)
    }

    /// A copy of the file as it is now.
    pub fn copy(&self, name: &str) -> PathBuf {
        let copy = self.file.with_file_name(format!("{}@{name}", self.image));
        let mut cp = command("cp", &["--sparse=always"]);
        run(cp.arg(&self.file).arg(&copy));
        copy
    }
}

/// A file in a mount must be equal to another one, and what it shows as holes must be zero
/// there. Gives how much of it is data.
pub fn check_equal(shown: &Path, expected: &Path) -> u64 {
    run(&mut command("cmp", &[shown, expected]));
    let (shown, expected) = (File::open(shown).unwrap(), File::open(expected).unwrap());
    let size = expected.metadata().unwrap().len();
    assert_eq!(shown.metadata().unwrap().len(), size);
    let data = extents(&shown, size);
    let bytes: u64 = data.iter().map(|range| range.end - range.start).sum();
    let told = shown.metadata().unwrap().blocks() * 512;
    assert_eq!(told, bytes.div_ceil(512) * 512, "{data:?}");
    let mut at = 0;
    let holes = data.iter().map(|range| {
        let hole = at..range.start;
        at = range.end;
        hole
    });
    let mut holes: Vec<Range<u64>> = holes.collect();
    holes.push(at..size);
    for range in extents(&expected, size) {
        for hole in &holes {
            let both = range.start.max(hole.start)..range.end.min(hole.end);
            assert!(
                both.is_empty() || all_zero(&expected, &both),
                "{both:?}: {data:?}"
            );
        }
    }
    bytes
}

/// The same, of an image that is cut into objects of 4 MiB one after the other: no more of
/// it is data than these are.
pub fn check_sparse(shown: &Path, expected: &Path) {
    let bytes = check_equal(shown, expected);
    let expected = File::open(expected).unwrap();
    let size = expected.metadata().unwrap().len();
    let mut objects: Vec<u64> = Vec::new();
    for range in extents(&expected, size) {
        objects.extend(range.start / (4 * MIB)..range.end.div_ceil(4 * MIB));
    }
    objects.dedup();
    let most = objects.len() as u64 * 4 * MIB;
    assert!(bytes <= most, "{bytes} of data are shown, not {most}");
}

fn all_zero(file: &File, range: &Range<u64>) -> bool {
    let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap()];
    file.read_exact_at(&mut bytes, range.start).unwrap();
    bytes.iter().all(|byte| *byte == 0)
}

/// Where a file has data, by SEEK_DATA and SEEK_HOLE.
fn extents(file: &File, size: u64) -> Vec<Range<u64>> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < size {
        let start = match seek(file, at, false) {
            Ok(start) => start,
            Err(libc::ENXIO) => break,
            Err(e) => panic!("SEEK_DATA at {at}: {e}"),
        };
        at = seek(file, start, true).unwrap();
        assert!(at > start);
        found.push(start..at);
    }
    found
}

/// The path in a mount of a backup that is there once.
pub fn shown(mount: &crate::common::mount::Mount<'_>, id: &str) -> PathBuf {
    let link = mount.path(".cinderfs/by-id").join(id);
    fs::canonicalize(&link).unwrap_or_else(|e| panic!("{}: {e}", link.display()))
}

/// What a mount says of itself.
pub fn status(mount: &crate::common::mount::Mount<'_>) -> serde_json::Value {
    let text = fs::read(mount.path(".cinderfs/status.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// Removes what the kernel keeps of files.
pub fn drop_caches() {
    let _ = run(&mut shell(
        "echo 3 > /proc/sys/vm/drop_caches || true",
        &[""; 0],
    ));
}
