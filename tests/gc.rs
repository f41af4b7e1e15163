//! `cinderfs gc`: what is left over goes, when it was asked to, and nothing else ever.

mod common;

use common::golden::{Tree, copy_tree};
use common::library::Dice;
use common::mount::{
    Backend, Lab, MIB, SMALL_OBJECTS, fail, names, output, run, shell, wait_for, write,
};
use common::store_check::{SMALL_ZLIB, check_only, count};
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

/// The program with `arguments`, the first of which is the command.
fn ask(lab: &Lab, arguments: &[&str]) -> Command {
    let mut all = vec![arguments[0].to_owned(), "--config".into()];
    all.push(lab.config().display().to_string());
    all.extend(arguments[1..].iter().map(|&word| word.to_owned()));
    lab.cinderfs(&all)
}

fn gc(lab: &Lab, arguments: &[&str]) -> Value {
    let text = run(&mut ask(lab, &[&["gc", "--json"], arguments].concat()));
    serde_json::from_str(&text).unwrap()
}

/// What is found, whatever its age: kinds and numbers of objects.
fn found(lab: &Lab) -> Vec<(String, usize)> {
    let document = gc(lab, &["--older-than", "0"]);
    let row = |row: &Value| {
        let objects = row["objects"].as_array().unwrap();
        (row["kind"].as_str().unwrap().to_owned(), objects.len())
    };
    document["garbage"]
        .as_array()
        .unwrap()
        .iter()
        .map(row)
        .collect()
}

fn assert_clean(lab: &Lab) {
    assert_eq!(found(lab), []);
    run(&mut ask(lab, &["verify"]));
}

/// All files of a store, with their folders.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found.sort();
    found
}

fn ends_with(path: &Path, end: &str) -> bool {
    path.to_str().unwrap().ends_with(end)
}

/// Makes a file as old as that.
fn age(path: &Path, hours: u64) {
    let at = SystemTime::now() - Duration::from_secs(3600 * hours);
    fs::File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_modified(at)
        .unwrap();
}

/// A copy of a backup that Cinder wrote, under another id: with that many hours and, as
/// when Cinder failed, without metadata. Gives its folder.
fn unfinished(lab: &Lab, hours: u64) -> PathBuf {
    let golden = &Tree::Nfs.backups()[0];
    let id = uuid::Uuid::new_v4().to_string();
    let container = lab.store().join(&id[..2]).join(&id[2..4]).join(&id);
    fs::create_dir_all(&container).unwrap();
    copy_tree(&Tree::Nfs.path().join(&golden.container), &container);
    for file in files(&container) {
        let name = file.file_name().unwrap().to_str().unwrap();
        if name.ends_with("_metadata") {
            fs::remove_file(&file).unwrap();
            continue;
        }
        let renamed = file.with_file_name(name.replace(&golden.id, &id));
        fs::rename(&file, &renamed).unwrap();
        age(&renamed, hours);
    }
    container
}

#[test]
fn what_cinder_left_unfinished_goes_when_it_is_old() {
    let lab = Lab::over(&Tree::Posix.path());
    let before = files(&lab.store());
    assert_eq!(run(&mut ask(&lab, &["gc"])), "nothing is left over\n");
    assert_eq!(
        run(&mut ask(&lab, &["gc", "--delete", "--older-than", "0"])),
        "nothing is left over\n"
    );
    assert_eq!(files(&lab.store()), before);
    let (old, young) = (unfinished(&lab, 30), unfinished(&lab, 3));
    let with_both = files(&lab.store());
    // It lists, and does nothing else.
    let text = run(&mut ask(&lab, &["gc"]));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    let words: Vec<&str> = lines[0].split_whitespace().collect();
    let bytes: u64 = files(&old)
        .iter()
        .map(|file| file.metadata().unwrap().len())
        .sum();
    assert_eq!(words[..2], ["found", "unfinished"]);
    assert_eq!(words[2], bytes.to_string());
    assert_eq!(words[3..6], [&files(&old).len().to_string(), "1d", "posix"]);
    assert!(lines[0].ends_with(old.strip_prefix(lab.store()).unwrap().to_str().unwrap()));
    assert!(lines[1].contains("--delete"), "{text}");
    assert_eq!(files(&lab.store()), with_both);
    let one = || ("unfinished".to_owned(), 6);
    assert_eq!(found(&lab), [one(), one()]);
    // One file that is young protects all of it.
    age(&files(&old)[0], 1);
    assert_eq!(run(&mut ask(&lab, &["gc"])), "nothing is left over\n");
    age(&files(&old)[0], 25);
    let document = gc(&lab, &["--delete"]);
    assert_eq!(document["garbage"][0]["state"], "removed");
    assert_eq!(document["summary"]["removed_bytes"], bytes);
    assert!(!old.exists() && young.exists());
    run(&mut ask(
        &lab,
        &["gc", "--delete", "--older-than", "90m", "posix"],
    ));
    assert!(!young.exists());
    assert_eq!(files(&lab.store()), before);
    assert_clean(&lab);
}

