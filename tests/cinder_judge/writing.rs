//! What we write, Cinder restores.

use crate::case::{CODECS, Case, Format, Ground, To, lab, least, mib, new_volume};
use crate::common::judge::CINDER;
use crate::common::mount::set_xattr;
use crate::image::{Edit, KIB, MIB, edited, image};

/// Writes images in full, one of each format and length, and lets Cinder restore them.
pub fn check_full(ground: &Ground, seed: u64, formats: &[Format], lengths: &[usize]) {
    let lab = lab(ground, formats[0]);
    let Some(mut case) = Case::new(ground, &lab, CINDER) else {
        return;
    };
    let volume = new_volume();
    for format in formats {
        case.configure(*format);
        let mount = lab.mount();
        for length in lengths {
            let image = image(seed + *length as u64, *length);
            let name = format!("{}-{length}.img", format.compression);
            case.copy(&mount, &volume, To::Volume, &name, &image);
            let row = case.import(&volume, &name);
            assert_eq!(row.volume_id, volume);
            assert_eq!(row.parent_id, None);
            assert_eq!(row.size, 1);
            assert_eq!(
                row.object_count as usize,
                length.div_ceil(format.object_size)
            );
            case.check_restored(&row.id, &image);
        }
    }
}

#[test]
fn full_backups_of_every_codec() {
    check_full(&Ground::Posix, 1, &CODECS.map(mib), &[3 * MIB + 123_457]);
}

#[test]
fn objects_of_32_kib_and_lengths_around_one() {
    let lengths = [0, 1, 32 * KIB - 1, 32 * KIB, 32 * KIB + 1, 1_300_001];
    check_full(&Ground::Posix, 2, &["zlib", "none"].map(least), &lengths);
}

/// Two objects of Cinder's size for Swift, and a bit.
pub fn check_large(ground: &Ground) {
    let format = Format {
        compression: "zlib",
        object_size: 52_428_800,
    };
    let lab = lab(ground, format);
    let Some(mut case) = Case::new(ground, &lab, CINDER) else {
        return;
    };
    let (mount, volume) = (lab.mount(), new_volume());
    let border = format.object_size;
    let zeroed = 70 * MIB..73 * MIB + 1;
    let full = image(3, 2 * border + 123_457);
    let full = edited(&full, &[Edit::Data(zeroed.clone())]);
    let next = edited(
        &full,
        &[Edit::Data(border - 5..border + 5), Edit::Zeros(zeroed)],
    );
    case.copy(&mount, &volume, To::Volume, "full", &full);
    case.copy(&mount, &volume, To::Incremental, "next", &next);
    let parent = case.import(&volume, "full");
    assert_eq!(parent.object_count, 3);
    let child = case.import(&volume, "next");
    assert_eq!(child.parent_id, Some(parent.id));
    assert_eq!(child.object_count, 3, "no run crosses a border");
    case.check_restored(&child.id, &next);
}

/// The images of a volume from backup to backup: data, zeros over data, growth within a
/// block and beyond, nothing at all.
fn history(seed: u64) -> Vec<Vec<u8>> {
    let full = image(seed, 2 * MIB + 40_001);
    let changed = edited(
        &full,
        &[
            Edit::Data(100_000..100_010),
            Edit::Data(MIB - 3..MIB + 3),
            Edit::Zeros(300_000..900_000),
        ],
    );
    let grown = edited(
        &changed,
        &[
            Edit::Growth(5 * MIB / 4),
            Edit::Zeros(2 * MIB..2 * MIB + 40_000),
            Edit::Zeros(0..50_000),
        ],
    );
    let last = edited(
        &grown,
        &[Edit::Data(310_000..320_000), Edit::Growth(40_000)],
    );
    let unchanged = last.clone();
    vec![full, changed, grown, last, unchanged]
}

/// Writes a chain, each backup in a format of its own, and lets Cinder restore all of it.
pub fn check_chain(ground: &Ground, seed: u64, formats: &[Format]) {
    let lab = lab(ground, formats[0]);
    let Some(mut case) = Case::new(ground, &lab, CINDER) else {
        return;
    };
    let volume = new_volume();
    let images = history(seed);
    for (depth, image) in images.iter().enumerate() {
        case.configure(formats[depth % formats.len()]);
        let to = if depth == 0 {
            To::Volume
        } else {
            To::Incremental
        };
        let mount = lab.mount();
        case.copy(&mount, &volume, to, &depth.to_string(), image);
    }
    // The youngest first: Cinder takes parents later.
    let mut rows = Vec::new();
    for depth in (0..images.len()).rev() {
        rows.insert(0, case.import(&volume, &depth.to_string()));
        if depth > 0 {
            let restore = serde_json::json!(
                {"op": "restore", "backup": &rows[0].id, "path": case.new_path("early")});
            let refused = case.judge.refuse(restore);
            assert_eq!(refused.error, "BackupNotFound", "{}", refused.message);
        }
    }
    for (depth, image) in images.iter().enumerate() {
        let parent = depth.checked_sub(1).map(|parent| rows[parent].id.clone());
        assert_eq!(rows[depth].parent_id, parent);
        case.check_restored(&rows[depth].id, image);
    }
    let unchanged = &rows[4];
    assert_eq!(unchanged.object_count, 0);
    assert_eq!(
        case.metadata(&unchanged.id)["objects"],
        serde_json::json!([])
    );
}

#[test]
fn chains_of_one_format() {
    check_chain(&Ground::Posix, 4, &[mib("zlib")]);
}

#[test]
fn chains_of_one_format_with_small_objects() {
    check_chain(&Ground::Posix, 5, &[least("none")]);
}

#[test]
fn chains_whose_backups_have_other_codecs_and_object_sizes() {
    let formats = [
        mib("bz2"),
        least("zstd"),
        mib("none"),
        Format {
            compression: "gzip",
            object_size: 96 * KIB,
        },
        mib("zstd"),
        least("bzip2"),
    ];
    check_chain(&Ground::Posix, 6, &formats);
}

pub fn check_names(ground: &Ground) {
    let names = [
        "Montag früh.img",
        "резервная копия",
        "バックアップ 月曜日",
        "نسخة احتياطية",
        "\u{1F4BE}\u{10FFFF} e\u{301}",
        "it's \"quoted\" \\ & <b> $HOME `x` %s {}",
        " leading and trailing ",
        "new\nline\ttab\u{1b}",
    ];
    let lab = lab(ground, mib("zlib"));
    let Some(mut case) = Case::new(ground, &lab, CINDER) else {
        return;
    };
    let (mount, volume) = (lab.mount(), new_volume());
    let image = image(7, 100_000);
    for name in names {
        let description = format!("{name} \u{1F600}\nzweite Zeile");
        case.copy(&mount, &volume, To::Volume, name, &image);
        let path = mount.volume(&volume).join(name);
        let set = set_xattr(&path, "user.cinder.description", description.as_bytes());
        assert_eq!(set, 0);
        let row = case.import(&volume, name);
        assert_eq!(row.display_name.as_deref(), Some(name));
        assert_eq!(row.display_description, Some(description));
        case.check_restored(&row.id, &image);
    }
}

#[test]
fn objects_of_52428800() {
    check_large(&Ground::Posix);
}

#[test]
fn names_in_any_language() {
    check_names(&Ground::Posix);
}
