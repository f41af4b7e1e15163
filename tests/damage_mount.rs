//! Damage, seen through a mount: who reads gets an error and never a wrong byte, the log
//! names backup, object and cause, and everything else goes on.

mod common;

use common::golden::{Golden, Tree, sha256};
use common::library::Dice;
use common::mount::{Lab, MIB, Mount, fail, run, shell, write};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A store with two small backups of three objects each, on which nothing depends.
struct Damaged {
    lab: Lab,
    image: Vec<u8>,
}

const OBJECTS: usize = 3;

impl Damaged {
    fn new(codec: &str) -> Self {
        let lab = Lab::with(&format!(
            "backup_file_size = 1048576\nbackup_compression_algorithm = {codec}\n"
        ));
        // Text: every codec makes it smaller.
        let image = Dice(1).text(OBJECTS * MIB);
        let mount = lab.mount();
        for name in ["hurt", "whole"] {
            write(&mount.volume("v").join(name), &image);
        }
        mount.unmount();
        Self { lab, image }
    }

    /// The file that `suffix` names among those of the backup `hurt`.
    fn file(&self, suffix: &str) -> PathBuf {
        let find =
            r#"cd "$1" && dirname "$(grep -rl '"backup_name": "hurt"' --include=*_metadata .)""#;
        let folder = run(&mut shell(find, &[self.lab.store()]));
        let folder = self.lab.store().join(folder.trim());
        let names = common::mount::names(&folder);
        let name = names
            .into_iter()
            .find(|name| name.ends_with(suffix))
            .unwrap();
        folder.join(name)
    }

    fn id(&self) -> String {
        let container = self.file("_metadata").parent().unwrap().to_owned();
        container.file_name().unwrap().to_str().unwrap().to_owned()
    }

    /// After damage to its second object: it cannot be read, but for what can be shown to
    /// be right all the same. All else can.
    fn check_second_object(&self, damaged: &Path) {
        let mount = self.lab.mount();
        let hurt = mount.volume("v").join("hurt");
        for script in [
            r#"cat "$1" >/dev/null"#,
            r#"dd if="$1" of=/dev/null bs=64k skip=16 count=16"#,
        ] {
            let (_, said) = fail(&mut shell(script, &[&hurt]));
            assert!(said.contains("Input/output error"), "{said}");
        }
        let file = fs::File::open(&hurt).unwrap();
        let mut piece = vec![0; 32_768];
        let mut refused = 0;
        for at in (0..self.image.len()).step_by(piece.len()) {
            match file.read_exact_at(&mut piece, at as u64) {
                Ok(()) => assert!(
                    piece == self.image[at..at + piece.len()],
                    "wrong data at {at}"
                ),
                Err(e) => {
                    assert_eq!(e.raw_os_error(), Some(libc::EIO), "at {at}");
                    assert!((MIB..2 * MIB).contains(&at), "{at} is in a whole object");
                    refused += 1;
                }
            }
        }
        assert!(refused > 0);
        self.check_log(damaged.file_name().unwrap().to_str().unwrap());
        self.check_whole(&mount);
    }

    /// One line names backup and object.
    fn check_log(&self, object: &str) {
        let (log, id) = (self.lab.log(), self.id());
        let names_all =
            |line: &str| line.contains("ERROR") && line.contains(&id) && line.contains(object);
        assert!(
            log.lines().any(names_all),
            "no line names {id} and {object}:\n{log}"
        );
    }

    fn check_whole(&self, mount: &Mount<'_>) {
        assert!(fs::read(mount.volume("v").join("whole")).unwrap() == self.image);
        fs::write(mount.volume("v").join("new"), "new").unwrap();
        assert_eq!(fs::read(mount.volume("v").join("new")).unwrap(), b"new");
    }
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_flipped_bit_in_an_object() {
    for codec in ["none", "zlib", "bz2", "zstd"] {
        let damaged = Damaged::new(codec);
        let object = damaged.file("-00002");
        edit(&object, |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
        });
        damaged.check_second_object(&object);
    }
}

#[test]
fn an_object_that_is_missing() {
    let damaged = Damaged::new("zlib");
    let object = damaged.file("-00002");
    fs::remove_file(&object).unwrap();
    damaged.check_second_object(&object);
}

#[test]
fn an_object_that_is_cut_off() {
    for codec in ["none", "zlib"] {
        let damaged = Damaged::new(codec);
        let object = damaged.file("-00002");
        edit(&object, |bytes| bytes.truncate(1000));
        damaged.check_second_object(&object);
    }
}

