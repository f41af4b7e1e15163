//! Running IBM's client: without a terminal, in a process group of its own, for no longer
//! than it may take, and never for longer than this program runs.
//!
//! Knows processes; must not know what the client's words mean.

mod attend;

use super::stage::make_private;
use crate::error::{Error, Kind, Result};
use attend::{GRACE, LOOK, attend};
use rustix::process::Signal;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How it is told that a client gets on.
#[derive(Debug)]
pub enum Signs {
    /// It does not transfer anything.
    None,
    /// This file grows.
    File(PathBuf),
    /// It reads.
    Reading,
}

/// Something that the client is to do.
#[derive(Debug)]
pub struct Call {
    /// What that is, for messages.
    pub op: &'static str,
    /// To what, for messages.
    pub subject: String,
    /// The command line, without the program.
    pub arguments: Vec<OsString>,
    /// The longest that it may show no sign of life.
    pub patience: Duration,
    /// What such signs are.
    pub signs: Signs,
    /// Once this is set, it is broken off.
    pub stop: Arc<AtomicBool>,
}

/// How the client has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// With this code.
    Exit(i32),
    /// By this signal, which we did not send.
    Signal(i32),
    /// It was ended, for it showed no sign of life for so long.
    TimedOut(Duration),
    /// It was ended, for it asked this.
    Asked(String),
    /// It was ended, for it said more than anybody could want to know.
    Flooded,
    /// It was ended, for nobody wants it to be done any more.
    BrokenOff,
    /// It has ended, and not all that it has said was heard.
    CutOff(String),
}

/// What a client has left.
#[derive(Debug, Clone)]
pub struct Ended {
    pub end: End,
    /// All that it has said on either stream.
    pub text: String,
}

/// See the module's page.
#[derive(Debug)]
pub struct Runner {
    program: PathBuf,
    /// Where it runs, and leaves its log if nobody says where.
    folder: PathBuf,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    closing: AtomicBool,
    running: AtomicUsize,
}

/// The call is for nobody any more when this is dropped.
struct Wanted(Arc<AtomicBool>);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl Runner {
    /// Nothing runs yet. The folder is made when it is needed.
    pub fn new(program: &Path, folder: &Path) -> Self {
        Self {
            program: program.to_owned(),
            folder: folder.to_owned(),
            shared: Arc::default(),
        }
    }

    /// Where the client runs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Runs the client to its end. It is ended when this is not waited for any more, or when
    /// its call says so; it has ended when this returns, if it can be ended at all.
    ///
    /// # Errors
    /// When it cannot be run; what it says is for others to judge.
    pub async fn run(&self, call: Call) -> Result<Ended> {
        let lost = |reason: String| {
            Error::new(Kind::Unavailable, call.op, &call.subject, reason)
                .advise("please report this as a bug")
        };
        let (tell, told) = oneshot::channel();
        let wanted = Arc::new(AtomicBool::new(true));
        let _wanted = Wanted(Arc::clone(&wanted));
        let mut command = self.command(&call)?;
        let (patience, signs, shared) = (call.patience, call.signs, Arc::clone(&self.shared));
        let program = self.program.clone();
        let (op, subject, stop) = (call.op, call.subject.clone(), call.stop);
        shared.running.fetch_add(1, Ordering::SeqCst);
        // A thread of its own, which lives as long as the client: the kernel ends the client
        // with the thread that has started it.
        let work = move || {
            let (ended, left) = match command.spawn() {
                Ok(child) => {
                    let is_over = || {
                        let ends = [&*stop, &shared.closing];
                        ends.iter().any(|end| end.load(Ordering::SeqCst))
                    };
                    let is_wanted = || wanted.load(Ordering::SeqCst) && !is_over();
                    let (ended, left) = attend(child, patience, &signs, is_wanted);
                    (Ok(ended), left)
                }
                Err(e) => (Err(not_started(op, &subject, &program, &e)), None),
            };
            shared.running.fetch_sub(1, Ordering::SeqCst);
            let _ = tell.send(ended);
            if let Some(mut child) = left {
                let _ = child.wait();
            }
        };
        let started = std::thread::Builder::new().name("dsmc".into()).spawn(work);
        if let Err(e) = started {
            self.shared.running.fetch_sub(1, Ordering::SeqCst);
            return Err(Error::io(call.op, &call.subject, &e));
        }
        let told = told.await;
        told.unwrap_or_else(|_| {
            Err(lost(
                "its thread has ended by a fault of the program".into(),
            ))
        })
    }

