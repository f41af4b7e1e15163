//! A real Cinder that tells what our backups are worth, and makes some of its own:
//! `tests/services/cinder/judge.py`, which has the protocol, in a process of its own.

use super::mount::wait_for;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// The version that says what is right.
pub const CINDER: &str = "29.0.0";
/// The last version that restores zeros over data wrongly onto new volumes (bug 2162961).
pub const CINDER_BEFORE: &str = "28.0.0";

/// No answer takes so long.
const PATIENCE: Duration = Duration::from_secs(300);

/// What Cinder's database says of a backup.
#[derive(Debug, Clone, Deserialize)]
pub struct Row {
    pub id: String,
    pub volume_id: String,
    pub parent_id: Option<String>,
    /// In GiB.
    pub size: u64,
    pub display_name: Option<String>,
    pub display_description: Option<String>,
    pub container: String,
    /// What the names of its objects begin with; of Ceph's: the image, or nothing.
    #[serde(deserialize_with = "or_empty")]
    pub service_metadata: String,
    pub object_count: u64,
    pub created_at: String,
}

/// Cinder's refusal: an exception.
#[derive(Debug)]
pub struct Refused {
    /// Its class.
    pub error: String,
    pub message: String,
}

/// A Cinder with one backup driver and an empty database. Its methods panic when it
/// refuses; [`Judge::ask`] does not.
pub struct Judge {
    child: Child,
    requests: Option<ChildStdin>,
    answers: Receiver<String>,
    state: tempfile::TempDir,
}

impl Judge {
    /// Starts that version with a configuration file of Cinder's. None when it is not
    /// installed and `--quick` leaves it out.
    pub fn start(version: &str, config: &Path) -> Option<Self> {
        Self::start_with(version, config, Path::new(""))
    }

    /// The same with further modules of Python's.
    pub fn start_with(version: &str, config: &Path, modules: &Path) -> Option<Self> {
        let python = installed(version)?;
        let state = tempfile::tempdir().unwrap();
        let said = fs::File::create(state.path().join("stderr")).unwrap();
        let mut child = Command::new(python)
            .arg(services().join("judge.py"))
            .arg("--config")
            .arg(config)
            .arg("--state")
            .arg(state.path())
            // Servers are here, and not where a proxy leads to.
            .env("no_proxy", "127.0.0.1")
            .env("PYTHONPATH", modules)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(said)
            .spawn()
            .unwrap();
        let requests = child.stdin.take();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut judge = Self {
            child,
            requests,
            answers,
            state,
        };
        assert_eq!(judge.must(json!({"op": "version"})), version);
        Some(judge)
    }

    /// One request, and Cinder's answer.
    pub fn ask(&mut self, request: Value) -> Result<Value, Refused> {
        let mut requests = self.requests.as_ref().unwrap();
        if let Err(e) = writeln!(requests, "{request}") {
            panic!("Cinder does not listen: {e}\n{}", self.said());
        }
        let answer = match self.answers.recv_timeout(PATIENCE) {
            Ok(answer) => answer,
            Err(e) => panic!("no answer to {request}: {e}\n{}", self.said()),
        };
        let mut answer: Value = serde_json::from_str(&answer).unwrap();
        match answer.get("error") {
            None => Ok(answer["result"].take()),
            Some(error) => Err(Refused {
                error: error.as_str().unwrap().to_owned(),
                message: answer["message"].as_str().unwrap().to_owned(),
            }),
        }
    }

    fn must(&mut self, request: Value) -> Value {
        match self.ask(request.clone()) {
            Ok(result) => result,
            Err(refused) => panic!("Cinder refuses {request}: {refused:?}\n{}", self.said()),
        }
    }

    /// A request that Cinder must refuse.
    pub fn refuse(&mut self, request: Value) -> Refused {
        match self.ask(request.clone()) {
            Ok(result) => panic!("Cinder should have refused {request}: {result}"),
            Err(refused) => refused,
        }
    }

    /// Lets it read its configuration file again.
    pub fn reload(&mut self) {
        self.must(json!({"op": "reload"}));
    }

