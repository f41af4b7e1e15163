//! Mounting: what is there is used and left, what we mounted goes with us, what fails says
//! why, and nothing is ever written anywhere but into the share.

use super::*;
use crate::common::mount::{USER, as_user, detach, fail, is_mounted, is_root_for, names};
use crate::common::share::{NewShare, forget};
use std::os::unix::fs::symlink;

/// Mounts a share, or anything, as an administrator does.
fn mount_by_hand(kind: &str, source: &str, folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let mut mount = command("mount", &["-t", kind, source]);
    run(mount.arg(folder));
}

fn umount(folder: &Path) {
    run(&mut command("umount", &[folder]));
}

/// The arguments of a command over that configuration.
fn ls(lab: &Lab) -> Command {
    let config = lab.config();
    lab.cinderfs(&["ls", "--config", config.to_str().unwrap(), lab.backend()])
}

/// The names of the backends where there is a local one.
fn backends(lab: &Lab) -> [&str; 2] {
    let mut names = [lab.backend(), "local"];
    names.sort_unstable();
    names
}

pub fn a_share_that_is_mounted_already_is_used_and_left(server: &dyn FileServer) {
    let lab = Lab::on_share(server, SMALL_OBJECTS);
    let point = lab.mount_point();
    mount_by_hand(server.kind(), &lab.share().name, &point);
    let data = noise(3, MIB);
    let source = lab.source("source", &data);
    let mount = lab.mount();
    copy(&source, &of(&mount, "image")).unwrap();
    assert!(files_in(&point) > 2);
    assert_eq!(mount.unmount(), 0);
    assert!(is_mounted(&point));
    assert_eq!(run(&mut ls(&lab)), format!("{VOLUME}\n"));
    assert!(is_mounted(&point));
    umount(&point);
    assert_eq!(names(&point), [""; 0]);
}

/// With the daemon, and with each command, whether it succeeds or not.
pub fn what_we_mounted_goes_with_us(server: &dyn FileServer) {
    let (lab, _) = with_backup(server, SMALL_OBJECTS, MIB);
    let point = lab.mount_point();
    assert!(!is_mounted(&point) && point.exists());
    assert_eq!(run(&mut ls(&lab)), format!("{VOLUME}\n"));
    assert!(!is_mounted(&point));
    let config = lab.config();
    for target in ["none/none", "none"] {
        let target = format!("{}/{target}", lab.backend());
        let arguments = ["ls", "--config", config.to_str().unwrap(), &target];
        fail(&mut lab.cinderfs(&arguments));
        assert!(!is_mounted(&point));
    }
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let mount = lab.mount();
        assert_eq!(listed(&lab, &mount), ["image"]);
        assert!(is_mounted(&point));
        assert_eq!(mount.end_by(signal), 0);
        assert!(!is_mounted(&point), "{}", lab.log());
    }
    // As a user ends it.
    let mut mount = lab.mount();
    assert_eq!(listed(&lab, &mount), ["image"]);
    run(&mut lab.cinderfs(&["umount".as_ref(), mount.root()]));
    mount.wait();
    assert!(!is_mounted(&point), "{}", lab.log());
}

/// A shell that stands there, or another daemon.
pub fn what_others_use_stays_mounted(server: &dyn FileServer) {
    let (lab, data) = with_backup(server, SMALL_OBJECTS, MIB);
    let point = lab.mount_point();
    let mount = lab.mount();
    assert_eq!(listed(&lab, &mount), ["image"]);
    let mut shell = Command::new("bash");
    shell.args(["-c", "read -r"]).current_dir(&point);
    let mut shell = shell.stdin(Stdio::piped()).spawn().unwrap();
    assert_eq!(mount.unmount(), 0);
    assert!(is_mounted(&point));
    assert!(lab.log().contains("stays mounted"), "{}", lab.log());
    drop(shell.stdin.take());
    shell.wait().unwrap();
    umount(&point);

    let first = lab.mount();
    assert_eq!(listed(&lab, &first), ["image"]);
    let second = lab.mount_with("other", "");
    let path = second.path(lab.backend()).join(VOLUME).join("image");
    assert!(cat(&path).unwrap() == data);
    assert_eq!(first.unmount(), 0);
    assert!(is_mounted(&point));
    assert!(cat(&path).unwrap() == data);
    let source = lab.source("new", &data);
    copy(&source, &path.with_file_name("new")).unwrap();
    assert!(cat(&path.with_file_name("new")).unwrap() == data);
    assert_eq!(second.unmount(), 0);
    if is_mounted(&point) {
        // The second one did not mount it.
        umount(&point);
    }
    assert_eq!(names(&point), [""; 0]);
    check_whole(&lab);
}

