//! Restores and backups through the mount of a real Ceph, and with the commands, against
//! `rbd export` and `rbd import` of the same images: one that is full of random bytes, and one
//! of which a tenth is, in pieces all over it. The cluster shares the cores with all of them.

mod common;
#[path = "../tests/common/mod.rs"]
mod testing;

use common::{Bench, compare, cp, dd, run, time};
use std::cell::Cell;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use testing::ceph::{Ceph, Pool};

/// Of this size are the pieces of the sparse image that hold data, one in ten.
const PIECE: u64 = 256 << 10;
const BACKUP: &str = "14557733-15c7-5293-a026-e4123a3b50c9";

/// A volume's id, one for each image.
fn volume(number: u32) -> String {
    format!("{number:08x}-fa4c-5747-ab91-724c9e4956b0")
}

fn config(bench: &Bench, pool: &Pool) -> PathBuf {
    let path = bench.path("ceph.conf");
    let text = format!("[bench]\nbackup_driver = ceph\n{}", pool.lines());
    std::fs::write(&path, text).unwrap();
    path
}

fn sparse_image(bench: &Bench, full: &Path) -> PathBuf {
    let (path, full) = (bench.path("sparse"), File::open(full).unwrap());
    let size = full.metadata().unwrap().len();
    let file = File::create(&path).unwrap();
    file.set_len(size).unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    let mut piece = vec![0; PIECE as usize];
    for at in (0..size).step_by(PIECE as usize) {
        if random.u8(..10) == 0 {
            full.read_exact_at(&mut piece, at).unwrap();
            file.write_all_at(&piece, at).unwrap();
        }
    }
    file.sync_all().unwrap();
    path
}

/// rbd(8), which must succeed, and what it writes thrown away.
fn rbd(pool: &Pool, arguments: &[&str]) {
    let mut command = pool.rbd_command(arguments);
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(status.unwrap().success(), "{command:?}");
}

/// The only backup of a volume, in a mount.
fn only(mount: &common::Mount, volume: &str) -> PathBuf {
    let folder = mount.folder.join("bench").join(volume);
    let mut entries = std::fs::read_dir(folder).unwrap();
    entries.next().unwrap().unwrap().path()
}

fn reading(bench: &Bench, pool: &Pool, what: &str, file: &Path, volume: &str) {
    let config = config(bench, pool);
    let size = file.metadata().unwrap().len();
    let image = format!("volume-{volume}.backup.{BACKUP}");
    let snap = format!("{image}@backup.{BACKUP}.snap.1795263360.25");
    rbd(
        pool,
        &["import", "--no-progress", file.to_str().unwrap(), &image],
    );
    rbd(pool, &["snap", "create", "--no-progress", &snap]);
    let peak = Cell::new(0);
    // A new mount each time: the kernel has nothing of it yet.
    let through = |read: &dyn Fn(&Path, &Path) -> Duration| {
        let mount = bench.mount(&config);
        let took = read(&only(&mount, volume), Path::new("/dev/null"));
        peak.set(peak.get().max(mount.peak_memory()));
        took
    };
    let export = || time(|| rbd(pool, &["export", "--no-progress", &snap, "-"]));
    let label = format!("read, {what}, dd bs=1M");
    compare(&label, size, 0.7, export, || through(&dd));
    let label = format!("read, {what}, cp, which leaves holes out");
    compare(&label, size, 0.7, export, || through(&cp));
    println!("  peak memory of the daemon: {} MiB", peak.get() >> 20);
    let mount = bench.mount(&config);
    let shown = only(&mount, volume);
    run(Command::new("cmp").arg(file).arg(&shown));
    let [shown, real] = [&shown, file].map(|path| path.metadata().unwrap().blocks() * 512);
    println!(
        "  {} MiB are shown as data, of which {} MiB are",
        shown >> 20,
        real >> 20
    );
}

/// A backup with the command; false, and why, when it fails.
fn back_up(config: &Path, file: &Path, volume: &str) -> bool {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cinderfs"));
    command.args(["backup", "--full", "--quiet", "--config"]);
    command.arg(config).arg(file).arg(format!("bench/{volume}"));
    let output = command.output().unwrap();
    print!("{}", String::from_utf8_lossy(&output.stderr));
    output.status.success()
}

fn writing(bench: &Bench, pool: &Pool, what: &str, file: &Path, next: &Cell<u32>) {
    let config = config(bench, pool);
    let size = file.metadata().unwrap().len();
    // All backups and images go before the next round: what is removed is no part of it.
    let clear = || {
        for image in pool.images() {
            rbd(pool, &["snap", "purge", "--no-progress", &image]);
            rbd(pool, &["rm", "--no-progress", &image]);
        }
    };
    let new_volume = || {
        next.set(next.get() + 1);
        volume(next.get())
    };
    let import = || {
        clear();
        let file = file.to_str().unwrap();
        time(|| rbd(pool, &["import", "--no-progress", file, "reference"]))
    };
    let label = format!("backup, {what}, cinderfs backup");
    compare(&label, size, 0.7, import, || {
        clear();
        let volume = new_volume();
        time(|| assert!(back_up(&config, file, &volume)))
    });
    let label = format!("backup, {what}, cp");
    compare(&label, size, 0.7, import, || {
        clear();
        let mount = bench.mount(&config);
        let folder = mount.folder.join("bench").join(new_volume());
        std::fs::create_dir(&folder).unwrap();
        cp(file, &folder.join("image"))
    });
    clear();
}

fn main() {
    let Some(ceph) = Ceph::start() else { return };
    let bench = Bench::new();
    let full = bench.random_image();
    let sparse = sparse_image(&bench, &full);
    let pool = ceph.pool();
    let images = [("full", &full), ("sparse", &sparse)];
    for (number, (what, file)) in (1..).zip(images) {
        reading(&bench, &pool, what, file, &volume(number));
    }
    let pool = ceph.pool();
    let small = bench.path("small");
    std::fs::write(&small, "small").unwrap();
    if !back_up(&config(&bench, &pool), &small, &volume(1)) {
        println!("backups were not measured, for they fail");
        return;
    }
    let next = Cell::new(1);
    for (what, file) in images {
        writing(&bench, &pool, what, file, &next);
    }
}
