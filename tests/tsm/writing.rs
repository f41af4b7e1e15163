//! What is written is there, whole, when close(2) has said so; and when it has not, there is
//! nothing.

use crate::common::mount::*;
use crate::model::{self, MIB, VOLUME, bytes, check_tidy};
use serde_json::json;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};

#[test]
fn what_is_copied_in_comes_back_and_is_shown_at_once() {
    let (lab, dsmc) = Lab::on_tsm("");
    let data = bytes(1, 9 * MIB + 4321);
    let mount = lab.mount();
    let path = model::write(&mount, "monday.img", &data);
    assert_eq!(names(&mount.volume(VOLUME)), ["monday.img"]);
    assert_eq!(fs::metadata(&path).unwrap().len(), data.len() as u64);
    assert_eq!(fs::read(&path).unwrap(), data);
    check_tidy(&lab);
    // Under the name that Cinder would give, with its volume as its folder.
    let objects = dsmc.objects();
    let folder = lab.path("staging").join(VOLUME);
    assert!(
        objects[0].starts_with(&format!("{}/backup-", folder.display())),
        "{objects:?}"
    );
    assert!(!folder.exists());
    // After another mount, and after a listing of the server's.
    assert_eq!(mount.unmount(), 0);
    let mount = lab.mount();
    let path = mount.volume(VOLUME).join("monday.img");
    assert_eq!(fs::read(&path).unwrap(), data);
    // Nobody else has to know how.
    for call in dsmc.calls() {
        assert_eq!(call["group"], true, "{call}");
        assert_eq!(call["locale"], "C", "{call}");
        assert_eq!(call["terminal"], false, "{call}");
    }
}

