//! Watching a client that runs: what it says, whether it gets on, and its end.
//!
//! Must not know what its words mean, but for a few by which it asks a question that nobody
//! will answer.

use super::{End, Ended, Signs};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use std::io::{self, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Nothing that the client has to say is longer, in bytes: a row for each of 200,000 objects.
const MOST_OUTPUT: usize = 64 << 20;
/// How often a client that runs is looked at.
pub(super) const LOOK: Duration = Duration::from_millis(20);
/// How long one that is asked to end may take, before it is ended.
pub(super) const GRACE: Duration = Duration::from_secs(2);
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

/// Waits for a client, and ends it when it is time, or when nobody wants it any more.
pub(super) fn attend(
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
        found = found.or_else(|| match is_wanted() {
            true => (alive.elapsed() >= patience).then_some(End::TimedOut(patience)),
            false => Some(End::BrokenOff),
        });
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
