//! The emulator of `dsmc` is what it claims to be: its words are those of the samples that
//! are known, it takes the commands that it is for, refuses others, and says what it is.

mod common;

use common::dsmc::Dsmc;
use serde_json::json;
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

struct Lab {
    root: TempDir,
    dsmc: Dsmc,
}

impl Lab {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let dsmc = Dsmc::new(&root.path().join("tsm"));
        Self { root, dsmc }
    }

    fn file(&self, name: &str, data: &[u8]) -> PathBuf {
        let path = self.root.path().join(name);
        fs::write(&path, data).unwrap();
        path
    }

    /// Exit code, and all that is said.
    fn run(&self, line: &str) -> (i32, String) {
        let line = line.replace("DIR", &self.root.path().display().to_string());
        let words: Vec<&str> = line.split(' ').collect();
        let output = self.dsmc.command(&words).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.code().unwrap_or(-1),
            String::from_utf8(said).unwrap(),
        )
    }

    fn check(&self, line: &str, code: i32, said: &[&str]) -> String {
        let (ended, text) = self.run(line);
        assert_eq!(ended, code, "{line}: {text}");
        for words in said {
            let words = words.replace("DIR", &self.root.path().display().to_string());
            assert!(text.contains(&words), "{line}: no {words:?} in {text}");
        }
        text
    }
}

#[test]
fn says_that_it_is_an_emulator() {
    let lab = Lab::new();
    for line in ["--help", "query backup x"] {
        let (_, said) = lab.run(line);
        assert!(said.contains("EMULATOR"), "{said}");
        assert!(!said.contains("Copyright IBM"), "{said}");
    }
    assert!(lab.run("--help").1.contains("ASSUMED"));
}

#[test]
fn speaks_as_the_samples_do() {
    let lab = Lab::new();
    lab.file("a", &vec![1; 453_246]);
    let none = "ANS1092W No files matching search criteria were found";
    lab.check(
        "selective -filesonly -compression=yes DIR/a",
        0,
        &[
            "IBM Storage Protect\nCommand Line Backup-Archive Client Interface\n",
            "Node Name: NODE\nSession established with server SP: Linux/x86_64\n",
            "Selective Backup function invoked.",
            "Normal File-->       453,246 DIR/a [Sent]",
            "Selective Backup processing of 'DIR/a' finished without failure.",
            "Total number of objects inspected:            1\n",
            "Total number of objects backed up:            1\n",
            "Elapsed processing time:               00:00:19",
        ],
    );
    lab.check(
        "query backup -inactive DIR/a",
        0,
        &[
            "           Size        Backup Date                Mgmt Class           A/I File\n",
            "           ----        -----------                ----------           --- ----\n",
            "       453,246  B  20",
            "             STANDARD             A  DIR/a\n",
        ],
    );
    lab.check("query backup DIR/b", 8, &[none]);
    lab.check(
        "restore -replace=yes -latest DIR/a DIR/back",
        0,
        &[
            "Restore function invoked.",
            "ANS1247I Waiting for files from the server...",
            "Restoring  453,246 DIR/a --> DIR/back [Done]",
            "Restore processing finished.",
        ],
    );
    assert_eq!(
        fs::read(lab.root.path().join("back")).unwrap(),
        vec![1; 453_246]
    );
    lab.check(
        "delete backup -noprompt -objtype=file -deltype=all DIR/a",
        0,
        &[],
    );
    lab.check("query backup DIR/a", 12, &["ANS4000E"]);
    lab.check("delete backup -noprompt DIR/a", 12, &["ANS1302E"]);
}

#[test]
fn takes_abbreviations_in_any_order_and_refuses_the_rest() {
    let lab = Lab::new();
    lab.file("a", b"one");
    lab.check("s DIR/a -fileso", 0, &["[Sent]"]);
    lab.check("-ina q b -date=3 DIR/a -time=1", 0, &["DIR/a"]);
    // Cinder's form.
    lab.check("backup -quiet -compression=no -password=x DIR/a", 0, &[]);
    for line in [
        "query backup -sparkling DIR/a",
        "query backup -inactive=yes DIR/a",
        "dance",
    ] {
        lab.check(line, 12, &["ANS1107E"]);
    }
    lab.check("query backup -se=nobody DIR/a", 12, &["ANS1217E"]);
}

