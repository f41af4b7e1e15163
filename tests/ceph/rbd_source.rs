//! `cinderfs backup rbd:POOL/IMAGE[@SNAPSHOT]`: what is read is what the image was at one
//! time, and no more of it than has to be.

use crate::common::ceph::{Ceph, Pool};
use crate::common::mount::{Lab, SMALL_OBJECTS, command, fail, kill, output, run, wait_for};
use crate::model::{MIB, Model, VOLUME};
use std::path::Path;
use std::process::Command;

const OBJECT: u64 = 4 * MIB;
/// Exit code when the command line is wrong.
const USAGE: i32 = 2;

pub fn image() -> String {
    format!("volume-{VOLUME}")
}

pub fn source(pool: &Pool) -> String {
    format!("rbd:{}/{}", pool.name, image())
}

/// The program with a configuration; `words` begin with the command.
pub fn ask(lab: &Lab, words: &[&str]) -> Command {
    let config = lab.config().display().to_string();
    let mut all = vec![words[0], "--config", &config];
    all.extend(&words[1..]);
    lab.cinderfs(&all)
}

/// A backup of `source`; as the cluster's own user unless `more` says otherwise.
pub fn back_up(lab: &Lab, pool: &Pool, source: &str, more: &[&str]) -> Command {
    back_up_to("posix", lab, pool, source, more)
}

/// The same to a backend of that name.
pub fn back_up_to(backend: &str, lab: &Lab, pool: &Pool, source: &str, more: &[&str]) -> Command {
    let conf = pool.conf().display().to_string();
    let mut words = vec!["backup"];
    if !more.contains(&"--rbd-conf") {
        words.extend(["--rbd-conf", &conf]);
    }
    words.extend(more);
    words.extend([source, backend]);
    let mut command = ask(lab, &words);
    command.env("CINDERFS_LOG", "info");
    command
}

/// What a backup that succeeded has said, and how many bytes of the image it has read.
pub fn read_by(command: &mut Command) -> (String, u64) {
    let output = output(command);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let line = said.lines().find(|line| line.contains("bytes were read"));
    let words: Vec<&str> = line
        .unwrap_or_else(|| panic!("{said}"))
        .split(' ')
        .collect();
    let at = words.iter().position(|word| *word == "of").unwrap();
    let bytes = words[at - 1].parse().unwrap();
    (said, bytes)
}

/// What is restored must be equal to a file, and right by its hashes.
pub fn check(lab: &Lab, name: &str, expected: &Path) {
    check_in("posix", lab, name, expected);
}

/// The same of a backend of that name.
pub fn check_in(backend: &str, lab: &Lab, name: &str, expected: &Path) {
    let restored = lab.path("restored.img");
    let backup = format!("{backend}/{VOLUME}/{name}");
    run(&mut ask(
        lab,
        &["restore", &backup, restored.to_str().unwrap()],
    ));
    run(&mut command("cmp", &[restored.as_path(), expected]));
    std::fs::remove_file(restored).unwrap();
    run(&mut ask(lab, &["verify", &backup]));
}

/// The backups of the volume.
fn listed(lab: &Lab) -> String {
    run(&mut ask(lab, &["ls", &format!("posix/{VOLUME}")]))
}

/// The names of all snapshots of the image.
pub fn snaps(pool: &Pool) -> Vec<String> {
    let listed = pool.rbd(&["snap", "ls", &image(), "--format", "json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let names = listed.as_array().unwrap().iter();
    names
        .map(|snap| snap["name"].as_str().unwrap().to_owned())
        .collect()
}

/// The only snapshot is that of the backup of that name, called as Cinder calls its own.
fn check_snap(lab: &Lab, pool: &Pool, name: &str) {
    let backup = format!("posix/{VOLUME}/{name}");
    let shown = run(&mut ask(lab, &["show", "--json", &backup]));
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let id = shown["id"]
        .as_str()
        .or(shown["backup_id"].as_str())
        .unwrap();
    let snaps = snaps(pool);
    let [snap] = snaps.as_slice() else {
        panic!("{snaps:?}")
    };
    let time = snap.strip_prefix(&format!("backup.{id}.snap.")).unwrap();
    assert!(time.parse::<f64>().unwrap() > 1e9, "{time}");
}

fn sparse<'a>(pool: &'a Pool, lab: &Lab) -> Model<'a> {
    let mut model = Model::new(pool, &lab.path(""), &image(), 96 * MIB, &[]);
    model.write(4 * MIB..5 * MIB);
    model.write(41 * MIB + 5..41 * MIB + 70_000);
    model.write(88 * MIB..90 * MIB);
    model
}

