//! What is written through a mount becomes RBD images and snapshots as Cinder would make
//! them, and comes back as it was.

use crate::common::ceph::{Ceph, Pool};
use crate::common::mount::{Lab, command, errno, fail, names, run, set_xattr, wait_for, xattr};
use crate::model::{GIB, MIB, VOLUME, check_equal};
use serde_json::Value;
use std::fs::{self, File};
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A sparse file with random bytes in some places.
pub fn sparse(lab: &Lab, name: &str, size: u64, data: &[(u64, u64)]) -> PathBuf {
    let path = lab.path(name);
    File::create(&path).unwrap().set_len(size).unwrap();
    for (start, end) in data {
        scribble(&path, &(*start..*end));
    }
    path
}

/// Writes random bytes into a file.
pub fn scribble(path: &Path, range: &Range<u64>) {
    let mut random = fastrand::Rng::new();
    let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap()];
    random.fill(&mut bytes);
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(&bytes, range.start).unwrap();
}

/// Makes a part of a file zero.
pub fn punch(path: &Path, range: &Range<u64>) {
    let (offset, length) = (
        range.start.to_string(),
        (range.end - range.start).to_string(),
    );
    let arguments = ["--punch-hole", "--offset", &offset, "--length", &length];
    run(command("fallocate", &arguments).arg(path));
}

/// A copy of a file, outside the mount.
pub fn copy_of(path: &Path, lab: &Lab, name: &str) -> PathBuf {
    let copy = lab.path(name);
    run(command("cp", &["--sparse=always"]).arg(path).arg(&copy));
    copy
}

pub fn copy_in(from: &Path, to: &Path) {
    run(command("cp", &["--sparse=always"]).arg(from).arg(to));
}

pub fn told(path: &Path, name: &str) -> Option<String> {
    let value = xattr(path, &format!("user.cinder.{name}")).ok()?;
    Some(String::from_utf8(value).unwrap())
}

fn id(path: &Path) -> String {
    told(path, "backup_id").unwrap()
}

/// The snapshots of an image: names and sizes, the oldest first.
pub fn snaps(pool: &Pool, image: &str) -> Vec<(String, u64)> {
    let text = pool.rbd(&["snap", "ls", "--format", "json", image]);
    let all: Value = serde_json::from_str(&text).unwrap();
    let all = all.as_array().unwrap().iter();
    all.map(|snap| {
        let name = snap["name"].as_str().unwrap().to_owned();
        (name, snap["size"].as_u64().unwrap())
    })
    .collect()
}

/// What was written to an image between two snapshots: offset, length and whether it is data.
fn diff(pool: &Pool, image: &str, from: Option<&str>, to: &str) -> Vec<(u64, u64, bool)> {
    let mut arguments = vec!["diff", "--format", "json"];
    if let Some(from) = from {
        arguments.extend(["--from-snap", from]);
    }
    let at = format!("{image}@{to}");
    arguments.push(&at);
    let all: Value = serde_json::from_str(&pool.rbd(&arguments)).unwrap();
    let all = all.as_array().unwrap().iter();
    all.map(|extent| {
        let number = |key: &str| extent[key].as_u64().unwrap();
        let is_data = extent["exists"] == "true" || extent["exists"] == true;
        (number("offset"), number("length"), is_data)
    })
    .collect()
}

/// Nothing of any backup is left in the pool.
pub fn check_empty(pool: &Pool) {
    assert_eq!(pool.images(), [""; 0]);
    // What only snapshots had, the cluster removes in its own time.
    wait_for("nothing is left", || {
        let objects = pool.rados(&["ls"]);
        let of_pool = ["rbd_directory", "rbd_info", "rbd_trash"];
        objects.lines().all(|name| of_pool.contains(&name))
    });
}

