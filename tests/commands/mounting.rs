//! mount, umount, and the helper of mount(8).

use crate::common::mount::{
    CINDERFS, Lab, USER, as_user, command, detach, fail, is_mounted, is_root_for, kill, names,
    output, run, shell, wait_for,
};
use crate::{USAGE, check_refused, mount_arguments};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

#[test]
fn folders_that_cannot_be_mounted_on() {
    let lab = Lab::new();
    let refuse = |dir: &Path, words: &[&str]| {
        let mut arguments = mount_arguments(&lab);
        arguments[3] = dir.display().to_string();
        check_refused(&mut lab.cinderfs(&arguments), USAGE, words);
    };
    refuse(
        &lab.path("nothing"),
        &["nothing", "No such file", "make the folder first"],
    );
    refuse(&lab.config(), &["Not a directory"]);
    refuse(&lab.store(), &["store", "lies in"]);
    fs::create_dir_all(lab.store().join("ab/cd")).unwrap();
    refuse(&lab.store().join("ab/cd"), &["it lies in the store"]);
    refuse(&lab.path(""), &["the store", "lies in it"]);
    std::os::unix::fs::symlink(lab.store(), lab.path("link")).unwrap();
    refuse(&lab.path("link"), &["lies in"]);
    fs::write(lab.path("mnt").join("file"), "").unwrap();
    refuse(&lab.path("mnt"), &["not empty", "nonempty"]);
    let mount = lab.mount_with("mnt", "nonempty");
    assert_eq!(names(mount.root()), ["posix"]);
}

#[test]
fn mount_options() {
    let lab = Lab::new();
    for (option, words) in [
        ("alow_other", &["alow_other", "no such mount option"][..]),
        ("memory=lots", &["memory", "lots"]),
        ("config=", &["config="]),
    ] {
        let mut arguments = vec!["mount", "-o", option];
        let rest = mount_arguments(&lab);
        arguments.extend(rest[1..].iter().map(String::as_str));
        check_refused(&mut lab.cinderfs(&arguments), USAGE, words);
    }
    let log = lab.path("no/where/log");
    fs::write(lab.path("no"), "").unwrap();
    let option = format!("log={}", log.display());
    let mut arguments = vec!["mount", "-o", &option];
    let rest = mount_arguments(&lab);
    arguments.extend(rest[1..].iter().map(String::as_str));
    check_refused(
        &mut lab.cinderfs(&arguments),
        1,
        &["write the log", "-o log=FILE"],
    );
    assert!(!is_mounted(&lab.path("mnt")));
}

/// A mount in the background that is ended with the test.
struct Background<'a>(&'a Lab);

impl Drop for Background<'_> {
    fn drop(&mut self) {
        let folder = self.0.path("mnt");
        if let Some(pid) = self.0.daemon_of(&folder) {
            kill(pid, libc::SIGTERM);
            wait_for("the daemon ends", || self.0.daemon_of(&folder).is_none());
        }
        detach(&folder);
    }
}

#[test]
fn mount_returns_when_the_mount_answers_and_lets_go_of_everything() {
    let lab = Lab::new();
    let log = format!("log={}", lab.path("log").display());
    let mut arguments = vec!["mount".to_owned(), "-o".to_owned(), log];
    arguments.extend(mount_arguments(&lab)[1..].iter().cloned());
    // `$(...)` ends when the last one that could write to the pipe is gone.
    let script = r#"said=$("$@" 2>&1) && echo "it said: $said" && ls "${@: -1}/posix" &&
                    mkdir "${@: -1}/posix/v" && echo data > "${@: -1}/posix/v/a""#;
    let mut all = vec![CINDERFS.to_owned()];
    all.extend(arguments);
    let _background = Background(&lab);
    assert_eq!(
        run(shell(script, &all).env("HOME", lab.path("home"))),
        "it said: \n"
    );
    let folder = lab.path("mnt");
    assert!(is_mounted(&folder));
    let pid = lab.daemon_of(&folder).unwrap();
    for descriptor in ["0", "1", "2"] {
        let target = fs::read_link(format!("/proc/{pid}/fd/{descriptor}")).unwrap();
        assert_eq!(target, Path::new("/dev/null"));
    }
    assert_eq!(
        fs::read_link(format!("/proc/{pid}/cwd")).unwrap(),
        Path::new("/")
    );
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let session = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .nth(3)
        .unwrap();
    assert_eq!(session, pid.to_string(), "it has a session of its own");
    let shown = run(&mut command(
        "findmnt",
        &["-no", "SOURCE,FSTYPE", folder.to_str().unwrap()],
    ));
    let words: Vec<&str> = shown.split_whitespace().collect();
    assert_eq!(words, [lab.config().to_str().unwrap(), "fuse.cinderfs"]);
    assert_eq!(fs::read(folder.join("posix/v/a")).unwrap(), b"data\n");
    assert!(lab.log().contains("mounted on"));
    let mode = lab.path("log").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    run(&mut lab.cinderfs(&["umount".as_ref(), folder.as_path()]));
    assert!(!is_mounted(&folder));
    wait_for("the daemon ends", || lab.daemon_of(&folder).is_none());
}

