//! What the server has is shown, under the right volume; and what is not understood is never
//! taken for nothing.

use crate::common::mount::*;
use crate::model::{self, MIB, VOLUME, as_cinder, as_cinder_image, bytes, id, record, status};
use serde_json::json;
use std::fs;
use std::time::Duration;

fn list(mount: &Mount<'_>) -> Result<Vec<String>, i32> {
    match fs::read_dir(mount.path("tsm")) {
        Ok(_) => Ok(names(&mount.path("tsm"))),
        Err(e) => Err(e.raw_os_error().unwrap()),
    }
}

#[test]
fn what_is_not_understood_is_an_error_and_never_an_empty_folder() {
    let (lab, dsmc) = Lab::on_tsm("backup_tsm_session_timeout = 2\n");
    let path = lab.path("staging").join(VOLUME);
    as_cinder(&dsmc, &path, 1, b"one");
    for (fault, number, said) in [
        (json!({"fault": "no-connection"}), libc::EIO, "ANS1017E"),
        (
            json!({"fault": "no-authentication"}),
            libc::EACCES,
            "ANS1025E",
        ),
        (json!({"fault": "bad-password"}), libc::EACCES, "ANS1051I"),
        (json!({"fault": "silence"}), libc::EIO, "there is no table"),
        (
            json!({"fault": "gibberish"}),
            libc::EIO,
            "no name that is known",
        ),
        (
            json!({"fault": "hang"}),
            libc::EIO,
            "no sign of life for 2 s",
        ),
        (json!({"fault": "flood"}), libc::EIO, "dsmc "),
    ] {
        let mount = lab.mount();
        dsmc.faults(&json!([fault]));
        assert_eq!(list(&mount), Err(number), "{fault}");
        let status = status(&mount);
        let error = status["error"].to_string();
        assert!(error.contains(said), "{fault}: {error}");
        assert_eq!(status["state"], "unavailable");
        assert!(dsmc.running("query-backup").is_empty());
        dsmc.faults(&json!([]));
        assert_eq!(list(&mount), Ok(vec![VOLUME.to_owned()]), "{fault}");
    }
}

#[test]
fn what_was_listed_is_shown_while_the_server_is_down() {
    let (lab, dsmc) = Lab::on_tsm("list_ttl = 0\n");
    let mount = lab.mount();
    assert_eq!(list(&mount), Ok(vec![]));
    let path = model::write(&mount, "a.img", b"one");
    drop(mount);
    let mount = lab.mount();
    assert_eq!(fs::read(&path).unwrap(), b"one");
    dsmc.faults(&json!([{"fault": "no-connection"}]));
    wait_for("it is noticed", || {
        let _ = names(&mount.volume(VOLUME));
        status(&mount)["state"] == "unavailable"
    });
    assert_eq!(names(&mount.volume(VOLUME)), ["a.img"]);
    assert_eq!(fs::read(&path).unwrap(), b"one");
    assert!(lab.log().contains("what was last listed is shown for now"));
    dsmc.faults(&json!([]));
    wait_for("it is back", || status(&mount)["state"] == "available");
}

#[test]
fn every_form_of_a_table_is_read() {
    let (lab, dsmc) = Lab::on_tsm("");
    let folder = lab.path("staging").join(VOLUME);
    let data = bytes(1, 3000);
    as_cinder(&dsmc, &folder, 1, &data);
    // A file of somebody else's.
    fs::create_dir_all(&folder).unwrap();
    let other = folder.join("backup-of-my-cv");
    fs::write(&other, b"cv").unwrap();
    run(&mut dsmc.command(&["selective".as_ref(), other.as_os_str()]));
    fs::remove_file(&other).unwrap();
    for fault in [
        json!({"fault": "german"}),
        json!({"fault": "stderr"}),
        json!({"fault": "wrap", "value": 132}),
    ] {
        dsmc.faults(&json!([fault]));
        let mount = lab.mount();
        let listed = names(&mount.path("tsm").join(VOLUME));
        assert_eq!(listed.len(), 1, "{fault}");
        let path = mount.path("tsm").join(VOLUME).join(&listed[0]);
        assert_eq!(fs::read(path).unwrap(), data, "{fault}");
    }
    // A size that is told roughly is not shown as if it were known.
    dsmc.faults(&json!([{"fault": "kilobytes"}]));
    fs::remove_dir_all(lab.path("staging/.staged")).unwrap();
    let mount = lab.mount();
    let listed = names(&mount.path("tsm").join(VOLUME));
    let path = mount.path("tsm").join(VOLUME).join(&listed[0]);
    assert_eq!(errno(fs::read(&path)), libc::EIO);
    assert!(lab.log().contains("only roughly"), "{}", lab.log());
    assert_eq!(dsmc.count("restore"), 1);
    // But it can be found out.
    run(&mut lab.cinderfs(&["verify", "--config", lab.config().to_str().unwrap()]));
    // And whoever can open it reads all of it: the kernel must not remember the other size.
    wait_for("it is known", || {
        let read = fs::read(&path);
        assert!(read.as_ref().is_err() || read.as_ref().is_ok_and(|read| *read == data));
        read.is_ok()
    });
}

