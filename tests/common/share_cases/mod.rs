//! What the drivers over a share promise, whatever share it is: cases that take a server,
//! seen through the real mount with real programs. Some of them harm the server.

pub mod commands;
pub mod faults;
pub mod mounting;
pub mod publishing;
pub mod waiting;
pub mod writers;

use crate::common::library::Dice;
use crate::common::mount::{
    Lab, MIB, Mount, PATIENCE, SMALL_OBJECTS, command, files_in, output, run, shell, wait_for,
    wait_so_long,
};
use crate::common::share::FileServer;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Tests of cases: functions below the room `crate::share_cases` that take a server. Those in
/// the machine start it there.
macro_rules! on_a_share {
    (in the machine, $server:expr; $($room:ident::$case:ident)*) => {$(
        #[test]
        #[ignore = "runs in a virtual machine"]
        fn $case() {
            $crate::share_cases::$room::$case(&$server);
        }
    )*};
    ($server:expr; $($room:ident::$case:ident)*) => {$(
        #[test]
        fn $case() {
            if let Some(server) = $server {
                $crate::share_cases::$room::$case(server);
            }
        }
    )*};
}
pub(crate) use on_a_share;

pub const VOLUME: &str = "5f0c2b1e-8b1f-4c58-a1a4-0c6f5f1f2a01";
/// Little patience with the server.
pub fn impatient(server: &dyn FileServer) -> String {
    format!("{SMALL_OBJECTS}request_timeout = {}\n", server.patience())
}
/// As much as is enough for a server that answers at all.
pub const PATIENT: &str = "backup_file_size = 1048576\nrequest_timeout = 10\n";
/// More than is read ahead by anybody.
const LONG: usize = 48 * MIB;

/// Bytes that no codec makes smaller.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    Dice(seed).noise(length)
}

/// The path of a backup in the volume that all cases have.
pub fn of(mount: &Mount<'_>, name: &str) -> PathBuf {
    mount.volume(VOLUME).join(name)
}

/// That path where the volume is known to be there, or its server not to answer.
pub fn known(lab: &Lab, mount: &Mount<'_>, name: &str) -> PathBuf {
    mount.path(lab.backend()).join(VOLUME).join(name)
}

/// A laboratory with a backup that no mount has in memory.
pub fn with_backup(server: &dyn FileServer, options: &str, length: usize) -> (Lab, Vec<u8>) {
    let lab = Lab::on_share(server, options);
    let data = noise(1, length);
    let source = lab.source("source", &data);
    let mount = lab.mount();
    run(&mut command("cp", &[&source, &of(&mount, "image")]));
    assert_eq!(mount.unmount(), 0);
    (lab, data)
}

/// Reads a file as another program does. The error is what that says.
pub fn cat(path: &Path) -> Result<Vec<u8>, String> {
    let output = output(&mut shell(r#"exec cat "$1""#, &[path]));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !matches!(output.status.code(), Some(124 | 137)),
        "cat did not end: {said}"
    );
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(said),
    }
}

/// Copies as another program does. The error is what that says.
pub fn copy(from: &Path, to: &Path) -> Result<(), String> {
    let output = output(&mut command("cp", &[from, to]));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !matches!(output.status.code(), Some(124 | 137)),
        "cp did not end: {said}"
    );
    match output.status.success() {
        true => Ok(()),
        false => Err(said),
    }
}

pub fn assert_eio<T>(outcome: Result<T, String>, what: &str) {
    match outcome {
        Ok(_) => panic!("{what} should have failed"),
        Err(said) => assert!(said.contains("Input/output error"), "{what}: {said}"),
    }
}

/// The names in the volume, as ls(1) shows them.
pub fn listed(lab: &Lab, mount: &Mount<'_>) -> Vec<String> {
    let folder = mount.path(lab.backend()).join(VOLUME);
    let names = run(&mut command("ls", &[folder]));
    names.lines().map(str::to_owned).collect()
}

/// What `/.cinderfs/status.json` says of a backend: its state, and why.
pub fn status(mount: &Mount<'_>, backend: &str) -> (String, String) {
    let text = cat(&mount.path(".cinderfs/status.json")).unwrap();
    let status: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let mut backends = status["backends"].as_array().unwrap().iter();
    let found = backends.find(|found| found["name"] == backend).unwrap();
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    (text("state"), text("error"))
}

