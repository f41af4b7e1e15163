//! Which number the object of a chunk gets: Cinder's own, chunk after chunk from 1, unless
//! an object of that number was ever part of a published backup. Such a name is not used
//! again: somebody may still be reading what it stood for.

use std::collections::BTreeMap;

/// See the module's page.
#[derive(Debug, Default)]
pub struct Numbers {
    /// Every number that was ever given out, and the chunk that may have it again.
    owners: BTreeMap<u64, Option<u64>>,
}

impl Numbers {
    /// A number for chunk `index`, whose object now has the number `current`. No other
    /// chunk ever gets the same one.
    pub fn take(&mut self, index: u64, current: Option<u64>) -> u64 {
        let is_free = |number: &u64| match self.owners.get(number) {
            None => true,
            Some(owner) => *owner == Some(index),
        };
        let number = current
            .into_iter()
            .chain([index + 1])
            .find(is_free)
            .unwrap_or_else(|| {
                let last = self.owners.last_key_value();
                last.map_or(1, |(number, _)| number + 1)
            });
        self.owners.insert(number, Some(index));
        number
    }

    /// Every number that was ever given out.
    pub fn given(&self) -> impl Iterator<Item = u64> + '_ {
        self.owners.keys().copied()
    }

    /// The object of this number is now part of a published backup.
    pub fn publish(&mut self, number: u64) {
        self.owners.insert(number, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn are_those_of_cinder_until_they_are_published() {
        let mut numbers = Numbers::default();
        assert_eq!(numbers.take(0, None), 1);
        assert_eq!(numbers.take(1, None), 2);
        assert_eq!(numbers.take(0, Some(1)), 1);
        assert_eq!(numbers.take(1, None), 2);
        numbers.publish(1);
        numbers.publish(2);
        assert_eq!(numbers.take(0, Some(1)), 3);
        assert_eq!(numbers.take(0, Some(3)), 3);
        // The next chunk's own number is taken.
        assert_eq!(numbers.take(2, None), 4);
        assert_eq!(numbers.take(7, None), 8);
        assert_eq!(numbers.take(1, Some(2)), 9);
        numbers.publish(3);
        assert_eq!(numbers.take(0, None), 10);
    }
}
