//! Files and folders, as the store uses them. All of it blocks.

use super::footing::Footing;
use super::{Entry, FOLDER_MODE, Stat};
use crate::error::{Error, Result};
use bytes::Bytes;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::SystemTime;

/// Entries of a folder between two signs of life.
const ENTRIES: usize = 1000;
/// What is read from a file between two signs of life.
const PIECE: usize = 4 << 20;

/// What a walk has found.
#[derive(Default)]
pub struct Walked {
    /// Folders with a file of the prefix.
    pub found: Vec<String>,
    /// Folders that are not ours to read.
    pub hidden: Vec<String>,
}

/// A walk that notes each folder with a file of that prefix. Links are not followed.
///
/// # Errors
/// Those of the file system.
pub fn walk(
    footing: &Footing,
    folder: &Path,
    name: &str,
    depth: usize,
    prefix: &[u8],
    walked: &mut Walked,
) -> io::Result<()> {
    let mut folders = Vec::new();
    let mut holds = false;
    footing.step()?;
    footing.freshen(folder);
    for (number, entry) in fs::read_dir(folder)?.enumerate() {
        let entry = entry?;
        if number % ENTRIES == 0 {
            footing.step()?;
        }
        match entry.file_type() {
            // It was there a moment ago; what is beside it still is.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
            Ok(kind) if kind.is_dir() => folders.push(entry.file_name()),
            Ok(_) => holds |= entry.file_name().as_bytes().starts_with(prefix),
        }
    }
    if holds && !name.is_empty() {
        walked.found.push(name.to_owned());
    }
    for child in folders {
        // A name that is no text is none of Cinder's.
        let Some(child) = child.to_str() else {
            continue;
        };
        if depth == 0 || child.starts_with('.') {
            continue;
        }
        let below = if name.is_empty() {
            child.to_owned()
        } else {
            format!("{name}/{child}")
        };
        match walk(
            footing,
            &folder.join(child),
            &below,
            depth - 1,
            prefix,
            walked,
        ) {
            // Deleted meanwhile, or not ours to read: the others still count.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            // Root's alone, in every file system of some kinds.
            Err(_) if below == "lost+found" => {}
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => walked.hidden.push(below),
            other => other?,
        }
    }
    Ok(())
}

/// The plain files in a folder whose names begin with `prefix`, sorted; none in one that
/// does not exist.
///
/// # Errors
/// Those of the file system.
pub fn list_folder(footing: &Footing, folder: &Path, prefix: &str) -> io::Result<Vec<Entry>> {
    footing.freshen(folder);
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for (number, entry) in entries.enumerate() {
        let entry = entry?;
        if number % ENTRIES == 0 {
            footing.step()?;
        }
        let name = entry.file_name();
        // A name that is no text is not Cinder's.
        let Some(name) = name.to_str().filter(|name| name.starts_with(prefix)) else {
            continue;
        };
        match entry.file_type() {
            // It was there a moment ago.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
            // Only plain files are objects.
            Ok(kind) if !kind.is_file() => {}
            Ok(_) => found.push(Entry {
                name: name.to_owned(),
                version: None,
            }),
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// What is known of an object.
///
/// # Errors
/// `Corrupt` when it is no plain file; those of the file system.
pub fn stat(footing: &Footing, path: &Path) -> Result<Stat> {
    let real = footing.real(path);
    // Its name and then itself: either may be remembered from before.
    real.parent()
        .iter()
        .for_each(|folder| footing.freshen(folder));
    footing.freshen(&real);
    let subject = || path.display().to_string();
    let metadata =
        fs::symlink_metadata(&real).map_err(|e| Error::io("find object", subject(), &e))?;
    if !metadata.is_file() {
        return Err(Error::corrupt("find object", subject(), "not a plain file"));
    }
    Ok(Stat {
        size: metadata.len(),
        version: version(&metadata),
        modified: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
    })
}

fn version(metadata: &fs::Metadata) -> String {
    format!(
        "{}-{}-{}.{:09}",
        metadata.ino(),
        metadata.size(),
        metadata.mtime(),
        metadata.mtime_nsec()
    )
}

fn open_object(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(path);
    // A link, a socket, a fifo or a device under an object's name is no object.
    let not_plain = || io::Error::new(io::ErrorKind::InvalidData, "not a plain file");
    match file {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ELOOP | libc::ENXIO)) => Err(not_plain()),
        Ok(file) if !file.metadata()?.is_file() => Err(not_plain()),
        other => other,
    }
}

/// The bytes of an object in `range`, cut off at its end.
///
/// # Errors
/// Those of the file system.
pub fn read_range(footing: &Footing, path: &Path, range: &Range<u64>) -> io::Result<Bytes> {
    let file = open_object(path)?;
    let end = range.end.min(file.metadata()?.len());
    let mut bytes = vec![0; usize::try_from(end.saturating_sub(range.start)).unwrap_or(0)];
    let mut at = range.start;
    for piece in bytes.chunks_mut(PIECE) {
        footing.step()?;
        file.read_exact_at(piece, at)?;
        at += piece.len() as u64;
    }
    Ok(bytes.into())
}

/// Makes the names in a folder durable.
///
/// # Errors
/// Those of the file system.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes a container's folder as Cinder does: parents by the umask, the last one 0770.
/// Each new name is made durable.
///
/// # Errors
/// Those of the file system.
pub fn make_folder(footing: &Footing, root: &Path, folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent()
        && parent != root
        && !parent.is_dir()
    {
        make_parents(footing, root, parent)?;
    }
    match fs::create_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        other => other?,
    }
    footing.give(folder)?;
    fs::set_permissions(folder, Permissions::from_mode(FOLDER_MODE))?;
    folder.parent().map_or(Ok(()), sync_folder)
}

fn make_parents(footing: &Footing, root: &Path, folder: &Path) -> io::Result<()> {
    if folder == root || folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        make_parents(footing, root, parent)?;
    }
    match fs::create_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        other => other?,
    }
    footing.give(folder)?;
    folder.parent().map_or(Ok(()), sync_folder)
}
