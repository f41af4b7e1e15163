//! Whatever ends in the middle: what was reported is whole, what was not is whole or not
//! there, and what is left over goes away.
//!
//! `CINDERFS_SEED=<number>` repeats a run (the order of what runs at the same time is not
//! repeated); `CINDERFS_KILLS=<number>` makes it longer.

#[path = "../common/mod.rs"]
mod common;

mod commands;
mod full_disk;
mod ledger;
mod round;
mod store;
mod worker;

use common::library::Dice;
use common::mount::{Backend, Lab};
use ledger::{Counts, Ledger};
use round::{Story, settings};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Kills of the daemon, over all stores.
const KILLS: u64 = 200;
/// With so many kills of one store, each thing happens more than ten times.
const ENOUGH: u64 = 60;
/// Kills of the daemon over a Swift, where everything takes longer.
const SWIFT_KILLS: u64 = 24;
/// Kills of commands.
const COMMAND_KILLS: u64 = 45;
/// Stores, each with its own size of hashed blocks.
const STORES: [u64; 3] = [1, 2, 3];
/// Sizes of hashed blocks.
const BLOCKS: [u64; 3] = [4096, 16384, 32768];
pub const VOLUMES: [&str; 2] = ["one", "two two"];

/// One test at a time: whenever a test starts a program, descriptors of the others are
/// closed once in its process, and a close publishes.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Runs `run` with each seed, or the one that is asked for, and a share of the kills.
fn with_seeds(seeds: &[u64], kills: u64, run: impl Fn(u64, u64)) {
    let _alone = alone();
    let kills = number("CINDERFS_KILLS").unwrap_or(kills);
    let seeds = number("CINDERFS_SEED").map_or(seeds.to_vec(), |seed| vec![seed]);
    for seed in &seeds {
        let kills = kills.div_ceil(seeds.len() as u64);
        let run = std::panic::AssertUnwindSafe(|| run(*seed, kills));
        if let Err(failure) = std::panic::catch_unwind(run) {
            eprintln!("to repeat it: CINDERFS_SEED={seed} CINDERFS_KILLS={kills}");
            std::panic::resume_unwind(failure);
        }
    }
}

/// A store through many rounds, each of which ends with a kill when `round` says so.
/// None when `--quick` leaves it out.
fn tell(
    backend: Backend,
    seed: u64,
    kills: u64,
    round: impl Fn(&mut Story<'_>, &mut Dice) -> bool,
) -> Option<Counts> {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let block = BLOCKS[seed as usize % BLOCKS.len()];
    let lab = Lab::on(backend, &settings(&mut dice, block))?;
    let mut story = Story::new(&lab, Ledger::default());
    let mut done = 0;
    while done < kills {
        lab.configure(&settings(&mut dice, block));
        done += u64::from(round(&mut story, &mut dice));
        story.check_store(&mut dice);
    }
    let counts = story.end();
    eprintln!("seed {seed}: {counts:?}");
    Some(counts)
}

/// A kill at every point where it matters: else the test would prove nothing.
fn check_coverage(counts: &Counts) {
    let garbage = |kind: &str| counts.garbage.get(kind).copied().unwrap_or(0);
    for (what, count) in [
        ("full backups", counts.full),
        ("incremental ones", counts.incremental),
        ("published anew", counts.republished),
        ("renamed", counts.renamed),
        ("deleted", counts.deleted),
        ("refused to be deleted", counts.refused),
        ("killed while publishing", counts.publishing_killed),
        ("killed while deleting", counts.deleting_killed),
        ("staged files left", garbage("staged")),
        ("chunks left beside a backup", garbage("stray")),
        ("chunks left of none", garbage("unfinished")),
    ] {
        assert!(count > 0, "{what}: never");
    }
}

#[test]
fn what_a_killed_daemon_had_reported_is_whole() {
    with_seeds(&STORES, KILLS, |seed, kills| {
        let counts = tell(Backend::Posix, seed, kills, kill_daemon);
        if kills >= ENOUGH {
            check_coverage(&counts.unwrap());
        }
    });
}

#[test]
fn what_a_killed_daemon_had_reported_is_whole_in_a_swift() {
    with_seeds(&STORES[..1], SWIFT_KILLS, |seed, kills| {
        if let Some(counts) = tell(Backend::Swift, seed, kills, kill_daemon) {
            assert!(
                counts.full > 0 && counts.publishing_killed > 0,
                "{counts:?}"
            );
        }
    });
}

fn kill_daemon(story: &mut Story<'_>, dice: &mut Dice) -> bool {
    story.kill_daemon(dice);
    true
}

#[test]
fn what_killed_commands_had_reported_is_whole() {
    with_seeds(&STORES, COMMAND_KILLS, |seed, kills| {
        tell(Backend::Posix, seed, kills, |story, dice| {
            story.kill_commands(dice)
        });
    });
}
