//! What holds for every codec.

mod formats;

use std::io::Write;

use proptest::prelude::*;

use super::*;
use crate::error::Kind;

const CODECS: [Codec; 4] = [Codec::None, Codec::Zlib, Codec::Bzip2, Codec::Zstd];

#[derive(Debug, PartialEq)]
struct Decoded {
    data: Vec<u8>,
    ended: bool,
    left: usize,
}

/// Pseudo-random bytes, the same in every run.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    })
    .take(len)
    .collect()
}

fn text(len: usize) -> Vec<u8> {
    let words = [
        "volume", "backup", "chunk", "object", "of", "the", "is", "a\n",
    ];
    noise(len)
        .iter()
        .flat_map(|&byte| words[usize::from(byte) % words.len()].bytes().chain([b' ']))
        .take(len)
        .collect()
}

/// What disk images are like: text, zeros and noise in turn.
fn image(len: usize) -> Vec<u8> {
    let part = len / 6 + 1;
    let mut image = [text(part), vec![0; part], noise(part)].concat().repeat(2);
    image.truncate(len);
    image
}

fn encode(codec: Codec, data: &[u8], piece: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = Encoder::new(codec, data.len() as u64).unwrap();
    for piece in data.chunks(piece) {
        encoder.write(piece, &mut out).unwrap();
    }
    encoder.finish(&mut out).unwrap();
    out
}

/// Decodes to the end of `object`, calling `visit` after each step.
fn run(
    decoder: &mut Decoder,
    object: &[u8],
    (in_piece, out_piece): (usize, usize),
    mut visit: impl FnMut(&Decoder),
) -> Result<Decoded> {
    let start = decoder.consumed();
    let mut data = Vec::new();
    let mut buffer = vec![0; out_piece];
    loop {
        let at = usize::try_from(decoder.consumed()).unwrap();
        let end = object.len().min(at + in_piece);
        let progress = decoder.decode(&object[at..end], &mut buffer)?;
        assert!(progress.consumed <= end - at && progress.produced <= out_piece);
        assert_eq!(decoder.consumed(), (at + progress.consumed) as u64);
        data.extend_from_slice(&buffer[..progress.produced]);
        visit(decoder);
        let idle = progress.consumed == 0 && progress.produced == 0;
        if progress.ended || (idle && end == object.len()) {
            let left = object.len() - usize::try_from(decoder.consumed()).unwrap();
            assert!(decoder.consumed() >= start);
            decoder.finish()?;
            return Ok(Decoded {
                data,
                ended: progress.ended,
                left,
            });
        }
        assert!(!idle, "no progress at {at} of {}", object.len());
    }
}

fn decode(codec: Codec, object: &[u8], pieces: (usize, usize)) -> Result<Decoded> {
    run(&mut Decoder::new(codec)?, object, pieces, |_| ())
}