#[test]
fn goes_by_what_has_changed() {
    let Some(ceph) = Ceph::shared() else { return };
    let pool = ceph.pool();
    let lab = Lab::with(SMALL_OBJECTS);
    let mut model = sparse(&pool, &lab);
    let data = 3 * OBJECT;
    let (_, bytes) = read_by(&mut back_up(&lab, &pool, &source(&pool), &["--full"]));
    assert!(bytes <= data, "{bytes} bytes read");
    check(&lab, &image(), &model.file);
    check_snap(&lab, &pool, &image());

    let incremental = |name: &str| {
        let more = ["--incremental", "--name", name];
        let (said, bytes) = read_by(&mut back_up(&lab, &pool, &source(&pool), &more));
        assert!(!said.contains("compared"), "{said}");
        check_snap(&lab, &pool, name);
        bytes
    };
    assert_eq!(incremental("nothing"), 0);
    check(&lab, "nothing", &model.file);

    model.write(20 * MIB + 100..20 * MIB + 200);
    model.discard(&(88 * MIB..89 * MIB));
    model.discard(&(4 * MIB..8 * MIB));
    let bytes = incremental("changed");
    assert!(bytes <= 3 * OBJECT, "{bytes} bytes read");
    check(&lab, "changed", &model.file);

    // Where the old end was is in the midst of a block.
    model.resize(100 * MIB + 1000);
    model.write(100 * MIB..100 * MIB + 1000);
    incremental("larger");
    check(&lab, "larger", &model.file);
    model.resize(110 * MIB);
    incremental("with a hole behind");
    check(&lab, "with a hole behind", &model.file);

    // What fails leaves nothing behind, and what it could have been built on stays.
    let before = (listed(&lab), snaps(&pool));
    model.resize(40 * MIB);
    let more = ["--incremental", "--name", "smaller"];
    let (code, said) = fail(&mut back_up(&lab, &pool, &source(&pool), &more));
    assert!(said.contains("make a full backup"), "{said}");
    assert_eq!((code, listed(&lab), snaps(&pool)), (1, before.0, before.1));
    let more = ["--full", "--name", "smaller"];
    read_by(&mut back_up(&lab, &pool, &source(&pool), &more));
    check(&lab, "smaller", &model.file);
    check_snap(&lab, &pool, "smaller");
    let left = run(&mut ask(&lab, &["gc", "--older-than", "0"]));
    assert_eq!(left, "nothing is left over\n");
}

