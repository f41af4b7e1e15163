//! Runs a program that may hang, and hears what it has to say.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
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
/// its children. Blocks.
///
/// # Errors
/// When it cannot be started.
pub fn run(
    name: &str,
    arguments: &[&std::ffi::OsStr],
    limit: Duration,
    is_over: impl Fn() -> bool,
) -> io::Result<Ran> {
    // No pipe: what it leaves running in the background would keep that open.
    let mut words = tempfile::tempfile()?;
    let mut child = Command::new(name)
        .args(arguments)
        .env("PATH", PATH)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(words.try_clone()?)
        .stderr(words.try_clone()?)
        .process_group(0)
        .spawn()?;
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if start.elapsed() >= limit || is_over() {
            kill(&mut child);
            break None;
        }
        std::thread::sleep(LOOK);
    };
    let said = read(&mut words)?;
    Ok(Ran { status, said })
}

fn kill(child: &mut Child) {
    if let Some(group) = i32::try_from(child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw)
    {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    // Not waited for: the kernel may hold it still. It is gone with us at the latest.
    let _ = child.try_wait();
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
    use std::ffi::OsStr;

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
        let pid = ran
            .said
            .parse()
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.unwrap(), rustix::process::Signal::KILL).unwrap();
    }

    #[test]
    fn what_hangs_is_ended_with_its_children() {
        let ran = shell("echo $$; sleep 1000; true", Duration::from_millis(100));
        assert!(ran.status.is_none());
        assert!(!ran.said.is_empty());
    }
}
