//! What programs that were ended have left in the folder of stages: nothing of it is a
//! backup, for those are on the server.

use super::Shared;
use super::catalog::{self, Catalog};
use super::client::Mode;
use super::left::lock_of;
use super::names::{Name, is_id, is_plain};
use super::option_file::OPTION_FILE;
use super::spool::SPOOL;
use super::stage::{ARRIVING, FOLDER};
use crate::driver::{Garbage, GarbageKind};
use crate::error::{Error, Result};
use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Something that may be left over. With a name, it is so only if the server has nothing of
/// that name.
pub type Suspect = (Garbage, Option<Name>);

/// All that is left, and was not written to for that long. Blocks. `objects` are those that
/// the server has.
///
/// # Errors
/// When a folder cannot be read.
pub fn find(shared: &Shared, age: Duration, objects: &HashSet<Name>) -> Result<Vec<Suspect>> {
    let staging = &shared.options.staging;
    let mut found = Vec::new();
    let mut take = |path: PathBuf, kind, name: Option<Name>| {
        if is_free(shared, &path)
            && let Ok(stat) = fs::symlink_metadata(&path)
            && stat.is_file()
            && is_old(&stat, age)
        {
            let is_note = path.starts_with(&shared.options.catalog);
            let suspect = name.clone().filter(|_| is_note);
            let garbage = Garbage {
                kind,
                volume_id: name.as_ref().and_then(|name| name.own_volume(staging)),
                backup_id: name.map(|name| name.id),
                container: staging.display().to_string(),
                objects: vec![path.display().to_string()],
                bytes: stat.len(),
                modified: stat.modified().ok(),
            };
            found.push((garbage, suspect));
        }
    };
    let catalog = Catalog::read(&shared.options.catalog)?;
    let owner = shared.client.owner();
    let spools = list(&staging.join(SPOOL))?;
    let is_spool = |path: &Path| {
        let file = file_of(path);
        file.is_some() && spools.iter().any(|spool| file_of(spool) == file)
    };
    // Others may have files of such names, whatever for.
    let is_link = |path: &Path, name: &Name| {
        let note = catalog.notes.get(&name.id);
        let is_noted = |note: &catalog::Note| note.is_of(&owner) && note.path == path;
        note.is_some_and(is_noted) || is_spool(path)
    };
    let mut links = Vec::new();
    for folder in list(staging)?.into_iter().filter(|path| path.is_dir()) {
        for path in list(&folder)? {
            let text = path.to_string_lossy().into_owned();
            if let Some(name) = Name::parse(&text, Mode::File, &shared.options.prefix)
                && name.own_volume(staging).is_some()
                && is_link(&path, &name)
            {
                links.push((path, name));
            }
        }
    }
    for path in &spools {
        take(path.clone(), GarbageKind::Staged, None);
    }
    for path in list(&staging.join(FOLDER))? {
        let is = |extension: &str| path.extension().is_some_and(|found| found == extension);
        if is(ARRIVING) || is("img") && !path.with_extension("json").exists() {
            take(path, GarbageKind::Staged, None);
        }
    }
    for path in list(shared.client.run_folder())? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(OPTION_FILE) {
            take(path, GarbageKind::Staged, None);
        }
    }
    for (path, name) in links {
        take(path, GarbageKind::Unfinished, Some(name));
    }
    // Notes on what the server does not have (any more).
    let notes = catalog.notes.into_values();
    let is_ours = |note: &catalog::Note| note.is_of(&owner) && is_plain(&note.path);
    for note in notes.filter(is_ours) {
        let name = Name {
            path: note.path,
            mode: note.mode,
            id: note.id,
        };
        if !objects.contains(&name) {
            let path = catalog::path_of(&shared.options.catalog, &name.id);
            take(path, GarbageKind::Unfinished, Some(name));
        }
    }
    Ok(found)
}

