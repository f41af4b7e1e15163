//! What is damaged is refused, and said to be; what is not is read all the same. What
//! only failed for a moment is not held against it.

mod common;

use cinderfs::driver::BackupDriver;
use cinderfs::error::{Error, Kind};
use cinderfs::format::Layout;
use cinderfs::store::ObjectStore;
use cinderfs::store::fault::{Call, FaultStore};
use cinderfs::store::memory::MemoryStore;
use common::cinder::{Cinder, Made, entry, get, put};
use common::library::{Dice, MIB, Rooms, options};
use serde_json::{Value, json};
use std::sync::Arc;

const CODECS: [&str; 4] = ["none", "zlib", "bz2", "zstd"];
const OBJECT: usize = 32 << 10;

/// A full backup, one built on it and one of another volume.
struct Scene {
    store: Arc<FaultStore<MemoryStore>>,
    full: Made,
    child: Made,
    other: Made,
}

impl Scene {
    async fn new(compression: &str, with_sha256file: bool) -> Self {
        let store = Arc::new(FaultStore::new(MemoryStore::new()));
        let cinder = Cinder {
            with_sha256file,
            ..Cinder::new(Layout::Swift, compression)
        };
        let mut image = Dice(1).text(5 * OBJECT);
        let full = cinder.back_up(store.as_ref(), "v", &image, None).await;
        // All of the second object, and a part of the fourth.
        let text = Dice(2).text(OBJECT);
        image.splice(OBJECT..2 * OBJECT, text).for_each(drop);
        image[3 * OBJECT + 5000] ^= 1;
        let child = cinder
            .back_up(store.as_ref(), "v", &image, Some(&full))
            .await;
        let other = cinder.back_up(store.as_ref(), "w", &image, None).await;
        Self {
            store,
            full,
            child,
            other,
        }
    }

    fn rooms(&self) -> Rooms {
        let store = Arc::<FaultStore<MemoryStore>>::clone(&self.store);
        Rooms::new(store, options(Layout::Swift), 16 * MIB)
    }

    async fn read(&self, made: &Made, range: std::ops::Range<usize>) -> Result<(), Error> {
        let rooms = self.rooms();
        let reader = rooms
            .open(&*rooms.find(&made.volume, &made.id).await)
            .await?;
        let length = range.len() as u64;
        let read = reader.read(range.start as u64, length).await?;
        assert!(read == made.image[range]);
        Ok(())
    }

    /// Object `index` of the full backup is damaged, and nothing else.
    async fn assert_damaged(&self, index: usize, what: &str) {
        for at in 0..5 {
            let range = at * OBJECT..(at + 1) * OBJECT;
            let read = self.read(&self.full, range.clone()).await;
            match at == index {
                false => read.unwrap(),
                true => {
                    assert!(read.is_err(), "{what}");
                    assert_names(&read.unwrap_err(), &self.full, index, what);
                }
            }
        }
        let read = self.read(&self.full, 0..5 * OBJECT).await;
        assert_names(&read.unwrap_err(), &self.full, index, what);
        // The child does not see the second object.
        let read = self.read(&self.child, 0..5 * OBJECT).await;
        match index == 1 {
            true => read.unwrap(),
            false => assert_eq!(read.unwrap_err().kind(), Kind::Corrupt),
        }
        self.read(&self.other, 0..5 * OBJECT).await.unwrap();
    }

    async fn assert_unreadable(&self, made: &Made, what: &str) {
        let rooms = self.rooms();
        let backup = rooms.find(&made.volume, &made.id).await;
        let error = rooms.driver.open(&backup).await.err().unwrap();
        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
        assert!(error.to_string().contains(&made.id), "{error}");
        assert!(error.to_string().contains(what), "{error}, not {what}");
    }
}

fn assert_names(error: &Error, made: &Made, index: usize, what: &str) {
    assert_eq!(error.kind(), Kind::Corrupt, "{what}: {error}");
    let text = error.to_string();
    assert!(text.contains(&made.id), "{what}: {text}");
    assert!(text.contains(&made.objects[index]), "{what}: {text}");
}