#[test]
fn the_newest_version_counts_active_or_not() {
    let (lab, dsmc) = Lab::on_tsm("");
    let folder = lab.path("staging").join(VOLUME);
    as_cinder(&dsmc, &folder, 1, b"one");
    std::thread::sleep(Duration::from_millis(1100));
    let path = as_cinder(&dsmc, &folder, 1, b"newer");
    // As the server does with what it does not find any more, once somebody looks.
    let pattern = path.with_file_name("*");
    run(&mut dsmc.command(&["incremental".as_ref(), pattern.as_os_str()]));
    let mount = lab.mount();
    let listed = names(&mount.path("tsm").join(VOLUME));
    assert_eq!(listed.len(), 1);
    assert_eq!(
        fs::read(mount.path("tsm").join(VOLUME).join(&listed[0])).unwrap(),
        b"newer"
    );
    assert!(
        lab.log().contains("is inactive on the server"),
        "{}",
        lab.log()
    );
}

#[test]
fn what_cinder_wrote_stands_where_the_records_say_or_apart() {
    let (lab, dsmc) = Lab::on_tsm("");
    let (nfs, devices) = (lab.path("nfs"), lab.path("dev"));
    let (other, images) = (lab.path("other"), bytes(9, MIB + 5));
    let known = as_cinder(&dsmc, &nfs, 1, b"known");
    as_cinder(&dsmc, &nfs, 2, b"beside it");
    as_cinder(&dsmc, &other, 3, b"unknown");
    let image = as_cinder_image(&dsmc, &devices, 4, &images);
    let catalog = lab.path("records");
    fs::create_dir(&catalog).unwrap();
    fs::write(
        catalog.join("1.json"),
        record(1, &known, "file").to_string(),
    )
    .unwrap();
    fs::write(
        catalog.join("4.json"),
        record(4, &image, "image").to_string(),
    )
    .unwrap();
    fs::write(catalog.join("README"), "nothing").unwrap();
    lab.configure(&format!(
        "backup_tsm_catalog_path = {}\nbackup_tsm_folders = {}\n",
        catalog.display(),
        other.display()
    ));
    let mount = lab.mount();
    assert_eq!(names(&mount.path("tsm")), [VOLUME, "unassigned"]);
    let volume = mount.path("tsm").join(VOLUME);
    assert_eq!(
        names(&volume),
        [
            "20170301T040506Z-nightly-00000001.img",
            "20170301T040506Z-nightly-00000004.img"
        ]
    );
    let content = |path: &str| fs::read(mount.path("tsm").join(path)).unwrap();
    assert_eq!(
        content(&format!("{VOLUME}/20170301T040506Z-nightly-00000001.img")),
        b"known"
    );
    assert_eq!(
        content(&format!("{VOLUME}/20170301T040506Z-nightly-00000004.img")),
        images
    );
    let apart = names(&mount.path("tsm/unassigned"));
    assert_eq!(apart.len(), 2);
    assert_eq!(content(&format!("unassigned/{}", apart[0])), b"beside it");
    assert_eq!(content(&format!("unassigned/{}", apart[1])), b"unknown");
    let words = xattr(
        &volume.join("20170301T040506Z-nightly-00000001.img"),
        "user.cinder.description",
    );
    assert_eq!(words.unwrap(), b"of the night");
    // Nothing of what Cinder knew is ours to change.
    let path = volume.join("20170301T040506Z-nightly-00000001.img");
    assert_ne!(set_xattr(&path, "user.cinder.description", b"mine"), 0);
    // Without the records, names are lost, and no data of what can be found.
    drop(mount);
    fs::remove_dir_all(&catalog).unwrap();
    lab.configure(&format!(
        "backup_tsm_folders = {}, {}\n",
        other.display(),
        nfs.display()
    ));
    let mount = lab.mount();
    assert_eq!(names(&mount.path("tsm")), ["unassigned"]);
    let apart = names(&mount.path("tsm/unassigned"));
    assert_eq!(apart.len(), 4);
    let known = apart
        .iter()
        .find(|name| name.contains(&id(1)[..8]))
        .unwrap();
    assert_eq!(
        fs::read(mount.path("tsm/unassigned").join(known)).unwrap(),
        b"known"
    );
}

