//! The `_metadata` document: what a backup is made of.

use super::hex::{from_hex, to_hex};
use super::names::BackupName;
use super::python::to_python_json;
use super::time::Timestamp;
use crate::codec::Codec;
use crate::error::{Error, Result};
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The only version of the format that there ever was.
pub const FORMAT_VERSION: &str = "1.0.0";

/// No image can be larger: offsets in files are signed.
const LONGEST_IMAGE: u64 = i64::MAX as u64;

/// One chunk: an object and the range of the volume that it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectEntry {
    /// The number in the object's name, [`BackupName::chunk`].
    pub number: u64,
    /// Where its data begins in the volume, in bytes.
    pub offset: u64,
    /// Length of the data once decoded, in bytes.
    pub length: u64,
    /// How it is stored.
    pub codec: Codec,
    /// The codec as Cinder spells it here.
    pub compression: String,
    /// md5 of the data (Liberty and later) or of the stored bytes (before).
    pub md5: [u8; 16],
}

/// What cinderfs adds under the key `cinderfs`, which Cinder ignores.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Own {
    /// The backup's name is the name of the file that was written: show it as it is.
    pub file: bool,
    /// Modification time, when a program set one: seconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtime: Option<i64>,
    /// The part of it below a second, in nanoseconds.
    pub mtime_nsec: u32,
    /// Exact size of the image in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Bytes in blocks that are not all zero.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_bytes: Option<u64>,
    /// Bytes that the chunks take in the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored_bytes: Option<u64>,
    /// How often it had been published before; the list of hashes says the same. Where
    /// the two differ, the program ended between writing one and the other.
    #[serde(skip_serializing_if = "is_zero")]
    pub generation: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Own {
    /// The modification time, when a program set one.
    pub fn modified(&self) -> Option<SystemTime> {
        let seconds = self.mtime?;
        let nanos = Duration::from_nanos(u64::from(self.mtime_nsec.min(999_999_999)));
        let distance = Duration::from_secs(seconds.unsigned_abs());
        let whole = if seconds >= 0 {
            UNIX_EPOCH.checked_add(distance)
        } else {
            UNIX_EPOCH.checked_sub(distance)
        };
        whole?.checked_add(nanos)
    }

    /// Keeps `at` as the modification time.
    pub fn set_modified(&mut self, at: SystemTime) {
        let (seconds, nanos) = match at.duration_since(UNIX_EPOCH) {
            Ok(after) => (after.as_secs().cast_signed(), after.subsec_nanos()),
            Err(before) => {
                let before = before.duration();
                let seconds = 0i64.saturating_sub_unsigned(before.as_secs());
                match before.subsec_nanos() {
                    0 => (seconds, 0),
                    n => (seconds.saturating_sub(1), 1_000_000_000 - n),
                }
            }
        };
        self.mtime = Some(seconds);
        self.mtime_nsec = nanos;
    }
}

/// A parsed and checked `_metadata` document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// The user's name for the backup.
    pub backup_name: Option<String>,
    /// The user's words on it.
    pub backup_description: Option<String>,
    /// When the backup was made.
    pub created_at: Option<Timestamp>,
    /// The backup that this one is an increment on.
    pub parent_id: Option<String>,
    /// Cinder's record of the volume: a JSON document inside a string.
    pub volume_meta: Option<String>,
    /// The chunks, in the order in which they were written.
    pub objects: Vec<ObjectEntry>,
    /// What cinderfs added.
    pub own: Own,
}

#[derive(Deserialize)]
struct Raw {
    version: String,
    backup_id: Option<String>,
    volume_id: Option<String>,
    backup_name: Option<String>,
    backup_description: Option<String>,
    created_at: Option<String>,
    objects: Vec<OneKey>,
    /// Outer `None`: the key is absent, as before Kilo.
    #[serde(default, deserialize_with = "present")]
    parent_id: Option<Option<String>>,
    volume_meta: Option<String>,
    #[serde(default)]
    cinderfs: Own,
}

