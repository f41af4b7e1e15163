//! Programs that copy and move files: cp, mv, install, tar, rsync.

use crate::backup::{
    NAME, Time, VOLUME, check_backup, check_script, check_time, image, sparse_image,
};
use crate::common::library::Dice;
use crate::common::mount::{
    Lab, MIB, SMALL_OBJECTS, command, fail, files_in, names, on_every_backend, run, shell,
};
use crate::common::store_check::{SMALL_ZLIB, read_store};
use std::fs;
use std::path::Path;
use std::time::SystemTime;

on_every_backend! { SMALL_OBJECTS;
    cp
    cp_of_a_sparse_file
    cp_that_makes_holes
    cp_that_keeps_everything
    mv_into_and_out_of_the_mount
    install_and_a_second_cp_over_it
    tar
    tar_of_a_sparse_file
    rsync
    rsync_in_place
    rsync_that_makes_holes
    many_files_at_once
}

fn cp(lab: &Lab) {
    let stored = check_script(lab, &image(lab, 1), r#"cp "$1" "$2""#, Time::Now);
    assert!(stored.is_numbered_in_order(), "{:?}", stored.objects);
}

fn cp_of_a_sparse_file(lab: &Lab) {
    check_script(
        lab,
        &sparse_image(lab, 2),
        r#"cp --sparse=auto "$1" "$2""#,
        Time::Now,
    );
}

fn cp_that_makes_holes(lab: &Lab) {
    check_script(
        lab,
        &sparse_image(lab, 3),
        r#"cp --sparse=always "$1" "$2""#,
        Time::Now,
    );
}

#[test]
fn cp_that_keeps_time_and_mode() {
    let lab = Lab::new();
    check_script(&lab, &image(&lab, 4), r#"cp -p "$1" "$2""#, Time::Kept);
}

fn cp_that_keeps_everything(lab: &Lab) {
    let source = image(lab, 5);
    run(&mut shell(
        r#"setfattr -n user.note -v text "$1"; chmod 751 "$1""#,
        &[&source],
    ));
    check_script(lab, &source, r#"cp -a "$1" "$2""#, Time::Kept);
}

#[test]
fn mv_across_volumes_copies() {
    let lab = Lab::new();
    let source = image(&lab, 40);
    let mount = lab.mount();
    let from = mount.volume("11111111-aaaa").join(NAME);
    let to = mount.volume(VOLUME).join(NAME);
    run(&mut command("cp", &[&source, &from]));
    run(&mut command("mv", &[&from, &to]));
    assert!(!from.exists());
    check_backup(&lab, &mount, &source, SMALL_ZLIB);
}

fn mv_into_and_out_of_the_mount(lab: &Lab) {
    let source = image(lab, 41);
    let (moved, back) = (lab.path("moved.img"), lab.path("back.img"));
    run(&mut command(
        "cp",
        &["-p".as_ref(), source.as_path(), &moved],
    ));
    let mount = lab.mount();
    let target = mount.volume(VOLUME).join(NAME);
    run(&mut command("mv", &[&moved, &target]));
    check_backup(lab, &mount, &source, SMALL_ZLIB);
    run(&mut command("mv", &[&target, &back]));
    run(&mut command("cmp", &[&source, &back]));
    check_time(&source, &back, Time::Kept, SystemTime::now());
    assert!(read_store(&lab.store()).is_empty());
}

fn install_and_a_second_cp_over_it(lab: &Lab) {
    let source = image(lab, 42);
    let mount = lab.mount();
    let target = mount.volume(VOLUME).join(NAME);
    run(&mut shell(
        r#"install -m 644 "$1" "$2""#,
        &[&source, &target],
    ));
    check_backup(lab, &mount, &source, SMALL_ZLIB);
    // A backup is a record: it is not written over.
    let (_, said) = fail(&mut command("cp", &[&source, &target]));
    let refused = ["Operation not permitted", "Permission denied"];
    assert!(refused.iter().any(|words| said.contains(words)), "{said}");
    check_backup(lab, &mount, &source, SMALL_ZLIB);
    run(&mut shell(
        r#"cp --remove-destination "$1" "$2""#,
        &[&source, &target],
    ));
    check_backup(lab, &mount, &source, SMALL_ZLIB);
}

fn tar(lab: &Lab) {
    let source = image(lab, 11);
    let script = r#"cd "$(dirname "$1")" && cp -p "$1" disk.img && tar -cf a.tar disk.img &&
                    tar -xf a.tar -C "$(dirname "$2")""#;
    check_script(lab, &source, script, Time::KeptSeconds);
}

fn tar_of_a_sparse_file(lab: &Lab) {
    let source = sparse_image(lab, 12);
    let script = r#"cd "$(dirname "$1")" && cp -p "$1" disk.img && tar -Scf a.tar disk.img &&
                    tar -xf a.tar -C "$(dirname "$2")""#;
    check_script(lab, &source, script, Time::KeptSeconds);
}

fn rsync(lab: &Lab) {
    check_script(lab, &image(lab, 13), r#"rsync -a "$1" "$2""#, Time::Kept);
}

fn rsync_in_place(lab: &Lab) {
    check_script(
        lab,
        &image(lab, 14),
        r#"rsync -a --inplace "$1" "$2""#,
        Time::Kept,
    );
}

fn rsync_that_makes_holes(lab: &Lab) {
    check_script(
        lab,
        &sparse_image(lab, 15),
        r#"rsync -aS "$1" "$2""#,
        Time::Kept,
    );
}

#[test]
fn rsync_of_what_is_there_already_does_nothing() {
    let lab = Lab::new();
    let source = image(&lab, 16);
    let twice = r#"rsync -a "$1" "$2" && test -z "$(rsync -ai "$1" "$2" | grep '^>f')""#;
    check_script(&lab, &source, twice, Time::Kept);
}

fn many_files_at_once(lab: &Lab) {
    let mount = lab.mount();
    let folder = lab.path("sources");
    fs::create_dir(&folder).unwrap();
    for number in 0..8 {
        let data = Dice(50 + number).image(MIB + 1000 * number as usize);
        fs::write(folder.join(format!("{number}.img")), data).unwrap();
    }
    let volume = mount.volume(VOLUME);
    let script = r#"cd "$1" && ls | xargs -P 8 -I@ cp @ "$2"/@"#;
    run(&mut shell(script, &[&folder, &volume]));
    run(&mut command("diff", &[Path::new("-r"), &folder, &volume]));
    for backup in read_store(&lab.store()) {
        backup.check(SMALL_ZLIB, &folder.join(backup.name.as_ref().unwrap()));
    }
    // A whole volume, and a tree of volumes, go out at once, and dots stay behind.
    let out = lab.path("out");
    run(&mut command("cp", &[Path::new("-r"), mount.root(), &out]));
    run(&mut command("diff", &[Path::new("-r"), mount.root(), &out]));
    assert_eq!(names(&out), [lab.backend()]);
    assert_eq!(names(&out.join(lab.backend())), [VOLUME]);
    assert_eq!(files_in(mount.root()), 8);
    let synced = lab.path("synced");
    run(&mut shell(
        r#"rsync -a "$1/" "$2""#,
        &[mount.root(), &synced],
    ));
    run(&mut command("diff", &[Path::new("-r"), &out, &synced]));
}