#[test]
fn a_mount_in_the_background_that_fails_says_why() {
    if !is_root_for("becoming another user") {
        return;
    }
    let lab = Lab::new();
    run(&mut shell(
        r#"chmod 755 "$2" && chown -R "$1" "$2""#,
        &[USER, lab.path("").to_str().unwrap()],
    ));
    fs::copy(CINDERFS, lab.path("cinderfs")).unwrap();
    fs::create_dir(lab.path("bin")).unwrap();
    let mount = |path: &str, options: &str| {
        let mut arguments: Vec<String> = as_user(USER).into();
        arguments.extend(["env".into(), format!("PATH={path}")]);
        arguments.push(lab.path("cinderfs").display().to_string());
        let mut rest: Vec<String> = mount_arguments(&lab).into();
        rest.extend([
            "-o".into(),
            format!("log={}{options}", lab.path("log").display()),
        ]);
        arguments.extend(rest);
        let mut command = command("setpriv", &arguments);
        command.current_dir("/").env("HOME", lab.path("home"));
        command
    };
    // An ordinary user needs fusermount3.
    let empty = lab.path("bin").display().to_string();
    let words = ["mnt", "fusermount3", "cannot be run", "fuse3"];
    check_refused(&mut mount(&empty, ""), 1, &words);
    let path = std::env::var("PATH").unwrap();
    let may = fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
    if !may.lines().any(|line| line.trim() == "user_allow_other") {
        let (code, said) = fail(&mut mount(&path, ",allow_other"));
        assert_eq!(code, 1, "{said}");
        assert!(
            said.contains("user_allow_other") && said.contains("/etc/fuse.conf"),
            "{said}"
        );
    }
    // A folder of somebody else's.
    run(&mut shell(r#"chown 0:0 "$1""#, &[lab.path("mnt")]));
    let (code, said) = fail(&mut mount(&path, ""));
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("yours and writable"), "{said}");
    assert!(!is_mounted(&lab.path("mnt")));
}

#[test]
fn umount() {
    let lab = Lab::new();
    let folder = lab.path("mnt").display().to_string();
    let words = ["mnt", "nothing of cinderfs is mounted there"];
    check_refused(&mut lab.cinderfs(&["umount", &folder]), USAGE, &words);
    check_refused(
        &mut lab.cinderfs(&["umount", "/proc"]),
        USAGE,
        &["/proc", "nothing of cinderfs"],
    );
    check_refused(
        &mut lab.cinderfs(&["umount", "no/where"]),
        USAGE,
        &["nothing of cinderfs"],
    );
    let mut mount = lab.mount();
    let file = mount.volume("v").join("a");
    fs::write(&file, "a").unwrap();
    let open = fs::File::open(&file).unwrap();
    check_refused(
        &mut lab.cinderfs(&["umount", &folder]),
        1,
        &["it is in use", "fuser -vm"],
    );
    drop(open);
    // A relative path, with what can be in one.
    let done = || {
        output(&mut lab.cinderfs(&["umount", "./mnt/../mnt/"]))
            .status
            .success()
    };
    wait_for("the mount is free", done);
    assert_eq!(mount.wait(), 0);
    drop(mount);
    // A mount whose daemon is gone goes away, too.
    let mount = lab.mount();
    kill(mount.pid(), libc::SIGKILL);
    wait_for("the daemon is gone", || fs::metadata(&folder).is_err());
    let (code, said) = fail(&mut lab.cinderfs(&mount_arguments(&lab)));
    assert_eq!(code, USAGE);
    assert!(said.contains("cinderfs umount"), "{said}");
    run(&mut lab.cinderfs(&["umount", &folder]));
    assert!(!is_mounted(&lab.path("mnt")));
}

/// As mount(8) calls it for a line of fstab.
#[test]
fn the_helper_of_mount_mounts_and_gives_its_exit_codes() {
    let lab = Lab::new();
    let helper = concat!(env!("CARGO_MANIFEST_DIR"), "/mount-helpers/mount.cinderfs");
    let folder = lab.path("helped");
    std::fs::create_dir(&folder).unwrap();
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_cinderfs"));
    let call = |source: &std::path::Path| {
        let log = format!(
            "rw,noexec,nosuid,user,_netdev,log={}",
            lab.path("helper.log").display()
        );
        let mut command = command(helper, &[source, &folder]);
        let path = std::env::var("PATH").unwrap();
        command.args(["-v", "-o", &log]);
        command.env(
            "PATH",
            format!("{}:{path}", program.parent().unwrap().display()),
        );
        command.output().unwrap()
    };
    let failed = call(&lab.path("missing"));
    assert_eq!(failed.status.code(), Some(32));
    let done = call(&lab.config());
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{said}");
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let source = lab.config().display().to_string();
    assert!(
        mounts
            .lines()
            .any(|line| line.starts_with(&source) && line.contains("fuse.cinderfs"))
    );
    let ended = command(program, &[std::path::Path::new("umount"), &folder])
        .output()
        .unwrap();
    assert!(ended.status.success());
}

#[test]
fn a_mount_outlives_whoever_read_its_log() {
    let lab = Lab::new();
    let mut arguments = vec!["mount".to_owned(), "--foreground".into()];
    arguments.extend(mount_arguments(&lab)[1..].to_vec());
    let mut daemon = lab.start_command(&arguments);
    wait_for("the mount", || is_mounted(&lab.path("mnt")));
    drop((daemon.stdout.take(), daemon.stderr.take()));
    let volume = lab.path("mnt/posix/v");
    fs::create_dir(&volume).unwrap();
    // Which is told.
    let refused = fs::write(volume.join(".incremental/a"), "a").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EINVAL));
    fs::write(volume.join("a"), "a").unwrap();
    assert_eq!(fs::read(volume.join("a")).unwrap(), b"a");
    kill(daemon.id(), libc::SIGTERM);
    assert_eq!(daemon.wait().unwrap().code(), Some(0));
}
