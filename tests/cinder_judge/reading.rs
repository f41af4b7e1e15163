//! What Cinder writes, we read.

use crate::case::{
    CODECS, Case, Format, Ground, check_shown, lab, least, mib, name_of, new_volume, path_of,
};
use crate::common::judge::{CINDER, Row};
use crate::common::mount::xattr;
use crate::image::{Edit, KIB, MIB, edited, image};

/// The images of a volume from backup to backup. Cinder refuses growth.
fn history(seed: u64, length: usize) -> Vec<Vec<u8>> {
    let full = image(seed, length);
    let changed = edited(
        &full,
        &[
            Edit::Data(length / 3..length / 3 + 10),
            Edit::Zeros(length / 2..length / 4 * 3),
        ],
    );
    let unchanged = changed.clone();
    let shrunk = edited(
        &changed,
        &[Edit::Shrinking(length / 5), Edit::Data(0..length / 100)],
    );
    vec![full, changed, unchanged, shrunk]
}

/// Lets Cinder write a chain on a new volume. Gives its rows and images.
fn chain(case: &mut Case<'_>, images: Vec<Vec<u8>>) -> Vec<(Row, Vec<u8>)> {
    let volume = new_volume();
    let mut made: Vec<(Row, Vec<u8>)> = Vec::new();
    for (depth, image) in images.into_iter().enumerate() {
        case.volume(&volume, &image);
        let (name, description) = (format!("Nº {depth} \u{1F4BE}"), "\"Ж\"\n");
        let row = match made.last() {
            None => case.judge.full(&volume, &name, description),
            Some(_) => case.judge.increment(&volume, &name, description),
        };
        assert_eq!(row.parent_id, made.last().map(|(row, _)| row.id.clone()));
        made.push((row, image));
    }
    made
}

/// Lets Cinder write a chain in each of these formats, of images of about that length, and
/// looks at all of them through a mount.
pub fn check_chains(ground: &Ground, formats: &[Format], length: usize) {
    let lab = lab(ground, formats[0]);
    let Some(mut case) = Case::new(ground, &lab, CINDER) else {
        return;
    };
    let mut made = Vec::new();
    for (number, format) in formats.iter().enumerate() {
        case.configure(*format);
        made.extend(chain(&mut case, history(number as u64 + 11, length)));
    }
    let mount = lab.mount();
    for (row, image) in &made {
        check_shown(&mount, &row.id, image);
        let path = path_of(&mount, &row.id);
        let told = |name: &str| {
            let value = xattr(&path, &format!("user.cinder.{name}"));
            value.ok().map(|value| String::from_utf8(value).unwrap())
        };
        assert_eq!(told("backup_id").as_ref(), Some(&row.id));
        assert_eq!(told("parent_id"), row.parent_id);
        assert_eq!(told("description"), row.display_description);
        assert_eq!(told("container").as_ref(), Some(&row.container));
        let name = name_of(&mount, &row.id);
        let (made_at, of_id) = (row.created_at.replace(['-', ':'], ""), &row.id[..8]);
        assert!(name.starts_with(&made_at), "{name}: {made_at}");
        assert!(name.ends_with(&format!("{of_id}.img")), "{name}");
    }
}

#[test]
fn chains_of_every_codec() {
    check_chains(&Ground::Posix, &CODECS.map(mib), 3 * MIB + 123_457);
}

#[test]
fn chains_with_small_objects() {
    let odd = Format {
        compression: "zstd",
        object_size: 96 * KIB,
    };
    check_chains(
        &Ground::Posix,
        &[least("zlib"), least("none"), odd],
        MIB + 77,
    );
}

#[test]
fn chains_with_large_objects() {
    let large = Format {
        compression: "zlib",
        object_size: 52_428_800,
    };
    let default = Format {
        compression: "zlib",
        object_size: 1_999_994_880,
    };
    check_chains(&Ground::Posix, &[large, default], 60 * MIB + 5);
}
