//! No client outlives the daemon that has started it.

use crate::common::mount::*;
use crate::model::{self, VOLUME, as_cinder, bytes, check_tidy};
use serde_json::json;
use std::fs;
use std::path::PathBuf;
use std::process::Child;

fn reading(mount: &Mount<'_>) -> (PathBuf, std::thread::JoinHandle<i32>) {
    let volume = mount.path("tsm").join(VOLUME);
    let path = volume.join(&names(&volume)[0]);
    let reads = path.clone();
    let reading = std::thread::spawn(move || errno(fs::read(reads)));
    (path, reading)
}

#[test]
fn the_end_of_the_daemon_ends_its_client_whichever_way_it_comes() {
    let (lab, dsmc) = Lab::on_tsm("");
    as_cinder(
        &dsmc,
        &lab.path("staging").join(VOLUME),
        1,
        &bytes(1, 1 << 20),
    );
    for fault in [
        json!({"fault": "hang"}),
        json!({"fault": "rate", "value": 100_000}),
    ] {
        for crashes in [false, true] {
            let mut fault = fault.clone();
            fault["on"] = json!(["restore"]);
            let mount = lab.mount();
            dsmc.faults(&json!([fault]));
            let (_, reading) = reading(&mount);
            wait_for("it is fetched", || !dsmc.running("restore").is_empty());
            match crashes {
                true => mount.crash(),
                false => assert_eq!(mount.unmount(), 0),
            }
            wait_for("the client ends", || dsmc.running("restore").is_empty());
            assert_ne!(reading.join().unwrap(), 0);
        }
    }
    dsmc.faults(&json!([]));
    let mount = lab.mount();
    let (_, reading) = reading(&mount);
    assert_eq!(reading.join().unwrap(), 0);
    check_tidy(&lab);
}

#[test]
fn what_is_being_sent_at_the_end_is_waited_for_while_it_gets_on() {
    let (lab, dsmc) = Lab::on_tsm("backup_tsm_mount_timeout = 3\n");
    let data = bytes(2, 1 << 20);
    let rate = json!({"fault": "rate", "value": 2 << 20, "on": ["selective"]});
    let hang = json!({"fault": "hang", "on": ["selective"]});
    // Those that get on, and one that does not.
    for (signal, fault, is_kept) in [
        (libc::SIGTERM, &rate, true),
        (libc::SIGINT, &rate, true),
        (libc::SIGHUP, &rate, true),
        (libc::SIGTERM, &hang, false),
    ] {
        let mount = lab.mount();
        let before = dsmc.objects().len();
        dsmc.faults(&json!([fault]));
        let path = mount.volume(VOLUME).join(format!("{signal}-{is_kept}.img"));
        let written = data.clone();
        let sending = std::thread::spawn(move || {
            let _ = fs::write(path, written);
        });
        wait_for("it is being sent", || !dsmc.running("selective").is_empty());
        assert_eq!(mount.end_by(signal), 0);
        assert!(dsmc.running("selective").is_empty());
        sending.join().unwrap();
        dsmc.faults(&json!([]));
        check_tidy(&lab);
        let objects = dsmc.objects().len();
        assert_eq!(objects, before + usize::from(is_kept), "{}", lab.log());
    }
    assert!(lab.log().contains("is lost"), "{}", lab.log());
    let mount = lab.mount();
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        let path = mount.volume(VOLUME).join(format!("{signal}-true.img"));
        assert_eq!(fs::read(path).unwrap(), data);
    }
}

/// Backs up a file of so many bytes by the command, in the background.
fn back_up(lab: &Lab, length: usize) -> Child {
    let source = lab.source("disk.img", &bytes(3, length));
    let config = lab.config();
    lab.start_command(&[
        "backup",
        "--config",
        config.to_str().unwrap(),
        "--name",
        "new.img",
        source.to_str().unwrap(),
        &format!("tsm/{VOLUME}"),
    ])
}

fn gc(lab: &Lab, more: &[&str]) -> String {
    let config = lab.config();
    let mut arguments = vec![
        "gc",
        "--older-than",
        "0",
        "--config",
        config.to_str().unwrap(),
    ];
    arguments.extend(more);
    run(&mut lab.cinderfs(&arguments))
}

