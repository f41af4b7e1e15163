//! Random operations on a real mount, and on a model of it in memory that says what each
//! must do and which error refuses it.
//!
//! `CINDERFS_SEED=<number>` repeats a run; `CINDERFS_OPERATIONS=<number>` makes it longer.

mod common;

use common::library::Dice;
use common::mount::{Lab, Mount, errno, names, seek, wait_for};
use common::store_check::{Expected, read_store};
use rustix::fs::{FallocateFlags, Timespec, Timestamps, UTIME_OMIT};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const SEEDS: [u64; 4] = [1, 2, 3, 4];
const OPERATIONS: usize = 130;
const OPTIONS: &str = "backup_file_size = 262144\nbackup_sha_block_size_bytes = 4096\n\
                       memory = 16MiB\n";
const OBJECT: u64 = 262_144;
const LARGEST: u64 = 1_500_000;
const VOLUMES: [&str; 3] = ["one", "two two", "drei"];
const FILES: [&str; 5] = ["a", "b.img", ".c.Xy", "d d", "ё"];
/// A program may open what it has closed for writing again for ten seconds. Around that
/// either answer is right.
const SURELY_OPEN: Duration = Duration::from_secs(7);
const SURELY_SEALED: Duration = Duration::from_secs(14);

/// A file, as it must be.
#[derive(Default)]
struct ModelFile {
    data: Vec<u8>,
    ever_written: bool,
    /// It is listed: it was closed or synced with something in it, or closed for good.
    published: bool,
    unlinked: bool,
    /// What utimens set.
    mtime: Option<(i64, i64)>,
    /// The last close; `None` in a file that was there when the store was mounted.
    closed: Option<Instant>,
    handles: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reopens {
    Yes,
    No,
    Perhaps,
}

impl ModelFile {
    fn reopens(&self) -> Reopens {
        match self.closed {
            _ if self.handles > 0 => Reopens::Yes,
            None => Reopens::No,
            Some(closed) if closed.elapsed() < SURELY_OPEN => Reopens::Yes,
            Some(closed) if closed.elapsed() > SURELY_SEALED => Reopens::No,
            Some(_) => Reopens::Perhaps,
        }
    }

    /// A flush makes a backup of it, unless nothing was ever written.
    fn flush(&mut self) {
        self.published |= self.ever_written || !self.data.is_empty();
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        if self.data.len() < at + bytes.len() {
            self.data.resize(at + bytes.len(), 0);
        }
        self.data[at..at + bytes.len()].copy_from_slice(bytes);
        self.ever_written = true;
        self.mtime = None;
    }
}

struct Open {
    file: File,
    id: usize,
}

struct World<'a> {
    lab: &'a Lab,
    mount: Option<Mount<'a>>,
    dice: Dice,
    /// Folders, by name.
    volumes: Vec<&'static str>,
    names: BTreeMap<(&'static str, &'static str), usize>,
    files: Vec<ModelFile>,
    open: Vec<Open>,
    /// What was done, for who has to find out why it went wrong.
    story: Vec<String>,
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        self.open.clear();
        if std::thread::panicking() {
            eprintln!("the last operations:");
            for line in self.story.iter().rev().take(40).rev() {
                eprintln!("  {line}");
            }
        }
    }
}

impl<'a> World<'a> {
    fn new(lab: &'a Lab, seed: u64) -> Self {
        Self {
            lab,
            mount: Some(lab.mount()),
            dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            volumes: Vec::new(),
            names: BTreeMap::new(),
            files: Vec::new(),
            open: Vec::new(),
            story: Vec::new(),
        }
    }

    fn tell(&mut self, what: String) {
        self.story.push(what);
    }

    fn volume_path(&self, volume: &str) -> PathBuf {
        self.mount.as_ref().unwrap().path("posix").join(volume)
    }

    fn path(&self, (volume, name): (&str, &str)) -> PathBuf {
        self.volume_path(volume).join(name)
    }

