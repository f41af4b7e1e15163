//! Compression of chunk objects, as Cinder's chunked drivers know it: none, zlib, bz2, zstd.
//!
//! A chunk that fits in memory is compressed whole ([`compress`]), a larger one piece by
//! piece ([`Encoder`]). Decoding always streams ([`Decoder`]) into buffers of the caller,
//! who thereby bounds it; [`Checkpoint`]s let a reader come back to the middle of an object.
//! The checksums that a codec brings along are always verified.
//!
//! Each codec is one file that implements `Unpack`, `Resume` and `Pack` (see `decoder` and
//! `encoder`), and one line in each `match` here and there.
//!
//! This module does no I/O and must not know objects, metadata or the image: its errors name
//! the codec, the caller says of which object ([`Error::within`](crate::error::Error::within)).

mod bz2;
mod decoder;
mod encoder;
mod pieces;
mod plain;
mod zlib;
mod zstd;

#[cfg(test)]
mod tests;

pub use decoder::{Checkpoint, Decoder, Progress};
pub use encoder::Encoder;

use crate::error::{Error, Kind, Result};

/// How the bytes of a chunk object are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Stored as they are.
    None,
    /// One zlib stream (RFC 1950). Cinder's "gzip" is this too, never a gzip file.
    Zlib,
    /// bzip2 streams, one after the other.
    Bzip2,
    /// Zstandard frames (RFC 8878), one after the other; this program writes one.
    Zstd,
}

impl Codec {
    /// Looks up the name in an object's entry of the metadata, in any case, as Cinder does.
    /// `None` means that Cinder does not know the name either.
    pub fn from_metadata(name: &str) -> Option<Codec> {
        const NAMES: [(&str, Codec); 6] = [
            ("none", Codec::None),
            ("zlib", Codec::Zlib),
            ("gzip", Codec::Zlib),
            ("bz2", Codec::Bzip2),
            ("bzip2", Codec::Bzip2),
            ("zstd", Codec::Zstd),
        ];
        lookup(&NAMES, name)
    }

    /// Looks up a value of Cinder's option `backup_compression_algorithm`: the names of the
    /// metadata and the two further spellings of "none".
    pub fn from_option(name: &str) -> Option<Codec> {
        const OFF: [(&str, Codec); 2] = [("off", Codec::None), ("no", Codec::None)];
        Codec::from_metadata(name).or_else(|| lookup(&OFF, name))
    }
}

fn lookup(names: &[(&str, Codec)], name: &str) -> Option<Codec> {
    names
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|&(_, codec)| codec)
}

/// Compresses a chunk that is in memory. `None` where the result would not be smaller than
/// `data`: Cinder then stores the chunk as it is, under the name "none".
///
/// The buffer is reserved for the worst case and not cleared, so that no more memory is
/// really used than the result fills.
///
/// # Errors
/// [`Kind::Unavailable`] where there is no memory for it.
pub fn compress(codec: Codec, data: &[u8]) -> Result<Option<Vec<u8>>> {
    if codec == Codec::None || data.is_empty() {
        return Ok(None);
    }
    let mut packed = Vec::new();
    packed
        .try_reserve_exact(data.len() - 1)
        .map_err(|error| Error::new(Kind::Unavailable, "compress", "a chunk", error))?;
    let fits = match codec {
        Codec::None => false,
        Codec::Zlib => zlib::compress(data, &mut packed)?,
        Codec::Bzip2 => bz2::compress(data, &mut packed)?,
        Codec::Zstd => zstd::compress(data, &mut packed)?,
    };
    // An allocator may give more than was asked for, so "it fits" alone does not prove it.
    if !fits || packed.len() >= data.len() {
        return Ok(None);
    }
    // Gives back address space; the allocator cuts the tail off in place.
    packed.shrink_to_fit();
    Ok(Some(packed))
}
