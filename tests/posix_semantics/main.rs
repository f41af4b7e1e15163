//! What each operation of a file system means on a mount, and which error refuses what
//! a backup cannot do.

#[path = "../common/mod.rs"]
mod common;

mod attributes;
mod control_folder;
mod deleting;
mod holes;
mod mapping;
mod mounts;
mod names;
mod sealing;
mod tree;
mod users;

use common::mount::command;
use std::path::Path;

/// Reads a file as another program would, which seals it.
pub fn cat(path: &Path) -> Vec<u8> {
    let output = common::mount::output(&mut command("cat", &[path]));
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

pub fn text(path: &Path) -> String {
    String::from_utf8(cat(path)).unwrap()
}
