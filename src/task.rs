//! Work that blocks or computes, moved off the threads that answer requests.

mod patience;
mod undisturbed;

pub use patience::{Pulse, patiently};
pub use undisturbed::{aside, settle, undisturbed};

use crate::error::{Error, Kind, Result};
use std::ops::{Deref, DerefMut};
use std::task::Poll;
use std::time::Instant;
use tokio::sync::{Mutex, MutexGuard};

/// Runs `work` on a thread that may block. A panic in it becomes an error of the one
/// request that needed it.
///
/// # Errors
/// Those of `work`.
pub async fn blocking<T, F>(work: F) -> Result<T>
where
    F: FnOnce() -> Result<T> + Send + 'static,
    T: Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(lost(&e)),
    }
}

/// The failure of work that ended by a panic.
fn lost(e: &tokio::task::JoinError) -> Error {
    let reason = format!("it ended by a fault of the program: {e}");
    Error::new(Kind::Unavailable, "finish", "a task of the daemon", reason)
        .advise("please report this as a bug")
}

/// Runs all of `futures` at the same time, on the task that waits for them: they may
/// borrow. Meant for a few that leave their work to [`blocking`].
pub async fn together<F: Future<Output = ()>>(futures: impl IntoIterator<Item = F>) {
    let mut running: Vec<_> = futures.into_iter().map(Box::pin).collect();
    std::future::poll_fn(|context| {
        running.retain_mut(|future| future.as_mut().poll(context).is_pending());
        match running.is_empty() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
}

/// How many threads may usefully compute at a time.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

/// A value that one at a time may use, of those who wait for something to come of it. Who
/// uses it and fails for want of an answer does so for all who have been waiting by then:
/// otherwise each of them would wait for the same answer in turn, and the last one for
/// longer than anything may take.
#[derive(Debug, Default)]
pub struct Queue<T> {
    place: Mutex<Place<T>>,
}

#[derive(Debug, Default)]
struct Place<T> {
    value: T,
    failed: Option<(Instant, Error)>,
}

/// The value, for who has waited for it.
#[derive(Debug)]
pub struct Turn<'a, T> {
    place: MutexGuard<'a, Place<T>>,
}

impl<T> Queue<T> {
    /// Nobody waits yet.
    pub fn new(value: T) -> Self {
        let failed = None;
        Self {
            place: Mutex::new(Place { value, failed }),
        }
    }

    /// Waits for all who came before.
    ///
    /// # Errors
    /// What one of those has failed with meanwhile; see [`Turn::note`].
    pub async fn turn(&self) -> Result<Turn<'_, T>> {
        let came = Instant::now();
        let place = self.place.lock().await;
        match &place.failed {
            Some((at, error)) if *at >= came => Err(error.clone()),
            _ => Ok(Turn { place }),
        }
    }

    /// The same for who needs no answer.
    pub async fn value(&self) -> Turn<'_, T> {
        let place = self.place.lock().await;
        Turn { place }
    }
}

impl<T> Turn<'_, T> {
    /// What has come of it: others are told of what went wrong because nobody answered.
    pub fn note<R>(&mut self, outcome: Result<R>) -> Result<R> {
        if let Err(e) = &outcome
            && matches!(e.kind(), Kind::Unavailable | Kind::TimedOut)
        {
            self.place.failed = Some((Instant::now(), e.clone()));
        }
        outcome
    }
}

impl<T> Deref for Turn<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.place.value
    }
}

impl<T> DerefMut for Turn<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.place.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn one_failure_for_all_who_wait() {
        let queue = Arc::new(Queue::new(0));
        let mut first = queue.turn().await.unwrap();
        let wait = |queue: Arc<Queue<i32>>| async move { queue.turn().await.map(drop) };
        let waiting: Vec<_> = (0..3)
            .map(|_| tokio::spawn(wait(Arc::clone(&queue))))
            .collect();
        tokio::task::yield_now().await;
        let failure = Error::new(Kind::TimedOut, "read", "x", "no answer");
        assert!(first.note::<()>(Err(failure)).is_err());
        drop(first);
        for waiting in waiting {
            assert_eq!(waiting.await.unwrap().unwrap_err().kind(), Kind::TimedOut);
        }
        // Who comes later tries again.
        let mut turn = queue.turn().await.unwrap();
        *turn += 1;
        let damage = Error::corrupt("read", "x", "bad");
        assert!(turn.note::<()>(Err(damage)).is_err());
        let waiting = tokio::spawn(wait(Arc::clone(&queue)));
        tokio::task::yield_now().await;
        drop(turn);
        assert!(waiting.await.unwrap().is_ok());
    }
}