#[test]
fn without_the_client_that_is_said() {
    let (lab, _dsmc) = Lab::on_tsm("backup_tsm_dsmc_path = /nowhere/dsmc\n");
    let text = fs::read_to_string(lab.config()).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    let first = lines
        .iter()
        .position(|line| line.starts_with("backup_tsm_dsmc_path"));
    lines.remove(first.unwrap());
    fs::write(lab.config(), lines.join("\n")).unwrap();
    let mount = lab.mount();
    assert_eq!(list(&mount), Err(libc::EIO));
    let error = status(&mount)["error"].to_string();
    assert!(error.contains("/nowhere/dsmc cannot be run"), "{error}");
    assert!(error.contains("backup_tsm_dsmc_path"), "{error}");
}

#[test]
fn there_is_none_counts_only_when_nothing_else_is_said() {
    let (lab, dsmc) = Lab::on_tsm("");
    let mount = lab.mount();
    let said = "ANS1999W Some of it could not be looked at.";
    dsmc.faults(&json!([{"fault": "message", "value": said, "on": ["query-backup"]}]));
    assert_eq!(list(&mount), Err(libc::EIO));
    assert!(lab.log().contains(said), "{}", lab.log());
    dsmc.faults(&json!([]));
    assert_eq!(list(&mount), Ok(vec![]));
}

#[test]
fn a_name_that_may_be_a_damaged_one_of_ours_is_told_of_and_hides_no_other() {
    let (lab, dsmc) = Lab::on_tsm("backup_tsm_list_images = false\n");
    let folder = lab.path("staging").join(VOLUME);
    as_cinder(&dsmc, &folder, 1, b"one");
    for odd in ["backup-0000 0002", "backup-\u{1b}[0m"] {
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join(odd);
        fs::write(&path, b"odd").unwrap();
        run(&mut dsmc.command(&["selective".as_ref(), path.as_os_str()]));
        fs::remove_file(&path).unwrap();
        let mount = lab.mount();
        assert_eq!(list(&mount), Ok(vec![VOLUME.to_owned()]), "{odd:?}");
        assert_eq!(names(&mount.path("tsm").join(VOLUME)).len(), 1);
        let shown = status(&mount);
        assert_eq!(shown["state"], "unavailable");
        let error = shown["error"].to_string();
        assert!(error.contains("no name that is known"), "{error}");
        assert!(lab.log().contains("no name that is known"), "{odd:?}");
        let delete = ["delete".as_ref(), "backup".as_ref(), "-noprompt".as_ref()];
        run(&mut dsmc.command(&[&delete[..], &[path.as_os_str()]].concat()));
    }
    let mount = lab.mount();
    assert_eq!(list(&mount), Ok(vec![VOLUME.to_owned()]));
    assert_eq!(status(&mount)["state"], "available");
}

#[test]
fn images_that_must_be_asked_for_by_name_are_those_of_the_records() {
    let (lab, dsmc) = Lab::on_tsm("");
    let devices = lab.path("dev");
    let image = as_cinder_image(&dsmc, &devices, 1, b"an image");
    let gone = devices.join(format!("backup-{}", id(2)));
    let odd = devices.join("backup-*");
    let catalog = lab.path("records");
    fs::create_dir(&catalog).unwrap();
    for (number, path) in [(1, &image), (2, &gone), (3, &odd)] {
        let text = record(number, path, "image").to_string();
        fs::write(catalog.join(format!("{number}.json")), text).unwrap();
    }
    // What another driver has is none of this one's.
    let mut other = record(4, &gone, "image");
    other["service"] = json!("cinder.backup.drivers.ceph.CephBackupDriver");
    fs::write(catalog.join("4.json"), other.to_string()).unwrap();
    lab.configure(&format!(
        "list_ttl = 1\nbackup_tsm_catalog_path = {}\n",
        catalog.display()
    ));
    dsmc.faults(&json!([{"fault": "needs-name", "on": ["query-image"]}]));
    let mount = lab.mount();
    for listings in [0, 1] {
        // Without a name, and by name.
        wait_for("it is asked for", || {
            let _ = list(&mount);
            dsmc.count("query-image") > 2 * listings
        });
        assert_eq!(list(&mount), Ok(vec![VOLUME.to_owned()]));
        let volume = mount.path("tsm").join(VOLUME);
        let listed = names(&volume);
        assert_eq!(listed, ["20170301T040506Z-nightly-00000001.img"]);
        assert_eq!(fs::read(volume.join(&listed[0])).unwrap(), b"an image");
    }
    assert!(lab.log().contains("only those images"), "{}", lab.log());
    assert!(lab.log().contains("is not listed"), "{}", lab.log());
    // One that is not there is not asked for again and again, and one that must not be never.
    let asked = |path: &std::path::Path| {
        let of = |call: &&serde_json::Value| call["operation"] == "query-image";
        let calls = dsmc.calls();
        let words = calls.iter().filter(of).map(|call| call.to_string());
        let path = path.display().to_string();
        words.filter(|words| words.contains(&path)).count()
    };
    assert_eq!((asked(&gone), asked(&odd)), (1, 0));
}

