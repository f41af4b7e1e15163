//! The names of objects: `<folder>/<prefix>-<id of the backup>`, as Cinder makes them. A
//! backup of ours has the id of its volume as its folder, below the folder of stages.
//!
//! Pure.

use super::client::Mode;
use crate::error::{Error, Kind, Result};
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};

/// The folder of what belongs to no known volume.
pub const UNASSIGNED: &str = "unassigned";
/// Where images of devices are, for Cinder.
pub const DEVICES: &str = "/dev";

/// What an object is called.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name {
    /// The path that it was backed up by.
    pub path: PathBuf,
    pub mode: Mode,
    /// The id of the backup.
    pub id: String,
}

impl Name {
    /// Takes a path apart; `None` when it is somebody else's.
    pub fn parse(path: &str, mode: Mode, prefix: &str) -> Option<Self> {
        let path = Path::new(path);
        let id = path.file_name()?.to_str()?;
        let id = id.strip_prefix(prefix)?.strip_prefix('-')?;
        is_id(id).then(|| Self {
            path: path.to_owned(),
            mode,
            id: id.to_owned(),
        })
    }

    /// The volume that a backup of ours names by its folder.
    pub fn own_volume(&self, staging: &Path) -> Option<String> {
        let folder = self.path.parent()?;
        let volume = folder.file_name()?.to_str()?;
        (folder.parent()? == staging && is_volume(volume)).then(|| volume.to_owned())
    }

    /// A short name that no other object has, for files that belong to this one.
    pub fn key(&self) -> String {
        let digest = Sha256::digest(format!("{}\0{}", self.mode.name(), self.path.display()));
        let short: String = digest.iter().take(4).map(|b| format!("{b:02x}")).collect();
        format!("{}-{short}", self.id)
    }
}

/// What a path that the server has told of can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// A backup.
    Backup(Name),
    /// Something else that begins as the names of backups do.
    Odd,
    /// Somebody else's.
    Foreign,
}

/// What a path is, for who lists what the server has.
pub fn told(path: &str, mode: Mode, prefix: &str) -> Told {
    if let Some(name) = Name::parse(path, mode, prefix) {
        return Told::Backup(name);
    }
    // As the last part of a path, however it ends.
    let name = path.rsplit('/').next().unwrap_or_default().trim_start();
    let rest = name.strip_prefix(prefix);
    match rest.is_some_and(|rest| rest.starts_with('-')) {
        true => Told::Odd,
        false => Told::Foreign,
    }
}

/// Whether the client takes a path for nothing but itself.
pub fn is_plain(path: &Path) -> bool {
    let is_special =
        |c: char| c.is_control() || matches!(c, '*' | '?' | '[' | ']' | '{' | '}' | '"' | '\'');
    let text = path.to_str();
    path.is_absolute() && text.is_some_and(|text| !text.contains(is_special))
}

/// A UUID as Cinder writes them.
pub fn is_id(text: &str) -> bool {
    text.len() == 36 && uuid::Uuid::try_parse(text).is_ok()
}

/// What can be the folder of a volume without meaning anything to the client.
fn is_volume(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    !name.is_empty()
        && name.len() <= 255
        && !name.starts_with(['.', '-'])
        && name.chars().all(fits)
        && name != UNASSIGNED
}

/// Refuses a volume that no backup of ours can name by its folder.
///
/// # Errors
/// `Invalid`.
pub fn check_volume(volume_id: &str) -> Result<()> {
    if is_volume(volume_id) {
        return Ok(());
    }
    let reason = match volume_id {
        UNASSIGNED => "that is no volume: it holds backups whose volume is not known",
        _ => "the client would take some of its characters for a pattern",
    };
    let subject = format!("volume {volume_id}");
    Err(Error::new(Kind::Invalid, "back up", subject, reason)
        .advise("name a volume by its id: letters, digits, dots, dashes and underscores"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "14557733-15c7-5293-a026-e4123a3b50c9";

    #[test]
    fn only_what_has_another_name_is_somebody_elses() {
        let told = |path: &str| told(path, Mode::File, "backup");
        assert!(matches!(
            told(&format!("/srv/v/backup-{ID}")),
            Told::Backup(_)
        ));
        for path in [
            format!("/srv/v/backup-{ID} "),
            format!("/srv/v/backup-{ID}\u{1b}"),
            format!("/srv/v/ backup-{ID}"),
            "/srv/v/backup-of-my-cv".into(),
            "/srv/v/backup-".into(),
        ] {
            assert_eq!(told(&path), Told::Odd, "{path}");
        }
        for path in ["/srv/v/backup", "/srv/v/other-1", "/srv/backup-1/x", "/"] {
            assert_eq!(told(path), Told::Foreign, "{path}");
        }
        assert!(is_plain(Path::new("/srv/a b/backup-1")));
        for path in [
            "srv/x", "/a*", "/a?", "/[a]", "{/a}/b", "/a\"", "/a'", "/a\n",
        ] {
            assert!(!is_plain(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn names_are_taken_apart() {
        let parse = |path: &str| Name::parse(path, Mode::File, "backup");
        let name = parse(&format!("/srv/tsm/vol-1/backup-{ID}")).unwrap();
        assert_eq!(name.id, ID);
        assert_eq!(name.own_volume(Path::new("/srv/tsm")).unwrap(), "vol-1");
        assert_eq!(name.own_volume(Path::new("/srv")), None);
        for other in ["/srv/backup-1", "/srv/backup", "/", "/srv/xbackup-1"] {
            assert_eq!(parse(other), None, "{other}");
        }
        assert_eq!(parse(&format!("/srv/other-{ID}")), None);
        let unassigned = parse(&format!("/srv/tsm/unassigned/backup-{ID}")).unwrap();
        assert_eq!(unassigned.own_volume(Path::new("/srv/tsm")), None);
        assert_ne!(name.key(), unassigned.key());
        assert!(check_volume("a*").is_err() && check_volume(UNASSIGNED).is_err());
        assert!(check_volume(ID).is_ok());
    }
}
