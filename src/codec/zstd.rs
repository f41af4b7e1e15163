//! The codec "zstd": Zstandard frames (RFC 8878), one after the other.
//!
//! Cinder writes one frame whose header holds the content's size, without a checksum; read
//! is also what lacks the size, has a checksum or is made of several frames.

use ::zstd::zstd_safe::zstd_sys::ZSTD_ErrorCode::{self, *};
use ::zstd::zstd_safe::{self, CCtx, CParameter, DCtx, DParameter, ErrorCode, InBuffer, OutBuffer};

use super::decoder::{Checkpoint, Progress, Resume, Unpack, corrupt, truncated};
use super::encoder::{Pack, failed};
use crate::error::{Error, Kind, Result};

/// The library's default and Cinder's level.
const LEVEL: i32 = 3;

/// Largest window that is decoded, as a power of 2: 128 MiB, the library's own limit. A
/// frame that asks for more is refused, because the window is memory.
const WINDOW_LOG_MAX: u32 = 27;

/// Spare room that a stream's output is given at a time, in bytes.
const STEP: usize = 64 << 10;

const NAME: &str = "zstd data";

/// Compresses `data` into the spare capacity of `out`, which must be empty; false if that is
/// too small.
pub(super) fn compress(data: &[u8], out: &mut Vec<u8>) -> Result<bool> {
    let mut context = new_context()?;
    match context.compress(out, data, LEVEL) {
        Ok(_) => Ok(true),
        Err(code) if is(code, ZSTD_error_dstSize_tooSmall) => Ok(false),
        Err(code) => Err(pack_failure(code)),
    }
}

fn new_context() -> Result<CCtx<'static>> {
    CCtx::try_create().ok_or_else(|| failed(Kind::Unavailable, "out of memory"))
}

/// The library returns an error's number negated.
fn is(code: ErrorCode, error: ZSTD_ErrorCode) -> bool {
    code.wrapping_neg() == error as usize
}

fn pack_failure(code: ErrorCode) -> Error {
    failed(Kind::Unavailable, zstd_safe::get_error_name(code))
}

/// The encoder of one frame.
pub(super) struct Packer(CCtx<'static>);

impl Packer {
    pub(super) fn new(total_len: u64) -> Result<Self> {
        let mut context = new_context()?;
        context
            .set_parameter(CParameter::CompressionLevel(LEVEL))
            .and_then(|_| context.set_pledged_src_size(Some(total_len)))
            .map_err(pack_failure)?;
        Ok(Self(context))
    }
}

impl Pack for Packer {
    fn write(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let mut input = InBuffer::around(data);
        while input.pos() < data.len() {
            out.reserve(STEP);
            let filled = out.len();
            let mut room = OutBuffer::around_pos(out, filled);
            self.0
                .compress_stream(&mut room, &mut input)
                .map_err(pack_failure)?;
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut Vec<u8>) -> Result<()> {
        loop {
            out.reserve(STEP);
            let filled = out.len();
            let mut room = OutBuffer::around_pos(out, filled);
            if self.0.end_stream(&mut room).map_err(pack_failure)? == 0 {
                return Ok(());
            }
        }
    }
}

/// The start of a frame: offsets in the object and in the decoded data.
#[derive(Clone, Copy, Default)]
struct FrameStart {
    input: u64,
    output: u64,
}

/// The decoder of frames.
pub(super) struct Unpacker {
    context: DCtx<'static>,
    here: FrameStart,
    /// Where the last complete frame ended.
    border: FrameStart,
    /// Whether a frame has ended just here.
    complete: bool,
}

impl Unpacker {
    pub(super) fn new() -> Result<Self> {
        Self::starting(FrameStart::default())
    }

    fn starting(at: FrameStart) -> Result<Self> {
        let mut context = DCtx::try_create().ok_or_else(out_of_memory)?;
        context
            .set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))
            .map_err(unpack_failure)?;
        Ok(Self {
            context,
            here: at,
            border: at,
            complete: at.input > 0,
        })
    }

    /// One step. Its progress is `ended` where a frame has ended.
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Progress> {
        let mut from = InBuffer::around(input);
        let mut to = OutBuffer::around(output);
        let ended = match self.context.decompress_stream(&mut to, &mut from) {
            Ok(wanted) => wanted == 0,
            // The library counts calls that could do nothing; a caller may make as many of
            // them as it likes.
            Err(code)
                if is(code, ZSTD_error_noForwardProgress_destFull)
                    || is(code, ZSTD_error_noForwardProgress_inputEmpty) =>
            {
                false
            }
            Err(code) => return Err(unpack_failure(code)),
        };
        Ok(Progress {
            consumed: from.pos(),
            produced: to.pos(),
            ended,
        })
    }
}

impl Unpack for Unpacker {
    fn decode(&mut self, mut input: &[u8], mut output: &mut [u8]) -> Result<Progress> {
        let mut progress = Progress::default();
        // Without input, a step after a complete frame would only open the next one.
        while !(input.is_empty() && self.complete) {
            let step = self.step(input, output)?;
            input = input.get(step.consumed..).unwrap_or_default();
            output = output.get_mut(step.produced..).unwrap_or_default();
            progress.consumed += step.consumed;
            progress.produced += step.produced;
            self.here.input += step.consumed as u64;
            self.here.output += step.produced as u64;
            self.complete = step.ended;
            if step.ended {
                self.border = self.here;
            }
            let idle = step.consumed == 0 && step.produced == 0;
            if idle || (input.is_empty() && !output.is_empty()) {
                break;
            }
        }
        Ok(progress)
    }

    fn consumed(&self) -> u64 {
        self.here.input
    }

    fn position(&self) -> u64 {
        self.here.output
    }

    fn checkpoint(&self) -> Option<Checkpoint> {
        (self.border.output > 0).then(|| Checkpoint::new(self.border))
    }

    fn finish(&self) -> Result<()> {
        match self.complete {
            true => Ok(()),
            false => Err(truncated(NAME)),
        }
    }
}

impl Resume for FrameStart {
    fn input_offset(&self) -> u64 {
        self.input
    }

    fn output_offset(&self) -> u64 {
        self.output
    }

    fn size_in_memory(&self) -> usize {
        size_of::<Self>()
    }

    fn resume(&self) -> Result<Box<dyn Unpack>> {
        Ok(Box::new(Unpacker::starting(*self)?))
    }
}

fn unpack_failure(code: ErrorCode) -> Error {
    if is(code, ZSTD_error_memory_allocation) {
        return out_of_memory();
    }
    corrupt(NAME, zstd_safe::get_error_name(code))
}

fn out_of_memory() -> Error {
    Error::new(Kind::Unavailable, "decode", NAME, "out of memory")
}