/// mount(8) is heard by whoever asks, and other backends work meanwhile.
pub fn a_share_that_cannot_be_mounted(server: &dyn FileServer) {
    let share = NewShare {
        name: server.no_share(),
        ..server.new_share()
    };
    let lab = Lab::on_that_share(server, &share, "");
    let point = lab.mount_point();
    // What it says differs from kind to kind, so it is asked.
    let by_hand = lab.path("by-hand");
    fs::create_dir(&by_hand).unwrap();
    let mut mount = command("mount", &["-t", server.kind(), &share.name]);
    let (_, words) = fail(mount.arg(&by_hand));
    forget(&by_hand);
    let said = words.lines().next().unwrap().trim();
    let said = said.replace(by_hand.to_str().unwrap(), point.to_str().unwrap());

    let (code, words) = fail(&mut ls(&lab));
    assert_eq!(code, 1);
    assert!(words.contains(&said), "{words}: {said}");
    assert!(words.contains(&share.name), "{words}");
    with_local(&lab, "");
    let mount = lab.mount();
    assert_eq!(names(mount.root()), backends(&lab));
    wait_for("the status says what mount(8) says", || {
        let _ = output(&mut command("ls", &[mount.path(lab.backend())]));
        let (state, why) = status(&mount, lab.backend());
        assert_eq!(state, "unavailable");
        why.contains(&said)
    });
    assert_eq!(status(&mount, "local").0, "available");
    check_local(&mount, "meanwhile");
    wait_for("the log says so", || lab.log().contains(&said));
    let listing = output(&mut command("ls", &[mount.path(lab.backend())]));
    let words = String::from_utf8_lossy(&listing.stderr);
    assert!(words.contains("Input/output error"), "{words}");
    assert_eq!(names(&point), [""; 0]);
    assert_eq!(mount.unmount(), 0);
}

/// It is used as soon as it can be.
pub fn a_share_that_can_be_mounted_later(server: &dyn FileServer) {
    let outer = server.new_share();
    let share = NewShare {
        name: format!("{}/later", outer.name),
        folder: outer.folder.join("later"),
    };
    let lab = Lab::on_that_share(server, &share, "");
    let mount = lab.mount();
    assert_eq!(status(&mount, lab.backend()).0, "unavailable");
    let folder = lab.path("outer");
    mount_by_hand(server.kind(), &outer.name, &folder);
    fs::create_dir(folder.join("later")).unwrap();
    umount(&folder);
    let volume = mount.path(lab.backend()).join(VOLUME);
    wait_for("it is used", || fs::create_dir(&volume).is_ok());
    let data = noise(4, MIB);
    let source = lab.source("source", &data);
    copy(&source, &of(&mount, "image")).unwrap();
    assert!(cat(&of(&mount, "image")).unwrap() == data);
    assert_eq!(status(&mount, lab.backend()).0, "available");
    assert!(files_in(&lab.store()) > 2);
    assert_eq!(mount.unmount(), 0);
    assert!(!is_mounted(&lab.mount_point()));
    assert_eq!(names(&lab.mount_point()), [""; 0]);
}

/// A server that is gone does not keep the mount from starting.
pub fn a_server_that_comes_later(server: &dyn FileServer) {
    let (lab, data) = with_backup(server, &impatient(server), MIB);
    with_local(&lab, &impatient(server));
    server.stop();
    let (code, words) = fail(&mut ls(&lab));
    assert_eq!(code, 1);
    assert!(words.contains(&lab.share().name), "{words}");
    let mount = lab.mount();
    assert_eq!(names(mount.root()), backends(&lab));
    check_local(&mount, "meanwhile");
    assert_eq!(status(&mount, lab.backend()).0, "unavailable");
    server.go_on();
    wait_for_image(&known(&lab, &mount, "image"), &data);
    assert_eq!(mount.unmount(), 0);
    assert!(!is_mounted(&lab.mount_point()), "{}", lab.log());
}

/// He hears which line of fstab would let him.
pub fn an_ordinary_user_hears_what_to_do(server: &dyn FileServer) {
    if !is_root_for("becoming another user") {
        return;
    }
    let lab = Lab::on_share(server, SMALL_OBJECTS);
    let mount = lab.mount_as_user("");
    let line = format!(
        "{} {} {} noauto,user 0 0",
        lab.share().name,
        lab.mount_point().display(),
        server.kind()
    );
    wait_for("the log says so", || lab.log().contains(&line));
    assert!(lab.log().contains("only root may"), "{}", lab.log());
    assert!(!lab.mount_point().exists());
    assert_eq!(mount.unmount(), 0);
    let mut arguments: Vec<String> = as_user(USER).into();
    let program = lab.path("cinderfs").display().to_string();
    let config = lab.config().display().to_string();
    arguments.extend([program, "ls".into(), "--config".into(), config]);
    arguments.push(lab.backend().into());
    let (code, words) = fail(&mut command("setpriv", &arguments));
    assert_eq!(code, 1);
    assert!(words.contains(&line), "{words}");
}