#[tokio::test]
async fn objects_that_are_not_what_was_stored() {
    type Edit = fn(&mut Vec<u8>);
    let edits: [(&str, Edit); 7] = [
        ("first byte", |bytes| bytes[0] ^= 0x40),
        ("flipped bit", |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x10;
        }),
        // The lowest bits of a bz2 stream's last byte mean nothing.
        ("last byte", |bytes| *bytes.last_mut().unwrap() ^= 0x80),
        ("short", |bytes| bytes.truncate(bytes.len() - 1)),
        ("half", |bytes| bytes.truncate(bytes.len() / 2)),
        ("empty", |bytes| bytes.clear()),
        ("overlong", |bytes| bytes.extend(b"garbage")),
    ];
    for compression in CODECS {
        for with_sha256file in [true, false] {
            for (what, edit) in edits {
                for index in [1, 2] {
                    let scene = Scene::new(compression, with_sha256file).await;
                    scene
                        .full
                        .edit_object(scene.store.as_ref(), index, edit)
                        .await;
                    let blocks_are_known = with_sha256file && compression == "none";
                    if blocks_are_known && (what.contains("b") && what != "half") {
                        // One block is damaged, and those beside it are not.
                        let range = index * OBJECT + 4096..(index + 1) * OBJECT - 20_000;
                        scene.read(&scene.full, range).await.unwrap();
                    }
                    scene
                        .assert_damaged(index, &format!("{compression} {what}"))
                        .await;
                }
            }
        }
    }
}

#[tokio::test]
async fn objects_that_are_missing() {
    for compression in CODECS {
        for with_sha256file in [true, false] {
            let scene = Scene::new(compression, with_sha256file).await;
            scene
                .store
                .delete(&scene.full.container, &scene.full.objects[1])
                .await
                .unwrap();
            scene.assert_damaged(1, compression).await;
        }
    }
}

#[tokio::test]
async fn two_streams_in_one_object() {
    // What Cinder's decoder of that codec took, too, is read.
    for (compression, read) in [("zlib", false), ("bz2", true), ("zstd", true)] {
        let scene = Scene::new(compression, true).await;
        let codec = cinderfs::codec::Codec::from_metadata(compression).unwrap();
        let data = &scene.full.image[OBJECT..2 * OBJECT];
        let mut packed = Vec::new();
        for half in data.chunks(OBJECT / 2) {
            packed.extend(cinderfs::codec::compress(codec, half).unwrap().unwrap());
        }
        scene
            .full
            .edit_object(scene.store.as_ref(), 1, |bytes| *bytes = packed)
            .await;
        match read {
            true => scene.read(&scene.full, 0..5 * OBJECT).await.unwrap(),
            false => scene.assert_damaged(1, compression).await,
        }
    }
}

#[tokio::test]
async fn an_md5_that_is_wrong_counts_where_there_is_nothing_better() {
    for compression in CODECS {
        for with_sha256file in [true, false] {
            let scene = Scene::new(compression, with_sha256file).await;
            let spoil = |document: &mut Value| {
                entry(document, 1)["md5"] = "00112233445566778899aabbccddeeff".into();
            };
            scene.full.edit(scene.store.as_ref(), spoil).await;
            match with_sha256file {
                true => scene.read(&scene.full, 0..5 * OBJECT).await.unwrap(),
                false => scene.assert_damaged(1, compression).await,
            }
        }
    }
}

#[tokio::test]
async fn a_hash_that_is_wrong_spoils_its_block_only() {
    for compression in CODECS {
        let scene = Scene::new(compression, true).await;
        let (container, name) = (&scene.full.container, scene.full.sha256file());
        let text = get(scene.store.as_ref(), container, &name).await;
        let mut document: Value = serde_json::from_slice(&text).unwrap();
        document["sha256s"][9] = "0".repeat(64).into();
        let text = serde_json::to_vec_pretty(&document).unwrap();
        put(scene.store.as_ref(), container, &name, text).await;
        let start = 9 * 4096;
        let error = scene.read(&scene.full, start..start + 1).await.unwrap_err();
        assert_names(&error, &scene.full, 1, compression);
        assert!(error.to_string().contains("block 9"), "{error}");
        scene.read(&scene.full, 0..start).await.unwrap();
        scene
            .read(&scene.full, start + 4096..5 * OBJECT)
            .await
            .unwrap();
        scene.read(&scene.child, 0..5 * OBJECT).await.unwrap();
    }
}

