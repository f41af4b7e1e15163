//! Work that blocks or computes, moved off the threads that answer requests.

use crate::error::{Error, Kind, Result};
use std::task::Poll;

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
        Err(lost) => Err(Error::new(
            Kind::Unavailable,
            "finish",
            "a task of the daemon",
            format!("it ended by a fault of the program: {lost}"),
        )
        .advise("please report this as a bug")),
    }
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
