//! What is deleted is gone, in all its versions, or its owner hears why not.

use crate::common::mount::*;
use crate::model::{self, VOLUME, as_cinder, bytes, check_tidy, id, record};
use serde_json::json;
use std::fs;

#[test]
fn all_versions_go_and_what_is_gone_already_is_no_failure() {
    let (lab, dsmc) = Lab::on_tsm("");
    let folder = lab.path("staging").join(VOLUME);
    for data in [b"one", b"two"] {
        as_cinder(&dsmc, &folder, 1, data);
    }
    as_cinder(&dsmc, &folder, 2, b"stays");
    let mount = lab.mount();
    let volume = mount.path("tsm").join(VOLUME);
    let listed = names(&volume);
    let (one, other) = (volume.join(&listed[0]), volume.join(&listed[1]));
    assert_eq!(fs::read(&one).unwrap(), b"two");
    fs::remove_file(&one).unwrap();
    assert_eq!(dsmc.objects().len(), 1);
    assert_eq!(names(&volume), [listed[1].clone()]);
    assert_eq!(
        fs::read_dir(lab.path("staging/.staged"))
            .unwrap()
            .filter(|e| {
                e.as_ref()
                    .unwrap()
                    .path()
                    .extension()
                    .is_some_and(|e| e == "img")
            })
            .count(),
        0
    );
    // Somebody else was faster.
    dsmc.faults(&json!([{"fault": "not-there", "on": ["delete"]}]));
    fs::remove_dir_all(dsmc.server().join("objects")).unwrap();
    fs::remove_file(&other).unwrap();
    assert_eq!(names(&volume), [""; 0]);
}

#[test]
fn what_was_not_deleted_is_said_and_shown_still() {
    let (lab, dsmc) = Lab::on_tsm("");
    let mount = lab.mount();
    let path = model::write(&mount, "a.img", b"one");
    drop(mount);
    let mount = lab.mount();
    for (fault, number, said) in [
        ("no-authority", libc::EACCES, "ANS1126E"),
        ("lost", libc::EACCES, "the server has it still"),
        ("no-connection", libc::EIO, "ANS1017E"),
        ("not-there", libc::EACCES, "the server has it still"),
    ] {
        dsmc.faults(&json!([{"fault": fault, "on": ["delete"]}]));
        let log = lab.log().len();
        assert_eq!(errno(fs::remove_file(&path)), number, "{fault}");
        assert!(lab.log()[log..].contains(said), "{fault}: {}", lab.log());
        assert_eq!(names(&mount.volume(VOLUME)), ["a.img"], "{fault}");
    }
    assert_eq!(fs::read(&path).unwrap(), b"one");
    // An older server knows other words.
    dsmc.faults(&json!([{"fault": "old-server"}]));
    fs::remove_file(&path).unwrap();
    assert_eq!(dsmc.objects(), [""; 0]);
    check_tidy(&lab);
}

#[test]
fn what_is_left_under_an_odd_name_is_not_gone() {
    let (lab, dsmc) = Lab::on_tsm("");
    let mount = lab.mount();
    let path = model::write(&mount, "a.img", b"one");
    dsmc.faults(&json!([
        {"fault": "lost", "on": ["delete"]},
        {"fault": "other-path", "value": "/odd", "on": ["query-backup"]},
    ]));
    assert_eq!(errno(fs::remove_file(&path)), libc::EIO);
    assert!(lab.log().contains("is not understood"), "{}", lab.log());
    dsmc.faults(&json!([]));
    assert_eq!(names(&mount.volume(VOLUME)), ["a.img"]);
    assert_eq!(fs::read(&path).unwrap(), b"one");
}

#[test]
fn a_note_is_garbage_only_where_it_is_ours_and_the_server_has_nothing() {
    let (lab, _dsmc) = Lab::on_tsm("");
    let gc = || {
        let config = lab.config();
        let config = config.to_str().unwrap();
        run(&mut lab.cinderfs(&["gc", "--older-than", "0", "--config", config]))
    };
    let mount = lab.mount();
    model::write(&mount, "a.img", b"one");
    drop(mount);
    let folder = lab.path("staging/.catalog");
    let note = model::notes(&folder).remove(0);
    let text = fs::read(note).unwrap();
    let mut other: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let (old, new) = (other["id"].as_str().unwrap().to_owned(), model::id(9));
    other["id"] = json!(new);
    other["path"] = json!(other["path"].as_str().unwrap().replace(&old, &new));
    let keep = |note: &serde_json::Value| {
        let path = folder.join(format!("{new}.cinderfs.json"));
        fs::write(path, note.to_string()).unwrap();
    };
    let mut foreign = other.clone();
    foreign["owner"]["server_name"] = json!("OTHER");
    keep(&foreign);
    assert_eq!(gc(), "nothing is left over\n");
    foreign["owner"] = json!(null);
    keep(&foreign);
    assert_eq!(gc(), "nothing is left over\n");
    keep(&other);
    assert!(gc().contains("1 left over"));
}