#[derive(Deserialize)]
struct RawObject {
    offset: u64,
    length: u64,
    compression: String,
    md5: String,
}

/// An object of exactly one key. Anything else is refused where it stands: a document of
/// nothing but empty ones would take many times its own size in memory.
struct OneKey(String, RawObject);

impl<'de> Deserialize<'de> for OneKey {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct OneKeyVisitor;

        impl<'de> Visitor<'de> for OneKeyVisitor {
            type Value = OneKey;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with exactly one key")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<OneKey, A::Error> {
                let wrong = |length| A::Error::invalid_length(length, &self);
                let (name, fields) = map.next_entry()?.ok_or_else(|| wrong(0))?;
                match map.next_entry::<IgnoredAny, IgnoredAny>()? {
                    None => Ok(OneKey(name, fields)),
                    Some(_) => Err(wrong(2)),
                }
            }
        }

        from.deserialize_map(OneKeyVisitor)
    }
}

fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Option<String>>, D::Error> {
    Option::<String>::deserialize(from).map(Some)
}

impl Metadata {
    /// Reads and checks the document of the backup `name`.
    ///
    /// # Errors
    /// `Corrupt` when it is no JSON, of another version, of another backup, names an
    /// object outside the backup, or holds a length or offset that cannot be.
    pub fn parse(name: &BackupName, text: &[u8]) -> Result<Self> {
        let corrupt = |reason: String| Error::corrupt("read metadata", name.metadata(), reason);
        let raw: Raw = serde_json::from_slice(text).map_err(|e| corrupt(e.to_string()))?;
        if raw.version != FORMAT_VERSION {
            return Err(corrupt(format!(
                "version is {:?}, not {FORMAT_VERSION:?}",
                raw.version
            )));
        }
        for (key, value, expected) in [
            ("backup_id", &raw.backup_id, &name.backup_id),
            ("volume_id", &raw.volume_id, &name.volume_id),
        ] {
            if value.as_ref().is_some_and(|value| value != expected) {
                return Err(corrupt(format!("{key} is not the {expected} of its name")));
            }
        }
        let mut objects = Vec::with_capacity(raw.objects.len());
        for OneKey(object, fields) in raw.objects {
            objects.push(check_object(name, object, fields).map_err(corrupt)?);
        }
        if raw.parent_id.is_none() {
            mend_offsets(&mut objects);
        }
        refuse_overlaps(&objects).map_err(corrupt)?;
        if raw.cinderfs.size.is_some_and(|size| size > LONGEST_IMAGE) {
            return Err(corrupt("the image's size is beyond any volume".into()));
        }
        Ok(Self {
            backup_name: raw.backup_name,
            backup_description: raw.backup_description,
            created_at: raw.created_at.as_deref().and_then(Timestamp::parse),
            parent_id: raw.parent_id.flatten(),
            volume_meta: raw.volume_meta,
            objects,
            own: raw.cinderfs,
        })
    }

    /// The document of a backup that we made, byte for byte in Cinder's style.
    pub fn format(&self, name: &BackupName) -> Vec<u8> {
        let objects: Vec<Value> = self
            .objects
            .iter()
            .map(|object| {
                json!({ name.chunk(object.number): {
                    "compression": object.compression,
                    "length": object.length,
                    "md5": to_hex(&object.md5),
                    "offset": object.offset,
                }})
            })
            .collect();
        to_python_json(&json!({
            "version": FORMAT_VERSION,
            "backup_id": name.backup_id,
            "volume_id": name.volume_id,
            "backup_name": self.backup_name,
            "backup_description": self.backup_description,
            "created_at": self.created_at.map(Timestamp::to_python),
            "objects": objects,
            "parent_id": self.parent_id,
            "volume_meta": self.volume_meta,
            "cinderfs": self.own,
        }))
    }