#[tokio::test]
async fn hash_lists_that_are_none() {
    let whole = {
        let scene = Scene::new("zlib", true).await;
        get(
            scene.store.as_ref(),
            &scene.full.container,
            &scene.full.sha256file(),
        )
        .await
    };
    let whole = String::from_utf8(whole).unwrap();
    let half = whole.len() / 2;
    let without_one = {
        let mut document: Value = serde_json::from_str(&whole).unwrap();
        document["sha256s"].as_array_mut().unwrap().pop();
        serde_json::to_string_pretty(&document).unwrap()
    };
    // No list at all: every object is checked by its md5 instead.
    for text in [
        "",
        "{}",
        "not JSON",
        &whole[..half],
        &whole.replace("4096", "0"),
    ] {
        let scene = Scene::new("zlib", true).await;
        let name = scene.full.sha256file();
        let (store, container) = (scene.store.as_ref(), &scene.full.container);
        put(store, container, &name, text.into()).await;
        scene.read(&scene.full, 0..5 * OBJECT).await.unwrap();
        scene.read(&scene.child, 0..5 * OBJECT).await.unwrap();
        let object = scene.full.objects[0].clone();
        let mut stored = get(store, container, &object).await;
        let middle = stored.len() / 2;
        stored[middle] ^= 1;
        put(store, container, &object, stored).await;
        scene.assert_damaged(0, &object).await;
    }
    // A list of another image: which of the two is right cannot be told.
    for (text, what) in [
        (whole.replace("4096", "8192").as_str(), "hashes"),
        (&whole.replace("4096", "18446744073709551615"), "hashes"),
        (&without_one, "hashes"),
    ] {
        let scene = Scene::new("zlib", true).await;
        let name = scene.full.sha256file();
        put(
            scene.store.as_ref(),
            &scene.full.container,
            &name,
            text.into(),
        )
        .await;
        scene.assert_unreadable(&scene.full, what).await;
        scene.read(&scene.child, 0..5 * OBJECT).await.unwrap();
        scene.read(&scene.other, 0..5 * OBJECT).await.unwrap();
        // What is built on it does not need it.
        if text == without_one {
            // An increment that is shorter than its parent looks just so.
            continue;
        }
        let scene = Scene::new("zlib", true).await;
        let name = scene.child.sha256file();
        put(
            scene.store.as_ref(),
            &scene.child.container,
            &name,
            text.into(),
        )
        .await;
        scene.assert_unreadable(&scene.child, what).await;
        let cinder = Cinder::new(Layout::Swift, "zlib");
        let grandchild = cinder
            .back_up(
                scene.store.as_ref(),
                "v",
                &scene.child.image,
                Some(&scene.child),
            )
            .await;
        scene.read(&grandchild, 0..5 * OBJECT).await.unwrap();
    }
}

#[tokio::test]
async fn an_entry_that_is_no_hash_spoils_what_it_stands_for() {
    let scene = Scene::new("none", true).await;
    let (container, name) = (&scene.full.container, scene.full.sha256file());
    let text = String::from_utf8(get(scene.store.as_ref(), container, &name).await).unwrap();
    let hash = text.split('"').find(|part| part.len() == 64).unwrap();
    let second = text
        .split('"')
        .filter(|part| part.len() == 64)
        .nth(1)
        .unwrap();
    let text = text.replace(second, &format!("{}zz", &hash[..62]));
    put(scene.store.as_ref(), container, &name, text.into()).await;
    let error = scene.read(&scene.full, 4096..8192).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.to_string().contains(&scene.full.id), "{error}");
    scene.read(&scene.child, 0..5 * OBJECT).await.unwrap();
}

#[tokio::test]
async fn hash_lists_that_another_program_wrote_are_read() {
    for compact in [true, false] {
        let scene = Scene::new("zlib", true).await;
        let (container, name) = (&scene.full.container, scene.full.sha256file());
        let text = get(scene.store.as_ref(), container, &name).await;
        let text = match compact {
            true => serde_json::from_slice::<Value>(&text).unwrap().to_string(),
            // Entries at distances that differ.
            false => String::from_utf8(text)
                .unwrap()
                .replacen(",\n    \"", ",\n      \"", 3),
        };
        put(scene.store.as_ref(), container, &name, text.into()).await;
        scene.read(&scene.full, 0..5 * OBJECT).await.unwrap();
    }
}

