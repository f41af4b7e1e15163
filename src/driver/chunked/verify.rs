//! Checks of a backup all that there is to check: that the store holds its objects and no
//! others, that its chain is whole, and that every object and every block of the image is
//! what the hashes say.

mod blocks;
mod credit;
mod scans;

pub use scans::Scans;

use super::Shared;
use super::hashlist::HashList;
use super::image::LARGEST_HASHED;
use super::object::{Cut, LEAST_BLOCK};
use super::summary::read_metadata_text;
use crate::driver::{Backup, Progress, Verdict};
use crate::error::{Error, Kind, Result};
use crate::format::{BackupName, Layer, Metadata, ObjectEntry, resolve};
use blocks::Inspection;
use bytes::Bytes;
use credit::Credit;
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

/// A backup that is written anew while it is looked at is looked at again, so often.
const TRIES: u32 = 3;
/// So many names are told; of more, how many there are.
const NAMES_TOLD: usize = 8;

/// See [`crate::driver::BackupDriver::verify`].
pub async fn verify(
    shared: &Shared,
    backup: &Backup,
    percent: u8,
    progress: &dyn Progress,
) -> Result<Verdict> {
    let credit = Credit::new(progress, backup.size);
    shared.scans.begin(&backup.volume_id);
    let name = shared.catalog.name_of(backup).await?;
    let mut backup = Arc::new(backup.clone());
    for last in (0..TRIES).rev() {
        let (verdict, text) = inspect(shared, &backup, &name, percent, &credit).await?;
        if verdict.problems.is_empty() || last == 0 || !is_changed(shared, &name, text).await? {
            credit.finish();
            return Ok(verdict);
        }
        shared.catalog.changed(&name).await;
        backup = shared.catalog.backup(&name).await?;
    }
    Ok(Verdict::default())
}

/// Whether somebody has written the metadata anew.
async fn is_changed(shared: &Shared, name: &BackupName, before: Option<Bytes>) -> Result<bool> {
    match read_metadata_text(shared.store.as_ref(), name).await {
        Ok(text) => Ok(before.is_some_and(|before| before != text)),
        Err(e) if e.kind() == Kind::NotFound => Err(e),
        Err(_) => Ok(false),
    }
}

/// One object of the chain.
struct Part {
    name: Arc<BackupName>,
    entry: ObjectEntry,
}

impl Part {
    /// The object's name.
    fn object(&self) -> String {
        self.name.chunk(self.entry.number)
    }
}

/// What is wrong with a backup, and the metadata that says what it should be.
async fn inspect(
    shared: &Shared,
    backup: &Backup,
    name: &Arc<BackupName>,
    percent: u8,
    credit: &Credit<'_>,
) -> Result<(Verdict, Option<Bytes>)> {
    let mut problems = Vec::new();
    problems.extend(backup.fault.as_ref().map(Error::to_string));
    let verdict = |problems: Vec<String>| Verdict {
        problems,
        ..Verdict::default()
    };
    // Before the metadata: what is published in between is named there already.
    let listed = shared.store.list(&name.container, &name.prefix).await?;
    let listed: HashSet<String> = listed.into_iter().map(|entry| entry.name).collect();
    // Who is writing it has objects, and maybe a list of hashes, that are no part of it yet.
    let claimed = shared.store.is_claimed(&name.backup_id).await;
    let is_written = claimed.unwrap_or(false);
    let read = async {
        let text = read_metadata_text(shared.store.as_ref(), name).await?;
        Ok::<_, Error>((Metadata::parse(name, &text)?, text))
    };
    let (own, text) = match read.await {
        Err(e) if e.kind() == Kind::NotFound => return Err(e),
        Err(e) => {
            note(&mut problems, e.to_string());
            return Ok((verdict(problems), None));
        }
        Ok(read) => read,
    };
    let missing = check_listing(name, &own, &listed, is_written, &mut problems);
    let generation = own.own.generation;
    let (layers, whole) = read_chain(shared, backup, name, own, &mut problems).await;
    let list = match whole {
        true => {
            let generation = (generation, is_written);
            usable_list(shared, backup, name, generation, &mut problems).await
        }
        false => None,
    };
    let mut parts = Vec::new();
    let mut resolved = Vec::new();
    for (name, metadata) in layers {
        let layer = (parts.len()..).zip(&metadata.objects);
        resolved.push(
            layer
                .map(|(object, entry)| Layer {
                    object,
                    offset: entry.offset,
                    length: entry.length,
                })
                .collect(),
        );
        let own = metadata.objects.into_iter();
        parts.extend(own.map(|entry| Part {
            name: Arc::clone(&name),
            entry,
        }));
    }
    let extents = match whole {
        true => resolve(resolved, backup.size),
        false => Vec::new(),
    };
    let there: Vec<usize> = (0..parts.len())
        .filter(|index| {
            let part = parts.get(*index);
            !part.is_some_and(|part| part.name == *name && missing.contains(&part.entry.number))
        })
        .collect();
    let digest_size = list.as_ref().map_or(LEAST_BLOCK, HashList::block_size);
    let only_md5 = list.is_none();
    let inspection = Inspection::new(shared, parts, extents, list, Cut::of(digest_size), credit);
    inspection.check_objects(&sample(there, percent)).await;
    if whole && percent >= 100 {
        inspection.check_rest(backup.size).await;
    }
    let mut found = inspection.into_verdict();
    found.problems.sort_unstable();
    for problem in found.problems {
        note(&mut problems, problem);
    }
    let verdict = Verdict {
        only_md5,
        problems,
        ..found
    };
    Ok((verdict, Some(text)))
}

