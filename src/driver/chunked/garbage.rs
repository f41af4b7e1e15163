//! What lies in the store and belongs to no finished backup, and its removal.
//!
//! The order of looking is what keeps backups that are being written safe: the listing
//! first, then whether anybody writes the backup, then its metadata. Who writes says so
//! before the first object and until the last publication: so what was listed is named by
//! that metadata, or somebody is writing it, or it is garbage. Cinder says nothing: its
//! backups in the making are known by their age.

use super::catalog::ANY_BACKUP;
use super::hashlist::HashList;
use super::{Shared, missing_is_fine};
use crate::driver::{Garbage, GarbageKind};
use crate::error::{Error, Kind, Result};
use crate::format::{BackupName, Metadata};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, SystemTime};

/// Where nobody can say that he is writing, what is younger may well be being written.
const LEAST_AGE: Duration = Duration::from_secs(3600);

/// The objects in a container that are of one backup by their names.
#[derive(Debug)]
struct Group {
    name: BackupName,
    /// Metadata, list of hashes and chunks.
    objects: Vec<String>,
    /// What only begins with the backup's prefix.
    others: Vec<String>,
}

/// See [`crate::driver::BackupDriver::garbage`].
pub async fn garbage(shared: &Shared, age: Duration) -> Result<Vec<Garbage>> {
    shared.catalog.forget_listing().await;
    if age < LEAST_AGE && !shared.store.has_claims() {
        tracing::warn!(
            "this store has no locks: what somebody has begun to write within the last hour may \
             be taken for garbage"
        );
    }
    let mut found = leftovers(shared).await?;
    for container in shared.store.containers(ANY_BACKUP).await? {
        let names = list(shared, &container, ANY_BACKUP).await?;
        for group in groups(shared, &container, names) {
            found.extend(judge(shared, &group).await?);
        }
    }
    let now = SystemTime::now();
    // What was written in the future (clocks differ) is young.
    found.retain(|garbage| {
        let old = |at| {
            now.duration_since(at)
                .map_or(age.is_zero(), |passed| passed >= age)
        };
        garbage.modified.is_none_or(old)
    });
    Ok(found)
}

/// See [`crate::driver::BackupDriver::sweep`].
pub async fn sweep(shared: &Shared, garbage: &Garbage) -> Result<bool> {
    if shared.options.append_only {
        let subject = match &garbage.backup_id {
            Some(id) => format!("what is left of backup {id}"),
            None => format!("what is left in {}", place(&garbage.container)),
        };
        let reason = "the backend is append_only";
        return Err(Error::new(Kind::Sealed, "delete", subject, reason));
    }
    let still = match garbage.kind {
        GarbageKind::Staged => measure(shared, garbage.clone()).await?,
        GarbageKind::Unfinished | GarbageKind::Stray | GarbageKind::Head => {
            look_again(shared, garbage).await?
        }
    };
    if still.as_ref() != Some(garbage) {
        return Ok(false);
    }
    let (store, container) = (&shared.store, &garbage.container);
    // In any order: what is left after a crash in between is the same kind of garbage, as
    // no backup exists by it or is whole because of it, and is found the next time.
    for object in &garbage.objects {
        match missing_is_fine(store.delete(container, object).await) {
            // Somebody has taken it into use since it was found.
            Err(e) if garbage.kind == GarbageKind::Staged && e.kind() == Kind::Dependents => {
                return Ok(false);
            }
            other => other?,
        }
    }
    if garbage.kind == GarbageKind::Staged && container.is_empty() {
        // Not in a container at all.
        return Ok(true);
    }
    missing_is_fine(store.sync(container).await)?;
    store.remove_container(container).await?;
    Ok(true)
}

fn place(container: &str) -> &str {
    match container {
        "" => "the store",
        container => container,
    }
}

async fn list(shared: &Shared, container: &str, prefix: &str) -> Result<Vec<String>> {
    let entries = shared.store.list(container, prefix).await?;
    Ok(entries.into_iter().map(|entry| entry.name).collect())
}

