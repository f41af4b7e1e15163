//! The signals that ask for the end.

use crate::error::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Those that have a handler of ours since [`Signals::listen`].
pub struct Signals(Vec<Signal>);

impl Signals {
    /// SIGTERM, SIGINT and SIGHUP (a terminal that is gone), but for those that who started
    /// us wants to be ignored, as nohup does. Call it within the runtime.
    ///
    /// # Errors
    /// Those of the system.
    pub fn listen() -> Result<Self> {
        let all = [
            SignalKind::terminate(),
            SignalKind::interrupt(),
            SignalKind::hangup(),
        ];
        let ignored = ignored();
        let heard = all
            .iter()
            .filter(|kind| !is_in(ignored, kind.as_raw_value()));
        let signals: std::io::Result<Vec<Signal>> = heard.map(|kind| signal(*kind)).collect();
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

/// The signals that are ignored, a bit for each. A handler of ours would end that.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

fn is_in(mask: u64, number: i32) -> bool {
    u32::try_from(number - 1).is_ok_and(|bit| mask.checked_shr(bit).unwrap_or(0) & 1 == 1)
}

/// Becomes true with the first signal, and `say` is told; the second one ends the
/// program. For work that has to be cleared away when it is broken off.
///
/// # Errors
/// Those of the system.
pub fn stop_at_signals(say: impl Fn(&str) + Send + 'static) -> Result<Arc<AtomicBool>> {
    let mut signals = Signals::listen()?;
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