    /// The document `text` with another name, description or mark of ours; every other
    /// key, known or not, stays as it was.
    ///
    /// # Errors
    /// `Corrupt` when `text` is no JSON object.
    pub fn rewrite(&self, name: &BackupName, text: &[u8]) -> Result<Vec<u8>> {
        let mut document: Value = serde_json::from_slice(text)
            .map_err(|e| Error::corrupt("rewrite metadata", name.metadata(), e))?;
        let Some(keys) = document.as_object_mut() else {
            return Err(Error::corrupt(
                "rewrite metadata",
                name.metadata(),
                "not a JSON object",
            ));
        };
        keys.insert("backup_name".into(), json!(self.backup_name));
        keys.insert("backup_description".into(), json!(self.backup_description));
        keys.insert("cinderfs".into(), json!(self.own));
        Ok(to_python_json(&document))
    }

    /// The end of the last chunk in the volume, in bytes.
    pub fn end(&self) -> u64 {
        // `parse` made sure that the sum cannot overflow.
        self.objects
            .iter()
            .map(|object| object.offset + object.length)
            .max()
            .unwrap_or(0)
    }
}

fn check_object(name: &BackupName, object: String, raw: RawObject) -> Result<ObjectEntry, String> {
    let Some(number) = name.chunk_number(&object) else {
        return Err(format!(
            "object {object:?} is not named as one of this backup's"
        ));
    };
    let Some(codec) = Codec::from_metadata(&raw.compression) else {
        return Err(format!(
            "object {object}: compression {:?} is unknown",
            raw.compression
        ));
    };
    if raw
        .offset
        .checked_add(raw.length)
        .is_none_or(|end| end > LONGEST_IMAGE)
    {
        return Err(format!(
            "object {object}: offset {} and length {} are beyond any volume",
            raw.offset, raw.length
        ));
    }
    let Some(md5) = from_hex(raw.md5.as_bytes()) else {
        return Err(format!("object {object}: md5 {:?} is none", raw.md5));
    };
    Ok(ObjectEntry {
        number,
        offset: raw.offset,
        length: raw.length,
        codec,
        compression: raw.compression,
        md5,
    })
}

/// Havana, Icehouse and Juno noted the offset after reading a chunk and restored by
/// writing in order, without seeking. Every offset is then the end of its chunk.
/// (Grizzly's are right; a document with a `parent_id` is Kilo's or later.)
fn mend_offsets(objects: &mut [ObjectEntry]) {
    let mut end = 0u64;
    for object in objects.iter() {
        let Some(sum) = end.checked_add(object.length) else {
            return;
        };
        end = sum;
        if object.offset != end {
            return;
        }
    }
    for object in objects {
        object.offset -= object.length;
    }
}

/// Two chunks of one backup never share a byte: Cinder cuts the volume into pieces.
fn refuse_overlaps(objects: &[ObjectEntry]) -> Result<(), String> {
    let mut sorted: Vec<&ObjectEntry> = objects.iter().filter(|o| o.length > 0).collect();
    sorted.sort_by_key(|object| object.offset);
    for pair in sorted.windows(2) {
        if let [one, next] = pair
            && one.offset + one.length > next.offset
        {
            return Err(format!(
                "objects {:05} and {:05} overlap",
                one.number, next.number
            ));
        }
    }
    Ok(())
}

