//! Metadata that is damaged, or claims what cannot be.

use crate::common::cinder::{entry, put};
use crate::{OBJECT, Scene};
use cinderfs::error::Kind;
use cinderfs::store::ObjectStore;
use serde_json::{Value, json};

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