#[test]
fn programs_write_as_they_like() {
    let (lab, _dsmc) = Lab::on_tsm("");
    let data = bytes(2, 5 * MIB);
    let source = lab.source("disk.img", &data);
    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    run(&mut shell(
        r#"dd if="$1" of="$2/dd.img" bs=1M conv=fsync"#,
        &[&source, &volume],
    ));
    run(&mut shell(r#"cp -p "$1" "$2/cp.img""#, &[&source, &volume]));
    run(&mut shell(
        r#"rsync --inplace -t "$1" "$2/rsync.img""#,
        &[&source, &volume],
    ));
    run(&mut shell(
        r#"qemu-img convert -f raw -O raw "$1" "$2/qemu.img""#,
        &[&source, &volume],
    ));
    // Out of order, with a hole, and cut off.
    let odd = volume.join("odd.img");
    let file = fs::File::create(&odd).unwrap();
    file.write_all_at(b"end", 6 << 20).unwrap();
    file.write_all_at(b"begin", 0).unwrap();
    file.set_len((6 << 20) + 2).unwrap();
    close(file).unwrap();
    let sparse = fs::File::create(volume.join("empty.img")).unwrap();
    sparse.set_len(5 << 20).unwrap();
    close(sparse).unwrap();
    mount.unmount();
    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    for name in ["dd.img", "cp.img", "rsync.img", "qemu.img"] {
        run(&mut command("cmp", &[&volume.join(name), &source]));
    }
    let odd = fs::read(volume.join("odd.img")).unwrap();
    assert_eq!(
        (odd.len(), &odd[..5], &odd[6 << 20..]),
        ((6 << 20) + 2, &b"begin"[..], &b"en"[..])
    );
    assert_eq!(
        fs::read(volume.join("empty.img")).unwrap(),
        vec![0; 5 << 20]
    );
    let mtime = |path: &std::path::Path| {
        let at = fs::metadata(path).unwrap().modified().unwrap();
        at.duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_micros()
    };
    assert_eq!(mtime(&volume.join("cp.img")), mtime(&source));
    check_tidy(&lab);
    run(&mut lab.cinderfs(&["verify", "--config", lab.config().to_str().unwrap(), "tsm"]));
}

#[test]
fn a_program_that_renames_what_it_wrote_is_refused_and_leaves_nothing() {
    let (lab, dsmc) = Lab::on_tsm("");
    let source = lab.source("disk.img", &bytes(1, 100_000));
    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    let (code, said) = fail(&mut shell(r#"rsync "$1" "$2/a.img""#, &[&source, &volume]));
    assert_eq!(code, 23, "{said}");
    assert!(said.contains("Operation not supported"), "{said}");
    wait_for("it is cleared away", || dsmc.objects().is_empty());
    assert_eq!(names(&volume), [""; 0]);
    mount.unmount();
    check_tidy(&lab);
}

/// Writes a file, and gives what close(2) says.
fn write_and_close(mount: &Mount<'_>, name: &str, data: &[u8]) -> i32 {
    let mut file = fs::File::create(mount.volume(VOLUME).join(name)).unwrap();
    file.write_all(data).unwrap();
    errno(close(file))
}

#[test]
fn what_was_not_sent_is_said_and_leaves_nothing() {
    let (lab, dsmc) = Lab::on_tsm("");
    let mount = lab.mount();
    model::write(&mount, "before.img", b"before");
    let before = dsmc.objects();
    let cases = [
        (json!({"fault": "no-connection"}), libc::EIO, "ANS1017E"),
        (
            json!({"fault": "no-authentication"}),
            libc::EACCES,
            "ANS1025E",
        ),
        (json!({"fault": "bad-password"}), libc::EACCES, "ANS1051I"),
        (json!({"fault": "bad-path"}), libc::EIO, "ANS1228E"),
        (json!({"fault": "changed"}), libc::EIO, "ANS1228E"),
        (
            json!({"fault": "lost"}),
            libc::EIO,
            "the server does not have it",
        ),
        (
            json!({"fault": "short", "value": 100}),
            libc::EIO,
            "the server does not have it",
        ),
        (
            json!({"fault": "warning", "value": "ANS1999W Something odd."}),
            libc::EIO,
            "ANS1999W Something odd.",
        ),
        (
            json!({"fault": "skipped", "value": "ANS1998I Skipped."}),
            libc::EIO,
            "code 4",
        ),
        (
            json!({"fault": "killed-at", "value": 65536}),
            libc::EIO,
            "ended by signal 15",
        ),
        (
            json!({"fault": "silence"}),
            libc::EIO,
            "the server does not have it",
        ),
    ];
    for (mut fault, number, said) in cases {
        fault["on"] = json!(["selective"]);
        dsmc.faults(&json!([fault]));
        let log = lab.log().len();
        assert_eq!(
            write_and_close(&mount, "bad.img", &bytes(3, MIB)),
            number,
            "{fault}"
        );
        let log = lab.log()[log..].to_owned();
        assert!(log.contains(said), "{fault}: {log}");
        dsmc.faults(&json!([]));
        wait_for("it is cleared away", || dsmc.objects() == before);
        assert_eq!(names(&mount.volume(VOLUME)), ["before.img"], "{fault}");
        assert_eq!(
            fs::read(mount.volume(VOLUME).join("before.img")).unwrap(),
            b"before"
        );
        check_tidy(&lab);
    }
    // And then it works again.
    assert_eq!(write_and_close(&mount, "bad.img", b"good"), 0);
    assert_eq!(
        fs::read(mount.volume(VOLUME).join("bad.img")).unwrap(),
        b"good"
    );
}

#[test]
fn what_hangs_is_given_up_in_time() {
    let (lab, dsmc) = Lab::on_tsm("backup_tsm_mount_timeout = 1\n");
    let mount = lab.mount();
    dsmc.faults(&json!([{"fault": "hang", "on": ["selective"]}]));
    assert_eq!(write_and_close(&mount, "a.img", b"a"), libc::EIO);
    assert!(
        lab.log().contains("no sign of life for 1 s"),
        "{}",
        lab.log()
    );
    assert!(dsmc.running("selective").is_empty());
    // What goes on for longer, but goes on, is waited for.
    dsmc.faults(&json!([{"fault": "rate", "value": 2 << 20, "on": ["selective"]}]));
    assert_eq!(write_and_close(&mount, "b.img", &bytes(4, 5 * MIB)), 0);
    mount.unmount();
    check_tidy(&lab);
}

#[test]
fn what_does_no_harm_is_no_failure() {
    let (lab, dsmc) = Lab::on_tsm("list_ttl = 0\n");
    let mount = lab.mount();
    for (number, fault) in [
        json!({"fault": "warning", "on": ["selective"]}),
        json!({"fault": "quiet"}),
        json!({"fault": "stderr"}),
        json!({"fault": "german"}),
        json!({"fault": "wrap", "value": 80}),
        json!({"fault": "kilobytes"}),
    ]
    .into_iter()
    .enumerate()
    {
        dsmc.faults(&json!([fault]));
        let name = format!("{number}.img");
        let data = bytes(number as u64, 3000);
        assert_eq!(
            write_and_close(&mount, &name, &data),
            0,
            "{fault}\n{}",
            lab.log()
        );
        assert_eq!(
            fs::read(mount.volume(VOLUME).join(&name)).unwrap(),
            data,
            "{fault}"
        );
        assert_eq!(names(&mount.volume(VOLUME)).len(), number + 1, "{fault}");
    }
}

#[test]
fn a_file_that_is_written_once_more_is_sent_once_more() {
    let (lab, dsmc) = Lab::on_tsm("");
    let mount = lab.mount();
    let path = mount.volume(VOLUME).join("a.img");
    let mut expected = bytes(5, 3 * MIB);
    let file = fs::File::create(&path).unwrap();
    file.write_all_at(&expected, 0).unwrap();
    file.sync_all().unwrap();
    file.write_all_at(b"changed", 5).unwrap();
    file.sync_all().unwrap();
    expected[5..12].copy_from_slice(b"changed");
    assert_eq!(dsmc.count("selective"), 2);
    // What was sent first is no success of the second time.
    dsmc.faults(&json!([{"fault": "lost", "on": ["selective"]}, {"fault": "quiet"}]));
    file.write_all_at(b"lost", 50).unwrap();
    assert_eq!(errno(file.sync_all()), libc::EIO);
    assert_eq!(errno(close(file)), libc::EIO);
    dsmc.faults(&json!([]));
    mount.unmount();
    let mount = lab.mount();
    let path = mount.volume(VOLUME).join("a.img");
    assert_eq!(
        fs::read(path).unwrap_or_default(),
        expected,
        "{}",
        lab.log()
    );
}

#[test]
fn what_the_server_took_though_it_was_said_to_have_failed_can_be_read() {
    let (lab, dsmc) = Lab::on_tsm("");
    let mount = lab.mount();
    let path = mount.volume(VOLUME).join("a.img");
    let file = fs::File::create(&path).unwrap();
    file.write_all_at(b"first", 0).unwrap();
    file.sync_all().unwrap();
    // It is stored, and what is said of it is not understood.
    let fault = json!([{"fault": "warning", "value": "ANS1999W Odd.", "on": ["selective"]}]);
    dsmc.faults(&fault);
    file.write_all_at(b"other", 0).unwrap();
    assert_eq!(errno(close(file)), libc::EIO);
    assert!(!lab.log().contains("stays as it was"), "{}", lab.log());
    dsmc.faults(&json!([]));
    mount.unmount();
    let mount = lab.mount();
    let path = mount.volume(VOLUME).join("a.img");
    assert_eq!(fs::read(path).unwrap(), b"other", "{}", lab.log());
}

#[test]
fn what_was_refused_and_cannot_be_deleted_keeps_its_note() {
    let (lab, dsmc) = Lab::on_tsm("");
    let mount = lab.mount();
    dsmc.faults(&json!([
        {"fault": "warning", "value": "ANS1999W Odd.", "on": ["selective"]},
        {"fault": "no-connection", "on": ["delete"]},
    ]));
    assert_eq!(write_and_close(&mount, "bad.img", b"bad"), libc::EIO);
    mount.unmount();
    assert_eq!(dsmc.objects().len(), 1);
    assert_eq!(model::notes(&lab.path("staging/.catalog")).len(), 1);
}

#[test]
fn what_cannot_be_is_refused() {
    let (lab, dsmc) = Lab::on_tsm("");
    let mount = lab.mount();
    let path = model::write(&mount, "a.img", b"one");
    let create = |path: std::path::PathBuf| errno(fs::File::create(path));
    let volume = mount.volume(VOLUME);
    assert_eq!(create(volume.join(".incremental/b.img")), libc::EOPNOTSUPP);
    assert_eq!(
        errno(fs::rename(&path, volume.join("b.img"))),
        libc::EOPNOTSUPP
    );
    let no_volume = mount.volume("unassigned");
    assert_eq!(create(no_volume.join("b.img")), libc::EINVAL);
    assert_eq!(create(mount.volume("a*b").join("b.img")), libc::EINVAL);
    assert_eq!(dsmc.count("selective"), 1);
    // Words and times are ours to keep.
    assert_eq!(set_xattr(&path, "user.cinder.description", b"words"), 0);
    let at = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    fs::File::open(&path).unwrap().set_modified(at).unwrap();
    mount.unmount();
    let mount = lab.mount();
    let path = mount.volume(VOLUME).join("a.img");
    assert_eq!(xattr(&path, "user.cinder.description").unwrap(), b"words");
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), at);
}

#[test]
fn a_full_spool_is_enospc() {
    if !is_root_for("a small file system") {
        return;
    }
    let (lab, dsmc) = Lab::on_tsm("");
    fs::create_dir(lab.path("staging")).unwrap();
    run(&mut shell(
        r#"mount -t tmpfs -o size=8m tmpfs "$1""#,
        &[lab.path("staging")],
    ));
    let mount = lab.mount();
    let mut file = fs::File::create(mount.volume(VOLUME).join("a.img")).unwrap();
    let written = file.write_all(&bytes(6, 20 * MIB));
    let closed = errno(close(file));
    assert!(
        errno(written) == libc::ENOSPC || closed == libc::ENOSPC,
        "{closed}"
    );
    assert_eq!(dsmc.objects(), [""; 0]);
    // The kernel tells of the last close after the program was told how it went.
    wait_for("there is room again", || {
        let stat = rustix::fs::statvfs(lab.path("staging")).unwrap();
        stat.f_bavail * stat.f_frsize >= 7 << 20
    });
    assert_eq!(write_and_close(&mount, "b.img", &bytes(6, MIB)), 0);
    mount.unmount();
    run(&mut shell(r#"umount "$1""#, &[lab.path("staging")]));
}

#[test]
fn a_password_is_seen_by_nobody() {
    let (lab, dsmc) = Lab::on_tsm("backup_tsm_password = hun ter2\nbackup_tsm_server_name = ONE\n");
    fs::set_permissions(lab.config(), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(dsmc.server().join("password"), "hun ter2").unwrap();
    fs::write(
        dsmc.server().join("dsm.sys"),
        "SErvername ONE\nPASSWORDACCESS prompt\nNODENAME N\n",
    )
    .unwrap();
    let mount = lab.mount();
    model::write(&mount, "a.img", b"one");
    let calls = dsmc.calls();
    assert!(!calls.is_empty());
    for call in &calls {
        assert!(!call.to_string().contains("hun ter2"), "{call}");
    }
    let options = fs::read_dir(lab.path("staging/.run")).unwrap();
    let options: Vec<_> = options
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(".opt"))
        .collect();
    assert_eq!(options.len(), 1);
    let mode = options[0].metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(!lab.log().contains("hun ter2"));
    mount.unmount();
    check_tidy(&lab);
    lab.configure("backup_tsm_password = wrong\nbackup_tsm_server_name = ONE\n");
    let mount = lab.mount();
    assert_eq!(
        errno(fs::read_dir(mount.path("tsm")).map(Iterator::count)),
        libc::EACCES
    );
    assert!(lab.log().contains("ANS1051I"), "{}", lab.log());
    // So that nobody is kept out for a mistake that was made again and again.
    assert!(dsmc.running("query-backup").is_empty());
}

#[test]
fn the_old_command_is_used_if_asked_for() {
    let (lab, dsmc) =
        Lab::on_tsm("backup_tsm_legacy_commands = true\nbackup_tsm_compression = no\n");
    let mount = lab.mount();
    let path = model::write(&mount, "a.img", b"one");
    let calls = dsmc.calls();
    let sent = calls
        .iter()
        .find(|call| call["operation"] == "selective")
        .unwrap();
    assert_eq!(sent["arguments"][0], "backup");
    assert_eq!(sent["arguments"][1], "-compression=no");
    assert_eq!(fs::read(path).unwrap(), b"one");
}
