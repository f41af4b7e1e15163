//! Streaming decompression, and the places in an object where it can be taken up again.
//!
//! This module must not know any codec but by its name: what a codec does is in its own file.

use std::fmt;
use std::sync::Arc;

use super::{Codec, bz2, plain, zlib, zstd};
use crate::error::{Error, Result};

/// What one call of [`Decoder::decode`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes taken from the front of the input.
    pub consumed: usize,
    /// Bytes written to the front of the output.
    pub produced: usize,
    /// The encoded data has ended and the rest of the input is no part of it. What that means
    /// is the caller's to say; Cinder never writes such an object.
    pub ended: bool,
}

/// What each codec's decoder can do; [`Decoder`] says what the methods promise. Offsets are
/// counted from the start of the object, also after a [`Resume`].
pub(super) trait Unpack: Send {
    fn decode(&mut self, input: &[u8], output: &mut [u8]) -> Result<Progress>;
    fn consumed(&self) -> u64;
    fn position(&self) -> u64;
    fn checkpoint(&self) -> Option<Checkpoint>;
    fn finish(&self) -> Result<()>;
}

/// What each codec keeps in a [`Checkpoint`], which says what the methods promise.
pub(super) trait Resume: Send + Sync {
    fn input_offset(&self) -> u64;
    fn output_offset(&self) -> u64;
    fn size_in_memory(&self) -> usize;
    fn resume(&self) -> Result<Box<dyn Unpack>>;
}

/// Decodes one object, piece by piece.
pub struct Decoder {
    engine: Box<dyn Unpack>,
    failure: Option<Error>,
}

impl Decoder {
    /// A decoder at the start of an object.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](crate::error::Kind::Unavailable) where there is no memory for it.
    pub fn new(codec: Codec) -> Result<Decoder> {
        let engine: Box<dyn Unpack> = match codec {
            Codec::None => Box::new(plain::Copier::default()),
            Codec::Zlib => Box::new(zlib::Inflater::new()?),
            Codec::Bzip2 => Box::new(bz2::Unpacker::new()),
            Codec::Zstd => Box::new(zstd::Unpacker::new()?),
        };
        Ok(Self::with(engine))
    }

    /// A decoder that goes on where the checkpoint was taken; its input starts at
    /// [`Checkpoint::input_offset`], its output at [`Checkpoint::output_offset`].
    ///
    /// # Errors
    /// [`Kind::Unavailable`](crate::error::Kind::Unavailable) where there is no memory for it.
    pub fn resume(checkpoint: &Checkpoint) -> Result<Decoder> {
        Ok(Self::with(checkpoint.0.resume()?))
    }

    fn with(engine: Box<dyn Unpack>) -> Self {
        Self {
            engine,
            failure: None,
        }
    }

    /// Decodes from `input` to `output` until the input is used up, the output is full or the
    /// data has ended. With empty input it hands out what is decoded already. With empty
    /// output it still goes on to the end of the data, if no byte is missing before that.
    ///
    /// Buffers of 64 KiB and more are worth their memory: each call has a cost.
    ///
    /// # Errors
    /// [`Kind::Corrupt`](crate::error::Kind::Corrupt) with the codec's reason. What was
    /// written to `output` is then worth nothing, and every further call fails alike.
    pub fn decode(&mut self, input: &[u8], output: &mut [u8]) -> Result<Progress> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let stuck = Progress::default();
        let result = match self.engine.decode(input, output) {
            Ok(progress) if progress == stuck && !input.is_empty() && !output.is_empty() => {
                Err(corrupt("compressed data", "decoding does not get on"))
            }
            other => other,
        };
        if let Err(failure) = &result {
            self.failure = Some(failure.clone());
        }
        result
    }

    /// Bytes decoded so far, from the start of the object.
    pub fn position(&self) -> u64 {
        self.engine.position()
    }

    /// Bytes of the object consumed so far, from its start.
    pub fn consumed(&self) -> u64 {
        self.engine.consumed()
    }

    /// The last place, here or before, from which decoding can be taken up again, if there is
    /// one past the start. none and zlib: here. bz2: the start of the block that is being
    /// decoded (a block holds up to 900 kB, much more where bytes repeat). zstd: the start of
    /// the frame, so there is none in an object of one frame.
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        match self.failure {
            None => self.engine.checkpoint(),
            Some(_) => None,
        }
    }

    /// Asks whether the object may end here. To be called once it was decoded with all its
    /// input until there was no more progress.
    ///
    /// # Errors
    /// [`Kind::Corrupt`](crate::error::Kind::Corrupt) where it was cut off.
    pub fn finish(&self) -> Result<()> {
        match &self.failure {
            None => self.engine.finish(),
            Some(failure) => Err(failure.clone()),
        }
    }
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder")
            .field("consumed", &self.consumed())
            .field("position", &self.position())
            .field("failure", &self.failure)
            .finish()
    }
}

/// A place in an object from which decoding can be taken up again. Cheap to clone.
#[derive(Clone)]
pub struct Checkpoint(Arc<dyn Resume>);

impl Checkpoint {
    pub(super) fn new(place: impl Resume + 'static) -> Self {
        Self(Arc::new(place))
    }

    /// Where in the object the input has to start.
    pub fn input_offset(&self) -> u64 {
        self.0.input_offset()
    }

    /// The position of the first byte that will be decoded.
    pub fn output_offset(&self) -> u64 {
        self.0.output_offset()
    }

    /// Bytes of memory that this checkpoint and all its clones hold together.
    pub fn size_in_memory(&self) -> usize {
        size_of::<Self>() + self.0.size_in_memory()
    }
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoint")
            .field("input_offset", &self.input_offset())
            .field("output_offset", &self.output_offset())
            .finish()
    }
}

/// A damaged object; `what` is what it should have been.
pub(super) fn corrupt(what: &'static str, reason: impl fmt::Display) -> Error {
    Error::corrupt("decode", what, reason)
}

/// The object was cut off.
pub(super) fn truncated(what: &'static str) -> Error {
    corrupt(what, "the object ends before the data does")
}
