//! `cinderfs verify` and `cinderfs diff`, over backups that Cinder wrote and over damaged
//! ones.

mod common;

use cinderfs::error::Kind;
use cinderfs::format::Layout;
use cinderfs::store::ObjectStore;
use cinderfs::store::fault::{Call, FaultStore};
use cinderfs::store::memory::MemoryStore;
use common::cinder::Cinder;
use common::golden::{TREES, Tree};
use common::library::{Dice, Rooms, options};
use common::mount::{Lab, MIB, fail, on_every_backend, output, run, write};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// The program with `arguments`, the first of which is the command.
fn ask(lab: &Lab, arguments: &[&str]) -> Command {
    let mut all = vec![arguments[0].to_owned(), "--config".into()];
    all.push(lab.config().display().to_string());
    all.extend(arguments[1..].iter().map(|&word| word.to_owned()));
    lab.cinderfs(&all)
}

/// The document that the command prints, and its exit code.
fn verify(lab: &Lab, arguments: &[&str]) -> (i32, Value) {
    let output = output(&mut ask(lab, &[&["verify", "--json"], arguments].concat()));
    let document = serde_json::from_slice(&output.stdout).unwrap();
    (output.status.code().unwrap(), document)
}

/// All files of a store whose name ends so.
fn files(folder: &Path, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, end));
        } else if path.to_str().unwrap().ends_with(end) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn name_of(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

#[test]
fn what_cinder_wrote_is_right() {
    for tree in [Tree::Posix, Tree::Nfs] {
        let lab = Lab::over(&tree.path());
        let all = tree.backups();
        let text = run(&mut ask(&lab, &["verify"]));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), all.len() + 1, "{text}");
        assert!(
            lines[..all.len()]
                .iter()
                .all(|line| line.starts_with("ok "))
        );
        let summary = format!("{} backups checked, 0 damaged", all.len());
        assert_eq!(lines[all.len()], summary);
        let (code, document) = verify(&lab, &["posix"]);
        assert_eq!(
            (code, document["summary"]["damaged"].as_u64()),
            (0, Some(0))
        );
        let rows = document["backups"].as_array().unwrap();
        for golden in &all {
            let row = rows
                .iter()
                .find(|row| row["backup_id"] == *golden.id)
                .unwrap();
            assert_eq!(
                (&row["ok"], &row["only_md5"]),
                (&Value::Bool(true), &Value::Bool(false))
            );
            assert_eq!(row["size"], golden.size);
            assert_eq!(row["problems"], Value::Array(Vec::new()));
        }
        // A volume, and a file in it.
        let volume = format!("posix/{}", all[0].volume);
        let (_, document) = verify(&lab, &[&volume]);
        let rows = document["backups"].as_array().unwrap();
        let of_volume = all.iter().filter(|other| other.volume == all[0].volume);
        assert_eq!(rows.len(), of_volume.count());
        let path = rows[0]["path"].as_str().unwrap();
        let (_, document) = verify(&lab, &[path, "--sample", "1"]);
        assert_eq!(document["backups"].as_array().unwrap().len(), 1);
        assert_eq!(document["backups"][0]["objects"], 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_every_release_of_cinder_wrote_is_right() {
    for tree in TREES {
        let Some(store) = tree.store() else {
            continue;
        };
        let rooms = Rooms::new(store, options(tree.layout()), MIB as u64);
        assert_eq!(rooms.driver.garbage(Duration::ZERO).await.unwrap(), []);
        for golden in tree.backups() {
            let backup = rooms.find(&golden.volume, &golden.id).await;
            let verdict = rooms.driver.verify(&backup, 100, &()).await.unwrap();
            assert_eq!(verdict.problems, [""; 0], "{golden:?}");
            assert_eq!(verdict.only_md5, tree == Tree::OldSwift, "{golden:?}");
        }
    }
}

/// However long the chain is, and however small the memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_backups_share_is_read_once() {
    let store = Arc::new(FaultStore::new(MemoryStore::new()));
    let cinder = Cinder::new(Layout::Swift, "zlib");
    let mut image = Dice(1).text(20 * (32 << 10));
    let mut parent = cinder.back_up(store.as_ref(), "v", &image, None).await;
    let mut all = vec![parent.clone()];
    for number in 1..6 {
        image[number * 70_000] ^= 1;
        parent = cinder
            .back_up(store.as_ref(), "v", &image, Some(&parent))
            .await;
        all.push(parent.clone());
    }
    let mut stored = 0;
    for made in &all {
        for object in &made.objects {
            stored += store.stat(&made.container, object).await.unwrap().size;
        }
    }
    let shared = Arc::<FaultStore<MemoryStore>>::clone(&store);
    let rooms = Rooms::new(shared, options(Layout::Swift), MIB as u64);
    store.take_chunk_reads();
    for (number, made) in all.iter().enumerate() {
        let backup = rooms.find("v", &made.id).await;
        let verdict = rooms.driver.verify(&backup, 100, &()).await.unwrap();
        assert_eq!(verdict.problems, [""; 0]);
        assert_eq!(verdict.objects, 20 + number as u64);
    }
    assert_eq!(store.take_chunk_reads().1, stored);
    // A store that fails for a moment is not damage that is remembered.
    let rooms = Rooms::new(store.clone(), options(Layout::Swift), MIB as u64);
    let backup = rooms.find("v", &parent.id).await;
    store.fail_when(|call| match call {
        Call::Read(name, _) if name.ends_with("-00003") => Some(Kind::Unavailable),
        _ => None,
    });
    let verdict = rooms.driver.verify(&backup, 100, &()).await.unwrap();
    assert_eq!(verdict.problems.len(), 1, "{verdict:?}");
    store.fail_when(|_| None);
    let verdict = rooms.driver.verify(&backup, 100, &()).await.unwrap();
    assert_eq!(verdict.problems, [""; 0]);
}

#[test]
fn what_was_written_through_the_mount_is_right() {
    for (codec, size) in [
        ("zlib", 3 * MIB + 5),
        ("none", MIB),
        ("bz2", 100),
        ("zstd", 0),
    ] {
        let lab = Lab::with(&format!(
            "backup_file_size = 1048576\nbackup_compression_algorithm = {codec}\n"
        ));
        let mount = lab.mount();
        write(&mount.volume("v").join("a.img"), &Dice(1).image(size));
        mount.unmount();
        let text = run(&mut ask(&lab, &["verify", "posix/v/a.img"]));
        assert!(
            text.starts_with("ok ") && text.contains(" posix/v/a.img\n"),
            "{text}"
        );
        assert!(text.ends_with("1 backup checked, 0 damaged\n"), "{text}");
        assert_eq!(
            run(&mut ask(&lab, &["gc", "--older-than", "0"])),
            "nothing is left over\n"
        );
    }
}

/// Damages the only object of some backup and tells what is said of it.
fn damage(codec: &str, edit: impl FnOnce(&Lab, &Path)) -> (String, PathBuf) {
    let lab = Lab::with(&format!(
        "backup_file_size = 1048576\nbackup_compression_algorithm = {codec}\n"
    ));
    let mount = lab.mount();
    for name in ["a.img", "b.img"] {
        write(&mount.volume("v").join(name), &Dice(1).text(MIB / 2));
    }
    mount.unmount();
    let object = files(&lab.store(), "-00001").remove(0);
    edit(&lab, &object);
    let output = output(&mut ask(&lab, &["verify"]));
    assert_eq!(output.status.code(), Some(1), "{codec}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.stderr.is_empty());
    assert!(text.ends_with("2 backups checked, 1 damaged\n"), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    let at = lines
        .iter()
        .position(|line| line.starts_with("DAMAGED "))
        .unwrap();
    let problem = lines[at + 1];
    assert!(problem.starts_with("        "), "{text}");
    assert_eq!(
        lines.iter().filter(|line| line.starts_with("ok ")).count(),
        1
    );
    (problem.to_owned(), object)
}

#[test]
fn damage_is_found_and_named() {
    for codec in ["none", "zlib", "bz2", "zstd"] {
        type Edit = fn(&mut Vec<u8>);
        let edits: [Edit; 4] = [
            |bytes| {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            },
            |bytes| bytes.truncate(bytes.len() / 2),
            |bytes| bytes.clear(),
            |bytes| bytes.push(0),
        ];
        for edit in edits {
            let (problem, object) = damage(codec, |_, object| {
                let mut bytes = fs::read(object).unwrap();
                edit(&mut bytes);
                fs::write(object, bytes).unwrap();
            });
            assert!(problem.contains(name_of(&object)), "{problem}");
        }
    }
    let (problem, object) = damage("zlib", |_, object| fs::remove_file(object).unwrap());
    assert!(
        problem.contains("missing") && problem.contains(name_of(&object)),
        "{problem}"
    );
    let (problem, _) = damage("zlib", |_, object| {
        fs::write(
            object.with_file_name(name_of(object).replace("-00001", "-00007")),
            "x",
        )
        .unwrap();
    });
    assert!(
        problem.contains("-00007") && problem.contains("cinderfs gc"),
        "{problem}"
    );
    for end in ["_metadata", "_sha256file"] {
        for text in ["", "{}", "{\"version\""] {
            let (problem, _) = damage("zlib", |_, object| {
                let name = name_of(object).replace("-00001", end);
                fs::write(object.with_file_name(name), text).unwrap();
            });
            assert!(problem.contains(end), "{problem}");
        }
    }
    let (problem, _) = damage("zlib", |_, object| {
        let path = object.with_file_name(name_of(object).replace("-00001", "_sha256file"));
        let text = fs::read_to_string(&path).unwrap();
        let at = text.find("\"sha256s\": [\n    \"").unwrap() + 18;
        let other = if text.as_bytes()[at] == b'0' {
            "1"
        } else {
            "0"
        };
        fs::write(&path, format!("{}{other}{}", &text[..at], &text[at + 1..])).unwrap();
    });
    assert!(
        problem.contains("block 0 ") && problem.contains("sha256"),
        "{problem}"
    );
}

#[test]
fn a_backend_that_cannot_be_read_does_not_stop_the_others() {
    let lab = Lab::over(&Tree::Nfs.path());
    let other = lab.path("other");
    fs::create_dir(&other).unwrap();
    lab.configure(&format!(
        "[zzz]\nbackup_driver = posix\nbackup_posix_path = {}\n",
        other.display()
    ));
    // A container that is no folder's listing: its metadata is a folder.
    let file = files(&lab.store(), "_metadata").remove(0);
    fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink("/nowhere", &file).unwrap();
    let (code, document) = verify(&lab, &[]);
    assert_eq!(code, 1);
    assert!(
        document["summary"]["damaged"].as_u64().unwrap() >= 1,
        "{document:#}"
    );
    let (code, document) = verify(&lab, &["zzz"]);
    assert_eq!(
        (code, document["summary"]["checked"].as_u64()),
        (0, Some(0))
    );
}

#[test]
fn mistakes_are_told() {
    let lab = Lab::over(&Tree::Nfs.path());
    for (arguments, code, word) in [
        (&["verify", "nosuch"][..], 1, "there are: posix"),
        (&["verify", "posix/nosuch"], 1, "it has no backup"),
        (&["verify", "a/b/c/d"], 2, "BACKEND/VOLUME/FILE"),
        (&["verify", "--sample", "0"], 2, "--sample"),
        (&["verify", "--sample", "101"], 2, "--sample"),
        (&["gc", "--older-than", "soon"], 2, "--older-than"),
        (&["gc", "--older-than", "-1h"], 2, "--older-than"),
        (&["gc", "posix/v"], 2, "only whole backends"),
        (&["gc", "nosuch"], 1, "there are: posix"),
        (&["diff", "posix/a/b"], 2, "BACKEND/VOLUME/FILE"),
        (&["diff", "posix/a/b", "posix/c/d"], 2, "one volume"),
        (&["diff", "posix/a/b", "other/a/b"], 2, "one volume"),
        (&["diff", "posix/a", "posix/a"], 2, "it names no backup"),
        (&["diff", "posix/a/b", "posix/a/c"], 1, "it has no backup"),
    ] {
        let (found, said) = fail(&mut ask(&lab, arguments));
        assert_eq!(found, code, "{arguments:?}: {said}");
        assert!(said.contains(word), "{arguments:?}: {said}");
    }
}

on_every_backend! {
    "backup_file_size = 1048576\nbackup_sha_block_size_bytes = 4096\n";
    differences_are_told_without_reading_a_chunk
}

fn differences_are_told_without_reading_a_chunk(lab: &Lab) {
    let folder = format!("{}/v", lab.backend());
    let mount = lab.mount();
    let mut image = Dice(1).noise(3 * MIB + 100);
    write(&mount.volume("v").join("a.img"), &image);
    image[8192..16_384].fill(0);
    image[16_384] ^= 1;
    image[2 * MIB] ^= 1;
    image.truncate(3 * MIB);
    write(&mount.volume("v").join("b.img"), &image);
    mount.unmount();
    for object in files(&lab.store(), "-00001") {
        lab.set_object(&object, Some(b"damaged"));
    }
    let differ = |from: &str, to: &str| {
        let (from, to) = (format!("{folder}/{from}"), format!("{folder}/{to}"));
        let arguments = ["diff", from.as_str(), to.as_str()];
        let output = output(&mut ask(lab, &arguments));
        assert_eq!(output.status.code(), Some(0));
        let said = String::from_utf8(output.stderr).unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        (text.lines().map(words).collect::<Vec<_>>(), said)
    };
    let (lines, said) = differ("a.img", "b.img");
    let expected = [
        "8192 8192 zero",
        "16384 4096 data",
        "2097152 4096 data",
        "3145728 100 absent",
    ];
    assert_eq!(lines, expected);
    assert_eq!(
        said,
        "16484 bytes differ: 8192 are data now, 8192 zero, 100 cut off\n"
    );
    let (lines, _) = differ("b.img", "a.img");
    assert_eq!(
        lines,
        ["8192 12288 data", "2097152 4096 data", "3145728 100 data"]
    );
    let (lines, said) = differ("a.img", "a.img");
    assert_eq!((lines.len(), said.starts_with("0 bytes differ")), (0, true));
    let (a, b) = (format!("{folder}/a.img"), format!("{folder}/b.img"));
    let json = ["diff", "--json", a.as_str(), b.as_str()];
    let document: Value = serde_json::from_str(&run(&mut ask(lab, &json))).unwrap();
    assert_eq!(document["changes"][0]["offset"], 8192);
    assert_eq!(document["changes"][0]["kind"], "zero");
    assert_eq!(document["summary"]["data"], 8192);
    // Without a list nothing can be told.
    lab.set_object(&files(&lab.store(), "_sha256file")[0], None);
    let (code, said) = fail(&mut ask(lab, &["diff", &a, &b]));
    assert!(code == 1 && said.contains("no list of hashes"), "{said}");
}
