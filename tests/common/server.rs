//! A real server in a process of its own: `tests/services/*/serve.py`.

use super::mount::{is_root_for, kill, wait_for};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

/// A server, until it is dropped. It also ends when this process does, however that
/// comes about, so it may be kept in a static.
pub struct Server {
    program: Program,
    options: Vec<String>,
    /// Which the server removes by itself.
    folder: PathBuf,
    running: Option<Running>,
    /// What it says of itself.
    pub info: Value,
}

struct Running {
    child: Child,
    /// The server ends, and leaves nothing, when this is closed.
    input: Option<ChildStdin>,
}

/// What there is to start.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// Its folder below `tests/services`.
    pub name: &'static str,
    pub origin: Origin,
}

/// Where the program of a server comes from.
#[derive(Debug, Clone, Copy)]
pub enum Origin {
    /// PyPI: that version, in an environment of its own, by the `install` of its folder.
    PyPi(&'static str),
    /// Debian: a program, and the package that has it. It needs root, and the system's Python.
    Debian(&'static str, &'static str),
}

impl Server {
    /// Starts it, and waits until it answers. None when it is not installed and `--quick`
    /// leaves it out.
    pub fn start(program: Program, options: Vec<String>) -> Option<Self> {
        program.python()?;
        let mut server = Self {
            program,
            options,
            folder: tempfile::tempdir().unwrap().keep(),
            running: None,
            info: Value::Null,
        };
        server.go_on();
        Some(server)
    }

    /// Starts it again, after [`Self::stop`]: on the same ports, with the same data.
    pub fn go_on(&mut self) {
        assert!(self.running.is_none(), "it runs");
        let mut child = Command::new(self.program.python().unwrap())
            .arg(self.program.folder().join("serve.py"))
            .arg(&self.folder)
            .arg("--until-eof")
            .args(&self.options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        self.running = Some(Running { child, input });
        self.info = serde_json::from_str(&line).unwrap_or_else(|_| {
            panic!("{} does not start: see above", self.program.name);
        });
    }

    /// Ends it at once. Its data stay.
    pub fn stop(&mut self) {
        let mut running = self.running.take().unwrap();
        kill(running.child.id(), libc::SIGTERM);
        running.wait();
    }

    pub fn port(&self) -> u16 {
        self.info["port"].as_u64().unwrap().try_into().unwrap()
    }

    /// A text that it says of itself.
    pub fn said(&self, key: &str) -> &str {
        let said = self.info[key].as_str();
        said.unwrap_or_else(|| panic!("there is no {key} in {}", self.info))
    }

    /// Where it keeps all that it has, logs as well.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Running {
    fn wait(&mut self) {
        let child = &mut self.child;
        wait_for("the server ends", || !matches!(child.try_wait(), Ok(None)));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(mut running) = self.running.take() else {
            let _ = std::fs::remove_dir_all(&self.folder);
            return;
        };
        drop(running.input.take());
        // A second panic, when it does not end, would hide the first one.
        if !std::thread::panicking() {
            running.wait();
        }
    }
}

impl Program {
    pub fn folder(self) -> PathBuf {
        let services = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/services");
        services.join(self.name)
    }

    /// The Python that runs it. None when it is not installed and `--quick` leaves it out.
    pub fn python(self) -> Option<PathBuf> {
        let Self { name, origin } = self;
        let (is_there, remedy) = match origin {
            Origin::PyPi(version) => {
                let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/services");
                let folder = target.join(format!("{name}-{version}"));
                if folder.join("complete").exists() {
                    return Some(folder.join("bin/python"));
                }
                (false, format!("run tests/services/{name}/install"))
            }
            Origin::Debian(program, package) => {
                if !is_root_for(name) {
                    return None;
                }
                let folders = ["/usr/sbin", "/usr/bin", "/sbin"].map(Path::new);
                let is_there = folders.iter().any(|folder| folder.join(program).exists());
                (is_there, format!("install the package {package}"))
            }
        };
        if is_there {
            return Some("python3".into());
        }
        let quick = std::env::var_os("CINDERFS_TEST_QUICK").is_some();
        assert!(quick, "{name} is missing: {remedy}, or `tests/run --quick`");
        eprintln!("left out, for {name} is not installed");
        None
    }
}