#[test]
fn names_begin_as_they_are_told_to_and_the_option_file_is_handed_on() {
    let (lab, dsmc) = Lab::on_tsm("");
    let options = lab.path("own.opt");
    fs::write(&options, "SErvername ONE\n").unwrap();
    fs::write(
        dsmc.server().join("dsm.sys"),
        "SErvername ONE\nNODENAME N\n",
    )
    .unwrap();
    let folder = lab.path("staging").join(VOLUME);
    as_cinder(&dsmc, &folder, 1, b"of another prefix");
    lab.configure(&format!(
        "backup_tsm_volume_prefix = nightly\nbackup_tsm_option_file = {}\n",
        options.display()
    ));
    let mount = lab.mount();
    let path = model::write(&mount, "a.img", b"one");
    assert_eq!(fs::read(path).unwrap(), b"one");
    assert_eq!(names(&mount.path("tsm").join(VOLUME)), ["a.img"]);
    let own = format!("{}/nightly-", folder.display());
    assert!(dsmc.objects().iter().any(|path| path.starts_with(&own)));
    let word = format!("-optfile={}", options.display());
    let calls = dsmc.calls();
    let ours: Vec<_> = calls.iter().skip(1).collect();
    assert!(!ours.is_empty());
    for call in ours {
        let words = call["arguments"].as_array().unwrap();
        assert!(words.contains(&json!(word)), "{call}");
    }
}