#[test]
fn strays_and_what_was_staged_go_and_foreign_files_stay() {
    let lab = Lab::over(&Tree::Posix.path());
    let foreign = [".hidden", "volume_notes", "README", ".cinderfs.bak"];
    for name in foreign {
        fs::write(lab.store().join(name), "x").unwrap();
    }
    fs::create_dir(lab.store().join("volume_folder")).unwrap();
    fs::write(lab.store().join("volume_folder/volume_x-00001"), "x").unwrap();
    let before = files(&lab.store());
    let metadata = before
        .iter()
        .find(|file| ends_with(file, "_metadata"))
        .unwrap();
    let stray = metadata.with_file_name(format!(
        "{}.tmp",
        metadata.file_name().unwrap().to_str().unwrap()
    ));
    fs::write(&stray, "12345").unwrap();
    let staged = stray.with_file_name(".cinderfs-stage-1");
    fs::write(&staged, "x").unwrap();
    let sign = lab.store().join(".cinderfs-lock-1");
    fs::write(&sign, "").unwrap();
    let (code, _) = fail(&mut ask(&lab, &["verify"]));
    assert_eq!(code, 1);
    let mut kinds = found(&lab);
    kinds.sort();
    let one = |kind: &str| (kind.to_owned(), 1);
    assert_eq!(kinds, [one("staged"), one("staged"), one("stray")]);
    assert_eq!(
        run(&mut ask(&lab, &["gc", "--delete"])),
        "nothing is left over\n"
    );
    let text = run(&mut ask(&lab, &["gc", "--delete", "--older-than", "0"]));
    assert!(
        text.ends_with("3 left over, 6 bytes; 3 removed, 6 bytes\n"),
        "{text}"
    );
    assert!(
        text.contains(stray.file_name().unwrap().to_str().unwrap()),
        "{text}"
    );
    assert_eq!(files(&lab.store()), before);
    assert_clean(&lab);
}

#[test]
fn metadata_that_cannot_be_read_condemns_nothing() {
    let lab = Lab::over(&Tree::Posix.path());
    for file in files(&lab.store()) {
        if ends_with(&file, "_metadata") {
            fs::write(&file, "{").unwrap();
        }
    }
    let before = files(&lab.store());
    let output = output(&mut ask(&lab, &["gc", "--delete", "--older-than", "0"]));
    assert!(output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("is taken for garbage"), "{said}");
    assert_eq!(files(&lab.store()), before);
}

#[test]
fn an_append_only_backend_keeps_it() {
    let lab = Lab::with("append_only = true\n");
    let container = unfinished(&lab, 30);
    assert_eq!(found(&lab), [("unfinished".to_owned(), 6)]);
    let (code, said) = fail(&mut ask(&lab, &["gc", "--delete"]));
    assert!(code == 1 && said.contains("append_only"), "{said}");
    assert_eq!(files(&container).len(), 6);
}

/// A program that writes a file bit by bit.
struct Writer(Child);