#[tokio::test]
async fn metadata_that_is_none_or_cannot_be() {
    type Edit = fn(&mut Value);
    let edits: [(&str, Edit); 12] = [
        ("version", |d| d["version"] = "2.0.0".into()),
        ("backup_id", |d| d["backup_id"] = "other".into()),
        ("offset", |d| entry(d, 1)["offset"] = json!(u64::MAX)),
        ("offset", |d| entry(d, 1)["offset"] = json!(1u64 << 63)),
        ("beyond any volume", |d| {
            entry(d, 4)["length"] = json!(u64::MAX)
        }),
        ("overlap", |d| entry(d, 1)["length"] = json!(40_000)),
        ("md5", |d| entry(d, 1)["md5"] = "no".into()),
        ("lzma", |d| entry(d, 1)["compression"] = "lzma".into()),
        ("passwd", |d| rename(d, 1, "../../etc/passwd")),
        ("-00001/../x", |d| {
            let name = d["objects"][0]
                .as_object()
                .unwrap()
                .keys()
                .next()
                .unwrap()
                .clone();
            rename(d, 1, &format!("{name}/../x"));
        }),
        ("exactly one key", |d| d["objects"][1] = json!({})),
        ("missing field", |d| d["objects"] = Value::Null),
    ];
    for (what, edit) in edits {
        let scene = Scene::new("none", true).await;
        scene.full.edit(scene.store.as_ref(), edit).await;
        let what = if what == "missing field" {
            "null"
        } else {
            what
        };
        scene.assert_unreadable(&scene.full, what).await;
        // What is built on it says so, too.
        scene.assert_unreadable(&scene.child, &scene.full.id).await;
        scene.read(&scene.other, 0..5 * OBJECT).await.unwrap();
        let backup = scene.rooms().find("v", &scene.full.id).await;
        assert_eq!(backup.fault.as_ref().unwrap().kind(), Kind::Corrupt);
    }
    for text in [
        "",
        "{",
        "[]",
        "null",
        "{\"version\": \"1.0.0\"}",
        "\u{feff}{}",
    ] {
        let scene = Scene::new("none", true).await;
        let (container, name) = (&scene.full.container, scene.full.metadata());
        put(scene.store.as_ref(), container, &name, text.into()).await;
        scene.assert_unreadable(&scene.full, "metadata").await;
        scene.read(&scene.other, 0..5 * OBJECT).await.unwrap();
    }
}

fn rename(document: &mut Value, index: usize, name: &str) {
    let fields = entry(document, index).clone();
    document["objects"][index] = json!({ name: fields });
}

#[tokio::test]
async fn metadata_cannot_name_another_backups_objects() {
    let scene = Scene::new("none", true).await;
    let foreign = scene.other.objects[1].clone();
    scene
        .full
        .edit(scene.store.as_ref(), |d| rename(d, 1, &foreign))
        .await;
    scene.assert_unreadable(&scene.full, &foreign).await;
}

#[tokio::test]
async fn chains_that_lead_nowhere_or_in_circles() {
    let scene = Scene::new("zlib", true).await;
    scene
        .store
        .delete(&scene.full.container, &scene.full.metadata())
        .await
        .unwrap();
    scene.assert_unreadable(&scene.child, &scene.full.id).await;
    let fault = scene.rooms().find("v", &scene.child.id).await.fault.clone();
    assert_eq!(fault.unwrap().kind(), Kind::Corrupt);

    for (one, two) in [(true, false), (false, true), (true, true)] {
        let scene = Scene::new("zlib", true).await;
        let child = scene.child.id.clone();
        let parent = if one {
            scene.full.id.clone()
        } else {
            child.clone()
        };
        if one && !two {
            // Its own parent.
            scene
                .full
                .edit(scene.store.as_ref(), |d| d["parent_id"] = parent.into())
                .await;
        } else {
            scene
                .full
                .edit(scene.store.as_ref(), |d| d["parent_id"] = child.into())
                .await;
        }
        scene.assert_unreadable(&scene.full, "back to itself").await;
        scene
            .assert_unreadable(&scene.child, "back to itself")
            .await;
        scene.read(&scene.other, 0..5 * OBJECT).await.unwrap();
    }
}

