//! Lists of hashes that are damaged, and those that only look so.

use crate::common::cinder::{Cinder, get, put};
use crate::{CODECS, OBJECT, Scene, assert_names};
use cinderfs::error::Kind;
use cinderfs::format::Layout;
use serde_json::Value;

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
