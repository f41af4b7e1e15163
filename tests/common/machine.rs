//! The virtual machine of `tests/services/vm`, for tests that need a kernel with more than
//! this one has, as a client of NFS. Such tests are ignored ones: an ordinary test of the
//! same program runs them inside.

use std::ffi::OsStr;
use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Set inside.
const INSIDE: &str = "CINDERFS_TEST_MACHINE";

/// Whether we are inside.
#[must_use]
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Runs those ignored tests of this program that `filters` choose, as on the command line of
/// such a program, one after the other, in a machine of their own. There must be some, and
/// none may fail. Does nothing when the machine is not installed and `--quick` leaves it out.
pub fn run_ignored(filters: &[impl AsRef<OsStr>], time_limit: Duration) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if !root.join("target/services/vm/complete").exists() {
        let quick = std::env::var_os("CINDERFS_TEST_QUICK").is_some();
        assert!(
            quick,
            "the virtual machine is missing: run tests/services/vm/install, or `tests/run --quick`"
        );
        eprintln!("left out, for the virtual machine is not installed");
        return;
    }
    let mut run = Command::new(root.join("tests/services/vm/run"));
    run.arg("--until-eof");
    run.arg(format!("--time-limit={}", time_limit.as_secs()));
    run.arg(format!("--set={INSIDE}=1"));
    run.arg(std::env::current_exe().unwrap());
    run.args(["--ignored", "--test-threads=1"]).args(filters);
    run.stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = run.spawn().unwrap();
    // Closed when we end, however that comes about, and then the machine ends.
    let input = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    drop(input);
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    let _ = write!(said, "{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success(),
        "in the virtual machine: {}\n{said}",
        output.status
    );
    assert!(
        said.contains("test result: ok. ") && !said.contains("test result: ok. 0 passed"),
        "in the virtual machine no test has run\n{said}"
    );
    println!("{said}");
}
