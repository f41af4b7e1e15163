//! Compresses a stream on all cores: in pieces that know nothing of each other, and whose
//! results stand one after another.
//!
//! Knows no codec: what becomes of a piece is the caller's affair.

use std::num::NonZero;
use std::thread;

use super::encoder::failed;
use crate::error::{Kind, Result};

/// Gathers a stream until there is a piece for each core. What it holds is no more than
/// that, and what comes of it.
pub(super) struct Pieces {
    size: usize,
    cores: usize,
    gathered: Vec<u8>,
}

impl Pieces {
    /// Pieces of `size` bytes.
    pub(super) fn new(size: usize) -> Self {
        Self {
            size,
            cores: thread::available_parallelism().map_or(1, NonZero::get),
            gathered: Vec::new(),
        }
    }

    /// Takes the next bytes of the stream. Whenever there are enough, `pack` gets the pieces,
    /// several at a time, and `done` the results, in order.
    pub(super) fn write<T: Send>(
        &mut self,
        mut data: &[u8],
        pack: impl Fn(&[u8]) -> Result<T> + Sync,
        mut done: impl FnMut(T),
    ) -> Result<()> {
        let most = self.size * self.cores;
        while !data.is_empty() {
            let some = data.len().min(most - self.gathered.len());
            let (now, later) = data.split_at(some);
            self.gathered.extend_from_slice(now);
            data = later;
            if self.gathered.len() == most {
                self.flush(&pack, &mut done)?;
            }
        }
        Ok(())
    }

    /// The same for what is left at the end of the stream.
    pub(super) fn flush<T: Send>(
        &mut self,
        pack: impl Fn(&[u8]) -> Result<T> + Sync,
        mut done: impl FnMut(T),
    ) -> Result<()> {
        let results = thread::scope(|scope| {
            let threads: Vec<_> = self
                .gathered
                .chunks(self.size)
                .map(|piece| thread::Builder::new().spawn_scoped(scope, || pack(piece)))
                .collect();
            let join = |thread: std::io::Result<thread::ScopedJoinHandle<'_, Result<T>>>| {
                let thread = thread.map_err(|e| failed(Kind::Unavailable, e))?;
                let lost = |_| failed(Kind::Unavailable, "a thread was lost");
                thread.join().map_err(lost)?
            };
            threads.into_iter().map(join).collect::<Vec<_>>()
        });
        for result in results {
            done(result?);
        }
        self.gathered.clear();
        Ok(())
    }
}
