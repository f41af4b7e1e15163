//! Devices are backed up as images, as Cinder did, where that is asked for.

use crate::common::device::LoopDevice;
use crate::common::mount::*;
use crate::model::{MIB, VOLUME, as_cinder, as_cinder_image, bytes, check_tidy, status};
use serde_json::json;
use std::fs;

#[test]
fn a_device_is_sent_as_an_image_and_comes_back() {
    if !is_root_for("a block device") {
        return;
    }
    let (lab, dsmc) = Lab::on_tsm("backup_tsm_mode = image\n");
    let data = bytes(1, 3 * MIB);
    let source = lab.source("device.img", &data);
    let device = LoopDevice::over(&source, &[]);
    let target = format!("tsm/{VOLUME}");
    let config = lab.config();
    let config = config.to_str().unwrap();
    let arguments = [
        "backup",
        "--config",
        config,
        "--name",
        "a.img",
        device.text(),
        &target,
    ];
    dsmc.faults(&json!([{"fault": "lost", "on": ["backup-image"]}]));
    let (_, said) = fail(&mut lab.cinderfs(&arguments));
    assert!(said.contains("the server does not have it"), "{said}");
    dsmc.faults(&json!([]));
    run(&mut lab.cinderfs(&arguments));
    let objects = dsmc.objects();
    assert_eq!(objects.len(), 1);
    assert!(objects[0].starts_with("/dev/backup-"), "{objects:?}");
    assert!(!fs::exists(&objects[0]).unwrap());
    assert_eq!(
        (dsmc.count("backup-image"), dsmc.count("selective")),
        (2, 0)
    );
    let mount = lab.mount();
    let path = mount.path("tsm").join(VOLUME).join("a.img");
    assert_eq!(fs::read(&path).unwrap(), data);
    // What is no device is sent as a file.
    let file = lab.source("plain.img", &data);
    let arguments = [
        "backup",
        "--config",
        config,
        "--name",
        "b.img",
        file.to_str().unwrap(),
        &target,
    ];
    run(&mut lab.cinderfs(&arguments));
    assert_eq!(dsmc.count("selective"), 1);
    fs::remove_file(&path).unwrap();
    assert_eq!(dsmc.objects().len(), 1);
    check_tidy(&lab);
}

#[test]
fn without_that_a_device_is_sent_as_a_file() {
    if !is_root_for("a block device") {
        return;
    }
    let (lab, dsmc) = Lab::on_tsm("");
    let data = bytes(2, 5 * MIB);
    let source = lab.source("device.img", &data);
    let device = LoopDevice::over(&source, &[]);
    let target = format!("tsm/{VOLUME}");
    let config = lab.config();
    run(&mut lab.cinderfs(&[
        "backup",
        "--config",
        config.to_str().unwrap(),
        "--name",
        "a.img",
        device.text(),
        &target,
    ]));
    assert_eq!(
        (dsmc.count("backup-image"), dsmc.count("selective")),
        (0, 1)
    );
    let mount = lab.mount();
    assert_eq!(
        fs::read(mount.path("tsm").join(VOLUME).join("a.img")).unwrap(),
        data
    );
}

#[test]
fn an_answer_on_images_that_is_not_understood_can_be_done_without() {
    let (lab, dsmc) = Lab::on_tsm("");
    let folder = lab.path("dev");
    as_cinder_image(&dsmc, &folder, 1, b"image");
    as_cinder(&dsmc, &lab.path("staging").join(VOLUME), 2, b"file");
    dsmc.faults(&json!([{"fault": "gibberish", "on": ["query-image"]}]));
    let mount = lab.mount();
    assert_eq!(names(&mount.path("tsm")), [VOLUME]);
    let shown = status(&mount);
    assert_eq!(shown["state"], "unavailable");
    let error = shown["error"].to_string();
    assert!(error.contains("backup_tsm_list_images"), "{error}");
    drop(mount);
    lab.configure("backup_tsm_list_images = false\n");
    let mount = lab.mount();
    assert_eq!(names(&mount.path("tsm")), [VOLUME]);
    assert_eq!(status(&mount)["state"], "available");
}