    fn command(&self, call: &Call) -> Result<Command> {
        make_private(&self.folder).map_err(|e| {
            Error::io("make the folder", self.folder.display().to_string(), &e)
                .advise("set backup_tsm_staging_path to a folder that may be written to")
        })?;
        let mut command = Command::new(&self.program);
        command
            .args(&call.arguments)
            .current_dir(&self.folder)
            .env("LC_ALL", "C")
            .env("LANG", "C")
            // So that it tells times as they are kept here.
            .env("TZ", "UTC")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if std::env::var_os("DSM_LOG").is_none() {
            command.env("DSM_LOG", &self.folder);
        }
        let parent = rustix::process::getpid();
        let bind = move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // A group of its own, and no terminal that it could ask on.
            rustix::process::setsid()?;
            match rustix::process::getppid() == Some(parent) {
                true => Ok(()),
                // This program has ended.
                false => Err(io::Error::from_raw_os_error(libc::ESRCH)),
            }
        };
        // SAFETY: between fork and exec it only makes three system calls, and allocates nothing.
        unsafe { command.pre_exec(bind) };
        Ok(command)
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        let start = Instant::now();
        while self.shared.running.load(Ordering::SeqCst) > 0 && start.elapsed() < 2 * GRACE {
            std::thread::sleep(LOOK);
        }
    }
}

fn not_started(op: &'static str, subject: &str, program: &Path, e: &io::Error) -> Error {
    let reason = format!("{} cannot be run: {e}", program.display());
    Error::new(Kind::Unavailable, op, subject, reason)
        .advise("install IBM's backup-archive client, or set backup_tsm_dsmc_path")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runner() -> (tempfile::TempDir, Runner) {
        let folder = tempfile::tempdir().unwrap();
        let runner = Runner::new(Path::new("/bin/sh"), folder.path());
        (folder, runner)
    }

    fn call(script: &str, patience: f64) -> Call {
        Call {
            op: "run",
            subject: "a script".into(),
            arguments: vec!["-c".into(), script.into()],
            patience: Duration::from_secs_f64(patience),
            signs: Signs::None,
            stop: Arc::default(),
        }
    }

    #[tokio::test]
    async fn hears_both_streams_and_has_no_input() {
        let (_folder, runner) = runner();
        let script = "echo one; echo two >&2; cat; echo $LC_ALL; exit 8";
        let ended = runner.run(call(script, 60.0)).await.unwrap();
        assert_eq!(ended.end, End::Exit(8));
        assert_eq!(ended.text, "one\nC\n\ntwo\n");
        let ended = runner.run(call("kill -TERM $$", 60.0)).await.unwrap();
        assert_eq!(ended.end, End::Signal(libc::SIGTERM));
    }

    #[tokio::test]
    async fn what_hangs_asks_or_talks_without_end_is_ended_with_all_that_it_started() {
        let (folder, runner) = runner();
        let pids = folder.path().join("pids");
        let children = format!("sleep 1000 & echo $! >> {}; ", pids.display());
        let ended = runner
            .run(call(&format!("{children}wait"), 0.3))
            .await
            .unwrap();
        assert!(matches!(ended.end, End::TimedOut(_)));
        let script = format!("{children}echo 'Action [1,2] :'; wait");
        let ended = runner.run(call(&script, 60.0)).await.unwrap();
        assert_eq!(ended.end, End::Asked("Action [1,2] :".into()));
        let ended = runner
            .run(call("while :; do cat /bin/sh; done", 60.0))
            .await;
        assert_eq!(ended.unwrap().end, End::Flooded);
        let unwanted = call(&format!("{children}wait"), 60.0);
        let stop = Arc::clone(&unwanted.stop);
        let stopping = std::thread::spawn(move || {
            std::thread::sleep(LOOK);
            stop.store(true, Ordering::SeqCst);
        });
        assert_eq!(runner.run(unwanted).await.unwrap().end, End::BrokenOff);
        stopping.join().unwrap();
        for pid in std::fs::read_to_string(&pids).unwrap().lines() {
            // One that has ended, and whom nobody has missed yet, is a zombie.
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            assert!(stat.is_empty() || stat.contains(" Z "), "{stat}");
        }
    }

    #[tokio::test]
    async fn what_is_not_heard_to_its_end_is_not_all_that_was_said() {
        let (folder, runner) = runner();
        let pid = folder.path().join("pid");
        // It leaves the group, and the streams are its own as well.
        let script = format!("setsid sleep 1000 & echo $! > {}; echo all", pid.display());
        let ended = runner.run(call(&script, 60.0)).await.unwrap();
        assert!(matches!(ended.end, End::CutOff(_)), "{:?}", ended.end);
        let pid = std::fs::read_to_string(pid).unwrap();
        let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
    }

    #[tokio::test]
    async fn one_that_is_not_there_is_told_of() {
        let folder = tempfile::tempdir().unwrap();
        let runner = Runner::new(Path::new("/nowhere/dsmc"), folder.path());
        let error = runner.run(call("", 1.0)).await.unwrap_err();
        assert!(
            error.to_string().contains("backup_tsm_dsmc_path"),
            "{error}"
        );
    }
}
