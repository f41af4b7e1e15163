//! Reads a store of files, or a copy of one that is in a Swift, as Cinder 29 reads and
//! writes it, with code that shares nothing with the program's, and refuses whatever Cinder
//! would not have written.

use md5::{Digest as _, Md5};
use serde_json::Value;
use sha2::Sha256;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

const PIECE: usize = 1 << 20;
/// The container of all backups in a Swift.
const IN_SWIFT: &str = "volumebackups";

/// A backup as the store holds it.
#[derive(Debug)]
pub struct Stored {
    /// What the names of its objects begin with.
    pub prefix: String,
    pub id: String,
    pub volume: String,
    pub name: Option<String>,
    pub description: Option<String>,
    pub sha_block: u64,
    pub sha256s: Vec<String>,
    pub objects: Vec<StoredObject>,
    pub metadata: Value,
}

#[derive(Debug)]
pub struct StoredObject {
    pub name: String,
    pub path: PathBuf,
    pub number: u64,
    pub offset: u64,
    pub length: u64,
    pub stored: u64,
    pub compression: String,
    pub md5: String,
}

/// What the backend is configured to.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    pub object_size: u64,
    pub compression: &'a str,
}

pub const SMALL_ZLIB: Expected<'static> = Expected {
    object_size: 1 << 20,
    compression: "zlib",
};

/// Every backup in a store. Whatever is in its containers must be right.
pub fn read_store(root: &Path) -> Vec<Stored> {
    let mut found = Vec::new();
    for one in folders(root) {
        for two in entries(&one) {
            if file_name(&one) == IN_SWIFT {
                for folder in entries(&two) {
                    found.extend(read_folder(&one, &folder));
                }
                continue;
            }
            for container in entries(&two) {
                found.push(read_container(root, &container));
            }
        }
    }
    found
}

/// How many finished backups there are, while others may be in the making.
pub fn count(root: &Path) -> usize {
    let below = |paths: Vec<PathBuf>| paths.into_iter().flat_map(|path| entries(&path));
    let files = below(below(below(folders(root)).collect()).collect());
    files
        .filter(|path| file_name(path).ends_with("_metadata"))
        .count()
}

/// The only backup in a store, of which everything is as Cinder would have it.
pub fn check_only(root: &Path, expected: Expected<'_>, source: &Path) -> Stored {
    let mut all = read_store(root);
    assert_eq!(all.len(), 1, "not exactly one backup: {all:#?}");
    let backup = all.remove(0);
    backup.check(expected, source);
    backup
}

/// What is in the folder of a store, beside the signs that backups are being written.
fn folders(root: &Path) -> Vec<PathBuf> {
    let mut paths = entries(root);
    paths.retain(|path| !file_name(path).starts_with(".cinderfs-lock-"));
    paths
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort_unstable();
    paths
}

fn file_name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o7777
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

