//! `tests/tsm-conformance.sh` does what it is for, and leaves nothing. That the emulator
//! answers as it expects says nothing of a real client.

use crate::common::device::LoopDevice;
use crate::common::dsmc::Dsmc;
use crate::common::mount::*;
use crate::model::{MIB, bytes};
use serde_json::json;
use std::fs;
use std::path::Path;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tsm-conformance.sh");

fn arguments(dsmc: &Dsmc, root: &Path) -> Vec<String> {
    [
        "--yes",
        "--dsmc",
        dsmc.program().to_str().unwrap(),
        "--output",
        root.join("record").to_str().unwrap(),
        root.join("new").to_str().unwrap(),
    ]
    .map(str::to_owned)
    .to_vec()
}

#[test]
fn the_script_records_and_cleans_up() {
    let root = tempfile::tempdir().unwrap();
    let dsmc = Dsmc::new(&root.path().join("tsm"));
    // Somebody else's, which must be there still.
    let other = root.path().join("theirs");
    fs::write(&other, b"theirs").unwrap();
    run(&mut dsmc.command(&["selective".as_ref(), other.as_os_str()]));
    let mut arguments = arguments(&dsmc, root.path());
    let source = root.path().join("device.img");
    fs::write(&source, bytes(1, MIB)).unwrap();
    let device = rustix::process::geteuid()
        .is_root()
        .then(|| LoopDevice::over(&source, &[]));
    if let Some(device) = &device {
        arguments.extend(["--image", device.text()].map(str::to_owned));
    }
    let said = run(command(SCRIPT, &arguments).env("PROMPT_TIMEOUT", "2"));
    assert!(said.contains("recorded in"), "{said}");
    let record = fs::read_to_string(root.path().join("record")).unwrap();
    assert!(!record.contains("NOT as expected"), "{record}");
    for words in [
        "ANS1092W",
        "ANS1107E",
        "Action [1,2,3,4,A] :",
        "inode size blocks",
    ] {
        assert!(record.contains(words), "no {words} in {record}");
    }
    assert_eq!(dsmc.objects(), [other.to_str().unwrap()]);
    assert!(!root.path().join("new").exists());
}

#[test]
fn the_script_says_what_it_could_not_remove() {
    let root = tempfile::tempdir().unwrap();
    let dsmc = Dsmc::new(&root.path().join("tsm"));
    dsmc.faults(&json!([{"fault": "no-authority"}]));
    let arguments = arguments(&dsmc, root.path());
    let (code, said) = fail(command(SCRIPT, &arguments).env("PROMPT_TIMEOUT", "1"));
    assert_eq!(code, 1);
    assert!(said.contains("the server still holds files"), "{said}");
    // A folder that is there is nobody's to use.
    fs::create_dir(root.path().join("new")).unwrap();
    let (code, said) = fail(&mut command(SCRIPT, &arguments));
    assert!(code == 2 && said.contains("is there already"), "{said}");
}
