//! The program's one memory budget, shared by cache, prefetch and writers.
//!
//! Who wants to keep much memory asks for a [`Permit`] first. Nobody ever waits for
//! somebody else's permit: a chunk that is being written stays for as long as a user
//! likes, and waiting for it would be a hang. Who gets none takes a way that needs
//! less memory (a writer spools to disk, the cache does not keep).

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

/// Somebody who can give memory back when it is needed elsewhere: the cache.
pub trait Reclaim: Send + Sync {
    /// Gives back at least `bytes`, if that much is held.
    fn reclaim(&self, bytes: u64);
}

/// A number of bytes that may be in use at a time.
pub struct Budget {
    total: u64,
    used: AtomicU64,
    reclaim: OnceLock<Weak<dyn Reclaim>>,
}

/// The right to use some bytes; it ends when this is dropped.
#[derive(Debug)]
pub struct Permit {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Budget {
    /// A budget of `total` bytes.
    pub fn new(total: u64) -> Arc<Self> {
        Arc::new(Self {
            total,
            used: AtomicU64::new(0),
            reclaim: OnceLock::new(),
        })
    }

    /// All of it, in bytes.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// What is in use, in bytes.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Names the one who is asked to give memory back. Only the first call counts.
    pub fn set_reclaim(&self, reclaim: Weak<dyn Reclaim>) {
        let _ = self.reclaim.set(reclaim);
    }

    /// The right to use `bytes` more, if there is room or some can be made.
    pub fn permit(self: &Arc<Self>, bytes: u64) -> Option<Permit> {
        if let Some(permit) = self.permit_free(bytes) {
            return Some(permit);
        }
        if bytes > self.total {
            return None;
        }
        let reclaim = self.reclaim.get()?.upgrade()?;
        reclaim.reclaim(bytes.saturating_sub(self.total.saturating_sub(self.used())));
        self.permit_free(bytes)
    }

    /// The same, without asking anybody to give something back.
    pub fn permit_free(self: &Arc<Self>, bytes: u64) -> Option<Permit> {
        self.used
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|sum| *sum <= self.total)
            })
            .ok()?;
        Some(Permit {
            budget: Arc::clone(self),
            bytes,
        })
    }
}

impl Permit {
    /// How much it allows.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Budget({} of {} bytes)", self.used(), self.total)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_gives_more_than_there_is() {
        let budget = Budget::new(10);
        let seven = budget.permit(7).unwrap();
        assert!(budget.permit(4).is_none());
        let three = budget.permit(3).unwrap();
        assert_eq!(budget.used(), 10);
        drop(seven);
        assert!(budget.permit(u64::MAX).is_none());
        assert!(budget.permit(7).is_some());
        drop(three);
        assert_eq!(budget.used(), 0);
    }
}