/// What somebody began to store, one by one: they have nothing to do with each other.
async fn leftovers(shared: &Shared) -> Result<Vec<Garbage>> {
    let mut found = Vec::new();
    for (container, entry) in shared.store.leftovers().await? {
        let garbage = Garbage {
            kind: GarbageKind::Staged,
            volume_id: None,
            backup_id: None,
            container,
            objects: vec![entry.name],
            bytes: 0,
            modified: None,
        };
        found.extend(measure(shared, garbage).await?);
    }
    Ok(found)
}

/// Sorts the names in a container by the backup that they are of. Names that could be of
/// two are left out, and so are those that are of none.
fn groups(shared: &Shared, container: &str, names: Vec<String>) -> Vec<Group> {
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    let mut others = Vec::new();
    for object in names {
        let Some(name) = BackupName::of_object(shared.options.layout, container, &object) else {
            others.push(object);
            continue;
        };
        let group = groups.entry(name.prefix.clone()).or_insert_with(|| Group {
            name,
            objects: Vec::new(),
            others: Vec::new(),
        });
        group.objects.push(object);
    }
    let known = Prefixes::new(groups.keys());
    for object in others {
        if let Some(prefix) = known.only_one_of(&object)
            && let Some(group) = groups.get_mut(prefix)
        {
            group.others.push(object);
        }
    }
    for group in groups.values_mut() {
        group
            .objects
            .retain(|object| known.only_one_of(object).is_some());
    }
    groups.into_values().collect()
}

/// The prefixes of all backups in a container.
struct Prefixes {
    all: HashSet<String>,
    /// Few: ids are mostly of one length.
    lengths: BTreeSet<usize>,
}

impl Prefixes {
    fn new<'a>(prefixes: impl Iterator<Item = &'a String>) -> Self {
        let all: HashSet<String> = prefixes.cloned().collect();
        Self {
            lengths: all.iter().map(String::len).collect(),
            all,
        }
    }

    /// The only one with which a name begins.
    fn only_one_of(&self, object: &str) -> Option<&String> {
        let heads = self
            .lengths
            .iter()
            .filter_map(|length| object.get(..*length));
        let mut found = heads.filter_map(|head| self.all.get(head));
        let first = found.next()?;
        found.next().is_none().then_some(first)
    }
}

/// What of a group is garbage now.
async fn judge(shared: &Shared, group: &Group) -> Result<Option<Garbage>> {
    let name = &group.name;
    if is_claimed(shared, name).await {
        return Ok(None);
    }
    // Only now: see the module's page.
    let (kind, objects) = match shared.read_metadata(name).await {
        Err(e) if e.kind() == Kind::NotFound => {
            // Who deletes a backup takes its metadata away, and may put it back.
            let was_there = group.objects.contains(&name.metadata());
            if was_there || is_claimed(shared, name).await {
                return Ok(None);
            }
            match shared.read_metadata(name).await {
                Err(e) if e.kind() == Kind::NotFound => {}
                _ => return Ok(None),
            }
            if is_built_on(shared, name).await? {
                return Ok(None);
            }
            (GarbageKind::Unfinished, group.objects.clone())
        }
        Err(e) => {
            let backup = &name.backup_id;
            tracing::warn!("nothing of backup {backup} is taken for garbage: {e}");
            return Ok(None);
        }
        Ok(metadata) => (GarbageKind::Stray, strays(shared, group, &metadata).await),
    };
    let garbage = Garbage {
        kind,
        volume_id: Some(name.volume_id.clone()),
        backup_id: Some(name.backup_id.clone()),
        container: name.container.clone(),
        objects,
        bytes: 0,
        modified: None,
    };
    measure(shared, garbage).await
}

