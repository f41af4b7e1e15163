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
    /// `count` numbers for the objects of chunk `index`, which now have the numbers
    /// `current`; a full backup's only object has `preferred`. No other chunk ever gets
    /// the same ones.
    pub fn take(
        &mut self,
        index: u64,
        count: usize,
        current: &[u64],
        preferred: Option<u64>,
    ) -> Vec<u64> {
        let is_free = |number: &u64| match self.owners.get(number) {
            None => true,
            Some(owner) => *owner == Some(index),
        };
        let wanted = current.iter().copied().chain(preferred).filter(is_free);
        let mut taken: Vec<u64> = wanted.take(count).collect();
        taken.dedup();
        let last = self.owners.last_key_value().map(|(number, _)| *number);
        let mut next = last.max(taken.iter().copied().max()).unwrap_or(0);
        while taken.len() < count {
            next += 1;
            taken.push(next);
        }
        for number in &taken {
            self.owners.insert(*number, Some(index));
        }
        taken
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

    fn one(numbers: &mut Numbers, index: u64, current: Option<u64>) -> u64 {
        let current: Vec<u64> = current.into_iter().collect();
        let taken = numbers.take(index, 1, &current, Some(index + 1));
        assert_eq!(taken.len(), 1);
        taken[0]
    }

    #[test]
    fn are_those_of_cinder_until_they_are_published() {
        let mut numbers = Numbers::default();
        assert_eq!(one(&mut numbers, 0, None), 1);
        assert_eq!(one(&mut numbers, 1, None), 2);
        assert_eq!(one(&mut numbers, 0, Some(1)), 1);
        assert_eq!(one(&mut numbers, 1, None), 2);
        numbers.publish(1);
        numbers.publish(2);
        assert_eq!(one(&mut numbers, 0, Some(1)), 3);
        assert_eq!(one(&mut numbers, 0, Some(3)), 3);
        // The next chunk's own number is taken.
        assert_eq!(one(&mut numbers, 2, None), 4);
        assert_eq!(one(&mut numbers, 7, None), 8);
        assert_eq!(one(&mut numbers, 1, Some(2)), 9);
        numbers.publish(3);
        assert_eq!(one(&mut numbers, 0, None), 10);
    }

    #[test]
    fn several_objects_of_a_chunk_share_none_with_another() {
        let mut numbers = Numbers::default();
        assert_eq!(numbers.take(5, 3, &[], None), [1, 2, 3]);
        assert_eq!(numbers.take(0, 1, &[], None), [4]);
        // Stored anew, in fewer and in more pieces.
        assert_eq!(numbers.take(5, 2, &[1, 2, 3], None), [1, 2]);
        assert_eq!(numbers.take(5, 4, &[1, 2], None), [1, 2, 5, 6]);
        numbers.publish(2);
        assert_eq!(numbers.take(5, 2, &[1, 2, 5, 6], None), [1, 5]);
        assert_eq!(numbers.take(9, 0, &[], None), [0; 0]);
    }
}