fn note(problems: &mut Vec<String>, problem: String) {
    if !problems.contains(&problem) {
        problems.push(problem);
    }
}

/// Some names, and how many more there are.
fn some_of(names: &[&str]) -> String {
    let told = names.iter().take(NAMES_TOLD).copied();
    let told = told.collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMES_TOLD) {
        0 => told,
        more => format!("{told} and {more} more"),
    }
}

/// What the store holds under the backup's name must be what its metadata names: Cinder
/// refuses to restore anything else. Gives the numbers of its objects that are missing.
fn check_listing(
    name: &BackupName,
    own: &Metadata,
    listed: &HashSet<String>,
    is_written: bool,
    problems: &mut Vec<String>,
) -> HashSet<u64> {
    let expected: HashSet<String> = own
        .objects
        .iter()
        .map(|entry| name.chunk(entry.number))
        .chain([name.metadata(), name.sha256file()])
        .collect();
    let strays = listed.iter().filter(|object| !expected.contains(*object));
    let mut strays: Vec<&str> = strays.map(String::as_str).collect();
    strays.sort_unstable();
    if !strays.is_empty() && !is_written {
        problems.push(format!(
            "what is no part of it lies beside it, and Cinder refuses to restore it: {}; \
             `cinderfs gc` removes what is left over",
            some_of(&strays)
        ));
    }
    let mut missing: Vec<u64> = own.objects.iter().map(|entry| entry.number).collect();
    missing.retain(|number| !listed.contains(&name.chunk(*number)));
    missing.sort_unstable();
    missing.dedup();
    if !missing.is_empty() {
        let names: Vec<String> = missing.iter().map(|number| name.chunk(*number)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let one = if missing.len() == 1 {
            "an object is"
        } else {
            "objects are"
        };
        problems.push(format!("{one} missing: {}", some_of(&names)));
    }
    missing.into_iter().collect()
}

/// The metadata of the backup and of all that it is built on, the newest first, and
/// whether that is all of the chain.
async fn read_chain(
    shared: &Shared,
    backup: &Backup,
    name: &Arc<BackupName>,
    own: Metadata,
    problems: &mut Vec<String>,
) -> (Vec<(Arc<BackupName>, Metadata)>, bool) {
    let mut layers = vec![(Arc::clone(name), own)];
    if backup.fault.is_some() {
        return (layers, false);
    }
    let chain = match shared.catalog.chain(backup).await {
        Ok(chain) => chain,
        Err(e) => {
            note(problems, e.to_string());
            return (layers, false);
        }
    };
    let mut whole = true;
    for parent in chain.into_iter().skip(1) {
        match shared.read_metadata(&parent).await {
            Ok(metadata) => layers.push((parent, metadata)),
            Err(e) => {
                let parent = format!("backup {}, which it is built on", parent.backup_id);
                note(problems, e.within(parent).to_string());
                whole = false;
            }
        }
    }
    (layers, whole)
}

/// The list of hashes, if there is one that can be used. One that cannot is a problem:
/// Cinder takes it as it is for the next incremental backup.
async fn usable_list(
    shared: &Shared,
    backup: &Backup,
    name: &BackupName,
    (generation, is_written): (u64, bool),
    problems: &mut Vec<String>,
) -> Option<HashList> {
    let list = match HashList::open(&shared.store, name).await {
        Ok(list) => list?,
        Err(e) => {
            note(problems, e.to_string());
            return None;
        }
    };
    if !list.is_of_generation(generation) {
        if is_written {
            return None;
        }
        problems.push(format!(
            "{} was written for a publication of it that was never finished, and an \
             incremental backup of Cinder's on it would be wrong; `cinderfs gc` removes it",
            name.sha256file()
        ));
        return None;
    }
    let (block, count) = (list.block_size(), list.count());
    if count != backup.size.div_ceil(block) {
        problems.push(format!(
            "{} has {count} hashes of {block} bytes for an image of {}",
            name.sha256file(),
            backup.size
        ));
        return None;
    }
    Some(list).filter(|_| block <= LARGEST_HASHED)
}

/// That many percent of some objects, at random, and at least one.
fn sample(mut objects: Vec<usize>, percent: u8) -> Vec<usize> {
    if percent >= 100 {
        return objects;
    }
    let dice = RandomState::new();
    let wanted = (objects.len() * usize::from(percent)).div_ceil(100).max(1);
    objects.sort_by_cached_key(|object| dice.hash_one(object));
    objects.truncate(wanted);
    objects.sort_unstable();
    objects
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_of_the_size_that_was_asked_for() {
        for (count, percent, expected) in [
            (10, 100, 10),
            (10, 99, 10),
            (10, 50, 5),
            (10, 1, 1),
            (1000, 1, 10),
            (3, 0, 1),
            (0, 50, 0),
        ] {
            let mut taken = sample((0..count).collect(), percent);
            assert_eq!(taken.len(), expected, "{percent} % of {count}");
            taken.dedup();
            assert_eq!(taken.len(), expected);
        }
        let many = |_| sample((0..1000).collect(), 10);
        assert!((0..5).map(many).collect::<HashSet<_>>().len() > 1);
    }

    #[test]
    fn many_names_are_not_all_told() {
        assert_eq!(some_of(&["a", "b"]), "a, b");
        assert_eq!(some_of(&["x"; 10]), "x, x, x, x, x, x, x, x and 2 more");
    }
}
