//! Programs that fill one file in place: dd, cat, shells, touch, truncate, fallocate.

use crate::backup::{Time, check_script, image, image_of, sparse_image};
use crate::common::library::Dice;
use crate::common::mount::{Lab, MIB, SMALL_OBJECTS, on_every_backend};
use std::fs;

on_every_backend! { SMALL_OBJECTS;
    dd_in_small_blocks
    dd_in_large_blocks_with_fsync
    dd_that_leaves_zeros_out
    dd_that_writes_around_the_page_cache
}

fn dd_in_small_blocks(lab: &Lab) {
    check_script(
        lab,
        &image(lab, 6),
        r#"dd if="$1" of="$2" bs=4k status=none"#,
        Time::Now,
    );
}

fn dd_in_large_blocks_with_fsync(lab: &Lab) {
    let script = r#"dd if="$1" of="$2" bs=1M conv=fsync status=none"#;
    check_script(lab, &image(lab, 7), script, Time::Now);
}

fn dd_that_leaves_zeros_out(lab: &Lab) {
    let script = r#"dd if="$1" of="$2" bs=64k conv=sparse status=none"#;
    check_script(lab, &sparse_image(lab, 8), script, Time::Now);
}

fn dd_that_writes_around_the_page_cache(lab: &Lab) {
    let source = image_of(lab, &Dice(9).image(3 * MIB + 4096));
    let script = r#"dd if="$1" of="$2" bs=64k oflag=direct conv=fsync status=none"#;
    check_script(lab, &source, script, Time::Now);
}

#[test]
fn cat() {
    let lab = Lab::new();
    check_script(&lab, &image(&lab, 10), r#"cat "$1" > "$2""#, Time::Now);
}

/// Whenever one of its words ends, a copy of the descriptor is closed.
#[test]
fn a_shell_that_appends_through_one_descriptor() {
    let lab = Lab::new();
    let script = r#"exec 3>"$2"; for i in $(seq 300); do echo "line $i" >&3; done; exec 3>&-"#;
    let source = lab.path("source.img");
    let text: String = (1..=300).map(|i| format!("line {i}\n")).collect();
    fs::write(&source, text).unwrap();
    check_script(&lab, &source, script, Time::Now);
}

#[test]
fn a_shell_that_appends_across_chunks() {
    let lab = Lab::new();
    let source = image(&lab, 20);
    let script = r#"exec 3>"$2"; for i in $(seq 0 40); do
                        dd if="$1" bs=100000 skip=$i count=1 status=none >&3; done"#;
    check_script(&lab, &source, script, Time::Now);
}

#[test]
fn an_empty_file_and_one_of_a_byte() {
    for data in [&b""[..], b"x"] {
        let lab = Lab::new();
        let source = image_of(&lab, data);
        let stored = check_script(&lab, &source, r#"cp "$1" "$2""#, Time::Now);
        assert_eq!(stored.objects.len(), data.len());
    }
}

#[test]
fn touch_makes_an_empty_backup() {
    let lab = Lab::new();
    let source = image_of(&lab, b"");
    check_script(
        &lab,
        &source,
        r#"touch -d '2019-03-04 05:06:07.123456789 UTC' "$2""#,
        Time::Kept,
    );
}

#[test]
fn truncate_makes_zeros() {
    let lab = Lab::new();
    let source = image_of(&lab, &vec![0; 5 * MIB + 5]);
    check_script(&lab, &source, r#"truncate -s 5242885 "$2""#, Time::Now);
}

#[test]
fn fallocate_makes_zeros() {
    let lab = Lab::new();
    let source = image_of(&lab, &vec![0; 2 * MIB + 5]);
    check_script(&lab, &source, r#"fallocate -l 2097157 "$2""#, Time::Now);
}
