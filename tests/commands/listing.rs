//! ls and show.

use crate::common::golden::Tree;
use crate::common::mount::{CINDERFS, Lab, names, run, shell};
use crate::{USAGE, check_refused};
use serde_json::Value;
use std::fs;

#[test]
fn ls_and_show() {
    let lab = Lab::over(&Tree::Posix.path());
    let config = lab.config().display().to_string();
    let ask = |arguments: &[&str]| {
        let mut all = vec![arguments[0], "--config", &config];
        all.extend(&arguments[1..]);
        run(&mut lab.cinderfs(&all))
    };
    let json = |arguments: &[&str]| -> Value { serde_json::from_str(&ask(arguments)).unwrap() };
    let golden = Tree::Posix.backups();
    assert_eq!(ask(&["ls"]), "posix\n");
    assert_eq!(ask(&["ls", "-l"]), "posix      posix\n");
    assert_eq!(
        json(&["ls", "--json"]),
        serde_json::json!([{"driver": "posix", "name": "posix"}])
    );
    let mut volumes: Vec<&str> = golden.iter().map(|backup| backup.volume.as_str()).collect();
    volumes.sort_unstable();
    volumes.dedup();
    assert_eq!(ask(&["ls", "posix"]).lines().collect::<Vec<_>>(), volumes);
    assert_eq!(ask(&["ls", "posix/"]).lines().collect::<Vec<_>>(), volumes);
    let counted = json(&["ls", "--json", "posix"]);
    assert_eq!(counted.as_array().unwrap().len(), volumes.len());
    for volume in volumes {
        let target = format!("posix/{volume}");
        let own: Vec<_> = golden
            .iter()
            .filter(|backup| backup.volume == volume)
            .collect();
        let files = ask(&["ls", &target]);
        assert_eq!(files.lines().count(), own.len());
        let rows = json(&["ls", "--json", &target]);
        let long = ask(&["ls", "-l", &target]);
        assert_eq!(long.lines().count(), own.len());
        for (row, file) in rows.as_array().unwrap().iter().zip(files.lines()) {
            assert_eq!(row["file"], file);
            let backup = own
                .iter()
                .find(|b| row["backup_id"] == b.id.as_str())
                .unwrap();
            assert_eq!(row["size"], backup.size);
            assert_eq!(row["volume_id"], volume);
            assert_eq!(row["depth"], backup.depth);
            assert_eq!(row["container"], backup.container.as_str());
            assert_eq!(row["service_metadata"], backup.prefix.as_str());
            let kind = if backup.parent.is_some() {
                "incremental "
            } else {
                "full "
            };
            let line = long
                .lines()
                .find(|line| line.ends_with(&format!(" {file}")))
                .unwrap();
            assert!(
                line.starts_with(kind) && line.contains(&backup.size.to_string()),
                "{line}"
            );
            let shown = json(&["show", "--json", &format!("{target}/{file}")]);
            assert_eq!(shown["backup_id"], backup.id.as_str());
            let text = ask(&["show", &format!("{target}/{file}")]);
            let id_line = format!("{:<17} {}", "backup_id", backup.id);
            assert!(text.lines().any(|line| line == id_line), "{text}");
            assert_eq!(
                ask(&["ls", &format!("{target}/{file}")]),
                format!("{file}\n")
            );
        }
    }
    // A mount shows the same names.
    let mount = lab.mount();
    let mut shown = names(&mount.path("posix").join(&golden[0].volume));
    shown.sort_unstable();
    let listed = ask(&["ls", &format!("posix/{}", golden[0].volume)]);
    let mut listed: Vec<&str> = listed.lines().collect();
    listed.sort_unstable();
    assert_eq!(shown, listed);
}

#[test]
fn ls_and_show_of_what_is_not_there() {
    let lab = Lab::new();
    let mount = lab.mount();
    fs::write(mount.volume("v").join("a"), "a").unwrap();
    let config = lab.config().display().to_string();
    let ask = |command: &str, target: &str| lab.cinderfs(&[command, "--config", &config, target]);
    check_refused(
        &mut ask("ls", "other"),
        1,
        &["backend other", "there are: posix"],
    );
    check_refused(&mut ask("ls", "posix/w"), 1, &["volume w", "cinderfs ls"]);
    check_refused(
        &mut ask("ls", "posix/v/b"),
        1,
        &["posix/v/b", "cinderfs ls posix/v"],
    );
    check_refused(
        &mut ask("show", "posix/v/b"),
        1,
        &["posix/v/b", "cinderfs ls posix/v"],
    );
    check_refused(&mut ask("show", "posix/v"), USAGE, &["BACKEND/VOLUME/FILE"]);
    check_refused(&mut ask("ls", "a//b"), USAGE, &["a//b"]);
    check_refused(&mut ask("ls", "a/b/c/d"), USAGE, &["a/b/c/d"]);
    assert!(run(&mut ask("show", "posix/v/a")).contains("backup_id"));
    // Who has seen enough is no failure.
    let script = r#""$1" ls --config "$2" posix | true; exit ${PIPESTATUS[0]}"#;
    run(&mut shell(script, &[CINDERFS, &config]));
}

#[test]
fn names_are_not_printed_raw_where_they_could_mislead() {
    let lab = Lab::new();
    let mount = lab.mount();
    fs::write(mount.volume("v").join("two\nlines \u{1b}[31m"), "a").unwrap();
    let config = lab.config().display().to_string();
    let shown =
        run(&mut lab.cinderfs(&["show", "--config", &config, "posix/v/two\nlines \u{1b}[31m"]));
    assert!(
        !shown.contains('\u{1b}') && shown.contains(r"two\nlines"),
        "{shown}"
    );
}
