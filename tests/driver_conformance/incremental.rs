//! Incremental backups: what they hold, what they are built on, what becomes of parents.

pub mod content;
pub mod parents;
pub mod writing;

use crate::common::cinder::{Cinder, Made, get, put};
use crate::common::library::{Dice, Rooms, described};
use crate::{Ground, Place, chunk, store_all};
use cinderfs::driver::{Backup, BackupSink, Basis};
use cinderfs::error::{Kind, Result};
use cinderfs::store::fault::Call;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Size of an object, and of a chunk, of `options`.
const OBJECT: usize = 64 << 10;

/// Size of a block that is hashed.
const BLOCK: usize = 4 << 10;

/// One object, as metadata has it: offset, length, codec, md5.
type Entry = (u64, u64, String, String);

fn auto(place: &impl Ground, max_chain: Option<u32>) -> Rooms {
    place.auto(max_chain)
}

async fn content(place: &impl Ground) -> Vec<(String, Vec<u8>)> {
    place.content().await
}

async fn check(
    place: &impl Ground,
    backup: &Backup,
    parent: Option<(&Backup, &[u8])>,
    image: &[u8],
) {
    place.check(backup, parent, image).await;
}

async fn json(place: &Place, backup: &Backup, end: &str) -> Value {
    let name = format!("{}{end}", backup.service_metadata);
    let text = get(place.store.as_ref(), &backup.container, &name).await;
    serde_json::from_slice(&text).unwrap()
}

/// What metadata says of the objects; their names are numbered, and no number comes twice.
fn entries(prefix: &str, metadata: &Value) -> Vec<Entry> {
    let mut numbers = BTreeSet::new();
    let entry = |entry: &Value| {
        let (name, entry) = entry.as_object().unwrap().iter().next().unwrap();
        let number = name.strip_prefix(&format!("{prefix}-")).unwrap();
        assert!(
            number.len() == 5 && number.parse::<u32>().unwrap() > 0,
            "{name}"
        );
        assert!(numbers.insert(number.to_owned()), "{number} comes twice");
        let text = |key: &str| entry[key].as_str().unwrap().to_owned();
        let number = |key: &str| entry[key].as_u64().unwrap();
        (
            number("offset"),
            number("length"),
            text("compression"),
            text("md5"),
        )
    };
    metadata["objects"]
        .as_array()
        .unwrap()
        .iter()
        .map(entry)
        .collect()
}

/// What Cinder would have written of `image` on top of `parent`: its objects, and the
/// list of hashes.
async fn cinders(place: &Place, parent: Option<&[u8]>, image: &[u8]) -> (Vec<Entry>, Value) {
    let scratch = cinderfs::store::memory::MemoryStore::new();
    let cinder = Cinder {
        object_size: OBJECT,
        ..Cinder::new(place.layout, "zlib")
    };
    let made = match parent {
        Some(parent) => Some(cinder.back_up(&scratch, "v", parent, None).await),
        None => None,
    };
    let made = cinder.back_up(&scratch, "v", image, made.as_ref()).await;
    let read = async |name: String| -> Value {
        serde_json::from_slice(&get(&scratch, &made.container, &name).await).unwrap()
    };
    let list = read(made.sha256file()).await["sha256s"].take();
    (entries(&made.prefix, &read(made.metadata()).await), list)
}

/// Everything about a backup is what Cinder would have written, nothing lies beside it,
/// and it gives its image back.
pub async fn check_objects(
    place: &Place,
    backup: &Backup,
    parent: Option<(&Backup, &[u8])>,
    image: &[u8],
) {
    let metadata = json(place, backup, "_metadata").await;
    let list = json(place, backup, "_sha256file").await;
    let (objects, hashes) = cinders(place, parent.map(|(_, image)| image), image).await;
    assert_eq!(entries(&backup.service_metadata, &metadata), objects);
    assert_eq!(list["sha256s"], hashes);
    assert_eq!(list["chunk_size"], BLOCK);
    let parent = parent.map(|(parent, _)| parent);
    assert_eq!(
        metadata["parent_id"],
        serde_json::json!(parent.map(|parent| &parent.id))
    );
    assert_eq!(backup.parent_id.as_ref(), parent.map(|parent| &parent.id));
    assert_eq!(backup.depth, parent.map_or(0, |parent| parent.depth + 1));
    assert_eq!(backup.size, image.len() as u64);
    assert_eq!(backup.object_count, objects.len() as u64);
    if let Some(parent) = parent {
        assert!(backup.created_at > parent.created_at);
    }
    let mut stored = 0;
    let prefix = &backup.service_metadata;
    for entry in place.store.list(&backup.container, prefix).await.unwrap() {
        if entry.name.starts_with(&format!("{prefix}-")) {
            let stat = place.store.stat(&backup.container, &entry.name).await;
            stored += stat.unwrap().size;
        }
    }
    assert_eq!(
        backup.stored_bytes,
        Some(stored),
        "an object lies beside it"
    );
    // A driver that knows nothing yet.
    let rooms = place.rooms();
    let found = rooms.find("v", &backup.id).await;
    let told = |backup: &Backup| {
        let sizes = (backup.size, backup.data_bytes, backup.stored_bytes);
        (
            sizes,
            backup.depth,
            backup.object_count,
            backup.created_at,
            backup.parent_id.clone(),
        )
    };
    assert_eq!(told(&found), told(backup));
    let blocks = image
        .chunks(BLOCK)
        .filter(|block| block.iter().any(|b| *b != 0));
    let data: usize = blocks.map(<[u8]>::len).sum();
    assert_eq!(found.data_bytes, Some(data as u64));
    assert!(
        rooms.read_all("v", &backup.id).await.unwrap() == image,
        "another image"
    );
}

async fn write(rooms: &Rooms, basis: Basis, image: &[u8]) -> Result<Arc<Backup>> {
    let sink = rooms.driver.create("v", basis).await?;
    store_all(sink.as_ref(), image).await?;
    let backup = sink.publish(image.len() as u64, &described("a")).await?;
    sink.seal();
    Ok(backup)
}

/// Some bytes, blocks and runs of an image changed, and zeros over some of it.
fn change(dice: &mut Dice, image: &mut [u8]) {
    for _ in 0..1 + dice.below(6) {
        let at = dice.below(image.len() as u64) as usize;
        let most = if dice.below(3) == 0 { 150_000 } else { 5000 };
        let length = (1 + dice.below(most) as usize).min(image.len() - at);
        let bytes = match dice.below(3) {
            0 => vec![0; length],
            1 => dice.noise(length),
            _ => dice.text(length),
        };
        image[at..at + length].copy_from_slice(&bytes);
    }
}

fn kind(result: Result<impl Sized>) -> Kind {
    result.map(drop).expect_err("this must be refused").kind()
}

/// What has been stored since it was published shows nowhere.
async fn check_unpublished(place: &impl Ground, backup: &Backup, image: &[u8]) {
    assert!(place.rooms().read_all("v", &backup.id).await.unwrap() == image);
}

async fn publish(sink: &dyn BackupSink, image: &[u8]) -> Result<Arc<Backup>> {
    store_all(sink, image).await?;
    sink.publish(image.len() as u64, &described("a")).await
}
