//! Threads for calls of Ceph's libraries that block: such a call may hang for as long as a
//! cluster does not answer. Who waits for it does so until its deadline; the thread is lost
//! until the call returns, and there are only so many.

use super::failure::{Deadline, timed_out};
use crate::error::{Error, Kind, Result};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tokio::sync::{Semaphore, oneshot};

/// So many calls of a backend may hang at a time.
const MOST: usize = 16;

/// See the module's page.
#[derive(Debug, Clone)]
pub struct Threads {
    free: Arc<Semaphore>,
}

impl Default for Threads {
    fn default() -> Self {
        Self {
            free: Arc::new(Semaphore::new(MOST)),
        }
    }
}

impl Threads {
    /// Runs a call on a thread of its own. What is given up is finished by the thread, and
    /// its result dropped there.
    ///
    /// # Errors
    /// Those of the call, and `TimedOut` when it has not returned in time.
    pub async fn run<T: Send + 'static>(
        &self,
        op: &'static str,
        subject: &str,
        deadline: Deadline,
        call: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let late = || timed_out(op, subject, deadline);
        let free = Arc::clone(&self.free);
        let permit = tokio::time::timeout_at(deadline.at(), free.acquire_owned()).await;
        let Ok(Ok(permit)) = permit else {
            return Err(late());
        };
        let (sender, answer) = oneshot::channel();
        let run = move || {
            let result = catch_unwind(AssertUnwindSafe(call));
            drop(permit);
            if let Ok(result) = result {
                let _ = sender.send(result);
            }
        };
        let thread = std::thread::Builder::new().name("ceph".into()).spawn(run);
        thread.map_err(|e| Error::io(op, subject, &e))?;
        match tokio::time::timeout_at(deadline.at(), answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => {
                let reason = "the call ended by a fault of the program";
                let error = Error::new(Kind::Unavailable, op, subject, reason);
                Err(error.advise("please report this as a bug"))
            }
            Err(_) => Err(late()),
        }
    }
}

/// Does something that may hang and that nobody waits for, closing what was opened, in the
/// order in which it is asked for. It may be called from anywhere, callbacks as well.
pub fn leave(work: impl FnOnce() + Send + 'static) {
    type Work = Box<dyn FnOnce() + Send>;
    static CLOSER: OnceLock<Mutex<Sender<Work>>> = OnceLock::new();
    let closer = CLOSER.get_or_init(|| {
        let (sender, works) = channel::<Work>();
        // Without a thread, what was opened stays so: better that than to hang.
        let _ = std::thread::Builder::new()
            .name("ceph-closing".into())
            .spawn(move || {
                for work in works {
                    let _ = catch_unwind(AssertUnwindSafe(work));
                }
            });
        Mutex::new(sender)
    });
    let sender = closer.lock().unwrap_or_else(PoisonError::into_inner);
    if let Err(unsent) = sender.send(Box::new(work)) {
        // It must not run here, nor must what it holds be dropped here.
        std::mem::forget(unsent.0);
    }
}