/// The largest `_metadata` document that is read, in bytes: some 500,000 chunks.
pub(crate) const LARGEST_METADATA: u64 = 128 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn name() -> BackupName {
        BackupName::new_posix(None, "vol", "14557733-15c7", "20261121003832").unwrap()
    }

    fn document(objects: &str, rest: &str) -> Vec<u8> {
        format!(
            r#"{{"version": "1.0.0", "backup_id": "14557733-15c7", "volume_id": "vol",
               "backup_name": null, "backup_description": null,
               "created_at": "2014-05-06 07:08:09", "objects": [{objects}] {rest}}}"#
        )
        .into_bytes()
    }

    fn object(number: u64, offset: u64, length: u64) -> String {
        format!(
            r#"{{"{}": {{"offset": {offset}, "length": {length}, "compression": "ZLIB",
               "md5": "9dd4e461268c8034f5c8564e155c67a6", "sha": 1}}}}"#,
            name().chunk(number)
        )
    }

    #[test]
    fn mends_the_offsets_of_havana_to_juno_only() {
        let late = [object(1, 10, 10), object(2, 20, 10), object(3, 23, 3)].join(",");
        let offsets = |text: &[u8]| -> Vec<u64> {
            let metadata = Metadata::parse(&name(), text).unwrap();
            metadata.objects.iter().map(|o| o.offset).collect()
        };
        assert_eq!(offsets(&document(&late, "")), [0, 10, 20]);
        let kilo = [object(1, 10, 10), object(2, 20, 10)].join(",");
        assert_eq!(
            offsets(&document(&kilo, r#", "parent_id": null"#)),
            [10, 20]
        );
        let right = [object(1, 0, 10), object(2, 10, 10)].join(",");
        assert_eq!(offsets(&document(&right, "")), [0, 10]);
    }

    #[test]
    fn refuses_what_leads_elsewhere_or_cannot_be() {
        let foreign = object(1, 0, 1).replace(&name().chunk(1), "../../etc/passwd");
        for text in [
            document(&foreign, ""),
            document(&object(1, u64::MAX, 1), ""),
            document(&object(1, 1, u64::MAX), ""),
            document(&[object(1, 0, 5), object(2, 4, 5)].join(","), ""),
            document(&object(1, 0, 1).replace("ZLIB", "lzma"), ""),
            document(&object(1, 0, 1).replace(r#""ZLIB""#, "null"), ""),
            document(&object(1, 0, 1).replace("9dd4", "9dd"), ""),
            document(
                &object(1, 0, 1).replace(r#""offset": 0"#, r#""offset": -1"#),
                "",
            ),
            document("{}", ""),
            document("", "").replace_bytes("1.0.0", "1.1.0"),
            document("", "").replace_bytes(r#""vol""#, r#""other""#),
            b"{\"version\": \"1.0.0\"".to_vec(),
            b"[]".to_vec(),
            Vec::new(),
        ] {
            let error = Metadata::parse(&name(), &text).unwrap_err();
            assert_eq!(
                error.kind(),
                Kind::Corrupt,
                "{}",
                String::from_utf8_lossy(&text)
            );
        }
    }

    trait ReplaceBytes {
        fn replace_bytes(&self, from: &str, to: &str) -> Vec<u8>;
    }
    impl ReplaceBytes for Vec<u8> {
        fn replace_bytes(&self, from: &str, to: &str) -> Vec<u8> {
            String::from_utf8_lossy(self).replace(from, to).into_bytes()
        }
    }

    #[test]
    fn writes_what_it_reads_and_keeps_what_it_does_not_know() {
        let text = document(
            &object(1, 0, 10),
            r#", "parent_id": null, "future": {"a": 1}"#,
        );
        let mut metadata = Metadata::parse(&name(), &text).unwrap();
        metadata.backup_name = Some("täglich".into());
        metadata.own.file = true;
        let rewritten = metadata.rewrite(&name(), &text).unwrap();
        assert_eq!(Metadata::parse(&name(), &rewritten).unwrap(), metadata);
        let value: Value = serde_json::from_slice(&rewritten).unwrap();
        assert_eq!(value["future"]["a"], 1);
        assert_eq!(value["objects"][0][name().chunk(1)]["sha"], 1);
        let formatted = metadata.format(&name());
        assert_eq!(Metadata::parse(&name(), &formatted).unwrap(), metadata);
    }

    #[test]
    fn keeps_times_before_the_epoch() {
        for at in [
            UNIX_EPOCH,
            UNIX_EPOCH + Duration::new(5, 7),
            UNIX_EPOCH - Duration::new(5, 7),
            UNIX_EPOCH - Duration::from_secs(5),
        ] {
            let mut own = Own::default();
            own.set_modified(at);
            assert_eq!(own.modified(), Some(at));
        }
    }
}
