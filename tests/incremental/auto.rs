//! `incremental = auto`, and how long a chain may become.

use crate::common::library::Dice;
use crate::common::mount::{Lab, command, fail, names, on_every_backend, run, shell};
use crate::{EXPECTED, SMALL, VOLUME, cp, depth, id, images, lab, parent, stored};
use std::fs;

on_every_backend! { SMALL;
    what_is_written_is_an_increment_where_it_can_be
}

fn what_is_written_is_an_increment_where_it_can_be(lab: &Lab) {
    lab.configure(&format!("{SMALL}incremental = auto\n"));
    let (first, second) = images(lab, 1);
    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    cp(&first, &volume.join("a"));
    cp(&second, &volume.join("b"));
    // Smaller: a full one, whatever was written of it as an increment.
    cp(&first, &volume.join("c"));
    cp(&second, &volume.join("d"));
    stored(lab, "a").check(EXPECTED, &first);
    stored(lab, "b").check_on(EXPECTED, &first, &second);
    stored(lab, "c").check(EXPECTED, &first);
    stored(lab, "d").check_on(EXPECTED, &first, &second);
    for (name, of) in [("a", None), ("b", Some("a")), ("c", None), ("d", Some("c"))] {
        let expected = of.map(|of| id(&volume.join(of)));
        assert_eq!(parent(&volume.join(name)), expected, "{name}");
    }
    cp(&first, &volume.join(".full/e"));
    assert_eq!(parent(&volume.join("e")), None);
    // Nothing but what has changed is a change, however it is written.
    let holes = r#"cp --sparse=always "$1" "$2/f" && dd if="$1" of="$2/g" bs=30k status=none \
                   conv=sparse && rsync -a "$1" "$2/h""#;
    run(&mut shell(holes, &[&first, &volume]));
    for name in ["f", "g", "h"] {
        let same = stored(lab, name);
        assert_eq!(same.objects.len(), 0, "{name}");
        same.check_on(EXPECTED, &first, &first);
        run(&mut command("cmp", &[&first, &volume.join(name)]));
    }
}

#[test]
fn a_full_one_begins_each_chain() {
    let lab = lab("incremental = auto\nmax_chain = 2\n");
    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    let mut data = Dice(1).image(600_000);
    let mut depths = Vec::new();
    for number in 0..7 {
        data[number * 70_000] ^= 1;
        let source = lab.source(&format!("s{number}"), &data);
        cp(&source, &volume.join(number.to_string()));
        depths.push(depth(&volume.join(number.to_string())));
    }
    assert_eq!(depths, [0, 1, 2, 0, 1, 2, 0]);
    for number in 0..7 {
        let name = number.to_string();
        run(&mut command(
            "cmp",
            &[lab.path(&format!("s{number}")), volume.join(name)],
        ));
    }
    // Who asks for an increment gets it.
    let (a, b, c) = (
        volume.join(".incremental/a"),
        volume.join("b"),
        volume.join("c"),
    );
    cp(&lab.path("s6"), &volume.join("7"));
    cp(&lab.path("s6"), &volume.join("8"));
    cp(&lab.path("s6"), &a);
    cp(&lab.path("s6"), &b);
    cp(&lab.path("s6"), &c);
    assert_eq!((depth(&a), depth(&b), depth(&c)), (3, 0, 1));
}

/// A list of hashes that is damaged in its midst costs room, and no backup.
#[test]
fn a_damaged_list_of_hashes_is_no_end() {
    let lab = lab("incremental = auto\n");
    let (first, second) = images(&lab, 3);
    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    cp(&first, &volume.join("a"));
    let damage = r#"f=$(find "$1" -name '*_sha256file'); s=$(stat -c %s "$f")
                    printf x | dd of="$f" bs=1 seek=$((s / 2)) conv=notrunc status=none"#;
    run(&mut shell(damage, &[&lab.store()]));
    cp(&second, &volume.join("b"));
    assert_eq!(parent(&volume.join("b")), Some(id(&volume.join("a"))));
    run(&mut command("cmp", &[&second, &volume.join("b")]));
    assert!(
        lab.log().contains("holds more than what has changed"),
        "{}",
        lab.log()
    );
}

/// One of whose metadata nothing can be read may be built on anything.
#[test]
fn a_damaged_backup_is_passed_over() {
    let lab = lab("incremental = auto\nlist_ttl = 0\n");
    let (first, second) = images(&lab, 4);
    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    cp(&first, &volume.join("a"));
    let spoilt = id(&volume.join("a"));
    run(&mut shell(
        r#"find "$1" -name "*_$2_metadata" -exec truncate -s 10 {} +"#,
        &[lab.store().as_os_str(), spoilt.as_ref()],
    ));
    cp(&second, &volume.join("b"));
    assert_eq!(parent(&volume.join("b")), None);
    cp(&second, &volume.join(".incremental/c"));
    assert_eq!(parent(&volume.join("c")), Some(id(&volume.join("b"))));
    let (_, said) = fail(&mut command("rm", &[volume.join("c")]));
    assert!(said.contains("busy"), "{said}");
    // The one that tells nothing goes first, and so all goes.
    run(&mut shell(r#"rm -r "$1""#, &[&volume]));
    assert_eq!(names(&mount.path("posix")), [""; 0]);
    assert!(fs::metadata(&volume).is_err());
}