#[test]
fn notes_of_another_node_are_no_garbage() {
    let (lab, dsmc) = Lab::on_tsm("");
    let node = |name: &str| {
        let text = format!("SErvername ONE\nNODENAME {name}\n");
        fs::write(dsmc.server().join("dsm.sys"), text).unwrap();
    };
    node("one");
    let mount = lab.mount();
    model::write(&mount, "a.img", b"one");
    drop(mount);
    // Somebody has configured the client anew: the server has nothing for this node.
    node("other");
    let config = lab.config();
    let arguments = ["gc", "--older-than", "0", "--delete", "--config"];
    let arguments = [&arguments[..], &[config.to_str().unwrap()]].concat();
    let said = run(&mut lab.cinderfs(&arguments));
    assert_eq!(said, "nothing is left over\n");
    node("one");
    assert_eq!(names(&lab.mount().volume(VOLUME)), ["a.img"]);
}

#[test]
fn a_deletion_that_hangs_is_given_up_in_time() {
    let (lab, dsmc) = Lab::on_tsm("backup_tsm_session_timeout = 1\n");
    let mount = lab.mount();
    let path = model::write(&mount, "a.img", b"one");
    dsmc.faults(&json!([{"fault": "hang", "on": ["delete"]}]));
    assert_eq!(errno(fs::remove_file(&path)), libc::EIO);
    assert!(
        lab.log().contains("no sign of life for 1 s"),
        "{}",
        lab.log()
    );
    assert!(dsmc.running("delete").is_empty());
    dsmc.faults(&json!([]));
    assert_eq!(fs::read(&path).unwrap(), b"one");
    fs::remove_file(&path).unwrap();
    assert_eq!(dsmc.objects(), [""; 0]);
}

#[test]
fn append_only_deletes_nothing() {
    let (lab, dsmc) = Lab::on_tsm("append_only = true\n");
    let mount = lab.mount();
    let path = model::write(&mount, "a.img", b"one");
    assert_eq!(errno(fs::remove_file(&path)), libc::EPERM);
    assert_eq!(dsmc.count("delete"), 0);
}

#[test]
fn garbage_is_what_programs_that_were_ended_have_left() {
    let (lab, dsmc) = Lab::on_tsm("");
    let gc = |more: &[&str]| {
        let mut arguments = vec!["gc", "--older-than", "0", "--config"];
        let config = lab.config().to_str().unwrap().to_owned();
        arguments.push(&config);
        arguments.extend(more);
        run(&mut lab.cinderfs(&arguments))
    };
    let mount = lab.mount();
    model::write(&mount, "a.img", b"one");
    drop(mount);
    let mount = lab.mount();
    // In the middle of sending one.
    dsmc.faults(&json!([{"fault": "hang", "on": ["selective"]}]));
    let path = mount.volume(VOLUME).join("b.img");
    let sending = std::thread::spawn(move || {
        let _ = fs::write(path, bytes(1, 10_000));
    });
    wait_for("it is being sent", || !dsmc.running("selective").is_empty());
    assert_eq!(gc(&["--delete"]), "nothing is left over\n");
    mount.crash();
    sending.join().unwrap();
    wait_for("dsmc ends with the daemon", || {
        dsmc.running("selective").is_empty()
    });
    dsmc.faults(&json!([]));
    // The spool and its link are one file; and its note.
    let found = gc(&[]);
    assert!(found.contains("3 left over"), "{found}");
    let done = gc(&["--delete"]);
    assert!(done.contains("3 removed"), "{done}");
    check_tidy(&lab);
    assert_eq!(gc(&[]), "nothing is left over\n");
    let mount = lab.mount();
    assert_eq!(
        fs::read(mount.volume(VOLUME).join("a.img")).unwrap(),
        b"one"
    );
}

#[test]
fn files_of_others_are_no_garbage_whatever_they_are_called() {
    let (lab, _dsmc) = Lab::on_tsm("");
    let mount = lab.mount();
    model::write(&mount, "a.img", b"one");
    drop(mount);
    let theirs = lab.path("staging").join(VOLUME);
    fs::create_dir_all(&theirs).unwrap();
    let theirs = theirs.join(format!("backup-{}", id(7)));
    fs::write(&theirs, b"theirs").unwrap();
    let config = lab.config();
    let config = config.to_str().unwrap();
    let said = run(&mut lab.cinderfs(&["gc", "--older-than", "0", "--delete", "--config", config]));
    assert_eq!(said, "nothing is left over\n");
    assert_eq!(fs::read(&theirs).unwrap(), b"theirs");
}

#[test]
fn a_name_is_that_of_one_object_whatever_the_option_file_says() {
    let (lab, dsmc) = Lab::on_tsm("");
    fs::write(dsmc.server().join("dsm.opt"), "SUBDIR YES\n").unwrap();
    let nfs = lab.path("nfs");
    let below = as_cinder(&dsmc, &nfs.join("old"), 1, b"another one");
    let path = as_cinder(&dsmc, &nfs, 1, b"one");
    let catalog = lab.path("records");
    fs::create_dir(&catalog).unwrap();
    let text = record(1, &path, "file").to_string();
    fs::write(catalog.join("1.json"), text).unwrap();
    lab.configure(&format!(
        "backup_tsm_catalog_path = {}\n",
        catalog.display()
    ));
    let mount = lab.mount();
    let volume = mount.path("tsm").join(VOLUME);
    let listed = names(&volume);
    assert_eq!(listed.len(), 1);
    assert_eq!(fs::read(volume.join(&listed[0])).unwrap(), b"one");
    fs::remove_file(volume.join(&listed[0])).unwrap();
    assert_eq!(dsmc.objects(), [below.to_str().unwrap()]);
}
