//! The command line: what each command prints, how it ends, and what it says when it
//! cannot do what it was asked.

#[path = "../common/mod.rs"]
mod common;

mod configuration;
mod listing;
mod mounting;

use common::mount::{Lab, fail, run};
use std::process::Command;

/// Exit code for what the user can put right.
pub const USAGE: i32 = 2;

/// Runs a command that must fail, with one line that holds all of `words`.
pub fn check_refused(command: &mut Command, code: i32, words: &[&str]) {
    let (found, said) = fail(command);
    for word in words {
        assert!(said.contains(word), "no {word:?} in: {said}");
    }
    assert_eq!(found, code, "{said}");
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    assert!(said.starts_with("cinderfs: cannot "), "{said}");
}

pub fn mount_arguments(lab: &Lab) -> [String; 4] {
    let text = |path: std::path::PathBuf| path.display().to_string();
    [
        "mount".into(),
        "--config".into(),
        text(lab.config()),
        text(lab.path("mnt")),
    ]
}

#[test]
fn usage() {
    let lab = Lab::new();
    assert!(run(&mut lab.cinderfs(&["--help"])).contains("mount"));
    assert!(run(&mut lab.cinderfs(&["mount", "--help"])).contains("--foreground"));
    let version = format!("cinderfs {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(run(&mut lab.cinderfs(&["--version"])), version);
    for arguments in [
        &[][..],
        &["mnt"],
        &["mount"],
        &["mount", "--frob", "x"],
        &["show"],
    ] {
        assert_eq!(fail(&mut lab.cinderfs(arguments)).0, USAGE, "{arguments:?}");
    }
}

#[test]
fn nobody_hears_the_error_and_the_exit_code_is_the_same() {
    let lab = Lab::new();
    let config = lab.config().display().to_string();
    for (arguments, code) in [
        (&["ls", "--store", "nothing"][..], USAGE),
        (&["rm", "posix/v/a", "posix/v/b", "--config", &config], 1),
    ] {
        let mut command = lab.cinderfs(arguments);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ended = command.stderr(writer).status().unwrap();
        assert_eq!(ended.code(), Some(code), "{arguments:?}");
    }
}
