//! What the benchmarks share: mixed data, a mount of the real program, and ratios
//! against a reference that is measured in the same run.
//!
//! `CINDERFS_BENCH_DIR` says where the data goes (a few gigabytes; the system's folder
//! for temporary files by default), `CINDERFS_BENCH_MIB` how large the image is (1024).

// Each benchmark uses a part of this.
#![allow(dead_code)]

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Objects of this size are what an operator would configure.
pub const OBJECT_SIZE: usize = 52_428_800;
/// Cinder's default.
pub const SHA_BLOCK: usize = 32 << 10;
/// Each figure is the best of so many, taken in turns with its reference.
pub const ROUNDS: usize = 5;

/// A folder for one benchmark, removed at its end.
pub struct Bench {
    pub dir: tempfile::TempDir,
}

impl Bench {
    pub fn new() -> Self {
        let base =
            std::env::var_os("CINDERFS_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        Self {
            dir: tempfile::Builder::new()
                .prefix("cinderfs-bench-")
                .tempdir_in(base)
                .unwrap(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// An image: in turns a megabyte of zeros, of random bytes and of text.
    pub fn image(&self) -> PathBuf {
        self.image_of(|piece, bytes, random| match piece % 3 {
            1 => fill_random(bytes, random),
            2 => fill_text(bytes, random),
            _ => {}
        })
    }

    /// An image of random bytes.
    pub fn random_image(&self) -> PathBuf {
        self.image_of(|_, bytes, random| fill_random(bytes, random))
    }

    fn image_of(&self, fill: impl Fn(usize, &mut [u8], &mut u64)) -> PathBuf {
        let path = self.path("image");
        let mebibytes = std::env::var("CINDERFS_BENCH_MIB").ok();
        let mebibytes = mebibytes.map_or(1024, |text| text.parse().expect("CINDERFS_BENCH_MIB"));
        let mut file = File::create(&path).unwrap();
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for piece in 0..mebibytes {
            let mut bytes = vec![0u8; 1 << 20];
            fill(piece, &mut bytes, &mut random);
            file.write_all(&bytes).unwrap();
        }
        file.sync_all().unwrap();
        path
    }

    /// A configuration of one backend, `bench`, over the folder `store`.
    pub fn config(&self, store: &str, compression: &str) -> PathBuf {
        let folder = self.path(store);
        std::fs::create_dir_all(&folder).unwrap();
        let path = self.path(&format!("{store}.conf"));
        let text = format!(
            "[bench]\nbackup_driver = posix\nbackup_posix_path = {}\nbackup_file_size = {OBJECT_SIZE}\n\
             backup_compression_algorithm = {compression}\n",
            folder.display()
        );
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Mounts the program.
    pub fn mount(&self, config: &Path) -> Mount {
        let folder = self.path("mnt");
        std::fs::create_dir_all(&folder).unwrap();
        let daemon = Command::new(env!("CARGO_BIN_EXE_cinderfs"))
            .args(["mount", "--foreground", "--config"])
            .arg(config)
            .arg(&folder)
            .env("CINDERFS_LOG", "error")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mount = Mount { daemon, folder };
        let answers = || mount.folder.join("bench").is_dir();
        while !answers() {
            std::thread::sleep(Duration::from_millis(10));
        }
        mount
    }
}

fn next(random: &mut u64) -> u64 {
    // xorshift64: fast, and no compressor finds anything in it.
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random
}

fn fill_random(bytes: &mut [u8], random: &mut u64) {
    for piece in bytes.chunks_mut(8) {
        piece.copy_from_slice(&next(random).to_le_bytes()[..piece.len()]);
    }
}

/// Lines like those of a log: words, numbers and times.
fn fill_text(bytes: &mut [u8], random: &mut u64) {
    const WORDS: [&str; 16] = [
        "INFO",
        "WARNING",
        "cinder-volume",
        "attached",
        "detached",
        "volume",
        "snapshot",
        "request",
        "finished",
        "in",
        "seconds",
        "host",
        "status",
        "available",
        "error",
        "retry",
    ];
    let mut text = Vec::with_capacity(bytes.len() + 128);
    while text.len() < bytes.len() {
        let seed = next(random);
        let _ = write!(
            text,
            "2026-11-21 {:02}:{:02}:{:02}.{:03} ",
            seed % 24,
            seed / 24 % 60,
            seed / 1440 % 60,
            seed / 86400 % 1000
        );
        for shift in 0..(6 + seed % 6) {
            let _ = write!(text, "{} ", WORDS[(next(random) >> shift) as usize % 16]);
        }
        let _ = writeln!(text, "{:08x}", next(random) as u32);
    }
    bytes.copy_from_slice(&text[..bytes.len()]);
}

/// A mounted program.
pub struct Mount {
    daemon: Child,
    pub folder: PathBuf,
}

impl Mount {
    /// Peak of the daemon's memory so far, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.daemon.id())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .unwrap();
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        kilobytes * 1024
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("kill")
            .arg(self.daemon.id().to_string())
            .status();
        let _ = self.daemon.wait();
    }
}

/// How long `work` takes.
pub fn time(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// Runs a program that must succeed.
pub fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// `dd bs=1M`, from one path to another.
pub fn dd(from: &Path, to: &Path) -> Duration {
    time(|| {
        run(Command::new("dd")
            .arg("bs=1M")
            .arg("status=none")
            .arg(format!("if={}", from.display()))
            .arg(format!("of={}", to.display())));
    })
}

/// `cp`, from one path to another.
pub fn cp(from: &Path, to: &Path) -> Duration {
    time(|| run(Command::new("cp").arg(from).arg(to)))
}

/// Makes the kernel hold a file in its cache.
pub fn warm(path: &Path) {
    let mut file = File::open(path).unwrap();
    let mut buffer = vec![0; 1 << 20];
    while file.read(&mut buffer).unwrap() > 0 {}
}

/// All files below a folder.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// Whether a file is a chunk, and no metadata.
pub fn is_chunk(path: &Path) -> bool {
    let name = path.to_string_lossy();
    !name.ends_with("_metadata") && !name.ends_with("_sha256file")
}

/// Takes two measurements in turns, keeps the best of each, and prints both and their
/// ratio: how much of the reference's speed was reached.
pub fn compare(
    what: &str,
    bytes: u64,
    wanted: f64,
    mut reference: impl FnMut() -> Duration,
    mut measured: impl FnMut() -> Duration,
) {
    let (mut best_reference, mut best) = (Duration::MAX, Duration::MAX);
    for _ in 0..ROUNDS {
        best_reference = best_reference.min(reference());
        best = best.min(measured());
    }
    let speed = |time: Duration| bytes as f64 / 1e6 / time.as_secs_f64();
    println!(
        "{what:<44} {:>7.0} MB/s   reference {:>7.0} MB/s   ratio {:.2} (wanted {wanted:.2})",
        speed(best),
        speed(best_reference),
        best_reference.as_secs_f64() / best.as_secs_f64(),
    );
}

/// Gives each of `items` to one of as many threads as there are cores.
pub fn on_all_cores<T: Sync>(items: &[T], work: impl Fn(&T) + Sync) {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let cores = std::thread::available_parallelism().unwrap().get();
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some(item) =
                    items.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
                {
                    work(item);
                }
            });
        }
    });
}
