//! Where a backup has no data, and who is told so.

use crate::cat;
use crate::common::golden::Tree;
use crate::common::library::Dice;
use crate::common::mount::{Lab, command, names, run, seek, write};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

/// Where data is, in blocks of 32 KiB.
const LAYOUT: [(u64, u64, bool); 5] = [
    (0, 3, true),
    (3, 64, false),
    (64, 65, true),
    (65, 100, false),
    (100, 101, true),
];
const BLOCK: u64 = 32_768;

pub fn holey_image() -> Vec<u8> {
    let mut image = Vec::new();
    let mut dice = Dice(5);
    for (start, end, data) in LAYOUT {
        let length = ((end - start) * BLOCK) as usize;
        if data {
            image.extend(dice.noise(length));
        } else {
            image.resize(image.len() + length, 0);
        }
    }
    image.truncate(image.len() - 1000);
    image
}

#[test]
fn holes_are_found_and_shown() {
    let lab = Lab::new();
    let image = holey_image();
    let size = image.len() as u64;
    let mut mount = lab.mount();
    let path = mount.volume("v").join("a");
    write(&path, &image);
    for _ in 0..2 {
        assert!(cat(&path) == image);
        let file = File::open(&path).unwrap();
        for (start, end, data) in LAYOUT {
            let next = (end * BLOCK).min(size);
            for at in [start * BLOCK, start * BLOCK + 1, end * BLOCK - 1001] {
                let (same, other) = (Ok(at), Ok(next));
                let found = (seek(&file, at, false), seek(&file, at, true));
                let expected = if data { (same, other) } else { (other, same) };
                assert_eq!(found, expected, "at {at}");
            }
        }
        for at in [size, size + 1, 1 << 40] {
            assert_eq!(seek(&file, at, false), Err(libc::ENXIO));
            assert_eq!(seek(&file, at, true), Err(libc::ENXIO));
        }
        let stat = file.metadata().unwrap();
        assert_eq!(stat.blocks(), (5 * BLOCK - 1000).div_ceil(512));
        // cp looks for holes where there are fewer blocks than bytes.
        let copy = lab.path("copy");
        let _ = fs::remove_file(&copy);
        run(&mut command("cp", &[&path, &copy]));
        assert!(fs::read(&copy).unwrap() == image);
        assert!(copy.metadata().unwrap().blocks() * 512 <= 6 * BLOCK);
        mount.unmount();
        mount = lab.mount();
    }
}

/// Backups of Cinder's do not tell where their holes are until they are read.
#[test]
fn holes_of_backups_that_cinder_made() {
    let lab = Lab::over(&Tree::Posix.path());
    let mount = lab.mount();
    for volume in names(&mount.path("posix")) {
        let volume = mount.path("posix").join(volume);
        for name in names(&volume) {
            let file = File::open(volume.join(&name)).unwrap();
            let size = file.metadata().unwrap().len();
            let image = fs::read(volume.join(&name)).unwrap();
            let mut at = 0;
            while at < size {
                let Ok(data) = seek(&file, at, false) else {
                    assert!(image[at as usize..].iter().all(|byte| *byte == 0));
                    break;
                };
                assert!(
                    image[at as usize..data as usize]
                        .iter()
                        .all(|byte| *byte == 0)
                );
                at = seek(&file, data, true).unwrap();
                assert!(at > data && at <= size);
            }
            assert!(file.metadata().unwrap().blocks() <= size.div_ceil(512));
        }
    }
}
