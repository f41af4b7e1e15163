//! An incremental backup of an image one percent of which has changed, against reading
//! that image and hashing its blocks on all cores, which is the least that it takes.
//! Nothing in the image is zero or compressible, so there is no short cut. The wanted
//! figure is a time of at most 1.15: a ratio of 0.87.

mod common;

use common::{Bench, SHA_BLOCK, compare, cp, on_all_cores, run, time};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How much the reference reads at a time, and how much a core takes in one go.
const PIECE: usize = 1 << 20;
const SHARE: usize = 32 * PIECE;

fn main() {
    let bench = Bench::new();
    let image = bench.random_image();
    let size = image.metadata().unwrap().len();
    let config = bench.config("incremental", "zlib");
    for (what, run) in [("scattered blocks", 1), ("runs of a megabyte", 32)] {
        let changed = change(&image, bench.path(&format!("changed-{run}")), run);
        let volume = format!("volume-{run}");
        let mut images = [image.clone(), changed].into_iter().cycle();
        back_up(&config, &images.next().unwrap(), &volume, "--full", "first");
        let mut round = 0;
        let shares: Vec<usize> = (0..size as usize).step_by(SHARE).collect();
        compare(
            &format!("cinderfs backup --incremental, 1 percent in {what}"),
            size,
            1.0 / 1.15,
            || read_and_hash(&image, &shares),
            || {
                round += 1;
                let name = format!("command-{round}");
                let image = images.next().unwrap();
                time(|| back_up(&config, &image, &volume, "--incremental", &name))
            },
        );
        compare(
            &format!("cp into .incremental, 1 percent in {what}"),
            size,
            1.0 / 1.15,
            || read_and_hash(&image, &shares),
            || {
                round += 1;
                let mount = bench.mount(&config);
                let folder = mount
                    .folder
                    .join("bench")
                    .join(&volume)
                    .join(".incremental");
                cp(
                    &images.next().unwrap(),
                    &folder.join(format!("copy-{round}")),
                )
            },
        );
    }
}

/// A copy in which every hundredth block is another one: `run` blocks in a row.
fn change(image: &Path, copy: PathBuf, run: usize) -> PathBuf {
    std::fs::copy(image, &copy).unwrap();
    let file = File::options().write(true).open(&copy).unwrap();
    let blocks = file.metadata().unwrap().len() as usize / SHA_BLOCK;
    for first in (run..blocks.saturating_sub(run)).step_by(run * 100) {
        let bytes = vec![0x5a; run * SHA_BLOCK];
        file.write_all_at(&bytes, (first * SHA_BLOCK) as u64)
            .unwrap();
    }
    file.sync_all().unwrap();
    copy
}

fn back_up(config: &Path, image: &Path, volume: &str, kind: &str, name: &str) {
    run(Command::new(env!("CARGO_BIN_EXE_cinderfs"))
        .args(["backup", kind, "--name", name, "--config"])
        .arg(config)
        .arg(image)
        .arg(format!("bench/{volume}")));
}

fn read_and_hash(image: &Path, shares: &[usize]) -> Duration {
    let file = File::open(image).unwrap();
    time(|| {
        on_all_cores(shares, |share| {
            let mut piece = vec![0; PIECE];
            for at in (*share..share + SHARE).step_by(PIECE) {
                let read = file.read_at(&mut piece, at as u64).unwrap();
                for block in piece[..read].chunks(SHA_BLOCK) {
                    black_box(Sha256::digest(block));
                }
            }
        });
    })
}
