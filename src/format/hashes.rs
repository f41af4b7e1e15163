//! The `_sha256file`: the hash of every block of the volume.
//!
//! It is JSON, but at 72 bytes a block it grows to gigabytes for a large volume, so it
//! is never parsed as a whole: its head and its tail are read, and the entries between
//! them stand at a fixed distance, because `json.dumps(indent=2)` wrote them.

use super::hex::{from_hex, push_hex};
use super::metadata::FORMAT_VERSION;
use super::names::BackupName;
use super::python::to_python_json;
use super::time::Timestamp;
use serde_json::json;
use sha2::{Digest as _, Sha256};

/// The sha256 of one block.
pub type Digest = [u8; DIGEST_BYTES];
/// Bytes of a [`Digest`].
pub const DIGEST_BYTES: usize = 32;

const HEX_BYTES: usize = 2 * DIGEST_BYTES;
const LIST_KEY: &[u8] = b"\"sha256s\": [";
const GENERATION_KEY: &[u8] = b"\"generation\":";

/// The hash of `length` zero bytes.
pub fn zero_digest(length: u64) -> Digest {
    const PIECE: [u8; 4096] = [0; 4096];
    let mut hasher = Sha256::new();
    let mut left = length;
    while left > 0 {
        let piece = left.min(PIECE.len() as u64) as usize;
        hasher.update(&PIECE[..piece]);
        left -= piece as u64;
    }
    hasher.finalize().into()
}

/// What the first bytes of a `_sha256file` tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashListHeader {
    /// Bytes that each hash stands for (all but the last).
    pub block_size: u64,
    /// Where the first hash's opening quote stands in the file.
    pub first: u64,
    /// Distance from one hash to the next, in bytes.
    pub stride: u64,
    /// How often the backup had been published before; 0 for all of Cinder's.
    pub generation: u64,
}

impl HashListHeader {
    /// How many hashes there are in a file of `size` bytes whose last hash is followed by
    /// `tail` more; `None` when that does not come out even, or there are none.
    pub fn count_in(&self, size: u64, tail: u64) -> Option<u64> {
        let last = size.checked_sub(tail + HEX_BYTES as u64 + 2)?;
        let distance = last.checked_sub(self.first)?;
        match self.stride {
            0 => (distance == 0).then_some(1),
            stride => distance
                .is_multiple_of(stride)
                .then_some(distance / stride + 1),
        }
    }

    /// Reads the head: everything before the list, and the list's first entries.
    /// `None` when it is not written as Cinder writes it.
    pub fn parse(head: &[u8]) -> Option<Self> {
        let key = find(head, LIST_KEY)?;
        let block_size = number_after(head.get(..key)?, b"\"chunk_size\":")?;
        let generation = number_after(head.get(..key)?, GENERATION_KEY).unwrap_or(0);
        let list = key + LIST_KEY.len();
        let first = list
            + head
                .get(list..)?
                .iter()
                .position(|b| !b.is_ascii_whitespace())?;
        if head.get(first) == Some(&b']') {
            return (block_size > 0).then_some(Self {
                block_size,
                first: first as u64,
                stride: 0,
                generation,
            });
        }
        read_hex(head.get(first..)?)?;
        let behind = first + HEX_BYTES + 2;
        // With a single hash there is no next one, and the distance does not matter.
        let stride = head
            .get(behind..)?
            .iter()
            .position(|b| *b == b'"')
            .map_or(0, |gap| HEX_BYTES + 2 + gap);
        (block_size > 0).then_some(Self {
            block_size,
            first: first as u64,
            stride: stride as u64,
            generation,
        })
    }
}

/// What the last bytes of a `_sha256file` tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashListTail {
    /// Where the last hash's opening quote stands in the file.
    pub last: u64,
}

