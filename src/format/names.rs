//! What containers and objects are called.
//!
//! A backup's objects share a prefix, which Cinder keeps as `service_metadata`. Volume
//! and backup ids are read from it, from the right, so that a volume id may hold
//! anything.

use super::time::Timestamp;
use crate::error::{Error, Kind, Result};

/// The object that makes a backup exist.
pub const METADATA_SUFFIX: &str = "_metadata";
/// The object with the hash of every block of the volume.
pub const SHA256FILE_SUFFIX: &str = "_sha256file";

/// File names end here on every file system that matters.
const LONGEST_NAME: usize = 255;
/// Of a UUID in the form with hyphens.
const UUID_LENGTH: usize = 36;

/// How a driver of Cinder names containers and prefixes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// posix, nfs, glusterfs: a folder a backup, `volume_V_STAMP_backup_B`.
    Posix,
    /// swift: one container, `volume_V/STAMP/az_ZONE_backup_B`.
    Swift,
}

impl Layout {
    /// The part of a name behind the volume's id, up to the backup's id.
    fn split(self, rest: &str) -> Option<(&str, &str)> {
        match self {
            Self::Posix => {
                let (volume, stamp) = rest.rsplit_once('_')?;
                Some((volume, stamp))
            }
            Self::Swift => {
                let (head, zone) = rest.rsplit_once('/')?;
                zone.strip_prefix("az_")?;
                head.rsplit_once('/')
            }
        }
    }
}

/// Where a backup lies: its container and the prefix of its objects, and the ids in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BackupName {
    /// Folder (posix) or container (swift) that holds the objects.
    pub container: String,
    /// Cinder's `service_metadata`: what every object's name begins with.
    pub prefix: String,
    /// The volume that was backed up.
    pub volume_id: String,
    /// The backup itself.
    pub backup_id: String,
    /// When the prefix was made, `YYYYmmddHHMMSS`, UTC.
    pub stamp: String,
}

impl BackupName {
    /// The name of a new backup. `container` overrides the layout's own choice.
    ///
    /// # Errors
    /// `TooLong` when the volume's id leaves no room for an object's name.
    pub fn new_posix(
        container: Option<&str>,
        volume_id: &str,
        backup_id: &str,
        stamp: &str,
    ) -> Result<Self> {
        let container = match container {
            Some(container) => container.to_owned(),
            None => {
                let first = backup_id.get(0..2).unwrap_or("00");
                let second = backup_id.get(2..4).unwrap_or("00");
                format!("{first}/{second}/{backup_id}")
            }
        };
        if volume_id.contains(['/', '\0']) {
            return Err(Error::new(
                Kind::Invalid,
                "name a backup of volume",
                volume_id.escape_debug().to_string(),
                "a file's name cannot hold the volume's",
            ));
        }
        let prefix = format!("volume_{volume_id}_{stamp}_backup_{backup_id}");
        if prefix.len() + SHA256FILE_SUFFIX.len() > LONGEST_NAME {
            return Err(Error::new(
                Kind::TooLong,
                "name a backup of volume",
                volume_id,
                "the volume's name is too long for an object's name",
            )
            .advise("use at most 170 bytes"));
        }
        Ok(Self {
            container,
            prefix,
            volume_id: volume_id.to_owned(),
            backup_id: backup_id.to_owned(),
            stamp: stamp.to_owned(),
        })
    }

    /// The name of a new backup in a container of objects.
    pub fn new_swift(
        container: &str,
        zone: &str,
        volume_id: &str,
        backup_id: &str,
        stamp: &str,
    ) -> Self {
        Self {
            container: container.to_owned(),
            prefix: format!("volume_{volume_id}/{stamp}/az_{zone}_backup_{backup_id}"),
            volume_id: volume_id.to_owned(),
            backup_id: backup_id.to_owned(),
            stamp: stamp.to_owned(),
        }
    }

    /// Reads the name of a `_metadata` object; `None` when it is none of a backup's.
    pub fn of_metadata(layout: Layout, container: &str, object: &str) -> Option<Self> {
        Self::of_prefix(layout, container, object.strip_suffix(METADATA_SUFFIX)?)
    }

