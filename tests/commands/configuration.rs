//! Configurations and stores: which are taken, and what is said of those that are not.

use crate::common::library::Dice;
use crate::common::mount::{
    CINDERFS, Lab, MIB, USER, as_user, command, fail, is_mounted, is_root_for, names, open_to_all,
    run,
};
use crate::{USAGE, check_refused, mount_arguments};
use std::fs;
use std::os::unix::fs::PermissionsExt;

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
    let removed = crate::common::mount::errno(fs::remove_file(&path));
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
    let renamed = crate::common::mount::errno(fs::rename(one.join("a"), two.join("a")));
    assert_eq!(renamed, libc::EXDEV);
    run(&mut command("mv", &[one.join("a"), two.join("a")]));
    assert_eq!(fs::read(two.join("a")).unwrap(), b"one");
    assert_eq!(names(&one), [""; 0]);
    assert!(!names(&lab.path("second")).is_empty());
}
