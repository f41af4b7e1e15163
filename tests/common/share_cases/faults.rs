//! A server that is gone, as a machine without power, and comes back: nothing wrong is
//! read, nothing half is listed, and nothing is lost.

use super::*;

/// The reader hears of it, has read nothing wrong until then, and can start again.
pub fn a_server_that_goes_in_mid_restore(server: &dyn FileServer) {
    let (lab, data) = with_backup(server, PATIENT, LONG);
    with_local(&lab, PATIENT);
    let mount = lab.mount_with("mnt", "memory=16M");
    let mut reader = Reader::new(&of(&mount, "image"));
    let mut read = reader.take(4 * MIB);
    server.stop();
    let (rest, outcome) = reader.rest();
    assert_eio(outcome, "reading on");
    read.extend(rest);
    assert!(data.starts_with(&read) && read.len() < data.len());
    assert_eq!(listed(&lab, &mount), ["image"]);
    check_local(&mount, "meanwhile");
    server.go_on();
    wait_for_image(&of(&mount, "image"), &data);
    assert_eq!(mount.unmount(), 0);
}

/// The writer hears of it, nothing of it is listed, and it can be written again.
pub fn a_server_that_goes_in_mid_backup(server: &dyn FileServer) {
    let (lab, data) = with_backup(server, PATIENT, 4 * MIB);
    let new = noise(2, LONG);
    let mount = lab.mount_with("mnt", "memory=16M");
    let mut writer = Writer::new(&of(&mount, "new"));
    writer.feed(&new[..24 * MIB]);
    wait_for("some of it is stored", || chunks(&lab) > 4 + 4);
    server.stop();
    writer.feed(&new[24 * MIB..]);
    assert_eio(writer.end(), "writing on");
    assert_eq!(listed(&lab, &mount), ["image"]);
    server.go_on();
    wait_for_image(&of(&mount, "image"), &data);
    assert_eq!(listed(&lab, &mount), ["image"]);
    let source = lab.source("new", &new);
    wait_for_backup(&source, &of(&mount, "new"));
    assert!(cat(&of(&mount, "new")).unwrap() == new);
    assert_eq!(mount.unmount(), 0);
    let mount = lab.mount();
    assert_eq!(listed(&lab, &mount), ["image", "new"]);
    assert!(cat(&of(&mount, "new")).unwrap() == new);
    assert_eq!(mount.unmount(), 0);
    check_whole(&lab);
}

/// Whoever reads or writes does not notice, but for the time.
pub fn a_short_outage_is_survived(server: &dyn FileServer) {
    let (lab, data) = with_backup(server, SMALL_OBJECTS, LONG);
    let new = noise(2, LONG);
    let mount = lab.mount_with("mnt", "memory=16M");
    let mut reader = Reader::new(&of(&mount, "image"));
    let mut writer = Writer::new(&of(&mount, "new"));
    let mut read = reader.take(4 * MIB);
    writer.feed(&new[..16 * MIB]);
    wait_for("some of it is stored", || chunks(&lab) > LONG / MIB + 4);
    server.stop();
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| reader.rest());
        let writing = scope.spawn(|| {
            let fed = writer.feed(&new[16 * MIB..]);
            (fed, writer.end())
        });
        server.go_on();
        let (rest, outcome) = reading.join().unwrap();
        assert_eq!(outcome, Ok(()), "{}", lab.log());
        read.extend(rest);
        assert_eq!(writing.join().unwrap(), (true, Ok(())), "{}", lab.log());
    });
    assert!(read == data);
    assert!(cat(&of(&mount, "new")).unwrap() == new);
    assert_eq!(mount.unmount(), 0);
    check_whole(&lab);
}

/// What cannot be deleted for want of a server is there still, and whole.
pub fn a_deletion_without_a_server(server: &dyn FileServer) {
    let (lab, data) = with_backup(server, PATIENT, 2 * MIB);
    let mount = lab.mount();
    assert_eq!(listed(&lab, &mount), ["image"]);
    server.stop();
    let said = output(&mut command(
        "rm",
        &["-f".into(), known(&lab, &mount, "image")],
    ));
    let words = String::from_utf8_lossy(&said.stderr);
    assert!(words.contains("Input/output error"), "{words}");
    server.go_on();
    wait_for_image(&known(&lab, &mount, "image"), &data);
    run(&mut command(
        "rm",
        &["-f".into(), known(&lab, &mount, "image")],
    ));
    assert_eq!(mount.unmount(), 0);
    // A sign of the deletion that was begun may be left, which means nothing any more.
    let config = lab.config();
    let arguments = ["gc", "--delete", "--older-than", "0", "--config"];
    run(lab.cinderfs(&arguments).arg(&config));
    assert_eq!(files_in(&lab.store()), 0);
}
