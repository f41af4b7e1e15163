//! A chunk made ready to be stored: hashed, and compressed where that makes it smaller.

use super::digest::{digests, zero_digest_of};
use crate::codec::{Codec, Encoder, compress};
use crate::driver::{ChunkData, Resources};
use crate::error::Result;
use crate::format::Digest;
use crate::spool;
use crate::store::Body;
use bytes::Bytes;
use md5::Md5;
use sha2::Digest as _;
use std::fs::File;
use std::io::Write;
use std::sync::Arc;

/// How much of a spooled chunk is in memory at a time.
const PIECE_BYTES: usize = 1 << 20;

/// A chunk ready to be stored.
pub struct Encoded {
    /// What goes into the store.
    pub body: Body,
    /// How that is compressed.
    pub codec: Codec,
    /// md5 of the data.
    pub md5: [u8; 16],
    /// sha256 of each block of the data.
    pub digests: Vec<Digest>,
    /// Bytes in blocks that are not all zero.
    pub data_bytes: u64,
    /// Length of the data.
    pub length: u64,
}

/// Hashes and compresses a chunk. Computes, and blocks.
///
/// # Errors
/// Those of the spool, and of memory.
pub fn encode(
    resources: &Resources,
    data: &ChunkData,
    sha_block_size: u64,
    codec: Codec,
) -> Result<Encoded> {
    let sha = sha_block_size as usize;
    // The result needs at most as much memory as the chunk; without room for that, it
    // is compressed piece by piece, which is slower.
    let permit = match data {
        ChunkData::Memory(bytes) => resources.budget.permit(bytes.len() as u64),
        _ => None,
    };
    match (data, permit) {
        (ChunkData::Memory(bytes), Some(_permit)) => {
            let digests: Vec<Digest> = digests(bytes, sha).collect();
            let md5 = Md5::digest(bytes).into();
            let (codec, body) = match compress(codec, bytes)? {
                Some(packed) => (codec, Bytes::from(packed)),
                None => (Codec::None, bytes.clone()),
            };
            Ok(Encoded {
                data_bytes: data_bytes(&digests, bytes.len() as u64, sha as u64),
                body: Body::Bytes(body),
                codec,
                md5,
                digests,
                length: bytes.len() as u64,
            })
        }
        _ => encode_spooled(resources, data, sha, codec),
    }
}

/// The same, a piece at a time, into a spool file.
fn encode_spooled(
    resources: &Resources,
    data: &ChunkData,
    sha: usize,
    codec: Codec,
) -> Result<Encoded> {
    let length = data.len();
    let mut md5 = Md5::new();
    let mut list = Vec::new();
    let mut piece = vec![
        0;
        PIECE_BYTES
            .next_multiple_of(sha.max(1))
            .min(length as usize)
    ];
    let mut packed_file = spool::file(&resources.spool_path)?;
    let mut encoder = match codec {
        Codec::None => None,
        _ => Some(Encoder::new(codec, length)?),
    };
    let (mut at, mut packed_length) = (0, 0);
    let mut packed = Vec::new();
    while at < length {
        let some = (piece.len() as u64).min(length - at) as usize;
        let Some(piece) = piece.get_mut(..some) else {
            break;
        };
        data.read_at(at, piece)?;
        md5.update(&*piece);
        list.extend(digests(piece, sha));
        if let Some(encoder) = &mut encoder {
            encoder.write(piece, &mut packed)?;
            packed_file
                .write_all(&packed)
                .map_err(|e| spool::error(&e))?;
            packed_length += packed.len() as u64;
            packed.clear();
        }
        at += some as u64;
        if packed_length >= length {
            encoder = None;
        }
    }
    let mut codec = codec;
    if let Some(encoder) = encoder {
        encoder.finish(&mut packed)?;
        packed_file
            .write_all(&packed)
            .map_err(|e| spool::error(&e))?;
        packed_length += packed.len() as u64;
    }
    let body = if codec != Codec::None && packed_length < length {
        Body::File {
            file: Arc::new(packed_file),
            length: packed_length,
        }
    } else {
        codec = Codec::None;
        plain_body(data, packed_file)?
    };
    Ok(Encoded {
        body,
        codec,
        md5: md5.finalize().into(),
        data_bytes: data_bytes(&list, length, sha as u64),
        digests: list,
        length,
    })
}

/// A chunk as it is. Zeros become a hole in `file`.
fn plain_body(data: &ChunkData, file: File) -> Result<Body> {
    Ok(match data {
        ChunkData::Memory(bytes) => Body::Bytes(bytes.clone()),
        ChunkData::Spooled(file, length) => Body::File {
            file: Arc::clone(file),
            length: *length,
        },
        ChunkData::Zero(length) => {
            let sized = file.set_len(0).and_then(|()| file.set_len(*length));
            sized.map_err(|e| spool::error(&e))?;
            Body::File {
                file: Arc::new(file),
                length: *length,
            }
        }
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
