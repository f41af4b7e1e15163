//! A chunk made ready to be stored: its blocks hashed, and whatever of it is to be stored
//! compressed where that makes it smaller. All of this computes, and blocks.

use super::digest::{digests, zero_digest_of};
use crate::codec::{Codec, Encoder, compress};
use crate::driver::{ChunkData, Resources};
use crate::error::{Error, Result};
use crate::format::Digest;
use crate::spool;
use crate::store::Body;
use bytes::Bytes;
use md5::Md5;
use sha2::Digest as _;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::sync::Arc;

/// How much of a spooled chunk is in memory at a time.
const PIECE_BYTES: usize = 1 << 20;

/// The hashes of a chunk.
pub struct Hashed {
    /// sha256 of each block of the data.
    pub digests: Vec<Digest>,
    /// Bytes in blocks that are not all zero.
    pub data_bytes: u64,
}

/// An object ready to be stored: a range of a chunk.
#[derive(Debug)]
pub struct Packed {
    /// Where its data begins in the chunk.
    pub offset: u64,
    /// Length of its data.
    pub length: u64,
    /// What goes into the store.
    pub body: Body,
    /// How that is compressed.
    pub codec: Codec,
    /// md5 of the data.
    pub md5: [u8; 16],
}

/// Hashes a chunk.
///
/// # Errors
/// Those of reading the spool.
pub fn hash(data: &ChunkData, sha_block_size: u64) -> Result<Hashed> {
    let sha = sha_block_size.max(1);
    let length = data.len();
    let digests = match data {
        ChunkData::Zero(_) => zero_digests(length, sha),
        ChunkData::Memory(bytes) => digests(bytes, sha as usize).collect(),
        ChunkData::Sieved(sieved) => sieved.digests.clone(),
        ChunkData::Spooled(..) => {
            let mut found = Vec::new();
            let step = PIECE_BYTES.next_multiple_of(sha as usize);
            read_pieces(data, &(0..length), step, |piece| {
                found.extend(digests(piece, sha as usize));
                Ok(())
            })?;
            found
        }
    };
    Ok(Hashed {
        data_bytes: data_bytes(&digests, length, sha),
        digests,
    })
}

fn zero_digests(length: u64, sha: u64) -> Vec<Digest> {
    let mut digests = vec![zero_digest_of(sha); (length / sha) as usize];
    if !length.is_multiple_of(sha) {
        digests.push(zero_digest_of(length % sha));
    }
    digests
}

/// Makes an object of a range of a chunk.
///
/// # Errors
/// Those of the spool, and of memory.
pub fn pack(
    resources: &Resources,
    data: &ChunkData,
    range: Range<u64>,
    codec: Codec,
) -> Result<Packed> {
    // The result needs at most as much memory as the data; without room for that, it
    // is compressed piece by piece, which is slower.
    let permit = match data {
        ChunkData::Memory(_) | ChunkData::Sieved(_) => {
            resources.budget.permit(range.end - range.start)
        }
        _ => None,
    };
    match (data, permit) {
        (ChunkData::Memory(_) | ChunkData::Sieved(_), Some(_permit)) => {
            let bytes = slice(data, &range)?;
            let md5 = Md5::digest(&bytes).into();
            let (codec, body) = match compress(codec, &bytes)? {
                Some(packed) => (codec, Bytes::from(packed)),
                None => (Codec::None, bytes),
            };
            Ok(Packed {
                offset: range.start,
                length: range.end - range.start,
                body: Body::Bytes(body),
                codec,
                md5,
            })
        }
        _ => pack_in_pieces(resources, data, range, codec),
    }
}

