//! Work on threads that the program can afford to lose: in a call to a file system whose
//! server is gone, the kernel may hold a thread for as long as it likes.

use super::lost;
use crate::error::Result;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Signs of life of work that may hang, and the word that nobody waits for it any more.
#[derive(Debug, Clone, Default)]
pub struct Pulse(Option<Arc<Beat>>);

#[derive(Debug)]
struct Beat {
    last: Mutex<Instant>,
    given_up: AtomicBool,
}

impl Pulse {
    /// That of work that is waited for however long it takes.
    pub fn endless() -> Self {
        Self(None)
    }

    fn new() -> Self {
        Self(Some(Arc::new(Beat {
            last: Mutex::new(Instant::now()),
            given_up: AtomicBool::new(false),
        })))
    }

    /// Says that the work goes on. To be called after each step, and before one that cannot
    /// be taken back.
    ///
    /// # Errors
    /// When nobody waits for it any more: what was not done yet must not be done.
    pub fn beat(&self) -> io::Result<()> {
        let Some(beat) = &self.0 else {
            return Ok(());
        };
        if beat.given_up.load(Ordering::SeqCst) {
            let reason = "it has taken too long, and was given up";
            return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
        }
        *beat.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        Ok(())
    }

    fn last(&self) -> Option<Instant> {
        let beat = self.0.as_ref()?;
        Some(*beat.last.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn give_up(&self) {
        if let Some(beat) = &self.0 {
            beat.given_up.store(true, Ordering::SeqCst);
        }
    }
}

/// Runs `work` on a thread that may block, and waits until it has shown no sign of life for
/// `patience`. `None`: it was given up, and ends at its next beat, if it ever gets there.
///
/// # Errors
/// Those of `work`.
pub async fn patiently<T, F>(patience: Duration, work: F) -> Option<Result<T>>
where
    F: FnOnce(&Pulse) -> Result<T> + Send + 'static,
    T: Send + 'static,
{
    let pulse = Pulse::new();
    let own = pulse.clone();
    let mut working = tokio::task::spawn_blocking(move || work(&own));
    loop {
        let until = pulse.last()? + patience;
        tokio::select! {
            done = &mut working => return Some(done.unwrap_or_else(|e| Err(lost(&e)))),
            () = tokio::time::sleep_until(until.into()) => {}
        }
        if pulse.last()? + patience <= Instant::now() {
            pulse.give_up();
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[tokio::test]
    async fn what_goes_on_is_waited_for() {
        let patience = Duration::from_secs(1);
        let done = patiently(patience, move |pulse| {
            for _ in 0..6 {
                std::thread::sleep(patience / 4);
                pulse.beat().unwrap();
            }
            Ok(1)
        });
        assert_eq!(done.await.unwrap().unwrap(), 1);
    }

    #[tokio::test]
    async fn what_hangs_is_given_up_and_does_nothing_more() {
        let (go_on, wait) = channel();
        let (say, hear) = channel();
        let done = patiently(Duration::from_millis(50), move |pulse| {
            wait.recv().unwrap();
            say.send(pulse.beat().map_err(|e| e.kind())).unwrap();
            Ok(())
        });
        assert!(done.await.is_none());
        go_on.send(()).unwrap();
        assert_eq!(hear.recv().unwrap(), Err(io::ErrorKind::TimedOut));
    }

    #[tokio::test]
    async fn a_panic_is_an_error() {
        let done = patiently(Duration::from_secs(60), |_| -> Result<()> {
            panic!("a fault")
        });
        assert!(done.await.unwrap().is_err());
    }
}
