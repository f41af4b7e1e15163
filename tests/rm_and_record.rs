//! `cinderfs rm` and `cinderfs record`, over backups that Cinder wrote.

mod common;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cinderfs::format::Layout;
use common::golden::{Golden, Tree};
use common::mount::{Lab, fail, names, run};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;

/// The program with `arguments`, the first of which is the command.
fn ask(lab: &Lab, arguments: &[&str]) -> Command {
    let mut all = vec![arguments[0].to_owned(), "--config".into()];
    all.push(lab.config().display().to_string());
    all.extend(arguments[1..].iter().map(|&word| word.to_owned()));
    lab.cinderfs(&all)
}

/// The backups of a volume: file names and what is known of them, by id.
fn listed(lab: &Lab, volume: &str) -> Vec<Value> {
    let volume = format!("{}/{volume}", lab.backend());
    let text = run(&mut ask(lab, &["ls", "--json", &volume]));
    serde_json::from_str(&text).unwrap()
}

fn path_of(lab: &Lab, backup: &Golden) -> String {
    let rows = listed(lab, &backup.volume);
    let row = rows.iter().find(|row| row["backup_id"] == *backup.id);
    let file = row.unwrap()["file"].as_str().unwrap().to_owned();
    format!("{}/{}/{file}", lab.backend(), backup.volume)
}

/// A backup with a child that has a child that has none.
fn chain() -> [Golden; 3] {
    chain_of(Tree::Posix)
}

fn chain_of(tree: Tree) -> [Golden; 3] {
    let all = tree.backups();
    let find = |id: &str| all.iter().find(|b| b.id == id).unwrap().clone();
    let is_leaf = |b: &&Golden| !all.iter().any(|c| c.parent.as_ref() == Some(&b.id));
    let leaf = all.iter().filter(is_leaf).find(|b| b.depth >= 2).unwrap();
    let leaf = leaf.clone();
    let middle = find(leaf.parent.as_ref().unwrap());
    let root = find(middle.parent.as_ref().unwrap());
    [root, middle, leaf]
}

fn is_in_store(lab: &Lab, backup: &Golden) -> bool {
    is_in(&lab.store(), backup)
}

/// Whether anything of it is there.
fn is_in(store: &Path, backup: &Golden) -> bool {
    let container = store.join(&backup.container);
    match backup.tree.layout() {
        Layout::Posix => container.exists(),
        Layout::Swift => {
            let prefix = container.join(&backup.prefix);
            let (folder, begin) = (prefix.parent().unwrap(), prefix.file_name().unwrap());
            let begin = begin.to_str().unwrap();
            folder.exists() && names(folder).iter().any(|name| name.starts_with(begin))
        }
    }
}

#[test]
fn what_others_build_on_stays_and_says_who() {
    let lab = Lab::over(&Tree::Posix.path());
    let [root, middle, leaf] = chain();
    let path = path_of(&lab, &root);
    let (code, said) = fail(&mut ask(&lab, &["rm", &path]));
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains(&root.id) && said.contains(&middle.id),
        "{said}"
    );
    assert!(said.contains("delete those first"), "{said}");
    for backup in [&root, &middle, &leaf] {
        assert!(is_in_store(&lab, backup));
    }
}

#[test]
fn several_in_any_order_go_at_once() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
        check_removal(Tree::Posix, order);
    }
}

#[test]
fn several_go_at_once_from_a_swift() {
    check_removal(Tree::Swift, [1, 0, 2]);
}

