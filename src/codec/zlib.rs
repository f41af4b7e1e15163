//! The codec "zlib": one zlib stream (RFC 1950).
//!
//! A whole chunk is compressed by libdeflate, which is fastest and needs all of it in memory;
//! streams by zlib-rs. Decoding uses zlib-rs through its C interface, because that alone can
//! copy a decoder in the middle of a stream, and such a copy is what a checkpoint is.

use std::ffi::{CStr, c_int};
use std::ptr::{self, NonNull};

use flate2::{Compress, Compression, FlushCompress};
use libz_rs_sys as z;

use super::decoder::{Checkpoint, Progress, Resume, Unpack, corrupt, truncated};
use super::encoder::{Pack, failed};
use super::pieces::Pieces;
use crate::error::{Error, Kind, Result};

/// libdeflate's fastest level: three times as fast as zlib's default, and its results are only
/// a few percent larger.
const WHOLE_LEVEL: c_int = 1;

/// The level for streams: half as fast again as zlib's default 6, and its results are still a
/// little smaller than those of [`WHOLE_LEVEL`].
const STREAM_LEVEL: u32 = 3;

/// How much of a stream a core compresses in one go, in bytes.
const PIECE: usize = 1 << 20;

/// The header of a stream (RFC 1950): a window of 32 KiB, the default level.
const HEADER: [u8; 2] = [0x78, 0x9c];

/// A block without data that is the last one (RFC 1951).
const LAST_BLOCK: [u8; 2] = [0x03, 0x00];

/// Spare room that a stream's output is given at a time, in bytes.
const STEP: usize = 64 << 10;

/// Upper bound of what a copy of the decoder's state holds, in bytes: its window of 32 KiB
/// and its tables.
const STATE: usize = 48 << 10;

const NAME: &str = "zlib data";

/// Compresses `data` into the spare capacity of `out`, which must be empty; false if that is
/// too small.
pub(super) fn compress(data: &[u8], out: &mut Vec<u8>) -> Result<bool> {
    let compressor = WholeCompressor::new()?;
    let room = out.spare_capacity_mut();
    // SAFETY: the compressor is alive, both pointers come from slices of the given lengths,
    // and libdeflate only writes to the second, so it need not be initialized.
    let written = unsafe {
        libdeflate_sys::libdeflate_zlib_compress(
            compressor.0.as_ptr(),
            data.as_ptr().cast(),
            data.len(),
            room.as_mut_ptr().cast(),
            room.len(),
        )
    };
    // SAFETY: libdeflate has initialized that many bytes of the spare capacity of a vector
    // that was empty; 0 says that they were too few.
    unsafe { out.set_len(written) };
    Ok(written > 0)
}

/// Owns a compressor of libdeflate.
struct WholeCompressor(NonNull<libdeflate_sys::libdeflate_compressor>);

impl WholeCompressor {
    fn new() -> Result<Self> {
        // SAFETY: takes any level, and returns null where it fails.
        let compressor = unsafe { libdeflate_sys::libdeflate_alloc_compressor(WHOLE_LEVEL) };
        NonNull::new(compressor)
            .map(Self)
            .ok_or_else(|| failed(Kind::Unavailable, "out of memory"))
    }
}

impl Drop for WholeCompressor {
    fn drop(&mut self) {
        // SAFETY: allocated by `new`, freed once.
        unsafe { libdeflate_sys::libdeflate_free_compressor(self.0.as_ptr()) }
    }
}

/// The encoder of a stream: on all cores, in pieces that each end at a byte (RFC 1951, a
/// stored block of no bytes), so that together they are one stream.
pub(super) struct Deflater {
    pieces: Pieces,
    /// Of the data so far.
    checksum: u32,
    begun: bool,
}

/// One piece of a stream.
struct Deflated {
    blocks: Vec<u8>,
    checksum: u32,
    length: usize,
}

impl Deflater {
    pub(super) fn new() -> Self {
        Self {
            pieces: Pieces::new(PIECE),
            checksum: 1,
            begun: false,
        }
    }