impl HashListTail {
    /// Reads the tail, which begins at `offset` of the file.
    pub fn parse(tail: &[u8], offset: u64) -> Option<Self> {
        // The volume's id follows the list, and may hold a bracket, too.
        let mut before = tail;
        while let Some(end) = before.iter().rposition(|b| *b == b']') {
            before = before.get(..end)?;
            let list = before.trim_ascii_end();
            if let Some(open) = list.len().checked_sub(HEX_BYTES + 2)
                && list.get(open..).and_then(read_hex).is_some()
            {
                return Some(Self {
                    last: offset + open as u64,
                });
            }
        }
        None
    }
}

/// Reads consecutive entries, `stride` bytes apart, from `text`, which begins at the
/// first one's quote. `None` when any of them is not a hash.
pub fn parse_sha256_entries(text: &[u8], stride: u64, count: usize) -> Option<Vec<Digest>> {
    let stride = usize::try_from(stride).ok()?;
    (0..count)
        .map(|i| read_hex(text.get(i.checked_mul(stride)?..)?))
        .collect()
}

/// `"<64 hex digits>"` at the beginning of `text`.
fn read_hex(text: &[u8]) -> Option<Digest> {
    let text = text.get(..HEX_BYTES + 2)?;
    match text {
        [b'"', digits @ .., b'"'] => from_hex(digits),
        _ => None,
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

fn number_after(text: &[u8], key: &[u8]) -> Option<u64> {
    let rest = text.get(find(text, key)? + key.len()..)?;
    let digits: Vec<u8> = rest
        .iter()
        .skip_while(|b| b.is_ascii_whitespace())
        .take_while(|b| b.is_ascii_digit())
        .copied()
        .collect();
    std::str::from_utf8(&digits).ok()?.parse().ok()
}

/// The `_sha256file` with an empty list. Cinder ignores a key that it does not know; the
/// one of ours is there only when the backup was published before.
fn document(
    name: &BackupName,
    backup_name: Option<&str>,
    description: Option<&str>,
    created_at: Timestamp,
    block_size: u64,
    generation: u64,
) -> Vec<u8> {
    let mut document = json!({
        "version": FORMAT_VERSION,
        "backup_id": name.backup_id,
        "volume_id": name.volume_id,
        "backup_name": backup_name,
        "backup_description": description,
        "created_at": created_at.to_python(),
        "chunk_size": block_size,
        "sha256s": [],
    });
    if generation > 0
        && let Some(keys) = document.as_object_mut()
    {
        keys.insert("cinderfs".into(), json!({ "generation": generation }));
    }
    to_python_json(&document)
}

/// Everything of a new `_sha256file` up to and with the opening bracket of the list.
pub fn format_sha256file_head(
    name: &BackupName,
    backup_name: Option<&str>,
    description: Option<&str>,
    created_at: Timestamp,
    block_size: u64,
    generation: u64,
) -> Vec<u8> {
    let mut text = document(
        name,
        backup_name,
        description,
        created_at,
        block_size,
        generation,
    );
    // No name can hold the key: every quote inside one is escaped.
    if let Some(at) = find(&text, LIST_KEY) {
        text.truncate(at + LIST_KEY.len());
    }
    text
}

/// Everything behind the last entry; `empty` when there was none.
pub fn format_sha256file_tail(name: &BackupName, empty: bool) -> Vec<u8> {
    let close = if empty { "]" } else { "\n  ]" };
    let rest = to_python_json(&json!({
        "version": FORMAT_VERSION,
        "volume_id": name.volume_id,
    }));
    // "{" goes, its "\n  ..." stays.
    let mut text = format!("{close},").into_bytes();
    text.extend_from_slice(rest.get(1..).unwrap_or_default());
    text
}

/// Appends one entry of the list to `text`.
pub fn push_sha256_entry(text: &mut Vec<u8>, first: bool, digest: &Digest) {
    text.extend_from_slice(if first { b"\n    \"" } else { b",\n    \"" });
    push_hex(text, digest);
    text.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::super::hex::to_hex;
    use super::*;
    use serde_json::Value;

    fn list(count: u8) -> (Vec<u8>, Vec<Digest>) {
        let name = BackupName::new_posix(None, "vol", "14557733", "20261121003832").unwrap();
        let digests: Vec<Digest> = (0..count).map(|i| [i; DIGEST_BYTES]).collect();
        let at = Timestamp::parse("2026-11-21 00:14:26").unwrap();
        let tricky = Some("a \"sha256s\": [ \"generation\": 9 ☃");
        let mut text = format_sha256file_head(&name, tricky, None, at, 4096, u64::from(count));
        for (i, digest) in digests.iter().enumerate() {
            push_sha256_entry(&mut text, i == 0, digest);
        }
        text.extend(format_sha256file_tail(&name, digests.is_empty()));
        let whole: Value = serde_json::from_slice(&text).unwrap();
        let hex: Vec<Value> = digests.iter().map(|digest| to_hex(digest).into()).collect();
        assert_eq!(whole["sha256s"], Value::Array(hex));
        // In one piece, it is written the same.
        assert_eq!(
            String::from_utf8(to_python_json(&whole)),
            String::from_utf8(text.clone())
        );
        (text, digests)
    }

    #[test]
    fn is_written_and_read_in_pieces() {
        for count in [0, 1, 2, 200] {
            let (text, digests) = list(count);
            let header = HashListHeader::parse(&text[..text.len().min(4096)]).unwrap();
            assert_eq!(header.block_size, 4096);
            assert_eq!(header.generation, u64::from(count));
            let name = BackupName::new_posix(None, "vol", "14557733", "20261121003832").unwrap();
            let tail = format_sha256file_tail(&name, false).len() as u64;
            let size = text.len() as u64;
            let found = header.count_in(size, tail);
            assert_eq!(found, Some(u64::from(count)).filter(|count| *count > 0));
            for wrong in [size - 1, size + 1, tail, 0] {
                assert_eq!(header.count_in(wrong, tail), None);
            }
            if count == 0 {
                assert_eq!(HashListTail::parse(&text, 0), None);
                continue;
            }
            let cut = text.len().saturating_sub(300);
            let tail = HashListTail::parse(&text[cut..], cut as u64).unwrap();
            assert_eq!(
                tail.last,
                header.first + u64::from(count - 1) * header.stride
            );
            let from = header.first as usize;
            let read = parse_sha256_entries(&text[from..], header.stride, digests.len());
            assert_eq!(read, Some(digests));
        }
    }

    #[test]
    fn reads_python_2_with_blanks_behind_commas() {
        let (text, digests) = list(3);
        let text = String::from_utf8(text)
            .unwrap()
            .replace(",\n", ", \n")
            .into_bytes();
        let header = HashListHeader::parse(&text).unwrap();
        assert_eq!(header.stride, 73);
        let from = header.first as usize;
        assert_eq!(
            parse_sha256_entries(&text[from..], header.stride, 3),
            Some(digests)
        );
    }

    #[test]
    fn refuses_what_is_no_list() {
        for text in [
            &b""[..],
            b"{}",
            b"\"sha256s\": [",
            b"\"chunk_size\": 0, \"sha256s\": []",
            b"\"chunk_size\": 4, \"sha256s\": [\n \"xy\"]",
        ] {
            assert_eq!(HashListHeader::parse(text), None);
        }
        assert_eq!(parse_sha256_entries(b"\"00\"", 72, 1), None);
        assert_eq!(parse_sha256_entries(b"", u64::MAX, 2), None);
    }

    #[test]
    fn knows_the_hash_of_zeros() {
        assert_eq!(
            zero_digest(10_000),
            <[u8; 32]>::from(Sha256::digest(vec![0; 10_000]))
        );
        assert_eq!(zero_digest(0), <[u8; 32]>::from(Sha256::digest(b"")));
    }
}
