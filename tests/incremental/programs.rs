//! The programs that write images, into the drop folders.

use crate::common::mount::{Lab, command, names, on_every_backend, run, shell};
use crate::common::store_check::{count, read_store};
use crate::{EXPECTED, SMALL, VOLUME, cp, id, images, lab, parent, stored};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

on_every_backend! { SMALL;
    qemu_img
    many_increments_at_once
}

/// Runs a script that writes the file `$1` to `$2`, in both drop folders.
fn check_script(script: &str) {
    let lab = lab("");
    let (first, second) = images(&lab, script.len() as u64);
    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    cp(&first, &volume.join("base"));
    for (folder, name) in [(".incremental", "child.img"), (".full", "full.img")] {
        let target = volume.join(folder).join(name);
        run(&mut shell(script, &[&second, &target]));
        assert_eq!(names(&volume).len(), count(&lab.store()));
        run(&mut command("cmp", &[&second, &volume.join(name)]));
    }
    stored(&lab, "full.img").check(EXPECTED, &second);
    let child = stored(&lab, "child.img");
    child.check_on(EXPECTED, &first, &second);
    assert_eq!(child.parent(), Some(id(&volume.join("base")).as_str()));
    assert_eq!(names(&volume), ["base", "child.img", "full.img"]);
    assert_eq!(mount.unmount(), 0);
    let mount = lab.mount();
    run(&mut command(
        "cmp",
        &[&second, &mount.volume(VOLUME).join("child.img")],
    ));
}