/// The same, a piece at a time, into a spool file.
fn pack_in_pieces(
    resources: &Resources,
    data: &ChunkData,
    range: Range<u64>,
    codec: Codec,
) -> Result<Packed> {
    let length = range.end - range.start;
    let mut md5 = Md5::new();
    let mut file = spool::file(&resources.spool_path)?;
    let mut encoder = match codec {
        Codec::None => None,
        _ => Some(Encoder::new(codec, length)?),
    };
    let mut packed_length = 0;
    let mut packed = Vec::new();
    read_pieces(data, &range, PIECE_BYTES, |piece| {
        md5.update(piece);
        if let Some(encoder) = &mut encoder {
            encoder.write(piece, &mut packed)?;
            file.write_all(&packed).map_err(|e| spool::error(&e))?;
            packed_length += packed.len() as u64;
            packed.clear();
        }
        if packed_length >= length {
            encoder = None;
        }
        Ok(())
    })?;
    if let Some(encoder) = encoder {
        encoder.finish(&mut packed)?;
        file.write_all(&packed).map_err(|e| spool::error(&e))?;
        packed_length += packed.len() as u64;
    }
    let shrinks = codec != Codec::None && packed_length < length;
    let body = match shrinks {
        true => Body::File {
            file: Arc::new(file),
            length: packed_length,
        },
        false => plain_body(data, range.clone(), file)?,
    };
    Ok(Packed {
        offset: range.start,
        length,
        body,
        codec: if shrinks { codec } else { Codec::None },
        md5: md5.finalize().into(),
    })
}

/// Gives a range of a chunk to `sink`, `step` bytes at a time.
fn read_pieces(
    data: &ChunkData,
    range: &Range<u64>,
    step: usize,
    mut sink: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut piece = vec![0; (step as u64).min(range.end - range.start) as usize];
    let mut at = range.start;
    while at < range.end {
        let some = (piece.len() as u64).min(range.end - at) as usize;
        let Some(piece) = piece.get_mut(..some) else {
            break;
        };
        data.read_at(at, piece)?;
        sink(piece)?;
        at += some as u64;
    }
    Ok(())
}

fn slice(data: &ChunkData, range: &Range<u64>) -> Result<Bytes> {
    let found = match data {
        ChunkData::Memory(bytes) if range.start <= range.end && range.end <= data.len() => {
            Some(bytes.slice(range.start as usize..range.end as usize))
        }
        ChunkData::Sieved(sieved) => sieved.part(range),
        _ => None,
    };
    found.ok_or_else(|| Error::corrupt("read", "a chunk buffer", "beyond its end"))
}

/// A range of a chunk as it is. Zeros become a hole in `file`, and what is only a part of
/// a spooled chunk is copied into it.
fn plain_body(data: &ChunkData, range: Range<u64>, mut file: File) -> Result<Body> {
    let length = range.end - range.start;
    match data {
        ChunkData::Memory(_) | ChunkData::Sieved(_) => {
            return Ok(Body::Bytes(slice(data, &range)?));
        }
        ChunkData::Spooled(spooled, whole) if range == (0..*whole) => {
            return Ok(Body::File {
                file: Arc::clone(spooled),
                length,
            });
        }
        ChunkData::Spooled(..) => {
            use std::io::Seek;
            let cleared = file.set_len(0).and_then(|()| file.rewind());
            cleared.map_err(|e| spool::error(&e))?;
            read_pieces(data, &range, PIECE_BYTES, |piece| {
                file.write_all(piece).map_err(|e| spool::error(&e))
            })?;
        }
        ChunkData::Zero(_) => {
            let sized = file.set_len(0).and_then(|()| file.set_len(length));
            sized.map_err(|e| spool::error(&e))?;
        }
    }
    Ok(Body::File {
        file: Arc::new(file),
        length,
    })
}

/// Bytes in blocks whose digest is not that of zeros.
fn data_bytes(digests: &[Digest], length: u64, sha: u64) -> u64 {
    let zero = zero_digest_of(sha);
    let tail = length % sha;
    let mut data = length;
    for (index, digest) in (0..).zip(digests) {
        let is_tail = tail > 0 && (index + 1) * sha > length;
        if is_tail && *digest == zero_digest_of(tail) {
            data -= tail;
        } else if !is_tail && *digest == zero {
            data -= sha;
        }
    }
    data
}