fn listed(lab: &Lab, what: &str) -> String {
    let config = lab.config();
    run(&mut lab.cinderfs(&["ls", "--config", config.to_str().unwrap(), what]))
}

#[test]
fn a_backup_that_is_interrupted_while_it_is_sent_leaves_nothing() {
    let (lab, dsmc) = Lab::on_tsm("");
    model::write(&lab.mount(), "kept.img", b"kept");
    let before = dsmc.objects();
    // Before anything of it is on the server, in the middle, and when all of it is there and
    // the client has not said so yet.
    for (signal, fault) in [
        (libc::SIGINT, json!({"fault": "hang"})),
        (libc::SIGTERM, json!({"fault": "rate", "value": 100_000})),
        (libc::SIGHUP, json!({"fault": "hang-stored"})),
    ] {
        let mut fault = fault;
        fault["on"] = json!(["selective"]);
        dsmc.faults(&json!([fault]));
        let child = back_up(&lab, 3 << 20);
        wait_for("it is being sent", || match fault["fault"].as_str() {
            Some("hang-stored") => dsmc.objects().len() > before.len(),
            _ => !dsmc.running("selective").is_empty(),
        });
        kill(child.id(), signal);
        let done = child.wait_with_output().unwrap();
        let said = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(1), "{fault}: {said}");
        assert!(said.contains("interrupted"), "{fault}: {said}");
        assert_eq!(done.stdout, b"", "{fault}");
        assert!(dsmc.running("selective").is_empty(), "{fault}");
        dsmc.faults(&json!([]));
        assert_eq!(dsmc.objects(), before, "{fault}");
        assert_eq!(
            listed(&lab, &format!("tsm/{VOLUME}")),
            "kept.img\n",
            "{fault}"
        );
        assert_eq!(gc(&lab, &[]), "nothing is left over\n", "{fault}");
        check_tidy(&lab);
    }
}

#[test]
fn what_an_interrupted_backup_cannot_clear_away_is_said_and_whole() {
    let (lab, dsmc) = Lab::on_tsm("");
    dsmc.faults(&json!([
        {"fault": "hang-stored", "on": ["selective"]},
        {"fault": "no-connection", "on": ["delete"]},
    ]));
    let child = back_up(&lab, 100_000);
    wait_for("it is there", || !dsmc.objects().is_empty());
    kill(child.id(), libc::SIGINT);
    let done = child.wait_with_output().unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(said.contains("ANS1017E"), "{said}");
    // The server took all of it: under its name, with all its bytes, it can be deleted.
    dsmc.faults(&json!([]));
    assert_eq!(listed(&lab, &format!("tsm/{VOLUME}")), "new.img\n");
    let mount = lab.mount();
    let path = mount.volume(VOLUME).join("new.img");
    assert_eq!(fs::read(&path).unwrap(), bytes(3, 100_000));
    fs::remove_file(path).unwrap();
    assert_eq!(dsmc.objects(), [""; 0]);
}

#[test]
fn one_that_is_ended_at_once_leaves_no_client_and_what_gc_finds() {
    let (lab, dsmc) = Lab::on_tsm("");
    for twice in [true, false] {
        dsmc.faults(&json!([
            {"fault": "hang", "on": ["selective"]}, {"fault": "hang", "on": ["delete"]},
        ]));
        let mut child = back_up(&lab, 1 << 20);
        wait_for("it is being sent", || !dsmc.running("selective").is_empty());
        match twice {
            true => {
                kill(child.id(), libc::SIGINT);
                wait_for("it is cleared away", || !dsmc.running("delete").is_empty());
                kill(child.id(), libc::SIGINT);
            }
            false => child.kill().unwrap(),
        }
        assert!(!child.wait().unwrap().success());
        wait_for("no client is left", || {
            dsmc.running("selective").is_empty() && dsmc.running("delete").is_empty()
        });
        dsmc.faults(&json!([]));
        assert_eq!(listed(&lab, "tsm"), "");
        let done = gc(&lab, &["--delete"]);
        assert!(done.contains("removed"), "{done}");
        assert_eq!(gc(&lab, &[]), "nothing is left over\n");
        check_tidy(&lab);
        assert_eq!(dsmc.objects(), [""; 0]);
    }
}
