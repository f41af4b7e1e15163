//! The command line: what each command prints, how it ends, and what it says when it
//! cannot do what it was asked.

mod common;

use common::golden::Tree;
use common::library::Dice;
use common::mount::{
    CINDERFS, Lab, MIB, USER, as_user, command, detach, fail, is_mounted, is_root_for, kill, names,
    open_to_all, output, run, shell, wait_for,
};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Exit code for what the user can put right.
const USAGE: i32 = 2;

/// Runs a command that must fail, with one line that holds all of `words`.
fn check_refused(command: &mut Command, code: i32, words: &[&str]) {
    let (found, said) = fail(command);
    for word in words {
        assert!(said.contains(word), "no {word:?} in: {said}");
    }
    assert_eq!(found, code, "{said}");
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    assert!(said.starts_with("cinderfs: cannot "), "{said}");
}

fn mount_arguments(lab: &Lab) -> [String; 4] {
    let text = |path: std::path::PathBuf| path.display().to_string();
    [
        "mount".into(),
        "--config".into(),
        text(lab.config()),
        text(lab.path("mnt")),
    ]
}

#[test]
fn mistakes_in_the_configuration() {
    let lab = Lab::new();
    let line = "cinderfs.conf:5";
    for (options, words) in [
        (
            "backup_file_size = 100000\n",
            &[line, "[DEFAULT]", "backup_file_size", "multiple"][..],
        ),
        (
            "backup_file_size = many\n",
            &[line, "[DEFAULT]", "backup_file_size", "many"],
        ),
        (
            "backup_sha_block_size_bytes = 0\n",
            &[line, "[DEFAULT]", "backup_sha_block_size_bytes"],
        ),
        (
            "backup_compression_algorithm = lzma\n",
            &[
                line,
                "[DEFAULT]",
                "backup_compression_algorithm",
                "lzma",
                "zstd",
            ],
        ),
        (
            "backup_file_sise = 32768\n",
            &[line, "[DEFAULT]", "backup_file_sise", "backup_file_size"],
        ),
        ("memory = lots\n", &[line, "[DEFAULT]", "memory", "lots"]),
        (
            "backup_container = ../x\n",
            &[line, "[DEFAULT]", "backup_container"],
        ),
        (
            "[other]\nbackup_driver = tape\n",
            &["cinderfs.conf:6", "[other]", "backup_driver", "tape"],
        ),
        ("[a/b]\nbackup_driver = posix\n", &[line, "[a/b]"]),
        ("no equals sign\n", &[line]),
    ] {
        lab.configure(options);
        check_refused(&mut lab.cinderfs(&mount_arguments(&lab)), USAGE, words);
        let config = lab.config().display().to_string();
        check_refused(
            &mut lab.cinderfs(&["ls", "--config", &config]),
            USAGE,
            words,
        );
    }
    lab.configure("");
    fs::remove_dir(lab.store()).unwrap();
    let store = lab.store().display().to_string();
    let words = [
        "cinderfs.conf:3",
        "[DEFAULT] backup_posix_path",
        &store,
        "No such file",
    ];
    check_refused(&mut lab.cinderfs(&mount_arguments(&lab)), USAGE, &words);
    fs::write(lab.store(), "a file").unwrap();
    let words = ["[DEFAULT] backup_posix_path", &store, "Not a directory"];
    check_refused(&mut lab.cinderfs(&mount_arguments(&lab)), USAGE, &words);
    fs::remove_file(lab.config()).unwrap();
    let words = ["cinderfs.conf", "No such file"];
    check_refused(&mut lab.cinderfs(&mount_arguments(&lab)), USAGE, &words);
    assert!(!is_mounted(&lab.path("mnt")));
}

#[test]
fn a_store_that_may_not_be_read() {
    if !is_root_for("becoming another user") {
        return;
    }
    let lab = Lab::new();
    open_to_all(&lab.path(""));
    fs::set_permissions(lab.store(), fs::Permissions::from_mode(0o700)).unwrap();
    fs::copy(CINDERFS, lab.path("cinderfs")).unwrap();
    let mut arguments: Vec<String> = as_user(USER).into();
    arguments.push(lab.path("cinderfs").display().to_string());
    arguments.extend(mount_arguments(&lab));
    let mut refused = command("setpriv", &arguments);
    refused.current_dir("/");
    check_refused(
        &mut refused,
        USAGE,
        &["[DEFAULT] backup_posix_path", "Permission denied"],
    );
}