#[tokio::test]
async fn sizes_that_our_own_key_only_claims() {
    let length = 5 * OBJECT as u64;
    for size in [0, 1, length - 1, length + 1, 1 << 60] {
        let scene = Scene::new("zlib", true).await;
        scene
            .full
            .edit(scene.store.as_ref(), |d| {
                d["cinderfs"] = json!({"size": size})
            })
            .await;
        let rooms = scene.rooms();
        let backup = rooms.find("v", &scene.full.id).await;
        assert_eq!(backup.size, size);
        match rooms.open(&backup).await {
            // As many blocks as there are hashes; the last of them is another then, and
            // the md5 of its object vouches for it.
            Ok(reader) => {
                assert_eq!(size, length - 1);
                let read = reader.read(0, length).await.unwrap();
                assert!(read == scene.full.image[..size as usize]);
            }
            Err(error) => assert_eq!(error.kind(), Kind::Corrupt),
        }
    }
}

#[tokio::test]
async fn a_failure_that_passes_is_not_remembered() {
    type Rule = fn(&Call) -> bool;
    let rules: [Rule; 6] = [
        |call| matches!(call, Call::List),
        |call| matches!(call, Call::Stat(_)),
        |call| matches!(call, Call::Read(name, _) if name.ends_with("_metadata")),
        |call| matches!(call, Call::Read(name, _) if name.ends_with("_sha256file")),
        |call| matches!(call, Call::Read(name, _) if name.ends_with("-00002")),
        |call| matches!(call, Call::Read(..)),
    ];
    for kind in [Kind::Unavailable, Kind::TimedOut, Kind::Denied] {
        for compression in ["none", "zlib"] {
            for with_sha256file in [true, false] {
                for rule in rules {
                    let scene = Scene::new(compression, with_sha256file).await;
                    let rooms = scene.rooms();
                    scene
                        .store
                        .fail_when(move |call| rule(call).then_some(kind));
                    let mut reader = None;
                    // As far as it gets.
                    let listed = rooms.driver.backups("v").await;
                    if let Ok(backups) = listed
                        && let Some(backup) = backups.iter().find(|b| b.id == scene.child.id)
                        && let Ok(opened) = rooms.open(backup).await
                    {
                        let error = opened.read(0, 5 * OBJECT as u64).await.err();
                        assert!(error.is_none_or(|e| e.kind() == kind));
                        reader = Some(opened);
                    }
                    scene.store.fail_when(|_| None);
                    if let Some(reader) = reader {
                        let read = reader.read(0, 5 * OBJECT as u64).await.unwrap();
                        assert!(read == scene.child.image);
                    }
                    let read = rooms.read_all("v", &scene.child.id).await.unwrap();
                    assert!(read == scene.child.image);
                }
            }
        }
    }
}

#[tokio::test]
async fn one_backup_that_is_not_ours_to_read_does_not_hide_the_others() {
    let scene = Scene::new("zlib", true).await;
    let denied = scene.child.metadata();
    let rule = move |call: &Call| matches!(call, Call::Read(name, _) if *name == denied);
    scene
        .store
        .fail_when(move |call| rule(call).then_some(Kind::Denied));
    let rooms = scene.rooms();
    let backup = rooms.find("v", &scene.child.id).await;
    assert_eq!(backup.fault.as_ref().unwrap().kind(), Kind::Denied);
    assert!(rooms.read_all("v", &scene.full.id).await.unwrap() == scene.full.image);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_waits_beside_a_damaged_range_is_not_told_of_it() {
    for compression in ["none", "zlib"] {
        let scene = Arc::new(Scene::new(compression, true).await);
        scene
            .store
            .delete(&scene.full.container, &scene.full.objects[1])
            .await
            .unwrap();
        for _ in 0..20 {
            let rooms = scene.rooms();
            let backup = rooms.find("v", &scene.full.id).await;
            let reader = rooms.open(&backup).await.unwrap();
            let mut reads = tokio::task::JoinSet::new();
            for at in [None, Some(0), Some(1), Some(2), Some(3), Some(4)] {
                let reader = Arc::clone(&reader);
                reads.spawn(async move {
                    let (start, length) = at.map_or((0, 5), |at| (at, 1));
                    (
                        at,
                        reader
                            .read(start * OBJECT as u64, length * OBJECT as u64)
                            .await,
                    )
                });
            }
            while let Some(read) = reads.join_next().await {
                let (at, read) = read.unwrap();
                assert_eq!(
                    read.is_err(),
                    matches!(at, None | Some(1)),
                    "{at:?} {read:?}"
                );
            }
        }
    }
}