fn check_removal(tree: Tree, order: [usize; 3]) {
    let Some(lab) = Lab::over_tree(tree) else {
        return;
    };
    // All that is built on the first, whoever wrote it.
    let [root, middle, leaf] = chain_of(tree);
    let all = tree.backups();
    let mut doomed = vec![root, middle, leaf];
    for other in &all {
        let on = doomed.iter().any(|b| Some(&b.id) == other.parent.as_ref());
        if on && !doomed.iter().any(|b| b.id == other.id) {
            doomed.push(other.clone());
        }
    }
    let mut paths: Vec<String> = doomed.iter().map(|b| path_of(&lab, b)).collect();
    let first: Vec<String> = order.iter().map(|&i| paths[i].clone()).collect();
    paths.splice(..3, first);
    // Twice the same is once.
    paths.push(paths[0].clone());
    let mut arguments = vec!["rm"];
    arguments.extend(paths.iter().map(String::as_str));
    assert_eq!(run(&mut ask(&lab, &arguments)), "");
    let store = lab.store();
    for backup in &all {
        let gone = doomed.iter().any(|b| b.id == backup.id);
        assert_eq!(is_in(&store, backup), !gone, "{}", backup.id);
    }
}

#[test]
fn what_fails_does_not_hold_up_the_others() {
    let lab = Lab::over(&Tree::Posix.path());
    let [root, _, leaf] = chain();
    let paths = [path_of(&lab, &root), path_of(&lab, &leaf)];
    let missing = format!("posix/{}/missing", root.volume);
    let (code, said) = fail(&mut ask(
        &lab,
        &["rm", &paths[0], &missing, "posix/no/such", &paths[1]],
    ));
    assert_eq!(code, 1, "{said}");
    assert_eq!(said.lines().count(), 3, "{said}");
    assert!(
        said.lines()
            .all(|line| line.starts_with("cinderfs: cannot ")),
        "{said}"
    );
    assert!(
        said.contains("missing") && said.contains("volume no"),
        "{said}"
    );
    assert!(is_in_store(&lab, &root) && !is_in_store(&lab, &leaf));
}

#[test]
fn a_volume_goes_with_all_its_backups() {
    check_removal_of_a_volume(Tree::Posix);
    check_removal_of_a_volume(Tree::Swift);
}

fn check_removal_of_a_volume(tree: Tree) {
    let Some(lab) = Lab::over_tree(tree) else {
        return;
    };
    let [root, ..] = chain_of(tree);
    let target = format!("{}/{}", lab.backend(), root.volume);
    let (code, said) = fail(&mut ask(&lab, &["rm", &target]));
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("-r"), "{said}");
    assert!(is_in_store(&lab, &root));
    assert_eq!(fail(&mut ask(&lab, &["rm", "-r", lab.backend()])).0, 2);
    run(&mut ask(&lab, &["rm", "-r", &target]));
    let store = lab.store();
    for backup in tree.backups() {
        assert_eq!(is_in(&store, &backup), backup.volume != root.volume);
    }
    assert_eq!(fail(&mut ask(&lab, &["ls", &target])).0, 1);
}

/// Damaged ones as well: what they are built on cannot be told.
#[test]
fn a_volume_with_damaged_backups_goes() {
    let lab = Lab::over(&Tree::Posix.path());
    let [root, middle, _] = chain();
    for backup in [&root, &middle] {
        let metadata = format!("{}/{}_metadata", backup.container, backup.prefix);
        fs::write(lab.store().join(metadata), "no JSON").unwrap();
    }
    run(&mut ask(
        &lab,
        &["rm", "-r", &format!("posix/{}", root.volume)],
    ));
    for backup in Tree::Posix.backups() {
        assert_eq!(is_in_store(&lab, &backup), backup.volume != root.volume);
    }
}

#[test]
fn nothing_goes_from_a_backend_that_gives_none_away() {
    let lab = Lab::over(&Tree::Posix.path());
    lab.configure("append_only = true\n");
    let [_, _, leaf] = chain();
    let (code, said) = fail(&mut ask(&lab, &["rm", &path_of(&lab, &leaf)]));
    assert_eq!(code, 1);
    assert!(said.contains("append_only"), "{said}");
    assert!(is_in_store(&lab, &leaf));
}