    fn gather(
        &mut self,
        out: &mut Vec<u8>,
        gather: impl FnOnce(&mut Pieces, &mut dyn FnMut(Deflated)) -> Result<()>,
    ) -> Result<()> {
        if !self.begun {
            out.extend_from_slice(&HEADER);
            self.begun = true;
        }
        let checksum = &mut self.checksum;
        gather(&mut self.pieces, &mut |piece| {
            out.extend_from_slice(&piece.blocks);
            *checksum = join_checksums(*checksum, &piece);
        })
    }
}

/// The blocks of a piece, none of them the stream's last.
fn deflate_piece(data: &[u8]) -> Result<Deflated> {
    let level = match looks_incompressible(data)? {
        true => Compression::none(),
        false => Compression::new(STREAM_LEVEL),
    };
    let mut encoder = Compress::new(level, false);
    let mut blocks = Vec::with_capacity(data.len() + data.len() / 64 + STEP);
    let mut rest = data;
    loop {
        let before = encoder.total_in();
        encoder
            .compress_vec(rest, &mut blocks, FlushCompress::Sync)
            .map_err(|error| failed(Kind::Unavailable, error))?;
        let taken = (encoder.total_in() - before) as usize;
        rest = rest.get(taken..).unwrap_or_default();
        // With room left, there is nothing more to come.
        if rest.is_empty() && blocks.len() < blocks.capacity() {
            break;
        }
        blocks.reserve(STEP);
    }
    Ok(Deflated {
        checksum: checksum_of(data),
        length: data.len(),
        blocks,
    })
}

