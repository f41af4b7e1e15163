//! No client outlives the daemon that has started it.

use crate::common::mount::*;
use crate::model::{VOLUME, as_cinder, bytes, check_tidy};
use serde_json::json;
use std::fs;
use std::path::PathBuf;

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
    let data = bytes(2, 3 << 20);
    // One that gets on, and one that does not.
    for (fault, is_kept) in [
        (json!({"fault": "rate", "value": 1 << 20}), true),
        (json!({"fault": "hang"}), false),
    ] {
        let mut fault = fault;
        fault["on"] = json!(["selective"]);
        let mount = lab.mount();
        dsmc.faults(&json!([fault]));
        let path = mount.volume(VOLUME).join(format!("{is_kept}.img"));
        let written = data.clone();
        let sending = std::thread::spawn(move || {
            let _ = fs::write(path, written);
        });
        wait_for("it is being sent", || !dsmc.running("selective").is_empty());
        assert_eq!(mount.unmount(), 0);
        assert!(dsmc.running("selective").is_empty());
        sending.join().unwrap();
        dsmc.faults(&json!([]));
        check_tidy(&lab);
        assert_eq!(dsmc.objects().len(), 1, "{}", lab.log());
    }
    assert!(lab.log().contains("is lost"), "{}", lab.log());
    let mount = lab.mount();
    assert_eq!(
        fs::read(mount.volume(VOLUME).join("true.img")).unwrap(),
        data
    );
}