impl Writer {
    fn new(path: &Path) -> Self {
        let mut cat = Command::new("bash");
        cat.args(["-c", r#"exec cat >"$1""#, "bash"]).arg(path);
        Self(cat.stdin(Stdio::piped()).spawn().unwrap())
    }

    fn write(&mut self, data: &[u8]) {
        let pipe = self.0.stdin.as_mut().unwrap();
        pipe.write_all(data).unwrap();
        pipe.flush().unwrap();
    }

    fn close(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn chunks(lab: &Lab) -> usize {
    let is_chunk = |file: &&PathBuf| {
        let name = file.file_name().unwrap().to_str().unwrap();
        name.rsplit_once('-').is_some_and(|(_, end)| end.len() == 5)
    };
    files(&lab.store()).iter().filter(is_chunk).count()
}

#[test]
fn what_is_being_written_survives() {
    let lab = Lab::new();
    let mount = lab.mount();
    let image = Dice(1).image(6 * MIB + 7);
    let path = mount.volume("v").join("a.img");
    let mut writer = Writer::new(&path);
    writer.write(&image[..4 * MIB]);
    wait_for("chunks are in the store", || chunks(&lab) >= 3);
    assert_eq!(count(&lab.store()), 0);
    let text = run(&mut ask(&lab, &["gc", "--delete", "--older-than", "0"]));
    assert_eq!(text, "nothing is left over\n");
    assert!(chunks(&lab) >= 3);
    // Published in the midst of it, and gone on with.
    run(&mut shell(r#"sync "$1""#, &[&path]));
    wait_for("it is published", || count(&lab.store()) == 1);
    run(&mut ask(&lab, &["verify"]));
    writer.write(&image[4 * MIB..]);
    run(&mut ask(&lab, &["gc", "--delete", "--older-than", "0"]));
    writer.close();
    assert_eq!(mount.unmount(), 0);
    check_only(&lab.store(), SMALL_ZLIB, &lab.source("image", &image));
    assert_eq!(
        names(&lab.store())
            .iter()
            .filter(|name| name.starts_with('.'))
            .count(),
        0
    );
    assert_clean(&lab);
}

#[test]
fn after_a_crash_nothing_is_left_of_what_was_not_finished() {
    (0..4).for_each(|moment| crash(Backend::Posix, moment));
}

#[test]
fn after_a_crash_nothing_is_left_in_a_swift_of_what_was_not_finished() {
    // In the midst of storing something there is nothing of it.
    crash(Backend::Swift, 0);
    crash(Backend::Swift, 2);
}

fn crash(backend: Backend, moment: u32) {
    let Some(lab) = Lab::on(backend, SMALL_OBJECTS) else {
        return;
    };
    let mount = lab.mount();
    let kept = Dice(7).image(2 * MIB + 9);
    write(&mount.volume("v").join("kept.img"), &kept);
    let image = Dice(1).image(8 * MIB);
    let path = mount.volume("v").join("a.img");
    let mut writer = Writer::new(&path);
    writer.write(&image[..5 * MIB]);
    wait_for("chunks are in the store", || chunks(&lab) >= 5);
    let mut finished = 1;
    if moment >= 2 {
        run(&mut shell(r#"sync "$1""#, &[&path]));
        finished = 2;
        writer.write(&image[5 * MIB..]);
        let before = chunks(&lab);
        wait_for("more chunks are in the store", || chunks(&lab) > before);
    }
    mount.crash();
    drop(writer);
    if moment % 2 == 1 {
        // As when it was in the midst of storing something.
        let stored = files(&lab.store());
        let chunk = stored
            .iter()
            .find(|file| ends_with(file, "-00001"))
            .unwrap();
        let folder = chunk.parent().unwrap().to_owned();
        fs::write(folder.join(".cinderfs-stage-x"), "half").unwrap();
    }
    assert_eq!(count(&lab.store()), finished);
    let left = found(&lab);
    assert!(!left.is_empty());
    run(&mut ask(&lab, &["gc", "--delete", "--older-than", "0"]));
    assert_clean(&lab);
    assert_eq!(count(&lab.store()), finished);
    assert_eq!(
        names(&lab.store())
            .iter()
            .filter(|name| name.starts_with('.'))
            .count(),
        0
    );
    let mount = lab.mount();
    assert!(fs::read(mount.volume("v").join("kept.img")).unwrap() == kept);
    if finished == 2 {
        let data = fs::read(mount.volume("v").join("a.img")).unwrap();
        assert!(data.len() >= 4 * MIB && data == image[..data.len()]);
    }
}

/// A new version of an image, as the next incremental backup, is killed anywhere in it.
#[test]
fn a_crash_in_an_incremental_backup_leaves_its_parent_whole() {
    for before in [0, 1, 3] {
        let lab = Lab::new();
        let mount = lab.mount();
        let mut image = Dice(3).image(6 * MIB);
        let volume = mount.volume("v");
        write(&volume.join("full.img"), &image);
        for at in 0..6 {
            image[at * MIB + 5000] ^= 1;
        }
        let objects = chunks(&lab);
        let mut writer = Writer::new(&volume.join(".incremental/next.img"));
        writer.write(&image);
        wait_for("changes are in the store", || {
            chunks(&lab) > objects + before
        });
        mount.crash();
        drop(writer);
        assert_eq!(count(&lab.store()), 1);
        run(&mut ask(&lab, &["gc", "--delete", "--older-than", "0"]));
        assert_clean(&lab);
        assert_eq!(chunks(&lab), objects);
        // And once more, to its end.
        let mount = lab.mount();
        write(&mount.volume("v").join(".incremental/next.img"), &image);
        mount.unmount();
        assert_clean(&lab);
        assert_eq!(count(&lab.store()), 2);
        let text = run(&mut ask(
            &lab,
            &["diff", "posix/v/full.img", "posix/v/next.img"],
        ));
        assert_eq!(text.lines().count(), 6, "{text}");
    }
}
