//! Calls that the program must not leave by ending.
//!
//! A thread that ends in the middle of a call to a file system has that call interrupted.
//! A client of GlusterFS whose server is silent, and whose lock is interrupted, was seen
//! to stand still ever after, for everybody who uses that mount, and to keep the thread
//! with it.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

static RUNNING: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

fn running() -> MutexGuard<'static, usize> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `call`, which may block. The program ends afterwards only, see [`settle`].
pub fn undisturbed<T>(call: impl FnOnce() -> T) -> T {
    *running() += 1;
    let done = call();
    *running() -= 1;
    ENDED.notify_all();
    done
}

/// Runs `work`, which nobody waits for, on a thread of its own. The program ends
/// afterwards only.
pub fn aside(work: impl FnOnce() + Send + 'static) {
    *running() += 1;
    let run = move || {
        work();
        *running() -= 1;
        ENDED.notify_all();
    };
    if std::thread::Builder::new().spawn(run).is_err() {
        // It was dropped with what it should have done.
        *running() -= 1;
    }
}

/// Waits until no such call runs, but no longer than `limit`: whether that is so. Blocks.
pub fn settle(limit: Duration) -> bool {
    let waited = ENDED.wait_timeout_while(running(), limit, |running| *running > 0);
    *waited.unwrap_or_else(PoisonError::into_inner).0 == 0
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
        assert!(!settle(Duration::from_millis(50)));
        go_on.send(()).unwrap();
        assert!(settle(Duration::from_secs(60)));
        thread.join().unwrap();
    }
}