    /// A volume of that id, whose data is a file, or another file for one that there is.
    pub fn volume(&mut self, id: &str, file: &Path, gib: u64) {
        self.must(json!({"op": "volume", "id": id, "path": file, "size": gib}));
    }

    /// The same, whose data is the image `volume-ID` in a pool of Ceph's.
    pub fn rbd_volume(&mut self, id: &str, pool: &str, gib: u64) {
        let path = format!("rbd:{pool}");
        self.must(json!({"op": "volume", "id": id, "path": path, "size": gib}));
    }

    /// Backs a volume up in full, into the container of the configuration.
    pub fn full(&mut self, volume: &str, name: &str, description: &str) -> Row {
        self.back_up(volume, name, description, false)
    }

    /// The same of a snapshot, which has the data of the volume.
    pub fn full_of_snapshot(&mut self, volume: &str) -> Row {
        row(self.must(json!({"op": "backup", "volume": volume, "snapshot": true})))
    }

    /// The same, into a container that the user has chosen.
    pub fn full_into(&mut self, volume: &str, container: &str) -> Row {
        row(self.must(json!({"op": "backup", "volume": volume, "container": container})))
    }

    /// Backs a volume up on top of what Cinder takes for its newest backup.
    pub fn increment(&mut self, volume: &str, name: &str, description: &str) -> Row {
        self.back_up(volume, name, description, true)
    }

    fn back_up(&mut self, volume: &str, name: &str, description: &str, incremental: bool) -> Row {
        row(self.must(json!({
            "op": "backup", "volume": volume, "name": name, "description": description,
            "incremental": incremental,
        })))
    }

    /// Tells Cinder of a backup, by its record.
    pub fn import(&mut self, record: &Value) -> Row {
        row(self.must(json!({"op": "import", "record": record})))
    }

    /// The record of a backup.
    pub fn export(&mut self, backup: &str) -> Value {
        self.must(json!({"op": "export", "backup": backup}))
    }

    /// Restores onto a new volume, whose data will be that file.
    pub fn restore_new(&mut self, backup: &str, file: &Path) {
        self.must(json!({"op": "restore", "backup": backup, "path": file}));
    }

    /// Restores over a volume.
    pub fn restore_over(&mut self, backup: &str, volume: &str) {
        self.must(json!({"op": "restore", "backup": backup, "volume": volume}));
    }

    /// Deletes a backup.
    pub fn delete(&mut self, backup: &str) {
        self.must(json!({"op": "delete", "backup": backup}));
    }

    /// All backups that it knows.
    pub fn list(&mut self) -> Vec<Row> {
        let rows = self.must(json!({"op": "list"}));
        rows.as_array().unwrap().iter().cloned().map(row).collect()
    }

    /// The end of what it has written elsewhere.
    fn said(&self) -> String {
        let read = |name| fs::read_to_string(self.state.path().join(name)).unwrap_or_default();
        let log = read("cinder.log");
        let lines: Vec<&str> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(60)..].join("\n");
        format!("{}\n{end}", read("stderr"))
    }
}

impl Drop for Judge {
    fn drop(&mut self) {
        // It ends with its input, unless it is at work.
        drop(self.requests.take());
        let child = &mut self.child;
        if std::thread::panicking() {
            let _ = child.kill();
        } else {
            wait_for("Cinder ends", || !matches!(child.try_wait(), Ok(None)));
        }
        let _ = child.wait();
    }
}

/// Null as an empty text.
fn or_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn row(value: Value) -> Row {
    serde_json::from_value(value).unwrap()
}

fn services() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/services/cinder")
}

/// The Python that has that version.
fn installed(version: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/services");
    let folder = folder.join(format!("cinder-{version}"));
    if folder.join("complete").exists() {
        return Some(folder.join("bin/python"));
    }
    let quick = std::env::var_os("CINDERFS_TEST_QUICK").is_some();
    assert!(
        quick,
        "Cinder {version} is missing: run tests/services/cinder/install {version}, or `tests/run --quick`"
    );
    eprintln!("left out, for Cinder {version} is not installed");
    None
}
