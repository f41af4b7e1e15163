//! What Cinder's ceph driver calls images, snapshots and objects.
//!
//! An image holds one backup, or, when it has backup snapshots, one with each of them.

use super::time::Timestamp;
use serde_json::Value;
use std::time::{SystemTime, UNIX_EPOCH};

/// Between the volume's id and the rest of an image's name.
const BACKUP: &str = ".backup.";
/// What an image is called that is no single backup's: of old Cinders, and of backups of
/// snapshots.
const BASE: &str = "base";
/// Between the backup's id and the time in a snapshot's name.
const SNAP: &str = ".snap.";
/// What the name of an image begins with whose backup we have not finished yet, and of one
/// whose backup is deleted: neither Cinder nor we take it for one that holds backups.
const WRITING: &str = "cinderfs.writing.";
const DELETED: &str = "cinderfs.deleted.";

/// Digits behind the point in times of ours. A Python has at most 7 there.
const OUR_DIGITS: usize = 9;

/// The name of an image that holds backups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseName {
    /// The volume that was backed up.
    pub volume_id: String,
    /// The full backup that the image was made for, where its name says that.
    pub backup_id: Option<String>,
}

impl BaseName {
    /// Reads the name of an image; `None` for one that holds no backups.
    pub fn parse(image: &str) -> Option<Self> {
        let (volume, backup) = image.strip_prefix("volume-")?.rsplit_once(BACKUP)?;
        let known = !volume.is_empty() && is_id(backup);
        known.then(|| Self {
            volume_id: volume.to_owned(),
            backup_id: Some(backup.to_owned()).filter(|backup| backup != BASE),
        })
    }

    /// The name of the image.
    pub fn image(&self) -> String {
        let backup = self.backup_id.as_deref().unwrap_or(BASE);
        format!("volume-{}{BACKUP}{backup}", self.volume_id)
    }
}

/// The name of an image whose backup is not finished yet.
pub fn writing_image(name: &BaseName) -> String {
    format!("{WRITING}{}", name.image())
}

/// A name for an image whose backups are deleted; `unique` tells it from others.
pub fn deleted_image(name: &BaseName, unique: &str) -> String {
    format!("{DELETED}{unique}.{}", name.image())
}

/// Reads the name of an image whose backup was never finished, or is deleted.
pub fn leftover_image(image: &str) -> Option<BaseName> {
    let name = match image.strip_prefix(DELETED) {
        Some(rest) => rest.split_once('.')?.1,
        None => image.strip_prefix(WRITING)?,
    };
    BaseName::parse(name)
}

/// The name of a snapshot that is a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapName {
    /// The backup.
    pub backup_id: String,
    /// When it was made, if the name tells.
    pub created_at: Option<Timestamp>,
}

impl SnapName {
    /// Reads the name of a snapshot; `None` for one that is no backup.
    pub fn parse(snap: &str) -> Option<Self> {
        let (backup, time) = snap.strip_prefix("backup.")?.split_once(SNAP)?;
        let known = is_id(backup) && !time.is_empty();
        known.then(|| Self {
            backup_id: backup.to_owned(),
            created_at: seconds(time),
        })
    }
}

/// A name for a snapshot of a volume from which that backup is made. Cinder calls its own
/// like that, and removes all that are called so when it deletes the volume.
pub fn source_snapshot(backup_id: &str, at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, nanos) = (since.as_secs(), since.subsec_nanos());
    format!("backup.{backup_id}{SNAP}{seconds}.{nanos:0OUR_DIGITS$}")
}

/// Whether a snapshot has a name of [`source_snapshot`], and not one of Cinder's.
pub fn is_our_source_snapshot(snap: &str) -> bool {
    let time = snap.split_once(SNAP).map(|(_, time)| time);
    let fraction = time.and_then(|time| time.split_once('.'));
    fraction.is_some_and(|(_, fraction)| fraction.len() == OUR_DIGITS)
}

/// The name of a snapshot that is a backup made at that time.
pub fn snap_name(backup_id: &str, at: Timestamp) -> String {
    let micros = at.to_micros();
    let (whole, fraction) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
    let fraction = format!("{fraction:06}");
    // As `str(time.time())` gives it: with one digit at least, and none that says nothing.
    let fraction = match fraction.trim_end_matches('0') {
        "" => "0",
        digits => digits,
    };
    format!("backup.{backup_id}{SNAP}{whole}.{fraction}")
}

/// The object with what Cinder knew of the volume of a backup.
pub fn volume_metadata_object(backup_id: &str) -> String {
    format!("backup.{backup_id}.meta")
}

/// The backup whose volume an object tells of.
pub fn of_volume_metadata_object(object: &str) -> Option<&str> {
    let id = object.strip_prefix("backup.")?.strip_suffix(".meta")?;
    is_id(id).then_some(id)
}

/// Cinder's `service_metadata` for a backup in that image.
pub fn service_metadata(image: &str) -> String {
    // As Cinder writes it, with a blank.
    format!("{{\"base\": {}}}", Value::from(image))
}

