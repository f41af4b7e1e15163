//! What is NFS's own: files that a server does not know any more, locks, and what a server
//! does not let its clients do.

use crate::common::mount::{
    Lab, MIB, Mount, SMALL_OBJECTS, USER, as_user, command, fail, files_in, output, run, wait_for,
};
use crate::common::nfs::{Kind, Nfs, Options};
use crate::common::share::{FileServer, NewShare};
use crate::share_cases::{
    PATIENT, Reader, VOLUME, Writer, assert_eio, cat, check_whole, chunks, copy, known, listed,
    noise, of, wait_for_image, with_backup,
};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

/// One whose clients are two machines, as far as it sees.
fn with_two_machines() -> (Nfs, [Lab; 2]) {
    let nfs = Nfs::mounted_with("nosharecache");
    let share = nfs.new_share();
    let options = format!("{SMALL_OBJECTS}list_ttl = 0\n");
    let labs = [1, 2].map(|_| Lab::on_that_share(&nfs, &share, &options));
    (nfs, labs)
}

/// The program with a command, on the configuration of a laboratory.
fn ask(lab: &Lab, arguments: &[&str]) -> std::process::Command {
    let mut command = lab.cinderfs(arguments);
    command.arg("--config").arg(lab.config());
    command
}

/// All that is open becomes stale (ESTALE) while a backup is read and another one written.
/// Nothing wrong is read, and the share is mounted anew.
fn a_server_that_forgets(options: &'static str) {
    let nfs = Nfs::mounted_with(options);
    let length = 24 * MIB;
    let (lab, data) = with_backup(&nfs, PATIENT, length);
    let new = noise(2, 8 * MIB);
    let mount = lab.mount_with("mnt", "memory=16M");
    let mut writer = Writer::new(&of(&mount, "new"));
    writer.feed(&new[..4 * MIB]);
    wait_for("some of it is stored", || chunks(&lab) > length / MIB);
    let mut reader = Reader::new(&of(&mount, "image"));
    let mut read = reader.take(MIB);
    nfs.forget();
    let (rest, outcome) = reader.rest();
    read.extend(rest);
    match outcome {
        Ok(()) => assert!(read == data),
        Err(said) => {
            assert!(data.starts_with(&read));
            assert_eio::<()>(Err(said), "reading on");
        }
    }
    writer.feed(&new[4 * MIB..]);
    let written = writer.end();
    wait_for_image(&of(&mount, "image"), &data);
    if written.is_err() {
        assert_eio(written, "writing on");
        let source = lab.source("new", &new);
        wait_for("it can be written again", || {
            copy(&source, &of(&mount, "new")).is_ok()
        });
    }
    assert!(cat(&of(&mount, "new")).unwrap() == new);
    assert_eq!(listed(&lab, &mount), ["image", "new"]);
    // To be filled, to be read, and anew.
    let mounted = lab.log().matches("INFO mounted share").count();
    assert!(mounted > 2, "{}", lab.log());
    assert_eq!(mount.unmount(), 0);
    check_whole(&lab);
}

#[test]
#[ignore = "runs in a virtual machine"]
fn a_share_whose_files_are_stale_is_mounted_anew() {
    a_server_that_forgets("");
}

#[test]
#[ignore = "runs in a virtual machine"]
fn a_share_whose_files_are_stale_is_mounted_anew_by_version_3() {
    a_server_that_forgets("vers=3");
}

#[test]
#[ignore = "runs in a virtual machine"]
fn whoever_mounts_without_locks_is_warned() {
    for (options, is_warned) in [("vers=3,nolock", true), ("vers=3", false), ("", false)] {
        let nfs = Nfs::mounted_with(options);
        let (lab, data) = with_backup(&nfs, SMALL_OBJECTS, MIB);
        let words = "whose locks no other machine sees";
        let log = lab.log();
        assert_eq!(log.contains(words), is_warned, "{options}: {log}");
        let mount = lab.mount();
        assert!(cat(&of(&mount, "image")).unwrap() == data);
        assert_eq!(mount.unmount(), 0);
    }
}

/// Files of the share must be its owner's, and the server keeps root from giving them away.
#[test]
#[ignore = "runs in a virtual machine"]
fn root_hears_of_root_squash() {
    let nfs = Nfs::with(
        Kind::Kernel,
        Options {
            root_squash: true,
            ..Options::default()
        },
    );
    let lab = Lab::on_share(&nfs, SMALL_OBJECTS);
    let source = lab.source("source", &noise(3, MIB));
    let target = format!("{}/{VOLUME}", lab.backend());
    chown(lab.store(), Some(1234), Some(1234)).unwrap();
    let back_up = || {
        let mut backup = ask(&lab, &["backup", "--name", "image"]);
        backup.arg(&source).arg(&target);
        backup
    };
    let (code, said) = fail(&mut back_up());
    assert_eq!(code, 1);
    let told = ["user 1234", "root_squash", "run this as the user who owns"];
    assert!(told.iter().all(|told| said.contains(told)), "{said}");
    assert_eq!(files_in(&lab.store()), 0);
    // That of whom root is there is nobody else's.
    let nobody = USER.parse().unwrap();
    chown(lab.store(), Some(nobody), Some(nobody)).unwrap();
    run(&mut back_up());
    check_whole(&lab);
    for entry in fs::read_dir(lab.store()).unwrap() {
        assert_eq!(entry.unwrap().metadata().unwrap().uid(), nobody);
    }
}