#[test]
fn objects_that_changed_places() {
    let damaged = Damaged::new("zlib");
    let (second, third) = (damaged.file("-00002"), damaged.file("-00003"));
    let (a, b) = (fs::read(&second).unwrap(), fs::read(&third).unwrap());
    fs::write(&second, b).unwrap();
    fs::write(&third, a).unwrap();
    let mount = damaged.lab.mount();
    let (_, said) = fail(&mut shell(
        r#"cat "$1" >/dev/null"#,
        &[mount.volume("v").join("hurt")],
    ));
    assert!(said.contains("Input/output error"), "{said}");
    damaged.check_whole(&mount);
}

#[test]
fn an_object_that_is_a_way_out_of_the_store() {
    let damaged = Damaged::new("none");
    let object = damaged.file("-00002");
    fs::remove_file(&object).unwrap();
    let secret = damaged.lab.source("secret", &vec![b's'; MIB]);
    std::os::unix::fs::symlink(secret, &object).unwrap();
    damaged.check_second_object(&object);
}

/// The backup is listed, so that nobody takes it for deleted, and cannot be read.
fn check_unreadable(damaged: &Damaged) {
    let mount = damaged.lab.mount();
    let volume = mount.volume("v");
    let names = common::mount::names(&volume);
    assert_eq!(names.len(), 2, "{names:?}");
    let hurt = names.iter().find(|name| *name != "whole").unwrap();
    let (_, said) = fail(&mut shell(r#"cat "$1""#, &[volume.join(hurt)]));
    assert!(said.contains("Input/output error"), "{said}");
    let log = damaged.lab.log();
    let id = damaged.lab.path("id");
    let id = fs::read_to_string(id).unwrap();
    assert!(
        log.lines()
            .any(|line| line.contains("ERROR") && line.contains(&id)),
        "{log}"
    );
    let sidecar = mount.path(".cinderfs/posix/v").join(format!("{hurt}.json"));
    let sidecar: serde_json::Value = serde_json::from_slice(&fs::read(sidecar).unwrap()).unwrap();
    assert_eq!(sidecar["backup_id"], id.as_str());
    assert!(sidecar["error"].is_string(), "{sidecar}");
    // It can be deleted.
    fs::remove_file(volume.join(hurt)).unwrap();
    damaged.check_whole(&mount);
}

#[test]
fn metadata_that_is_no_json_or_of_another_backup() {
    for text in [
        &b"{\"version\": \"1.0.0\""[..],
        b"",
        b"\xff\xff",
        b"{\"version\": \"9\"}",
    ] {
        let damaged = Damaged::new("zlib");
        fs::write(damaged.lab.path("id"), damaged.id()).unwrap();
        fs::write(damaged.file("_metadata"), text).unwrap();
        check_unreadable(&damaged);
    }
}

#[test]
fn a_list_of_hashes_that_is_cut_off_leaves_the_objects_md5() {
    let damaged = Damaged::new("zlib");
    let list = damaged.file("_sha256file");
    edit(&list, |bytes| bytes.truncate(bytes.len() / 2));
    let mount = damaged.lab.mount();
    assert!(fs::read(mount.volume("v").join("hurt")).unwrap() == damaged.image);
    let (log, id) = (damaged.lab.log(), damaged.id());
    let told =
        |line: &str| line.contains("WARN") && line.contains(&id) && line.contains("_sha256file");
    assert!(log.lines().any(told), "{log}");
    mount.unmount();
    let object = damaged.file("-00002");
    edit(&object, |bytes| bytes[100] ^= 1);
    damaged.check_second_object(&object);
}

/// Cinder's own check ends there: an incremental backup without what it is built on.
#[test]
fn a_chain_that_has_lost_its_parent() {
    let lab = Lab::over(&Tree::Posix.path());
    let golden = Tree::Posix.backups();
    let child = golden.iter().find(|backup| backup.depth == 2).unwrap();
    let chain = |backup: &Golden| backup.volume == child.volume;
    let parent = golden
        .iter()
        .find(|other| Some(&other.id) == child.parent.as_ref())
        .unwrap();
    fs::remove_dir_all(lab.store().join(&parent.container)).unwrap();
    let mount = lab.mount();
    for backup in golden
        .iter()
        .filter(|backup| chain(backup) && backup.id != parent.id)
    {
        let link = mount.path(".cinderfs/by-id").join(&backup.id);
        match backup.depth {
            0 => assert_eq!(sha256(&fs::read(&link).unwrap()), backup.sha256),
            1 => {}
            _ => {
                let (_, said) = fail(&mut shell(r#"cat "$1""#, &[&link]));
                assert!(said.contains("Input/output error"), "{said}");
                let log = lab.log();
                let told = |line: &str| line.contains(&backup.id) && line.contains(&parent.id);
                assert!(log.lines().any(told), "{log}");
            }
        }
    }
    for backup in golden.iter().filter(|backup| !chain(backup)) {
        let link = mount.path(".cinderfs/by-id").join(&backup.id);
        assert_eq!(sha256(&fs::read(&link).unwrap()), backup.sha256);
    }
}