/// As Cinder's own pattern has it.
fn is_id(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.bytes().all(fits)
}

/// Reads `str(time.time())`: seconds since 1970, with a fraction.
fn seconds(text: &str) -> Option<Timestamp> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    let micros: String = fraction.chars().chain("000000".chars()).take(6).collect();
    let whole: i64 = whole.parse().ok()?;
    Timestamp::from_micros(whole.checked_mul(1_000_000)? + micros.parse::<i64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOLUME: &str = "74dd5d66-dcfa-5747-ab91-724c9e4956b0";
    const ID: &str = "14557733-15c7-5293-a026-e4123a3b50c9";

    #[test]
    fn images_that_hold_backups() {
        for (image, backup_id) in [
            (format!("volume-{VOLUME}.backup.{ID}"), Some(ID.to_owned())),
            (format!("volume-{VOLUME}.backup.base"), None),
        ] {
            let name = BaseName::parse(&image).unwrap();
            assert_eq!((&*name.volume_id, &name.backup_id), (VOLUME, &backup_id));
            assert_eq!(name.image(), image);
        }
        // A volume's id may hold anything.
        let odd = BaseName::parse("volume-a.backup.b.backup.c").unwrap();
        assert_eq!(
            (&*odd.volume_id, odd.backup_id.as_deref()),
            ("a.backup.b", Some("c"))
        );
    }

    #[test]
    fn other_images_hold_none() {
        for image in [
            "volume-74dd5d66-dcfa-5747-ab91-724c9e4956b0",
            "volume-.backup.base",
            "volume-a.backup.",
            "volume-a.backup.B",
            "volume-a.backup.b c",
            "volume-a.backup.base.deleted",
            "a.backup.base",
            "",
        ] {
            assert_eq!(BaseName::parse(image), None, "{image}");
        }
    }

    #[test]
    fn snapshots_that_are_backups() {
        let at = |snap: &str| SnapName::parse(snap).unwrap().created_at;
        let name = SnapName::parse(&format!("backup.{ID}.snap.1795263360.19")).unwrap();
        assert_eq!(name.backup_id, ID);
        assert_eq!(name.created_at, Timestamp::parse("2026-11-21 12:16:00.19"));
        let whole = Timestamp::parse("2026-11-21 12:16:00");
        assert_eq!(at("backup.b.snap.1795263360"), whole);
        assert_eq!(at("backup.b.snap.1795263360.00000049"), whole);
        for odd in ["noon", "1.2.3", "-1", "1e9", "99999999999999999999", "1."] {
            assert_eq!(at(&format!("backup.b.snap.{odd}")), None, "{odd}");
        }
        for other in [
            "backup.b.snap.",
            "backup..snap.1",
            "backup.B.snap.1",
            "snap",
            "backup.b",
        ] {
            assert_eq!(SnapName::parse(other), None, "{other}");
        }
    }

    #[test]
    fn snapshots_of_sources() {
        let at = UNIX_EPOCH + std::time::Duration::from_millis(1_795_263_360_190);
        let snap = source_snapshot(ID, at);
        assert_eq!(snap, format!("backup.{ID}.snap.1795263360.190000000"));
        assert_eq!(SnapName::parse(&snap).unwrap().backup_id, ID);
        assert!(is_our_source_snapshot(&snap));
        for other in ["backup.b.snap.1795263360.1234567", "backup.b.snap.1", "b"] {
            assert!(!is_our_source_snapshot(other), "{other}");
        }
    }

    #[test]
    fn names_of_snapshots_as_cinder_makes_them() {
        for (time, text) in [
            ("2026-11-21 12:16:00.19", "1795263360.19"),
            ("2026-11-21 12:16:00", "1795263360.0"),
            ("2026-11-21 12:16:00.000001", "1795263360.000001"),
        ] {
            let at = Timestamp::parse(time).unwrap();
            let name = snap_name(ID, at);
            assert_eq!(name, format!("backup.{ID}.snap.{text}"));
            assert_eq!(SnapName::parse(&name).unwrap().created_at, Some(at));
        }
    }

    #[test]
    fn images_that_are_no_backups_yet_or_any_more() {
        let name = BaseName::parse(&format!("volume-{VOLUME}.backup.{ID}")).unwrap();
        for image in [writing_image(&name), deleted_image(&name, "0-1")] {
            assert_eq!(BaseName::parse(&image), None);
            assert_eq!(leftover_image(&image), Some(name.clone()));
        }
        for other in [name.image(), "cinderfs.writing.x".into(), String::new()] {
            assert_eq!(leftover_image(&other), None);
        }
    }

    #[test]
    fn metadata_as_cinder_writes_it() {
        assert_eq!(
            service_metadata("volume-v.backup.base"),
            "{\"base\": \"volume-v.backup.base\"}"
        );
        assert_eq!(volume_metadata_object("b"), "backup.b.meta");
        assert_eq!(of_volume_metadata_object("backup.b.meta"), Some("b"));
        assert_eq!(of_volume_metadata_object("backup..meta"), None);
    }
}