#[test]
fn reads_all_data_when_nothing_tells_what_has_changed() {
    let Some(ceph) = Ceph::shared() else { return };
    let pool = ceph.pool();
    let lab = Lab::with(SMALL_OBJECTS);
    let mut model = sparse(&pool, &lab);
    read_by(&mut back_up(&lab, &pool, &source(&pool), &[]));
    let gone = format!("{}@{}", image(), snaps(&pool)[0]);
    pool.rbd(&["snap", "rm", &gone, "--no-progress"]);
    model.write(60 * MIB..61 * MIB);
    model.discard(&(40 * MIB..44 * MIB));
    let more = ["--incremental", "--name", "second"];
    let (said, bytes) = read_by(&mut back_up(&lab, &pool, &source(&pool), &more));
    assert!(said.contains("it has no snapshot of backup"), "{said}");
    assert!(
        said.contains("all of its data is read and compared"),
        "{said}"
    );
    assert!(0 < bytes && bytes <= 3 * OBJECT, "{bytes} bytes read");
    check(&lab, "second", &model.file);
    // From here on it is known again, whatever the features of the image.
    pool.rbd(&["feature", "disable", &image(), "fast-diff", "object-map"]);
    model.write(0..100);
    let more = ["--incremental", "--name", "third"];
    let (said, bytes) = read_by(&mut back_up(&lab, &pool, &source(&pool), &more));
    assert!(!said.contains("compared"), "{said}");
    assert!(bytes <= OBJECT, "{bytes} bytes read");
    check(&lab, "third", &model.file);
    // Those of Cinder are not ours to remove.
    let cinders = "backup.00000009-15c7-5293-a026-e4123a3b50c9.snap.1795263360.25";
    model.snap(cinders);
    // Nor are those of backups that this backend does not have: but they are told of.
    let lost = "backup.0000000a-15c7-5293-a026-e4123a3b50c9.snap.1795263360.123456789";
    model.snap(lost);
    let more = ["--incremental", "--name", "fourth"];
    let (said, _) = read_by(&mut back_up(&lab, &pool, &source(&pool), &more));
    assert_eq!(snaps(&pool).len(), 3);
    assert!(snaps(&pool).iter().any(|snap| snap == cinders));
    assert!(snaps(&pool).iter().any(|snap| snap == lost));
    assert_eq!(said.matches(lost).count(), 1, "{said}");
    assert!(said.contains("rbd snap rm"), "{said}");
    assert!(!said.contains(cinders), "{said}");
}

#[test]
fn an_image_in_use_and_a_snapshot_of_the_users() {
    let Some(ceph) = Ceph::shared() else { return };
    let pool = ceph.pool();
    let lab = Lab::with(SMALL_OBJECTS);
    let mut model = sparse(&pool, &lab);
    let before = model.snap("before");
    model.write(0..MIB);
    let named = format!("{}@before", source(&pool));
    {
        let _holder = pool.hold(&image());
        read_by(&mut back_up(&lab, &pool, &source(&pool), &[]));
        check(&lab, &image(), &model.file);
    }
    assert_eq!(snaps(&pool).len(), 2);
    read_by(&mut back_up(&lab, &pool, &named, &[]));
    check(&lab, &format!("{}@before", image()), &before);
    assert_eq!(snaps(&pool).len(), 2);
    // It is older than what the parent was made from.
    let more = ["--incremental", "--name", "again"];
    let (said, _) = read_by(&mut back_up(&lab, &pool, &named, &more));
    assert!(said.contains("compared"), "{said}");
    check(&lab, "again", &before);

    // Who may not take one can read one.
    let conf = ceph.user("reader", "profile rbd-read-only", "profile rbd-read-only");
    let reader = ["--rbd-user", "reader", "--rbd-conf", conf.to_str().unwrap()];
    let with = |more: &[&'static str]| {
        let mut all: Vec<&str> = reader.to_vec();
        all.extend(more);
        all.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let as_reader = |source: &str, name: &'static str| {
        let all = with(&["--name", name]);
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        back_up(&lab, &pool, source, &all)
    };
    let listed_before = listed(&lab);
    let (code, said) = fail(&mut as_reader(&source(&pool), "refused"));
    assert_eq!(code, 1, "{said}");
    for word in ["client.reader", "may not", "@SNAPSHOT", "--rbd-user"] {
        assert!(said.contains(word), "no {word:?} in: {said}");
    }
    assert_eq!(listed(&lab), listed_before);
    read_by(&mut as_reader(&named, "read"));
    check(&lab, "read", &before);
}