/// As an ordinary user, whose words are those of the log.
fn ls_as_user(lab: &Lab) -> std::process::Command {
    let mut arguments: Vec<String> = as_user(USER).into();
    let program = lab.path("cinderfs").display().to_string();
    let config = lab.config().display().to_string();
    arguments.extend([program, "ls".into(), "--config".into(), config]);
    arguments.push(lab.backend().into());
    command("setpriv", &arguments)
}

/// With the very line that he was told.
#[test]
#[ignore = "runs in a virtual machine"]
fn an_ordinary_user_mounts_by_a_line_of_fstab() {
    let nfs = Nfs::start(Kind::Kernel);
    let lab = Lab::on_share(&nfs, SMALL_OBJECTS);
    let mount = lab.mount_as_user("");
    assert_eq!(mount.unmount(), 0);
    let (code, said) = fail(&mut ls_as_user(&lab));
    assert_eq!(code, 1);
    let (_, line) = said.split_once("the line \"").unwrap();
    let (line, _) = line.split_once('"').unwrap();
    assert!(line.starts_with(&lab.share().name), "{line}");
    let mut table = fs::File::options()
        .append(true)
        .create(true)
        .open("/etc/fstab")
        .unwrap();
    writeln!(table, "{line}").unwrap();
    fs::create_dir_all(lab.mount_point()).unwrap();
    assert_eq!(run(&mut ls_as_user(&lab)), "");

    let mount = lab.mount_as_user("");
    let volume = mount.path(lab.backend()).join(VOLUME);
    let script = r#"mkdir "$1" && head -c 1500000 /dev/urandom >"$2" && cp "$2" "$1/image" &&
        cmp "$1/image" "$2""#;
    let source = lab.path("source");
    fs::write(&source, "").unwrap();
    fs::set_permissions(&source, fs::Permissions::from_mode(0o666)).unwrap();
    run(&mut crate::common::mount::shell_as_user(
        USER,
        script,
        &[&volume, &source],
    ));
    assert_eq!(mount.unmount(), 0);
    assert!(!crate::common::mount::is_mounted(&lab.mount_point()));
    assert_eq!(run(&mut ls_as_user(&lab)), format!("{VOLUME}\n"));
}

/// What is not exported: mount(8) says it, and so do we.
#[test]
#[ignore = "runs in a virtual machine"]
fn a_server_that_refuses_is_heard() {
    for options in ["vers=3", ""] {
        let nfs = Nfs::mounted_with(options);
        let share = NewShare {
            name: "127.0.0.1:/none".into(),
            ..nfs.new_share()
        };
        let lab = Lab::on_that_share(&nfs, &share, "backup_mount_attempts = 1\n");
        let (code, said) = fail(ask(&lab, &["ls"]).arg(lab.backend()));
        assert_eq!(code, 1);
        let told = "mount.nfs: access denied by server while mounting 127.0.0.1:/none";
        assert!(said.contains(told), "{said}");
    }
}

/// Left-overs for `cinderfs gc`, whatever their age.
fn garbage(lab: &Lab) -> String {
    run(&mut ask(lab, &["gc", "--older-than", "0"]))
}

/// A parent that must not go.
fn check_busy(mount: &Mount<'_>, path: &Path) {
    let removed = output(command("rm", &["-f"]).arg(path));
    let said = String::from_utf8_lossy(&removed.stderr);
    assert!(said.contains("Device or resource busy"), "{said}");
    assert!(path.exists(), "{}", mount.root().display());
}

/// What one machine writes another one sees to be written: it is no left-over, and its parent
/// is not deleted.
#[test]
#[ignore = "runs in a virtual machine"]
fn what_one_machine_writes_another_one_leaves_alone() {
    let (_nfs, [ours, theirs]) = with_two_machines();
    let base = noise(5, 2 * MIB);
    let mut child = base.clone();
    child[..MIB].copy_from_slice(&noise(6, MIB));
    child.extend(noise(7, 2 * MIB));
    let mount = ours.mount();
    let other = theirs.mount();
    let source = ours.source("source", &base);
    run(ask(&ours, &["backup", "--name", "base"])
        .args([&source, Path::new(&format!("{}/{VOLUME}", ours.backend()))]));
    let parent = known(&theirs, &other, "base");
    wait_for("both see it", || {
        fs::metadata(&parent).is_ok() && listed(&ours, &mount) == ["base"]
    });

    let mut writer = Writer::new(&of(&mount, ".incremental").join("child"));
    writer.feed(&child[..3 * MIB + MIB / 2]);
    wait_for("some of it is stored", || chunks(&ours) > 2);
    assert_eq!(garbage(&theirs), "nothing is left over\n");
    check_busy(&other, &parent);
    run(&mut ask(&theirs, &["gc", "--delete", "--older-than", "0"]));
    assert!(writer.feed(&child[3 * MIB + MIB / 2..]));
    assert_eq!(writer.end(), Ok(()));
    assert!(cat(&of(&mount, "child")).unwrap() == child);
    wait_for("the other one sees it", || {
        fs::metadata(known(&theirs, &other, "child")).is_ok()
    });
    assert!(cat(&known(&theirs, &other, "child")).unwrap() == child);
    check_busy(&other, &parent);
    assert_eq!(mount.unmount(), 0);
    assert_eq!(garbage(&theirs), "nothing is left over\n");
    run(&mut command(
        "rm",
        &[known(&theirs, &other, "child"), parent],
    ));
    assert_eq!(other.unmount(), 0);
    assert_eq!(files_in(&ours.store()), 0);
}
