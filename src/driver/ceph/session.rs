//! The connection of a backend: made when it is first needed, kept, and made anew when it
//! has become useless. A cluster that is down now may be there the next time.

use super::cluster::{Access, Cluster, Pool};
use super::failure::Deadline;
use super::threads::Threads;
use crate::error::Result;
use crate::task::Queue;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The library counts for itself; so much later we do not wait for it any more.
const GRACE: Duration = Duration::from_secs(5);

/// See the module's page.
#[derive(Debug)]
pub struct Session {
    access: Access,
    pool: String,
    pub(super) threads: Threads,
    current: Queue<Option<Arc<Pool>>>,
    is_suspect: AtomicBool,
}

impl Session {
    /// Nothing is connected yet.
    pub fn new(access: Access, pool: &str) -> Self {
        Self {
            access,
            pool: pool.to_owned(),
            threads: Threads::default(),
            current: Queue::default(),
            is_suspect: AtomicBool::new(false),
        }
    }

    /// The name of the pool.
    pub fn pool_name(&self) -> &str {
        &self.pool
    }

    /// How long an operation may take.
    pub fn patience(&self) -> Duration {
        self.access.request_timeout
    }

    /// Until when something may take that begins now.
    pub fn deadline(&self) -> Deadline {
        Deadline::after(self.access.request_timeout)
    }

    /// The pool.
    ///
    /// # Errors
    /// Those of connecting to its cluster, and of opening it.
    pub async fn pool(&self) -> Result<Arc<Pool>> {
        let mut current = self.current.turn().await?;
        if self.is_suspect.swap(false, Ordering::Relaxed) {
            *current = None;
        }
        if let Some(pool) = &*current {
            return Ok(Arc::clone(pool));
        }
        let connected = self.connect().await;
        let pool = Arc::new(current.note(connected)?);
        *current = Some(Arc::clone(&pool));
        Ok(pool)
    }

    async fn connect(&self) -> Result<Pool> {
        const OP: &str = "connect to the cluster of";
        let (access, name) = (self.access.clone(), self.pool.clone());
        let subject = self.access.conf.display().to_string();
        let deadline = Deadline::after(self.access.connect_timeout + GRACE);
        let connect = move || Cluster::connect(&access)?.pool(&name);
        self.threads.run(OP, &subject, deadline, connect).await
    }

    /// Something did not work, and perhaps the connection is to blame: one to a daemon that
    /// is gone may take long to find that out. The next one who needs one makes a new one.
    pub fn suspect(&self) {
        self.is_suspect.store(true, Ordering::Relaxed);
    }
}
