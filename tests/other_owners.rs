//! Folders of a store that may not be read: what is in them is missing, and nobody is told
//! that all is well.

mod common;

use common::mount::{
    CINDERFS, Lab, USER, as_user, command, fail, is_root_for, open_to_all, output, run, shell,
    write,
};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// The program, run by an ordinary user who owns the store.
fn ask_as_user(lab: &Lab, arguments: &[&str]) -> Command {
    let mut all: Vec<String> = as_user(USER).into();
    all.push(lab.path("cinderfs").display().to_string());
    all.extend(arguments.iter().map(|&word| word.to_owned()));
    all.extend(["--store".into(), lab.store().display().to_string()]);
    let mut command = command("setpriv", &all);
    command.current_dir("/").env("HOME", lab.path("home"));
    command
}

#[test]
fn what_may_not_be_read_is_neither_called_right_nor_built_on_in_vain() {
    if !is_root_for("other users' folders") {
        return;
    }
    let lab = Lab::new();
    fs::copy(CINDERFS, lab.path("cinderfs")).unwrap();
    open_to_all(lab.path("").as_path());
    fs::create_dir_all(lab.path("home")).unwrap();
    let image = lab.path("image");
    write(&image, &[7; 100_000]);
    let root = lab.path("");
    let user = [USER, root.to_str().unwrap()];
    run(&mut shell(r#"chown -R "$1:$1" "$2""#, &user));
    let image = image.to_str().unwrap();
    run(&mut ask_as_user(
        &lab,
        &["backup", "--name", "a", image, "local/v"],
    ));
    let made = ["backup", "--incremental", "--name", "b", image, "local/v"];
    let id = run(&mut ask_as_user(&lab, &made));
    let id = id.split_whitespace().last().unwrap();
    // Root's alone in many a file system, and of no meaning.
    let lost = lab.store().join("lost+found");
    fs::create_dir(&lost).unwrap();
    fs::set_permissions(&lost, fs::Permissions::from_mode(0o700)).unwrap();
    assert!(run(&mut ask_as_user(&lab, &["verify"])).contains("2 backups checked, 0 damaged"));
    // Somebody else's child.
    let place = format!("{}/{}/{id}", &id[..2], &id[2..4]);
    let folder = lab.store().join(&place);
    run(&mut shell(r#"chown 0:0 "$1""#, &[folder.to_str().unwrap()]));
    for target in [
        &["verify"][..],
        &["verify", "local"],
        &["verify", "local/v"],
    ] {
        let (code, said) = fail(&mut ask_as_user(&lab, target));
        assert_eq!(code, 1, "{said}");
        assert!(
            said.contains(&place) && said.contains("owner of the store"),
            "{said}"
        );
    }
    run(&mut ask_as_user(&lab, &["verify", "local/v/a"]));
    let listed = output(&mut ask_as_user(&lab, &["ls", "local/v"]));
    assert_eq!(listed.stdout, b"a\n");
    let warned = String::from_utf8(listed.stderr).unwrap();
    assert!(warned.contains(&place), "{warned}");
    let (code, said) = fail(&mut ask_as_user(&lab, &["rm", "local/v/a"]));
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains(&place) && said.contains("may be built on it"),
        "{said}"
    );
    // With all in sight.
    let root = |arguments: &[&str]| {
        let store = lab.store();
        let store: &Path = store.as_path();
        let all = [arguments, &["--store", store.to_str().unwrap()]].concat();
        run(&mut lab.cinderfs(&all))
    };
    assert!(root(&["verify"]).contains("2 backups checked, 0 damaged"));
    root(&["rm", "local/v/a", "local/v/b"]);
}
