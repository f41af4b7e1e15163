//! Which names there can be, and how they change.

use crate::common::library::Dice;
use crate::common::mount::{Lab, MIB, errno, names, write};
use crate::common::store_check::{count, read_store};
use crate::{cat, text};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;

#[test]
fn rename_within_a_volume() {
    let lab = Lab::new();
    let mount = lab.mount();
    let volume = mount.volume("v");
    let (a, b, c) = (volume.join("a"), volume.join("b"), volume.join("c"));
    write(&a, b"of a");
    write(&b, b"of b");
    fs::rename(&a, &c).unwrap();
    assert_eq!(names(&volume), ["b", "c"]);
    assert_eq!(text(&c), "of a");
    // The same again, now that it is a record.
    fs::rename(&c, &a).unwrap();
    assert_eq!(names(&volume), ["a", "b"]);
    fs::rename(&a, &a).unwrap();
    assert_eq!(errno(fs::rename(&a, &b)), libc::EEXIST);
    assert_eq!(errno(fs::rename(volume.join("x"), &c)), libc::ENOENT);
    assert_eq!(errno(fs::rename(&a, volume.join(".full"))), libc::EISDIR);
    assert_eq!(
        errno(fs::rename(&a, volume.join("n".repeat(256)))),
        libc::ENAMETOOLONG
    );
    let other = mount.volume("w");
    assert_eq!(errno(fs::rename(&a, other.join("a"))), libc::EXDEV);
    assert_eq!(
        errno(fs::rename(&volume, mount.path("posix/x"))),
        libc::EXDEV
    );
    assert_eq!(errno(fs::rename(&a, mount.path("posix/a"))), libc::EXDEV);
    assert_eq!((text(&a), text(&b)), ("of a".into(), "of b".into()));
    let stored = read_store(&lab.store());
    let mut found: Vec<_> = stored
        .iter()
        .map(|backup| backup.name.clone().unwrap())
        .collect();
    found.sort_unstable();
    assert_eq!(found, ["a", "b"]);
    mount.unmount();
    let mount = lab.mount();
    assert_eq!(names(&mount.volume("v")), ["a", "b"]);
    assert_eq!(text(&mount.volume("v").join("a")), "of a");
}

#[test]
fn rename_while_it_is_written() {
    let lab = Lab::new();
    let mount = lab.mount();
    let volume = mount.volume("v");
    let mut file = File::create(volume.join("part")).unwrap();
    file.write_all(b"one, ").unwrap();
    fs::rename(volume.join("part"), volume.join("whole")).unwrap();
    file.write_all(b"two").unwrap();
    drop(file);
    assert_eq!(names(&volume), ["whole"]);
    assert_eq!(text(&volume.join("whole")), "one, two");
    assert_eq!(errno(File::open(volume.join("part"))), libc::ENOENT);
}

#[test]
fn a_reader_is_not_disturbed_by_a_rename() {
    let lab = Lab::new();
    let mount = lab.mount();
    let volume = mount.volume("v");
    let image = Dice(80).image(3 * MIB);
    write(&volume.join("a"), &image);
    cat(&volume.join("a"));
    let mut file = File::open(volume.join("a")).unwrap();
    let mut read = vec![0; MIB];
    file.read_exact(&mut read).unwrap();
    fs::rename(volume.join("a"), volume.join("b")).unwrap();
    file.read_to_end(&mut read).unwrap();
    assert!(read == image);
}

#[test]
fn file_names_of_all_kinds() {
    let long = "n".repeat(255);
    let long_utf8 = "ü".repeat(127);
    let wanted = [
        "a b",
        " lead",
        "trail ",
        "new\nline",
        "tab\t",
        "quote'\"`",
        "$HOME",
        "*?[x]",
        "-rf",
        "\\",
        "%41%",
        "täglich",
        "日本語",
        "старый",
        "عربى",
        "हिन्दी",
        "🐧👩‍👩‍👧",
        "e\u{301}",
        "\u{1}\u{7f}",
        "a:b",
        "...",
        ".x",
        &long,
        &long_utf8,
    ];
    let lab = Lab::new();
    let mount = lab.mount();
    for volume in [
        "v",
        "volume with space",
        "100%25",
        "日本",
        "-v",
        "volume_",
        "x_backup_y",
    ] {
        let volume = mount.volume(volume);
        for name in wanted {
            write(&volume.join(name), name.as_bytes());
        }
    }
    let volumes = names(&mount.path("posix"));
    mount.unmount();
    let mount = lab.mount();
    assert_eq!(names(&mount.path("posix")), volumes);
    let mut sorted = wanted.map(str::to_owned);
    sorted.sort_unstable();
    for volume in volumes {
        let volume = mount.path("posix").join(volume);
        assert_eq!(names(&volume), sorted);
        for name in wanted {
            assert_eq!(fs::read(volume.join(name)).unwrap(), name.as_bytes());
        }
    }
    let stored = read_store(&lab.store());
    assert_eq!(stored.len(), 7 * wanted.len());
}

#[test]
fn names_that_cannot_be() {
    let lab = Lab::new();
    let mount = lab.mount();
    let volume = mount.volume("v");
    let bad = |bytes: &[u8]| volume.join(OsStr::from_bytes(bytes));
    assert_eq!(errno(File::create(bad(b"a\xff"))), libc::EINVAL);
    assert_eq!(errno(File::create(bad(&[b'n'; 256]))), libc::ENAMETOOLONG);
    assert_eq!(errno(File::create(bad(".full".as_bytes()))), libc::EISDIR);
    for volume in ["new\nline", "100%", "%41", "%2"] {
        let made = fs::create_dir(mount.path("posix").join(volume));
        assert_eq!(errno(made), libc::EINVAL, "{volume:?}");
    }
    // The object's name would be too long, or lead elsewhere.
    let long = mount.volume(&"v".repeat(200));
    assert_eq!(errno(File::create(long.join("a"))), libc::ENAMETOOLONG);
    let slash = mount.volume("a%2Fb");
    assert_eq!(errno(File::create(slash.join("a"))), libc::EINVAL);
    assert!(lab.log().contains("too long"), "{}", lab.log());
    assert_eq!(names(&volume), [""; 0]);
    assert_eq!(count(&lab.store()), 0);
}
