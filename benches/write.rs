//! A backup through the mount, against hashing and compressing the same chunks on all
//! cores: sha256 of blocks, md5 of objects, and the fastest deflate whose result is at
//! most 1 percent larger than zlib level 6. The mount also stores it, durably.

mod common;

use common::{Bench, OBJECT_SIZE, SHA_BLOCK, compare, dd, on_all_cores, time};
use libdeflater::{CompressionLvl, Compressor};
use md5::Md5;
use sha2::{Digest, Sha256};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

fn main() {
    let bench = Bench::new();
    let image = bench.image();
    let data = std::fs::read(&image).unwrap();
    let chunks: Vec<&[u8]> = data.chunks(OBJECT_SIZE).collect();
    let level_6 = zlib_6(&chunks);
    let (level, stored) = (1..=6)
        .map(|level| (level, deflate(&chunks, level).1))
        .find(|(_, stored)| *stored as f64 <= level_6 as f64 * 1.01)
        .unwrap_or((6, level_6));
    println!(
        "libdeflate level {level} gives {:.4} of zlib level 6, level 1 {:.4}",
        stored as f64 / level_6 as f64,
        deflate(&chunks, 1).1 as f64 / level_6 as f64,
    );
    let config = bench.config("zlib", "zlib");
    let mut round = 0;
    let mut peak = 0;
    let mut backup = |peak: &mut u64| {
        round += 1;
        let mount = bench.mount(&config);
        let volume = mount.folder.join("bench/volume");
        let _ = std::fs::create_dir(&volume);
        let took = dd(&image, &volume.join(format!("image-{round}")));
        *peak = (*peak).max(mount.peak_memory());
        took
    };
    let size = data.len() as u64;
    // The second one, if it is another: the level that the program uses.
    for level in std::collections::BTreeSet::from([level, 1])
        .into_iter()
        .rev()
    {
        compare(
            &format!("backup, zlib, against libdeflate level {level}"),
            size,
            0.8,
            || deflate(&chunks, level).0,
            || backup(&mut peak),
        );
    }
    println!("  peak memory of the daemon: {} MiB", peak >> 20);
}

/// Hashes and compresses all chunks; how long that takes, and what it comes to.
fn deflate(chunks: &[&[u8]], level: i32) -> (Duration, u64) {
    let stored = AtomicU64::new(0);
    let took = time(|| {
        on_all_cores(chunks, |chunk| {
            for block in chunk.chunks(SHA_BLOCK) {
                black_box(Sha256::digest(block));
            }
            black_box(Md5::digest(chunk));
            let mut packed = vec![0; chunk.len() + (chunk.len() >> 8) + 1024];
            let mut compressor = Compressor::new(CompressionLvl::new(level).unwrap());
            let length = compressor.zlib_compress(chunk, &mut packed).unwrap();
            stored.fetch_add(length as u64, Ordering::Relaxed);
        });
    });
    (took, stored.into_inner())
}

fn zlib_6(chunks: &[&[u8]]) -> u64 {
    let stored = AtomicU64::new(0);
    on_all_cores(chunks, |chunk| {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(6));
        std::io::Write::write_all(&mut encoder, chunk).unwrap();
        stored.fetch_add(encoder.finish().unwrap().len() as u64, Ordering::Relaxed);
    });
    stored.into_inner()
}