#[test]
fn keeps_versions_as_the_defaults_say() {
    let lab = Lab::new();
    let a = lab.file("a", b"one");
    let list = |options: &str| {
        let (_, said) = lab.run(&format!("query backup {options} DIR/a"));
        let rows = said.lines().filter(|line| line.ends_with("/a"));
        let states = rows.filter_map(|row| row.split_whitespace().rev().nth(1).map(str::to_owned));
        states.collect::<Vec<_>>()
    };
    for round in 0..3 {
        fs::write(&a, vec![b'x'; round + 1]).unwrap();
        lab.check("selective DIR/a", 0, &[]);
    }
    assert_eq!(list("-inactive"), ["A", "I"]);
    assert_eq!(list("-filesonly"), ["A"]);
    // What is gone becomes inactive, and is there still.
    fs::remove_file(&a).unwrap();
    lab.check("incremental DIR/*", 0, &[]);
    assert_eq!(list("-inactive"), ["I", "I"]);
    lab.check("restore -replace=yes DIR/a DIR/b", 12, &["ANS1302E"]);
    lab.check("restore -replace=yes -latest DIR/a DIR/b", 0, &[]);
    assert_eq!(fs::read(lab.root.path().join("b")).unwrap(), b"xxx");
    lab.check("delete backup -noprompt DIR/a", 0, &[]);
    assert_eq!(list("-inactive"), ["I", "I"]);
    lab.check("delete backup -noprompt -deltype=all DIR/a", 0, &[]);
    assert_eq!(list("-inactive"), [""; 0]);
}

#[test]
fn passwords_come_from_where_they_may() {
    let lab = Lab::new();
    let server = lab.dsmc.server();
    fs::write(server.join("password"), "se cret").unwrap();
    fs::write(
        server.join("dsm.sys"),
        "SErvername ONE\nPASSWORDACCESS prompt\nNODENAME other\n",
    )
    .unwrap();
    lab.file("dsm.opt", b"SErvername ONE\nPASSWORD \"se cret\"\n");
    lab.check(
        "query backup -optfile=DIR/dsm.opt DIR/a",
        12,
        &["Node Name: other"],
    );
}

#[test]
fn fails_as_it_is_told() {
    let lab = Lab::new();
    lab.file("a", &vec![7; 300_000]);
    lab.check("selective DIR/a", 0, &[]);
    let query = "query backup -inactive DIR/a";
    let restore = "restore -replace=yes -latest DIR/a DIR/b";
    let size = || fs::metadata(lab.root.path().join("b")).unwrap().len();
    for (fault, line, code, said) in [
        (json!("no-connection"), query, 12, "ANS1017E"),
        (json!("no-authentication"), query, 12, "ANS1025E"),
        (json!("no-match"), restore, 12, "ANS1302E"),
        (json!("pending-restore"), restore, 12, "ANS1330S"),
        (
            json!("not-there"),
            "delete backup -noprompt DIR/a",
            12,
            "ANS1345E",
        ),
        (
            json!("no-authority"),
            "delete backup -noprompt DIR/a",
            12,
            "permission",
        ),
        (json!("bad-path"), "selective DIR/a", 12, "ANS1063E"),
        (
            json!("changed"),
            "selective DIR/a",
            12,
            "ANS4037E Object 'DIR/a' changed during processing.\nObject skipped.",
        ),
        (
            json!("warning"),
            "selective DIR/a",
            8,
            "backed up:            1",
        ),
        (
            json!("skipped"),
            "selective DIR/a",
            4,
            "backed up:            1",
        ),
        (json!("lost"), restore, 0, "restored:             0"),
        (json!("kilobytes"), query, 0, "292.97 KB"),
        (json!("german"), query, 0, "300.000  B"),
        (json!("gibberish"), query, 0, "%%%"),
        (json!("stderr"), "query backup DIR/none", 8, "ANS1092W"),
    ] {
        lab.dsmc.faults(&json!([{"fault": fault}]));
        lab.check(line, code, &[said]);
    }
    lab.dsmc.faults(&json!([{"fault": "short", "value": 1000}]));
    lab.check(restore, 0, &[]);
    assert_eq!(size(), 299_000);
    lab.dsmc
        .faults(&json!([{"fault": "killed-at", "value": 100_000}]));
    let (code, _) = lab.run(restore);
    // By a signal.
    assert_eq!(code, -1);
    assert!(size() < 200_000);
    lab.dsmc.faults(&json!([{"fault": "wrap", "value": 40}]));
    let (_, said) = lab.run(query);
    assert!(said.contains("       300,000  B  20"), "{said}");
    assert!(
        said.contains("  \n           STANDARD             A"),
        "{said}"
    );
    lab.dsmc
        .faults(&json!([{"fault": "no-connection", "times": 1, "on": ["restore"]}]));
    lab.check(query, 0, &[]);
    lab.check(restore, 12, &["ANS1017E"]);
    lab.check(restore, 0, &[]);
}
