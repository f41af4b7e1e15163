//! The bytes of one backup: read through the shared cache, written chunk by chunk.
//!
//! This room knows offsets, blocks and chunks. It must not know file names, inodes or
//! FUSE, nor Cinder's format.

mod buffer;
mod cache;
mod copy_in;
mod copy_out;
mod original;
mod prefetch;
mod reader;
mod writer;

pub use buffer::Buffers;
pub use cache::BlockCache;
pub use copy_in::copy_in;
pub use copy_out::{Replica, Zeros, copy_out};
pub use original::OriginalFile;
pub use reader::ImageReader;
pub use writer::ImageWriter;
