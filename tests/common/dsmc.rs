//! The emulator of IBM's client `dsmc`, with a store of its own. It is no real one: see
//! `tests/services/dsmc/dsmc`.

use super::programs::command;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const EMULATOR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/services/dsmc/dsmc");

/// A server of the emulator's, and the program that asks it.
pub struct Dsmc {
    folder: PathBuf,
}

impl Dsmc {
    /// In a folder, which is made.
    pub fn new(folder: &Path) -> Self {
        fs::create_dir_all(folder.join("server")).unwrap();
        let dsmc = Self {
            folder: folder.to_owned(),
        };
        let [server, program] = [dsmc.server(), dsmc.program()];
        // It is named so that its process is the same one.
        let script = format!(
            "#!/bin/sh\nexport DSMC_EMULATOR_STORE='{store}' DSM_DIR='{store}' DSM_LOG='{store}'\n\
             exec '{EMULATOR}' \"$@\"\n",
            store = server.display()
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        dsmc
    }

    /// The folder of its server.
    pub fn server(&self) -> PathBuf {
        self.folder.join("server")
    }

    /// What stands for `dsmc`.
    pub fn program(&self) -> PathBuf {
        self.folder.join("dsmc")
    }

    pub fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        command(self.program(), arguments)
    }

    /// What goes wrong from now on: the value of control.json.
    pub fn faults(&self, faults: &Value) {
        for entry in fs::read_dir(self.server()).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.starts_with("times-") {
                fs::remove_file(path).unwrap();
            }
        }
        // In one go: the emulator may be about to read it.
        let new = self.server().join("control.new");
        fs::write(&new, faults.to_string()).unwrap();
        fs::rename(new, self.server().join("control.json")).unwrap();
    }

    /// All that was asked so far.
    pub fn calls(&self) -> Vec<Value> {
        let log = fs::read_to_string(self.server().join("calls.log")).unwrap_or_default();
        // The last one may be half written yet.
        log.split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// How often an operation was asked for.
    pub fn count(&self, operation: &str) -> usize {
        let calls = self.calls();
        calls
            .iter()
            .filter(|call| call["operation"] == operation)
            .count()
    }

    /// The processes that were started for an operation and have not ended.
    pub fn running(&self, operation: &str) -> Vec<u64> {
        let calls = self.calls();
        let of = calls.iter().filter(|call| call["operation"] == operation);
        of.filter_map(|call| call["pid"].as_u64())
            .filter(|pid| {
                let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                String::from_utf8_lossy(&line).contains("dsmc")
            })
            .collect()
    }

    /// The paths of all objects that the server holds.
    pub fn objects(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.server().join("objects")) else {
            return Vec::new();
        };
        let mut paths: Vec<String> = entries
            .filter_map(|entry| fs::read(entry.unwrap().path().join("object.json")).ok())
            .map(|text| {
                let object: Value = serde_json::from_slice(&text).unwrap();
                object["path"].as_str().unwrap().to_owned()
            })
            .collect();
        paths.sort_unstable();
        paths
    }
}
