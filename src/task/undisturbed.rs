//! Calls that the program must not leave by ending.
//!
//! A thread that ends in the middle of a call to a file system has that call interrupted.
//! A client of GlusterFS whose server is silent, and whose lock is interrupted, was seen
//! to stand still ever after, for everybody who uses that mount, and to keep the thread
//! with it. That client gives up by itself, and then the call returns.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

static RUNNING: Mutex<Running> = Mutex::new(Running {
    undisturbed: 0,
    aside: 0,
});
static ENDED: Condvar = Condvar::new();

/// How many run.
struct Running {
    undisturbed: usize,
    aside: usize,
}

fn running() -> MutexGuard<'static, Running> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `call`, which may block. The program ends afterwards only, see [`settle`].
pub fn undisturbed<T>(call: impl FnOnce() -> T) -> T {
    running().undisturbed += 1;
    let done = call();
    running().undisturbed -= 1;
    ENDED.notify_all();
    done
}

/// Runs `work`, which clears up and which nobody waits for but the end of the program, and
/// that for a moment only, on a thread of its own.
pub fn aside(work: impl FnOnce() + Send + 'static) {
    running().aside += 1;
    let run = move || {
        work();
        running().aside -= 1;
        ENDED.notify_all();
    };
    if std::thread::Builder::new().spawn(run).is_err() {
        // It was dropped with what it should have done.
        running().aside -= 1;
    }
}

/// Waits until nothing of that runs, but no longer than `moment`, and until no call runs
/// that must not be disturbed, but no longer than `limit`: whether that is so. Blocks.
pub fn settle(moment: Duration, limit: Duration) -> bool {
    let all = |running: &mut Running| running.undisturbed + running.aside > 0;
    drop(ENDED.wait_timeout_while(running(), moment, all));
    if running().undisturbed > 0 {
        tracing::warn!("waiting for a call that a file server holds");
    }
    let waited = ENDED.wait_timeout_while(running(), limit, |running| running.undisturbed > 0);
    waited.unwrap_or_else(PoisonError::into_inner).0.undisturbed == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn what_runs_is_waited_for() {
        let (go_on, wait) = channel();
        let (say, hear) = channel();
        let thread = std::thread::spawn(move || {
            undisturbed(|| {
                say.send(()).unwrap();
                wait.recv().unwrap();
            });
        });
        hear.recv().unwrap();
        let moment = Duration::from_millis(50);
        assert!(!settle(moment, moment));
        go_on.send(()).unwrap();
        assert!(settle(moment, Duration::from_secs(60)));
        thread.join().unwrap();
    }
}
