//! What the tests have in common: objects as Cinder left them, and looks at what is shown.

use crate::common::dsmc::Dsmc;
use crate::common::mount::{Lab, Mount, run};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

pub const MIB: usize = 1 << 20;

/// A volume's id.
pub const VOLUME: &str = "74dd5d66-dcfa-5747-ab91-724c9e4956b0";

/// The id of backup `number`.
pub fn id(number: u32) -> String {
    format!("{number:08x}-15c7-5293-a026-e4123a3b50c9")
}

/// Random bytes, and always the same.
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

/// Backs a file up by the command that Cinder's driver gave, under the name that it would
/// have in `folder`.
pub fn as_cinder(dsmc: &Dsmc, folder: &Path, number: u32, data: &[u8]) -> PathBuf {
    fs::create_dir_all(folder).unwrap();
    let link = folder.join(format!("backup-{}", id(number)));
    fs::write(&link, data).unwrap();
    let path = link.to_str().unwrap();
    run(&mut dsmc.command(&["backup", "-quiet", "-compression=yes", "-password=x", path]));
    fs::remove_file(&link).unwrap();
    link
}

/// The same, as the image of a device would be: its file is in the place of the device.
pub fn as_cinder_image(dsmc: &Dsmc, folder: &Path, number: u32, data: &[u8]) -> PathBuf {
    fs::create_dir_all(folder).unwrap();
    let link = folder.join(format!("backup-{}", id(number)));
    fs::write(&link, data).unwrap();
    let output = dsmc
        .command(&["backup", "image", "-quiet", link.to_str().unwrap()])
        .output()
        .unwrap();
    // It warns of what is none of LVM's.
    assert_eq!(output.status.code(), Some(8), "{output:?}");
    fs::remove_file(&link).unwrap();
    link
}

/// A row of Cinder's database.
pub fn record(number: u32, path: &Path, mode: &str) -> Value {
    json!({
        "id": id(number),
        "volume_id": VOLUME,
        "display_name": "nightly",
        "display_description": "of the night",
        "size": 1,
        "created_at": "2017-03-01T04:05:06Z",
        "service_metadata": json!({"backup_mode": mode, "backup_path": path}).to_string(),
    })
}

/// A backup of ours, written through a mount.
pub fn write(mount: &Mount<'_>, name: &str, data: &[u8]) -> PathBuf {
    let path = mount.volume(VOLUME).join(name);
    crate::common::mount::write(&path, data);
    path
}

/// What a mount says of itself, of the first backend.
pub fn status(mount: &Mount<'_>) -> Value {
    let text = fs::read(mount.path(".cinderfs/status.json")).unwrap();
    let status: Value = serde_json::from_slice(&text).unwrap();
    status["backends"][0].clone()
}

/// Our notes in a catalog.
pub fn notes(catalog: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(catalog).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.to_string_lossy().ends_with(".cinderfs.json"))
        .collect()
}

/// Nothing of what was on its way is left in the folder of stages.
pub fn check_tidy(lab: &Lab) {
    let left = run(&mut crate::common::mount::shell(
        r#"cd "$1" && find . -type f | grep -v -e '^./.catalog/' -e '\.lock$' -e dsmerror.log -e '^./.staged/.*\.\(img\|json\)$' || true"#,
        &[lab.path("staging")],
    ));
    assert_eq!(left, "");
}
