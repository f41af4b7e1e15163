//! What `.cinderfs` tells of a mount and its backups.

use crate::common::mount::{Lab, errno, names, write, xattr};
use serde_json::Value;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn the_control_folder() {
    let lab = Lab::new();
    let mount = lab.mount();
    let path = mount.volume("v/1".replace('/', "%2F").as_str()).join("x");
    assert!(!path.exists());
    let volume = mount.volume("volume one");
    write(&volume.join("a.img"), b"some data");
    let id = String::from_utf8(xattr(&volume.join("a.img"), "user.cinder.backup_id").unwrap());
    let id = id.unwrap();
    let control = mount.path(".cinderfs");
    assert_eq!(
        names(&control),
        ["by-id", "metrics", "posix", "status.json"]
    );
    let status = json(&control.join("status.json"));
    assert_eq!(status["backends"][0]["name"], "posix");
    assert_eq!(status["backends"][0]["state"], "available");
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    let metrics = fs::read_to_string(control.join("metrics")).unwrap();
    assert!(
        metrics.contains("cinderfs_memory_budget_bytes 268435456\n"),
        "{metrics}"
    );
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.split_once(' ').unwrap();
        assert!(
            name.starts_with("cinderfs_") && value.parse::<f64>().is_ok(),
            "{line}"
        );
    }
    assert_eq!(names(&control.join("by-id")), [id.as_str()]);
    let link = fs::read_link(control.join("by-id").join(&id)).unwrap();
    assert_eq!(link, Path::new("../../posix/volume one/a.img"));
    assert_eq!(
        fs::read(control.join("by-id").join(&id)).unwrap(),
        b"some data"
    );
    let length = control
        .join("by-id")
        .join(&id)
        .symlink_metadata()
        .unwrap()
        .len();
    assert_eq!(length, link.as_os_str().len() as u64);
    assert_eq!(
        errno(fs::read_link(control.join("by-id/none"))),
        libc::ENOENT
    );
    assert_eq!(
        names(&control.join("posix/volume one")),
        ["a.img.json", "a.img.record"]
    );
    let sidecar = json(&control.join("posix/volume one/a.img.json"));
    assert_eq!(sidecar["backup_id"], id.as_str());
    assert_eq!(sidecar["size"], 9);
    assert_eq!(sidecar["name"], "a.img");
    assert_eq!(sidecar["error"], Value::Null);
    // A file that is being written shows in the status.
    let mut open = File::create(volume.join("b.img")).unwrap();
    open.write_all(b"half").unwrap();
    let status = json(&control.join("status.json"));
    assert_eq!(status["writing"][0]["name"], "b.img");
    assert_eq!(status["writing"][0]["size"], 4);
    drop(open);
}