fn decoded(record: &Value) -> Value {
    let url = record["backup_url"].as_str().unwrap();
    serde_json::from_slice(&STANDARD.decode(url).unwrap()).unwrap()
}

#[test]
fn the_record_has_what_cinder_needs_and_is_the_same_in_the_mount() {
    check_records(Tree::Posix, "cinder.backup.drivers.posix.PosixBackupDriver");
    check_records(Tree::Swift, "cinder.backup.drivers.swift.SwiftBackupDriver");
}

fn check_records(tree: Tree, service: &str) {
    let Some(lab) = Lab::over_tree(tree) else {
        return;
    };
    let mount = lab.mount();
    let all = tree.backups();
    for backup in &all {
        let path = path_of(&lab, backup);
        let text = run(&mut ask(&lab, &["record", &path]));
        assert_eq!(text, run(&mut ask(&lab, &["record", "--json", &path])));
        let shown = mount.path(".cinderfs").join(format!("{path}.record"));
        assert_eq!(fs::read_to_string(&shown).unwrap(), text);
        assert_eq!(shown.metadata().unwrap().len(), text.len() as u64);
        let folder = shown.parent().unwrap();
        let name = Path::new(&shown).file_name().unwrap().to_str().unwrap();
        assert!(names(folder).iter().any(|listed| listed == name));

        let record: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(record.as_object().unwrap().len(), 2);
        assert_eq!(record["backup_service"], service);
        let url = record["backup_url"].as_str().unwrap();
        assert_eq!(
            run(&mut ask(&lab, &["record", "--command", &path])),
            format!("cinder backup-import {service} {url}\n")
        );
        let known = listed(&lab, &backup.volume);
        let known = known
            .iter()
            .find(|row| row["backup_id"] == *backup.id)
            .unwrap();
        let created = &backup.created;
        let time = format!(
            "{}-{}-{}T{}:{}:{}Z",
            &created[..4],
            &created[4..6],
            &created[6..8],
            &created[9..11],
            &created[11..13],
            &created[13..15],
        );
        let children = all.iter().filter(|b| b.parent.as_ref() == Some(&backup.id));
        let expected = json!({
            "id": backup.id, "volume_id": backup.volume, "container": backup.container,
            "service_metadata": backup.prefix, "service": service,
            "parent_id": backup.parent, "size": backup.size.div_ceil(1 << 30).max(1),
            "object_count": known["object_count"], "display_name": known["name"],
            "display_description": known["description"], "status": "available",
            "num_dependent_backups": children.count(), "created_at": time,
            "updated_at": time, "data_timestamp": time, "deleted_at": null,
            "deleted": false, "fail_reason": null, "metadata": {}, "driver_info": {},
            "user_id": null, "project_id": null, "host": null, "availability_zone": null,
            "temp_volume_id": null, "temp_snapshot_id": null, "snapshot_id": null,
            "restore_volume_id": null, "encryption_key_id": null,
        });
        assert_eq!(decoded(&record), expected);
    }
}

#[test]
fn there_is_no_record_of_what_cannot_be_read() {
    let lab = Lab::over(&Tree::Posix.path());
    let [root, ..] = chain();
    let metadata = format!("{}/{}_metadata", root.container, root.prefix);
    fs::write(lab.store().join(metadata), "no JSON").unwrap();
    let path = path_of(&lab, &root);
    let (code, said) = fail(&mut ask(&lab, &["record", &path]));
    assert_eq!(code, 1);
    assert!(said.contains("cannot read metadata"), "{said}");
    let mount = lab.mount();
    let shown = mount.path(".cinderfs").join(format!("{path}.record"));
    assert!(!shown.exists());
    assert!(
        mount
            .path(".cinderfs")
            .join(format!("{path}.json"))
            .exists()
    );
    assert_eq!(fail(&mut ask(&lab, &["record", "posix/no/such"])).0, 1);
    assert_eq!(fail(&mut ask(&lab, &["record", "posix/no"])).0, 2);
}
