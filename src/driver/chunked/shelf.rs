//! Values that are worth keeping for who comes next, up to a limit. Those that somebody
//! still uses stay, however old: otherwise many readers at once would take each other's
//! away before they were used.

use lru::LruCache;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

/// See the module's page.
pub struct Shelf<K: Hash + Eq, V: ?Sized> {
    values: LruCache<K, (Arc<V>, u64)>,
    weight: u64,
    most: u64,
}

impl<K: Hash + Eq + Clone, V: ?Sized> Shelf<K, V> {
    /// Keeps values that weigh `most` together, in whatever unit.
    pub fn new(most: u64) -> Self {
        Self {
            values: LruCache::unbounded(),
            weight: 0,
            most,
        }
    }

    /// The value, which thereby becomes the newest.
    pub fn get(&mut self, key: &K) -> Option<Arc<V>> {
        self.values.get(key).map(|(value, _)| Arc::clone(value))
    }

    /// Keeps a value, in place of the one of that key.
    pub fn put(&mut self, key: K, value: Arc<V>, weight: u64) {
        if let Some((_, old)) = self.values.put(key, (value, weight)) {
            self.weight -= old;
        }
        self.weight += weight;
        while self.weight > self.most {
            let unused = |(_, (value, _)): &(&K, &(Arc<V>, u64))| Arc::strong_count(value) == 1;
            let Some(key) = self
                .values
                .iter()
                .rev()
                .find(unused)
                .map(|(k, _)| k.clone())
            else {
                return;
            };
            if let Some((_, gone)) = self.values.pop(&key) {
                self.weight -= gone;
            }
        }
    }
}

impl<K: Hash + Eq, V: ?Sized> fmt::Debug for Shelf<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shelf({} of {})", self.weight, self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_is_new_and_what_is_in_use() {
        let mut shelf: Shelf<u32, u32> = Shelf::new(20);
        let used = Arc::new(0);
        shelf.put(0, Arc::clone(&used), 10);
        shelf.put(1, Arc::new(1), 10);
        shelf.put(2, Arc::new(2), 10);
        assert!(shelf.get(&0).is_some() && shelf.get(&1).is_none() && shelf.get(&2).is_some());
        drop(used);
        shelf.put(2, Arc::new(3), 5);
        shelf.put(3, Arc::new(4), 10);
        assert!(shelf.get(&0).is_none());
        assert_eq!(shelf.get(&2).as_deref(), Some(&3));
        assert_eq!(shelf.weight, 15);
    }
}