#[test]
fn stores_on_the_command_line() {
    let lab = Lab::new();
    let store = lab.store().display().to_string();
    for spelled in [
        store.clone(),
        format!("posix:{store}"),
        format!("file://{store}"),
        "store".into(),
    ] {
        assert_eq!(
            run(&mut lab.cinderfs(&["ls", "--store", &spelled])),
            "local\n"
        );
    }
    let missing = lab.path("missing").display().to_string();
    let words = ["--store", &missing, "No such file"];
    check_refused(
        &mut lab.cinderfs(&["ls", "--store", &missing]),
        USAGE,
        &words,
    );
    check_refused(
        &mut lab.cinderfs(&["ls", "--store", "ftp://x/y"]),
        USAGE,
        &["ftp://x/y"],
    );
    let both = ["ls", "--store", "store", "--config", "cinderfs.conf"];
    assert_eq!(fail(&mut lab.cinderfs(&both)).0, USAGE);
    // Without any, there is one in the user's home, which is made.
    assert_eq!(run(&mut lab.cinderfs(&["ls"])), "local\n");
    assert!(lab.path("home/.local/share/cinderfs").is_dir());
}

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

#[test]
fn ls_and_show() {
    let lab = Lab::over(&Tree::Posix.path());
    let config = lab.config().display().to_string();
    let ask = |arguments: &[&str]| {
        let mut all = vec![arguments[0], "--config", &config];
        all.extend(&arguments[1..]);
        run(&mut lab.cinderfs(&all))
    };
    let json = |arguments: &[&str]| -> Value { serde_json::from_str(&ask(arguments)).unwrap() };
    let golden = Tree::Posix.backups();
    assert_eq!(ask(&["ls"]), "posix\n");
    assert_eq!(ask(&["ls", "-l"]), "posix      posix\n");
    assert_eq!(
        json(&["ls", "--json"]),
        serde_json::json!([{"driver": "posix", "name": "posix"}])
    );
    let mut volumes: Vec<&str> = golden.iter().map(|backup| backup.volume.as_str()).collect();
    volumes.sort_unstable();
    volumes.dedup();
    assert_eq!(ask(&["ls", "posix"]).lines().collect::<Vec<_>>(), volumes);
    assert_eq!(ask(&["ls", "posix/"]).lines().collect::<Vec<_>>(), volumes);
    let counted = json(&["ls", "--json", "posix"]);
    assert_eq!(counted.as_array().unwrap().len(), volumes.len());
    for volume in volumes {
        let target = format!("posix/{volume}");
        let own: Vec<_> = golden
            .iter()
            .filter(|backup| backup.volume == volume)
            .collect();
        let files = ask(&["ls", &target]);
        assert_eq!(files.lines().count(), own.len());
        let rows = json(&["ls", "--json", &target]);
        let long = ask(&["ls", "-l", &target]);
        assert_eq!(long.lines().count(), own.len());
        for (row, file) in rows.as_array().unwrap().iter().zip(files.lines()) {
            assert_eq!(row["file"], file);
            let backup = own
                .iter()
                .find(|b| row["backup_id"] == b.id.as_str())
                .unwrap();
            assert_eq!(row["size"], backup.size);
            assert_eq!(row["volume_id"], volume);
            assert_eq!(row["depth"], backup.depth);
            assert_eq!(row["container"], backup.container.as_str());
            assert_eq!(row["service_metadata"], backup.prefix.as_str());
            let kind = if backup.parent.is_some() {
                "incremental "
            } else {
                "full "
            };
            let line = long
                .lines()
                .find(|line| line.ends_with(&format!(" {file}")))
                .unwrap();
            assert!(
                line.starts_with(kind) && line.contains(&backup.size.to_string()),
                "{line}"
            );
            let shown = json(&["show", "--json", &format!("{target}/{file}")]);
            assert_eq!(shown["backup_id"], backup.id.as_str());
            let text = ask(&["show", &format!("{target}/{file}")]);
            let id_line = format!("{:<17} {}", "backup_id", backup.id);
            assert!(text.lines().any(|line| line == id_line), "{text}");
            assert_eq!(
                ask(&["ls", &format!("{target}/{file}")]),
                format!("{file}\n")
            );
        }
    }
    // A mount shows the same names.
    let mount = lab.mount();
    let mut shown = names(&mount.path("posix").join(&golden[0].volume));
    shown.sort_unstable();
    let listed = ask(&["ls", &format!("posix/{}", golden[0].volume)]);
    let mut listed: Vec<&str> = listed.lines().collect();
    listed.sort_unstable();
    assert_eq!(shown, listed);
}

