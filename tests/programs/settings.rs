//! The same with every codec, and with objects and blocks of other sizes.

use crate::backup::{NAME, Time, VOLUME, check_script_as, image_of};
use crate::common::library::Dice;
use crate::common::mount::{Lab, MIB, command, run, shell};
use crate::common::store_check::{Expected, check_only};
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};

#[test]
fn every_codec() {
    for (option, noted) in [
        ("zlib", "zlib"),
        ("gzip", "gzip"),
        ("bz2", "bz2"),
        ("bzip2", "bzip2"),
        ("ZSTD", "zstd"),
        ("none", "none"),
        ("off", "none"),
    ] {
        let lab = Lab::with(&format!(
            "backup_file_size = 1048576\nbackup_compression_algorithm = {option}\n"
        ));
        let expected = Expected {
            object_size: MIB as u64,
            compression: noted,
        };
        let mut data = Dice(30).text(MIB);
        data.extend(Dice(31).noise(MIB));
        data.extend(vec![0; MIB / 2]);
        let source = image_of(&lab, &data);
        let stored = check_script_as(&lab, &source, r#"cp "$1" "$2""#, Time::Now, expected);
        let used: Vec<&str> = stored
            .objects
            .iter()
            .map(|o| o.compression.as_str())
            .collect();
        // Noise does not shrink.
        assert_eq!(used, [noted, "none", noted], "{option}");
    }
}

#[test]
fn object_and_block_sizes() {
    for (object, block) in [
        (32_768u64, 32_768),
        (4096, 4096),
        (65_536, 512),
        (3 << 20, 1 << 20),
    ] {
        let lab = Lab::with(&format!(
            "backup_file_size = {object}\nbackup_sha_block_size_bytes = {block}\n"
        ));
        let expected = Expected {
            object_size: object,
            compression: "zlib",
        };
        let source = image_of(&lab, &Dice(object).image(700_001));
        let stored = check_script_as(&lab, &source, r#"cp "$1" "$2""#, Time::Now, expected);
        assert_eq!(stored.sha_block, block);
        assert_eq!(stored.objects.len() as u64, 700_001u64.div_ceil(object));
    }
}

/// Cinder's default object is larger than the memory that the program may use.
#[test]
fn a_sparse_file_of_3_gib_with_objects_of_default_size() {
    const DEFAULT_OBJECT: u64 = 1_999_994_880;
    let lab = Lab::with("memory = 64MiB\n");
    let source = lab.path("source.img");
    let file = File::create(&source).unwrap();
    file.set_len(3 << 30).unwrap();
    let mut dice = Dice(33);
    for at in [0, 1 << 30, DEFAULT_OBJECT - 100_000, (3 << 30) - 300_000] {
        file.write_all_at(&dice.image(300_000), at).unwrap();
    }
    drop(file);
    let mount = lab.mount();
    let target = mount.volume(VOLUME).join(NAME);
    run(&mut command("cp", &[&source, &target]));
    let expected = Expected {
        object_size: DEFAULT_OBJECT,
        compression: "zlib",
    };
    let stored = check_only(&lab.store(), expected, &source);
    assert_eq!(stored.objects.len(), 2);
    let in_store: u64 = stored.objects.iter().map(|object| object.stored).sum();
    assert!(
        in_store < 20 * MIB as u64,
        "{in_store} bytes for a file of holes"
    );
    // It goes out again as it came: with holes.
    let copy = lab.path("copy.img");
    run(&mut command("cp", &[&target, &copy]));
    assert!(copy.metadata().unwrap().blocks() * 512 < 16 * MIB as u64);
    run(&mut shell(
        r#"qemu-img compare -f raw -F raw "$1" "$2""#,
        &[&source, &copy],
    ));
}
