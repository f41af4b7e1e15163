//! One at a time under each name.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

/// The names under which something is being done.
#[derive(Debug, Default)]
pub struct Holds {
    names: Mutex<HashSet<PathBuf>>,
    freed: Notify,
}

/// A name that nobody else has, until this is dropped.
#[derive(Debug)]
pub struct Hold {
    holds: Arc<Holds>,
    name: PathBuf,
}

impl Holds {
    /// Waits until nobody has that name.
    pub async fn hold(self: &Arc<Self>, name: &Path) -> Hold {
        loop {
            let freed = self.freed.notified();
            if self.take(name) {
                return Hold {
                    holds: Arc::clone(self),
                    name: name.to_owned(),
                };
            }
            freed.await;
        }
    }

    fn take(&self, name: &Path) -> bool {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.insert(name.to_owned())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let names = self.holds.names.lock();
        names
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.name);
        self.holds.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_comes_second_waits_for_the_first() {
        let holds = Arc::<Holds>::default();
        let first = holds.hold(Path::new("a")).await;
        drop(holds.hold(Path::new("b")).await);
        let waiting = Arc::clone(&holds);
        let mut second = tokio::spawn(async move { drop(waiting.hold(Path::new("a")).await) });
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(first);
        (&mut second).await.unwrap();
    }
}
