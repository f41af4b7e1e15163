//! Users other than the one who mounts as root: who may mount, look, and write.

use crate::cat;
use crate::common::library::Dice;
use crate::common::mount::{
    Lab, MIB, Mount, USER, errno, fail, is_mounted, is_root_for, open_to_all, run, shell,
    shell_as_user, write,
};
use crate::common::store_check::{SMALL_ZLIB, read_store};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

#[test]
fn an_ordinary_user_can_do_it_all() {
    if !is_root_for("becoming another user") {
        return;
    }
    let device = Path::new("/dev/fuse").metadata().unwrap().mode();
    assert_eq!(
        device & 0o666,
        0o666,
        "an ordinary user cannot mount: chmod 0666 /dev/fuse"
    );
    let lab = Lab::new();
    let source = lab.source("source.img", &Dice(70).image(2 * MIB + 17));
    let mount = lab.mount_as_user("");
    let volume = mount.path("posix/v");
    let as_user = |script: &str| shell_as_user(USER, script, &[source.as_path(), &volume]);
    run(&mut as_user(
        r#"mkdir "$2" && cp -p "$1" "$2/a" && cmp "$1" "$2/a""#,
    ));
    run(&mut as_user(
        r#"rsync -a "$1" "$2/b" && cmp "$1" "$2/b" && mv "$2/b" "$2/c""#,
    ));
    run(&mut as_user(
        r#"test "$(stat -c %U:%a "$2/a")" = nobody:440 && touch -d @5 "$2/a""#,
    ));
    run(&mut as_user(r#"test "$(stat -c %Y "$2/a")" = 5"#));
    let (_, said) = fail(&mut as_user(r#"echo x >> "$2/a""#));
    assert!(said.contains("Permission denied"), "{said}");
    run(&mut as_user(r#"rm -f "$2/c" && test "$(ls "$2")" = a"#));
    // Not even root may look into it.
    assert_eq!(errno(fs::read_dir(mount.root())), libc::EACCES);
    assert_eq!(mount.unmount(), 0);
    let stored = read_store(&lab.store());
    assert_eq!(stored.len(), 1);
    stored[0].check(SMALL_ZLIB, &source);
    let mount = lab.mount_as_user("ro");
    let (_, said) = fail(&mut shell_as_user(
        USER,
        r#"echo x > "$1/b""#,
        &[mount.path("posix/v")],
    ));
    assert!(said.contains("Read-only file system"), "{said}");
    run(&mut shell_as_user(
        USER,
        r#""$1" umount "$2""#,
        &[lab.path("cinderfs"), mount.path("")],
    ));
    assert!(!is_mounted(mount.root()));
}

#[test]
fn others_look_inside_only_where_they_may() {
    if !is_root_for("becoming another user") {
        return;
    }
    let lab = Lab::new();
    open_to_all(&lab.path(""));
    let look = |mount: &Mount<'_>, group: &str| {
        let output = crate::common::mount::output(&mut shell_as_user(
            group,
            r#"cat "$1/posix/v/a""#,
            &[mount.root()],
        ));
        (output.status.success(), output.stdout)
    };
    let mount = lab.mount();
    write(&mount.volume("v").join("a"), b"a");
    cat(&mount.volume("v").join("a"));
    assert!(!look(&mount, "0").0);
    mount.unmount();
    let mount = lab.mount_with("mnt", "allow_other");
    // The group may read, as the mode says; others may not.
    assert_eq!(look(&mount, "0"), (true, b"a".to_vec()));
    assert!(!look(&mount, USER).0);
    let write_as_group = r#"echo x > "$1/posix/v/b""#;
    fail(&mut shell_as_user("0", write_as_group, &[mount.root()]));
}

/// `sudo dd if=DEVICE > FILE`: the file is open already when another user writes to it,
/// and that user closes it, too.
#[test]
fn a_program_of_another_user_may_write_to_what_it_was_given() {
    if !is_root_for("a program of another user") {
        return;
    }
    let lab = Lab::new();
    let mount = lab.mount();
    let path = mount.volume("v").join("a");
    let script = r#"setpriv --reuid 65534 --clear-groups dd bs=4k if=/dev/zero count=9 > "$1""#;
    run(&mut shell(script, &[&path]));
    assert_eq!(fs::read(&path).unwrap(), vec![0; 9 * 4096]);
}
