//! When a file can be written, when it can be read, and from when on it is a record.

use crate::common::library::Dice;
use crate::common::mount::{
    Holder, Lab, MIB, command, errno, fail, kill, names, run, shell, wait_for, write,
};
use crate::common::store_check::{SMALL_ZLIB, count, read_store};
use crate::{cat, text};
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};

/// What a record refuses writers with. The mode keeps all but the superuser out already.
const REFUSED: [i32; 2] = [libc::EPERM, libc::EACCES];

#[test]
fn a_finished_backup_is_sealed() {
    let lab = Lab::new();
    let mut mount = lab.mount();
    let path = mount.volume("v").join("a");
    write(&path, b"sealed");
    for round in 0..3 {
        let refuses = |options: &OpenOptions| {
            let number = errno(options.open(&path));
            assert!(
                REFUSED.contains(&number),
                "{options:?} in round {round}: {number}"
            );
        };
        refuses(OpenOptions::new().write(true));
        refuses(OpenOptions::new().append(true));
        refuses(OpenOptions::new().read(true).write(true));
        refuses(OpenOptions::new().write(true).truncate(true));
        assert_eq!(
            errno(OpenOptions::new().write(true).create_new(true).open(&path)),
            libc::EEXIST
        );
        let (_, said) = fail(&mut shell(r#"truncate -s 1 "$1""#, &[&path]));
        assert!(
            said.contains("not permitted") || said.contains("denied"),
            "{said}"
        );
        let (_, said) = fail(&mut shell(r#"echo x >> "$1""#, &[&path]));
        assert!(
            said.contains("not permitted") || said.contains("denied"),
            "{said}"
        );
        match round {
            // Sealed by a reader.
            0 => assert_eq!(text(&path), "sealed"),
            1 => {
                mount.unmount();
                mount = lab.mount();
            }
            _ => {}
        }
    }
    assert_eq!(text(&path), "sealed");
}

#[test]
fn one_program_may_go_on_with_what_it_just_closed() {
    let lab = Lab::new();
    let mount = lab.mount();
    let path = mount.volume("v").join("a");
    fs::write(&path, b"first").unwrap();
    assert_eq!(count(&lab.store()), 1);
    let mut again = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    again.seek(SeekFrom::End(0)).unwrap();
    again.write_all(b", second").unwrap();
    drop(again);
    let mut again = OpenOptions::new().append(true).open(&path).unwrap();
    again.write_all(b", third").unwrap();
    drop(again);
    assert_eq!(fs::read(&path).unwrap(), b"first, second, third");
    fs::write(&path, b"anew").unwrap();
    assert_eq!(text(&path), "anew");
    let source = lab.source("expected", b"anew");
    let stored = read_store(&lab.store());
    assert_eq!(stored.len(), 1);
    stored[0].check(SMALL_ZLIB, &source);
    let refused = errno(OpenOptions::new().write(true).open(&path));
    assert!(REFUSED.contains(&refused), "{refused}");
}

#[test]
fn what_is_written_can_be_read_at_once() {
    let lab = Lab::new();
    let mount = lab.mount();
    let path = mount.volume("v").join("a");
    let data = Dice(3).image(2 * MIB + 100);
    let mut file = File::create_new(&path).unwrap();
    file.write_all(&data).unwrap();
    assert_eq!(file.metadata().unwrap().len(), data.len() as u64);
    assert_eq!(path.metadata().unwrap().len(), data.len() as u64);
    let mut read = vec![0; data.len()];
    file.read_exact_at(&mut read, 0).unwrap();
    assert!(read == data);
    file.seek(SeekFrom::Start(5)).unwrap();
    file.write_all(b"changed").unwrap();
    drop(file);
    assert_eq!(cat(&path)[5..12], *b"changed");
}

#[test]
fn who_reads_what_is_being_written_finishes_nothing() {
    let lab = Lab::new();
    let mount = lab.mount();
    let path = mount.volume("v").join("a");
    let length = MIB + 100;
    let holder = Holder::new(&path, length as u64);
    assert!(cat(&path) == vec![b' '; length]);
    assert_eq!(names(&mount.volume("v")), [""; 0]);
    assert_eq!(count(&lab.store()), 0);
    run(&mut command("sync", &[&path]));
    assert_eq!(count(&lab.store()), 1);
    holder.close();
    assert_eq!(names(&mount.volume("v")), ["a"]);
    assert!(cat(&path) == vec![b' '; length]);
}

/// Closing an empty file makes the backup a moment after close(2) has returned.
#[test]
fn an_empty_file_can_be_read_at_once() {
    let lab = Lab::new();
    let mount = lab.mount();
    let folder = mount.volume("v");
    let script = r#"for i in $(seq 100); do : > "$1/$i"; cat "$1/$i"; done"#;
    assert_eq!(run(&mut shell(script, &[&folder])), "");
    wait_for("all of them are backups", || names(&folder).len() == 100);
    assert_eq!(read_store(&lab.store()).len(), 100);
}

/// Closes files and goes on with them at once, while somebody sets their times.
const GOES_ON: &str = r#"
import os, sys, threading
folder, count = sys.argv[1], int(sys.argv[2])
path = os.path.join(folder, "0")
def touch():
    while path:
        try:
            os.utime(path)
        except FileNotFoundError:
            pass
touching = threading.Thread(target=touch)
for number in range(count):
    path = os.path.join(folder, str(number))
    with open(path, "wb") as file:
        file.write(b"finished")
    if number == 0:
        touching.start()
    os.write(os.open(path, os.O_WRONLY), b"half")
path = None
touching.join()
# Nothing tells that the closes have arrived, but that one after them has.
open(os.path.join(folder, "last"), "wb").close()
sys.stdin.read()
"#;

/// The kernel tells of the last close after close(2) has returned: by then the program may
/// have opened the file again, and be in the middle of changing it.
#[test]
fn only_what_a_program_has_finished_is_published() {
    const FILES: usize = 200;
    let lab = Lab::new();
    let mount = lab.mount();
    let mut program = Command::new("python3");
    program.args(["-c", GOES_ON]).arg(mount.volume("v"));
    program.arg(FILES.to_string()).stdin(Stdio::piped());
    let mut program = program.spawn().unwrap();
    wait_for("the last close", || count(&lab.store()) == FILES + 1);
    kill(mount.pid(), libc::SIGKILL);
    drop(program.stdin.take());
    program.wait().unwrap();
    mount.crash();
    let mount = lab.mount();
    for number in 0..FILES {
        let path = mount.volume("v").join(number.to_string());
        assert_eq!(text(&path), "finished", "{number}");
    }
}
