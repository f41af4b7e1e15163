//! One at a time under each name.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// The names under which something is being done.
#[derive(Debug, Default)]
pub struct Holds {
    /// And by how many.
    names: Mutex<HashMap<PathBuf, usize>>,
    freed: Notify,
}

/// A name for which others wait until this is dropped.
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
            if let Some(hold) = self.take(name, false) {
                return hold;
            }
            freed.await;
        }
    }

    /// Lets those who come later wait, too, and waits for nobody.
    pub fn join(self: &Arc<Self>, name: &Path) -> Option<Hold> {
        self.take(name, true)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, usize>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(self: &Arc<Self>, name: &Path, with_others: bool) -> Option<Hold> {
        let mut names = self.lock();
        let count = names.entry(name.to_owned()).or_default();
        if *count > 0 && !with_others {
            return None;
        }
        *count += 1;
        Some(Hold {
            holds: Arc::clone(self),
            name: name.to_owned(),
        })
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut names = self.holds.lock();
        if let Some(count) = names.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                names.remove(&self.name);
            }
        }
        drop(names);
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
        let joined = holds.join(Path::new("a"));
        drop(first);
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(joined);
        (&mut second).await.unwrap();
    }
}