/// What is mounted there and is not the share is not touched.
pub fn what_else_is_mounted_there_is_not_written_to(server: &dyn FileServer) {
    let lab = Lab::on_share(server, SMALL_OBJECTS);
    let point = lab.mount_point();
    let other = server.new_share();
    let data = noise(5, MIB);
    let source = lab.source("source", &data);
    for (kind, from) in [("tmpfs", "tmpfs"), (server.kind(), other.name.as_str())] {
        mount_by_hand(kind, from, &point);
        let (code, words) = fail(&mut ls(&lab));
        assert_eq!(code, 1);
        let told = ["something else is mounted there", from, "umount"];
        assert!(told.iter().all(|told| words.contains(told)), "{words}");
        let config = lab.config();
        let target = format!("{}/{VOLUME}", lab.backend());
        let arguments = [
            "backup",
            "--config",
            config.to_str().unwrap(),
            "--name",
            "a",
        ];
        let mut backup = lab.cinderfs(&arguments);
        let (_, words) = fail(backup.arg(&source).arg(&target));
        assert!(words.contains("something else"), "{words}");
        let mount = lab.mount();
        let (state, why) = status(&mount, lab.backend());
        assert_eq!(state, "unavailable");
        assert!(why.contains("something else"), "{why}");
        let folder = mount.path(lab.backend());
        assert!(
            fs::create_dir(folder.join(VOLUME)).is_err() || {
                copy(&source, &folder.join(VOLUME).join("image")).is_err()
            }
        );
        assert_eq!(names(&point), [""; 0]);
        // As soon as it is gone.
        umount(&point);
        wait_for("the share is used", || {
            fs::create_dir_all(folder.join(VOLUME)).is_ok()
                && copy(&source, &folder.join(VOLUME).join("image")).is_ok()
        });
        assert_eq!(mount.unmount(), 0);
        assert!(!is_mounted(&point));
        assert_eq!(names(&point), [""; 0]);
        let mount = lab.mount();
        run(&mut command("rm", &[of(&mount, "image")]));
        assert_eq!(mount.unmount(), 0);
    }
}

/// While backups are written and read. Nothing is written into the bare folder, and the
/// share is mounted again.
pub fn a_mount_that_is_taken_away(server: &dyn FileServer) {
    let (lab, data) = with_backup(server, SMALL_OBJECTS, 4 * MIB);
    let point = lab.mount_point();
    let new = noise(6, 24 * MIB);
    let mount = lab.mount_with("mnt", "memory=16M");
    let mut writer = Writer::new(&of(&mount, "new"));
    writer.feed(&new[..16 * MIB]);
    wait_for("some of it is stored", || chunks(&lab) > 4 + 4);
    detach(&point);
    assert_eq!(names(&point), [""; 0]);
    writer.feed(&new[16 * MIB..]);
    let written = writer.end();
    wait_for_image(&of(&mount, "image"), &data);
    assert!(is_mounted(&point));
    match written {
        Ok(()) => assert!(cat(&of(&mount, "new")).unwrap() == new),
        Err(said) => {
            assert_eio::<()>(Err(said), "writing on");
            assert_eq!(listed(&lab, &mount), ["image"]);
        }
    }
    // And while nothing happens.
    detach(&point);
    let source = lab.source("new", &new);
    copy(&source, &of(&mount, "again")).unwrap();
    assert!(is_mounted(&point));
    assert!(cat(&of(&mount, "again")).unwrap() == new);
    assert_eq!(mount.unmount(), 0);
    assert!(!is_mounted(&point), "{}", lab.log());
    assert_eq!(names(&point), [""; 0]);
    check_whole(&lab);
}

/// The folder below which shares are mounted is made, may be a link, and must be a folder.
pub fn where_shares_are_mounted(server: &dyn FileServer) {
    let lab = Lab::on_share(server, SMALL_OBJECTS);
    let base = lab.path("base");
    assert!(!base.exists());
    assert_eq!(run(&mut ls(&lab)), "");
    assert!(lab.mount_point().exists());
    fs::remove_dir_all(&base).unwrap();

    fs::write(&base, "").unwrap();
    let (code, words) = fail(&mut ls(&lab));
    assert_eq!(code, 1);
    assert!(words.contains("Not a directory"), "{words}");
    assert!(
        words.contains(lab.mount_point().to_str().unwrap()),
        "{words}"
    );
    fs::remove_file(&base).unwrap();

    fs::create_dir(lab.path("elsewhere")).unwrap();
    symlink(lab.path("elsewhere"), &base).unwrap();
    let mount = lab.mount();
    let data = noise(7, MIB);
    let source = lab.source("source", &data);
    copy(&source, &of(&mount, "image")).unwrap();
    let point = lab.mount_point().canonicalize().unwrap();
    assert!(is_mounted(&point));
    assert_eq!(mount.unmount(), 0);
    assert!(!is_mounted(&point));
    assert_eq!(names(&point), [""; 0]);
    assert!(files_in(&lab.store()) > 2);
}