/// Whether some samples of the data do not become smaller: trying all of it would take as
/// long as if they did.
fn looks_incompressible(data: &[u8]) -> Result<bool> {
    const SAMPLES: usize = 4;
    const SAMPLE: usize = 4096;
    let mut packed = Vec::with_capacity(SAMPLE);
    for sample in data.chunks(data.len().div_ceil(SAMPLES).max(SAMPLE)) {
        packed.clear();
        if compress(sample.get(..SAMPLE).unwrap_or(sample), &mut packed)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Adler-32.
fn checksum_of(data: &[u8]) -> u32 {
    // SAFETY: the pointer comes from a slice of the given length.
    unsafe { z::adler32_z(1, data.as_ptr(), data.len()) as u32 }
}

/// That of data and a piece behind it.
fn join_checksums(before: u32, piece: &Deflated) -> u32 {
    z::adler32_combine(before.into(), piece.checksum.into(), piece.length as _) as u32
}

impl Pack for Deflater {
    fn write(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<()> {
        self.gather(out, |pieces, done| pieces.write(data, deflate_piece, done))
    }

    fn finish(&mut self, out: &mut Vec<u8>) -> Result<()> {
        self.gather(out, |pieces, done| pieces.flush(deflate_piece, done))?;
        out.extend_from_slice(&LAST_BLOCK);
        out.extend_from_slice(&self.checksum.to_be_bytes());
        Ok(())
    }
}

/// The decoder of a stream; a copy of it is a checkpoint.
pub(super) struct Inflater {
    stream: z::z_stream,
    taken: u64,
    made: u64,
    ended: bool,
}

// SAFETY: the stream owns its state alone. Its pointers to the caller's buffers are cleared
// before `decode` returns, and a shared reference only ever reads it (`duplicate`).
unsafe impl Send for Inflater {}
// SAFETY: as above.
unsafe impl Sync for Inflater {}

impl Inflater {
    pub(super) fn new() -> Result<Self> {
        /// As large as the format allows.
        const WINDOW_BITS: c_int = 15;
        let mut stream = z::z_stream::default();
        // SAFETY: the stream is a fresh one with the library's own allocator, and version and
        // size are those of the library that it is passed to.
        let status = unsafe {
            z::inflateInit2_(
                &mut stream,
                WINDOW_BITS,
                z::zlibVersion(),
                size_of::<z::z_stream>() as c_int,
            )
        };
        match status {
            z::Z_OK => Ok(Self {
                stream,
                taken: 0,
                made: 0,
                ended: false,
            }),
            _ => Err(out_of_memory()),
        }
    }

    fn duplicate(&self) -> Result<Self> {
        let mut stream = z::z_stream::default();
        // SAFETY: the source was initialized by `new` or here and is not freed before its
        // drop; the target is overwritten whole, so it may be any valid value.
        match unsafe { z::inflateCopy(&mut stream, &self.stream) } {
            z::Z_OK => Ok(Self {
                stream,
                taken: self.taken,
                made: self.made,
                ended: self.ended,
            }),
            _ => Err(out_of_memory()),
        }
    }

    fn failure(&self, status: c_int) -> Error {
        match status {
            z::Z_MEM_ERROR => out_of_memory(),
            z::Z_NEED_DICT => corrupt(NAME, "it needs a preset dictionary"),
            _ if self.stream.msg.is_null() => corrupt(NAME, format!("error {status}")),
            // SAFETY: the library sets this to one of its static strings.
            _ => corrupt(
                NAME,
                unsafe { CStr::from_ptr(self.stream.msg) }.to_string_lossy(),
            ),
        }
    }
}

impl Drop for Inflater {
    fn drop(&mut self) {
        // SAFETY: initialized by `new` or `duplicate`, ended once.
        unsafe { z::inflateEnd(&mut self.stream) };
    }
}

impl Unpack for Inflater {
    fn decode(&mut self, input: &[u8], output: &mut [u8]) -> Result<Progress> {
        if self.ended {
            return Ok(Progress {
                ended: true,
                ..Progress::default()
            });
        }
        let offered = u32::try_from(input.len()).unwrap_or(u32::MAX);
        let room = u32::try_from(output.len()).unwrap_or(u32::MAX);
        self.stream.next_in = input.as_ptr();
        self.stream.avail_in = offered;
        self.stream.next_out = output.as_mut_ptr();
        self.stream.avail_out = room;
        // SAFETY: the stream is initialized, and both pointers are valid for the lengths
        // given, the second for writing.
        let status = unsafe { z::inflate(&mut self.stream, z::Z_NO_FLUSH) };
        let progress = Progress {
            consumed: (offered - self.stream.avail_in) as usize,
            produced: (room - self.stream.avail_out) as usize,
            ended: status == z::Z_STREAM_END,
        };
        self.stream.next_in = ptr::null();
        self.stream.avail_in = 0;
        // Not null, which `inflateCopy` would take for an uninitialized stream.
        self.stream.next_out = NonNull::dangling().as_ptr();
        self.stream.avail_out = 0;
        self.taken += progress.consumed as u64;
        self.made += progress.produced as u64;
        self.ended = progress.ended;
        match status {
            z::Z_OK | z::Z_BUF_ERROR | z::Z_STREAM_END => Ok(progress),
            _ => Err(self.failure(status)),
        }
    }

    fn consumed(&self) -> u64 {
        self.taken
    }

    fn position(&self) -> u64 {
        self.made
    }

    fn checkpoint(&self) -> Option<Checkpoint> {
        if self.made == 0 || self.ended {
            return None;
        }
        self.duplicate().ok().map(Checkpoint::new)
    }

    fn finish(&self) -> Result<()> {
        match self.ended {
            true => Ok(()),
            false => Err(truncated(NAME)),
        }
    }
}

impl Resume for Inflater {
    fn input_offset(&self) -> u64 {
        self.consumed()
    }

    fn output_offset(&self) -> u64 {
        self.position()
    }

    fn size_in_memory(&self) -> usize {
        size_of::<Self>() + STATE
    }

    fn resume(&self) -> Result<Box<dyn Unpack>> {
        Ok(Box::new(self.duplicate()?))
    }
}

fn out_of_memory() -> Error {
    Error::new(Kind::Unavailable, "decode", NAME, "out of memory")
}
