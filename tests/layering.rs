//! Calls go one way: a room uses only the rooms below it.

use std::path::{Path, PathBuf};

/// Rooms that every other may use.
const COMMON: [&str; 6] = ["error", "budget", "secret", "spool", "task", "mountinfo"];

/// Which rooms a room may use, beside itself and the common ones.
fn below(room: &str) -> Option<&'static [&'static str]> {
    Some(match room {
        "main" => &["cli"],
        "cli" => &[
            "fuse", "tree", "image", "driver", "format", "codec", "store", "config",
        ],
        "fuse" => &["tree"],
        "tree" => &["image", "driver"],
        "image" => &["driver"],
        "driver" => &["format", "codec", "store", "config"],
        "format" | "config" => &["codec"],
        "store" => &["config"],
        "codec" => &[],
        common if COMMON.contains(&common) => &[],
        _ => return None,
    })
}

/// Every room that `line` names by a path from the crate's root.
fn rooms_in(line: &str) -> Vec<String> {
    let code = line.split("//").next().unwrap_or_default();
    let mut found = Vec::new();
    for root in ["crate::", "cinderfs::"] {
        for (at, _) in code.match_indices(root) {
            let behind = &code[at + root.len()..];
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
                continue;
            }
            let list = match behind.strip_prefix('{') {
                // The rooms of `crate::{a::B, c::{D, E}}` are what stands at depth 1.
                Some(list) => top_level(list),
                None => vec![behind],
            };
            for path in list {
                let is_name = |c: char| c.is_alphanumeric() || c == '_';
                let end = path.find(|c| !is_name(c)).unwrap_or(path.len());
                found.push(path[..end].to_owned());
            }
        }
    }
    found
}

fn top_level(list: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (1, 0, Vec::new());
    for (at, c) in list.char_indices() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if depth == 0 || depth == 1 && c == ',' {
            parts.extend(Some(list[start..at].trim()).filter(|part| !part.is_empty()));
            start = at + 1;
        }
        if depth == 0 {
            break;
        }
    }
    parts
}

/// The source without its test modules, statements that span lines joined.
fn statements(text: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut in_use = false;
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim() == "#[cfg(test)]" && !line.starts_with(' ') {
            break;
        }
        match found.last_mut() {
            Some((_, statement)) if in_use => statement.push_str(line.trim()),
            _ => found.push((number, line.trim().to_owned())),
        }
        let begins = line.starts_with("use ") || line.starts_with("pub use ");
        in_use = (in_use || begins) && !line.contains(';');
    }
    found
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn room_of(path: &Path) -> String {
    let first = path.components().next().unwrap().as_os_str();
    let name = first.to_str().unwrap();
    name.strip_suffix(".rs").unwrap_or(name).to_owned()
}

#[test]
fn no_room_uses_one_above_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 30);
    let mut wrong = Vec::new();
    for file in files {
        let path = file.strip_prefix(&root).unwrap();
        let room = room_of(path);
        let is_test = path
            .iter()
            .any(|part| part == "tests" || part == "tests.rs");
        if room == "lib" || is_test {
            continue;
        }
        let Some(allowed) = below(&room) else {
            wrong.push(format!(
                "src/{}: the room {room} is not in the table",
                path.display()
            ));
            continue;
        };
        let text = std::fs::read_to_string(&file).unwrap();
        for (line, statement) in statements(&text) {
            for used in rooms_in(&statement) {
                let fine = used == room
                    || COMMON.contains(&used.as_str())
                    || allowed.contains(&used.as_str());
                if !fine {
                    wrong.push(format!("src/{}:{line}: {room} uses {used}", path.display()));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "arrows against the design:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn finds_every_way_of_naming_a_room() {
    for (line, rooms) in [
        ("use crate::error::{Error, Kind};", vec!["error"]),
        (
            "use crate::{error::Kind, format::{a, b}, store};",
            vec!["error", "format", "store"],
        ),
        (
            "let x = crate::codec::Codec::None; // crate::tree",
            vec!["codec"],
        ),
        ("pub(crate) use self::x;", vec![]),
        ("    cinderfs::cli::main()", vec!["cli"]),
        ("my_crate::x", vec![]),
    ] {
        assert_eq!(rooms_in(line), rooms, "{line}");
    }
    let text =
        "use crate::{\n    error::Error,\n    tree::Tree,\n};\n#[cfg(test)]\nuse crate::cli;\n";
    let rooms: Vec<String> = statements(text)
        .iter()
        .flat_map(|(_, s)| rooms_in(s))
        .collect();
    assert_eq!(rooms, ["error", "tree"]);
}