#[test]
fn a_chain_in_one_image() {
    let Some(ceph) = Ceph::shared() else { return };
    let pool = ceph.pool();
    let lab = Lab::on_ceph(&pool, "");
    let size = 75 * MIB + 1000;
    let first = sparse(
        &lab,
        "1",
        size,
        &[(0, 100_000), (30 * MIB + 5, 42 * MIB), (size - 10, size)],
    );
    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    let full = volume.join("first.img");
    copy_in(&first, &full);
    check_equal(&full, &first);
    let image = format!("volume-{VOLUME}.backup.{}", id(&full));
    assert_eq!(pool.images(), std::slice::from_ref(&image));
    let info: Value =
        serde_json::from_str(&pool.rbd(&["info", "--format", "json", &image])).unwrap();
    assert_eq!(
        (&info["size"], &info["object_size"]),
        (&GIB.into(), &(4 * MIB).into())
    );
    let features = info["features"].as_array().unwrap();
    assert_eq!(features.len(), 4, "{features:?}");
    for feature in ["layering", "exclusive-lock", "object-map", "fast-diff"] {
        assert!(features.contains(&feature.into()), "{features:?}");
    }
    let made = snaps(&pool, &image);
    assert_eq!(made.len(), 1);
    assert!(
        made[0]
            .0
            .starts_with(&format!("backup.{}.snap.1", id(&full)))
    );
    // Objects are told of from their beginning to where they end.
    let written: u64 = diff(&pool, &image, None, &made[0].0)
        .iter()
        .map(|e| e.1)
        .sum();
    assert!(written < 17 * MIB + 120_000, "{written} bytes were written");

    // Changes, zeros, and growth.
    let second = copy_of(&first, &lab, "2");
    scribble(&second, &(8192..8193));
    punch(&second, &(32 * MIB..36 * MIB));
    let grown = File::options().write(true).open(&second).unwrap();
    grown.set_len(80 * MIB).unwrap();
    // Where an object begins: they are told of from there.
    scribble(&second, &(76 * MIB..76 * MIB + 4096));
    let increment = volume.join("second.img");
    copy_in(&second, &volume.join(".incremental/second.img"));
    check_equal(&increment, &second);
    check_equal(&full, &first);
    assert_eq!(told(&increment, "parent_id"), Some(id(&full)));
    assert_eq!(told(&increment, "depth").unwrap(), "1");
    let made = snaps(&pool, &image);
    assert_eq!(made.len(), 2);
    let changes = diff(&pool, &image, Some(&made[0].0), &made[1].0);
    let of_data: u64 = changes.iter().filter(|e| e.2).map(|e| e.1).sum();
    assert_eq!(of_data, 2 * 4096, "{changes:?}");
    // The same once more, over what the kernel keeps.
    copy_in(&second, &volume.join(".incremental/third.img"));
    let made = snaps(&pool, &image);
    assert_eq!(diff(&pool, &image, Some(&made[1].0), &made[2].0), []);
    check_equal(&volume.join("third.img"), &second);
    // Shorter than its parent: no increment.
    let short = sparse(&lab, "short", MIB, &[(0, MIB)]);
    let to = volume.join(".incremental/short.img");
    let (_, said) = fail(command("cp", &[&short]).arg(to));
    assert!(said.contains("Invalid argument"), "{said}");
    assert!(lab.log().contains("make a full backup"));
    let listed = ["first.img", "second.img", "third.img"];
    assert_eq!(names(&volume), listed);
    // Another full one gets its own image, and the next increment is built on that.
    let other = volume.join("other.img");
    copy_in(&short, &volume.join(".full/other.img"));
    assert_eq!(pool.images().len(), 2);
    copy_in(&short, &volume.join(".incremental/on-other.img"));
    assert_eq!(
        told(&volume.join("on-other.img"), "parent_id"),
        Some(id(&other))
    );
    check_equal(&volume.join("on-other.img"), &short);
    assert_eq!(mount.unmount(), 0);

    // Another program sees the same.
    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    check_equal(&volume.join("first.img"), &first);
    check_equal(&volume.join("second.img"), &second);
    assert_eq!(
        errno(fs::remove_file(volume.join("first.img"))),
        libc::EBUSY
    );
    assert_eq!(
        errno(fs::remove_file(volume.join("second.img"))),
        libc::EBUSY
    );
    let modified = std::time::UNIX_EPOCH + std::time::Duration::new(1_600_000_000, 123);
    let file = File::open(volume.join("second.img")).unwrap();
    file.set_modified(modified).unwrap();
    fs::rename(volume.join("second.img"), volume.join("zwei.img")).unwrap();
    let renamed = volume.join("zwei.img");
    assert_eq!(
        set_xattr(&renamed, "user.cinder.description", "Wörter".as_bytes()),
        0
    );
    assert_eq!(
        fs::metadata(&renamed).unwrap().modified().unwrap(),
        modified
    );
    check_equal(&renamed, &second);
    let exists = errno(File::create_new(&renamed));
    assert_eq!(exists, libc::EEXIST);
    assert_eq!(
        errno(File::options().write(true).open(&renamed)),
        libc::EPERM
    );
    verify(&lab, true);
    assert_eq!(mount.unmount(), 0);
    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    assert_eq!(
        told(&volume.join("zwei.img"), "description").unwrap(),
        "Wörter"
    );
    for name in [
        "third.img",
        "zwei.img",
        "first.img",
        "on-other.img",
        "other.img",
    ] {
        fs::remove_file(volume.join(name)).unwrap();
    }
    check_empty(&pool);
}

