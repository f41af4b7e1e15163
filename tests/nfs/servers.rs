//! The servers are as other tests take them to be.

use super::common::glusterfs::Gluster;
use super::common::mount::{errno, wait_for};
use super::common::nfs::{Kind, Nfs, Options};
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

const KINDS: [Kind; 2] = [Kind::Kernel, Kind::Ganesha];
const VERSIONS: [&str; 2] = ["vers=3", "vers=4,minorversion=2"];

#[test]
#[ignore = "runs in a virtual machine"]
fn give_what_was_written() {
    for kind in KINDS {
        let nfs = Nfs::start(kind);
        for version in VERSIONS {
            let mounted = nfs.mount(version);
            fs::write(mounted.path(version), b"data").unwrap();
            assert_eq!(fs::read(mounted.path(version)).unwrap(), b"data");
            assert_eq!(fs::read(nfs.export().join(version)).unwrap(), b"data");
            mounted.unmount().unwrap();
        }
    }
}

#[test]
#[ignore = "runs in a virtual machine"]
fn squash_root_or_do_not() {
    for (kind, root_squash, expected) in [
        (Kind::Kernel, false, 0),
        (Kind::Kernel, true, 65534),
        (Kind::Ganesha, true, 65534),
    ] {
        let nfs = Nfs::with(
            kind,
            Options {
                root_squash,
                ..Options::default()
            },
        );
        let mounted = nfs.mount("");
        fs::write(mounted.path("f"), b"data").unwrap();
        let owner = fs::metadata(nfs.export().join("f")).unwrap().uid();
        assert_eq!(owner, expected);
    }
}

#[test]
#[ignore = "runs in a virtual machine"]
fn keep_locks_between_clients() {
    for kind in KINDS {
        let nfs = Nfs::start(kind);
        for version in VERSIONS {
            if (kind, version) == (Kind::Ganesha, VERSIONS[0]) {
                continue;
            }
            let options = format!("{version},nosharecache");
            let (first, second) = (nfs.mount(&options), nfs.mount(&options));
            fs::write(first.path("f"), b"").unwrap();
            let ours = fs::File::open(first.path("f")).unwrap();
            let theirs = fs::File::options()
                .write(true)
                .open(second.path("f"))
                .unwrap();
            ours.lock_shared().unwrap();
            assert!(theirs.try_lock().is_err(), "{kind:?} {version}");
            ours.unlock().unwrap();
            theirs.try_lock().unwrap();
        }
    }
}

#[test]
#[ignore = "runs in a virtual machine"]
fn that_stop_fail_soft_readers_and_hold_hard_ones() {
    for kind in KINDS {
        let nfs = Nfs::start(kind);
        let soft = nfs.mount("vers=4,minorversion=2,nosharecache,soft,timeo=10,retrans=1");
        let hard = nfs.mount("vers=4,minorversion=2,nosharecache,hard");
        for name in ["soft", "hard"] {
            fs::write(nfs.export().join(name), b"data").unwrap();
        }
        nfs.stop();
        assert_eq!(errno(fs::read(soft.path("soft"))), libc::EIO);
        let mut reader = Command::new("cat")
            .arg(hard.path("hard"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_secs(2));
        assert!(reader.try_wait().unwrap().is_none(), "it does not wait");
        nfs.go_on();
        let mut read = String::new();
        reader
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut read)
            .unwrap();
        assert_eq!(read, "data");
        reader.wait().unwrap();
        wait_for("the other one finds it", || {
            fs::read(soft.path("soft")).is_ok()
        });
    }
}

#[test]
#[ignore = "runs in a virtual machine"]
fn that_stand_still_fail_soft_readers_of_version_3() {
    let nfs = Nfs::start(Kind::Ganesha);
    let soft = nfs.mount("vers=3,nolock,soft,timeo=10,retrans=1");
    fs::write(nfs.export().join("f"), b"data").unwrap();
    nfs.pause();
    assert_eq!(errno(fs::read(soft.path("f"))), libc::EIO);
    nfs.resume();
    wait_for("clients find it", || fs::read(soft.path("f")).is_ok());
}

#[test]
#[ignore = "runs in a virtual machine"]
fn that_are_cut_off_fail_soft_readers() {
    let nfs = Nfs::start(Kind::Kernel);
    let soft = nfs.mount("vers=4,minorversion=2,soft,timeo=10,retrans=1");
    fs::write(nfs.export().join("f"), b"data").unwrap();
    nfs.cut_off();
    let read = errno(fs::read(soft.path("f")));
    assert!(read == libc::EIO || read == libc::ETIMEDOUT, "{read}");
    nfs.reconnect();
    wait_for("clients find it", || fs::read(soft.path("f")).is_ok());
}

#[test]
#[ignore = "runs in a virtual machine"]
fn that_forget_make_what_is_open_stale() {
    for (kind, version) in [
        (Kind::Kernel, VERSIONS[0]),
        (Kind::Kernel, VERSIONS[1]),
        (Kind::Ganesha, VERSIONS[1]),
    ] {
        let nfs = Nfs::start(kind);
        let mounted = nfs.mount(&format!("{version},actimeo=0"));
        fs::write(mounted.path("f"), b"data").unwrap();
        let open = fs::File::open(mounted.path("f")).unwrap();
        nfs.forget();
        assert_eq!(errno(open.metadata()), libc::ESTALE, "{kind:?} {version}");
        drop(open);
        drop(mounted);
        let again = nfs.mount(version);
        assert_eq!(fs::read(again.path("f")).unwrap(), b"data");
    }
}

#[test]
#[ignore = "runs in a virtual machine"]
fn are_beside_a_glusterfs() {
    let gluster = Gluster::start().unwrap();
    let mounted = gluster.mount();
    fs::write(mounted.path("f"), b"data").unwrap();
    assert_eq!(fs::read(gluster.brick().join("f")).unwrap(), b"data");
}