#[test]
fn cp_in_all_its_ways() {
    check_script(r#"cp "$1" "$2""#);
    check_script(r#"cp --sparse=always "$1" "$2""#);
    check_script(r#"cp -p "$1" "$2""#);
    check_script(r#"cp -a --sparse=always "$1" "$2""#);
}

#[test]
fn dd_in_all_its_ways() {
    check_script(r#"dd if="$1" of="$2" bs=64k status=none"#);
    check_script(r#"dd if="$1" of="$2" bs=3000 status=none"#);
    check_script(r#"dd if="$1" of="$2" bs=4k conv=sparse status=none"#);
    check_script(r#"dd if="$1" of="$2" bs=1M conv=fsync status=none"#);
}

#[test]
fn streams_and_install() {
    check_script(r#"cat "$1" > "$2""#);
    check_script(r#"gzip -c "$1" | gunzip > "$2""#);
    check_script(r#"install -m 600 "$1" "$2""#);
    check_script(r#"mkdir "$1.d" 2>&-; cp "$1" "$1.d/m"; mv "$1.d/m" "$2""#);
}

#[test]
fn rsync_in_all_its_ways() {
    check_script(r#"rsync -a "$1" "$2""#);
    check_script(r#"rsync -a --inplace "$1" "$2""#);
    check_script(r#"rsync -aS "$1" "$2""#);
    check_script(r#"rsync -a --fsync "$1" "$2""#);
    // By its own name, into the folder.
    check_script(
        r#"mkdir -p "$1.d" && cp "$1" "$1.d/$(basename "$2")" &&
           rsync -a "$1.d/$(basename "$2")" "$(dirname "$2")/" && rm -r "$1.d""#,
    );
}

#[test]
fn tar_in_all_its_ways() {
    let script = |flags: &str| {
        format!(
            r#"cd "$(dirname "$1")" && cp -p "$1" "$(basename "$2")" &&
               tar {flags} -cf a.tar "$(basename "$2")" && tar -xf a.tar -C "$(dirname "$2")""#
        )
    };
    check_script(&script(""));
    check_script(&script("-S"));
}

fn qemu_img(lab: &Lab) {
    let (first, second) = images(lab, 7);
    // Disks have whole sectors.
    for path in [&first, &second] {
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(file.metadata().unwrap().len().next_multiple_of(512))
            .unwrap();
    }
    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    let convert = r#"qemu-img convert -f raw -O raw "$1" "$2""#;
    run(&mut shell(convert, &[&first, &volume.join(".full/base")]));
    run(&mut shell(
        convert,
        &[&second, &volume.join(".incremental/child")],
    ));
    run(&mut shell(
        convert,
        &[&second, &volume.join(".incremental/same")],
    ));
    stored(lab, "base").check(EXPECTED, &first);
    stored(lab, "child").check_on(EXPECTED, &first, &second);
    assert_eq!(stored(lab, "same").objects.len(), 0);
    for name in ["child", "same"] {
        run(&mut command("cmp", &[&second, &volume.join(name)]));
    }
    assert_eq!(
        parent(&volume.join("same")),
        Some(id(&volume.join("child")))
    );
}

/// The kernel tells of the last close a moment after the program has ended.
fn check_loop(script: &str, rounds: usize) {
    let lab = lab("");
    let (first, second) = images(&lab, 8);
    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    let all = format!(
        r#"for i in $(seq {rounds}); do
               {script}
               p=$(getfattr --only-values -n user.cinder.parent_id "$3/b" 2>&-)
               [[ $p == $(getfattr --only-values -n user.cinder.backup_id "$3/a" 2>&-) ]]
               cmp "$2" "$3/b"
               rm "$3/b" "$3/a"
           done"#
    );
    let all = format!("set -e; {all}");
    run(&mut shell(&all, &[&first, &second, &volume]));
    assert_eq!(count(&lab.store()), 0);
}

#[test]
fn what_was_closed_an_instant_ago_is_a_parent() {
    check_loop(r#"cp "$1" "$3/a"; cp "$2" "$3/.incremental/b""#, 40);
    check_loop(
        r#"rsync -a "$1" "$3/a"; rsync -a "$2" "$3/.incremental/b""#,
        15,
    );
    check_loop(r#"cat "$1" > "$3/a"; cat "$2" > "$3/.incremental/b""#, 25);
    check_loop(r#": > "$3/a"; cp "$2" "$3/.incremental/b""#, 25);
}

/// What comes through a mapping comes after the close.
#[test]
fn what_was_mapped_an_instant_ago_is_a_parent() {
    let map = r#"python3 -c '
import mmap, os, sys
data = open(sys.argv[1], "rb").read()
file = os.open(sys.argv[2], os.O_RDWR | os.O_CREAT | os.O_EXCL)
os.ftruncate(file, len(data))
mapping = mmap.mmap(file, len(data))
os.close(file)
mapping[:] = data
' "$1" "$3/a"; cp "$2" "$3/.incremental/b"; cmp "$1" "$3/a""#;
    check_loop(map, 20);
}

/// Several programs at once, each of which finds some parent.
fn many_increments_at_once(lab: &Lab) {
    let (first, _) = images(lab, 9);
    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    cp(&first, &volume.join("base"));
    let folder = lab.path("sources");
    fs::create_dir(&folder).unwrap();
    for number in 0..12u64 {
        let path = folder.join(format!("{number}.img"));
        fs::copy(&first, &path).unwrap();
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(b"changed", number * 90_000).unwrap();
    }
    let script = r#"cd "$1" && ls | xargs -P 4 -I@ cp @ "$2"/.incremental/@"#;
    run(&mut shell(script, &[&folder, &volume]));
    check_all(lab, &folder, &first);
    run(&mut shell(r#"rm -r "$1""#, &[&volume]));
    assert_eq!(count(&lab.store()), 0);
}

fn check_all(lab: &Lab, folder: &Path, base: &Path) {
    let all = read_store(&lab.store());
    assert_eq!(all.len(), 13);
    let source = |name: &str| match name {
        "base" => base.to_owned(),
        name => folder.join(name),
    };
    for backup in &all {
        let own = source(backup.name.as_deref().unwrap());
        match backup.parent() {
            None => backup.check(EXPECTED, &own),
            Some(id) => {
                let parent = all.iter().find(|one| one.id == id).unwrap();
                let before = source(parent.name.as_deref().unwrap());
                backup.check_on(EXPECTED, &before, &own);
            }
        }
    }
}