#[test]
fn ls_and_show_of_what_is_not_there() {
    let lab = Lab::new();
    let mount = lab.mount();
    fs::write(mount.volume("v").join("a"), "a").unwrap();
    let config = lab.config().display().to_string();
    let ask = |command: &str, target: &str| lab.cinderfs(&[command, "--config", &config, target]);
    check_refused(
        &mut ask("ls", "other"),
        1,
        &["backend other", "there are: posix"],
    );
    check_refused(&mut ask("ls", "posix/w"), 1, &["volume w", "cinderfs ls"]);
    check_refused(
        &mut ask("ls", "posix/v/b"),
        1,
        &["posix/v/b", "cinderfs ls posix/v"],
    );
    check_refused(
        &mut ask("show", "posix/v/b"),
        1,
        &["posix/v/b", "cinderfs ls posix/v"],
    );
    check_refused(&mut ask("show", "posix/v"), USAGE, &["BACKEND/VOLUME/FILE"]);
    check_refused(&mut ask("ls", "a//b"), USAGE, &["a//b"]);
    check_refused(&mut ask("ls", "a/b/c/d"), USAGE, &["a/b/c/d"]);
    assert!(run(&mut ask("show", "posix/v/a")).contains("backup_id"));
    // Who has seen enough is no failure.
    let script = r#""$1" ls --config "$2" posix | true; exit ${PIPESTATUS[0]}"#;
    run(&mut shell(script, &[CINDERFS, &config]));
}

#[test]
fn names_are_not_printed_raw_where_they_could_mislead() {
    let lab = Lab::new();
    let mount = lab.mount();
    fs::write(mount.volume("v").join("two\nlines \u{1b}[31m"), "a").unwrap();
    let config = lab.config().display().to_string();
    let shown =
        run(&mut lab.cinderfs(&["show", "--config", &config, "posix/v/two\nlines \u{1b}[31m"]));
    assert!(
        !shown.contains('\u{1b}') && shown.contains(r"two\nlines"),
        "{shown}"
    );
}

#[test]
fn usage() {
    let lab = Lab::new();
    assert!(run(&mut lab.cinderfs(&["--help"])).contains("mount"));
    assert!(run(&mut lab.cinderfs(&["mount", "--help"])).contains("--foreground"));
    let version = format!("cinderfs {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(run(&mut lab.cinderfs(&["--version"])), version);
    for arguments in [
        &[][..],
        &["mnt"],
        &["mount"],
        &["mount", "--frob", "x"],
        &["show"],
    ] {
        assert_eq!(fail(&mut lab.cinderfs(arguments)).0, USAGE, "{arguments:?}");
    }
}

#[test]
fn backups_in_a_container_of_the_users() {
    let lab = Lab::with("backup_file_size = 1048576\nbackup_container = my/own\n");
    let image = Dice(3).image(2 * MIB);
    let mount = lab.mount();
    fs::write(mount.volume("v").join("a"), &image).unwrap();
    fs::write(mount.volume("v").join("b"), &image).unwrap();
    mount.unmount();
    assert_eq!(names(&lab.store()), ["my"]);
    assert_eq!(names(&lab.store().join("my/own")).len(), 2 * 4);
    let mount = lab.mount();
    assert!(fs::read(mount.volume("v").join("b")).unwrap() == image);
    fs::remove_file(mount.volume("v").join("a")).unwrap();
    assert_eq!(names(&lab.store().join("my/own")).len(), 4);
}

#[test]
fn a_backend_that_takes_backups_and_gives_none_away() {
    let lab = Lab::with("append_only = true\n");
    let mount = lab.mount();
    let path = mount.volume("v").join("a");
    fs::write(&path, "a").unwrap();
    let removed = common::mount::errno(fs::remove_file(&path));
    assert_eq!(removed, libc::EPERM);
    assert_eq!(names(&mount.volume("v")), ["a"]);
}

#[test]
fn several_backends() {
    let lab = Lab::new();
    fs::create_dir(lab.path("second")).unwrap();
    lab.configure(&format!(
        "[second]\nbackup_driver = posix\nbackup_posix_path = {}\n[nova]\nkey = value\n",
        lab.path("second").display()
    ));
    let config = lab.config().display().to_string();
    assert_eq!(
        run(&mut lab.cinderfs(&["ls", "--config", &config])),
        "posix\nsecond\n"
    );
    let mount = lab.mount();
    assert_eq!(names(mount.root()), ["posix", "second"]);
    let (one, two) = (mount.path("posix/v"), mount.path("second/v"));
    fs::create_dir(&one).unwrap();
    fs::create_dir(&two).unwrap();
    fs::write(one.join("a"), "one").unwrap();
    let renamed = common::mount::errno(fs::rename(one.join("a"), two.join("a")));
    assert_eq!(renamed, libc::EXDEV);
    run(&mut command("mv", &[one.join("a"), two.join("a")]));
    assert_eq!(fs::read(two.join("a")).unwrap(), b"one");
    assert_eq!(names(&one), [""; 0]);
    assert!(!names(&lab.path("second")).is_empty());
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
