//! How many of the client run at a time: each is a session of the server's, and each that
//! transfers may take a drive.

use crate::error::{Error, Kind, Result};
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{Semaphore, SemaphorePermit};

/// So many of a kind.
const MOST: usize = 4;

/// What those of one kind pass before they run.
#[derive(Debug)]
pub struct Gate {
    /// What they do there, for messages.
    verb: &'static str,
    places: Semaphore,
    waiting: AtomicUsize,
}

/// One who waits.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Gate {
    /// Nobody is there yet.
    pub fn new(verb: &'static str) -> Self {
        Self {
            verb,
            places: Semaphore::new(MOST),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Waits for a place, which is free again when what this gives is dropped.
    ///
    /// # Errors
    /// A fault of the program.
    pub async fn pass(&self) -> Result<SemaphorePermit<'_>> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let _waiting = Waiting(&self.waiting);
        let place = self.places.acquire().await;
        place.map_err(|e| Error::new(Kind::Unavailable, self.verb, "an object", e))
    }

    /// That some wait.
    pub fn waiting(&self) -> Option<Error> {
        let count = self.waiting.load(Ordering::SeqCst);
        let reason = format!("{count} wait for others: no more than {MOST} run at a time");
        (count > 0).then(|| Error::new(Kind::TimedOut, self.verb, "objects", reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_does_not_wait_any_more_is_not_counted() {
        let gate = Gate::new("fetch");
        let mut places = Vec::new();
        for _ in 0..MOST {
            places.push(gate.pass().await.unwrap());
        }
        assert!(gate.waiting().is_none());
        let look = async {
            tokio::task::yield_now().await;
            assert!(gate.waiting().unwrap().to_string().contains("1 wait"));
        };
        tokio::select! {
            biased;
            _ = gate.pass() => panic!("there is no place"),
            () = look => {}
        }
        assert!(gate.waiting().is_none());
        places.pop();
        drop(gate.pass().await.unwrap());
    }
}
