//! The case that the guide is about: volumes that are raw files on GlusterFS are backed up
//! to a share of NFS, restored, and deleted again.

use crate::common::glusterfs::Gluster;
use crate::common::mount::{Lab, MIB, SMALL_OBJECTS, command, fail, run, wait_for};
use crate::common::nfs::{Kind, Nfs};
use crate::share_cases::{VOLUME, cat, known, listed, noise, of};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

const DAYS: [&str; 3] = ["monday", "tuesday", "wednesday"];
const LENGTH: usize = 6 * MIB;

/// Writes noise into a volume, as a machine that uses it.
fn change(volume: &Path, seed: u64, at: usize, length: usize) {
    let file = File::options().write(true).open(volume).unwrap();
    file.write_all_at(&noise(seed, length), at as u64).unwrap();
    file.sync_all().unwrap();
}

#[test]
#[ignore = "runs in a virtual machine"]
fn a_volume_on_glusterfs_is_backed_up_to_nfs_and_restored() {
    let gluster = Gluster::start().unwrap();
    let nfs = Nfs::start(Kind::Kernel);
    let lab = Lab::on_share(&nfs, SMALL_OBJECTS);
    let volumes = gluster.mount();
    let source = volumes.path(&format!("volume-{VOLUME}"));
    let raw = ["create", "-q", "-f", "raw"];
    run(command("qemu-img", &raw).arg(&source).arg("6M"));
    let mount = lab.mount();
    let target = format!("{}/{VOLUME}", lab.backend());
    let config = lab.config();
    let ask = |name: &str| lab.cinderfs(&[name, "--config", config.to_str().unwrap()]);

    // In full, then what has changed: by the command, by cp, and by the command again.
    let mut images = Vec::new();
    change(&source, 1, 0, 2 * MIB);
    let back_up = |options: &[&str]| {
        let mut backup = ask("backup");
        backup.args(options).arg(&source).arg(&target);
        backup
    };
    run(&mut back_up(&["--name", DAYS[0]]));
    images.push(fs::read(&source).unwrap());
    wait_for("it shows", || known(&lab, &mount, DAYS[0]).exists());
    change(&source, 2, MIB + 5, 70_000);
    let drop = of(&mount, ".incremental").join(DAYS[1]);
    run(&mut command("cp", &[&source, &drop]));
    images.push(fs::read(&source).unwrap());
    change(&source, 3, 5 * MIB, 300_000);
    // What cp has written can be written to for a moment, and nobody builds on it before.
    wait_for("it is finished for good", || {
        let stat = fs::metadata(of(&mount, DAYS[1])).unwrap();
        stat.permissions().mode() & 0o777 == 0o440
    });
    run(&mut back_up(&["--incremental", "--name", DAYS[2]]));
    images.push(fs::read(&source).unwrap());
    assert!(images.iter().all(|image| image.len() == LENGTH));

    // Listed.
    wait_for("all are listed", || listed(&lab, &mount) == DAYS);
    let folder = mount.volume(VOLUME);
    let long = run(command("ls", &["-l"]).arg(&folder));
    for day in DAYS {
        let line = long.lines().find(|line| line.ends_with(day)).unwrap();
        assert!(line.contains(&format!(" {LENGTH} ")), "{line}");
    }
    let long = run(ask("ls").args(["-l", &target]));
    for (day, kind) in DAYS.iter().zip(["full ", "incremental ", "incremental "]) {
        let line = long.lines().find(|line| line.ends_with(day)).unwrap();
        assert!(line.starts_with(kind), "{line}");
        assert!(line.contains(&LENGTH.to_string()), "{line}");
    }

    // Each to a new file, beside the volume.
    for (day, image) in DAYS.iter().zip(&images) {
        let restored = volumes.path(&format!("{day}.raw"));
        run(&mut command("cp", &[&of(&mount, day), &restored]));
        assert!(fs::read(&restored).unwrap() == *image, "{day} differs");
        fs::remove_file(&restored).unwrap();
        run(ask("restore").arg(format!("{target}/{day}")).arg(&restored));
        assert!(fs::read(&restored).unwrap() == *image, "{day} differs");
    }

    // Nothing that others build on goes.
    for day in [DAYS[0], DAYS[1]] {
        let (_, said) = fail(command("rm", &["-f"]).arg(of(&mount, day)));
        assert!(said.contains("Device or resource busy"), "{day}: {said}");
        let (code, said) = fail(ask("rm").arg(format!("{target}/{day}")));
        assert_eq!(code, 1, "{day}: {said}");
    }
    assert_eq!(listed(&lab, &mount), DAYS);
    for day in DAYS.iter().rev() {
        run(command("rm", &["-f"]).arg(of(&mount, day)));
    }
    assert_eq!(listed(&lab, &mount), [""; 0]);
    assert_eq!(mount.unmount(), 0);
    run(&mut ask("verify"));
    volumes.unmount().unwrap();
}

/// It is kept byte for byte.
#[test]
#[ignore = "runs in a virtual machine"]
fn whoever_backs_up_a_qcow2_file_is_warned() {
    let nfs = Nfs::start(Kind::Kernel);
    let lab = Lab::on_share(&nfs, SMALL_OBJECTS);
    let raw = lab.source("raw", &noise(4, MIB));
    let source = lab.path("volume.qcow2");
    let convert = ["convert", "-q", "-f", "raw", "-O", "qcow2"];
    run(command("qemu-img", &convert).arg(&raw).arg(&source));
    let mount = lab.mount();
    assert!(!lab.log().contains("raw"));
    run(&mut command("cp", &[&source, &of(&mount, "image")]));
    assert!(cat(&of(&mount, "image")).unwrap() == fs::read(&source).unwrap());
    let told = ["the image is a qcow2 file", "Cinder expects a raw one"];
    let log = lab.log();
    assert!(told.iter().all(|told| log.contains(told)), "{log}");
    assert_eq!(mount.unmount(), 0);
}