#[test]
fn what_is_known_and_not_told_of_is_said_and_kept() {
    if !is_root_for("a small file system") {
        return;
    }
    let (lab, dsmc) = Lab::on_tsm("");
    let catalog = lab.path("notes");
    lab.configure(&format!(
        "list_ttl = 0\nbackup_tsm_catalog_path = {}\n",
        catalog.display()
    ));
    fs::create_dir(lab.path("staging")).unwrap();
    let attach = || {
        run(&mut shell(
            r#"mount -t tmpfs -o size=10m tmpfs "$1""#,
            &[lab.path("staging")],
        ))
    };
    let detach = || run(&mut shell(r#"umount -l "$1""#, &[lab.path("staging")]));
    attach();
    let mount = lab.mount();
    let path = model::write(&mount, "a.img", b"one");
    assert_eq!(status(&mount)["state"], "available");
    let notes = || model::notes(&catalog).len();
    // It is listed still, as the kernel has just looked at it.
    detach();
    assert_eq!(errno(fs::remove_file(&path)), libc::EIO);
    assert!(lab.log().contains("it has nothing there"), "{}", lab.log());
    assert_eq!((notes(), dsmc.objects().len()), (1, 1));
    drop(mount);
    let mount = lab.mount();
    assert_eq!(list(&mount), Ok(vec![]));
    let shown = status(&mount);
    assert_eq!(shown["state"], "unavailable");
    let error = shown["error"].to_string();
    assert!(error.contains("nor of anything beside that"), "{error}");
    assert!(error.contains("is mounted there"), "{error}");
    assert!(error.contains(&dsmc.objects()[0]), "{error}");
    drop(mount);
    let config = lab.config();
    let config = config.to_str().unwrap();
    run(&mut lab.cinderfs(&["gc", "--older-than", "0", "--delete", "--config", config]));
    assert_eq!(notes(), 1);
    attach();
    let mount = lab.mount();
    assert_eq!(names(&mount.volume(VOLUME)), ["a.img"]);
    assert_eq!(status(&mount)["state"], "available");
    assert_eq!(fs::read(&path).unwrap(), b"one");
    fs::remove_file(&path).unwrap();
    assert_eq!((notes(), dsmc.objects().len()), (0, 0));
    drop(mount);
    detach();
}

#[test]
fn what_is_gone_is_said_and_its_note_can_go() {
    let (lab, dsmc) = Lab::on_tsm("");
    let mount = lab.mount();
    let path = model::write(&mount, "a.img", b"one");
    model::write(&mount, "b.img", b"two");
    let id = xattr(&path, "user.cinder.backup_id").unwrap();
    let id = String::from_utf8(id).unwrap();
    drop(mount);
    let object = dsmc.objects().into_iter().find(|path| path.ends_with(&id));
    let object = object.unwrap();
    run(&mut dsmc.command(&["delete", "backup", "-noprompt", &object]));
    let mount = lab.mount();
    assert_eq!(names(&mount.volume(VOLUME)), ["b.img"]);
    let shown = status(&mount);
    assert_eq!(shown["state"], "unavailable");
    let error = shown["error"].to_string();
    assert!(
        error.contains("has no more of") && error.contains(&object),
        "{error}"
    );
    drop(mount);
    let config = lab.config();
    let config = config.to_str().unwrap();
    let done = run(&mut lab.cinderfs(&["gc", "--older-than", "0", "--delete", "--config", config]));
    assert!(done.contains("1 removed"), "{done}");
    let mount = lab.mount();
    assert_eq!(names(&mount.volume(VOLUME)), ["b.img"]);
    assert_eq!(status(&mount)["state"], "available");
}

#[test]
fn one_question_that_fails_hides_no_other_answer() {
    let (lab, dsmc) = Lab::on_tsm("");
    let [nfs, devices] = ["nfs", "dev"].map(|name| lab.path(name));
    as_cinder(&dsmc, &lab.path("staging").join(VOLUME), 1, b"one");
    let file = as_cinder(&dsmc, &nfs, 2, b"two");
    let image = as_cinder_image(&dsmc, &devices, 3, b"an image");
    let catalog = lab.path("records");
    fs::create_dir(&catalog).unwrap();
    for (number, path, mode) in [(2, &file, "file"), (3, &image, "image")] {
        let text = record(number, path, mode).to_string();
        fs::write(catalog.join(format!("{number}.json")), text).unwrap();
    }
    lab.configure(&format!(
        "list_ttl = 1\nbackup_tsm_catalog_path = {}\n",
        catalog.display()
    ));
    let folder = json!({"fault": "refuse", "value": nfs, "on": ["query-backup"]});
    let images = json!({"fault": "refuse", "value": "-inactive", "on": ["query-image"]});
    let by_name = [
        json!({"fault": "needs-name", "on": ["query-image"]}),
        json!({"fault": "refuse", "value": devices, "on": ["query-image"]}),
    ];
    let listed = |mount: &Mount<'_>| names(&mount.path("tsm").join(VOLUME)).len();
    for faults in [vec![folder], vec![images], by_name.to_vec()] {
        dsmc.faults(&json!(faults));
        let mount = lab.mount();
        assert_eq!(listed(&mount), 2, "{faults:?}");
        let shown = status(&mount);
        assert_eq!(shown["state"], "unavailable", "{faults:?}");
        let error = shown["error"].to_string();
        assert!(error.contains("ANS1999E"), "{error}");
        // What is known stands when the same question fails again.
        dsmc.faults(&json!([]));
        wait_for("all is told of", || {
            listed(&mount) == 3 && status(&mount)["state"] == "available"
        });
        dsmc.faults(&json!(faults));
        wait_for("it is noticed", || {
            let _ = listed(&mount);
            status(&mount)["state"] == "unavailable"
        });
        assert_eq!(listed(&mount), 3, "{faults:?}");
    }
}

#[test]
fn folders_are_searched_as_deep_as_the_folder_of_stages_was() {
    let (lab, dsmc) = Lab::on_tsm("");
    let old = lab.path("old");
    as_cinder(&dsmc, &old.join(VOLUME), 1, b"one");
    lab.configure(&format!("backup_tsm_folders = {}\n", old.display()));
    let mount = lab.mount();
    let listed = names(&mount.path("tsm/unassigned"));
    assert_eq!(listed.len(), 1);
    let path = mount.path("tsm/unassigned").join(&listed[0]);
    assert_eq!(fs::read(path).unwrap(), b"one");
}

#[test]
fn rows_that_wrap_cost_no_further_question_where_they_are_ours() {
    let (lab, dsmc) = Lab::on_tsm("backup_tsm_list_images = false\n");
    for number in 1..=3 {
        let volume = lab.path("staging").join(id(100 + number));
        as_cinder(&dsmc, &volume, number, b"one");
    }
    dsmc.faults(&json!([{"fault": "wrap", "value": 132}]));
    let mount = lab.mount();
    assert_eq!(list(&mount).map(|volumes| volumes.len()), Ok(3));
    assert_eq!(dsmc.count("query-backup"), 1);
    assert_eq!(status(&mount)["state"], "available");
}