    /// The backup whose metadata, list of hashes or chunk `object` is by its name; `None`
    /// when it is none of these.
    pub fn of_object(layout: Layout, container: &str, object: &str) -> Option<Self> {
        let document = [METADATA_SUFFIX, SHA256FILE_SUFFIX]
            .into_iter()
            .find_map(|suffix| object.strip_suffix(suffix));
        if let Some(prefix) = document {
            return Self::of_prefix(layout, container, prefix);
        }
        let (prefix, _) = object.rsplit_once('-')?;
        let name = Self::of_prefix(layout, container, prefix)?;
        name.chunk_number(object).map(|_| name)
    }

    fn of_prefix(layout: Layout, container: &str, prefix: &str) -> Option<Self> {
        let (head, backup_id) = prefix.strip_prefix("volume_")?.rsplit_once("_backup_")?;
        let (volume_id, stamp) = layout.split(head)?;
        let is_stamp = stamp.len() == 14 && stamp.bytes().all(|b| b.is_ascii_digit());
        if volume_id.is_empty() || backup_id.is_empty() || backup_id.contains('/') || !is_stamp {
            return None;
        }
        Some(Self {
            container: container.to_owned(),
            prefix: prefix.to_owned(),
            volume_id: volume_id.to_owned(),
            backup_id: backup_id.to_owned(),
            stamp: stamp.to_owned(),
        })
    }

    /// The backup of which all names that begin with `start` are chunks: its prefix, a
    /// hyphen and digits. `None` when other names may begin so, too: a UUID, as Cinder's
    /// ids are, is the beginning of no other id, but half of one reads like an id as well.
    pub fn of_chunks(layout: Layout, container: &str, start: &str) -> Option<Self> {
        let (prefix, digits) = start.rsplit_once('-')?;
        let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        let name = Self::of_prefix(layout, container, prefix).filter(|_| is_number)?;
        let is_whole =
            name.backup_id.len() == UUID_LENGTH && uuid::Uuid::try_parse(&name.backup_id).is_ok();
        is_whole.then_some(name)
    }

    /// What sorts behind the names of all chunks, and before all other names of the backup.
    pub fn behind_chunks(&self) -> String {
        format!("{}-~", self.prefix)
    }

    /// The object that makes the backup exist.
    pub fn metadata(&self) -> String {
        format!("{}{METADATA_SUFFIX}", self.prefix)
    }

    /// The object that holds the hashes of the volume's blocks.
    pub fn sha256file(&self) -> String {
        format!("{}{SHA256FILE_SUFFIX}", self.prefix)
    }

    /// The chunk of this number; Cinder counts from 1.
    pub fn chunk(&self, number: u64) -> String {
        format!("{}-{number:05}", self.prefix)
    }

    /// The number of the chunk that `object` names. Metadata names its objects, and it
    /// comes from outside: a name that is not of this form leads somewhere else.
    pub fn chunk_number(&self, object: &str) -> Option<u64> {
        let digits = object
            .strip_prefix(self.prefix.as_str())?
            .strip_prefix('-')?;
        let number = digits.parse().ok()?;
        (self.chunk(number) == object).then_some(number)
    }

