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