    fn any_volume(&mut self) -> &'static str {
        VOLUMES[self.dice.below(VOLUMES.len() as u64) as usize]
    }

    fn any_name(&mut self) -> (&'static str, &'static str) {
        let volume = self.any_volume();
        (volume, FILES[self.dice.below(FILES.len() as u64) as usize])
    }

    /// Mostly a file that is there.
    fn likely_name(&mut self) -> (&'static str, &'static str) {
        let count = self.names.len() as u64;
        if count == 0 || self.dice.below(8) == 0 {
            return self.any_name();
        }
        let number = self.dice.below(count) as usize;
        *self.names.keys().nth(number).unwrap()
    }

    fn has(&self, volume: &str) -> bool {
        self.volumes.contains(&volume)
    }

    fn step(&mut self) {
        match self.dice.below(100) {
            0..6 => self.make_volume(),
            6..9 => self.remove_volume(),
            9..24 => self.create(),
            24..32 => self.reopen(),
            32..62 => self.change(),
            62..70 => self.close(),
            70..76 => self.rename(),
            76..80 => self.unlink(),
            80..84 => self.set_time(),
            84..95 => self.look_at_file(),
            95..98 => self.list(),
            _ => self.remount(),
        }
    }

    fn make_volume(&mut self) {
        let volume = self.any_volume();
        let expected = if self.has(volume) { libc::EEXIST } else { 0 };
        self.tell(format!("mkdir {volume}"));
        assert_eq!(errno(fs::create_dir(self.volume_path(volume))), expected);
        if expected == 0 {
            self.volumes.push(volume);
        }
    }

    fn remove_volume(&mut self) {
        let volume = self.any_volume();
        let expected = if !self.has(volume) {
            libc::ENOENT
        } else if self.names.keys().any(|(of, _)| *of == volume) {
            libc::ENOTEMPTY
        } else {
            0
        };
        self.tell(format!("rmdir {volume}"));
        assert_eq!(errno(fs::remove_dir(self.volume_path(volume))), expected);
        if expected == 0 {
            self.volumes.retain(|other| *other != volume);
        }
    }

    fn create(&mut self) {
        let name = self.any_name();
        let expected = if !self.has(name.0) {
            libc::ENOENT
        } else if self.names.contains_key(&name) {
            libc::EEXIST
        } else {
            0
        };
        self.tell(format!("create {name:?} -> file {}", self.files.len()));
        let mut options = OpenOptions::new();
        let made = options
            .read(true)
            .write(true)
            .create_new(true)
            .open(self.path(name));
        match made {
            Ok(file) => {
                assert_eq!(expected, 0);
                let id = self.files.len();
                self.files.push(ModelFile {
                    handles: 1,
                    ..ModelFile::default()
                });
                self.names.insert(name, id);
                self.open.push(Open { file, id });
                for _ in 0..self.dice.below(6) {
                    self.change_open(self.open.len() - 1);
                }
            }
            Err(e) => assert_eq!(e.raw_os_error(), Some(expected)),
        }
    }

    /// Opens what is there for writing, as qemu-img does.
    fn reopen(&mut self) {
        let name = self.likely_name();
        let truncate = self.dice.below(4) == 0;
        self.tell(format!("open {name:?} for writing, truncate {truncate}"));
        let mut options = OpenOptions::new();
        let opened = options
            .read(true)
            .write(true)
            .truncate(truncate)
            .open(self.path(name));
        let Some(id) = self.names.get(&name).copied() else {
            assert_eq!(errno(opened), libc::ENOENT);
            return;
        };
        let model = &mut self.files[id];
        match (opened, model.reopens()) {
            (Ok(file), Reopens::Yes | Reopens::Perhaps) => {
                model.handles += 1;
                if truncate {
                    model.mtime = None;
                    model.data.clear();
                }
                self.open.push(Open { file, id });
            }
            (Err(e), Reopens::No | Reopens::Perhaps) => {
                let refused = [Some(libc::EPERM), Some(libc::EACCES)];
                assert!(refused.contains(&e.raw_os_error()), "{e}");
                model.closed = None;
            }
            (result, expected) => {
                panic!("file {id}: {:?}, but reopens: {expected:?}", result.err())
            }
        }
    }

    fn change(&mut self) {
        if !self.open.is_empty() {
            let number = self.dice.below(self.open.len() as u64) as usize;
            self.change_open(number);
        }
    }

    fn any_bytes(&mut self) -> Vec<u8> {
        let bound = if self.dice.below(3) == 0 {
            400_000
        } else {
            9000
        };
        let length = 1 + self.dice.below(bound) as usize;
        match self.dice.below(4) {
            0 => vec![0; length],
            1 => self.dice.noise(length),
            _ => self.dice.text(length),
        }
    }

    fn change_open(&mut self, number: usize) {
        let id = self.open[number].id;
        let size = self.files[id].data.len() as u64;
        let at = self.dice.below(LARGEST);
        let kind = self.dice.below(14);
        match kind {
            0..6 => {
                let at = if kind < 3 { size } else { at };
                if at > LARGEST {
                    return;
                }
                let bytes = self.any_bytes();
                self.tell(format!("write file {id} at {at}, {} bytes", bytes.len()));
                self.open[number].file.write_all_at(&bytes, at).unwrap();
                self.files[id].write(at as usize, &bytes);
            }
            6 | 7 => {
                let to = if kind == 6 {
                    at
                } else {
                    self.dice.below(size + 1)
                };
                self.tell(format!("truncate file {id} of {size} to {to}"));
                self.open[number].file.set_len(to).unwrap();
                self.files[id].data.resize(to as usize, 0);
                self.files[id].mtime = None;
            }
            8 | 9 => self.punch(number, at, kind == 8),
            10 => {
                self.tell(format!("fsync file {id}"));
                self.open[number].file.sync_all().unwrap();
                self.files[id].published = true;
            }
            11 => {
                self.tell(format!("close a duplicate of file {id}"));
                drop(self.open[number].file.try_clone().unwrap());
                self.files[id].flush();
            }
            _ => self.read_open(number),
        }
        let length = self.open[number].file.metadata().unwrap().len();
        assert_eq!(
            length,
            self.files[id].data.len() as u64,
            "size of file {id}"
        );
    }

    fn punch(&mut self, number: usize, at: u64, keep: bool) {
        let id = self.open[number].id;
        let length = 1 + self.dice.below(500_000);
        self.tell(format!(
            "zero file {id} at {at}, {length} bytes, keep size {keep}"
        ));
        let flags = if keep {
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE
        } else {
            FallocateFlags::ZERO_RANGE
        };
        rustix::fs::fallocate(&self.open[number].file, flags, at, length).unwrap();
        let model = &mut self.files[id];
        let end = (at + length) as usize;
        if !keep && model.data.len() < end {
            model.data.resize(end, 0);
        }
        let end = end.min(model.data.len());
        if (at as usize) < end {
            model.data[at as usize..end].fill(0);
        }
        model.mtime = None;
    }

    fn read_open(&mut self, number: usize) {
        let id = self.open[number].id;
        self.tell(format!("read file {id}, which is open"));
        let at = self.dice.below(LARGEST);
        let length = self.dice.below(300_000) as usize;
        check_read(&self.open[number].file, &self.files[id].data, at, length);
    }

    fn close(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let number = self.dice.below(self.open.len() as u64) as usize;
        self.close_open(number);
    }

    fn close_open(&mut self, number: usize) {
        let Open { file, id } = self.open.swap_remove(number);
        self.tell(format!("close file {id}"));
        drop(file);
        let model = &mut self.files[id];
        model.handles -= 1;
        model.flush();
        if model.handles > 0 {
            return;
        }
        model.closed = Some(Instant::now());
        if !model.published && !model.unlinked {
            // The kernel tells of the last close of an empty file a little later.
            model.published = true;
            let (name, _) = self.names.iter().find(|(_, of)| **of == id).unwrap();
            let folder = self.volume_path(name.0);
            wait_for("the empty file", || {
                names(&folder).iter().any(|listed| listed == name.1)
            });
        }
    }

    fn rename(&mut self) {
        let from = self.likely_name();
        let to = if self.dice.below(4) == 0 {
            self.any_name()
        } else {
            (from.0, self.any_name().1)
        };
        self.tell(format!("rename {from:?} to {to:?}"));
        let expected = if !self.names.contains_key(&from) || !self.has(to.0) {
            libc::ENOENT
        } else if from == to {
            0
        } else if from.0 != to.0 {
            libc::EXDEV
        } else if self.names.contains_key(&to) {
            libc::EEXIST
        } else {
            0
        };
        assert_eq!(errno(fs::rename(self.path(from), self.path(to))), expected);
        if expected == 0 {
            let id = self.names.remove(&from).unwrap();
            self.names.insert(to, id);
        }
    }

    fn unlink(&mut self) {
        let name = self.likely_name();
        self.tell(format!("unlink {name:?}"));
        let expected = if self.names.contains_key(&name) {
            0
        } else {
            libc::ENOENT
        };
        assert_eq!(errno(fs::remove_file(self.path(name))), expected);
        if let Some(id) = self.names.remove(&name) {
            self.files[id].unlinked = true;
        }
    }

    fn set_time(&mut self) {
        let name = self.likely_name();
        let (tv_sec, tv_nsec) = (
            self.dice.below(8_000_000_000) as i64 - 4_000_000_000,
            self.dice.below(1_000_000_000) as i64,
        );
        self.tell(format!("utimens {name:?} {tv_sec}.{tv_nsec:09}"));
        let times = Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
            last_modification: Timespec { tv_sec, tv_nsec },
        };
        let flags = rustix::fs::AtFlags::empty();
        let set = rustix::fs::utimensat(rustix::fs::CWD, self.path(name), &times, flags);
        let Some(id) = self.names.get(&name) else {
            assert_eq!(set, Err(rustix::io::Errno::NOENT));
            return;
        };
        set.unwrap();
        self.files[*id].mtime = Some((tv_sec, tv_nsec));
    }

    fn look_at_file(&mut self) {
        let name = self.likely_name();
        self.tell(format!("read {name:?}"));
        let (at, length) = (self.dice.below(LARGEST), self.dice.below(400_000) as usize);
        let opened = File::open(self.path(name));
        let Some(id) = self.names.get(&name).copied() else {
            assert_eq!(errno(opened), libc::ENOENT);
            return;
        };
        let file = opened.unwrap();
        let model = &self.files[id];
        check_read(&file, &model.data, at, length);
        check_holes(&file, &model.data, at);
        self.check_stat(name, id);
    }

    fn check_stat(&self, name: (&str, &str), id: usize) {
        let stat = self.path(name).symlink_metadata().unwrap();
        let model = &self.files[id];
        assert_eq!(stat.len(), model.data.len() as u64, "size of {name:?}");
        assert_eq!(stat.nlink(), 1);
        if let Some(mtime) = model.mtime {
            assert_eq!((stat.mtime(), stat.mtime_nsec()), mtime, "time of {name:?}");
        }
    }

    fn list(&mut self) {
        self.tell("list".to_owned());
        let root = self.mount.as_ref().unwrap().path("posix");
        let mut volumes: Vec<&str> = self.volumes.clone();
        volumes.sort_unstable();
        assert_eq!(names(&root), volumes);
        for volume in volumes {
            let of_volume = self.names.iter().filter(|((of, _), _)| *of == volume);
            let listed = of_volume.filter(|(_, id)| self.files[**id].published);
            let mut expected: Vec<&str> = listed.map(|((_, name), _)| *name).collect();
            expected.sort_unstable();
            assert_eq!(names(&self.volume_path(volume)), expected, "in {volume}");
        }
    }

    fn remount(&mut self) {
        while !self.open.is_empty() {
            self.close_open(0);
        }
        self.tell("remount".to_owned());
        assert_eq!(self.mount.take().unwrap().unmount(), 0);
        self.mount = Some(self.lab.mount());
        for file in &mut self.files {
            file.closed = None;
        }
        let names = &self.names;
        self.volumes
            .retain(|volume| names.keys().any(|(of, _)| of == volume));
        self.check_all();
    }

    fn check_all(&mut self) {
        self.list();
        for (name, id) in &self.names {
            let data = fs::read(self.path(*name)).unwrap();
            assert!(
                data == self.files[*id].data,
                "content of {name:?}, file {id}"
            );
            self.check_stat(*name, *id);
        }
    }

    /// What lies in the store is what Cinder would have written of the same images.
    fn check_store(&self) {
        let stored = read_store(&self.lab.store());
        assert_eq!(stored.len(), self.names.len());
        for backup in stored {
            let name = backup.name.clone().unwrap();
            let found = self
                .names
                .iter()
                .find(|((volume, file), _)| *volume == backup.volume && *file == name);
            let data = &self.files[*found.unwrap().1].data;
            let source = self.lab.source("expected", data);
            backup.check(
                Expected {
                    object_size: OBJECT,
                    compression: "zlib",
                },
                &source,
            );
        }
    }
}

