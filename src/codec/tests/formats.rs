//! What each codec must accept, refuse and write.

use super::*;

/// Python: bz2.compress(b"hello ") + bz2.compress(b"") + bz2.compress(b"world").
const BZ2_STREAMS: &str = "425a68393141592653597669e0d4000001110040000244a00030cd00c34629971772453850907669e0d4\
    425a683917724538509000000000\
    425a683931415926535959ce7bcb000002018004049080200030cd00c1a4c0717724538509059ce7bcb0";

/// Python: a compressobj with a sync flush and a full flush within b"sync full end".
const ZLIB_FLUSHED: &str = "789c2aaecc4b5600000000ffff4a2bcdc95100000000ffff4bcd4b0100233e04e8";

fn unhex(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
    digits
        .chunks(2)
        .map(|pair| (pair[0] << 4 | pair[1]) as u8)
        .collect()
}

#[test]
fn a_zstd_frame_says_its_content_size() {
    let data = text(100_000);
    for packed in [
        encode(Codec::Zstd, &data, 777),
        compress(Codec::Zstd, &data).unwrap().unwrap(),
    ] {
        let size = ::zstd::zstd_safe::get_frame_content_size(&packed)
            .ok()
            .flatten();
        assert_eq!(size, Some(100_000));
    }
}

#[test]
fn a_bz2_checkpoint_still_proves_the_checksum_of_the_stream() {
    let data = image(500_000);
    let mut packed = bz2_of_small_blocks(&data);
    let mut decoder = Decoder::new(Codec::Bzip2).unwrap();
    run(&mut decoder, &packed, (10_000, 100_000), |_| ()).unwrap();
    let place = decoder.checkpoint().unwrap();
    assert!(place.output_offset() > 200_000 && place.size_in_memory() < 100);
    let end = packed.len();
    packed[end - 3] ^= 0x10;
    for mut decoder in [
        Decoder::resume(&place).unwrap(),
        Decoder::new(Codec::Bzip2).unwrap(),
    ] {
        let failure = run(&mut decoder, &packed, (10_000, 100_000), |_| ()).unwrap_err();
        assert!(failure.reason().contains("checksum"), "{failure}");
    }
}

/// A block says in a bit map which bytes it holds, 16 bits after 16 bits: with the right bytes
/// that map is what the start of a block, or the footer, looks like.
#[test]
fn what_looks_like_a_bz2_block_is_none() {
    for map in [[0x3141, 0x5926, 0x5359], [0x1772, 0x4538, 0x5090_u16]] {
        let bytes: Vec<u8> = (0..48)
            .filter(|&n| map[usize::from(n / 16)] << (n % 16) & 0x8000 != 0)
            .collect();
        let mut data: Vec<u8> = noise(370_000)
            .iter()
            .map(|&n| bytes[usize::from(n) % bytes.len()])
            .collect();
        // Of a long run, bzip2 stores the length, which would be one more byte in the map.
        data.dedup();
        let packed = bz2_of_small_blocks(&data);
        let magic = map
            .iter()
            .fold(0, |magic, &part| magic << 16 | u64::from(part));
        let mut window = 0_u64;
        let seen = (0..packed.len() * 8).filter(|bit| {
            window = window << 1 | u64::from(packed[bit / 8] >> (7 - bit % 8) & 1);
            window & 0xffff_ffff_ffff == magic
        });
        assert!(seen.count() >= 4, "the false ones must be there");
        for pieces in [(9_000, 40_000), (1, 1 << 20), (1 << 20, 1 << 20)] {
            let places = resume_everywhere(Codec::Bzip2, &packed, &data, pieces);
            assert!(places == 3 || pieces.0 > data.len(), "{places} of 3");
        }
    }
}

#[test]
fn bz2_streams_follow_each_other() {
    let object = unhex(BZ2_STREAMS);
    for pieces in [(1, 1), (7, 3), (1000, 1000), (1000, 11)] {
        let decoded = decode(Codec::Bzip2, &object, pieces).unwrap();
        assert_eq!(decoded.data, b"hello world");
        assert!(!decoded.ended);
    }
    let junk = [object.as_slice(), &[0; 5]].concat();
    let decoded = decode(Codec::Bzip2, &junk, (1000, 1000)).unwrap();
    assert!(decoded.ended && decoded.left == 5);
    let junk = [object.as_slice(), b"BZx"].concat();
    assert!(decode(Codec::Bzip2, &junk, (1000, 1000)).is_err());
}