#[test]
fn sources_that_are_not_there() {
    let Some(ceph) = Ceph::shared() else { return };
    let pool = ceph.pool();
    let lab = Lab::with(SMALL_OBJECTS);
    sparse(&pool, &lab);
    let missing = |name: &str| format!("rbd:{}/{name}", pool.name);
    let volume = format!("posix/{VOLUME}");
    let conf = pool.conf().display().to_string();
    let here = ["--rbd-conf", conf.as_str()];
    let cases: [(&[&str], String, i32, &[&str]); 8] = [
        (
            &here,
            missing("none"),
            1,
            &["there is no image none", "rbd ls"],
        ),
        (
            &here,
            format!("{}@none", source(&pool)),
            1,
            &["no such snapshot", "rbd snap ls"],
        ),
        (&here, missing("none@none"), 1, &["there is no image none"]),
        (
            &here,
            "rbd:nowhere/none".into(),
            1,
            &["there is no such pool", "ceph osd pool ls"],
        ),
        (
            &["--rbd-conf", &conf, "--rbd-user", "nobody"],
            source(&pool),
            1,
            &["no keyring with a key of client.nobody", "--rbd-user"],
        ),
        (
            &["--rbd-conf", "/nonexistent"],
            source(&pool),
            1,
            &["cannot be read", "--rbd-conf"],
        ),
        (&here, "rbd:half".into(), USAGE, &["rbd:POOL/IMAGE"]),
        (
            &["--rbd-user", "a"],
            "/dev/null".into(),
            USAGE,
            &["--rbd-user", "rbd:POOL/IMAGE"],
        ),
    ];
    for (options, source, code, words) in cases {
        let mut all = vec!["backup"];
        all.extend(options);
        all.extend([source.as_str(), &volume]);
        let (found, said) = fail(&mut ask(&lab, &all));
        for word in words {
            assert!(said.contains(word), "{source}: no {word:?} in: {said}");
        }
        assert_eq!(found, code, "{said}");
        assert_eq!(run(&mut ask(&lab, &["ls", "posix"])), "");
    }
    assert_eq!(snaps(&pool), [""; 0]);
    // An image that Cinder has not named does not say which volume it is.
    pool.rbd(&["create", "disk", "--size", "1M"]);
    let (code, said) = fail(&mut back_up(&lab, &pool, &missing("disk"), &[]));
    assert_eq!(code, USAGE, "{said}");
    assert!(said.contains("it names no volume"), "{said}");
    // Nothing is restored to one.
    let dest = source(&pool);
    let (code, said) = fail(&mut ask(&lab, &["restore", &format!("{volume}/x"), &dest]));
    assert_eq!(code, USAGE, "{said}");
    assert!(said.contains("rbd import"), "{said}");
}

#[test]
fn one_that_is_interrupted_leaves_no_snapshot() {
    let Some(ceph) = Ceph::shared() else { return };
    let pool = ceph.pool();
    // So slow that it is under way for a while.
    let lab = Lab::with("backup_file_size = 1048576\nbackup_compression_algorithm = bz2\n");
    let mut model = sparse(&pool, &lab);
    model.write(0..96 * MIB);
    let (config, conf) = (lab.config(), pool.conf().to_owned());
    let source = source(&pool);
    let words = ["backup".as_ref(), "--config".as_ref(), config.as_os_str()];
    let more = [
        "--rbd-conf".as_ref(),
        conf.as_os_str(),
        source.as_ref(),
        "posix".as_ref(),
    ];
    let child = lab.start_command(&[&words[..], &more[..]].concat());
    wait_for("the snapshot", || !snaps(&pool).is_empty());
    kill(child.id(), libc::SIGTERM);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("it was interrupted"), "{said}");
    assert_eq!(snaps(&pool), [""; 0]);
    let left = run(&mut ask(&lab, &["gc", "--older-than", "0"]));
    assert_eq!(left, "nothing is left over\n");
    assert_eq!(run(&mut ask(&lab, &["ls", "posix"])), "");
}

/// Of a backend in Ceph it is known where the cluster is, for backups to another one, too.
#[test]
fn into_a_backend_beside_the_only_one_in_ceph() {
    let Some(ceph) = Ceph::shared() else { return };
    let pool = ceph.pool();
    let lab = Lab::on_ceph(&pool, "");
    let folder = lab.path("beside");
    std::fs::create_dir(&folder).unwrap();
    let section = "[beside]\nbackup_driver = posix\nbackup_posix_path = ";
    lab.configure(&format!("{section}{}\n", folder.display()));
    let model = sparse(&pool, &lab);
    run(&mut ask(&lab, &["backup", &source(&pool), "beside"]));
    check_in("beside", &lab, &image(), &model.file);
}