/// What `bzip2 -1` writes: blocks of 100 kB.
fn bz2_of_small_blocks(data: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// Asserts that going on from every checkpoint gives the rest; returns how many there were.
fn resume_everywhere(codec: Codec, object: &[u8], data: &[u8], pieces: (usize, usize)) -> usize {
    let mut places: Vec<Checkpoint> = Vec::new();
    let mut decoder = Decoder::new(codec).unwrap();
    run(&mut decoder, object, pieces, |decoder| {
        if let Some(place) = decoder.checkpoint() {
            assert!(place.output_offset() <= decoder.position());
            assert!(place.input_offset() <= decoder.consumed());
            let known = places.last().map(Checkpoint::output_offset);
            if known != Some(place.output_offset()) {
                places.push(place);
            }
        }
    })
    .unwrap();
    for place in &places {
        let mut decoder = Decoder::resume(place).unwrap();
        assert_eq!(decoder.consumed(), place.input_offset());
        assert_eq!(decoder.position(), place.output_offset());
        let rest = run(&mut decoder, object, pieces, |_| ()).unwrap();
        let from = usize::try_from(place.output_offset()).unwrap();
        assert!(rest.data == data[from..], "{codec:?} from {place:?}");
    }
    places.len()
}

#[test]
fn names_are_cinders() {
    for (name, codec) in [
        ("none", Some(Codec::None)),
        ("ZLIB", Some(Codec::Zlib)),
        ("gzip", Some(Codec::Zlib)),
        ("bz2", Some(Codec::Bzip2)),
        ("BZip2", Some(Codec::Bzip2)),
        ("zstd", Some(Codec::Zstd)),
        ("off", None),
        ("lzma", None),
        ("", None),
    ] {
        assert_eq!(Codec::from_metadata(name), codec, "{name}");
    }
    assert_eq!(Codec::from_option("Off"), Some(Codec::None));
    assert_eq!(Codec::from_option("NO"), Some(Codec::None));
    assert_eq!(Codec::from_option("gzip"), Some(Codec::Zlib));
    assert_eq!(Codec::from_option("yes"), None);
}

#[test]
fn what_is_compressed_is_decoded() {
    for codec in CODECS {
        for len in [0, 1, 4095, 32768, (1 << 20) + 7] {
            for data in [noise(len), vec![0; len], text(len)] {
                if let Some(packed) = compress(codec, &data).unwrap() {
                    assert!(packed.len() < data.len());
                    assert!(decode(codec, &packed, (1 << 16, 1 << 16)).unwrap().data == data);
                } else {
                    assert!(codec == Codec::None || len < 2 || data == noise(len));
                }
                let packed = encode(codec, &data, 50_000);
                assert!(decode(codec, &packed, (1 << 16, 1 << 16)).unwrap().data == data);
            }
        }
    }
}

#[test]
fn pieces_of_any_size_are_the_same() {
    let data = image(70_000);
    for codec in CODECS {
        for in_piece in [1, 7, 65536] {
            let packed = encode(codec, &data, in_piece);
            for out_piece in [1, 7, 65536, data.len(), data.len() + 1] {
                let decoded = decode(codec, &packed, (in_piece, out_piece)).unwrap();
                assert!(decoded.data == data, "{codec:?} {in_piece} {out_piece}");
                assert_eq!(decoded.left, 0);
            }
        }
    }
}

#[test]
fn one_call_with_exact_room_comes_to_the_end() {
    let data = image(70_000);
    for codec in CODECS {
        let packed = encode(codec, &data, data.len());
        let mut room = vec![0; data.len()];
        let mut decoder = Decoder::new(codec).unwrap();
        decoder.decode(&packed, &mut room).unwrap();
        decoder
            .decode(&packed[decoder.consumed() as usize..], &mut [])
            .unwrap();
        decoder.finish().unwrap();
        assert!(room == data);
        for _ in 0..40 {
            decoder.decode(&[], &mut room).unwrap();
        }
        decoder.finish().unwrap();
    }
}

#[test]
fn an_encoder_takes_what_was_announced() {
    for codec in CODECS {
        let mut out = Vec::new();
        let mut encoder = Encoder::new(codec, 3).unwrap();
        encoder.write(b"ab", &mut out).unwrap();
        assert_eq!(
            encoder.write(b"cd", &mut out).unwrap_err().kind(),
            Kind::Invalid
        );
        let short = Encoder::new(codec, 3).unwrap();
        assert_eq!(short.finish(&mut out).unwrap_err().kind(), Kind::Invalid);
    }
}

#[test]
fn reading_goes_on_from_every_checkpoint() {
    let data = image(500_000);
    for codec in [Codec::None, Codec::Zlib] {
        let packed = encode(codec, &data, data.len());
        let places = resume_everywhere(codec, &packed, &data, (9_000, 40_000));
        assert!(places > 10, "{codec:?}: {places}");
    }
    let packed = bz2_of_small_blocks(&data);
    assert!(resume_everywhere(Codec::Bzip2, &packed, &data, (9_000, 40_000)) >= 3);

    let frames = [&data[..300_000], &data[300_000..300_001], &data[300_001..]];
    let packed = frames
        .map(|frame| encode(Codec::Zstd, frame, frame.len()))
        .concat();
    // The end of the last frame is one as well.
    assert_eq!(
        resume_everywhere(Codec::Zstd, &packed, &data, (10, 100_000)),
        3
    );
}

#[test]
fn what_was_cut_off_is_noticed() {
    for codec in [Codec::Zlib, Codec::Bzip2, Codec::Zstd] {
        let object = encode(codec, &image(2_000), 500);
        for len in 0..object.len() {
            for pieces in [(64, 64), (10_000, 10_000)] {
                let failure = decode(codec, &object[..len], pieces).unwrap_err();
                assert_eq!(failure.kind(), Kind::Corrupt, "{codec:?} {len}");
            }
        }
    }
}

#[test]
fn a_flipped_bit_is_noticed() {
    let data = image(600);
    for codec in [Codec::Zlib, Codec::Bzip2, Codec::Zstd] {
        let object = encode(codec, &data, 500);
        for bit in 0..object.len() * 8 {
            let mut object = object.clone();
            object[bit / 8] ^= 1 << (bit % 8);
            match decode(codec, &object, (64, 64)) {
                Err(failure) => assert_eq!(failure.kind(), Kind::Corrupt),
                // Without a checksum, or in a place that means nothing: a level, padding.
                Ok(decoded) if codec == Codec::Zstd => assert!(decoded.data.len() < 200_000),
                Ok(decoded) => assert!(decoded.data == data, "{codec:?} bit {bit}"),
            }
        }
    }
}

#[test]
fn a_failure_stays() {
    let mut decoder = Decoder::new(Codec::Zlib).unwrap();
    let mut room = [0; 10];
    let first = decoder.decode(b"no zlib data", &mut room).unwrap_err();
    assert_eq!(
        first.to_string(),
        "cannot decode zlib data: incorrect header check"
    );
    assert_eq!(
        decoder.decode(&[], &mut room).unwrap_err().reason(),
        first.reason()
    );
    assert!(decoder.finish().is_err() && decoder.checkpoint().is_none());
}

#[test]
fn a_bomb_stops_where_the_room_ends() {
    let zeros = vec![0; 8 << 20];
    for codec in [Codec::Zlib, Codec::Bzip2, Codec::Zstd] {
        let bomb = compress(codec, &zeros).unwrap().unwrap();
        let mut room = vec![1; 4096];
        let mut decoder = Decoder::new(codec).unwrap();
        let mut at = 0;
        for _ in 0..3 {
            let progress = decoder.decode(&bomb[at..], &mut room).unwrap();
            assert_eq!(progress.produced, room.len());
            at += progress.consumed;
        }
        assert_eq!(decoder.position(), 3 * 4096);
        assert!(decoder.finish().is_err());
    }
}

proptest! {
    #[test]
    fn any_bytes_survive(data: Vec<u8>, times in 1..40_usize, pieces in (1..99_usize, 1..99_usize)) {
        let data = data.repeat(times);
        for codec in CODECS {
            let packed = encode(codec, &data, pieces.1);
            prop_assert_eq!(&decode(codec, &packed, pieces).unwrap().data, &data);
        }
    }

    #[test]
    fn any_input_is_survived(mut object: Vec<u8>, pieces in (1..99_usize, 1..999_usize)) {
        for codec in [Codec::Zlib, Codec::Bzip2, Codec::Zstd] {
            let header: &[u8] = match codec {
                Codec::Zlib => &[0x78, 0x9c],
                Codec::Bzip2 => b"BZh91AY&SY",
                _ => &[0x28, 0xb5, 0x2f, 0xfd],
            };
            let _ = decode(codec, &object, pieces);
            object.splice(0..0, header.iter().copied());
            let _ = decode(codec, &object, pieces);
        }
    }
}
