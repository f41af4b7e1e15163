//! Decoding as the program does it, in steps, against the fastest library in one go; and
//! one-shot compression. One core each.

mod common;

use cinderfs::codec::{Codec, Decoder, compress};
use common::{Bench, OBJECT_SIZE, compare, time};
use std::hint::black_box;

fn main() {
    let bench = Bench::new();
    let image = std::fs::read(bench.image()).unwrap();
    let chunk = &image[..OBJECT_SIZE.min(image.len())];
    let size = chunk.len() as u64;
    // Touched already: memory that is new to the process costs time of its own.
    let mut data = chunk.to_vec();
    let packed = compress(Codec::Zlib, chunk)
        .unwrap()
        .expect("text and zeros shrink");
    compare(
        "inflate in steps, against libdeflate",
        size,
        0.8,
        || {
            let mut data = vec![0; chunk.len()];
            time(|| {
                libdeflater::Decompressor::new()
                    .zlib_decompress(&packed, &mut data)
                    .unwrap();
            })
        },
        || time(|| decode(Codec::Zlib, &packed)),
    );
    let packed = compress(Codec::Zstd, chunk)
        .unwrap()
        .expect("text and zeros shrink");
    compare(
        "unzstd in steps, against one go",
        size,
        0.5,
        || {
            time(|| {
                zstd::bulk::decompress_to_buffer(&packed, &mut data[..]).unwrap();
            })
        },
        || time(|| decode(Codec::Zstd, &packed)),
    );
}

fn decode(codec: Codec, packed: &[u8]) {
    let mut decoder = Decoder::new(codec).unwrap();
    let mut output = vec![0; 512 << 10];
    let mut rest = packed;
    loop {
        let progress = decoder.decode(rest, &mut output).unwrap();
        rest = &rest[progress.consumed..];
        black_box(&output);
        if progress.produced == 0 && (progress.ended || rest.is_empty()) {
            break;
        }
    }
}
