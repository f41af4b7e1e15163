//! Random operations on a real mount, and on a model of it in memory that says what each
//! must do and which error refuses it.
//!
//! `CINDERFS_SEED=<number>` repeats a run; `CINDERFS_OPERATIONS=<number>` makes it longer.

#[path = "../common/mod.rs"]
mod common;

mod checks;
mod data;
mod file;
mod names;
mod world;

use common::mount::{Backend, Lab};
use std::fs;
use world::World;

const SEEDS: [u64; 4] = [1, 2, 3, 4];
const OPERATIONS: usize = 130;
/// Over a Swift, where each takes longer.
const SWIFT_SEEDS: [u64; 2] = [5, 6];
const SWIFT_OPERATIONS: usize = 100;
const OPTIONS: &str = "backup_file_size = 262144\nbackup_sha_block_size_bytes = 4096\n\
                       memory = 16MiB\n";
/// As `run_seed` has it in the configuration.
pub const MAX_CHAIN: usize = 3;
pub const OBJECT: u64 = 262_144;
pub const LARGEST: u64 = 1_500_000;
pub const VOLUMES: [&str; 3] = ["one", "two two", "drei"];
/// The folders by which a file is found; what it becomes depends on the one it is made in.
pub const FOLDERS: [&str; 3] = ["", ".full", ".incremental"];
pub const FILES: [&str; 5] = ["a", "b.img", ".c.Xy", "d d", "ё"];

fn run_seed(backend: Backend, seed: u64, operations: usize) {
    let is_auto = seed.is_multiple_of(2);
    let incremental = if is_auto {
        "incremental = auto\nmax_chain = 3\n"
    } else {
        ""
    };
    let Some(lab) = Lab::on(backend, &format!("{OPTIONS}{incremental}")) else {
        return;
    };
    let mut world = World::new(&lab, seed, is_auto);
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

/// One test for all: whenever a test starts a program, descriptors of the others are
/// closed once in its process, and that counts as a close.
#[test]
fn random_operations_do_what_the_model_says() {
    run_seeds(Backend::Posix, &SEEDS, OPERATIONS);
    run_seeds(Backend::Swift, &SWIFT_SEEDS, SWIFT_OPERATIONS);
}

fn run_seeds(backend: Backend, seeds: &[u64], operations: usize) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let operations = number("CINDERFS_OPERATIONS").map_or(operations, |count| count as usize);
    let seeds = number("CINDERFS_SEED").map_or(seeds.to_vec(), |seed: u64| vec![seed]);
    for seed in seeds {
        let run = std::panic::AssertUnwindSafe(|| run_seed(backend, seed, operations));
        if let Err(failure) = std::panic::catch_unwind(run) {
            eprintln!("to repeat it: CINDERFS_SEED={seed} CINDERFS_OPERATIONS={operations}");
            std::panic::resume_unwind(failure);
        }
    }
}
