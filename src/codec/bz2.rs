//! The codec "bz2": bzip2 streams, one after the other.
//!
//! A stream is a header of 4 bytes, blocks that are independent of each other, and a footer,
//! packed bit by bit. [`scan`] finds where blocks start, so that each start can become a
//! checkpoint: decoding goes on there with a fresh decoder that is given a header and the
//! bits from there, moved to byte borders. Only the stream's own checksum, which is made of
//! those of all its blocks, could not be verified that way by the library; it is verified
//! here, and the footer is never shown to the library.

mod scan;

use bzip2::{Action, Compress, Compression, Decompress, Status};

use self::scan::{Kind as MarkKind, Mark, Scanner};
use super::decoder::{Checkpoint, Progress, Resume, Unpack, corrupt, truncated};
use super::encoder::{Pack, failed};
use super::pieces::Pieces;
use crate::error::{Error, Kind, Result};

/// Spare room that a stream's output is given at a time, in bytes.
const STEP: usize = 64 << 10;

/// How much of an object goes into one stream, in bytes: a little less than the largest
/// block, because its first step may make data longer.
const BLOCK: usize = 890_000;

/// Encoded bytes that are given to the library at a time.
const STAGE: usize = 4 << 10;

/// What a stream starts with, before the digit that says its block size in units of 100 kB.
const HEADER: [u8; 3] = *b"BZh";

const NAME: &str = "bz2 data";

/// Compresses `data` into the spare capacity of `out`, which must be empty; false if that is
/// too small.
pub(super) fn compress(data: &[u8], out: &mut Vec<u8>) -> Result<bool> {
    let mut packer = Packer::new();
    let mut rest = data;
    loop {
        let (taken, ended) = packer.step(rest, out, Action::Finish)?;
        if ended {
            return Ok(true);
        }
        if out.len() == out.capacity() {
            return Ok(false);
        }
        rest = rest.get(taken..).unwrap_or_default();
    }
}

/// The encoder of one stream.
struct Packer(Compress);

impl Packer {
    fn new() -> Self {
        /// 0 asks for the library's default, which is what Python uses.
        const WORK_FACTOR: u32 = 0;
        Self(Compress::new(Compression::best(), WORK_FACTOR))
    }

    /// One step into the spare capacity of `out`; returns the bytes taken from `data` and
    /// whether the stream has ended.
    fn step(&mut self, data: &[u8], out: &mut Vec<u8>, action: Action) -> Result<(usize, bool)> {
        let before = self.0.total_in();
        let status = self
            .0
            .compress_vec(data, out, action)
            .map_err(|error| failed(Kind::Unavailable, error))?;
        let taken = (self.0.total_in() - before) as usize;
        Ok((taken, status == Status::StreamEnd))
    }
}

/// The encoder of an object: on all cores, a stream for each block. Who decodes one of them
/// decodes all (`bunzip2`, and Python's `bz2.decompress`).
pub(super) struct Streams {
    pieces: Pieces,
    empty: bool,
}

impl Streams {
    pub(super) fn new() -> Self {
        Self {
            pieces: Pieces::new(BLOCK),
            empty: true,
        }
    }
}

fn pack_stream(data: &[u8]) -> Result<Vec<u8>> {
    let mut packer = Packer::new();
    let mut out = Vec::with_capacity(data.len());
    let mut rest = data;
    loop {
        out.reserve(STEP);
        let (taken, ended) = packer.step(rest, &mut out, Action::Finish)?;
        if ended {
            return Ok(out);
        }
        rest = rest.get(taken..).unwrap_or_default();
    }
}

impl Pack for Streams {
    fn write(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<()> {
        self.empty &= data.is_empty();
        let done = |stream: Vec<u8>| out.extend_from_slice(&stream);
        self.pieces.write(data, pack_stream, done)
    }

    fn finish(&mut self, out: &mut Vec<u8>) -> Result<()> {
        if self.empty {
            out.extend_from_slice(&pack_stream(&[])?);
        }
        let done = |stream: Vec<u8>| out.extend_from_slice(&stream);
        self.pieces.flush(pack_stream, done)
    }
}

/// Where a block starts, and what decoding needs to go on there.
#[derive(Clone, Copy)]
struct BlockStart {
    /// The first bit of the block, counted from the start of the object.
    bit: u64,
    output: u64,
    /// The checksum of the stream's blocks before this one.
    checksum: u32,
    /// The digit in the stream's header.
    level: u8,
}

/// The decoder of streams.
pub(super) struct Unpacker {
    stage: Stage,
    taken: u64,
    made: u64,
    latest: Option<BlockStart>,
}

enum Stage {
    /// Between streams, or within the header of one.
    Header { seen: usize },
    /// Within a stream.
    Blocks(Box<Stream>),
    /// Behind the last stream, before what is none.
    Ended,
}

impl Unpacker {
    pub(super) fn new() -> Self {
        Self {
            stage: Stage::Header { seen: 0 },
            taken: 0,
            made: 0,
            latest: None,
        }
    }

