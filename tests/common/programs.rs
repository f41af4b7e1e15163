//! Other programs: started, waited for, run as other users, and with files open.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Nothing that is waited for takes so long; who does has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// No command of a test takes so long, in seconds.
const LONGEST_COMMAND: &str = "240";

/// An ordinary user: nobody.
pub const USER: &str = "65534";

/// Waits until `done` is true.
pub fn wait_for(what: &str, done: impl FnMut() -> bool) {
    wait_so_long(PATIENCE, what, done);
}

/// The same for what takes longer than all else.
pub fn wait_so_long(patience: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < patience, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a test that needs root can run. Without root only `--quick` may leave it out.
#[must_use]
pub fn is_root_for(what: &str) -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    let quick = std::env::var_os("CINDERFS_TEST_QUICK").is_some();
    assert!(
        quick,
        "{what} needs root: run the tests as root, or `tests/run --quick`"
    );
    eprintln!("left out, for it needs root: {what}");
    false
}

/// A command that ends in bounded time, even when a mount hangs.
pub fn command<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, arguments: &[S]) -> Command {
    let mut command = Command::new("timeout");
    command.args(["-k", "5", LONGEST_COMMAND]);
    command.arg(program).args(arguments).stdin(Stdio::null());
    command.env("LC_ALL", "C.UTF-8");
    command
}

/// `bash -c script`, whose `$1` and so on are the arguments.
pub fn shell<S: AsRef<OsStr>>(script: &str, arguments: &[S]) -> Command {
    let mut all = vec![OsStr::new("-c"), OsStr::new(script), OsStr::new("bash")];
    all.extend(arguments.iter().map(AsRef::as_ref));
    command("bash", &all)
}

pub fn output(command: &mut Command) -> Output {
    command
        .output()
        .unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"))
}

/// Runs a command that must succeed. Gives its standard output.
pub fn run(command: &mut Command) -> String {
    let output = output(command);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{said}",
        output.status
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command that must fail. Gives its exit code and standard error.
pub fn fail(command: &mut Command) -> (i32, String) {
    let output = output(command);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let code = output
        .status
        .code()
        .or(output.status.signal().map(|signal| 128 + signal));
    let code = code.unwrap_or(-1);
    assert!(code != 0, "{command:?} should have failed");
    assert!(code != 124, "{command:?} did not end");
    (code, said)
}

/// Arguments of setpriv(1) to run what follows them as an ordinary user of that group.
pub fn as_user(group: &str) -> [String; 3] {
    [
        format!("--reuid={USER}"),
        format!("--regid={group}"),
        "--clear-groups".to_owned(),
    ]
}

/// `bash -c script` as an ordinary user of that group.
pub fn shell_as_user<S: AsRef<OsStr>>(group: &str, script: &str, arguments: &[S]) -> Command {
    let mut all: Vec<std::ffi::OsString> = as_user(group).map(Into::into).into();
    all.extend(["bash", "-c", script, "bash"].map(Into::into));
    all.extend(
        arguments
            .iter()
            .map(|argument| argument.as_ref().to_owned()),
    );
    let mut command = command("setpriv", &all);
    command.current_dir("/");
    command
}

/// Lets everybody into a folder.
pub fn open_to_all(folder: &Path) {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A program that has written a file and not closed it. A descriptor of our own would
/// not do: whenever a test starts a program, all of ours are closed once in its process.
pub struct Holder(Child);

impl Holder {
    /// Writes that many blanks to a new file.
    pub fn new(path: &Path, length: u64) -> Self {
        let script = r#"exec >"$1"; (($2)) && printf '%*s' "$2" ''; read -r"#;
        let mut bash = Command::new("bash");
        bash.args(["-c", script, "bash"])
            .arg(path)
            .arg(length.to_string());
        let holder = Self(bash.stdin(Stdio::piped()).spawn().unwrap());
        let is_written = || path.metadata().is_ok_and(|stat| stat.len() == length);
        wait_for("the file is written", is_written);
        holder
    }

    /// Lets the program close the file.
    pub fn close(mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Writes a file as another program does: one that is closed once, and not, as any file
/// of ours, whenever some test starts a program.
pub fn write(path: &Path, data: &[u8]) {
    let mut child = Command::new("dd")
        .args(["bs=64k", "iflag=fullblock", "status=none"])
        .arg(format!("of={}", path.display()))
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(data).unwrap();
    assert!(child.wait().unwrap().success());
}
