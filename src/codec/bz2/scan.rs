//! Finds the marks in a bzip2 stream, which start at any bit, while it passes by.
//!
//! A mark is 48 bits that say what follows, a block or the footer, and a checksum of 32
//! bits. Compressed data can happen to look like a mark; only decoding can tell, so this
//! module must not draw any conclusion from one.

/// The first 48 bits of a block, the digits of pi.
const BLOCK: u64 = 0x3141_5926_5359;

/// The first 48 bits of the footer, the digits of its square root.
const FOOTER: u64 = 0x1772_4538_5090;

const MAGIC_BITS: u64 = 48;
const MAGIC_MASK: u64 = (1 << MAGIC_BITS) - 1;
const CHECKSUM_BITS: u64 = 32;
const MARK_BITS: u64 = MAGIC_BITS + CHECKSUM_BITS;

/// Two bytes, in bits from the end of what was read, that lie within a magic number wherever
/// it ends in the last byte. They rule out nearly every place, at the cost of two look-ups.
const PROBES: [u32; 2] = [16, 24];

/// For the values of those bytes: the bits of the last byte at which a mark may end.
const CANDIDATES: [[u8; 256]; 2] = [candidates(PROBES[0]), candidates(PROBES[1])];

const fn candidates(probe: u32) -> [u8; 256] {
    let mut table = [0; 256];
    let mut shift = 0;
    while shift < 8 {
        table[((BLOCK << shift) >> probe) as usize & 0xff] |= 1 << shift;
        table[((FOOTER << shift) >> probe) as usize & 0xff] |= 1 << shift;
        shift += 1;
    }
    table
}

/// What a mark stands before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Block,
    Footer,
}

/// A mark, or what looks like one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) kind: Kind,
    /// Its first bit, counted from the first byte that the scanner was given.
    pub(super) bit: u64,
    /// Of the block, or of all blocks of the stream.
    pub(super) checksum: u32,
}

/// Reads a stream byte by byte and hands it on, moved to byte borders, so late that a mark
/// is known before any but its first bits (14 at most) are handed on.
pub(super) struct Scanner {
    /// The last bits that were read, the latest one lowest.
    window: u128,
    /// How many bytes were read.
    read: u64,
    phase: u32,
}

impl Scanner {
    /// The stream starts at bit `phase` (0 to 7) of the first byte that will be read.
    pub(super) fn new(phase: u32) -> Self {
        Self {
            window: 0,
            read: 0,
            phase,
        }
    }

    /// Where the stream starts.
    pub(super) fn phase(&self) -> u32 {
        self.phase
    }

    /// Reads a byte; returns the one that is to be handed on, if it is its turn.
    pub(super) fn push(&mut self, byte: u8) -> Option<u8> {
        self.window = self.window << 8 | u128::from(byte);
        self.read += 1;
        let complete = self.read * 8 >= MARK_BITS + 8;
        let latest = (self.window >> (MARK_BITS - 8)) as u16;
        complete.then_some((latest >> (8 - self.phase)) as u8)
    }

    /// The mark that ends in the byte read last.
    pub(super) fn mark(&self) -> Option<Mark> {
        let magics = (self.window >> CHECKSUM_BITS) as u64;
        let [first, second] = PROBES.map(|probe| usize::from((magics >> probe) as u8));
        if CANDIDATES[0][first] & CANDIDATES[1][second] == 0 {
            return None;
        }
        (0..8).find_map(|shift| {
            let kind = match magics >> shift & MAGIC_MASK {
                BLOCK => Kind::Block,
                FOOTER => Kind::Footer,
                _ => return None,
            };
            let bit = (self.read * 8).checked_sub(MARK_BITS + shift)?;
            (bit >= u64::from(self.phase)).then_some(Mark {
                kind,
                bit,
                checksum: (self.window >> shift) as u32,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(phase: u32, bytes: &[u8]) -> (Vec<Mark>, Vec<u8>) {
        let mut scanner = Scanner::new(phase);
        let mut handed_on = Vec::new();
        let mut marks = Vec::new();
        for &byte in bytes {
            handed_on.extend(scanner.push(byte));
            marks.extend(scanner.mark());
        }
        (marks, handed_on)
    }

    #[test]
    fn finds_a_mark_at_any_bit() {
        for (kind, magic) in [(Kind::Block, BLOCK), (Kind::Footer, FOOTER)] {
            for shift in 0..8 {
                let mark = (u128::from(magic) << 32 | 0xdead_beef) << shift;
                let mut bytes = vec![0xff; 20];
                bytes.extend(&mark.to_be_bytes()[4..]);
                bytes.extend([0xff; 20]);
                let (marks, _) = scan(3, &bytes);
                let expected = Mark {
                    kind,
                    bit: 32 * 8 - 80 - shift,
                    checksum: 0xdead_beef,
                };
                assert_eq!(marks, [expected], "shift {shift}");
            }
        }
    }

    #[test]
    fn moves_the_stream_to_byte_borders() {
        let bytes: Vec<u8> = (0..40).map(|n: u8| n.wrapping_mul(73)).collect();
        for phase in 0..8 {
            let (_, handed_on) = scan(phase, &bytes);
            let expected: Vec<u8> = bytes
                .windows(2)
                .map(|pair| (u16::from_be_bytes([pair[0], pair[1]]) >> (8 - phase)) as u8)
                .collect();
            assert_eq!(handed_on, expected[..30], "phase {phase}");
        }
    }

    /// Were this not so, a false mark could hide a true one that starts up to 14 bits later.
    #[test]
    fn marks_cannot_overlap() {
        for first in [BLOCK, FOOTER] {
            for second in [BLOCK, FOOTER] {
                for distance in 1..=14 {
                    let overlap = MAGIC_MASK >> distance;
                    assert_ne!(first & overlap, second >> distance);
                }
            }
        }
    }
}
