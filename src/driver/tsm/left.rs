//! What programs that were ended have left on its way, where it takes room that is wanted.

use super::spool::SPOOL;
use super::stage::{ARRIVING, LOCK};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What is so old is not about to be locked by somebody.
const OLD: Duration = Duration::from_secs(60);

/// The key of the object that a file on the shelf belongs to.
pub fn key_of(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()?.split('.').next()
}

/// The file on which a lock is held by who writes to a part.
pub fn lock_of(path: &Path) -> PathBuf {
    let key = key_of(path).unwrap_or_default();
    path.with_file_name(format!("{key}.{LOCK}"))
}

/// Removes what was arriving of an object. Only for who has its lock. Blocks.
pub fn remove_parts(shelf: &Path, key: &str) {
    for path in parts(shelf) {
        if key_of(&path) == Some(key) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Removes parts of objects, and images that were not sent, at which nobody is. Blocks.
pub fn make_room(shelf: &Path) {
    for path in parts(shelf) {
        // It is held until the part is gone.
        let lock = File::open(lock_of(&path));
        if lock.as_ref().is_ok_and(|lock| lock.try_lock().is_err()) {
            continue;
        }
        remove(&path);
    }
    for path in files(&shelf.with_file_name(SPOOL)) {
        let is_old = |stat: fs::Metadata| {
            let age = stat.modified().ok().and_then(|at| at.elapsed().ok());
            stat.is_file() && age.is_some_and(|age| age >= OLD)
        };
        if fs::symlink_metadata(&path).is_ok_and(is_old)
            && File::open(&path).is_ok_and(|file| file.try_lock().is_ok())
        {
            remove(&path);
        }
    }
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Ok(()) => tracing::info!("{} was left over, and makes room", path.display()),
        Err(e) => tracing::debug!("{}: {e}", path.display()),
    }
}

fn parts(shelf: &Path) -> impl Iterator<Item = PathBuf> {
    let all = files(shelf).into_iter();
    all.filter(|path| path.extension().is_some_and(|found| found == ARRIVING))
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    #[test]
    fn only_what_nobody_is_at_makes_room() {
        let staging = tempfile::tempdir().unwrap();
        let (shelf, spools) = (staging.path().join("shelf"), staging.path().join(SPOOL));
        fs::create_dir(&shelf).unwrap();
        fs::create_dir(&spools).unwrap();
        let make = |folder: &Path, name: &str| {
            let file = File::create(folder.join(name)).unwrap();
            file.set_modified(SystemTime::now() - 2 * OLD).unwrap();
            file
        };
        for name in ["a.1.part", "b.2.part", "c.img", "c.json"] {
            make(&shelf, name);
        }
        let part = make(&shelf, "b.lock");
        make(&spools, "left");
        File::create(spools.join("new")).unwrap();
        let sent = make(&spools, "sent");
        part.lock().unwrap();
        sent.lock().unwrap();
        make_room(&shelf);
        let left = |folder: &Path| {
            let mut names: Vec<_> = files(folder)
                .iter()
                .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
                .collect();
            names.sort_unstable();
            names
        };
        assert_eq!(left(&shelf), ["b.2.part", "b.lock", "c.img", "c.json"]);
        assert_eq!(left(&spools), ["new", "sent"]);
        remove_parts(&shelf, "a");
        assert_eq!(left(&shelf).len(), 4);
        remove_parts(&shelf, "b");
        assert_eq!(left(&shelf), ["b.lock", "c.img", "c.json"]);
    }
}
