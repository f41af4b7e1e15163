//! A server that stands still: nobody waits for it longer than the deadline, and whatever
//! does not need it goes on.

use super::*;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

/// Threads of a process.
fn threads(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("Threads:"));
    line.unwrap()["Threads:".len()..].trim().parse().unwrap()
}

/// The reader ends at the deadline. What was read before is read again from memory, and
/// another backend goes on.
pub fn a_server_that_stands_still_in_mid_restore(server: &dyn FileServer) {
    // The daemon has more memory than in other cases, to keep what was read.
    let (lab, data) = with_backup(server, &impatient(server), LONG / 2 * 3);
    with_local(&lab, &impatient(server));
    let mount = lab.mount_with("mnt", "memory=64M");
    let path = of(&mount, "image");
    let mut reader = Reader::new(&path);
    let mut read = reader.take(4 * MIB);
    // Past the kernel's memory: what the daemon has.
    let known = fs::File::options()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(&path)
        .unwrap();
    let mut head = vec![0; 4 * MIB];
    known.read_exact_at(&mut head, 0).unwrap();
    server.pause();
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| reader.rest());
        check_local(&mount, "meanwhile");
        head.fill(0);
        known.read_exact_at(&mut head, 0).unwrap();
        assert!(data.starts_with(&head));
        assert_eq!(listed(&lab, &mount), ["image"]);
        let (rest, outcome) = reading.join().unwrap();
        assert_eio(outcome, "reading on");
        read.extend(rest);
    });
    assert!(data.starts_with(&read) && read.len() < data.len());
    assert_eq!(status(&mount, lab.backend()).0, "unavailable");
    assert_eq!(status(&mount, "local").0, "available");
    assert_eq!(listed(&lab, &mount), ["image"]);
    server.resume();
    wait_for_image(&path, &data);
    wait_for("it is known to be well", || {
        status(&mount, lab.backend()).0 == "available"
    });
    assert_eq!(mount.unmount(), 0);
}

/// The writer hears of it at the deadline. What its server does of it later harms nothing.
pub fn a_server_that_stands_still_in_mid_backup(server: &dyn FileServer) {
    let (lab, data) = with_backup(server, &impatient(server), 4 * MIB);
    let new = noise(2, LONG);
    let mount = lab.mount_with("mnt", "memory=16M");
    let mut writer = Writer::new(&of(&mount, "new"));
    writer.feed(&new[..24 * MIB]);
    wait_for("some of it is stored", || chunks(&lab) > 4 + 4);
    server.pause();
    writer.feed(&new[24 * MIB..]);
    assert_eio(writer.end(), "writing on");
    assert_eq!(listed(&lab, &mount), ["image"]);
    server.resume();
    wait_for_image(&of(&mount, "image"), &data);
    assert_eq!(listed(&lab, &mount), ["image"]);
    let source = lab.source("new", &new);
    wait_for_backup(&source, &of(&mount, "new"));
    assert!(cat(&of(&mount, "new")).unwrap() == new);
    assert_eq!(mount.unmount(), 0);
    check_whole(&lab);
    let mount = lab.mount();
    assert_eq!(listed(&lab, &mount), ["image", "new"]);
    assert!(cat(&of(&mount, "new")).unwrap() == new);
    run(&mut command(
        "rm",
        &[of(&mount, "new"), of(&mount, "image")],
    ));
    assert_eq!(mount.unmount(), 0);
}

/// However many read: each of them ends, and they cost few threads.
pub fn many_readers_cost_few_threads(server: &dyn FileServer) {
    const READERS: usize = 64;
    let (lab, data) = with_backup(server, &impatient(server), READERS * MIB);
    with_local(&lab, &impatient(server));
    let mount = lab.mount();
    let path = of(&mount, "image");
    fs::metadata(&path).unwrap();
    check_local(&mount, "before");
    let before = threads(mount.pid());
    server.pause();
    let mut most = before;
    // A second wave: those who were given up still have their threads.
    for wave in 0..2 {
        let readers: Vec<Child> = (0..READERS)
            .map(|number| {
                let mut dd = command("dd", &["bs=4k", "count=1", "iflag=direct", "of=/dev/null"]);
                dd.arg(format!("skip={}", 256 * number));
                dd.arg(format!("if={}", path.display()));
                dd.stderr(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        for reader in readers {
            let mut reader = reader;
            wait_for("a reader ends", || {
                most = most.max(threads(mount.pid()));
                reader.try_wait().unwrap().is_some()
            });
            let output = reader.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(said.contains("Input/output error"), "{wave}: {said}");
        }
        check_local(&mount, &format!("after {wave}"));
    }
    println!("{before} threads before, {most} at most");
    assert!(most <= before + 48, "{before} threads became {most}");
    server.resume();
    wait_for_image(&path, &data);
    assert_eq!(mount.unmount(), 0);
}

/// Locks that cannot be given back do not hold the daemon when it ends.
pub fn locks_do_not_hold_the_end_of_the_daemon(server: &dyn FileServer) {
    let (lab, data) = with_backup(server, &impatient(server), LONG);
    let mount = lab.mount_with("mnt", "memory=16M");
    let mut reader = Reader::new(&of(&mount, "image"));
    reader.take(4 * MIB);
    let mut writer = Writer::new(&of(&mount, "new"));
    writer.feed(&data[..8 * MIB]);
    // What is on its way to a server is waited for by the kernel, whoever ends.
    wait_for("nothing is on its way", || chunks(&lab) >= LONG / MIB + 7);
    server.pause();
    let (_, outcome) = reader.rest();
    assert_eio(outcome, "reading on");
    assert_eio(writer.end(), "closing");
    assert_eq!(mount.unmount(), 0);
    server.resume();
    let mount = lab.mount();
    wait_for_image(&known(&lab, &mount, "image"), &data);
    assert_eq!(mount.unmount(), 0);
}

/// Ending the daemon takes no longer than a server may hold a thread.
pub fn the_daemon_ends_while_its_server_stands_still(server: &dyn FileServer) {
    let (lab, data) = with_backup(server, &impatient(server), LONG);
    let mount = lab.mount_with("mnt", "memory=16M");
    let mut reader = Reader::new(&of(&mount, "image"));
    reader.take(4 * MIB);
    let mut writer = Writer::new(&of(&mount, "new"));
    writer.feed(&data[..8 * MIB]);
    server.pause();
    let (_, outcome) = reader.rest();
    assert_eio(outcome, "reading on");
    writer.feed(&data);
    assert_eio(writer.end(), "writing on");
    assert_eq!(mount.unmount(), 0);
    server.resume();
    // Whatever was left mounted is used.
    let mount = lab.mount();
    wait_for_image(&known(&lab, &mount, "image"), &data);
    assert_eq!(listed(&lab, &mount), ["image"]);
    assert_eq!(mount.unmount(), 0);
}
