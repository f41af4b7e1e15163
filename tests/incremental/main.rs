//! Incremental backups, drop folders and quotas, on a real mount and with the programs
//! that people use.

#[path = "../common/mod.rs"]
mod common;

mod auto;
mod deleting;
mod drop_folders;
mod programs;
mod quotas;

use common::library::Dice;
use common::mount::{Lab, Mount, command, run, xattr};
use common::store_check::{Expected, Stored, read_store};
use std::path::{Path, PathBuf};

pub const KIB: usize = 1 << 10;
pub const VOLUME: &str = "cb7e7a41-3b0c-4a4e-8f3b-6a3a35e5a7a0";

/// Small objects and blocks, so that small files have many.
pub const SMALL: &str = "backup_file_size = 262144\nbackup_sha_block_size_bytes = 4096\n";
pub const EXPECTED: Expected<'static> = Expected {
    object_size: 262_144,
    compression: "zlib",
};

pub fn lab(options: &str) -> Lab {
    Lab::with(&format!("{SMALL}{options}"))
}

pub fn cp(from: &Path, to: &Path) {
    run(&mut command("cp", &[from, to]));
}

pub fn attribute(path: &Path, name: &str) -> Option<String> {
    let value = xattr(path, &format!("user.cinder.{name}"));
    value.ok().map(|value| String::from_utf8(value).unwrap())
}

pub fn id(path: &Path) -> String {
    attribute(path, "backup_id").unwrap()
}

pub fn parent(path: &Path) -> Option<String> {
    attribute(path, "parent_id")
}

pub fn depth(path: &Path) -> u32 {
    attribute(path, "depth").unwrap().parse().unwrap()
}

/// Two images, the second of which is a little different, and longer.
pub fn images(lab: &Lab, seed: u64) -> (PathBuf, PathBuf) {
    let mut dice = Dice(seed);
    let mut data = dice.image(1_200_000);
    let first = lab.source("first.img", &data);
    for _ in 0..5 {
        let at = dice.below(data.len() as u64 - 9000) as usize;
        let some = dice.text(9000);
        data[at..at + 9000].copy_from_slice(&some);
    }
    let more = dice.image(70_001);
    data.extend(more);
    (first, lab.source("second.img", &data))
}

/// The backups of the store by the names of their files.
pub fn stored(lab: &Lab, name: &str) -> Stored {
    let all = read_store(&lab.store());
    let found = all
        .into_iter()
        .find(|one| one.name.as_deref() == Some(name));
    found.unwrap_or_else(|| panic!("{name} is not in the store"))
}

/// What `status.json` says was refused.
pub fn refusals(mount: &Mount<'_>) -> String {
    let text = std::fs::read(mount.path(".cinderfs/status.json")).unwrap();
    let status: serde_json::Value = serde_json::from_slice(&text).unwrap();
    status["refused"].to_string()
}