fn check_read(file: &File, data: &[u8], at: u64, length: usize) {
    let mut read = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match file
            .read_at(&mut read[filled..], at + filled as u64)
            .unwrap()
        {
            0 => break,
            some => filled += some,
        }
    }
    let start = (at as usize).min(data.len());
    let end = (start + length).min(data.len());
    assert_eq!(filled, end - start, "bytes at {at}");
    assert!(
        read[..filled] == data[start..end],
        "data at {at} for {length}"
    );
}

/// What is called a hole is zero, and all that is not zero is called data.
fn check_holes(file: &File, data: &[u8], at: u64) {
    let size = data.len() as u64;
    let (next_data, next_hole) = (seek(file, at, false), seek(file, at, true));
    if at >= size {
        assert_eq!((next_data, next_hole), (Err(libc::ENXIO), Err(libc::ENXIO)));
        return;
    }
    let end_of_hole = match next_data {
        Ok(next) => next,
        Err(number) => {
            assert_eq!(number, libc::ENXIO);
            size
        }
    };
    assert!(end_of_hole >= at && end_of_hole <= size);
    let hole = &data[at as usize..end_of_hole as usize];
    assert!(
        hole.iter().all(|byte| *byte == 0),
        "data in the hole from {at} to {end_of_hole}"
    );
    let next_hole = next_hole.unwrap();
    assert!(next_hole >= at && next_hole <= size);
    assert!(
        next_hole == at || end_of_hole == at,
        "neither data nor hole at {at}"
    );
}

fn run_seed(seed: u64, operations: usize) {
    let lab = Lab::with(OPTIONS);
    let mut world = World::new(&lab, seed);
    for volume in VOLUMES {
        fs::create_dir(world.volume_path(volume)).unwrap();
        world.volumes.push(volume);
    }
    for _ in 0..operations {
        world.step();
    }
    world.remount();
    world.check_store();
}

/// One test for all seeds: whenever a test starts a program, descriptors of the others
/// are closed once in its process, and that counts as a close.
#[test]
fn random_operations_do_what_the_model_says() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let operations = number("CINDERFS_OPERATIONS").map_or(OPERATIONS, |count| count as usize);
    let seeds = number("CINDERFS_SEED").map_or(SEEDS.to_vec(), |seed: u64| vec![seed]);
    for seed in seeds {
        let run = std::panic::AssertUnwindSafe(|| run_seed(seed, operations));
        if let Err(failure) = std::panic::catch_unwind(run) {
            eprintln!("to repeat it: CINDERFS_SEED={seed} CINDERFS_OPERATIONS={operations}");
            std::panic::resume_unwind(failure);
        }
    }
}
