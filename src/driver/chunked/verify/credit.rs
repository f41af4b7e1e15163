//! How far a check has come, in bytes of the image: who waits knows the size of that, and
//! not what has to be read for it.

use crate::driver::Progress;
use std::sync::atomic::{AtomicU64, Ordering};

/// Tells of as many bytes as the image has, no more and no less.
pub struct Credit<'a> {
    progress: &'a dyn Progress,
    left: AtomicU64,
}

impl<'a> Credit<'a> {
    /// For an image of `size` bytes.
    pub fn new(progress: &'a dyn Progress, size: u64) -> Self {
        Self {
            progress,
            left: AtomicU64::new(size),
        }
    }

    fn give(&self, bytes: u64) {
        let take = |left: u64| Some(left.saturating_sub(bytes));
        let before = self
            .left
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, take);
        let given = before.unwrap_or(0).min(bytes);
        if given > 0 {
            self.progress.advance(given);
        }
    }

    /// All that there is to do is done.
    pub fn finish(&self) {
        self.give(u64::MAX);
    }
}

/// What is given for one object, of which the image shows a part.
pub struct Share<'a> {
    credit: &'a Credit<'a>,
    visible: u64,
    length: u64,
    done: AtomicU64,
}

impl<'a> Share<'a> {
    /// For an object of `length` bytes, of which `visible` are in the image.
    pub fn new(credit: &'a Credit<'a>, visible: u64, length: u64) -> Self {
        Self {
            credit,
            visible,
            length,
            done: AtomicU64::new(0),
        }
    }

    fn worth(&self, done: u64) -> u64 {
        let part = u128::from(self.visible) * u128::from(done.min(self.length));
        u64::try_from(part / u128::from(self.length.max(1))).unwrap_or(self.visible)
    }

    /// The object is done, whether it was read or known.
    pub fn finish(&self) {
        self.advance(self.length);
    }
}

impl Progress for Share<'_> {
    fn advance(&self, bytes: u64) {
        let before = self.done.fetch_add(bytes, Ordering::AcqRel);
        let now = before.saturating_add(bytes);
        self.credit.give(self.worth(now) - self.worth(before));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Sum(AtomicU64);

    impl Progress for Sum {
        fn advance(&self, bytes: u64) {
            self.0.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    #[test]
    fn is_as_much_as_the_image_has() {
        let sum = Sum::default();
        let given = || sum.0.load(Ordering::Relaxed);
        let credit = Credit::new(&sum, 100);
        let half = Share::new(&credit, 30, 60);
        half.advance(7);
        half.advance(20);
        assert_eq!(given(), 13);
        half.finish();
        assert_eq!(given(), 30);
        let hidden = Share::new(&credit, 0, 60);
        hidden.finish();
        assert_eq!(given(), 30);
        Share::new(&credit, 60, 60).finish();
        credit.finish();
        assert_eq!(given(), 100);
        credit.finish();
        assert_eq!(given(), 100);
    }
}