#[test]
fn a_zlib_stream_is_alone_and_may_be_flushed() {
    let mut object = unhex(ZLIB_FLUSHED);
    let decoded = decode(Codec::Zlib, &object, (3, 2)).unwrap();
    assert_eq!(
        (decoded.data.as_slice(), decoded.left),
        (&b"sync full end"[..], 0)
    );
    object.extend(unhex(ZLIB_FLUSHED));
    let decoded = decode(Codec::Zlib, &object, (1000, 1000)).unwrap();
    assert_eq!(decoded.data, b"sync full end");
    assert!(decoded.ended && decoded.left == object.len() / 2);
    let gzip = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 3, 0];
    assert!(decode(Codec::Zlib, &gzip, (1000, 1000)).is_err());
    let dictionary = [0x78, 0xbb, 0, 1, 2, 3, 0, 0];
    let failure = decode(Codec::Zlib, &dictionary, (1000, 1000)).unwrap_err();
    assert!(failure.reason().contains("dictionary"), "{failure}");
}

#[test]
fn zstd_frames_of_all_kinds_are_read() {
    use ::zstd::zstd_safe::{CCtx, CParameter};
    let mut checked = Vec::with_capacity(1000);
    let mut context = CCtx::create();
    context
        .set_parameter(CParameter::ChecksumFlag(true))
        .unwrap();
    context
        .set_parameter(CParameter::ContentSizeFlag(false))
        .unwrap();
    context.compress2(&mut checked, b"one ").unwrap();
    let skippable = unhex("502a4d18 03000000 ffffff");
    let object = [
        checked.as_slice(),
        &skippable,
        &encode(Codec::Zstd, b"two", 1),
    ]
    .concat();
    for pieces in [(1, 1), (5, 2), (1000, 1000), (1000, 7)] {
        assert_eq!(
            decode(Codec::Zstd, &object, pieces).unwrap().data,
            b"one two"
        );
    }
    let end = checked.len() - 1;
    checked[end] ^= 1;
    assert!(decode(Codec::Zstd, &checked, (1000, 1000)).is_err());
    let junk = [object.as_slice(), b"junk"].concat();
    assert!(decode(Codec::Zstd, &junk, (1000, 1000)).is_err());
}

#[test]
fn a_zstd_window_beyond_the_limit_is_refused() {
    // A frame header with a window of 2^31 bytes, and a raw block.
    let object = unhex("28b52ffd 00 a8 090000 41");
    let failure = decode(Codec::Zstd, &object, (1000, 1000)).unwrap_err();
    assert!(failure.reason().contains("too much memory"), "{failure}");
}

#[test]
fn what_all_cores_have_packed_is_one_object_to_others() {
    let whole = image(9 << 20);
    for length in [0, 1, (1 << 20) - 1, 1 << 20, (2 << 20) + 1, 9 << 20] {
        let data = &whole[..length];
        let packed = encode(Codec::Zlib, data, 300_000);
        // One stream, as Python's zlib.decompress takes it, which stops at its end.
        let mut other = flate2::Decompress::new(true);
        let mut found = Vec::with_capacity(length + 1);
        let status = other.decompress_vec(&packed, &mut found, flate2::FlushDecompress::Finish);
        assert_eq!(status.unwrap(), flate2::Status::StreamEnd);
        assert_eq!(other.total_in(), packed.len() as u64);
        assert!(found == data, "{length}");
        let packed = encode(Codec::Bzip2, data, 300_000);
        let mut found = Vec::new();
        let mut other = bzip2::read::MultiBzDecoder::new(packed.as_slice());
        std::io::Read::read_to_end(&mut other, &mut found).unwrap();
        assert!(found == data, "{length}");
    }
    // Noise is not worth trying, and takes hardly more room than it has.
    let noise = noise(3 << 20);
    let packed = encode(Codec::Zlib, &noise, 1 << 20);
    assert!(packed.len() < noise.len() + noise.len() / 1000);
}
