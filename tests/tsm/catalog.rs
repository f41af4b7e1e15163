//! Losing the catalog loses names, not data.

use crate::common::mount::*;
use crate::model::{self, VOLUME, bytes};
use std::fs;

#[test]
fn without_our_notes_backups_have_made_names_and_all_their_bytes() {
    let (lab, _dsmc) = Lab::on_tsm("");
    let data = bytes(1, 100_000);
    let mount = lab.mount();
    let path = model::write(&mount, "monday.img", &data);
    let id = xattr(&path, "user.cinder.backup_id").unwrap();
    drop(mount);
    fs::remove_dir_all(lab.path("staging/.catalog")).unwrap();
    let mount = lab.mount();
    let listed = names(&mount.path("tsm").join(VOLUME));
    assert_eq!(listed.len(), 1);
    let short = String::from_utf8(id).unwrap()[..8].to_owned();
    assert!(
        listed[0].ends_with(&format!("-backup-{short}.img")),
        "{listed:?}"
    );
    assert_eq!(
        fs::read(mount.path("tsm").join(VOLUME).join(&listed[0])).unwrap(),
        data
    );
}

#[test]
fn a_damaged_note_hides_no_backup() {
    let (lab, _dsmc) = Lab::on_tsm("");
    let mount = lab.mount();
    model::write(&mount, "a.img", b"one");
    model::write(&mount, "b.img", b"two");
    drop(mount);
    let folder = lab.path("staging/.catalog");
    let note = model::notes(&folder).remove(0);
    fs::write(&note, b"{").unwrap();
    let mount = lab.mount();
    assert_eq!(names(&mount.path("tsm").join(VOLUME)).len(), 2);
    assert!(lab.log().contains("it is damaged"), "{}", lab.log());
}

#[test]
fn an_object_that_is_not_what_was_written_is_never_served() {
    let (lab, dsmc) = Lab::on_tsm("");
    let mount = lab.mount();
    model::write(&mount, "a.img", &bytes(1, 50_000));
    drop(mount);
    // Of the same size, so that only its hash tells.
    let path = dsmc.objects().remove(0);
    let folder = std::path::Path::new(&path).parent().unwrap();
    fs::create_dir_all(folder).unwrap();
    fs::write(&path, bytes(2, 50_000)).unwrap();
    run(&mut dsmc.command(&["selective", &path]));
    fs::remove_file(&path).unwrap();
    let mount = lab.mount();
    let shown = mount.path("tsm").join(VOLUME).join("a.img");
    assert_eq!(errno(fs::read(&shown)), libc::EIO);
    assert!(lab.log().contains("sha256"), "{}", lab.log());
    let (code, _) =
        fail(&mut lab.cinderfs(&["verify", "--config", lab.config().to_str().unwrap()]));
    assert_eq!(code, 1);
    // Of another size, it need not even be fetched.
    fs::create_dir_all(folder).unwrap();
    fs::write(&path, bytes(2, 40_000)).unwrap();
    run(&mut dsmc.command(&["selective", &path]));
    drop(mount);
    let mount = lab.mount();
    let count = dsmc.count("restore");
    assert_eq!(
        errno(fs::read(mount.path("tsm").join(VOLUME).join("a.img"))),
        libc::EIO
    );
    assert_eq!(dsmc.count("restore"), count);
    assert!(lab.log().contains("were written"), "{}", lab.log());
}

#[test]
fn verify_fetches_again_what_has_decayed_where_it_is_staged() {
    use std::os::unix::fs::{FileExt, MetadataExt};
    let (lab, dsmc) = Lab::on_tsm("");
    let data = bytes(3, 50_000);
    let mount = lab.mount();
    let path = model::write(&mount, "a.img", &data);
    assert_eq!(fs::read(&path).unwrap(), data);
    drop(mount);
    // As a disk does it: nobody has touched the file.
    let staged = |kind: &str| {
        let entries = fs::read_dir(lab.path("staging/.staged")).unwrap();
        let mut paths = entries.map(|entry| entry.unwrap().path());
        paths
            .find(|path| path.extension().is_some_and(|e| e == kind))
            .unwrap()
    };
    let file = fs::File::options().write(true).open(staged("img")).unwrap();
    file.write_all_at(&[data[7] ^ 1], 7).unwrap();
    let stat = file.metadata().unwrap();
    let text = fs::read(staged("json")).unwrap();
    let mut note: serde_json::Value = serde_json::from_slice(&text).unwrap();
    note["touched"] = serde_json::json!([stat.ctime(), stat.ctime_nsec()]);
    fs::write(staged("json"), note.to_string()).unwrap();
    let config = lab.config();
    let verify = ["verify", "--config", config.to_str().unwrap()];
    let before = dsmc.count("restore");
    run(&mut lab.cinderfs(&verify));
    assert_eq!(dsmc.count("restore"), before + 1);
    let mount = lab.mount();
    assert_eq!(fs::read(mount.volume(VOLUME).join("a.img")).unwrap(), data);
}

#[test]
fn what_another_program_has_noted_since_is_not_undone() {
    let (lab, _dsmc) = Lab::on_tsm("");
    let mount = lab.mount();
    let path = model::write(&mount, "a.img", b"one");
    let note = model::notes(&lab.path("staging/.catalog")).remove(0);
    let read =
        || -> serde_json::Value { serde_json::from_slice(&fs::read(&note).unwrap()).unwrap() };
    let mut newer = read();
    newer["size"] = serde_json::json!(7);
    newer["sha256"] = serde_json::json!("of another program");
    fs::write(&note, newer.to_string()).unwrap();
    assert_eq!(set_xattr(&path, "user.cinder.description", b"words"), 0);
    newer["description"] = serde_json::json!("words");
    assert_eq!(read(), newer);
}
