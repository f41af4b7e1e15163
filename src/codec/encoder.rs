//! Streaming compression, for chunks that are too large for memory.
//!
//! This module must not know any codec but by its name: what a codec does is in its own file.

use std::fmt;

use super::{Codec, bz2, plain, zlib, zstd};
use crate::error::{Error, Kind, Result};

/// What each codec's encoder can do. Both methods append to `out`.
pub(super) trait Pack: Send {
    fn write(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<()>;
    fn finish(&mut self, out: &mut Vec<u8>) -> Result<()>;
}

/// Compresses one object, piece by piece, whose length is known beforehand.
pub struct Encoder {
    engine: Box<dyn Pack>,
    announced: u64,
    written: u64,
}

impl Encoder {
    /// An encoder of exactly `total_len` bytes; the header of a zstd frame says that number.
    ///
    /// # Errors
    /// [`Kind::Unavailable`] where there is no memory for it.
    pub fn new(codec: Codec, total_len: u64) -> Result<Encoder> {
        let engine: Box<dyn Pack> = match codec {
            Codec::None => Box::new(plain::Copier::default()),
            Codec::Zlib => Box::new(zlib::Deflater::new()),
            Codec::Bzip2 => Box::new(bz2::Streams::new()),
            Codec::Zstd => Box::new(zstd::Packer::new(total_len)?),
        };
        Ok(Self {
            engine,
            announced: total_len,
            written: 0,
        })
    }

    /// Compresses `data` and appends to `out` what is ready, which may be nothing.
    ///
    /// # Errors
    /// [`Kind::Invalid`] where this is more than was announced.
    pub fn write(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<()> {
        self.written = self.written.saturating_add(data.len() as u64);
        if self.written > self.announced {
            return Err(self.miscounted());
        }
        self.engine.write(data, out)
    }

    /// Appends to `out` all that is left.
    ///
    /// # Errors
    /// [`Kind::Invalid`] where less was written than was announced.
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<()> {
        if self.written != self.announced {
            return Err(self.miscounted());
        }
        self.engine.finish(out)
    }

    fn miscounted(&self) -> Error {
        let Self {
            announced, written, ..
        } = self;
        failed(
            Kind::Invalid,
            format!("{announced} bytes were announced and {written} came"),
        )
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder")
            .field("announced", &self.announced)
            .field("written", &self.written)
            .finish()
    }
}

/// Compression failed, which no data can cause.
pub(super) fn failed(kind: Kind, reason: impl fmt::Display) -> Error {
    Error::new(kind, "compress", "a chunk", reason)
}
