//! Names of volumes and backups, as file names.
//!
//! Ids and names come from outside. Whatever could leave its folder, or is no legal file
//! name, is made safe, in a way that stays unique and never changes.

use crate::driver::{Backup, Timestamp};
use crate::error::{Error, Kind, Result};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// File names end here.
const LONGEST_NAME: usize = 255;
/// Of a backup's name, so much goes into a name that we make.
const LONGEST_PART: usize = 120;
/// Names in a volume's folder that are taken.
const RESERVED: [&str; 3] = [".full", ".incremental", ".cinderfs"];

/// The name of a volume's folder: its id, with `%XX` for what a name cannot hold.
pub fn volume_name(id: &str) -> String {
    let mut name = String::with_capacity(id.len());
    for (at, c) in id.char_indices() {
        if matches!(c, '/' | '%') || c.is_control() || (at == 0 && c == '.') {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                name.push_str(&format!("%{byte:02X}"));
            }
        } else {
            name.push(c);
        }
    }
    name
}

/// The volume id that a folder's name stands for; `None` when no id has that name.
pub fn volume_id_of(name: &str) -> Option<String> {
    let mut id = Vec::with_capacity(name.len());
    let mut bytes = name.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            id.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            id.push(byte);
        }
    }
    let id = String::from_utf8(id).ok()?;
    // The other way round must lead back, or two names would stand for one id.
    (!id.is_empty() && volume_name(&id) == name).then_some(id)
}

/// Refuses a name that a backup cannot be given.
///
/// # Errors
/// `TooLong`, `Invalid`.
pub fn check_file_name(op: &'static str, name: &str) -> Result<()> {
    if is_file_name(name) {
        return Ok(());
    }
    let (kind, reason) = match name.len() {
        0..=LONGEST_NAME => (Kind::Invalid, "a backup cannot have this name".to_owned()),
        _ => (
            Kind::TooLong,
            format!("a name has {LONGEST_NAME} bytes at most"),
        ),
    };
    Err(Error::new(
        kind,
        op,
        name.escape_debug().to_string(),
        reason,
    ))
}

/// Whether a backup may have this name as it is.
fn is_file_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= LONGEST_NAME
        && name != "."
        && name != ".."
        && !name.contains(['/', '\0'])
        && !RESERVED.contains(&name)
}

/// Names for the backups of a volume. The eldest of those that ask for the same name
/// gets it; what was not written as a file here gets a name made of its metadata.
pub fn file_names(backups: &[Arc<Backup>]) -> BTreeMap<String, Arc<Backup>> {
    let mut by_age: Vec<&Arc<Backup>> = backups.iter().collect();
    by_age.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
    let mut taken: HashSet<String> = HashSet::new();
    let mut names = BTreeMap::new();
    for backup in by_age {
        let wished = backup
            .name
            .as_ref()
            .filter(|name| backup.written_as_file && is_file_name(name) && !taken.contains(*name));
        let name = match wished {
            Some(name) => name.clone(),
            None => made_name(backup, &taken),
        };
        taken.insert(name.clone());
        names.insert(name, Arc::clone(backup));
    }
    names
}

/// `<created>-<name>-<first 8 of the id>.img`; with more of the id if that is taken.
fn made_name(backup: &Backup, taken: &HashSet<String>) -> String {
    let created = backup
        .created_at
        .map_or_else(|| "undated".into(), Timestamp::to_name);
    let name = safe_part(backup.name.as_deref().unwrap_or_default());
    let name = if name.is_empty() {
        "backup".to_owned()
    } else {
        name
    };
    let id = safe_part(&backup.id);
    let short: String = id.chars().take(8).collect();
    let forms = [
        format!("{created}-{name}-{short}.img"),
        format!("{created}-{name}-{id}.img"),
    ];
    let free = forms.into_iter().find(|form| !taken.contains(form));
    // Two backups of one id, in two containers: count.
    free.unwrap_or_else(|| {
        let count = |n: &u64| format!("{created}-{name}-{id}-{n}.img");
        let n = (2..).find(|n| !taken.contains(&count(n))).unwrap_or(0);
        count(&n)
    })
}

/// Letters and digits of any language, dots, dashes and underscores: nothing that a
/// shell would want quoted.
fn safe_part(text: &str) -> String {
    let mut safe = String::new();
    for c in text.chars() {
        if safe.len() + c.len_utf8() > LONGEST_PART {
            break;
        }
        if c.is_alphanumeric() || matches!(c, '.' | '-' | '_') {
            safe.push(c);
        } else if !safe.ends_with('_') {
            safe.push('_');
        }
    }
    safe.trim_matches(['.', '-', '_']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn backup(id: &str, name: Option<&str>, as_file: bool) -> Arc<Backup> {
        Arc::new(Backup {
            id: id.into(),
            volume_id: "v".into(),
            parent_id: None,
            name: name.map(Into::into),
            written_as_file: as_file,
            description: None,
            created_at: Timestamp::parse("2026-03-01 04:05:06"),
            modified: None,
            size: 0,
            data_bytes: None,
            stored_bytes: None,
            generation: 0,
            object_count: 0,
            compression: String::new(),
            depth: 0,
            service: "",
            container: String::new(),
            service_metadata: String::new(),
            fault: None,
        })
    }

    fn names(backups: &[Arc<Backup>]) -> Vec<String> {
        file_names(backups).into_keys().collect()
    }

    #[test]
    fn makes_names_that_need_no_quoting() {
        let id = "14557733-15c7-5293-a026-e4123a3b50c9";
        for (name, part) in [
            (None, "backup"),
            (Some(""), "backup"),
            (Some("täglich ☃ daily"), "täglich_daily"),
            (Some("../../etc/passwd"), "etc_passwd"),
            (Some("старый icehouse"), "старый_icehouse"),
        ] {
            let made = names(&[backup(id, name, false)]);
            assert_eq!(made, [format!("20260301T040506Z-{part}-14557733.img")]);
        }
    }

    #[test]
    fn a_clash_falls_back_and_nothing_is_lost() {
        let same = [
            backup("aaaaaaaa-1", Some("disk.img"), true),
            backup("aaaaaaaa-2", Some("disk.img"), true),
            backup("aaaaaaaa-3", Some("disk.img"), true),
            backup("aaaaaaaa-3", Some("disk.img"), true),
            backup("aaaaaaaa-3", Some("disk.img"), true),
            backup("b", Some("a/b"), true),
            backup("c", Some(".full"), true),
        ];
        assert_eq!(
            names(&same),
            [
                "20260301T040506Z-a_b-b.img",
                "20260301T040506Z-disk.img-aaaaaaaa-3-2.img",
                "20260301T040506Z-disk.img-aaaaaaaa-3.img",
                "20260301T040506Z-disk.img-aaaaaaaa-3-3.img",
                "20260301T040506Z-disk.img-aaaaaaaa.img",
                "20260301T040506Z-full-c.img",
                "disk.img",
            ]
            .into_iter()
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect::<Vec<_>>()
        );
    }

    proptest! {
        #[test]
        fn volume_names_are_legal_and_lead_back(id in "\\PC{1,40}|[./%\u{1}a]{1,6}") {
            let name = volume_name(&id);
            prop_assert!(!name.contains('/') && !name.contains('\0') && !name.starts_with('.'));
            prop_assert_eq!(volume_id_of(&name), Some(id));
        }

        #[test]
        fn any_name_is_one_id_or_none(name in "[a%2F/.]{0,8}") {
            if let Some(id) = volume_id_of(&name) {
                prop_assert_eq!(volume_name(&id), name);
            }
        }
    }
}
