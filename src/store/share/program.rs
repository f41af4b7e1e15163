//! Runs a program that may hang, and hears what it has to say.

use rustix::process::{Pid, Signal, kill_process_group};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How often it is looked whether it has ended.
const LOOK: Duration = Duration::from_millis(20);
/// systemd starts mounts without a path.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The most that is kept of what it says, in bytes.
const MOST_WORDS: u64 = 4096;

/// What came of a program.
pub struct Ran {
    /// `None` when it had to be ended.
    pub status: Option<ExitStatus>,
    /// What it said, on one line.
    pub said: String,
}

/// Runs it until it ends, `limit` is over, or `is_over` says so; then it is killed, with
/// its children. Blocks, and no longer than that: even to start a program may hang, for
/// what is open here is closed there, which a file system whose server is gone may hold.
///
/// # Errors
/// When it cannot be started.
pub fn run(
    name: &str,
    arguments: &[&OsStr],
    limit: Duration,
    is_over: impl Fn() -> bool,
) -> io::Result<Ran> {
    // No pipe: what it leaves running in the background would keep that open.
    let mut words = tempfile::tempfile()?;
    // By its whole path, and in the environment that is set here, it is started without a
    // copy of this process (posix_spawn), and its starting is not waited for.
    let program = find(name)?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("PATH", PATH)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(words.try_clone()?)
        .stderr(words.try_clone()?)
        .process_group(0);
    let end = Arc::new(AtomicBool::new(false));
    let (say, hear) = channel();
    let told = Arc::clone(&end);
    std::thread::Builder::new()
        .name("mount".into())
        .spawn(move || drop(say.send(watch(&mut command, &told))))?;
    let start = Instant::now();
    loop {
        match hear.recv_timeout(LOOK) {
            Ok(status) => {
                let said = read(&mut words)?;
                return status.map(|status| Ran { status, said });
            }
            Err(RecvTimeoutError::Disconnected) => return Err(io::ErrorKind::Other.into()),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if start.elapsed() >= limit || is_over() {
            // It is killed, and waited for, by the thread; nobody else waits.
            end.store(true, Ordering::SeqCst);
            let said = read(&mut words)?;
            return Ok(Ran { status: None, said });
        }
    }
}

/// Starts it, and waits for its end: `None` when it was told to end it.
fn watch(command: &mut Command, end: &AtomicBool) -> io::Result<Option<ExitStatus>> {
    let mut child = command.spawn()?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if end.load(Ordering::SeqCst) {
            let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            if let Some(group) = group {
                let _ = kill_process_group(group, Signal::KILL);
            }
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(LOOK);
    }
}

/// Where a program is.
fn find(name: &str) -> io::Result<PathBuf> {
    let mut places = PATH.split(':').map(|folder| Path::new(folder).join(name));
    places
        .find(|path| path.is_file())
        .ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn read(words: &mut File) -> io::Result<String> {
    let mut said = Vec::new();
    words.rewind()?;
    words.take(MOST_WORDS).read_to_end(&mut said)?;
    let said = String::from_utf8_lossy(&said);
    let lines: Vec<&str> = said
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    Ok(lines.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> Ran {
        let arguments = [OsStr::new("-c"), OsStr::new(script)];
        run("sh", &arguments, limit, || false).unwrap()
    }

    #[test]
    fn its_words_and_its_end_are_told() {
        let ran = shell("echo one; echo two >&2; exit 3", Duration::from_secs(60));
        assert_eq!(ran.said, "one; two");
        assert_eq!(ran.status.and_then(|status| status.code()), Some(3));
    }

    #[test]
    fn what_it_leaves_in_the_background_is_not_waited_for() {
        let ran = shell("sleep 30 & echo $!", Duration::from_secs(20));
        assert!(ran.status.is_some_and(|status| status.success()));
        let pid = ran.said.parse().ok().and_then(Pid::from_raw);
        rustix::process::kill_process(pid.unwrap(), Signal::KILL).unwrap();
    }

    #[test]
    fn what_hangs_is_ended_with_its_children() {
        let ran = shell("echo $$; sleep 1000; true", Duration::from_millis(100));
        assert!(ran.status.is_none());
        assert!(!ran.said.is_empty());
    }
}