    /// Takes a byte of a header; returns whether it was one.
    fn read_header(&mut self, seen: usize, byte: u8) -> Result<bool> {
        let expected = match HEADER.get(seen) {
            Some(&letter) => byte == letter,
            None => (b'1'..=b'9').contains(&byte),
        };
        if !expected {
            if seen == 0 && self.taken > 0 {
                self.stage = Stage::Ended;
                return Ok(false);
            }
            return Err(corrupt(NAME, "a stream must start here and does not"));
        }
        self.taken += 1;
        self.stage = if seen < HEADER.len() {
            Stage::Header { seen: seen + 1 }
        } else {
            let start = BlockStart {
                bit: self.taken * 8,
                output: self.made,
                checksum: 0,
                level: byte,
            };
            Stage::Blocks(Box::new(Stream::starting(&start)))
        };
        Ok(true)
    }
}

impl Unpack for Unpacker {
    fn decode(&mut self, input: &[u8], output: &mut [u8]) -> Result<Progress> {
        let mut progress = Progress::default();
        loop {
            let rest = input.get(progress.consumed..).unwrap_or_default();
            let stream = match &mut self.stage {
                Stage::Ended => {
                    progress.ended = true;
                    return Ok(progress);
                }
                Stage::Header { seen } => {
                    let seen = *seen;
                    let Some(&byte) = rest.first() else {
                        return Ok(progress);
                    };
                    if self.read_header(seen, byte)? {
                        progress.consumed += 1;
                    }
                    continue;
                }
                Stage::Blocks(stream) => stream,
            };
            let room = output.get_mut(progress.produced..).unwrap_or_default();
            let (made, drained) = stream.drain(room)?;
            progress.produced += made;
            self.made += made as u64;
            if !drained {
                return Ok(progress);
            }
            match stream.pass(self.made)? {
                Passed::Footer => self.stage = Stage::Header { seen: 0 },
                Passed::Block(start) => self.latest = Some(start),
                Passed::Nothing if rest.is_empty() => return Ok(progress),
                Passed::Nothing => {
                    let taken = stream.fill(rest);
                    progress.consumed += taken;
                    self.taken += taken as u64;
                }
            }
        }
    }

    fn consumed(&self) -> u64 {
        self.taken
    }

    fn position(&self) -> u64 {
        self.made
    }

    fn checkpoint(&self) -> Option<Checkpoint> {
        self.latest
            .filter(|start| start.output > 0)
            .map(Checkpoint::new)
    }

    fn finish(&self) -> Result<()> {
        match self.stage {
            Stage::Ended => Ok(()),
            Stage::Header { seen: 0 } if self.taken > 0 => Ok(()),
            Stage::Header { .. } | Stage::Blocks(_) => Err(truncated(NAME)),
        }
    }
}

impl Resume for BlockStart {
    fn input_offset(&self) -> u64 {
        self.bit / 8
    }

    fn output_offset(&self) -> u64 {
        self.output
    }

    fn size_in_memory(&self) -> usize {
        size_of::<Self>()
    }

    fn resume(&self) -> Result<Box<dyn Unpack>> {
        Ok(Box::new(Unpacker {
            stage: Stage::Blocks(Box::new(Stream::starting(self))),
            taken: self.bit / 8,
            made: self.output,
            latest: Some(*self),
        }))
    }
}

/// What [`Stream::pass`] found.
enum Passed {
    Nothing,
    Block(BlockStart),
    Footer,
}

/// One stream, from its first block or from a later one.
struct Stream {
    library: Decompress,
    scanner: Scanner,
    /// The bit of the object that the scanner calls 0.
    base: u64,
    /// Encoded bytes for the library, of which it has taken `eaten`.
    staged: Vec<u8>,
    eaten: usize,
    /// The mark that the scanner stopped at.
    mark: Option<Mark>,
    /// Whether a mark was passed.
    begun: bool,
    /// Whether the library has given any byte since the last mark that was passed. As it
    /// gives the first one only when it has seen the whole block, a mark that comes earlier
    /// is not one: the block's data happens to look like it.
    gave: bool,
    /// A decoded byte for which there was no room.
    held: Option<u8>,
    checksum: u32,
    level: u8,
}

impl Stream {
    fn starting(start: &BlockStart) -> Self {
        let phase = (start.bit % 8) as u32;
        let mut staged = Vec::with_capacity(STAGE);
        staged.extend_from_slice(&HEADER);
        staged.push(start.level);
        Self {
            library: Decompress::new(false),
            scanner: Scanner::new(phase),
            base: start.bit - u64::from(phase),
            staged,
            eaten: 0,
            mark: None,
            begun: false,
            gave: false,
            held: None,
            checksum: start.checksum,
            level: start.level,
        }
    }

