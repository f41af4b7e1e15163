//! Sequential reads through the mount, against a plain program that decodes and hashes
//! the same objects on all cores and throws the result away; reading again, against a
//! plain local file; and the peak of the daemon's memory.

mod common;

use common::{
    Bench, OBJECT_SIZE, SHA_BLOCK, compare, dd, files_below, is_chunk, on_all_cores, time, warm,
};
use sha2::{Digest, Sha256};
use std::cell::RefCell;
use std::fs::File;
use std::hint::black_box;
use std::io::Read;
use std::path::{Path, PathBuf};

fn main() {
    let bench = Bench::new();
    let image = bench.image();
    let size = image.metadata().unwrap().len();
    let null = Path::new("/dev/null");
    for compression in ["zlib", "none"] {
        let config = bench.config(compression, compression);
        {
            let mount = bench.mount(&config);
            let volume = mount.folder.join("bench/volume");
            std::fs::create_dir(&volume).unwrap();
            dd(&image, &volume.join("image"));
        }
        let chunks: Vec<PathBuf> = files_below(&bench.path(compression))
            .into_iter()
            .filter(|path| is_chunk(path))
            .collect();
        chunks.iter().for_each(|chunk| warm(chunk));
        let mut peak = 0;
        compare(
            &format!("read, {compression}, cold"),
            size,
            0.7,
            || time(|| on_all_cores(&chunks, |chunk| decode_and_hash(chunk, compression))),
            || {
                // A new mount: the kernel has nothing of it yet.
                let mount = bench.mount(&config);
                let took = dd(&mount.folder.join("bench/volume/image"), null);
                peak = peak.max(mount.peak_memory());
                took
            },
        );
        println!("  peak memory of the daemon: {} MiB", peak >> 20);
        let mount = bench.mount(&config);
        let file = mount.folder.join("bench/volume/image");
        warm(&file);
        warm(&image);
        compare(
            &format!("read again, {compression}"),
            size,
            0.7,
            || dd(&image, null),
            || dd(&file, null),
        );
        // The kernel caches files of FUSE and of tmpfs in single pages, and those of
        // ext4 and xfs in large pieces: this shows how much of the distance that is.
        if let Ok(shared) = tempfile::tempdir_in("/dev/shm") {
            let copy = shared.path().join("image");
            std::fs::copy(&image, &copy).unwrap();
            let what = format!("read again, {compression}, against tmpfs");
            compare(&what, size, 0.7, || dd(&copy, null), || dd(&file, null));
        }
    }
}

thread_local! {
    /// Buffers that a thread fills again and again, as a program that is all about speed does.
    static BUFFERS: RefCell<(Vec<u8>, Vec<u8>)> = RefCell::default();
}

fn decode_and_hash(chunk: &Path, compression: &str) {
    BUFFERS.with_borrow_mut(|(stored, data)| {
        stored.clear();
        File::open(chunk).unwrap().read_to_end(stored).unwrap();
        let data = if compression == "zlib" && stored.starts_with(&[0x78]) {
            data.resize(OBJECT_SIZE, 0);
            let length = libdeflater::Decompressor::new()
                .zlib_decompress(stored, data)
                .unwrap();
            &data[..length]
        } else {
            &stored[..]
        };
        for block in data.chunks(SHA_BLOCK) {
            black_box(Sha256::digest(block));
        }
    });
}
