//! Reading ahead of a program that reads one byte after the other.
//!
//! The window grows with what was read in sequence and is nothing for random reads. It
//! is wide enough that, of objects which can only be decoded from their beginning, each
//! core has one of its own to work on.

use super::reader::ImageReader;
use crate::task::cores;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// So much in sequence, and it is worth to read ahead.
const LEAST_STREAK: u64 = 256 << 10;
/// Requests of one sequential reader arrive out of order by as much as this.
const SLACK: u64 = 4 << 20;
/// The window for objects any part of which can be had at once.
const RANDOM_ACCESS_WINDOW: u64 = 32 << 20;
/// So many tasks ask for those at a time, each for a slice. They compute little and wait
/// for a store that may be far away: what is under way is to fill the window.
const WAITING_TASKS: usize = 16;
/// How much a task asks for at a time: what it has asked for is held by it as well as
/// by the cache.
const SLICE: u64 = 2 << 20;
/// Of an object that is larger than the window, a task takes so much.
const LONG_UNIT: u64 = 16 << 20;

/// What is known of one open file's reads.
#[derive(Debug)]
pub struct Prefetch {
    most: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Where the next read of the sequence begins.
    next: u64,
    /// How much was read in sequence.
    streak: u64,
    /// Up to where tasks have been started.
    frontier: u64,
    /// Tasks under way.
    tasks: usize,
}

impl Prefetch {
    /// For a cache of `capacity` bytes. Less than half of it is read ahead, so that what
    /// was read ahead is not thrown out, as the oldest, before it is used.
    pub fn new(capacity: u64) -> Self {
        Self {
            most: capacity * 2 / 5,
            state: Mutex::default(),
        }
    }

    /// A range is being read.
    pub fn note(&self, range: &Range<u64>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let near = state.next.saturating_sub(SLACK)..state.next + SLACK;
        if near.contains(&range.start) {
            state.streak += range.end - range.start;
            state.next = state.next.max(range.end);
        } else {
            state.streak = 0;
            state.next = range.end;
            state.frontier = 0;
        }
    }

    /// The next range to read ahead, if there is one; it counts as begun.
    fn take(&self, reader: &ImageReader) -> Option<Range<u64>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.streak < LEAST_STREAK {
            return None;
        }
        let from = state.frontier.max(state.next);
        let window = (8 * state.streak).min(self.most);
        // In a cache that is smaller than a task's share, reading ahead would throw out
        // what it has read before anybody sees it.
        if from >= reader.size() || from >= state.next + window || self.most < SLICE {
            return None;
        }
        let (unit, in_order) = reader.content().unit(from);
        // One more than there are cores: each waits for its store now and then.
        let most_tasks = if in_order { cores() + 1 } else { WAITING_TASKS };
        if state.tasks >= most_tasks {
            return None;
        }
        let end = if !in_order {
            if from >= state.next + RANDOM_ACCESS_WINDOW {
                return None;
            }
            unit.end
        } else if unit.end - unit.start <= self.most {
            unit.end
        } else {
            unit.end.min(from + LONG_UNIT.min(self.most))
        };
        state.frontier = end.max(from + 1);
        state.tasks += 1;
        Some(from..state.frontier)
    }

    /// Starts as many tasks as there is work for.
    pub fn run(&self, reader: &Arc<ImageReader>) {
        while let Some(range) = self.take(reader) {
            let reader = Arc::clone(reader);
            reader.runtime().clone().spawn(async move {
                let mut at = range.start;
                while at < range.end {
                    let end = range.end.min(at + SLICE);
                    // Who reads the damaged place is told; here it only ends the task.
                    if reader.warm(at..end).await.is_err() {
                        break;
                    }
                    at = end;
                }
                reader.prefetch().done();
                reader.prefetch().run(&reader);
            });
        }
    }

    fn done(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.tasks = state.tasks.saturating_sub(1);
    }
}
