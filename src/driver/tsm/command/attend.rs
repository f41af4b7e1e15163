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
/// How long one that is asked to end may take, before it is ended; and how long one may take
/// that is ended: a script may have made it another user's, or the kernel may not let go of it.
pub(super) const GRACE: Duration = Duration::from_secs(2);
/// How long one may run of which nobody can see whether it gets on.
const UNSEEN: Duration = Duration::from_secs(24 * 3600);
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
    /// Why there is no more of it, if that is not its end.
    failed: Option<String>,
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
                Err(e) => {
                    let mut output = into.lock().unwrap_or_else(PoisonError::into_inner);
                    output.failed = Some(e.to_string());
                    break;
                }
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
    let started = std::thread::Builder::new()
        .name("dsmc-output".into())
        .spawn(read);
    if let Err(e) = started {
        let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
        output.failed = Some(e.to_string());
        drop(output);
        over.store(true, Ordering::SeqCst);
    }
    (output, over)
}

/// Waits for a client, and ends it when it is time, or when nobody wants it any more. Gives
/// it back if it cannot be ended: it is to be waited for, for however long that takes.
pub(super) fn attend(
    child: Child,
    patience: Duration,
    signs: &Signs,
    is_wanted: impl Fn() -> bool,
) -> (Ended, Option<Child>) {
    attend_by(child, patience, signs, is_wanted, signal_group)
}

/// The same, with what ends a group.
fn attend_by(
    mut child: Child,
    patience: Duration,
    signs: &Signs,
    is_wanted: impl Fn() -> bool,
    signal_group: impl Fn(u32, Signal),
) -> (Ended, Option<Child>) {
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
        let told = sign_of(signs, pid);
        let patience = told.map_or(patience.max(UNSEEN), |_| patience);
        let sign = told.unwrap_or(seen);
        if sign >= seen + SIGN || matches!(signs, Signs::File(_)) && sign != seen {
            (seen, alive) = (sign, Instant::now());
        }
        found = found.or_else(|| match is_wanted() {
            true => (alive.elapsed() >= patience).then_some(End::TimedOut(patience)),
            false => Some(End::BrokenOff),
        });
        if let Some(end) = found {
            signal_group(pid, Signal::TERM);
            ends_in(pid, GRACE);
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
    let (end, left) = match ends_in(pid, GRACE) {
        true => {
            let status = child.wait();
            drain(&streams, GRACE);
            let end = match status.map(|s| (s.code(), s.signal())) {
                Ok((Some(code), _)) => End::Exit(code),
                Ok((None, signal)) => End::Signal(signal.unwrap_or_default()),
                Err(_) => End::Signal(0),
            };
            let cut = streams.iter().find_map(cut_off);
            let end = asked_to_end.or(cut.map(End::CutOff)).unwrap_or(end);
            (end, None)
        }
        false => {
            tracing::error!("dsmc (process {pid}) cannot be ended, and is left to itself");
            (asked_to_end.unwrap_or(End::TimedOut(patience)), Some(child))
        }
    };
    let text = streams.map(|(stream, _)| {
        let output = stream.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&output.bytes).replace('\r', "")
    });
    let text = text.join("\n");
    (Ended { end, text }, left)
}

/// Why not all of a stream was heard of a client that has ended.
fn cut_off((stream, over): &(Stream, Arc<AtomicBool>)) -> Option<String> {
    if !over.load(Ordering::SeqCst) {
        return Some("something that it has started goes on".into());
    }
    let output = stream.lock().unwrap_or_else(PoisonError::into_inner);
    let too_much = output.too_much.then(|| "it is too much".into());
    output.failed.clone().or(too_much)
}

/// Whether a child ends in time.
fn ends_in(pid: u32, patience: Duration) -> bool {
    let start = Instant::now();
    while !has_ended(pid) {
        if start.elapsed() >= patience {
            return false;
        }
        std::thread::sleep(LOOK);
    }
    true
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

/// A number that grows while the client gets on; `None` when nobody can see that.
fn sign_of(signs: &Signs, pid: u32) -> Option<u64> {
    match signs {
        Signs::None => Some(0),
        Signs::File(path) => Some(std::fs::metadata(path).map_or(0, |stat| {
            use std::os::unix::fs::MetadataExt;
            // One that has its size from the beginning still takes more and more room.
            stat.len() + stat.blocks()
        })),
        Signs::Reading => {
            // That of another user's process cannot be read.
            let text = std::fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
            let read = text.lines().find_map(|line| line.strip_prefix("rchar:"));
            read?.trim().parse().ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn one_that_cannot_be_ended_is_not_waited_for() {
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        let patience = Duration::from_millis(100);
        // As it is with one that a script has made another user's.
        let deaf = |_: u32, _: Signal| ();
        let (ended, left) = attend_by(child, patience, &Signs::None, || true, deaf);
        assert_eq!(ended.end, End::TimedOut(patience));
        let mut left = left.unwrap();
        left.kill().unwrap();
        left.wait().unwrap();
    }

    #[test]
    fn what_cannot_be_seen_is_no_sign_that_it_hangs() {
        assert_eq!(sign_of(&Signs::Reading, 0), None);
        assert!(sign_of(&Signs::Reading, std::process::id()).is_some());
    }
}