/// Whether a finished backup is built on this one, or may be: then it was finished, too,
/// and has lost its metadata, and its objects are all that is left of both.
async fn is_built_on(shared: &Shared, name: &BackupName) -> Result<bool> {
    let others = shared.catalog.backups(&name.volume_id).await?;
    if let Some(trouble) = shared.catalog.trouble() {
        return Err(trouble);
    }
    if let Some(place) = shared.store.hidden().first() {
        tracing::warn!(
            "nothing of backup {} is taken for garbage: what lies in {place} may be built on it, \
             and may not be read",
            name.backup_id
        );
        return Ok(true);
    }
    let child = others.iter().find(|other| match &other.parent_id {
        Some(parent) => *parent == name.backup_id,
        // One that cannot be read does not tell.
        None => other.fault.is_some(),
    });
    if let Some(child) = child {
        tracing::warn!(
            "nothing of backup {} is taken for garbage: it has no metadata, but backup {} is \
             built on it, or may be",
            name.backup_id,
            child.id
        );
    }
    Ok(child.is_some())
}

/// Whether somebody is writing a backup, or may be.
async fn is_claimed(shared: &Shared, name: &BackupName) -> bool {
    let claimed = shared.store.is_claimed(&name.backup_id).await;
    claimed.unwrap_or_else(|e| {
        let backup = &name.backup_id;
        tracing::warn!("cannot tell whether backup {backup} is being written: {e}");
        true
    })
}

/// What metadata does not name.
async fn strays(shared: &Shared, group: &Group, metadata: &Metadata) -> Vec<String> {
    let name = &group.name;
    let mut named: HashSet<String> = metadata
        .objects
        .iter()
        .map(|entry| name.chunk(entry.number))
        .collect();
    named.insert(name.metadata());
    if !is_list_of_another(shared, name, metadata).await {
        named.insert(name.sha256file());
    }
    let all = group.objects.iter().chain(&group.others);
    all.filter(|object| !named.contains(*object))
        .cloned()
        .collect()
}

/// Whether the list of hashes is that of a publication that was never finished: the
/// program ended after it had stored the list, and before the metadata. The backup is
/// whole without it; but Cinder would build an incremental backup on it, and that would be
/// wrong.
async fn is_list_of_another(shared: &Shared, name: &BackupName, metadata: &Metadata) -> bool {
    // Only what we wrote is ever published again.
    if metadata.own.size.is_none() {
        return false;
    }
    match HashList::open(&shared.store, name).await {
        Ok(Some(list)) => !list.is_of_generation(metadata.own.generation),
        // What is damaged is no garbage.
        Ok(None) | Err(_) => false,
    }
}

/// The same with its size and age; `None` when nothing of it is there.
async fn measure(shared: &Shared, mut garbage: Garbage) -> Result<Option<Garbage>> {
    (garbage.bytes, garbage.modified) = (0, None);
    let mut there = Vec::with_capacity(garbage.objects.len());
    for object in garbage.objects {
        match shared.store.stat(&garbage.container, &object).await {
            Err(e) if e.kind() == Kind::NotFound => continue,
            Err(e) => return Err(e),
            Ok(stat) => {
                garbage.bytes += stat.size;
                garbage.modified = garbage.modified.max(Some(stat.modified));
                there.push(object);
            }
        }
    }
    garbage.objects = there;
    Ok(Some(garbage).filter(|garbage| !garbage.objects.is_empty()))
}

/// What of the same backup is garbage now.
async fn look_again(shared: &Shared, garbage: &Garbage) -> Result<Option<Garbage>> {
    let (Some(volume_id), Some(backup_id)) = (&garbage.volume_id, &garbage.backup_id) else {
        return Ok(None);
    };
    let container = &garbage.container;
    let of_volume = list(shared, container, &format!("{ANY_BACKUP}{volume_id}")).await?;
    for group in groups(shared, container, of_volume) {
        let is_it = group.name.backup_id == *backup_id && group.name.volume_id == *volume_id;
        if is_it && let Some(found) = judge(shared, &group).await? {
            // Two of one id, made at different times: it is the one with these names.
            if garbage
                .objects
                .iter()
                .all(|object| object.starts_with(&group.name.prefix))
            {
                return Ok(Some(found));
            }
        }
    }
    Ok(None)
}