/// Another backend in the same file, `local`, with a backup of that image.
pub fn with_local(lab: &Lab, options: &str) {
    let store = lab.path("store");
    let options = format!(
        "{options}\n[local]\nbackup_driver = posix\nbackup_posix_path = {}\n",
        store.display()
    );
    lab.configure(&options);
}

/// That backend must work, as if nothing had happened.
pub fn check_local(mount: &Mount<'_>, name: &str) {
    let folder = mount.path("local").join(VOLUME);
    if !folder.exists() {
        fs::create_dir(&folder).unwrap();
    }
    let data = noise(99, MIB);
    crate::common::mount::write(&folder.join(name), &data);
    assert!(cat(&folder.join(name)).unwrap() == data);
}

/// All backups are whole by what `cinderfs verify` says, and nothing is damaged.
pub fn check_whole(lab: &Lab) {
    let config = lab.config();
    run(&mut lab.cinderfs(&["verify", "--config", config.to_str().unwrap()]));
}

/// Waits until a mount shows a backup equal to an image, however it was before.
pub fn wait_for_image(path: &Path, image: &[u8]) {
    wait_for("the backup reads back whole", || match cat(path) {
        Ok(read) => {
            assert!(read == image, "{} differs", path.display());
            true
        }
        Err(_) => false,
    });
}

/// A server that answers again takes a backup: soon, for it may have to do first what was asked
/// of it meanwhile, though what is in memory can be read at once.
pub fn wait_for_backup(source: &Path, target: &Path) {
    // In a machine that is emulated, beside other tests, that may be minutes.
    wait_so_long(4 * PATIENCE, "it takes a backup", || {
        copy(source, target).is_ok()
    });
}

/// How many chunks of backups a server has.
pub fn chunks(lab: &Lab) -> usize {
    let script = r#"find "$1" -type f -name 'volume_*-0*' | wc -l"#;
    let found = run(&mut shell(script, &[lab.store()]));
    found.trim().parse().unwrap()
}

/// A dd(1) that reads a file, no further than it is taken from.
pub struct Reader {
    child: Child,
}

impl Reader {
    pub fn new(path: &Path) -> Self {
        let mut dd = command("dd", &["bs=64k", "status=none"]);
        dd.arg(format!("if={}", path.display()));
        let child = dd.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        Self {
            child: child.unwrap(),
        }
    }

    pub fn take(&mut self, length: usize) -> Vec<u8> {
        let mut data = vec![0; length];
        let output = self.child.stdout.as_mut().unwrap();
        output.read_exact(&mut data).unwrap();
        data
    }

    /// Lets it go on to the end: what it has read, and what it says if it fails.
    pub fn rest(self) -> (Vec<u8>, Result<(), String>) {
        let output = self.child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let result = match output.status.code() {
            Some(0) => Ok(()),
            Some(124 | 137) => panic!("dd did not end: {said}"),
            _ => Err(said),
        };
        (output.stdout, result)
    }
}

/// A dd(1) that writes a file, as far as it is fed.
pub struct Writer {
    child: Child,
}

impl Writer {
    pub fn new(path: &Path) -> Self {
        let mut dd = Command::new("timeout");
        dd.args(["-k", "5", "240", "dd", "bs=64k", "iflag=fullblock"]);
        dd.arg("status=none").arg(format!("of={}", path.display()));
        dd.env("LC_ALL", "C.UTF-8").stdin(Stdio::piped());
        Self {
            child: dd.stderr(Stdio::piped()).spawn().unwrap(),
        }
    }

    /// `false` when it has ended, which is because it has failed.
    pub fn feed(&mut self, data: &[u8]) -> bool {
        let input = self.child.stdin.as_mut().unwrap();
        input.write_all(data).is_ok()
    }

    /// Nothing more is to come: what it says if it fails, when it writes or when it closes.
    pub fn end(mut self) -> Result<(), String> {
        drop(self.child.stdin.take());
        let output = self.child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        match output.status.code() {
            Some(0) => Ok(()),
            Some(124 | 137) => panic!("dd did not end: {said}"),
            _ => Err(said),
        }
    }
}
