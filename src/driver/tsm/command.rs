//! Running IBM's client: without a terminal, in a process group of its own, for no longer
//! than it may take, and never for longer than this program runs.
//!
//! Knows processes and streams; must not know what the client's words mean, but for a few by
//! which it asks a question that nobody will answer.

use super::stage::make_private;
use crate::error::{Error, Kind, Result};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Nothing that the client has to say is longer, in bytes: a row for each of 200,000 objects.
const MOST_OUTPUT: usize = 64 << 20;
/// How often a client that runs is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How long one that is asked to end may take, before it is ended.
const GRACE: Duration = Duration::from_secs(2);
/// So much has to be read or written to count as a sign of life, in bytes: whoever only waits
/// looks into a file now and then.
const SIGN: u64 = 64 << 10;
/// What the client says before it waits for an answer.
const QUESTIONS: [&str; 5] = [
    // A wrong id or password. A question follows, in words of the node's language.
    "ANS1051I",
    "User Action is Required",
    "Action [",
    "enter your password",
    "enter password for",
];

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

    /// Runs the client to its end. It is ended when this is not waited for any more.
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
        let (op, subject) = (call.op, call.subject.clone());
        shared.running.fetch_add(1, Ordering::SeqCst);
        // A thread of its own, which lives as long as the client: the kernel ends the client
        // with the thread that has started it.
        let work = move || {
            let ended = match command.spawn() {
                Ok(child) => {
                    let is_wanted =
                        || wanted.load(Ordering::SeqCst) && !shared.closing.load(Ordering::SeqCst);
                    Ok(attend(child, patience, &signs, is_wanted))
                }
                Err(e) => Err(not_started(op, &subject, &program, &e)),
            };
            shared.running.fetch_sub(1, Ordering::SeqCst);
            let _ = tell.send(ended);
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

#[derive(Debug, Default)]
struct Output {
    bytes: Vec<u8>,
    too_much: bool,
}

type Stream = Arc<Mutex<Output>>;

/// Reads a stream to its end, on a thread of its own.
fn listen(stream: Option<impl Read + Send + 'static>) -> (Stream, Arc<AtomicBool>) {
    let (output, over) = (Stream::default(), Arc::new(AtomicBool::new(false)));
    let (into, done) = (Arc::clone(&output), Arc::clone(&over));
    let read = move || {
        let mut piece = vec![0; 64 << 10];
        let mut stream = stream;
        while let Some(read) = stream.as_mut().map(|stream| stream.read(&mut piece)) {
            let some = match read {
                Ok(0) => break,
                Ok(some) => some,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            let mut output = into.lock().unwrap_or_else(PoisonError::into_inner);
            if output.bytes.len() + some > MOST_OUTPUT {
                output.too_much = true;
                break;
            }
            output
                .bytes
                .extend_from_slice(piece.get(..some).unwrap_or_default());
        }
        done.store(true, Ordering::SeqCst);
    };
    if std::thread::Builder::new()
        .name("dsmc-output".into())
        .spawn(read)
        .is_err()
    {
        over.store(true, Ordering::SeqCst);
    }
    (output, over)
}

/// Waits for a client, and ends it when it is time.
fn attend(
    mut child: Child,
    patience: Duration,
    signs: &Signs,
    is_wanted: impl Fn() -> bool,
) -> Ended {
    let streams = [listen(child.stdout.take()), listen(child.stderr.take())];
    let pid = child.id();
    let (mut seen, mut alive) = (0, Instant::now());
    let mut heard = [0, 0];
    let asked_to_end = loop {
        if has_ended(pid) {
            break None;
        }
        let mut found = None;
        for ((stream, _), heard) in streams.iter().zip(&mut heard) {
            let output = stream.lock().unwrap_or_else(PoisonError::into_inner);
            if output.too_much {
                found = Some(End::Flooded);
            }
            if output.bytes.len() > *heard {
                // A question may have come in two pieces.
                let from = heard.saturating_sub(80);
                found = found.or_else(|| question(output.bytes.get(from..)?).map(End::Asked));
                *heard = output.bytes.len();
            }
        }
        let sign = sign_of(signs, pid);
        if sign >= seen + SIGN || matches!(signs, Signs::File(_)) && sign != seen {
            (seen, alive) = (sign, Instant::now());
        }
        if found.is_none() && (alive.elapsed() >= patience || !is_wanted()) {
            found = Some(End::TimedOut(patience));
        }
        if let Some(end) = found {
            signal_group(pid, Signal::TERM);
            let start = Instant::now();
            while !has_ended(pid) && start.elapsed() < GRACE {
                std::thread::sleep(LOOK);
            }
            break Some(end);
        }
        std::thread::sleep(LOOK);
    };
    if asked_to_end.is_none() {
        drain(&streams, GRACE);
    }
    // Also what it may have started, and left behind. Nobody has waited for it yet, so that
    // its number is nobody else's.
    signal_group(pid, Signal::KILL);
    let status = child.wait();
    drain(&streams, GRACE);
    let end = asked_to_end.unwrap_or_else(|| match status.map(|s| (s.code(), s.signal())) {
        Ok((Some(code), _)) => End::Exit(code),
        Ok((None, signal)) => End::Signal(signal.unwrap_or_default()),
        Err(_) => End::Signal(0),
    });
    let text = streams.map(|(stream, _)| {
        let output = stream.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&output.bytes).replace('\r', "")
    });
    Ended {
        end,
        text: text.join("\n"),
    }
}

fn drain(streams: &[(Stream, Arc<AtomicBool>)], patience: Duration) {
    let start = Instant::now();
    let is_open = |(_, over): &(Stream, Arc<AtomicBool>)| !over.load(Ordering::SeqCst);
    while streams.iter().any(is_open) && start.elapsed() < patience {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether a child has ended. It keeps its number until it is waited for.
fn has_ended(pid: u32) -> bool {
    let Some(pid) = Pid::from_raw(pid.cast_signed()) else {
        return true;
    };
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(rustix::process::waitid(WaitId::Pid(pid), options), Ok(None))
}

/// A group has the number of its first process, and keeps it while anybody is in it.
fn signal_group(pid: u32, signal: Signal) {
    if let Some(group) = Pid::from_raw(pid.cast_signed()) {
        let _ = rustix::process::kill_process_group(group, signal);
    }
}

fn question(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let asks = |line: &&str| QUESTIONS.iter().any(|question| line.contains(question));
    text.lines().find(asks).map(|line| line.trim().to_owned())
}

/// A number that grows while the client gets on.
fn sign_of(signs: &Signs, pid: u32) -> u64 {
    match signs {
        Signs::None => 0,
        Signs::File(path) => std::fs::metadata(path).map_or(0, |stat| {
            use std::os::unix::fs::MetadataExt;
            // One that has its size from the beginning still takes more and more room.
            stat.len() + stat.blocks()
        }),
        Signs::Reading => {
            let text = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
            let read = text.lines().find_map(|line| line.strip_prefix("rchar:"));
            read.and_then(|number| number.trim().parse().ok())
                .unwrap_or(0)
        }
    }
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
        for pid in std::fs::read_to_string(&pids).unwrap().lines() {
            // One that has ended, and whom nobody has missed yet, is a zombie.
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            assert!(stat.is_empty() || stat.contains(" Z "), "{stat}");
        }
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