pub fn verify(lab: &Lab, is_well: bool) -> Value {
    let config = lab.config();
    let arguments = [
        "verify".as_ref(),
        "--json".as_ref(),
        "--config".as_ref(),
        config.as_os_str(),
    ];
    let output = crate::common::mount::output(&mut lab.cinderfs(&arguments));
    assert_eq!(output.status.success(), is_well);
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What is left over: kinds, and states.
pub fn gc(lab: &Lab, arguments: &[&str]) -> Vec<(String, String)> {
    let config = lab.config();
    let mut command = lab.cinderfs(&[
        "gc".as_ref(),
        "--json".as_ref(),
        "--older-than".as_ref(),
        "0".as_ref(),
        "--config".as_ref(),
        config.as_os_str(),
    ]);
    let text = run(command.args(arguments));
    let told: Value = serde_json::from_str(&text).unwrap();
    let rows = told["garbage"].as_array().unwrap().iter();
    rows.map(|row| {
        let text = |key: &str| row[key].as_str().unwrap().to_owned();
        (text("kind"), text("state"))
    })
    .collect()
}

/// A program that syncs, goes on and comes back gets one backup, as it is in the end.
#[test]
fn publishing_again() {
    let Some(ceph) = Ceph::shared() else { return };
    let pool = ceph.pool();
    let lab = Lab::on_ceph(&pool, "");
    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    for folder in ["", ".incremental/"] {
        let expected = sparse(&lab, "expected", 20 * MIB, &[(0, 20 * MIB)]);
        let name = format!("{}again.img", folder.trim_matches(['.', '/']));
        let all = fs::read(&expected).unwrap();
        let path = volume.join(&name);
        let file = File::create_new(volume.join(format!("{folder}{name}"))).unwrap();
        // An increment cannot be shorter than its parent.
        file.set_len(20 * MIB).unwrap();
        file.write_all_at(&all[..9_000_000], 0).unwrap();
        file.sync_all().unwrap();
        let published = id(&path);
        file.write_all_at(&[7; 100_000], 5_000_000).unwrap();
        file.write_all_at(&all[9_000_000..], 9_000_000).unwrap();
        file.sync_all().unwrap();
        drop(file);
        let file = File::options().read(true).write(true).open(&path).unwrap();
        file.write_all_at(&all[5_000_000..6_000_000], 5_000_000)
            .unwrap();
        drop(file);
        wait_for("it is published", || {
            crate::common::mount::output(&mut command("cmp", &[&path, &expected]))
                .status
                .success()
        });
        check_equal(&path, &expected);
        assert_eq!(id(&path), published);
        let image = pool.images().remove(0);
        let made = snaps(&pool, &image);
        let own = format!("backup.{published}.");
        assert_eq!(
            made.iter().filter(|snap| snap.0.starts_with(&own)).count(),
            1
        );
    }
    assert_eq!(mount.unmount(), 0);
    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    assert_eq!(names(&volume), ["again.img", "incrementalagain.img"]);
    check_equal(&volume.join("incrementalagain.img"), &lab.path("expected"));
    assert_eq!(gc(&lab, &[]), []);
}

/// Deleted while it is written, before and after it was published.
#[test]
fn deleted_in_the_making() {
    let Some(ceph) = Ceph::shared() else { return };
    let pool = ceph.pool();
    let lab = Lab::on_ceph(&pool, "");
    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    let base = sparse(&lab, "base", 9 * MIB, &[(0, 9 * MIB)]);
    for folder in [".full", ".incremental"] {
        if folder == ".incremental" {
            copy_in(&base, &volume.join("base.img"));
        }
        let before = pool.images();
        for is_published in [false, true] {
            let path = volume.join(folder).join("gone.img");
            let file = File::create_new(&path).unwrap();
            file.write_all_at(&[1; 10 << 20], 0).unwrap();
            if is_published {
                file.sync_all().unwrap();
            }
            fs::remove_file(volume.join("gone.img")).unwrap();
            file.write_all_at(&[2; 1 << 20], 1 << 20).unwrap();
            let mut read = [0; 10];
            file.read_exact_at(&mut read, (1 << 20) - 5).unwrap();
            assert_eq!(read, [1, 1, 1, 1, 1, 2, 2, 2, 2, 2]);
            drop(file);
            wait_for("it is gone", || pool.images() == before);
        }
    }
    let listed = names(&volume);
    assert_eq!(listed, ["base.img"]);
    check_equal(&volume.join("base.img"), &base);
    let image = pool.images().remove(0);
    assert_eq!(snaps(&pool, &image).len(), 1);
    wait_for("nothing is left", || gc(&lab, &[]).is_empty());
    copy_in(&base, &volume.join(".incremental/next.img"));
    check_equal(&volume.join("next.img"), &base);
}

/// Ended at once in the middle: no backup, and what is left is found and removed. The next
/// increment is right whatever the head was left as.
#[test]
fn killed_in_the_middle() {
    let Some(ceph) = Ceph::shared() else { return };
    let pool = ceph.pool();
    let lab = Lab::on_ceph(&pool, "");
    let base = sparse(&lab, "base", 40 * MIB, &[(0, 40 * MIB)]);
    let mount = lab.mount();
    copy_in(&base, &mount.volume(VOLUME).join("base.img"));
    let image = pool.images().remove(0);
    for folder in [".full", ".incremental"] {
        let mount = lab.mount_with("second", "");
        let (to, pipe) = (mount.volume(VOLUME).join(folder), lab.path("pipe"));
        run(&mut command("mkfifo", &[&pipe]));
        // A program of its own: whenever one is started here, all that is open here is
        // flushed, and so published.
        let mut writer = std::process::Command::new("dd")
            .args(["bs=1M", "status=none"])
            .arg(format!("if={}", pipe.display()))
            .arg(format!("of={}", to.join("lost.img").display()))
            .spawn()
            .unwrap();
        let mut feed = File::options().write(true).open(&pipe).unwrap();
        // When all of it is taken, most of it has been stored.
        feed.write_all(&vec![9; 32 << 20]).unwrap();
        wait_for("it has begun", || pool.images().len() == 2);
        mount.crash();
        drop(feed);
        writer.wait().unwrap();
        fs::remove_file(pipe).unwrap();
        let mount = lab.mount_with("third", "");
        assert_eq!(names(&mount.volume(VOLUME)), ["base.img"]);
    }
    let changed = copy_of(&base, &lab, "changed");
    scribble(&changed, &(MIB..MIB + 5));
    let volume = mount.volume(VOLUME);
    // This waits until the cluster knows that who had it open is dead.
    copy_in(&changed, &volume.join(".incremental/next.img"));
    check_equal(&volume.join("next.img"), &changed);
    check_equal(&volume.join("base.img"), &base);
    wait_for("it is garbage", || {
        let found = gc(&lab, &[]);
        found == [("unfinished".into(), "found".into())]
    });
    let removed = gc(&lab, &["--delete"]);
    assert_eq!(removed, [("unfinished".into(), "removed".into())]);
    assert_eq!(gc(&lab, &[]), []);
    assert_eq!(pool.images(), std::slice::from_ref(&image));
    assert_eq!(snaps(&pool, &image).len(), 2);
    verify(&lab, true);
}

/// Two programs cannot write to one image.
#[test]
fn images_that_others_write_to() {
    let Some(ceph) = Ceph::shared() else { return };
    let pool = ceph.pool();
    let lab = Lab::on_ceph(&pool, "request_timeout = 20\n");
    let base = sparse(&lab, "base", 3 * MIB, &[(0, MIB)]);
    let mount = lab.mount();
    let volume = mount.volume(VOLUME);
    copy_in(&base, &volume.join("base.img"));
    let file = File::create_new(volume.join(".incremental/one.img")).unwrap();
    file.write_all_at(&[5; 100], 0).unwrap();
    // In the same program at once, in another one after some time.
    let second = volume.join(".incremental/two.img");
    assert_eq!(errno(File::create_new(&second)), libc::EINVAL);
    let other = lab.mount_with("second", "");
    let third = other.volume(VOLUME).join(".incremental/three.img");
    assert_eq!(errno(File::create_new(third)), libc::EBUSY);
    assert!(lab.log().contains("open for writing"), "{}", lab.log());
    file.set_len(3 * MIB).unwrap();
    drop(file);
    let one = other.volume(VOLUME).join("one.img");
    wait_for("it is finished", || one.exists());
    copy_in(&base, &other.volume(VOLUME).join(".incremental/three.img"));
    assert_eq!(
        told(&other.volume(VOLUME).join("three.img"), "depth").unwrap(),
        "2"
    );
}