/// `json.dumps(value, sort_keys=True, indent=2)`
fn python_json(value: &Value) -> String {
    let mut text = String::new();
    // serde_json keeps keys sorted and indents by two, too; Python escapes what is not
    // ASCII.
    for c in serde_json::to_string_pretty(value).unwrap().chars() {
        if c < '\u{7f}' {
            text.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                text.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    text
}

fn read_json(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        text,
        python_json(&value),
        "{} is not as Python writes it",
        path.display()
    );
    value
}

/// `2026-11-21 00:14:26+00:00`, with or without microseconds.
fn check_created_at(text: &str) {
    let shape: String = text
        .chars()
        .map(|c| if c.is_ascii_digit() { '9' } else { c })
        .collect();
    let shapes = [
        "9999-99-99 99:99:99+99:99",
        "9999-99-99 99:99:99.999999+99:99",
    ];
    let is_right = shapes.contains(&shape.as_str()) && text.ends_with("+00:00");
    assert!(is_right, "created_at {text:?}");
}

fn read_container(root: &Path, container: &Path) -> Stored {
    let id = file_name(container).to_owned();
    let relative = container.strip_prefix(root).unwrap().to_str().unwrap();
    assert_eq!(relative, format!("{}/{}/{id}", &id[..2], &id[2..4]));
    assert_eq!(mode(container), 0o770, "{relative}");
    let files = entries(container);
    for file in &files {
        assert!(file.is_file() && !file.is_symlink(), "{}", file.display());
        assert_eq!(mode(file), 0o660, "{}", file.display());
    }
    let mut all = read_backups(container, files);
    assert_eq!(all.len(), 1, "{relative}: {all:#?}");
    let backup = all.remove(0);
    let (head, stamp) = backup
        .prefix
        .strip_suffix(&format!("_backup_{id}"))
        .and_then(|head| head.rsplit_once('_'))
        .unwrap_or_else(|| panic!("prefix {:?}", backup.prefix));
    assert_eq!(head, format!("volume_{}", backup.volume));
    check_stamp(stamp);
    backup
}

/// Backups of a volume that were begun in the same second.
fn read_folder(container: &Path, folder: &Path) -> Vec<Stored> {
    let backups = read_backups(container, entries(folder));
    for backup in &backups {
        let (head, zone) = backup.prefix.rsplit_once('/').unwrap();
        let (volume, stamp) = head.rsplit_once('/').unwrap();
        assert_eq!(volume, format!("volume_{}", backup.volume));
        check_stamp(stamp);
        assert_eq!(zone, format!("az_nova_backup_{}", backup.id));
    }
    backups
}

fn check_stamp(stamp: &str) {
    let is_right = stamp.len() == 14 && stamp.bytes().all(|b| b.is_ascii_digit());
    assert!(is_right, "{stamp}");
}

/// The backups that these files are, all of them.
fn read_backups(container: &Path, files: Vec<PathBuf>) -> Vec<Stored> {
    let mut names: BTreeSet<String> = files
        .iter()
        .map(|file| file.strip_prefix(container).unwrap())
        .map(|name| name.to_str().unwrap().to_owned())
        .collect();
    let prefixes = names
        .iter()
        .filter_map(|name| name.strip_suffix("_metadata"));
    let prefixes: Vec<String> = prefixes.map(str::to_owned).collect();
    let read = |prefix: &String| {
        // Cinder refuses to restore when there is anything else of that prefix.
        let own = names.extract_if(.., |name| name.starts_with(prefix.as_str()));
        read_backup(container, prefix, &own.collect())
    };
    let found: Vec<Stored> = prefixes.iter().map(read).collect();
    assert!(names.is_empty(), "of no backup: {names:?}");
    found
}

fn read_backup(container: &Path, prefix: &str, listed: &BTreeSet<String>) -> Stored {
    let metadata = read_json(&container.join(format!("{prefix}_metadata")));
    let list = container.join(format!("{prefix}_sha256file"));
    // Without one, Cinder restores it, and builds nothing on it.
    let hashes = list.exists().then(|| read_hashes(&list, &metadata));

    let text = |key: &str| metadata[key].as_str().map(str::to_owned);
    let volume = text("volume_id").unwrap();
    let (_, id) = prefix.rsplit_once("_backup_").unwrap();
    assert_eq!(uuid::Uuid::parse_str(id).unwrap().to_string(), id);

    assert_eq!(
        keys(&metadata),
        BTreeSet::from([
            "backup_description",
            "backup_id",
            "backup_name",
            "cinderfs",
            "created_at",
            "objects",
            "parent_id",
            "version",
            "volume_id",
            "volume_meta",
        ])
    );
    assert_eq!(metadata["version"], "1.0.0");
    assert_eq!(metadata["backup_id"], id);
    check_created_at(metadata["created_at"].as_str().unwrap());
    let objects: Vec<StoredObject> = metadata["objects"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| read_object(container, prefix, entry))
        .collect();
    let mut named: BTreeSet<String> = objects.iter().map(|one| one.name.clone()).collect();
    assert_eq!(named.len(), objects.len(), "an object is named twice");
    named.insert(format!("{prefix}_metadata"));
    if hashes.is_some() {
        named.insert(format!("{prefix}_sha256file"));
    }
    assert_eq!(*listed, named);
    let (sha_block, sha256s) = hashes.unwrap_or_default();
    Stored {
        name: text("backup_name"),
        description: text("backup_description"),
        prefix: prefix.to_owned(),
        id: id.to_owned(),
        sha_block,
        sha256s,
        volume,
        objects,
        metadata,
    }
}

/// The size of a hashed block, and the hashes.
fn read_hashes(path: &Path, metadata: &Value) -> (u64, Vec<String>) {
    let hashes = read_json(path);
    // Ours is there when the backup was published more than once.
    let mut keys = keys(&hashes);
    keys.remove("cinderfs");
    assert_eq!(
        keys,
        BTreeSet::from([
            "backup_description",
            "backup_id",
            "backup_name",
            "chunk_size",
            "created_at",
            "sha256s",
            "version",
            "volume_id",
        ])
    );
    for key in ["version", "backup_id", "volume_id", "created_at"] {
        assert_eq!(metadata[key], hashes[key], "{key}");
    }
    let generation = |value: &Value| value["cinderfs"]["generation"].as_u64().unwrap_or(0);
    assert_eq!(
        generation(metadata),
        generation(&hashes),
        "they are of different publications"
    );
    let list = hashes["sha256s"].as_array().unwrap().iter();
    let list = list.map(|hash| hash.as_str().unwrap().to_owned());
    (hashes["chunk_size"].as_u64().unwrap(), list.collect())
}

fn read_object(container: &Path, prefix: &str, entry: &Value) -> StoredObject {
    let entry = entry.as_object().unwrap();
    assert_eq!(entry.len(), 1);
    let (name, fields) = entry.iter().next().unwrap();
    assert_eq!(
        keys(fields),
        BTreeSet::from(["compression", "length", "md5", "offset"])
    );
    let digits = name.strip_prefix(&format!("{prefix}-")).unwrap();
    let number: u64 = digits.parse().unwrap();
    assert_eq!(digits, format!("{number:05}"));
    assert!(number > 0, "objects are counted from 1");
    let path = container.join(name);
    StoredObject {
        stored: path
            .metadata()
            .unwrap_or_else(|e| panic!("{name}: {e}"))
            .len(),
        name: name.clone(),
        path,
        number,
        offset: fields["offset"].as_u64().unwrap(),
        length: fields["length"].as_u64().unwrap(),
        compression: fields["compression"].as_str().unwrap().to_owned(),
        md5: fields["md5"].as_str().unwrap().to_owned(),
    }
}

impl Stored {
    /// Size of the image, as its objects make it.
    pub fn size(&self) -> u64 {
        self.objects.iter().map(|object| object.length).sum()
    }

    /// Whether the objects are numbered as Cinder numbers them.
    pub fn is_numbered_in_order(&self) -> bool {
        self.objects
            .iter()
            .map(|object| object.number)
            .eq(1..=self.objects.len() as u64)
    }

    /// Compares all of it with the image that it is of.
    pub fn check(&self, expected: Expected<'_>, source: &Path) {
        let image = File::open(source).unwrap();
        let size = image.metadata().unwrap().len();
        let mut end = 0;
        for object in &self.objects {
            assert_eq!(
                object.offset, end,
                "objects are in the image's order, without gaps"
            );
            let length = expected.object_size.min(size - end);
            assert_eq!(object.length, length, "{object:?}");
            end += object.length;
            self.check_object(expected, object, &image);
        }
        assert_eq!(end, size);
        self.check_hashes(&image, size);
    }

    /// The same for an increment on a backup of the image `parent`: its objects are the
    /// runs of blocks that are not as they are there.
    pub fn check_on(&self, expected: Expected<'_>, parent: &Path, source: &Path) {
        let (before, image) = (fs::read(parent).unwrap(), fs::read(source).unwrap());
        let block = self.sha_block as usize;
        let is_same = |at: usize| {
            let end = (at + block).min(image.len());
            before.get(at..(at + block).min(before.len())) == Some(&image[at..end])
        };
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for at in (0..image.len()).step_by(block).filter(|at| !is_same(*at)) {
            let length = block.min(image.len() - at) as u64;
            let at = at as u64;
            match runs.last_mut() {
                Some((start, run))
                    if *start + *run == at && !at.is_multiple_of(expected.object_size) =>
                {
                    *run += length;
                }
                _ => runs.push((at, length)),
            }
        }
        let objects = self.objects.iter();
        let found: Vec<(u64, u64)> = objects.map(|one| (one.offset, one.length)).collect();
        assert_eq!(found, runs, "runs of changed blocks");
        let image = File::open(source).unwrap();
        for object in &self.objects {
            self.check_object(expected, object, &image);
        }
        self.check_hashes(&image, image.metadata().unwrap().len());
    }

    /// The backup that this one is built on.
    pub fn parent(&self) -> Option<&str> {
        self.metadata["parent_id"].as_str()
    }

    fn check_object(&self, expected: Expected<'_>, object: &StoredObject, image: &File) {
        if object.compression == "none" {
            assert_eq!(object.stored, object.length, "{object:?}");
        } else {
            assert_eq!(object.compression, expected.compression);
            assert!(
                object.stored < object.length,
                "`none` where it does not shrink: {object:?}"
            );
        }
        let mut decoded = object.decode();
        let (mut md5, mut at) = (Md5::new(), object.offset);
        let (mut piece, mut original) = (vec![0; PIECE], vec![0; PIECE]);
        loop {
            let length = read_full(&mut decoded, &mut piece);
            if length == 0 {
                break;
            }
            let (piece, original) = (&piece[..length], &mut original[..length]);
            image.read_exact_at(original, at).unwrap();
            assert!(
                piece == original,
                "{object:?} is not the image from {at} on"
            );
            md5.update(piece);
            at += length as u64;
        }
        assert_eq!(at, object.offset + object.length, "{object:?}");
        assert_eq!(object.md5, hex(&md5.finalize()));
    }

    fn check_hashes(&self, image: &File, size: u64) {
        assert!(self.sha_block > 0, "it has no list of hashes");
        assert_eq!(self.sha256s.len() as u64, size.div_ceil(self.sha_block));
        let mut block = vec![0; self.sha_block as usize];
        let zeros = hex(&Sha256::digest(&block));
        for (number, noted) in (0..).zip(&self.sha256s) {
            let at = number * self.sha_block;
            let length = self.sha_block.min(size - at) as usize;
            let block = &mut block[..length];
            image.read_exact_at(block, at).unwrap();
            let whole_zero = length as u64 == self.sha_block && block.iter().all(|b| *b == 0);
            let hash = if whole_zero {
                zeros.clone()
            } else {
                hex(&Sha256::digest(&*block))
            };
            assert_eq!(*noted, hash, "block {number}");
        }
    }
}

impl StoredObject {
    /// What it holds, once decoded, by the libraries and not by our own codecs.
    fn decode(&self) -> Box<dyn Read> {
        let file = io::BufReader::new(File::open(&self.path).unwrap());
        match self.compression.as_str() {
            "none" => Box::new(file),
            "zlib" | "gzip" => Box::new(flate2::bufread::ZlibDecoder::new(file)),
            "bz2" | "bzip2" => Box::new(bzip2::bufread::MultiBzDecoder::new(file)),
            "zstd" => Box::new(zstd::stream::read::Decoder::with_buffer(file).unwrap()),
            other => panic!("unknown codec {other:?}"),
        }
    }
}

/// Reads until the buffer is full or the end is reached.
fn read_full(from: &mut dyn Read, buffer: &mut [u8]) -> usize {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]).unwrap() {
            0 => break,
            some => filled += some,
        }
    }
    filled
}