    /// When the prefix was made, for backups whose metadata cannot tell.
    pub fn stamped_at(&self) -> Option<Timestamp> {
        Timestamp::parse_stamp(&self.stamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKUP: &str = "14557733-15c7-5293-a026-e4123a3b50c9";

    #[test]
    fn posix_names_read_back() {
        for volume in [
            "74dd5d66-dcfa-5747-ab91-724c9e4956b0",
            "my_vol",
            "x_backup_y",
            "Ж",
        ] {
            let name = BackupName::new_posix(None, volume, BACKUP, "20261121003832").unwrap();
            assert_eq!(name.container, format!("14/55/{BACKUP}"));
            let read =
                BackupName::of_metadata(Layout::Posix, &name.container, &name.metadata()).unwrap();
            assert_eq!(read, name);
        }
    }

    #[test]
    fn swift_names_read_back() {
        let name = BackupName::new_swift("volumebackups", "no/va_1", "v", BACKUP, "20261121003832");
        // A zone with a slash cannot be told apart from the stamp; Cinder has none.
        assert_eq!(
            BackupName::of_metadata(Layout::Swift, "volumebackups", &name.metadata()),
            None
        );
        let name = BackupName::new_swift("volumebackups", "nova", "v", BACKUP, "20261121003832");
        assert_eq!(
            BackupName::of_metadata(Layout::Swift, "volumebackups", &name.metadata()),
            Some(name)
        );
    }

    #[test]
    fn every_object_leads_to_its_backup() {
        let names = [
            (
                Layout::Posix,
                BackupName::new_posix(None, "v", BACKUP, "20261121003832").unwrap(),
            ),
            // An id that ends as a chunk does.
            (
                Layout::Posix,
                BackupName::new_posix(None, "v", "b-00001", "20261121003832").unwrap(),
            ),
            (
                Layout::Swift,
                BackupName::new_swift("c", "nova", "v", BACKUP, "20261121003832"),
            ),
        ];
        for (layout, name) in names {
            for object in [
                name.metadata(),
                name.sha256file(),
                name.chunk(1),
                name.chunk(123_456),
            ] {
                let found = BackupName::of_object(layout, &name.container, &object);
                assert_eq!(found.as_ref(), Some(&name), "{object}");
            }
            for object in [
                format!("{}.tmp", name.metadata()),
                format!("{}-0001", name.prefix),
                format!("{}-000001", name.prefix),
                format!("{}ZZZ", name.prefix),
            ] {
                let found = BackupName::of_object(layout, &name.container, &object);
                assert_ne!(found.as_ref(), Some(&name), "{object}");
            }
        }
    }

    #[test]
    fn other_names_are_not_backups() {
        for object in [
            "volume_a_2026_backup_b_metadata",
            "volume_a_20261121003832_backup_b_metadata.tmp",
            "volume__20261121003832_backup_b_metadata",
            "volume_a_20261121003832_backup__metadata",
            "_metadata",
            "",
        ] {
            assert_eq!(
                BackupName::of_metadata(Layout::Posix, "c", object),
                None,
                "{object}"
            );
        }
    }

    #[test]
    fn owns_only_its_own_chunks() {
        let name = BackupName::new_posix(None, "v", BACKUP, "20261121003832").unwrap();
        for number in [1, 99_999, 100_000] {
            assert_eq!(name.chunk_number(&name.chunk(number)), Some(number));
        }
        for object in [
            "../../etc/passwd".to_owned(),
            format!("{}-00001/../../x", name.prefix),
            format!("{}-0001", name.prefix),
            format!("{}-+0001", name.prefix),
            name.metadata(),
        ] {
            assert_eq!(name.chunk_number(&object), None, "{object}");
        }
    }

    #[test]
    fn tells_the_chunks_of_a_backup_by_their_common_beginning() {
        let id = "1a2b3c4d-0123-4567-89ab-00000000000f";
        for zone in ["nova", "az-0", "a_b-00"] {
            let name = BackupName::new_swift("c", zone, "v", id, "20261121003832");
            for digits in ["0", "0000", "00001", "123456"] {
                let start = format!("{}-{digits}", name.prefix);
                let found = BackupName::of_chunks(Layout::Swift, "c", &start);
                assert_eq!(found.as_ref(), Some(&name), "{start}");
            }
            assert!(name.chunk(u64::MAX) < name.behind_chunks());
            assert!(name.behind_chunks() < name.metadata());
            assert!(name.behind_chunks() < name.sha256file());
            for start in [
                name.prefix.clone(),
                format!("{}-", name.prefix),
                format!("{}-0x", name.prefix),
                name.metadata(),
                // The id and the zone hold what chunks begin with.
                name.prefix.replace("123-4567-89ab-00000000000f", ""),
                format!("volume_v/20261121003832/az_{zone}-0"),
            ] {
                let found = BackupName::of_chunks(Layout::Swift, "c", &start);
                assert_eq!(found, None, "{start}");
            }
        }
    }

    #[test]
    fn refuses_a_volume_id_that_is_too_long() {
        let error =
            BackupName::new_posix(None, &"v".repeat(200), BACKUP, "20261121003832").unwrap_err();
        assert_eq!(error.kind(), Kind::TooLong);
    }
}
