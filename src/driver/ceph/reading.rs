//! Reading an image: the library puts what it reads where it is to stay, block by block.

use super::completion::{Maker, begin, end};
use super::failure::{Deadline, check};
use super::image::Image;
use crate::error::{Error, Kind, Result};
use std::ffi::{c_int, c_void};
use std::ops::Range;
use std::sync::Arc;

/// What is being done, in messages.
const OP: &str = "read the image";

/// All that a read writes to. It belongs to the library until it has called back.
struct Reading {
    image: Arc<Image>,
    blocks: Vec<Vec<u8>>,
    /// Where the blocks lie, and how long each is.
    parts: Vec<libc::iovec>,
}

// SAFETY: the pointers are to memory that the blocks of the same struct own; whoever has the
// one has the other.
unsafe impl Send for Reading {}

impl Reading {
    /// With memory for `length` bytes, cut at every `block`.
    fn new(image: &Arc<Image>, length: usize, block: usize) -> Self {
        let block = block.max(1);
        let lengths = (0..length)
            .step_by(block)
            .map(|start| block.min(length - start));
        // It is not cleared: nobody looks at it before the library has written it.
        let mut blocks: Vec<Vec<u8>> = lengths.clone().map(Vec::with_capacity).collect();
        let parts = blocks.iter_mut().zip(lengths);
        let parts = parts.map(|(block, length)| libc::iovec {
            iov_base: block.as_mut_ptr().cast::<c_void>(),
            iov_len: length,
        });
        Self {
            image: Arc::clone(image),
            parts: parts.collect(),
            blocks,
        }
    }

    /// The blocks, when the library says that it has written so many bytes: all of those
    /// that were asked for, or none is given.
    fn finish(mut self, code: i64) -> (i64, Vec<Vec<u8>>) {
        let all: usize = self.parts.iter().map(|part| part.iov_len).sum();
        if usize::try_from(code) != Ok(all) {
            return (code, Vec::new());
        }
        for (block, part) in self.blocks.iter_mut().zip(&self.parts) {
            // SAFETY: there is room for so many, and the library has written them all.
            unsafe { block.set_len(part.iov_len) };
        }
        (code, self.blocks)
    }
}

impl Image {
    /// The bytes of a range, which must lie within the image.
    ///
    /// # Errors
    /// Those of the cluster.
    pub async fn read_whole(
        self: &Arc<Self>,
        range: Range<u64>,
        deadline: Deadline,
    ) -> Result<Vec<u8>> {
        let length = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(0);
        let blocks = self.read(range, length, deadline).await?;
        Ok(blocks.into_iter().next().unwrap_or_default())
    }

    /// The bytes of a range, which must lie within the image, in blocks of that many bytes;
    /// the last may be shorter.
    ///
    /// # Errors
    /// Those of the cluster.
    pub async fn read(
        self: &Arc<Self>,
        range: Range<u64>,
        block: usize,
        deadline: Deadline,
    ) -> Result<Vec<Vec<u8>>> {
        let length = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(0);
        let reading = Reading::new(self, length, block);
        let library = self.library();
        // SAFETY: what is written to, and what tells where that is, are owned by the payload,
        // which keeps the image open as well.
        let begun = unsafe {
            begin(
                library,
                Maker::Rbd,
                reading,
                // The last one to have the image does not close it here: see its `drop`.
                |_, outcome, reading| reading.finish(outcome.code),
                |completion, reading: *mut Reading| {
                    let Reading { image, parts, .. } = &*reading;
                    let count = c_int::try_from(parts.len()).unwrap_or(0);
                    let (image, parts) = (image.handle, parts.as_ptr());
                    (library.rbd.rbd_aio_readv)(image, parts, count, range.start, completion)
                },
            )
        };
        let (code, blocks) = end(OP, &self.name, deadline, begun).await?;
        let read = check(OP, &self.name, code)?;
        if read == length as u64 {
            return Ok(blocks);
        }
        let reason = format!("it ends at {}", range.start + read);
        Err(Error::new(Kind::Corrupt, OP, self.name.as_str(), reason))
    }
}
