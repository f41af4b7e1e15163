//! Reading fetches an object once, for all who read it; and what could not be fetched is an
//! error for everybody, at last.

use crate::common::mount::*;
use crate::model::{self, MIB, VOLUME, as_cinder, bytes, check_tidy, status};
use serde_json::json;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The files of the volume, in the order of their numbers.
fn shown(mount: &Mount<'_>) -> Vec<PathBuf> {
    let volume = mount.path("tsm").join(VOLUME);
    let mut found: Vec<_> = names(&volume);
    found.sort_by_key(|name| name.rsplit('-').next().map(str::to_owned));
    found.into_iter().map(|name| volume.join(name)).collect()
}

fn staged(lab: &Lab) -> usize {
    let entries = fs::read_dir(lab.path("staging/.staged")).unwrap();
    let is_whole = |path: PathBuf| path.extension().is_some_and(|e| e == "img");
    entries
        .filter(|entry| is_whole(entry.as_ref().unwrap().path()))
        .count()
}

#[test]
fn many_readers_one_restore_also_after_a_remount() {
    let (lab, dsmc) = Lab::on_tsm("");
    let data = bytes(1, 5 * MIB + 77);
    as_cinder(&dsmc, &lab.path("staging").join(VOLUME), 1, &data);
    let mount = lab.mount();
    let path = &shown(&mount)[0];
    assert_eq!(dsmc.count("restore"), 0);
    std::thread::scope(|scope| {
        for number in 0..8 {
            let data = &data;
            scope.spawn(move || {
                let file = fs::File::open(path).unwrap();
                let at = number * 600_000;
                let mut read = vec![0; 500_000];
                file.read_exact_at(&mut read, at as u64).unwrap();
                assert_eq!(read, data[at..at + 500_000]);
            });
        }
    });
    assert_eq!(fs::read(path).unwrap(), data);
    assert_eq!(dsmc.count("restore"), 1);
    mount.unmount();
    let mount = lab.mount();
    let path = &shown(&mount)[0];
    assert_eq!(fs::read(path).unwrap(), data);
    assert_eq!(dsmc.count("restore"), 1);
    check_tidy(&lab);
    // A file that lost its note, or its end, counts for nothing.
    mount.unmount();
    for spoil in [
        "rm staging/.staged/*.json",
        "truncate -s -1 staging/.staged/*.img",
        "dd if=/dev/zero of=$(echo staging/.staged/*.img) bs=1 count=1 conv=notrunc",
    ] {
        run(&mut shell(
            &format!(r#"cd "$1" && {spoil}"#),
            &[lab.path("")],
        ));
        let before = dsmc.count("restore");
        let mount = lab.mount();
        assert_eq!(fs::read(&shown(&mount)[0]).unwrap(), data);
        assert_eq!(dsmc.count("restore"), before + 1, "{spoil}");
    }
}

#[test]
fn the_beginning_is_read_before_the_end_has_come() {
    let (lab, dsmc) = Lab::on_tsm("");
    let data = bytes(2, 8 * MIB);
    as_cinder(&dsmc, &lab.path("staging").join(VOLUME), 1, &data);
    let mount = lab.mount();
    dsmc.faults(&json!([{"fault": "rate", "value": 2 << 20, "on": ["restore"]}]));
    let file = fs::File::open(&shown(&mount)[0]).unwrap();
    let mut read = vec![0; 1000];
    file.read_exact_at(&mut read, 0).unwrap();
    assert_eq!(read, data[..1000]);
    assert_eq!(staged(&lab), 0, "all of it was waited for");
    assert!(!dsmc.running("restore").is_empty());
    let mut read = vec![0; 1000];
    file.read_exact_at(&mut read, (8 << 20) - 1000).unwrap();
    assert_eq!(read, data[(8 << 20) - 1000..]);
    assert_eq!(fs::read(&shown(&mount)[0]).unwrap(), data);
}

#[test]
fn what_has_its_size_from_the_beginning_is_waited_for() {
    let (lab, dsmc) = Lab::on_tsm("");
    let data = bytes(3, 2 * MIB);
    as_cinder(&dsmc, &lab.path("staging").join(VOLUME), 1, &data);
    let mount = lab.mount();
    dsmc.faults(&json!([
        {"fault": "rate", "value": 1 << 20, "on": ["restore"]}, {"fault": "preallocate"}
    ]));
    // From its beginning: a byte that has not come must not be read as zero.
    assert_eq!(fs::read(&shown(&mount)[0]).unwrap(), data);
    assert_eq!(dsmc.count("restore"), 1);
}

#[test]
fn what_cannot_be_fetched_is_an_error_for_everybody() {
    let (lab, dsmc) = Lab::on_tsm("backup_tsm_mount_timeout = 4\n");
    let data = bytes(4, 2 * MIB);
    as_cinder(&dsmc, &lab.path("staging").join(VOLUME), 1, &data);
    let mount = lab.mount();
    for (fault, said) in [
        (json!({"fault": "no-connection"}), "ANS1017E"),
        (json!({"fault": "no-match"}), "no such object"),
        (json!({"fault": "pending-restore"}), "dsmc cancel restore"),
        (json!({"fault": "lost"}), "0 objects restored"),
        (json!({"fault": "short", "value": 5}), "bytes have come"),
        (
            json!({"fault": "killed-at", "value": 500_000}),
            "ended by signal 15",
        ),
        (json!({"fault": "skipped"}), "code 4"),
        (
            json!({"fault": "warning", "value": "ANS1999W Odd."}),
            "ANS1999W",
        ),
        (json!({"fault": "silence"}), "there is no file"),
        (json!({"fault": "hang"}), "no sign of life for 4 s"),
    ] {
        let mut fault = fault;
        fault["on"] = json!(["restore"]);
        dsmc.faults(&json!([fault]));
        let log = lab.log().len();
        let file = fs::File::open(&shown(&mount)[0]).unwrap();
        let mut bytes = vec![0; 1000];
        // The last byte: of what has come already, some may have been read.
        let number = errno(file.read_exact_at(&mut bytes, (2 << 20) - 1000));
        let expected = if fault["fault"] == "no-match" {
            libc::ENOENT
        } else {
            libc::EIO
        };
        assert_eq!(number, expected, "{fault}\n{}", lab.log());
        wait_for("it is said", || lab.log()[log..].contains(said));
        // Nothing that has come of it is given out any more.
        model_drop_caches();
        assert_ne!(errno(file.read_exact_at(&mut bytes, 0)), 0, "{fault}");
        wait_for("it has ended", || dsmc.running("restore").is_empty());
        drop(file);
        check_tidy(&lab);
    }
    dsmc.faults(&json!([]));
    assert_eq!(fs::read(&shown(&mount)[0]).unwrap(), data);
}

fn model_drop_caches() {
    let _ = run(&mut shell(
        "echo 3 > /proc/sys/vm/drop_caches || true",
        &[""; 0],
    ));
}

#[test]
fn nothing_of_a_failed_restore_is_kept_for_the_next_reader() {
    let (lab, dsmc) = Lab::on_tsm("");
    let data = bytes(5, 4 * MIB);
    as_cinder(&dsmc, &lab.path("staging").join(VOLUME), 1, &data);
    let mount = lab.mount();
    dsmc.faults(&json!([
        {"fault": "rate", "value": 2 << 20, "on": ["restore"]},
        {"fault": "killed-at", "value": 3 << 20, "on": ["restore"]},
    ]));
    let path = &shown(&mount)[0];
    let file = fs::File::open(path).unwrap();
    let mut begin = vec![0; 4096];
    file.read_exact_at(&mut begin, 0).unwrap();
    assert_eq!(begin, data[..4096]);
    let mut end = vec![0; 4096];
    assert_eq!(
        errno(file.read_exact_at(&mut end, (4 << 20) - 4096)),
        libc::EIO
    );
    drop(file);
    dsmc.faults(&json!([]));
    assert_eq!(fs::read(path).unwrap(), data);
    assert_eq!(dsmc.count("restore"), 2);
}

#[test]
fn a_tape_that_is_mounted_slowly_holds_up_nobody_else() {
    let (lab, dsmc) = Lab::on_tsm("backup_tsm_mount_timeout = 60\n");
    let folder = lab.path("staging").join(VOLUME);
    let data = bytes(6, MIB);
    as_cinder(&dsmc, &folder, 1, &data);
    as_cinder(&dsmc, &folder, 2, b"another one");
    let mount = lab.mount();
    let paths = shown(&mount);
    dsmc.faults(&json!([{"fault": "mount-seconds", "value": 6, "on": ["restore"], "times": 1}]));
    let slow = paths[0].clone();
    let reading = std::thread::spawn(move || fs::read(slow).unwrap());
    wait_for("it is fetched", || dsmc.count("restore") == 1);
    let start = Instant::now();
    assert_eq!(fs::read(&paths[1]).unwrap(), b"another one");
    model::write(&mount, "new.img", b"new");
    assert!(!reading.is_finished(), "{:?}", start.elapsed());
    wait_for("it is said", || {
        let waiting = status(&mount)["waiting"].clone();
        waiting
            .as_str()
            .is_some_and(|said| said.contains("a tape may have to be mounted"))
    });
    assert_eq!(status(&mount)["state"], "available");
    assert_eq!(reading.join().unwrap(), data);
    assert!(status(&mount)["waiting"].is_null());
}

#[test]
fn readers_wait_no_longer_than_they_must() {
    let (lab, dsmc) = Lab::on_tsm("backup_tsm_mount_timeout = 2\n");
    let data = bytes(7, 6 * MIB);
    as_cinder(&dsmc, &lab.path("staging").join(VOLUME), 1, &data);
    let mount = lab.mount();
    dsmc.faults(&json!([{"fault": "rate", "value": 1 << 20, "on": ["restore"]}]));
    let file = fs::File::open(&shown(&mount)[0]).unwrap();
    let mut end = vec![0; 1000];
    // It goes on arriving, but this reader has waited long enough.
    assert_eq!(
        errno(file.read_exact_at(&mut end, (6 << 20) - 1000)),
        libc::EIO
    );
    assert!(
        lab.log().contains("it is still being fetched"),
        "{}",
        lab.log()
    );
    wait_for("it has come", || staged(&lab) == 1);
    file.read_exact_at(&mut end, (6 << 20) - 1000).unwrap();
    assert_eq!(end, data[(6 << 20) - 1000..]);
    assert_eq!(dsmc.count("restore"), 1);
}

#[test]
fn the_shelf_keeps_its_limit_and_what_is_in_use() {
    let (lab, dsmc) = Lab::on_tsm("backup_tsm_staging_limit = 5M\n");
    let folder = lab.path("staging").join(VOLUME);
    for number in 1..=3 {
        as_cinder(&dsmc, &folder, number, &bytes(number.into(), 2 * MIB));
    }
    as_cinder(&dsmc, &folder, 4, &bytes(4, 6 * MIB));
    let mount = lab.mount();
    let paths = shown(&mount);
    let read = |number: usize| fs::read(&paths[number - 1]);
    for number in [1, 2] {
        assert_eq!(read(number).unwrap(), bytes(number as u64, 2 * MIB));
    }
    // It was used last, and 2 goes.
    std::thread::sleep(Duration::from_millis(20));
    let file = fs::File::open(&paths[0]).unwrap();
    let mut byte = [0];
    model_drop_caches();
    file.read_exact_at(&mut byte, 1 << 20).unwrap();
    assert_eq!(read(3).unwrap(), bytes(3, 2 * MIB));
    assert_eq!((staged(&lab), dsmc.count("restore")), (2, 3));
    model_drop_caches();
    assert_eq!(read(1).unwrap(), bytes(1, 2 * MIB));
    assert_eq!(dsmc.count("restore"), 3);
    // One that is too large says so.
    assert_eq!(errno(read(4)), libc::ENOSPC);
    assert!(
        lab.log().contains("backup_tsm_staging_limit is 5242880"),
        "{}",
        lab.log()
    );
    // With both places in use, there is none.
    let other = fs::File::open(&paths[2]).unwrap();
    assert_eq!(errno(read(2)), libc::ENOSPC);
    assert!(lab.log().contains("in use"), "{}", lab.log());
    drop((file, other));
    wait_for("there is room", || read(2).is_ok());
    assert_eq!(read(2).unwrap(), bytes(2, 2 * MIB));
    assert_eq!(staged(&lab), 2);
}

#[test]
fn a_full_folder_of_stages_is_enospc_and_makes_room() {
    if !is_root_for("a small file system") {
        return;
    }
    let (lab, dsmc) = Lab::on_tsm("");
    fs::create_dir(lab.path("staging")).unwrap();
    let folder = lab.path("staging").join(VOLUME);
    run(&mut shell(
        r#"mount -t tmpfs -o size=10m tmpfs "$1""#,
        &[lab.path("staging")],
    ));
    for number in 1..=2 {
        as_cinder(&dsmc, &folder, number, &bytes(number.into(), 6 * MIB));
    }
    // What a program that was ended has left makes room as well.
    let left = lab.path("staging/.staged");
    fs::create_dir(&left).unwrap();
    fs::write(left.join("left.1.part"), vec![1; 6 * MIB]).unwrap();
    let mount = lab.mount();
    let paths = shown(&mount);
    for number in [1usize, 2, 1] {
        assert_eq!(
            fs::read(&paths[number - 1]).unwrap(),
            bytes(number as u64, 6 * MIB)
        );
    }
    mount.unmount();
    let mount = lab.mount();
    let file = fs::File::open(&paths[0]).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 0).unwrap();
    fs::write(lab.path("staging/filler"), vec![1; 3 * MIB]).unwrap();
    assert_eq!(errno(fs::read(&paths[1])), libc::ENOSPC);
    assert_eq!(fs::read(&paths[0]).unwrap(), bytes(1, 6 * MIB));
    drop(file);
    mount.unmount();
    run(&mut shell(r#"umount "$1""#, &[lab.path("staging")]));
}

#[test]
fn commands_restore_and_verify() {
    let (lab, dsmc) = Lab::on_tsm("");
    let data = bytes(8, 3 * MIB);
    as_cinder(&dsmc, &lab.path("staging").join(VOLUME), 1, &data);
    let config = lab.config();
    let config = config.to_str().unwrap();
    let listed = run(&mut lab.cinderfs(&["ls", "--config", config, &format!("tsm/{VOLUME}")]));
    let target = lab.path("restored.img");
    let from = format!("tsm/{VOLUME}/{}", listed.trim());
    run(&mut lab.cinderfs(&[
        "restore",
        "--config",
        config,
        &from,
        target.to_str().unwrap(),
    ]));
    assert_eq!(fs::read(&target).unwrap(), data);
    run(&mut lab.cinderfs(&["verify", "--config", config]));
    let record = run(&mut lab.cinderfs(&["record", "--config", config, &from]));
    assert!(record.contains("TSMBackupDriver"), "{record}");
    assert_eq!(dsmc.count("restore"), 1);
}

#[test]
fn two_programs_fetch_an_object_once() {
    let (lab, dsmc) = Lab::on_tsm("");
    let data = bytes(9, 4 * MIB);
    as_cinder(&dsmc, &lab.path("staging").join(VOLUME), 1, &data);
    let mount = lab.mount();
    dsmc.faults(&json!([{"fault": "rate", "value": 2 << 20, "on": ["restore"]}]));
    let path = shown(&mount).remove(0);
    let reading = std::thread::spawn(move || fs::read(path).unwrap());
    wait_for("it is fetched", || dsmc.count("restore") == 1);
    run(&mut lab.cinderfs(&["verify", "--config", lab.config().to_str().unwrap()]));
    assert_eq!(reading.join().unwrap(), data);
    assert_eq!(dsmc.count("restore"), 1);
}

#[test]
fn each_attempt_has_a_file_of_its_own() {
    let (lab, dsmc) = Lab::on_tsm("");
    let data = bytes(10, MIB);
    as_cinder(&dsmc, &lab.path("staging").join(VOLUME), 1, &data);
    let mount = lab.mount();
    let path = shown(&mount).remove(0);
    dsmc.faults(&json!([{"fault": "killed-at", "value": 500_000, "on": ["restore"]}]));
    assert_eq!(errno(fs::read(&path)), libc::EIO);
    dsmc.faults(&json!([]));
    assert_eq!(fs::read(&path).unwrap(), data);
    let calls = dsmc.calls();
    let of = calls.iter().filter(|call| call["operation"] == "restore");
    let into: Vec<_> = of
        .map(|call| call["arguments"].as_array().unwrap().last().unwrap())
        .collect();
    assert_eq!(into.len(), 2);
    assert_ne!(into[0], into[1]);
    check_tidy(&lab);
}

#[test]
fn nothing_makes_room_in_vain() {
    let (lab, dsmc) = Lab::on_tsm("backup_tsm_staging_limit = 5M\n");
    let folder = lab.path("staging").join(VOLUME);
    for (number, size) in [(1, 2), (2, 2), (3, 4)] {
        as_cinder(&dsmc, &folder, number, &bytes(number.into(), size * MIB));
    }
    let mount = lab.mount();
    let paths = shown(&mount);
    fs::read(&paths[1]).unwrap();
    let file = fs::File::open(&paths[0]).unwrap();
    file.read_exact_at(&mut [0], 0).unwrap();
    wait_for("both have come", || staged(&lab) == 2);
    // One could go, which would not be enough.
    assert_eq!(errno(fs::read(&paths[2])), libc::ENOSPC);
    assert!(lab.log().contains("in use"), "{}", lab.log());
    assert_eq!(staged(&lab), 2);
    drop(file);
    wait_for("there is room", || fs::read(&paths[2]).is_ok());
    assert_eq!(staged(&lab), 1);
}

#[test]
fn only_a_few_are_fetched_at_a_time() {
    let (lab, dsmc) = Lab::on_tsm("");
    let folder = lab.path("staging").join(VOLUME);
    for number in 1..=6 {
        as_cinder(&dsmc, &folder, number, &bytes(number.into(), MIB));
    }
    let mount = lab.mount();
    let paths = shown(&mount);
    dsmc.faults(&json!([{"fault": "rate", "value": 1 << 19, "on": ["restore"]}]));
    std::thread::scope(|scope| {
        for (path, number) in paths.iter().zip(1..) {
            scope.spawn(move || assert_eq!(fs::read(path).unwrap(), bytes(number, MIB)));
        }
        wait_for("some wait", || {
            let waiting = status(&mount)["waiting"].clone();
            waiting
                .as_str()
                .is_some_and(|said| said.contains("wait for others"))
        });
        wait_for("all are fetched", || {
            let running = dsmc.running("restore").len();
            assert!(running <= 4, "{running}");
            dsmc.count("restore") == 6
        });
    });
    assert_eq!(dsmc.count("restore"), 6);
}
