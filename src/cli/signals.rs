//! The signals that ask for the end.

use crate::error::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Those that have a handler of ours since [`Signals::listen`].
pub struct Signals(Vec<Signal>);

impl Signals {
    /// SIGTERM and SIGINT, and `others`. Call it within the runtime.
    ///
    /// # Errors
    /// Those of the system.
    pub fn listen(others: &[SignalKind]) -> Result<Self> {
        let usual = [SignalKind::terminate(), SignalKind::interrupt()];
        let all = usual.iter().chain(others);
        let signals: std::io::Result<Vec<Signal>> = all.map(|kind| signal(*kind)).collect();
        signals
            .map(Self)
            .map_err(|e| Error::io("wait for", "signals", &e))
    }

    /// Returns when one of them has come.
    pub async fn any(&mut self) {
        std::future::poll_fn(|context| {
            let mut signals = self.0.iter_mut();
            match signals.any(|signal| signal.poll_recv(context).is_ready()) {
                true => std::task::Poll::Ready(()),
                false => std::task::Poll::Pending,
            }
        })
        .await;
    }
}

/// Becomes true with the first signal, and `say` is told; the second one ends the
/// program. For work that has to be cleared away when it is broken off.
///
/// # Errors
/// Those of the system.
pub fn stop_at_signals(say: impl Fn(&str) + Send + 'static) -> Result<Arc<AtomicBool>> {
    let mut signals = Signals::listen(&[])?;
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    tokio::spawn(async move {
        signals.any().await;
        asked.store(true, Ordering::Release);
        say("interrupted, ending; once more ends it at once");
        signals.any().await;
        std::process::exit(1);
    });
    Ok(stop)
}