/// Whether a note says that nobody knows of an object having arrived, and is where that would
/// have been sent from: the same file system is mounted. Blocks.
pub fn is_unsent(shared: &Shared, name: &Name) -> bool {
    let options = &shared.options;
    let note = catalog::note_of(&options.catalog, &name.id);
    let device = |path: &Path| Some(fs::symlink_metadata(path).ok()?.dev());
    let of_note = device(&catalog::path_of(&options.catalog, &name.id));
    note.is_some_and(|note| note.is_unconfirmed && note.path == name.path)
        && name.path.starts_with(&options.staging)
        && of_note.is_some()
        && of_note == device(&options.staging)
}

/// What a note that is to be removed is on; `None` when it is no note. Blocks.
///
/// # Errors
/// When it is not known any more whose it is.
pub fn noted(shared: &Shared, garbage: &Garbage) -> Result<Option<Name>> {
    let folder = &shared.options.catalog;
    let is_note = |path: &&String| Path::new(path).parent() == Some(folder.as_path());
    let Some(path) = garbage.objects.iter().find(is_note) else {
        return Ok(None);
    };
    let id = garbage.backup_id.as_deref().filter(|id| is_id(id));
    let note = id.and_then(|id| catalog::note_of(folder, id));
    let note = note.filter(|note| note.is_of(&shared.client.owner()));
    let note = note.ok_or_else(|| Error::corrupt("remove", path, "it is no note that is known"))?;
    Ok(Some(Name {
        path: note.path,
        mode: note.mode,
        id: note.id,
    }))
}

/// Removes what was found, if it still is that. Blocks.
///
/// # Errors
/// When it cannot be removed.
pub fn sweep(shared: &Shared, garbage: &Garbage, objects: &HashSet<Name>) -> Result<bool> {
    for object in &garbage.objects {
        let path = Path::new(object);
        let is_ours =
            path.starts_with(&shared.options.staging) || path.starts_with(&shared.options.catalog);
        let note_of = |name: &Name| catalog::path_of(&shared.options.catalog, &name.id);
        let is_back = objects.iter().any(|name| note_of(name) == path);
        let is_same = fs::symlink_metadata(path)
            .and_then(|stat| stat.modified())
            .is_ok_and(|modified| Some(modified) == garbage.modified);
        if !is_ours || is_back || !is_same || !is_free(shared, path) {
            return Ok(false);
        }
        fs::remove_file(path).map_err(|e| Error::io("remove", object.clone(), &e))?;
        if garbage.kind == GarbageKind::Unfinished
            && let Some(folder) = path.parent()
            && folder != shared.options.catalog
        {
            let _ = fs::remove_dir(folder);
        }
    }
    Ok(true)
}

/// Which file a path names.
fn file_of(path: &Path) -> Option<(u64, u64)> {
    let stat = fs::symlink_metadata(path).ok()?;
    Some((stat.dev(), stat.ino()))
}

fn is_old(stat: &fs::Metadata, age: Duration) -> bool {
    let modified = stat.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    let since = SystemTime::now().duration_since(modified);
    since.unwrap_or_default() >= age
}

/// Whether nobody is at it: who is holds a lock, on the file or on the one beside it.
fn is_free(shared: &Shared, path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default();
    let lock = if extension == ARRIVING {
        lock_of(path)
    } else if path.starts_with(&shared.options.catalog) && extension == "json" {
        // Its backup may be on its way.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let id = name.split('.').next().unwrap_or_default();
        shared.options.staging.join(SPOOL).join(id)
    } else {
        path.to_owned()
    };
    match File::open(lock) {
        Ok(file) => file.try_lock().is_ok(),
        Err(e) => e.kind() == std::io::ErrorKind::NotFound,
    }
}

fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e| Error::io("look into", folder.display().to_string(), &e);
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed(e)),
    };
    let paths = entries.map(|entry| Ok(entry?.path()));
    let mut paths = paths.collect::<std::io::Result<Vec<_>>>().map_err(failed)?;
    paths.sort_unstable();
    Ok(paths)
}