    /// Stages input for the library, up to the next mark; returns how much it took.
    fn fill(&mut self, input: &[u8]) -> usize {
        self.staged.clear();
        self.eaten = 0;
        for (index, &byte) in input.iter().enumerate().take(STAGE) {
            self.staged.extend(self.scanner.push(byte));
            self.mark = self.scanner.mark();
            if self.mark.is_some() {
                return index + 1;
            }
        }
        input.len().min(STAGE)
    }

    /// Lets the library decode what is staged. Returns the bytes written and whether that
    /// was all that it can give for now.
    fn drain(&mut self, output: &mut [u8]) -> Result<(usize, bool)> {
        let mut made = 0;
        loop {
            let room = output.get_mut(made..).unwrap_or_default();
            if let Some(byte) = self.held {
                let Some(first) = room.first_mut() else {
                    return Ok((made, false));
                };
                *first = byte;
                self.held = None;
                made += 1;
                continue;
            }
            if room.is_empty() {
                // The library does not tell whether it has more, so it is asked for a byte.
                let mut probe = [0];
                self.held = (self.run(&mut probe)? == 1).then_some(probe[0]);
                if self.held.is_none() {
                    return Ok((made, true));
                }
                continue;
            }
            let space = room.len();
            let got = self.run(room)?;
            made += got;
            if got < space {
                return Ok((made, true));
            }
        }
    }

    /// One call of the library, which stops when its input is used up or its output is full.
    fn run(&mut self, output: &mut [u8]) -> Result<usize> {
        let input = self.staged.get(self.eaten..).unwrap_or_default();
        let (offered, space) = (input.len(), output.len());
        let before = (self.library.total_in(), self.library.total_out());
        let status = self
            .library
            .decompress(input, output)
            .map_err(|error| corrupt(NAME, reason(error)))?;
        let eaten = (self.library.total_in() - before.0) as usize;
        let made = (self.library.total_out() - before.1) as usize;
        self.eaten += eaten;
        self.gave |= made > 0;
        match status {
            Status::MemNeeded => Err(out_of_memory()),
            Status::Ok if eaten == offered || made == space => Ok(made),
            _ => Err(corrupt(NAME, "a stream ends within a block")),
        }
    }

    /// Passes the mark that the scanner stopped at, when the library has decoded all before
    /// it, which makes `position` bytes of the object.
    fn pass(&mut self, position: u64) -> Result<Passed> {
        let Some(mark) = self.mark.take() else {
            return Ok(Passed::Nothing);
        };
        if !self.begun && mark.bit != u64::from(self.scanner.phase()) {
            return Err(corrupt(NAME, "no block starts where one must"));
        }
        if self.begun && !self.gave {
            return Ok(Passed::Nothing);
        }
        self.begun = true;
        self.gave = false;
        match mark.kind {
            MarkKind::Block => {
                let start = BlockStart {
                    bit: self.base + mark.bit,
                    output: position,
                    checksum: self.checksum,
                    level: self.level,
                };
                self.checksum = self.checksum.rotate_left(1) ^ mark.checksum;
                Ok(Passed::Block(start))
            }
            MarkKind::Footer if mark.checksum == self.checksum => Ok(Passed::Footer),
            MarkKind::Footer => Err(corrupt(NAME, "the stream's checksum does not match")),
        }
    }
}

fn reason(error: bzip2::Error) -> &'static str {
    match error {
        bzip2::Error::Data => "a block is damaged or its checksum does not match",
        bzip2::Error::DataMagic => "the header is damaged",
        bzip2::Error::Sequence | bzip2::Error::Param => "the decoder is out of step",
    }
}

fn out_of_memory() -> Error {
    Error::new(Kind::Unavailable, "decode", NAME, "out of memory")
}
