//! Decoded blocks, the least recently used of which go first, and the fetches that are
//! under way, so that one fetch serves all who wait for it.

use crate::budget::{Budget, Permit, Reclaim};
use crate::driver::{Block, BlockKey, BlockSink};
use crate::error::Error;
use lru::LruCache;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::sync::Notify;

/// What a block costs beyond its bytes and digests: the entry here.
const OVERHEAD: u64 = 256;

fn cost(block: &Block) -> u64 {
    block.bytes.len() as u64 + size_of_val(&*block.digests) as u64 + OVERHEAD
}

/// See the module's page.
#[derive(Debug)]
pub struct BlockCache {
    budget: Arc<Budget>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    blocks: LruCache<BlockKey, Kept>,
    flights: HashMap<BlockKey, Arc<Flight>>,
}

#[derive(Debug)]
struct Kept {
    block: Block,
    _permit: Permit,
}

/// A fetch that somebody has begun.
#[derive(Debug, Default)]
pub struct Flight {
    landed: Notify,
    /// `Err(None)`: whoever began it has gone away.
    result: OnceLock<Result<Block, Option<Error>>>,
}

/// The answer to who wants a block.
pub enum Claim {
    /// Here it is.
    Hit(Block),
    /// Somebody else is fetching it.
    Wait(Arc<Flight>),
    /// The one who asked has to fetch it, and must put it or give the claim up.
    Mine,
}

impl Flight {
    /// Waits for the fetch. `Err(None)`: it was given up; ask again.
    pub async fn land(&self) -> Result<Block, Option<Error>> {
        loop {
            let landed = self.landed.notified();
            if let Some(result) = self.result.get() {
                return result.clone();
            }
            landed.await;
        }
    }

    fn finish(&self, result: Result<Block, Option<Error>>) {
        let _ = self.result.set(result);
        self.landed.notify_waiters();
    }
}

impl BlockCache {
    /// An empty cache that fills what is left of `budget`, and gives it back on demand.
    pub fn new(budget: &Arc<Budget>) -> Arc<Self> {
        let cache = Arc::new(Self {
            budget: Arc::clone(budget),
            inner: Mutex::new(Inner {
                blocks: LruCache::unbounded(),
                flights: HashMap::new(),
            }),
        });
        let as_reclaim: Arc<dyn Reclaim> = Arc::<Self>::clone(&cache);
        budget.set_reclaim(Arc::downgrade(&as_reclaim));
        cache
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that the cache may ever hold, in bytes.
    pub fn capacity(&self) -> u64 {
        self.budget.total()
    }

    /// The block, or who fetches it.
    pub fn claim(&self, key: &BlockKey) -> Claim {
        let mut inner = self.lock();
        if let Some(kept) = inner.blocks.get(key) {
            return Claim::Hit(kept.block.clone());
        }
        if let Some(flight) = inner.flights.get(key) {
            return Claim::Wait(Arc::clone(flight));
        }
        inner.flights.insert(*key, Arc::default());
        Claim::Mine
    }

    /// Gives claims up: whoever waits is told why, or tries for himself.
    pub fn give_up(&self, keys: &[BlockKey], why: Option<&Error>) {
        let mut inner = self.lock();
        for key in keys {
            if let Some(flight) = inner.flights.remove(key) {
                flight.finish(Err(why.cloned()));
            }
        }
    }

    /// Throws a block out.
    pub fn remove(&self, key: &BlockKey) {
        self.lock().blocks.pop(key);
    }
}

impl BlockSink for BlockCache {
    fn get(&self, key: &BlockKey) -> Option<Block> {
        self.lock().blocks.get(key).map(|kept| kept.block.clone())
    }

    fn put(&self, key: BlockKey, block: Block) {
        let mut inner = self.lock();
        if let Some(flight) = inner.flights.remove(&key) {
            flight.finish(Ok(block.clone()));
        }
        let cost = cost(&block);
        loop {
            if let Some(permit) = self.budget.permit_free(cost) {
                inner.blocks.put(
                    key,
                    Kept {
                        block,
                        _permit: permit,
                    },
                );
                return;
            }
            // Nothing left to give: everything is in use elsewhere.
            if inner.blocks.pop_lru().is_none() {
                return;
            }
        }
    }
}

impl Reclaim for BlockCache {
    fn reclaim(&self, bytes: u64) {
        let mut inner = self.lock();
        let mut given = 0;
        while given < bytes {
            let Some((_, kept)) = inner.blocks.pop_lru() else {
                return;
            };
            given += cost(&kept.block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn key(number: u64) -> BlockKey {
        BlockKey {
            object: 1,
            block_size: 1000,
            digest_size: 1000,
            number,
        }
    }

    fn block(fill: u8) -> Block {
        Block {
            bytes: Bytes::from(vec![fill; 1000]),
            digests: Arc::new([]),
        }
    }

    #[test]
    fn keeps_the_newest_within_the_budget_and_gives_back() {
        let budget = Budget::new(4 * (1000 + OVERHEAD));
        let cache = BlockCache::new(&budget);
        for number in 0..6 {
            cache.put(key(number), block(number as u8));
            assert!(cache.get(&key(0)).is_some() || number > 3);
        }
        assert!(cache.get(&key(5)).is_some());
        assert!(cache.get(&key(1)).is_none());
        assert!(budget.used() <= budget.total());
        let permit = budget
            .permit(budget.total())
            .expect("the cache gives all it has");
        cache.put(key(9), block(9));
        assert!(cache.get(&key(9)).is_none());
        drop(permit);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn one_fetch_serves_all_who_wait() {
        let cache = BlockCache::new(&Budget::new(10_000));
        assert!(matches!(cache.claim(&key(1)), Claim::Mine));
        let Claim::Wait(flight) = cache.claim(&key(1)) else {
            panic!("not in flight")
        };
        let waiter = tokio::spawn(async move { flight.land().await });
        tokio::task::yield_now().await;
        cache.put(key(1), block(7));
        assert_eq!(waiter.await.unwrap().unwrap().bytes[0], 7);
        assert!(matches!(cache.claim(&key(1)), Claim::Hit(_)));

        assert!(matches!(cache.claim(&key(2)), Claim::Mine));
        let Claim::Wait(flight) = cache.claim(&key(2)) else {
            panic!("not in flight")
        };
        cache.give_up(&[key(2)], None);
        assert!(flight.land().await.unwrap_err().is_none());
        assert!(matches!(cache.claim(&key(2)), Claim::Mine));
    }
}
